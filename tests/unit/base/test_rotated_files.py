"""Rotated files: bounded in size, number and age; never half a piece."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from arktos_ray.base.rotated_files import RotatedFiles

NOW = 1_700_000_000.0  # before any file of a test is made


def old(folder: Path) -> list[Path]:
    return sorted(folder.glob("audit-*.log"))


def test_a_large_file_is_begun_anew_and_a_few_are_kept(tmp_path: Path) -> None:
    files = RotatedFiles(tmp_path / "audit.log", 100, 2, 0)
    for number in range(10):
        files.write(b"%039d\n" % number, NOW + number)
    files.close()
    text = b"".join(path.read_bytes() for path in [*old(tmp_path), tmp_path / "audit.log"])
    assert len(old(tmp_path)) == 2
    assert [int(line) for line in text.splitlines()] == [4, 5, 6, 7, 8, 9]
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())


def test_what_is_old_goes(tmp_path: Path) -> None:
    files = RotatedFiles(tmp_path / "audit.log", 10, 5, 3600)
    for number in range(2):
        files.write(b"123456789\n", NOW + number)
    [first] = old(tmp_path)
    os.utime(first, (NOW - 3601, NOW - 3601))
    files.write(b"123456789\n", NOW + 2)
    files.close()
    assert first not in old(tmp_path)


def test_it_goes_on_where_it_was_and_mends_a_torn_line(tmp_path: Path) -> None:
    (tmp_path / "audit.log").write_bytes(b"whole\ntor")
    files = RotatedFiles(tmp_path / "audit.log", 1_000, 2, 0)
    files.write(b"next\n", NOW)
    files.close()
    assert (tmp_path / "audit.log").read_bytes() == b"whole\ntor\nnext\n"


def test_what_did_not_fit_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = RotatedFiles(tmp_path / "audit.log", 1_000, 2, 0)
    files.write(b"first\n", NOW)
    write = os.write
    calls = 0

    def full(file: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return write(file, bytes(data[:3]))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        files.write(b"second\n", NOW)
    monkeypatch.undo()
    files.write(b"third\n", NOW)
    files.close()
    assert (tmp_path / "audit.log").read_bytes() == b"first\nthird\n"
