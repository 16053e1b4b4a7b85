"""What users see of the scheduler: events, and the PodScheduled condition of pods that wait.

Written in batches some tenths of a second behind the binds, never in front of them: alone, each
costs its partition a commit, as a bind does. When the partition cannot keep up,
`Scheduled` events are shed (a pod's nodeName says the same); what is said about a pod that waits
is kept as one record a pod until it is written, so the last word always appears.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from dataclasses import dataclass

import orjson

from arktos_ray.api.calls import Call, Reply
from arktos_ray.api.errors import Conflict, Failure, NotFound, decode
from arktos_ray.api.names import Key
from arktos_ray.base import retry
from arktos_ray.base.clock import Clock, rfc3339
from arktos_ray.client.port import Client, Object
from arktos_ray.placement.signature import PodRequest

log = logging.getLogger(__name__)

# About 300 B each: 15 MB when the partition takes nothing for 10 s at 5,000 pods/s. Beyond that,
# the newest are shed.
SCHEDULED_MAX = 50_000
# One commit. Large enough to be cheap, small enough not to stand in the way of a bind.
BATCH_MAX = 500
# How long the first of a batch waits for others.
GATHER_S = 0.25
RETRY_FIRST_S, RETRY_LIMIT_S = 0.1, 5.0
# A batch that fails this often is dropped: 10 s in all.
TRIES_MAX = 6

UNSCHEDULABLE, GATED = "Unschedulable", "SchedulingGated"
GATED_MESSAGE = "Scheduling is blocked due to non-empty scheduling gates"


@dataclass(slots=True)
class _Trouble:
    """What there is to say about one waiting pod, and what was said."""

    request: PodRequest
    revision: str
    reason: str
    message: str
    condition_due: bool = False
    event_due: bool = False
    event_name: str = ""  # "" as long as there is no event
    first: float = 0.0
    last: float = 0.0
    count: int = 0


class Reports:
    """One for each scheduler. The methods return at once; `run` writes."""

    def __init__(self, client: Client, clock: Clock, component: str, instance: str) -> None:
        self.shed = 0
        self._client = client
        self._clock = clock
        self._component = component
        self._instance = instance
        self._scheduled: deque[tuple[PodRequest, str, str, float]] = deque()
        self._troubles: dict[str, _Trouble] = {}  # by uid
        self._due: dict[str, None] = {}  # uids, in the order of their first unwritten word
        self._names = itertools.count()
        self._second = -1
        self._second_text = ""
        self._wake = asyncio.Event()

    def scheduled(self, pod: PodRequest, node: str, revision: str) -> None:
        self.forget(pod.uid)
        if len(self._scheduled) >= SCHEDULED_MAX:
            self.shed += 1
            return
        self._scheduled.append((pod, node, revision, self._clock.now()))
        self._wake.set()

    def unschedulable(self, pod: PodRequest, revision: str, why: str, said: str) -> None:
        """It fitted nowhere. `said` is the message of its condition, as the object has it.

        One event for each waiting pod: counted up when the reason is another, or when it happened
        twice as often as written.
        """
        trouble = self._trouble(pod, revision, UNSCHEDULABLE, why)
        trouble.last = self._clock.now()
        trouble.count += 1
        if trouble.count == 1:
            trouble.first = trouble.last
        if said != why:
            trouble.condition_due = True
        if trouble.message != why or trouble.count & (trouble.count - 1) == 0:
            trouble.event_due = True
        trouble.message = why
        if trouble.condition_due or trouble.event_due:
            self._due[pod.uid] = None
            self._wake.set()

    def gated(self, pod: PodRequest, revision: str) -> None:
        """It waits for somebody to take its scheduling gates away. A condition, and no event."""
        self._trouble(pod, revision, GATED, GATED_MESSAGE).condition_due = True
        self._due[pod.uid] = None
        self._wake.set()

    def forget(self, uid: str) -> None:
        """The pod waits no more."""
        self._troubles.pop(uid, None)
        self._due.pop(uid, None)

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            await self._clock.sleep(GATHER_S)
            self._wake.clear()
            while self._due or self._scheduled:
                await self._write_troubles()
                await self._write_scheduled()

    def _trouble(self, pod: PodRequest, revision: str, reason: str, message: str) -> _Trouble:
        trouble = self._troubles.get(pod.uid)
        if trouble is None or trouble.reason != reason:
            trouble = self._troubles[pod.uid] = _Trouble(pod, revision, reason, message)
        trouble.revision = revision
        return trouble

    async def _write_scheduled(self) -> None:
        calls: list[Call] = []
        while self._scheduled and len(calls) < BATCH_MAX:
            pod, node, revision, now = self._scheduled.popleft()
            key = Key.from_path(pod.path)
            message = f"Successfully assigned {key.namespace}/{key.name} to {node}"
            name = self._event_name(key.name, now)
            body = self._event(pod, revision, name, "Scheduled", message, now, now, 1)
            calls.append(self._client.creating("events", key.tenant, key.namespace, body))
        await self._write(calls)

    async def _write_troubles(self) -> None:
        calls: list[Call] = []
        about: list[tuple[_Trouble, bool]] = []  # the bool: whether the call is its event
        for uid in list(self._due)[:BATCH_MAX]:
            del self._due[uid]
            trouble = self._troubles[uid]
            if trouble.condition_due:
                trouble.condition_due = False
                calls.append(self._condition_call(trouble))
                about.append((trouble, False))
            if trouble.event_due:
                trouble.event_due = False
                calls.append(self._trouble_call(trouble))
                about.append((trouble, True))
        replies = await self._write(calls)
        for (trouble, is_event), reply in zip(about, replies, strict=False):
            if is_event and not reply.ok and reply.code == NotFound.code:
                trouble.event_name, trouble.count = "", 0  # Old events are thrown away: anew.

    def _condition_call(self, trouble: _Trouble) -> Call:
        now = rfc3339(self._clock.now())
        pod = trouble.request
        condition = {
            "type": "PodScheduled", "status": "False", "reason": trouble.reason,
            "message": trouble.message, "lastProbeTime": None, "lastTransitionTime": now,
        }  # fmt: skip
        # The uid: a pod of that name that was made since is not meant.
        body = {"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}}
        call = self._client.patching("pods", Key.from_path(pod.path), body, "status")
        # So that conditions merge by type instead of being replaced.
        call.content_type = "application/strategic-merge-patch+json"
        return call

    def _trouble_call(self, trouble: _Trouble) -> Call:
        key = Key.from_path(trouble.request.path)
        if trouble.event_name:
            body = {
                "message": trouble.message, "count": trouble.count,
                "lastTimestamp": rfc3339(trouble.last),
            }  # fmt: skip
            where = Key(key.tenant, key.namespace, trouble.event_name)
            return self._client.patching("events", where, body)
        trouble.event_name = self._event_name(key.name, trouble.last)
        body = self._event(
            trouble.request, trouble.revision, trouble.event_name, "FailedScheduling",
            trouble.message, trouble.first, trouble.last, trouble.count,
        )  # fmt: skip
        return self._client.creating("events", key.tenant, key.namespace, body)

    def _stamp(self, now: float) -> str:
        """rfc3339(now), which takes 3 us, made once for all events of a second."""
        if int(now) != self._second:
            self._second, self._second_text = int(now), rfc3339(now)
        return self._second_text

    def _event_name(self, pod: str, now: float) -> str:
        # A time alone is not unique: a batch is written in one moment.
        return f"{pod}.{int(now * 1e6):x}{next(self._names) & 0xFFF:03x}"

    def _event(
        self, pod: PodRequest, revision: str, name: str, reason: str, message: str,
        first: float, last: float, count: int,
    ) -> Object:  # fmt: skip
        failed = reason == "FailedScheduling"
        pod_name = pod.path.rpartition("/")[2]
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": pod.namespace, "tenant": pod.tenant},
            "involvedObject": {
                "kind": "Pod", "apiVersion": "v1", "tenant": pod.tenant,
                "namespace": pod.namespace, "name": pod_name, "uid": pod.uid,
                "resourceVersion": revision,
            },
            "type": "Warning" if failed else "Normal",
            "reason": reason,
            "message": message,
            "action": "Scheduling" if failed else "Binding",
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
            "eventTime": f"{self._stamp(first)[:-1]}.{int(first % 1 * 1e6):06d}Z",
            "firstTimestamp": self._stamp(first),
            "lastTimestamp": self._stamp(last),
            "count": count,
        }  # fmt: skip

    async def _write(self, calls: list[Call]) -> list[Reply]:
        """One batch. Refusals are logged: nobody can act on them."""
        waits = retry.exponential(RETRY_FIRST_S, RETRY_LIMIT_S)
        for _ in range(TRIES_MAX):
            try:
                replies = await self._client.write(calls)
            except Failure as failure:
                log.info("%d reports wait: %s", len(calls), failure.message)
                await self._clock.sleep(next(waits))
                continue
            for call, reply in zip(calls, replies, strict=True):
                # 404 and 409: the pod is not what it was, and hears no more of this; or the
                # event was written by a batch whose answer was lost.
                if not reply.ok and reply.code not in (NotFound.code, Conflict.code):
                    why = decode(reply.body).message
                    log.warning("%s of %s refused: %s", call.verb, call.gvr, why)
            return replies
        self.shed += len(calls)
        return []


def condition_of(pod: Object) -> tuple[str, str]:
    """Reason and message of the PodScheduled condition; empty when there is none or it is True."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return condition.get("reason") or "", condition.get("message") or ""
    return "", ""


def binding(client: Client, pod: PodRequest, node: str) -> Call:
    """The call that gives a pod its node. 3 us."""
    key = Key.from_path(pod.path)
    call = client.calling("create", "pods", key, None, "binding")
    call.body = orjson.dumps(
        {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": pod.uid},
            "target": {"kind": "Node", "name": node},
        }
    )
    return call
