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

from arktos_ray.api.calls import BOOKMARK, DELETED, LEFT, WatchEvent
from arktos_ray.api.errors import Failure, Moved, NotFound, Unavailable, decode
from arktos_ray.api.names import Key
from arktos_ray.base import retry
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
# How soon somebody is asked about a pod that one partition shows no more: the other one shows it
# within milliseconds, if its tenant moved there.
SETTLE_FIRST_S, SETTLE_LIMIT_S = 1.0, 10.0
# A tenant that moves all the time is asked for again in the next round.
_HOPS_MAX = 4
# What takes nothing is not on the books: a finished pod, and a VM that is off on purpose.
BOUND_PODS = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
NO_SCHEDULE = "NoSchedule"


# How late the ledger may hear that a pod was bound, or is gone: a reservation holds its room for a
# minute, and room that is free is found a moment later.
PACE_MS = "50"


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
        self._limbo: dict[str, Claim] = {}  # by uid
        self._is_sure = False
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
        self._tasks.start(self._make_sure(), "reservations: start")

    async def _make_sure(self) -> None:
        """A tenant may have left one partition before we listed that, and come to another after we
        listed this: then its pods are on no book yet."""
        for name in list(self._founders):
            await self._sources[name].feed.synced()
        for name in list(self._founders):
            waits = retry.exponential(SETTLE_FIRST_S / 10, SETTLE_LIMIT_S)
            while (source := self._sources.get(name)) is not None and self._has_left():
                try:
                    # It answers when whoever was about to come is there.
                    body = await source.client.listed("pods", limit="1", moves="true")
                    since = (body["metadata"].get("moves") or {}).get("since", 0)
                    if source.feed.revision >= since:
                        break
                except Failure as failure:
                    log.info("reservations: %s: %s", name, failure.message)
                await self._clock.sleep(next(waits))
        self._is_sure = True

    def _has_left(self) -> bool:
        return any(source.feed.left for source in self._sources.values())

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
        if not self._is_sure and not missing and self._has_left():
            raise Unavailable("reservations are being rebuilt: tenants moved meanwhile")
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
        for claim, (name, pod) in (await self._look(claims)).items():
            # In the meantime it may have been bound, released, or reserved elsewhere.
            if self._ledger.unconfirmed(claim.uid) != claim:
                continue
            if only_overdue and not self._ledger.is_overdue(claim.uid, self._clock.monotonic()):
                continue  # Its scheduler is back and carries on.
            if pod is not None and pod["metadata"]["uid"] == claim.uid:
                source = self._sources.get(name)
                if pod["spec"].get("nodeName") and source is not None:
                    source.pod_seen(pod)
                    continue
            self._ledger.release(claim.uid)
        self._tell()

    async def _look(self, claims: Iterable[Claim]) -> dict[Claim, tuple[str, Object | None]]:
        """Where the pod of each claim is by now, and the pod, None when there is none. Those of
        which nobody can tell just now are left out."""
        found: dict[Claim, tuple[str, Object | None]] = {}
        asking = [(claim.source, claim) for claim in claims]
        for _ in range(_HOPS_MAX):
            by_source: dict[str, list[Claim]] = {}
            for name, claim in asking:
                by_source.setdefault(name, []).append(claim)
            asking = []
            for name, group in by_source.items():
                source = self._sources.get(name)
                if source is None:
                    continue
                client = source.client
                try:
                    replies = await client.write(
                        [client.calling("get", "pods", Key.from_path(c.path)) for c in group]
                    )
                except Failure as failure:
                    # Nobody knows, so they stay; the next round asks again.
                    log.info("unconfirmed reservations of %s stay: %s", name, failure.message)
                    continue
                for claim, reply in zip(group, replies, strict=True):
                    refusal = None if reply.ok else decode(reply.body)
                    if refusal is None:
                        found[claim] = (name, decoded(reply))
                    elif isinstance(refusal, NotFound):
                        found[claim] = (name, None)
                    elif isinstance(refusal, Moved) and refusal.to:
                        asking.append((refusal.to, claim))
        return found

    # Pods that one partition shows no more, and that another may show: their tenant moved.

    def in_limbo(self, claim: Claim) -> None:
        """They keep their room until somebody has them, or nobody does."""
        if not self._limbo:
            self._tasks.start(self._settle(), "reservations: moves")
        self._limbo[claim.uid] = claim

    def claimed(self, uid: str) -> None:
        if self._limbo:
            self._limbo.pop(uid, None)

    async def _settle(self) -> None:
        waits = retry.exponential(SETTLE_FIRST_S, SETTLE_LIMIT_S)
        while self._limbo:
            await self._clock.sleep(next(waits))
            for claim, (name, pod) in (await self._look(list(self._limbo.values()))).items():
                if self._limbo.get(claim.uid) != claim:
                    continue
                del self._limbo[claim.uid]
                source = self._sources.get(name)
                bound = pod is not None and pod["metadata"]["uid"] == claim.uid
                if pod is not None and bound and source is not None and takes_room(pod):
                    source.pod_seen(pod)
                    continue
                self._ledger.release(claim.uid)
            self._tell()


def takes_room(pod: Object) -> bool:
    """What BOUND_PODS selects."""
    phase = (pod.get("status") or {}).get("phase")
    return bool(pod["spec"].get("nodeName")) and phase not in ("Succeeded", "Failed")


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
            client, "pods", owner._clock, fieldSelector=BOUND_PODS, view="ledger", pace=PACE_MS,
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
        self._owner.claimed(uid)
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
            self._left(path)  # Or it was deleted; a look at it tells.
        self._owner._tell()

    def _changed(self, events: list[WatchEvent]) -> None:
        # 7 us an event: 200 bytes, see apiserver/views.py.
        for event in events:
            if event.type == DELETED:
                self._gone(event.path)
            elif event.type == LEFT:
                self._left(event.path)
            elif event.type != BOOKMARK:
                self.pod_seen(orjson.loads(event.body))
        self._owner._tell()

    def _left(self, path: str) -> None:
        """It is not here any more; it keeps its room while it may be elsewhere."""
        uid = self._uids.pop(path, None)
        claim = None if uid is None else self._ledger.claim_of(uid)
        if claim is not None and claim.source == self.name:
            self._owner.in_limbo(claim)

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
