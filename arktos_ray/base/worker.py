"""One thread that does blocking work in order, for an event loop that must not wait.

Costs the loop 8 us a piece of work; an executor of concurrent.futures, which is made for many
threads, costs it 45 (two busy cores).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], T]) -> T:
        """What the work returns or raises. It is done also for a caller who stops waiting."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def do() -> None:
            try:
                found = work()
            except BaseException as error:
                told: tuple[Any, ...] = (_fail, future, error)
            else:
                told = (_succeed, future, found)
            with contextlib.suppress(RuntimeError):  # The loop has ended, and whoever waited.
                loop.call_soon_threadsafe(*told)

        self._put(do)
        return await future

    def wait(self, work: Callable[[], T]) -> T:
        """The same, for a caller who may wait."""
        return self.submit(work).result()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """The same, for a caller who waits later."""
        future: Future[T] = Future()

        def do() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self._put(do)
        return future

    def close(self) -> None:
        """After what was asked for before. What is asked for from now on raises RuntimeError."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _put(self, do: Callable[[], None]) -> None:
        if self._closed:
            raise RuntimeError(f"{self._thread.name} has ended")
        self._queue.put(do)

    def _live(self) -> None:
        while (do := self._queue.get()) is not None:
            do()


def _succeed(future: asyncio.Future[T], found: T) -> None:
    if not future.done():
        future.set_result(found)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
