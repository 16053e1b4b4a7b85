"""Scheduler: places the pods of one tenant partition on the nodes of every resource partition.

Keeps nothing: its columns are rebuilt from the partitions after a restart.
"""

from __future__ import annotations

from typing import Any

from arktos_ray.actors.part import Part
from arktos_ray.controllers.scheduling.controller import Scheduling


class Scheduler(Part):
    """Spec adds: tenant_partition."""

    role = "scheduler"

    async def open(self) -> None:
        partitions = {
            name: (self.peer(name), self.client(name))
            for name in self.spec["partitions"]["resource"]
        }
        self.scheduling = Scheduling(
            self.client(self.spec["tenant_partition"]), partitions, self.clock, self.ids,
            self.tasks,
        )  # fmt: skip
        self.tasks.start(self.scheduling.run(), self.name)

    async def stats(self) -> dict[str, Any]:
        return self.scheduling.stats()
