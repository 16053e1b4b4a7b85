"""Rollouts: ReplicaSets that follow the template of a Deployment."""
