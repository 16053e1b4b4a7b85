"""What each kind means: its defaults, its validation, and what an update may change."""

from arktos_ray.api.kinds.causes import Cause, invalid
from arktos_ray.api.kinds.generic import Rules
from arktos_ray.api.kinds.meta import validate_meta
from arktos_ray.api.kinds.registry import rules, rules_of

__all__ = ["Cause", "Rules", "invalid", "rules", "rules_of", "validate_meta"]
