"""Custom resources with stock kubectl: two tenants with the same name for different kinds, a kind
that is everybody's, and everything that a user does with objects of either."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from livekit import Cluster, Program, until

pytestmark = pytest.mark.live

Object = dict[str, Any]
Kubectl = Callable[..., Program]
GVR = "widgets.example.com"


def definition(spec: Object, *, forced: bool = False, plural: str = "widgets") -> str:
    kind = plural[:-1].capitalize()
    meta: Object = {"name": f"{plural}.example.com"}
    if forced:
        meta["labels"] = {"arktos.futurewei.com/crd-sharing-policy": "forced"}
    version = {
        "name": "v1", "served": True, "storage": True,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
            },
        },
        "additionalPrinterColumns": [
            {"name": "Size", "type": "string", "jsonPath": ".spec.size"},
        ],
        "schema": {"openAPIV3Schema": {
            "type": "object", "description": f"A {kind} of its tenant.",
            "properties": {
                "spec": {"type": "object", "properties": {
                    "replicas": {"type": "integer", "default": 1}, **spec}},
                "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
            },
        }},
    }  # fmt: skip
    return json.dumps(
        {
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": meta,
            "spec": {
                "group": "example.com", "scope": "Namespaced", "versions": [version],
                "names": {
                    "plural": plural, "kind": kind, "shortNames": [plural[:2]],
                    "categories": ["all"],
                },
            },
        }
    )  # fmt: skip


def widget(size: object, name: str = "w", kind: str = "Widget", **more: object) -> str:
    return json.dumps(
        {
            "apiVersion": "example.com/v1", "kind": kind, "metadata": {"name": name},
            "spec": {"size": size, **more},
        }
    )  # fmt: skip


NUMBER: Object = {"size": {"type": "integer", "minimum": 1, "description": "How large it is."}}
TEXT: Object = {"size": {"type": "string"}}


@pytest.fixture(scope="module")
def users(cluster: Cluster, kubectl: Kubectl) -> tuple[Program, Program]:
    return kubectl(cluster.tenant("maker")), kubectl(cluster.tenant("other"))


def test_two_tenants_have_the_same_name_for_different_kinds(
    users: tuple[Program, Program],
) -> None:
    maker, other = users
    maker("apply", "-f", "-", stdin=definition(NUMBER))
    maker("wait", "--for=condition=Established", f"crd/{GVR}", "--timeout=10s")
    assert GVR not in other("get", "crd", "-o", "name")
    other("apply", "-f", "-", stdin=definition(TEXT))

    maker("apply", "-f", "-", stdin=widget(3))
    other("apply", "-f", "-", stdin=widget("large"))
    refusal = maker.fails("apply", "-f", "-", stdin=widget("large", "bad"))
    assert "spec.size" in refusal
    assert "unknown field" in maker.fails("create", "-f", "-", stdin=widget(1, "bad", oops=1))
    assert maker("get", "wi").split()[:2] == ["NAME", "SIZE"]
    assert "widget.example.com/w" in maker("get", "all")
    assert "large" in other("get", "widgets")
    assert "How large it is." in maker("explain", "widget.spec.size")
    assert "widgets" in maker("api-resources", "--api-group=example.com")
    assert "example.com/v1" in maker("api-versions")

    maker("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=widget(4))
    maker("scale", "widget/w", "--replicas=3")
    shown = json.loads(maker("get", "widget", "w", "-o", "json"))
    assert (shown["spec"]["size"], shown["spec"]["replicas"]) == (4, 3)
    maker("label", "widget", "w", "a=b")
    assert maker("get", "widgets", "-l", "a=b", "-o", "name").strip() == "widget.example.com/w"
    maker("patch", "widget", "w", "--type=merge", "--subresource=status", "-p",
              '{"status":{"replicas":3}}')  # fmt: skip
    maker("wait", "widget/w", "--for=jsonpath={.status.replicas}=3", "--timeout=10s")

    maker("delete", "crd", GVR)
    assert GVR not in maker("get", "crd", "-o", "name")
    assert "widgets" not in maker("api-resources", "--api-group=example.com")
    assert "large" in other("get", "widgets")
    other("delete", "widget", "w")
    other("delete", "crd", GVR)


@pytest.mark.parametrize("minor", ["1.27", "1.33"])
def test_older_clients_read_what_a_kind_looks_like(
    cluster: Cluster, make_kubectl: Callable[..., Program], minor: str
) -> None:
    """1.27 reads OpenAPI 2 in protobuf, and checks objects against it before it sends them."""
    user = make_kubectl(minor, cluster.tenant("other"))
    user("apply", "-f", "-", stdin=definition(NUMBER, plural="levers"))
    assert "How large it is." in user("explain", "lever.spec.size")
    user("apply", "-f", "-", stdin=widget(3, "l", "Lever"))
    assert "size" in user.fails("apply", "-f", "-", stdin=widget("large", "bad", "Lever"))
    assert "nonsense" in user.fails(
        "create", "-f", "-", stdin=widget(1, "bad", "Lever", nonsense=1)
    )
    user("apply", "-f", "-", stdin=widget(4, "l", "Lever"))
    assert user.json("get", "lever", "l")["spec"]["size"] == 4
    user("delete", "crd", "levers.example.com")


OPERATOR = """
import kopf

@kopf.on.startup()
def configure(settings, **_):
    settings.posting.enabled = False

@kopf.on.create("example.com", "v1", "sprockets")
@kopf.on.update("example.com", "v1", "sprockets", field="spec.size")
def sized(spec, patch, **_):
    patch.status["seen"] = spec["size"]

@kopf.on.delete("example.com", "v1", "sprockets")
def gone(**_):
    pass
"""


def test_an_operator_written_with_kopf_looks_after_a_kind(
    cluster: Cluster, kubectl: Kubectl, tmp_path: Path
) -> None:
    pytest.importorskip("kopf")
    user = kubectl(cluster.tenant("maker"))
    body = json.loads(definition(NUMBER, plural="sprockets"))
    [version] = body["spec"]["versions"]
    version["schema"]["openAPIV3Schema"]["properties"]["status"] = {
        "type": "object", "x-kubernetes-preserve-unknown-fields": True,
    }  # fmt: skip
    user("apply", "-f", "-", stdin=body)
    (tmp_path / "operator.py").write_text(OPERATOR)

    def sprocket() -> Object:
        found: Object = user.json("get", "sprocket", "s")
        return found

    log = (tmp_path / "log").open("w")
    operator = subprocess.Popen(
        [sys.executable, "-m", "kopf", "run", "operator.py", "--namespace=default", "--verbose"],
        cwd=tmp_path, env=user.environment(), stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        user("apply", "-f", "-", stdin=widget(3, "s", "Sprocket"))
        until(lambda: sprocket().get("status", {}).get("seen") == 3, 40.0, "the operator's status")
        user("patch", "sprocket", "s", "--type=merge", "-p", '{"spec":{"size":5}}')
        until(lambda: sprocket()["status"]["seen"] == 5)
        assert "kopf.zalando.org/KopfFinalizerMarker" in sprocket()["metadata"]["finalizers"]
        user("delete", "sprocket", "s", "--timeout=20s")
        assert operator.poll() is None
    except BaseException:
        print((tmp_path / "log").read_text()[-4000:])
        raise
    finally:
        operator.terminate()
        operator.wait(20)
        log.close()
        user("delete", "crd", "sprockets.example.com", "--wait=false")


def test_a_forced_kind_is_everybodys(
    cluster: Cluster, kubectl: Kubectl, users: tuple[Program, Program]
) -> None:
    maker, other = users
    admin = kubectl(cluster.admin)
    admin("apply", "-f", "-", stdin=definition(NUMBER, forced=True, plural="gadgets"))
    gadgets = "gadgets.example.com"
    try:
        for user in users:
            until(lambda user=user: gadgets in user("get", "crd", "-o", "name"))  # type: ignore[misc]
            user("apply", "-f", "-", stdin=widget(2, "g", "Gadget"))
            assert user("get", "gadgets", "-o", "name").strip() == "gadget.example.com/g"
        assert f"There is already a system forced CRD with the name {gadgets}" in maker.fails(
            "create", "-f", "-", stdin=definition(TEXT, plural="gadgets")
        )
        assert f"{gadgets} is a system CRD, you cannot overwrite it." in maker.fails(
            "apply", "-f", "-", stdin=definition(TEXT, plural="gadgets")
        )
        assert (
            f"Forbidden: {gadgets} is a system CRD, it can only be deleted by a cluster admin."
            in maker.fails("delete", "crd", gadgets)
        )
    finally:
        admin("delete", "crd", gadgets)
    until(lambda: gadgets not in other("get", "crd", "-o", "name"))
    assert "gadgets" not in maker("api-resources", "--api-group=example.com")
