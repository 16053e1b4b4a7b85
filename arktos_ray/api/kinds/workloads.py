"""The apps group: Deployment, ReplicaSet, ControllerRevision."""

from __future__ import annotations

from typing import Any

from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import (
    Cause,
    bad,
    forbidden,
    required,
    unsupported,
)  # fmt: skip
from arktos_ray.api.kinds.generic import Object, Rules
from arktos_ray.api.kinds.pod_spec import check_template, default_template

REVISION_HISTORY_LIMIT = 10
PROGRESS_DEADLINE_SECONDS = 600
ROLLING = "25%"


class _Replicated(Rules):
    """What a Deployment and a ReplicaSet share: replicas, a selector and a template."""

    def default(self, obj: Object) -> None:
        spec = obj.get("spec")
        if spec is None:
            spec = obj["spec"] = {}
        if spec.get("replicas") is None:
            spec["replicas"] = 1
        if spec.get("template") is None:
            spec["template"] = {}
        default_template(spec["template"])

    def check(self, obj: Object, out: list[Cause]) -> None:
        spec = obj.get("spec") or {}
        for key in ("replicas", "minReadySeconds", "revisionHistoryLimit"):
            value = spec.get(key)
            if value is not None and value < 0:
                out.append(bad(f"spec.{key}", value, syntax.NOT_NEGATIVE))
        selector = spec.get("selector")
        template = spec.get("template") or {}
        if selector is None:
            out.append(required("spec.selector"))
        else:
            syntax.label_selector(selector, "spec.selector", out)
            if not selector.get("matchLabels") and not selector.get("matchExpressions"):
                why = "empty selector is invalid for deployment"
                out.append(bad("spec.selector", selector, why))
            labels = (template.get("metadata") or {}).get("labels") or {}
            if not syntax.selector_matches(selector, labels):
                why = "`selector` does not match template `labels`"
                out.append(bad("spec.template.metadata.labels", labels, why))
        check_template(template, "spec.template", out)
        pod = template.get("spec") or {}
        policy = pod.get("restartPolicy")
        if policy != "Always":
            out.append(unsupported("spec.template.spec.restartPolicy", policy, ("Always",)))
        if pod.get("activeDeadlineSeconds") is not None:
            why = "activeDeadlineSeconds in ReplicaSet is not Supported"
            out.append(forbidden("spec.template.spec.activeDeadlineSeconds", why))

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        spec, was = obj.get("spec") or {}, old.get("spec") or {}
        if spec == was:
            return
        self.check(obj, out)
        if spec.get("selector") != was.get("selector"):
            out.append(bad("spec.selector", spec.get("selector"), syntax.IMMUTABLE))

    def check_status(self, obj: Object, old: Object, out: list[Cause]) -> None:
        status = obj.get("status") or {}
        total = status.get("replicas") or 0
        for key, value in status.items():
            if isinstance(value, int) and not isinstance(value, bool) and value < 0:
                out.append(bad(f"status.{key}", value, syntax.NOT_NEGATIVE))
        for key in _COUNTS:
            if (status.get(key) or 0) > total:
                why = "cannot be greater than status.replicas"
                out.append(bad(f"status.{key}", status.get(key) or 0, why))
        if (status.get("availableReplicas") or 0) > (status.get("readyReplicas") or 0):
            why = "cannot be greater than readyReplicas"
            available = status.get("availableReplicas") or 0
            out.append(bad("status.availableReplicas", available, why))


_COUNTS = ("fullyLabeledReplicas", "updatedReplicas", "readyReplicas", "availableReplicas")


class ReplicaSetRules(_Replicated):
    def initial_status(self, obj: Object) -> None:
        obj["status"] = {"replicas": 0}


class DeploymentRules(_Replicated):
    status_keeps_meta = ("labels",)

    def default(self, obj: Object) -> None:
        super().default(obj)
        spec = obj["spec"]
        strategy = spec.get("strategy")
        if not strategy:
            strategy = spec["strategy"] = {}
        if not strategy.get("type"):
            strategy["type"] = "RollingUpdate"
        if strategy["type"] == "RollingUpdate":
            rolling = strategy.get("rollingUpdate")
            if rolling is None:
                rolling = strategy["rollingUpdate"] = {}
            for key in ("maxUnavailable", "maxSurge"):
                if rolling.get(key) is None:
                    rolling[key] = ROLLING
        if spec.get("revisionHistoryLimit") is None:
            spec["revisionHistoryLimit"] = REVISION_HISTORY_LIMIT
        if spec.get("progressDeadlineSeconds") is None:
            spec["progressDeadlineSeconds"] = PROGRESS_DEADLINE_SECONDS

    def changed(self, obj: Object, old: Object) -> bool:
        # Annotations are copied to the ReplicaSets, so the controller has to look at them too.
        return super().changed(obj, old) or (
            (obj["metadata"].get("annotations") or {}) != (old["metadata"].get("annotations") or {})
        )

    def check(self, obj: Object, out: list[Cause]) -> None:
        super().check(obj, out)
        spec = obj.get("spec") or {}
        _check_strategy(spec.get("strategy") or {}, out)
        deadline = spec.get("progressDeadlineSeconds")
        if deadline is not None:
            if deadline < 0:
                out.append(bad("spec.progressDeadlineSeconds", deadline, syntax.NOT_NEGATIVE))
            if deadline <= (spec.get("minReadySeconds") or 0):
                why = "must be greater than minReadySeconds"
                out.append(bad("spec.progressDeadlineSeconds", deadline, why))


def _check_strategy(strategy: Object, out: list[Cause]) -> None:
    kind, rolling = strategy.get("type"), strategy.get("rollingUpdate")
    at = "spec.strategy"
    if kind == "Recreate":
        if rolling is not None:
            why = "may not be specified when strategy `type` is 'Recreate'"
            out.append(forbidden(f"{at}.rollingUpdate", why))
    elif kind == "RollingUpdate":
        if rolling is None:
            why = "this should be defaulted and never be nil"
            out.append(required(f"{at}.rollingUpdate", why))
            return
        at += ".rollingUpdate"
        for key in ("maxUnavailable", "maxSurge"):
            _check_int_or_percent(rolling.get(key), f"{at}.{key}", key == "maxUnavailable", out)
        if _is_zero(rolling.get("maxUnavailable")) and _is_zero(rolling.get("maxSurge")):
            why = "may not be 0 when `maxSurge` is 0"
            out.append(bad(f"{at}.maxUnavailable", rolling.get("maxUnavailable"), why))
    else:
        out.append(unsupported(f"{at}.type", kind, ("Recreate", "RollingUpdate")))


def _is_zero(value: Any) -> bool:
    return value in (None, 0, "0%")


def _check_int_or_percent(value: Any, at: str, at_most_all: bool, out: list[Cause]) -> None:
    if isinstance(value, int):
        if value < 0:
            out.append(bad(at, value, syntax.NOT_NEGATIVE))
    elif isinstance(value, str):
        if not (value.endswith("%") and value[:-1].isascii() and value[:-1].isdigit()):
            why = (
                "a valid percent string must be a numeric string followed by an ending '%' "
                "(e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"
            )
            out.append(bad(at, value, why))
        elif at_most_all and int(value[:-1]) > 100:
            out.append(bad(at, value, "must not be greater than 100%"))


class ControllerRevisionRules(Rules):
    def default(self, obj: Object) -> None:
        obj.setdefault("revision", 0)

    def check(self, obj: Object, out: list[Cause]) -> None:
        if obj.get("data") is None:
            out.append(required("data", "data is mandatory"))
        revision = obj.get("revision") or 0
        if revision < 0:
            out.append(bad("revision", revision, syntax.NOT_NEGATIVE))

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        self.check(obj, out)
        if obj.get("data") != old.get("data"):
            out.append(bad("data", obj.get("data"), syntax.IMMUTABLE))
