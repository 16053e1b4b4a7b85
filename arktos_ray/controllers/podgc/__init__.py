"""Removes pods that nobody will ever remove."""
