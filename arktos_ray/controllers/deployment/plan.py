"""What to do about one Deployment: which ReplicaSets to make, scale and forget; its status.

Pure. `plan` gives every step that is safe now, against the numbers as they will be once the steps
before it are carried out; the next reconcile continues from what is then. Two bounds hold at
any moment of a rolling update:

* specs add up to at most replicas + maxSurge;
* no step takes a pod away that is known to be available when replicas - maxUnavailable or fewer
  would remain. A ReplicaSet's `availableReplicas` may be older than its spec, so it counts up to
  its spec only. (A pod that became available a moment ago, and is not reported yet, may go with
  the unavailable ones: as in Kubernetes, the bound is on what is known.)

The names of annotations, conditions and reasons are what kubectl reads.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from arktos_ray.api.selectors import parsed_selector
from arktos_ray.controllers.owners import controller_of
from arktos_ray.controllers.pods import condition, is_terminating
from arktos_ray.controllers.times import rfc3339, seconds

Object = dict[str, Any]

REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
HASH_LABEL = "pod-template-hash"
# What kubectl itself keeps in annotations is not handed down to ReplicaSets.
_NOT_COPIED = frozenset(
    ["kubectl.kubernetes.io/last-applied-configuration", REVISION, REVISION_HISTORY, DESIRED,
     MAXIMUM, "deprecated.deployment.rollback.to"]
)  # fmt: skip
# "Never": the value that means no deadline.
_NO_DEADLINE = 2147483647
_HISTORY_LENGTH_MAX = 2000
_SAFE = "bcdfghjklmnpqrstvwxz2456789"

NEW_AVAILABLE = "NewReplicaSetAvailable"
TIMED_OUT = "ProgressDeadlineExceeded"


@dataclass(frozen=True, slots=True)
class CreateReplicaSet:
    body: Object
    why: str


@dataclass(frozen=True, slots=True)
class Scale:
    """replicas and annotations of a ReplicaSet, in one write."""

    replica_set: Object
    replicas: int
    annotations: dict[str, str]  # those to set; others stay
    min_ready_s: int | None  # to set, when it differs
    why: str

    @property
    def before(self) -> int:
        return wanted(self.replica_set)


@dataclass(frozen=True, slots=True)
class DeleteReplicaSet:
    replica_set: Object
    why: str


@dataclass(frozen=True, slots=True)
class SetRevision:
    """The Deployment's own revision annotation."""

    revision: str
    why: str


Action = CreateReplicaSet | Scale | DeleteReplicaSet | SetRevision


# ---------------------------------------------------------------------------- small words


def wanted(owner: Object) -> int:
    found: int | None = owner["spec"].get("replicas")
    return 1 if found is None else found


def available(replica_set: Object) -> int:
    found: int = replica_set.get("status", {}).get("availableReplicas", 0)
    return min(found, wanted(replica_set))


def _count(replica_sets: Iterable[Object], name: str) -> int:
    return sum(each.get("status", {}).get(name, 0) for each in replica_sets)


def _annotation(obj: Object, name: str) -> str:
    found: str = (obj["metadata"].get("annotations") or {}).get(name, "")
    return found


def _number(obj: Object, name: str) -> int:
    text = _annotation(obj, name)
    return int(text) if text.isdigit() else 0


def revision(obj: Object) -> int:
    return _number(obj, REVISION)


def is_recreate(deployment: Object) -> bool:
    return (deployment["spec"].get("strategy") or {}).get("type") == "Recreate"


def bounds(deployment: Object) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in pods. Surge rounds up, unavailability down, not both 0."""
    if is_recreate(deployment):
        return 0, 0
    rolling = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    replicas = wanted(deployment)
    surge = _share(rolling.get("maxSurge", "25%"), replicas, up=True)
    unavailable = _share(rolling.get("maxUnavailable", "25%"), replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, min(unavailable, replicas)


def _share(value: int | str, replicas: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    percent = int(value.rstrip("%"))
    return -(-replicas * percent // 100) if up else replicas * percent // 100


def template_hash(template: Object, collisions: int) -> str:
    """Ten letters that no vowel makes rude: stable for a template, other for each collision."""
    text = orjson.dumps(_pruned(template), option=orjson.OPT_SORT_KEYS)
    value = (zlib.crc32(text) << 16) ^ (len(text) & 0xFFFF) ^ (collisions * 0x9E3779B97F)
    letters = []
    for _ in range(10):
        value, rest = divmod(value, len(_SAFE))
        letters.append(_SAFE[rest])
    return "".join(letters)


def same_template(left: Object, right: Object) -> bool:
    """Apart from the hash label, and from whether nothing is said as null, {} or not at all."""
    if left == right:
        return True
    if left.get("spec") == right.get("spec"):
        # The usual case: of a ReplicaSet that was made from it. The labels are quick to prune.
        left, right = {**left, "spec": None}, {**right, "spec": None}
    same: bool = _pruned(left) == _pruned(right)
    return same


def _pruned(template: Object) -> Any:
    meta = template.get("metadata") or {}
    labels = {k: v for k, v in (meta.get("labels") or {}).items() if k != HASH_LABEL}
    return _without_nothing({**template, "metadata": {**meta, "labels": labels}})


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        # emptyDir: {} and its like mean something; only empty metadata and null do not.
        return {
            name: _without_nothing(inner)
            for name, inner in value.items()
            if inner is not None and not (name in ("labels", "annotations") and not inner)
        }
    if isinstance(value, list):
        return [_without_nothing(inner) for inner in value]
    return value


# ---------------------------------------------------------------------------- which is which


@dataclass(frozen=True, slots=True)
class Generations:
    """The ReplicaSets of a Deployment: the one of the present template, and the others."""

    new: Object | None
    old: tuple[Object, ...]

    @property
    def all(self) -> tuple[Object, ...]:
        return self.old if self.new is None else (*self.old, self.new)


def generations(deployment: Object, owned: Iterable[Object]) -> Generations:
    ordered = sorted(owned, key=_age)
    template = deployment["spec"]["template"]
    new = next(
        (each for each in ordered if same_template(each["spec"]["template"], template)), None
    )
    return Generations(new, tuple(each for each in ordered if each is not new))


def _age(replica_set: Object) -> tuple[str, str]:
    meta = replica_set["metadata"]
    return (meta.get("creationTimestamp") or "", meta["name"])


def claim(
    deployment: Object, owned: Iterable[Object], orphans: Iterable[Object]
) -> tuple[list[Object], list[Object]]:
    """(to adopt, to release), by the selector."""
    matches = parsed_selector(deployment["spec"]["selector"]).matches
    release = [
        each
        for each in owned
        if not is_terminating(each) and not matches(each["metadata"].get("labels") or {})
    ]
    if is_terminating(deployment):
        return [], release
    adopt = [
        each
        for each in orphans
        if not is_terminating(each)
        and controller_of(each) is None
        and matches(each["metadata"].get("labels") or {})
    ]
    return adopt, release


# ---------------------------------------------------------------------------- the plan


class _Steps:
    """Collects actions, and remembers the sizes that they lead to."""

    def __init__(self, deployment: Object, found: Generations) -> None:
        self.deployment = deployment
        self.found = found
        self.actions: list[Action] = []
        self.sizes = {each["metadata"]["uid"]: wanted(each) for each in found.all}
        self.surge, self.unavailable = bounds(deployment)

    def size(self, replica_set: Object) -> int:
        return self.sizes[replica_set["metadata"]["uid"]]

    @property
    def total(self) -> int:
        return sum(self.sizes.values())

    def available(self, replica_set: Object) -> int:
        return min(available(replica_set), self.size(replica_set))

    def scale(self, replica_set: Object, replicas: int, why: str) -> None:
        self.sizes[replica_set["metadata"]["uid"]] = replicas
        for number, action in enumerate(self.actions):
            if isinstance(action, Scale) and action.replica_set is replica_set:
                self.actions[number] = Scale(
                    replica_set, replicas, action.annotations, action.min_ready_s, why
                )
                return
        self.actions.append(Scale(replica_set, replicas, self.size_annotations(), None, why))

    def size_annotations(self) -> dict[str, str]:
        replicas = wanted(self.deployment)
        return {DESIRED: str(replicas), MAXIMUM: str(replicas + self.surge)}


def plan(deployment: Object, owned: Sequence[Object]) -> list[Action]:
    """Every step that is safe to take now."""
    found = generations(deployment, [each for each in owned if not is_terminating(each)])
    if is_terminating(deployment):
        return []
    steps = _Steps(deployment, found)
    if deployment["spec"].get("paused"):
        _resize(steps)
        _forget_history(steps)
        return steps.actions
    if _is_scaling(steps):
        # First in proportion; the rollout goes on from there in the next reconcile.
        _resize(steps)
        if steps.actions:
            return steps.actions
    if is_recreate(deployment):
        _recreate(steps)
    else:
        _roll(steps)
    if is_complete(deployment, calculate(deployment, found)):
        _forget_history(steps)
    return steps.actions


def _is_scaling(steps: _Steps) -> bool:
    replicas = str(wanted(steps.deployment))
    return any(
        wanted(each) > 0 and _annotation(each, DESIRED) not in ("", replicas)
        for each in steps.found.all
    )


def _recreate(steps: _Steps) -> None:
    busy = False
    for each in steps.found.old:
        if wanted(each) > 0:
            steps.scale(each, 0, "Recreate: old pods go first")
            busy = True
        status = each.get("status", {})
        # Also while pods are still being killed: two versions must never run together.
        if status.get("replicas", 0) or status.get("terminatingReplicas", 0):
            busy = True
        if status.get("observedGeneration", 0) < each["metadata"].get("generation", 0):
            busy = True
    if busy:
        return
    _current(steps, wanted(steps.deployment))


def _roll(steps: _Steps) -> None:
    replicas = wanted(steps.deployment)
    new = steps.found.new
    size = 0 if new is None else steps.size(new)
    if size > replicas:
        grown = replicas
    else:
        room = replicas + steps.surge - steps.total
        grown = size + max(0, min(room, replicas - size))
    _current(steps, grown)
    if new is None:
        return  # Old pods make way once there is something to make way for.
    _shrink_old(steps)


def _current(steps: _Steps, size: int) -> None:
    """The ReplicaSet of the present template: made, or brought to that size."""
    deployment, new = steps.deployment, steps.found.new
    newest = max((revision(each) for each in steps.found.old), default=0)
    if new is None:
        number = str(newest + 1)
        steps.actions.append(
            CreateReplicaSet(_replica_set(steps, size, number), "no ReplicaSet has its template")
        )
    else:
        number = str(max(newest + 1, revision(new)))
        annotations = _handed_down(deployment, new, number)
        min_ready_s = deployment["spec"].get("minReadySeconds", 0)
        differs = new["spec"].get("minReadySeconds", 0) != min_ready_s
        scaled = steps.size(new) != size
        if annotations or differs or scaled:
            steps.actions.append(
                Scale(
                    new, size, {**annotations, **steps.size_annotations()},
                    min_ready_s if differs else None,
                    f"{steps.size(new)} pods, {size} wanted now" if scaled
                    else "annotations or minReadySeconds changed",
                )
            )  # fmt: skip
            steps.sizes[new["metadata"]["uid"]] = size
    if _annotation(deployment, REVISION) != number:
        steps.actions.append(SetRevision(number, "the revision of its ReplicaSet"))


def _handed_down(deployment: Object, new: Object, number: str) -> dict[str, str]:
    """The annotations of the ReplicaSet that must change."""
    changed = {
        name: value
        for name, value in (deployment["metadata"].get("annotations") or {}).items()
        if name not in _NOT_COPIED and _annotation(new, name) != value
    }
    before = _annotation(new, REVISION)
    if before != number:
        changed[REVISION] = number
        if before:
            # A rollback: the ReplicaSet keeps the numbers it had before.
            history = [each for each in _annotation(new, REVISION_HISTORY).split(",") if each]
            text = ",".join([*history, before])
            while len(text) > _HISTORY_LENGTH_MAX:
                text = text.partition(",")[2]
            changed[REVISION_HISTORY] = text
    return changed


def _replica_set(steps: _Steps, size: int, number: str) -> Object:
    deployment = steps.deployment
    meta, spec = deployment["metadata"], deployment["spec"]
    digest = template_hash(
        spec["template"], deployment.get("status", {}).get("collisionCount") or 0
    )
    template_meta = spec["template"].get("metadata") or {}
    labels = {**(template_meta.get("labels") or {}), HASH_LABEL: digest}
    selector = spec["selector"]
    annotations = {
        name: value
        for name, value in (meta.get("annotations") or {}).items()
        if name not in _NOT_COPIED
    }
    body: Object = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            # The hash and a hyphen follow, and pods add six letters more.
            "name": f"{meta['name'][:240]}-{digest}",
            "namespace": meta["namespace"],
            "tenant": meta["tenant"],
            "labels": labels,
            "annotations": {**annotations, REVISION: number, **steps.size_annotations()},
        },
        "spec": {
            "replicas": size,
            "selector": {
                **selector,
                "matchLabels": {**(selector.get("matchLabels") or {}), HASH_LABEL: digest},
            },
            "template": {
                **spec["template"],
                "metadata": {**template_meta, "labels": labels},
            },
        },
    }
    if spec.get("minReadySeconds"):
        body["spec"]["minReadySeconds"] = spec["minReadySeconds"]
    return body


def _shrink_old(steps: _Steps) -> None:
    new = steps.found.new
    assert new is not None
    old = [each for each in steps.found.old if steps.size(each) > 0]
    least = wanted(steps.deployment) - steps.unavailable
    # What the present ReplicaSet was asked for and does not have yet cannot stand in for anyone.
    unavailable_new = steps.size(new) - steps.available(new)
    spare = steps.total - least - unavailable_new
    # Pods that do not serve anyway: they can go without anyone noticing.
    for each in old:
        broken = min(spare, steps.size(each) - steps.available(each))
        if broken > 0:
            spare -= broken
            steps.scale(each, steps.size(each) - broken, f"{broken} unavailable pods")
    serving = sum(steps.available(each) for each in steps.found.all)
    spare = min(spare, serving - least)
    for each in old:
        count = min(spare, steps.available(each))
        if count > 0:
            spare -= count
            steps.scale(each, steps.size(each) - count, f"{serving} available, {least} must stay")


def _resize(steps: _Steps) -> None:
    """replicas changed in the middle of a rollout (or of a pause): keep the proportions."""
    replicas, found = wanted(steps.deployment), steps.found
    active = [each for each in found.all if wanted(each) > 0]
    if len(active) <= 1:
        latest = active[0] if active else found.new or (found.old[-1] if found.old else None)
        if latest is None:
            return
        if wanted(latest) != replicas:
            steps.scale(latest, replicas, f"{replicas} wanted")
        elif active and _annotation(latest, DESIRED) not in ("", str(replicas)):
            steps.scale(latest, replicas, "its size is right, its annotations are not")
        return
    new = found.new
    if (
        new is not None
        and wanted(new) == replicas
        and _annotation(new, DESIRED) == str(replicas)
        and available(new) == replicas
    ):
        for each in found.old:
            if wanted(each) > 0:
                steps.scale(each, 0, "the present ReplicaSet has all pods")
        return
    if is_recreate(steps.deployment):
        return
    allowed = replicas + steps.surge if replicas > 0 else 0
    to_add = allowed - steps.total
    # Of equal ones the newer grows first and the older shrinks first.
    if to_add > 0:
        active.sort(key=lambda each: (wanted(each), _age(each)), reverse=True)
    else:
        active.sort(key=lambda each: (-wanted(each), _age(each)))
    shares: list[int] = []
    added = 0
    for each in active:
        share = _proportion(steps, each, to_add - added) if to_add != added else 0
        shares.append(share)
        added += share
    left = to_add - added  # Rounding; the first takes it, the next what would make it negative.
    for each, share in zip(active, shares, strict=True):
        size = max(0, wanted(each) + share + left)
        left -= size - wanted(each) - share
        if size != wanted(each) or _annotation(each, DESIRED) != str(replicas):
            steps.scale(each, size, f"its share of {to_add:+d} pods")


def _proportion(steps: _Steps, replica_set: Object, allowed: int) -> int:
    replicas, size = wanted(steps.deployment), wanted(replica_set)
    if replicas == 0:
        fraction = -size
    else:
        before = (
            _number(replica_set, MAXIMUM)
            or steps.deployment.get("status", {}).get("replicas", 0)
            or steps.total
        )
        fraction = _rounded(size * (replicas + steps.surge), before) - size
    return min(max(fraction, 0), allowed) if allowed > 0 else max(min(fraction, 0), allowed)


def _rounded(numerator: int, denominator: int) -> int:
    """To the nearest, halves up."""
    return (2 * numerator + denominator) // (2 * denominator)


def _forget_history(steps: _Steps) -> None:
    limit = steps.deployment["spec"].get("revisionHistoryLimit")
    if limit is None or limit == _NO_DEADLINE:
        return
    old = sorted(steps.found.old, key=lambda each: (revision(each), _age(each)))
    for each in old[: max(0, len(old) - limit)]:
        status = each.get("status", {})
        unused = not (wanted(each) or status.get("replicas") or steps.size(each))
        seen = status.get("observedGeneration", 0) >= each["metadata"].get("generation", 0)
        if unused and seen:
            steps.actions.append(DeleteReplicaSet(each, f"history is limited to {limit}"))


# ---------------------------------------------------------------------------- the status


def calculate(deployment: Object, found: Generations) -> Object:
    """The counters."""
    everyone = found.all
    new = (found.new,) if found.new is not None else ()
    serving = _count(everyone, "availableReplicas")
    total = sum(wanted(each) for each in everyone)
    return {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": _count(everyone, "replicas"),
        "updatedReplicas": _count(new, "replicas"),
        "readyReplicas": _count(everyone, "readyReplicas"),
        "availableReplicas": serving,
        "unavailableReplicas": max(0, total - serving),
        "terminatingReplicas": _count(everyone, "terminatingReplicas"),
    }


def is_complete(deployment: Object, counters: Object) -> bool:
    replicas = wanted(deployment)
    return all(
        counters[name] == replicas for name in ("updatedReplicas", "replicas", "availableReplicas")
    )


def status(
    deployment: Object,
    owned: Sequence[Object],
    now: float,
    *,
    created: str = "",
    failure: tuple[str, str] | None = None,
    collisions: int | None = None,
) -> tuple[Object, float | None]:
    """The status to write, and in how many seconds the progress deadline is to be checked.

    created: the name of the ReplicaSet that was just made. failure: (reason, message) when it
    could not be. collisions: the new count, after a name was taken by somebody else's template.
    """
    found = generations(deployment, [each for each in owned if not is_terminating(each)])
    counters = calculate(deployment, found)
    known = {each["type"]: each for each in deployment.get("status", {}).get("conditions") or ()}
    conditions = dict(known)

    def put(kind: str, value: str, reason: str, message: str, *, renew: bool = False) -> None:
        conditions[kind] = _condition(known.get(kind), kind, value, reason, message, now, renew)

    _, unavailable = bounds(deployment)
    if counters["availableReplicas"] >= wanted(deployment) - unavailable:
        put("Available", "True", "MinimumReplicasAvailable",
            "Deployment has minimum availability.")  # fmt: skip
    else:
        put("Available", "False", "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.")  # fmt: skip

    wait: float | None = None
    deadline = deployment["spec"].get("progressDeadlineSeconds")
    if deadline is None or deadline == _NO_DEADLINE:
        conditions.pop("Progressing", None)
    else:
        subject = (
            f'ReplicaSet "{found.new["metadata"]["name"]}"'
            if found.new is not None
            else f'Deployment "{deployment["metadata"]["name"]}"'
        )
        wait = _progress(
            deployment, found, counters, conditions, put, now, deadline, subject, created, failure
        )

    broken = [
        each
        for replica_set in ((found.new,) if found.new is not None else found.old)
        if (each := condition(replica_set, "ReplicaFailure")) is not None
    ]
    if broken:
        put("ReplicaFailure", broken[0].get("status", "True"), broken[0].get("reason", ""),
            broken[0].get("message", ""))  # fmt: skip
    else:
        conditions.pop("ReplicaFailure", None)

    body = {name: value for name, value in counters.items() if value}
    if conditions:
        body["conditions"] = list(conditions.values())
    count = deployment.get("status", {}).get("collisionCount") if collisions is None else collisions
    if count:
        body["collisionCount"] = count
    return body, wait


def _progress(
    deployment: Object, found: Generations, counters: Object, conditions: dict[str, Object],
    put: Callable[..., None], now: float, deadline: float, subject: str, created: str,
    failure: tuple[str, str] | None,
) -> float | None:  # fmt: skip
    """Sets the Progressing condition; returns when to look again."""
    known = conditions.get("Progressing")
    reason = "" if known is None else known.get("reason", "")
    before = deployment.get("status", {})
    if failure is not None:
        put("Progressing", "False", *failure)
        return None
    if deployment["spec"].get("paused"):
        if reason not in ("DeploymentPaused", TIMED_OUT):
            put("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused")
        return None
    if created and not is_complete(deployment, counters):
        put("Progressing", "True", "NewReplicaSetCreated",
            f'Created new replica set "{created}"', renew=True)  # fmt: skip
        return deadline
    if reason == "DeploymentPaused":
        put("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", renew=True)
        return deadline
    if is_complete(deployment, counters):
        # Once it is complete it stays so until the template changes.
        put("Progressing", "True", NEW_AVAILABLE, f"{subject} has successfully progressed.",
            renew=reason != NEW_AVAILABLE)  # fmt: skip
        return None
    if reason == NEW_AVAILABLE and counters["replicas"] == counters["updatedReplicas"]:
        return None  # Scaling, or pods that were lost: no rollout, so no deadline.
    if _advanced(before, counters):
        put("Progressing", "True", "ReplicaSetUpdated", f"{subject} is progressing.", renew=True)
        return deadline
    if known is None:
        name = "" if found.new is None else found.new["metadata"]["name"]
        put("Progressing", "True", "FoundNewReplicaSet", f'Found new replica set "{name}"')
        return deadline
    if reason == NEW_AVAILABLE:
        # A rollout began: from the old template's last word the clock would have run out.
        put("Progressing", "True", "ReplicaSetUpdated", f"{subject} is progressing.", renew=True)
        return deadline
    if reason == TIMED_OUT:
        return None
    since = known.get("lastUpdateTime") or known.get("lastTransitionTime")
    left = (seconds(since) if since else now) + deadline - now
    if left < 0:
        put("Progressing", "False", TIMED_OUT, f"{subject} has timed out progressing.")
        return None
    return left + 1.0


def _advanced(before: Object, counters: Object) -> bool:
    def was(name: str) -> int:
        return int(before.get(name, 0))

    old_before = was("replicas") - was("updatedReplicas")
    old_now = counters["replicas"] - counters["updatedReplicas"]
    return old_now < old_before or any(
        counters[name] > was(name)
        for name in ("updatedReplicas", "readyReplicas", "availableReplicas")
    )


def _condition(
    known: Object | None, kind: str, value: str, reason: str, message: str, now: float,
    renew: bool,
) -> Object:  # fmt: skip
    same = (
        known is not None
        and known.get("status") == value
        and known.get("reason") == reason
        and known.get("message") == message
    )
    if known is not None and same and not renew:
        return known
    moment = rfc3339(now)
    transition = moment
    if known is not None and known.get("status") == value:
        transition = known.get("lastTransitionTime", moment)
    return {
        "type": kind,
        "status": value,
        "lastUpdateTime": moment,
        "lastTransitionTime": transition,
        "reason": reason,
        "message": message,
    }
