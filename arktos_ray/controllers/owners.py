"""Who owns an object: references, made and read. Pure."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def reference(owner: Object, api_version: str, kind: str) -> Object:
    """The reference of a child that `owner` manages; hashKey lets shards find it by range."""
    meta = owner["metadata"]
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": meta["name"],
        "uid": meta["uid"],
        "hashKey": meta.get("hashKey", 0),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def controller_of(obj: Object) -> Object | None:
    for ref in obj["metadata"].get("ownerReferences") or ():
        if ref.get("controller"):
            found: Object = ref
            return found
    return None


def adopting(child: Object, owner: Object, api_version: str, kind: str) -> Object:
    """The patch that makes `owner` the manager of a child nobody manages."""
    return _references(
        child,
        [
            *(child["metadata"].get("ownerReferences") or []),
            reference(owner, api_version, kind),
        ],
    )


def releasing(child: Object, owner_uid: str) -> Object:
    """The patch after which `owner_uid` has nothing to do with that child."""
    references = child["metadata"].get("ownerReferences") or []
    return _references(child, [ref for ref in references if ref["uid"] != owner_uid])


def _references(child: Object, references: list[Object]) -> Object:
    # The uid and the revision make it a compare-and-swap: lists are replaced as a whole.
    meta = child["metadata"]
    return {
        "metadata": {
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
            "ownerReferences": references or None,
        }
    }
