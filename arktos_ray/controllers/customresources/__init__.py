"""Removes the objects of definitions that are being deleted."""
