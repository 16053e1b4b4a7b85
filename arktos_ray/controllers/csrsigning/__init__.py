"""Approved requests for certificates are signed."""
