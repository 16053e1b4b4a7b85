"""What belongs to something that is gone, goes too."""
