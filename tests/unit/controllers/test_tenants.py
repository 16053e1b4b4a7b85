"""Tenants, namespaces and their ServiceAccounts: how they begin and how they end."""

from __future__ import annotations

from typing import Any

import pytest

from arktos_ray.api import networks
from arktos_ray.api.names import Key
from arktos_ray.controllers.deployment.controller import Deployments
from arktos_ray.controllers.garbage.controller import Garbage
from arktos_ray.controllers.namespace import plan as namespaces
from arktos_ray.controllers.namespace.controller import Namespaces
from arktos_ray.controllers.replicaset.controller import ReplicaSets
from arktos_ray.controllers.serviceaccount.controller import ServiceAccounts
from arktos_ray.controllers.tenant import plan as tenants
from arktos_ray.controllers.tenant.controller import Tenants


def _all(world: Any) -> list[Any]:
    parts = world.parts()
    kinds = (Tenants, Namespaces, ServiceAccounts, Deployments, ReplicaSets, Garbage)
    return [kind(parts) for kind in kinds]


def _names(world: Any, gvr: str, tenant: str = "acme") -> set[str]:
    return {each["metadata"]["name"] for each in world.tp.all(gvr, tenant)}


def test_a_new_tenant_is_furnished_in_one_batch(play: Any) -> None:
    async def story(world: Any) -> None:
        await world.start(*_all(world))
        await world.client.create("tenants", "", "", {"metadata": {"name": "acme"}})
        await world.clock.advance(1)
        assert _names(world, "namespaces") == {"default", "kube-system", "kube-public"}
        accounts = {
            each["metadata"]["namespace"]
            for each in world.tp.all("serviceaccounts", "acme")
            if each["metadata"]["name"] == "default"
        }
        assert accounts == {"default", "kube-system", "kube-public"}
        first = next(batch for batch in world.tp.batches if batch[0].gvr == "namespaces")
        assert len([call for call in first if call.gvr == "namespaces"]) == 3

    play(story)


@pytest.mark.parametrize(
    ("template", "vpc"),
    [
        ("flat", None),
        ("mizar", "acme-default-network"),
        ('{"spec": {"type": "vpc", "vpcID": "{{.}}-1"}, "metadata": {"tenant": "zeta"}}', "acme-1"),
    ],
)
def test_a_tenant_begins_with_its_network_where_there_is_a_template(
    template: str, vpc: str | None
) -> None:
    tenant = {"metadata": {"name": "acme"}}
    read = networks.read_template(template)
    [network] = [c for c in tenants.furnish(tenant, (), read) if c.gvr == networks.NETWORKS]
    meta = network.body["metadata"]
    assert (meta["name"], meta["tenant"]) == ("default", "acme")
    assert network.body["spec"].get("vpcID") == vpc
    assert not [c for c in tenants.furnish(tenant, ()) if c.gvr == networks.NETWORKS]


@pytest.mark.parametrize("text", ["[]", "{}", '{"spec": 1}', "{", '{"spec": {}, "metadata": 1}'])
def test_a_template_that_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        networks.read_template(text)


def test_a_deleted_default_account_comes_back(play: Any) -> None:
    async def story(world: Any) -> None:
        await world.start(*_all(world))
        await world.client.create("tenants", "", "", {"metadata": {"name": "acme"}})
        await world.clock.advance(1)
        key = Key("acme", "default", "default")
        before = world.tp.find("serviceaccounts", *key)["metadata"]["uid"]
        await world.client.delete("serviceaccounts", key)
        await world.clock.advance(1)
        assert world.tp.find("serviceaccounts", *key)["metadata"]["uid"] != before

    play(story)


def test_a_namespace_takes_its_contents_along_and_only_those(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        await world.start(*_all(world))
        for tenant in ("acme", "other"):
            await world.client.create("tenants", "", "", {"metadata": {"name": tenant}})
            await world.client.create("namespaces", tenant, "", {"metadata": {"name": "shop"}})
            body = deployment(3, tenant=tenant)
            body["metadata"]["namespace"] = "shop"
            world.tp.put("deployments.apps", body)
        await world.live_until(lambda: len(world.tp.all("pods")) == 6)
        world.run_pods()
        await world.client.delete("namespaces", Key("acme", "", "shop"))
        await world.live_until(
            lambda: world.tp.find("namespaces", "acme", "", "shop") is None, limit=60
        )
        for gvr in namespaces.contents():
            assert world.tp.all(gvr, "acme", "shop") == []
        assert len(world.tp.all("pods", "other", "shop")) == 3
        assert world.tp.find("namespaces", "other", "", "shop") is not None

    play(story)


def test_a_tenant_ends_with_everything_in_it(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        await world.start(*_all(world))
        for tenant in ("acme", "other"):
            await world.client.create("tenants", "", "", {"metadata": {"name": tenant}})
            world.tp.put("deployments.apps", deployment(2, tenant=tenant))
        await world.live_until(lambda: len(world.tp.all("pods")) == 4)
        await world.client.delete("tenants", Key("", "", "acme"))
        await world.live_until(lambda: world.tp.find("tenants", "", "", "acme") is None, limit=60)
        await world.clock.advance(5)
        for gvr in ("namespaces", *namespaces.contents()):
            assert world.tp.all(gvr, "acme") == []
        assert len(world.tp.all("pods", "other")) == 2
        assert _names(world, "namespaces", "other") == {"default", "kube-system", "kube-public"}

    play(story)


def test_makers_are_deleted_before_what_they_make() -> None:
    order = namespaces.contents()
    assert order.index("deployments.apps") < order.index("replicasets.apps")
    assert order.index("replicasets.apps") < order.index("pods")
    assert "nodes" not in order
    assert "namespaces" not in order
