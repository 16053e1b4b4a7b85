"""Rules: what one allows, and whether some cover others. Pure; the index of them is rights.py.

A request is four words (verb, group, resource, subresource) and perhaps a name; or a verb and a
path that is no object's. `names_in` answers for all names at once, so that its answer can be kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Object = dict[str, Any]

ALL = "*"
# When somebody grants rules without holding everything, each combination of verb, group and
# resource is compared with each rule that they hold. 50 ms; who needs more splits the role.
COMPARISONS_MAX = 100_000


class Rule(NamedTuple):
    verbs: frozenset[str]
    groups: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()  # empty: every name
    paths: tuple[str, ...] = ()


class Kind(NamedTuple):
    """What is asked for, but for the name and the place."""

    verb: str
    group: str
    resource: str
    subresource: str = ""


class TooWide(ValueError):
    """Rules that take more comparisons than are made."""


def read_rules(rules: Iterable[Object] | None) -> tuple[Rule, ...]:
    """As objects have them, valid or not: what is missing allows nothing."""
    return tuple(
        Rule(
            frozenset(rule.get("verbs") or ()),
            frozenset(rule.get("apiGroups") or ()),
            frozenset(rule.get("resources") or ()),
            frozenset(rule.get("resourceNames") or ()),
            tuple(rule.get("nonResourceURLs") or ()),
        )
        for rule in rules or ()
    )


def names_in(rules: Iterable[Rule], kind: Kind) -> bool | frozenset[str]:
    """True: allowed whatever the name; else the names for which it is allowed, often none."""
    verb, group, resource, subresource = kind
    wanted = {ALL, f"{resource}/{subresource}" if subresource else resource}
    if subresource:
        wanted.add(f"{ALL}/{subresource}")
    named: set[str] = set()
    for rule in rules:
        if (
            (verb in rule.verbs or ALL in rule.verbs)
            and (group in rule.groups or ALL in rule.groups)
            and not wanted.isdisjoint(rule.resources)
        ):
            if not rule.names:
                return True
            named |= rule.names
    return frozenset(named)


def allows_path(rules: Iterable[Rule], verb: str, path: str) -> bool:
    for rule in rules:
        if verb in rule.verbs or ALL in rule.verbs:
            for one in rule.paths:
                if one == path or (one.endswith(ALL) and path.startswith(one.rstrip(ALL))):
                    return True
    return False


# Granting


def missing(owned: Sequence[Rule], wanted: Iterable[Rule]) -> list[str]:
    """What of the wanted rules the owned ones do not cover, as sentences of the refusal.

    A rule is covered when every request that it spells out is allowed; `*` in it stands for itself.
    Raises TooWide.
    """
    verbs_of: dict[tuple[str, str, str], list[str]] = {}
    told: set[str] = set()
    left = COMPARISONS_MAX
    for rule in wanted:
        left -= len(owned)
        if left >= 0 and any(_holds(one, rule) for one in owned):
            continue
        combinations = len(rule.verbs) * (len(rule.groups) * len(rule.resources) + len(rule.paths))
        left -= combinations * max(len(owned), 1)
        if left < 0:
            raise TooWide
        for verb in sorted(rule.verbs):
            for path in rule.paths:
                if not allows_path(owned, verb, path):
                    told.add(f"{{NonResourceURLs:{quoted([path])}, Verbs:{quoted([verb])}}}")
            for group in rule.groups:
                for resource in rule.resources:
                    plural, _, subresource = resource.partition("/")
                    names = names_in(owned, Kind(verb, group, plural, subresource))
                    if names is True:
                        continue
                    assert names is not False
                    for name in (rule.names - names) if rule.names else ("",):
                        verbs_of.setdefault((group, resource, name), []).append(verb)
    for (group, resource, name), verbs in verbs_of.items():
        named = f" ResourceNames:{quoted([name])}," if name else ""
        told.add(
            f"{{APIGroups:{quoted([group])}, Resources:{quoted([resource])},{named}"
            f" Verbs:{quoted(list(dict.fromkeys(verbs)))}}}"
        )
    return sorted(told)


def _holds(one: Rule, other: Rule) -> bool:
    """Whether the first rule alone covers the second one; a cheap look before a thorough one."""
    return (
        _has(one.verbs, other.verbs)
        and _has(one.groups, other.groups)
        and _has(one.resources, other.resources)
        and (not one.names or (bool(other.names) and other.names <= one.names))
        and not other.paths
    )


def _has(have: frozenset[str], wanted: frozenset[str]) -> bool:
    return ALL in have or wanted <= have


def quoted(words: Iterable[str]) -> str:
    """`["a" "b"]`, as messages of Kubernetes show lists."""
    return "[" + " ".join('"' + word.replace('"', '\\"') + '"' for word in words) + "]"
