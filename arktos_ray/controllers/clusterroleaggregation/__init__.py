"""Writes into aggregated ClusterRoles what they gather."""
