"""What is left to do about a namespace that is being deleted. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arktos_ray.api.scheme import RESOURCES, Home, Resource
from arktos_ray.controllers.pods import is_terminating

Object = dict[str, Any]

FINALIZER = "kubernetes"


@dataclass(frozen=True, slots=True)
class Empty:
    """Delete what is left in these resources, in this order."""

    gvrs: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left: take our finalizer off."""

    why: str


def contents() -> tuple[str, ...]:
    """The resources that a namespace can hold: those who make others first, pods last.

    A ReplicaSet that outlives its pods for a moment would make new ones, and be refused.
    """
    rows = [
        row
        for row in RESOURCES
        if row.namespaced
        and not row.virtual
        and row.home is not Home.RESOURCE_PARTITION
        and "list" in row.verbs
        and {"deletecollection", "delete"} & set(row.verbs)
    ]
    return tuple(row.gvr for row in sorted(rows, key=_order))


def _order(row: Resource) -> tuple[int, str]:
    if row.gvr == "deployments.apps":
        return (0, row.gvr)
    if row.group in ("apps", "batch"):
        return (1, row.gvr)
    if row.kind == "Event":  # Written by everyone who notices that things go.
        return (4, row.gvr)
    return (3 if row.gvr == "pods" else 2, row.gvr)


def plan(namespace: Object, left: Mapping[str, bool]) -> Empty | Finish | None:
    """left: resource -> whether objects are left in it, as of now and not of some view."""
    if not is_terminating(namespace):
        return None
    if FINALIZER not in (namespace.get("spec", {}).get("finalizers") or ()):
        return None
    full = tuple(gvr for gvr, some in left.items() if some)
    if full:
        return Empty(full, f"{len(full)} resources still hold objects")
    return Finish("nothing is left in it")


def finalized(obj: Object, finalizer: str) -> Object:
    """The body for `/finalize`."""
    spec = obj.get("spec") or {}
    left = [each for each in spec.get("finalizers") or () if each != finalizer]
    return {**obj, "spec": {**spec, "finalizers": left}}
