"""Why not: the sentence that `kubectl describe pod` shows, one count for each reason.

A node counts at the first rule that refuses it; a node short of several resources counts once for
each of them. The reasons, their wording and their order are Kubernetes'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from arktos_ray.placement import assign, filters
from arktos_ray.placement.assign import Assignment
from arktos_ray.placement.signature import PODS, PodRequest
from arktos_ray.placement.tables import Mask

REASONS: dict[Callable[..., Mask | None], str] = {
    filters.runtime_ready: "node(s) runtime is not ready",
    filters.home_answers: "node(s) were in a resource partition that does not answer",
    filters.schedulable: "node(s) were unschedulable",
    filters.node_affinity: "node(s) didn't match Pod's node affinity/selector",
    filters.node_ready: "node(s) were not ready",
}
PORTS = "node(s) didn't have free ports for the requested pod ports"
POD_REASONS = {
    assign.SPREAD_KEY: "node(s) didn't match pod topology spread constraints"
    " (missing required label)",
    assign.SPREAD: "node(s) didn't match pod topology spread constraints",
    assign.AFFINITY: "node(s) didn't match pod affinity rules",
    assign.ANTI_AFFINITY: "node(s) didn't match pod anti-affinity rules",
    assign.OTHERS_ANTI_AFFINITY: "node(s) didn't satisfy existing pods anti-affinity rules",
}
NO_NODES = "no nodes available to schedule pods"


def explain(batch: Assignment, pod: PodRequest) -> str:
    """The sentence for a pod that found nothing, as things are at its turn. About 10 passes."""
    total = len(batch.nodes)
    if not total:
        return NO_NODES
    reasons = sorted(f"{count} {why}" for why, count in tally(batch, pod).items())
    return f"0/{total} nodes are available: {', '.join(reasons)}."


def tally(batch: Assignment, pod: PodRequest) -> Counter[str]:
    """How many nodes each reason refused."""
    nodes, rules = batch.nodes, pod.signature.node_rules
    left = nodes.live[: nodes.height].copy()
    counts: Counter[str] = Counter()

    def refuse(allowed: Mask, why: str) -> None:
        refused = int(np.count_nonzero(left & ~allowed))
        if refused:
            counts[why] += refused
            np.logical_and(left, allowed, out=left)

    for rule in filters.STATIC:
        allowed = rule(rules, nodes)
        if allowed is None:
            continue
        if rule is filters.taints:
            for i, taint_set in enumerate(nodes.taint_sets):
                taint = filters.untolerated(rules, taint_set)
                if taint is not None:
                    why = f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"
                    refuse(nodes.taints[: nodes.height] != i, why)
        else:
            refuse(allowed, REASONS[rule])
    shelf = batch.shelf(pod)
    if shelf.ports:
        refuse(batch.ports_free(shelf.ports), PORTS)
    kinds = list(nodes.kinds)
    enough = np.ones(nodes.height, np.bool_)
    for kind, amount in shelf.want:
        here = filters.fits([(kind, amount)], batch.free)
        name = kinds[kind]
        short = int(np.count_nonzero(left & ~here))
        if short:
            counts["Too many pods" if name == PODS else f"Insufficient {name}"] += short
        enough &= here
    left &= enough
    for name, allowed in batch.judge(pod):
        refuse(allowed, POD_REASONS[name])
    return counts
