"""The whole scheduler on one screen: which pod goes where, and why not.

Takes values and returns values: the plan is a proposal, which the ledgers accept or refuse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from arktos_ray.placement.assign import NOWHERE, Assignment
from arktos_ray.placement.explain import explain
from arktos_ray.placement.pairs import Pairs
from arktos_ray.placement.signature import PodRequest, Signature
from arktos_ray.placement.tables import NodeTable


@dataclass(frozen=True, slots=True)
class Plan:
    placed: list[tuple[PodRequest, str]] = field(default_factory=list)  # (pod, node)
    unplaced: list[tuple[PodRequest, str]] = field(default_factory=list)  # (pod, why)


def solve(
    nodes: NodeTable,
    pods: Sequence[PodRequest],
    pairs: Pairs | None = None,
    *,
    rng: np.random.Generator,
) -> Plan:
    """Places a batch: the highest priority first, then who waited longest.

    Filter, score and assign happen in `Assignment.place`; what it cannot place is explained as
    things stood at that pod's turn.
    """
    plan = Plan()
    sizes = Counter(pod.signature for pod in pods)
    batch = Assignment(nodes, pairs if pairs is not None else Pairs(), sizes, rng)
    names = nodes.names
    for pod in in_turn(pods):
        row = batch.place(pod)
        if row == NOWHERE:
            plan.unplaced.append((pod, _why(batch, pod)))
        else:
            plan.placed.append((pod, names[row]))
    return plan


def in_turn(pods: Sequence[PodRequest]) -> Iterator[PodRequest]:
    """The highest priority first, then who waited longest, in company of its own signature.

    Strictly one by one, every signature would keep touching the nodes on top of every other's
    heap: 200 us a pod with 50 signatures, instead of 8. So within one priority a signature's pods
    go together, at the turn of the first of them; a batch is short, and nobody waits longer.
    """
    groups: dict[tuple[int, Signature], list[PodRequest]] = {}
    for pod in sorted(pods, key=_turn):
        groups.setdefault((pod.priority, pod.signature), []).append(pod)
    for group in groups.values():
        yield from group


def _turn(pod: PodRequest) -> tuple[int, int]:
    return (-pod.priority, pod.order)


def _why(batch: Assignment, pod: PodRequest) -> str:
    shelf = batch.shelf(pod)
    if shelf.refusal and shelf.refused_at == batch.taken:
        return shelf.refusal
    why = explain(batch, pod)
    if pod.signature.alone and not batch.held_off(pod):
        shelf.refusal, shelf.refused_at = why, batch.taken
    return why
