"""The density test: how long pods take to start on a cluster that is full of others.

First the cluster is filled (saturation, in Deployments of up to 3,000 replicas), then single-pod
Deployments arrive at a steady rate, and the start-up of their pods is measured, twice:

    startup_ms   from the moment when the Deployment was due to be created until the watch of this
                 program says Running: nothing is rounded, a server that stalls is charged
    pod_startup  as perf tests count, to compare with published figures: from creationTimestamp, in
                 whole seconds, which adds half a second on average

Simulated nodes take 1.1 s of their own to start a pod in mode kubemark; `instant` leaves only the
control plane. Whatever was measured when it is interrupted is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import uvloop

from arktos_ray.base.clock import parse_rfc3339
from arktos_ray.bench import plan as planning
from arktos_ray.bench.cluster import Cluster, Refused, per_thousand, started
from arktos_ray.bench.generate import CREATORS, Generator, OverHandles, OverHttps, Place, Sent
from arktos_ray.bench.machine import machine
from arktos_ray.bench.plan import GROUPS, LATENCY, PHASES, SATURATION, Object, Parameters, Wanted
from arktos_ray.testing.load import PodObserver

# How often the series get a point. PSS costs the kernel 10 ms for each GB.
SAMPLE_S, COSTS_S = 1.0, 10.0
# Registration may take this long, and a second for each so many nodes more.
NODES_DEADLINE_S, NODES_PER_S = 120.0, 250
# A phase ends when this long no pod started.
STALLED_S = 120.0
# The partitions' own counts are that old at most.
STATS_S = 2.0
POINTS_MAX = 1_000
# A machine that is filled to the brim: nobody may take a process that waits for its turn for one
# that hangs.
_PATIENCE = ("health-failures-max: 1000",)


class Progress(Protocol):
    """Where the lines and the bar of a long run go."""

    def say(self, line: str) -> None: ...

    def step(self, title: str, done: float, total: float) -> None: ...


class Interrupted(Exception):
    """Somebody wants it to end; what was measured so far is worth keeping."""


def run(
    wanted: Parameters, data: Path, progress: Progress, settings: tuple[str, ...] = ()
) -> Object:
    """The whole test on a cluster of its own; its figures. Never raises for an interruption."""
    found: Object = {
        "benchmark": "density",
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "parameters": wanted.packed(),
        "machine": machine(),
        "interrupted": False,
        "pods_per_s": None,
        "startup_ms": {f"p{p}": None for p in planning.PERCENTS},
        "cpu_s_per_1000_pods": None,
        "pss_mb": None,
        "nodes_ready_s": None,
        "phases": {},
        "notes": [],
    }
    begun = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="arktos-bench-"))
    file = scratch / "arktos.yaml"
    file.write_text("\n".join((*_PATIENCE, *settings)) + "\n")
    arguments = (
        "--config", str(file), "--tenant-partitions", str(wanted.tenant_partitions),
        "--resource-partitions", str(wanted.resource_partitions),
        "--simulated-nodes", str(wanted.nodes), "--simulated-mode", wanted.mode,
        "--no-dashboard",
    )  # fmt: skip
    progress.say(
        f"starting {wanted.tenant_partitions} x {wanted.resource_partitions} partitions and"
        f" {wanted.nodes:,} simulated nodes"
    )
    try:
        with started(data, *arguments) as cluster:
            found["up_s"] = round(cluster.up_seconds, 2)
            test = Density(cluster, wanted, found, progress, begun)
            uvloop.run(test.run())
    except (Interrupted, KeyboardInterrupt):
        found["interrupted"] = True
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    found["seconds"] = round(time.monotonic() - begun, 1)
    return found


class Density:
    """One run on one cluster. Everything goes into `found` as soon as it is known."""

    def __init__(
        self, cluster: Cluster, wanted: Parameters, found: Object, progress: Progress, begun: float
    ) -> None:
        self._cluster, self._wanted, self._found = cluster, wanted, found
        self._progress, self._begun = progress, begun
        self._stop = asyncio.Event()
        self._places: list[list[Place]] = []
        self._observers: list[PodObserver] = []
        self._sent: dict[str, Sent] = {}
        self._roles: dict[int, str] = {}
        self._series: Object = {"t": [], "running": [], "bound": [], "phase": []}
        self._costs: Object = {"t": [], "cpu_s": [], "pss_mb": []}
        self._phase = ""

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        tasks: list[asyncio.Task[None]] = []
        generator: Generator | None = None
        try:
            await self._until_ready()
            generator = await self._open()
            await self._prepare(generator)
            tasks = [asyncio.create_task(self._sample()), asyncio.create_task(self._weigh())]
            await self._do(generator, SATURATION, planning.saturation(self._wanted), 0.0)
            await self._do(
                generator, LATENCY, planning.latency(self._wanted), self._wanted.rate
            )  # fmt: skip
        finally:
            for task in tasks:
                task.cancel()
            self._conclude()
            for observer in self._observers:
                observer.close()
            if generator is not None:
                await generator.close()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def _open(self) -> Generator:
        if self._wanted.through == "handles":
            return await OverHandles.open(self._cluster)
        return OverHttps(self._cluster.endpoint)

    # Before: nodes, tenants, namespaces, watches.

    async def _until_ready(self) -> None:
        wanted = self._wanted.nodes
        until = time.monotonic() + NODES_DEADLINE_S + wanted / NODES_PER_S
        while True:
            ready = await asyncio.to_thread(_ready_nodes, self._cluster)
            self._progress.step("nodes ready", ready, wanted)
            if ready >= wanted:
                break
            if time.monotonic() > until:
                self._note(f"only {ready:,} of {wanted:,} nodes came")
                break
            await self._pause(0.5)
        self._found["nodes_ready_s"] = round(time.monotonic() - self._begun, 2)
        self._progress.say(f"nodes ready after {self._found['nodes_ready_s']:.1f} s")

    async def _prepare(self, generator: Generator) -> None:
        run = secrets.token_hex(3)
        counts = planning.namespaces(self._wanted)
        names = planning.tenant_names(self._wanted.tenant_partitions, run)
        for tenant, count in zip(names, counts, strict=True):
            body = {"apiVersion": "v1", "kind": "Tenant", "metadata": {"name": tenant},
                    "spec": {"storageClusterId": "0"}}  # fmt: skip
            await asyncio.to_thread(self._cluster.request, "POST", "/api/v1/tenants", body)
            self._places.append([(tenant, f"density-{number}") for number in range(count)])
        await self._make_namespaces([place for places in self._places for place in places])
        for tenant in names:
            path = f"/api/v1/tenants/{tenant}/pods"
            revision = await asyncio.to_thread(self._cluster.revision, path)
            self._observers.append(await generator.follow(tenant, revision))
        self._roles = await asyncio.to_thread(self._cluster.roles)
        self._found["pss_mb_empty"] = _rounded(
            await asyncio.to_thread(self._cluster.memory, self._roles), 1
        )

    async def _make_namespaces(self, places: list[Place]) -> None:
        for start in range(0, len(places), CREATORS):
            self._check()
            await asyncio.gather(
                *(
                    asyncio.to_thread(self._cluster.make_namespace, tenant, space)
                    for tenant, space in places[start : start + CREATORS]
                )
            )
            self._progress.step("namespaces", start, len(places))

    # A phase.

    async def _do(
        self, generator: Generator, group: str, wanted: list[Wanted], rate: float
    ) -> None:
        pods = sum(each.replicas for each in wanted)
        self._phase = group
        sent = self._sent[group] = Sent()
        phase: Object = {"pods_wanted": pods, "pods": 0, "seconds": None}
        self._found["phases"][group] = phase
        wrote = await asyncio.to_thread(self._cluster.writes)
        before, begun, ran = self._cluster.cpu(self._roles), time.monotonic(), self.running
        try:
            creating = asyncio.create_task(generator.create(wanted, self._places, rate, sent))
            try:
                await self._until_running(group, creating, ran + pods)
            finally:
                creating.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await creating
        finally:
            took = time.monotonic() - begun
            started_here = self.running - ran
            spent = before.until(self._cluster.cpu(self._roles))
            last = max((o.last_running_at for o in self._observers), default=0.0)
            first = min(sent.due.values(), default=last)
            span = max(last - first, 1e-9) if started_here else took
            phase |= {
                "pods": started_here,
                "seconds": round(took, 2),
                "pods_per_s": round(started_here / span, 1),
                "create_ms": planning.percentiles(sent.latencies_s, 1e3, 2),
                "cpu_s": _rounded(spent, 2),
                "cpu_s_per_1000_pods": _rounded(per_thousand(spent, started_here), 3),
            }
        await self._pause(STATS_S)
        written = await asyncio.to_thread(self._cluster.writes)
        phase["written_per_pod"] = {
            what: round((written[what] - wrote[what]) / max(started_here, 1), 2) for what in written
        }
        phase["pss_mb"] = _rounded(await asyncio.to_thread(self._cluster.memory, self._roles), 1)
        self._progress.say(
            f"{group}: {started_here:,} pods in {took:.1f} s, {phase['pods_per_s']:g}/s"
        )

    async def _until_running(self, group: str, creating: asyncio.Task[None], wanted: int) -> None:
        base, moved, last = self.running, time.monotonic(), self.running
        while self.running < wanted:
            if creating.done() and creating.exception() is not None:
                raise creating.exception()  # type: ignore[misc]
            await self._pause(0.1)
            if self.running != last or not creating.done():
                last, moved = self.running, time.monotonic()
            elif time.monotonic() - moved > STALLED_S:
                self._note(f"{group}: {wanted - last:,} pods do not start")
                return
            self._progress.step(group, self.running - base, wanted - base)
        await creating

    @property
    def running(self) -> int:
        return sum(observer.running for observer in self._observers)

    async def _pause(self, seconds: float) -> None:
        """Or until somebody interrupts. Raises Interrupted."""
        self._check()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        self._check()

    def _check(self) -> None:
        if self._stop.is_set():
            raise Interrupted
        for observer in self._observers:
            if not observer.is_whole:
                raise RuntimeError(f"a watch broke: {observer.failure or 'connection closed'}")

    # Over time.

    async def _sample(self) -> None:
        while True:
            self._series["t"].append(round(time.monotonic() - self._begun, 2))
            self._series["running"].append(self.running)
            self._series["bound"].append(sum(o.bound for o in self._observers))
            self._series["phase"].append(self._phase)
            await asyncio.sleep(SAMPLE_S)

    async def _weigh(self) -> None:
        while True:
            memory = await asyncio.to_thread(self._cluster.memory, self._roles)
            spent: dict[str, float] = {}
            for pid, seconds in self._cluster.cpu(self._roles).by_pid.items():
                spent[self._roles[pid]] = spent.get(self._roles[pid], 0.0) + seconds
            self._costs["t"].append(round(time.monotonic() - self._begun, 2))
            self._costs["cpu_s"].append(_rounded(spent, 2))
            self._costs["pss_mb"].append(_rounded(memory, 1))
            await asyncio.sleep(COSTS_S)

    # After: what it all means, as far as it came.

    def _conclude(self) -> None:
        found = self._found
        found["machine"]["load_after"] = machine()["load"]
        scheduled = self._scheduled()
        for group, phase in found["phases"].items():
            startup = self._startup_s(group)
            phase["startup_ms"] = planning.percentiles(startup, 1e3, 1)
            phase["startup_curve_ms"] = _thinned([round(s * 1e3, 1) for s in sorted(startup)])
            phase["perf_tests_s"] = self._as_perf_tests(group, scheduled)
        phases = found["phases"]
        if LATENCY in phases:
            found["startup_ms"] = phases[LATENCY]["startup_ms"]
        for key, group in (("pods_per_s", SATURATION), ("cpu_s_per_1000_pods", SATURATION)):
            value = phases.get(group, {}).get(key)
            found[key] = value.get("all") if isinstance(value, dict) else value
        memory = [phases[g]["pss_mb"] for g in GROUPS if "pss_mb" in phases.get(g, {})]
        if memory:
            found["pss_mb"] = round(sum(memory[-1].values()), 1)
        found["scheduling_throughput"] = _throughput(self._series)
        found["series"] = _thinned_series(self._series)
        found["costs"] = self._costs
        try:
            text = self._cluster.raw("GET", "/metrics").decode()
        except (Refused, OSError, ValueError) as error:
            self._note(f"no latencies by verb: {error}")
        else:
            found["api_latency"] = list(latency_by_verb(text))

    def _startup_s(self, group: str) -> list[float]:
        """From when the Deployment was due to Running on our watch."""
        due = self._sent[group].due if group in self._sent else {}
        values = []
        for path, seen in self._pods(group):
            tenant, space, name = path.split("/")
            # deployment-hash-suffix
            sent_at = due.get((tenant, space, name.rsplit("-", 2)[0]))
            if sent_at is not None:
                values.append(seen.running_at - sent_at)
        return values

    def _as_perf_tests(self, group: str, scheduled: dict[str, float]) -> Object:
        values: dict[str, list[float]] = {phase: [] for phase in PHASES}
        for path, seen in self._pods(group):
            create, watch = parse_rfc3339(seen.created), seen.running_at
            values["pod_startup"].append(watch - create)
            schedule = scheduled.get(path)
            if schedule is None or not seen.started:
                continue
            ran = parse_rfc3339(seen.started)
            values["create_to_schedule"].append(schedule - create)
            values["schedule_to_run"].append(ran - schedule)
            values["run_to_watch"].append(watch - ran)
            values["schedule_to_watch"].append(watch - schedule)
        return {name: planning.percentiles(numbers) for name, numbers in values.items()}

    def _pods(self, group: str) -> Iterator[tuple[str, Any]]:
        for observer in self._observers:
            for path, seen in observer.pods.items():
                if seen.group == group and seen.running_at:
                    yield path, seen

    def _scheduled(self) -> dict[str, float]:
        """When each measured pod was scheduled, as the scheduler's events say."""
        if not self._sent.get(LATENCY):
            return {}
        times: dict[str, float] = {}
        selector = "involvedObject.kind=Pod,source=default-scheduler"
        for tenant, space in [place for places in self._places for place in places]:
            path = f"/api/v1/tenants/{tenant}/namespaces/{space}/events?fieldSelector={selector}"
            try:
                listed = self._cluster.request("GET", path)
            except (Refused, OSError) as error:
                self._note(f"no events: {error}")
                return times
            for event in listed["items"]:
                at = event.get("eventTime") or event.get("firstTimestamp")
                name = event["involvedObject"]["name"]
                if event.get("reason") == "Scheduled" and at and name.startswith(LATENCY):
                    times[f"{tenant}/{space}/{name}"] = parse_rfc3339(at)
        return times

    def _note(self, text: str) -> None:
        self._found["notes"].append(text)
        self._progress.say(f"note: {text}")


def _ready_nodes(cluster: Cluster) -> int:
    """Registered by the simulated fleet, and there."""
    try:
        status = cluster.status()
    except (Refused, OSError, ValueError):
        return 0
    fleets = [
        p["stats"].get("registered", 0) for p in status["parts"] if p["role"] == "simulated nodes"
    ]
    return int(min(sum(fleets), status["totals"]["nodes"]))


def latency_by_verb(metrics: str) -> Iterator[Object]:
    """Rows {verb, resource, count, p50, p99} (seconds; upper bounds of buckets) of /metrics."""
    buckets: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for line in metrics.splitlines():
        if not line.startswith("apiserver_request_duration_seconds_bucket{"):
            continue
        labels, _, value = line.partition("{")[2].rpartition("} ")
        pairs = dict(part.split("=", 1) for part in labels.split(","))
        named = {name: text.strip('"') for name, text in pairs.items()}
        bound = float(named["le"].replace("+Inf", "inf"))
        resource = "/".join(filter(None, (named["resource"], named["subresource"])))
        buckets.setdefault((named["verb"], resource), []).append((bound, float(value)))
    for (verb, resource), found in sorted(buckets.items()):
        found.sort()
        count = found[-1][1]
        if not count or not resource:
            continue
        row: Object = {"verb": verb, "resource": resource, "count": int(count)}
        for percent in (50, 99):
            bound = next(b for b, total in found if total >= count * percent / 100)
            row[f"p{percent}"] = None if bound == float("inf") else bound
        yield row


def _throughput(series: Object) -> Object:
    """Pods that got a node, a second, over 5 s; pauses are no throughput."""
    bound, step = series["bound"], int(5 / SAMPLE_S)
    rates = [(b - a) / 5 for a, b in zip(bound, bound[step:], strict=False)][::step]
    found = planning.percentiles([rate for rate in rates if rate > 0], 1.0, 1)
    found["max"] = round(max(rates), 1) if rates else None
    return found


def _thinned(values: list[float]) -> list[float]:
    """Enough of it for a curve."""
    return values[:: max(len(values) // POINTS_MAX, 1)]


def _thinned_series(series: Object) -> Object:
    step = max(len(series["t"]) // POINTS_MAX, 1)
    return {name: values[::step] for name, values in series.items()}


def _rounded(values: dict[str, float], digits: int) -> dict[str, float]:
    return {name: round(value, digits) for name, value in values.items()}
