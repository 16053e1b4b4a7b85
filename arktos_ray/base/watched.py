"""Files that are read again when they changed. What cannot be read leaves the old value in place.

`refresh` is called every few seconds by whoever holds one: two system calls a file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
_Stamp = tuple[tuple[str, int, int, int], ...]


class Watched(Generic[T]):
    """A value that was read from files."""

    def __init__(self, files: Callable[[], Iterable[Path]], read: Callable[[], T]) -> None:
        """read: raises OSError or ValueError for what it cannot use; here that is the caller's."""
        self._files, self._read = files, read
        self._stamp = self._stamp_now()
        self.value: T = read()

    def refresh(self) -> bool:
        """Whether the value is another now."""
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return False
        self._stamp = stamp  # A broken file is told of once.
        try:
            self.value = self._read()
        except (OSError, ValueError) as error:
            names = ", ".join(each[0] for each in stamp) or "the files"
            log.error("%s changed and cannot be used; what was there before counts: %s",
                      names, error)  # fmt: skip
            return False
        return True

    def _stamp_now(self) -> _Stamp:
        found = []
        for path in self._files():
            try:
                seen = path.stat()
                found.append((str(path), seen.st_mtime_ns, seen.st_size, seen.st_ino))
            except OSError:
                found.append((str(path), 0, 0, 0))
        return tuple(found)
