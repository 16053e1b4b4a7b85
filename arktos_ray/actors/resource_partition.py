"""ResourcePartition: what a tenant partition is, for one group of hosts: nodes, their leases and
events, and the ledger of what is reserved where.

The ledger is derived state: rebuilt from the pods that the tenant partitions have bound, before
the first reservation is accepted (design.md D8).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from arktos_ray.actors.tenant_partition import TenantPartition
from arktos_ray.api.calls import Call, Reply, WatchEvent
from arktos_ray.api.names import NODE_LEASE_NAMESPACE
from arktos_ray.apiserver.heartbeats import LEASES, Heartbeats
from arktos_ray.controllers.scheduling.reservations import Reservations
from arktos_ray.tenancy.topology import Topology


class ResourcePartition(TenantPartition):
    """Adds the Peer methods of the ledger: reserve, held, release, and the stream usage; and two
    of heartbeats: renew [names, at] -> names without a lease, spoke [version] -> [version, names].
    """

    role = "resource partition"
    system_namespaces = ("default", "kube-system", "kube-public", NODE_LEASE_NAMESPACE)

    async def prepare(self) -> None:
        await super().prepare()
        self.heartbeats = Heartbeats(self.store, self.clock, self.tasks)
        self.heartbeats.start()

    async def open(self) -> None:
        await super().open()
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

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        if any(call.gvr == LEASES for call in calls):
            await self.heartbeats.show_for(calls)
        return await super().call(calls)

    async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        watch = super().watch(call)
        try:
            with self.heartbeats.watched(call):
                async for events in watch:
                    yield events
        finally:
            await watch.aclose()  # type: ignore[attr-defined]

    async def request(self, method: str, payload: Any) -> Any:
        if method == "renew":
            return self.heartbeats.renew(payload[0], payload[1])
        if method == "spoke":
            return self.heartbeats.spoke(payload[0])
        if method in ("reserve", "held", "release"):
            answer = await getattr(self.reservations, method)(payload)
            # A ledger that was replaced must promise nothing.
            self.store.check_trusted()
            return answer
        return await super().request(method, payload)

    async def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        if method == "usage":
            async for item in self.reservations.usage(payload):
                self.store.check_trusted()
                yield item
        else:
            async for item in super().subscribe(method, payload):
                yield item
