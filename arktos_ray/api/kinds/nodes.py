"""Node: what a host says about itself, and what an administrator says about it."""

from __future__ import annotations

import ipaddress

from arktos_ray.api import quantity
from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import Cause, bad, duplicate, forbidden, unsupported
from arktos_ray.api.kinds.generic import Object, Rules

_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


class NodeRules(Rules):
    def initial_status(self, obj: Object) -> None:
        # Unlike other kinds, a node registers itself together with its status.
        obj.setdefault("status", {})

    def default(self, obj: Object) -> None:
        obj.setdefault("spec", {})
        status = obj.get("status")
        if status and status.get("capacity") is not None and status.get("allocatable") is None:
            status["allocatable"] = dict(status["capacity"])

    def check(self, obj: Object, out: list[Cause]) -> None:
        _check_spec(obj.get("spec") or {}, out)
        _check_status(obj.get("status") or {}, out)

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        spec, was = obj.get("spec") or {}, old.get("spec") or {}
        if spec == was:
            return
        _check_spec(spec, out)
        if was.get("podCIDR") and spec.get("podCIDR") != was["podCIDR"]:
            why = 'node updates may not change podCIDR except from "" to valid'
            out.append(forbidden("spec.podCIDRs", why))
        if was.get("providerID") and spec.get("providerID") != was["providerID"]:
            why = 'node updates may not change providerID except from "" to valid'
            out.append(forbidden("spec.providerID", why))

    def check_status(self, obj: Object, old: Object, out: list[Cause]) -> None:
        status, was = obj.get("status") or {}, old.get("status") or {}
        if any(status.get(key) != was.get(key) for key in ("capacity", "allocatable", "addresses")):
            _check_status(status, out)


def _check_spec(spec: Object, out: list[Cause]) -> None:
    for i, block in enumerate(spec.get("podCIDRs") or ()):
        try:
            ipaddress.ip_network(block)
        except ValueError:
            why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            out.append(bad(f"spec.podCIDRs[{i}]", block, why))
    seen = set()
    for i, taint in enumerate(spec.get("taints") or ()):
        at = f"spec.taints[{i}]"
        key, value, effect = taint.get("key") or "", taint.get("value") or "", taint.get("effect")
        wrong = syntax.qualified_name(key)
        if wrong:
            out.append(bad(f"{at}.key", key, wrong))
        wrong = syntax.label_value(value)
        if wrong:
            out.append(bad(f"{at}.value", value, wrong))
        if effect not in _EFFECTS:
            out.append(unsupported(f"{at}.effect", effect or "", _EFFECTS))
        if (key, effect) in seen:
            cause = duplicate(at, taint)
            why = "taints must be unique by key and effect pair"
            out.append(Cause(cause.field, cause.reason, f"{cause.message}: {why}"))
        seen.add((key, effect))


def _check_status(status: Object, out: list[Cause]) -> None:
    for key in ("capacity", "allocatable"):
        for name, amount in (status.get(key) or {}).items():
            at = f"status.{key}.{name}"
            try:
                if quantity.milli(amount) < 0:
                    out.append(bad(at, str(amount), syntax.NOT_NEGATIVE))
            except ValueError as error:
                out.append(bad(at, amount, str(error)))
    seen = set()
    for i, address in enumerate(status.get("addresses") or ()):
        pair = (address.get("type"), address.get("address"))
        if pair in seen:
            out.append(duplicate(f"status.addresses[{i}]", address))
        seen.add(pair)
