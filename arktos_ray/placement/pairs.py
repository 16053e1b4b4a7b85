"""Pairs: which pods are placed where, for the rules that pods have about each other.

Holds the placed pods of the scheduler's tenants by tenant and namespace, and keeps, for every term
that somebody asked about lately, how many matching pods each node has; so that a batch starts from
counts and not from a walk over all pods. A tenant's pods never see another tenant's.

Pure. The overlay of what the running batch has placed is in `assign.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from arktos_ray.placement.signature import (
    PodRequest,
    PodTerm,
    Requirement,
    Selector,
    SpreadRule,
)

# Terms whose counts are kept up to date. One costs 0.3 us for each pod of its tenant that comes
# or goes; a term beyond the limit is counted again when it is next asked about.
TERMS_MAX = 1024

Counts = dict[str, int]  # by node name


class Term(NamedTuple):
    """Which pods are meant, read for one pod: by tenant, namespace and labels."""

    tenant: str
    namespaces: tuple[str, ...]
    namespace_selector: Selector | None
    selector: Selector | None


class Anchor(NamedTuple):
    """A Term, within one topology."""

    term: Term
    topology_key: str


def term_of(rule: PodTerm, pod: PodRequest) -> Anchor:
    """The term as this pod means it."""
    namespaces = rule.namespaces
    if not namespaces and rule.namespace_selector is None:
        namespaces = (pod.namespace,)
    selector = _with_keys(rule.selector, pod, rule.match_keys, rule.mismatch_keys)
    return Anchor(
        Term(pod.tenant, namespaces, rule.namespace_selector, selector), rule.topology_key
    )


def spread_term(rule: SpreadRule, pod: PodRequest) -> Anchor:
    selector = _with_keys(rule.selector, pod, rule.match_keys, ())
    return Anchor(Term(pod.tenant, (pod.namespace,), None, selector), rule.topology_key)


def _with_keys(
    selector: Selector | None, pod: PodRequest, same: tuple[str, ...], other: tuple[str, ...]
) -> Selector | None:
    if selector is None or not (same or other):
        return selector
    more = [
        Requirement(key, operator, (pod.labels[key],))
        for keys, operator in ((same, "In"), (other, "NotIn"))
        for key in keys
        if key in pod.labels
    ]
    return Selector((*selector.requirements, *more))


class Pairs:
    """The placed pods of the tenants of one scheduler."""

    def __init__(self) -> None:
        self._placed: dict[str, tuple[PodRequest, str]] = {}  # by uid: the pod, its node
        self._spaces: dict[str, dict[str, dict[str, PodRequest]]] = {}  # tenant, namespace, uid
        self._namespaces: dict[str, dict[str, Mapping[str, str]]] = {}  # tenant: name: labels
        # Terms somebody asked about, oldest use first: their counts.
        self._counts: dict[Term, Counts] = {}
        self._terms_by_tenant: dict[str, set[Term]] = {}
        # Required anti-affinity of placed pods, which keeps others away: holders by node.
        self._holders: dict[str, dict[Anchor, Counts]] = {}

    def __len__(self) -> int:
        return len(self._placed)

    def node_of(self, uid: str) -> str:
        placed = self._placed.get(uid)
        return "" if placed is None else placed[1]

    def stands(self, uid: str, node: str, labels: Mapping[str, str]) -> bool:
        """Whether that is what is known of the pod already."""
        placed = self._placed.get(uid)
        return placed is not None and placed[1] == node and placed[0].labels == labels

    def place(self, pod: PodRequest, node: str) -> None:
        """Puts a pod on a node, or replaces what was known of it. 1 us without rules."""
        known = self._placed.get(pod.uid)
        if known is not None:
            before, at = known
            if at == node and before.labels == pod.labels:
                return
            self.remove(pod.uid)
        self._placed[pod.uid] = (pod, node)
        spaces = self._spaces.setdefault(pod.tenant, {})
        spaces.setdefault(pod.namespace, {})[pod.uid] = pod
        self._count(pod, node, 1)

    def remove(self, uid: str) -> bool:
        known = self._placed.pop(uid, None)
        if known is None:
            return False
        pod, node = known
        spaces = self._spaces[pod.tenant]
        del spaces[pod.namespace][uid]
        if not spaces[pod.namespace]:
            del spaces[pod.namespace]
        if not spaces:
            del self._spaces[pod.tenant]
        self._count(pod, node, -1)
        return True

    def set_namespace(self, tenant: str, name: str, labels: Mapping[str, str]) -> None:
        named = self._namespaces.setdefault(tenant, {})
        if named.get(name, {}) != labels:
            self._forget_counts(tenant)
        named[name] = labels

    def remove_namespace(self, tenant: str, name: str) -> None:
        named = self._namespaces.get(tenant, {})
        if named.pop(name, None):
            self._forget_counts(tenant)
        if not named:
            self._namespaces.pop(tenant, None)

    def covers(self, term: Term, pod: PodRequest) -> bool:
        """Whether the term means that pod."""
        return (
            term.selector is not None
            and term.tenant == pod.tenant
            and self._covers_space(term, pod.namespace)
            and term.selector.matches(pod.labels)
        )

    def counts(self, term: Term) -> Counts:
        """How many pods the term means, by node. Kept up to date from now on: do not write."""
        counts = self._counts.pop(term, None)
        if counts is None:
            counts = self._counted(term)
            self._terms_by_tenant.setdefault(term.tenant, set()).add(term)
            if len(self._counts) >= TERMS_MAX:
                oldest = next(iter(self._counts))
                del self._counts[oldest]
                self._terms_by_tenant[oldest.tenant].discard(oldest)
        self._counts[term] = counts
        return counts

    def holders(self, tenant: str) -> Mapping[Anchor, Counts]:
        """The required anti-affinity terms of the tenant's placed pods, and where they are."""
        return self._holders.get(tenant, {})

    def _forget_counts(self, tenant: str) -> None:
        # Namespace labels change almost never: count again rather than track who is meant.
        for term in self._terms_by_tenant.pop(tenant, ()):
            del self._counts[term]

    def _covers_space(self, term: Term, namespace: str) -> bool:
        if namespace in term.namespaces:
            return True
        if term.namespace_selector is None:
            return False
        labels = self._namespaces.get(term.tenant, {}).get(namespace, {})
        return term.namespace_selector.matches(labels)

    def _counted(self, term: Term) -> Counts:
        counts: Counts = {}
        selector = term.selector
        if selector is None:
            return counts
        for pods in self._meant(term):
            for uid, pod in pods.items():
                if selector.matches(pod.labels):
                    node = self._placed[uid][1]
                    counts[node] = counts.get(node, 0) + 1
        return counts

    def _meant(self, term: Term) -> Iterator[dict[str, PodRequest]]:
        for namespace, pods in self._spaces.get(term.tenant, {}).items():
            if self._covers_space(term, namespace):
                yield pods

    def _count(self, pod: PodRequest, node: str, change: int) -> None:
        for term in self._terms_by_tenant.get(pod.tenant, ()):
            if self.covers(term, pod):
                _change(self._counts[term], node, change)
        for rule in pod.signature.pod_rules.anti_affinity:
            anchor = term_of(rule, pod)
            holders = self._holders.setdefault(pod.tenant, {})
            counts = holders.setdefault(anchor, {})
            _change(counts, node, change)
            if not counts:
                del holders[anchor]
            if not holders:
                del self._holders[pod.tenant]


def _change(counts: Counts, node: str, change: int) -> None:
    now = counts.get(node, 0) + change
    if now:
        counts[node] = now
    else:
        counts.pop(node, None)
