"""Scheduler: places the pods of one tenant partition on the nodes of every resource partition.

Keeps nothing: its columns are rebuilt from the partitions after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from arktos_ray.actors.part import Part
from arktos_ray.controllers.scheduling.controller import Home, Scheduling
from arktos_ray.tenancy.topology import Topology


class Scheduler(Part):
    """Spec adds: tenant_partition."""

    role = "scheduler"

    async def open(self) -> None:
        homes = {name: self._home(name) for name in self.topology.names("resource")}
        tenant_partition = self.spec["tenant_partition"]
        self.scheduling = Scheduling(
            self.client(tenant_partition), homes, self.clock, self.ids, self.tasks,
            source=tenant_partition,
        )  # fmt: skip
        self.scheduling.start()

    def _home(self, name: str) -> Home:
        return Home(self.client(name), self.peer(name))

    async def regroup(self, old: Topology, acks: Mapping[str, int]) -> None:
        names = self.topology.names("resource")
        for name in names:
            self.scheduling.add_resource_partition(name, self._home(name))
        for name in old.names("resource"):
            if name not in names:
                self.scheduling.remove_resource_partition(name)

    async def stats(self) -> dict[str, Any]:
        return {"waiting": self.scheduling.waiting, **asdict(self.scheduling.counters)}
