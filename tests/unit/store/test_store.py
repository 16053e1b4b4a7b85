"""Promises of the store: acknowledged is durable, watches miss nothing, the past can be read."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arktos_ray.api.errors import Expired, Failure, StorageFull, TooManyRequests, Unavailable
from arktos_ray.base.tasks import Tasks
from arktos_ray.store.backends.memory import MemoryDisk, MemoryLog
from arktos_ray.store.records import encode
from arktos_ray.store.store import COLLECTED_BYTES_MAX, Scope, Store
from arktos_ray.store.watchcache import HistoryLimits

GVR = "configmaps"


class StuckClock:
    """Always the same moment, so that revisions must advance by themselves."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


def obj(name: str, value: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "tenant": "t", "namespace": "n"}, "value": value}


def path(name: str) -> str:
    return f"t/n/{name}"


class Running:
    """A store that runs over a disk which outlives it."""

    def __init__(
        self, disk: MemoryDisk, limits: HistoryLimits | None = None, ahead_s: float = 0.0
    ) -> None:
        self.log = MemoryLog(disk)
        self.tasks = Tasks()
        self.clock = StuckClock()
        self.clock.time += ahead_s
        self.store = Store(self.log, 1, self.clock, self.tasks, limits)
        self.store.recover()
        self.store.start()

    async def crash(self) -> None:
        await self.tasks.close()

    def state(self) -> dict[str, int]:
        return {r.key.name: r.decode()["value"] for r in self.store.table(GVR).range()}


names = st.sampled_from(["a", "b", "c", "a-b", "a.b"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), names, st.integers(0, 99)),
        st.tuples(st.just("delete"), names, st.just(0)),
        st.tuples(st.just("commit"), names, st.just(0)),
        st.tuples(st.just("full"), names, st.just(0)),
        st.tuples(st.just("crash"), names, st.just(0)),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@given(steps)
def test_what_was_acknowledged_is_there_and_what_was_refused_is_not(plan: list[Any]) -> None:
    async def story() -> None:
        disk = MemoryDisk()
        running = Running(disk)
        durable: dict[str, int] = {}
        wanted: dict[str, int] = {}
        for step, name, value in plan:
            store = running.store
            if step == "put":
                store.put(GVR, path(name), obj(name, value))
                wanted[name] = value
            elif step == "delete":
                latest = store.latest(GVR, path(name))
                assert (latest is not None) == (name in wanted)
                if latest is not None:
                    store.delete(GVR, path(name), latest.decode())
                    del wanted[name]
            elif step == "commit":
                await store.commit()
                durable = dict(wanted)
            elif step == "full":
                running.log.fail_next.append(StorageFull("full"))
                dirty = wanted != durable
                store.put(GVR, path(name), obj(name, 1000))
                with pytest.raises(StorageFull):
                    await store.commit()
                assert dirty or running.state() == durable
                wanted = dict(durable)
            else:
                await running.crash()
                running = Running(disk)
                wanted = dict(durable)
            assert running.state() == durable, "readers see the durable state, no more, no less"
            there = [running.store.latest(GVR, path(name)) for name in wanted]
            size = sum(len(record.body) for record in there if record is not None)
            assert running.store.usage("t") == (len(wanted), size)
        await running.crash()

    asyncio.run(story())


@settings(deadline=None, max_examples=150)
@given(steps, st.integers(0, 40), st.data())
def test_a_watch_from_any_revision_tells_exactly_what_happened_after_it(
    plan: list[Any], crash_at: int, data: st.DataObject
) -> None:
    async def story() -> None:
        disk = MemoryDisk()
        running = Running(disk)
        told: list[tuple[int, str, bool]] = []
        states: list[tuple[int, dict[str, int]]] = [(running.store.revision, {})]
        live: dict[str, int] = {}
        for i, (step, name, value) in enumerate(plan):
            store = running.store
            if step == "delete" and name in live:
                latest = store.latest(GVR, path(name))
                assert latest is not None
                record = store.delete(GVR, path(name), latest.decode())
                del live[name]
            else:
                record = store.put(GVR, path(name), obj(name, value))
                live[name] = value
            await store.commit()
            told.append((record.revision, record.path, record.deleted))
            states.append((record.revision, dict(live)))
            if i == crash_at:
                await running.crash()
                running = Running(disk)
        start, _ = data.draw(st.sampled_from(states))
        subscription = running.store.subscribe(GVR, Scope("t", "n"), start)
        seen = [(c.record.revision, c.record.path, c.record.deleted)
                for c in subscription.next_nowait()]  # fmt: skip
        assert seen == [event for event in told if event[0] > start]
        for revision, state in states:
            then = running.store.range_at(GVR, "t/n/", "", revision)
            assert {r.key.name: r.decode()["value"] for r in then} == state
        await running.crash()

    asyncio.run(story())


def test_history_that_is_gone_says_expired_also_after_a_restart() -> None:
    async def story() -> None:
        disk = MemoryDisk()
        running = Running(disk, HistoryLimits(changes_max=3, changes_min=2))
        first = running.store.put(GVR, path("a"), obj("a", 0)).revision
        for value in range(1, 10):
            running.store.put(GVR, path("a"), obj("a", value))
            await running.store.commit()
        await running.store.compact()
        for again in range(2):
            with pytest.raises(Expired):
                running.store.subscribe(GVR, Scope(), first)
            assert running.state() == {"a": 9}, f"compaction keeps the present ({again})"
            await running.crash()
            running = Running(disk)
        assert len(disk.rows) <= 4
        await running.crash()

    asyncio.run(story())


def test_history_is_bounded_in_bytes_too() -> None:
    async def story() -> None:
        disk = MemoryDisk()
        running = Running(disk, HistoryLimits(bytes_max=100_000, changes_min=2))
        for value in range(50):
            body = obj("a", value)
            body["big"] = "x" * 10_000
            running.store.put(GVR, path("a"), body)
            await running.store.commit()
        await running.store.compact()
        assert len(running.store.history(GVR)) < 10
        assert sum(len(row.body) for row in disk.rows.values()) < 120_000
        assert running.state() == {"a": 49}
        await running.crash()

    asyncio.run(story())


def test_a_slow_watcher_reads_on_from_the_history_piece_by_piece() -> None:
    async def story() -> None:
        running = Running(MemoryDisk())
        subscription = running.store.subscribe(GVR, Scope(), running.store.revision)
        for value in range(20_050):
            running.store.put(GVR, path("a"), obj("a", value))
        await running.store.commit()
        seen: list[int] = []
        while len(seen) < 20_050:
            piece = [change.record.decode()["value"] for change in await subscription.next()]
            assert len(piece) <= 500, "one step of the loop is short, whatever was missed"
            seen += piece
        assert seen == list(range(20_050))
        assert subscription.position == running.store.revision
        await running.crash()

    asyncio.run(story())


def test_a_thousand_watchers_that_stall_hold_next_to_nothing_and_miss_nothing() -> None:
    async def story() -> None:
        running = Running(MemoryDisk(), HistoryLimits(bytes_max=64 << 20))
        watchers = [
            running.store.subscribe(GVR, Scope(), running.store.revision) for _ in range(1_000)
        ]
        for value in range(100):
            body = obj("a", value)
            body["big"] = "x" * 300_000
            running.store.put(GVR, path("a"), body)
        await running.store.commit()
        assert {watcher.waiting for watcher in watchers} == {500}, "they look into the history"
        assert sum(len(watcher._waiting) for watcher in watchers) == 0
        changes = await watchers[-1].next()
        assert [change.record.decode()["value"] for change in changes] == list(range(100))
        await running.crash()

    asyncio.run(story())


def test_writes_that_collect_while_the_disk_hangs_are_refused_before_memory_is_full() -> None:
    async def story() -> None:
        running = Running(MemoryDisk())
        big = "x" * (1 << 20)
        with pytest.raises(TooManyRequests) as refused:
            for number in range(1_000):
                running.store.put(GVR, path(str(number)), {**obj(str(number), 0), "big": big})
        assert number == COLLECTED_BYTES_MAX // len(big)
        assert refused.value.details == {"retryAfterSeconds": 1}
        await running.store.commit()
        assert len(running.state()) == number, "what was taken is kept, what was refused is not"
        running.store.put(GVR, path("after"), obj("after", 1))
        await running.store.commit()
        assert running.state()["after"] == 1
        await running.crash()

    asyncio.run(story())


def test_a_watcher_of_cluster_wide_objects_sees_each_change_once() -> None:
    async def story() -> None:
        running = Running(MemoryDisk())
        subscription = running.store.subscribe(GVR, Scope(), running.store.revision)
        running.store.put(GVR, "//a", obj("a", 1))
        await running.store.commit()
        assert [change.record.path for change in await subscription.next()] == ["//a"]
        await running.crash()

    asyncio.run(story())


def test_writes_after_a_refused_batch_do_not_build_on_it() -> None:
    async def story() -> None:
        running = Running(MemoryDisk())
        running.log.fail_next.append(StorageFull("full"))
        running.store.put(GVR, path("a"), obj("a", 1))
        refused = running.store.commit()
        await asyncio.sleep(0)  # The batch is on its way to the log.
        running.store.put(GVR, path("b"), obj("b", 2))
        also = running.store.commit()
        for future in (refused, also):
            with pytest.raises(Failure):
                await future
        assert running.state() == {}
        assert running.store.latest(GVR, path("a")) is None
        await running.crash()

    asyncio.run(story())


def test_a_writer_that_goes_away_takes_nobody_else_along() -> None:
    async def story() -> None:
        running = Running(MemoryDisk())

        async def write(name: str) -> str:
            running.store.put(GVR, path(name), obj(name, 1))
            await running.store.commit()
            return name

        impatient = asyncio.ensure_future(write("a"))
        patient = asyncio.ensure_future(write("b"))
        await asyncio.sleep(0)
        impatient.cancel()
        assert await patient == "b"
        assert running.state() == {"a": 1, "b": 1}
        await running.crash()

    asyncio.run(story())


def test_a_record_takes_the_memory_that_its_bytes_need() -> None:
    """Encoders keep larger buffers than they fill; a million records would keep them too."""
    obj = {"metadata": {"name": "a"}, "data": "x" * 500}
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [encode(revision, "t/n/a", obj) for revision in range(1_000)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(kept) < len(kept[0].body) + 400


def test_revisions_do_not_go_back_when_the_clock_does_and_the_partition_restarts() -> None:
    async def story() -> None:
        disk = MemoryDisk()
        running = Running(disk)
        # Shown to a reader, as after a list over partitions; nothing of it is in the log.
        shown = (int(running.clock.time * 1000) << 19) - 1
        await running.store.reach(shown)
        running.clock.time -= 120
        await running.store.compact()
        await running.crash()

        again = Running(disk, ahead_s=-120)
        again.store.put(GVR, path("a"), obj("a", 1))
        await again.store.commit()
        assert again.store.revision > shown
        await again.crash()

    asyncio.run(story())


def test_what_a_full_disk_cannot_remember_is_not_shown_ahead_of_the_clock() -> None:
    async def story() -> None:
        disk = MemoryDisk()
        running = Running(disk)
        # Another partition's clock is right, ours is behind.
        ahead = (int((running.clock.time + 60) * 1000) << 19) - 1

        async def full(revisions: object, floors: object) -> None:
            raise StorageFull("full")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(running.log, "compact", full)
            before = running.store.revision
            with pytest.raises(Unavailable, match="full"):
                await running.store.reach(ahead)
            assert running.store.revision == before
        await running.store.reach(ahead)
        await running.crash()
        again = Running(disk)
        again.store.put(GVR, path("a"), obj("a", 1))
        await again.store.commit()
        assert again.store.revision > ahead
        await again.crash()

    asyncio.run(story())


def test_a_reader_that_saw_our_newest_revision_may_ask_for_more_after_the_clock_went_back() -> None:
    async def story() -> None:
        running = Running(MemoryDisk())
        running.store.put(GVR, path("a"), obj("a", 1))
        await running.store.commit()
        running.clock.time -= 120
        await running.store.reach(running.store.revision + 1)
        await running.crash()

    asyncio.run(story())
