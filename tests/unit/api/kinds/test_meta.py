from __future__ import annotations

from typing import Any

import pytest

from arktos_ray.api import kinds, scheme
from arktos_ray.api.kinds.causes import bad, required
from arktos_ray.api.kinds.meta import validate_meta_update

PODS = scheme.resource("pods")


def meta(**more: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web", "namespace": "default", "tenant": "acme", **more}}


def told(obj: dict[str, Any], gvr: str = "pods") -> list[str]:
    causes = kinds.validate_meta(obj, scheme.resource(gvr))
    return [f"{c.field}: {c.message}" for c in causes]


def test_ordinary_metadata_is_accepted() -> None:
    obj = meta(
        labels={"app": "web", "example.com/tier": "", "a": "1.2_3-x"},
        annotations={"Example.com/Anything": "x" * 1000},
        finalizers=["example.com/wait", "foregroundDeletion"],
        generateName="web-",
        ownerReferences=[
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "u",
             "controller": True},
        ],
    )  # fmt: skip
    assert told(obj) == []


def test_one_broken_rule_reads_like_the_real_server() -> None:
    failure = kinds.invalid(PODS, "x", [required("spec.containers")])
    assert failure.message == 'Pod "x" is invalid: spec.containers: Required value'
    assert failure.code == 422
    assert failure.details == {
        "name": "x",
        "kind": "Pod",
        "causes": [
            {
                "reason": "FieldValueRequired",
                "message": "Required value",
                "field": "spec.containers",
            }
        ],
    }


def test_several_broken_rules_are_listed_once_each_and_the_group_is_named() -> None:
    cause = bad("spec.replicas", -1, "must be greater than or equal to 0")
    failure = kinds.invalid(
        scheme.resource("deployments.apps"), "d", [cause, required("spec.selector"), cause]
    )
    assert failure.message == (
        'Deployment.apps "d" is invalid: [spec.replicas: Invalid value: -1: must be greater than '
        "or equal to 0, spec.selector: Required value]"
    )
    assert failure.details is not None
    assert failure.details["group"] == "apps"


@pytest.mark.parametrize("name", ["Web", "-web", "web_1", "a" * 254, "web.", "w eb"])
def test_a_bad_name_is_refused(name: str) -> None:
    (cause,) = kinds.validate_meta(meta(name=name), PODS)
    assert cause.field == "metadata.name"
    assert cause.reason == "FieldValueInvalid"


def test_a_name_or_a_prefix_must_be_given() -> None:
    assert told(meta(name="")) == [
        "metadata.name: Required value: name or generateName is required"
    ]


def test_a_service_name_starts_with_a_letter() -> None:
    assert told(meta(name="1web"), "services")[0].startswith(
        'metadata.name: Invalid value: "1web": a DNS-1035 label must consist of'
    )
    assert told(meta(name="1web")) == []


def test_the_word_for_all_tenants_is_no_tenant() -> None:
    assert told({"metadata": {"name": "all"}}, "tenants") == [
        'metadata.name: Invalid value: "all": is not an acceptable tenant name'
    ]
    assert "is not an acceptable tenant name" in told(meta(tenant="all"))[0]


def test_a_node_belongs_to_no_tenant_and_no_namespace() -> None:
    assert told(meta(), "nodes") == [
        "metadata.namespace: Forbidden: not allowed on this type",
        "metadata.tenant: Forbidden: not allowed on this type",
    ]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"a b": ""}, "name part must consist of alphanumeric characters"),
        ({"/a": ""}, "prefix part must be non-empty"),
        ({"x/": ""}, "name part must be non-empty"),
        ({"X/a": ""}, "prefix part a lowercase RFC 1123 subdomain must"),
        ({"x/y/z": ""}, "a qualified name must consist of"),
        ({"a": "b c"}, "a valid label must be an empty string or consist of"),
        ({"a": "b" * 64}, "must be no more than 63 bytes"),
        ({"a" * 64: ""}, "name part must be no more than 63 bytes"),
        ({"k" * 100_000: ""}, "name part must be no more than 63 bytes"),
    ],
)
def test_bad_labels_are_refused_in_known_words(labels: dict[str, str], words: str) -> None:
    (cause,) = kinds.validate_meta(meta(labels=labels), PODS)
    assert cause.field == "metadata.labels"
    assert words in cause.message


def test_annotations_share_a_quarter_of_a_mebibyte() -> None:
    half = "x" * (128 * 1024)
    assert told(meta(annotations={"a": half, "b": half[:-2]})) == []
    assert told(meta(annotations={"a": half, "b": half})) == [
        "metadata.annotations: Too long: may not be more than 262144 bytes"
    ]
    wide = "é" * (128 * 1024)  # two bytes each
    assert len(told(meta(annotations={"a": wide}))) == 1


def test_only_one_owner_controls() -> None:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": True}
    (line,) = told(meta(ownerReferences=[owner, owner]))
    assert "Only one reference can have Controller set to true" in line
    assert len(told(meta(ownerReferences=[{}]))) == 4


def test_a_finalizer_needs_a_domain_or_a_known_name() -> None:
    (line,) = told(meta(finalizers=["mine"]))
    assert line.endswith("name is neither a standard finalizer name nor is it fully qualified")


def test_identity_never_changes_and_nothing_is_held_back_once_deleted() -> None:
    old = meta(uid="a", deletionTimestamp="2026-01-01T00:00:00Z", finalizers=["x/a"])
    new = meta(uid="b", deletionTimestamp="2026-01-01T00:00:00Z", finalizers=["x/a", "x/b"])
    assert [f"{c.field}: {c.message}" for c in validate_meta_update(new, old)] == [
        'metadata.uid: Invalid value: "b": field is immutable',
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being "
        'deleted, found new finalizers []string{"x/b"}',
    ]
