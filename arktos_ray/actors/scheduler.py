"""Scheduler: places the pods of one tenant partition on the nodes of every resource partition.

Keeps nothing: its columns are rebuilt from the partitions after a restart.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from arktos_ray.actors.part import Part
from arktos_ray.controllers.scheduling.controller import Home, Scheduling


class Scheduler(Part):
    """Spec adds: tenant_partition."""

    role = "scheduler"

    async def open(self) -> None:
        homes = {
            name: Home(self.client(name), self.peer(name))
            for name in self.spec["partitions"]["resource"]
        }
        tenant_partition = self.spec["tenant_partition"]
        self.scheduling = Scheduling(
            self.client(tenant_partition), homes, self.clock, self.ids, self.tasks,
            source=tenant_partition,
        )  # fmt: skip
        self.scheduling.start()

    async def stats(self) -> dict[str, Any]:
        return {"waiting": self.scheduling.waiting, **asdict(self.scheduling.counters)}
