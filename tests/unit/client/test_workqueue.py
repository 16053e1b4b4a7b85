from __future__ import annotations

import asyncio

from arktos_ray.base.tasks import Tasks
from arktos_ray.client.workqueue import AsyncWorkQueue, WorkQueue
from arktos_ray.testing.fakes import FakeClock, settle


def test_a_key_is_in_the_queue_at_most_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "a"):
        queue.add(key, 0.0)
    assert [queue.pop(0.0), queue.pop(0.0), queue.pop(0.0)] == ["a", "b", None]


def test_a_key_added_while_in_hand_comes_again_afterwards() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a", 0.0)
    assert queue.pop(0.0) == "a"
    queue.add("a", 0.0)
    assert queue.pop(0.0) is None
    assert queue.done("a")
    assert queue.pop(0.0) == "a"


def test_of_several_delays_the_shortest_counts() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a", 0.0, 5.0)
    queue.add("a", 0.0, 2.0)
    queue.add("a", 0.0, 9.0)
    assert queue.next_due() == 2.0
    assert queue.pop(1.9) is None
    assert queue.pop(2.0) == "a"
    queue.done("a")
    assert queue.pop(100.0) is None
    assert queue.next_due() is None


def test_adding_without_delay_overtakes_a_delayed_key() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a", 0.0, 5.0)
    queue.add("a", 0.0)
    assert queue.pop(0.0) == "a"
    queue.done("a")
    assert queue.pop(6.0) is None


def test_failures_wait_twice_as_long_each_time_until_one_goes_well() -> None:
    queue: WorkQueue[str] = WorkQueue()
    delays = [queue.failed("a", 0.0) for _ in range(40)]
    assert delays[:3] == [0.005, 0.010, 0.020]
    assert delays[-1] == 1000.0
    queue.forget("a")
    assert queue.failed("a", 0.0) == 0.005


async def _delayed_and_waiting() -> None:
    clock, tasks = FakeClock(), Tasks()
    queue: AsyncWorkQueue[str] = AsyncWorkQueue(clock, tasks)
    got: list[str] = []

    async def work() -> None:
        while True:
            key = await queue.get()
            got.append(key)
            queue.done(key)

    for _ in range(3):
        tasks.start(work(), "worker")
    await settle()
    queue.add("late", 5.0)
    queue.add("early", 1.0)
    queue.add("now")
    await settle()
    assert got == ["now"]
    await clock.advance(1.0)
    assert got == ["now", "early"]
    await clock.advance(4.0)
    assert got == ["now", "early", "late"]
    await tasks.close()


def test_workers_wake_for_ready_and_for_delayed_keys() -> None:
    asyncio.run(_delayed_and_waiting())
