"""metadata.selfLink for clients that know it. Pure.

Kubernetes took it away with 1.20. Arktos's own clients are of 1.15, and some look at it, so whoever
says such a version in User-Agent is given one; nothing is stored, and nobody else pays for it.
Not in watches and tables: nobody was seen to look for it there.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import orjson

from arktos_ray.api.names import SYSTEM_TENANT

# kubectl/v1.15.0 (linux/amd64) kubernetes/..., and v0.0.0 of who builds it without a version.
_OLD = re.compile(r"[\w.-]+/v(?:0\.|1\.1?\d\.)")


# Decoding and encoding takes 10 us a KB, on the loop. Lists beyond this come without.
BYTES_MAX = 1024 * 1024


@lru_cache(maxsize=512)
def knows(user_agent: str) -> bool:
    """Whether the client is older than Kubernetes 1.20."""
    return _OLD.match(user_agent) is not None


def add(body: bytes, path: str, plural: str, subresource: str) -> bytes:
    """The same object, or list of objects, with its links. path: of the request."""
    if len(body) > BYTES_MAX:
        return body
    try:
        answer = orjson.loads(body)
    except ValueError:
        return body
    meta = answer.get("metadata") if isinstance(answer, dict) else None
    if not isinstance(meta, dict) or answer.get("kind") in ("Status", "Table"):
        return body
    base = _base(path)
    items = answer.get("items")
    if isinstance(items, list):
        meta["selfLink"] = path
        for item in items:
            if isinstance(item.get("metadata"), dict):
                item["metadata"]["selfLink"] = _link(base, plural, item["metadata"])
    elif "name" in meta:
        # What an old client calls a Scale is a part of something else.
        own = _link(base, plural, meta)
        meta["selfLink"] = f"{own}/scale" if subresource == "scale" else own
    return orjson.dumps(answer)


def _base(path: str) -> str:
    """`/api/v1`, `/apis/apps/v1`: as the client asked."""
    segments = path.split("/")
    if segments[1] == "t":
        del segments[1:3]
    return "/".join(segments[: 3 if segments[1] == "api" else 4])


def _link(base: str, plural: str, meta: dict[str, Any]) -> str:
    tenant, namespace = meta.get("tenant"), meta.get("namespace")
    if tenant and tenant != SYSTEM_TENANT:
        base += f"/tenants/{tenant}"
    if namespace:
        base += f"/namespaces/{namespace}"
    return f"{base}/{plural}/{meta['name']}"
