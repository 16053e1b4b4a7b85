"""The pure parts of custom resources: paths, names, columns and versions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api import custom, old_definitions
from arktos_ray.api.custom import names, paths

Object = dict[str, Any]
OBJ: Object = {
    "spec": {"size": 3, "a.b": {"c": 1}},
    "status": {
        "conditions": [
            {"type": "Ready", "status": "True", "n": 1}, {"type": "Old", "status": "False", "n": 5},
        ],
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".spec.size", [3]),
        ("{.spec.size}", [3]),
        ("$.spec.size", [3]),
        (".spec.nothing", []),
        (".spec.size.more", []),
        (r".spec.a\.b.c", [1]),
        (".spec['a.b'].c", [1]),
        ('.spec["a.b"].c', [1]),
        (".status.conditions[0].type", ["Ready"]),
        (".status.conditions[-1].type", ["Old"]),
        (".status.conditions[7].type", []),
        (".status.conditions[*].n", [1, 5]),
        (".status.conditions[0:1].n", [1]),
        ('.status.conditions[?(@.type=="Ready")].status', ["True"]),
        (".status.conditions[?(@.type=='Old')].status", ["False"]),
        (".status.conditions[?(@.n>1)].type", ["Old"]),
        (".status.conditions[?(@.n)].type", ["Ready", "Old"]),
        ('.status.conditions[?(@.type!="Ready")].n', [5]),
    ],
)
def test_a_path_finds_what_kubernetes_finds(path: str, found: list[Any]) -> None:
    assert paths.problem(path) == ""
    assert paths.find(OBJ, path) == found


@given(st.text(alphabet=".[]'\"?()@=*:-ab19\\ ", max_size=40))
def test_any_text_is_a_path_or_has_a_problem(text: str) -> None:
    if not paths.problem(text):
        paths.find(OBJ, text)


def _definition(plural: str, kind: str = "", short: tuple[str, ...] = (), **more: Any) -> Object:
    kind = kind or plural.capitalize()
    return {
        "metadata": {"name": f"{plural}.example.com", "tenant": "acme"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind, "singular": kind.lower(),
                      "listKind": kind + "List", "shortNames": list(short)},
            "versions": [{"name": "v1", "served": True, "storage": True}], **more,
        },
    }  # fmt: skip


PLURALS = st.sampled_from(["as", "bs", "cs", "ds"])


@given(
    st.lists(
        st.tuples(PLURALS, st.sampled_from("KLM"), st.lists(st.sampled_from("xyz"), max_size=2)),
        max_size=6, unique_by=lambda each: each[0],
    )
)  # fmt: skip
def test_no_two_definitions_of_a_group_are_given_the_same_name(wanted: list[Any]) -> None:
    present: list[Object] = []
    for plural, kind, short in wanted:
        one = _definition(plural, kind, tuple(short))
        one["status"] = names.settled(one, present, "now")
        present.append(one)
    taken: list[str] = []
    for one in present:
        accepted = one["status"]["acceptedNames"]
        taken += [accepted["plural"], *set(accepted.get("shortNames") or ())]
        taken += [f"kind {accepted['kind']}"] if accepted["kind"] else []
    assert len(taken) == len(set(taken))
    for one in present:
        accepted = names.condition(one, "NamesAccepted")
        assert accepted is not None
        assert names.is_served(one) == (accepted["status"] == "True")


def test_settling_twice_changes_nothing() -> None:
    one = _definition("as", short=("x",))
    one["status"] = names.settled(one, (), "then")
    assert names.settled(one, (), "later") == one["status"]


def test_clients_prefer_the_newest_stable_version() -> None:
    order = ["v1alpha1", "v2beta1", "v10", "foo", "v2", "v2beta11", "v1"]
    body = _definition("as", versions=[
        {"name": name, "served": True, "storage": name == "v1"} for name in order])  # fmt: skip
    body["status"] = names.settled(body, (), "now")
    versions = [v.rpartition("/")[2] for v in custom.definition(body).versions]
    assert versions == ["v10", "v2", "v1", "v2beta11", "v2beta1", "v1alpha1", "foo"]


def test_v1beta1_and_back_is_the_same_definition() -> None:
    schema = {"openAPIV3Schema": {"type": "object"}}
    column = {"name": "X", "type": "string", "jsonPath": ".x"}
    body = _definition("as", versions=[
        {"name": name, "served": True, "storage": name == "v1", "schema": schema,
         "subresources": {"status": {}}, "additionalPrinterColumns": [dict(column)]}
        for name in ("v1", "v2")
    ], conversion={"strategy": "None"})  # fmt: skip
    body["apiVersion"] = "apiextensions.k8s.io/v1"
    old = old_definitions.from_v1(copy.deepcopy(body))
    assert old["spec"]["validation"] == schema
    assert old["spec"]["additionalPrinterColumns"][0]["JSONPath"] == ".x"
    assert old_definitions.to_v1(old) == body
