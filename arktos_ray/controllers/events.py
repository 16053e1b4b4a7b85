"""Events: what a controller did, for `kubectl describe`. Pure; they travel in the same batch.

Best effort: the reply of an Event is never looked at. One Event per batch of like actions, so a
rollout of 3,000 pods writes a dozen of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from arktos_ray.api.calls import Call
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.client.port import Client
from arktos_ray.controllers.times import rfc3339

Object = dict[str, Any]

# The limit that the API sets on the message of an Event.
_MESSAGE_MAX = 1024
_NAMES_SHOWN_MAX = 10


def event(
    subject: Object, api_version: str, kind: str, *,
    reason: str, message: str, component: str, now: float, suffix: str, warning: bool = False,
) -> Object:  # fmt: skip
    """suffix: any unique text, from Ids."""
    meta = subject["metadata"]
    namespace = meta.get("namespace") or "default"
    moment = rfc3339(now)
    involved = {
        "kind": kind,
        "namespace": meta.get("namespace", ""),
        "name": meta["name"],
        "uid": meta["uid"],
        "apiVersion": api_version,
        "resourceVersion": meta.get("resourceVersion", ""),
    }
    if "tenant" in meta:
        involved["tenant"] = meta["tenant"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{meta['name'][:200]}.{int(now * 1e6):x}{suffix}",
            "namespace": namespace,
            "tenant": meta.get("tenant") or SYSTEM_TENANT,
        },
        "involvedObject": involved,
        "reason": reason,
        "message": message[:_MESSAGE_MAX],
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": component,
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
        "type": "Warning" if warning else "Normal",
    }


def recording(client: Client, body: Object) -> Call:
    """The call that writes an Event, for a batch."""
    meta = body["metadata"]
    return client.creating("events", meta["tenant"], meta["namespace"], body)


def listed(what: str, names: Sequence[str]) -> str:
    """`Created pod: a`, or `Created pods: a, b, c, ... (500)`."""
    if len(names) == 1:
        return f"{what}: {names[0]}"
    shown = ", ".join(names[:_NAMES_SHOWN_MAX])
    more = ", ..." if len(names) > _NAMES_SHOWN_MAX else ""
    return f"{what}s: {shown}{more} ({len(names)})"
