"""Rows packed into chunks for a store of keys and values, and which chunks are worth clearing.

etcd refuses requests over 1.5 MiB and is slow with many small keys, so the rows of one commit
share values of up to a megabyte. A chunk is found by the revision of its first row; a row that is
larger than a chunk is cut into parts. Each part carries a checksum. Pure.

part:    version (1 byte), its number, how many there are, crc32 of all that; the payload
payload: of all parts of a chunk, joined: a msgpack list of rows, in the order of Row's fields
"""

from __future__ import annotations

import struct
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgpack

from arktos_ray.store.port import Corrupt, Row

_HEADER = struct.Struct(">BBHI")
_VERSION = 1
# etcd takes requests of 1.5 MiB; the rest is for keys, the comparison, and what else is in it.
PART_BYTES_MAX = 1 << 20
# A row's fields beside its body.
_ROW_BYTES = 200
# A chunk of which at most this share is alive is written anew.
_LIVE_SHARE_MAX = 0.5


@dataclass(frozen=True, slots=True)
class Chunk:
    rows: tuple[Row, ...]
    parts: tuple[bytes, ...]

    @property
    def first(self) -> int:
        return self.rows[0].revision

    @property
    def size(self) -> int:
        return sum(map(len, self.parts))


def pack(rows: Sequence[Row]) -> Iterator[Chunk]:
    """The chunks of some rows, in their order. 2 us a row of 1.5 KB."""
    start = size = 0
    for i, row in enumerate(rows):
        more = len(row.body) + len(row.path) + _ROW_BYTES + len(row.labels or b"")
        if size and size + more > PART_BYTES_MAX:
            yield _chunk(rows[start:i])
            start, size = i, 0
        size += more
    if start < len(rows):
        yield _chunk(rows[start:])


def _chunk(rows: Sequence[Row]) -> Chunk:
    payload = msgpack.packb(rows)
    cuts = range(0, len(payload), PART_BYTES_MAX)
    pieces = [payload[at : at + PART_BYTES_MAX] for at in cuts]
    return Chunk(
        tuple(rows),
        tuple(
            _HEADER.pack(_VERSION, i, len(pieces), _crc(i, len(pieces), piece)) + piece
            for i, piece in enumerate(pieces)
        ),
    )


def _crc(number: int, count: int, piece: bytes) -> int:
    return zlib.crc32(piece, number << 16 | count)


class Unpacker:
    """Parts in, rows out. Raises Corrupt for what cannot have been written."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._wanted = 0
        self._first = self._last = 0

    def feed(self, first: int, value: bytes) -> list[Row]:
        """The rows of the chunk that starts at this revision, with its last part; else []."""
        if len(value) < _HEADER.size:
            raise Corrupt(f"chunk {first} is cut short")
        version, number, count, crc = _HEADER.unpack_from(value)
        piece = value[_HEADER.size :]
        if version != _VERSION or _crc(number, count, piece) != crc:
            raise Corrupt(f"chunk {first}, part {number}, fails its checksum")
        if number != len(self._pieces) or (self._pieces and first != self._first):
            raise Corrupt(f"chunk {first}: part {len(self._pieces)} is missing")
        self._first, self._wanted = first, count
        self._pieces.append(piece)
        if number + 1 < count:
            return []
        payload = piece if count == 1 else b"".join(self._pieces)
        self._pieces = []
        rows = [Row._make(fields) for fields in msgpack.unpackb(payload, use_list=False)]
        # A value under another's key has a good checksum all the same.
        if not rows or rows[0].revision < first or rows[0].revision <= self._last:
            raise Corrupt(f"chunk {first} holds rows of another chunk")
        self._last = rows[-1].revision
        return rows

    def finish(self) -> None:
        if self._pieces:
            raise Corrupt(f"chunk {self._first}: part {len(self._pieces)} is missing")


@dataclass(slots=True)
class _Known:
    revisions: array[int]
    size: int
    dead: set[int]

    @property
    def alive(self) -> int:
        return len(self.revisions) - len(self.dead)


class Chunks:
    """Which rows are in which chunk, and which of them are garbage. 8 B a row, 250 B a chunk."""

    def __init__(self) -> None:
        self._firsts: list[int] = []  # sorted
        self._known: dict[int, _Known] = {}
        self._touched: dict[int, None] = {}  # chunks with garbage

    def __len__(self) -> int:
        return len(self._firsts)

    def add(self, first: int, rows: Sequence[Row], size: int) -> None:
        """A chunk beyond all others, or in place of one that was removed."""
        revisions = array("q", [row.revision for row in rows])
        self._known[first] = _Known(revisions, size, set())
        if not self._firsts or first > self._firsts[-1]:
            self._firsts.append(first)
        else:
            self._firsts.insert(bisect_left(self._firsts, first), first)

    def forget(self, revisions: Sequence[int]) -> list[int]:
        """These rows are garbage; those that are there, and were not garbage already."""
        fresh = []
        for revision in revisions:
            i = bisect_right(self._firsts, revision) - 1
            if i < 0:
                continue
            first = self._firsts[i]
            known = self._known[first]
            at = bisect_left(known.revisions, revision)
            if at == len(known.revisions) or known.revisions[at] != revision:
                continue
            if revision not in known.dead:
                known.dead.add(revision)
                self._touched[first] = None
                fresh.append(revision)
        return fresh

    def unforget(self, revisions: Sequence[int]) -> None:
        """`forget` was not carried out."""
        for revision in revisions:
            first = self._firsts[bisect_right(self._firsts, revision) - 1]
            self._known[first].dead.discard(revision)

    def remove(self, first: int) -> None:
        del self._known[first]
        self._touched.pop(first, None)
        del self._firsts[bisect_left(self._firsts, first)]

    def garbage(self) -> list[int]:
        """Every row that is garbage and still there, in no order."""
        return [revision for first in self._touched for revision in self._known[first].dead]

    def is_dead(self, first: int, revision: int) -> bool:
        return revision in self._known[first].dead

    def empty(self, limit: int) -> list[int]:
        """Chunks that are all garbage."""
        found = (first for first in self._touched if not self._known[first].alive)
        return [first for first, _ in zip(found, range(limit), strict=False)]

    def sparse(self, bytes_max: int) -> list[list[int]]:
        """Chunks that are mostly garbage, neighbours together when what is left fits one chunk.

        At most so many bytes to read.
        """
        wanted = sorted(
            first
            for first in self._touched
            if 0 < self._known[first].alive
            <= _LIVE_SHARE_MAX * len(self._known[first].revisions)
        )  # fmt: skip
        runs: list[list[int]] = []
        last, left, total = -2, 0, 0
        for first in wanted:
            known = self._known[first]
            total += known.size
            if total > bytes_max:
                break
            i = bisect_left(self._firsts, first)
            live = known.size * known.alive // len(known.revisions)
            if i == last + 1 and left + live <= PART_BYTES_MAX // 2 and len(runs[-1]) < 50:
                runs[-1].append(first)
                left += live
            else:
                runs.append([first])
                left = live
            last = i
        return runs
