"""The end of what holds other objects, a namespace or a tenant: empty it, then let it go. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arktos_ray.controllers.pods import is_terminating

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Empty:
    """Delete what is left in these resources, in this order."""

    gvrs: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left: take our finalizer off."""

    why: str


def plan(
    holder: Object, finalizer: str, left: Mapping[str, bool], nothing: str
) -> Empty | Finish | None:
    """left: resource -> whether objects are left in it, as of now and not of some view.

    nothing: why it may go, when none are.
    """
    if not is_terminating(holder):
        return None
    if finalizer not in (holder.get("spec", {}).get("finalizers") or ()):
        return None
    full = tuple(gvr for gvr, some in left.items() if some)
    if full:
        return Empty(full, f"{len(full)} resources still hold objects")
    return Finish(nothing)


def finalized(obj: Object, finalizer: str) -> Object:
    """The body for `/finalize`."""
    spec = obj.get("spec") or {}
    left = [each for each in spec.get("finalizers") or () if each != finalizer]
    return {**obj, "spec": {**spec, "finalizers": left}}
