"""A whole region in a few seconds of its time: schedulers, controllers, nodes, and a bad day.

One seed draws the topology, the workload and the misfortunes. While it runs, every row that
reaches a disk is held against what must always be true; when all faults have ended, the region
must come to rest exactly where the tenants wanted it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import orjson
import pytest
from consistency import LOST, Played, Segment, View
from operating import Door, Operator, unfinished

from arktos_ray.actors.controller_shard import ControllerShard
from arktos_ray.actors.resource_partition import ResourcePartition
from arktos_ray.actors.scheduler import Scheduler
from arktos_ray.actors.streams import CALL, REQUEST, SUBSCRIBE
from arktos_ray.actors.tenant_partition import TenantPartition
from arktos_ray.api import custom, quantity, scheme
from arktos_ray.api.calls import DELETED, Call
from arktos_ray.api.errors import AlreadyExists, Expired, Failure, NotFound, decode
from arktos_ray.api.names import Key
from arktos_ray.apiserver.verbs.list import matcher
from arktos_ray.client.index import key_of
from arktos_ray.client.informer import Informer
from arktos_ray.client.port import Client
from arktos_ray.controllers.loop import Loop
from arktos_ray.controllers.scheduling.feed import Feed
from arktos_ray.store import store
from arktos_ray.store.port import Row
from arktos_ray.store.store import Store
from arktos_ray.store.watchcache import HistoryLimits
from arktos_ray.testing.sim import Faults, SimCluster
from arktos_ray.testing.simloop import LIFE, context_of

# Everything is forgotten within seconds: who was away for longer has to list again.
SHORT_MEMORY = HistoryLimits(age_ms_min=1_000, changes_max=60, changes_min=5)
POD_CPU, NODE_CPU = 100, 1_000  # millicores
# After the last fault: a lease that ran out, a reservation that nobody confirmed.
REST_S_MAX = 240.0
# What is asked when two decide something between them: who loses the answer, or forgets it, or
# comes too late with it, must not make the other wrong.
TELLING = {
    "reserve", "held", "release", "binding", "create pods", "delete pods", "get pods",
    "move-in", "move-cancel", "move-begin", "move-freeze", "move-depart", "export", "settled",
    "follow",
}  # fmt: skip
# What the parts say in their logs when they reach a state that is worth reaching.
STATES = {
    "no reservations from %s: %s": "reservation without an answer",
    "%d reservations at %s are carried on with": "reservation found after a lost answer",
    "binds without an answer: %s": "bind without an answer",
    "bind of %s failed: %s": "bind refused",
    "%d reservations were not confirmed in time": "reservation overdue",
    "unconfirmed reservations of %s stay: %s": "reservation that nobody could judge",
    "usage of %s: %s": "usage feed broken",
    "informer %s: %s": "informer disturbed",
    "feed of %s: %s": "feed disturbed",
    "%s %s: %s": "controller retried",
    "node %s: %s": "node silent",
    "%s: epoch %d, %d rows recovered": "partition recovered",
    "progress: %s": "progress not told",
}


class Truth:
    """What is durable, row by row, in the order of time over all disks; and what it must not be."""

    def __init__(self, sim: SimCluster) -> None:
        self.sim = sim
        self.problems: list[str] = []
        self.seen: set[int] = set()  # revisions
        self.pod_rows: dict[int, tuple[str, bool]] = {}  # revision -> path, deleted
        self.room: dict[str, int] = {}  # of a node
        self.taken: Counter[str] = Counter()  # on a node, by what is bound there
        self.homes: dict[str, str] = {}  # uid -> its node, for ever
        self.failed: set[str] = set()  # nodes that were ever made to fail
        self.active: Counter[tuple[str, str]] = Counter()  # (tenant, app) -> pods that count
        self.wanted_most: Counter[tuple[str, str]] = Counter()
        self._pods: dict[str, tuple[str, tuple[str, str] | None]] = {}  # uid -> node, workload
        self._cpu: dict[str, int] = {}
        self.past: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=15))

    def saw(self, row: Row) -> None:
        if row.revision in self.seen:
            return  # A tenant moved: its rows are on another disk as well.
        self.seen.add(row.revision)
        if row.gvr == "nodes":
            node = orjson.loads(row.body)
            self._saw_node(node["metadata"]["name"], node)
            self.room[node["metadata"]["name"]] = quantity.milli(
                node["status"]["allocatable"]["cpu"]
            )
        elif row.gvr == "pods":
            self.pod_rows[row.revision] = row.path, row.deleted
            self._saw_pod(row, orjson.loads(row.body))

    def pod_events(self, tenant: str, start: int, end: int) -> list[tuple[int, str, bool]]:
        """Every change of its pods after a revision, up to another: what a watch must tell."""
        return sorted(
            (revision, path, deleted)
            for revision, (path, deleted) in self.pod_rows.items()
            if start < revision <= end and path.startswith(f"{tenant}/")
        )

    def _saw_node(self, name: str, node: dict[str, Any]) -> None:
        for condition in node["status"].get("conditions") or ():
            unheard = condition["type"] == "Ready" and condition["status"] == "Unknown"
            if unheard and name not in self.failed:
                # Whoever could not hear it must not say so.
                self.problems.append(
                    f"at {self.sim.loop.virtual:.4f} s: {name} is called silent, and never was"
                )

    def _saw_pod(self, row: Row, pod: dict[str, Any]) -> None:
        meta, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
        uid, node, path = meta["uid"], spec.get("nodeName", ""), row.path
        phase = status.get("phase", "")
        going = bool(meta.get("deletionTimestamp"))
        said = "deleted" if row.deleted else f"{phase} on {node or '-'}{', going' * going}"
        self.past[path].append(f"{self.sim.loop.virtual:9.4f} {row.revision} {uid[:4]} {said}")
        was_on, workload = self._pods.pop(uid, ("", None))
        if was_on:
            self.taken[was_on] -= self._cpu[uid]
        if workload is not None:
            self.active[workload] -= 1
        if node and self.homes.setdefault(uid, node) != node:
            self._problem(f"{path} was on {self.homes[uid]} and is on {node}", path)
        finished = phase in ("Succeeded", "Failed")
        if row.deleted or finished:
            return
        disrupted = any(c["type"] == "DisruptionTarget" for c in status.get("conditions") or ())
        if disrupted:
            self.sim.counts["evicted"] += 1
        if disrupted and node not in self.failed:
            self._problem(f"{path} was evicted from {node}, which never failed", path)
        app = (meta.get("labels") or {}).get("app")
        workload = (meta["tenant"], app) if app and not going else None
        if workload is not None:
            self.active[workload] += 1
            if self.active[workload] > self.wanted_most[workload]:
                self._problem(
                    f"{app} has {self.active[workload]} pods,"
                    f" and at most {self.wanted_most[workload]} were ever wanted", path,
                )  # fmt: skip
        self._pods[uid] = (node, workload)
        if node:
            self._cpu[uid] = sum(
                quantity.milli(c["resources"]["requests"]["cpu"]) for c in spec["containers"]
            )
            self.taken[node] += self._cpu[uid]
            if self.taken[node] > self.room.get(node, 0):
                self._problem(f"{node} holds {self.taken[node]}m of {self.room.get(node)}m", path)

    def _problem(self, text: str, path: str) -> None:
        past = "\n    ".join(self.past[path])
        self.problems.append(f"at {self.sim.loop.virtual:.4f} s: {text}\n    {past}")

    def check(self) -> None:
        assert not self.problems, self.problems[0]


class Acting:
    """Which controllers work on which keys: each key has one at a time, over all shards."""

    def __init__(self, sim: SimCluster, truth: Truth) -> None:
        self._sim, self._truth = sim, truth
        self._busy: dict[tuple[str, str, Any], str] = {}

    def wrap(self, loop: Loop[Any]) -> None:
        real, life = loop._reconcile, LIFE.get()
        partition = loop._gates[0]._client.caller.name if loop._gates else ""  # type: ignore[attr-defined]
        assert life is not None

        async def reconcile(key: Any) -> float | None:
            what = (loop.name, partition, key)
            other, began = self._busy.get(what), self._sim.loop.time()
            self._busy[what] = life.name
            try:
                return await real(key)
            finally:
                # Who looks at a key that is not its own, and lets it be, waits for nothing.
                waited = self._sim.loop.time() > began
                if waited and other is not None and self._is_alive(other):
                    self._truth.problems.append(
                        f"{what}: {life.name} and {other} work on it at once"
                    )
                if self._busy.get(what) == life.name:
                    del self._busy[what]

        loop._reconcile = reconcile

    def _is_alive(self, name: str) -> bool:
        process = self._sim.processes[name.partition("#")[0]]
        return process.part is not None and process.life.name == name


class _States(logging.Handler):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__(logging.INFO)
        self._counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        state = STATES.get(str(record.msg))
        if state is not None:
            self._counts[state] += 1


@contextlib.contextmanager
def _counting_states(counts: Counter[str]) -> Iterator[None]:
    logger, handler = logging.getLogger("arktos_ray"), _States(counts)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
        logger.setLevel(before[0])


class Region:
    """The topology, the tenants' wishes, and the driver of a run."""

    def __init__(self, seed: int, *, like: str = "") -> None:
        rng = self.rng = random.Random(f"region {seed}")
        self.tps = rng.choice((1, 1, 2, 2, 3))
        self.rps = rng.choice((1, 1, 2, 2, 3))
        self.shards = rng.choice((1, 1, 2, 3))
        # Crowded: more is wanted than there is room for, so that a wrong grant shows at once.
        self.crowded = rng.random() < 0.4 if not like else like == "crowded"
        self.nodes = 3 if self.crowded else rng.randrange(3, 8)
        # A long day: nodes fail, and pods leave them; a resource partition may be away for long.
        self.long = rng.random() < 0.25 if not like else like == "long"
        self.from_start = rng.random() < 0.3
        self.forgetful = rng.random() < 0.5 if not like else like == "forgetful"
        self.mode = rng.choice(("kubemark", "instant"))
        faults = Faults(
            reset_chance=rng.choice((0.0, 0.001, 0.005, 0.02)),
            late_chance=rng.choice((0.0, 0.0, 0.005)),
            restart_s=rng.choice((0.1, 0.5, 1.5)),
            # Over a slow network views are old: what acts on them too early shows.
            network_delay_s=rng.choice(((0.0001, 0.002), (0.005, 0.08))),
            disk_delay_s=rng.choice(((0.0005, 0.005), (0.001, 0.03))),
        )  # fmt: skip
        self.sim = SimCluster(
            seed, tenant_partitions=self.tps, resource_partitions=self.rps, nodes=self.nodes,
            shards=self.shards, faults=faults, mode=self.mode,
        )  # fmt: skip
        self.truth = Truth(self.sim)
        self.tenants = {f"t{i + 1}": f"tp-{i + 1}" for i in range(self.tps)}
        # Partitions come and go, and tenants move.
        self.operated = rng.random() < 0.3 if not like else like == "operated"
        self.door = Door(self.sim, self.tenants)
        self.follower_of = {tenant: Follower(self, tenant) for tenant in self.tenants}
        # How likely something happens to two who are just deciding something between them.
        self.pinches = rng.choice((0.0, 0.02, 0.1)) if like != "pinched" else 0.15
        self.wanted: dict[tuple[str, str], int] = {}
        self.left = self.nodes * NODE_CPU // POD_CPU * 7 // 10  # replicas that may still be wanted
        self.operations = 0
        self.calm = False
        self.settled: set[str] = set()  # tenants that are there, and may be moved

    # What the tenants do.

    async def insist(self, work: Callable[[], Awaitable[Any]], *fine: type[Failure]) -> None:
        """Until there is an answer: each of these may be repeated."""
        while True:
            self.operations += 1
            try:
                await work()
                return
            except fine:
                return
            except Failure:
                await asyncio.sleep(0.1)

    async def make_tenant(self, tenant: str, client: Client) -> None:
        body = {"metadata": {"name": tenant}, "spec": {"storageClusterId": "0"}}
        await self.insist(lambda: client.create("tenants", "", "", body), AlreadyExists)
        account = Key(tenant, "default", "default")
        await self.insist(lambda: client.get("serviceaccounts", account))

    async def live(self, tenant: str, span_s: float) -> None:
        """One tenant's day: Deployments come, grow, shrink and go; some pods stand alone."""
        if self.operated:
            client = self.door.client()
        else:
            client = self.sim.client(self.tenants[tenant], name=tenant)
        await self.make_tenant(tenant, client)
        self.settled.add(tenant)
        rng = random.Random(f"{self.sim.seed} {tenant}")
        count = rng.randrange(8, 20)
        single = 0
        singles: list[str] = []
        for step in range(count):
            await asyncio.sleep(rng.uniform(0, 2 * span_s / count))
            mine = [name for of, name in self.wanted if of == tenant]
            choice = rng.uniform(0, 1) if not self.crowded else rng.choice((0.1, 0.8, 0.8, 0.95))
            if choice < 0.35 or not mine:
                await self.deploy(client, tenant, f"d{step}", rng.randrange(1, 9))
            elif choice < 0.6:
                await self.scale(client, tenant, rng.choice(mine), rng.randrange(0, 10))
            elif choice < 0.7:
                await self.undeploy(client, tenant, rng.choice(mine))
            elif choice < 0.9:
                names = [f"s{single + i}" for i in range(rng.randrange(1, 5 + 3 * self.crowded))]
                single += len(names)
                singles += names
                await self.make_singles(client, tenant, names, rng.choice(("300m", "600m")))
            elif singles:
                await self.end_single(client, tenant, singles.pop(rng.randrange(len(singles))))
        for name in singles:
            await self.end_single(client, tenant, name)

    def _wish(self, tenant: str, name: str, replicas: int) -> int:
        had = self.wanted.get((tenant, name), 0)
        replicas = min(replicas, had + self.left)
        self.left -= replicas - had
        self.wanted[tenant, name] = replicas
        most = self.truth.wanted_most
        most[tenant, name] = max(most[tenant, name], replicas)
        return replicas

    async def deploy(self, client: Client, tenant: str, name: str, replicas: int) -> None:
        replicas = self._wish(tenant, name, replicas)
        spec: dict[str, Any] = {"containers": [_container(f"{POD_CPU}m")]}
        if self.long:
            spec["tolerations"] = [
                {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute",
                 "tolerationSeconds": 2} for key in ("not-ready", "unreachable")
            ]  # fmt: skip
        labels = {"app": name}
        body = {
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }
        await self.insist(
            lambda: client.create("deployments.apps", tenant, "default", body), AlreadyExists
        )

    async def scale(self, client: Client, tenant: str, name: str, replicas: int) -> None:
        replicas = self._wish(tenant, name, replicas)
        key, patch = Key(tenant, "default", name), {"spec": {"replicas": replicas}}
        await self.insist(lambda: client.patch("deployments.apps", key, patch))

    async def undeploy(self, client: Client, tenant: str, name: str) -> None:
        self.left += self.wanted.pop((tenant, name))
        key = Key(tenant, "default", name)
        await self.insist(lambda: client.delete("deployments.apps", key), NotFound)

    async def make_singles(self, client: Client, tenant: str, names: list[str], cpu: str) -> None:
        calls = [
            client.creating(
                "pods", tenant, "default",
                {"metadata": {"name": name}, "spec": {"containers": [_container(cpu)]}},
            )
            for name in names
        ]  # fmt: skip

        async def make() -> None:
            # One batch; whatever was there already is from a try without an answer.
            for reply in await client.write(calls):
                if not reply.ok and reply.code != AlreadyExists.code:
                    raise decode(reply.body)

        await self.insist(make)

    async def end_single(self, client: Client, tenant: str, name: str) -> None:
        key = Key(tenant, "default", name)
        await self.insist(lambda: client.delete("pods", key), NotFound)

    # What happens to them all.

    def misfortune(self) -> None:
        sim, rng = self.sim, self.rng
        names = list(sim.processes)
        name = rng.choice(names)
        partition = rng.choice([n for n in names if n.startswith(("tp-", "rp-"))])
        tps = list(sim.topology.names("tenant"))
        # Nodes that fell silent for 40 s are lost, and rightly so: nobody else may make them so.
        is_host = name.startswith("simulated-")
        kind = rng.choices(
            ("crash", "twice", "stall", "replace", "cut", "full", "broken", "slow", "clock",
             "node", "away", "blind", "estranged"),
            (22, 8, 10, 8, 10, 6, 4, 6, 6, 10 if self.long else 4, 6 if self.long else 0, 8,
             20 if self.forgetful else 4),
        )[0]  # fmt: skip
        if kind == "crash":
            sim.crash(name)
        elif kind == "twice":
            # Once more while it recovers, or starts, or lists what it has to know.
            sim.crash(name)
            again = sim.faults.restart_s + rng.choice((0.0001, 0.002, 0.01, 0.1)) * rng.random()
            sim.loop.call_later(again, sim.crash, name)
        elif kind == "stall":
            sim.stall(name, rng.choice((0.1, 1.0, 5.0, 1.0 if is_host else 30.0)) * rng.random())
        elif kind == "replace":
            sim.stall(name, 60.0)
            sim.loop.call_later(rng.uniform(0.1, 3.0 if is_host else 12.0), sim.replace, name)
        elif kind == "cut":
            # Whoever talks to a partition is cut off from it.
            others = [n for n in names if n != partition and not n.startswith("tp-")]
            other = rng.choice([*others, *self.tenants])
            sim.cut(other, partition, rng.choice((0.2, 2.0, 5.0)) * rng.random())
        elif kind == "blind":
            # A resource partition comes back, and cannot hear of what is bound on its nodes.
            victim = rng.choice([n for n in names if n.startswith("rp-")])
            for other in rng.sample(tps, rng.randrange(1, len(tps) + 1)):
                sim.cut(other, victim, sim.faults.restart_s + rng.uniform(0.5, 4.0))
            sim.crash(victim)
        elif kind == "estranged":
            # A follower hears nothing of a partition for longer than its history.
            follower = rng.choice([n for n in names if not n.startswith("tp-")])
            sim.cut(follower, rng.choice(tps), rng.uniform(1.5, 4.0), lost=1.0)
        elif kind == "full":
            sim.fill_disk(partition, rng.randrange(1, 6))
        elif kind == "broken":
            sim.break_disk(partition, rng.randrange(1, 4))
        elif kind == "slow":
            sim.slow_disk(partition, rng.uniform(2, 50), rng.uniform(0.2, 3.0))
        elif kind == "clock":
            sim.step_clock(
                name, rng.choice((-1, 1)) * rng.choice((0.5, 30.0, 120.0)) * rng.random()
            )
        elif kind == "away":
            sim.counts["resource partition away for long"] += 1
            victim = rng.choice([n for n in names if n.startswith("rp-")])
            sim.crash(victim, restart=False)
            sim.loop.call_later(rng.uniform(41, 60), sim.start, victim)
        else:
            self.fail_node()

    def overheard(self, connection: Any, frame: list[Any]) -> None:
        """Somebody asks somebody: a moment at which a misfortune tells."""
        kind, _, payload = frame
        if kind in (REQUEST, SUBSCRIBE):
            what = str(payload[0])
        elif kind == CALL:
            verb, gvr, subresource = payload[0][0], payload[0][1], payload[0][5]
            what = subresource or f"{verb} {gvr}"
        else:
            return
        if what in TELLING and self.rng.random() < self.pinches:
            asker, answerer = connection.names
            after = self.rng.choice((0.0, 0.002, 0.02)) * self.rng.random()
            self.sim.loop.call_later(
                after, self.pinch, what, asker, answerer, connection, context=context_of(None)
            )

    def pinch(self, what: str, asker: str, answerer: str, connection: Any) -> None:
        """Something happens to who asks, to who is asked, or between them."""
        sim, rng = self.sim, self.rng
        if self.calm or answerer not in sim.processes:
            return
        is_tp = answerer.startswith("tp-")
        kinds = ["lost", "answerer", "asker", "deaf"]
        if is_tp:
            # Nobody knows whether it happened, and for a while it has not; or it is refused.
            kinds += ["slow", "full"]
        if what == "binding":
            kinds.append("forgotten")
        kind = rng.choice(kinds)
        sim.counts[f"pinched: {what}"] += 1
        sim.note(f"{asker} asks {answerer}: {what}; {kind}")
        if kind == "slow":
            sim.slow_disk(answerer, rng.uniform(5, 50), rng.uniform(0.2, 1.0))
            connection.break_off()
        elif kind == "full":
            sim.fill_disk(answerer, rng.randrange(1, 3))
        elif kind == "forgotten":
            # While it is on its way to the disk, a ledger begins anew, and knows what is there.
            sim.slow_disk(answerer, rng.uniform(5, 50), rng.uniform(0.2, 1.0))
            sim.crash(rng.choice(sim.topology.names("resource")))
        elif kind == "answerer":
            sim.crash(answerer)
        elif kind == "asker" and asker in sim.processes:
            sim.crash(asker)
        elif kind == "deaf" and asker in sim.processes:
            # It stands still with the answer at its door, while who gave it forgets.
            is_host = asker.startswith("simulated-")
            sim.stall(asker, rng.uniform(0.2, 1.0 if is_host else 6.0))
            sim.loop.call_later(rng.uniform(0.0, 0.2), sim.crash, answerer)
        else:
            connection.break_off()

    def fail_node(self) -> None:
        part = self.sim.processes["simulated-1"].part
        if part is None or not hasattr(part, "nodes"):
            return
        node = f"sim-{self.rng.randrange(self.nodes)}"
        self.sim.counts["node fails"] += 1
        self.sim.note(f"{node} fails")
        self.truth.failed.add(node)
        part.nodes.fail([node])
        for_s = self.rng.uniform(1, 90 if self.long else 10)
        self.sim.loop.call_later(for_s, self._recover_node, node)

    def _recover_node(self, node: str) -> None:
        part = self.sim.processes["simulated-1"].part
        if part is not None and hasattr(part, "nodes"):
            self.sim.note(f"{node} is back")
            part.tasks.start(_quietly(part.nodes.recover([node])), "recover")

    # The run.

    def run(self) -> None:
        sim, truth = self.sim, self.truth
        for name in sim.processes:
            self.listen(name)
        if self.pinches:
            sim.on_asked = self.overheard
        span_s = self.rng.uniform(60, 120) if self.long else self.rng.uniform(3, 10)
        work = [sim.loop.create_task(self.live(tenant, span_s)) for tenant in self.tenants]
        following = [sim.loop.create_task(each.run()) for each in self.follower_of.values()]
        if self.operated:
            work.append(sim.loop.create_task(self.operate(span_s)))
        try:
            if not self.from_start:
                sim.run_until(lambda: bool(self.wanted))
            ends = sim.loop.virtual + span_s
            while sim.loop.virtual < ends:
                sim.run_for(self.rng.uniform(0.01, 0.3) * span_s / 2)
                self.misfortune()
                truth.check()
            self.calm = True
            sim.heal()
            if self.operated:
                # A tenant that comes to a clock that is far behind waits until that is there.
                for process in sim.processes.values():
                    process.clock.offset = 0.0
            for node in range(self.nodes):
                sim.loop.call_later(0.5, self._recover_node, f"sim-{node}")
            self._wait(lambda: all(task.done() for task in work), "the tenants are done")
            for task in work:
                task.result()
            if self.operated:
                self._wait(lambda: not self.unfinished(), "every move is over")
            self._wait(self.is_at_rest, "every Deployment has exactly its pods")
            self._wait(self.are_books_closed, "the ledgers say what is bound")
            self._wait(lambda: not self.wrong_views(), "everybody sees what there is")
            sim.run_for(5)
            truth.check()
            assert self.is_at_rest(), self.why_not()
            assert self.are_books_closed(), self.books()
            assert not self.unfinished(), self.unfinished()
            for task in following:
                assert not task.done(), task.exception()
            for each in self.follower_of.values():
                each.check()
            if self.operated:
                self.check_restart()
            else:
                self.check_replay()
        finally:
            for task in (*work, *following):
                task.cancel()
            sim.loop.run_until_complete(asyncio.gather(*work, *following, return_exceptions=True))
            sim.loop.run_until_complete(self.door.tasks.close())

    def listen(self, name: str) -> None:
        self.sim.processes[name].disk.listeners.append(self.truth.saw)

    async def operate(self, span_s: float) -> None:
        while len(self.settled) < len(self.tenants):
            await asyncio.sleep(0.1)
        operator = Operator(self.sim, self.door, list(self.tenants), self.mode, self.listen)
        await operator.work(span_s)

    def unfinished(self) -> str:
        return unfinished(self.sim, list(self.tenants))

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        try:
            self.sim.run_until(condition, REST_S_MAX, every_s=0.3)
        except TimeoutError:
            self.truth.check()
            raise AssertionError(
                f"{REST_S_MAX:.0f} s after the last fault it is not so that {what}:"
                f" {self.why_not()}; {self.books()}; {self.unfinished()}; {self.wrong_views()}"
            ) from None
        self.truth.check()

    def pods(self) -> dict[tuple[str, str], list[str]]:
        found: dict[tuple[str, str], list[str]] = {key: [] for key in self.wanted}
        for pod in self.sim.objects("pods"):
            meta = pod["metadata"]
            going = ", going" if meta.get("deletionTimestamp") else ""
            app = (meta.get("labels") or {}).get("app", meta["name"])
            state = f"{pod['status']['phase']}{going}"
            found.setdefault((meta["tenant"], app), []).append(state)
        return found

    def is_at_rest(self) -> bool:
        pods = self.pods()
        return all(
            states == ["Running"] * self.wanted.get(key, 0) for key, states in pods.items()
        ) and all(process.started for process in self.sim.processes.values())

    def why_not(self) -> str:
        return "; ".join(
            f"{key}: wanted {self.wanted.get(key, 0)}, has {dict(Counter(states))}"
            for key, states in self.pods().items()
            if states != ["Running"] * self.wanted.get(key, 0)
        )

    def books(self) -> str:
        """How the ledgers differ from what is bound."""
        wrong = []
        for name, process in self.sim.processes.items():
            part = process.part
            if not isinstance(part, ResourcePartition) or not hasattr(part, "reservations"):
                continue
            ledger = part.reservations.ledger
            waiting = len(ledger._unconfirmed)
            if waiting:
                wrong.append(f"{name} has {waiting} reservations that nobody confirmed")
            for node in self.truth.room:
                for usage in ledger.usage_of([node]):
                    booked = usage.amounts.get("cpu", 0)
                    if booked != self.truth.taken[node]:
                        wrong.append(f"{node}: booked {booked}, bound {self.truth.taken[node]}")
        return "; ".join(wrong)

    def are_books_closed(self) -> bool:
        return not self.books()

    def wrong_views(self) -> str:
        """Whoever keeps a view of a partition sees what is there, soon."""
        for name, process in self.sim.processes.items():
            part: Any = process.part
            if isinstance(part, ControllerShard) and process.started:
                for known in part.controllers._known.values():
                    for neighbour in known.values():
                        for informer in neighbour.informers._informers.values():
                            wrong = self._wrong_in(informer)
                            if wrong:
                                return f"{name} sees {wrong}"
            elif isinstance(part, Scheduler) and process.started:
                store = self._store(part.spec["tenant_partition"])
                if store is None:
                    continue
                there = {record.path for record in store.table("pods").range()}
                differ = there ^ set(part.scheduling._uids)
                if differ:
                    return f"{name} sees pods that are not there, or not all: {differ}"
                nodes = {node for node in part.scheduling._nodes.names if node}
                if nodes != set(self.truth.room):
                    return f"{name} sees the nodes {nodes}"
        return ""

    def _store(self, partition: str) -> Store | None:
        process = self.sim.processes[partition]
        part: Any = process.part
        return part.store if process.started else None

    def _wrong_in(self, informer: Informer) -> str:
        partition = informer._client.caller.name  # type: ignore[attr-defined]
        store = self._store(partition)
        if store is None:
            return ""
        call = Call("list", informer.gvr, "all", options=informer._selectors)
        known = scheme.BY_GVR.get(informer.gvr)
        match = matcher(call, custom.unknown(informer.gvr) if known is None else known)
        # The status of a node ages by itself, and is told a moment later.
        exact = informer.gvr != "nodes"
        there = {
            (record.path, str(record.revision) if exact else "")
            for record in store.table(informer.gvr).range()
            if match is None or match(record)
        }
        seen = {
            (key_of(obj).path(), obj["metadata"]["resourceVersion"] if exact else "")
            for obj in informer.index
        }
        wrong = sorted(seen ^ there)
        return f"{informer.gvr} of {partition} not as they are: {wrong[:4]}" if wrong else ""

    def check_restart(self) -> None:
        """What a partition holds it holds after a restart (rows of who moved lie in two logs)."""
        sim = self.sim
        names = sim.topology.names("tenant")
        before = {name: self.held(name) for name in names}
        for name in names:
            sim.crash(name)
        sim.run_until(lambda: all(sim.processes[name].started for name in names))
        for name in names:
            assert self.held(name) == before[name], f"{name} is not what it was before it restarted"

    def held(self, name: str) -> dict[tuple[str, str], int]:
        store = self.sim.part(name).store  # type: ignore[attr-defined]
        gvrs = [gvr for gvr in store.counts() if gvr not in scheme.VOLATILE]
        return {(gvr, r.path): r.revision for gvr in gvrs for r in store.table(gvr).range()}

    def check_replay(self) -> None:
        """What each partition holds is what its log says."""
        for name, process in self.sim.processes.items():
            part = process.part
            if not isinstance(part, TenantPartition):
                continue
            newest = {}
            for revision in sorted(process.disk.rows):
                row = process.disk.rows[revision]
                newest[row.gvr, row.path] = row
            replayed = hashlib.sha256()
            for (gvr, path), row in sorted(newest.items()):
                if not row.deleted:
                    replayed.update(f"{gvr} {path} {row.revision} ".encode() + row.body)
            held = hashlib.sha256()
            gvrs = sorted(gvr for gvr in part.store.counts() if gvr not in scheme.VOLATILE)
            for gvr in gvrs:
                for record in part.store.table(gvr).range():
                    held.update(f"{gvr} {record.path} {record.revision} ".encode() + record.body)
            assert held.digest() == replayed.digest(), f"{name} is not what its log says"


class Follower:
    """Lists the pods of one tenant, then watches them, wherever it lives; resumes, and lists again
    when it is told Expired."""

    def __init__(self, region: Region, tenant: str) -> None:
        self._region, self._tenant = region, tenant
        self._segments: list[Segment] = []

    async def run(self) -> None:
        client = self._region.door.client()
        rng = random.Random(f"follower {self._region.sim.seed} {self._tenant}")
        while True:
            try:
                _, start = await client.list("pods", tenant=self._tenant)
                segment = Segment(View(self._tenant, ""), start, position=start)
                self._segments.append(segment)
                while True:
                    with contextlib.suppress(*LOST):
                        async for events in client.watch(
                            "pods", tenant=self._tenant, resourceVersion=str(segment.position)
                        ):
                            for event in events:
                                assert event.revision > segment.position, "a watch goes back"
                                segment.position = event.revision
                                told = event.revision, event.type, event.path, ""
                                segment.events.append(told)
                    await asyncio.sleep(rng.choice((0.05, 0.05, 2.5)))
            except Expired:
                segment.ended = True
            except Failure:
                await asyncio.sleep(0.2)

    def check(self) -> None:
        for segment in self._segments:
            end = segment.position if segment.ended else 1 << 62
            expected = self._region.truth.pod_events(self._tenant, segment.start, end)
            told = [(revision, path, kind == DELETED) for revision, kind, path, _ in segment.events]
            assert told == expected, (
                f"a watch of {self._tenant} from {segment.start}: told and not so, or so and not"
                f" told: {sorted(set(told) ^ set(expected))[:5]}"
            )


async def _quietly(work: Awaitable[Any]) -> None:
    with contextlib.suppress(*LOST):
        await work


def _container(cpu: str) -> dict[str, Any]:
    return {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}


def play(seed: int, *, like: str = "") -> Played:
    """A region's day; an AssertionError says what should not have been.

    like: `long`, `crowded`, `forgetful`, `operated` or `pinched`, whatever the seed would say.
    """
    region = Region(seed, like=like)
    sim = region.sim
    with pytest.MonkeyPatch.context() as patch, _counting_states(sim.counts):
        if region.forgetful:
            patch.setattr(store, "HistoryLimits", lambda: SHORT_MEMORY)
            patch.setattr(store, "_BACKLOG_CHANGES_MAX", 8)
            patch.setattr(store, "_COMPACT_INTERVAL_S", 0.7)
        _count_relists(patch, sim.counts)
        acting = Acting(sim, region.truth)
        starting = Loop.start

        def start(self: Loop[Any]) -> None:
            acting.wrap(self)
            starting(self)

        patch.setattr(Loop, "start", start)
        with sim:
            region.run()
            for process in sim.processes.values():
                sim.counts["crash with a commit under way"] += process.disk.crashes_with_pending
                sim.counts["torn record at a crash"] += process.disk.crashes_torn
                sim.counts["unacknowledged commit that survived"] += process.disk.survivors
                scheduling = getattr(process.part, "scheduling", None)
                if scheduling is not None:
                    sim.counts["reservation refused"] += scheduling.counters.refused
                    sim.counts["bound"] += scheduling.counters.bound
            rows = sum(len(process.disk.rows) for process in sim.processes.values())
            return Played(dict(sim.counts), region.operations + rows, sim.loop.virtual)


def _count_relists(patch: pytest.MonkeyPatch, counts: Counter[str]) -> None:
    beginning, listing = Informer._initial, Feed._list

    def initial(self: Informer, batch: list[Any], present: set[Any]) -> tuple[list[Any], bool]:
        known = self.is_synced
        rest, listed = beginning(self, batch, present)
        counts["informer began anew after Expired"] += known and listed
        return rest, listed

    async def listed(self: Feed) -> int:
        if self.is_synced:
            counts["feed relisted after Expired"] += 1
        return await listing(self)

    patch.setattr(Informer, "_initial", initial)
    patch.setattr(Feed, "_list", listed)
