"""How fast is the API? Creates, gets, patches and lists of pods over HTTPS.

Each verb runs at several numbers of connections, each of which sends its next request when the
last one was answered. The clients are prebuilt bytes on bare connections (arktos_ray.testing.load):
their own CPU is shown, because they share the cores with what they measure. CPU of the server is
that of all processes of the cluster, Ray's included, for 1,000 requests.

The pods name a scheduler that does not exist, so nothing but the API works on them.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import uvloop
from _cluster import Cluster, cluster, options, per_thousand, shown_costs
from _report import Report, console, table, wait_quiet, watched

from arktos_ray.testing.load import Load, Outcome, Template, pod, slotted

_NOBODY = "benchmark"  # no scheduler has that name
_NAME_BYTES = 12
_WARM_UP_S = 0.5
# Between two measurements, for what the last one left behind (history, garbage).
_PAUSE_S = 1.0


class Bench:
    def __init__(self, found: Cluster, tenants: list[str], seconds: float, report: Report) -> None:
        self.cluster, self.tenants, self.seconds = found, tenants, seconds
        self.report = report
        self.roles = found.roles()
        self.rows: list[dict[str, Any]] = []

    def collection(self, tenant: str, namespace: str = "bench") -> str:
        return f"/api/v1/tenants/{tenant}/namespaces/{namespace}/pods"

    async def measure(
        self, verb: str, connections: int, requests: Iterator[bytes], *, warm: bool = True
    ) -> Outcome:
        async with Load(self.cluster.endpoint, connections) as load:
            if warm:
                await load.run(requests, seconds=_WARM_UP_S)
            before = self.cluster.cpu(self.roles)
            title = f"{verb}, {connections} connections"
            async with watched(title, None, lambda: load.answered):
                outcome = await load.run(requests, seconds=self.seconds)
            spent = before.until(self.cluster.cpu(self.roles))
        self.note(verb, connections, outcome, spent)
        await asyncio.sleep(_PAUSE_S)
        return outcome

    def note(self, verb: str, connections: int, outcome: Outcome, spent: dict[str, float]) -> None:
        if outcome.bad:
            self.report.note(
                f"{verb}, {connections} connections: {outcome.bad} of {outcome.good + outcome.bad}"
                f" requests failed; the first: {outcome.first_refusal}"
            )
        costs = per_thousand(spent, outcome.good)
        self.rows.append(
            {
                "verb": verb,
                "connections": connections,
                "requests": outcome.good,
                "failed": outcome.bad,
                "per_second": round(outcome.rate, 1),
                "p50_ms": round(outcome.percentile_s(50) * 1e3, 2),
                "p99_ms": round(outcome.percentile_s(99) * 1e3, 2),
                "mb_per_second": round(outcome.bytes_read / outcome.seconds / 1e6, 1),
                "server_cpu_s_per_1000": {k: round(v, 4) for k, v in costs.items()},
                "client_cpu_s_per_1000": round(
                    outcome.client_cpu_s * 1000 / max(outcome.good, 1), 4
                ),
            }
        )

    # What is sent

    def creates(self, prefix: str) -> Iterator[bytes]:
        """Endless; the tenants take turns."""
        body = slotted(pod("SLOT", scheduler=_NOBODY))
        templates = [
            Template(
                self.cluster.endpoint, "POST", self.collection(tenant), body, lengths=[_NAME_BYTES]
            )
            for tenant in self.tenants
        ]
        for number in itertools.count():
            yield templates[number % len(templates)].render(_name(prefix, number))

    def by_name(self, method: str, count: int, body: bytes = b"") -> Iterator[bytes]:
        """Endless, over the first `count` pods of the list namespace of each tenant."""
        templates = [
            Template(
                self.cluster.endpoint, method, self.collection(tenant, "list") + "/\0", body,
                lengths=[8] if body else [], media="application/merge-patch+json",
            )
            for tenant in self.tenants
        ]  # fmt: skip
        for number in itertools.count():
            template = templates[number % len(templates)]
            name = _name("list", number // len(templates) % count)
            yield template.render(name, b"%08d" % number) if body else template.render(name)

    async def fill(self, count: int) -> None:
        """`count` pods in the namespace `list` of each tenant; not measured."""
        body = slotted(pod("SLOT", "list", scheduler=_NOBODY))

        def requests() -> Iterator[bytes]:
            for tenant in self.tenants:
                template = Template(
                    self.cluster.endpoint, "POST", self.collection(tenant, "list"), body,
                    lengths=[_NAME_BYTES],
                )  # fmt: skip
                yield from (template.render(_name("list", i)) for i in range(count))

        async with (
            Load(self.cluster.endpoint, 64) as load,
            watched("filling", count * len(self.tenants), lambda: load.answered),
        ):
            outcome = await load.run(requests())
        if outcome.bad:
            raise click.ClickException(f"pods cannot be created: {outcome.first_refusal}")


def _name(prefix: str, number: int) -> bytes:
    return b"%b-%07d" % (prefix.encode(), number)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


async def run(
    bench: Bench, only: tuple[str, ...], connections: list[int], lists: list[int], objects: int
) -> None:
    def wanted(verb: str) -> bool:
        return not only or verb in only

    if wanted("create"):
        for i, count in enumerate(connections):
            await bench.measure("create", count, bench.creates(f"c{i:03d}"))
            for tenant in bench.tenants:
                await asyncio.to_thread(bench.cluster.delete_pods, tenant, "bench")
    if any(map(wanted, ("get", "patch", "list"))):
        for tenant in bench.tenants:
            bench.cluster.make_namespace(tenant, "list")
        await bench.fill(objects)
        await asyncio.sleep(_PAUSE_S)
    if wanted("get"):
        for count in connections:
            await bench.measure("get", count, bench.by_name("GET", objects))
    if wanted("patch"):
        patch = b'{"metadata":{"annotations":{"example.com/turn":"\0"}}}'
        for count in connections:
            await bench.measure("patch", count, bench.by_name("PATCH", objects, patch))
    if wanted("list"):
        for count in lists:
            template = Template(
                bench.cluster.endpoint, "GET", bench.collection(bench.tenants[0], "list")
            )
            await bench.measure(f"list of {objects:,}", count, itertools.repeat(template.render()))


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@options(nodes=0, mode="instant")
@click.option("--connections", default="1,16,64", show_default=True)
@click.option("--list-connections", default="1,4,16", show_default=True, help="For lists: 30 MB.")
@click.option("--seconds", type=float, default=8.0, show_default=True, help="For each figure.")
@click.option("--objects", type=int, default=10_000, show_default=True, help="In a list.")
@click.option("--tenants", type=int, default=2, show_default=True, help="Over all partitions.")
@click.option(
    "--only", type=click.Choice(["create", "get", "patch", "list"]), multiple=True, help="[all]"
)
def main(
    kubeconfig: Path | None, nodes: int, mode: str, settings: tuple[str, ...], connections: str,
    list_connections: str, seconds: float, objects: int, tenants: int, only: tuple[str, ...],
) -> None:  # fmt: skip
    report = Report(
        "api",
        {
            "connections": connections, "list_connections": list_connections, "seconds": seconds,
            "objects": objects, "tenants": tenants, "pod_bytes": len(slotted(pod("SLOT"))),
            "transport": "HTTPS, keep-alive, client certificate",
        },
    )  # fmt: skip
    with cluster(kubeconfig, nodes, mode, settings, report) as found:
        names = found.make_tenants(tenants, secrets.token_hex(3))
        wait_quiet(report)
        begun = time.monotonic()
        bench = Bench(found, names, seconds, report)
        uvloop.run(run(bench, only, _numbers(connections), _numbers(list_connections), objects))
        console.print(f"[dim]{time.monotonic() - begun:.0f} s[/dim]")
    table(
        "the API over HTTPS (pods that nobody schedules)",
        ("verb", "connections", "per second", "p50 ms", "p99 ms", "server CPU-s", "client CPU-s"),
        [
            (
                r["verb"], r["connections"], r["per_second"], r["p50_ms"], r["p99_ms"],
                r["server_cpu_s_per_1000"].get("all"), r["client_cpu_s_per_1000"],
            )
            for r in bench.rows
        ],
    )  # fmt: skip
    console.print("CPU seconds are for 1,000 requests. By role:")
    for r in bench.rows:
        costs = shown_costs(r["server_cpu_s_per_1000"])
        console.print(f"  {r['verb']}, {r['connections']}: {costs}")
    report.add("requests", bench.rows)
    report.save()


if __name__ == "__main__":
    main()
