"""DefaultStorageClass: a claim that names no class gets the tenant's default one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Object = dict[str, Any]

_MARKS = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)
# Its value, as the older field; "" asks for no class at all.
_OLD_FIELD = "volume.beta.kubernetes.io/storage-class"


def apply(claim: Object, classes: Iterable[Object]) -> None:
    spec = claim.setdefault("spec", {})
    if spec.get("storageClassName") is not None:
        return
    if _OLD_FIELD in (claim["metadata"].get("annotations") or {}):
        return
    defaults = [one["metadata"] for one in classes if _is_default(one)]
    if defaults:
        # Of several the newest, then the first by name.
        defaults.sort(key=lambda meta: meta["name"])
        defaults.sort(key=lambda meta: meta.get("creationTimestamp") or "", reverse=True)
        spec["storageClassName"] = defaults[0]["name"]


def _is_default(one: Object) -> bool:
    annotations = one["metadata"].get("annotations") or {}
    return any(annotations.get(mark) == "true" for mark in _MARKS)
