"""The Python package `kubernetes`: typed, dynamic, watching, patching, as its users write it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from livekit import Cluster, until

kubernetes = pytest.importorskip("kubernetes", reason="the package kubernetes is not installed")
from kubernetes import client, config, dynamic, watch  # noqa: E402
from kubernetes.client import ApiException  # noqa: E402

# What is old in that package is not ours to mend.
pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("ignore:::kubernetes")]

NS = "default"


@pytest.fixture(scope="module")
def api(cluster: Cluster) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = config.new_client_from_config(config_file=str(cluster.tenant("python")))
    with made:
        yield made


def deployment(name: str, image: str = "nginx:1") -> Any:
    return client.V1Deployment(
        metadata=client.V1ObjectMeta(name=name),
        spec=client.V1DeploymentSpec(
            replicas=2,
            selector=client.V1LabelSelector(match_labels={"app": name}),
            template=client.V1PodTemplateSpec(
                metadata=client.V1ObjectMeta(labels={"app": name}),
                spec=client.V1PodSpec(
                    containers=[client.V1Container(name="c", image=image)],
                    termination_grace_period_seconds=0,
                ),
            ),
        ),
    )


def test_typed(api: Any) -> None:
    core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
    assert client.VersionApi(api).get_code().major == "1"
    assert "apps" in {g.name for g in client.ApisApi(api).get_api_versions().groups}
    assert {ns.metadata.name for ns in core.list_namespace().items} >= {"default", "kube-system"}

    made = core.create_namespaced_config_map(
        NS, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="c"), data={"a": "1"})
    )
    assert made.metadata.uid
    made.data["a"] = "2"
    assert core.replace_namespaced_config_map("c", NS, made).data == {"a": "2"}
    with pytest.raises(ApiException) as conflict:
        core.replace_namespaced_config_map("c", NS, made)
    assert conflict.value.status == 409
    # A dict goes out as a strategic merge patch, a list as a JSON patch.
    patched = core.patch_namespaced_config_map("c", NS, {"data": {"b": "3"}})
    assert patched.data == {"a": "2", "b": "3"}
    patched = core.patch_namespaced_config_map(
        "c", NS, [{"op": "remove", "path": "/data/b"}]
    )  # fmt: skip
    assert patched.data == {"a": "2"}
    assert core.delete_namespaced_config_map("c", NS)["status"] == "Success"
    with pytest.raises(ApiException) as gone:
        core.read_namespaced_config_map("c", NS)
    assert gone.value.status == 404

    core.create_namespaced_secret(
        NS, client.V1Secret(metadata=client.V1ObjectMeta(name="s"), string_data={"a": "b"})
    )
    assert core.read_namespaced_secret("s", NS).data == {"a": "Yg=="}

    apps.create_namespaced_deployment(NS, deployment("web"))
    until(lambda: apps.read_namespaced_deployment_status("web", NS).status.ready_replicas == 2)
    assert len(core.list_namespaced_pod(NS, label_selector="app=web").items) == 2
    scale = apps.read_namespaced_deployment_scale("web", NS)
    scale.spec.replicas = 1
    assert apps.replace_namespaced_deployment_scale("web", NS, scale).spec.replicas == 1
    apps.patch_namespaced_deployment_scale("web", NS, {"spec": {"replicas": 3}})
    until(lambda: apps.read_namespaced_deployment("web", NS).status.ready_replicas == 3)
    page = core.list_namespaced_pod(NS, limit=1)
    assert page.metadata._continue
    assert page.metadata.remaining_item_count == 2
    apps.delete_namespaced_deployment("web", NS, propagation_policy="Foreground")
    until(lambda: not core.list_namespaced_pod(NS).items)
    with pytest.raises(ApiException) as refused:
        core.list_node()
    assert refused.value.status == 403


def test_watching(api: Any) -> None:
    core = client.CoreV1Api(api)
    watching, found = watch.Watch(), []
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="w"), data={})
    core.create_namespaced_config_map(NS, body)
    for event in watching.stream(
        core.list_namespaced_config_map, NS, field_selector="metadata.name=w", timeout_seconds=20
    ):
        found.append((event["type"], event["object"].metadata.name))
        if event["type"] == "ADDED":
            core.delete_namespaced_config_map("w", NS)
        else:
            watching.stop()
    assert found == [("ADDED", "w"), ("DELETED", "w")]
    # From a list on, as informers do.
    listed = core.list_namespaced_config_map(NS)
    core.create_namespaced_config_map(NS, body)
    for event in watch.Watch().stream(
        core.list_namespaced_config_map, NS, timeout_seconds=20,
        resource_version=listed.metadata.resource_version,
    ):  # fmt: skip
        assert (event["type"], event["object"].metadata.name) == ("ADDED", "w")
        break
    # From long ago: the client is told to list again.
    core.delete_namespaced_config_map("w", NS)


def test_dynamic(api: Any) -> None:
    client_of = dynamic.DynamicClient(api)
    deployments = client_of.resources.get(api_version="apps/v1", kind="Deployment")
    body = api.sanitize_for_serialization(deployment("dyn"))
    body |= {"apiVersion": "apps/v1", "kind": "Deployment"}
    made = deployments.create(body=body, namespace=NS)
    assert made.spec.progressDeadlineSeconds == 600
    applied = deployments.server_side_apply(
        body=body, name="dyn", namespace=NS, field_manager="py", force_conflicts=True
    )
    assert {m.manager for m in applied.metadata.managedFields} >= {"py"}
    until(lambda: deployments.get(name="dyn", namespace=NS).status.readyReplicas == 2)
    for event in deployments.watch(namespace=NS, timeout=5, name="dyn"):
        assert event["object"].metadata.name == "dyn"
        break
    patch = {"spec": {"replicas": 0}}
    merge = "application/merge-patch+json"
    patched = deployments.patch(body=patch, name="dyn", namespace=NS, content_type=merge)
    assert patched.spec.replicas == 0
    scale = client_of.resources.get(api_version="v1", kind="Pod").subresources
    assert "log" in scale
    deployments.delete(name="dyn", namespace=NS)
    with pytest.raises(dynamic.exceptions.NotFoundError):
        deployments.get(name="dyn", namespace=NS)
    for kind in ("Node", "Tenant"):
        with pytest.raises(dynamic.exceptions.ResourceNotFoundError):
            client_of.resources.get(api_version="v1", kind=kind)


def test_the_administrator_with_a_certificate(cluster: Cluster) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = config.new_client_from_config(config_file=str(cluster.admin))
    with made as api:
        core = client.CoreV1Api(api)
        nodes = core.list_node().items
        assert any(node.status.conditions for node in nodes)
        assert core.read_node(nodes[0].metadata.name).status.allocatable["pods"]
        pods = core.list_pod_for_all_namespaces(
            field_selector=f"spec.nodeName={nodes[0].metadata.name}"
        )
        assert pods.kind in (None, "PodList")
    assert os.path.exists(cluster.admin)


@pytest.fixture(params=["account", "prefix"])
def insider(request: pytest.FixtureRequest, cluster: Cluster, api: Any) -> Iterator[Any]:
    """A client in the tenant with other credentials than its administrator's: the token of a
    service account, and an operator's with the tenant after the address."""
    if request.param == "prefix":
        path = cluster.kubeconfig(cluster.admin, "python-op", suffix="/t/python")
    else:
        core, rbac = client.CoreV1Api(api), client.RbacAuthorizationV1Api(api)
        named = client.V1ObjectMeta(name="robot")
        core.create_namespaced_service_account(NS, client.V1ServiceAccount(metadata=named))
        whole = {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "admin-role",
        }
        subject = {"kind": "ServiceAccount", "name": "robot", "namespace": NS}
        binding = {"metadata": {"name": "robot"}, "roleRef": whole, "subjects": [subject]}
        rbac.create_cluster_role_binding(binding)
        asked = {"spec": {"expirationSeconds": 3600}}
        given = core.create_namespaced_service_account_token("robot", NS, asked)
        path = cluster.kubeconfig(cluster.tenant("python"), "python-robot")
        config_of = yaml.safe_load(path.read_text())
        config_of["users"][0]["user"] = {"token": given.status.token}
        path.write_text(yaml.safe_dump(config_of))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = config.new_client_from_config(config_file=str(path))
    with made:
        yield made


NOTE = {"group": "python.example.com", "version": "v1", "plural": "notes"}


def test_a_kind_of_its_own(insider: Any) -> None:
    """By the typed API, by discovery, watched; and nothing of the cluster is to be seen."""
    kinds, custom = client.ApiextensionsV1Api(insider), client.CustomObjectsApi(insider)
    schema = client.V1JSONSchemaProps(
        type="object",
        properties={"spec": client.V1JSONSchemaProps(
            type="object",
            properties={"pages": client.V1JSONSchemaProps(type="integer", default=1, minimum=1)},
        )},
    )  # fmt: skip
    name = "notes.python.example.com"
    kinds.create_custom_resource_definition(
        client.V1CustomResourceDefinition(
            metadata=client.V1ObjectMeta(name=name),
            spec=client.V1CustomResourceDefinitionSpec(
                group=NOTE["group"], scope="Namespaced",
                names=client.V1CustomResourceDefinitionNames(plural="notes", kind="Note"),
                versions=[client.V1CustomResourceDefinitionVersion(
                    name="v1", served=True, storage=True,
                    schema=client.V1CustomResourceValidation(open_apiv3_schema=schema),
                )],
            ),
        )
    )  # fmt: skip
    conditions = kinds.read_custom_resource_definition(name).status.conditions
    assert {(c.type, c.status) for c in conditions} >= {("Established", "True")}
    body = {"apiVersion": "python.example.com/v1", "kind": "Note", "metadata": {"name": "n"}}
    made = custom.create_namespaced_custom_object(namespace=NS, body={**body, "spec": {}}, **NOTE)
    assert made["spec"] == {"pages": 1}
    with pytest.raises(ApiException) as invalid:
        custom.patch_namespaced_custom_object(
            namespace=NS, name="n", body={"spec": {"pages": 0}}, **NOTE
        )
    assert invalid.value.status == 422
    seen = []
    for event in watch.Watch().stream(
        custom.list_namespaced_custom_object, namespace=NS, timeout_seconds=20, **NOTE
    ):
        seen.append((event["type"], event["object"]["spec"]["pages"]))
        if len(seen) == 1:
            custom.patch_namespaced_custom_object(
                namespace=NS, name="n", body={"spec": {"pages": 2}}, **NOTE
            )
        else:
            break
    assert seen == [("ADDED", 1), ("MODIFIED", 2)]
    notes = dynamic.DynamicClient(insider).resources.get(
        api_version="python.example.com/v1", kind="Note"
    )
    applied = notes.server_side_apply(
        body={**body, "spec": {"pages": 3}}, name="n", namespace=NS, field_manager="py",
        force_conflicts=True,
    )  # fmt: skip
    assert applied.spec.pages == 3
    notes.delete(name="n", namespace=NS)
    assert notes.get(namespace=NS).items == []
    kinds.delete_custom_resource_definition(name)
    with pytest.raises(ApiException) as refused:
        client.CoreV1Api(insider).list_node()
    assert refused.value.status in (403, 404)
