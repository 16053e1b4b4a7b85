"""What to do about one ReplicaSet: which pods to adopt, release, create, delete; its status.

Pure. The order in which pods are lost is the one that Kubernetes documents: first those without a
node, then pending, unready, cheap (`pod-deletion-cost`), crowded, young ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from arktos_ray.api.selectors import parsed_selector
from arktos_ray.controllers import pods as about
from arktos_ray.controllers.owners import controller_of
from arktos_ray.controllers.times import rfc3339, seconds

Object = dict[str, Any]

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_NO_LABELS: Object = {}
_PHASE_RANK = {"Pending": 0, "": 1, "Unknown": 1, "Running": 2}


@dataclass(frozen=True, slots=True)
class Adopt:
    pod: Object
    why: str


@dataclass(frozen=True, slots=True)
class Release:
    pod: Object
    why: str


@dataclass(frozen=True, slots=True)
class CreatePods:
    count: int
    why: str


@dataclass(frozen=True, slots=True)
class DeletePods:
    pods: tuple[Object, ...]
    why: str


Action = Adopt | Release | CreatePods | DeletePods


def claim(replica_set: Object, owned: Iterable[Object], orphans: Iterable[Object]) -> list[Action]:
    """Whom to adopt and whom to let go, by the selector."""
    matches = parsed_selector(replica_set["spec"]["selector"]).matches
    known: dict[int, bool] = {}  # Pods of one template share their labels (client/slim.py).

    def fits(pod: Object) -> bool:
        labels = pod["metadata"].get("labels") or _NO_LABELS
        found = known.get(id(labels))
        if found is None:
            found = known[id(labels)] = matches(labels)
        return found

    actions: list[Action] = [
        Release(pod, "its labels no longer match")
        for pod in owned
        if not about.is_terminating(pod) and not fits(pod)
    ]
    if not about.is_terminating(replica_set):
        actions += [
            Adopt(pod, "it matches, and nobody manages it")
            for pod in orphans
            if about.is_active(pod) and controller_of(pod) is None and fits(pod)
        ]
    return actions


def plan(
    replica_set: Object, pods: Sequence[Object], related: Sequence[Object] = ()
) -> CreatePods | DeletePods | None:
    """pods: those it manages. related: pods of its siblings, which count as neighbours."""
    if about.is_terminating(replica_set):
        return None
    live = [pod for pod in pods if about.is_active(pod)]
    wanted = _wanted(replica_set)
    why = f"{len(live)} live, {wanted} wanted"
    if len(live) < wanted:
        return CreatePods(wanted - len(live), why)
    if len(live) > wanted:
        return DeletePods(tuple(_cheapest(live, related, len(live) - wanted)), why)
    return None


def _wanted(replica_set: Object) -> int:
    found: int = replica_set["spec"].get("replicas", 1)
    return found


def _cheapest(live: list[Object], related: Sequence[Object], count: int) -> list[Object]:
    if count >= len(live):
        return live
    crowd = Counter(
        pod["spec"]["nodeName"]
        for pod in (related or live)
        if about.is_active(pod) and pod.get("spec", {}).get("nodeName")
    )
    return sorted(live, key=lambda pod: _cost_of_losing(pod, crowd))[:count]


def _cost_of_losing(pod: Object, crowd: Counter[str]) -> tuple[Any, ...]:
    node = pod.get("spec", {}).get("nodeName", "")
    ready = about.is_ready(pod)
    restarts = sum(
        status.get("restartCount", 0)
        for status in pod.get("status", {}).get("containerStatuses") or ()
    )
    # Not ready at an unknown time is youngest; the uid breaks ties, so that two controllers
    # with the same view agree.
    return (
        bool(node),
        _PHASE_RANK.get(about.phase(pod), 1),
        ready,
        _deletion_cost(pod),
        -crowd[node],
        -about.ready_since(pod) if ready else 0.0,
        -restarts,
        -seconds(pod["metadata"].get("creationTimestamp") or "1970-01-01T00:00:00Z"),
        pod["metadata"]["uid"],
    )


def _deletion_cost(pod: Object) -> int:
    text = (pod["metadata"].get("annotations") or {}).get(DELETION_COST, "0")
    return int(text) if text.lstrip("+-").isdigit() else 0


def status(
    replica_set: Object, pods: Iterable[Object], now: float, failure: tuple[str, str] | None
) -> tuple[Object, float | None]:
    """The status to write, and in how many seconds another pod becomes available.

    failure: (reason, message) when the last attempt to create or delete was refused.
    """
    spec = replica_set["spec"]
    min_ready_s = spec.get("minReadySeconds", 0)
    template = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    wanted_labels = template.items()
    replicas = labelled = ready = available = terminating = 0
    wait: float | None = None
    for pod in pods:
        if about.is_finished(pod):
            continue
        if about.is_terminating(pod):
            terminating += 1
            continue
        replicas += 1
        labels = pod["metadata"].get("labels")
        if labels is not None and wanted_labels <= labels.items():
            labelled += 1
        if not about.is_ready(pod):
            continue
        ready += 1
        if not min_ready_s:
            available += 1
            continue
        left = about.ready_since(pod) + min_ready_s - now
        if left <= 0:
            available += 1
        else:
            wait = left if wait is None else min(wait, left)
    body: Object = {
        "replicas": replicas,
        "fullyLabeledReplicas": labelled,
        "readyReplicas": ready,
        "availableReplicas": available,
        "terminatingReplicas": terminating,
        "observedGeneration": replica_set["metadata"].get("generation", 0),
    }
    # As in JSON from elsewhere: counters of zero are left out, all but `replicas`.
    body = {name: value for name, value in body.items() if value or name == "replicas"}
    conditions = _conditions(replica_set, now, failure)
    if conditions:
        body["conditions"] = conditions
    return body, wait


def _conditions(replica_set: Object, now: float, failure: tuple[str, str] | None) -> list[Object]:
    known: list[Object] = replica_set.get("status", {}).get("conditions") or []
    others = [each for each in known if each["type"] != "ReplicaFailure"]
    if failure is None:
        return others
    reason, message = failure
    for each in known:
        if each["type"] == "ReplicaFailure" and each.get("reason") == reason:
            return known
    return [
        *others,
        {
            "type": "ReplicaFailure",
            "status": "True",
            "lastTransitionTime": rfc3339(now),
            "reason": reason,
            "message": message,
        },
    ]


def pod_body(replica_set: Object, owner: Object) -> Object:
    """The pod that the template asks for; name and namespace are still missing.

    The name is `@`, which no name can contain: the caller replaces it in the encoded body, so
    that a batch of 500 pods is encoded once.
    """
    template = replica_set["spec"].get("template") or {}
    meta = template.get("metadata") or {}
    body: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "@",
            "generateName": _prefix(replica_set["metadata"]["name"]),
            "labels": meta.get("labels") or {},
            "ownerReferences": [owner],
        },
        "spec": template.get("spec") or {},
    }
    for name in ("annotations", "finalizers"):
        if meta.get(name):
            body["metadata"][name] = meta[name]
    return body


def _prefix(name: str) -> str:
    # Five characters follow; a pod's name, as its host name, is at most 63 long.
    return name[:57] + "-"
