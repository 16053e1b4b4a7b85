"""What a pod asks for: everything that feasibility and score depend on, and nothing else.

Pods of one ReplicaSet share one Signature object, so that the scheduler decides once for all of
them (design.md D7). `Signatures` turns a pod, as JSON has it, into a PodRequest; it remembers what
it has seen by the encoded bytes of the members that matter. 6 us a pod it knows the shape of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from arktos_ray.api.quantity import milli, value

Object = Mapping[str, Any]
Port = tuple[str, int, str]  # protocol, port, address

CPU, MEMORY, PODS, EPHEMERAL_STORAGE = "cpu", "memory", "pods", "ephemeral-storage"
ANY_ADDRESS = "0.0.0.0"
# 4 EiB: two of these still add up inside an int64 column.
AMOUNT_MAX = 2**62 - 1
# Beyond this many different shapes the memory starts afresh; a shape costs about 2 KB.
SIGNATURES_MAX = 20_000


class Requirement(NamedTuple):
    """One condition on labels: In, NotIn, Exists, DoesNotExist, Gt, Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class Selector(NamedTuple):
    """A label selector, all of whose requirements must hold. No requirements: everything."""

    requirements: tuple[Requirement, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(_holds(r, labels.get(r.key)) for r in self.requirements)


class NodeTerm(NamedTuple):
    """One term of a node affinity; `fields` are conditions on metadata.name."""

    labels: tuple[Requirement, ...]
    fields: tuple[Requirement, ...]


class Toleration(NamedTuple):
    key: str
    operator: str
    value: str
    effect: str

    def covers(self, key: str, value: str, effect: str) -> bool:
        if self.effect and self.effect != effect:
            return False
        if self.key and self.key != key:
            return False
        if self.operator == "Exists":
            return True
        return bool(self.key) and self.value == value


class NodeRules(NamedTuple):
    """What a pod asks of a node besides room: depends on no other pod, so it is decided once."""

    needs_vm_runtime: bool = False
    selector: tuple[tuple[str, str], ...] = ()
    # None: no required affinity. Terms are alternatives; no terms match no node.
    required: tuple[NodeTerm, ...] | None = None
    preferred: tuple[tuple[int, NodeTerm], ...] = ()
    tolerations: tuple[Toleration, ...] = ()


class Demand(NamedTuple):
    """What a pod takes from a node: (resource, amount) without zeros, and its host ports."""

    amounts: tuple[tuple[str, int], ...]
    ports: tuple[Port, ...] = ()


class PodTerm(NamedTuple):
    """One pod (anti-)affinity term, before it is read for one pod.

    selector None matches no pod. No namespaces and no namespace selector: the pod's own namespace.
    """

    topology_key: str
    selector: Selector | None
    namespaces: tuple[str, ...] = ()
    namespace_selector: Selector | None = None
    match_keys: tuple[str, ...] = ()
    mismatch_keys: tuple[str, ...] = ()


class SpreadRule(NamedTuple):
    max_skew: int
    topology_key: str
    hard: bool
    selector: Selector | None
    min_domains: int = 1
    honor_affinity: bool = True
    honor_taints: bool = False
    match_keys: tuple[str, ...] = ()


class PodRules(NamedTuple):
    """What a pod asks about other pods. Pods that have any take the slower path."""

    affinity: tuple[PodTerm, ...] = ()
    anti_affinity: tuple[PodTerm, ...] = ()
    # Positive weights attract, negative ones repel.
    preferred: tuple[tuple[int, PodTerm], ...] = ()
    spread: tuple[SpreadRule, ...] = ()


NO_NODE_RULES = NodeRules()
NO_POD_RULES = PodRules()


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """Compared by identity: two pods batch together when they hold the same object."""

    demand: Demand
    node_rules: NodeRules = NO_NODE_RULES
    pod_rules: PodRules = NO_POD_RULES

    @property
    def alone(self) -> bool:
        """Whether no other pod matters to this one."""
        return self.pod_rules is NO_POD_RULES


@dataclass(frozen=True, slots=True, eq=False)
class PodRequest:
    """A pod that wants a node, or has one. `order` is its place in the queue."""

    uid: str
    path: str  # tenant/namespace/name
    tenant: str
    namespace: str
    labels: Mapping[str, str]
    priority: int
    order: int
    signature: Signature


class Signatures:
    """Reads pods, and gives pods of one shape one Signature."""

    def __init__(self) -> None:
        self._known: dict[bytes, Signature] = {}

    def request(self, pod: Object, order: int = 0) -> PodRequest:
        metadata, spec = pod["metadata"], pod["spec"]
        tenant, namespace = metadata.get("tenant", ""), metadata.get("namespace", "")
        return PodRequest(
            metadata["uid"],
            f"{tenant}/{namespace}/{metadata['name']}",
            tenant,
            namespace,
            metadata.get("labels") or {},
            spec.get("priority") or 0,
            order,
            self.signature(spec),
        )

    def signature(self, spec: Object) -> Signature:
        get = spec.get
        shape = orjson.dumps(
            [
                [_container(c) for c in get("containers") or ()],
                [(_container(c), c.get("restartPolicy")) for c in get("initContainers") or ()],
                _container(spec["virtualMachine"]) if get("virtualMachine") else None,
                get("resources"), get("overhead"), get("nodeSelector"), get("affinity"),
                get("tolerations"), get("topologySpreadConstraints"),
            ]
        )  # fmt: skip
        known = self._known.get(shape)
        if known is None:
            if len(self._known) >= SIGNATURES_MAX:
                self._known.clear()
            pod_rules = _pod_rules(spec)
            known = Signature(
                demand_of(spec),
                _node_rules(spec),
                NO_POD_RULES if pod_rules == NO_POD_RULES else pod_rules,
            )
            self._known[shape] = known
        return known


def _container(container: Object) -> tuple[Any, Any, Any]:
    get = container.get
    return get("resources"), get("resourcesAllocated"), get("ports")


# Amounts.


def amounts(quantities: Object | None) -> dict[str, int]:
    """A ResourceList as integers: millicores for cpu, else ones, rounded up.

    A quantity that nobody can read counts as nothing.
    """
    found = {}
    for name, quantity in (quantities or {}).items():
        try:
            amount = milli(quantity) if name == CPU else value(quantity)
        except ValueError:
            continue
        found[name] = min(max(amount, 0), AMOUNT_MAX)
    return found


def demand_of(spec: Object) -> Demand:
    """The room a pod takes: max(init, sum) + overhead, sidecars counted beside what they serve.

    A container counts with what its node has allocated to it, once that is known: a wish to grow
    takes nothing before the node agrees (spec/vm.md 8).
    """
    running: dict[str, int] = {}
    ports: list[Port] = []
    vm = spec.get("virtualMachine")
    for container in spec.get("containers") or (() if vm is None else (vm,)):
        _add(running, _requests(container))
        ports += _host_ports(container)
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            _add(sidecars, _requests(container))
            _raise(peak, sidecars)
            ports += _host_ports(container)
        else:
            starting = dict(sidecars)
            _add(starting, _requests(container))
            _raise(peak, starting)
    _add(running, sidecars)
    _raise(running, peak)
    running.update(amounts((spec.get("resources") or {}).get("requests")))
    _add(running, amounts(spec.get("overhead")))
    running[PODS] = 1
    return Demand(
        tuple((name, amount) for name, amount in sorted(running.items()) if amount > 0),
        tuple(sorted(set(ports))),
    )


def _requests(container: Object) -> dict[str, int]:
    wished = amounts((container.get("resources") or {}).get("requests"))
    wished.update(amounts(container.get("resourcesAllocated")))
    return wished


def _host_ports(container: Object) -> list[Port]:
    return [
        (port.get("protocol") or "TCP", port["hostPort"], port.get("hostIP") or ANY_ADDRESS)
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _raise(total: dict[str, int], floor: Mapping[str, int]) -> None:
    for name, amount in floor.items():
        total[name] = max(total.get(name, 0), amount)


# Rules about nodes.


def _node_rules(spec: Object) -> NodeRules:
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return NodeRules(
        needs_vm_runtime=bool(spec.get("virtualMachine")),
        selector=tuple(sorted((spec.get("nodeSelector") or {}).items())),
        required=None
        if required is None
        else tuple(_node_term(term) for term in required.get("nodeSelectorTerms") or ()),
        preferred=tuple(
            (item.get("weight") or 0, _node_term(item.get("preference") or {}))
            for item in preferred
        ),
        tolerations=tuple(
            Toleration(
                t.get("key") or "", t.get("operator") or "Equal", t.get("value") or "",
                t.get("effect") or "",
            )
            for t in spec.get("tolerations") or ()
        ),
    )  # fmt: skip


def _node_term(term: Object) -> NodeTerm:
    return NodeTerm(
        _requirements(term.get("matchExpressions")), _requirements(term.get("matchFields"))
    )


def _requirements(expressions: Iterable[Object] | None) -> tuple[Requirement, ...]:
    return tuple(
        Requirement(e["key"], e["operator"], tuple(e.get("values") or ()))
        for e in expressions or ()
    )


# Rules about other pods.


def _pod_rules(spec: Object) -> PodRules:
    affinity = spec.get("affinity") or {}
    near, far = affinity.get("podAffinity") or {}, affinity.get("podAntiAffinity") or {}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    return PodRules(
        affinity=tuple(_pod_term(term) for term in near.get(required) or ()),
        anti_affinity=tuple(_pod_term(term) for term in far.get(required) or ()),
        preferred=tuple(
            (sign * (item.get("weight") or 0), _pod_term(item.get("podAffinityTerm") or {}))
            for sign, side in ((1, near), (-1, far))
            for item in side.get(preferred) or ()
        ),
        spread=tuple(_spread_rule(rule) for rule in spec.get("topologySpreadConstraints") or ()),
    )


def _pod_term(term: Object) -> PodTerm:
    return PodTerm(
        term.get("topologyKey") or "",
        selector_of(term.get("labelSelector")),
        tuple(term.get("namespaces") or ()),
        selector_of(term.get("namespaceSelector")),
        tuple(term.get("matchLabelKeys") or ()),
        tuple(term.get("mismatchLabelKeys") or ()),
    )


def _spread_rule(rule: Object) -> SpreadRule:
    return SpreadRule(
        rule.get("maxSkew") or 1,
        rule.get("topologyKey") or "",
        rule.get("whenUnsatisfiable") != "ScheduleAnyway",
        selector_of(rule.get("labelSelector")),
        rule.get("minDomains") or 1,
        rule.get("nodeAffinityPolicy") != "Ignore",
        rule.get("nodeTaintsPolicy") == "Honor",
        tuple(rule.get("matchLabelKeys") or ()),
    )


def selector_of(selector: Object | None) -> Selector | None:
    """A LabelSelector; None (matches nothing) when there is none."""
    if selector is None:
        return None
    exact = (
        Requirement(key, "In", (value,))
        for key, value in sorted((selector.get("matchLabels") or {}).items())
    )
    return Selector((*exact, *_requirements(selector.get("matchExpressions"))))


def _holds(requirement: Requirement, value: str | None) -> bool:
    match requirement.operator:
        case "In":
            return value is not None and value in requirement.values
        case "NotIn":
            return value is None or value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return False
