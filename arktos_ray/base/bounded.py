"""Queues and gates that have a limit, and say what happens at it.

`Bounded` never drops by itself: `put` waits, `put_nowait` refuses, and the caller decides whether
to end the stream. `Gate` lets a limited number in and refuses or queues the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """Nothing more comes out, and nothing goes in."""


class Bounded(Generic[T]):
    """A first-in-first-out queue of at most `limit` items, for any number of tasks."""

    def __init__(self, limit: int) -> None:
        assert limit > 0
        self._items: deque[T] = deque()
        self._limit = limit
        self._closed = False
        self._getters: deque[asyncio.Future[None]] = deque()
        self._putters: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        return len(self._items) >= self._limit

    def put_nowait(self, item: T) -> bool:
        """False when full: the item was not taken."""
        if self._closed:
            raise Closed
        if self.full:
            return False
        self._items.append(item)
        _wake_one(self._getters)
        return True

    async def put(self, item: T) -> None:
        """Waits for room."""
        while not self.put_nowait(item):
            await _wait(self._putters)

    def get_nowait(self) -> T | None:
        if not self._items:
            return None
        item = self._items.popleft()
        _wake_one(self._putters)
        return item

    async def get(self) -> T:
        """Waits for an item. Raises Closed once the queue is closed and empty."""
        while not self._items:
            if self._closed:
                raise Closed
            await _wait(self._getters)
        item = self._items.popleft()
        _wake_one(self._putters)
        return item

    async def get_batch(self, limit: int) -> list[T]:
        """At least one item, and whatever else is there, up to `limit`."""
        batch = [await self.get()]
        while self._items and len(batch) < limit:
            batch.append(self._items.popleft())
            _wake_one(self._putters)
        return batch

    def close(self) -> None:
        """What is inside can still be taken out."""
        self._closed = True
        for waiters in (self._getters, self._putters):
            while waiters:
                _wake_one(waiters)


class Gate:
    """At most `limit` inside at once, and at most `waiting_limit` in front of it."""

    def __init__(self, limit: int, waiting_limit: int) -> None:
        self._free = limit
        self._waiting_limit = waiting_limit
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> bool:
        """False at once when too many are waiting already. Who entered must leave."""
        while self._free <= 0:
            if len(self._waiters) >= self._waiting_limit:
                return False
            await _wait(self._waiters)
        self._free -= 1
        return True

    def leave(self) -> None:
        self._free += 1
        _wake_one(self._waiters)


def _wake_one(waiters: deque[asyncio.Future[None]]) -> None:
    while waiters:
        waiter = waiters.popleft()
        if not waiter.done():
            waiter.set_result(None)
            return


async def _wait(waiters: deque[asyncio.Future[None]]) -> None:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters.append(waiter)
    try:
        await waiter
    except asyncio.CancelledError:
        if waiter.done() and not waiter.cancelled():
            _wake_one(waiters)  # We were given a turn that we cannot take: pass it on.
        elif waiter in waiters:
            waiters.remove(waiter)
        raise
