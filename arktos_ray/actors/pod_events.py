"""Events of the pods of one node: what its agent saw happen, written as Event objects.

Best effort and bounded in every direction: what repeats is counted in one Event, a pod that talks
too much is not listened to for a while, and what cannot be written is forgotten after some tries.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arktos_ray.api import errors
from arktos_ray.api.calls import Call
from arktos_ray.api.names import SYSTEM_TENANT, Key
from arktos_ray.base import retry
from arktos_ray.base.clock import Clock, rfc3339
from arktos_ray.client.port import Client
from arktos_ray.controllers.events import event
from arktos_ray.runtime.events import Happening

log = logging.getLogger(__name__)

# Remembered, so that they can be counted: about 1 KB each.
_KNOWN_MAX = 2000
_BATCH_MAX = 100
_TRIES_MAX = 6
# What a kubelet allows: so many at once, and one more every five minutes.
_BURST, _REFILL_S = 25, 300.0


@dataclass(slots=True)
class _Told:
    """One Event: what it says, and how often that happened."""

    pod: Mapping[str, Any]
    what: Happening
    first: float
    last: float
    count: int = 1
    name: str = ""
    written: bool = False


class PodEvents:
    """The Events in one partition. `tell` returns at once; `run` writes."""

    def __init__(self, client: Client, clock: Clock, node_name: str) -> None:
        self._client, self._clock, self._node_name = client, clock, node_name
        self._known: OrderedDict[tuple[str, Happening], _Told] = OrderedDict()
        self._due: dict[tuple[str, Happening], None] = {}
        # By pod: how many it may still tell, and since when that is true.
        self._allowance: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._names = itertools.count()
        self._wake = asyncio.Event()

    def tell(self, pod: Mapping[str, Any], what: Happening) -> None:
        now, uid = self._clock.now(), pod["metadata"]["uid"]
        if not self._allows(uid):
            return
        key = (uid, what)
        told = self._known.get(key)
        if told is None:
            self._known[key] = _Told(pod, what, now, now)
        else:
            told.last, told.count = now, told.count + 1
        self._known.move_to_end(key)
        while len(self._known) > _KNOWN_MAX:
            self._due.pop(self._known.popitem(last=False)[0], None)
        self._due[key] = None
        self._wake.set()

    def _allows(self, uid: str) -> bool:
        now = self._clock.monotonic()
        left, since = self._allowance.get(uid, (float(_BURST), now))
        left = min(_BURST, left + (now - since) / _REFILL_S)
        self._allowance[uid] = (max(left - 1.0, 0.0), now)
        self._allowance.move_to_end(uid)
        while len(self._allowance) > _KNOWN_MAX:
            self._allowance.popitem(last=False)
        return left >= 1.0

    async def run(self) -> None:
        waits, tries = retry.exponential(0.1, 5.0), 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._due:
                keys = list(self._due)[:_BATCH_MAX]
                for key in keys:
                    del self._due[key]  # Before it is written: it may happen again meanwhile.
                batch = [self._known[key] for key in keys]
                try:
                    replies = await self._client.write([self._call(told) for told in batch])
                except errors.Failure as failure:
                    tries += 1
                    if tries < _TRIES_MAX:
                        await self._clock.sleep(next(waits))
                        self._due |= dict.fromkeys(key for key in keys if key in self._known)
                        continue
                    log.info("%d events are lost: %s", len(keys), failure)
                    replies = []
                waits, tries = retry.exponential(0.1, 5.0), 0
                for told, reply in zip(batch, replies, strict=False):
                    # It exists already when the answer to its creation was lost.
                    told.written = reply.ok or reply.code == errors.AlreadyExists.code
                    if reply.code == errors.NotFound.code:
                        told.name, told.count = "", 0  # Old events are thrown away: anew.

    def _call(self, told: _Told) -> Call:
        meta = told.pod["metadata"]
        tenant = meta.get("tenant") or SYSTEM_TENANT
        if told.written:
            key = Key(tenant, meta["namespace"], told.name)
            body: dict[str, Any] = {"count": told.count, "lastTimestamp": rfc3339(told.last)}
            return self._client.patching("events", key, body)
        body = event(
            dict(told.pod), "v1", "Pod", reason=told.what.reason, message=told.what.message,
            component="kubelet", now=told.last, suffix=f"{next(self._names) & 0xFFF:03x}",
            warning=told.what.warning,
        )  # fmt: skip
        told.name = body["metadata"]["name"] = told.name or body["metadata"]["name"]
        body |= {
            "source": {"component": "kubelet", "host": self._node_name},
            "reportingInstance": self._node_name,
            "firstTimestamp": rfc3339(told.first),
            "count": max(told.count, 1),
        }
        if told.what.container:
            spec = told.pod["spec"]
            inits = {container["name"] for container in spec.get("initContainers") or ()}
            group = "initContainers" if told.what.container in inits else "containers"
            body["involvedObject"]["fieldPath"] = f"spec.{group}{{{told.what.container}}}"
        return self._client.creating("events", tenant, meta["namespace"], body)
