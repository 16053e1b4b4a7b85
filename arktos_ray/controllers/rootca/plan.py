"""What the ConfigMap with the cluster's CA lacks in a namespace. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from arktos_ray.controllers.pods import is_terminating
from arktos_ray.tenancy.accounts import ROOT_CA

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Create:
    body: Object
    why: str


@dataclass(frozen=True, slots=True)
class Update:
    patch: Object
    why: str


def plan(namespace: Object, found: Object | None, ca: str) -> Create | Update | None:
    if is_terminating(namespace):
        return None
    data = {"ca.crt": ca}
    if found is None:
        meta = namespace["metadata"]
        named = {"name": ROOT_CA, "namespace": meta["name"], "tenant": meta["tenant"]}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named, "data": data}
        return Create(body, "every namespace has one")
    if (found.get("data") or {}) != data:
        gone: Object = dict.fromkeys(found.get("data") or {})
        return Update({"data": {**gone, **data}}, "it says something else")
    return None
