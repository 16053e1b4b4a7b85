"""The log as one SQLite file: the embedded default.

WAL with synchronous=FULL: one fsync a commit, whatever the number of rows in it. Measured on two
busy cores: 4.5K commits/s of one row, 127K rows/s at 100 rows a commit.

One table, appended in revision order; a live object stays in the row that wrote it last. So a
write is one insert at the end of one B-tree, and recovery reads the file once, front to back.
"""

from __future__ import annotations

import math
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from arktos_ray.api.errors import Failure, StorageFull, Unavailable
from arktos_ray.base.worker import Worker
from arktos_ray.store.port import Corrupt, Row

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS log (
    revision INTEGER PRIMARY KEY,
    deleted INTEGER NOT NULL,
    gvr TEXT NOT NULL,
    path TEXT NOT NULL,
    body BLOB NOT NULL,
    crc INTEGER NOT NULL,
    labels BLOB,
    node TEXT,
    phase TEXT
);
CREATE TABLE IF NOT EXISTS floors (gvr TEXT PRIMARY KEY, revision INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_COLUMNS = "revision, deleted, gvr, path, body, labels, node, phase, crc"
_INSERT = f"INSERT INTO log ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
# Added to files from before there were columns; rows without them are decoded when they are read.
_ADDED = ("labels BLOB", "node TEXT", "phase TEXT")
# https://www.sqlite.org/fileformat2.html#walformat
_WAL_HEADER, _WAL_FRAME = 32, 24
_WAL_LITTLE = b"\x37\x7f\x06\x82"
_PAGE_BYTES = 4_096
# How many rows there should be: a damaged file may lose some without a trace.
_SELECT_ROWS = "SELECT value FROM meta WHERE name = 'rows'"
_COUNT_ROWS = "UPDATE meta SET value = value + ? WHERE name = 'rows'"
# Rows read at a time: 3 MB of the usual ones. More is not faster.
_PAGE_ROWS = 2_000
# 4 KiB pages: the WAL is copied back each 32 MB, not each 4, which is where p99 comes from.
_CHECKPOINT_PAGES = 8_000
# A predecessor that was just killed may hold the file for a moment.
LOCK_WAIT_S = 10.0
# SQLite's result codes (sqlite3.h).
_SQLITE_IOERR, _SQLITE_CORRUPT, _SQLITE_FULL, _SQLITE_NOTADB = 10, 11, 13, 26


class SqliteLog:
    """One writer: the file is locked for as long as it is open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # Its own thread: SQLite waits for the disk outside the interpreter lock.
        self._thread = Worker(f"log-{path.stem}")
        self._epoch = 0
        self._closed = False
        self._db = self._thread.wait(self._open)

    def _open(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(self._path, isolation_level=None, timeout=LOCK_WAIT_S)
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute(f"PRAGMA page_size={_PAGE_BYTES}")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
            self._check_wal(db)
            db.executescript(_SCHEMA)
            there = {column[1] for column in db.execute("PRAGMA table_info(log)")}
            for column in _ADDED:
                if column.partition(" ")[0] not in there:
                    db.execute(f"ALTER TABLE log ADD COLUMN {column}")
            db.execute("BEGIN IMMEDIATE")
            db.execute(
                "INSERT INTO meta VALUES ('epoch', 1)"
                " ON CONFLICT (name) DO UPDATE SET value = value + 1"
            )
            if db.execute(_SELECT_ROWS).fetchone() is None:
                db.execute("INSERT INTO meta SELECT 'rows', count(*) FROM log")
            db.execute("COMMIT")
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _failure(self._path, error) from error
        [self._epoch] = db.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        return db

    def _check_wal(self, db: sqlite3.Connection) -> None:
        """SQLite reads its log up to the first damaged frame and forgets the rest without a word.

        A commit that a crash interrupted ends like that too, but there is only ever one of those.
        Raises Corrupt when more commits lie behind: they were acknowledged.
        """
        wal = self._path.with_name(f"{self._path.name}-wal")
        # Counted before SQLite reads: whoever opens the file may begin the log anew.
        commits = _wal_commits(wal)
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if len(commits) > 1:
            [_, good, _] = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            lost = sum(frame > good for frame in commits)
            if lost > 1:
                raise Corrupt(f"{wal} is damaged after frame {good}: {lost} commits are lost")

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def trusted_until(self) -> float:
        return math.inf  # The lock of the file dies with this process, and with nothing else.

    @property
    def renew_every_s(self) -> float | None:
        return None

    async def take_over(self) -> None:
        return

    async def renew(self) -> None:
        return

    def replay(self) -> Iterator[Row]:
        # Turn by turn with the reader, not beside it: SQLite lets go of the interpreter lock at
        # every row, and would wait for it as often.
        cursor = self._in_thread(
            lambda: self._db.execute(f"SELECT {_COLUMNS} FROM log ORDER BY revision")
        )
        count = 0
        while page := self._in_thread(lambda: cursor.fetchmany(_PAGE_ROWS)):
            count += len(page)
            for columns in page:
                row = Row._make(columns[:-1])
                if not _is_sound(row, columns[-1]):
                    raise self._corrupt(f"row {row.revision} ({row.gvr} {row.path})")
                yield row
        [expected] = self._in_thread(lambda: self._db.execute(_SELECT_ROWS).fetchone())
        if expected != count:
            raise self._corrupt(f"{expected} rows were written and {count} are there: the file")

    def _corrupt(self, what: str) -> Corrupt:
        return Corrupt(f"{self._path}: {what} fails its checksum")

    def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return self._thread.wait(work)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _failure(self._path, error) from error

    def floors(self) -> dict[str, int]:
        return dict(
            self._thread.wait(
                lambda: self._db.execute("SELECT gvr, revision FROM floors").fetchall()
            )
        )

    async def append(self, rows: Sequence[Row]) -> None:
        await self._thread.run(lambda: self._append(rows))

    def _append(self, rows: Sequence[Row]) -> None:
        def work(db: sqlite3.Connection) -> None:
            db.executemany(_INSERT, [(*row, _crc(row)) for row in rows])
            db.execute(_COUNT_ROWS, (len(rows),))

        self._transaction(work)

    async def compact(self, revisions: Sequence[int], floors: dict[str, int]) -> None:
        def work(db: sqlite3.Connection) -> None:
            gone = db.executemany("DELETE FROM log WHERE revision = ?", [(r,) for r in revisions])
            db.execute(_COUNT_ROWS, (-gone.rowcount if revisions else 0,))
            db.executemany(
                "INSERT INTO floors VALUES (?, ?)"
                " ON CONFLICT (gvr) DO UPDATE SET revision = excluded.revision",
                list(floors.items()),
            )

        await self._thread.run(lambda: self._transaction(work))

    def _transaction(self, work: Callable[[sqlite3.Connection], object]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            work(self._db)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise _failure(self._path, error) from error

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._thread.wait(self._db.close)
        self._thread.close()


def _wal_commits(wal: Path) -> list[int]:
    """The frames that end a commit, by number, since the WAL was last begun anew. 20 ms for 32 MB.

    Those of before, which may follow, are long in the file itself; they carry other salts.
    """
    try:
        content = wal.read_bytes()
    except FileNotFoundError:
        return []
    header, frames = content[:_WAL_HEADER], len(content) // (_WAL_FRAME + _PAGE_BYTES)
    starts = [_WAL_HEADER + i * (_WAL_FRAME + _PAGE_BYTES) for i in range(frames)]
    salts = [content[start + 8 : start + 16] for start in starts]
    if not salts:
        return []
    # A header is written in one piece: one that is wrong was damaged, and SQLite reads nothing.
    salt = header[16:24] if _good_header(header) else max(set(salts), key=salts.count)
    return [
        number
        for number, start in enumerate(starts, 1)
        if salts[number - 1] == salt and content[start + 4 : start + 8] != bytes(4)
    ]


def _good_header(header: bytes) -> bool:
    order = "<" if header[:4] == _WAL_LITTLE else ">"
    one = two = 0
    for first, second in struct.iter_unpack(f"{order}II", header[:24]):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return struct.pack(">II", one, two) == header[24:32]


def _is_sound(row: Row, crc: object) -> bool:
    try:
        return _crc(row) == crc
    except TypeError:  # SQLite keeps a type with each value; a damaged one is another's.
        return False


def _crc(row: Row) -> int:
    """1.3 us for a row of 1.5 KB."""
    revision, deleted, gvr, path, body, labels, node, phase = row
    if labels is None:  # From before there were columns.
        return zlib.crc32(body, zlib.crc32(f"{gvr} {path}".encode()))
    columns = f"{revision} {+deleted} {gvr} {path} {node} {phase} ".encode()
    return zlib.crc32(body, zlib.crc32(labels, zlib.crc32(columns)))


def _failure(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> Failure | Corrupt:
    if isinstance(error, UnicodeDecodeError):  # A name in a damaged schema, said in an error.
        return Corrupt(f"{path}: {error}")
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary in (_SQLITE_CORRUPT, _SQLITE_NOTADB):
        return Corrupt(f"{path}: {error}")
    if primary == _SQLITE_FULL:
        return StorageFull(f"{path}: the disk is full; nothing was written. Free space, then retry")
    if primary == _SQLITE_IOERR:
        return Unavailable(f"{path}: the disk does not take writes: {error}")
    return Unavailable(f"{path}: {error}")
