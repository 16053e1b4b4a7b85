"""How soon does a partition with many objects serve again after kill -9, and what does it cost?

Fills one tenant partition with pods through Python handles, in batches; kills its process, and asks
over HTTPS, again and again, until a read and then a write are answered. CPU is that of the new
process until then; most of it is reading the log.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import click
from _cluster import Cluster, Refused, own_cluster
from _report import Report, console, progress, table, wait_quiet

import arktos_ray
from arktos_ray.base import processes
from arktos_ray.testing.load import pod

_BATCH = 250
_AT_ONCE = 4
_DEADLINE_S = 300.0


async def fill(directory: Any, tenant: str, count: int) -> float:
    """Pods of that tenant; objects/s."""
    region = await arktos_ray.aconnect(directory, transport="ray")
    try:
        pods = region.tenant(tenant, "bench").pods
        # Nobody places them: the partition holds that many objects, and no Event about each.
        body = pod("x", scheduler="nobody")
        numbers = iter(range(0, count, _BATCH))
        begun = time.monotonic()
        with progress() as bars:
            bar = bars.add_task("creating pods", total=count)

            async def work() -> None:
                for start in numbers:
                    names = [f"p-{i}" for i in range(start, min(start + _BATCH, count))]
                    made = await pods.create_many(
                        {**body, "metadata": {**body["metadata"], "name": name}} for name in names
                    )
                    for each in made:
                        if not each.ok:
                            raise click.ClickException(str(each.failure))
                    bars.advance(bar, len(names))

            await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
        return count / (time.monotonic() - begun)
    finally:
        await region.close()


def killed(found: Cluster, tenant: str) -> dict[str, float]:
    """Seconds until a read, and until a write, and the CPU seconds of the new process."""
    [old] = [part["pid"] for part in found.status()["parts"] if part["name"] == "tp-1"]
    path = f"/api/v1/tenants/{tenant}/namespaces/bench/pods/p-0"
    begun = time.monotonic()
    os.kill(old, signal.SIGKILL)
    answered = {}
    for what, method, body in (
        ("read_s", "GET", None),
        ("write_s", "PATCH", {"metadata": {"labels": {"killed": str(old)}}}),
    ):
        while True:
            try:
                found.request(method, path, body, "application/merge-patch+json")
                break
            except (Refused, OSError):
                if time.monotonic() - begun > _DEADLINE_S:
                    raise
                time.sleep(0.01)
        answered[what] = round(time.monotonic() - begun, 2)
    parts = found.status()["parts"]
    while [part["pid"] for part in parts if part["name"] == "tp-1"] == [old]:
        time.sleep(0.2)
        parts = found.status()["parts"]
    [new] = [part["pid"] for part in parts if part["name"] == "tp-1"]
    answered["cpu_s"] = round(processes.cpu_s(new), 2)
    answered["pss_mb"] = round(processes.pss_bytes(new) / 2**20)
    return answered


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@click.option("--objects", type=int, multiple=True, default=(100_000,), show_default=True)
@click.option("--times", type=int, default=3, show_default=True, help="Kills for each size.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="As in arktos.yaml.")
def main(objects: tuple[int, ...], times: int, settings: tuple[str, ...]) -> None:
    report = Report("recovery", {"objects": objects, "times": times, "settings": settings})
    wait_quiet(report)
    rows = []
    for count in objects:
        alone = ("tenant-partitions=1", "resource-partitions=1", "dashboard=false", *settings)
        with own_cluster(0, "instant", alone) as found:
            [tenant] = found.make_tenants(1, "recovery")
            rate = asyncio.run(fill(found.kubeconfig.parent, tenant, count))
            tries = [killed(found, tenant) for _ in range(times)]
        best = min(tries, key=lambda each: each["write_s"])
        report.add(str(count), {"created_per_s": round(rate), "kills": tries})
        rows.append(
            (f"{count:,} pods", round(rate), best["read_s"], best["write_s"], best["cpu_s"],
             best["pss_mb"])
        )  # fmt: skip
    table(
        "kill -9 of a tenant partition, until it answers again (best of the tries)",
        ("objects", "created/s", "read s", "write s", "CPU s of the new process", "PSS MB"), rows,
    )  # fmt: skip
    report.save()
    console.print("[dim]the first try finds a log whose pages the kernel has in memory[/dim]")


if __name__ == "__main__":
    main()
