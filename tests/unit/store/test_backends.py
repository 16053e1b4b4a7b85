"""Every log keeps the same promises (testing/contracts_log.py); SQLite also those of a disk."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arktos_ray.api.errors import Failure, Unavailable
from arktos_ray.store.backends.memory import MemoryDisk, MemoryLog
from arktos_ray.store.backends.sqlite import SqliteLog
from arktos_ray.store.port import Corrupt, Lease, Log, Row
from arktos_ray.store.records import restore
from arktos_ray.testing.contracts_log import LogContract, row, rows


class HastyClock:
    """Time passes as soon as somebody waits for it."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        self.time += 0.001
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class TestMemoryLog(LogContract):
    @pytest.fixture(autouse=True)
    def _store(self) -> None:
        self.disk = MemoryDisk()

    def open(self) -> Log:
        return MemoryLog(self.disk)

    def open_elsewhere(self) -> Log:
        return MemoryLog(self.disk)

    def abandon(self, log: Log) -> None:
        pass

    def test_a_damaged_row_is_found(self, log: Log) -> None:
        pytest.skip("memory has no checksums")


class TestMemoryLogWithALease(TestMemoryLog):
    @pytest.fixture(autouse=True)
    def _store(self) -> None:
        self.disk, self.clock = MemoryDisk(), HastyClock()

    def open(self) -> Log:
        return MemoryLog(self.disk, Lease(3.0), self.clock)

    def open_elsewhere(self) -> Log:
        return self.open()


class TestSqliteLog(LogContract):
    can_be_taken_away = False

    @pytest.fixture(autouse=True)
    def _store(self, tmp_path: Path) -> Iterator[None]:
        self.path = tmp_path / "tp-1.sqlite"
        self.abandoned: list[Log] = []
        yield
        for log in self.abandoned:
            log.close()

    def open(self) -> SqliteLog:
        return SqliteLog(self.path)

    def abandon(self, log: Log) -> None:
        # What is on the disk at this moment is all that is left.
        left = self.path.with_name("left")
        left.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{self.path}{suffix}", left)
        self.abandoned.append(log)
        self.path = left / self.path.name

    def damage(self, revision: int) -> None:
        db = sqlite3.connect(self.path)
        db.execute("UPDATE log SET body = x'7b7d' WHERE revision = ?", [revision])
        db.commit()
        db.close()

    def test_a_file_has_one_writer_at_a_time(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("arktos_ray.store.backends.sqlite.LOCK_WAIT_S", 0.0)
        with pytest.raises(Unavailable):
            self.open()
        self.append(log, rows(1))

    @pytest.mark.parametrize(
        "change",
        ["revision = 9", "deleted = 1", "path = 't/n/q'", "labels = x'7b7d'", "node = 'other'"],
    )
    def test_every_column_is_under_the_checksum(self, log: Log, change: str) -> None:
        self.append(log, rows(1))
        log.close()
        db = sqlite3.connect(self.path)
        db.execute(f"UPDATE log SET {change}")
        db.commit()
        db.close()
        again = self.open()
        with pytest.raises(Corrupt):
            list(again.replay())
        again.close()

    def test_a_row_that_vanished_is_missed(self, log: Log) -> None:
        self.append(log, rows(1, 2, 3))
        log.close()
        db = sqlite3.connect(self.path)
        db.execute("DELETE FROM log WHERE revision = 2")
        db.commit()
        db.close()
        again = self.open()
        with pytest.raises(Corrupt, match="3 rows"):
            list(again.replay())
        again.close()

    def test_a_file_from_before_there_were_columns_is_read_and_written(self) -> None:
        body = b'{"metadata":{"labels":{"app":"web"}},"spec":{"nodeName":"n1"}}'
        db = sqlite3.connect(self.path)
        db.executescript(
            "CREATE TABLE log (revision INTEGER PRIMARY KEY, deleted INTEGER NOT NULL,"
            " gvr TEXT NOT NULL, path TEXT NOT NULL, body BLOB NOT NULL, crc INTEGER NOT NULL);"
            "CREATE TABLE floors (gvr TEXT PRIMARY KEY, revision INTEGER NOT NULL);"
            "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);"
        )
        crc = zlib.crc32(body, zlib.crc32(b"pods t/n/old"))
        db.execute("INSERT INTO log VALUES (1, 0, 'pods', 't/n/old', ?, ?)", (body, crc))
        db.commit()
        db.close()
        log = self.open()
        [old] = self.begin(log)
        assert (restore(old).labels, restore(old).node) == ({"app": "web"}, "n1")
        self.append(log, rows(2))
        log.close()
        assert self.content() == [old, row(2)]


class Written:
    """A log of some commits as its disk had it, and how long its WAL was after each of them."""

    def __init__(self, home: Path, *, closed: bool) -> None:
        self.commits = [[row(10 * i + j, body=bytes([65 + i]) * 700) for j in range(1 + i % 4)]
                        for i in range(1, 13)]  # fmt: skip
        path = home / "log.sqlite"
        log = SqliteLog(path)
        wal = path.with_name("log.sqlite-wal")
        self.lengths = [wal.stat().st_size]
        for commit in self.commits:
            asyncio.run(log.append(commit))
            self.lengths.append(wal.stat().st_size)
        if closed:
            log.close()
        self.file = path.read_bytes()
        self.wal = b"" if closed else wal.read_bytes()
        log.close()
        self.home, self._tries = home, 0

    def content(self, file: bytes, wal: bytes) -> list[Row]:
        self._tries += 1
        path = self.home / f"try-{self._tries}.sqlite"
        path.write_bytes(file)
        if wal:
            path.with_name(f"{path.name}-wal").write_bytes(wal)
        try:
            log = SqliteLog(path)
            try:
                return list(log.replay())
            finally:
                log.close()
        finally:
            for left in self.home.glob(f"{path.name}*"):
                left.unlink()

    def rows(self, commits: int) -> list[Row]:
        return [r for commit in self.commits[:commits] for r in commit]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(tmp_path_factory.mktemp("interrupted"), closed=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(tmp_path_factory.mktemp("finished"), closed=True)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_wherever_the_disk_stopped_every_commit_is_there_whole_or_not_at_all(
    interrupted: Written, data: st.DataObject
) -> None:
    length = data.draw(st.integers(interrupted.lengths[0], len(interrupted.wal)))
    acknowledged = sum(length >= after for after in interrupted.lengths[1:])
    found = interrupted.content(interrupted.file, interrupted.wal[:length])
    assert found == interrupted.rows(acknowledged)


def damaged(content: bytes, data: st.DataObject, low: int = 0) -> bytes:
    at = data.draw(st.integers(low, len(content) - 1))
    flipped = content[at] ^ data.draw(st.integers(1, 255))
    return content[:at] + bytes([flipped]) + content[at + 1 :]


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_damaged_byte_of_the_file_costs_nothing_or_is_noticed(
    finished: Written, data: st.DataObject
) -> None:
    try:
        found = finished.content(damaged(finished.file, data), b"")
    except (Corrupt, Failure):
        return
    assert found == finished.rows(len(finished.commits))


def test_a_value_that_became_one_of_another_type_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "tp.db"
    log = SqliteLog(path)
    asyncio.run(log.append([Row(1, False, "pods", "t/n/p", b"{}", b"{}", "n1", "Running")]))
    log.close()
    for column in ("body", "labels", "deleted", "node"):
        damaged = tmp_path / f"{column}.db"
        shutil.copy(path, damaged)
        with sqlite3.connect(damaged) as db:
            db.execute(f"UPDATE log SET {column} = ?", (b"x" if column == "deleted" else 7,))
        db.close()
        again = SqliteLog(damaged)
        with pytest.raises(Corrupt):
            list(again.replay())
        again.close()


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_damaged_byte_of_the_wal_costs_no_more_than_the_last_commit_or_is_noticed(
    interrupted: Written, data: st.DataObject
) -> None:
    try:
        found = interrupted.content(interrupted.file, damaged(interrupted.wal, data))
    except (Corrupt, Failure):
        return
    # That one looks exactly like a commit that was under way when the power failed.
    count = len(interrupted.commits)
    assert found in (interrupted.rows(count), interrupted.rows(count - 1))
