"""Python handles as a user writes them: with and without await, over HTTP and over Ray."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from livekit import Cluster, until

import arktos_ray
from arktos_ray.api import errors
from arktos_ray.client import models

pytestmark = pytest.mark.live


def deployment(name: str) -> models.Model:
    made: models.Model = models.Deployment(
        metadata={"name": name},
        spec={
            "replicas": 2,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "containers": [{"name": "c", "image": "nginx"}],
                    "terminationGracePeriodSeconds": 0,
                },
            },
        },
    )
    return made


ROOT_CA = "kube-root-ca.crt"  # in every namespace


def test_without_await(cluster: Cluster) -> None:
    cluster.tenant("handles")
    with arktos_ray.connect(cluster.admin) as region:
        acme = region.tenant("handles")
        made = acme.configmaps.create({"metadata": {"name": "c"}, "data": {"a": "1"}})
        assert made.metadata.tenant == "handles"
        assert acme.configmaps.get("c").data == {"a": "1"}
        with pytest.raises(errors.AlreadyExists):
            acme.configmaps.create({"metadata": {"name": "c"}})
        patched = acme.configmaps.patch("c", {"data": {"b": "2"}})
        assert patched.data == {"a": "1", "b": "2"}
        patched.data["a"] = "3"
        assert acme.configmaps.replace(patched).data["a"] == "3"
        with pytest.raises(errors.Conflict):
            acme.configmaps.replace(patched)
        acme.configmaps.apply({"metadata": {"name": "d"}, "data": {"x": "1"}}, manager="me")
        with pytest.raises(errors.Conflict) as conflict:
            acme.configmaps.apply({"metadata": {"name": "d"}, "data": {"x": "2"}}, manager="you")
        assert conflict.value.details is not None
        acme.configmaps.apply(
            {"metadata": {"name": "d"}, "data": {"x": "2"}}, manager="you", force=True
        )
        names = [c.metadata.name for c in acme.configmaps.list(fieldSelector="metadata.name!=c")]
        assert [name for name in names if name != ROOT_CA] == ["d"]
        for event in acme.configmaps.watch(fieldSelector=f"metadata.name!={ROOT_CA}"):
            assert (event.type, event.object.metadata.name) == ("ADDED", "c")
            break
        acme.deployments.create(deployment("web"))
        for event in acme.deployments.watch(fieldSelector="metadata.name=web"):
            if event.object.status and event.object.status.readyReplicas == 2:
                break
        assert len(acme.pods.list(labelSelector="app=web")) == 2
        acme.deployments.delete("web", propagationPolicy="Foreground")
        until(lambda: not acme.pods.list())
        acme.configmaps.delete("c")
        with pytest.raises(errors.NotFound):
            acme.configmaps.get("c")
        with pytest.raises(errors.Invalid):
            acme.configmaps.create({"metadata": {"name": "No_Name"}})
        assert [e.reason for e in acme.namespace("").events.list()]
        assert region.nodes.list()[0].status.allocatable["pods"]
        assert {t.metadata.name for t in region.tenants.list()} >= {"system", "handles"}
        with pytest.raises(AttributeError):
            _ = acme.nonsense


def test_many_at_once(cluster: Cluster) -> None:
    cluster.tenant("handles-many")
    with arktos_ray.connect(cluster.admin) as region:
        maps = region.tenant("handles-many").configmaps
        bodies = [{"metadata": {"name": f"m{i}"}, "data": {"i": str(i)}} for i in range(1_500)]
        made = maps.create_many([*bodies, {"metadata": {"name": "No_Name"}}, bodies[0]])
        assert [each.ok for each in made] == [True] * 1_500 + [False, False]
        assert made[7].object.data == {"i": "7"}
        assert isinstance(made[-2].failure, errors.Invalid)
        with pytest.raises(errors.AlreadyExists):
            _ = made[-1].object
        changed = maps.patch_many({"m1": {"data": {"x": "y"}}, "nobody": {"data": {}}})
        assert changed[0].object.data == {"i": "1", "x": "y"}
        assert isinstance(changed[1].failure, errors.NotFound)
        assert all(each.ok for each in maps.delete_many([f"m{i}" for i in range(1_500)]))
        assert maps.list(fieldSelector=f"metadata.name!={ROOT_CA}") == []


def test_with_await(cluster: Cluster) -> None:
    cluster.tenant("handles")

    async def run() -> None:
        region = await arktos_ray.aconnect(cluster.admin)
        try:
            acme = region.tenant("handles")
            watch = acme.secrets.watch(fieldSelector="type=Opaque")
            await asyncio.gather(
                *(acme.secrets.create({"metadata": {"name": f"s{i}"}}) for i in range(10))
            )
            found = {(await anext(watch)).object.metadata.name for _ in range(10)}
            assert found == {f"s{i}" for i in range(10)}
            await watch.aclose()  # type: ignore[attr-defined]
            await asyncio.gather(*(acme.secrets.delete(name) for name in found))
            assert await acme.secrets.list(fieldSelector="type=Opaque") == []
        finally:
            await region.close()

    asyncio.run(run())


def test_a_tenants_own_kubeconfig_reaches_nobody_else(cluster: Cluster) -> None:
    cluster.tenant("handles-other")
    with arktos_ray.connect(cluster.tenant("handles")) as region:
        assert region.tenant("handles").namespaces.list()
        with pytest.raises(errors.Forbidden):
            region.tenant("handles-other").configmaps.list()
        with pytest.raises(errors.Forbidden):
            region.nodes.list()


def test_over_ray(cluster: Cluster, tmp_path: Path) -> None:
    """In a process of its own, since it joins Ray; the same handles, the same failures."""
    cluster.tenant("handles-ray")
    program = textwrap.dedent(
        """
        import json, sys
        import arktos_ray
        from arktos_ray.api import errors

        with arktos_ray.connect(sys.argv[1], transport="ray") as region:
            acme = region.tenant("handles-ray")
            made = acme.configmaps.create({"metadata": {"name": "r"}, "data": {"a": "1"}})
            said = {"tenant": made.metadata.tenant}
            try:
                acme.configmaps.create({"metadata": {"name": "r"}})
            except errors.AlreadyExists:
                said["twice"] = "refused"
            try:
                region.tenant("nobody").configmaps.create({"metadata": {"name": "r"}})
            except errors.NotFound as failure:
                said["nobody"] = failure.message
            ours = {"fieldSelector": "metadata.name!=kube-root-ca.crt"}
            said["found"] = [c.metadata.name for c in acme.configmaps.list(**ours)]
            said["everywhere"] = len(region.tenant("all", "").configmaps.list())
            for event in acme.configmaps.watch(**ours):
                said["watched"] = event.object.metadata.name
                break
            said["nodes"] = len(region.nodes.list())
            many = [{"metadata": {"name": f"m{i}"}} for i in range(600)]
            made = acme.configmaps.create_many(many)
            revisions = [int(each.object.metadata.resourceVersion) for each in made]
            said["many"] = len(made)
            said["in order"] = revisions == sorted(revisions)
            said["gone"] = sum(
                each.ok for each in acme.configmaps.delete_many([f"m{i}" for i in range(600)])
            )
            acme.configmaps.delete("r")
        print(json.dumps(said))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(cluster.home)], cwd=tmp_path,
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["tenant"] == "handles-ray"
    assert said["twice"] == "refused"
    assert said["nobody"] == 'tenants "nobody" not found'
    assert said["found"] == ["r"]
    assert said["watched"] == "r"
    assert said["everywhere"] >= 1
    assert said["nodes"] > 0
    assert (said["many"], said["gone"]) == (600, 600)
    assert said["in order"]
