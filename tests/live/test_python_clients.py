"""The other Python packages that talk to Kubernetes: lightkube, kr8s, kubernetes_asyncio; each does
what its users do with it, in a tenant of its own, by its own credential and behind the prefix."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from livekit import Cluster, Program, until

# What is old in these packages is not ours to mend.
pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("ignore")]

Object = dict[str, Any]
NS = "default"
THINGS = "things.others.example.com"


@pytest.fixture(autouse=True)
def _left() -> Iterator[None]:
    """Connections that a package leaves open are closed here, not in somebody else's test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(params=["own", "prefix"])
def kubeconfig(
    request: pytest.FixtureRequest, cluster: Cluster, kubectl: Callable[..., Program]
) -> Path:
    """Of a tenant that has a kind of its own, and one object of it."""
    owner = cluster.tenant("pythons")
    k = kubectl(owner)
    k("apply", "-f", "-", stdin={
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": THINGS},
        "spec": {
            "group": "others.example.com", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
            "versions": [{
                "name": "v1", "served": True, "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "properties": {"n": {"type": "integer"}}},
                }}},
            }],
        },
    })  # fmt: skip
    k("apply", "-f", "-", stdin=thing("first", 1))
    if request.param == "own":
        return owner
    return cluster.kubeconfig(cluster.admin, "pythons-op", suffix="/t/pythons")


def thing(name: str, n: int) -> Object:
    return {
        "apiVersion": "others.example.com/v1", "kind": "Thing",
        "metadata": {"name": name, "namespace": NS}, "spec": {"n": n},
    }  # fmt: skip


def test_lightkube(kubeconfig: Path) -> None:
    """No discovery at all; watches that begin with what is there; server-side apply."""
    pytest.importorskip("lightkube")
    from lightkube import ApiError, Client, KubeConfig
    from lightkube.generic_resource import create_namespaced_resource
    from lightkube.models.meta_v1 import ObjectMeta
    from lightkube.resources.core_v1 import ConfigMap, Node
    from lightkube.types import PatchType

    client = Client(config=KubeConfig.from_file(str(kubeconfig)), field_manager="light")
    meta = ObjectMeta(name="light", namespace=NS)
    client.create(ConfigMap(metadata=meta, data={"a": "1"}))
    applied = client.apply(
        ConfigMap(apiVersion="v1", kind="ConfigMap", metadata=meta, data={"b": "1"}), force=True
    )
    assert applied.data == {"a": "1", "b": "1"}
    watched = client.watch(ConfigMap, namespace=NS, fields={"metadata.name": "light"})
    assert next(iter(watched))[0] == "ADDED"
    client.delete(ConfigMap, "light", namespace=NS)

    things = create_namespaced_resource("others.example.com", "v1", "Thing", "things")
    assert {t["spec"]["n"] for t in client.list(things, namespace=NS)} == {1}
    client.apply(things(metadata=ObjectMeta(name="second", namespace=NS), spec={"n": 2}))
    merge = {"namespace": NS, "patch_type": PatchType.MERGE}
    assert client.patch(things, "second", {"spec": {"n": 3}}, **merge).spec == {"n": 3}
    with pytest.raises(ApiError) as invalid:
        client.patch(things, "second", {"spec": {"n": "many"}}, **merge)
    assert invalid.value.status.code == 422
    client.delete(things, "second", namespace=NS)
    with pytest.raises(ApiError):
        list(client.list(Node))


def test_kr8s(kubeconfig: Path) -> None:
    """Discovery group by group, of all versions; pages of 100; conditions that it waits for."""
    kr8s = pytest.importorskip("kr8s")
    from kr8s.objects import ConfigMap, Deployment

    api = kr8s.api(kubeconfig=str(kubeconfig))
    assert api.version()["major"] == "1"
    kinds = {kind["name"] for kind in api.api_resources()}
    assert {"things", "deployments"} <= kinds
    assert not {"nodes", "tenants"} & kinds
    plain = ConfigMap({"metadata": {"name": "kr", "namespace": NS}, "data": {"a": "1"}}, api=api)
    plain.create()
    plain.patch({"data": {"a": "2"}})
    plain.label({"by": "kr8s"})
    found = list(api.get("configmaps", namespace=NS, label_selector={"by": "kr8s"}))
    assert [(each.name, each.data.a) for each in found] == [("kr", "2")]
    plain.delete()
    plain.wait(["delete"], timeout=20)
    labels = {"app": "kr"}
    web = Deployment({
        "metadata": {"name": "kr", "namespace": NS},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "c", "image": "nginx:1"}],
                },
            },
        },
    }, api=api)  # fmt: skip
    web.create()
    web.wait("condition=Available", timeout=30)
    web.scale(2)
    until(lambda: len(list(web.pods())) == 2)
    web.delete()
    web.wait(["delete"], timeout=20)
    assert [each.spec.n for each in api.get(THINGS, namespace=NS)] == [1]


def test_kubernetes_asyncio(kubeconfig: Path) -> None:
    pytest.importorskip("kubernetes_asyncio")
    from kubernetes_asyncio import client, config, watch

    async def story() -> list[str]:
        await config.load_kube_config(config_file=str(kubeconfig))
        seen = []
        async with client.ApiClient() as api:
            core = client.CoreV1Api(api)
            await core.create_namespaced_config_map(NS, {"metadata": {"name": "aio"}})
            async with watch.Watch() as watching:
                async for event in watching.stream(
                    core.list_namespaced_config_map, NS,
                    field_selector="metadata.name=aio", timeout_seconds=20,
                ):  # fmt: skip
                    seen.append(event["type"])
                    if event["type"] == "ADDED":
                        await core.patch_namespaced_config_map("aio", NS, {"data": {"a": "1"}})
                    elif event["type"] == "MODIFIED":
                        await core.delete_namespaced_config_map("aio", NS)
                    else:
                        watching.stop()
            custom = client.CustomObjectsApi(api)
            where = ("others.example.com", "v1", NS, "things")
            made = await custom.create_namespaced_custom_object(*where, thing("aio", 5))
            assert made["spec"] == {"n": 5}
            await custom.delete_namespaced_custom_object(*where, "aio")
        return seen

    assert asyncio.run(story()) == ["ADDED", "MODIFIED", "DELETED"]
