"""Custom resources with stock kubectl: two tenants with the same name for different kinds, a kind
that is everybody's, and everything that a user does with objects of either."""

from __future__ import annotations

import json
from collections.abc import Callable
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
