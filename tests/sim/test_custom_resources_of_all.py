"""Definitions that are everybody's, over several partitions that come and go."""

from __future__ import annotations

from typing import Any

from arktos_ray.api.calls import Call, User
from arktos_ray.api.errors import AlreadyExists, NotFound
from arktos_ray.api.names import Key
from arktos_ray.client.port import decoded
from arktos_ray.testing.sim import SimCluster
from tests.sim.test_stories import TENANTS, make_tenants

Object = dict[str, Any]
DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"
GVR, AS = "widgets.example.com", "example.com/v1"


def _definition() -> Object:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "metadata": {
            "name": GVR, "labels": {"arktos.futurewei.com/crd-sharing-policy": "forced"},
        },
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [
                {"name": "v1", "served": True, "storage": True,
                 "schema": {"openAPIV3Schema": schema}}
            ],
        },
    }  # fmt: skip


def _create(sim: SimCluster, tenant: str, name: str) -> None:
    """As its administrator."""
    caller = sim.client(TENANTS[tenant]).caller
    body = b'{"metadata":{"name":"%b"}}' % name.encode()
    call = Call("create", GVR, tenant, "default", body=body, user=User("admin", tenant), version=AS)

    async def once() -> None:
        try:
            decoded((await caller.call([call]))[0])
        except AlreadyExists:
            return

    sim.run(sim.eventually(once))


def test_a_forced_kind_is_used_and_ended_in_all_partitions(seed: int) -> None:
    with SimCluster(seed, nodes=1) as sim:
        make_tenants(sim, namespaces=True)

        async def define() -> None:
            try:
                await sim.client("tp-1").create(DEFINITIONS, "system", "", _definition())
            except AlreadyExists:
                return

        sim.run(sim.eventually(define))
        for tenant in TENANTS:
            _create(sim, tenant, "one")
        sim.crash("tp-1")
        _create(sim, "zeta", "two")  # Its partition knows the kind while the other is away.
        sim.run_until(lambda: len(list(sim.objects(GVR))) == 3)

        async def end() -> None:
            try:
                await sim.client("tp-1").delete(DEFINITIONS, Key("system", "", GVR))
            except NotFound:
                return

        sim.run(sim.eventually(end))
        sim.run_until(
            lambda: GVR not in [d["metadata"]["name"] for d in sim.objects(DEFINITIONS, "system")]
        )
        assert list(sim.objects(GVR)) == []
