"""LimitRanger: what a namespace's LimitRanges give to a pod, and what they refuse. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from arktos_ray.api import quantity
from arktos_ray.apiserver.admission.amounts import Milli, pod_amounts, resource_milli
from arktos_ray.apiserver.admission.refusals import forbidden, joined

Object = dict[str, Any]

ANNOTATION = "kubernetes.io/limit-ranger"


def apply(pod: Object, limit_ranges: Iterable[Object]) -> None:
    """Fill in requests and limits that were left out; raise Forbidden for those out of bounds."""
    for item in _items(limit_ranges):
        if item.get("type") == "Container":
            _default(pod, item)
    check(pod, limit_ranges)


def check(pod: Object, limit_ranges: Iterable[Object]) -> None:
    """Raises Forbidden for what is out of bounds."""
    reasons: list[str] = []
    items = _items(limit_ranges)
    for item in items:
        if item.get("type") == "Container":
            for _, workload in _workloads(pod["spec"]):
                resources = workload.get("resources") or {}
                requests = resource_milli(resources.get("requests"))
                limits = resource_milli(resources.get("limits"))
                _check(item, "Container", requests, limits, reasons)
        elif item.get("type") == "Pod":
            requests, limits = pod_amounts(pod["spec"])
            _check(item, "Pod", requests, limits, reasons)
    if reasons:
        raise forbidden("pods", pod, joined(reasons))


def check_claim(claim: Object, limit_ranges: Iterable[Object]) -> None:
    """Raises Forbidden for a PersistentVolumeClaim that asks for too little or too much."""
    kind = "PersistentVolumeClaim"
    resources = (claim.get("spec") or {}).get("resources") or {}
    requests = resource_milli(resources.get("requests"))
    reasons: list[str] = []
    for item in _items(limit_ranges):
        if item.get("type") == kind:
            _check_min(item, kind, requests, {}, reasons)
            for name, bound in (item.get("max") or {}).items():
                start = f"maximum {name} usage per {kind} is {quantity.canonical(bound)}"
                if name not in requests:
                    reasons.append(f"{start}.  No request is specified")
                elif requests[name] > quantity.milli(bound):
                    reasons.append(f"{start}, but request is {shown(name, requests[name])}")
    if reasons:
        raise forbidden("persistentvolumeclaims", claim, joined(reasons))


def _items(limit_ranges: Iterable[Object]) -> list[Object]:
    return [item for one in limit_ranges for item in (one.get("spec") or {}).get("limits") or ()]


def _workloads(spec: Object) -> list[tuple[str, Object]]:
    found = [("container", one) for one in spec.get("containers") or ()]
    found += [("init container", one) for one in spec.get("initContainers") or ()]
    if spec.get("virtualMachine") is not None:
        found.append(("virtual machine", spec["virtualMachine"]))
    return found


def _default(pod: Object, item: Object) -> None:
    done: list[str] = []
    for word, workload in _workloads(pod["spec"]):
        for key, source in (("requests", "defaultRequest"), ("limits", "default")):
            given = item.get(source)
            if not given:
                continue
            resources = workload.setdefault("resources", {})
            have = resources.get(key) or {}
            missing = {name: amount for name, amount in given.items() if name not in have}
            if missing:
                resources[key] = {**have, **missing}
                names = ", ".join(sorted(missing))
                done.append(f"{names} {key[:-1]} for {word} {workload.get('name', '')}")
    if done:
        annotations = pod["metadata"].get("annotations") or {}
        annotations[ANNOTATION] = f"LimitRanger plugin set: {'; '.join(done)}"
        pod["metadata"]["annotations"] = annotations


def _check_min(item: Object, kind: str, requests: Milli, limits: Milli, reasons: list[str]) -> None:
    for name, bound in (item.get("min") or {}).items():
        start = f"minimum {name} usage per {kind} is {bound}"
        low, request, limit = quantity.milli(bound), requests.get(name), limits.get(name)
        if request is None:
            reasons.append(f"{start}.  No request is specified")
            continue
        if limit is not None and limit < low:
            reasons.append(f"{start}, but limit is {shown(name, limit)}")
        elif request < low:
            reasons.append(f"{start}, but request is {shown(name, request)}")


def _check(item: Object, kind: str, requests: Milli, limits: Milli, reasons: list[str]) -> None:
    _check_min(item, kind, requests, limits, reasons)
    for name, bound in (item.get("max") or {}).items():
        start = f"maximum {name} usage per {kind} is {bound}"
        high, request, limit = quantity.milli(bound), requests.get(name), limits.get(name)
        if limit is None:
            reasons.append(f"{start}.  No limit is specified")
            continue
        if limit > high:
            reasons.append(f"{start}, but limit is {shown(name, limit)}")
        elif request is not None and request > high:
            reasons.append(f"{start}, but request is {shown(name, request)}")
    for name, bound in (item.get("maxLimitRequestRatio") or {}).items():
        start = f"{name} max limit to request ratio per {kind} is {bound}, but"
        request, limit = requests.get(name), limits.get(name)
        if not request:
            reasons.append(f"{start} no request is specified or request is 0")
        elif not limit:
            reasons.append(f"{start} no limit is specified or limit is 0")
        elif limit * 1000 > quantity.milli(bound) * request:
            reasons.append(f"{start} provided ratio is {limit / request:f}")


def shown(name: str, milli: int) -> str:
    """An amount as a message says it: bytes in powers of two, the rest in plain numbers."""
    whole, rest = divmod(milli, 1000)
    if rest:
        return f"{milli}m"
    if whole % 1024 == 0 and whole and name.endswith(("memory", "storage")):
        return quantity.canonical(f"{whole // 1024}Ki")
    return quantity.canonical(str(whole))
