"""Every log keeps the same promises; SQLite also those of a disk."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from arktos_ray.api.errors import Unavailable
from arktos_ray.store.backends.memory import MemoryDisk, MemoryLog
from arktos_ray.store.backends.sqlite import SqliteLog
from arktos_ray.store.port import Corrupt, Log, Row

Open = Callable[[], Log]


@pytest.fixture(params=["memory", "sqlite"])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    disk = MemoryDisk()
    if request.param == "memory":
        return lambda: MemoryLog(disk)
    return lambda: SqliteLog(tmp_path / "tp-1.sqlite")


def row(revision: int, deleted: bool = False) -> Row:
    return Row(revision, deleted, "pods", f"t/n/p{revision}", b'{"metadata":{}}')


def test_rows_come_back_in_revision_order_after_reopening(open_log: Open) -> None:
    log = open_log()
    asyncio.run(log.append([row(1), row(2)]))
    asyncio.run(log.append([row(5, deleted=True)]))
    log.close()
    again = open_log()
    assert list(again.replay()) == [row(1), row(2), row(5, deleted=True)]
    assert again.epoch == 2
    again.close()


def test_compaction_forgets_the_named_rows_and_remembers_the_floor(open_log: Open) -> None:
    log = open_log()
    asyncio.run(log.append([row(1), row(2), row(3)]))
    asyncio.run(log.compact([1, 3], {"pods": 3}))
    log.close()
    again = open_log()
    assert [r.revision for r in again.replay()] == [2]
    assert again.floors() == {"pods": 3}
    again.close()


def test_a_replaced_writer_can_append_nothing_more() -> None:
    disk = MemoryDisk()
    old = MemoryLog(disk)
    MemoryLog(disk)
    with pytest.raises(Unavailable, match="fenced"):
        asyncio.run(old.append([row(1)]))


def test_a_file_has_one_writer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = SqliteLog(tmp_path / "tp-1.sqlite")
    monkeypatch.setattr("arktos_ray.store.backends.sqlite.LOCK_WAIT_S", 0.0)
    with pytest.raises(Unavailable):
        SqliteLog(tmp_path / "tp-1.sqlite")
    asyncio.run(first.append([row(1)]))
    first.close()


def test_a_row_that_is_not_what_was_written_is_found(tmp_path: Path) -> None:
    path = tmp_path / "tp-1.sqlite"
    log = SqliteLog(path)
    asyncio.run(log.append([row(1)]))
    log.close()
    db = sqlite3.connect(path)
    db.execute("UPDATE log SET body = x'7b7d'")
    db.commit()
    db.close()
    again = SqliteLog(path)
    with pytest.raises(Corrupt, match="row 1"):
        list(again.replay())
    again.close()
