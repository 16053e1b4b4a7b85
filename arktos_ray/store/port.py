"""Log: all that a disk, or etcd, must do for a partition.

A log keeps rows in revision order. State is what the newest row of each path says; older rows stay
for watches until `compact` names them. There is one writer at a time: opening a log raises its
epoch, and whoever holds an older epoch can append nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Row:
    """One revision of one object. `body` of a deletion is the object as it last was."""

    revision: int
    deleted: bool
    gvr: str
    path: str  # names.Key.path()
    body: bytes


class Log(Protocol):
    @property
    def epoch(self) -> int:
        """Raised by one whenever the log is opened."""

    def replay(self) -> Iterator[Row]:
        """Every row that is left, in revision order. Raises Corrupt when a checksum is wrong.

        Blocks; called once, before the first append.
        """

    def floors(self) -> dict[str, int]:
        """gvr -> the revision up to which its history was compacted."""

    async def append(self, rows: Sequence[Row]) -> None:
        """All of the rows, or none. They are durable when this returns.

        Raises StorageFull or Unavailable; then none of the rows is there, now or later.
        """

    async def compact(self, revisions: Sequence[int], floors: dict[str, int]) -> None:
        """Forget these rows, and remember the floors, in one step."""

    def close(self) -> None: ...


class Corrupt(Exception):
    """A row is not what was written. Not a Failure: nobody may go on from here."""
