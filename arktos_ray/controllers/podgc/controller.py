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
        # Nodes that were there when we looked, and did not go since: of 60,000 that pods name,
        # few are looked up. True of these views of nodes.
        self._present: set[str] = set()
        self._followed: list[Informer] = []
        self._resources()  # Names the views that this one needs, before all views are started.

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None and old is not None:
            self._present.discard(old["metadata"]["name"])

    def _follow(self, views: list[Informer]) -> None:
        """Partitions come and go; what was there in one that went is looked up again."""
        if views == self._followed:
            return
        for informer in views:
            if informer not in self._followed:
                informer.on_change(self._node_changed)
        self._followed = views
        self._present.clear()

    def _node(self, name: str) -> Object | None:
        key = Key("", "", name)
        found = (informer.index.get(key) for informer in self._followed)
        return next((node for node in found if node is not None), None)

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
        self._follow([informer for _, informer in self._resources()])
        actions = planning.finished(index.by(_finished, True), self._limits)
        leaving = index.by(_terminating, True)
        named = {name: self._node(name) for pod in leaving for name in nodes(pod)}
        there = {name: node for name, node in named.items() if node is not None}
        actions += planning.terminating(leaving, there, self._clock.now(), self._limits)
        for name in self._gone():
            if await self._is_gone(name):
                actions += planning.orphans(index.by(nodes, name), name)
        await self._remove(actions)

    def _gone(self) -> list[str]:
        """Nodes that have been missing for the whole quarantine."""
        resources = self._resources()
        known = bool(resources) and all(
            informer.is_synced and informer.connected for _, informer in resources
        )
        if not known:
            self._missing.clear()
            return []
        at = self._clock.monotonic()
        named = [
            name
            for name in map(str, self._pods.index.values(nodes))
            if name not in self._present
        ]  # fmt: skip
        self._present.update(name for name in named if self._node(name) is not None)
        self._missing = planning.missing_since(named, self._present, self._missing, at)
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
