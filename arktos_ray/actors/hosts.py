"""The actors that stand for machines: one that simulates thousands, and one that is this one."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from arktos_ray.actors.part import Part
from arktos_ray.actors.simulated_nodes import NodeShape, SimulatedNodes, fleet
from arktos_ray.api.errors import Unavailable
from arktos_ray.base import machine, retry
from arktos_ray.client.port import Client
from arktos_ray.runtime.containerd.daemon import Daemon
from arktos_ray.tenancy.topology import Topology

if TYPE_CHECKING:
    from arktos_ray.actors.node_agent import NodeAgent

log = logging.getLogger(__name__)

# How soon a containerd that ended is noticed.
_DAEMON_PERIOD_S = 0.5
_STATS_PERIOD_S = 10.0


class SimulatedHosts(Part):
    """Spec adds: nodes (how many), resource_partitions (that they are in, in turn), mode
    (kubemark | instant), prefix, first_index, shape {cpu, memory, pods}.
    """

    role = "simulated nodes"

    async def open(self) -> None:
        spec = self.spec
        homes = spec["resource_partitions"]
        nodes = fleet(spec.get("prefix", "sim"), spec["nodes"], homes)
        self.nodes = SimulatedNodes(
            self.name, nodes, {name: self.client(name) for name in homes}, self.tenant_clients(),
            spec.get("mode", "kubemark"), self.clock, self.ids, self.tasks,
            shape=NodeShape(**spec.get("shape", {})), first_index=spec.get("first_index", 0),
        )  # fmt: skip
        await self.nodes.start()

    async def regroup(self, old: Topology, acks: Mapping[str, int]) -> None:
        _follow_tenants(self.nodes, self.tenant_clients(), old)

    async def stats(self) -> dict[str, Any]:
        return self.nodes.stats()

    async def request(self, method: str, payload: Any) -> Any:
        if method in ("fail", "recover", "retire"):
            return await self.nodes.request(method, payload)
        return await super().request(method, payload)


def _follow_tenants(
    nodes: SimulatedNodes | NodeAgent, clients: Mapping[str, Client], old: Topology
) -> None:
    """Run the pods of those tenant partitions, and of no others."""
    for name, client in clients.items():
        nodes.add_tenant_partition(name, client)
    for name in old.names("tenant"):
        if name not in clients:
            nodes.remove_tenant_partition(name)


def _address_of(url: str) -> tuple[str, int] | None:
    found = urlsplit(url)
    return (found.hostname, found.port) if found.hostname and found.port else None


# Beside simulated nodes the real one is for pods that ask for it (nodeSelector): whatever pretends
# to run elsewhere would have to pull its image here. Others come when nothing else is left.
REAL_TAINT = {"key": "arktos.io/real", "value": "true", "effect": "PreferNoSchedule"}


class NodeHost(Part):
    """This machine as a node.

    Spec adds: node (its name), containerd (the socket) or own_containerd (directories: root and
    state of one that we start and keep running), offline, beside_simulated, api (its URL).
    """

    role = "node agent"

    async def open(self) -> None:
        from arktos_ray.actors.node_agent import NodeAgent
        from arktos_ray.runtime.containerd.driver import Containerd

        spec = self.spec
        self._stats: dict[str, Any] = {}
        self._stats_at = float("-inf")
        home = Path(spec["home"])
        address = spec.get("containerd", "")
        if "own_containerd" in spec:
            root, state = map(Path, spec["own_containerd"])
            daemon = Daemon(home, root, state, Path(spec["log_dir"]) / "containerd.log")
            address = daemon.address
            await self._have(daemon)
            self.tasks.start(self._keep(daemon), "containerd")
        cluster = hashlib.sha256(str(home).encode()).hexdigest()[:8]
        runtime = Containerd(
            address,
            home / "pods",
            self.clock,
            # Another cluster on this machine may use the same containerd, under the same name.
            owner=f"{spec['node']}-{cluster}",
            offline=spec.get("offline", False),
        )
        self.agent = NodeAgent(
            spec["node"], self.client(spec["resource_partition"]),
            self.tenant_clients(), runtime, self.clock, self.tasks,
            host_ip=machine.address(), api=_address_of(spec.get("api", "")),
            taints=[REAL_TAINT] if spec.get("beside_simulated") else (),
        )  # fmt: skip
        await self.agent.start()

    async def regroup(self, old: Topology, acks: Mapping[str, int]) -> None:
        _follow_tenants(self.agent, self.tenant_clients(), old)

    async def _keep(self, daemon: Daemon) -> None:
        """Start it again when it ended. Its containers do not notice; the node does, for 1 s."""
        waits = retry.exponential(_DAEMON_PERIOD_S, 30.0)
        while True:
            await self.clock.sleep(_DAEMON_PERIOD_S)
            if daemon.process() is None:
                if await self._have(daemon):
                    waits = retry.exponential(_DAEMON_PERIOD_S, 30.0)
                else:
                    await self.clock.sleep(next(waits))

    async def _have(self, daemon: Daemon) -> bool:
        try:
            await asyncio.to_thread(daemon.start)
        except Unavailable as failure:
            # The node says that it is not ready; all the rest of the cluster works.
            log.warning("%s", failure.message)
            return False
        return True

    async def shut(self) -> None:
        # We are told to stop, so the cluster is: what it runs here ends with it.
        await self.agent.close(end_workloads=True)

    async def stats(self) -> dict[str, Any]:
        """Asked for every second, and containerd reads many small files to answer."""
        now = self.clock.monotonic()
        if now - self._stats_at >= _STATS_PERIOD_S:
            self._stats_at = now
            self._stats = await self.agent.request("stats", None)
        return self._stats

    async def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        if method == "log":
            async for item in self.agent.subscribe(method, payload):
                yield item
        else:
            async for item in super().subscribe(method, payload):
                yield item
