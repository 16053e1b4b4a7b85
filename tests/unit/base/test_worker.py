"""One thread behind an event loop: in order, and whoever asked is told."""

from __future__ import annotations

import asyncio
import threading

import pytest

from arktos_ray.base.worker import Worker


def test_work_is_done_in_order_and_answers_its_caller() -> None:
    worker, done = Worker("test"), list[int]()

    async def ask() -> list[int]:
        return await asyncio.gather(
            *(worker.run(lambda n=n: done.append(n) or n * n) for n in range(50))  # type: ignore[misc]
        )

    assert asyncio.run(ask()) == [n * n for n in range(50)]
    assert done == list(range(50))
    assert worker.wait(lambda: 7) == 7
    worker.close()


def test_what_the_work_raises_its_caller_gets_and_the_thread_goes_on() -> None:
    worker = Worker("test")

    def fails() -> None:
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        asyncio.run(worker.run(fails))
    with pytest.raises(OSError, match="no disk"):
        worker.wait(fails)
    assert asyncio.run(worker.run(lambda: "still here")) == "still here"
    worker.close()


def test_a_caller_who_leaves_takes_no_work_along() -> None:
    worker, go, done = Worker("test"), threading.Event(), list[str]()

    async def leave() -> None:
        task = asyncio.ensure_future(worker.run(lambda: (go.wait(10), done.append("written"))))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        await worker.run(lambda: None)

    asyncio.run(leave())
    assert done == ["written"]
    worker.close()


def test_what_was_asked_for_is_done_before_the_end_and_after_the_loop() -> None:
    worker, go, done = Worker("test"), threading.Event(), list[str]()

    async def ask() -> None:
        asyncio.ensure_future(worker.run(lambda: (go.wait(10), done.append("written"))))  # noqa: RUF006
        await asyncio.sleep(0)

    asyncio.run(ask())  # The loop is gone before the work is done.
    go.set()
    worker.close()
    assert done == ["written"]


def test_who_comes_after_the_end_is_told() -> None:
    worker = Worker("test")
    worker.close()
    with pytest.raises(RuntimeError, match="test has ended"):
        worker.wait(lambda: None)
    with pytest.raises(RuntimeError, match="test has ended"):
        asyncio.run(worker.run(lambda: None))
