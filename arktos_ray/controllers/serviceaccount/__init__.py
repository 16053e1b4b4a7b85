"""Every namespace has a default ServiceAccount."""
