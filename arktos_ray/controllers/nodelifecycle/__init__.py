"""Notices nodes that fell silent, and moves their pods elsewhere."""
