"""Which ServiceAccounts a namespace lacks. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from arktos_ray.controllers.pods import is_terminating

Object = dict[str, Any]

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Create:
    body: Object
    why: str


def plan(namespace: Object, has_default: bool) -> Create | None:
    if has_default or is_terminating(namespace):
        return None
    meta = namespace["metadata"]
    body = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": DEFAULT, "namespace": meta["name"], "tenant": meta["tenant"]},
    }
    return Create(body, "every namespace has one")
