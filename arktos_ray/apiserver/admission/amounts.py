"""What a pod asks for, in thousandths of each resource: the sums that admission compares. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arktos_ray.api import quantity

Milli = dict[str, int]


def resource_milli(amounts: Mapping[str, Any] | None) -> Milli:
    """A ResourceList as numbers. What is no quantity is left for validation to refuse."""
    out: Milli = {}
    for name, amount in (amounts or {}).items():
        try:
            out[name] = quantity.milli(amount)
        except ValueError:
            continue
    return out


def pod_amounts(spec: Mapping[str, Any]) -> tuple[Milli, Milli]:
    """(requests, limits) of the whole pod.

    Containers run side by side, init containers before them one after another, and those with
    restartPolicy Always stay: so the pod needs the larger of the two phases. About 3 us for one
    container with cpu and memory.
    """
    requests, limits = _phase_sum(spec, "requests"), _phase_sum(spec, "limits")
    whole = spec.get("resources")
    if whole:
        requests.update(resource_milli(whole.get("requests")))
        limits.update(resource_milli(whole.get("limits")))
    for name, amount in resource_milli(spec.get("overhead")).items():
        requests[name] = requests.get(name, 0) + amount
        if name in limits:
            limits[name] += amount
    return requests, limits


def _phase_sum(spec: Mapping[str, Any], key: str) -> Milli:
    running: Milli = {}
    for container in spec.get("containers") or ():
        _add(running, container, key)
    vm = spec.get("virtualMachine")
    if vm is not None:
        _add(running, vm, key)
    starting: Milli = {}
    staying: Milli = {}
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            _add(running, container, key)
            _add(staying, container, key)
            step = staying
        else:
            step = dict(staying)
            _add(step, container, key)
        for name, amount in step.items():
            starting[name] = max(starting.get(name, 0), amount)
    for name, amount in starting.items():
        running[name] = max(running.get(name, 0), amount)
    return running


def _add(total: Milli, workload: Mapping[str, Any], key: str) -> None:
    amounts = (workload.get("resources") or {}).get(key)
    if amounts:
        for name, amount in resource_milli(amounts).items():
            total[name] = total.get(name, 0) + amount
