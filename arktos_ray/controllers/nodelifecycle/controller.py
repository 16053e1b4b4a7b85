"""Watches over the nodes of one ResourcePartition: silence, taints, and eviction of their pods.

Runs beside the RP; the pods of a node are in every TenantPartition, and each is written through
the client of its own. Pods are listed by node when a node is in trouble, never watched: trouble
is rare, and a watch of all pods of all partitions is not.

Signs of life are asked for every 5 s, as the names of those who gave one since (apiserver/
heartbeats.py): a view of all leases would cost more than the rest of an idle cluster.

While the RP itself is away nobody is judged, and afterwards every node has its grace again:
leases live in memory and are lost with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from arktos_ray.api import errors
from arktos_ray.api.calls import Call
from arktos_ray.api.errors import Conflict, Failure, NotFound
from arktos_ray.api.names import Key
from arktos_ray.client.index import key_of
from arktos_ray.controllers import events
from arktos_ray.controllers.loop import Controller, ControllerClient, Loop, Parts, written
from arktos_ray.controllers.nodelifecycle import plan as planning
from arktos_ray.controllers.nodelifecycle.plan import Evict, Limits, Mode, Object

log = logging.getLogger(__name__)

NAME = "node-controller"

PERIOD_S = 5.0
# Pods that are bound to a lost node after the first look are found by the next.
LOOK_AGAIN_S = 30.0
BATCH_MAX = 500


class NodeLifecycle(Controller):
    def __init__(self, parts: Parts, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._client = ControllerClient(parts.client, NAME)
        self._tenants = parts.neighbours
        self._clock, self._ids, self._tasks = parts.clock, parts.ids, parts.tasks
        self._nodes = parts.informers.of("nodes")
        self._loop: Loop[str] = Loop(
            NAME, self.reconcile, parts.clock, parts.tasks, workers=8, gates=(self._nodes,)
        )
        # When each node was last heard of (monotonic), least recently heard first.
        self._heard: dict[str, float] = {}
        self._spoke_version = 0
        self._unready: dict[str, None] = {}
        # None before the first look: until then nothing is added and nothing taken away.
        self._mode: Mode | None = None
        self._calm_until = 0.0
        self._budget, self._budget_at = 1.0, 0.0
        self._evicting: set[str] = set()
        self._first_seen: dict[str, dict[tuple[str, str], float]] = {}
        self._nodes.on_change(self._node_changed)

    def start(self) -> None:
        self._loop.start()
        self._tasks.start(self._watch_over(), f"{NAME} monitor")

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            name = old["metadata"]["name"]
            self._evicting.discard(name)
            self._first_seen.pop(name, None)
            self._heard.pop(name, None)
            self._unready.pop(name, None)
            return
        name = new["metadata"]["name"]
        said = planning.heartbeat(new)
        if old is None or (said and said != planning.heartbeat(old)):
            self._hear(name, self._clock.monotonic())
        if planning.ready_status(new) == "True":
            self._unready.pop(name, None)
        else:
            self._unready[name] = None
        if old is None or _outline(old) != _outline(new):
            self._loop.wake(name)

    def _hear(self, name: str, at: float) -> None:
        self._heard.pop(name, None)
        self._heard[name] = at

    # Silence.

    async def _watch_over(self) -> None:
        await self._nodes.synced()
        while True:
            try:
                await self.look()
            except Failure as failure:
                log.info("%s: %s", NAME, failure.message)
            await self._clock.sleep(PERIOD_S)

    async def look(self) -> None:
        """One look, at those who are quiet: 0.3 us for each who spoke since the last one."""
        names = await self._listen()
        at, now = self._clock.monotonic(), self._clock.now()
        if names is None or not self._nodes.connected:
            self._heard = dict.fromkeys(self._heard, at)
            return
        for name in names:
            if name in self._heard:
                self._hear(name, at)
        quiet = self._known(planning.quiet_for(self._heard, at, self._limits.grace_s))
        silences = planning.silences(quiet, self._heard, at, now, self._limits)
        silent = {action.node["metadata"]["name"]: None for action in silences}
        self._judge(len(self._nodes.index), self._known({**self._unready, **silent}), at)
        calls = []
        for action in silences:
            meta = action.node["metadata"]
            calls.append(
                self._client.patching(
                    "nodes", key_of(action.node),
                    {
                        "metadata": {
                            "uid": meta["uid"],
                            # It may be speaking right now.
                            "resourceVersion": meta["resourceVersion"],
                        },
                        "status": {"conditions": action.conditions},
                    },
                    "status",
                )
            )  # fmt: skip
            message = f"Node {meta['name']} status is now: NodeNotReady"
            calls.append(self._note(self._client, action.node, "Node", "NodeNotReady", message))
            log.warning("node %s: %s", meta["name"], action.why)
        for start in range(0, len(calls), BATCH_MAX):
            await self._client.write(calls[start : start + BATCH_MAX])

    async def _listen(self) -> list[str] | None:
        """Who gave a sign of life since we last asked; None while nobody can tell."""
        try:
            version, names = await self._client.request("spoke", [self._spoke_version])
        except Failure as failure:
            log.info("%s: %s", NAME, failure.message)
            return None
        if version < self._spoke_version:
            self._spoke_version = 0  # Its clock stepped back while it restarted: ask anew.
            return None
        self._spoke_version = version
        found: list[str] = names
        return found

    def _known(self, names: Iterable[str]) -> list[Object]:
        found = (self._nodes.index.get(Key("", "", name)) for name in names)
        return [node for node in found if node is not None]

    def _judge(self, nodes: int, lost: list[Object], at: float) -> None:
        """Whose pods may be told to leave."""
        mode = planning.mode(nodes, len(lost), self._limits)
        if mode is not self._mode:
            log.info("%s: %s, %d of %d nodes are lost", NAME, mode, len(lost), nodes)
            if self._mode in (None, Mode.FULL):
                # We just came, or everything looked lost: those that are not back yet get the
                # time that the first ones had.
                self._calm_until = at + self._limits.grace_s
            self._mode = mode
            for node in lost:
                self._loop.wake(node["metadata"]["name"])
        rate = planning.evictions_per_s(mode, nodes, self._limits)
        self._budget = min(1.0, self._budget + (at - self._budget_at) * rate)
        self._budget_at = at
        if mode is Mode.FULL:
            self._evicting.clear()
            return
        self._evicting &= {node["metadata"]["name"] for node in lost}
        for node in lost:
            name = node["metadata"]["name"]
            if name in self._evicting or planning.ready_status(node) == "True":
                continue  # The latter is silent, and will be said to be so in a moment.
            if planning.is_evicting(node):
                self._evicting.add(name)  # Before a restart of ours.
            elif self._budget >= 1.0 and at >= self._calm_until and rate > 0:
                self._budget -= 1.0
                self._evicting.add(name)
                self._loop.wake(name)

    # One node: its taints, then its pods.

    async def reconcile(self, name: str) -> float | None:
        node = self._nodes.index.get(Key("", "", name))
        if node is None:
            return None  # Pods of nodes that are gone are podgc's to remove.
        if self._mode is None:
            return 1.0
        now = self._clock.now()
        may_evict = self._mode is not Mode.FULL and (
            name in self._evicting or planning.is_evicting(node)
        )
        wanted = planning.taints(node, may_evict, now)
        if wanted is not None:
            await self._taint(name, node, wanted)
            return 0.001
        taints = (node.get("spec") or {}).get("taints") or ()
        executing = [taint for taint in taints if taint["effect"] == "NoExecute"]
        if planning.ready_status(node) == "True" and not executing:
            self._first_seen.pop(name, None)
            return None
        seen = self._first_seen.get(name, {})
        first_seen = {
            key: seen.get(key, now)
            for key in ((taint["key"], taint.get("value", "")) for taint in executing)
        }
        self._first_seen[name] = first_seen
        waits = [LOOK_AGAIN_S]
        failure: Failure | None = None
        for client in [ControllerClient(each.client, NAME) for each in self._tenants]:
            try:
                wait = await self._clear(client, node, now, first_seen)
            except Conflict:
                wait = 0.1  # A pod moved on while we looked.
            except Failure as refusal:
                failure = refusal  # One partition that is away must not stop the others.
                continue
            if wait is not None:
                waits.append(wait)
        if failure is not None:
            log.info("%s %s: %s", NAME, name, failure.message)
            return min(PERIOD_S, *waits)
        return min(waits)

    async def _taint(self, name: str, node: Object, taints: list[Object]) -> None:
        meta = node["metadata"]
        patch = {
            "metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
            "spec": {"taints": taints or None},
        }
        [reply] = await self._client.write([self._client.patching("nodes", key_of(node), patch)])
        if not reply.ok:
            raise errors.decode(reply.body)
        self._loop.wrote(name, self._nodes, written([reply]))

    async def _clear(
        self, client: ControllerClient, node: Object, now: float,
        first_seen: dict[tuple[str, str], float],
    ) -> float | None:  # fmt: skip
        """The pods of one partition on that node."""
        name = node["metadata"]["name"]
        pods, _ = await client.list("pods", fieldSelector=f"spec.nodeName={name}")
        actions, wait = planning.plan(node, pods, now, first_seen)
        calls: list[Call] = []
        needed: list[bool] = []
        for action in actions:
            pod, meta = action.pod, action.pod["metadata"]
            patch = {
                "metadata": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
                "status": {"conditions": action.conditions},
            }
            calls.append(client.patching("pods", key_of(pod), patch, "status"))
            needed.append(not isinstance(action, Evict))
            if isinstance(action, Evict):
                calls.append(
                    client.deleting("pods", key_of(pod), preconditions={"uid": meta["uid"]})
                )
                message = f"Marking for deletion Pod {meta['namespace']}/{meta['name']}"
                calls.append(self._note(client, pod, "Pod", "TaintManagerEviction", message))
                needed += [True, False]
        failure: Failure | None = None
        for start in range(0, len(calls), BATCH_MAX):
            replies = await client.write(calls[start : start + BATCH_MAX])
            for reply, must in zip(replies, needed[start : start + BATCH_MAX], strict=True):
                if must and not reply.ok:
                    refusal = errors.decode(reply.body)
                    if not isinstance(refusal, NotFound):
                        failure = refusal
        if failure is not None:
            raise failure
        return wait

    def _note(
        self, client: ControllerClient, subject: Object, kind: str, reason: str, message: str
    ) -> Call:
        body = events.event(
            subject, "v1", kind, reason=reason, message=message, component=NAME,
            now=self._clock.now(), suffix=self._ids.suffix(),
        )  # fmt: skip
        return events.recording(client, body)


def _outline(node: Object) -> tuple[object, ...]:
    """What taints and evictions depend on; heartbeats do not change it."""
    spec = node.get("spec") or {}
    return (
        spec.get("taints"),
        spec.get("unschedulable"),
        [
            (each["type"], each.get("status"))
            for each in node.get("status", {}).get("conditions") or ()
        ],
    )
