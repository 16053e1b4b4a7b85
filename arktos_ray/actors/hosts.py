"""The actors that stand for machines: one that simulates thousands, and one that is this one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from arktos_ray.actors.part import Part
from arktos_ray.actors.simulated_nodes import NodeShape, SimulatedNodes, fleet


class SimulatedHosts(Part):
    """Spec adds: nodes (how many), mode (kubemark | instant), prefix, shape {cpu, memory, pods}."""

    role = "simulated nodes"

    async def open(self) -> None:
        spec = self.spec
        nodes = fleet(
            spec.get("prefix", "sim"), spec["nodes"], spec["partitions"]["resource"]
        )  # fmt: skip
        self.nodes = SimulatedNodes(
            self.name, nodes, self.resource_clients(), self.tenant_clients(),
            spec.get("mode", "kubemark"), self.clock, self.ids, self.tasks,
            shape=NodeShape(**spec.get("shape", {})),
        )  # fmt: skip
        await self.nodes.start()

    async def stats(self) -> dict[str, Any]:
        return self.nodes.stats()

    async def request(self, method: str, payload: Any) -> Any:
        if method in ("fail", "recover"):
            return await self.nodes.request(method, payload)
        return await super().request(method, payload)


class NodeHost(Part):
    """This machine as a node. Spec adds: node (its name), containerd (the socket)."""

    role = "node agent"

    async def open(self) -> None:
        from arktos_ray.actors.node_agent import NodeAgent
        from arktos_ray.runtime.containerd.driver import Containerd

        spec = self.spec
        runtime = Containerd(
            spec["containerd"],
            Path(spec["home"]) / "pods",
            self.clock,
            node_name=spec["node"],
            offline=spec.get("offline", False),
        )
        self.agent = NodeAgent(
            spec["node"], self.client(spec["resource_partition"]),
            self.tenant_clients(), runtime, self.clock, self.tasks,
        )  # fmt: skip
        await self.agent.start()

    async def shut(self) -> None:
        await self.agent.close()

    async def stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = await self.agent.request("stats", None)
        return stats

    async def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        if method == "log":
            async for item in self.agent.subscribe(method, payload):
                yield item
        else:
            async for item in super().subscribe(method, payload):
                yield item
