"""Partitions come and go while tenants work."""

from __future__ import annotations

from collections import Counter
from typing import Any

from arktos_ray.api.errors import AlreadyExists
from arktos_ray.api.names import Key
from arktos_ray.testing.sim import Faults, SimCluster

DEPLOYMENT: dict[str, Any] = {
    "metadata": {"name": "web"},
    "spec": {
        "replicas": 6,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [
                    {"name": "c", "image": "i:1", "resources": {"requests": {"cpu": "300m"}}}
                ]
            },
        },
    },
}


def begin(sim: SimCluster, tenant: str, partition: str) -> None:
    """A tenant there, with a Deployment."""

    async def story() -> None:
        client = sim.client(partition)
        body = {"metadata": {"name": tenant}, "spec": {"storageClusterId": "0"}}
        await sim.eventually(lambda: once(client.create("tenants", "", "", body)))
        default = {"metadata": {"name": "default"}}
        await sim.eventually(lambda: once(client.create("namespaces", tenant, "", default)))
        await sim.eventually(
            lambda: once(client.create("deployments.apps", tenant, "default", DEPLOYMENT))
        )

    sim.run(story())


async def once(work: Any) -> None:
    try:
        await work
    except AlreadyExists:
        return


def running(sim: SimCluster, tenant: str) -> list[dict[str, Any]]:
    return [p for p in sim.objects("pods", tenant) if p.get("status", {}).get("phase") == "Running"]


def check_nodes(sim: SimCluster) -> None:
    """A node of one CPU holds three of these pods."""
    placed = Counter(pod["spec"].get("nodeName") for pod in sim.objects("pods"))
    del placed[None]
    assert not placed or max(placed.values()) <= 3


def test_new_partitions_take_tenants_and_nodes_and_the_rest_works_with_them(seed: int) -> None:
    """Two nodes at first, full with one tenant: the other runs only on nodes that came later."""
    with SimCluster(
        seed, tenant_partitions=1, resource_partitions=1, nodes=2, faults=Faults(restart_s=0.3)
    ) as sim:
        begin(sim, "acme", "tp-1")
        sim.run_until(lambda: len(running(sim, "acme")) == 6)
        sim.change(sim.topology.added("tenant").added("resource"))
        # Whoever restarts now has a spec from before, and must not begin with it.
        sim.crash(sim.random.choice(["rp-1", "scheduler-tp-1", "shard-1", "simulated-1"]))
        begin(sim, "beta", "tp-2")
        sim.run_for(10)
        assert len(running(sim, "beta")) == 0, "there is no room yet"
        sim.change(sim.topology.with_fleet(2, "kubemark", ["rp-2"]))
        sim.run_until(lambda: len(running(sim, "beta")) == 6)
        check_nodes(sim)
        nodes = {pod["spec"]["nodeName"] for pod in running(sim, "beta")}
        assert nodes == {"sim2-0", "sim2-1"}


def test_a_removed_partition_is_missed_by_nobody(seed: int) -> None:
    with SimCluster(seed, tenant_partitions=2, resource_partitions=2, nodes=8) as sim:
        begin(sim, "acme", "tp-1")
        sim.run_until(lambda: len(running(sim, "acme")) == 6)
        sim.change(sim.topology.drained("tp-2"))
        sim.change(sim.topology.removed("tp-2"))
        sim.run_for(2)
        for name in ("rp-1", "rp-2"):  # A ledger that waited for tp-2 would grant nothing more.
            sim.crash(name)
        sim.run_for(2)

        async def scale() -> None:
            client = sim.client("tp-1")
            key, change = Key("acme", "default", "web"), {"spec": {"replicas": 12}}
            await sim.eventually(lambda: client.patch("deployments.apps", key, change))

        sim.run(scale())
        sim.run_until(lambda: len(running(sim, "acme")) == 12)
        check_nodes(sim)
