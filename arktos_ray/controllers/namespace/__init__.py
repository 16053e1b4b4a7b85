"""Empties a namespace that is being deleted."""
