"""Roles and bindings: defaults and refusals, in the words that clients know."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from arktos_ray.api import kinds, scheme

Object = dict[str, Any]
GROUP = "rbac.authorization.k8s.io"
ROLE, CLUSTER_ROLE = f"roles.{GROUP}", f"clusterroles.{GROUP}"
BINDING, CLUSTER_BINDING = f"rolebindings.{GROUP}", f"clusterrolebindings.{GROUP}"
PODS: Object = {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}
PATHS: Object = {"verbs": ["get"], "nonResourceURLs": ["/healthz"]}
ANN: Object = {"kind": "User", "name": "ann"}


def binding(*subjects: Object, **role: str) -> Object:
    ref = {"kind": "ClusterRole", "name": "view", **role}
    return {"metadata": {"name": "x"}, "roleRef": ref, "subjects": list(subjects)}


def told(gvr: str, obj: Object) -> list[str]:
    obj = copy.deepcopy(obj)
    kinds.rules(gvr).default(obj)
    return [f"{c.field}: {c.message}" for c in kinds.rules(gvr).validate(obj)]


@pytest.mark.parametrize("name", ["system:node", "admin-role", "A_b", "x" * 300])
def test_names_need_only_fit_into_a_path(name: str) -> None:
    meta = {"name": name, "tenant": "acme"}
    assert kinds.validate_meta({"metadata": meta}, scheme.resource(CLUSTER_ROLE)) == []


@pytest.mark.parametrize(("name", "why"), [
    ("a/b", "may not contain '/'"), ("a%b", "may not contain '%'"), ("..", "may not be '..'"),
])  # fmt: skip
def test_names_that_do_not_fit(name: str, why: str) -> None:
    meta = {"name": name, "tenant": "acme"}
    [cause] = kinds.validate_meta({"metadata": meta}, scheme.resource(CLUSTER_ROLE))
    assert cause.message == f'Invalid value: "{name}": {why}'


@pytest.mark.parametrize(("gvr", "rules", "causes"), [
    (ROLE, [PODS], []),
    (CLUSTER_ROLE, [PODS, PATHS], []),
    (ROLE, [], []),
    (ROLE, [{**PODS, "verbs": []}],
     ["rules[0].verbs: Required value: verbs must contain at least one value"]),
    (ROLE, [PODS, {"verbs": ["get"]}],
     ["rules[1].apiGroups: Required value: resource rules must supply at least one api group",
      "rules[1].resources: Required value: resource rules must supply at least one resource"]),
    (ROLE, [PATHS],
     ['rules[0].nonResourceURLs: Invalid value: ["/healthz"]: namespaced rules cannot apply to '
      'non-resource URLs']),
    (CLUSTER_ROLE, [{**PODS, **PATHS}],
     ['rules[0].nonResourceURLs: Invalid value: ["/healthz"]: rules cannot apply to both regular '
      'resources and non-resource URLs']),
])  # fmt: skip
def test_rules(gvr: str, rules: list[Object], causes: list[str]) -> None:
    assert told(gvr, {"metadata": {"name": "x"}, "rules": rules}) == causes


def test_an_aggregation_says_what_it_gathers() -> None:
    empty = {"metadata": {"name": "x"}, "aggregationRule": {"clusterRoleSelectors": []}}
    assert told(CLUSTER_ROLE, empty) == [
        "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector "
        "required if aggregationRule is non-nil"
    ]
    odd = {"matchExpressions": [{"key": "a", "operator": "Is", "values": ["b"]}]}
    asked = {"metadata": {"name": "x"}, "aggregationRule": {"clusterRoleSelectors": [odd]}}
    [cause] = told(CLUSTER_ROLE, asked)
    assert "not a valid selector operator" in cause


def test_groups_are_filled_in() -> None:
    obj = binding(ANN, {"kind": "ServiceAccount", "name": "bot", "namespace": "n"})
    kinds.rules(BINDING).default(obj)
    assert obj["roleRef"]["apiGroup"] == GROUP
    assert [s.get("apiGroup", "") for s in obj["subjects"]] == [GROUP, ""]
    assert told(BINDING, obj) == []


@pytest.mark.parametrize(("gvr", "obj", "causes"), [
    (BINDING, binding(), []),
    (BINDING, binding(ANN, kind="Role"), []),
    (BINDING, binding({"kind": "ServiceAccount", "name": "bot"}), []),
    (CLUSTER_BINDING, binding({"kind": "ServiceAccount", "name": "bot"}),
     ["subjects[0].namespace: Required value"]),
    (CLUSTER_BINDING, binding(ANN, kind="Role"),
     ['roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"']),
    (BINDING, binding(kind="Group", name=""),
     ['roleRef.kind: Unsupported value: "Group": supported values: "Role", "ClusterRole"',
      "roleRef.name: Required value"]),
    (BINDING, binding(apiGroup="x"),
     [f'roleRef.apiGroup: Unsupported value: "x": supported values: "{GROUP}"']),
    (BINDING, binding({"kind": "Robot", "name": "r"}),
     ['subjects[0].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", '
      '"Group"']),
    (BINDING, binding({"kind": "User"}), ["subjects[0].name: Required value"]),
    (BINDING, binding({"kind": "Group", "name": "g", "apiGroup": "x"}),
     [f'subjects[0].apiGroup: Unsupported value: "x": supported values: "{GROUP}"']),
    (BINDING, binding({"kind": "ServiceAccount", "name": "bot", "apiGroup": "x"}),
     ['subjects[0].apiGroup: Unsupported value: "x": supported values: ""']),
])  # fmt: skip
def test_bindings(gvr: str, obj: Object, causes: list[str]) -> None:
    assert told(gvr, obj) == causes


def test_a_binding_keeps_its_role_and_may_change_its_subjects() -> None:
    old = binding(ANN)
    rules = kinds.rules(BINDING)
    rules.default(old)
    other = copy.deepcopy(old)
    other["roleRef"]["name"] = "edit"
    [cause] = rules.validate_update(other, old, "")
    assert (cause.field, cause.message.rpartition(": ")[2]) == ("roleRef", "cannot change roleRef")
    more = copy.deepcopy(old)
    more["subjects"].append({"kind": "Group", "name": "g", "apiGroup": GROUP})
    assert rules.validate_update(more, old, "") == []
