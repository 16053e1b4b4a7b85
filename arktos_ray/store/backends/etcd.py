"""The log in an etcd: for partitions that must come back on another machine.

Keys, below <prefix>/<partition>/:

    epoch             the epoch in decimal. Its mod revision is the *fence*: every write of ours
                      compares it, so whoever opened the log earlier can write nothing more.
    owner/<epoch>     who holds the log; goes away with the etcd lease that it is attached to.
    time              until when, by its own wall clock, the last owner gave out revisions.
    log/<revision>    a chunk of rows (chunks.py), by the revision of its first one.
    open              there while a commit of several transactions is under way.
    floors            see port.py.
    garbage/<n>       rows that were forgotten and are still inside chunks.

A transaction without an answer may have happened, or may happen a minute later, when a stopped
etcd goes on. It is sent again until there is an answer (sending it twice changes nothing), and
then the fence is moved, so that no straggler can come after. docs/decisions/0007 has the reasons.

Blocking calls in a thread of the log's own: one thing happens at a time, in order.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgpack
import orjson

from arktos_ray.api.errors import Expired, Failure, NotFound, StorageFull, Unavailable, Unreached
from arktos_ray.base import processes
from arktos_ray.base.clock import Clock
from arktos_ray.base.worker import Worker
from arktos_ray.store.backends.chunks import PART_BYTES_MAX, Chunk, Chunks, Unpacker, pack
from arktos_ray.store.backends.etcd_rpc import Etcd, EtcdSettings, lease_seconds
from arktos_ray.store.port import Corrupt, Fenced, InDoubt, Lease, Row

log = logging.getLogger(__name__)

T = TypeVar("T")
Op = dict[str, Any]

# Of a transaction: below etcd's 1.5 MiB, and below its 128 operations.
_TXN_BYTES_MAX = PART_BYTES_MAX + (100 << 10)
_TXN_OPS_MAX = 100
# What one page of a log should hold. Two of them are in memory while it is read.
_PAGE_BYTES = 8 << 20
_PAGE_KEYS = (16, 4_096)
# Clearing away, of one call of `compact`: 1,000 chunks deleted, 8 MB read and written anew.
_CLEAR_TXNS_MAX = 10
_CLEAR_BYTES_MAX = 8 << 20
# Entries in garbage/ that name nothing any more, beside as many again as there is garbage.
_STALE_GARBAGE_MAX = 20_000
_GARBAGE_ENTRIES = 50_000  # of one key: 450 KB
# etcd keeps every old value until it is told not to. Each renewal leaves two.
_HISTORY_MAX = 5_000
_RETRY_S = 0.1
_OWNER_LOOK_S = 0.1
_CLOSE_S = 1.0
# Milliseconds of a wall clock as the revision of that moment (store/revisions.py).
_TIME_SHIFT = 19
_HIGH_WATER = ""


class _Owner(NamedTuple):
    epoch: int
    ttl_s: float
    process: str


class EtcdLog:
    """process: who says that it is ours (processes.identity); tests play others."""

    def __init__(
        self, settings: EtcdSettings, name: str, clock: Clock, process: str | None = None
    ) -> None:
        self._settings, self._name, self._clock = settings, name, clock
        self._process = process if process is not None else processes.identity()
        self._root = f"{settings.prefix.rstrip('/')}/{name}/".encode()
        self._lease = Lease(settings.ttl_s)
        self._thread = Worker(f"log-{name}")
        self._stopping = threading.Event()
        self._closed = False
        self._epoch = self._fence = 0
        self._stragglers = False
        self._trusted_until = -math.inf
        self._chunks = Chunks()
        self._floors: dict[str, int] = {}
        self._garbage: set[int] = set()  # as read, until the rows are
        self._garbage_keys = 0
        self._garbage_written = 0
        self._seen_revision = self._compacted_revision = 0
        try:
            self._thread.wait(self._open)
        except BaseException:
            self._stopping.set()
            self._thread.close()
            raise

    # The port

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def trusted_until(self) -> float:
        return self._trusted_until

    @property
    def renew_every_s(self) -> float | None:
        return self._lease.renew_every_s

    def floors(self) -> dict[str, int]:
        return dict(self._floors)

    def replay(self) -> Iterator[Row]:
        """One page is fetched while the one before is read. 1.2 us a row of 1.5 KB, and etcd's."""
        unpacker, garbage = Unpacker(), self._garbage
        rows: list[Row] = []
        size = 0
        page: Future[Any] | None = self._thread.submit(
            partial(self._page, self._key("log/"), _PAGE_KEYS[0])
        )
        while page is not None:
            reply = page.result()
            page = None
            if reply.more:
                got = sum(len(kv.value) for kv in reply.kvs) // len(reply.kvs)
                low, high = _PAGE_KEYS
                count = min(high, max(low, _PAGE_BYTES // max(got, 1)))
                page = self._thread.submit(partial(self._page, reply.kvs[-1].key + b"\0", count))
            for kv in reply.kvs:
                first = int(kv.key[len(self._root) + 4 :].partition(b".")[0])
                try:
                    rows = unpacker.feed(first, kv.value)
                except Corrupt as error:
                    raise Corrupt(f"{self._where()}: {error}") from None
                size += len(kv.value)
                if rows:
                    self._chunks.add(first, rows, size)
                    size = 0
                    if garbage:
                        self._chunks.forget([r.revision for r in rows if r.revision in garbage])
                        yield from (row for row in rows if row.revision not in garbage)
                    else:
                        yield from rows
        try:
            unpacker.finish()
        except Corrupt as error:
            raise Corrupt(f"{self._where()}: {error}") from None
        self._garbage = set()

    async def take_over(self) -> None:
        opened = self._clock.monotonic()
        while True:
            owners = [o for o in await self._run(self._owners) if not processes.is_gone(o.process)]
            if not owners:
                break
            # They were fenced before this began, and count from before they asked.
            left_s = opened + max(owner.ttl_s for owner in owners) - self._clock.monotonic()
            if left_s <= 0:
                break
            await self._clock.sleep(min(left_s, _OWNER_LOOK_S))
        await self.renew()

    async def renew(self) -> None:
        await self._run(self._renew)

    async def append(self, rows: Sequence[Row]) -> None:
        await self._run(lambda: self._append(rows))

    async def compact(self, revisions: Sequence[int], floors: dict[str, int]) -> None:
        await self._run(lambda: self._compact(revisions, floors))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._stopping.set()
        self._thread.wait(self._leave)
        self._thread.close()
        self._trusted_until = -math.inf

    async def _run(self, work: Callable[[], T]) -> T:
        return await self._thread.run(work)

    # Opening

    def _open(self) -> None:
        self._etcd = Etcd(self._settings)
        give_up = self._clock.monotonic() + self._settings.patience_s
        while True:
            try:
                if self._raise_epoch():
                    break
            except Unavailable:
                # Without an answer it may have been raised; then it is raised by two.
                if self._clock.monotonic() >= give_up or self._stopping.wait(_RETRY_S):
                    raise
        opened = self._value("open")
        if opened is not None:
            log.warning("%s: a commit that was never finished is taken back", self._where())
            self._undo(int(opened))
        self._floors = orjson.loads(self._value("floors") or b"{}")
        time = orjson.loads(self._value("time") or b"{}")
        if time and not processes.same_machine(time["process"], self._process):
            # Another machine's clock: revisions must not go back behind what it gave out.
            reached = int(time["until_ms"]) << _TIME_SHIFT
            self._floors[_HIGH_WATER] = max(self._floors.get(_HIGH_WATER, 0), reached)
        for kv in self._range("garbage/"):
            self._garbage.update(msgpack.unpackb(kv.value))
            self._garbage_keys = max(self._garbage_keys, int(kv.key.rpartition(b"/")[2]))
        self._garbage_written = len(self._garbage)

    def _raise_epoch(self) -> bool:
        """False when somebody else did at the same moment."""
        [kv] = self._etcd.call("Range", key=self._key("epoch")).kvs or [None]
        epoch = int(kv.value) + 1 if kv is not None else 1
        reply = self._etcd.call(
            "Txn",
            compare=[self._at(kv.mod_revision if kv is not None else 0)],
            success=[_put(self._key("epoch"), str(epoch).encode())],
        )
        if reply.succeeded:
            self._epoch, self._fence = epoch, reply.header.revision
            self._seen_revision = self._compacted_revision = reply.header.revision
        return bool(reply.succeeded)

    def _owners(self) -> list[_Owner]:
        """Whoever may still believe that the log is theirs."""
        owners = []
        for kv in self._range("owner/"):
            epoch = int(kv.key.rpartition(b"/")[2])
            if epoch < self._epoch:
                said = orjson.loads(kv.value)
                owners.append(_Owner(epoch, said["ttl_s"], said["process"]))
            elif epoch > self._epoch:
                raise self._replaced(epoch)
        return owners

    # The lease

    def _renew(self) -> None:
        """A fresh etcd lease, and the owner's key on it: both go through a majority.

        Not etcd's LeaseKeepAlive, which a leader that was just replaced still answers.
        """
        asked = self._clock.monotonic()
        now_ms = int(self._clock.now() * 1000)
        lease = self._etcd.call("LeaseGrant", TTL=lease_seconds(self._lease.ttl_s))
        owner = orjson.dumps({"ttl_s": lease.TTL, "process": self._process})
        until_ms = now_ms + int(lease.TTL * 1000)
        ops = [
            _delete(self._owner_key(0), self._owner_key(self._epoch)),
            _put(self._owner_key(self._epoch), owner, lease.ID),
            _put(self._key("time"), self._time(until_ms)),
        ]
        try:
            self._once(ops)
        except NotFound as failure:
            raise Unavailable(failure.message) from failure  # So slow that the lease was over.
        # What we asked for may be less than what we got, and then we go by that.
        self._trusted_until = self._lease.until(asked, min(lease.TTL, self._lease.ttl_s))
        self._drop_history(_HISTORY_MAX)

    def _leave(self) -> None:
        """In order: nobody need wait for us."""
        until_ms = int(self._clock.now() * 1000)
        if not self._stragglers and self._trusted_until > -math.inf:
            with contextlib.suppress(Failure):
                self._once(
                    [
                        _delete(self._owner_key(self._epoch)),
                        _put(self._key("time"), self._time(until_ms)),
                    ],
                    _CLOSE_S,
                )
        self._etcd.close()

    def _owner_key(self, epoch: int) -> bytes:
        return self._key(f"owner/{epoch:020d}")

    def _time(self, until_ms: int) -> bytes:
        return orjson.dumps({"until_ms": until_ms, "process": self._process})

    # Writing

    def _append(self, rows: Sequence[Row]) -> None:
        chunks = list(pack(rows))
        groups = list(_grouped([op for chunk in chunks for op in self._puts(chunk)]))
        if len(groups) > 1:
            # A reader of the log takes back everything from here on, until the last one is there.
            opened = str(rows[0].revision).encode()
            groups[0].append(_put(self._key("open"), opened))
            groups[-1].append(_delete(self._key("open")))
        for i, ops in enumerate(groups):
            try:
                self._commit(ops)
            except Fenced:
                raise
            except Failure:
                if i > 0:
                    self._undo(rows[0].revision)
                raise
        for chunk in chunks:
            self._chunks.add(chunk.first, chunk.rows, chunk.size)

    def _puts(self, chunk: Chunk) -> Iterator[Op]:
        key = self._chunk_key(chunk.first)
        for i, part in enumerate(chunk.parts):
            yield _put(key + b".%02d" % i if i else key, part)

    def _undo(self, revision: int) -> None:
        """Take back the commit that began at this revision: nothing came after it."""
        ops = [
            _delete(self._chunk_key(revision), self._key("log0")),
            _delete(self._key("open")),
        ]
        try:
            self._commit(ops, self._settings.doubt_s)
        except Fenced:
            raise
        except Failure as failure:
            raise InDoubt(f"a part of a commit cannot be taken back: {failure}") from failure

    def _commit(self, ops: list[Op], patience_s: float | None = None) -> None:
        """Carried out once; or a Failure, and it never will be; or InDoubt.

        Waits for etcd: `patience_s` while nothing was accepted, much longer once it may have been.
        """
        began = self._clock.monotonic()
        patience_s = self._settings.patience_s if patience_s is None else patience_s
        doubt = False
        while True:
            try:
                self._once(ops)
                return
            except Fenced as fenced:
                if doubt:
                    raise Fenced(f"{fenced}; the last write may be there or not") from None
                raise
            except (StorageFull, Unreached) as failure:
                why: Failure = failure
                give_up = not doubt and isinstance(failure, StorageFull)
            except Unavailable as failure:
                why, give_up, doubt = failure, False, True
            waited_s = self._clock.monotonic() - began
            if give_up or waited_s > (self._settings.doubt_s if doubt else patience_s):
                if doubt:
                    raise InDoubt(f"{self._name}: {why}")
                raise why
            if self._stopping.wait(_RETRY_S):
                if doubt:
                    raise InDoubt(f"{self._name}: stopped while {why}")
                raise why

    def _once(self, ops: list[Op], deadline_s: float | None = None) -> None:
        """One fenced transaction, sent once. Raises Unavailable when it may have happened."""
        while True:
            if self._stragglers:
                self._move_fence()
            try:
                reply = self._fenced(ops, deadline_s)
            except Unreached:
                raise
            except Unavailable:
                self._stragglers = True
                raise
            if reply.succeeded:
                return
            self._learn(reply)

    def _move_fence(self) -> None:
        """After this, nothing that was sent before can happen any more."""
        try:
            reply = self._fenced([_put(self._key("epoch"), str(self._epoch).encode())])
        except Unavailable as failure:
            # Whatever comes of it, the operation at hand was not sent yet.
            raise Unreached(failure.message) from failure
        if reply.succeeded:
            self._fence = reply.header.revision
        else:
            self._learn(reply)
        self._stragglers = False

    def _fenced(self, ops: list[Op], deadline_s: float | None = None) -> Any:
        reply = self._etcd.call(
            "Txn", compare=[self._at(self._fence)], success=ops,
            failure=[{"request_range": {"key": self._key("epoch")}}], deadline_s=deadline_s,
        )  # fmt: skip
        self._seen_revision = reply.header.revision
        return reply

    def _learn(self, reply: Any) -> None:
        """Why the fence was not where we had it. Raises Fenced unless we moved it ourselves."""
        kvs = reply.responses[0].response_range.kvs
        epoch = int(kvs[0].value) if kvs else 0
        if epoch != self._epoch:
            raise self._replaced(epoch)
        self._fence = kvs[0].mod_revision

    def _replaced(self, epoch: int) -> Fenced:
        self._trusted_until = -math.inf
        return Fenced(f"fenced: epoch {self._epoch} of {self._name} was replaced by {epoch}")

    # Forgetting

    def _compact(self, revisions: Sequence[int], floors: dict[str, int]) -> None:
        fresh = self._chunks.forget(revisions)
        merged = {**self._floors, **floors}
        # The floor first: a row that is forgotten above the floor would be a hole in the history.
        ops = [_put(self._key("floors"), orjson.dumps(merged))] if floors else []
        try:
            for at in range(0, len(fresh), _GARBAGE_ENTRIES):
                ops.append(self._note_garbage(fresh[at : at + _GARBAGE_ENTRIES]))
                self._commit(ops)
                ops = []
            if ops:
                self._commit(ops)
        except Failure:
            self._chunks.unforget(fresh)
            raise
        self._floors = merged
        self._clear()
        self._drop_history(1)

    def _note_garbage(self, revisions: list[int]) -> Op:
        self._garbage_keys += 1
        self._garbage_written += len(revisions)
        return _put(
            self._key(f"garbage/{self._garbage_keys:020d}"),
            msgpack.packb(revisions, use_bin_type=True),
        )

    def _clear(self) -> None:
        """Garbage becomes room, a bounded piece of it. What is left waits for the next call."""
        for _ in range(_CLEAR_TXNS_MAX):
            empty = self._chunks.empty(_TXN_OPS_MAX)
            if not empty:
                break
            self._commit([self._drop(first) for first in empty])
            for first in empty:
                self._chunks.remove(first)
        for run in self._chunks.sparse(_CLEAR_BYTES_MAX):
            self._rewrite(run)
        stale = self._garbage_written - _STALE_GARBAGE_MAX
        garbage = self._chunks.garbage() if stale > 0 else []
        if stale > len(garbage):
            self._renote(garbage)

    def _rewrite(self, run: list[int]) -> None:
        """What lives in some neighbouring chunks, in one."""
        live: list[Row] = []
        unpacker = Unpacker()
        for first in run:
            for kv in self._range_of(self._chunk_key(first), self._chunk_key(first) + b"/"):
                live += (
                    row
                    for row in unpacker.feed(first, kv.value)
                    if not self._chunks.is_dead(first, row.revision)
                )
        unpacker.finish()
        chunks = list(pack(live))
        puts = [op for chunk in chunks for op in self._puts(chunk)]
        if len(puts) != len(chunks) or len(list(_grouped(puts))) > 1:
            return  # The estimate was wrong: these rows are larger than the others were.
        # etcd takes no transaction that puts a key and deletes it too.
        made = {chunk.first for chunk in chunks}
        drops = [
            _delete(self._chunk_key(first) + b".", self._chunk_key(first) + b"/")
            if first in made
            else self._drop(first)
            for first in run
        ]
        self._commit(drops + puts)
        for first in run:
            self._chunks.remove(first)
        for chunk in chunks:
            self._chunks.add(chunk.first, chunk.rows, chunk.size)

    def _renote(self, garbage: list[int]) -> None:
        """Write anew what is garbage; most of what was noted is gone."""
        last = self._garbage_keys
        self._garbage_written = 0
        for at in range(0, len(garbage), _GARBAGE_ENTRIES):
            self._commit([self._note_garbage(garbage[at : at + _GARBAGE_ENTRIES])])
        self._commit([_delete(self._key("garbage/"), self._key(f"garbage/{last + 1:020d}"))])

    def _drop_history(self, least: int) -> None:
        """etcd's own history, up to here. Defragmentation is the operator's: it blocks etcd."""
        if self._seen_revision - self._compacted_revision < least:
            return
        try:
            self._etcd.call("Compact", revision=self._seen_revision)
        except Expired:
            pass  # Another partition did.
        except Failure as failure:
            log.info("%s: history was not compacted: %s", self._where(), failure)
            return
        self._compacted_revision = self._seen_revision

    # Keys

    def _key(self, name: str) -> bytes:
        return self._root + name.encode()

    def _chunk_key(self, revision: int) -> bytes:
        return self._key(f"log/{revision:020d}")

    def _drop(self, first: int) -> Op:
        """With all of its parts: "/" comes after "."."""
        key = self._chunk_key(first)
        return _delete(key, key + b"/")

    def _at(self, mod_revision: int) -> Op:
        return {"target": "MOD", "key": self._key("epoch"), "mod_revision": mod_revision}

    def _page(self, key: bytes, count: int) -> Any:
        return self._read(key=key, range_end=self._key("log0"), limit=count)

    def _range(self, below: str) -> Sequence[Any]:
        return self._range_of(self._key(below), self._key(below[:-1] + "0"))

    def _range_of(self, key: bytes, end: bytes) -> Sequence[Any]:
        found: Sequence[Any] = self._read(key=key, range_end=end).kvs
        return found

    def _value(self, name: str) -> bytes | None:
        kvs = self._read(key=self._key(name)).kvs
        return bytes(kvs[0].value) if kvs else None

    def _read(self, **fields: Any) -> Any:
        """Reading changes nothing, so it is simply repeated."""
        began = self._clock.monotonic()
        while True:
            try:
                return self._etcd.call("Range", **fields)
            except Unavailable:
                if self._clock.monotonic() - began > self._settings.patience_s:
                    raise
                if self._stopping.wait(_RETRY_S):
                    raise

    def _where(self) -> str:
        return f"etcd {','.join(self._settings.endpoints)} {self._root.decode()}"


def _put(key: bytes, value: bytes, lease: int = 0) -> Op:
    return {"request_put": {"key": key, "value": value, "lease": lease}}


def _delete(key: bytes, end: bytes = b"") -> Op:
    return {"request_delete_range": {"key": key, "range_end": end}}


def _grouped(puts: Sequence[Op]) -> Iterator[list[Op]]:
    """In order, as many at a time as a transaction takes."""
    group: list[Op] = []
    size = 0
    for op in puts:
        more = len(op["request_put"]["value"])
        if group and (size + more > _TXN_BYTES_MAX or len(group) >= _TXN_OPS_MAX):
            yield group
            group, size = [], 0
        group.append(op)
        size += more
    if group:
        yield group
