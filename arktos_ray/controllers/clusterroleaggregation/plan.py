"""What an aggregated ClusterRole gathers just now. Pure.

For people and programs that read roles: decisions gather by themselves (tenancy/rights.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from arktos_ray.api.kinds.syntax import selector_matches
from arktos_ray.controllers.pods import is_terminating
from arktos_ray.tenancy.roles import STANDING_ROLES, distinct

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Write:
    rules: list[Object]
    why: str


def plan(role: Object, others: Iterable[Object]) -> Write | None:
    """others: all ClusterRoles of its tenant. What these gather they say in their own rules, so
    circles come to rest."""
    aggregation = role.get("aggregationRule")
    if aggregation is None or is_terminating(role):
        return None
    every = {each["metadata"]["name"]: each for each in (*STANDING_ROLES, *others)}
    every.pop(role["metadata"]["name"], None)
    selectors = aggregation.get("clusterRoleSelectors") or ()
    found: list[Object] = []
    for _, other in sorted(every.items()):
        labels = other["metadata"].get("labels") or {}
        if any(selector_matches(selector, labels) for selector in selectors):
            found += other.get("rules") or ()
    gathered = distinct(found)
    if gathered == (role.get("rules") or []):
        return None
    return Write(gathered, "what it gathers has changed")
