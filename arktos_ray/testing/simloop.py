"""The simulator's event loop: time passes only when everybody waits, and a process can stand still.

Everything that a part does, its tasks, timers and callbacks, carries the part's Life in its
context. While a Life is stalled, whatever of it comes due is put aside, in order, and runs when it
goes on: as with SIGSTOP, the timers of all others go on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import selectors
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

EPOCH = 1_800_000_000.0


class Life:
    """One incarnation of a part, as the loop sees it."""

    __slots__ = ("aside", "ended", "name", "stalled")

    def __init__(self, name: str) -> None:
        self.name = name
        self.stalled = self.ended = False
        self.aside: list[events.Handle] = []


LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)


def context_of(life: Life | None) -> contextvars.Context:
    context = contextvars.Context()
    context.run(LIFE.set, life)
    return context


class _NoSelector(selectors.SelectSelector):
    """Waits for nothing: time jumps to the next timer instead."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        super().__init__()
        self._advance = advance

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("the simulation waits for something that will never happen")
        if timeout > 0:
            self._advance(timeout)
        return []


class _Handle(events.Handle):
    """Runs, or waits until its Life goes on."""

    __slots__ = ()

    def _run(self) -> None:
        # Once for everything that happens in a simulation: nothing here but the one question.
        life = self._context.get(LIFE)  # type: ignore[attr-defined]
        if life is not None and life.stalled:
            life.aside.append(self)
            return
        super()._run()


class _TimerHandle(events.TimerHandle):
    __slots__ = ()

    def _run(self) -> None:
        life = self._context.get(LIFE)  # type: ignore[attr-defined]
        if life is not None and life.stalled:
            life.aside.append(self)
            return
        super()._run()


class SimLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is virtual, and whose tasks belong to somebody."""

    _ready: deque[events.Handle]
    _scheduled: list[events.TimerHandle]

    def __init__(self) -> None:
        self.virtual = 0.0
        super().__init__(_NoSelector(self._pass))
        self.set_task_factory(_make_task)  # type: ignore[arg-type]

    def _pass(self, seconds: float) -> None:
        self.virtual += seconds

    def time(self) -> float:
        return self.virtual

    # As in the base class, with handles of ours.

    def _call_soon(
        self, callback: Callable[..., Any], args: Any, context: contextvars.Context | None
    ) -> events.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any,
        context: contextvars.Context | None = None,
    ) -> events.TimerHandle:  # fmt: skip
        self._check_closed()  # type: ignore[attr-defined]
        timer = _TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def stall(self, life: Life) -> None:
        life.stalled = True

    def go_on(self, life: Life) -> None:
        """Everything that came due meanwhile, in the order in which it did."""
        life.stalled = False
        aside, life.aside = life.aside, []
        self._ready.extend(handle for handle in aside if not handle.cancelled())


def _make_task(
    loop: asyncio.AbstractEventLoop, what: Coroutine[Any, Any, Any],
    context: contextvars.Context | None = None,
) -> asyncio.Task[Any]:  # fmt: skip
    if context is not None and LIFE not in context:
        # base/tasks.py starts tasks in empty contexts; whose they are stays known.
        context.run(LIFE.set, LIFE.get())
    return asyncio.Task(what, loop=loop, context=context)


class SimClock:
    """The clock of one machine. Its wall may be set; its monotonic time only goes on."""

    def __init__(self, loop: SimLoop, offset: float = 0.0) -> None:
        self._loop = loop
        self.offset = offset

    def now(self) -> float:
        return EPOCH + self._loop.virtual + self.offset

    def monotonic(self) -> float:
        return self._loop.virtual

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
