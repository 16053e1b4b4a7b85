"""One file per subresource that is more than a narrower update."""
