"""Furnishes a new tenant, and empties one that is being deleted."""
