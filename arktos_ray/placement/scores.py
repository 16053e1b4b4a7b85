"""The preferences: one function per preference, 0 to 100, higher is better.

`room` looks at usage and is computed again after each placement, for one node or for all of them
with the same arithmetic. The others look at the node alone and are remembered by the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from arktos_ray.placement.filters import Want, static_mask, term_matches
from arktos_ray.placement.signature import NodeRules
from arktos_ray.placement.tables import SCORED_KINDS, NodeTable, Scores

# The weights of Kubernetes' default profile.
NODE_AFFINITY_WEIGHT, TAINT_WEIGHT, POD_RULES_WEIGHT = 2, 3, 2

Wanted = tuple[int, int, int]  # cpu, memory, pods


def wanted_of(want: Want) -> Wanted:
    amounts = [0] * SCORED_KINDS
    for kind, amount in want:
        if kind < SCORED_KINDS:
            amounts[kind] = amount
    return amounts[0], amounts[1], amounts[2]


def room(wanted: Wanted, free: Any, inverse: Any) -> Any:
    """Least allocated, plus balanced: how empty a node would be, and how evenly.

    `free[kind]` and `inverse[kind]` are one number or one array each. Counting pods as a third
    resource spreads the pods that ask for nothing.
    """
    cpu = (free[0] - wanted[0]) * inverse[0]
    memory = (free[1] - wanted[1]) * inverse[1]
    pods = (free[2] - wanted[2]) * inverse[2]
    return (cpu + memory + pods) * (100 / 3) + 100 - 50 * abs(cpu - memory)


def preferred_nodes(rules: NodeRules, nodes: NodeTable) -> Scores | None:
    """Preferred node affinity: the weights of the terms that hold."""
    if not rules.preferred:
        return None
    total = np.zeros(nodes.height)
    for weight, term in rules.preferred:
        total += weight * term_matches(term, nodes)
    return normalised(total, static_mask(rules, nodes)) * NODE_AFFINITY_WEIGHT


def soft_taints(rules: NodeRules, nodes: NodeTable) -> Scores | None:
    """The fewer PreferNoSchedule taints that the pod does not tolerate, the better."""
    counts = np.array(
        [
            sum(
                taint.effect == "PreferNoSchedule"
                and not any(t.covers(*taint) for t in rules.tolerations)
                for taint in taint_set
            )
            for taint_set in nodes.taint_sets
        ],
        np.float64,
    )
    if not counts.any():
        return None
    here, among = counts[nodes.taints[: nodes.height]], static_mask(rules, nodes)
    if not here.any(where=among):
        return None  # Only nodes that were, or that are out of the question, have such taints.
    return (100 - normalised(here, among)) * TAINT_WEIGHT


STATIC: tuple[Callable[[NodeRules, NodeTable], Scores | None], ...] = (
    preferred_nodes, soft_taints,
)  # fmt: skip


def static_score(rules: NodeRules, nodes: NodeTable) -> Scores | None:
    """Every preference about the node alone; None when all nodes are equal. Do not write to it."""
    key = ("score", rules)
    if key in nodes.memo:
        known: Scores | None = nodes.memo[key]
        return known
    total: Scores | None = None
    for preference in STATIC:
        score = preference(rules, nodes)
        if score is not None:
            total = score if total is None else total + score
    nodes.remember(key, total)
    return total


def normalised(values: Scores, among: Any) -> Scores:
    """Scaled so that the highest value among those nodes is 100."""
    highest = float(values.max(initial=0.0, where=among))
    return np.minimum(values * (100 / highest), 100.0) if highest > 0 else np.zeros(values.size)
