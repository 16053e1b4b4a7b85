"""Events: what a controller did, for `kubectl describe`.

Best effort: the reply of an Event is never looked at, nobody waits for it, and those of a quarter
of a second are written together: alone, each costs its partition a commit and two wake-ups, which
is as much as what it tells of. One Event per batch of like actions, so a rollout of 3,000 pods
writes a dozen of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from arktos_ray.api.calls import Call
from arktos_ray.api.errors import Failure
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.base.clock import Clock
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client
from arktos_ray.controllers.times import rfc3339

log = logging.getLogger(__name__)

Object = dict[str, Any]

# How long an Event waits for others. Nobody looks for Events of the last moment.
GATHER_S = 0.25
# Of one write: half a MB.
BATCH_MAX = 500
# Events that wait, of 1 KB each. Beyond that the newest are dropped.
WAITING_MAX = 10_000
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


class Recorder:
    """Writes the Events of one controller, a little later and together."""

    def __init__(self, client: Client, clock: Clock, tasks: Tasks) -> None:
        self.dropped = 0
        self._client, self._clock, self._tasks = client, clock, tasks
        self._waiting: list[Call] = []
        self._gathering = False

    def record(self, body: Object) -> None:
        if len(self._waiting) >= WAITING_MAX:
            self.dropped += 1
            return
        self._waiting.append(recording(self._client, body))
        if not self._gathering:
            self._gathering = True
            self._tasks.start(self._write(), "events")

    async def _write(self) -> None:
        while self._waiting:
            await self._clock.sleep(GATHER_S)
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            try:
                await self._client.write(batch)
            except Failure as failure:
                self.dropped += len(batch)
                log.info("%d events were not written: %s", len(batch), failure.message)
        self._gathering = False


def listed(what: str, names: Sequence[str]) -> str:
    """`Created pod: a`, or `Created pods: a, b, c, ... (500)`."""
    if len(names) == 1:
        return f"{what}: {names[0]}"
    shown = ", ".join(names[:_NAMES_SHOWN_MAX])
    more = ", ..." if len(names) > _NAMES_SHOWN_MAX else ""
    return f"{what}s: {shown}{more} ({len(names)})"
