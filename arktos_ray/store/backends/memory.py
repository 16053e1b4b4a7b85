"""A log in memory, for tests and the simulator. Survives its partition, not its process.

`fail_next` makes the next appends raise, as a full or broken disk would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from arktos_ray.api.errors import Failure, Unavailable
from arktos_ray.store.port import Row


class MemoryDisk:
    """What stays when the partition crashes: give it to the next MemoryLog."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.floors: dict[str, int] = {}
        self.epoch = 0


class MemoryLog:
    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self._disk = disk if disk is not None else MemoryDisk()
        self._disk.epoch += 1
        self._epoch = self._disk.epoch
        self.fail_next: list[Failure] = []

    @property
    def epoch(self) -> int:
        return self._epoch

    def replay(self) -> Iterator[Row]:
        for revision in sorted(self._disk.rows):
            yield self._disk.rows[revision]

    def floors(self) -> dict[str, int]:
        return dict(self._disk.floors)

    async def append(self, rows: Sequence[Row]) -> None:
        await asyncio.sleep(0)  # As with a disk, other writes come in while this one is under way.
        if self.fail_next:
            raise self.fail_next.pop(0)
        self._check_epoch()
        for row in rows:
            assert row.revision not in self._disk.rows
            self._disk.rows[row.revision] = row

    async def compact(self, revisions: Sequence[int], floors: dict[str, int]) -> None:
        self._check_epoch()
        for revision in revisions:
            self._disk.rows.pop(revision, None)
        self._disk.floors.update(floors)

    def _check_epoch(self) -> None:
        if self._epoch != self._disk.epoch:
            raise Unavailable(f"fenced: epoch {self._epoch} was replaced by {self._disk.epoch}")

    def close(self) -> None:
        pass
