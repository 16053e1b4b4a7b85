"""The store of one partition: the present, the recent past, a log, and the readers who wait.

Writes go to an overlay at once, so that later writes of the same batch see them; they reach the
tables, the history and the watchers only after the log has them (design.md D3). While one commit
is in flight the next one collects: that is the whole batching rule, there is no timer.

When the log refuses a batch, that batch and everything decided on top of it is dropped as if it
had never been, and its writers are told why.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

from arktos_ray.api.calls import ARRIVED, LEFT
from arktos_ray.api.errors import (
    Expired,
    Failure,
    Moved,
    Timeout,
    TooLarge,
    TooManyRequests,
    Unavailable,
    moved,
)
from arktos_ray.base.clock import Clock
from arktos_ray.base.tasks import Tasks
from arktos_ray.store import moving
from arktos_ray.store.moving import MOVES, Mark, Step, owner_of
from arktos_ray.store.mvcc import Table, prefix_of
from arktos_ray.store.port import Fenced, InDoubt, Log, Row
from arktos_ray.store.records import Record, encode, restore, row_of
from arktos_ray.store.revisions import next_revision, partition_of, time_ms
from arktos_ray.store.watchcache import Change, HistoryLimits, WatchCache

log = logging.getLogger(__name__)

# A resource version further ahead of our clock than this was never handed out by any partition.
_FUTURE_S_MAX = 60.0
# The end of the current millisecond, and a little skew: waiting is simpler than running ahead.
_WAIT_S_MAX = 0.005
_TOO_LARGE = "Too large resource version"
# As the largest request body: patches must not grow an object beyond what one write may hold. A
# ConfigMap of 1 MiB of quotes is 2 MiB of JSON.
OBJECT_BYTES_MAX = 3 << 20
# Kept among the floors: the newest revision that was shown ahead of the clock.
_HIGH_WATER = ""
# A subscription that is further behind forgets what waits, and reads from the history instead. In
# references: 32 KB, so 32 MB when all of a thousand watchers stall.
_BACKLOG_CHANGES_MAX = 4_000
# In bodies: the history lets go of them in time, a backlog does not. Stalled watchers share them.
_BACKLOG_BYTES_MAX = 16 << 20
# Of the history in one step of the loop, unless the reader takes larger pieces: some milliseconds.
CATCH_UP_CHANGES_MAX = 500
# Writes that collect while the disk is slow: of many seconds on a healthy one. Then 429.
COLLECTED_WRITES_MAX = 50_000
COLLECTED_BYTES_MAX = 128 << 20
_COMPACT_INTERVAL_S = 5.0
# From here on, not walking what was recovered is worth never looking for cycles in it.
_FREEZE_ROWS = 50_000
# Changes of a tenant that wait for its export, 16 bytes each: then it begins again.
_TAP_ROWS_MAX = 200_000


@dataclass(slots=True)
class _Batch:
    rows: list[Row] = field(default_factory=list)
    changes: list[tuple[str, Record]] = field(default_factory=list)  # (gvr, record)
    size: int = 0  # bytes of their bodies
    done: asyncio.Future[None] | None = None


class Scope(NamedTuple):
    """What a watch is interested in, as far as an index can tell. "" is everything.

    A tuple: several are made and hashed for every change.
    """

    tenant: str = ""
    namespace: str = ""
    name: str = ""
    node: str = ""  # spec.nodeName, pods only


class Subscription:
    """A place in the stream of changes of one resource. Read with `next`; `close` when done."""

    def __init__(
        self, store: Store, gvr: str, scope: Scope, position: int, moves: bool, piece: int
    ) -> None:
        self._store = store
        self._piece = piece  # changes of the history in one step
        self.gvr, self.scope = gvr, scope
        self.position = self._start = position  # everything up to here was handed out
        self.moves = moves  # hears of tenants that come and go
        self._end: Moved | None = None
        self._waiting: list[Change | Step] = []
        self._bytes = 0
        self._lagging = False  # what comes next is in the history, not here
        self._wake: asyncio.Future[None] | None = None
        self._progress_wanted = False

    def offer(self, change: Change | Step) -> None:
        if self._lagging:
            return
        if not isinstance(change, Step):
            self._bytes += len(change.record.body)
        if len(self._waiting) >= _BACKLOG_CHANGES_MAX or self._bytes > _BACKLOG_BYTES_MAX:
            self.look_back()
        else:
            self._waiting.append(change)
            self.wake()

    def look_back(self) -> None:
        """Everything after the position comes from the history, in pieces."""
        self._waiting, self._bytes = [], 0
        self._lagging = True
        self.wake()

    def end(self, tenant: str, to: str, revision: int) -> None:
        """Its tenant is elsewhere: after what waits, `next` says where."""
        self._end = moved(tenant, to, max(self._start, revision))
        self.wake()

    def ask_progress(self) -> None:
        """Make the next `next` return, even if nothing happened."""
        self._progress_wanted = True
        self.wake()

    def wake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def next_nowait(self) -> Sequence[Change | Step]:
        """What waits; () when nothing does. Raises Expired when it fell behind the history, and
        Moved when its tenant is elsewhere and all before that was handed out."""
        changes: Sequence[Change | Step]
        if self._lagging and self._end is not None:
            # The past went along with the tenant.
            raise moved(self.scope.tenant, self._end.to, self.position)
        if self._lagging:
            self._store.check_moves(self.position, self.moves)
            found, end = self._store.past(self.gvr, self.scope, self.position, self._piece)
            if end:
                self.position = end
                return found
            self._lagging = False
            changes = found
        else:
            changes, self._waiting = self._waiting, []
            self._bytes = 0
        if self._end is None:
            # Changes of one resource arrive in order, so the store's own revision is safe to claim.
            self.position = max(self.position, self._store.revision)
        elif changes:
            self.position = changes[-1].revision
        else:
            raise self._end
        return changes

    @property
    def waiting(self) -> int:
        """About how many changes `next_nowait` will give."""
        return self._piece if self._lagging else len(self._waiting)

    @property
    def lagging(self) -> bool:
        return self._lagging

    async def ready(self, timeout_s: float | None = None) -> None:
        """Waits for changes, for the timeout, or until progress is asked for."""
        if not (self._waiting or self._lagging or self._progress_wanted or self._end):
            self._wake = asyncio.get_running_loop().create_future()
            handle = None
            if timeout_s is not None:
                handle = asyncio.get_running_loop().call_later(timeout_s, self.wake)
            try:
                await self._wake
            finally:
                self._wake = None
                if handle is not None:
                    handle.cancel()
        self._store.check_open()
        self._progress_wanted = False

    async def next(self, timeout_s: float | None = None) -> Sequence[Change | Step]:
        """What `ready` waited for; () after the timeout or when progress was asked for."""
        await self.ready(timeout_s)
        return self.next_nowait()

    def close(self) -> None:
        self._store.unsubscribe(self)


def in_scope(change: Change, scope: Scope) -> bool:
    """Whether the object, as it is or as it was, lies in the scope."""
    path = change.record.path
    if scope.tenant and not path.startswith(prefix_of(scope.tenant, scope.namespace)):
        # A namespace over all tenants has no prefix; the caller's selector judges it.
        return False
    if scope.name and not path.endswith("/" + scope.name):
        return False
    if scope.node:
        previous = change.previous
        return change.record.node == scope.node or (
            previous is not None and previous.node == scope.node
        )
    return True


class Tap:
    """The changes of one tenant as they are published, for its export."""

    def __init__(self) -> None:
        # (gvr, record); or a revision: up to there it is complete.
        self.waiting: deque[tuple[str, Record] | int] = deque()
        self.failure: Failure | None = None
        self._wake: asyncio.Future[None] | None = None

    def add(self, what: tuple[str, Record] | int) -> None:
        if len(self.waiting) < _TAP_ROWS_MAX:
            self.waiting.append(what)
            self._notify()
        else:
            self.close(Unavailable("the tenant changes faster than it can be exported"))

    def close(self, why: Failure) -> None:
        self.failure = why
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def wait(self) -> None:
        """Until something waits. Raises the Failure that closed it."""
        if not self.waiting and self.failure is None:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        if self.failure is not None:
            raise self.failure


class Store:
    """One writer, one event loop. `recover` first, then `start`.

    partition: 0..63, unique in the region; it goes into every revision.
    """

    def __init__(
        self, log: Log, partition: int, clock: Clock, tasks: Tasks,
        limits: HistoryLimits | None = None, volatile: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self._log = log
        self._partition = partition
        self._clock = clock
        self._tasks = tasks
        self._limits = limits or HistoryLimits()
        self._tables: dict[str, Table] = {}
        # Objects and bytes of each tenant, as a writer sees them: what is not durable yet counts.
        self._usage: dict[str, list[int]] = {}
        self._histories: dict[str, WatchCache] = {}
        self._floors: dict[str, int] = {}
        self._volatile = volatile  # gvrs that are never logged
        self._recovered = 0  # newest revision in the log at the start
        self._last = 0  # newest revision given out
        self.revision = 0  # newest revision published: all up to here is durable and visible
        self._overlay: dict[tuple[str, str], Record] = {}
        self._batch = _Batch()
        self._work: asyncio.Event | None = None
        self._forgotten: list[int] = []
        self._changed_floors: dict[str, int] = {}
        self._noted = 0  # the newest revision that was noted as shown ahead of the clock
        self._subscriptions: dict[tuple[str, Scope], dict[Subscription, None]] = {}
        self._closed: Failure | None = None
        self.commits = self.rows_written = 0
        # Tenants that move (moving.py).
        self.marks: dict[str, Mark] = {}
        self.reshaped = 0  # the newest revision at which a tenant came or went
        # Told of every change of a resource as it is published: gvr, the record, what it replaced.
        self.listeners: dict[str, Callable[[str, Record, Record | None], None]] = {}
        # Told what a refused commit took along: (gvr, path) of each.
        self.on_abort: Callable[[list[tuple[str, str]]], None] = lambda lost: None
        self.on_step: Callable[[Mark, dict[str, list[Record]]], None] = lambda mark, records: None
        self._tenant_floors: dict[tuple[str, str], int] = {}
        self._staged: dict[str, dict[int, tuple[str, Record]]] = {}
        self._arrivals: dict[str, moving.Arrival] = {}
        self._taps: dict[str, Tap] = {}
        self._received = False  # the log knows that rows may come in any order
        self._compacting = asyncio.Lock()

    # Life

    def recover(self) -> int:
        """Read the log; the number of rows read. 3 us a row of 1.5 KB, of which 1.3 us checksum.

        What is recovered is no garbage: the collector would walk it again and again for nothing.
        """
        floors = self._log.floors()
        self._floors, self._tenant_floors = moving.split_floors(floors)
        rows: Iterable[Row] = self._log.replay()
        if moving.RECEIVED in floors:
            self._received = True
            # Rows of tenants that came lie where they came, and may be older than those before
            # them; and where each tenant stands decides what its rows are, and comes behind them.
            rows = sorted(rows, key=itemgetter(0))
            for row in rows:
                if row.gvr == MOVES:
                    self._note(restore(row))
        count = 0
        collects = gc.isenabled()
        gc.disable()
        try:
            places: dict[str, tuple[Table, WatchCache]] = {}
            trim_at = 2 * self._limits.changes_max
            for row in rows:
                count += 1
                gvr, record = row.gvr, restore(row)
                if self._received:
                    if self._is_staged(row, record):
                        continue
                elif gvr == MOVES:
                    self._note(record)
                place = places.get(gvr)
                if place is None:
                    place = places[gvr] = (self.table(gvr), self.history(gvr))
                table, history = place
                previous = table.load(record)
                if record.revision > history.floor and not self._is_forgotten(gvr, record):
                    history.append(Change(record, previous))
                    if count % 1_000 == 0 and len(history) > trim_at:
                        self._trim(gvr, history)
                else:
                    # Of a past that is forgotten. What it replaced goes together with it, or would
                    # be there again when a deletion behind it is forgotten: an import that a crash
                    # followed leaves such rows.
                    if previous is not None:
                        self._forgotten.append(previous.revision)
                    if record.deleted:
                        self._forgotten.append(record.revision)
                self._last = record.revision
            for gvr, table in self._tables.items():
                table.index()
                if gvr != MOVES:
                    self._count_all(table)
            for mark in self.marks.values():
                if mark.state == moving.DEPARTED:
                    self._remove(mark.tenant)
                    self._count_again(mark.tenant)
                if mark.state not in moving.STAGING:
                    self.reshaped = max(self.reshaped, mark.revision)
            if count > _FREEZE_ROWS:
                gc.freeze()
        finally:
            if collects:
                gc.enable()
        self._last = max([self._last, *self._floors.values()])
        # Revisions that were given to volatile objects are not in the log; time has passed them.
        self._last = next_revision(self._last, int(self._clock.now() * 1000), self._partition)
        self.revision = self._recovered = self._last
        return count

    def _is_staged(self, row: Row, record: Record) -> bool:
        """Whether it is of a tenant that is only about to come."""
        if not self.marks:
            return False
        owner = owner_of(row.gvr, row.path)
        mark = self.marks.get(owner)
        if mark is None or mark.state not in moving.STAGING:
            return False
        self._staged.setdefault(owner, {})[row.revision] = (row.gvr, record)
        return True

    def _is_forgotten(self, gvr: str, record: Record) -> bool:
        """Whether it is of a past that its tenant did not bring along."""
        if not self._tenant_floors:
            return False
        floor = self._tenant_floors.get((gvr, owner_of(gvr, record.path)), 0)
        return record.revision <= floor

    def start(self) -> None:
        self._work = asyncio.Event()
        self._tasks.start(self._flush_forever(), "store-flush")
        self._tasks.start(self._compact_forever(), "store-compact")
        every_s = self._log.renew_every_s
        if every_s is not None:
            self._tasks.start(self._renew_forever(every_s), "store-renew")

    def close(self, why: Failure | None = None) -> None:
        """End every wait with a Failure. The log is the caller's to close."""
        self._closed = why or Unavailable("the partition is stopping")
        for group in self._subscriptions.values():
            for subscription in group:
                subscription.wake()
        for tap in self._taps.values():
            tap.close(self._closed)
        self._abort(self._closed)

    @property
    def is_open(self) -> bool:
        return self._closed is None

    def check_open(self) -> None:
        """Before something is claimed or promised. Raises the reason why it cannot be."""
        if self._closed is not None:
            raise self._closed
        self.check_trusted()

    def check_trusted(self) -> None:
        """After reading, before answering. Raises Unavailable when another may have taken over.

        After, because a process may be stopped for minutes between any two lines.
        """
        if self._clock.monotonic() >= self._log.trusted_until:
            raise Unavailable(
                "fenced: this partition cannot tell whether it was replaced; ask again"
            )

    async def _renew_forever(self, every_s: float) -> None:
        lapsed = False
        while True:
            await self._clock.sleep(every_s)
            try:
                await self._log.renew()
                if lapsed:
                    log.warning("the partition is trusted again")
                lapsed = False
            except Fenced as fenced:
                self.close(fenced)
                raise
            except Failure as failure:
                if not lapsed:
                    log.warning("the partition's lease was not renewed: %s", failure)
                lapsed = True

    # Writing

    def latest(self, gvr: str, path: str) -> Record | None:
        """The newest record, durable or not: what a writer must decide on. None if deleted."""
        record = self._overlay.get((gvr, path))
        if record is None:
            return self.table(gvr).get(path)
        return None if record.deleted else record

    def put(
        self, gvr: str, path: str, obj: dict[str, Any], bytes_max: int = OBJECT_BYTES_MAX,
        check: Callable[[Record], None] | None = None,
    ) -> Record:  # fmt: skip
        """Queue a write; obj gets its resourceVersion. Visible to readers after `commit`.

        Raises TooLarge, or what the check raises; then nothing was written.
        """
        record = encode(self._next(), path, obj)
        if len(record.body) > bytes_max:
            raise TooLarge(
                f"Request entity too large: the object would have {len(record.body)} bytes,"
                f" the limit is {bytes_max}"
            )
        if check is not None:
            check(record)
        return self._write(gvr, record)

    def delete(self, gvr: str, path: str, obj: dict[str, Any]) -> Record:
        """Queue a deletion; obj is the object's last state, for watchers."""
        return self._write(gvr, encode(self._next(), path, obj, deleted=True))

    def _next(self) -> int:
        self._last = next_revision(self._last, int(self._clock.now() * 1000), self._partition)
        return self._last

    def _write(self, gvr: str, record: Record) -> Record:
        self.check_open()
        batch = self._batch
        if len(batch.changes) >= COLLECTED_WRITES_MAX or batch.size > COLLECTED_BYTES_MAX:
            raise TooManyRequests(
                "the disk is slow, and too many writes wait for it; try again",
                details={"retryAfterSeconds": 1},
            )
        at = (gvr, record.path)
        if gvr != MOVES:
            previous = self._overlay.get(at)
            if previous is None:
                previous = self.table(gvr).get(record.path)
            elif previous.deleted:
                previous = None
            self._count_write(record, previous)
        self._overlay[at] = record
        batch.changes.append((gvr, record))
        batch.size += len(record.body)
        if gvr not in self._volatile:
            batch.rows.append(row_of(gvr, record))
        return record

    @property
    def last(self) -> int:
        """The newest revision that was given out, durable or not."""
        return self._last

    @property
    def pending(self) -> bool:
        """Whether something was written that is not durable yet."""
        return bool(self._overlay)

    def undurable(self) -> list[tuple[tuple[str, str], Record]]:
        """What was written and is not published yet: ((gvr, path), record)."""
        return list(self._overlay.items())

    def commit(self) -> asyncio.Future[None]:
        """Done when everything written so far is durable and published, or refused.

        A future of the caller's own: a writer that is cancelled takes nobody else of its batch
        along.
        """
        batch = self._batch
        if batch.done is None:
            batch.done = asyncio.get_running_loop().create_future()
            if self._closed is not None:
                batch.done.set_exception(self._closed)
            elif self._work is not None:
                self._work.set()
        return asyncio.shield(batch.done)

    async def _flush_forever(self) -> None:
        assert self._work is not None
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._batch = self._batch, _Batch()
            if not batch.changes and batch.done is None:
                continue
            try:
                if batch.rows:
                    await self._log.append(batch.rows)
                else:
                    self.check_trusted()  # Nothing else tells us that we were replaced.
            except (Fenced, InDoubt) as end:
                why = Unavailable(f"{end}; it may or may not have been written")
                self._abort(why, batch)
                self.close(why)
                raise
            except Failure as failure:
                self._abort(failure, batch)
                continue
            self.commits += 1
            self.rows_written += len(batch.rows)
            overlay = self._overlay
            for gvr, record in batch.changes:
                if overlay.get((gvr, record.path)) is record:
                    del overlay[gvr, record.path]
                self._publish(gvr, record)
            if batch.changes:
                self.revision = max(self.revision, batch.changes[-1][1].revision)
            if batch.done is not None and not batch.done.done():
                batch.done.set_result(None)
            if self._batch.done is not None:
                self._work.set()

    def _abort(self, why: Failure, in_flight: _Batch | None = None) -> None:
        # Whatever collected meanwhile was decided on state that is not going to exist.
        doomed, self._batch = self._batch, _Batch()
        lost = list(self._overlay)
        self._overlay.clear()
        for tenant in sorted({path[: path.index("/")] for _, path in lost}):
            self._count_again(tenant)
        self.on_abort(lost)
        for batch in (in_flight, doomed):
            if batch is not None and batch.done is not None and not batch.done.done():
                batch.done.set_exception(why)
                batch.done.exception()  # A writer that went away need not collect it.

    def _publish(self, gvr: str, record: Record) -> None:
        table = self.table(gvr)
        previous = table.remove(record.path) if record.deleted else table.put(record)
        listener = self.listeners.get(gvr)
        if listener is not None:
            listener(gvr, record, previous)
        history = self.history(gvr)
        if record.revision <= history.floor:
            return  # Recovering a row whose past is already forgotten.
        change = Change(record, previous)
        history.append(change)
        if self._taps and gvr != MOVES:
            tap = self._taps.get(owner_of(gvr, record.path))
            if tap is not None:
                tap.add((gvr, record))
        if self._subscriptions:
            self._offer(gvr, change)
        if gvr == MOVES:
            self._apply(self._note(record))

    # Reading

    def table(self, gvr: str) -> Table:
        table = self._tables.get(gvr)
        if table is None:
            table = self._tables[gvr] = Table()
        return table

    def gvrs(self) -> list[str]:
        return list(self._tables)

    def history(self, gvr: str) -> WatchCache:
        history = self._histories.get(gvr)
        if history is None:
            floor = self._recovered if gvr in self._volatile else self._floors.get(gvr, 0)
            history = WatchCache(floor, self._limits)
            self._histories[gvr] = history
        return history

    def get(self, gvr: str, path: str) -> Record | None:
        """The newest durable record."""
        return self.table(gvr).get(path)

    def usage(self, tenant: str) -> tuple[int, int]:
        """Objects of a tenant and their bytes, as a writer sees them."""
        objects, size = self._usage.get(tenant, (0, 0))
        return objects, size

    def usages(self) -> dict[str, tuple[int, int]]:
        return {tenant: (objects, size) for tenant, (objects, size) in self._usage.items()}

    def usage_by_kind(self, tenant: str) -> dict[str, tuple[int, int]]:
        """The same by resource, as readers see it: 0.1 us an object."""
        found = {}
        for gvr, table in self._tables.items():
            if gvr != MOVES:
                sizes = [len(record.body) for record in table.range(f"{tenant}/")]
                if sizes:
                    found[gvr] = (len(sizes), sum(sizes))
        return found

    def _count_write(self, record: Record, previous: Record | None) -> None:
        """0.3 us."""
        path = record.path
        tenant = path[: path.index("/")]
        if not tenant:
            return
        objects = 0 if record.deleted else 1
        size = 0 if record.deleted else len(record.body)
        if previous is not None:
            objects -= 1
            size -= len(previous.body)
        used = self._usage.get(tenant)
        if used is None:
            used = self._usage[tenant] = [0, 0]
        used[0] += objects
        used[1] += size
        if not used[0]:
            del self._usage[tenant]

    def _count_all(self, table: Table) -> None:
        """What was recovered, tenant by tenant: 0.2 us a record."""
        prefix, objects, size = "", 0, 0
        for record in table.range():
            if not record.path.startswith(prefix) or not prefix:
                self._add(prefix, objects, size)
                prefix, objects, size = record.path[: record.path.index("/") + 1], 0, 0
            objects += 1
            size += len(record.body)
        self._add(prefix, objects, size)

    def _add(self, prefix: str, objects: int, size: int) -> None:
        if objects and prefix != "/":
            used = self._usage.setdefault(prefix[:-1], [0, 0])
            used[0] += objects
            used[1] += size

    def _count_again(self, tenant: str) -> None:
        """A batch was refused, or a tenant came or went."""
        self._usage.pop(tenant, None)
        for gvr, table in self._tables.items():
            if tenant and gvr != MOVES:
                for record in table.range(f"{tenant}/"):
                    self._count_write(record, None)

    def counts(self) -> dict[str, int]:
        return {gvr: len(t) for gvr, t in self._tables.items() if len(t) and gvr != MOVES}

    def holds(self, prefix: str) -> list[str]:
        """The resources that have objects there."""
        return [
            gvr
            for gvr, t in self._tables.items()
            if gvr != MOVES and any(True for _ in t.paths(prefix))
        ]

    async def reach(self, revision: int) -> None:
        """Wait until the state at `revision` is settled: nothing at or below it is to come.

        Raises Timeout for a revision that no clock in the region can have given out; Unavailable
        for one far ahead of our clock while the disk takes no writes.
        """
        self.check_open()
        if revision <= self.revision:
            return
        if revision > self._last:
            await self._catch_up(revision)
        if self._overlay or self._batch.done is not None:
            # What is refused is settled too; only its writers need to know.
            with contextlib.suppress(Failure):
                await self.commit()
        self.check_open()
        # Whatever was written since lies above: `_last` had reached the revision before.
        self.revision = max(self.revision, revision)

    async def _catch_up(self, revision: int) -> None:
        """Raise our clock to a revision that another clock of the region has reached."""
        ahead_s = ((time_ms(revision) + 1) - self._clock.now() * 1000) / 1000
        # After a step back of the clock our own revisions are ahead of it, and no nonsense.
        ours_ms = max(self._clock.now() * 1000, time_ms(self._last))
        if time_ms(revision) > ours_ms + _FUTURE_S_MAX * 1000:
            raise Timeout(
                f"Too large resource version: {revision}, current: {self.revision}",
                details={
                    "retryAfterSeconds": 1,
                    "causes": [{"reason": "ResourceVersionTooLarge", "message": _TOO_LARGE}],
                },
            )
        if 0 < ahead_s <= _WAIT_S_MAX:
            # The usual case, a list over partitions: revisions stay on the clock, so that the
            # next such list sees what is acknowledged meanwhile.
            await self._clock.sleep(ahead_s)
        elif ahead_s > 0:
            # A restart is faster than that: it must not go back behind what we show now.
            try:
                await self._log.compact((), {_HIGH_WATER: revision})
            except Failure as failure:
                raise Unavailable(
                    f"the clock is {ahead_s:.0f} s behind what was asked for, and the disk takes"
                    f" no note of it: {failure.message}"
                ) from failure
        self._last = max(self._last, revision)

    def range_at(self, gvr: str, prefix: str, after: str, revision: int) -> Iterable[Record]:
        """The records below a prefix as they were at a revision. Raises Expired."""
        table = self.table(gvr)
        if revision >= self.revision:
            return table.range(prefix, after)
        # Few changes lie between a recent revision and now: take them back one by one.
        self.check_past(gvr, prefix.partition("/")[0], revision)
        then: dict[str, Record | None] = {}
        for change in self.history(gvr).since(revision):
            path = change.record.path
            if path not in then and path.startswith(prefix) and path > after:
                then[path] = change.previous
        records = {record.path: record for record in table.range(prefix, after)}
        for path, record in then.items():
            if record is None:
                records.pop(path, None)
            else:
                records[path] = record
        return [records[path] for path in sorted(records)]

    # Watching

    def check_past(self, gvr: str, tenant: str, revision: int) -> None:
        """Raises Expired when changes after this revision are gone, of a tenant or ("") of all."""
        self.history(gvr).check(revision)
        if self._tenant_floors:
            floor = self._tenant_floors.get((gvr, tenant or moving.WIDE), 0)
            if revision < floor:
                raise Expired(f"too old resource version: {revision} ({floor})")

    def check_moves(self, revision: int, moves: bool) -> None:
        """Raises Expired for who asked for moves and would not hear of one."""
        if moves and revision < self.reshaped:
            raise Expired(f"tenants have moved since {revision}")

    def past(
        self, gvr: str, scope: Scope, revision: int, limit: int | None = None
    ) -> tuple[list[Change], int]:
        """The changes after a revision, and how far they go; 0 when these are all.

        Over all tenants: those that were made here. The others are told by who made them.
        """
        self.check_past(gvr, scope.tenant, revision)
        past = self.history(gvr).since(revision, limit)
        found = [change for change in past if in_scope(change, scope)]
        if self.reshaped and not scope.tenant:
            found = [c for c in found if partition_of(c.revision) == self._partition]
        return found, past[-1].revision if limit is not None and len(past) == limit else 0

    def subscribe(
        self, gvr: str, scope: Scope, revision: int, moves: bool = False,
        piece: int = CATCH_UP_CHANGES_MAX,
    ) -> Subscription:  # fmt: skip
        """Changes after a revision, from the history first. Raises Expired.

        moves: also the Steps of tenants that come and go. piece: of the history in one step.
        """
        self.check_open()
        self.check_past(gvr, scope.tenant, revision)
        self.check_moves(revision, moves)
        subscription = Subscription(self, gvr, scope, revision, moves, piece)
        if self.history(gvr).newest > revision:
            subscription.look_back()
        self._subscriptions.setdefault((gvr, scope), {})[subscription] = None
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        key = (subscription.gvr, subscription.scope)
        group = self._subscriptions.get(key)
        if group is not None:
            group.pop(subscription, None)
            if not group:
                del self._subscriptions[key]

    def _offer(self, gvr: str, change: Change) -> None:
        """Find who watches this: a few look-ups, however many watchers there are."""
        tenant, namespace, name = change.record.path.split("/")
        scopes = [Scope(), Scope(tenant, "", name)]
        if tenant:  # Without one, Scope(tenant) is everything, and everything is asked already.
            scopes.append(Scope(tenant))
        if namespace:
            scopes += [Scope(tenant, namespace), Scope(tenant, namespace, name)]
        node, previous = change.record.node, change.previous
        if node:
            scopes.append(Scope(node=node))
        if previous is not None and previous.node and previous.node != node:
            scopes.append(Scope(node=previous.node))
        for scope in scopes:
            group = self._subscriptions.get((gvr, scope))
            if group:
                for subscription in group:
                    subscription.offer(change)

    @property
    def watchers(self) -> int:
        return sum(len(group) for group in self._subscriptions.values())

    # Forgetting

    async def _compact_forever(self) -> None:
        while True:
            await self._clock.sleep(_COMPACT_INTERVAL_S)
            await self.compact()

    async def compact(self) -> None:
        """Forget the past beyond the limits, in memory and in the log."""
        # One at a time: who comes second may rely on what the first was about to forget.
        async with self._compacting:
            await self._compact()

    async def _compact(self) -> None:
        for gvr, history in self._histories.items():
            self._trim(gvr, history)
        now_ms = int(self._clock.now() * 1000)
        if time_ms(self._last) > max(now_ms + 1_000, time_ms(self._noted)):
            # The clock was set back. Revisions that were shown and never logged must not be given
            # out again after a restart: its clock would not know of them.
            self._changed_floors[_HIGH_WATER] = self._noted = self._last
        if not self._changed_floors and not self._forgotten:
            return
        revisions, self._forgotten = self._forgotten, []
        floors, self._changed_floors = self._changed_floors, {}
        try:
            await self._log.compact(revisions, floors)
        except Fenced as fenced:
            self.close(fenced)
            raise
        except Failure:
            # The rows stay on disk and are named again next time; nothing is lost by waiting.
            self._forgotten = revisions + self._forgotten
            self._changed_floors = {**floors, **self._changed_floors}

    def _trim(self, gvr: str, history: WatchCache) -> None:
        forgotten = history.trim(int(self._clock.now() * 1000))
        if not forgotten:
            return
        self._changed_floors[gvr] = history.floor
        if gvr in self._volatile:
            return  # No row of it was ever written; the floor still guards the clock.
        for change in forgotten:
            if change.previous is not None:
                self._forgotten.append(change.previous.revision)
            if change.record.deleted or self._is_gone(gvr, change.record.path):
                self._forgotten.append(change.record.revision)

    # Tenants that move (moving.py says what the marks mean).

    def put_mark(self, mark: Mark) -> int:
        """Queue a mark; the revision at which it will count. In force once it is durable."""
        return self.put(MOVES, moving.mark_path(mark.tenant), mark.body()).revision

    def delete_mark(self, tenant: str) -> None:
        mark = self.marks.get(tenant)
        if mark is not None:
            self.delete(MOVES, moving.mark_path(tenant), mark.body())

    def _note(self, record: Record) -> Mark | None:
        mark = moving.read_mark(record)
        if record.deleted:
            self.marks.pop(mark.tenant, None)
            return None
        self.marks[mark.tenant] = mark
        return mark

    def _apply(self, mark: Mark | None) -> None:
        """A tenant comes or goes, in one step, at the revision of its mark."""
        if mark is None or mark.state in moving.STAGING:
            return
        self.reshaped = mark.revision
        if mark.state == moving.HERE:
            records, kind = self._put_in_place(mark.tenant), ARRIVED
        else:
            records, kind = self._remove(mark.tenant), LEFT
            self._taps.pop(mark.tenant, None)
        self._count_again(mark.tenant)
        for (gvr, scope), group in self._subscriptions.items():
            if scope.tenant == mark.tenant and mark.state == moving.DEPARTED:
                for subscription in group:
                    subscription.end(mark.tenant, mark.other, mark.revision)
            elif not scope.tenant:
                step = Step(kind, mark.revision, records.get(gvr, ()))
                for subscription in group:
                    if subscription.moves:
                        subscription.offer(step)
        self.on_step(mark, records)

    def _remove(self, tenant: str) -> dict[str, list[Record]]:
        """Its objects are no more here; its past stays, for those who watch all tenants."""
        removed: dict[str, list[Record]] = {}
        for gvr, table in self._tables.items():
            if gvr == MOVES:
                continue
            paths = list(table.paths(f"{tenant}/"))
            if gvr == moving.TENANTS and table.get(f"//{tenant}") is not None:
                paths.append(f"//{tenant}")
            floor = max(self.history(gvr).floor, self._tenant_floors.get((gvr, tenant), 0))
            for path in paths:
                record = table.remove(path)
                assert record is not None
                removed.setdefault(gvr, []).append(record)
                if record.revision <= floor and gvr not in self._volatile:
                    self._forgotten.append(record.revision)
        return removed

    def _is_gone(self, gvr: str, path: str) -> bool:
        if not self.marks:
            return False
        mark = self.marks.get(owner_of(gvr, path))
        return mark is not None and mark.state == moving.DEPARTED

    # Out: a snapshot of a tenant, and what follows.

    def tap(self, tenant: str) -> tuple[dict[str, int], list[tuple[str, Record]], Tap]:
        """Its floors, every row of it that the log needs, and the changes after that."""
        floors: dict[str, int] = {}
        rows: list[tuple[str, Record]] = []
        for gvr, history in self._histories.items():
            if gvr == MOVES:
                continue
            floors[gvr] = max(history.floor, self._tenant_floors.get((gvr, tenant), 0))
            found: dict[int, Record] = {}
            for change in history:
                if owner_of(gvr, change.record.path) == tenant:
                    for record in (change.previous, change.record):
                        if record is not None:
                            found[record.revision] = record
            table = self.table(gvr)
            for record in table.range(f"{tenant}/"):
                found[record.revision] = record
            own = table.get(f"//{tenant}") if gvr == moving.TENANTS else None
            if own is not None:
                found[own.revision] = own
            rows += [(gvr, record) for record in found.values()]
        self.untap(tenant, Unavailable("another export of the tenant began"))
        tap = self._taps[tenant] = Tap()
        return floors, rows, tap

    def untap(self, tenant: str, why: Failure) -> None:
        tap = self._taps.pop(tenant, None)
        if tap is not None:
            tap.close(why)

    def close_tap(self, tenant: str, revision: int) -> None:
        """Everything up to that revision was published."""
        tap = self._taps.get(tenant)
        if tap is not None:
            tap.add(revision)

    # In: staged rows, visible to nobody until their mark says that they are here.

    async def clear(self, tenant: str) -> None:
        """Before rows of a tenant come in: whatever is left here of an earlier time goes.

        Its past goes with it, so that who watches all tenants from before has to list again.
        """
        self._arrivals.pop(tenant, None)
        staged = self._staged.pop(tenant, {})
        revisions = [r for r, (gvr, _) in staged.items() if gvr not in self._volatile]
        floors: dict[str, int] = {}
        for gvr, history in self._histories.items():
            if gvr == MOVES:
                continue
            dropped = history.drop(
                lambda change, gvr=gvr: owner_of(gvr, change.record.path) == tenant  # type: ignore[misc]
            )
            if not dropped:
                continue
            newest = dropped[-1].revision
            self._tenant_floors[gvr, moving.WIDE] = max(
                newest, self._tenant_floors.get((gvr, moving.WIDE), 0)
            )
            if gvr in self._volatile:
                continue
            floors[f"{gvr}/{moving.WIDE}"] = self._tenant_floors[gvr, moving.WIDE]
            for change in dropped:
                revisions.append(change.record.revision)
                if change.previous is not None:
                    revisions.append(change.previous.revision)
        # Also what was forgotten and still is on disk: the same rows may come back.
        self._forgotten += revisions
        self._changed_floors.update(floors)
        await self.compact()
        if self._forgotten:
            raise Unavailable("the log does not take the changes that make room for a tenant")

    async def stage(self, tenant: str, rows: Sequence[Row]) -> None:
        """Durable when this returns, but of what lives in memory only."""
        staged = self._staged.setdefault(tenant, {})
        new = [(row.gvr, restore(row)) for row in rows if row.revision not in staged]
        durable = [row_of(gvr, record) for gvr, record in new if gvr not in self._volatile]
        if durable:
            if not self._received:
                await self._log.compact((), {moving.RECEIVED: 1})
                self._received = True
            await self._log.append(durable)
        for gvr, record in new:
            staged[record.revision] = (gvr, record)

    async def complete(self, tenant: str, floors: dict[str, int]) -> None:
        """All rows are here: keep its floors, and prepare what `here` puts in place."""
        for gvr, floor in floors.items():
            key = (gvr, tenant)
            self._tenant_floors[key] = max(floor, self._tenant_floors.get(key, 0))
        names = {f"{gvr}/{tenant}": self._tenant_floors[gvr, tenant] for gvr in floors}
        await self._log.compact((), names)
        self._prepare(tenant)

    def _prepare(self, tenant: str) -> moving.Arrival:
        staged = self._staged.get(tenant, {}).values()
        own = {gvr: self.history(gvr).floor for gvr, _ in staged}
        prepared = moving.arrival(staged, self._tenant_floors, tenant, own)
        self._arrivals[tenant] = prepared
        return prepared

    def staged(self, tenant: str) -> int:
        return len(self._staged.get(tenant, ()))

    def _put_in_place(self, tenant: str) -> dict[str, list[Record]]:
        arrival = self._arrivals.pop(tenant, None) or self._prepare(tenant)
        self._arrivals.pop(tenant, None)
        self._staged.pop(tenant, None)
        for gvr, records in arrival.live.items():
            table = self.table(gvr)
            for record in records:
                table.put(record)
        for gvr, changes in arrival.changes.items():
            history = self.history(gvr)
            history.merge(changes)
            for change in changes:
                if change.revision > history.floor:
                    break
                # The floor has risen since: forgotten like anything that is trimmed.
                if change.previous is not None:
                    self._forgotten.append(change.previous.revision)
                if change.record.deleted:
                    self._forgotten.append(change.record.revision)
        self._forgotten += arrival.superfluous
        return arrival.live
