"""A log in memory, for tests and the simulator. Survives its partition, not its process.

`fail_next` makes the next appends raise, as a full or broken disk would. With a lease it behaves
as a log that another machine may open meanwhile; without one its lock dies with its process.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence

from arktos_ray.api.errors import Failure
from arktos_ray.base.clock import Clock, SystemClock
from arktos_ray.store.port import Fenced, Lease, Row


class MemoryDisk:
    """What stays when the partition crashes: give it to the next MemoryLog."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.floors: dict[str, int] = {}
        self.epoch = 0
        self.owned_until = -math.inf  # until when the last owner's lease may run
        self.delay_s: Callable[[], float] = lambda: 0.0  # how long it takes to reach


class LeasedLog:
    """What logs on a MemoryDisk share: an epoch, and with a lease the trust that runs out."""

    def __init__(self, disk: MemoryDisk, lease: Lease | None, clock: Clock | None) -> None:
        self._disk, self._lease, self._clock = disk, lease, clock or SystemClock()
        self._epoch = 0
        self._trusted_until = math.inf if lease is None else -math.inf

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def trusted_until(self) -> float:
        return self._trusted_until

    @property
    def renew_every_s(self) -> float | None:
        return None if self._lease is None else self._lease.renew_every_s

    async def take_over(self) -> None:
        if self._lease is not None:
            wait_s = self._disk.owned_until - self._clock.monotonic()
            if wait_s > 0:
                await self._clock.sleep(wait_s)
            await self.renew()

    async def renew(self) -> None:
        asked = self._clock.monotonic()
        # Far away: who was replaced learns of it late enough to have done something wrong.
        await asyncio.sleep(self._disk.delay_s())
        self._check_epoch()
        if self._lease is not None:
            self._disk.owned_until = self._clock.monotonic() + self._lease.ttl_s
            self._trusted_until = self._lease.until(asked)

    def _check_epoch(self) -> None:
        if self._epoch != self._disk.epoch:
            self._trusted_until = -math.inf
            raise Fenced(f"fenced: epoch {self._epoch} was replaced by {self._disk.epoch}")

    def close(self) -> None:
        if self._epoch == self._disk.epoch:
            self._disk.owned_until = -math.inf
        if self._lease is not None:
            self._trusted_until = -math.inf


class MemoryLog(LeasedLog):
    def __init__(
        self, disk: MemoryDisk | None = None, lease: Lease | None = None,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(disk if disk is not None else MemoryDisk(), lease, clock)
        self._disk.epoch += 1
        self._epoch = self._disk.epoch
        self.fail_next: list[Failure] = []

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
