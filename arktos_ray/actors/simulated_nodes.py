"""SimulatedNodes: thousands of nodes in one process, for tests and benchmarks of everything else.

It registers Node objects, keeps their leases and status fresh, watches the pods bound to them in
every tenant partition, and plays kubelet: pods start, run, end and go away after the delays of a
hollow node (spec/perf.md section 6), or at once. Nothing runs; no address answers.

All state is rebuilt from the API: after a restart running pods stay as they are, and what was
bound, deleted or due meanwhile is caught up with. Not a scheduler check: reservations make it
impossible that a pod does not fit, so there is no admission on the node.

Cost here of a pod of 1.9 KB, with uvloop, over 20,000 pods on 10,000 nodes: 29 us from bound to
running (22 without delays), of them 7 for decoding it, 5 for its timer, 4 for rendering and 8 for
the garbage collector; 21 us from deleted to gone. 10,000 idle nodes: 3 ms of CPU a second.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Literal

import orjson

from arktos_ray.api import errors
from arktos_ray.api.calls import DELETED, LEFT, Call, Reply, WatchEvent
from arktos_ray.api.names import NODE_LEASE_NAMESPACE, SYSTEM_TENANT, Key
from arktos_ray.base.clock import Clock, parse_rfc3339, rfc3339, rfc3339_micro
from arktos_ray.base.ids import Ids
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client

log = logging.getLogger(__name__)

Mode = Literal["kubemark", "instant"]

KUBELET_VERSION = "v1.33.1-simulated"
SIMULATED_LABEL = "arktos.io/simulated"
# How long the containers of a pod run before they exit, and with which code (default 0).
RUN_SECONDS_ANNOTATION = "arktos.io/simulated-run-seconds"
EXIT_CODE_ANNOTATION = "arktos.io/simulated-exit-code"


@dataclass(frozen=True, slots=True)
class NodeShape:
    """What each node pretends to be. The defaults are those of a hollow node of kubemark."""

    cpu: str = "1"
    memory: str = "4026531840"
    pods: int = 110
    ephemeral_storage: str = "100Gi"
    region: str = "simulated"
    zones: tuple[str, ...] = ("zone-a", "zone-b", "zone-c")
    labels: tuple[tuple[str, str], ...] = ()
    architecture: str = "amd64"


@dataclass(frozen=True, slots=True)
class Delay:
    """A normal distribution with a floor, in seconds."""

    mean_s: float
    deviation_s: float
    least_s: float

    def draw(self, ids: Ids, times: int) -> float:
        """The sum of so many of them, which is again normal: one draw instead of many."""
        drawn = ids.normal(self.mean_s * times, self.deviation_s * math.sqrt(times))
        return max(drawn, self.least_s * times)


@dataclass(frozen=True, slots=True)
class Tempo:
    """How often and how slowly. Sources: spec/perf.md section 6."""

    create: Delay = Delay(0.100, 0.025, 0.025)
    start: Delay = Delay(0.200, 0.050, 0.050)
    stop: Delay = Delay(0.200, 0.050, 0.050)
    # A kubelet learns of a started container when it next lists them all.
    relist_period_s: float = 1.0
    lease_duration_s: int = 40
    lease_period_s: int = 10
    status_period_s: int = 300
    # Waiting before a container that ended is started again; doubled up to the most.
    crash_loop_least_s: float = 10.0
    crash_loop_most_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Limits:
    # About 3 KB a node and 1 KB a status: batches of 1-2 MB, 25-50 ms of a partition's time.
    # What does not fit waits for the next batch.
    nodes_per_batch_max: int = 500
    statuses_per_batch_max: int = 1_000
    # About 2 KB a pod: 2 MB a page.
    pods_per_page: int = 1_000
    # Timers due within this time go off together, so that their statuses share a batch.
    timer_grain_s: float = 0.005
    backoff_least_s: float = 0.1
    backoff_most_s: float = 5.0
    # Distinct lists of containers whose rendering is remembered; forgotten all at once.
    shapes_max: int = 10_000


LIMITS: Final = Limits()

# A tenant that moves is shown by its new partition within milliseconds, or after a restart of it.
LIMBO_S: Final = 60.0

# What a pod's containers are doing. From STOPPING on, only its deletion is of interest.
_HELD, _STARTING, _RUNNING, _WAITING, _ENDED, _STOPPING, _STOPPED = range(7)
_REPORTED: Final = frozenset({_RUNNING, _WAITING, _ENDED, _STOPPED})
_RETRIABLE: Final = frozenset({429, 500, 503, 504, 507})


def fleet(prefix: str, count: int, partitions: Sequence[str]) -> list[tuple[str, str]]:
    """`count` node names with their resource partitions, taken in turn.

    A larger fleet has the nodes of a smaller one and more, so no padding with zeros.
    """
    return [(f"{prefix}-{i}", partitions[i % len(partitions)]) for i in range(count)]


class _Shape:
    """What the pods of one template have in common: their statuses, rendered up to the gaps."""

    __slots__ = ("containers", "inits")

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.containers = [_described(c) for c in spec.get("containers", ())]
        self.inits = [_described(c) for c in spec.get("initContainers", ())]

    def statuses(self, pod: _Pod, state: str, flags: str, last: str) -> str:
        tail = f'"restartCount":{pod.restarts},"state":{state},"lastState":{last}}}'
        ids = f'"containerID":"simulated://{pod.uid}/{pod.restarts}/'
        return ",".join([f'{c}{ids}{i}",{flags}{tail}' for i, c in enumerate(self.containers)])

    def init_statuses(self, pod: _Pod) -> str:
        tail = (
            '"ready":true,"started":false,"restartCount":0,"lastState":{},"state":'
            f'{{"terminated":{{"exitCode":0,"reason":"Completed","startedAt":"{pod.accepted_at}",'
            f'"finishedAt":"{pod.started_at}"}}}}}}'
        )
        ids = f'"containerID":"simulated://{pod.uid}/init/'
        return ",".join([f'{c}{ids}{i}",{tail}' for i, c in enumerate(self.inits)])


def _described(container: Mapping[str, Any]) -> str:
    fixed = {
        "name": container["name"],
        "image": container.get("image", ""),
        "imageID": f"simulated://{container.get('image', '')}",
    }
    return orjson.dumps(fixed).decode()[:-1] + ","


class _Node:
    __slots__ = ("addresses", "failed", "host_ip", "index", "name", "registered", "uid")

    def __init__(self, name: str, index: int) -> None:
        self.name = name
        self.index = index
        # 100.64.0.0/10 is nobody's: room for four million hosts.
        self.host_ip = f"100.{64 + (index >> 16)}.{index >> 8 & 255}.{index & 255}"
        self.addresses = 0  # One bit for each pod address in use.
        self.uid = ""
        self.registered = False
        self.failed = False


class _Pod:
    __slots__ = (
        "accepted_at", "address", "deletes_s", "ended_at", "exit_code", "home", "last_started_at",
        "node", "path", "policy", "restarts", "run_s", "scheduled_at", "shape", "started_at",
        "state", "ticket", "uid",
    )  # fmt: skip

    def __init__(self, path: str, uid: str, node: _Node, shape: _Shape) -> None:
        self.path = path
        self.uid = uid
        self.node = node
        self.home: _Tenants | None = None  # of a tenant that moved here
        self.shape = shape
        self.state = _HELD
        self.address = -1  # -1 is the address of the host.
        self.restarts = 0
        self.policy = "Always"
        self.run_s = -1.0
        self.exit_code = 0
        self.deletes_s = -1.0  # The grace that a deletion gave; -1 while nobody deletes it.
        self.scheduled_at = self.accepted_at = self.started_at = self.ended_at = ""
        self.last_started_at = ""
        # Only the timer that holds the last ticket still counts.
        self.ticket = 0


class _Tenants:
    """One tenant partition: its pods on our nodes, and what we owe it."""

    __slots__ = ("client", "listed", "name", "owed", "pods", "wake", "work")

    def __init__(self, name: str, client: Client) -> None:
        self.name = name
        self.client = client
        self.pods: dict[str, _Pod] = {}
        # Pods whose status or deletion is to be written; rendered when sent, so the last wins.
        self.owed: dict[_Pod, None] = {}
        self.wake = asyncio.Event()
        self.listed = False
        self.work: list[asyncio.Task[Any]] = []


class _Backoff:
    def __init__(self, clock: Clock, ids: Ids) -> None:
        self._clock, self._ids = clock, ids
        self._next_s = LIMITS.backoff_least_s

    def reset(self) -> None:
        self._next_s = LIMITS.backoff_least_s

    async def wait(self) -> None:
        wait_s = self._next_s * self._ids.uniform(0.5, 1.0)
        self._next_s = min(self._next_s * 2, LIMITS.backoff_most_s)
        await self._clock.sleep(wait_s)


class SimulatedNodes:
    """A fleet of hollow nodes. Owns nothing that the API does not hold.

    nodes: (name, resource partition) of each; the order gives addresses and zones, so keep it
    over restarts. first_index sets the addresses of several fleets apart.
    """

    def __init__(
        self,
        name: str,
        nodes: Iterable[tuple[str, str]],
        resource_partitions: Mapping[str, Client],
        tenant_partitions: Mapping[str, Client],
        mode: Mode,
        clock: Clock,
        ids: Ids,
        tasks: Tasks,
        *,
        shape: NodeShape | None = None,
        tempo: Tempo | None = None,
        first_index: int = 0,
    ) -> None:
        self.name = name
        self._mode = mode
        self._clock = clock
        self._ids = ids
        self._tasks = tasks
        self._shape = shape or NodeShape()
        self._tempo = tempo or Tempo()
        self._nodes: dict[str, _Node] = {}
        self._homes: dict[str, list[_Node]] = {rp: [] for rp in resource_partitions}
        for index, (node_name, rp) in enumerate(nodes, first_index):
            node = self._nodes[node_name] = _Node(node_name, index)
            self._homes[rp].append(node)
        self._rps = dict(resource_partitions)
        self._tps = [_Tenants(tp, client) for tp, client in tenant_partitions.items()]
        # Every node has a block of the addresses 10.x.y.z, large enough for its pods.
        self._block_bits = max(8, (self._shape.pods + 2).bit_length())
        self._shapes: dict[tuple[str, ...], _Shape] = {}
        self._timers: list[tuple[float, int, int, _Pod, _Tenants]] = []
        self._timer_count = 0
        # Pods that no partition shows just now: with whose they were, and until when they wait.
        self._limbo: dict[str, tuple[_Pod, _Tenants, float]] = {}
        self._armed_for = float("inf")
        self._registered = asyncio.Event()
        self._registered_nodes = self._failed_nodes = 0
        self._counted, self._counted_at = [0] * 7, float("-inf")
        self._counts = {"started": 0, "stopped": 0, "leases": 0, "writes": 0, "relists": 0}

    def __repr__(self) -> str:
        return f"SimulatedNodes({self.name}, {len(self._nodes)} nodes)"

    async def start(self) -> None:
        """Begin; returns at once. `wait_until_registered` waits for the nodes to be there."""
        for rp, client in self._rps.items():
            nodes = self._homes[rp]
            self._tasks.start(self._register_all(client, nodes), f"{self.name} {rp} nodes")
            self._tasks.start(self._keep_fresh(client, nodes), f"{self.name} {rp} leases")
        for tp in self._tps:
            self._begin(tp)

    def _begin(self, tp: _Tenants) -> None:
        tp.work = [
            self._tasks.start(self._follow(tp), f"{self.name} {tp.name} pods"),
            self._tasks.start(self._write(tp), f"{self.name} {tp.name} statuses"),
        ]

    def add_tenant_partition(self, name: str, client: Client) -> None:
        """Also while running: its pods may be bound to our nodes from now on."""
        if all(tp.name != name for tp in self._tps):
            tp = _Tenants(name, client)
            self._tps.append(tp)
            self._begin(tp)

    def remove_tenant_partition(self, name: str) -> None:
        """It is no more, and neither are its pods."""
        for tp in [tp for tp in self._tps if tp.name == name]:
            self._tps.remove(tp)
            for task in tp.work:
                task.cancel()
            for pod in list(tp.pods.values()):
                self._forget(tp, pod)

    async def close(self) -> None:
        await self._tasks.close()

    async def wait_until_registered(self) -> None:
        if self._nodes:
            await self._registered.wait()

    # What other parts may ask (a Peer).

    async def request(self, method: str, payload: Any) -> Any:
        """fail and recover take a list of node names; stats and retire take nothing."""
        if method == "fail":
            return self.fail(payload)
        if method == "recover":
            return await self.recover(payload)
        if method == "retire":
            return await self.retire()
        if method == "stats":
            return self.stats()
        raise errors.NotFound(f"simulated nodes have no method {method!r}")

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        refusal = errors.MethodNotAllowed("simulated nodes hold no objects")
        return [Reply(refusal.code, refusal.encode()) for _ in calls]

    def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        raise errors.MethodNotAllowed("simulated nodes hold no objects")

    def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        if method == "log":
            return _log()
        raise errors.NotFound(f"simulated nodes have no stream {method!r}")

    def fail(self, names: Sequence[str]) -> int:
        """As if these machines lost their network: no leases, no statuses, no reaction."""
        return sum(self._set_failed(name, True) for name in names)

    async def recover(self, names: Sequence[str]) -> int:
        """The machines are back, with their pods as they were; they catch up at once."""
        back = {self._nodes[name] for name in names if name in self._nodes}
        back = {node for node in back if self._set_failed(node.name, False)}
        if not back:
            return 0
        for rp, client in self._rps.items():
            nodes = [node for node in self._homes[rp] if node in back and node.registered]
            for batch in _batches(nodes, LIMITS.nodes_per_batch_max):
                # Whoever does not answer hears of it with the next lease; pods must not wait.
                await self._try(self._renew, client, batch)
                await self._try(self._write_statuses, client, batch)
        for tp in self._tps:
            for pod in list(tp.pods.values()):
                if pod.node in back:
                    self._resume(tp, pod)
                    if pod.state in _REPORTED:  # A node controller may have changed it.
                        self._owe(tp, pod)
        return len(back)

    async def retire(self) -> int:
        """All of our nodes leave the cluster, for good. Their pods are for others to clear up.
        Safe to call twice. Raises Unavailable when a partition does not answer."""
        self.fail(list(self._nodes))  # Silent from here on: nothing registers them again.
        gone = 0
        for rp, client in self._rps.items():
            for batch in _batches(self._homes[rp], LIMITS.nodes_per_batch_max):
                calls = [client.deleting("nodes", Key("", "", node.name)) for node in batch]
                gone += sum(reply.ok for reply in await client.write(calls))
        return gone

    def _set_failed(self, name: str, failed: bool) -> bool:
        node = self._nodes.get(name)
        if node is None or node.failed == failed:
            return False
        node.failed = failed
        self._failed_nodes += 1 if failed else -1
        return True

    def stats(self) -> dict[str, Any]:
        states = self._states()
        return {
            "nodes": len(self._nodes),
            "registered": self._registered_nodes,
            "failed": self._failed_nodes,
            "pods": sum(states),
            "starting": states[_STARTING],
            "running": states[_RUNNING],
            "ended": states[_ENDED],
            "stopping": states[_STOPPING],
            "owed": sum(len(tp.owed) for tp in self._tps),
            "synced": all(tp.listed for tp in self._tps),
            **self._counts,
        }

    def _states(self) -> list[int]:
        """How many pods are in each state. Asked for every second; of many pods it is a walk, so
        a second old for each 50,000: 0.2% of a core."""
        now = self._clock.monotonic()
        whole = sum(len(tp.pods) for tp in self._tps)
        if now - self._counted_at >= whole / 50_000 - 0.5:
            self._counted_at = now
            self._counted = states = [0] * 7
            for tp in self._tps:
                for pod in tp.pods.values():
                    states[pod.state] += 1
        return self._counted

    # Nodes: registered once, leases every 10 s, status every 5 min, both spread evenly.

    async def _register_all(self, client: Client, nodes: list[_Node]) -> None:
        for batch in _batches(nodes, LIMITS.nodes_per_batch_max):
            await self._insist(self._register, client, batch)
        if all(node.registered for node in self._nodes.values()):
            self._registered.set()

    async def _keep_fresh(self, client: Client, nodes: list[_Node]) -> None:
        period, status_period = self._tempo.lease_period_s, self._tempo.status_period_s
        # Node i of this partition has its turn in second i of each period.
        last = int(self._clock.monotonic())
        while True:
            await self._clock.sleep(1.0)
            now = int(self._clock.monotonic())
            late, last = last + 1, now
            # After a stall every node has its turn once, whatever it missed.
            due = _in_turn(nodes, range(max(late, now - period + 1), now + 1), period)
            for batch in _batches(due, LIMITS.statuses_per_batch_max):
                await self._try(self._renew, client, batch)
            seconds = range(max(late, now - status_period + 1), now + 1)
            due = _in_turn(nodes, seconds, status_period)
            for batch in _batches(due, LIMITS.nodes_per_batch_max):
                await self._try(self._write_statuses, client, batch)

    async def _register(self, client: Client, nodes: list[_Node]) -> None:
        """Create the nodes and their leases, or adopt those that are there."""
        replies = await client.write(
            [client.creating("nodes", "", "", self._node_body(node)) for node in nodes]
        )
        adopted = []
        for node, reply in zip(nodes, replies, strict=True):
            if reply.ok:
                node.uid = orjson.loads(reply.body)["metadata"]["uid"]
                # A server may take status only by its subresource.
                if b'"allocatable"' not in reply.body:
                    adopted.append(node)
            elif errors.decode(reply.body).reason == errors.AlreadyExists.reason:
                adopted.append(node)
            else:
                raise errors.decode(reply.body)
        unknown = [node for node in adopted if not node.uid]
        got = await client.write(
            [client.calling("get", "nodes", Key("", "", node.name)) for node in unknown]
        )
        for node, reply in zip(unknown, got, strict=True):
            if reply.ok:
                node.uid = orjson.loads(reply.body)["metadata"]["uid"]
        for node in nodes:
            self._registered_nodes += not node.registered
            node.registered = True
        await self._write_statuses(client, adopted)
        await self._renew(client, nodes)

    async def _write_statuses(self, client: Client, nodes: list[_Node]) -> None:
        now = rfc3339(self._clock.now())
        replies = await client.write(
            [
                client.patching(
                    "nodes", Key("", "", n.name), {"status": self._node_status(n, now)}, "status"
                )
                for n in nodes
            ]
        )
        lost = [n for n, r in zip(nodes, replies, strict=True) if r.code == errors.NotFound.code]
        if lost:  # Deleted by somebody: a kubelet would register again at its next start.
            for node in lost:
                node.uid = ""
            await self._register(client, lost)

    async def _renew(self, client: Client, nodes: list[_Node]) -> None:
        """Renew the leases, as one batch. Missing ones are created."""
        at = self._clock.now()
        missing = set(await client.request("renew", [[node.name for node in nodes], at]))
        self._counts["leases"] += len(nodes)
        if missing:
            now = rfc3339_micro(at)
            await client.write(
                [
                    client.creating(
                        "leases.coordination.k8s.io", SYSTEM_TENANT, NODE_LEASE_NAMESPACE,
                        self._lease_body(node, now),
                    )
                    for node in nodes
                    if node.name in missing
                ]
            )  # fmt: skip

    def _lease_body(self, node: _Node, now: str) -> dict[str, Any]:
        metadata: dict[str, Any] = {"name": node.name, "namespace": NODE_LEASE_NAMESPACE}
        if node.uid:
            metadata["ownerReferences"] = [
                {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}
            ]
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": node.name,
                "leaseDurationSeconds": self._tempo.lease_duration_s,
                "acquireTime": now,
                "renewTime": now,
            },
        }

    def _node_body(self, node: _Node) -> dict[str, Any]:
        shape = self._shape
        provider = f"simulated://{node.name}"
        cidr = f"{self._pod_ip(node, 0)}/{32 - self._block_bits}"
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": node.name,
                "labels": {
                    SIMULATED_LABEL: "true",
                    "kubernetes.io/hostname": node.name,
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": shape.architecture,
                    "topology.kubernetes.io/region": shape.region,
                    "topology.kubernetes.io/zone": shape.zones[node.index % len(shape.zones)],
                    **dict(shape.labels),
                },
                "annotations": {"arktos.io/simulated-by": self.name},
            },
            "spec": {"providerID": provider, "podCIDR": cidr, "podCIDRs": [cidr]},
            "status": self._node_status(node, rfc3339(self._clock.now())),
        }

    def _node_status(self, node: _Node, now: str) -> dict[str, Any]:
        shape = self._shape
        amounts = {
            "cpu": shape.cpu,
            "memory": shape.memory,
            "pods": str(shape.pods),
            "ephemeral-storage": shape.ephemeral_storage,
        }
        return {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [
                _condition("MemoryPressure", "False", "KubeletHasSufficientMemory", now),
                _condition("DiskPressure", "False", "KubeletHasNoDiskPressure", now),
                _condition("PIDPressure", "False", "KubeletHasSufficientPID", now),
                _condition("ContainerRuntimeReady", "True", "RuntimeReady", now),
                _condition("Ready", "True", "KubeletReady", now),
            ],
            "addresses": [
                {"type": "InternalIP", "address": node.host_ip},
                {"type": "Hostname", "address": node.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "machineID": node.name,
                "systemUUID": node.name,
                "bootID": node.name,
                "kernelVersion": "simulated",
                "osImage": "simulated",
                "containerRuntimeVersion": "simulated://1.0",
                "kubeletVersion": KUBELET_VERSION,
                "kubeProxyVersion": KUBELET_VERSION,
                "operatingSystem": "linux",
                "architecture": shape.architecture,
            },
        }

    def _pod_ip(self, node: _Node, host: int) -> str:
        number = (node.index << self._block_bits | host) & 0xFFFFFF
        return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"

    # Pods: list, then watch, for ever.

    async def _follow(self, tp: _Tenants) -> None:
        backoff = _Backoff(self._clock, self._ids)
        revision = 0
        while True:
            try:
                if not revision:
                    revision = await self._relist(tp)
                    backoff.reset()
                events = tp.client.watch(
                    "pods",
                    fieldSelector="spec.nodeName!=",
                    resourceVersion=str(revision),
                    allowWatchBookmarks="true",
                    view="node",
                    moves="true",
                )
                async for batch in events:
                    backoff.reset()
                    for event in batch:
                        if event.path:
                            self._on_event(tp, event)
                    revision = max(revision, batch[-1].revision)
            except errors.Expired:
                revision = 0
            except errors.Failure as failure:
                log.info("%s: watching %s: %s", self.name, tp.name, failure)
            await backoff.wait()

    async def _relist(self, tp: _Tenants) -> int:
        """Make our table match the partition's; returns the revision that it is from."""
        self._counts["relists"] += 1
        seen: set[str] = set()
        call = tp.client.calling("list", "pods", Key("all", "", ""))
        call.options = {"fieldSelector": "spec.nodeName!=", "limit": str(LIMITS.pods_per_page)}
        while True:
            [reply] = await tp.client.write([call])
            if not reply.ok:
                raise errors.decode(reply.body)
            page = orjson.loads(reply.body)
            for item in page["items"]:
                if item["spec"].get("nodeName") in self._nodes:
                    metadata = item["metadata"]
                    path = (
                        f"{metadata.get('tenant') or SYSTEM_TENANT}"
                        f"/{metadata['namespace']}/{metadata['name']}"
                    )
                    seen.add(path)
                    self._on_listed(tp, path, item)
            following = page["metadata"].get("continue")
            if not following:
                break
            call.options = {**call.options, "continue": following}
            await self._clock.sleep(0)  # Leases must not wait for a long list.
        for path in [path for path in tp.pods if path not in seen]:
            self._let_go(tp, tp.pods[path])
        tp.listed = True
        return int(page["metadata"]["resourceVersion"])

    def _on_event(self, tp: _Tenants, event: WatchEvent) -> None:
        pod = tp.pods.get(event.path)
        if event.type == DELETED:
            if pod is not None:
                self._forget(tp, pod)
        elif event.type == LEFT:
            if pod is not None:
                self._let_go(tp, pod)
        elif pod is None:
            if self._may_be_ours(event.body):
                item = orjson.loads(event.body)
                if item["spec"].get("nodeName") in self._nodes:
                    self._accept(tp, event.path, item)
        # Only deletion is of interest (apiserver/views.py). A partition that knows no views
        # sends the echo of our own status too, so the body is searched and not decoded.
        elif pod.deletes_s < 0 and b'"deletionTimestamp"' in event.body:
            self._on_listed(tp, event.path, orjson.loads(event.body))

    def _may_be_ours(self, body: bytes) -> bool:
        """False when it names no node of ours; without decoding. 0.4 us for 2 KB."""
        at = body.find(b'"nodeName":')
        while at >= 0:
            start = at + 11
            if body[start : start + 1] != b'"':
                return True  # Not the form we know: decode it.
            name = body[start + 1 : body.find(b'"', start + 1)]
            if name.decode() in self._nodes:
                return True
            at = body.find(b'"nodeName":', start)
        return False

    def _on_listed(self, tp: _Tenants, path: str, item: dict[str, Any]) -> None:
        pod = tp.pods.get(path)
        metadata = item["metadata"]
        if pod is not None and (
            pod.uid != metadata["uid"] or pod.node.name != item["spec"].get("nodeName")
        ):
            self._forget(tp, pod)
            pod = None
        if pod is None:
            self._accept(tp, path, item)
            return
        if pod.deletes_s < 0 and "deletionTimestamp" in metadata:
            self._delete(tp, pod, metadata)
        elif pod.state in (_RUNNING, _WAITING, _ENDED):
            if item.get("status", {}).get("phase") != self._phase(pod):
                self._owe(tp, pod)  # A write of ours was lost with its partition.
        elif pod.state == _STOPPED:
            self._owe(tp, pod)

    def _accept(self, tp: _Tenants, path: str, item: dict[str, Any]) -> None:
        """A pod that we did not know: new, or from before our restart."""
        metadata, spec = item["metadata"], item["spec"]
        if self._take_over(tp, path, item):
            return
        status = item.get("status") or {}
        node = self._nodes[spec["nodeName"]]
        pod = tp.pods[path] = _Pod(path, metadata["uid"], node, self._shape_of(spec))
        pod.policy = spec.get("restartPolicy", "Always")
        annotations = metadata.get("annotations")
        if annotations:
            pod.run_s = _number(annotations.get(RUN_SECONDS_ANNOTATION), -1.0)
            pod.exit_code = int(_number(annotations.get(EXIT_CODE_ANNOTATION), 0.0))
        for condition in status.get("conditions", ()):
            if condition["type"] == "PodScheduled":
                pod.scheduled_at = condition.get("lastTransitionTime") or ""
        phase = status.get("phase", "Pending")
        if not spec.get("hostNetwork"):
            pod.address = self._take_address(node, status.get("podIP", ""))
        if phase != "Pending":
            self._remember(pod, phase, status)
        if "deletionTimestamp" in metadata:
            pod.deletes_s = float(metadata.get("deletionGracePeriodSeconds", 0))
        if not node.failed:
            self._resume(tp, pod)

    # A tenant that moves takes its pods from one table to another; the pods do not notice.

    def _let_go(self, tp: _Tenants, pod: _Pod) -> None:
        """One partition shows it no more: another may, whose tenant it is now."""
        del tp.pods[pod.path]
        tp.owed.pop(pod, None)
        if any(pod.path in other.pods for other in self._tps):
            self._end(pod)  # That one has another pod of the name by now.
            return
        if not self._limbo:
            self._tasks.start(self._end_limbo(), f"{self.name} moves")
        self._limbo[pod.uid] = (pod, tp, self._clock.monotonic() + LIMBO_S)

    def _take_over(self, tp: _Tenants, path: str, item: dict[str, Any]) -> bool:
        """Whether we have this pod, as one of another partition."""
        uid = item["metadata"]["uid"]
        pod, old, _ = self._limbo.pop(uid, (None, None, 0.0))
        if pod is None:
            for other in self._tps:
                there = other.pods.get(path)
                if other is not tp and there is not None and there.uid == uid:
                    # It arrived there before we heard that it left here.
                    pod, old = there, other
                    del other.pods[path]
                    other.owed.pop(pod, None)
                    break
        if pod is None or old is None:
            return False
        tp.pods[path] = pod
        pod.home = tp
        # What it was about to be told may have been refused by its old partition.
        self._on_listed(tp, path, item)
        return True

    async def _end_limbo(self) -> None:
        while self._limbo:
            await self._clock.sleep(LIMBO_S / 4)
            now = self._clock.monotonic()
            for uid, (pod, _, until) in list(self._limbo.items()):
                if until <= now and all(tp.listed for tp in self._tps):
                    del self._limbo[uid]
                    self._end(pod)

    def _remember(self, pod: _Pod, phase: str, status: Mapping[str, Any]) -> None:
        """Take over what was reported before our restart; nothing is started twice."""
        pod.state = _RUNNING if phase == "Running" else _ENDED
        pod.accepted_at = status.get("startTime") or ""
        for container in status.get("containerStatuses", ())[:1]:
            pod.restarts = container.get("restartCount", 0)
            state = container.get("state", {})
            running, ended = state.get("running"), state.get("terminated")
            if running:
                pod.started_at = running.get("startedAt") or pod.accepted_at
            elif ended:
                pod.started_at = ended.get("startedAt") or pod.accepted_at
                pod.ended_at = ended.get("finishedAt") or pod.accepted_at
                pod.exit_code = ended.get("exitCode", 0)
            elif phase == "Running":
                pod.state = _WAITING
        pod.started_at = pod.started_at or pod.accepted_at or self._now()
        pod.ended_at = pod.ended_at or pod.started_at
        pod.last_started_at = pod.ended_at

    def _resume(self, tp: _Tenants, pod: _Pod) -> None:
        """Set the timer that the pod's state calls for. Safe to call twice."""
        tempo = self._tempo
        if pod.deletes_s >= 0:
            if pod.state == _STOPPED:
                self._owe(tp, pod)
                return
            idle = pod.state in (_HELD, _ENDED)
            pod.state = _STOPPING
            takes_s = min(pod.deletes_s, self._takes(tempo.stop, 1))
            if idle or not takes_s:
                self._went_off(tp, pod)
            else:
                self._after(takes_s, tp, pod)
        elif pod.state in (_HELD, _STARTING):
            pod.state = _STARTING
            now = self._clock.now()
            pod.accepted_at = self._now()
            steps = 1 + len(pod.shape.containers) + len(pod.shape.inits)
            takes_s = self._takes(tempo.create, steps) + self._takes(tempo.start, steps)
            pod.started_at = _second(int(now + takes_s))
            if self._mode == "kubemark" and tempo.relist_period_s:
                # Nodes list at moments of their own; golden-ratio steps spread them evenly.
                period_s = tempo.relist_period_s
                offset_s = pod.node.index * 0.6180339887 % 1.0 * period_s
                takes_s += (offset_s - (self._clock.monotonic() + takes_s)) % period_s
            if takes_s:
                self._after(takes_s, tp, pod)
            else:
                self._started(tp, pod)
        elif pod.state == _RUNNING and pod.run_s >= 0:
            ran_s = self._clock.now() - parse_rfc3339(pod.started_at)
            self._after(max(0.0, pod.run_s - ran_s), tp, pod)
        elif pod.state == _WAITING:
            doublings = min(max(pod.restarts - 1, 0), 10)
            wait_s = min(tempo.crash_loop_least_s * 2**doublings, tempo.crash_loop_most_s)
            self._after(wait_s, tp, pod)

    def _takes(self, delay: Delay, times: int) -> float:
        return 0.0 if self._mode == "instant" else delay.draw(self._ids, times)

    def _started(self, tp: _Tenants, pod: _Pod) -> None:
        pod.state = _RUNNING
        self._counts["started"] += 1
        self._owe(tp, pod)
        if pod.run_s >= 0:
            self._after(pod.run_s, tp, pod)

    def _went_off(self, tp: _Tenants, pod: _Pod) -> None:
        """The pod's timer: whatever it was waiting for has happened."""
        if pod.state == _STARTING:
            self._started(tp, pod)
        elif pod.state == _STOPPING:
            pod.state = _STOPPED
            self._owe(tp, pod)
        elif pod.state == _WAITING:
            pod.last_started_at = pod.started_at
            pod.started_at = self._now()
            self._started(tp, pod)
        elif pod.state == _RUNNING:
            pod.ended_at = self._now()
            again = pod.policy == "Always" or (pod.policy == "OnFailure" and pod.exit_code)
            if again:
                pod.restarts += 1
            pod.state = _WAITING if again else _ENDED
            self._owe(tp, pod)
            self._resume(tp, pod)

    def _delete(self, tp: _Tenants, pod: _Pod, metadata: Mapping[str, Any]) -> None:
        pod.deletes_s = float(metadata.get("deletionGracePeriodSeconds", 0))
        if not pod.node.failed:
            self._resume(tp, pod)

    def _forget(self, tp: _Tenants, pod: _Pod) -> None:
        del tp.pods[pod.path]
        tp.owed.pop(pod, None)
        self._end(pod)

    def _end(self, pod: _Pod) -> None:
        pod.ticket += 1
        self._counts["stopped"] += 1
        if pod.address >= 0:
            pod.node.addresses &= ~(1 << pod.address)

    def _take_address(self, node: _Node, had: str) -> int:
        """The number of a free address of the node's block; the same as before where it had one."""
        used = node.addresses
        host = -1
        if had:
            number = 0
            for part in had.split("."):
                number = number << 8 | int(part)
            if number >> 24 == 10 and had == self._pod_ip(
                node, number & (1 << self._block_bits) - 1
            ):
                host = number & (1 << self._block_bits) - 1
        if host < 0 or used >> host & 1:
            free = ~(used | 1)  # Number 0 is the name of the block.
            host = (free & -free).bit_length() - 1
            host %= 1 << self._block_bits  # More pods than the node allows share addresses.
        node.addresses = used | 1 << host
        return host

    def _shape_of(self, spec: Mapping[str, Any]) -> _Shape:
        names = [text for c in spec["containers"] for text in (c["name"], c.get("image", ""))]
        for container in spec.get("initContainers", ()):
            names += ("init", container["name"], container.get("image", ""))
        signature = tuple(names)
        shape = self._shapes.get(signature)
        if shape is None:
            if len(self._shapes) >= LIMITS.shapes_max:
                self._shapes.clear()
            shape = self._shapes[signature] = _Shape(spec)
        return shape

    # Timers: one heap, and a sleeper for its head.

    def _after(self, seconds: float, tp: _Tenants, pod: _Pod) -> None:
        pod.ticket += 1
        due = self._clock.monotonic() + seconds
        self._timer_count += 1
        heapq.heappush(self._timers, (due, self._timer_count, pod.ticket, pod, tp))
        self._arm()

    def _arm(self) -> None:
        if self._timers and self._timers[0][0] < self._armed_for - LIMITS.timer_grain_s:
            self._armed_for = self._timers[0][0]
            self._tasks.start(self._sleep_until(self._armed_for), f"{self.name} timers")

    async def _sleep_until(self, due: float) -> None:
        wait_s = due - self._clock.monotonic()
        await self._clock.sleep(max(wait_s, 0.0) + LIMITS.timer_grain_s)
        if self._armed_for == due:
            self._armed_for = float("inf")
        now = self._clock.monotonic()
        timers = self._timers
        while timers and timers[0][0] <= now:
            _, _, ticket, pod, tp = heapq.heappop(timers)
            if pod.ticket == ticket and not pod.node.failed:
                self._went_off(pod.home or tp, pod)
        self._arm()

    # What we owe a tenant partition goes out in batches: whatever waits while one is under way.

    def _owe(self, tp: _Tenants, pod: _Pod) -> None:
        tp.owed[pod] = None
        tp.wake.set()

    async def _write(self, tp: _Tenants) -> None:
        backoff = _Backoff(self._clock, self._ids)
        while True:
            await tp.wake.wait()
            tp.wake.clear()
            while tp.owed:
                pods = list(islice(tp.owed, LIMITS.statuses_per_batch_max))
                for pod in pods:
                    del tp.owed[pod]
                # One that is being stopped says nothing until it is deleted.
                pods = [p for p in pods if p.state in _REPORTED and not p.node.failed]
                if await self._write_batch(tp, pods):
                    backoff.reset()
                else:
                    await backoff.wait()

    async def _write_batch(self, tp: _Tenants, pods: list[_Pod]) -> bool:
        """False when some of it has to be written again, after a while."""
        calls = [self._call_for(tp, pod) for pod in pods]
        try:
            replies = await tp.client.write(calls)
        except errors.Failure as failure:
            log.info("%s: writing to %s: %s", self.name, tp.name, failure)
            self._owe_again(tp, pods)
            return False
        self._counts["writes"] += len(calls)
        refused = []
        for pod, reply in zip(pods, replies, strict=True):
            # Not found, or another uid by now: the watch tells us. The rest is tried again.
            if reply.code in _RETRIABLE:
                refused.append(pod)
            elif not reply.ok and reply.code not in (404, 409):
                log.warning("%s: %s: %s", self.name, pod.path, errors.decode(reply.body))
        self._owe_again(tp, refused)
        return not refused

    def _owe_again(self, tp: _Tenants, pods: Iterable[_Pod]) -> None:
        for pod in pods:
            if tp.pods.get(pod.path) is pod:
                self._owe(tp, pod)

    def _call_for(self, tp: _Tenants, pod: _Pod) -> Call:
        key = Key.from_path(pod.path)
        if pod.state == _STOPPED:
            call = tp.client.calling("delete", "pods", key)
            call.body = (
                b'{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0,'
                b'"preconditions":{"uid":"%b"}}' % pod.uid.encode()
            )
            return call
        call = tp.client.calling("patch", "pods", key, None, "status")
        call.body = self._status_patch(pod)
        call.content_type = "application/merge-patch+json"
        return call

    def _phase(self, pod: _Pod) -> str:
        if pod.state == _ENDED:
            return "Failed" if pod.exit_code else "Succeeded"
        return "Running"

    def _status_patch(self, pod: _Pod) -> bytes:
        """The whole of what a kubelet reports, as text: 3 us, against 9 for dicts and orjson."""
        node = pod.node
        ip = node.host_ip if pod.address < 0 else self._pod_ip(node, pod.address)
        running, last = "", "{}"
        if pod.restarts or pod.state == _ENDED:
            reason = "Error" if pod.exit_code else "Completed"
            began = pod.last_started_at if pod.state == _RUNNING else pod.started_at
            last = (
                f'{{"terminated":{{"exitCode":{pod.exit_code},"reason":"{reason}",'
                f'"startedAt":"{began}","finishedAt":"{pod.ended_at}"}}}}'
            )
        if pod.state == _ENDED:
            state, last, flags = last, "{}", '"ready":false,"started":false,'
        elif pod.state == _WAITING:
            state = '{"waiting":{"reason":"CrashLoopBackOff"}}'
            flags = '"ready":false,"started":false,'
        else:
            running = pod.started_at
            state = f'{{"running":{{"startedAt":"{running}"}}}}'
            flags = '"ready":true,"started":true,'
        since = f'"lastTransitionTime":"{running or pod.ended_at}"'
        if running:
            ready = f'"status":"True",{since}'
        else:
            why = "PodCompleted" if pod.state == _ENDED else "ContainersNotReady"
            ready = f'"status":"False","reason":"{why}",{since}'
        begun = f'"status":"True","lastTransitionTime":"{pod.started_at}"'
        scheduled = (
            f',{{"type":"PodScheduled","status":"True","lastTransitionTime":"{pod.scheduled_at}"}}'
            if pod.scheduled_at
            else ""
        )
        inits = (
            f',"initContainerStatuses":[{pod.shape.init_statuses(pod)}]' if pod.shape.inits else ""
        )
        return (
            f'{{"metadata":{{"uid":"{pod.uid}"}},"status":{{"phase":"{self._phase(pod)}",'
            f'"startTime":"{pod.accepted_at}","hostIP":"{node.host_ip}",'
            f'"hostIPs":[{{"ip":"{node.host_ip}"}}],"podIP":"{ip}","podIPs":[{{"ip":"{ip}"}}],'
            f'"conditions":[{{"type":"PodReadyToStartContainers",{begun}}},'
            f'{{"type":"Initialized",{begun}}},{{"type":"Ready",{ready}}},'
            f'{{"type":"ContainersReady",{ready}}}{scheduled}],'
            f'"containerStatuses":[{pod.shape.statuses(pod, state, flags, last)}]{inits}}}}}'
        ).encode()

    # Small tools.

    def _now(self) -> str:
        return _second(int(self._clock.now()))

    async def _try(
        self, what: Callable[[Client, list[_Node]], Any], client: Client, nodes: list[_Node]
    ) -> bool:
        try:
            await what(client, nodes)
        except errors.Failure as failure:
            log.warning("%s: %s: %s", self.name, what.__name__, failure)
            return False
        return True

    async def _insist(
        self, what: Callable[[Client, list[_Node]], Any], client: Client, nodes: list[_Node]
    ) -> None:
        backoff = _Backoff(self._clock, self._ids)
        while not await self._try(what, client, nodes):
            await backoff.wait()


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    """rfc3339 of a moment that thousands of pods share."""
    return rfc3339(second)


async def _log() -> AsyncIterator[bytes]:
    """One honest line, so that `kubectl logs` has something to show."""
    yield b"this container is simulated: it prints nothing\n"


def _batches(nodes: list[_Node], size: int) -> Iterable[list[_Node]]:
    return (nodes[i : i + size] for i in range(0, len(nodes), size))


def _in_turn(nodes: list[_Node], seconds: range, period: int) -> list[_Node]:
    """Those whose second of the period is among these: every one once a period."""
    return [
        node
        for second in seconds
        for node in nodes[second % period :: period]
        if node.registered and not node.failed
    ]


def _condition(kind: str, status: str, reason: str, now: str) -> dict[str, str]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": "simulated",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }


def _number(text: str | None, otherwise: float) -> float:
    try:
        return float(text) if text else otherwise
    except ValueError:
        return otherwise
