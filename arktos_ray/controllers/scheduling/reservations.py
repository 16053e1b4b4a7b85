"""Reservations: the shell of the ledger, inside the ResourcePartition whose nodes it is about.

Follows its own nodes and the bound pods of every TenantPartition, and answers four methods of the
Peer protocol. Until everything was listed once, each of them raises Unavailable: a ledger that
does not know what is there must not grant (design.md D8).

    reserve   {source, shapes: [[amounts, ports]], claims: [[uid, path, node, shape]]}
              -> [whys, held, usage]: per claim "" or why not; uid -> node where a refused pod is
              held already; the rows of the nodes that were asked for, as they are now
    held      {source} -> [[[uid, path, node]], usage]: what that partition has reserved and not
              bound, and the rows of those nodes; its scheduler carries on with them, so each
              claim gets its time anew
    release   [uids] -> None: gives back what is reserved and, says the TenantPartition, not bound
    usage     {source} -> [complete, rows], ...: all nodes, in parts (complete: the last part),
              then changes as they come, but not the source's own reservations, of which it has
              the answers; a slow reader gets several changes of a node as one

A row is [node, version, {resource: amount}, [[protocol, port, address]]].
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import orjson

from arktos_ray.api.calls import BOOKMARK, DELETED, WatchEvent
from arktos_ray.api.errors import Failure, NotFound, Unavailable, decode
from arktos_ray.api.names import Key
from arktos_ray.base.clock import Clock
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client, Object, decoded
from arktos_ray.controllers.scheduling.feed import Feed, path_of
from arktos_ray.placement.ledger import Claim, Ledger, Usage
from arktos_ray.placement.signature import SIGNATURES_MAX, Demand, Signatures
from arktos_ray.placement.tables import node_view

log = logging.getLogger(__name__)

# How often overdue reservations are looked for: a fraction of the time that they have.
EXPIRY_INTERVAL_S = 15.0
# Rows in one message of the feed: about 200 KB.
ROWS_PER_MESSAGE = 2_000
# What takes nothing is not on the books: a finished pod, and a VM that is off on purpose.
BOUND_PODS = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
NO_SCHEDULE = "NoSchedule"


class Reservations:
    def __init__(
        self,
        rp_client: Client,
        tenant_partitions: Mapping[str, Client],
        clock: Clock,
        tasks: Tasks,
    ) -> None:
        self._clock = clock
        self._tasks = tasks
        # Versions go on from where an earlier life cannot have come: 1,000 changes a millisecond.
        self._ledger = Ledger(version=int(clock.now() * 1_000_000))
        self._signatures = Signatures()
        self.demands: dict[Demand, Demand] = {}
        self._waiting: set[asyncio.Event] = set()  # one for each reader of the usage feed
        self._nodes: set[str] = set()
        self._node_feed = Feed(
            rp_client, "nodes", clock,
            on_list=self._nodes_listed, on_object=self._node_seen, on_events=self._nodes_changed,
        )  # fmt: skip
        self._sources: dict[str, _Source] = {}
        self._founders = set(tenant_partitions)
        for name, client in tenant_partitions.items():
            self._sources[name] = _Source(name, client, self)

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def start(self) -> None:
        self._tasks.start(self._node_feed.run(), "reservations: nodes")
        for source in self._sources.values():
            source.start(self._tasks)
        self._tasks.start(self._expire(), "reservations: expiry")

    def add_tenant_partition(self, name: str, client: Client) -> None:
        """One that was added while we run. It holds nothing here: it could not have asked."""
        if name not in self._sources:
            self._sources[name] = source = _Source(name, client, self)
            source.start(self._tasks)

    def remove_tenant_partition(self, name: str) -> None:
        """One that is no more, and had no tenants left: whatever it held here is free."""
        self._founders.discard(name)
        source = self._sources.pop(name, None)
        if source is not None:
            source.stop()
            self._ledger.release_all(name)
            self._tell()

    async def synced(self) -> None:
        """Waits until reservations are accepted."""
        await self._node_feed.synced()
        for name in self._founders:
            await self._sources[name].feed.synced()

    # The methods of the Peer protocol.

    async def reserve(self, payload: Any) -> list[Any]:
        source = payload["source"]
        self._require_books(source)
        shapes = [_demand(shape) for shape in payload["shapes"]]
        claims = [
            Claim(uid, node, shapes[shape], source, path)
            for uid, path, node, shape in payload["claims"]
        ]
        verdicts = self._ledger.reserve(claims, self._clock.monotonic())
        self._tell()
        return [
            [verdict.why for verdict in verdicts],
            {verdict.uid: verdict.held_at for verdict in verdicts if verdict.held_at},
            _rows(self._ledger.usage_of({claim.node for claim in claims})),
        ]

    async def held(self, payload: Any) -> list[Any]:
        self._require_books(payload["source"])
        claims = self._ledger.renew(payload["source"], self._clock.monotonic())
        return [
            [[claim.uid, claim.path, claim.node] for claim in claims],
            _rows(self._ledger.usage_of({claim.node for claim in claims})),
        ]

    async def release(self, payload: Any) -> None:
        self._require_books()
        held = [self._ledger.unconfirmed(uid) for uid in payload[0]]
        await self._release_unbound(
            [claim for claim in held if claim is not None], only_overdue=False
        )

    async def usage(self, payload: Any) -> AsyncIterator[Any]:
        self._require_books()
        changed = asyncio.Event()
        self._waiting.add(changed)
        try:
            version, complete, reader = 0, False, (payload or {}).get("source", "")
            while True:
                # Everything up to here is in `changes`, or left out for good.
                newest = self._ledger.version
                changes = self._ledger.usage_since(version, reader if complete else "")
                if complete and not changes:
                    version = newest
                    await changed.wait()
                    changed.clear()
                    continue
                parts = range(0, len(changes), ROWS_PER_MESSAGE)
                for start in parts if changes else (0,):
                    part = changes[start : start + ROWS_PER_MESSAGE]
                    complete = complete or start + ROWS_PER_MESSAGE >= len(changes)
                    yield [complete, _rows(part)]
                version = newest
        finally:
            self._waiting.discard(changed)

    # What the feeds call.

    def _require_books(self, source: str | None = None) -> None:
        if source is not None and source not in self._sources:
            raise Unavailable(f"tenant partition {source} is not known here yet")
        needed = self._founders if source is None else {*self._founders, source}
        missing = [name for name in needed if not self._sources[name].feed.is_synced]
        if missing or not self._node_feed.is_synced:
            behind = ", ".join(sorted(missing)) or "the nodes"
            raise Unavailable(f"reservations are being rebuilt: waiting for {behind}")

    def _tell(self) -> None:
        for changed in self._waiting:
            changed.set()

    def _nodes_listed(self, paths: set[str]) -> None:
        names = {Key.from_path(path).name for path in paths}
        for name in self._nodes - names:
            self._ledger.remove_node(name)
        self._nodes &= names

    def _node_seen(self, node: Object) -> None:
        view = node_view(node, "")
        self._nodes.add(view.name)
        self._ledger.set_node(view.name, view.allocatable)

    def _nodes_changed(self, events: list[WatchEvent]) -> None:
        for event in events:
            if event.type == DELETED:
                name = Key.from_path(event.path).name
                self._nodes.discard(name)
                self._ledger.remove_node(name)
            elif event.type != BOOKMARK:
                self._node_seen(orjson.loads(event.body))
        self._tell()

    # Reservations that nobody confirmed.

    async def _expire(self) -> None:
        while True:
            await self._clock.sleep(EXPIRY_INTERVAL_S)
            overdue = self._ledger.expire(self._clock.monotonic())
            if overdue:
                log.info("%d reservations were not confirmed in time", len(overdue))
                await self._release_unbound(overdue, only_overdue=True)

    async def _release_unbound(self, claims: Iterable[Claim], *, only_overdue: bool) -> None:
        """Asks the TenantPartitions, and releases what is not bound there."""
        by_source: dict[str, list[Claim]] = {}
        for claim in claims:
            by_source.setdefault(claim.source, []).append(claim)
        for name, group in by_source.items():
            source = self._sources.get(name)
            if source is None:
                continue
            client = source.client
            try:
                replies = await client.write(
                    [client.calling("get", "pods", Key.from_path(claim.path)) for claim in group]
                )
            except Failure as failure:
                # Nobody knows, so they stay; the next round asks again.
                log.info("unconfirmed reservations of %s stay: %s", name, failure.message)
                continue
            for claim, reply in zip(group, replies, strict=True):
                # In the meantime it may have been bound, released, or reserved elsewhere.
                if self._ledger.unconfirmed(claim.uid) != claim:
                    continue
                now = self._clock.monotonic()
                if only_overdue and not self._ledger.is_overdue(claim.uid, now):
                    continue  # Its scheduler is back and carries on.
                if not reply.ok:
                    if isinstance(decode(reply.body), NotFound):
                        self._ledger.release(claim.uid)
                    continue
                pod = decoded(reply)
                bound = pod["metadata"]["uid"] == claim.uid and pod["spec"].get("nodeName")
                if bound:
                    source.pod_seen(pod)
                else:
                    self._ledger.release(claim.uid)
        self._tell()


class _Source:
    """The bound pods of one TenantPartition, and which uid is behind each path."""

    def __init__(self, name: str, client: Client, owner: Reservations) -> None:
        self.name = name
        self.client = client
        self._owner = owner
        self._ledger = owner._ledger
        self._signatures = owner._signatures
        self._uids: dict[str, str] = {}
        self._task: asyncio.Task[Any] | None = None
        self.feed = Feed(
            client, "pods", owner._clock, fieldSelector=BOUND_PODS, view="ledger",
            on_list=self._listed, on_object=self.pod_seen, on_events=self._changed,
        )  # fmt: skip

    def start(self, tasks: Tasks) -> None:
        self._task = tasks.start(self.feed.run(), f"reservations: pods of {self.name}")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def pod_seen(self, pod: Object) -> None:
        path, uid, spec = path_of(pod), pod["metadata"]["uid"], pod["spec"]
        if self._uids.get(path, uid) != uid:
            self._gone(path)  # Deleted and made again while we were not looking.
        if (pod.get("status") or {}).get("phase") == NO_SCHEDULE:
            self._gone(path)
            self._ledger.release(uid)
            return
        self._uids[path] = uid
        # Columns where a partition made them (apiserver/views.py), else the pod itself.
        columns = pod.get("demand")
        demand = self._demand(columns) if columns else self._signatures.signature(spec).demand
        self._ledger.bound(Claim(uid, spec["nodeName"], demand, self.name, path))

    def _demand(self, columns: Any) -> Demand:
        """One Demand for all pods of a shape."""
        demand = _demand(columns)
        demands = self._owner.demands
        if len(demands) >= SIGNATURES_MAX:
            demands.clear()
        return demands.setdefault(demand, demand)

    def _listed(self, paths: set[str]) -> None:
        for path in [path for path in self._uids if path not in paths]:
            self._gone(path)
        self._owner._tell()

    def _changed(self, events: list[WatchEvent]) -> None:
        # 7 us an event: 200 bytes, see apiserver/views.py.
        for event in events:
            if event.type == DELETED:
                self._gone(event.path)
            elif event.type != BOOKMARK:
                self.pod_seen(orjson.loads(event.body))
        self._owner._tell()

    def _gone(self, path: str) -> None:
        uid = self._uids.pop(path, None)
        if uid is not None:
            self._ledger.release(uid)


def _demand(shape: Any) -> Demand:
    amounts, ports = shape
    return Demand(
        tuple((name, amount) for name, amount in amounts),
        tuple((protocol, port, address) for protocol, port, address in ports),
    )


def _rows(usages: Iterable[Usage]) -> list[list[Any]]:
    return [list(usage) for usage in usages]
