"""What is left to do about a namespace that is being deleted. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arktos_ray.api.scheme import RESOURCES, Home, Resource
from arktos_ray.controllers import ending
from arktos_ray.controllers.ending import Empty, Finish

Object = dict[str, Any]

FINALIZER = "kubernetes"


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
    return ending.plan(namespace, FINALIZER, left, "nothing is left in it")
