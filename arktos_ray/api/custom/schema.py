"""The one place where custom objects meet their schema."""

from __future__ import annotations

from arktos_ray.api.structural import SCHEMAS_MAX, Structural, burden, check, compiled, openapi_v2

__all__ = ["SCHEMAS_MAX", "Structural", "burden", "check", "compiled", "openapi_v2"]
