"""The simulator's disk, and the log on it.

A SimDisk keeps what was synced. Of what was written and not synced a crash leaves an arbitrary
prefix, and the piece at its end may be torn: cut short, or of the right length and not what was
written. A full disk takes a part of a write and refuses the rest.

A RecordLog is the smallest log that is right on such a disk: one record with a checksum for each
append, one sync, and a file that is cut back to its last whole record when it is opened. It passes
the contract of store/port.py. The disk itself says what is durable (`rows`, `listeners`): stories
hold everything that anybody was told against that.
"""

from __future__ import annotations

import asyncio
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgpack

from arktos_ray.api.errors import StorageFull, Unavailable
from arktos_ray.base.clock import Clock
from arktos_ray.store.backends.memory import LeasedLog, MemoryDisk
from arktos_ray.store.port import Corrupt, Lease, Row

_HEADER = struct.Struct(">II")  # length and CRC-32 of the payload
EPOCH_RECORD, ROWS_RECORD, COMPACT_RECORD = range(3)

Record = list[Any]  # [kind, ...]


class DiskFull(Exception):
    """ENOSPC: some of the bytes were taken, the rest was not."""


class DiskBroken(Exception):
    """EIO, of a sync: nobody knows what is on the disk now."""


def parse(data: bytes | bytearray, start: int = 0) -> tuple[list[Record], int]:
    """The whole records from there on, and where the last of them ends."""
    found: list[Record] = []
    at = start
    while at + _HEADER.size <= len(data):
        length, crc = _HEADER.unpack_from(data, at)
        payload = data[at + _HEADER.size : at + _HEADER.size + length]
        if len(payload) < length or zlib.crc32(payload) != crc:
            break
        found.append(msgpack.unpackb(payload, strict_map_key=False))
        at += _HEADER.size + length
    return found, at


def encode(record: Record) -> bytes:
    payload: bytes = msgpack.packb(record)
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


class SimDisk(MemoryDisk):
    """One file. Survives its partition; `rows` is what is durable, as the disk itself knows."""

    def __init__(self, rng: random.Random | None = None) -> None:
        super().__init__()
        self._rng = rng or random.Random(0)
        self._synced = bytearray()
        self._pending: list[bytes | int] = []  # pieces, and lengths to cut the file back to
        self._told = 0  # all records up to here are in `rows`
        self.listeners: list[Callable[[Row], None]] = []
        # Faults: how many of the next writes find the disk full, and of the next syncs fail.
        self.full_writes = 0
        self.broken_syncs = 0
        self.crashes_with_pending = self.crashes_torn = self.survivors = 0

    # What a process may do.

    def content(self) -> bytes:
        """As the process sees it: the page cache."""
        data = bytearray(self._synced)
        for change in self._pending:
            _apply(data, change)
        return bytes(data)

    def write(self, data: bytes) -> None:
        if self.full_writes:
            self.full_writes -= 1
            self._pending.append(data[: self._rng.randrange(len(data))])
            raise DiskFull
        self._pending.append(data)

    def truncate(self, length: int) -> None:
        self._pending.append(length)

    async def sync(self) -> None:
        count = len(self._pending)
        await asyncio.sleep(self.delay_s())
        if self.broken_syncs:
            self.broken_syncs -= 1
            raise DiskBroken
        self.sync_now(count)

    def sync_now(self, count: int | None = None) -> None:
        count = len(self._pending) if count is None else min(count, len(self._pending))
        for change in self._pending[:count]:
            _apply(self._synced, change)
        del self._pending[:count]
        self._tell()

    # What happens to it.

    def crash(self) -> None:
        """The machine is gone: what was not synced is there in part, or not, or garbled."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        self.crashes_with_pending += 1
        kept = self._rng.randrange(len(pending) + 1)
        for change in pending[:kept]:
            _apply(self._synced, change)
        if kept < len(pending) and self._rng.random() < 0.7:
            torn = pending[kept]
            if not isinstance(torn, int) and torn:
                self.crashes_torn += 1
                piece = bytearray(torn)
                if self._rng.random() < 0.5:
                    del piece[self._rng.randrange(len(piece)) :]
                else:
                    hole = self._rng.randrange(len(piece))
                    piece[hole:] = bytes(len(piece) - hole)  # Its length was written, it was not.
                _apply(self._synced, bytes(piece))
        before = len(self.rows)
        self._tell()
        self.survivors += len(self.rows) > before

    def _tell(self) -> None:
        if len(self._synced) < self._told:
            raise Corrupt("a log cut away what was durable")
        records, self._told = parse(self._synced, self._told)
        for record in records:
            if record[0] == ROWS_RECORD:
                for packed in record[1]:
                    row = Row(*packed)
                    self.rows[row.revision] = row
                    for listener in self.listeners:
                        listener(row)
            elif record[0] == COMPACT_RECORD:
                for revision in record[1]:
                    self.rows.pop(revision, None)
                self.floors.update(record[2])


def _apply(data: bytearray, change: bytes | int) -> None:
    if isinstance(change, int):
        del data[change:]
    else:
        data += change


class RecordLog(LeasedLog):
    """Opening it cuts away a torn end, and raises the epoch.

    With a lease it behaves as a log that another machine may open meanwhile (memory.py).
    """

    def __init__(
        self, disk: SimDisk, lease: Lease | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(disk, lease, clock)
        self._disk: SimDisk = disk
        self._one_at_a_time = asyncio.Lock()  # A record is undone by cutting the file's end away.
        records, self._end = self._read(disk.content())
        if self._end < len(disk.content()):
            disk.truncate(self._end)
        self._rows: dict[int, Row] = {}
        self._floors: dict[str, int] = {}
        epoch = 0
        for record in records:
            if record[0] == EPOCH_RECORD:
                epoch = record[1]
            elif record[0] == ROWS_RECORD:
                for packed in record[1]:
                    self._rows[packed[0]] = Row(*packed)
            else:
                for revision in record[1]:
                    self._rows.pop(revision, None)
                self._floors.update(record[2])
        self._epoch = epoch + 1
        end = self._end
        try:
            self._put([EPOCH_RECORD, self._epoch])
        except DiskFull:
            disk.truncate(end)
            raise StorageFull("the disk is full; the log cannot be opened") from None
        finally:
            disk.sync_now()
        disk.epoch = self._epoch

    @staticmethod
    def _read(data: bytes) -> tuple[list[Record], int]:
        return parse(data)

    def replay(self) -> Iterator[Row]:
        rows, self._rows = self._rows, {}
        for revision in sorted(rows):
            yield rows[revision]

    def floors(self) -> dict[str, int]:
        return dict(self._floors)

    async def append(self, rows: Sequence[Row]) -> None:
        # As with a disk, other writes come in while this one is under way.
        await asyncio.sleep(self._disk.delay_s())
        await self._commit([ROWS_RECORD, [list(row) for row in rows]])
        # From here on the rows are durable, and nobody has been told.
        await asyncio.sleep(self._disk.delay_s())

    async def compact(self, revisions: Sequence[int], floors: dict[str, int]) -> None:
        await self._commit([COMPACT_RECORD, list(revisions), floors])

    async def _commit(self, record: Record) -> None:
        async with self._one_at_a_time:
            self._check_epoch()
            before = self._end
            try:
                self._put(record)
                await self._disk.sync()
            except DiskFull:
                await self._undo(before)
                raise StorageFull("the disk is full; nothing was written") from None
            except DiskBroken:
                await self._undo(before)
                raise Unavailable("the disk does not take writes") from None

    def _put(self, record: Record) -> None:
        data = encode(record)
        self._end += len(data)
        self._disk.write(data)

    async def _undo(self, length: int) -> None:
        """What is refused must not come back after a crash: gone before anybody is told."""
        self._check_epoch()  # Behind ours there are records of somebody else by now.
        self._disk.truncate(length)
        self._end = length
        while True:
            try:
                await self._disk.sync()
                return
            except DiskBroken:
                continue
