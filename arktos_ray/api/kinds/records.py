"""Event and Lease: small records that are written often."""

from __future__ import annotations

from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import Cause, bad, required
from arktos_ray.api.kinds.generic import Object, Rules

# Subjects outside any namespace have their events here.
_COMMON_NAMESPACES = ("default", "kube-system")


class EventRules(Rules):
    """An event in the core group."""

    subject = "involvedObject"

    def check(self, obj: Object, out: list[Cause]) -> None:
        subject = obj.get(self.subject) or {}
        namespace = (obj.get("metadata") or {}).get("namespace")
        theirs = subject.get("namespace")
        at = f"{self.subject}.namespace"
        if theirs:
            if theirs != namespace:
                out.append(bad(at, theirs, "does not match event.namespace"))
        elif namespace not in _COMMON_NAMESPACES and not subject.get("kind"):
            out.append(bad(at, "", "does not match event.namespace"))

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        if obj.get(self.subject) != old.get(self.subject):
            self.check(obj, out)


class NewEventRules(EventRules):
    """The same event under events.k8s.io, where more is asked of it."""

    subject = "regarding"

    def check(self, obj: Object, out: list[Cause]) -> None:
        super().check(obj, out)
        if not obj.get("eventTime"):
            out.append(required("eventTime"))
        wanted = ("reportingController", "reportingInstance", "action", "reason")
        out += [required(key) for key in wanted if not obj.get(key)]
        controller = obj.get("reportingController")
        if controller:
            wrong = syntax.qualified_name(controller)
            if wrong:
                out.append(bad("reportingController", controller, wrong))
        for key, limit in (("reportingInstance", 128), ("action", 128), ("reason", 128)):
            if len(obj.get(key) or "") > limit:
                out.append(bad(key, "", f"can have at most {limit} characters"))
        if len(obj.get("note") or "") > 1024:
            out.append(bad("note", "", "can have at most 1024 characters"))
        if obj.get("type") not in ("Normal", "Warning"):
            out.append(bad("type", "", f"has invalid value: {obj.get('type') or ''}"))


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
