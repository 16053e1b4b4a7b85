from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from arktos_ray.base import log_files
from arktos_ray.base.log_files import LogFile


def logger(handler: logging.Handler) -> logging.Logger:
    found = logging.Logger("arktos.test", logging.INFO)
    found.addHandler(handler)
    return found


def test_lines_reach_the_file_before_a_flush_returns(tmp_path: Path) -> None:
    handler = LogFile(tmp_path / "a.log", 1 << 20)
    for number in range(100):
        logger(handler).info("line %d", number)
    handler.flush()
    lines = (tmp_path / "a.log").read_text().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == [str(n) for n in range(100)]
    assert " I arktos.test: line 0" in lines[0]


def test_a_file_is_rotated_at_its_size(tmp_path: Path) -> None:
    handler = LogFile(tmp_path / "a.log", 1000)
    for _ in range(100):
        logger(handler).info("x" * 100)
    handler.flush()
    assert sorted(os.listdir(tmp_path)) == ["a.log", "a.log.1", "a.log.2", "a.log.3"]


def test_a_disk_that_hangs_stops_nobody_and_what_was_dropped_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "LINES_WAITING_MAX", 10)
    handler = LogFile(tmp_path / "a.log", 1 << 20)
    hangs, goes_on = threading.Event(), threading.Event()
    write = handler._file.emit

    def slow(record: logging.LogRecord) -> None:
        hangs.set()
        goes_on.wait(30)
        write(record)

    monkeypatch.setattr(handler._file, "emit", slow)
    said = logger(handler)
    said.info("first")
    assert hangs.wait(30)
    for number in range(25):  # Ten of them wait.
        said.info("line %d", number)
    goes_on.set()
    handler.flush()
    text = (tmp_path / "a.log").read_text()
    assert "(15 lines were dropped: the disk did not keep up)" in text
    assert "line 9" in text
    assert "line 10" not in text
