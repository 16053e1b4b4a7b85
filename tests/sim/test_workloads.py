"""Controllers against the real parts: rollouts, cascades and endings, also on a bad day."""

from __future__ import annotations

from typing import Any

import pytest

from arktos_ray.api.errors import AlreadyExists, Conflict, NotFound
from arktos_ray.api.names import Key
from arktos_ray.testing.sim import Faults, SimCluster

Object = dict[str, Any]
WEB = Key("acme", "default", "web")
CALM, BAD = Faults(), Faults(reset_chance=0.01)


def _template(image: str) -> Object:
    container = {
        "name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}],
        "resources": {"requests": {"cpu": "10m"}},
    }  # fmt: skip
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}


class Acme:
    """A tenant with one Deployment, `web`, and a Service before it."""

    def __init__(self, sim: SimCluster) -> None:
        self.sim = sim
        self.client = sim.client("tp-1")
        self.create(
            "tenants", "", "", {"metadata": {"name": "acme"}, "spec": {"storageClusterId": "0"}}
        )
        sim.run_until(lambda: len(list(sim.objects("serviceaccounts", "acme"))) == 3)

    def create(self, gvr: str, tenant: str, namespace: str, body: Object) -> None:
        async def once() -> None:
            try:
                await self.client.create(gvr, tenant, namespace, body)
            except AlreadyExists:
                return  # An unanswered try of ours.

        self.sim.run(self.sim.eventually(once))

    def deploy(self, replicas: int, namespace: str = "default") -> None:
        spec = {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": _template("i:1"),
        }
        self.create(
            "deployments.apps", "acme", namespace, {"metadata": {"name": "web"}, "spec": spec}
        )

    def roll(self, image: str) -> None:
        patch = {"spec": {"template": _template(image)}}
        self.sim.run(self.sim.eventually(lambda: self.client.patch("deployments.apps", WEB, patch)))

    def delete(self, gvr: str, key: Key, policy: str = "Background") -> None:
        async def once() -> None:
            try:
                await self.client.delete(gvr, key, propagationPolicy=policy)
            except (NotFound, Conflict):
                return

        self.sim.run(self.sim.eventually(once))

    def find(self, gvr: str, name: str) -> list[Object]:
        tenant = "" if gvr == "tenants" else "acme"
        return [o for o in self.sim.objects(gvr, tenant) if o["metadata"]["name"] == name]

    def pods(self) -> list[Object]:
        return [
            p for p in self.sim.objects("pods", "acme") if "deletionTimestamp" not in p["metadata"]
        ]

    def is_done(self) -> bool:
        """As `kubectl rollout status` decides, and nothing more than was asked for."""
        found = self.find("deployments.apps", "web")
        if not found:
            return False
        status, spec, meta = found[0].get("status", {}), found[0]["spec"], found[0]["metadata"]
        images = {p["spec"]["containers"][0]["image"] for p in self.pods()}
        return bool(
            status.get("observedGeneration", 0) >= meta["generation"]
            and status.get("updatedReplicas") == spec["replicas"]
            and status.get("replicas") == spec["replicas"]
            and status.get("availableReplicas") == spec["replicas"]
            and len(self.pods()) == spec["replicas"]
            and images == {spec["template"]["spec"]["containers"][0]["image"]}
        )


@pytest.mark.parametrize("faults", [CALM, BAD], ids=["calm", "bad"])
def test_a_deployment_rolls_out_back_and_away(seed: int, faults: Faults) -> None:
    with SimCluster(seed=seed, nodes=5, faults=faults, shards=2) as sim:
        acme = Acme(sim)
        acme.deploy(12)
        ports = [{"name": "http", "port": 80, "targetPort": "http"}]
        service = {
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": ports},
        }
        acme.create("services", "acme", "default", service)
        sim.run_until(acme.is_done)
        sim.run_for(10)
        [endpoints] = acme.find("endpoints", "web")
        assert len(endpoints["subsets"][0]["addresses"]) == 12
        for image in ("i:2", "i:1"):
            acme.roll(image)
            sim.run_until(acme.is_done)
        sets = list(sim.objects("replicasets.apps", "acme"))
        assert len(sets) == 2
        assert acme.find("deployments.apps", "web")[0]["metadata"]["annotations"] == {
            "deployment.kubernetes.io/revision": "3"
        }
        acme.delete("services", WEB)
        acme.delete("deployments.apps", WEB, "Foreground")
        sim.run_until(lambda: not acme.find("deployments.apps", "web"))
        sim.run_until(lambda: not list(sim.objects("pods", "acme")))
        sim.run_until(lambda: not acme.find("endpoints", "web"))
        assert not list(sim.objects("replicasets.apps", "acme"))


def test_nothing_is_created_twice_when_parts_die(seed: int) -> None:
    with SimCluster(seed=seed, nodes=5, faults=BAD, shards=2) as sim:
        acme = Acme(sim)
        acme.deploy(60)
        for victim in ("tp-1", "shard-1", "tp-1", "shard-2"):
            sim.run_for(sim.random.uniform(0.01, 0.4))
            sim.crash(victim)
        most = 0

        def look() -> bool:
            nonlocal most
            most = max(most, len(acme.pods()))
            return len(acme.pods()) == 60

        sim.run_until(look, within_s=60)
        sim.run_for(10)
        assert look()
        assert most == 60
        [only] = sim.objects("replicasets.apps", "acme")
        assert only["status"]["replicas"] == 60


def test_namespaces_and_tenants_end_with_all_they_hold(seed: int) -> None:
    with SimCluster(seed=seed, nodes=5, faults=BAD) as sim:
        acme = Acme(sim)
        acme.create("namespaces", "acme", "", {"metadata": {"name": "shop"}})
        acme.deploy(10, "shop")
        acme.deploy(5)
        sim.run_until(lambda: len(acme.pods()) == 15)
        acme.delete("namespaces", Key("acme", "", "shop"))
        sim.run_until(lambda: not acme.find("namespaces", "shop"), within_s=60)
        assert all(p["metadata"]["namespace"] == "default" for p in acme.pods())
        acme.delete("tenants", Key("", "", "acme"))
        sim.crash("tp-1")
        sim.run_for(2)
        sim.run_until(lambda: not acme.find("tenants", "acme"), within_s=60)
        for gvr in ("namespaces", "pods", "replicasets.apps", "serviceaccounts", "endpoints"):
            assert not list(sim.objects(gvr, "acme"))
