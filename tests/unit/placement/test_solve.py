from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arktos_ray.placement import assign
from arktos_ray.placement.explain import NO_NODES
from arktos_ray.placement.signature import Demand, PodRequest, Signature, Signatures
from arktos_ray.placement.solve import in_turn, solve
from arktos_ray.placement.tables import NodeView, Taint

from .reference import World
from .worlds import (
    NAMESPACES,
    node_lists,
    pairs_of,
    picky_signatures,
    plain_signatures,
    pod_lists,
    social_signatures,
    table_of,
)

ANY = st.one_of(plain_signatures, picky_signatures, social_signatures)


def check(nodes: list[NodeView], placed: list[PodRequest], pods: list[PodRequest]) -> None:
    """Replays a plan in the reference: every step must be one that the textbook allows."""
    world = World({node.name: node for node in nodes}, namespaces=NAMESPACES)
    # Who was there before: seated by the reference itself, wherever it lets them.
    for pod in placed:
        for name in world.nodes:
            if world.refusal(pod, name) is None:
                world.seats.append((pod, name))
                break
    table = table_of(nodes)
    for name in world.nodes:
        ports = [p for pod, at in world.seats if at == name for p in pod.signature.demand.ports]
        table.set_usage(name, 1, world.used(name), ports)

    plan = solve(table, pods, pairs_of(world.seats), rng=np.random.default_rng(7))

    node_of = {pod.uid: node for pod, node in plan.placed}
    why_of = {pod.uid: why for pod, why in plan.unplaced}
    assert len(node_of) + len(why_of) == len(pods)
    for pod in in_turn(pods):
        refusals = {name: world.refusal(pod, name) for name in world.nodes}
        if pod.uid in node_of:
            assert refusals[node_of[pod.uid]] is None
            world.seats.append((pod, node_of[pod.uid]))
        else:
            assert None not in refusals.values()
            check_sentence(why_of[pod.uid], list(refusals.values()))
    for name, node in world.nodes.items():
        for kind, amount in world.used(name).items():
            assert amount <= node.allocatable.get(kind, 0)


def check_sentence(why: str, refusals: list[str | list[str] | None]) -> None:
    if not refusals:
        assert why == NO_NODES
        return
    match = re.fullmatch(r"0/(\d+) nodes are available: (.+)\.", why)
    assert match is not None, why
    assert int(match[1]) == len(refusals)
    counted: Counter[str] = Counter()
    for part in match[2].split(", "):
        number, text = part.split(" ", 1)
        counted["short" if text.startswith(("Insuff", "Too many")) else "whole"] += int(number)
    # A node short of room counts once for each resource, every other node exactly once.
    assert counted["short"] == sum(len(r) for r in refusals if isinstance(r, list))
    assert counted["whole"] == sum(not isinstance(r, list) for r in refusals)


@settings(max_examples=60, deadline=None)
@given(node_lists(), pod_lists(plain_signatures, 4), pod_lists(plain_signatures, 30))
def test_pods_that_only_need_room_are_placed_wherever_there_is_some(
    nodes: list[NodeView], placed: list[PodRequest], pods: list[PodRequest]
) -> None:
    check(nodes, placed, pods)


@settings(max_examples=60, deadline=None)
@given(node_lists(), pod_lists(plain_signatures, 3), pod_lists(picky_signatures))
def test_rules_about_nodes_are_kept_and_nothing_else_keeps_a_pod_waiting(
    nodes: list[NodeView], placed: list[PodRequest], pods: list[PodRequest]
) -> None:
    check(nodes, placed, pods)


@settings(max_examples=100, deadline=None)
@given(node_lists(), pod_lists(ANY, 6), pod_lists(ANY))
def test_rules_about_other_pods_are_kept_within_a_batch_and_across_batches(
    nodes: list[NodeView], placed: list[PodRequest], pods: list[PodRequest]
) -> None:
    # Uids of the two lists must differ.
    placed = [
        PodRequest(f"old-{p.uid}", p.path, p.tenant, p.namespace, p.labels, 0, p.order, p.signature)
        for p in placed
    ]
    check(nodes, placed, pods)


def test_windows_and_refills_lose_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assign, "WINDOW_MIN", 4)
    monkeypatch.setattr(assign, "NODES_PER_POD", 0)
    nodes = [NodeView(f"n{i}", "rp", {"cpu": i % 3, "pods": 10}, {}) for i in range(90)]
    shapes = [Signature(Demand((("cpu", cpu), ("pods", 1)))) for cpu in (1, 2)]
    pods = [PodRequest(f"u{i}", "", "t", "x", {}, 0, i, shapes[i % 2]) for i in range(100)]

    plan = solve(table_of(nodes), pods, rng=np.random.default_rng(0))

    # 30 nodes with 1 cpu, 30 with 2; the pods of 1 cpu have their turn first, the 50 fit, and
    # whatever they left whole goes to pods of 2.
    assert sum(pod.signature is shapes[0] for pod, _ in plan.placed) == 50
    used = Counter(node for pod, node in plan.placed for _ in range(1 + pods.index(pod) % 2))
    assert all(count <= int(node[1:]) % 3 for node, count in used.items())
    whole = {f"n{i}" for i in range(2, 90, 3)} - {
        node for pod, node in plan.placed if pod.signature is shapes[0]
    }
    assert sum(pod.signature is shapes[1] for pod, _ in plan.placed) == len(whole)


def test_the_sentence_is_the_one_that_kubectl_users_know() -> None:
    nodes = [NodeView(f"n{i}", "rp", {"cpu": 500, "pods": 110}, {"disk": "ssd"}) for i in range(3)]
    nodes += [NodeView(f"m{i}", "rp", {"cpu": 4000, "pods": 110}, {}) for i in range(96)]
    nodes.append(NodeView("t", "rp", {}, {"disk": "ssd"}, (Taint("gpu", "yes", "NoSchedule"),)))
    pod = {
        "metadata": {"name": "p", "namespace": "x", "tenant": "t", "uid": "1"},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "containers": [{"resources": {"requests": {"cpu": "1"}}}],
        },
    }

    plan = solve(table_of(nodes), [Signatures().request(pod)], rng=np.random.default_rng(0))

    assert plan.unplaced[0][1] == (
        "0/100 nodes are available: 1 node(s) had untolerated taint {gpu: yes}, "
        "3 Insufficient cpu, 96 node(s) didn't match Pod's node affinity/selector."
    )


def test_empty_nodes_fill_evenly() -> None:
    nodes = [
        NodeView(f"n{i}", "rp", {"cpu": 100, "memory": 100, "pods": 110}, {}) for i in range(5)
    ]
    shape = Signature(Demand((("cpu", 1), ("memory", 1), ("pods", 1))))
    pods = [PodRequest(f"u{i}", "", "t", "x", {}, 0, i, shape) for i in range(50)]

    plan = solve(table_of(nodes), pods, rng=np.random.default_rng(3))

    assert Counter(node for _, node in plan.placed) == {f"n{i}": 10 for i in range(5)}


def test_the_same_dice_give_the_same_plan_and_others_another() -> None:
    nodes = [NodeView(f"n{i}", "rp", {"cpu": 100, "pods": 110}, {}) for i in range(50)]
    shape = Signature(Demand((("cpu", 1), ("pods", 1))))
    pods = [PodRequest(f"u{i}", "", "t", "x", {}, 0, i, shape) for i in range(10)]

    def nodes_chosen(seed: int) -> list[str]:
        plan = solve(table_of(nodes), pods, rng=np.random.default_rng(seed))
        return [node for _, node in plan.placed]

    assert nodes_chosen(1) == nodes_chosen(1)
    assert nodes_chosen(1) != nodes_chosen(2)


def test_higher_priority_goes_first_and_then_who_waited_longest() -> None:
    nodes = [NodeView("n", "rp", {"cpu": 2, "pods": 110}, {})]
    shape = Signature(Demand((("cpu", 1), ("pods", 1))))
    pods = [
        PodRequest(f"u{i}", "", "t", "x", {}, priority, order, shape)
        for i, (priority, order) in enumerate([(0, 2), (0, 1), (9, 3)])
    ]

    plan = solve(table_of(nodes), pods, rng=np.random.default_rng(0))

    assert [pod.uid for pod, _ in plan.placed] == ["u2", "u1"]


@settings(max_examples=50, deadline=None)
@given(nodes=node_lists(), pods=pod_lists(ANY))
def test_a_plan_changes_nothing_of_what_it_was_made_from(
    nodes: list[NodeView], pods: list[PodRequest]
) -> None:
    table = table_of(nodes)
    free = table.free.copy()
    rng = np.random.default_rng(3)
    solve(table, pods, rng=rng)
    for pod in pods:
        solve(table, [pod], rng=rng)
    # New kinds of resources may have added columns.
    assert (table.free[: len(free)] == free).all()


def test_equal_nodes_are_chosen_in_turn_by_batches_of_one() -> None:
    table = table_of([NodeView(f"n{i}", "rp", {"cpu": 9, "pods": 9}, {}) for i in range(50)])
    pod = PodRequest("u", "", "t", "x", {}, 0, 0, Signature(Demand((("pods", 1),))))
    rng = np.random.default_rng(5)
    chosen = Counter(solve(table, [pod], rng=rng).placed[0][1] for _ in range(1_000))
    assert len(chosen) > 30
    assert max(chosen.values()) < 100
