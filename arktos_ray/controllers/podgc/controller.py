"""Removes pods that nobody will ever remove: of nodes that are gone, stuck, or finished long ago.

Looks every 20 s, at the few pods in question only (by index, not by a walk over all). A node
counts as gone when every ResourcePartition says so in a live answer; while one is away, none does.
One for a whole partition.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from arktos_ray.api import errors
from arktos_ray.api.calls import Call
from arktos_ray.api.errors import Failure, NotFound
from arktos_ray.api.names import Key
from arktos_ray.client.index import Object, key_of, nodes
from arktos_ray.client.informer import Informer
from arktos_ray.controllers.loop import Controller, ControllerClient, Parts
from arktos_ray.controllers.podgc import plan as planning
from arktos_ray.controllers.podgc.plan import Limits, Remove
from arktos_ray.controllers.pods import is_finished, is_terminating

log = logging.getLogger(__name__)

NAME = "pod-garbage-collector"

PERIOD_S = 20.0
BATCH_MAX = 500


class PodGc(Controller):
    def __init__(self, parts: Parts, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._client = ControllerClient(parts.client, NAME)
        self._clock, self._tasks = parts.clock, parts.tasks
        self._pods = parts.informers.of("pods")
        self._neighbours = parts.neighbours
        self._missing: dict[str, float] = {}
        self._resources()  # Names the views that this one needs, before all views are started.

    def _resources(self) -> list[tuple[ControllerClient, Informer]]:
        """The resource partitions that there are now, and the nodes of each."""
        return [
            (ControllerClient(each.client, NAME), each.informers.of("nodes"))
            for each in self._neighbours
        ]

    def start(self) -> None:
        self._tasks.start(self._run(), NAME)

    async def _run(self) -> None:
        await self._pods.synced()
        while True:
            try:
                await self.sweep()
            except Failure as failure:
                log.info("%s: %s", NAME, failure.message)
            await self._clock.sleep(PERIOD_S)

    async def sweep(self) -> None:
        index = self._pods.index
        present = {
            node["metadata"]["name"]: node
            for _, informer in self._resources()
            for node in informer.index
        }
        actions = planning.finished(index.by(_finished, True), self._limits)
        actions += planning.terminating(
            index.by(_terminating, True), present, self._clock.now(), self._limits
        )
        for name in self._gone(present):
            if await self._is_gone(name):
                actions += planning.orphans(index.by(nodes, name), name)
        await self._remove(actions)

    def _gone(self, present: dict[str, Object]) -> list[str]:
        """Nodes that have been missing for the whole quarantine."""
        resources = self._resources()
        known = bool(resources) and all(
            informer.is_synced and informer.connected for _, informer in resources
        )
        if not known:
            self._missing.clear()
            return []
        at = self._clock.monotonic()
        named = [str(name) for name in self._pods.index.values(nodes)]
        self._missing = planning.missing_since(named, present, self._missing, at)
        return [
            name for name, since in self._missing.items() if at - since >= self._limits.quarantine_s
        ]

    async def _is_gone(self, name: str) -> bool:
        for client, _ in self._resources():
            try:
                await client.get("nodes", Key("", "", name))
            except NotFound:
                continue
            except Failure:
                return False
            return False
        return True

    async def _remove(self, actions: Sequence[Remove]) -> None:
        calls: list[Call] = []
        for action in actions:
            meta = action.pod["metadata"]
            if action.failed:
                status: Object = {"phase": "Failed", "reason": "PodGC", "message": action.why}
                calls.append(
                    self._client.patching(
                        "pods", key_of(action.pod),
                        {"metadata": {"uid": meta["uid"]}, "status": status}, "status",
                    )
                )  # fmt: skip
            calls.append(
                self._client.deleting(
                    "pods", key_of(action.pod), gracePeriodSeconds=0,
                    preconditions={"uid": meta["uid"]},
                )
            )  # fmt: skip
            log.info("pod %s: %s", "/".join(key_of(action.pod)), action.why)
        for start in range(0, len(calls), BATCH_MAX):
            for reply in await self._client.write(calls[start : start + BATCH_MAX]):
                if not reply.ok and not isinstance(refusal := errors.decode(reply.body), NotFound):
                    log.info("%s: %s", NAME, refusal.message)


def _terminating(pod: Object) -> tuple[bool, ...]:
    return (True,) if is_terminating(pod) else ()


def _finished(pod: Object) -> tuple[bool, ...]:
    return (True,) if is_finished(pod) else ()
