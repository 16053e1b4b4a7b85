"""Keys to work on: each at most once, delayed, and held back longer each time it fails.

`WorkQueue` is a pure machine that is told the time; `AsyncWorkQueue` is the shell that lets tasks
wait for it. A key that is added while somebody works on it comes out again afterwards, so no
change is lost and no key has two workers. Keys only, never events: what happened may be old news.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from arktos_ray.base.clock import Clock
from arktos_ray.base.tasks import Tasks

K = TypeVar("K", bound=Hashable)

# The schedule of client-go's item failure limiter: what operators know from other clusters.
BACKOFF_FIRST_S = 0.005
BACKOFF_LIMIT_S = 1000.0


class WorkQueue(Generic[K]):
    def __init__(self) -> None:
        self._ready: dict[K, None] = {}
        self._running: set[K] = set()
        self._again: dict[K, None] = {}
        self._due: list[tuple[float, int, K]] = []
        self._due_at: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._sequence = 0

    def __len__(self) -> int:
        """Ready and delayed keys; not those being worked on."""
        return len(self._ready) + len(self._due_at)

    @property
    def idle(self) -> bool:
        """Nothing to do now, nothing in hand. Delayed keys do not count."""
        return not (self._ready or self._running or self._again)

    def add(self, key: K, now: float, delay: float = 0.0) -> bool:
        """True when a key became ready that was not. Of several delays the shortest counts."""
        if delay > 0:
            if key in self._ready or key in self._again:
                return False
            at = now + delay
            if self._due_at.get(key, at + 1) > at:
                self._due_at[key] = at
                self._sequence += 1
                heapq.heappush(self._due, (at, self._sequence, key))
            return False
        self._due_at.pop(key, None)
        if key in self._running:
            self._again[key] = None
            return False
        if key in self._ready:
            return False
        self._ready[key] = None
        return True

    def pop(self, now: float) -> K | None:
        """The next key, now in hand until `done`."""
        self.mature(now)
        if not self._ready:
            return None
        key = next(iter(self._ready))
        del self._ready[key]
        self._running.add(key)
        return key

    def mature(self, now: float) -> int:
        """Moves delayed keys that are due; returns how many keys are ready then."""
        while self._due and self._due[0][0] <= now:
            at, _, key = heapq.heappop(self._due)
            if self._due_at.get(key) == at:  # else it was overtaken by an earlier one
                self.add(key, now)
        return len(self._ready)

    def done(self, key: K) -> bool:
        """Out of hand. True when it is ready again at once."""
        self._running.discard(key)
        if key in self._again:
            del self._again[key]
            self._ready[key] = None
            return True
        return False

    def failed(self, key: K, now: float, limit: float = BACKOFF_LIMIT_S) -> float:
        """Try again later; returns how much later."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(BACKOFF_FIRST_S * 2.0 ** min(failures, 30), limit)
        self.add(key, now, delay)
        return delay

    def forget(self, key: K) -> None:
        """It went well: the next failure starts from the shortest wait."""
        self._failures.pop(key, None)

    def next_due(self) -> float | None:
        while self._due and self._due_at.get(self._due[0][2]) != self._due[0][0]:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None


class AsyncWorkQueue(Generic[K]):
    """The same, for tasks that wait. 1 us for add, get and done with nobody waiting."""

    def __init__(self, clock: Clock, tasks: Tasks, name: str = "queue") -> None:
        self._clock = clock
        self._tasks = tasks
        self._name = name
        self._queue: WorkQueue[K] = WorkQueue()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.Task[None] | None = None
        self._timer_at = float("inf")

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def idle(self) -> bool:
        return self._queue.idle

    def add(self, key: K, delay: float = 0.0) -> None:
        if self._queue.add(key, self._clock.monotonic(), delay):
            self._wake(1)
        elif delay > 0:
            self._arm()

    async def get(self) -> K:
        while True:
            key = self._queue.pop(self._clock.monotonic())
            if key is not None:
                return key
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake(1)
                raise

    def done(self, key: K) -> None:
        if self._queue.done(key):
            self._wake(1)

    def failed(self, key: K, limit: float = BACKOFF_LIMIT_S) -> float:
        delay = self._queue.failed(key, self._clock.monotonic(), limit)
        self._arm()
        return delay

    def forget(self, key: K) -> None:
        self._queue.forget(key)

    def _wake(self, count: int) -> None:
        while count > 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    def _arm(self) -> None:
        """One timer, for the earliest delayed key."""
        due = self._queue.next_due()
        if due is None or due >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._tasks.start(self._sleep_until(due), f"{self._name} timer")

    async def _sleep_until(self, due: float) -> None:
        await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
        self._timer, self._timer_at = None, float("inf")
        self._wake(self._queue.mature(self._clock.monotonic()))
        self._arm()
