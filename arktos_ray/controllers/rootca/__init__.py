"""Every namespace has the certificate by which its pods know the API."""
