"""Supervisor: starts the other actors, asks each how it is, kills those that hang, and tells all.

Level-triggered: every round looks at what is and closes the gap to the cast of the topology, so
its own restart needs nothing but the topology that is kept. Ray restarts a process that ended; a
process that stopped or hangs is never noticed by Ray, so it is killed here.

It alone changes the topology: keeps the new one, then tells everybody (docs/flows/topology.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from arktos_ray.actors import move_requests, usage_requests
from arktos_ray.actors.cast import SUPERVISOR, Actor
from arktos_ray.actors.part import Part, Spec, Surroundings
from arktos_ray.actors.topology import TopologyStore
from arktos_ray.api.errors import BadRequest, Conflict, Failure, NotFound, Unavailable
from arktos_ray.base import processes
from arktos_ray.store.port import Fenced
from arktos_ray.tenancy.topology import DRAINING, PartitionRow, Topology

log = logging.getLogger(__name__)

# Counters in `stats` that are told as rates as well.
_RATES = ("calls", "commits", "rows", "requests", "writes", "placed", "bound", "events")
_RATE_WINDOW_S = 5.0
# Watches over all tenants that lag still read in a partition what its tenants did before they left.
_PAST_S = 10.0
# An actor of a machine that is not there any more keeps `arktos status` waiting no longer.
_FOOTPRINT_DEADLINE_S = 1.0


# What an operator may ask for, and who does it.
_OPERATIONS = {
    "partition-add": "_partition_add",
    "partition-drain": "_partition_drain",
    "partition-remove": "_partition_remove",
    "simulate-add": "_fleet_add",
    "simulate-remove": "_fleet_remove",
}


class Restarting(Unavailable):
    """Its process ended, and Ray is starting another."""


class Fleet(Protocol):
    """The actors as processes, whatever runs them. Every method may raise Unavailable."""

    async def start(self, actor: Actor) -> None:
        """Start it under its name, restarted whenever it ends; nothing when it is there."""

    async def report(self, name: str, deadline_s: float) -> dict[str, Any]:
        """{pid, ready, stats, failure, machine}. NotFound when nobody has that name."""

    async def stop(self, name: str, grace_s: float) -> None:
        """Close it and end it for good."""

    async def kill(self, name: str) -> bool:
        """End its process, so that another takes its name. False when there is none."""


@dataclass(slots=True)
class Watched:
    """One actor as the rounds saw it."""

    actor: Actor
    state: str = "absent"  # absent | starting | running | restarting | silent
    pid: int = 0
    told: int = 0  # the version of the topology that it works by
    since: float = 0.0  # monotonic: when this process was first seen
    restarts: int = 0
    failures: int = 0
    failure: str = ""
    machine: str = ""  # the address of where it was last seen
    stats: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    _counted: tuple[float, dict[str, Any]] | None = None

    def reported(self, report: dict[str, Any], now: float) -> None:
        if report["pid"] != self.pid:
            if self.pid:
                self.restarts += 1
            self.pid, self.since, self._counted, self.rates = report["pid"], now, None, {}
        self.state = "running" if report["ready"] else "starting"
        self.told = report.get("told", 0)
        self.failures = 0
        self.failure = report.get("failure", "")
        self.machine = report.get("machine", "")
        if report.get("stats"):
            self.stats = report["stats"]
            self._count(now)

    def silent(self, message: str) -> None:
        """No answer: it restarts, or it hangs."""
        if self.state != "starting":
            self.state = "silent"
        self.failures += 1
        self.failure = message

    def restarting(self, message: str) -> None:
        self.state, self.failures, self.failure = "restarting", 0, message

    def _count(self, now: float) -> None:
        if self._counted is None:
            self._counted = (now, self.stats)
            return
        before, counts = self._counted
        if now - before >= _RATE_WINDOW_S:
            self.rates = {
                key: round(max(0, self.stats[key] - counts[key]) / (now - before), 1)
                for key in _RATES
                if isinstance(self.stats.get(key), int) and isinstance(counts.get(key), int)
            }
            self._counted = (now, self.stats)


def hangs(watched: Watched, now: float, failures_max: int, start_deadline_s: float) -> str | None:
    """Why its process should be killed; None when it should not."""
    if watched.state == "starting" and now - watched.since > start_deadline_s:
        return f"not ready after {start_deadline_s:g} s"
    if watched.state == "silent" and watched.failures >= failures_max:
        return f"no answer {watched.failures} times"
    return None


class Supervisor(Part):
    """Spec adds: cluster (told in `status`), health {...}.

    cast: which actors a topology needs. store: where the topology is kept; what it has counts.
    """

    role = "supervisor"

    def __init__(
        self, spec: Spec, surroundings: Surroundings, fleet: Fleet, store: TopologyStore,
        cast: Callable[[Topology], list[Actor]],
    ) -> None:  # fmt: skip
        super().__init__(spec, surroundings)
        self._fleet, self._store, self._cast = fleet, store, cast
        self._watched = {actor.name: Watched(actor) for actor in cast(self.topology)}
        self._health: dict[str, float] = spec["health"]
        self._draining = False
        self._changing = asyncio.Lock()
        # tenant partition -> the version that it knows, and at which of its revisions.
        self._acks: dict[str, tuple[int, int]] = {}

    async def open(self) -> None:
        self.tasks.start(self._rounds(), "rounds")

    async def _rounds(self) -> None:
        while not self._draining:
            await asyncio.gather(*(self._look_after(w) for w in self._watched.values()))
            await self.clock.sleep(self._health["period_s"])

    async def _look_after(self, watched: Watched) -> None:
        """One actor, one round. Nothing that happens to one keeps the others waiting for ever."""
        name = watched.actor.name
        try:
            report = await self._fleet.report(name, self._health["deadline_s"])
            if watched.pid and report["pid"] != watched.pid:
                log.warning("%s: process %d took over", name, report["pid"])
            watched.reported(report, self.clock.monotonic())
            await self._tell(watched)
        except NotFound:
            watched.state = "absent"
            await self._start(watched)
        except Restarting as failure:
            watched.restarting(failure.message)
        except Failure as failure:
            watched.silent(failure.message)
        why = hangs(
            watched, self.clock.monotonic(), int(self._health["failures_max"]),
            self._health["start_deadline_s"],
        )  # fmt: skip
        if why is not None and not self._draining:
            await self._kill(watched, why)

    async def _kill(self, watched: Watched, why: str) -> None:
        name = watched.actor.name
        try:
            # Without a process it is still on its way: Ray starts as many at once as it has cores.
            if await self._fleet.kill(name):
                log.error("%s: %s; its process was killed", name, why)
                watched.restarting(why)
        except Failure as failure:
            log.warning("kill %s: %s", name, failure)

    async def _start(self, watched: Watched) -> None:
        if self._draining or self._watched.get(watched.actor.name) is not watched:
            return  # It is not wanted any more.
        try:
            await self._fleet.start(watched.actor)
        except Failure as failure:
            log.warning("start %s: %s", watched.actor.name, failure)

    # The topology

    async def _tell(self, watched: Watched) -> None:
        """The topology, when it does not work by it yet. Tenant partitions first: an ingress may
        go over only when all of them refuse what was decided by an older one."""
        name, version = watched.actor.name, self.topology.version
        if watched.state != "running" or self._draining:
            return
        partition = watched.actor.role == "tenant partition"
        knows = watched.told >= version and (not partition or self._ack(name) >= version)
        if knows or (watched.actor.role == "ingress" and not self._acknowledged):
            return
        acks = {each: revision for each, (_, revision) in self._acks.items()}
        payload = {"topology": self.topology.pack(), "acks": acks}
        try:
            async with asyncio.timeout(self._health["deadline_s"]):
                revision = await self.peer(name).request("follow", payload)
        except (Failure, TimeoutError) as failure:
            log.info("%s does not know topology %d yet: %s", name, version, failure)
            return
        watched.told = version
        if partition:
            self._acks[name] = (version, revision)

    def _ack(self, name: str) -> int:
        return self._acks.get(name, (0, 0))[0]

    @property
    def _acknowledged(self) -> bool:
        names = self.topology.names("tenant")
        return all(self._ack(name) >= self.topology.version for name in names)

    def _late(self) -> list[list[str]]:
        """[name, state] of everybody who does not work by the topology that counts yet."""
        version = self.topology.version
        return [
            [name, w.state]
            for name, w in self._watched.items()
            if w.state != "running" or w.told < version
        ]

    async def _change(self, topology: Topology) -> None:
        """Keep it, start who is new, tell everybody that answers now; the rounds do the rest."""
        try:
            await asyncio.to_thread(self._store.save, topology)
        except Fenced as fenced:
            # Another one works with another topology: what we hold is the past.
            self._surroundings.crash(fenced)
            raise
        log.info(
            "topology %d: %s", topology.version, ", ".join(r.name for r in topology.partitions)
        )
        self.topology = topology
        wanted = {actor.name: actor for actor in self._cast(topology)}
        for name in [name for name in self._watched if name not in wanted]:
            del self._watched[name]
            self._acks.pop(name, None)
        for name, actor in wanted.items():
            if name not in self._watched:
                self._watched[name] = Watched(actor)
        everyone = list(self._watched.values())
        await asyncio.gather(
            *(self._tell(w) for w in everyone if w.actor.role == "tenant partition")
        )
        await asyncio.gather(*(self._tell(w) for w in everyone))

    async def operate(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What an operator wants changed: {operation, ...}. Raises a Failure that says why not."""
        operation = asked.get("operation") if isinstance(asked, dict) else None
        if operation == "topology":
            return {**self.topology.pack(), "late": self._late()}
        if operation in move_requests.OPERATIONS:
            return await move_requests.operate(self, asked)
        if operation in usage_requests.OPERATIONS:
            doors = [n for n, w in self._watched.items() if w.actor.role == "ingress"]
            return await usage_requests.operate(self, asked, doors)
        if operation not in _OPERATIONS:
            others = (*move_requests.OPERATIONS, *usage_requests.OPERATIONS)
            known = ", ".join(("topology", *_OPERATIONS, *others))
            raise BadRequest(f"expected {{operation: ...}}, with one of: {known}")
        async with self._changing:
            changed = await getattr(self, _OPERATIONS[operation])(asked)
        return {"version": self.topology.version, **changed}

    async def _partition_add(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        kind = asked.get("kind")
        if kind not in ("tenant", "resource"):
            raise BadRequest("kind is tenant or resource")
        storage = str(asked.get("storage") or "0")
        storages = self.spec.get("settings", {}).get("storages", {"0": None})
        if storage not in storages:
            raise NotFound(f"no storage cluster {storage}; there are {', '.join(storages)}")
        topology = self.topology.added(kind, storage, str(asked.get("zone") or ""))
        await self._change(topology)
        return {"name": topology.partitions[-1].name}

    async def _partition_drain(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        name = str(asked.get("name"))
        await self._change(self.topology.drained(name, back=bool(asked.get("back"))))
        return {"name": name}

    async def _partition_remove(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        name = str(asked.get("name"))
        topology, row = self.topology.removed(name), self.topology.row(name)
        watched = self._watched[name]
        if watched.told < self.topology.version:
            raise Unavailable(f"{name} has not been told yet that it is drained; try again")
        stats = await self.peer(name).request("stats", None)
        left = "tenants" if row.kind == "tenant" else "nodes"
        count = (stats.get("objects") or {}).get(left, 0)
        if count:
            hint = (
                f"move them first: arktos partition drain {name} --move"
                if row.kind == "tenant"
                else "stop their agents and delete them first: kubectl delete node"
            )
            raise Conflict(f"{name} still has {count} {left}; {hint}")
        left_s = self.clock.now() - (stats.get("reshaped", 0) >> 19) / 1000
        if left_s < _PAST_S:
            wait_s = math.ceil(_PAST_S - left_s)
            raise Unavailable(
                f"tenants left {name} a moment ago, and who watches them still reads there; "
                f"try again in {wait_s} s"
            )
        # It takes nothing new, so it is empty for good.
        await self._stop_for_good([f"scheduler-{name}", name])
        await self._change(topology)
        return {"name": name}

    async def _fleet_add(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        nodes, among = asked.get("nodes"), asked.get("partitions") or ()
        if not isinstance(nodes, int) or not isinstance(among, (list, tuple)):
            raise BadRequest("nodes is a number, partitions a list of names")
        mode = asked.get("mode") or "kubemark"
        if mode not in ("kubemark", "instant"):
            raise BadRequest("mode is kubemark or instant")
        topology = self.topology.with_fleet(nodes, mode, [str(name) for name in among])
        await self._change(topology)
        return {"name": topology.fleets[-1].name}

    async def _fleet_remove(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        name = str(asked.get("name"))
        topology = self.topology.without_fleet(name)
        # Its nodes go first; whoever takes their place finds no leases to trust.
        removed = await self.peer(name).request("retire", None)
        await self._stop_for_good([name])
        await self._change(topology)
        return {"name": name, "nodes": removed}

    async def _stop_for_good(self, names: Sequence[str]) -> None:
        for name in names:
            if self._watched.pop(name, None) is None:
                continue
            try:
                await self._fleet.stop(name, self._health["stop_deadline_s"])
            except Failure as failure:
                log.warning("%s did not stop in order: %s", name, failure)

    # What others may ask

    async def request(self, method: str, payload: Any) -> Any:
        if method == "status":
            return await self.status()
        if method == "operate":
            return await self.operate(payload)
        if method == "topology":
            return self.topology.pack()
        if method == "readiness":
            return self.readiness()
        if method == "drain":
            await self.drain()
            return True
        return await super().request(method, payload)

    async def stats(self) -> dict[str, Any]:
        return {}

    def readiness(self) -> list[list[Any]]:
        """[name, state, restarts, failure] of everyone: cheap, for who waits for the start."""
        return [[w.actor.name, w.state, w.restarts, w.failure] for w in self._watched.values()]

    async def drain(self) -> None:
        """Stop everyone, those who bring work in first, those who keep it last."""
        self._draining = True
        grace_s = self._health["stop_deadline_s"]
        for stage in sorted({w.actor.stage for w in self._watched.values()}):
            names = [n for n, w in self._watched.items() if w.actor.stage == stage]
            for name, outcome in zip(
                names,
                await asyncio.gather(
                    *(self._fleet.stop(name, grace_s) for name in names), return_exceptions=True
                ),
                strict=True,
            ):
                if isinstance(outcome, BaseException):
                    log.warning("%s did not stop in order: %s", name, outcome)

    async def status(self) -> dict[str, Any]:
        """All that `arktos status` shows. Some 30 ms, most of it the kernel's sums of memory."""
        here = self.spec.get("machine", {}).get("address", "")
        parts = [self._part(w) for w in self._watched.values()]
        parts.append(
            {"name": SUPERVISOR, "role": self.role, "pid": os.getpid(), "state": "running",
             "epoch": 1, "restarts": 0, "stats": {}, "rates": {}, "failure": "",
             "told": self.topology.version, "machine": here}
        )  # fmt: skip
        near = [part for part in parts if part["machine"] in ("", here)]
        listed = await asyncio.to_thread(listed_processes, Path(self.spec["home"]), near)
        listed += await self._elsewhere([part for part in parts if part not in near])
        rows = {row.name: row for row in self.topology.partitions}
        partitions = [
            _partition(part, rows[part["name"]]) for part in parts if part["name"] in rows
        ]
        return {
            "cluster": self.spec["cluster"],
            "topology": self.topology.pack(),
            "parts": parts,
            "partitions": partitions,
            "processes": listed,
            "totals": {
                "tenants": sum(p["tenants"] for p in partitions),
                "nodes": sum(p["nodes"] for p in partitions),
                "pods": sum(p["pods"] for p in partitions),
                "objects": sum(p["objects"] for p in partitions),
                "pss_bytes": sum(p["pss_bytes"] for p in listed),
            },
        }

    async def _elsewhere(self, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the actors of other machines cost, as they say themselves."""

        async def ask(part: dict[str, Any]) -> dict[str, Any]:
            cost = {"pss_bytes": 0, "rss_bytes": 0, "cpu_s": 0.0}
            with contextlib.suppress(Failure, TimeoutError):
                async with asyncio.timeout(_FOOTPRINT_DEADLINE_S):
                    cost = await self.peer(part["name"]).request("footprint", None)
            return {key: part[key] for key in ("pid", "role", "name", "machine")} | cost

        return await asyncio.gather(*(ask(part) for part in parts if part["pid"]))

    def _part(self, watched: Watched) -> dict[str, Any]:
        return {
            "name": watched.actor.name,
            "role": watched.actor.role,
            "pid": watched.pid,
            "state": watched.state,
            # Partitions count their epochs in their logs; for the rest it is this cluster's life.
            "epoch": watched.stats.get("epoch", watched.restarts + 1),
            "restarts": watched.restarts,
            "up_s": round(self.clock.monotonic() - watched.since, 1) if watched.pid else 0,
            "stats": watched.stats,
            "rates": watched.rates,
            "failure": watched.failure,
            "told": watched.told,
            "machine": watched.machine,
        }


def _partition(part: dict[str, Any], row: PartitionRow) -> dict[str, Any]:
    counts = part["stats"].get("objects") or {}
    return {
        "name": part["name"],
        "kind": row.kind,
        "state": part["state"],
        "takes": "" if row.state == DRAINING else "tenants" if row.kind == "tenant" else "nodes",
        "epoch": part["epoch"],
        "tenants": counts.get("tenants", 0),
        "nodes": counts.get("nodes", 0),
        "pods": counts.get("pods", 0),
        "objects": sum(counts.values()),
        "revision": str(part["stats"].get("revision", 0)),
        "watches": part["stats"].get("watches", 0),
        "machine": part["machine"],
        "rates": part["rates"],
    }


def listed_processes(home: Path, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every process of the cluster, Ray's included, with what it costs. 2 ms a process."""
    names = {part["pid"]: part for part in parts if part["pid"]}
    listed = []
    ours = processes.of_cluster(home) + processes.of_runtime(home)
    # Under a Ray that we joined, only our own parts are known to be ours.
    for pid in sorted({*(p.pid for p in ours), *names}):
        if processes.found(pid) is None:
            continue  # It ended since it was last heard of.
        part = names.get(pid)
        listed.append(
            {
                "pid": pid,
                "role": part["role"] if part else processes.role_of(processes.command(pid)),
                "name": part["name"] if part else "",
                "machine": part["machine"] if part else "",
                "pss_bytes": processes.pss_bytes(pid),
                "rss_bytes": processes.rss_bytes(pid),
                "cpu_s": round(processes.cpu_s(pid), 2),
            }
        )
    return listed
