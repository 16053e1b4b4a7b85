"""Loops that make what is into what should be: one folder each, a plan and a controller."""
