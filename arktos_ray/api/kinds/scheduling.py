"""Where a pod may and would rather run: affinities, tolerations, spreading. Pure."""

from __future__ import annotations

from typing import Any

from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import (
    Cause,
    bad,
    duplicate,
    forbidden,
    required,
    unsupported,
)  # fmt: skip

Object = dict[str, Any]

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_UNSATISFIABLE = ("DoNotSchedule", "ScheduleAnyway")
_INCLUSION = ("Honor", "Ignore")
_WEIGHT = "must be in the range 1-100"


def check_affinity(affinity: Object, at: str, out: list[Cause]) -> None:
    node = affinity.get("nodeAffinity")
    if node:
        needed = node.get(_REQUIRED)
        if needed is not None:
            check_node_selector(needed, f"{at}.nodeAffinity.{_REQUIRED}", out)
        for i, one in enumerate(node.get(_PREFERRED) or ()):
            where = f"{at}.nodeAffinity.{_PREFERRED}[{i}]"
            _weight(one, where, out)
            _node_term(one.get("preference") or {}, f"{where}.preference", out)
    for kind in ("podAffinity", "podAntiAffinity"):
        pods = affinity.get(kind)
        if not pods:
            continue
        for i, term in enumerate(pods.get(_REQUIRED) or ()):
            _pod_term(term, f"{at}.{kind}.{_REQUIRED}[{i}]", out)
        for i, one in enumerate(pods.get(_PREFERRED) or ()):
            where = f"{at}.{kind}.{_PREFERRED}[{i}]"
            _weight(one, where, out)
            _pod_term(one.get("podAffinityTerm") or {}, f"{where}.podAffinityTerm", out)


def _weight(one: Object, at: str, out: list[Cause]) -> None:
    weight = one.get("weight") or 0
    if not 1 <= weight <= 100:
        out.append(bad(f"{at}.weight", weight, _WEIGHT))


def check_node_selector(selector: Object, at: str, out: list[Cause]) -> None:
    terms = selector.get("nodeSelectorTerms")
    if not terms:
        out.append(required(f"{at}.nodeSelectorTerms", "must have at least one node selector term"))
    for i, one in enumerate(terms or ()):
        _node_term(one, f"{at}.nodeSelectorTerms[{i}]", out)


def _node_term(term: Object, at: str, out: list[Cause]) -> None:
    for i, one in enumerate(term.get("matchExpressions") or ()):
        where = f"{at}.matchExpressions[{i}]"
        _node_requirement(one, where, out)
        key = one.get("key") or ""
        wrong = syntax.qualified_name(key)
        if wrong:
            out.append(bad(f"{where}.key", key, wrong))
        for j, value in enumerate(one.get("values") or ()):
            wrong = syntax.label_value(value)
            if wrong:
                out.append(bad(f"{where}.values[{j}]", value, wrong))
    for i, one in enumerate(term.get("matchFields") or ()):
        where = f"{at}.matchFields[{i}]"
        operator, values = one.get("operator"), one.get("values") or ()
        if operator not in ("In", "NotIn"):
            out.append(bad(f"{where}.operator", operator or "", "not a valid selector operator"))
        elif len(values) != 1:
            why = (
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            )
            out.append(required(f"{where}.values", why))
        if one.get("key") != "metadata.name":
            out.append(bad(f"{where}.key", one.get("key") or "", "not a valid field selector key"))


def _node_requirement(one: Object, at: str, out: list[Cause]) -> None:
    operator, values = one.get("operator"), one.get("values") or ()
    if operator in ("In", "NotIn"):
        if not values:
            why = "must be specified when `operator` is 'In' or 'NotIn'"
            out.append(required(f"{at}.values", why))
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            out.append(forbidden(f"{at}.values", why))
    elif operator in ("Gt", "Lt"):
        if len(values) != 1:
            why = "must be specified single value when `operator` is 'Lt' or 'Gt'"
            out.append(required(f"{at}.values", why))
    else:
        out.append(bad(f"{at}.operator", operator or "", "not a valid selector operator"))


def _pod_term(term: Object, at: str, out: list[Cause]) -> None:
    for key in ("labelSelector", "namespaceSelector"):
        if term.get(key):
            syntax.label_selector(term[key], f"{at}.{key}", out)
    for i, namespace in enumerate(term.get("namespaces") or ()):
        wrong = syntax.dns_label(namespace)
        if wrong:
            out.append(bad(f"{at}.namespaces[{i}]", namespace, wrong))
    _topology_key(term.get("topologyKey"), at, out)


def _topology_key(key: str | None, at: str, out: list[Cause]) -> None:
    if not key:
        out.append(required(f"{at}.topologyKey", "can not be empty"))
    else:
        wrong = syntax.qualified_name(key)
        if wrong:
            out.append(bad(f"{at}.topologyKey", key, wrong))


def check_tolerations(tolerations: list[Object], at: str, out: list[Cause]) -> None:
    for i, one in enumerate(tolerations):
        where = f"{at}[{i}]"
        key, operator = one.get("key"), one.get("operator") or "Equal"
        value, effect = one.get("value"), one.get("effect")
        if key:
            wrong = syntax.qualified_name(key)
            if wrong:
                out.append(bad(f"{where}.key", key, wrong))
        elif operator != "Exists":
            why = (
                "operator must be Exists when `key` is empty, which means "
                '"match all values and all keys"'
            )
            out.append(bad(f"{where}.operator", one.get("operator") or "", why))
        if one.get("tolerationSeconds") is not None and effect != "NoExecute":
            why = "effect must be 'NoExecute' when `tolerationSeconds` is set"
            out.append(bad(f"{where}.effect", effect or "", why))
        if operator == "Equal":
            wrong = syntax.label_value(value or "")
            if wrong:
                out.append(bad(f"{where}.operator", value, wrong))
        elif operator == "Exists":
            if value:
                why = "value must be empty when `operator` is 'Exists'"
                out.append(bad(f"{where}.operator", one, why))
        else:
            out.append(unsupported(f"{where}.operator", operator, ("Equal", "Exists")))
        if effect and effect not in _EFFECTS:
            out.append(unsupported(f"{where}.effect", effect, _EFFECTS))


def check_spread(constraints: list[Object], at: str, out: list[Cause]) -> None:
    seen = set()
    for i, one in enumerate(constraints):
        where = f"{at}[{i}]"
        skew = one.get("maxSkew") or 0
        if skew <= 0:
            out.append(bad(f"{where}.maxSkew", skew, syntax.POSITIVE))
        key, otherwise = one.get("topologyKey"), one.get("whenUnsatisfiable")
        _topology_key(key, where, out)
        if otherwise not in _UNSATISFIABLE:
            out.append(unsupported(f"{where}.whenUnsatisfiable", otherwise or "", _UNSATISFIABLE))
        pair = f"{{{key or ''}, {otherwise or ''}}}"
        if pair in seen:
            out.append(duplicate(f"{where}.{{topologyKey, whenUnsatisfiable}}", pair))
        seen.add(pair)
        domains = one.get("minDomains")
        if domains is not None:
            if domains <= 0:
                out.append(bad(f"{where}.minDomains", domains, syntax.POSITIVE))
            if otherwise != "DoNotSchedule":
                why = (
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, "
                    f"not {otherwise or ''}"
                )
                out.append(bad(f"{where}.minDomains", domains, why))
        for policy in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            value = one.get(policy)
            if value is not None and value not in _INCLUSION:
                out.append(unsupported(f"{where}.{policy}", value, _INCLUSION))
        if one.get("labelSelector"):
            syntax.label_selector(one["labelSelector"], f"{where}.labelSelector", out)
