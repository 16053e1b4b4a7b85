"""ResourceQuota: what an object uses, and whether a namespace's quotas still have it. Pure.

A create is charged to every quota that `applies`, an update by the difference, and a delete gives
back (negative deltas). All amounts are thousandths, so that 500m of cpu is a whole number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from arktos_ray.api import quantity
from arktos_ray.api.kinds.pods import qos_class
from arktos_ray.apiserver.admission.amounts import Milli, pod_amounts
from arktos_ray.apiserver.admission.limit_ranger import shown
from arktos_ray.apiserver.admission.refusals import forbidden

Object = dict[str, Any]

ONE = 1000  # of anything that is counted
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
# Counted under their own plural too, beside `count/...`.
_PLAIN = frozenset((
    "pods", "services", "configmaps", "secrets", "resourcequotas", "persistentvolumeclaims",
    "replicationcontrollers",
))  # fmt: skip


def usage_of(gvr: str, obj: Object) -> Milli:
    """What this object counts against quotas: `pods`, `requests.cpu`, `count/secrets`, ..."""
    usage: Milli = {f"count/{gvr}": ONE}
    if gvr == "pods":
        if (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return usage  # finished: it holds its name, and nothing else
        usage["pods"] = ONE
        requests, limits = pod_amounts(obj.get("spec") or {})
        for name, amount in requests.items():
            usage[f"requests.{name}"] = amount
            if name in _COMPUTE or name.startswith("hugepages-"):
                usage[name] = amount
        for name, amount in limits.items():
            if name in _COMPUTE:
                usage[f"limits.{name}"] = amount
        return usage
    if gvr in _PLAIN:
        usage[gvr] = ONE
    if gvr == "services":
        spec = obj.get("spec") or {}
        kind, ports = spec.get("type"), len(spec.get("ports") or ())
        if kind == "NodePort":
            usage["services.nodeports"] = ports * ONE
        elif kind == "LoadBalancer":
            usage["services.loadbalancers"] = ONE
            if spec.get("allocateLoadBalancerNodePorts", True):
                usage["services.nodeports"] = ports * ONE
            else:
                given = sum(1 for p in spec.get("ports") or () if p.get("nodePort"))
                usage["services.nodeports"] = given * ONE
    return usage


def difference(new: Mapping[str, int], old: Mapping[str, int]) -> Milli:
    """What an update from one usage to the other is charged."""
    deltas = {name: amount - old.get(name, 0) for name, amount in new.items()}
    deltas.update({name: -amount for name, amount in old.items() if name not in new})
    return {name: delta for name, delta in deltas.items() if delta}


def applies(quota: Object, gvr: str, obj: Object) -> bool:
    """Whether the object is within the quota's scopes. Scopes speak of pods only."""
    spec = quota.get("spec") or {}
    scopes = [{"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or ()]
    scopes += (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    if not scopes:
        return True
    if gvr != "pods":
        return False
    return all(_in_scope(scope, obj.get("spec") or {}) for scope in scopes)


def check_specified(quota: Object, pod: Object) -> None:
    """Raises Forbidden when the quota limits a resource that a container does not state."""
    missing = []
    for name in sorted((quota.get("spec") or {}).get("hard") or {}):
        key, _, resource = name.rpartition(".")
        if name in ("cpu", "memory"):
            key, resource = "requests", name
        if key not in ("requests", "limits") or resource not in _COMPUTE[:2]:
            continue
        silent = [
            one.get("name") or ""
            for one in _workloads(pod["spec"])
            if resource not in ((one.get("resources") or {}).get(key) or {})
        ]
        if silent and resource not in ((pod["spec"].get("resources") or {}).get(key) or {}):
            missing.append(f"{name} for: {','.join(sorted(silent))}")
    if missing:
        name = quota["metadata"]["name"]
        raise forbidden("pods", pod, f"failed quota: {name}: must specify {'; '.join(missing)}")


def charge(quota: Object, deltas: Mapping[str, int], plural: str, obj: Object) -> Object:
    """The quota's status.used after these deltas. Raises Forbidden when one is over the limit.

    `plural` and `obj` name the object in the refusal. Unchanged when nothing of it is limited:
    then the same dict comes back, and there is nothing to write. About 2 us a limited resource.
    """
    hard = (quota.get("spec") or {}).get("hard") or {}
    used: Object = (quota.get("status") or {}).get("used") or {}
    asked = {name: deltas[name] for name in hard if deltas.get(name)}
    if not asked:
        return used
    after: Object = dict(used)
    over = []
    for name, delta in asked.items():
        total = quantity.milli(used.get(name, "0")) + delta
        if delta > 0 and total > quantity.milli(hard[name]):
            over.append(name)
        after[name] = shown(name, max(total, 0))
    if over:
        over.sort()
        what = quota["metadata"]["name"]
        requested = ",".join(f"{name}={shown(name, asked[name])}" for name in over)
        spent = ",".join(f"{name}={used.get(name, '0')}" for name in over)
        limited = ",".join(f"{name}={hard[name]}" for name in over)
        raise forbidden(
            plural, obj,
            f"exceeded quota: {what}, requested: {requested}, used: {spent}, limited: {limited}",
        )  # fmt: skip
    return after


def total(quota: Object, objects: Mapping[str, list[Object]]) -> Object:
    """status.used counted afresh, from all objects of the namespace by gvr: for the controller."""
    hard = (quota.get("spec") or {}).get("hard") or {}
    sums: Milli = dict.fromkeys(hard, 0)
    for gvr, ours in objects.items():
        for obj in ours:
            if applies(quota, gvr, obj):
                for name, amount in usage_of(gvr, obj).items():
                    if name in sums:
                        sums[name] += amount
    return {name: shown(name, amount) for name, amount in sums.items()}


def _workloads(spec: Object) -> list[Object]:
    found = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    if spec.get("virtualMachine") is not None:
        found.append(spec["virtualMachine"])
    return found


def _crosses_namespaces(spec: Object) -> bool:
    for kind in ("podAffinity", "podAntiAffinity"):
        terms = (spec.get("affinity") or {}).get(kind) or {}
        for term in terms.get("requiredDuringSchedulingIgnoredDuringExecution") or ():
            if term.get("namespaces") or term.get("namespaceSelector") is not None:
                return True
        for one in terms.get("preferredDuringSchedulingIgnoredDuringExecution") or ():
            term = one.get("podAffinityTerm") or {}
            if term.get("namespaces") or term.get("namespaceSelector") is not None:
                return True
    return False


_SCOPES: dict[str, Callable[[Object], bool]] = {
    "Terminating": lambda spec: spec.get("activeDeadlineSeconds") is not None,
    "NotTerminating": lambda spec: spec.get("activeDeadlineSeconds") is None,
    "BestEffort": lambda spec: qos_class(spec) == "BestEffort",
    "NotBestEffort": lambda spec: qos_class(spec) != "BestEffort",
    "PriorityClass": lambda spec: bool(spec.get("priorityClassName")),
    "CrossNamespacePodAffinity": _crosses_namespaces,
}


def _in_scope(scope: Object, spec: Object) -> bool:
    name, operator = scope.get("scopeName"), scope.get("operator")
    values = scope.get("values") or ()
    if name == "PriorityClass" and operator in ("In", "NotIn"):
        return bool(((spec.get("priorityClassName") or "") in values) == (operator == "In"))
    decide = _SCOPES.get(name or "")
    inside = decide is not None and decide(spec)
    return not inside if operator == "DoesNotExist" else inside
