"""A story of two partitions, and what nobody in it may ever see.

Writers, listers and watchers work directly and through the ingress's Dispatcher, while partitions
crash, connections break, disks fill up and history is compacted. Afterwards everything that
anybody was told is held against the rows that reached the disks: those are the truth.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, TypeVar

import orjson
import pytest

from arktos_ray.api.calls import ADDED, BOOKMARK, DELETED, MODIFIED, Call, Reply, User, WatchEvent
from arktos_ray.api.errors import (
    AlreadyExists,
    Conflict,
    Expired,
    NotFound,
    StorageFull,
    Timeout,
    Unavailable,
)
from arktos_ray.api.names import Key
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client
from arktos_ray.ingress.dispatch import Dispatcher
from arktos_ray.ingress.limits import Limits
from arktos_ray.store import store
from arktos_ray.store.backends.memory import MemoryDisk
from arktos_ray.store.port import Row
from arktos_ray.store.watchcache import HistoryLimits
from arktos_ray.testing.linearizability import ObjectModel, Operation
from arktos_ray.testing.linearizability import check as check_linearizable
from arktos_ray.testing.sim import Faults, SimCluster

T = TypeVar("T")
GVR = "configmaps"
HOMES = {"acme": "tp-1", "beta": "tp-2"}
LOST = (Unavailable, Timeout)  # Nobody knows whether it happened.
# How far a clock may be off in the end; until the slowest is there, lists of all have to wait.
CLOCK_STEP_S_MAX = 150.0
# Two calls, each through two commits of the slowest kind, and then some.
_ANSWER_S_MAX = 0.3
COLORS = ("red", "blue")
CALM_STEPS = 20
ADMIN = User("system:admin", "system", ("system:masters",))
# Small, so that watchers fall behind and history is forgotten within seconds.
LIMITS = HistoryLimits(age_ms_min=1_500, changes_max=60, changes_min=10)


class Rows(dict[int, Row]):
    """What is on the disk; `all` also has what was compacted since."""

    def __init__(self) -> None:
        super().__init__()
        self.all: dict[int, Row] = {}

    def __setitem__(self, revision: int, row: Row) -> None:
        super().__setitem__(revision, row)
        self.all[revision] = row


class Front:
    """A Caller that asks through the Dispatcher, as HTTP does. Also its Upstream."""

    def __init__(self, sim: SimCluster) -> None:
        self._peers = {name: sim.client(name, name="front").caller for name in HOMES.values()}
        self.tasks = Tasks()
        self._dispatcher = Dispatcher(self, sim.clock, self.tasks, Limits())  # type: ignore[arg-type]

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        return list(await asyncio.gather(*(self._dispatcher.call(call) for call in calls)))

    def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        return self._dispatcher.watch(call)[0]

    def moved(self, tenant: str, to: str) -> None:
        raise AssertionError("nobody moves in this story")

    def owner_of(self, tenant: str, storage: str = "") -> str:
        return HOMES.get(tenant, "tp-1")

    def topology_version(self) -> int:
        return 1

    def taking_nodes(self) -> list[str]:
        return list(self.resource_partitions())

    def tenant_partitions(self) -> list[str]:
        return list(HOMES.values())

    def resource_partitions(self) -> list[str]:
        return []

    def peer(self, partition: str) -> Any:
        return self._peers[partition]


@dataclass(frozen=True)
class View:
    """What a list or watch looks at. Its caller is a partition, or the front."""

    tenant: str  # or all
    color: str  # or ""

    def options(self) -> dict[str, str]:
        return {"labelSelector": f"color={self.color}"} if self.color else {}

    def takes(self, path: str, color: str) -> bool:
        tenant = path.split("/")[0]
        if tenant not in HOMES:
            return False
        return self.tenant in ("all", tenant) and self.color in ("", color)

    def homes(self) -> list[str]:
        return [home for tenant, home in HOMES.items() if self.tenant in ("all", tenant)]


@dataclass(frozen=True)
class Version:
    revision: int
    value: str
    color: str


def version_of(obj: dict[str, Any]) -> Version:
    meta = obj["metadata"]
    return Version(int(meta["resourceVersion"]), obj["data"]["value"], meta["labels"]["color"])


def path_of(obj: dict[str, Any]) -> str:
    meta = obj["metadata"]
    return f"{meta['tenant']}/{meta['namespace']}/{meta['name']}"


@dataclass
class Segment:
    """What one watch told, from a revision on; with reconnects, without a relist."""

    view: View
    start: int
    events: list[tuple[int, str, str, str]] = field(default_factory=list)
    position: int = 0
    ended: bool = False  # by a relist: then it is complete up to `position` only


class Truth:
    """All that was ever durable, in order."""

    def __init__(self, disks: Sequence[MemoryDisk]) -> None:
        rows: list[Row] = []
        for disk in disks:
            assert isinstance(disk.rows, Rows)
            rows += [row for row in disk.rows.all.values() if row.gvr == GVR]
        rows.sort(key=lambda row: row.revision)
        self.rows = rows
        revisions = [row.revision for row in rows]
        assert len(set(revisions)) == len(revisions), "two partitions gave out one revision"
        self.by_revision = {row.revision: row for row in rows}
        self.before: dict[int, Row | None] = {}
        newest: dict[str, Row] = {}
        for row in rows:
            previous = newest.get(row.path)
            self.before[row.revision] = None if previous is None or previous.deleted else previous
            newest[row.path] = row

    def state(self, view: View, revision: int) -> dict[str, Version]:
        found: dict[str, Version] = {}
        for row in self.rows:
            if row.revision > revision:
                break
            seen = version_of(orjson.loads(row.body))
            if row.deleted or not view.takes(row.path, seen.color):
                found.pop(row.path, None)
            else:
                found[row.path] = seen
        return found

    def events(self, view: View, start: int) -> Iterator[tuple[int, str, str, str]]:
        there: dict[str, str] = {}  # path -> value, as the view last had it
        for row in self.rows:
            seen = version_of(orjson.loads(row.body))
            was, now = row.path in there, not row.deleted and view.takes(row.path, seen.color)
            value = seen.value
            if now:
                there[row.path] = value
            elif was:
                # What leaves the view is told as the view had it; what is gone, as it last was.
                had = there.pop(row.path)
                value = value if row.deleted else had
            if row.revision > start and (was or now):
                kind = DELETED if not now else MODIFIED if was else ADDED
                yield row.revision, kind, row.path, value


@dataclass
class Ledger:
    """Everything that anybody was told, and when."""

    acknowledged: list[tuple[str, str, str | None, int]] = field(default_factory=list)
    based_on: dict[int, int] = field(default_factory=dict)  # revision of a write -> of its base
    refused_values: set[str] = field(default_factory=set)
    history: list[Operation] = field(default_factory=list)
    seen: list[tuple[str, Version]] = field(default_factory=list)
    lists: list[tuple[View, int, list[tuple[str, Version]]]] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    # By partition: the newest revision that a write was acknowledged with, a list answered at.
    newest_write: dict[str, int] = field(default_factory=dict)
    newest_list: dict[str, int] = field(default_factory=dict)


class Writer:
    """Creates, updates, patches and deletes names that it shares with the other writers."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.rng = random.Random(world.seed * 100 + number)
        self.tenant = ("acme", "beta")[number % 2]
        self.client = world.client(HOMES[self.tenant] if number % 3 else "front")
        self.count = 0

    async def run(self, steps: int) -> None:
        for _ in range(steps):
            await asyncio.sleep(self.rng.uniform(0, 0.02))
            started = self.world.sim.loop.time()
            with contextlib.suppress(AlreadyExists, NotFound, Conflict, *LOST):
                await self.one()
            if not self.world.through_front(self.client) and started > self.world.trouble_until:
                # Only the front has patience with a partition that is away.
                took_s = self.world.sim.loop.time() - started
                assert took_s < _ANSWER_S_MAX, f"a writer waited {took_s} s for nothing"

    async def did(self, key: Key, asked: tuple[Any, ...], work: Awaitable[T]) -> T:
        return await self.world.did(f"w{self.number}", key, asked, work)

    async def did_patches(self, key: Key, value: str, work: Awaitable[list[Reply]]) -> list[Reply]:
        """One batch: as if three callers asked at once."""
        world, called = self.world, self.world.sim.loop.time()
        answers: list[Any] = [None] * 3
        answered = inf
        try:
            replies = await work
            answered = world.sim.loop.time()
            codes = {200: "ok", NotFound.code: "missing"}
            answers = [codes.get(reply.code, reply.code) for reply in replies]
            return replies
        finally:
            for i, answer in enumerate(answers):
                if answer == StorageFull.code:
                    continue
                if answer in (Unavailable.code, Timeout.code):
                    answer, answered = None, inf
                asked = ("patch", f"{value}-{i}")
                world.ledger.history.append(
                    Operation(key.path(), called, answered, asked, answer, f"w{self.number}")
                )

    def cold(self) -> str:
        return f"cold{self.rng.randrange(20)}"

    async def one(self) -> None:
        ledger, home = self.world.ledger, HOMES[self.tenant]
        # Some names are hot; others keep their newest row until all about it is compacted.
        name = f"n{self.rng.randrange(6)}" if self.rng.random() < 0.9 else self.cold()
        key = Key(self.tenant, "default", name)
        self.count += 1
        value = f"w{self.number}-{self.count}"
        floor = ledger.newest_list.get(home, 0)
        body: dict[str, Any] = {
            "metadata": {"name": key.name, "labels": {"color": self.rng.choice(COLORS)}},
            "data": {"value": value},
        }
        choice = self.rng.random()
        try:
            if choice < 0.25:
                creating = self.client.create(GVR, self.tenant, "default", body)
                made = [await self.did(key, ("create", value), creating)]
                ledger.based_on[version_of(made[0]).revision] = 0
            elif choice < 0.5:
                read = await self.did(key, ("get",), self.client.get(GVR, key))
                base = version_of(read)
                ledger.seen.append((path_of(read), base))
                body["metadata"]["resourceVersion"] = str(base.revision)
                updating = self.client.update(GVR, key, body)
                made = [await self.did(key, ("update", base.value, value), updating)]
                ledger.based_on[version_of(made[0]).revision] = base.revision
            elif choice < 0.7:
                patches = [
                    self.client.patching(GVR, key, {"data": {"value": f"{value}-{i}"}})
                    for i in range(3)
                ]
                replies = await self.did_patches(key, value, self.client.write(patches))
                made = [orjson.loads(reply.body) for reply in replies if reply.ok]
                for i, reply in enumerate(replies):
                    if reply.code == StorageFull.code:
                        ledger.refused_values.add(f"{value}-{i}")
            elif choice < 0.85:
                patching = self.client.patch(GVR, key, {"data": {"value": value}})
                made = [await self.did(key, ("patch", value), patching)]
            else:
                read = await self.did(key, ("get",), self.client.get(GVR, key))
                uid = read["metadata"]["uid"]
                deleting = self.client.delete(GVR, key, preconditions={"uid": uid})
                await self.did(key, ("delete",), deleting)
                ledger.acknowledged.append((self.tenant, key.path(), None, floor))
                return
        except StorageFull:
            ledger.refused_values.add(value)
            return
        revisions = [version_of(obj).revision for obj in made]
        if home not in self.world.through_front(self.client):
            assert revisions == sorted(revisions), "a batch is applied in order"
        for obj in made:
            seen = version_of(obj)
            ledger.acknowledged.append((self.tenant, key.path(), seen.value, seen.revision))
            assert seen.revision > floor, "a write after a list is older than the list"
            ledger.newest_write[home] = max(ledger.newest_write.get(home, 0), seen.revision)


class Peeker:
    """Reads one object again and again, also while somebody writes it."""

    def __init__(self, world: World, tenant: str) -> None:
        self.world, self.tenant = world, tenant
        self.rng = random.Random(world.seed * 400 + len(tenant))
        self.client = world.client(HOMES[tenant])

    async def run(self) -> None:
        newest: dict[str, int] = {}
        while True:
            await asyncio.sleep(self.rng.uniform(0, 0.004 if self.world.busy else 1.0))
            key = Key(self.tenant, "default", f"n{self.rng.randrange(2)}")
            try:
                found = await self.world.did("peeker", key, ("get",), self.client.get(GVR, key))
            except (NotFound, *LOST):
                continue
            seen = version_of(found)
            assert seen.revision >= newest.get(key.name, 0), "a read goes back"
            newest[key.name] = seen.revision
            self.world.ledger.seen.append((path_of(found), seen))


class Lister:
    """Lists whole or in pages, here or everywhere, with selectors or without."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.rng = random.Random(world.seed * 200 + number)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self.rng.uniform(0, 0.05 if self.world.busy else 1.0))
            try:
                await self.one()
            except LOST:
                continue

    async def one(self) -> None:
        world, ledger = self.world, self.world.ledger
        tenant = self.rng.choice(("acme", "beta", "all"))
        view = View(tenant, self.rng.choice(("", *COLORS)))
        caller = "front" if tenant == "all" or self.rng.random() < 0.5 else HOMES[tenant]
        client, options = world.client(caller), view.options()
        floor = max(ledger.newest_write.get(home, 0) for home in view.homes())
        limit = self.rng.choice((0, 2, 3))
        if limit:
            options["limit"] = str(limit)
        items: list[Any] = []
        revision, started = 0, world.sim.loop.time()
        while True:
            call = Call("list", GVR, tenant, options=options, user=ADMIN)
            [reply] = await client.caller.call([call])
            body = orjson.loads(reply.body)
            if not reply.ok:
                if reply.code == Expired.code:
                    assert revision or world.may_be_late(started), (
                        "a list of the present never expires"
                    )
                    world.check_gone(view, revision)
                    world.sim.counts["list expired between pages"] += 1
                    return
                raise Unavailable(body["message"])
            at = int(body["metadata"]["resourceVersion"])
            assert revision in (0, at), "a page of another revision"
            revision = at
            assert not limit or len(body["items"]) <= limit
            items += body["items"]
            token = body["metadata"].get("continue", "")
            if not token:
                break
            options = {**options, "continue": token}
            await asyncio.sleep(self.rng.uniform(0, 0.1))
        # A list of all is taken at the time of the front (docs/simulator.md, "What is known").
        jumped = view.tenant == "all" and world.sim.counts["clock step forward"]
        assert revision >= floor or jumped, (
            "a list that misses what was acknowledged before it began"
        )
        ledger.lists.append((view, revision, [(path_of(i), version_of(i)) for i in items]))
        for home in view.homes():
            ledger.newest_list[home] = max(ledger.newest_list.get(home, 0), revision)


class Watcher:
    """Lists, then watches; goes on from where it was, sometimes much later."""

    def __init__(self, world: World, view: View, caller: str, number: int) -> None:
        self.world, self.view = world, view
        self.client = world.client(caller)
        self.rng = random.Random(world.seed * 300 + number)

    async def run(self) -> None:
        while True:
            started = self.world.sim.loop.time()
            try:
                items, start = await self.client.list(
                    GVR, tenant=self.view.tenant, **self.view.options()
                )
            except (Expired, *LOST) as failure:
                if isinstance(failure, Expired) and not self.world.may_be_late(started):
                    raise AssertionError("a list of the present never expires") from failure
                await asyncio.sleep(0.05 if self.world.busy else 1.0)
                continue
            ledger = self.world.ledger
            ledger.lists.append((self.view, start, [(path_of(i), version_of(i)) for i in items]))
            segment = Segment(self.view, start, position=start)
            ledger.segments.append(segment)
            try:
                await self.follow(segment)
            except Expired:
                self.world.check_gone(self.view, segment.position)
                self.world.sim.counts["relist after Expired"] += 1
                segment.ended = True

    async def follow(self, segment: Segment) -> None:
        while True:
            watch = self.client.watch(
                GVR, tenant=self.view.tenant, resourceVersion=str(segment.position),
                **self.view.options(),
            )  # fmt: skip
            try:
                async for events in watch:
                    for event in events:
                        self.see(segment, event)
                    if self.rng.random() < 0.05 * self.world.busy:
                        await asyncio.sleep(self.rng.uniform(0, 1.0))  # A slow reader.
            except LOST:
                self.world.sim.counts["watch resumed"] += 1
            finally:
                await watch.aclose()  # type: ignore[attr-defined]
            await asyncio.sleep(self.rng.choice((0.02, 0.3, 2.5 * self.world.busy)))

    def see(self, segment: Segment, event: WatchEvent) -> None:
        if event.type != BOOKMARK:
            assert event.revision > segment.position, "a watch repeats or goes back"
            seen = version_of(orjson.loads(event.body))
            segment.events.append((event.revision, event.type, event.path, seen.value))
        assert event.revision >= segment.position, "a bookmark goes back"
        segment.position = event.revision


class World:
    def __init__(self, sim: SimCluster, seed: int) -> None:
        self.sim, self.seed = sim, seed
        self.ledger = Ledger()
        self.front = Front(sim)
        self.busy = 1.0
        # Until then nobody promises an answer in a moment: somebody stands still, or is cut off.
        self.trouble_until = 0.0
        self.furthest = 0.0  # what any of the clocks has said, in our time
        self.fragile: dict[str, float] = {}  # home -> until when it must not restart

    async def did(self, who: str, key: Key, asked: tuple[Any, ...], work: Awaitable[T]) -> T:
        """Do it, and write down what was asked, what was answered, and when."""
        called, answered = self.sim.loop.time(), inf
        answer: Any = None
        try:
            result = await work
            answer = ("value", version_of(result).value) if asked == ("get",) else "ok"  # type: ignore[arg-type]
            answered = self.sim.loop.time()
            return result
        except (AlreadyExists, NotFound, Conflict) as failure:
            answer = {"AlreadyExists": "exists", "NotFound": "missing"}.get(
                failure.reason, "conflict"
            )
            answered = self.sim.loop.time()
            raise
        except StorageFull:
            answer = "refused"
            raise
        finally:
            if answer != "refused":
                self.ledger.history.append(
                    Operation(key.path(), called, answered, asked, answer, who)
                )

    def may_be_late(self, started: float) -> bool:
        """Whether a list of all may come too late for the moment that the front chose for it.

        History is 1.5 s here; who stood still for longer, or whose clock was set forward, has
        forgotten that moment.
        """
        return started <= self.trouble_until or self.sim.counts["clock step forward"] > 0

    def disturb(self, seconds: float) -> None:
        # And until what waited meanwhile was served.
        until = self.sim.loop.time() + seconds + _ANSWER_S_MAX
        self.trouble_until = max(self.trouble_until, until)

    def client(self, name: str) -> Client:
        return Client(self.front, ADMIN) if name == "front" else self.sim.client(name)

    def through_front(self, client: Client) -> list[str]:
        """A batch through the front is many calls, in no order."""
        return list(HOMES.values()) if client.caller is self.front else []

    def check_gone(self, view: View, revision: int) -> None:
        """410 is for history that is gone. (Where the partition is down, it cannot be asked.)"""
        floors = []
        for home in view.homes():
            part = self.sim.processes[home].part
            if part is None or not self.sim.processes[home].started:
                return
            floors.append(part.store.history(GVR).floor)  # type: ignore[attr-defined]
        assert revision < max(floors), "Expired, and nothing is gone"


@dataclass(frozen=True)
class Played:
    """What a story was made of."""

    counts: dict[str, int]
    operations: int
    virtual_s: float


def play(seed: int, *, steps: int = 65, writers: int = 6, weird: bool = True) -> Played:
    """Run the story and check it; an AssertionError says what somebody should not have seen.

    weird: also stalls, cuts, slow and broken disks, clocks that jump.
    """
    # Slow disks: many things happen while a commit is in flight.
    faults = Faults(reset_chance=0.006, restart_s=0.2, disk_delay_s=(0.001, 0.02))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "HistoryLimits", lambda: LIMITS)
        patch.setattr(store, "_BACKLOG_CHANGES_MAX", 8)
        patch.setattr(store, "_COMPACT_INTERVAL_S", 0.7)
        sim = SimCluster(
            seed, tenant_partitions=2, resource_partitions=0, faults=faults, with_parts=False
        )
        disks = []
        for process in sim.processes.values():
            process.disk.rows = Rows()
            disks.append(process.disk)
        with sim:
            world = World(sim, seed)
            try:
                _run(world, steps, writers, weird)
                check(world, Truth(disks))
            except AssertionError as error:
                _tell_all(error, disks)
                raise
            for disk in disks:
                sim.counts["crash with a commit under way"] += disk.crashes_with_pending
                sim.counts["torn record at a crash"] += disk.crashes_torn
                sim.counts["unacknowledged commit that survived"] += disk.survivors
            return Played(dict(sim.counts), len(world.ledger.history), sim.loop.virtual)


def _tell_all(error: AssertionError, disks: Sequence[MemoryDisk]) -> None:
    """The last rows of the objects that the failure speaks of."""
    text = str(error)
    rows = [row for disk in disks for row in disk.rows.all.values() if row.gvr == GVR]  # type: ignore[attr-defined]
    for path in sorted({row.path for row in rows if row.path in text})[:3]:
        error.add_note(f"the rows of {path} on the disks:")
        for row in [row for row in rows if row.path == path][-12:]:
            what = "deleted" if row.deleted else version_of(orjson.loads(row.body)).value
            error.add_note(f"  {row.revision} {what}")


def _misfortune(world: World) -> None:
    """Something happens to one of the partitions."""
    sim, home = world.sim, world.sim.random.choice(list(HOMES.values()))
    rng = sim.random
    kind = rng.choices(
        ("crash", "full", "stall", "replace", "cut", "slow", "broken", "clock"),
        (30, 25, 10, 8, 8, 6, 5, 8),
    )[0]
    if sim.loop.time() < world.fragile.get(home, 0.0) and kind != "slow":
        kind = "cut"
    if kind == "full":
        sim.fill_disk(home, rng.randrange(1, 4))
    elif kind == "stall":
        world.disturb(seconds := rng.choice((0.1, 0.5, 3.0)) * rng.uniform(0.5, 1.0))
        sim.stall(home, seconds)
    elif kind == "replace":
        world.disturb(seconds := rng.uniform(0.1, 1.0))
        sim.stall(home, 30.0)
        sim.loop.call_later(seconds, sim.replace, home)
    elif kind == "cut":
        world.disturb(seconds := rng.uniform(0.1, 2.0))
        sim.cut(rng.choice(("outside", "front")), home, seconds)
    elif kind == "slow":
        world.disturb(seconds := rng.uniform(0.1, 1.0))
        sim.slow_disk(home, rng.uniform(2, 30), seconds)
    elif kind == "broken":
        world.disturb(0.1)
        sim.break_disk(home, rng.randrange(1, 4))
    elif kind == "clock":
        process = sim.processes[home]
        if not process.started or process.life.stalled:
            return
        far = CLOCK_STEP_S_MAX if rng.random() < 0.3 else 5.0
        sim.step_clock(home, rng.uniform(-far, far) - process.clock.offset)
        world.furthest = max(world.furthest, sim.loop.time() + process.clock.offset)
        # A store notes within its compaction interval that its clock went back; what was shown
        # and not logged is forgotten by a restart before that (docs/simulator.md, "What is known").
        world.fragile[home] = sim.loop.time() + 3.0
    else:
        sim.crash(home)


def _crash_or_fill(world: World) -> None:
    sim = world.sim
    victim = sim.random.choice(list(HOMES.values()))
    if sim.random.random() < 0.5:
        sim.fill_disk(victim, sim.random.randrange(1, 4))
    else:
        sim.crash(victim)


def _run(world: World, steps: int, writers: int, weird: bool) -> None:
    sim = world.sim
    sim.run(_tenants(sim))
    views = [
        (View("acme", ""), "tp-1"), (View("beta", "red"), "tp-2"), (View("all", ""), "front"),
        (View("all", "blue"), "front"), (View("acme", "red"), "front"),
    ]  # fmt: skip
    others = [Watcher(world, view, who, i).run() for i, (view, who) in enumerate(views)]
    others += [Lister(world, i).run() for i in range(3)]
    others += [Peeker(world, tenant).run() for tenant in HOMES]
    running = [sim.loop.create_task(work) for work in others]
    work = [sim.loop.create_task(Writer(world, i).run(steps)) for i in range(writers)]
    try:
        while not all(task.done() for task in work):
            sim.run_for(sim.random.uniform(0.03, 0.4))
            (_misfortune if weird else _crash_or_fill)(world)
            _raise_failed([*work, *running])
        # A calm end: everything that happened must arrive.
        sim.heal()
        world.busy = 0.0
        sim.run_for(3)
        for process in sim.processes.values():
            process.clock.offset = 0.0
        # Lists of all are refused until the last clock has come to where the first one was.
        sim.run_for(6 + max(0.0, world.furthest - sim.loop.time()))
        # A calm day: however much happens, everybody is told of it, and nothing else wakes them.
        again = [Writer(world, writers + i).run(CALM_STEPS) for i in range(writers)]
        sim.run(asyncio.gather(*again))
        sim.run_for(2)
        check_told(world)
        for home in HOMES.values():
            sim.crash(home)
        sim.run_for(4)
        _raise_failed([*work, *running])
    finally:
        for task in (*work, *running):
            task.cancel()
        sim.loop.run_until_complete(asyncio.gather(*work, *running, return_exceptions=True))
        sim.loop.run_until_complete(world.front.tasks.close())


def check_told(world: World) -> None:
    """On a calm day no watch is behind."""
    truth = Truth([process.disk for process in world.sim.processes.values()])
    for segment in world.ledger.segments:
        if not segment.ended:
            newest = max(
                (event[0] for event in truth.events(segment.view, segment.start)), default=0
            )
            told = segment.events[-1][0] if segment.events else 0
            assert told == newest, f"a watch of {segment.view} is at {told}, and there is {newest}"


def _raise_failed(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()


async def _tenants(sim: SimCluster) -> None:
    async def once(client: Client, gvr: str, tenant: str, body: dict[str, Any]) -> None:
        try:
            await client.create(gvr, tenant, "", body)
        except AlreadyExists:
            return

    for tenant, home in HOMES.items():
        client = sim.client(home)
        for gvr, of, body in (
            ("tenants", "", {"metadata": {"name": tenant}, "spec": {"storageClusterId": "0"}}),
            ("namespaces", tenant, {"metadata": {"name": "default"}}),
        ):
            await sim.eventually(functools.partial(once, client, gvr, of, body))


def check(world: World, truth: Truth) -> None:
    ledger = world.ledger
    assert truth.rows, "the story is about something"
    assert ledger.lists
    for _, path, value, revision in ledger.acknowledged:
        if value is not None:
            row = truth.by_revision.get(revision)
            assert row is not None, f"{path} {value} was acknowledged and is not durable"
            assert version_of(orjson.loads(row.body)).value == value
    problem = check_linearizable(ledger.history, ObjectModel())
    assert problem is None, problem
    for revision, base in ledger.based_on.items():
        before = truth.before[revision]
        found = 0 if before is None else before.revision
        assert found == base, f"{revision} was written over {found}, not over {base}: lost update"
    values = {version_of(orjson.loads(row.body)).value for row in truth.rows}
    assert not values & ledger.refused_values, "a refused write left a trace"
    for path, seen in ledger.seen:
        row = truth.by_revision.get(seen.revision)
        assert row is not None, f"{path} was read and never durable"
        assert row.path == path
    for view, revision, items in ledger.lists:
        found_items = dict(items)
        assert len(found_items) == len(items), "a list says something twice"
        assert found_items == truth.state(view, revision), f"{view} at {revision}"
    for segment in ledger.segments:
        expected = list(truth.events(segment.view, segment.start))
        if segment.ended:
            expected = [event for event in expected if event[0] <= segment.position]
        assert segment.events == expected, f"a watch of {segment.view} from {segment.start}"
    end = max(row.revision for row in truth.rows)
    for home, tenant in zip(HOMES.values(), HOMES, strict=True):
        part: Any = world.sim.part(home)
        present = {
            record.path: version_of(record.decode())
            for record in part.store.table(GVR).range(f"{tenant}/")
        }
        assert present == truth.state(View(tenant, ""), end), "the present is not what was written"
