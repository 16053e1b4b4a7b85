"""Whole-cluster stories: what must hold when parts die at the worst moment."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from arktos_ray.api import quantity
from arktos_ray.api.errors import AlreadyExists
from arktos_ray.testing.sim import Faults, SimCluster

GVR = "pods"
TENANTS = {"acme": "tp-1", "zeta": "tp-2"}


def pod(name: str, cpu: str = "100m", **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}
    return {"metadata": {"name": name}, "spec": {"containers": [container], **spec}}


def deployment(name: str, replicas: int, cpu: str = "100m") -> dict[str, Any]:
    labels = {"app": name}
    return {
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod("x", cpu)["spec"]},
        },
    }


def make_tenants(sim: SimCluster, *, namespaces: bool) -> None:
    async def one(tenant: str, partition: str) -> None:
        client = sim.client(partition)

        async def create(gvr: str, of: str, body: dict[str, Any]) -> None:
            try:
                await client.create(gvr, of, "", body)
            except AlreadyExists:
                return  # An unanswered try of ours.

        body = {"metadata": {"name": tenant}, "spec": {"storageClusterId": "0"}}
        await sim.eventually(lambda: create("tenants", "", body))
        if namespaces:
            default = {"metadata": {"name": "default"}}
            await sim.eventually(lambda: create("namespaces", tenant, default))

    for tenant, partition in TENANTS.items():
        sim.run(one(tenant, partition))
    sim.run_until(
        lambda: all(
            any(n["metadata"]["name"] == "default" for n in sim.objects("namespaces", t))
            for t in TENANTS
        )
    )


def create(sim: SimCluster, tenant: str, gvr: str, body: dict[str, Any]) -> None:
    client = sim.client(TENANTS[tenant])

    async def once() -> None:
        try:
            await client.create(gvr, tenant, "default", body)
        except AlreadyExists:
            return

    sim.run(sim.eventually(once))


def running(sim: SimCluster) -> int:
    return sum(
        p.get("status", {}).get("phase") == "Running" and not p["metadata"].get("deletionTimestamp")
        for p in sim.objects(GVR)
    )


def check_no_node_is_oversubscribed(sim: SimCluster) -> None:
    used: Counter[str] = Counter()
    for found in sim.objects(GVR):
        if found["spec"].get("nodeName") and found["status"]["phase"] in ("Pending", "Running"):
            for container in found["spec"]["containers"]:
                cpu = container["resources"]["requests"]["cpu"]
                used[found["spec"]["nodeName"]] += quantity.milli(cpu)
    for node in sim.objects("nodes"):
        name = node["metadata"]["name"]
        assert used[name] <= quantity.milli(node["status"]["allocatable"]["cpu"]), name


def test_pods_of_two_tenant_partitions_share_nodes_and_never_oversubscribe(seed: int) -> None:
    with SimCluster(seed, nodes=6) as sim:
        make_tenants(sim, namespaces=False)
        for i in range(40):
            create(sim, "acme" if i % 2 else "zeta", GVR, pod(f"p{i}", "200m"))
        # Six nodes of one CPU hold thirty of them.
        sim.run_until(lambda: running(sim) == 30)
        sim.run_for(20)
        assert running(sim) == 30
        check_no_node_is_oversubscribed(sim)
        waiting = [p for p in sim.objects(GVR) if not p["spec"].get("nodeName")]
        assert len(waiting) == 10
        for one in waiting:
            [condition] = [c for c in one["status"]["conditions"] if c["type"] == "PodScheduled"]
            assert condition["message"].startswith("0/6 nodes are available: 6 Insufficient cpu"), (
                condition
            )


@pytest.mark.parametrize("victim", ["tp-1", "rp-1", "scheduler-tp-1", "simulated-1", "shard-1"])
def test_a_part_that_dies_while_pods_start_costs_nothing_but_time(seed: int, victim: str) -> None:
    with SimCluster(seed, nodes=8, faults=Faults(reset_chance=0.001)) as sim:
        make_tenants(sim, namespaces=False)
        create(sim, "acme", "deployments.apps", deployment("web", 20, "100m"))
        create(sim, "zeta", "deployments.apps", deployment("web", 20, "100m"))
        for _ in range(4):
            sim.run_for(sim.random.uniform(0.01, 0.6))
            sim.crash(victim)
        sim.run_until(lambda: running(sim) == 40)
        sim.run_for(30)
        assert running(sim) == 40
        for tenant in TENANTS:
            pods = [
                p for p in sim.objects(GVR, tenant) if not p["metadata"].get("deletionTimestamp")
            ]
            assert len(pods) == 20, "each Deployment has exactly its pods"
        check_no_node_is_oversubscribed(sim)


def test_pods_of_a_dead_node_are_replaced_elsewhere(seed: int) -> None:
    with SimCluster(seed, nodes=8) as sim:
        make_tenants(sim, namespaces=False)
        create(sim, "acme", "deployments.apps", deployment("web", 10))
        sim.run_until(lambda: running(sim) == 10)
        node = next(p["spec"]["nodeName"] for p in sim.objects(GVR))
        sim.run(sim.part("simulated-1").request("fail", [node]))
        # 40 s until its lease is over, 300 s of patience that every pod has by default.
        sim.run_until(
            lambda: (
                running(sim) == 10
                and not any(
                    p["spec"].get("nodeName") == node and not p["metadata"].get("deletionTimestamp")
                    for p in sim.objects(GVR)
                )
            ),
            within_s=900,
        )
        found = sim.run(_get_node(sim, node))
        taints = {t["key"] for t in found["spec"].get("taints", [])}
        assert "node.kubernetes.io/unreachable" in taints
        sim.run(sim.part("simulated-1").request("recover", [node]))
        sim.run_until(lambda: not _taints(sim, node), within_s=120)


async def _get_node(sim: SimCluster, name: str) -> dict[str, Any]:
    for node in sim.objects("nodes"):
        if node["metadata"]["name"] == name:
            return node
    raise AssertionError(name)


def _taints(sim: SimCluster, name: str) -> list[Any]:
    [node] = [n for n in sim.objects("nodes") if n["metadata"]["name"] == name]
    taints: list[Any] = node["spec"].get("taints", [])
    return taints
