"""ResourcePartition: what a tenant partition is, for one group of hosts: nodes, their leases and
events, and the ledger of what is reserved where.

The ledger is derived state: rebuilt from the pods that the tenant partitions have bound, before
the first reservation is accepted (design.md D8).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from arktos_ray.actors.tenant_partition import TenantPartition
from arktos_ray.api.names import NODE_LEASE_NAMESPACE
from arktos_ray.controllers.scheduling.reservations import Reservations
from arktos_ray.tenancy.topology import Topology


class ResourcePartition(TenantPartition):
    """Adds the Peer methods of the ledger: reserve, held, release, and the stream usage."""

    role = "resource partition"
    system_namespaces = ("default", "kube-system", "kube-public", NODE_LEASE_NAMESPACE)

    async def open(self) -> None:
        own = self.client(self.name)
        self.reservations = Reservations(own, self.tenant_clients(), self.clock, self.tasks)
        self.reservations.start()

    async def regroup(self, old: Topology, acks: Mapping[str, int]) -> None:
        await super().regroup(old, acks)
        clients = self.tenant_clients()
        for name, client in clients.items():
            self.reservations.add_tenant_partition(name, client)
        for name in old.names("tenant"):
            if name not in clients:
                self.reservations.remove_tenant_partition(name)

    async def request(self, method: str, payload: Any) -> Any:
        if method in ("reserve", "held", "release"):
            return await getattr(self.reservations, method)(payload)
        return await super().request(method, payload)

    async def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        if method == "usage":
            async for item in self.reservations.usage(payload):
                yield item
        else:
            async for item in super().subscribe(method, payload):
                yield item
