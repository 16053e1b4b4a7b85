"""What is left to do about a definition of custom resources that is being deleted. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from arktos_ray.api.custom.names import CLEANUP, is_forced
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.controllers.pods import is_terminating

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Empty:
    """Delete the objects; of all tenants when everybody could use the kind."""

    everywhere: bool
    why: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left: take our finalizer off."""

    finalizers: list[str]
    why: str


def is_everybodys(definition: Object) -> bool:
    return definition["metadata"].get("tenant") == SYSTEM_TENANT and is_forced(definition)


def plan(definition: Object, left: bool) -> Empty | Finish | None:
    """left: whether objects are left, as of now and not of some view."""
    finalizers = definition["metadata"].get("finalizers") or []
    if not is_terminating(definition) or CLEANUP not in finalizers:
        return None
    if left:
        return Empty(is_everybodys(definition), "objects of the kind are left")
    return Finish([each for each in finalizers if each != CLEANUP], "no object of it is left")
