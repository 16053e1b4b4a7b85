from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from arktos_ray.placement import filters, scores
from arktos_ray.placement.signature import NodeRules
from arktos_ray.placement.tables import NodeTable, NodeView, Taint, node_view

from .worlds import node_rules, taints

NAMES = [f"n{i}" for i in range(6)]
views = st.builds(
    NodeView,
    st.sampled_from(NAMES),
    st.sampled_from(["rp1", "rp2"]),
    st.dictionaries(st.sampled_from(["cpu", "pods", "gpu"]), st.integers(0, 9)),
    st.dictionaries(st.sampled_from(["zone", "size"]), st.sampled_from("123")),
    st.lists(taints, max_size=2).map(tuple),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
usages = st.tuples(
    st.sampled_from(NAMES),
    st.integers(1, 5),
    st.dictionaries(st.sampled_from(["cpu", "pods", "fpga"]), st.integers(1, 9)),
    st.lists(st.just(("TCP", 80, "0.0.0.0")), max_size=1),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(views, usages, st.sampled_from(NAMES)), max_size=30), node_rules)
def test_a_table_after_any_history_equals_one_made_of_what_is_left(
    history: list[NodeView | tuple[str, int, dict[str, int], list[tuple[str, int, str]]] | str],
    rules: NodeRules,
) -> None:
    table = NodeTable(rows=1)
    nodes: dict[str, NodeView] = {}
    used: dict[str, tuple[int, dict[str, int], list[tuple[str, int, str]]]] = {}
    for step in history:
        if isinstance(step, NodeView):
            nodes[step.name] = step
            table.set_node(step)
        elif isinstance(step, str):
            nodes.pop(step, None)
            table.remove_node(step)
        else:
            name, version, amounts, ports = step
            if name not in used or used[name][0] < version:
                used[name] = (version, amounts, ports)
            table.set_usage(name, version, amounts, ports)
        filters.static_mask(rules, table)  # So that what is remembered is put to the test too.

    fresh = NodeTable()
    for view in nodes.values():
        fresh.set_node(view)
    for name, usage in used.items():
        fresh.set_usage(name, *usage)

    assert set(table.row_of) == set(nodes)
    for name, view in nodes.items():
        row, other = table.row_of[name], fresh.row_of[name]
        assert table.home_of(name) == view.home
        for kind in ("cpu", "pods", "gpu", "fpga"):
            here, there = table.kind(kind), fresh.kind(kind)
            free = table.free[here, row]
            assert free == fresh.free[there, other]
            amounts = used[name][1] if name in used else {}
            assert free == view.allocatable.get(kind, 0) - amounts.get(kind, 0)
        assert table.ports.get(row) == fresh.ports.get(other)
        mask, expected = filters.static_mask(rules, table), filters.static_mask(rules, fresh)
        assert mask[row] == expected[other]
        score, also = scores.static_score(rules, table), scores.static_score(rules, fresh)
        assert (0.0 if score is None else score[row]) == (0.0 if also is None else also[other])
    assert int(np.count_nonzero(filters.static_mask(rules, table))) <= len(nodes)


def test_a_heartbeat_changes_nothing_and_only_freed_room_is_news() -> None:
    table = NodeTable()
    view = NodeView("n", "rp", {"cpu": 4000, "pods": 10}, {"zone": "a"})
    assert table.set_node(view)
    assert not table.set_node(view)
    assert not table.set_usage("n", 1, {"cpu": 1000, "pods": 1})
    assert table.set_usage("n", 2, {"cpu": 500, "pods": 2})
    assert not table.set_usage("n", 1, {"cpu": 0}), "an older version is ignored"
    assert table.free[0, 0] == 3500


def test_runtime_conditions_count_only_on_nodes_that_publish_them() -> None:
    def ready(*conditions: str) -> tuple[bool, bool]:
        published = [{"type": name, "status": "True"} for name in conditions]
        node = {"metadata": {"name": "n"}, "status": {"conditions": published}}
        view = node_view(node, "rp")
        return view.container_ready, view.vm_ready

    assert ready() == ready("Ready") == (True, True)
    assert ready("ContainerRuntimeReady") == (True, False)
    assert ready("ContainerRuntimeReady", "VmRuntimeReady") == (True, True)


def test_a_node_as_json_has_it() -> None:
    node = {
        "metadata": {"name": "n", "labels": {"a": "b"}},
        "spec": {"unschedulable": True, "taints": [{"key": "k", "effect": "NoExecute"}]},
        "status": {
            "allocatable": {"cpu": "3900m", "memory": "1Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "Unknown"}],
        },
    }

    assert node_view(node, "rp") == NodeView(
        "n",
        "rp",
        {"cpu": 3900, "memory": 2**30, "pods": 110},
        {"a": "b"},
        (Taint("k", "", "NoExecute"),),
        unschedulable=True,
        ready=False,
    )
