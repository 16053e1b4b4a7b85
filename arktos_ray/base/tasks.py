"""Background tasks with an owner: none is forgotten, and every failure surfaces."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """The tasks of one actor or one connection. `close` cancels them and waits until they ended.

    on_crash: called with the exception of a task that ended by a bug; an actor exits there, so
    that its supervisor restarts it from its log. Without it the failure is logged with its trace.
    """

    def __init__(self, on_crash: Callable[[BaseException], None] | None = None) -> None:
        self._running: dict[asyncio.Task[Any], None] = {}  # ordered: a replay is exact
        self._on_crash = on_crash
        self._children: dict[Tasks, None] = {}

    def start(self, what: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        # An empty context: a task that a request happens to start is not cancelled with it.
        task = asyncio.create_task(what, name=name, context=contextvars.Context())
        self._running[task] = None
        task.add_done_callback(self._ended)
        return task

    def child(self) -> Tasks:
        """Tasks that can be closed apart, and end with these at the latest."""
        child = Tasks(self._on_crash)
        self._children[child] = None
        return child

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("task %s failed", task.get_name(), exc_info=error)
            if self._on_crash is not None:
                self._on_crash(error)

    def kill(self) -> None:
        """Cancel without waiting, and take no further notice: their process is gone."""
        self._on_crash = None
        for child in self._children:
            child.kill()
        for task in list(self._running):
            task.cancel()

    async def close(self) -> None:
        children, self._children = self._children, {}
        for child in children:
            await child.close()
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
