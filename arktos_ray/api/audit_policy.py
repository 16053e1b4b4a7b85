"""Which requests are written to the audit log, and how much of each: audit.k8s.io/v1 Policy.

The first rule that matches decides, as in Kubernetes; no rule is no line. Ours besides: `tenants`
of a rule, whose objects are asked for (or, of a path that names none, whose user asks).
Pure. 0.4 us a decision, and 0.4 us more for each rule that looks at who asks or where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

NONE, METADATA, REQUEST, RESPONSE = range(4)
LEVELS = ("None", "Metadata", "Request", "RequestResponse")
STARTED, COMPLETE = "ResponseStarted", "ResponseComplete"
# Those that we write, and those that a policy may name all the same.
_STAGES = ("RequestReceived", STARTED, COMPLETE, "Panic")
_KEYS = frozenset((
    "level", "users", "userGroups", "verbs", "resources", "namespaces", "tenants",
    "nonResourceURLs", "omitStages", "omitManagedFields",
))  # fmt: skip
_POLICY_KEYS = frozenset((
    "apiVersion", "kind", "metadata", "rules", "omitStages", "omitManagedFields",
))  # fmt: skip

# Without a word in arktos.yaml: who changed what, and when. What the cluster tells itself all the
# time (leases, events), and those who are nobody, would only push out what is worth keeping.
CHANGES: Mapping[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "rules": [
        {"level": "None", "verbs": ["get", "list", "watch", "head"]},
        {"level": "None", "userGroups": ["system:unauthenticated"]},
        {
            "level": "None",
            "resources": [
                {"group": "", "resources": ["events"]},
                {"group": "coordination.k8s.io", "resources": ["leases"]},
                {"group": "authorization.k8s.io"},
                {
                    "group": "authentication.k8s.io",
                    "resources": ["selfsubjectreviews", "tokenreviews"],
                },
            ],
        },
        {"level": "Metadata"},
    ],
}  # fmt: skip


class Asked(NamedTuple):
    """A request, as a policy sees it. resource "" is a path that names no object."""

    user: str
    groups: tuple[str, ...]
    tenant: str
    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


class _Resources(NamedTuple):
    group: str
    resources: frozenset[str]
    names: frozenset[str]

    def has(self, asked: Asked) -> bool:
        """Of an object of this group."""
        if self.names and asked.name not in self.names:
            return False
        wanted, sub = self.resources, asked.subresource
        if not wanted or "*" in wanted:
            return True
        if not sub:
            return asked.resource in wanted
        return (
            f"{asked.resource}/{sub}" in wanted
            or f"*/{sub}" in wanted
            or f"{asked.resource}/*" in wanted
        )


@dataclass(frozen=True, slots=True)
class Rule:
    level: int
    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    verbs: frozenset[str] = frozenset()
    resources: tuple[_Resources, ...] = ()
    namespaces: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()
    omit_stages: frozenset[str] = frozenset()
    omit_managed_fields: bool = False

    def matches(self, asked: Asked) -> bool:
        if self.verbs and asked.verb not in self.verbs:
            return False
        if self.users and asked.user not in self.users:
            return False
        if self.groups and self.groups.isdisjoint(asked.groups):
            return False
        if self.tenants and asked.tenant not in self.tenants:
            return False
        if self.namespaces or self.resources:
            if not asked.resource:
                return False
            if self.namespaces and asked.namespace not in self.namespaces:
                return False
            return not self.resources or any(
                each.group == asked.group and each.has(asked) for each in self.resources
            )
        if self.paths:
            return not asked.resource and any(_fits(asked.path, each) for each in self.paths)
        return True

    def may_match(self, asked: Asked) -> bool:
        """Whether it matches such a request of somebody, somewhere."""
        if self.verbs and asked.verb not in self.verbs:
            return False
        if self.paths:
            return False
        return not self.resources or any(
            each.group == asked.group and each._replace(names=frozenset()).has(asked)
            for each in self.resources
        )

    @property
    def of_everybody(self) -> bool:
        return not (
            self.users or self.groups or self.tenants or self.namespaces
            or any(each.names for each in self.resources)
        )  # fmt: skip


def _fits(path: str, pattern: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


NOTHING = Rule(NONE)
# Kinds of requests whose rules are remembered: 500 bytes each.
KINDS_MAX = 5_000


class Policy:
    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        # Those that may match, by verb and resource. Anybody can write names of kinds that nobody
        # defined: when there are too many, all are forgotten.
        self._kinds: dict[tuple[str, str, str, str], tuple[tuple[Rule, bool], ...]] = {}

    def rule_for(self, asked: Asked) -> Rule:
        if not asked.resource:
            for rule in self._rules:
                if rule.matches(asked):
                    return rule
            return NOTHING
        kind = (asked.verb, asked.group, asked.resource, asked.subresource)
        rules = self._kinds.get(kind)
        if rules is None:
            rules = tuple((r, r.of_everybody) for r in self._rules if r.may_match(asked))
            if len(self._kinds) >= KINDS_MAX:
                self._kinds.clear()
            self._kinds[kind] = rules
        for rule, certainly in rules:
            if certainly or rule.matches(asked):
                return rule
        return NOTHING


def read(raw: Any) -> Policy:
    """ValueError with where and what for anything that cannot be meant."""
    if not isinstance(raw, Mapping):
        raise ValueError("a Policy is expected")
    _known("policy", raw, _POLICY_KEYS)
    if raw.get("apiVersion") != "audit.k8s.io/v1" or raw.get("kind") != "Policy":
        raise ValueError("apiVersion: audit.k8s.io/v1 and kind: Policy are expected")
    rules = raw.get("rules")
    if not isinstance(rules, list) or not rules:
        raise ValueError("rules: a list with at least one rule is expected")
    stages = _stages("omitStages", raw)
    omits = _flag("omitManagedFields", raw, False)
    return Policy(tuple(_rule(f"rules[{i}]", each, stages, omits) for i, each in enumerate(rules)))


def _rule(at: str, raw: Any, stages: frozenset[str], omits: bool) -> Rule:
    if not isinstance(raw, Mapping):
        raise ValueError(f"{at}: a rule is expected")
    _known(at, raw, _KEYS)
    if raw.get("level") not in LEVELS:
        raise ValueError(f"{at}.level: one of {', '.join(LEVELS)} is expected")
    paths = _words(f"{at}.nonResourceURLs", raw.get("nonResourceURLs"))
    if paths and (raw.get("resources") or raw.get("namespaces")):
        raise ValueError(f"{at}: nonResourceURLs go with neither resources nor namespaces")
    for path in paths:
        if path != "*" and (not path.startswith("/") or "*" in path[:-1]):
            raise ValueError(f"{at}.nonResourceURLs: {path!r} is no path, with * at its end only")
    resources = raw.get("resources") or []
    if not isinstance(resources, list):
        raise ValueError(f"{at}.resources: a list is expected")
    return Rule(
        LEVELS.index(raw["level"]),
        frozenset(_words(f"{at}.users", raw.get("users"))),
        frozenset(_words(f"{at}.userGroups", raw.get("userGroups"))),
        frozenset(_words(f"{at}.verbs", raw.get("verbs"))),
        tuple(_resources(f"{at}.resources[{i}]", each) for i, each in enumerate(resources)),
        frozenset(_words(f"{at}.namespaces", raw.get("namespaces"))),
        frozenset(_words(f"{at}.tenants", raw.get("tenants"))),
        paths,
        stages | _stages(f"{at}.omitStages", raw),
        _flag(f"{at}.omitManagedFields", raw, omits),
    )


def _resources(at: str, raw: Any) -> _Resources:
    if not isinstance(raw, Mapping):
        raise ValueError(f"{at}: group and resources are expected")
    _known(at, raw, frozenset(("group", "resources", "resourceNames")))
    group = raw.get("group") or ""
    if not isinstance(group, str) or "/" in group:
        raise ValueError(f"{at}.group: {group!r} is no name of a group, without its version")
    names = frozenset(_words(f"{at}.resourceNames", raw.get("resourceNames")))
    resources = frozenset(_words(f"{at}.resources", raw.get("resources")))
    if names and not resources:
        raise ValueError(f"{at}.resourceNames: of which resources must be said")
    return _Resources(group, resources, names)


def _stages(at: str, raw: Mapping[str, Any]) -> frozenset[str]:
    stages = _words(at, raw.get("omitStages"))
    for stage in stages:
        if stage not in _STAGES:
            raise ValueError(f"{at}: {stage!r} is none of {', '.join(_STAGES)}")
    return frozenset(stages)


def _flag(at: str, raw: Mapping[str, Any], otherwise: bool) -> bool:
    value = raw.get("omitManagedFields")
    if value is None:
        return otherwise
    if not isinstance(value, bool):
        raise ValueError(f"{at}: true or false is expected")
    return value


def _words(at: str, raw: Any) -> tuple[str, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list) or not all(isinstance(each, str) for each in raw):
        raise ValueError(f"{at}: a list of words is expected")
    return tuple(raw)


def _known(at: str, raw: Mapping[str, Any], keys: frozenset[str]) -> None:
    for key in raw:
        if key not in keys:
            raise ValueError(f"{at}: unknown key {key!r}")
