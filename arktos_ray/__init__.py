"""Arktos-Ray: a regional cloud control plane on Ray. Nothing runs on import."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "aconnect", "connect"]

if TYPE_CHECKING:
    from arktos_ray.connection import aconnect, connect


def __getattr__(name: str) -> Any:
    # Loaded when used: importing the package costs nothing.
    if name in ("connect", "aconnect"):
        return getattr(importlib.import_module("arktos_ray.connection"), name)
    raise AttributeError(name)
