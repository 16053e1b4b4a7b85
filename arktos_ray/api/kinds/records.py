"""Event and Lease: small records that are written often."""

from __future__ import annotations

from arktos_ray.api.kinds.causes import Cause, bad
from arktos_ray.api.kinds.generic import Object, Rules

# Subjects outside any namespace have their events here.
_COMMON_NAMESPACES = ("default", "kube-system")


class EventRules(Rules):
    def check(self, obj: Object, out: list[Cause]) -> None:
        subject = obj.get("involvedObject") or {}
        namespace = (obj.get("metadata") or {}).get("namespace")
        theirs = subject.get("namespace")
        at = "involvedObject.namespace"
        if theirs:
            if theirs != namespace:
                out.append(bad(at, theirs, "does not match event.namespace"))
        elif namespace not in _COMMON_NAMESPACES and not subject.get("kind"):
            out.append(bad(at, "", "does not match event.namespace"))

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        if obj.get("involvedObject") != old.get("involvedObject"):
            self.check(obj, out)


class LeaseRules(Rules):
    def default(self, obj: Object) -> None:
        obj.setdefault("spec", {})

    def check(self, obj: Object, out: list[Cause]) -> None:
        spec = obj.get("spec") or {}
        seconds = spec.get("leaseDurationSeconds")
        if seconds is not None and seconds <= 0:
            out.append(bad("spec.leaseDurationSeconds", seconds, "must be greater than 0"))
        transitions = spec.get("leaseTransitions")
        if transitions is not None and transitions < 0:
            why = "must be greater than or equal to 0"
            out.append(bad("spec.leaseTransitions", transitions, why))
