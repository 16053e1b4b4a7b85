"""The density test: how long pods take to start on a cluster that is full of others.

As ClusterLoader2 does it for Kubernetes and Arktos, so that figures can be compared: first the
cluster is filled (saturation: 30 pods a node, in Deployments of up to 3,000 replicas), then
single-pod Deployments arrive at a steady rate, and the start-up of their pods is measured:

    create     metadata.creationTimestamp, in whole seconds
    schedule   the time of the scheduler's event for the pod
    run        the latest startedAt of the pod's containers, in whole seconds
    watch      when the watch of this program first said Running

pod_startup is watch - create. Truncated seconds add half a second on average; hollow nodes
(--mode kubemark) take 1.1 s of their own to start a pod; --mode instant leaves only the control
plane. With several tenants each has its share of the nodes and a load of its own, as there is one
ClusterLoader for each tenant partition.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import uvloop
from _cluster import Cluster, Refused, cluster, options, per_thousand, shown_costs
from _report import RESULTS, Report, console, table, wait_quiet, watched

from arktos_ray.base.clock import parse_rfc3339
from arktos_ray.testing.load import Load, PodObserver, Template, percentile

_NODES_PER_NAMESPACE = 100
_LATENCY_PODS_MIN = 500
_SATURATION, _LATENCY = "saturation", "latency"
_SAMPLE_S = 5.0
_PHASES = (
    "create_to_schedule", "schedule_to_run", "run_to_watch", "schedule_to_watch", "pod_startup",
)  # fmt: skip
_PERCENTS = (50, 90, 99)
_CREATORS = 16
# The partitions' own counts are that old at most.
_STATS_S = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The derived values of the test, for one tenant."""

    namespaces: int
    replicas: int  # of the one saturation Deployment of a namespace
    latency_per_namespace: int

    @property
    def saturation_pods(self) -> int:
        return self.namespaces * self.replicas

    @property
    def latency_pods(self) -> int:
        return self.namespaces * self.latency_per_namespace


def plan_of(nodes: int, pods_per_node: int, latency_pods: int) -> Plan:
    namespaces = max(nodes // _NODES_PER_NAMESPACE, 1)
    per_namespace = pods_per_node * min(nodes, _NODES_PER_NAMESPACE)
    wanted = latency_pods or max(_LATENCY_PODS_MIN, nodes)
    return Plan(namespaces, per_namespace, max(wanted // namespaces, 1))


def deployment(name: str, group: str, replicas: int, cpu: str, memory: str) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"group": group}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"name": name}},
            "template": {
                "metadata": {"labels": {"name": name, "group": group}},
                "spec": {
                    "containers": [
                        {
                            "name": name,
                            "image": "pause:3.1",
                            "imagePullPolicy": "IfNotPresent",
                            "resources": {"requests": {"cpu": cpu, "memory": memory}},
                        }
                    ],
                    "terminationGracePeriodSeconds": 1,
                    "tolerations": [
                        {
                            "key": f"node.kubernetes.io/{what}", "operator": "Exists",
                            "effect": "NoExecute", "tolerationSeconds": 900,
                        }
                        for what in ("not-ready", "unreachable")
                    ],
                },
            },
        },
    }  # fmt: skip


class Density:
    def __init__(
        self, found: Cluster, tenants: Sequence[str], plan: Plan, qps: float, limit_s: float,
        report: Report,
    ) -> None:  # fmt: skip
        self.cluster, self.tenants, self.plan = found, tenants, plan
        self.qps, self.limit_s, self.report = qps, limit_s, report
        self.spaces: list[tuple[str, str]] = []  # (tenant, namespace)
        self.observers: dict[str, PodObserver] = {}
        self.samples: list[float] = []  # pods that got a node, a second
        self.roles = found.roles()

    async def run(self) -> None:
        begun = time.monotonic()
        prefix = secrets.token_hex(3)
        for tenant in self.tenants:
            for number in range(self.plan.namespaces):
                name = f"{prefix}-density-{number}"
                await asyncio.to_thread(self.cluster.make_namespace, tenant, name)
                self.spaces.append((tenant, name))
        for tenant in self.tenants:
            path = f"/api/v1/tenants/{tenant}/pods"
            revision = await asyncio.to_thread(self.cluster.revision, path)
            observer = self.observers[tenant] = PodObserver()
            await observer.follow(self.cluster.endpoint, path, revision)
        sampling = asyncio.create_task(self._sample())
        try:
            await self._phase(_SATURATION, 1, self.plan.replicas, "1m", "10M")
            await self._phase(_LATENCY, self.plan.latency_per_namespace, 1, "100m", "350M")
        finally:
            sampling.cancel()
            for observer in self.observers.values():
                observer.close()
        self.report.add("seconds_in_all", round(time.monotonic() - begun, 1))

    async def _phase(self, group: str, each: int, replicas: int, cpu: str, memory: str) -> None:
        """`each` Deployments in every namespace, at the rate; then until all pods run."""
        count = each * len(self.spaces)
        pods = count * replicas
        wrote = await asyncio.to_thread(self.cluster.writes)
        before, begun = self.cluster.cpu(self.roles), time.monotonic()
        ran = sum(o.running for o in self.observers.values())

        def requests() -> Iterator[bytes]:
            for number in range(each):
                for tenant, space in self.spaces:
                    path = f"/apis/apps/v1/tenants/{tenant}/namespaces/{space}/deployments"
                    name = f"{group}-deployment-{number}"
                    body = json.dumps(deployment(name, group, replicas, cpu, memory)).encode()
                    yield Template(self.cluster.endpoint, "POST", path, body).render()

        def running() -> int:
            return sum(o.running for o in self.observers.values()) - ran

        async with watched(f"{group}: {pods:,} pods", pods, running):
            async with Load(self.cluster.endpoint, min(_CREATORS, count)) as load:
                created = await load.run(requests(), rate=self.qps * len(self.tenants))
            if created.bad:
                raise click.ClickException(f"no Deployment: {created.first_refusal}")
            until = time.monotonic() + self.limit_s
            while running() < pods and time.monotonic() < until:
                self._check()
                await asyncio.sleep(0.1)
        took = time.monotonic() - begun
        if running() < pods:
            self.report.note(f"{group}: only {running()} of {pods} pods run after {took:.0f} s")
        spent = before.until(self.cluster.cpu(self.roles))
        costs = per_thousand(spent, max(running(), 1))
        await asyncio.sleep(_STATS_S)
        written = await asyncio.to_thread(self.cluster.writes)
        found = await asyncio.to_thread(self._gather, group)
        found["written_per_pod"] = {
            what: round((written[what] - wrote[what]) / max(running(), 1), 2) for what in written
        }
        found["pods"] = running()
        found["seconds"] = round(took, 1)
        found["pods_per_second"] = round(running() / took, 1)
        found["create_p99_ms"] = round(created.percentile_s(99) * 1e3, 1)
        found["cpu_s_per_1000"] = {role: round(cost, 3) for role, cost in costs.items()}
        self.report.add(group, found)

    def _check(self) -> None:
        for tenant, observer in self.observers.items():
            if not observer.is_whole:
                raise click.ClickException(f"the watch of {tenant} broke: {observer.failure}")

    async def _sample(self) -> None:
        """Scheduling throughput: every 5 s, how many pods have got a node since."""
        last = 0
        while True:
            await asyncio.sleep(_SAMPLE_S)
            now = sum(observer.bound for observer in self.observers.values())
            self.samples.append((now - last) / _SAMPLE_S)
            last = now

    # What the test computes

    def _gather(self, group: str) -> dict[str, Any]:
        """Percentiles in seconds, by phase, over the pods of a group."""
        scheduled = self._scheduled()
        values: dict[str, list[float]] = {phase: [] for phase in _PHASES}
        unknown = 0
        for observer in self.observers.values():
            for path, seen in observer.pods.items():
                if seen.group != group or not seen.running_at:
                    continue
                create, watch = parse_rfc3339(seen.created), seen.running_at
                values["pod_startup"].append(watch - create)
                schedule = scheduled.get(path)
                if schedule is None or not seen.started:
                    unknown += 1
                    continue
                run = parse_rfc3339(seen.started)
                values["create_to_schedule"].append(schedule - create)
                values["schedule_to_run"].append(run - schedule)
                values["run_to_watch"].append(watch - run)
                values["schedule_to_watch"].append(watch - schedule)
        if unknown:
            self.report.note(f"{group}: {unknown} pods have no event of the scheduler any more")
        found: dict[str, Any] = {}
        for phase, numbers in values.items():
            numbers.sort()
            found[phase] = {f"p{p}": round(percentile(numbers, p), 4) for p in _PERCENTS}
            found[phase]["all"] = [round(n, 3) for n in _thinned(numbers)]
        return found

    def _scheduled(self) -> dict[str, float]:
        """When each pod was scheduled, as the scheduler's events say: one list a namespace."""
        selector = "involvedObject.kind=Pod,source=default-scheduler"
        times: dict[str, float] = {}
        for tenant, space in self.spaces:
            path = f"/api/v1/tenants/{tenant}/namespaces/{space}/events?fieldSelector={selector}"
            try:
                listed = self.cluster.request("GET", path)
            except Refused as refusal:
                self.report.note(f"no events: {refusal}")
                return {}
            for event in listed["items"]:
                if event.get("reason") != "Scheduled":
                    continue
                at = event.get("eventTime") or event.get("firstTimestamp")
                if at:
                    name = event["involvedObject"]["name"]
                    times[f"{tenant}/{space}/{name}"] = parse_rfc3339(at)
        return times

    def throughput(self) -> dict[str, float]:
        # The pauses before, between and after the phases are no throughput.
        numbers = sorted(sample for sample in self.samples if sample > 0)
        found = {f"perc{p}": round(percentile(numbers, p), 1) for p in _PERCENTS}
        found["max"] = round(numbers[-1], 1) if numbers else 0.0
        return found


def _thinned(ascending: Sequence[float], points: int = 1_000) -> list[float]:
    """Enough of it for a curve."""
    step = max(len(ascending) // points, 1)
    return [*ascending[::step]]


def save_cluster_loader_form(found: dict[str, Any], run: str) -> Path:
    """PodStartupLatency as perf tests write it: milliseconds, one item a metric."""
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    items = [
        {
            "data": {f"Perc{p}": round(found[phase][f"p{p}"] * 1000, 3) for p in _PERCENTS},
            "unit": "ms",
            "labels": {"Metric": phase},
        }
        for phase in _PHASES
    ]
    path = RESULTS / f"PodStartupLatency_{run}_density_{when}.json"
    path.write_text(json.dumps({"version": "1.0", "dataItems": items}, indent=1) + "\n")
    return path


def plot(phases: dict[str, dict[str, Any]], title: str, path: Path) -> bool:
    """Pod start-up of both phases as curves of percentiles. False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for group, found in phases.items():
        values = found["pod_startup"]["all"]
        if not values:
            continue
        percents = [100 * (i + 1) / len(values) for i in range(len(values))]
        [line] = axes.plot(values, percents, label=f"{group} ({found['pods']:,} pods)")
        for p in _PERCENTS:
            axes.plot(found["pod_startup"][f"p{p}"], p, "o", color=line.get_color())
    axes.set_xlabel("pod start-up: from creationTimestamp to Running on a watch, seconds")
    axes.set_ylabel("percent of pods")
    axes.set_title(title)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    return True


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@options(nodes=100, mode="kubemark")
@click.option("--pods-per-node", type=int, default=30, show_default=True, help="Saturation.")
@click.option("--qps", type=float, default=5.0, show_default=True, help="Deployments a second, "
              "for each tenant.")  # fmt: skip
@click.option("--latency-pods", type=int, default=0, help="For each tenant.  [500, or its nodes]")
@click.option("--tenants", type=int, default=1, show_default=True, help="One for each partition.")
@click.option("--limit", type=float, default=900.0, show_default=True, help="Seconds for a phase.")
@click.option("--threshold", type=float, default=5.0, show_default=True, help="Seconds allowed.")
def main(
    kubeconfig: Path | None, nodes: int, mode: str, settings: tuple[str, ...], pods_per_node: int,
    qps: float, latency_pods: int, tenants: int, limit: float, threshold: float,
) -> None:  # fmt: skip
    report = Report("density", {"qps": qps, "tenants": tenants, "mode": mode})
    with cluster(kubeconfig, nodes, mode, settings, report) as found:
        nodes = found.nodes()
        plan = plan_of(nodes // tenants, pods_per_node, latency_pods)
        run = secrets.token_hex(3)
        report.parameters |= {
            "nodes": nodes,
            "pods_per_node": pods_per_node,
            "saturation_pods": plan.saturation_pods * tenants,
            "latency_pods": plan.latency_pods * tenants,
        }
        wait_quiet(report)
        density = Density(found, found.make_tenants(tenants, run), plan, qps, limit, report)
        uvloop.run(density.run())
    phases = {group: report.figures[group] for group in (_SATURATION, _LATENCY)}
    throughput = density.throughput()
    report.add("scheduling_throughput", throughput)
    passed = all(phases[_LATENCY]["pod_startup"][f"p{p}"] <= threshold for p in _PERCENTS)
    report.add("passed", passed)
    table(
        f"density: {nodes:,} nodes, {mode}, {qps:g} Deployments a second a tenant",
        ("seconds", "p50", "p90", "p99"),
        [
            (f"{group}: {phase}", *(phases[group][phase][f"p{p}"] for p in _PERCENTS))
            for group in phases
            for phase in _PHASES
        ],
    )
    table(
        "phases",
        ("", "pods", "seconds", "pods/s", "CPU-s for 1,000", "rows a pod", "commits a pod"),
        [
            (
                g,
                f["pods"],
                f["seconds"],
                f["pods_per_second"],
                f["cpu_s_per_1000"].get("all"),
                f["written_per_pod"]["rows"],
                f["written_per_pod"]["commits"],
            )
            for g, f in phases.items()
        ],
    )
    for group, figures in phases.items():
        console.print(f"  {group}: {shown_costs(figures['cpu_s_per_1000'], 0.02)}")
    console.print(
        "scheduling throughput, pods a second over 5 s: "
        + ", ".join(f"{name} {value:g}" for name, value in throughput.items())
    )
    console.print(f"pod start-up {'[green]within' if passed else '[red]over'}[/] {threshold:g} s")
    path = report.save()
    save_cluster_loader_form(phases[_LATENCY], run)
    picture = path.with_suffix(".png")
    if plot(phases, f"density, {nodes:,} nodes, {mode}", picture):
        console.print(f"[dim]plot: {picture.name}[/dim]")


if __name__ == "__main__":
    main()
