from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api import patch, schemas
from arktos_ray.api.errors import BadRequest, Failure, Invalid, TooLarge

DEPLOYMENT = schemas.message("k8s.io.api.apps.v1.Deployment")
POD = schemas.message("k8s.io.api.core.v1.Pod")

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=1), inner),
    max_leaves=8,
)
objects = st.dictionaries(st.text("abcd", min_size=1, max_size=1), values, max_size=4)


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return value


# ---------------------------------------------------------------------------- JSON patch


@pytest.mark.parametrize(
    ("doc", "operation", "expected"),
    [
        ({"a": 1}, {"op": "add", "path": "/b", "value": [1]}, {"a": 1, "b": [1]}),
        ({"a": [1, 3]}, {"op": "add", "path": "/a/1", "value": 2}, {"a": [1, 2, 3]}),
        ({"a": [1]}, {"op": "add", "path": "/a/-", "value": 2}, {"a": [1, 2]}),
        ({"a": [1]}, {"op": "add", "path": "/a/1", "value": 2}, {"a": [1, 2]}),
        ({"a": 1}, {"op": "replace", "path": "/a", "value": None}, {"a": None}),
        ({"a": [1, 2]}, {"op": "replace", "path": "/a/-1", "value": 9}, {"a": [1, 9]}),
        ({"a": 1, "b": 2}, {"op": "remove", "path": "/a"}, {"b": 2}),
        ({"a/b": {"c~d": 1}}, {"op": "remove", "path": "/a~1b/c~0d"}, {"a/b": {}}),
        ({"a": {"b": 1}}, {"op": "move", "from": "/a/b", "path": "/c"}, {"a": {}, "c": 1}),
        ({"a": [1]}, {"op": "copy", "from": "/a", "path": "/b"}, {"a": [1], "b": [1]}),
        ({"a": 1}, {"op": "test", "path": "/a", "value": 1}, {"a": 1}),
        ({"a": 1}, {"op": "test", "path": "/b", "value": None}, {"a": 1}),
        ({"a": 1}, {"op": "replace", "path": "", "value": {"z": 1}}, {"z": 1}),
    ],
)
def test_json_patch_operations(doc: Any, operation: Any, expected: Any) -> None:
    assert patch.json_patch(doc, [operation]) == expected


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "test", "path": "/a", "value": True},
        {"op": "remove", "path": "/b"},
        {"op": "replace", "path": "/b", "value": 1},
        {"op": "add", "path": "/b/c", "value": 1},
        {"op": "add", "path": "/l/3", "value": 1},
        {"op": "remove", "path": "/l/1"},
        {"op": "add", "path": "/l/x", "value": 1},
        {"op": "add", "path": "/c"},
        {"op": "add", "path": "c", "value": 1},
        {"op": "move", "from": "/l", "path": "/l/0"},
        {"op": "grow", "path": "/a"},
        {"op": "replace", "path": "", "value": 1},
    ],
)
def test_a_json_patch_that_does_not_fit_is_refused_whole(operation: Any) -> None:
    doc = {"a": 1, "l": [0]}
    with pytest.raises(Invalid) as refusal:
        patch.json_patch(doc, [{"op": "add", "path": "/z", "value": 1}, operation])
    assert "the server rejected our request due to an error" in refusal.value.message
    assert doc == {"a": 1, "l": [0]}


def test_what_is_no_json_patch_is_a_bad_request() -> None:
    with pytest.raises(BadRequest):
        patch.json_patch({}, {"op": "add"})
    with pytest.raises(BadRequest):
        patch.json_patch({}, ["add"])
    with pytest.raises(TooLarge, match="allowed maximum operations in a JSON patch is 10000"):
        patch.json_patch({}, [{}] * 10_001)


# ---------------------------------------------------------------------------- merge patch


@given(objects, objects)
def test_a_merge_patch_leaves_its_inputs_alone_and_shares_nothing(doc: Any, change: Any) -> None:
    before = patch.copy(doc), patch.copy(change)
    merged = patch.merge_patch(doc, change)

    def scribble(value: Any) -> None:
        if isinstance(value, dict):
            for inner in list(value.values()):
                scribble(inner)
            value["scribble"] = 1
        elif isinstance(value, list):
            for inner in value:
                scribble(inner)
            value.append("scribble")

    scribble(merged)
    assert (doc, change) == before


@given(objects, objects)
def test_the_same_merge_patch_again_changes_nothing(doc: Any, change: Any) -> None:
    once = patch.merge_patch(doc, change)
    assert patch.merge_patch(once, change) == once


@given(objects)
def test_a_merge_patch_of_nothing_is_the_patch_without_its_nulls(change: Any) -> None:
    assert patch.merge_patch({}, change) == without_nulls(change)


@given(objects)
def test_an_empty_merge_patch_changes_nothing(doc: Any) -> None:
    assert patch.merge_patch(doc, {}) == doc


def test_null_in_a_merge_patch_removes() -> None:
    doc = {"a": {"b": 1, "c": 2}, "l": [1, 2]}
    assert patch.merge_patch(doc, {"a": {"b": None}, "l": [3]}) == {"a": {"c": 2}, "l": [3]}
    with pytest.raises(BadRequest):
        patch.merge_patch(doc, [1])


# ---------------------------------------------------------------------------- strategic merge


def pod(*containers: Any, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"containers": list(containers), **spec}}


def merged_spec(doc: Any, spec: Any) -> Any:
    return patch.strategic_merge(doc, {"spec": spec}, POD)["spec"]


def test_containers_merge_by_name() -> None:
    doc = pod({"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"})
    change = {
        "containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}],
        "nodeSelector": {"zone": "z", "gone": None},
    }
    assert merged_spec(doc, change) == {
        "containers": [
            {
                "name": "a",
                "image": "2",
                "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}],
            },
            {"name": "b"},
        ],
        "nodeSelector": {"zone": "z"},
    }


def test_a_new_item_goes_first_unless_an_order_is_given() -> None:
    doc = pod({"name": "a"}, {"name": "b"})
    spec = merged_spec(doc, {"containers": [{"name": "c"}]})
    assert [c["name"] for c in spec["containers"]] == ["c", "a", "b"]

    order = [{"name": "a"}, {"name": "b"}, {"name": "c"}]
    spec = merged_spec(doc, {"containers": [{"name": "c"}], "$setElementOrder/containers": order})
    assert [c["name"] for c in spec["containers"]] == ["a", "b", "c"]


def test_an_order_alone_reorders_and_keeps_what_only_the_server_has_in_place() -> None:
    doc = pod({"name": "a"}, {"name": "injected"}, {"name": "b"})
    order = [{"name": "b"}, {"name": "a"}]
    spec = merged_spec(doc, {"$setElementOrder/containers": order})
    assert [c["name"] for c in spec["containers"]] == ["injected", "b", "a"]


def test_items_can_be_deleted_and_lists_replaced() -> None:
    doc = pod({"name": "a"}, {"name": "b", "image": "1"})
    deleted = merged_spec(doc, {"containers": [{"name": "a", "$patch": "delete"}]})
    assert deleted["containers"] == [{"name": "b", "image": "1"}]
    replaced = merged_spec(doc, {"containers": [{"name": "b"}, {"$patch": "replace"}]})
    assert replaced["containers"] == [{"name": "b"}]


def test_maps_can_be_replaced_and_emptied() -> None:
    doc = pod({"name": "a"}, securityContext={"runAsUser": 1, "fsGroup": 2})
    replaced = merged_spec(doc, {"securityContext": {"$patch": "replace", "runAsUser": 3}})
    assert replaced["securityContext"] == {"runAsUser": 3}
    emptied = merged_spec(doc, {"securityContext": {"$patch": "delete"}})
    assert emptied["securityContext"] == {}


def test_retain_keys_drops_the_other_keys_of_a_union() -> None:
    doc = {
        "spec": {
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
            "template": {"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}},
        }
    }
    change = {
        "spec": {
            "strategy": {"$retainKeys": ["type"], "type": "Recreate"},
            "template": {
                "spec": {
                    "volumes": [
                        {
                            "$retainKeys": ["name", "hostPath"],
                            "name": "v",
                            "hostPath": {"path": "/"},
                        }
                    ]
                }
            },
        }
    }
    spec = patch.strategic_merge(doc, change, DEPLOYMENT)["spec"]
    assert spec["strategy"] == {"type": "Recreate"}
    assert spec["template"]["spec"]["volumes"] == [{"name": "v", "hostPath": {"path": "/"}}]
    with pytest.raises(BadRequest):
        patch.strategic_merge(doc, {"spec": {"strategy": {"$retainKeys": [], "type": "x"}}}, None)


def test_primitive_lists_merge_and_lose_what_is_named() -> None:
    doc = {"metadata": {"finalizers": ["a", "b"]}}
    added = patch.strategic_merge(doc, {"metadata": {"finalizers": ["c"]}}, POD)
    assert sorted(added["metadata"]["finalizers"]) == ["a", "b", "c"]
    change = {
        "metadata": {
            "$deleteFromPrimitiveList/finalizers": ["a"],
            "$setElementOrder/finalizers": ["b"],
        }
    }
    assert patch.strategic_merge(doc, change, POD)["metadata"]["finalizers"] == ["b"]


def test_lists_without_a_merge_strategy_are_replaced() -> None:
    doc = pod({"name": "a", "args": ["1", "2"]}, tolerations=[{"key": "x"}])
    change = {"containers": [{"name": "a", "args": ["3"]}], "tolerations": [{"key": "y"}]}
    spec = merged_spec(doc, change)
    assert spec["containers"][0]["args"] == ["3"]
    assert spec["tolerations"] == [{"key": "y"}]


def test_directives_are_never_stored() -> None:
    change = {
        "spec": {
            "$setElementOrder/containers": [{"name": "a"}],
            "containers": [{"name": "a", "$patch": "merge", "x": None, "$setElementOrder/env": []}],
            "volumes": [{"name": "v", "$patch": "delete"}],
        }
    }
    assert patch.strategic_merge({}, change, POD) == {
        "spec": {"containers": [{"name": "a"}], "volumes": []}
    }


@pytest.mark.parametrize(
    "change",
    [
        [],
        {"spec": {"containers": [{"image": "x"}]}},
        {"spec": {"containers": ["x"]}},
        {"spec": {"$patch": "grow"}},
        {"spec": {"$setElementOrder/containers": {}}},
        {"spec": {"$setElementOrder/containers": [], "containers": [{"name": "a"}]}},
        {"spec": {"$deleteFromPrimitiveList/containers": "a"}},
        {"spec": {"$retainKeys": "a"}},
    ],
)
def test_bad_strategic_patches_are_refused(change: Any) -> None:
    with pytest.raises(Failure):
        patch.strategic_merge(pod({"name": "a"}), change, POD)


@given(objects, objects)
def test_without_a_schema_a_strategic_merge_is_a_merge_patch(doc: Any, change: Any) -> None:
    def normal(value: Any) -> Any:  # Strategic merge drops nulls inside new lists too.
        if isinstance(value, dict):
            return {k: normal(v) for k, v in value.items() if v is not None}
        return [normal(item) for item in value] if isinstance(value, list) else value

    expected = patch.merge_patch(doc, change)
    assert normal(patch.strategic_merge(doc, change, None)) == normal(expected)


@given(
    st.lists(st.text("abcd", min_size=1, max_size=1), unique=True),
    st.lists(st.text("abcdef", min_size=1, max_size=1), unique=True),
    st.data(),
)
def test_a_merged_list_has_every_item_once_and_keeps_the_given_order(
    live: list[str], wanted: list[str], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(wanted))
    spec = merged_spec(
        pod(*({"name": n} for n in live)),
        {
            "containers": [{"name": n} for n in order],
            "$setElementOrder/containers": [{"name": n} for n in order],
        },
    )
    names = [c["name"] for c in spec["containers"]]
    assert sorted(names) == sorted({*live, *wanted})
    assert [n for n in names if n in wanted] == list(order)
    assert [n for n in names if n not in wanted] == [n for n in live if n not in wanted]


# ---------------------------------------------------------------------------- hostile patches


def test_a_json_patch_copies_no_more_than_a_body_could_bring() -> None:
    doubling = [{"op": "copy", "from": "/a", "path": "/a/-"}] * 40
    with pytest.raises(TooLarge, match="copies more than the allowed maximum"):
        patch.json_patch({"a": ["x" * 1000]}, doubling)
    name = {"op": "copy", "from": "/a/0", "path": "/b"}
    assert patch.json_patch({"a": ["x" * 1000]}, [name] * 1000)["b"] == "x" * 1000


def test_a_json_patch_does_not_shift_a_long_list_ten_thousand_times() -> None:
    doc = {"a": [0] * 200_000}
    for change in ([{"op": "add", "path": "/a/0", "value": 1}], [{"op": "remove", "path": "/a/0"}]):
        with pytest.raises(TooLarge, match="adds and removes too often"):
            patch.json_patch(doc, change * 1_000)
    at_the_end = [{"op": "add", "path": "/a/-", "value": 1}] * 10_000
    assert len(patch.json_patch(doc, at_the_end)["a"]) == 210_000


class Counting(str):
    """A string that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counting.compared += 1
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        Counting.compared += 1
        return str.__ne__(self, other)


def test_a_strategic_merge_compares_no_item_with_every_other() -> None:
    n = 300
    names = [Counting(f"c{i}") for i in range(n)]
    pod = {"spec": {"containers": [{"name": name, "image": "i"} for name in names]}}
    gone = [{"name": name, "$patch": "delete"} for name in names]
    held: Any = {"metadata": {"finalizers": list(names)}}
    more: Any = {"metadata": {"finalizers": [Counting(f"d{i}") for i in range(n)]}}
    less: Any = {"metadata": {"$deleteFromPrimitiveList/finalizers": list(names)}}
    Counting.compared = 0
    merged = patch.strategic_merge(pod, {"spec": {"containers": gone}}, POD)
    assert merged["spec"]["containers"] == []
    assert len(patch.strategic_merge(held, more, POD)["metadata"]["finalizers"]) == 2 * n
    assert patch.strategic_merge(held, less, POD)["metadata"]["finalizers"] == []
    assert Counting.compared < 20 * n
