"""Priority: the name of a class becomes a number that the scheduler compares. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arktos_ray.apiserver.admission.refusals import forbidden

# Above every class that a user can make (1,000,000,000 is their limit).
SYSTEM_CLASSES: Mapping[str, int] = {
    "system-cluster-critical": 2_000_000_000,
    "system-node-critical": 2_000_001_000,
}
PREEMPT = "PreemptLowerPriority"


def apply(pod: dict[str, Any], classes: Mapping[str, dict[str, Any]] | None = None) -> None:
    """Set spec.priority and preemptionPolicy. `classes`: the PriorityClass objects by name.

    Raises Forbidden when the class is unknown, or the pod claims another number than its class.
    """
    spec = pod["spec"]
    name = spec.get("priorityClassName") or ""
    policy = PREEMPT
    if not name:
        value = 0
        for known, one in (classes or {}).items():
            if one.get("globalDefault"):
                name, value = known, one.get("value") or 0
                policy = one.get("preemptionPolicy") or PREEMPT
                spec["priorityClassName"] = name
    elif name in SYSTEM_CLASSES:
        value = SYSTEM_CLASSES[name]
    else:
        found = (classes or {}).get(name)
        if found is None:
            raise forbidden("pods", pod, f"no PriorityClass with name {name} was found")
        value = found.get("value") or 0
        policy = found.get("preemptionPolicy") or PREEMPT
    claimed = spec.get("priority")
    if claimed is not None and claimed != value:
        raise forbidden(
            "pods", pod,
            f"the integer value of priority ({claimed}) must not be provided in pod spec; priority "
            f"admission controller computed {value} from the given PriorityClass name",
        )  # fmt: skip
    spec["priority"] = value
    claimed = spec.get("preemptionPolicy")
    if claimed and claimed != policy:
        raise forbidden(
            "pods", pod,
            f"the string value of PreemptionPolicy ({claimed}) must not be provided in pod spec; "
            f"priority admission controller computed {policy} from the given PriorityClass name",
        )  # fmt: skip
    spec["preemptionPolicy"] = policy
