"""Batched renewals: invisible until somebody looks, and then as if they had been patches."""

from __future__ import annotations

from typing import Any

from arktos_ray.actors.resource_partition import ResourcePartition
from arktos_ray.api.calls import ADDED, MODIFIED
from arktos_ray.api.names import Key
from arktos_ray.base.clock import parse_rfc3339, rfc3339_micro
from arktos_ray.client.port import Client
from arktos_ray.testing.sim import SimCluster

LEASES = "leases.coordination.k8s.io"
SPACE = "kube-node-lease"
Object = dict[str, Any]


def key(name: str) -> Key:
    return Key("system", SPACE, name)


def cluster() -> SimCluster:
    return SimCluster(seed=5, tenant_partitions=1, resource_partitions=1, with_parts=False)


async def lease(client: Client, name: str, at: float) -> Object:
    body = {"metadata": {"name": name}, "spec": {"renewTime": rfc3339_micro(at)}}
    return await client.create(LEASES, "system", SPACE, body)


def rows(sim: SimCluster) -> int:
    part = sim.part("rp-1")
    assert isinstance(part, ResourcePartition)
    return part.store.revision


async def begin(sim: SimCluster, *names: str) -> Client:
    client = sim.client("rp-1")
    for name in names:
        await sim.eventually(lambda name=name: lease(client, name, sim.clock.now()))
    return client


def test_a_renewal_writes_nothing_until_somebody_reads_and_then_the_lease_is_fresh() -> None:
    with cluster() as sim:

        async def story() -> None:
            client = await begin(sim, "n1", "n2")
            first = await client.get(LEASES, key("n1"))
            before = rows(sim)
            at = sim.clock.now() + 30.0
            assert await client.request("renew", [["n1", "stranger"], at]) == ["stranger"]
            assert rows(sim) == before
            listed, revision = await client.list(LEASES, tenant="system", namespace=SPACE)
            fresh = {item["metadata"]["name"]: item for item in listed}
            assert fresh["n1"]["spec"]["renewTime"] == rfc3339_micro(at)
            assert int(fresh["n1"]["metadata"]["resourceVersion"]) > int(
                first["metadata"]["resourceVersion"]
            )
            assert revision >= int(fresh["n1"]["metadata"]["resourceVersion"])
            # Read again, nothing has happened: the revision stays.
            assert await client.get(LEASES, key("n1")) == fresh["n1"]

        sim.run(story())


def test_a_watch_of_leases_sees_every_node_renew() -> None:
    with cluster() as sim:

        async def story() -> None:
            client = await begin(sim, "n1", "n2")
            _, revision = await client.list(LEASES, tenant="system", namespace=SPACE)
            seen: list[tuple[str, str]] = []
            watch = client.watch(
                LEASES, tenant="system", namespace=SPACE, resourceVersion=str(revision)
            )
            await client.request("renew", [["n1"], sim.clock.now()])
            async for batch in watch:
                seen += [(event.type, event.path.rpartition("/")[2]) for event in batch]
                if len(seen) == 1:
                    await client.request("renew", [["n2"], sim.clock.now()])
                    await lease(client, "n3", sim.clock.now())
                if len(seen) == 3:
                    break
            await watch.aclose()  # type: ignore[attr-defined]
            assert seen[0] == (MODIFIED, "n1")
            assert sorted(seen[1:]) == [(ADDED, "n3"), (MODIFIED, "n2")]

        sim.run(story())


def test_a_patch_that_meets_a_renewal_changes_the_renewed_lease() -> None:
    with cluster() as sim:

        async def story() -> None:
            client = await begin(sim, "n1")
            at = sim.clock.now() + 20.0
            await client.request("renew", [["n1"], at])
            await client.patch(LEASES, key("n1"), {"spec": {"holderIdentity": "me"}})
            found = await client.get(LEASES, key("n1"))
            assert found["spec"] == {"renewTime": rfc3339_micro(at), "holderIdentity": "me"}

        sim.run(story())


def test_who_spoke_is_told_once_however_they_said_it_and_looking_is_no_sign_of_life() -> None:
    with cluster() as sim:

        async def story() -> None:
            client = await begin(sim, "n1", "n2", "n3")
            await sim.clock.sleep(0.1)
            version, names = await client.request("spoke", [0])
            assert sorted(names) == ["n1", "n2", "n3"]
            assert (await client.request("spoke", [version]))[1] == []
            await client.request("renew", [["n2"], sim.clock.now()])
            version, names = await client.request("spoke", [version])
            assert names == ["n2"]
            # Shown late, because somebody looked: n2 said nothing new.
            await client.list(LEASES, tenant="system", namespace=SPACE)
            await sim.clock.sleep(0.1)
            assert (await client.request("spoke", [version]))[1] == []
            # A kubelet that writes its lease itself; and one that is only labelled.
            now = rfc3339_micro(sim.clock.now())
            await client.patch(LEASES, key("n1"), {"spec": {"renewTime": now}})
            await client.patch(LEASES, key("n3"), {"metadata": {"labels": {"a": "b"}}})
            await sim.clock.sleep(0.1)
            assert (await client.request("spoke", [version]))[1] == ["n1"]

        sim.run(story())


def test_after_a_restart_everyone_who_speaks_is_told_to_readers_of_before() -> None:
    with cluster() as sim:

        async def before() -> int:
            client = await begin(sim, "n1")
            await client.request("renew", [["n1"], sim.clock.now()])
            version, _ = await client.request("spoke", [0])
            return int(version)

        version = sim.run(before())
        sim.crash("rp-1")

        async def after() -> None:
            client = sim.client("rp-1")
            missing = await sim.eventually(
                lambda: client.request("renew", [["n1"], sim.clock.now()])
            )
            assert missing == ["n1"]
            made = await lease(client, "n1", sim.clock.now())
            assert parse_rfc3339(made["spec"]["renewTime"]) <= sim.clock.now()
            await sim.clock.sleep(0.1)
            assert (await client.request("spoke", [version]))[1] == ["n1"]

        sim.run(after())
