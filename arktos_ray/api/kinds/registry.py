"""Which rules belong to which kind. A kind without a row gets the generic ones."""

from __future__ import annotations

from arktos_ray.api import scheme
from arktos_ray.api.kinds.generic import Rules

_CLASSES: dict[str, type[Rules]] = {}

_RULES: dict[str, Rules] = {
    resource.gvr: _CLASSES.get(resource.gvr, Rules)(resource) for resource in scheme.RESOURCES
}


def rules(gvr: str) -> Rules:
    """The rules of `pods`, `deployments.apps`, ...; KeyError is a bug in the caller."""
    return _RULES[gvr]
