"""The recent past of one resource, for watchers and for lists at an exact revision.

Holds events in revision order, so that a watch can start a little in the past without touching the
log. Older than that, the answer is Expired, and the watcher lists again.

Pure: it never waits. `store.py` puts events in and wakes the watchers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from arktos_ray.api.errors import Expired
from arktos_ray.store.records import Record


class Change(NamedTuple):
    """One committed write: the record, and the one that it replaced. 0.3 us."""

    record: Record  # record.deleted: the object is gone
    previous: Record | None

    @property
    def revision(self) -> int:
        return self.record.revision


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    # Kubernetes keeps five minutes; a watcher that was away for longer lists again.
    age_ms_min: int = 300_000
    # At either of these the oldest go, young or not: a busy partition keeps a minute, not a GB.
    changes_max: int = 100_000
    bytes_max: int = 96 << 20  # bodies of one resource, those shared with the present included
    # Below this many nothing is dropped, however old: quiet resources keep a long memory.
    changes_min: int = 500


class WatchCache:
    def __init__(self, floor: int, limits: HistoryLimits) -> None:
        # A watch may start at the floor or after it.
        self.floor = floor
        self._limits = limits
        self._changes: list[Change] = []
        self._revisions: list[int] = []
        self._dropped = 0  # how many at the front of the lists are already forgotten
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._revisions) - self._dropped

    def append(self, change: Change) -> None:
        record, revisions = change.record, self._revisions
        revision = record.revision
        assert not revisions or revision > revisions[-1], "out of order"
        self._changes.append(change)
        revisions.append(revision)
        self._bytes += len(record.body)

    @property
    def newest(self) -> int:
        """The revision of the last change; 0 when there is none."""
        return self._revisions[-1] if len(self) else 0

    def merge(self, changes: Iterable[Change]) -> None:
        """Take in the past of somebody else, as far as it is not older than the floor."""
        new = [change for change in changes if change.revision > self.floor]
        self._put([*self._changes[self._dropped :], *new])

    def drop(self, doomed: Callable[[Change], bool]) -> list[Change]:
        """Forget these, wherever they are; what was forgotten, oldest first."""
        kept: list[Change] = []
        dropped: list[Change] = []
        for change in self:
            (dropped if doomed(change) else kept).append(change)
        if dropped:
            self._put(kept)
        return dropped

    def __iter__(self) -> Iterator[Change]:
        return iter(self._changes[self._dropped :])

    def _put(self, changes: list[Change]) -> None:
        changes.sort(key=lambda change: change.revision)
        self._changes, self._dropped = changes, 0
        self._revisions = [change.revision for change in changes]
        self._bytes = sum([len(change.record.body) for change in changes])

    def since(self, revision: int, limit: int | None = None) -> Sequence[Change]:
        """The changes after the revision, oldest first: all, or the first so many.

        Raises Expired when some of them are gone.
        """
        self.check(revision)
        start = max(bisect_right(self._revisions, revision), self._dropped)
        return self._changes[start : None if limit is None else start + limit]

    def check(self, revision: int) -> None:
        """Raises Expired when changes after this revision are gone."""
        if revision < self.floor:
            raise Expired(f"too old resource version: {revision} ({self.floor})")

    def trim(self, now_ms: int) -> list[Change]:
        """Forget what is too old or too much; what was forgotten, oldest first."""
        limits, kept = self._limits, len(self)
        oldest_allowed = (now_ms - limits.age_ms_min) << 19
        start = end = self._dropped
        while kept > limits.changes_min and (
            kept > limits.changes_max
            or self._bytes > limits.bytes_max
            or self._revisions[end] < oldest_allowed
        ):
            self._bytes -= len(self._changes[end].record.body)
            end += 1
            kept -= 1
        if start == end:
            return []
        forgotten = self._changes[start:end]
        self.floor = forgotten[-1].revision
        self._dropped = end
        if self._dropped > 1024 and self._dropped * 4 > len(self._changes):
            # Amortised: each element is moved three times at most on average.
            del self._changes[: self._dropped]
            del self._revisions[: self._dropped]
            self._dropped = 0
        return forgotten
