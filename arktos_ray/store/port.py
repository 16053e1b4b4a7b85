"""Log: all that a disk, or etcd, must do for a partition.

A log keeps rows in revision order. State is what the newest row of each path says; older rows stay
for watches until `compact` names them. There is one writer at a time: opening a log raises its
epoch, and whoever holds an older epoch can append nothing more.

Not writing is not enough for who was replaced: it must not answer reads either. So a log also says
until when nobody else can have opened it. Opened elsewhere, it is given out only after that
moment (`take_over`). docs/flows/partition-failover.md has the whole story.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from arktos_ray.api.errors import Unavailable


class Row(NamedTuple):
    """One revision of one object. `body` of a deletion is the object as it last was.

    A tuple, because recovery makes a million of them: 0.3 us each.
    """

    revision: int
    deleted: bool
    gvr: str
    path: str  # names.Key.path()
    body: bytes
    # The columns of a record (records.py), so that recovery need not decode the body. labels is
    # their JSON, b"" when there are none; None in rows of logs from before there were columns.
    labels: bytes | None = None
    node: str = ""
    phase: str = ""


class Log(Protocol):
    @property
    def epoch(self) -> int:
        """Raised by one whenever the log is opened."""

    @property
    def trusted_until(self) -> float:
        """Until when, by Clock.monotonic, nobody else can have opened the log.

        Infinity where the log's lock dies with its process, and with nothing else. -infinity
        before `take_over`.
        """

    @property
    def renew_every_s(self) -> float | None:
        """How often `renew` is wanted; None where trust does not run out."""

    def replay(self) -> Iterator[Row]:
        """Every row that is left, in revision order. Raises Corrupt when a checksum is wrong.

        Blocks; called once, before the first append.
        """

    def floors(self) -> dict[str, int]:
        """gvr -> the revision up to which its history was compacted."""

    async def take_over(self) -> None:
        """Wait until no predecessor can still answer as if the log were its own; trust begins.

        After `replay`, so that the wait and the reading overlap. Raises Fenced or Unavailable.
        """

    async def renew(self) -> None:
        """Move `trusted_until` on. Raises Fenced; or Unavailable, and then trust runs out."""

    async def append(self, rows: Sequence[Row]) -> None:
        """All of the rows, or none. They are durable when this returns.

        Raises StorageFull or Unavailable; then none of the rows is there, now or later. Raises
        Fenced or InDoubt; then this partition is over, and its successor finds all of the rows or
        none.
        """

    async def compact(self, revisions: Sequence[int], floors: dict[str, int]) -> None:
        """Forget these rows, and remember the floors, in one step."""

    def close(self) -> None:
        """In order: a successor need not wait. Once more does nothing."""


class Fenced(Unavailable):
    """Somebody else opened this log since: whatever we hold is the past. Ends the partition."""


class InDoubt(Exception):
    """Nobody can tell whether rows were written. Not a Failure: a new epoch has to find out."""


class Corrupt(Exception):
    """A row is not what was written. Not a Failure: nobody may go on from here."""


@dataclass(frozen=True, slots=True)
class Lease:
    """How long trust lasts, where it does not last as long as a process.

    Two clocks are involved, and neither is read by the other side: the holder counts from before
    it asked, the successor from after the holder was fenced. They only need to run equally fast,
    to a tenth.
    """

    # A machine that is lost costs this much, and finding out. Above the pauses of a busy machine.
    ttl_s: float = 3.0

    @property
    def renew_every_s(self) -> float:
        """Two renewals may be lost before the lease is."""
        return self.ttl_s / 3

    def until(self, asked: float, ttl_s: float | None = None) -> float:
        """When to stop trusting what was asked for at that moment."""
        return asked + (ttl_s or self.ttl_s) * 0.9
