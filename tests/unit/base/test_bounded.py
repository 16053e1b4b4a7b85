from __future__ import annotations

import asyncio

import pytest

from arktos_ray.base import retry
from arktos_ray.base.bounded import Bounded, Closed, Gate
from arktos_ray.testing.fakes import settle


def test_a_full_queue_refuses_or_waits() -> None:
    async def play() -> None:
        queue: Bounded[int] = Bounded(2)
        assert queue.put_nowait(1)
        assert queue.put_nowait(2)
        assert not queue.put_nowait(3)
        putting = asyncio.ensure_future(queue.put(3))
        await settle()
        assert not putting.done()
        assert await queue.get_batch(2) == [1, 2]
        await putting
        assert await queue.get() == 3

    asyncio.run(play())


def test_closing_lets_out_what_is_inside_and_wakes_who_waits() -> None:
    async def play() -> None:
        queue: Bounded[int] = Bounded(2)
        queue.put_nowait(1)
        queue.close()
        assert await queue.get() == 1
        with pytest.raises(Closed):
            await queue.get()
        empty: Bounded[int] = Bounded(1)
        getting = asyncio.ensure_future(empty.get())
        await settle()
        empty.close()
        with pytest.raises(Closed):
            await getting

    asyncio.run(play())


def test_a_cancelled_waiter_passes_its_turn_on() -> None:
    async def play() -> None:
        queue: Bounded[int] = Bounded(1)
        first = asyncio.ensure_future(queue.get())
        second = asyncio.ensure_future(queue.get())
        await settle()
        queue.put_nowait(1)
        first.cancel()
        assert await second == 1

    asyncio.run(play())


def test_a_gate_lets_a_few_in_a_few_wait_and_refuses_the_rest() -> None:
    async def play() -> None:
        gate = Gate(1, 1)
        assert await gate.enter()
        waiting = asyncio.ensure_future(gate.enter())
        await settle()
        assert not await gate.enter()
        gate.leave()
        assert await waiting

    asyncio.run(play())


def test_waits_grow_to_their_limit() -> None:
    waits = retry.exponential(1.0, 5.0)
    assert [next(waits) for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    jittered = retry.exponential(1.0, 5.0, jitter=lambda low, high: (low + high) / 2)
    assert [next(jittered) for _ in range(2)] == [0.75, 1.5]
