"""ResourceQuota: what an object uses, and whether a namespace's quotas still have it. Pure.

A create is charged to every quota that `applies`, an update by the difference, and a delete gives
back (negative deltas). All amounts are thousandths, so that 500m of cpu is a whole number. What a
namespace has used is in accounts.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from arktos_ray.api import quantity
from arktos_ray.api.kinds.pods import qos_class
from arktos_ray.apiserver.admission.amounts import Milli, pod_amounts, resource_milli
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
# What is counted of these depends on what they say; of all others it is their number.
TELLING = frozenset(("pods", "services", "persistentvolumeclaims"))
# Never counted: they come and go by themselves.
UNCOUNTED = frozenset(("events", "events.events.k8s.io"))


class Scopes(NamedTuple):
    """What the scopes of quotas ask of a pod."""

    terminating: bool
    best_effort: bool
    crosses_namespaces: bool
    priority_class: str


def scopes_of(spec: Object) -> Scopes:
    return Scopes(
        spec.get("activeDeadlineSeconds") is not None,
        qos_class(spec) == "BestEffort",
        bool(spec.get("affinity")) and _crosses_namespaces(spec),
        spec.get("priorityClassName") or "",
    )


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
    if gvr == "persistentvolumeclaims":
        _add_claim(usage, obj)
    elif gvr == "services":
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
    scopes = scopes_of(obj.get("spec") or {}) if gvr == "pods" else None
    return is_within(scope_terms(quota), scopes)


def scope_terms(quota: Object) -> list[Object]:
    spec = quota.get("spec") or {}
    terms: list[Object] = [
        {"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or ()
    ]
    return terms + ((spec.get("scopeSelector") or {}).get("matchExpressions") or [])


def is_within(terms: list[Object], scopes: Scopes | None) -> bool:
    """scopes: of a pod; None for anything else."""
    if not terms:
        return True
    return scopes is not None and all(_in_scope(term, scopes) for term in terms)


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


def check_within(
    name: str, hard: Mapping[str, Any], used: Mapping[str, int], deltas: Mapping[str, int],
    plural: str, obj: Object,
) -> None:  # fmt: skip
    """Raises Forbidden when what is used and these deltas are more than the quota has.

    `plural` and `obj` name the object in the refusal. About 1 us a limited resource.
    """
    over = [
        resource
        for resource, delta in deltas.items()
        if delta > 0
        and resource in hard
        and used.get(resource, 0) + delta > quantity.milli(hard[resource])
    ]
    if over:
        over.sort()
        requested = ",".join(f"{one}={shown(one, deltas[one])}" for one in over)
        spent = ",".join(f"{one}={shown(one, used.get(one, 0))}" for one in over)
        limited = ",".join(f"{one}={quantity.canonical(hard[one])}" for one in over)
        raise forbidden(
            plural, obj,
            f"exceeded quota: {name}, requested: {requested}, used: {spent}, limited: {limited}",
        )  # fmt: skip


def _add_claim(usage: Milli, claim: Object) -> None:
    spec = claim.get("spec") or {}
    asked = resource_milli((spec.get("resources") or {}).get("requests")).get("storage")
    kind = spec.get("storageClassName") or ""
    if asked is not None:
        usage["requests.storage"] = asked
    if kind:
        usage[f"{kind}.storageclass.storage.k8s.io/persistentvolumeclaims"] = ONE
        if asked is not None:
            usage[f"{kind}.storageclass.storage.k8s.io/requests.storage"] = asked


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


def _in_scope(term: Object, scopes: Scopes) -> bool:
    name, operator = term.get("scopeName"), term.get("operator")
    if name == "PriorityClass":
        if operator in ("In", "NotIn"):
            return bool((scopes.priority_class in (term.get("values") or ())) == (operator == "In"))
        inside = bool(scopes.priority_class)
    elif name in ("Terminating", "NotTerminating"):
        inside = scopes.terminating == (name == "Terminating")
    elif name in ("BestEffort", "NotBestEffort"):
        inside = scopes.best_effort == (name == "BestEffort")
    else:
        inside = name == "CrossNamespacePodAffinity" and scopes.crosses_namespaces
    return not inside if operator == "DoesNotExist" else inside
