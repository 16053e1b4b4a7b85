"""The rules: one function per rule, True where the rule lets the pod in.

A rule over many nodes is one array operation. Rules about the node alone (STATIC, in the order in
which they are reported) depend on no usage and are remembered by the table; `fits` and
`ports_clash` are about room, and are the very functions by which a ledger accepts or refuses, so
that the one who proposes and the one who commits cannot disagree (design.md D8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from arktos_ray.placement.signature import (
    ANY_ADDRESS,
    Demand,
    NodeRules,
    NodeTerm,
    Port,
    Requirement,
)
from arktos_ray.placement.tables import (
    NOT_READY_TAINT,
    UNSCHEDULABLE_TAINT,
    Mask,
    NodeTable,
    Taint,
)

Want = Sequence[tuple[int, int]]  # (kind, amount), without zeros


def want_of(demand: Demand, nodes: NodeTable) -> Want:
    """A demand in the kinds of this table."""
    return [(nodes.kind(name), amount) for name, amount in demand.amounts]


def fits(want: Want, free: Any) -> Any:
    """Whether there is room. `free[kind]` is one number (one node), or an array (all of them).

    Only what is asked for is compared: an overcommitted node still takes a pod that wants nothing.
    """
    ok: Any = True
    for kind, amount in want:
        ok = ok & (free[kind] >= amount)
    return ok


def ports_clash(wanted: Iterable[Port], taken: Iterable[Port]) -> bool:
    """Whether two pods would listen on one host port. The address 0.0.0.0 is every address."""
    return any(
        port == other_port
        and protocol == other_protocol
        and (address == other or ANY_ADDRESS in (address, other))
        for protocol, port, address in wanted
        for other_protocol, other_port, other in taken
    )


# Rules about the node alone: (rules, nodes) -> Mask over [:height], or None for "lets all in".


def runtime_ready(rules: NodeRules, nodes: NodeTable) -> Mask | None:
    """Containers need a container runtime, VMs a VM runtime (spec/scaleout.md 11)."""
    if any(t.operator == "Exists" and t.effect == "NoSchedule" for t in rules.tolerations):
        return None
    column = nodes.vm_ready if rules.needs_vm_runtime else nodes.container_ready
    return column[: nodes.height]


def home_answers(rules: NodeRules, nodes: NodeTable) -> Mask | None:
    """Nodes whose ResourcePartition cannot be asked can take nothing."""
    if not nodes.lost_homes:
        return None
    ok = np.array([text not in nodes.lost_homes for text in nodes.homes.texts])
    return ok[nodes.homes.ids[: nodes.height]]


def schedulable(rules: NodeRules, nodes: NodeTable) -> Mask | None:
    if _tolerates(rules, Taint(UNSCHEDULABLE_TAINT, "", "NoSchedule")):
        return None
    return ~nodes.unschedulable[: nodes.height]


def taints(rules: NodeRules, nodes: NodeTable) -> Mask | None:
    """Each distinct taint set is judged once; most clusters have fewer than ten."""
    ok = np.array([untolerated(rules, taint_set) is None for taint_set in nodes.taint_sets])
    if ok.all():
        return None
    return ok[nodes.taints[: nodes.height]]


def node_affinity(rules: NodeRules, nodes: NodeTable) -> Mask | None:
    """nodeSelector, and the required terms: any one of them."""
    if not rules.selector and rules.required is None:
        return None
    ok = np.ones(nodes.height, np.bool_)
    for key, value in rules.selector:
        ok &= _label(nodes, Requirement(key, "In", (value,)))
    if rules.required is not None:
        any_term = np.zeros(nodes.height, np.bool_)
        for term in rules.required:
            any_term |= term_matches(term, nodes)
        ok &= any_term
    return ok


def node_ready(rules: NodeRules, nodes: NodeTable) -> Mask | None:
    """After taints, which usually say the same in more detail."""
    if any(_tolerates(rules, Taint(NOT_READY_TAINT, "", e)) for e in ("NoSchedule", "NoExecute")):
        return None
    return nodes.ready[: nodes.height]


STATIC: tuple[Callable[[NodeRules, NodeTable], Mask | None], ...] = (
    runtime_ready, home_answers, schedulable, taints, node_affinity, node_ready,
)  # fmt: skip


def static_mask(rules: NodeRules, nodes: NodeTable) -> Mask:
    """Every rule about the node alone. Remembered: do not write to it. 60 us for 5,000 nodes."""
    key = ("mask", rules)
    known: Mask | None = nodes.memo.get(key)
    if known is None:
        known = nodes.live[: nodes.height].copy()
        for rule in STATIC:
            allowed = rule(rules, nodes)
            if allowed is not None:
                known &= allowed
        nodes.remember(key, known)
    return known


def allows(rules: NodeRules, nodes: NodeTable, name: str) -> bool:
    """Whether one node is there and passes every rule about the node alone."""
    row = nodes.row_of.get(name)
    return row is not None and bool(static_mask(rules, nodes)[row])


def untolerated(rules: NodeRules, taint_set: Iterable[Taint]) -> Taint | None:
    """The first taint that keeps the pod away."""
    for taint in taint_set:
        if taint.effect != "PreferNoSchedule" and not _tolerates(rules, taint):
            return taint
    return None


def term_matches(term: NodeTerm, nodes: NodeTable) -> Mask:
    """Where one node affinity term holds. An empty term holds nowhere."""
    if not term.labels and not term.fields:
        return np.zeros(nodes.height, np.bool_)
    ok = np.ones(nodes.height, np.bool_)
    for requirement in term.labels:
        ok &= _label(nodes, requirement)
    for requirement in term.fields:
        named = np.zeros(nodes.height, np.bool_)
        for value in requirement.values:
            named |= _only_row(nodes, value)
        ok &= named if requirement.operator == "In" else ~named
    return ok


def _tolerates(rules: NodeRules, taint: Taint) -> bool:
    return any(t.covers(*taint) for t in rules.tolerations)


def _only_row(nodes: NodeTable, name: str) -> Mask:
    ok = np.zeros(nodes.height, np.bool_)
    row = nodes.row_of.get(name)
    if row is not None:
        ok[row] = True
    return ok


def _label(nodes: NodeTable, requirement: Requirement) -> Mask:
    column = nodes.labels.get(requirement.key)
    if column is None:
        return np.full(nodes.height, requirement.operator in ("NotIn", "DoesNotExist"))
    ids = column.ids[: nodes.height]
    match requirement.operator:
        case "Exists":
            return np.not_equal(ids, 0)
        case "DoesNotExist":
            return np.equal(ids, 0)
        case "In" | "NotIn":
            found = np.zeros(nodes.height, np.bool_)
            for value in requirement.values:
                found |= ids == column.id_of(value)
            return found if requirement.operator == "In" else ~found
        case "Gt" | "Lt":
            return _compares(column.texts, requirement)[ids]
    return np.zeros(nodes.height, np.bool_)


def _compares(texts: list[str], requirement: Requirement) -> Mask:
    ok = np.zeros(len(texts), np.bool_)
    bound = _integer(requirement.values[0]) if len(requirement.values) == 1 else None
    if bound is None:
        return ok
    for i, text in enumerate(texts[1:], 1):
        number = _integer(text)
        if number is not None:
            ok[i] = number > bound if requirement.operator == "Gt" else number < bound
    return ok


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
