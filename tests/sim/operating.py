"""Somebody operates the region while it works: partitions come and go, and tenants move.

An Operator does what `arktos partition` and `arktos tenant move` do, and asks again until it is
done or given up. Tenants come in by a Door, which follows them to wherever they live.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from consistency import ADMIN

from arktos_ray.actors import move_requests
from arktos_ray.actors.tenant_partition import TenantPartition
from arktos_ray.api.calls import Call, Reply, WatchEvent
from arktos_ray.api.errors import Conflict, Failure, NotFound
from arktos_ray.api.names import SYSTEM_TENANT, Key
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client
from arktos_ray.ingress.dispatch import Dispatcher
from arktos_ray.ingress.limits import Limits
from arktos_ray.store.moving import STAGING
from arktos_ray.tenancy.topology import Topology
from arktos_ray.testing.sim import SimCluster

# Watches over all tenants that lag still read what happened before they left (topology.md).
_EMPTY_FOR_S = 10.5
_AGAIN_S = 0.3


def homes_of(sim: SimCluster, tenant: str) -> list[str]:
    """Where it lives, as the partitions that are up hold it."""
    return [
        name
        for name, process in sim.processes.items()
        if isinstance(process.part, TenantPartition)
        and process.part.prepared
        and process.part.store.get("tenants", f"//{tenant}") is not None
    ]


def tenants_of(sim: SimCluster, partition: str) -> list[str]:
    part: Any = sim.part(partition)
    paths = [record.path for record in part.store.table("tenants").range()]
    return [name for name in (path.rpartition("/")[2] for path in paths) if name != SYSTEM_TENANT]


def unfinished(sim: SimCluster, tenants: Sequence[str]) -> str:
    """What is left of moves: nothing, when each is over or was given up cleanly."""
    for name, process in sim.processes.items():
        part = process.part
        if not isinstance(part, TenantPartition):
            continue
        if not process.started:
            return f"{name} has not started"
        for tenant, mark in part.store.marks.items():
            if mark.state in STAGING:
                return f"{tenant} is {mark.state} at {name}"
        for tenant in tenants:
            if part.store.staged(tenant):
                return f"{name} keeps {part.store.staged(tenant)} rows of {tenant}, for nobody"
        if part.server.partition.gate.held:
            return f"{name} holds {sorted(part.server.partition.gate.held)}"
    for tenant in tenants:
        homes = homes_of(sim, tenant)
        if len(homes) != 1:
            return f"{tenant} lives in {homes or 'no partition'}"
    return ""


class Door:
    """A Caller: an ingress without its sockets, and the Upstream of its Dispatcher."""

    def __init__(self, sim: SimCluster, owners: dict[str, str]) -> None:
        self._sim, self._owners = sim, dict(owners)
        self._peers: dict[str, Any] = {}
        self.tasks = Tasks()
        self._dispatcher = Dispatcher(self, sim.clock, self.tasks, Limits())  # type: ignore[arg-type]

    def client(self) -> Client:
        return Client(self, ADMIN)

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        return list(await asyncio.gather(*(self._dispatcher.call(call) for call in calls)))

    def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        return self._dispatcher.watch(call)[0]

    def regroup(self) -> None:
        self._dispatcher.regroup()

    # An Upstream

    def moved(self, tenant: str, to: str) -> None:
        self._owners[tenant] = to

    def owner_of(self, tenant: str, storage: str = "") -> str:
        names = self._sim.topology.names("tenant")
        owner = self._owners.get(tenant, names[0])
        if owner not in names:  # It was removed: whoever lived there lives elsewhere.
            owner = self._owners[tenant] = (homes_of(self._sim, tenant) or names)[0]
        return owner

    def topology_version(self) -> int:
        return self._sim.topology.version

    def taking_nodes(self) -> list[str]:
        return [row.name for row in self._sim.topology.taking("resource")]

    def tenant_partitions(self) -> list[str]:
        return list(self._sim.topology.names("tenant"))

    def resource_partitions(self) -> list[str]:
        return list(self._sim.topology.names("resource"))

    def peer(self, partition: str) -> Any:
        if partition not in self._peers:
            self._peers[partition] = self._sim.client(partition, name="door").caller
        return self._peers[partition]


class Operator:
    """One change after the other, each until it is done: nobody else changes the topology."""

    def __init__(
        self, sim: SimCluster, door: Door, tenants: Sequence[str], mode: str,
        on_new: Callable[[str], None],
    ) -> None:  # fmt: skip
        """on_new: told the name of every part that is added."""
        self.sim, self._door, self._tenants, self._mode = sim, door, tenants, mode
        self._on_new = on_new
        self._rng = random.Random(f"operator {sim.seed}")
        self._peers: dict[str, Any] = {}

    async def work(self, span_s: float) -> None:
        for _ in range(self._rng.randrange(1, 4)):
            await asyncio.sleep(self._rng.uniform(0, span_s / 2))
            what = self._rng.choices(("move", "tenant", "resource", "drain"), (4, 2, 1, 3))[0]
            if what == "move":
                await self._move_somebody()
            elif what == "tenant":
                self._change(self.topology.added("tenant"), "tenant partition added")
                await self._move_somebody(self.topology.names("tenant")[-1])
            elif what == "resource":
                topology = self.topology.added("resource")
                home = topology.names("resource")[-1]
                nodes = self._rng.randrange(1, 3)
                self._change(
                    topology.with_fleet(nodes, self._mode, [home]), "resource partition added"
                )
            else:
                await self._drain()

    def _change(self, topology: Topology, what: str) -> None:
        self.sim.counts[what] += 1
        self.sim.note(f"{what}: topology {topology.version}")
        before = set(self.sim.processes)
        self.sim.change(topology)
        for name in self.sim.processes:
            if name not in before:
                self._on_new(name)
        self._door.regroup()

    async def _move_somebody(self, to: str = "") -> None:
        tenant = self._rng.choice(self._tenants)
        there = [row.name for row in self.topology.taking("tenant")]
        patience_s = self._rng.uniform(0.02, 3.0) if self._rng.random() < 0.3 else float("inf")
        await self._move(tenant, to or self._rng.choice(there), patience_s)

    async def _move(self, tenant: str, to: str, patience_s: float = float("inf")) -> None:
        """Until it is there, or was given up."""
        self.sim.note(f"{tenant} is to move to {to}")
        until = self.sim.loop.time() + patience_s
        while not await self._is_at(tenant, to):
            if self.sim.loop.time() > until:
                if await self._give_up(tenant, to):
                    self.sim.counts["move given up"] += 1
                    self.sim.note(f"{tenant} is not to move to {to} any more")
                    return
            else:
                # It is under way, or somebody is away, or it is there already.
                with contextlib.suppress(Failure):
                    await self._operate("tenant-move", tenant=tenant, to=to)
            await asyncio.sleep(_AGAIN_S)
        self.sim.counts["tenant moved"] += 1
        self.sim.note(f"{tenant} is at {to}")

    async def _is_at(self, tenant: str, partition: str) -> bool:
        try:
            await self._client(partition).get("tenants", Key("", "", tenant))
        except Failure:
            return False
        return True

    async def _give_up(self, tenant: str, to: str) -> bool:
        try:
            await self._operate("tenant-move-cancel", tenant=tenant, to=to)
        except NotFound:
            return not await self._is_at(tenant, to)  # It is not coming; or it came.
        except Conflict:
            return False  # It has all but arrived.
        except Failure:
            return False
        return True

    async def _drain(self) -> None:
        """arktos partition drain --move, then remove."""
        dispensable = [
            row.name for row in self.topology.taking("tenant") if row.name != self.topology.system
        ]
        if not dispensable:
            return
        name = self._rng.choice(dispensable)
        self._change(self.topology.drained(name), "partition drained")
        while True:
            found = await self._tenants_at(name)
            if not found:
                break
            there = [row.name for row in self.topology.taking("tenant")]
            await self._move(found[0], self._rng.choice(there))
        await asyncio.sleep(_EMPTY_FOR_S)
        process = self.sim.processes[name]
        while process.part is None or process.part.topology.version < self.topology.version:
            await asyncio.sleep(_AGAIN_S)  # It must know that it takes nobody.
        assert not await self._tenants_at(name), "a drained partition takes nobody"
        self._change(self.topology.removed(name), "partition removed")

    async def _tenants_at(self, name: str) -> list[str]:
        while True:
            try:
                homes = await self._operate("tenant-homes")
                found: list[str] = homes["homes"][name]
                return found
            except Failure:
                await asyncio.sleep(_AGAIN_S)

    # What move_requests.py wants of a part

    async def _operate(self, operation: str, **more: str) -> dict[str, Any]:
        part: Any = self
        return await move_requests.operate(part, {"operation": operation, **more})

    @property
    def topology(self) -> Topology:
        return self.sim.topology

    def _client(self, name: str) -> Client:
        return Client(self.peer(name), ADMIN)

    def peer(self, name: str) -> Any:
        if name not in self._peers:
            self._peers[name] = self.sim.client(name, name="operator").caller
        return self._peers[name]

    def tenant_clients(self) -> dict[str, Client]:
        return {name: self._client(name) for name in self.topology.names("tenant")}
