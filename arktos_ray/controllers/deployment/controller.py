"""Rolls a Deployment out: makes, scales and forgets ReplicaSets, and says how far it has come.

Knows ReplicaSets only, never pods: `terminatingReplicas` of their status says when the last pod
of an old version is gone.
"""

from __future__ import annotations

from typing import Any

from arktos_ray.api import errors
from arktos_ray.api.calls import Call
from arktos_ray.api.errors import AlreadyExists, NotFound
from arktos_ray.api.names import Key
from arktos_ray.client.index import controllers, key_of, namespaces, uncontrolled
from arktos_ray.client.port import decoded
from arktos_ray.controllers import events, owners
from arktos_ray.controllers.deployment import plan as planning
from arktos_ray.controllers.deployment.plan import (
    Action,
    CreateReplicaSet,
    DeleteReplicaSet,
    Object,
    Scale,
    SetRevision,
)
from arktos_ray.controllers.loop import Controller, ControllerClient, Loop, Parts, written
from arktos_ray.controllers.pods import is_terminating

NAME = "deployment-controller"
API_VERSION, KIND = "apps/v1", "Deployment"

# ReplicaSets report in bursts (status of the old, of the new): look at both at once.
SETTLE_S = 0.005
# A status is written that long after it first differs, and the revision with it, or as soon as all
# pods are there: one write says both, mostly, and each costs as much as a pod. Steps of a rollout
# do not wait for it.
STATUS_S = 0.3


class Deployments(Controller):
    def __init__(self, parts: Parts) -> None:
        self._client = ControllerClient(parts.client, NAME)
        self._clock, self._ids = parts.clock, parts.ids
        self._deployments = parts.informers.of("deployments.apps", **parts.range.selectors())
        self._sets = parts.informers.of("replicasets.apps", **parts.range.owned(KIND))
        self._loop: Loop[Key] = Loop(
            NAME, self.reconcile, parts.clock, parts.tasks,
            workers=5, gates=(self._deployments, self._sets),
        )  # fmt: skip
        self._events = events.Recorder(self._client, parts.clock, parts.tasks)
        self._status_due: dict[Key, float] = {}
        # The name of a ReplicaSet that was made, until a status says so.
        self._created: dict[Key, str] = {}
        # What we wrote last, until the view shows it.
        self._said: dict[Key, Object] = {}
        self._deployments.on_change(self._deployment_changed)
        self._sets.on_change(self._set_changed)

    def start(self) -> None:
        self._loop.start()

    def _deployment_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self._forget(key_of(old))
            return
        key = key_of(new)
        said = self._said.pop(key, None)
        if said is None or not _same(said, new):
            self._loop.wake(key)

    def _set_changed(self, old: Object | None, new: Object | None) -> None:
        for each in (old, new):
            ref = None if each is None else owners.controller_of(each)
            if each is not None and ref is not None and ref["kind"] == KIND:
                meta = each["metadata"]
                key = Key(meta["tenant"], meta["namespace"], ref["name"])
                if key in self._deployments.index:
                    # Of one ReplicaSet only the status follows; among several, the next step.
                    alone = self._sets.index.count(controllers, ref["uid"]) <= 1
                    now = self._clock.monotonic()
                    due = self._status_due.setdefault(key, now + STATUS_S)
                    if new is not None and _is_complete(new):
                        due = self._status_due[key] = min(due, now + SETTLE_S)
                    self._loop.wake(key, max(due - now, SETTLE_S) if alone else SETTLE_S)
        if new is not None and owners.controller_of(new) is None:
            place = (new["metadata"]["tenant"], new["metadata"]["namespace"])
            for each in self._deployments.index.by(namespaces, place):
                if planning.claim(each, (), (new,))[0]:
                    self._loop.wake(key_of(each))

    def _forget(self, key: Key) -> None:
        for kept in (self._status_due, self._created, self._said):
            kept.pop(key, None)

    async def reconcile(self, key: Key) -> float | None:
        """Take every step of a rollout that is safe now, else bring the status up to date."""
        deployment = self._deployments.index.get(key)
        if deployment is None:
            self._forget(key)
            return None  # Deleted. Its ReplicaSets are the garbage collector's to remove.
        if not (deployment["spec"].get("selector") or {}):
            return None  # It would take every ReplicaSet of its namespace. Validation refuses it.
        owned = self._sets.index.by(controllers, deployment["metadata"]["uid"])
        orphans = self._sets.index.by(uncontrolled, (key.tenant, key.namespace))
        adopt, release = planning.claim(deployment, owned, orphans)
        if adopt or release:
            await self._claim(key, deployment, adopt, release)
            return 0.001  # With the ReplicaSets as they are then; the gate waits for them.
        actions = planning.plan(deployment, owned)
        revision = ""
        steps: list[Action] = []
        for action in actions:
            if isinstance(action, SetRevision):
                revision = action.revision
            else:
                steps.append(action)
        if not steps:
            return await self._report_later(key, deployment, owned, revision)
        await self._carry_out(key, deployment, owned, steps)
        due = self._status_due.setdefault(key, self._clock.monotonic() + STATUS_S)
        if len(owned) > 1:
            return SETTLE_S
        return max(due - self._clock.monotonic(), SETTLE_S)

    async def _claim(
        self, key: Key, deployment: Object, adopt: list[Object], release: list[Object]
    ) -> None:
        # A live look first: adopting for a Deployment that is gone would doom the ReplicaSets.
        live = await self._client.get("deployments.apps", key)
        uid = deployment["metadata"]["uid"]
        if live["metadata"]["uid"] != uid or is_terminating(live):
            adopt = []
        calls = [
            self._client.patching(
                "replicasets.apps", key_of(each),
                owners.adopting(each, deployment, API_VERSION, KIND),
            )
            for each in adopt
        ]  # fmt: skip
        calls += [
            self._client.patching("replicasets.apps", key_of(each), owners.releasing(each, uid))
            for each in release
        ]
        self._loop.wrote(key, self._sets, written(await self._client.write(calls)))

    async def _carry_out(
        self, key: Key, deployment: Object, owned: list[Object], actions: list[Action]
    ) -> None:
        create = next((a for a in actions if isinstance(a, CreateReplicaSet)), None)
        if create is not None:
            self._created[key] = await self._create(key, deployment, owned, create)
        calls: list[Call] = []
        for action in actions:
            match action:
                case Scale():
                    calls.append(self._scaling(action))
                case DeleteReplicaSet(replica_set):
                    calls.append(
                        self._client.deleting(
                            "replicasets.apps", key_of(replica_set),
                            preconditions={
                                "uid": replica_set["metadata"]["uid"],
                                "resourceVersion": replica_set["metadata"]["resourceVersion"],
                            },
                            propagationPolicy="Background",
                        )
                    )  # fmt: skip
        replies = await self._client.write(calls)
        self._loop.wrote(key, self._sets, written(replies))
        for action in actions:
            if isinstance(action, Scale):
                self._note_scaling(deployment, action)
        for reply in replies:
            if not reply.ok and not isinstance(refusal := errors.decode(reply.body), NotFound):
                raise refusal

    async def _create(
        self, key: Key, deployment: Object, owned: list[Object], action: CreateReplicaSet
    ) -> str:
        """The name of the new ReplicaSet. A name that is somebody else's counts as a collision."""
        body = {
            **action.body,
            "metadata": {
                **action.body["metadata"],
                "ownerReferences": [owners.reference(deployment, API_VERSION, KIND)],
            },
        }
        name: str = body["metadata"]["name"]
        [reply] = await self._client.write(
            [self._client.creating("replicasets.apps", key.tenant, key.namespace, body)]
        )
        if reply.ok:
            self._loop.wrote(key, self._sets, written([reply]))
            size = planning.wanted(body)
            note = f"Scaled up replica set {name} from 0 to {size}"
            self._note(deployment, "ScalingReplicaSet", note)
            return name
        failure = errors.decode(reply.body)
        if isinstance(failure, AlreadyExists):
            there = await self._client.get("replicasets.apps", Key(key.tenant, key.namespace, name))
            ref = owners.controller_of(there)
            mine = ref is not None and ref["uid"] == deployment["metadata"]["uid"]
            if mine and planning.same_template(
                there["spec"]["template"], deployment["spec"]["template"]
            ):
                self._loop.wrote(key, self._sets, int(there["metadata"]["resourceVersion"]))
                return name
            collisions = (deployment.get("status", {}).get("collisionCount") or 0) + 1
            await self._report(key, deployment, owned, collisions=collisions)
            raise failure
        message = f'Failed to create new replica set "{name}": {failure.message}'
        self._note(deployment, "ReplicaSetCreateError", message, warning=True)
        await self._report(key, deployment, owned, failure=("ReplicaSetCreateError", message))
        raise failure

    def _scaling(self, action: Scale) -> Call:
        meta = action.replica_set["metadata"]
        spec: Object = {"replicas": action.replicas}
        if action.min_ready_s is not None:
            spec["minReadySeconds"] = action.min_ready_s
        return self._client.patching(
            "replicasets.apps", key_of(action.replica_set),
            {
                "metadata": {
                    "uid": meta["uid"],
                    # The decision rests on its status too: if that has moved, decide again.
                    "resourceVersion": meta["resourceVersion"],
                    "annotations": action.annotations,
                },
                "spec": spec,
            },
        )  # fmt: skip

    def _note_scaling(self, deployment: Object, action: Scale) -> None:
        if action.replicas == action.before:
            return
        direction = "up" if action.replicas > action.before else "down"
        name = action.replica_set["metadata"]["name"]
        self._note(
            deployment, "ScalingReplicaSet",
            f"Scaled {direction} replica set {name} from {action.before} to {action.replicas}",
        )  # fmt: skip

    def _note(
        self, deployment: Object, reason: str, message: str, *, warning: bool = False
    ) -> None:
        body = events.event(
            deployment, API_VERSION, KIND, reason=reason, message=message, component=NAME,
            now=self._clock.now(), suffix=self._ids.suffix(), warning=warning,
        )  # fmt: skip
        self._events.record(body)

    async def _report_later(
        self, key: Key, deployment: Object, owned: list[Object], revision: str
    ) -> float | None:
        """The status, and the revision if it is another ("": it is not); when it is time."""
        now = self._clock.monotonic()
        due = self._status_due.get(key)
        if due is not None and now < due:
            return due - now
        status, wait = planning.status(
            deployment, owned, self._clock.now(), created=self._created.get(key, "")
        )
        if not revision and status == (deployment.get("status") or {}):
            self._created.pop(key, None)
            self._status_due.pop(key, None)
            return wait
        if due is None:
            self._status_due[key] = now + STATUS_S
            return STATUS_S
        body = {**deployment, "status": status}
        if revision:
            meta = deployment["metadata"]
            annotations = {**(meta.get("annotations") or {}), planning.REVISION: revision}
            body["metadata"] = {**meta, "annotations": annotations}
        await self._write(key, body)
        self._created.pop(key, None)
        self._status_due.pop(key, None)
        return wait

    async def _report(self, key: Key, deployment: Object, owned: list[Object], **news: Any) -> None:
        """At once: what went wrong."""
        status, _ = planning.status(deployment, owned, self._clock.now(), **news)
        if status != (deployment.get("status") or {}):
            await self._write(key, {**deployment, "status": status})

    async def _write(self, key: Key, body: Object) -> None:
        self._said[key] = body
        [reply] = await self._client.write(
            [self._client.calling("update", "deployments.apps", key, body, "status")]
        )
        try:
            made = decoded(reply)
        except NotFound:
            return
        self._loop.wrote(key, self._deployments, int(made["metadata"]["resourceVersion"]))


def _is_complete(replica_set: Object) -> bool:
    available: int = (replica_set.get("status") or {}).get("availableReplicas", 0)
    return available >= planning.wanted(replica_set)


def _same(one: Object, other: Object) -> bool:
    """Whether they differ in nothing but their revision."""
    return {**one["metadata"], "resourceVersion": ""} == {
        **other["metadata"], "resourceVersion": ""
    } and all(one.get(part) == other.get(part) for part in ("spec", "status"))  # fmt: skip
