"""Every ServiceAccount has a Secret with a token."""
