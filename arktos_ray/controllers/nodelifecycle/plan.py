"""Who fell silent, which taints follow, and which pods must leave. Pure.

Silence is measured by our own clock, from the moment we saw the last sign of life: the clocks of
nodes do not matter, and after a restart of ours every node starts with a full grace period.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from arktos_ray.controllers.pods import condition, is_finished, is_terminating
from arktos_ray.controllers.times import rfc3339, seconds

Object = dict[str, Any]

NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_PRESSURES = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
_OURS = {NOT_READY, UNREACHABLE, UNSCHEDULABLE, *_PRESSURES.values()}
_SILENCED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


@dataclass(frozen=True, slots=True)
class Limits:
    # Four missed renewals of a lease that is renewed every 10 s.
    grace_s: float = 40.0
    # A machine that has just joined may still be pulling its first images.
    startup_grace_s: float = 60.0
    # Nodes a second that may begin to lose pods. When many nodes are lost, the fault is more
    # likely ours or the network's, and moving everything would make it worse.
    evictions_per_s: float = 0.1
    evictions_per_s_partial: float = 0.01
    # From this share of lost nodes on it counts as partial disruption ...
    unhealthy_share: float = 0.55
    # ... in which a group of up to this many nodes evicts nothing at all.
    large_group_nodes: int = 50


class Mode(StrEnum):
    NORMAL = "normal"
    PARTIAL = "partial disruption"
    FULL = "full disruption"


@dataclass(frozen=True, slots=True)
class Silence:
    """Set the conditions of a node to Unknown."""

    node: Object
    conditions: list[Object]
    why: str


@dataclass(frozen=True, slots=True)
class MarkNotReady:
    pod: Object
    conditions: list[Object]
    why: str


@dataclass(frozen=True, slots=True)
class Evict:
    pod: Object
    conditions: list[Object]
    why: str


# ---------------------------------------------------------------------------- signs of life


def heartbeat(node: Object) -> str:
    """When the node last wrote its status, as it says itself."""
    said: str = (condition(node, "Ready") or {}).get("lastHeartbeatTime") or ""
    return said


def quiet_for(heard: Mapping[str, float], at: float, grace_s: float) -> list[str]:
    """Who was not heard of for longer than that. heard: least recently heard first."""
    quiet = []
    for name, last in heard.items():
        if at - last <= grace_s:
            break
        quiet.append(name)
    return quiet


def ready_status(node: Object) -> str:
    """True, False or Unknown; Unknown too when it never said."""
    found = condition(node, "Ready")
    status: str = "Unknown" if found is None else found.get("status", "Unknown")
    return status


def silences(
    nodes: Iterable[Object], heard: Mapping[str, float], at: float, now: float, limits: Limits
) -> list[Silence]:
    """heard: when each gave its last sign of life, by our own monotonic clock."""
    actions = []
    for node in nodes:
        present = {each["type"]: each for each in node.get("status", {}).get("conditions") or ()}
        grace = limits.grace_s if "Ready" in present else limits.startup_grace_s
        quiet = at - heard[node["metadata"]["name"]]
        if quiet <= grace:
            continue
        if all(present.get(kind, {}).get("status") == "Unknown" for kind in _SILENCED):
            continue
        conditions = [each for each in present.values() if each["type"] not in _SILENCED]
        conditions += [_unknown(kind, present.get(kind), now) for kind in _SILENCED]
        actions.append(Silence(node, conditions, f"no sign of life for {quiet:.0f} s"))
    return actions


def _unknown(kind: str, known: Object | None, now: float) -> Object:
    if known is not None and known.get("status") == "Unknown":
        return known
    body: Object = {
        "type": kind,
        "status": "Unknown",
        "lastTransitionTime": rfc3339(now),
        "reason": "NodeStatusNeverUpdated" if known is None else "NodeStatusUnknown",
        "message": "Kubelet never posted node status."
        if known is None
        else "Kubelet stopped posting node status.",
    }
    if known is not None and known.get("lastHeartbeatTime"):
        body["lastHeartbeatTime"] = known["lastHeartbeatTime"]
    return body


def mode(nodes: int, lost: int, limits: Limits) -> Mode:
    if nodes and lost == nodes:
        return Mode.FULL
    if lost > 2 and lost / nodes >= limits.unhealthy_share:
        return Mode.PARTIAL
    return Mode.NORMAL


def evictions_per_s(current: Mode, nodes: int, limits: Limits) -> float:
    if current is Mode.NORMAL:
        return limits.evictions_per_s
    if current is Mode.PARTIAL and nodes > limits.large_group_nodes:
        return limits.evictions_per_s_partial
    return 0.0


# ---------------------------------------------------------------------------- taints


def taints(node: Object, may_evict: bool, now: float) -> list[Object] | None:
    """The taints that the node should have; None when it has them.

    may_evict: whether its pods may be told to leave (NoExecute), if it is lost.
    """
    present: list[Object] = (node.get("spec") or {}).get("taints") or []
    wanted: list[tuple[str, str]] = []
    ready = ready_status(node)
    if ready != "True":
        key = NOT_READY if ready == "False" else UNREACHABLE
        wanted.append((key, "NoSchedule"))
        if may_evict:
            wanted.append((key, "NoExecute"))
    for kind, key in _PRESSURES.items():
        found = condition(node, kind)
        if found is not None and found.get("status") == "True":
            wanted.append((key, "NoSchedule"))
    if (node.get("spec") or {}).get("unschedulable"):
        wanted.append((UNSCHEDULABLE, "NoSchedule"))
    kept = [
        taint
        for taint in present
        if taint["key"] not in _OURS or (taint["key"], taint["effect"]) in wanted
    ]
    have = {(taint["key"], taint["effect"]) for taint in kept}
    added = [
        {"key": key, "effect": effect, "timeAdded": rfc3339(now)}
        for key, effect in wanted
        if (key, effect) not in have
    ]
    return [*kept, *added] if added or len(kept) != len(present) else None


def is_evicting(node: Object) -> bool:
    """Whether it carries one of our own NoExecute taints."""
    return any(
        taint["effect"] == "NoExecute" and taint["key"] in (NOT_READY, UNREACHABLE)
        for taint in (node.get("spec") or {}).get("taints") or ()
    )


# ---------------------------------------------------------------------------- pods


def plan(
    node: Object, pods: Iterable[Object], now: float, first_seen: Mapping[tuple[str, str], float]
) -> tuple[list[MarkNotReady | Evict], float | None]:
    """What to do about its pods, and after how many seconds the next one must leave.

    first_seen: when a taint (key, value) without timeAdded was first noticed.
    """
    lost = ready_status(node) != "True"
    executing = [
        taint
        for taint in (node.get("spec") or {}).get("taints") or ()
        if taint["effect"] == "NoExecute"
    ]
    actions: list[MarkNotReady | Evict] = []
    wait: float | None = None
    for pod in pods:
        if is_finished(pod) or is_terminating(pod):
            continue
        left = _time_left(pod, executing, now, first_seen)
        if left is not None and left <= 0:
            disrupted = {
                "type": "DisruptionTarget",
                "status": "True",
                "lastTransitionTime": rfc3339(now),
                "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint",
            }
            conditions = _with(_not_ready(pod, now) if lost else _conditions(pod), disrupted)
            keys = ", ".join(taint["key"] for taint in executing)
            actions.append(Evict(pod, conditions, f"it does not tolerate {keys}"))
            continue
        if left is not None:
            wait = left if wait is None else min(wait, left)
        ready = condition(pod, "Ready")
        if lost and ready is not None and ready.get("status") == "True":
            actions.append(MarkNotReady(pod, _not_ready(pod, now), "its node is not ready"))
    return actions, wait


def _time_left(
    pod: Object, executing: list[Object], now: float, first_seen: Mapping[tuple[str, str], float]
) -> float | None:
    """Seconds until the pod must leave; None when it may stay for good."""
    tolerations = (pod.get("spec") or {}).get("tolerations") or ()
    left: float | None = None
    for taint in executing:
        tolerating = [each for each in tolerations if tolerates(each, taint)]
        if not tolerating:
            return 0.0
        limits = [
            max(0, each["tolerationSeconds"])
            for each in tolerating
            if each.get("tolerationSeconds") is not None
        ]
        if not limits:
            continue
        since = (
            seconds(taint["timeAdded"])
            if taint.get("timeAdded")
            else first_seen.get((taint["key"], taint.get("value", "")), now)
        )
        each_left = since + min(limits) - now
        left = each_left if left is None else min(left, each_left)
    return left


def tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    operator = toleration.get("operator") or "Equal"
    key = toleration.get("key") or ""
    if not key:
        return bool(operator == "Exists")
    if key != taint["key"]:
        return False
    return operator == "Exists" or (toleration.get("value") or "") == (taint.get("value") or "")


def _conditions(pod: Object) -> list[Object]:
    return pod.get("status", {}).get("conditions") or []


def _not_ready(pod: Object, now: float) -> list[Object]:
    return [
        {**each, "status": "False", "reason": "NodeNotReady", "lastTransitionTime": rfc3339(now)}
        if each["type"] == "Ready" and each.get("status") == "True"
        else each
        for each in _conditions(pod)
    ]


def _with(conditions: list[Object], added: Object) -> list[Object]:
    return [*(each for each in conditions if each["type"] != added["type"]), added]
