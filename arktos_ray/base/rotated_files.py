"""A file that is begun anew when it is large, and its predecessors, of which a few are kept.

Whole pieces only: what could not be written to its end is taken back, so that no reader finds half
a line. Blocking; for a thread that may wait for a disk.
"""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path


class RotatedFiles:
    """`NAME.log`, and beside it `NAME-2026-01-31T12-00-00.000000.log`, for their owner only."""

    def __init__(self, path: Path, bytes_max: int, kept: int, age_s: float) -> None:
        """kept: predecessors beside the file itself. age_s: how long they are kept; 0 is for ever.
        OSError when the file cannot be opened comes with the first piece."""
        self._path, self._bytes_max, self._kept, self._age_s = path, bytes_max, kept, age_s
        self._file = -1
        self._size = 0

    def write(self, data: bytes, now: float) -> None:
        """Raises OSError; then nothing of it is there."""
        if self._file < 0:
            self._open()
        if self._size and self._size + len(data) > self._bytes_max:
            self._rotate(now)
        written = 0
        view = memoryview(data)
        try:
            while written < len(data):
                written += os.write(self._file, view[written:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += written

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o600)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                # Of a process that ended in the middle: what follows begins its own line.
                size += os.write(file, b"\n")
        except OSError:
            os.close(file)
            raise
        self._file, self._size = file, size

    def _rotate(self, now: float) -> None:
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")
        path = self._path
        os.rename(path, path.with_name(f"{path.stem}-{stamp}{path.suffix}"))
        self.close()
        self._prune(now)
        self._open()

    def _prune(self, now: float) -> None:
        path = self._path
        old = sorted(path.parent.glob(f"{path.stem}-????-??-??T*{path.suffix}"), reverse=True)
        for number, each in enumerate(old):
            with contextlib.suppress(OSError):
                too_old = self._age_s and now - each.stat().st_mtime > self._age_s
                if number >= self._kept or too_old:
                    each.unlink()
