"""Watches: one upstream stream, encoded once, written to everybody who watches the same.

A Fanout reads one upstream watch and keeps its Watchers. Every batch becomes one HTTP chunk (and,
if anybody wants them, WebSocket frames), and the same bytes go to every transport. Nobody waits
for a slow client: the stream of one that is too far behind ends, where it can be resumed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import orjson

from arktos_ray.api import errors, scheme
from arktos_ray.api.calls import BOOKMARK, Call, WatchEvent
from arktos_ray.base.clock import Clock
from arktos_ray.base.tasks import Tasks
from arktos_ray.ingress import http1, merge
from arktos_ray.ingress.dispatch import Dispatcher, closing
from arktos_ray.ingress.limits import Limits

log = logging.getLogger(__name__)

# What only the ingress needs to know of a watch; two that differ in nothing else are the same.
_OURS = ("timeout", "timeoutSeconds", "allowWatchBookmarks", "watch", "pretty", "limit")
_STARTS = ("resourceVersion", "resourceVersionMatch")
# After the last words to a client that does not read: then the connection is cut.
_CUT_AFTER_S = 10.0
# Less in front of a watcher is on its way, not stalled.
_STALLED_BYTES_MIN = 64 * 1024


class Stalled:
    """What watchers did not read yet, by tenant: each may hold so much of our memory."""

    def __init__(self, tenant_max: int) -> None:
        self._tenant_max = tenant_max
        self._of: dict[str, int] = {}
        self.total = 0

    def change(self, tenant: str, by: int) -> bool:
        """False when the tenant has more than it may."""
        self.total += by
        left = self._of.get(tenant, 0) + by
        if left:
            self._of[tenant] = left
        else:
            self._of.pop(tenant, None)
        return left <= self._tenant_max


class Watcher:
    """One client of a Fanout. Its handler waits for `done`."""

    __slots__ = (
        "_backlog_max", "_held", "_loop", "_stalled", "_tenant", "_transport", "after", "done",
        "websocket",
    )  # fmt: skip

    def __init__(
        self, transport: asyncio.Transport, backlog_max: int, *, stalled: Stalled, tenant: str,
        after: int = 0, websocket: bool = False,
    ) -> None:  # fmt: skip
        self._transport = transport
        self._backlog_max = backlog_max
        self._stalled, self._tenant = stalled, tenant
        self._held = 0  # what Stalled knows of
        self._loop = asyncio.get_running_loop()
        self.after = after  # what the client has seen already
        self.websocket = websocket
        # True: ended in order, the connection can go on. False: it cannot.
        self.done: asyncio.Future[bool] = self._loop.create_future()

    def write(self, data: bytes) -> bool:
        """Never waits. False when too much waits already: nothing was written."""
        transport = self._transport
        if self.done.done() or transport.is_closing():
            return True
        waiting = transport.get_write_buffer_size()
        if waiting > _STALLED_BYTES_MIN:
            before, self._held = self._held, waiting
            if not self._stalled.change(self._tenant, waiting - before):
                return False
            if waiting > self._backlog_max:
                return False
        elif self._held:
            self.let_go()
        transport.write(data)
        return True

    def drop(self, line: bytes) -> None:
        """Politely: last words and the end. A client that still does not read is cut."""
        self.finish(line, good=False)
        self._loop.call_later(_CUT_AFTER_S, self._transport.abort)

    def let_go(self) -> None:
        """Nothing of what it did not read is counted any more."""
        self._stalled.change(self._tenant, -self._held)
        self._held = 0

    def finish(self, line: bytes = b"", *, good: bool = True) -> None:
        """A last line, if any, and the end of the stream. Safe to call twice."""
        if self.done.done():
            return
        if not self._transport.is_closing():
            if self.websocket:
                data = http1.text_frame(line.rstrip(b"\n")) if line else b""
            else:
                data = (http1.chunk(line) if line else b"") + http1.LAST_CHUNK
            if data:
                self._transport.write(data)
        self.done.set_result(good)


class Fanout:
    """One upstream watch and everybody who listens to it.

    A stream that began at a revision can be joined later by who starts at another one, as long as
    the events since then are still here: those that were seen already are left out.
    """

    def __init__(
        self, call: Call, form: http1.Form, events: AsyncIterator[list[WatchEvent]],
        partitions: Sequence[str], limits: Limits, on_close: Callable[[Fanout], None], *,
        start: int, bookmarks: bool,
    ) -> None:  # fmt: skip
        resource = scheme.spoken(call.gvr, call.version)
        # Of a kind that a tenant defined it is in the first thing that the partition says.
        self._identity = (resource.kind, resource.api_version) if resource else None
        self._gvr = call.gvr
        self._form, self._events = form, events
        self._limits, self._on_close = limits, on_close
        self.partitions, self.bookmarks = partitions, bookmarks
        self._joinable = start > 0
        # Only a stream that began at a revision is complete up to each of its events; one that
        # began with the state (start is 0) is so from its first bookmark on.
        self._settled = start > 0
        self._position = self._floor = start
        self._bookmark_due = False
        self._watchers: set[Watcher] = set()
        self._joining: set[Watcher] = set()  # those ahead of the stream
        self._claims = 0
        # The last lines; all of them until somebody listens.
        self._recent: deque[tuple[int, bytes]] = deque()
        self._recent_bytes = 0
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failure: errors.Failure | None = None
        self.closed = False
        self.task: asyncio.Task[Any] | None = None
        self.delivered = self.dropped = 0

    async def pump(self) -> None:
        """Reads the upstream watch until it ends."""
        last = b""
        try:
            async with closing(self._events) as events:
                async for batch in events:
                    self._deliver(batch)
        except errors.Failure as failure:
            self.failure = failure
            last = http1.error_line(failure)
        except Exception:
            log.exception("a watch of %s failed", self._gvr)
            self.failure = errors.Internal("the watch failed")
            last = http1.error_line(self.failure)
        finally:
            self._close()
            if not self._first.done():
                self._first.set_result(None)
            for watcher in (*self._watchers, *self._joining):
                watcher.finish(last)

    async def ready(self) -> None:
        """Returns when something came, or nothing for a moment; raises an initial refusal."""
        if not self._first.done() and not self._watchers:
            # wait_for would cancel the future that all share.
            await asyncio.wait((self._first,), timeout=self._limits.watch_grace_s)
        if self.failure is not None and not self._recent:
            raise self.failure

    def reaches(self, start: int) -> bool:
        """Whether who starts there can join."""
        return self._joinable and not self.closed and start >= self._floor

    def claim(self) -> None:
        """Somebody will listen; who claims must release."""
        self._claims += 1

    def release(self, watcher: Watcher | None) -> None:
        if watcher is not None:
            self._watchers.discard(watcher)
            self._joining.discard(watcher)
            watcher.let_go()
        self._claims -= 1
        if not self._claims:
            self._close()
            if self.task is not None:
                self.task.cancel()

    def add(self, watcher: Watcher) -> None:
        """From here on the watcher gets everything after what it has seen."""
        lines = [line for revision, line in self._recent if self._new_to(watcher, revision)]
        if lines:
            watcher.write(_framed(lines, watcher.websocket))
        if self.closed:
            watcher.finish(http1.error_line(self.failure) if self.failure else b"")
            return
        (self._watchers if self._position >= watcher.after else self._joining).add(watcher)
        self._trim()

    def mark_due(self) -> None:
        """The next bookmark from upstream is passed on."""
        self._bookmark_due = self.bookmarks

    def last_bookmark(self, watcher: Watcher) -> bytes:
        """The bookmark before an orderly end, if it says anything new."""
        if not self.bookmarks or not self._settled or self._position <= watcher.after:
            return b""
        return self._bookmark(self._position, initial_end=False)

    def _new_to(self, watcher: Watcher, revision: int) -> bool:
        return not self._joinable or revision > watcher.after

    def _deliver(self, batch: list[WatchEvent]) -> None:
        seen = self._position if self._settled else 0  # by everybody who listens
        lines: list[tuple[int, bytes]] = []
        if self._identity is None:
            self._identity = next(filter(None, map(_identity, batch)), None)
        for event in batch:
            revision = event.revision
            if event.type == BOOKMARK:
                self._settled = True
                if event.initial_end or self._bookmark_due:
                    self._bookmark_due = False
                    line = self._bookmark(revision, initial_end=event.initial_end)
                    lines.append((revision, line))
            else:
                lines.append((revision, http1.event_line(event)))
            if revision > self._position:
                self._position = revision
        if not self._first.done():
            self._first.set_result(None)
        if not lines:
            return
        if self._joinable or not self._watchers:
            self._recent.extend(lines)
            self._recent_bytes += sum([len(line) for _, line in lines])
            self._trim()
        joined = self._catch_up(lines) if self._joining else ()
        watchers = self._watchers
        self.delivered += len(lines) * len(watchers)
        chunk = frames = b""
        for watcher in watchers:
            if watcher.websocket:
                data = frames = frames or _framed([line for _, line in lines], True)
            else:
                data = chunk = chunk or _framed([line for _, line in lines], False)
            if not watcher.write(data):
                watcher.drop(self._parting(watcher, seen))
                self.dropped += 1
        watchers.update(joined)

    def _parting(self, watcher: Watcher, seen: int) -> bytes:
        """The last line to one that does not read: from where it can go on, if it asked for that.

        Every event says so as well. Only who has not seen the whole state yet must list again.
        """
        if not seen:
            return http1.error_line(errors.Expired("the watch fell too far behind; list again"))
        if not self.bookmarks or seen <= watcher.after:
            return b""
        return self._bookmark(seen, initial_end=False)

    def _catch_up(self, lines: list[tuple[int, bytes]]) -> list[Watcher]:
        """Those ahead of the stream who get their first new lines here, and stay with it now."""
        joined = [w for w in self._joining if lines[-1][0] > w.after]
        for watcher in joined:
            self._joining.discard(watcher)
            new = [line for revision, line in lines if revision > watcher.after]
            watcher.write(_framed(new, watcher.websocket))
        return joined

    def _bookmark(self, revision: int, *, initial_end: bool) -> bytes:
        return http1.bookmark_line(
            *(self._identity or ("", "")), self._form, revision, initial_end=initial_end
        )

    def _trim(self) -> None:
        if not self._watchers:
            return  # Nobody listens yet, and the initial state may be large.
        limit = self._limits.watch_replay_bytes_max if self._joinable else 0
        while self._recent and self._recent_bytes > limit:
            revision, line = self._recent.popleft()
            self._recent_bytes -= len(line)
            self._floor = revision

    def _close(self) -> None:
        if not self.closed:
            self.closed = True
            self._on_close(self)


def _identity(event: WatchEvent) -> tuple[str, str] | None:
    if not event.body:
        return None
    obj = orjson.loads(event.body)
    return obj.get("kind", ""), obj.get("apiVersion", "")


def _framed(lines: list[bytes], websocket: bool) -> bytes:
    if websocket:
        return b"".join([http1.text_frame(line[:-1]) for line in lines])
    return http1.chunk(b"".join(lines) if len(lines) > 1 else lines[0])


class Hub:
    """All watches of one ingress."""

    def __init__(self, dispatcher: Dispatcher, clock: Clock, tasks: Tasks, limits: Limits) -> None:
        self._dispatcher, self._clock, self._tasks = dispatcher, clock, tasks
        self._limits = limits
        self.stalled = Stalled(limits.watch_stalled_bytes_per_tenant_max)
        self._shared: dict[tuple[object, ...], Fanout] = {}
        self._bookmarked: set[Fanout] = set()
        self._open: set[Fanout] = set()
        self._delivered = self._dropped = 0  # by streams that ended

    def start(self) -> None:
        self._tasks.start(self._bookmark_regularly(), "ingress-bookmarks")

    def open(self, call: Call, form: http1.Form) -> tuple[Fanout, int]:
        """The claimed stream for this call, perhaps one that others watch already, and what the
        client has seen. Whoever opens releases."""
        options = call.options
        bookmarks = options.get("allowWatchBookmarks", "").lower() in ("true", "1")
        for name in _OURS:
            options.pop(name, None)
        if bookmarks:
            options["progress"] = "1"
        start = _start(options)
        key: tuple[object, ...] = ()
        # Without a start everybody gets the state of their own moment; and what a revision of the
        # future means is for the partition to say.
        if 0 < start <= merge.revision_at(self._clock.now()):
            key = _key(call)
            known = self._shared.get(key)
            if known is not None and known.reaches(start):
                known.claim()
                return known, start
        events, partitions = self._dispatcher.watch(call)
        fanout = Fanout(
            call, form, events, partitions, self._limits, partial(self._closed, key),
            start=start if key else 0, bookmarks=bookmarks,
        )  # fmt: skip
        if key:
            self._shared[key] = fanout
        if bookmarks:
            self._bookmarked.add(fanout)
        self._open.add(fanout)
        fanout.claim()
        fanout.task = self._tasks.start(fanout.pump(), "ingress-watch")
        return fanout, start if key else 0

    def _closed(self, key: tuple[object, ...], fanout: Fanout) -> None:
        if self._shared.get(key) is fanout:
            del self._shared[key]
        self._bookmarked.discard(fanout)
        self._open.discard(fanout)
        self._delivered += fanout.delivered
        self._dropped += fanout.dropped

    @property
    def streams(self) -> int:
        """Upstream watches that are open."""
        return len(self._open)

    @property
    def sent(self) -> int:
        """Events written to watchers, ever."""
        return self._delivered + sum(fanout.delivered for fanout in self._open)

    @property
    def dropped(self) -> int:
        """Watchers whose streams ended because they did not read, ever."""
        return self._dropped + sum(fanout.dropped for fanout in self._open)

    async def _bookmark_regularly(self) -> None:
        while True:
            await self._clock.sleep(self._limits.watch_bookmark_s)
            partitions: set[str] = set()
            for fanout in list(self._bookmarked):
                fanout.mark_due()
                partitions.update(fanout.partitions)
            # One question a partition, however many watch it.
            for partition in sorted(partitions):
                await self._dispatcher.progress(partition)


def _start(options: dict[str, str]) -> int:
    """The revision that a watch starts after; 0 when it starts with the state."""
    text = options.get("resourceVersion", "")
    if "sendInitialEvents" in options or not text.isdecimal() or len(text) > 19:
        return 0
    return int(text)


def _key(call: Call) -> tuple[object, ...]:
    """Who may see the same: the partition decided for this user, so the user is part of it."""
    options = tuple(sorted(o for o in call.options.items() if o[0] not in _STARTS))
    return (
        call.gvr, call.version, call.tenant, call.namespace, call.name, call.accept, call.user,
        options,
    )  # fmt: skip


def end_in_time(fanout: Fanout, watcher: Watcher) -> None:
    """What timeoutSeconds means: a last bookmark for who asked, and an orderly end."""
    watcher.finish(fanout.last_bookmark(watcher))
