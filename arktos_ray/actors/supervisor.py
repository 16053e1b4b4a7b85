"""Supervisor: starts the other actors, asks each how it is, kills those that hang, and tells all.

Level-triggered: every round looks at what is and closes the gap to the cast it was given, so its
own restart needs nothing but that cast. Ray restarts a process that ended; a process that stopped
or hangs is never noticed by Ray, so it is killed here.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from arktos_ray.actors.cast import SUPERVISOR, Actor
from arktos_ray.actors.part import Part, Spec, Surroundings
from arktos_ray.api.errors import Failure, NotFound, Unavailable
from arktos_ray.base import processes

log = logging.getLogger(__name__)

# Counters in `stats` that are told as rates as well.
_RATES = ("calls", "commits", "rows", "requests", "writes", "placed", "bound", "events")
_RATE_WINDOW_S = 5.0


class Restarting(Unavailable):
    """Its process ended, and Ray is starting another."""


class Fleet(Protocol):
    """The actors as processes, whatever runs them. Every method may raise Unavailable."""

    async def start(self, actor: Actor) -> None:
        """Start it under its name, restarted whenever it ends; nothing when it is there."""

    async def report(self, name: str, deadline_s: float) -> dict[str, Any]:
        """{pid, ready, stats, failure}. NotFound when nobody has that name."""

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
    since: float = 0.0  # monotonic: when this process was first seen
    restarts: int = 0
    failures: int = 0
    failure: str = ""
    stats: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    _counted: tuple[float, dict[str, Any]] | None = None

    def reported(self, report: dict[str, Any], now: float) -> None:
        if report["pid"] != self.pid:
            if self.pid:
                self.restarts += 1
            self.pid, self.since, self._counted, self.rates = report["pid"], now, None, {}
        self.state = "running" if report["ready"] else "starting"
        self.failures = 0
        self.failure = report.get("failure", "")
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
    """Spec adds: cast (packed Actors), cluster (told in `status`), health {...}."""

    role = "supervisor"

    def __init__(self, spec: Spec, surroundings: Surroundings, fleet: Fleet) -> None:
        super().__init__(spec, surroundings)
        self._fleet = fleet
        self._watched = {packed[0]: Watched(Actor(*packed)) for packed in spec["cast"]}
        self._health: dict[str, float] = spec["health"]
        self._draining = False

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
        except NotFound:
            watched.state = "absent"
            await self._attempt(f"start {name}", lambda: self._fleet.start(watched.actor))
        except Restarting as failure:
            watched.restarting(failure.message)
        except Failure as failure:
            watched.silent(failure.message)
        why = hangs(
            watched, self.clock.monotonic(), int(self._health["failures_max"]),
            self._health["start_deadline_s"],
        )  # fmt: skip
        # Without a process it is still on its way: Ray starts as many at once as it has cores.
        if why is not None and not self._draining and await self._fleet.kill(name):
            log.error("%s: %s; its process was killed", name, why)
            watched.restarting(why)

    async def _attempt(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        if self._draining:
            return
        try:
            await work()
        except Failure as failure:
            log.warning("%s: %s", what, failure)

    # What others may ask

    async def request(self, method: str, payload: Any) -> Any:
        if method == "status":
            return await self.status()
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
        parts = [self._part(w) for w in self._watched.values()]
        parts.append(
            {"name": SUPERVISOR, "role": self.role, "pid": os.getpid(), "state": "running",
             "epoch": 1, "restarts": 0, "stats": {}, "rates": {}, "failure": ""}
        )  # fmt: skip
        listed = await asyncio.to_thread(listed_processes, Path(self.spec["home"]), parts)
        partitions = [p for p in map(_partition, parts) if p is not None]
        return {
            "cluster": self.spec["cluster"],
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
        }


def _partition(part: dict[str, Any]) -> dict[str, Any] | None:
    if not part["role"].endswith("partition"):
        return None
    counts = part["stats"].get("objects") or {}
    return {
        "name": part["name"],
        "kind": part["role"].split()[0],
        "state": part["state"],
        "epoch": part["epoch"],
        "tenants": counts.get("tenants", 0),
        "nodes": counts.get("nodes", 0),
        "pods": counts.get("pods", 0),
        "objects": sum(counts.values()),
        "revision": str(part["stats"].get("revision", 0)),
        "watches": part["stats"].get("watches", 0),
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
                "pss_bytes": processes.pss_bytes(pid),
                "rss_bytes": processes.rss_bytes(pid),
                "cpu_s": round(processes.cpu_s(pid), 2),
            }
        )
    return listed
