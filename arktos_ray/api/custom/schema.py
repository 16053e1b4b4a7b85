"""The one place where custom objects meet their schema."""

from __future__ import annotations

from arktos_ray.api.structural import Structural, check, compiled, openapi_v2

__all__ = ["Structural", "check", "compiled", "openapi_v2"]
