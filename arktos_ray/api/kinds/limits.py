"""ResourceQuota and LimitRange: what a namespace may use. The arithmetic is admission's."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from arktos_ray.api import quantity
from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import Cause, bad, duplicate, forbidden, required, unsupported
from arktos_ray.api.kinds.generic import Object, Rules

_SCOPES = (
    "BestEffort", "CrossNamespacePodAffinity", "NotBestEffort", "NotTerminating", "PriorityClass",
    "Terminating", "VolumeAttributesClass",
)  # fmt: skip
_OPPOSED = (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating"))
# What a quota may name without a domain.
QUOTA_NAMES = frozenset((
    "cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.storage",
    "requests.ephemeral-storage", "limits.cpu", "limits.memory", "limits.ephemeral-storage", "pods",
    "resourcequotas", "services", "replicationcontrollers", "secrets", "configmaps",
    "persistentvolumeclaims", "services.nodeports", "services.loadbalancers",
))  # fmt: skip
_COUNTED = QUOTA_NAMES - {
    name for name in QUOTA_NAMES if name.endswith(("cpu", "memory", "storage"))
}


class ResourceQuotaRules(Rules):
    def default(self, obj: Object) -> None:
        obj.setdefault("spec", {})

    def check(self, obj: Object, out: list[Cause]) -> None:
        spec = obj.get("spec") or {}
        for name, amount in (spec.get("hard") or {}).items():
            _check_quota(name, amount, f"spec.hard[{name}]", out)
        scopes = spec.get("scopes") or ()
        if any(scope not in _SCOPES for scope in scopes):
            out.append(bad("spec.scopes", scopes, "unsupported scope"))
        for one, other in _OPPOSED:
            if one in scopes and other in scopes:
                out.append(bad("spec.scopes", scopes, "conflicting scopes"))
        if "BestEffort" in scopes:
            for name in spec.get("hard") or {}:
                if name not in ("pods", "count/pods"):
                    why = "unsupported scope applied to resource"
                    out.append(bad("spec.scopes", scopes, why))
                    break
        selector = spec.get("scopeSelector") or {}
        for i, one in enumerate(selector.get("matchExpressions") or ()):
            _check_scope(one, f"spec.scopeSelector.matchExpressions[{i}]", out)

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        self.check(obj, out)
        scopes = (obj.get("spec") or {}).get("scopes") or []
        if sorted(scopes) != sorted((old.get("spec") or {}).get("scopes") or []):
            out.append(bad("spec.scopes", scopes, syntax.IMMUTABLE))


def _check_scope(one: Object, at: str, out: list[Cause]) -> None:
    scope, operator, values = one.get("scopeName"), one.get("operator"), one.get("values") or ()
    if scope not in _SCOPES:
        out.append(unsupported(f"{at}.scopeName", scope or "", _SCOPES))
    if operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
        out.append(bad(f"{at}.operator", operator or "", "not a valid selector operator"))
    elif operator in ("In", "NotIn"):
        if not values:
            why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
            out.append(required(f"{at}.values", why))
    elif values:
        why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
        out.append(bad(f"{at}.values", list(values), why))


def _check_quota(name: str, amount: Any, at: str, out: list[Cause]) -> None:
    wrong = syntax.qualified_name(name)
    if wrong:
        out.append(bad(at, name, wrong))
    elif "/" not in name and name not in QUOTA_NAMES and not _is_hugepages(name):
        out.append(bad(at, name, "must be a standard resource for quota"))
    try:
        milli = quantity.milli(amount)
    except ValueError as error:
        out.append(bad(at, amount, str(error)))
        return
    if milli < 0:
        out.append(bad(at, str(amount), syntax.NOT_NEGATIVE))
    elif milli % 1000 and (name in _COUNTED or name.startswith("count/")):
        out.append(bad(at, str(amount), "must be an integer"))


def _is_hugepages(name: str) -> bool:
    return name.removeprefix("requests.").startswith("hugepages-")


class LimitRangeRules(Rules):
    def default(self, obj: Object) -> None:
        for item in (obj.get("spec") or {}).get("limits") or ():
            if item.get("type") != "Container":
                continue
            limits = {**(item.get("max") or {}), **(item.get("default") or {})}
            requests = {**(item.get("min") or {}), **limits, **(item.get("defaultRequest") or {})}
            if limits:
                item["default"] = limits
            if requests:
                item["defaultRequest"] = requests

    def check(self, obj: Object, out: list[Cause]) -> None:
        seen = set()
        for i, item in enumerate((obj.get("spec") or {}).get("limits") or ()):
            at, kind = f"spec.limits[{i}]", item.get("type") or ""
            if kind not in ("Pod", "Container", "PersistentVolumeClaim") and "/" not in kind:
                why = "must be a standard limit type or fully qualified"
                out.append(bad(f"{at}.type", kind, why))
            if kind in seen:
                out.append(duplicate(f"{at}.type", kind))
            seen.add(kind)
            if kind == "Pod":
                for key in ("default", "defaultRequest"):
                    if item.get(key):
                        why = "may not be specified when `type` is 'Pod'"
                        out.append(forbidden(f"{at}.{key}", why))
            _check_limits(item, at, out)


_LIMITED = ("cpu", "memory", "storage", "ephemeral-storage")
_BOUNDS = ("min", "defaultRequest", "default", "max")
_WORDS = {
    "min": "min", "defaultRequest": "default request", "default": "default", "max": "max",
}  # fmt: skip


def _check_limits(item: Object, at: str, out: list[Cause]) -> None:
    names: dict[str, None] = {}
    for key in (*_BOUNDS, "maxLimitRequestRatio"):
        names.update(dict.fromkeys(item.get(key) or {}))
    for name in names:
        if "/" not in name and name not in _LIMITED and not name.startswith("hugepages-"):
            out.append(bad(f"{at}[{name}]", name, "must be a standard resource for containers"))
            continue
        found: dict[str, tuple[Any, Fraction]] = {}
        for key in (*_BOUNDS, "maxLimitRequestRatio"):
            amount = (item.get(key) or {}).get(name)
            if amount is None:
                continue
            try:
                found[key] = (amount, quantity.parse(amount))
            except ValueError as error:
                out.append(bad(f"{at}.{key}[{name}]", amount, str(error)))
                continue
            if found[key][1] < 0:
                out.append(bad(f"{at}.{key}[{name}]", str(amount), syntax.NOT_NEGATIVE))
        # Each bound at most every later one.
        for i, low in enumerate(_BOUNDS):
            for high in _BOUNDS[i + 1 :]:
                if low in found and high in found and found[low][1] > found[high][1]:
                    word = "limit" if (low, high) == ("defaultRequest", "default") else "value"
                    why = (
                        f"{_WORDS[low]} value {found[low][0]} is greater than "
                        f"{_WORDS[high]} {word} {found[high][0]}"
                    )
                    out.append(bad(f"{at}.{low}[{name}]", str(found[low][0]), why))
        ratio = found.get("maxLimitRequestRatio")
        if ratio is not None:
            _check_ratio(ratio, found, f"{at}.maxLimitRequestRatio[{name}]", out)


def _check_ratio(
    ratio: tuple[Any, Fraction], found: dict[str, tuple[Any, Fraction]], at: str, out: list[Cause]
) -> None:
    text, value = ratio
    if value < 1:
        out.append(bad(at, str(text), f"ratio {text} is less than 1"))
    low, high = found.get("min"), found.get("max")
    if low is not None and high is not None and low[1] > 0 and value > high[1] / low[1]:
        most = float(high[1] / low[1])
        out.append(bad(at, str(text), f"ratio {text} is greater than max/min = {most:f}"))
