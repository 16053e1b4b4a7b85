"""Older API groups and versions: how their bodies become the stored ones, and back. Pure.

What Kubernetes 1.15 served and its clients still write: the same objects, with another apiVersion
and, when they are made, other defaults. Only events have other names for their fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Object = dict[str, Any]
Change = Callable[[Object], Object]

_FOREVER = 2**31 - 1
# events.k8s.io -> core
_EVENT_FIELDS = {
    "note": "message", "regarding": "involvedObject", "reportingController": "reportingComponent",
    "deprecatedSource": "source", "deprecatedCount": "count",
    "deprecatedFirstTimestamp": "firstTimestamp", "deprecatedLastTimestamp": "lastTimestamp",
}  # fmt: skip
_STORED_EVENT_FIELDS = {stored: ours for ours, stored in _EVENT_FIELDS.items()}


def says(api_version: str) -> Change:
    """Nothing but the apiVersion changes."""

    def change(obj: Object) -> Object:
        return {**obj, "apiVersion": api_version}

    return change


def completed(api_version: str, fill: Callable[[Object], None]) -> Change:
    """Besides, what the sender left out is what it was in their version."""

    def change(obj: Object) -> Object:
        obj["apiVersion"] = api_version
        spec = obj.get("spec")
        if isinstance(spec, dict):
            fill(spec)
        return obj

    return change


def selects_its_template(spec: Object) -> None:
    """Without a selector, the labels of the template are it."""
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
    if spec.get("selector") is None and labels:
        spec["selector"] = {"matchLabels": dict(labels)}


def extensions_deployment(spec: Object) -> None:
    selects_its_template(spec)
    _one_at_a_time(spec)
    if spec.get("progressDeadlineSeconds") is None:
        spec["progressDeadlineSeconds"] = _FOREVER
    if spec.get("revisionHistoryLimit") is None:
        spec["revisionHistoryLimit"] = _FOREVER


def apps_v1beta1_deployment(spec: Object) -> None:
    selects_its_template(spec)
    if spec.get("revisionHistoryLimit") is None:
        spec["revisionHistoryLimit"] = 2


def _one_at_a_time(spec: Object) -> None:
    strategy = spec.get("strategy") or {}
    if strategy.get("type") not in (None, "", "RollingUpdate"):
        return
    rolling = strategy.get("rollingUpdate") or {}
    for key in ("maxUnavailable", "maxSurge"):
        if rolling.get(key) is None:
            rolling[key] = 1
    spec["strategy"] = {**strategy, "type": "RollingUpdate", "rollingUpdate": rolling}


def webhooks_to_stored(obj: Object) -> Object:
    """The defaults of admissionregistration.k8s.io/v1beta1 asked for less."""
    for hook in obj.get("webhooks") or ():
        for key, value in (
            ("failurePolicy", "Ignore"), ("matchPolicy", "Exact"), ("sideEffects", "Unknown"),
            ("timeoutSeconds", 30), ("admissionReviewVersions", ["v1beta1"]),
        ):  # fmt: skip
            if hook.get(key) is None:
                hook[key] = value
    return {**obj, "apiVersion": "admissionregistration.k8s.io/v1"}


def event_to_stored(obj: Object) -> Object:
    stored = {_EVENT_FIELDS.get(name, name): value for name, value in obj.items()}
    return {**stored, "apiVersion": "v1"}


def event_from_stored(api_version: str) -> Change:
    def change(obj: Object) -> Object:
        shown = {_STORED_EVENT_FIELDS.get(name, name): value for name, value in obj.items()}
        return {**shown, "apiVersion": api_version}

    return change
