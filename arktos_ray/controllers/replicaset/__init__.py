"""As many pods as a ReplicaSet wants."""
