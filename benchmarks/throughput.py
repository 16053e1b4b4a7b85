"""How many pods a second go through the whole control plane, and where does the CPU go?

backlog    A backlog of pods, created through the API while the schedulers are stopped (SIGSTOP),
           is let go: pods bound a second, until the last one has its node.
running    Pods are created through the API, at full speed and at fixed rates: how many a second
           come to Running, and how long each takes, as an outside watcher sees it.

A cluster of its own is started for each run unless --kubeconfig names one; then the schedulers
cannot be stopped (the supervisor would replace them), and the backlog grows while they work. CPU
is that of all processes of the cluster, Ray's included, for 1,000 pods. Our own clients and the
watcher share the cores; what they took is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import uvloop
from _cluster import Cluster, cluster, options, per_thousand, shown_costs
from _report import Report, console, table, wait_quiet, watched

from arktos_ray.testing.load import Load, Outcome, PodObserver, Template, percentile, pod, slotted

_CONNECTIONS = 64
_SETTLE_S = 1.0
_NAME_BYTES = 12
# The partitions' own counts are that old at most.
_STATS_S = 2.0


class Bench:
    def __init__(self, found: Cluster, tenants: list[str], report: Report, limit_s: float) -> None:
        self.cluster, self.tenants, self.report, self.limit_s = found, tenants, report, limit_s
        self.roles = found.roles()
        self.sent: dict[str, float] = {}  # path -> seconds since 1970

    @contextlib.asynccontextmanager
    async def observer(self) -> Any:
        observer = PodObserver()
        for tenant in self.tenants:
            path = f"/api/v1/tenants/{tenant}/pods"
            revision = await asyncio.to_thread(self.cluster.revision, path)
            await observer.follow(self.cluster.endpoint, path, revision)
        try:
            yield observer
        finally:
            observer.close()

    def creates(self, prefix: str, count: int, rate: float = 0.0) -> Iterator[bytes]:
        """The tenants take turns. Notes when each was due."""
        body = slotted(pod("SLOT"))
        templates = [
            Template(
                self.cluster.endpoint, "POST", f"/api/v1/tenants/{tenant}/namespaces/bench/pods",
                body, lengths=[_NAME_BYTES],
            )
            for tenant in self.tenants
        ]  # fmt: skip
        assert len(prefix) + 8 == _NAME_BYTES
        self.sent.clear()
        began = time.time()
        for number in range(count):
            turn = number % len(templates)
            name = f"{prefix}-{number:07d}"
            at = began + number / rate if rate else time.time()
            self.sent[f"{self.tenants[turn]}/bench/{name}"] = at
            yield templates[turn].render(name.encode())

    async def reach(self, title: str, observer: PodObserver, what: str, count: int) -> None:
        """Until so many pods are bound or running, or the limit is over."""
        until = time.monotonic() + self.limit_s
        async with watched(title, count, lambda: getattr(observer, what)):
            while getattr(observer, what) < count:
                if time.monotonic() > until or not observer.is_whole:
                    break
                await asyncio.sleep(0.02)
        if not observer.is_whole:
            raise click.ClickException(f"the watch broke: {observer.failure or 'closed'}")
        missing = count - getattr(observer, what)
        if missing:
            self.report.note(f"{title}: {missing} of {count} missing after {self.limit_s:g} s")

    def check(self, outcome: Outcome) -> None:
        if outcome.bad:
            self.report.note(f"{outcome.bad} creates failed; the first: {outcome.first_refusal}")

    async def backlog(self, count: int, freeze: bool, bind_only: bool) -> dict[str, Any]:
        schedulers = [pid for pid, role in self.roles.items() if role == "scheduler"]
        agents = [pid for pid, role in self.roles.items() if role == "simulated nodes"]
        async with self.observer() as observer, Load(self.cluster.endpoint, _CONNECTIONS) as load:
            stopped: list[int] = []
            try:
                if freeze:
                    stopped += schedulers
                if bind_only:
                    stopped += agents
                _signal(stopped, signal.SIGSTOP)
                first = self.cluster.cpu(self.roles)
                begun = time.time()
                async with watched("creating the backlog", count, lambda: load.answered):
                    created = await load.run(self.creates("back", count))
                self.check(created)
                if freeze:
                    await self.seen(observer, created.good)
                    await asyncio.sleep(_SETTLE_S)
                before = self.cluster.cpu(self.roles)
                cpu = time.process_time()
                if freeze:
                    begun = time.time()
                    _signal(schedulers, signal.SIGCONT)
                await self.reach("binding", observer, "bound", created.good)
                bound = self.cluster.cpu(self.roles)
                cpu = time.process_time() - cpu
            finally:
                _signal(stopped, signal.SIGCONT)
            seconds = max(observer.last_bound_at - begun, 1e-9)
            if not bind_only:
                await self.reach("coming to Running", observer, "running", created.good)
            after = self.cluster.cpu(self.roles)
            binding = before.until(bound) if freeze else first.until(bound)
            return {
                "pods": count,
                "bound": observer.bound,
                "schedulers_stopped_meanwhile": freeze,
                "without_agents": bind_only,
                "created_per_second": round(created.rate, 1),
                "bound_per_second": round(observer.bound / seconds, 1),
                "seconds": round(seconds, 2),
                "cpu_s_per_1000": {
                    "creating": _rounded(per_thousand(first.until(before), created.good)),
                    "binding": _rounded(per_thousand(binding, observer.bound)),
                    "in_all_to_running": _rounded(per_thousand(first.until(after), created.good)),
                },
                "own_cpu_s_per_1000": round(cpu * 1000 / max(observer.bound, 1), 3),
            }

    async def seen(self, observer: PodObserver, count: int) -> None:
        until = time.monotonic() + self.limit_s
        while len(observer.pods) < count and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def running(self, prefix: str, count: int, rate: float) -> dict[str, Any]:
        async with self.observer() as observer, Load(self.cluster.endpoint, _CONNECTIONS) as load:
            wrote = await asyncio.to_thread(self.cluster.writes)
            before, cpu = self.cluster.cpu(self.roles), time.process_time()
            title = f"creating {count:,} at {f'{rate:g}/s' if rate else 'full speed'}"
            async with watched(title, count, lambda: observer.running):
                created = await load.run(self.creates(prefix, count, rate), rate=rate)
            self.check(created)
            await self.reach("coming to Running", observer, "running", created.good)
            spent = before.until(self.cluster.cpu(self.roles))
            cpu = time.process_time() - cpu
        await asyncio.sleep(_STATS_S)
        written = await asyncio.to_thread(self.cluster.writes)
        begun = min(self.sent.values())
        took = max(observer.last_running_at - begun, 1e-9)
        waits = array(
            "d",
            sorted(
                seen.running_at - self.sent[path]
                for path, seen in observer.pods.items()
                if seen.running_at and path in self.sent
            ),
        )
        return {
            "pods": count,
            "offered_per_second": rate or None,
            "created_per_second": round(created.rate, 1),
            "create_p99_ms": round(created.percentile_s(99) * 1e3, 1),
            "running": observer.running,
            "running_per_second": round(observer.running / took, 1),
            "to_running_p50_s": round(percentile(waits, 50), 3),
            "to_running_p99_s": round(percentile(waits, 99), 3),
            "watch_events": observer.events,
            "written_per_pod": {
                what: round((written[what] - wrote[what]) / max(observer.running, 1), 2)
                for what in written
            },
            "cpu_s_per_1000": _rounded(per_thousand(spent, observer.running)),
            "own_cpu_s_per_1000": round(cpu * 1000 / max(observer.running, 1), 3),
        }


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _rounded(costs: dict[str, float]) -> dict[str, float]:
    return {role: round(cost, 3) for role, cost in costs.items()}


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@options(nodes=5_000, mode="instant")
@click.option("--pods", type=int, default=10_000, show_default=True, help="Backlog; full speed.")
@click.option("--rates", default="250,500,1000", show_default=True, help="Pods a second.")
@click.option("--seconds", type=float, default=15.0, show_default=True, help="Of each fixed rate.")
@click.option("--tenants", type=int, default=2, show_default=True, help="Over all partitions.")
@click.option("--limit", type=float, default=60.0, show_default=True, help="Seconds to wait.")
@click.option("--only", type=click.Choice(["backlog", "running"]), multiple=True, help="[both]")
@click.option(
    "--bind-only", is_flag=True, help="Stop the node agents too while the backlog is bound."
)
def main(
    kubeconfig: Path | None, nodes: int, mode: str, settings: tuple[str, ...], pods: int,
    rates: str, seconds: float, tenants: int, limit: float, only: tuple[str, ...], bind_only: bool,
) -> None:  # fmt: skip
    report = Report("throughput", {"pods": pods, "rates": rates, "tenants": tenants, "mode": mode})
    backlog: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = []
    with cluster(kubeconfig, nodes, mode, settings, report) as found:
        report.parameters["nodes"] = found.nodes()
        bench = Bench(found, found.make_tenants(tenants, secrets.token_hex(3)), report, limit)
        wait_quiet(report)
        if not only or "backlog" in only:
            backlog = uvloop.run(bench.backlog(pods, kubeconfig is None, bind_only))
            time.sleep(_SETTLE_S)
        if not only or "running" in only:
            rows.append(uvloop.run(bench.running("full", pods, 0.0)))
            for i, rate in enumerate(float(part) for part in rates.split(",") if part):
                time.sleep(_SETTLE_S)
                rows.append(uvloop.run(bench.running(f"r{i:03d}", int(rate * seconds), rate)))
    if backlog is not None:
        costs = backlog["cpu_s_per_1000"]
        table(
            f"a backlog of {pods:,} pods, {report.parameters['nodes']:,} nodes",
            ("", "per second", "CPU-s for 1,000", "by role"),
            [
                (
                    "created", backlog["created_per_second"], costs["creating"].get("all"),
                    shown_costs(costs["creating"], 0.02),
                ),
                (
                    "bound", backlog["bound_per_second"], costs["binding"].get("all"),
                    shown_costs(costs["binding"], 0.02),
                ),
                (
                    "from create to Running", None, costs["in_all_to_running"].get("all"),
                    shown_costs(costs["in_all_to_running"], 0.02),
                ),
            ],
        )  # fmt: skip
        report.add("backlog", backlog)
    if rows:
        table(
            f"from create to Running, {report.parameters['nodes']:,} nodes, mode {mode}",
            ("offered", "created/s", "running/s", "p50 s", "p99 s", "CPU-s/1,000", "own CPU-s"),
            [
                (
                    f"{r['offered_per_second']:g}/s" if r["offered_per_second"] else "full speed",
                    r["created_per_second"], r["running_per_second"], r["to_running_p50_s"],
                    r["to_running_p99_s"], r["cpu_s_per_1000"].get("all"), r["own_cpu_s_per_1000"],
                )
                for r in rows
            ],
        )  # fmt: skip
        for r in rows:
            offered = f"{r['offered_per_second']:g}/s" if r["offered_per_second"] else "full speed"
            console.print(f"  {offered}: {shown_costs(r['cpu_s_per_1000'], 0.02)}")
        report.add("running", rows)
    report.save()


if __name__ == "__main__":
    main()
