"""Scheduling: the scheduler of one TenantPartition.

Feeds one table of nodes (from every ResourcePartition) and one view of pods (from its own
TenantPartition), takes what waits, asks placement.solve, has the ResourcePartitions reserve, and
binds what they granted. A batch is whatever waited while the last one was in flight: no timer.

It decides nothing itself (plan.py and placement do), and trusts no column: a node is full when its
ledger says so. Everything here is rebuilt from lists, so that a restart needs nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from arktos_ray.api.calls import BOOKMARK, DELETED, LEFT, Peer, WatchEvent
from arktos_ray.api.errors import Failure, decode
from arktos_ray.api.names import Key
from arktos_ray.base import retry
from arktos_ray.base.clock import Clock
from arktos_ray.base.ids import Ids
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client, Object, decoded
from arktos_ray.controllers.scheduling.feed import RETRY_FIRST_S, RETRY_LIMIT_S, Feed, path_of
from arktos_ray.controllers.scheduling.plan import Queue
from arktos_ray.controllers.scheduling.reports import (
    GATED,
    UNSCHEDULABLE,
    Reports,
    binding,
    condition_of,
)
from arktos_ray.placement import filters
from arktos_ray.placement.assign import OTHERS_ANTI_AFFINITY
from arktos_ray.placement.explain import POD_REASONS
from arktos_ray.placement.pairs import Pairs
from arktos_ray.placement.signature import PodRequest, Signature, Signatures
from arktos_ray.placement.solve import solve
from arktos_ray.placement.tables import NodeTable, node_view

log = logging.getLogger(__name__)

DEFAULT_SCHEDULER = "default-scheduler"
# Batches of binds under way. More would only queue up in the partition, which has one writer.
BINDS_IN_FLIGHT_MAX = 4
# A bind that was not sent this soon after its reservation was asked for is not sent. Less than the
# 3 s in which a ResourcePartition restarts (design.md D11), for the new ledger does not know of it;
# and far less than the time after which a ledger gives up on it (ledger.UNCONFIRMED_S).
GRANT_TRUST_S = 2.0
# How long the first batch waits for nodes: what is not there by then does without.
START_WAIT_S = 5.0
LIVE_PODS = "status.phase!=Succeeded,status.phase!=Failed"
NO_SCHEDULE = "NoSchedule"
HELD_OFF = POD_REASONS[OTHERS_ANTI_AFFINITY]


@dataclass(frozen=True, slots=True)
class Home:
    """A ResourcePartition: its nodes as objects, and its reservations."""

    client: Client
    peer: Peer


@dataclass(frozen=True, slots=True, eq=False)
class Grant:
    """A pod, and the node that it was placed on, from the plan until the bind."""

    pod: PodRequest
    node: str
    home: str
    breaks: int  # of the connection to the home, when it was asked
    asked_at: float


@dataclass(slots=True)
class Pending:
    """A pod without a node, as last seen."""

    request: PodRequest
    revision: str
    condition: tuple[str, str]  # reason and message of PodScheduled=False


@dataclass(slots=True)
class Counters:
    """Since the start."""

    bound: int = 0
    unschedulable: int = 0  # tries, not pods
    refused: int = 0  # by a ledger
    failed: int = 0  # binds
    batches: int = 0


class Scheduling:
    """source: the name of this TenantPartition, as the ResourcePartitions know it."""

    def __init__(
        self,
        tp: Client,
        resource_partitions: Mapping[str, Home],
        clock: Clock,
        ids: Ids,
        tasks: Tasks,
        *,
        source: str,
        name: str = DEFAULT_SCHEDULER,
    ) -> None:
        self.counters = Counters()
        self._tp = tp
        self._clock = clock
        self._tasks = tasks
        self._source = source
        self._name = name
        self._homes: dict[str, Home] = {}
        self._recovering: set[str] = set()
        self._breaks: dict[str, int] = {}  # how often the connection to each home broke
        self._nodes = NodeTable()
        self._pairs = Pairs()
        self._queue = Queue()
        self._signatures = Signatures()
        self._rng = np.random.default_rng(int(ids.uniform(0, 2**53)))
        self._reports = Reports(tp, clock, name, f"{name}-{ids.suffix()}")
        self._pending: dict[str, Pending] = {}  # by path
        self._uids: dict[str, str] = {}  # of every live pod, by path
        # Pods that were given a node, until the watch says so or the bind failed: by uid.
        self._assumed: dict[str, str] = {}
        self._order = 0
        self._wake = asyncio.Event()
        self._may_start = asyncio.Event()
        self._node_feeds: list[_NodeFeed] = []
        self._alarm_at = float("inf")
        self._binds = asyncio.Semaphore(BINDS_IN_FLIGHT_MAX)
        self._pod_feed = Feed(
            tp, "pods", clock, fieldSelector=LIVE_PODS, view="scheduler",
            on_list=self._pods_listed, on_object=self._pod_seen, on_events=self._pods_changed,
        )  # fmt: skip
        self._namespace_feed = Feed(
            tp, "namespaces", clock, on_list=self._namespaces_listed,
            on_object=self._namespace_seen, on_events=self._namespaces_changed,
        )  # fmt: skip
        self._spaces: set[Key] = set()
        self._initial = dict(resource_partitions)

    @property
    def waiting(self) -> int:
        """Pods that want a node, those in flight included."""
        return len(self._queue)

    def start(self) -> None:
        self._tasks.start(self._namespace_feed.run(), "scheduling: namespaces")
        self._tasks.start(self._pod_feed.run(), "scheduling: pods")
        for name, home in self._initial.items():
            self.add_resource_partition(name, home)
        self._tasks.start(self._reports.run(), "scheduling: reports")
        self._tasks.start(self._run(), "scheduling")

    def add_resource_partition(self, name: str, home: Home) -> None:
        """Also while running: its nodes are used as soon as it has told us their usage."""
        if name in self._homes:
            return
        self._homes[name] = home
        self._breaks[name] = 0
        self._nodes.set_lost(name, True)
        nodes = _NodeFeed(name, home, self)
        self._node_feeds.append(nodes)
        nodes.work = [
            self._tasks.start(nodes.feed.run(), f"scheduling: nodes of {name}"),
            self._tasks.start(nodes.follow_usage(), f"scheduling: usage of {name}"),
        ]

    def remove_resource_partition(self, name: str) -> None:
        """Its nodes are no more. What is under way with it fails, and is placed elsewhere."""
        for nodes in [each for each in self._node_feeds if each.name == name]:
            self._node_feeds.remove(nodes)
            for task in nodes.work:
                task.cancel()
            for node in self._nodes.names_at(name):
                self._nodes.remove_node(node)
            # Grants of it are not good any more; the Home stays, for answers on their way.
            self._breaks[name] += 1

    # The loop.

    async def _run(self) -> None:
        # Affinity and spread are judged against the pods that are there: list them first.
        await self._pod_feed.synced()
        await self._namespace_feed.synced()
        # And a pod is not told that there are no nodes before anybody could tell us of them.
        self._tasks.start(self._ring_start(), "scheduling: start")
        self._tasks.start(self._wait_for_homes(), "scheduling: start")
        await self._may_start.wait()
        while True:
            # A place for its binds first, so that what is granted is sent at once.
            await self._binds.acquire()
            batch = self._queue.take(self._clock.monotonic())
            granted = await self._schedule(batch) if batch else []
            if granted:
                self._tasks.start(self._bind(granted), "scheduling: bind")
                continue
            self._binds.release()
            if not batch:
                self._set_alarm()
                self._wake.clear()
                await self._wake.wait()

    async def _ring_start(self) -> None:
        await self._clock.sleep(START_WAIT_S)
        self._may_start.set()

    async def _wait_for_homes(self) -> None:
        for nodes in list(self._node_feeds):
            await nodes.feed.synced()
            await nodes.usage_known.wait()
            self._recovering.add(nodes.name)
            await self._recover(nodes.name)
        self._may_start.set()

    async def _schedule(self, batch: Sequence[PodRequest]) -> list[Grant]:
        """One batch, as far as its reservations."""
        self.counters.batches += 1
        plan = solve(self._nodes, batch, self._pairs, rng=self._rng)
        now = self._clock.monotonic()
        for pod, why in plan.unplaced:
            pending = self._pending.get(pod.path)
            sociable = not pod.signature.alone or HELD_OFF in why
            if self._queue.failed(pod, now, sociable=sociable) and pending is not None:
                reason, message = pending.condition
                said = message if reason == UNSCHEDULABLE else ""
                self._reports.unschedulable(pod, pending.revision, why, said)
        self.counters.unschedulable += len(plan.unplaced)
        if not plan.placed:
            # Lets feeds run between batches of pods that fit nowhere.
            await self._clock.sleep(0)
            return []
        by_home: dict[str, list[Grant]] = {}
        for pod, node in plan.placed:
            home = self._nodes.home_of(node)
            grant = Grant(pod, node, home, self._breaks[home], now)
            by_home.setdefault(home, []).append(grant)
        answers = await asyncio.gather(
            *(self._reserve(home, claims) for home, claims in by_home.items())
        )
        return [grant for granted in answers for grant in granted]

    async def _reserve(self, home: str, claims: list[Grant]) -> list[Grant]:
        """Asks one ResourcePartition for all that was placed with it; what it granted."""
        try:
            whys, held, rows = await self._homes[home].peer.request(
                "reserve", _reservation(self._source, claims)
            )
        except Failure as failure:
            # It may have granted some.
            log.info("no reservations from %s: %s", home, failure.message)
            now = self._clock.monotonic()
            for grant in claims:
                self._queue.delay(grant.pod, now)
            self._recover_soon(home)
            return []
        self._apply_usage(rows, force=False)
        granted: list[Grant] = []
        unwanted: list[str] = []
        now = self._clock.monotonic()
        for grant, why in zip(claims, whys, strict=True):
            pod = grant.pod
            pending = self._pending.get(pod.path)
            if pending is None or pending.request.uid != pod.uid:
                unwanted.append(pod.uid)  # It went, or was bound by another, while we asked.
            elif not why:
                self._assume(grant)
                granted.append(grant)
            elif pod.uid in held:
                self._queue.delay(pod, now)
                self._recover_soon(home)
            else:
                self.counters.refused += 1
                self._queue.refused(pod, now)
        if unwanted:
            self._tasks.start(self._release({home: unwanted}), "scheduling: release")
        return granted

    # What was reserved, and nobody here knows of: by a life before this one, or by a request whose
    # answer was lost. It is bound as it was reserved; giving it back could cross a bind that is
    # still under way.

    def _recover_soon(self, home: str) -> None:
        if home not in self._recovering:
            self._recovering.add(home)
            self._tasks.start(self._recover(home), "scheduling: recover")

    async def _recover(self, home: str) -> None:
        waits = retry.exponential(RETRY_FIRST_S, RETRY_LIMIT_S)
        while True:
            asked_at, breaks = self._clock.monotonic(), self._breaks[home]
            try:
                held, rows = await self._homes[home].peer.request("held", {"source": self._source})
                break
            except Failure:
                await self._clock.sleep(next(waits))
        self._recovering.discard(home)
        self._apply_usage(rows, force=False)
        granted: list[Grant] = []
        unwanted: list[str] = []
        for uid, path, node in held:
            pending = self._pending.get(path)
            if pending is None or pending.request.uid != uid or uid in self._assumed:
                continue  # Bound or gone, and the ledger will hear of it; or on its way.
            if not filters.allows(pending.request.signature.node_rules, self._nodes, node):
                unwanted.append(uid)
                continue
            request = self._queue.hold(path)
            if request is not None:
                grant = Grant(request, node, home, breaks, asked_at)
                self._assume(grant)
                granted.append(grant)
        if unwanted:
            await self._release({home: unwanted})
        if granted:
            log.info("%d reservations at %s are carried on with", len(granted), home)
            await self._binds.acquire()
            await self._bind(granted)

    def _assume(self, grant: Grant) -> None:
        self._assumed[grant.pod.uid] = grant.node
        self._pairs.place(grant.pod, grant.node)

    def _is_good(self, grant: Grant) -> bool:
        """Whether its ledger still stands by it: a ledger that restarts knows only bound pods."""
        age = self._clock.monotonic() - grant.asked_at
        return grant.breaks == self._breaks[grant.home] and age <= GRANT_TRUST_S

    async def _bind(self, grants: list[Grant]) -> None:
        """Binds in one commit. Was given a place in `_binds`, and leaves it."""
        try:
            granted = [grant for grant in grants if self._is_good(grant)]
            if len(granted) < len(grants):
                stale = [grant for grant in grants if not self._is_good(grant)]
                self._tasks.start(self._take_back(stale), "scheduling: take back")
            # Now, because the watch may tell of the bind before its reply does.
            revisions = [self._revision_of(grant.pod) for grant in granted]
            try:
                replies = await self._tp.write(
                    [binding(self._tp, grant.pod, grant.node) for grant in granted]
                )
            except Failure as failure:
                log.info("binds without an answer: %s", failure.message)
                await self._take_back(granted)
                return
            failed: list[Grant] = []
            for grant, revision, reply in zip(granted, revisions, replies, strict=True):
                if reply.ok:
                    self._bound(grant, revision)
                else:
                    why = decode(reply.body).message
                    log.info("bind of %s failed: %s", grant.pod.path, why)
                    failed.append(grant)
            if failed:
                await self._take_back(failed)
        finally:
            self._binds.release()

    def _bound(self, grant: Grant, revision: str) -> None:
        self.counters.bound += 1
        self._queue.remove(grant.pod.path)
        self._reports.scheduled(grant.pod, grant.node, revision)

    def _revision_of(self, pod: PodRequest) -> str:
        pending = self._pending.get(pod.path)
        return "" if pending is None else pending.revision

    async def _take_back(self, granted: list[Grant]) -> None:
        """Binds that failed, or of which nobody knows: learns what is so, then tries again."""
        self.counters.failed += len(granted)
        waits = retry.exponential(RETRY_FIRST_S, RETRY_LIMIT_S)
        while True:
            try:
                replies = await self._tp.write(
                    [
                        self._tp.calling("get", "pods", Key.from_path(grant.pod.path))
                        for grant in granted
                    ]
                )
                break
            except Failure:
                await self._clock.sleep(next(waits))
        by_home: dict[str, list[str]] = {}
        now = self._clock.monotonic()
        for grant, reply in zip(granted, replies, strict=True):
            pod = grant.pod
            found = decoded(reply) if reply.ok else None
            if (
                found is not None
                and found["metadata"]["uid"] == pod.uid
                and found["spec"].get("nodeName")
            ):
                self._pod_seen(found)
                if found["spec"]["nodeName"] == grant.node:
                    self._bound(grant, found["metadata"]["resourceVersion"])
                    continue
            elif self._assumed.pop(pod.uid, None) is not None:
                self._pairs.remove(pod.uid)
                self._queue.delay(pod, now)
            by_home.setdefault(grant.home, []).append(pod.uid)
        # Before anything else is waited for: the loop may be asleep, with no alarm for these.
        self._set_alarm()
        await self._release(by_home)
        self._something_changed()

    async def _release(self, uids_by_home: Mapping[str, Sequence[str]]) -> None:
        for name, uids in uids_by_home.items():
            home = self._homes.get(name)
            if home is None:
                continue
            try:
                await home.peer.request("release", [list(uids)])
            except Failure as failure:
                log.info("%d reservations at %s will expire: %s", len(uids), name, failure.message)

    def _set_alarm(self) -> None:
        due = self._queue.next_due()
        if due is not None and due < self._alarm_at:
            self._alarm_at = due
            self._tasks.start(self._ring(due), "scheduling: alarm")

    async def _ring(self, due: float) -> None:
        await self._clock.sleep(max(due - self._clock.monotonic(), 0.0))
        if self._alarm_at == due:
            self._alarm_at = float("inf")
        self._wake.set()

    def _something_changed(self) -> None:
        """Something that may help a pod that fitted nowhere."""
        if self._queue.changed():
            self._wake.set()

    # Pods.

    def _pods_listed(self, paths: set[str]) -> None:
        for path in [path for path in self._uids if path not in paths]:
            self._pod_gone(path)
        if self._queue.pods_changed():
            self._wake.set()

    def _pods_changed(self, events: list[WatchEvent]) -> None:
        # 20 us for a new pod, 12 for a change of a bound one; orjson.loads takes half.
        loads = orjson.loads
        moved = False
        for event in events:
            if event.type in (DELETED, LEFT):
                moved |= self._pod_gone(event.path)
            elif event.type != BOOKMARK:
                moved |= self._pod_seen(loads(event.body))
        if moved and self._queue.pods_changed():
            self._wake.set()

    def _pod_gone(self, path: str) -> bool:
        """Whether a placed pod went."""
        uid = self._uids.pop(path, None)
        if uid is None:
            return False
        self._assumed.pop(uid, None)
        self._stop_waiting(path, uid)
        return self._pairs.remove(uid)

    def _stop_waiting(self, path: str, uid: str) -> None:
        if self._pending.pop(path, None) is not None:
            self._queue.remove(path)
            self._reports.forget(uid)

    def _pod_seen(self, pod: Object) -> bool:
        """Whether the view of placed pods changed by it: others may be waiting for that."""
        path, metadata, spec = path_of(pod), pod["metadata"], pod["spec"]
        uid = metadata["uid"]
        if self._uids.get(path, uid) != uid:
            self._pod_gone(path)  # Deleted and made again while we were not looking.
        self._uids[path] = uid
        node = spec.get("nodeName")
        phase = (pod.get("status") or {}).get("phase")
        if node:
            self._assumed.pop(uid, None)
            self._stop_waiting(path, uid)
            if phase == NO_SCHEDULE:
                return self._pairs.remove(uid)
            if self._pairs.stands(uid, node, metadata.get("labels") or {}):
                return False
            self._pairs.place(self._signatures.request(pod), node)
            return True
        moved = uid not in self._assumed and self._pairs.remove(uid)
        if (
            phase == NO_SCHEDULE
            or metadata.get("deletionTimestamp")
            or spec.get("schedulerName", DEFAULT_SCHEDULER) != self._name
        ):
            self._stop_waiting(path, uid)
            return moved
        pending = self._pending.get(path)
        if pending is None:
            self._order += 1
        order = self._order if pending is None else pending.request.order
        request = self._signatures.request(pod, order)
        pending = Pending(request, metadata.get("resourceVersion", ""), condition_of(pod))
        self._pending[path] = pending
        if spec.get("schedulingGates"):
            self._queue.remove(path)
            if pending.condition[0] != GATED:
                self._reports.gated(request, pending.revision)
        elif uid not in self._assumed:
            self._queue.add(request)
            self._wake.set()
        return moved

    # Namespaces: their labels, for namespaceSelector.

    def _namespaces_listed(self, paths: set[str]) -> None:
        for key in [key for key in self._spaces if key.path() not in paths]:
            self._namespace_gone(key)

    def _namespace_seen(self, namespace: Object) -> None:
        key = Key.from_path(path_of(namespace))
        self._spaces.add(key)
        labels = namespace["metadata"].get("labels") or {}
        self._pairs.set_namespace(key.tenant, key.name, labels)

    def _namespaces_changed(self, events: list[WatchEvent]) -> None:
        for event in events:
            if event.type in (DELETED, LEFT):
                self._namespace_gone(Key.from_path(event.path))
            elif event.type != BOOKMARK:
                self._namespace_seen(orjson.loads(event.body))
        if any(event.type != BOOKMARK for event in events):
            self._something_changed()

    def _namespace_gone(self, key: Key) -> None:
        self._spaces.discard(key)
        self._pairs.remove_namespace(key.tenant, key.name)

    # Nodes and their usage.

    def _apply_usage(self, rows: Sequence[Any], *, force: bool) -> None:
        freed = False
        for node, version, amounts, ports in rows:
            taken = (
                [(protocol, port, address) for protocol, port, address in ports] if ports else ()
            )
            freed |= self._nodes.set_usage(node, version, amounts, taken, force=force)
        if freed:
            self._something_changed()


class _NodeFeed:
    """The nodes of one ResourcePartition, and what is reserved on them."""

    def __init__(self, name: str, home: Home, owner: Scheduling) -> None:
        self.name = name
        self._home = home
        self._owner = owner
        self._nodes = owner._nodes
        self._reader = {"source": owner._source}
        self.work: list[asyncio.Task[Any]] = []
        self.usage_known = asyncio.Event()
        self.feed = Feed(
            home.client, "nodes", owner._clock,
            on_list=self._listed, on_object=self._seen, on_events=self._changed,
        )  # fmt: skip

    async def follow_usage(self) -> None:
        """Nodes of a partition that does not tell their usage are not used."""
        clock = self._owner._clock
        waits = retry.exponential(RETRY_FIRST_S, RETRY_LIMIT_S)
        while True:
            is_snapshot = True
            try:
                async for complete, rows in self._home.peer.subscribe("usage", self._reader):
                    # A snapshot counts whatever its versions: the ledger may have restarted.
                    self._owner._apply_usage(rows, force=is_snapshot)
                    if complete and is_snapshot:
                        is_snapshot = False
                        self.usage_known.set()
                        waits = retry.exponential(RETRY_FIRST_S, RETRY_LIMIT_S)
                        if self._nodes.set_lost(self.name, False):
                            self._owner._something_changed()
            except Failure as failure:
                log.info("usage of %s: %s", self.name, failure.message)
            self._nodes.set_lost(self.name, True)
            self._owner._breaks[self.name] += 1
            await clock.sleep(next(waits))

    def _listed(self, paths: set[str]) -> None:
        names = {Key.from_path(path).name for path in paths}
        for name in self._nodes.names_at(self.name):
            if name not in names:
                self._nodes.remove_node(name)

    def _seen(self, node: Object) -> None:
        view = node_view(node, self.name)
        home = self._nodes.home_of(view.name)
        if home and home != self.name:
            return  # Node names are unique over all partitions; the first that has one keeps it.
        if self._nodes.set_node(view):
            self._owner._something_changed()

    def _changed(self, events: list[WatchEvent]) -> None:
        for event in events:
            if event.type == DELETED:
                name = Key.from_path(event.path).name
                if self._nodes.home_of(name) == self.name:
                    self._nodes.remove_node(name)
            elif event.type != BOOKMARK:
                self._seen(orjson.loads(event.body))


def _reservation(source: str, claims: Sequence[Grant]) -> dict[str, Any]:
    """The payload of `reserve`: each shape once. 1 us a claim."""
    shapes: dict[Signature, int] = {}
    demands: list[Any] = []
    packed = []
    for grant in claims:
        pod = grant.pod
        signature = pod.signature
        shape = shapes.get(signature)
        if shape is None:
            shape = shapes[signature] = len(demands)
            demands.append([list(signature.demand.amounts), list(signature.demand.ports)])
        packed.append([pod.uid, pod.path, grant.node, shape])
    return {"source": source, "shapes": demands, "claims": packed}
