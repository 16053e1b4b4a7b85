"""Promises of two stores between which a tenant moves: nothing is lost, doubled or shown half."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from arktos_ray.api.calls import ARRIVED, LEFT
from arktos_ray.api.errors import Expired, Moved
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.tasks import Tasks
from arktos_ray.store.backends.memory import MemoryDisk, MemoryLog
from arktos_ray.store.backends.sqlite import SqliteLog
from arktos_ray.store.moving import ARRIVING, COMPLETE, DEPARTED, HERE, Mark, Step
from arktos_ray.store.port import Log, Row
from arktos_ray.store.store import Scope, Store

GVR = "configmaps"
OpenLog = Callable[[str], Log]


class Open:
    """A store over a log that outlives it."""

    def __init__(self, open_log: OpenLog, name: str, number: int) -> None:
        self.log = open_log(name)
        self.tasks = Tasks()
        self.store = Store(self.log, number, SystemClock(), self.tasks)
        self.store.recover()
        self.store.start()

    async def close(self) -> None:
        await self.tasks.close()
        self.log.close()

    def values(self, tenant: str = "t") -> dict[str, int]:
        return {r.path: r.decode()["value"] for r in self.store.table(GVR).range(f"{tenant}/")}


@pytest.fixture(params=["memory", "sqlite"])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> OpenLog:
    disks: dict[str, MemoryDisk] = {}
    if request.param == "memory":
        return lambda name: MemoryLog(disks.setdefault(name, MemoryDisk()))
    return lambda name: SqliteLog(tmp_path / f"{name}.db")


def run(open_log: OpenLog, story: Callable[[Open, Open], Awaitable[None]]) -> None:
    async def play() -> None:
        one, two = Open(open_log, "one", 1), Open(open_log, "two", 2)
        try:
            await story(one, two)
        finally:
            await one.close()
            await two.close()

    asyncio.run(play())


def put(store: Store, name: str, value: int, tenant: str = "t") -> int:
    obj: dict[str, Any] = {"metadata": {"name": name}, "value": value}
    return store.put(GVR, f"{tenant}/n/{name}", obj).revision


async def filled(store: Store) -> None:
    """Three revisions of a, b made and deleted, c, and somebody else's object."""
    store.put("tenants", "//t", {"metadata": {"name": "t", "uid": "u"}})
    for value in range(3):
        put(store, "a", value)
    put(store, "b", 1)
    store.delete(GVR, "t/n/b", {"metadata": {"name": "b"}, "value": 1})
    put(store, "c", 7)
    put(store, "other", 9, tenant="t2")
    await store.commit()


async def copy(source: Store, target: Store) -> None:
    """Everything but the two steps: all rows are durable at the target."""
    await target.clear("t")
    target.put_mark(Mark("t", ARRIVING, "one"))
    await target.commit()
    floors, rows, _ = source.tap("t")
    await target.stage("t", [Row(r.revision, r.deleted, g, r.path, r.body) for g, r in rows])
    await target.complete("t", floors)
    target.put_mark(Mark("t", COMPLETE, "one"))
    await target.commit()


async def step(source: Store, target: Store) -> tuple[int, int]:
    departed = source.put_mark(Mark("t", DEPARTED, "two", 0, "u"))
    await source.commit()
    await target.reach(departed)
    here = target.put_mark(Mark("t", HERE, "one"))
    await target.commit()
    return departed, here


def test_a_tenant_is_in_one_store_before_and_in_the_other_after_with_its_revisions(
    open_log: OpenLog,
) -> None:
    async def story(one: Open, two: Open) -> None:
        await filled(one.store)
        before = {r.path: r.revision for r in one.store.table(GVR).range("t/")}
        await copy(one.store, two.store)
        assert not two.values(), "nobody sees a tenant that is just coming"
        assert not two.store.counts()
        departed, here = await step(one.store, two.store)
        assert here > departed
        assert not one.values()
        assert one.store.usage("t") == (0, 0)
        assert two.store.usage("t") == (2, sum(len(r.body) for r in two.store.table(GVR).range()))
        assert one.store.get("tenants", "//t") is None
        assert one.values("t2") == {"t2/n/other": 9}
        assert two.values() == {"t/n/a": 2, "t/n/c": 7}
        assert {r.path: r.revision for r in two.store.table(GVR).range("t/")} == before

    run(open_log, story)


def test_both_stores_restart_as_they_were(open_log: OpenLog) -> None:
    async def story() -> None:
        one, two = Open(open_log, "one", 1), Open(open_log, "two", 2)
        await filled(one.store)
        await copy(one.store, two.store)
        await two.close()
        two = Open(open_log, "two", 2)
        assert not two.values()
        assert two.store.staged("t"), "what is durable needs no second copying"
        await step(one.store, two.store)
        await one.store.compact()
        await one.close()
        await two.close()
        one, two = Open(open_log, "one", 1), Open(open_log, "two", 2)
        assert not one.values()
        assert one.values("t2") == {"t2/n/other": 9}
        assert two.values() == {"t/n/a": 2, "t/n/c": 7}
        assert one.store.marks["t"].other == "two"
        await one.close()
        await two.close()

    asyncio.run(story())


def test_a_tenant_may_come_back(open_log: OpenLog) -> None:
    async def story() -> None:
        one, two = Open(open_log, "one", 1), Open(open_log, "two", 2)
        await filled(one.store)
        for source, target in ((one, two), (two, one), (one, two)):
            await copy(source.store, target.store)
            await step(source.store, target.store)
            put(target.store, "a", 100)
            await target.store.commit()
        await one.close()
        await two.close()
        one, two = Open(open_log, "one", 1), Open(open_log, "two", 2)
        assert not one.values()
        assert two.values() == {"t/n/a": 100, "t/n/c": 7}
        await one.close()
        await two.close()

    asyncio.run(story())


def test_a_watch_of_the_tenant_goes_on_where_it_was(open_log: OpenLog) -> None:
    async def story(one: Open, two: Open) -> None:
        await filled(one.store)
        watch = one.store.subscribe(GVR, Scope("t"), one.store.revision)
        last = put(one.store, "a", 3)
        await one.store.commit()
        await copy(one.store, two.store)
        departed, _ = await step(one.store, two.store)
        assert [c.revision for c in await watch.next()] == [last]  # type: ignore[union-attr]
        with pytest.raises(Moved) as moved:
            await watch.next()
        assert (moved.value.to, moved.value.after) == ("two", departed)
        following = two.store.subscribe(GVR, Scope("t"), departed)
        made = put(two.store, "a", 4)
        await two.store.commit()
        [change] = await following.next()
        assert not isinstance(change, Step)
        assert change.revision == made
        assert change.previous is not None, "it is a change, not a new object"
        # And who was away resumes from before the move.
        [change, *_] = two.store.subscribe(GVR, Scope("t"), last - 1).next_nowait()
        assert not isinstance(change, Step)
        assert change.revision == last

    run(open_log, story)


def test_a_change_is_told_to_watches_of_all_tenants_by_who_made_it_only(open_log: OpenLog) -> None:
    async def story(one: Open, two: Open) -> None:
        await filled(one.store)
        start = one.store.revision
        first = put(one.store, "a", 3)
        await one.store.commit()
        await copy(one.store, two.store)
        await step(one.store, two.store)
        second = put(two.store, "a", 4)
        await two.store.commit()
        told = {
            name: [c.revision for c in each.store.past(GVR, Scope(), start)[0]]
            for name, each in (("one", one), ("two", two))
        }
        assert told == {"one": [first], "two": [second]}

    run(open_log, story)


def test_who_asks_for_moves_hears_of_them_and_cannot_miss_one(open_log: OpenLog) -> None:
    async def story(one: Open, two: Open) -> None:
        await filled(one.store)
        left = one.store.subscribe(GVR, Scope(), one.store.revision, moves=True)
        arrived = two.store.subscribe(GVR, Scope(), two.store.revision, moves=True)
        silent = two.store.subscribe(GVR, Scope(), two.store.revision)
        await copy(one.store, two.store)
        departed, here = await step(one.store, two.store)
        for watch, kind, revision in ((left, LEFT, departed), (arrived, ARRIVED, here)):
            [step_] = watch.next_nowait()
            assert isinstance(step_, Step)
            assert (step_.kind, step_.revision) == (kind, revision)
            assert {r.path for r in step_.records} == {"t/n/a", "t/n/c"}
        assert not silent.next_nowait()
        with pytest.raises(Expired):
            two.store.subscribe(GVR, Scope(), here - 1, moves=True)

    run(open_log, story)


def test_an_import_that_is_given_up_leaves_nothing(open_log: OpenLog) -> None:
    async def story() -> None:
        one, two = Open(open_log, "one", 1), Open(open_log, "two", 2)
        await filled(one.store)
        await copy(one.store, two.store)
        await two.store.clear("t")
        two.store.delete_mark("t")
        await two.store.commit()
        await two.close()
        two = Open(open_log, "two", 2)
        assert not two.store.marks
        assert not two.store.staged("t")
        assert one.values() == {"t/n/a": 2, "t/n/c": 7}
        await one.close()
        await two.close()

    asyncio.run(story())
