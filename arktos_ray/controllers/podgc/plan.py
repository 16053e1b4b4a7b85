"""Which pods will never be removed by anybody else. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from arktos_ray.controllers.owners import controller_of
from arktos_ray.controllers.pods import condition, is_finished, is_terminating
from arktos_ray.controllers.times import seconds

Object = dict[str, Any]

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


@dataclass(frozen=True, slots=True)
class Limits:
    # A node may be re-created under its name, or move between partitions.
    quarantine_s: float = 40.0
    # What Kubernetes keeps of finished pods, for whoever wants their logs.
    finished_max: int = 12_500
    # After the end of its grace, for a pod on a node that does not answer.
    stuck_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Remove:
    pod: Object
    failed: bool  # Mark it Failed first: its end was not its own doing.
    why: str


def missing_since(
    named: Collection[str], present: Collection[str], before: Mapping[str, float], at: float
) -> dict[str, float]:
    """node -> since when pods name it and no partition has it."""
    return {name: before.get(name, at) for name in named if name not in present}


def orphans(pods: Iterable[Object], node: str) -> list[Remove]:
    return [Remove(pod, not is_finished(pod), f"its node {node} does not exist") for pod in pods]


def finished(pods: Iterable[Object], limits: Limits) -> list[Remove]:
    """The oldest of too many."""
    done = sorted(pods, key=lambda pod: pod["metadata"].get("creationTimestamp") or "")
    return [
        Remove(pod, False, f"more than {limits.finished_max} finished pods")
        for pod in done[: max(0, len(done) - limits.finished_max)]
    ]


def terminating(
    pods: Iterable[Object], nodes: Mapping[str, Object], now: float, limits: Limits
) -> list[Remove]:
    """Those that should be gone by now. nodes: by name."""
    actions = []
    for pod in pods:
        if not is_terminating(pod) or pod["metadata"].get("finalizers"):
            continue
        name = (pod.get("spec") or {}).get("nodeName")
        if not name:
            actions.append(Remove(pod, False, "deleted before it had a node"))
            continue
        node = nodes.get(name)
        if node is None or _is_ready(node):
            continue
        taints = (node.get("spec") or {}).get("taints") or ()
        if any(taint["key"] == OUT_OF_SERVICE for taint in taints):
            actions.append(Remove(pod, not is_finished(pod), f"its node {name} is out of service"))
            continue
        owner = controller_of(pod)
        if owner is not None and owner["kind"] == "StatefulSet":
            # At most one of that name may run, and nobody knows whether this one still does.
            continue
        if now - seconds(pod["metadata"]["deletionTimestamp"]) > limits.stuck_s:
            actions.append(Remove(pod, not is_finished(pod), f"its node {name} does not answer"))
    return actions


def _is_ready(node: Object) -> bool:
    ready = condition(node, "Ready")
    return ready is not None and ready.get("status") == "True"
