"""The scheduler as a textbook would have it: one pod, one node, one rule at a time. Slow, plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from arktos_ray.placement.signature import (
    NodeTerm,
    PodRequest,
    PodTerm,
    Requirement,
    Selector,
    SpreadRule,
)
from arktos_ray.placement.tables import NodeView

Namespaces = Mapping[tuple[str, str], Mapping[str, str]]


@dataclass
class World:
    nodes: dict[str, NodeView]
    seats: list[tuple[PodRequest, str]] = field(default_factory=list)
    namespaces: Namespaces = field(default_factory=dict)

    def refusal(self, pod: PodRequest, name: str) -> str | list[str] | None:
        """The first rule that keeps the pod off the node; the short resources as a list."""
        node = self.nodes[name]
        rules = pod.signature.node_rules
        bypass = any(t.operator == "Exists" and t.effect == "NoSchedule" for t in rules.tolerations)
        if not bypass and not (node.vm_ready if rules.needs_vm_runtime else node.container_ready):
            return "runtime"
        if node.unschedulable and not _tolerates(
            pod, "node.kubernetes.io/unschedulable", "", "NoSchedule"
        ):
            return "unschedulable"
        for taint in node.taints:
            if taint.effect in ("NoSchedule", "NoExecute") and not _tolerates(pod, *taint):
                return f"taint {taint.key}"
        if any(node.labels.get(key) != value for key, value in rules.selector):
            return "affinity"
        if rules.required is not None and not any(_term(t, node) for t in rules.required):
            return "affinity"
        if not node.ready and not any(
            _tolerates(pod, "node.kubernetes.io/not-ready", "", effect)
            for effect in ("NoSchedule", "NoExecute")
        ):
            return "not ready"
        if self._port_clash(pod, name):
            return "ports"
        used = self.used(name)
        short = [
            kind
            for kind, amount in pod.signature.demand.amounts
            if used.get(kind, 0) + amount > node.allocatable.get(kind, 0)
        ]
        return short or self._pod_refusal(pod, node)

    def used(self, name: str) -> dict[str, int]:
        used: dict[str, int] = {}
        for pod, at in self.seats:
            if at == name:
                for kind, amount in pod.signature.demand.amounts:
                    used[kind] = used.get(kind, 0) + amount
        return used

    def _port_clash(self, pod: PodRequest, name: str) -> bool:
        for protocol, port, address in pod.signature.demand.ports:
            for other, at in self.seats:
                for taken in other.signature.demand.ports if at == name else ():
                    if (protocol, port) == taken[:2] and (
                        address == taken[2] or "0.0.0.0" in (address, taken[2])
                    ):
                        return True
        return False

    def _pod_refusal(self, pod: PodRequest, node: NodeView) -> str | None:
        rules = pod.signature.pod_rules
        hard = [rule for rule in rules.spread if rule.hard]
        if any(rule.topology_key not in node.labels for rule in hard):
            return "spread key"
        if any(self._skewed(pod, node, rule, hard) for rule in hard):
            return "spread"
        if rules.affinity and not self._near(pod, node):
            return "affinity rules"
        if any(self._meant_beside(term, pod, node) for term in rules.anti_affinity):
            return "anti-affinity rules"
        for other, at in self.seats:
            for term in other.signature.pod_rules.anti_affinity:
                if self._means(term, other, pod) and _same_domain(
                    term.topology_key, self.nodes[at], node
                ):
                    return "others' anti-affinity rules"
        return None

    def _skewed(
        self, pod: PodRequest, node: NodeView, rule: SpreadRule, hard: Sequence[SpreadRule]
    ) -> bool:
        counts: dict[str, int] = {}
        for name, other in self.nodes.items():
            if any(r.topology_key not in other.labels for r in hard):
                continue
            if rule.honor_affinity and not _affinity(pod, other):
                continue
            if rule.honor_taints and any(
                t.effect != "PreferNoSchedule" and not _tolerates(pod, *t) for t in other.taints
            ):
                continue
            domain = other.labels[rule.topology_key]
            counts.setdefault(domain, 0)
            counts[domain] += sum(
                at == name
                and seated.tenant == pod.tenant
                and seated.namespace == pod.namespace
                and _selects(rule.selector, seated)
                for seated, at in self.seats
            )
        fewest = min(counts.values(), default=0) if len(counts) >= rule.min_domains else 0
        here = counts.get(node.labels[rule.topology_key], 0)
        return here + _selects(rule.selector, pod) - fewest > rule.max_skew

    def _near(self, pod: PodRequest, node: NodeView) -> bool:
        terms = pod.signature.pod_rules.affinity
        if any(term.topology_key not in node.labels for term in terms):
            return False
        if all(self._meant_beside(term, pod, node) for term in terms):
            return True
        anywhere = any(
            self._means(term, pod, other) and term.topology_key in self.nodes[at].labels
            for term in terms
            for other, at in self.seats
        )
        return not anywhere and all(self._means(term, pod, pod) for term in terms)

    def _meant_beside(self, term: PodTerm, pod: PodRequest, node: NodeView) -> bool:
        return any(
            self._means(term, pod, other) and _same_domain(term.topology_key, self.nodes[at], node)
            for other, at in self.seats
        )

    def _means(self, term: PodTerm, holder: PodRequest, other: PodRequest) -> bool:
        if holder.tenant != other.tenant or not _selects(term.selector, other):
            return False
        if not term.namespaces and term.namespace_selector is None:
            return holder.namespace == other.namespace
        if other.namespace in term.namespaces:
            return True
        labels = self.namespaces.get((other.tenant, other.namespace), {})
        return term.namespace_selector is not None and all(
            _holds(r, labels) for r in term.namespace_selector.requirements
        )


def _same_domain(key: str, one: NodeView, other: NodeView) -> bool:
    return key in one.labels and one.labels[key] == other.labels.get(key)


def _selects(selector: Selector | None, pod: PodRequest) -> bool:
    return selector is not None and all(_holds(r, pod.labels) for r in selector.requirements)


def _affinity(pod: PodRequest, node: NodeView) -> bool:
    rules = pod.signature.node_rules
    return all(node.labels.get(key) == value for key, value in rules.selector) and (
        rules.required is None or any(_term(term, node) for term in rules.required)
    )


def _term(term: NodeTerm, node: NodeView) -> bool:
    if not term.labels and not term.fields:
        return False
    return all(_holds(r, node.labels) for r in term.labels) and all(
        (node.name in r.values) == (r.operator == "In") for r in term.fields
    )


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    key, operator, values = requirement
    value = labels.get(key)
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    if operator == "Exists":
        return key in labels
    if operator == "DoesNotExist":
        return key not in labels
    try:
        number, bound = int(value or ""), int(values[0])
    except ValueError:
        return False
    return number > bound if operator == "Gt" else number < bound


def _tolerates(pod: PodRequest, key: str, value: str, effect: str) -> bool:
    return any(
        t.effect in ("", effect)
        and (
            (t.operator == "Exists" and t.key in ("", key))
            or (t.operator == "Equal" and t.key == key and t.value == value)
        )
        for t in pod.signature.node_rules.tolerations
    )
