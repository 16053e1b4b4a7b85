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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from arktos_ray.api.errors import Failure, Timeout, TooLarge, TooManyRequests, Unavailable
from arktos_ray.base.clock import Clock
from arktos_ray.base.tasks import Tasks
from arktos_ray.store.mvcc import Table, prefix_of
from arktos_ray.store.port import Fenced, InDoubt, Log, Row
from arktos_ray.store.records import Record, encode, restore, row_of
from arktos_ray.store.revisions import next_revision, time_ms
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
# Of the history in one step of the loop: some milliseconds for who reads it.
_CATCH_UP_CHANGES_MAX = 500
# Writes that collect while the disk is slow: of many seconds on a healthy one. Then 429.
COLLECTED_WRITES_MAX = 50_000
COLLECTED_BYTES_MAX = 128 << 20
_COMPACT_INTERVAL_S = 5.0
# From here on, not walking what was recovered is worth never looking for cycles in it.
_FREEZE_ROWS = 50_000


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

    def __init__(self, store: Store, gvr: str, scope: Scope, position: int) -> None:
        self._store = store
        self.gvr, self.scope = gvr, scope
        self.position = position  # everything up to here was handed out
        self._waiting: list[Change] = []
        self._bytes = 0
        self._lagging = False  # what comes next is in the history, not here
        self._wake: asyncio.Future[None] | None = None
        self._progress_wanted = False

    def offer(self, change: Change) -> None:
        if self._lagging:
            return
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

    def ask_progress(self) -> None:
        """Make the next `next` return, even if nothing happened."""
        self._progress_wanted = True
        self.wake()

    def wake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def next_nowait(self) -> Sequence[Change]:
        """What waits; () when nothing does. Raises Expired when it fell behind the history."""
        if self._lagging:
            past = self._store.history(self.gvr).since(self.position, _CATCH_UP_CHANGES_MAX)
            found = [change for change in past if in_scope(change, self.scope)]
            if len(past) == _CATCH_UP_CHANGES_MAX:
                self.position = past[-1].revision
                return found
            self._lagging = False
            changes: Sequence[Change] = found
        else:
            changes, self._waiting = self._waiting, []
            self._bytes = 0
        # Changes of one resource arrive in order, so the store's own revision is safe to claim.
        self.position = max(self.position, self._store.revision)
        return changes

    @property
    def waiting(self) -> int:
        """About how many changes `next_nowait` will give."""
        return _CATCH_UP_CHANGES_MAX if self._lagging else len(self._waiting)

    async def ready(self, timeout_s: float | None = None) -> None:
        """Waits for changes, for the timeout, or until progress is asked for."""
        if not self._waiting and not self._lagging and not self._progress_wanted:
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

    async def next(self, timeout_s: float | None = None) -> Sequence[Change]:
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

    # Life

    def recover(self) -> int:
        """Read the log; the number of rows read. 3 us a row of 1.5 KB, of which 1.3 us checksum.

        What is recovered is no garbage: the collector would walk it again and again for nothing.
        """
        self._floors = self._log.floors()
        count = 0
        collects = gc.isenabled()
        gc.disable()
        try:
            places: dict[str, tuple[Table, WatchCache]] = {}
            trim_at = 2 * self._limits.changes_max
            for row in self._log.replay():
                count += 1
                gvr = row.gvr
                place = places.get(gvr)
                if place is None:
                    place = places[gvr] = (self.table(gvr), self.history(gvr))
                table, history = place
                record = restore(row)
                previous = table.load(record)
                # Else it is a row whose past is already forgotten.
                if record.revision > history.floor:
                    history.append(Change(record, previous))
                    if count % 1_000 == 0 and len(history) > trim_at:
                        self._trim(gvr, history)
                self._last = record.revision
            for table in self._tables.values():
                table.index()
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
        self._abort(self._closed)

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
        self, gvr: str, path: str, obj: dict[str, Any], bytes_max: int = OBJECT_BYTES_MAX
    ) -> Record:
        """Queue a write; obj gets its resourceVersion. Visible to readers after `commit`.

        Raises TooLarge; then nothing was written.
        """
        record = encode(self._next(), path, obj)
        if len(record.body) > bytes_max:
            raise TooLarge(
                f"Request entity too large: the object would have {len(record.body)} bytes,"
                f" the limit is {bytes_max}"
            )
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
        self._overlay[gvr, record.path] = record
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
        self._overlay.clear()
        for batch in (in_flight, doomed):
            if batch is not None and batch.done is not None and not batch.done.done():
                batch.done.set_exception(why)
                batch.done.exception()  # A writer that went away need not collect it.

    def _publish(self, gvr: str, record: Record) -> None:
        table = self.table(gvr)
        previous = table.remove(record.path) if record.deleted else table.put(record)
        history = self.history(gvr)
        if record.revision <= history.floor:
            return  # Recovering a row whose past is already forgotten.
        change = Change(record, previous)
        history.append(change)
        if self._subscriptions:
            self._offer(gvr, change)

    # Reading

    def table(self, gvr: str) -> Table:
        table = self._tables.get(gvr)
        if table is None:
            table = self._tables[gvr] = Table()
        return table

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

    def counts(self) -> dict[str, int]:
        return {gvr: len(table) for gvr, table in self._tables.items() if len(table)}

    async def reach(self, revision: int) -> None:
        """Wait until the state at `revision` is settled: nothing at or below it is to come.

        Raises Timeout for a revision that no clock in the region can have given out.
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
            with contextlib.suppress(Failure):  # A disk that takes no writes can still be read.
                await self._log.compact((), {_HIGH_WATER: revision})
        self._last = max(self._last, revision)

    def range_at(self, gvr: str, prefix: str, after: str, revision: int) -> Iterable[Record]:
        """The records below a prefix as they were at a revision. Raises Expired."""
        table = self.table(gvr)
        if revision >= self.revision:
            return table.range(prefix, after)
        # Few changes lie between a recent revision and now: take them back one by one.
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

    def subscribe(self, gvr: str, scope: Scope, revision: int) -> Subscription:
        """Changes after a revision, from the history first. Raises Expired."""
        self.check_open()
        history = self.history(gvr)
        history.check(revision)
        subscription = Subscription(self, gvr, scope, revision)
        if history.newest > revision:
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
        for gvr, history in self._histories.items():
            self._trim(gvr, history)
        now_ms = int(self._clock.now() * 1000)
        if time_ms(self._last) > max(now_ms + 1_000, time_ms(self._noted)):
            # The clock was set back. Revisions that were shown and never logged must not be given
            # out again after a restart: its clock would not know of them.
            self._changed_floors[_HIGH_WATER] = self._noted = self._last
        if not self._changed_floors:
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
            if change.record.deleted:
                self._forgotten.append(change.record.revision)
