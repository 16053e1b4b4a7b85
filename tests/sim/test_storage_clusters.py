"""Tenants stay within the storage cluster that they name, and no name is made twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from arktos_ray.api.errors import AlreadyExists, Conflict, Failure, Invalid, Unavailable
from arktos_ray.testing.sim import SimCluster


def tenant(name: str, storage: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"storageClusterId": storage}}


@contextlib.contextmanager
def region(seed: int) -> Iterator[SimCluster]:
    """tp-1 and tp-2 keep their logs in storage cluster 0, tp-3 in 1; all of them know."""
    with SimCluster(seed, tenant_partitions=2, resource_partitions=1, nodes=0) as sim:
        sim.run_until(lambda: started(sim))
        sim.change(sim.topology.added("tenant", "1"))
        sim.run_until(lambda: started(sim))
        sim.run_for(1)
        yield sim


def started(sim: SimCluster) -> bool:
    return all(process.started for process in sim.processes.values())


def test_two_who_make_a_name_on_different_storage_clusters_do_not_both_succeed(seed: int) -> None:
    with region(seed) as sim:

        async def make(name: str, partition: str, storage: str) -> bool:
            body = tenant(name, storage)
            delay_s = sim.random.random() * 0.01
            for _ in range(20):
                await sim.clock.sleep(delay_s)
                try:
                    await sim.client(partition).create("tenants", "", "", body)
                except AlreadyExists:
                    return False
                except Unavailable:  # Both claimed it: each comes back in its own time.
                    delay_s = sim.random.random()
                else:
                    return True
            raise AssertionError(f"{name} is never made")

        async def story() -> None:
            for number in range(10):
                name = f"t{number}"
                made = await asyncio.gather(make(name, "tp-1", "0"), make(name, "tp-3", "1"))
                assert sorted(made) == [False, True]

        sim.run(story())
        names = [t["metadata"]["name"] for t in sim.objects("tenants")]
        assert sorted(n for n in names if n.startswith("t")) == sorted(f"t{i}" for i in range(10))


def test_who_cannot_ask_the_other_storage_clusters_makes_nothing(seed: int) -> None:
    with region(seed) as sim:
        sim.crash("tp-3", restart=False)

        async def story() -> None:
            with pytest.raises(Unavailable, match="tp-3"):
                await sim.client("tp-1").create("tenants", "", "", tenant("acme", "0"))

        sim.run(story())


def test_a_tenant_is_made_and_moved_within_its_storage_cluster_only(seed: int) -> None:
    with region(seed) as sim:

        async def refused(work: Any) -> Failure:
            with pytest.raises(Failure) as caught:
                await work
            return caught.value

        async def story() -> None:
            one, three = sim.client("tp-1"), sim.client("tp-3")
            misled = await refused(one.create("tenants", "", "", tenant("acme", "1")))
            assert isinstance(misled, Unavailable)
            assert "tenants of 1 go to tp-3" in misled.message
            nowhere = await refused(one.create("tenants", "", "", tenant("acme", "5")))
            assert isinstance(nowhere, Invalid)
            assert nowhere.message == (
                "no tenant partition keeps its objects in storage cluster 5;"
                " there are partitions for: 0, 1"
            )

            await three.create("tenants", "", "", tenant("acme", "1"))
            move = one.caller.request("move-in", {"tenant": "acme", "from": "tp-3"})
            stays = await refused(move)
            assert isinstance(stays, Conflict)
            assert "in storage cluster 1 (spec.storageClusterId), and tp-1 is of storage cluster 0;"
            assert "it may move to: tp-3" in stays.message

        sim.run(story())
