"""How many durable writes a second does one partition take, in batches through Python handles?

Config maps of a few hundred bytes are created, patched and deleted over Ray handles: the whole
path, with validation, admission, managed fields and an fsync for each commit. CPU is counted over
all processes of the cluster, and apart for this program.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import click
from _cluster import Cluster, own_cluster, per_thousand, shown_costs
from _report import Report, console, table, wait_quiet

import arktos_ray

Write = Callable[[Any, list[str]], Awaitable[Any]]


async def _create(maps: Any, names: list[str]) -> Any:
    return await maps.create_many(
        {"metadata": {"name": name}, "data": {"text": "x" * 200}} for name in names
    )


async def _patch(maps: Any, names: list[str]) -> Any:
    return await maps.patch_many({name: {"data": {"more": "y"}} for name in names})


async def _delete(maps: Any, names: list[str]) -> Any:
    return await maps.delete_many(names)


async def measure(
    found: Cluster, tenant: str, count: int, batch: int, at_once: int, report: Report
) -> None:
    region = await arktos_ray.aconnect(found.kubeconfig.parent, transport="ray")
    maps = region.tenant(tenant, "bench").configmaps
    roles = found.roles()
    rows = []
    works: dict[str, Write] = {"create": _create, "patch": _patch, "delete": _delete}
    for what, write in works.items():
        starts = iter(range(0, count, batch))

        async def work(starts: Any = starts, write: Write = write) -> None:
            for start in starts:
                written = await write(maps, [f"m-{i}" for i in range(start, start + batch)])
                refused = [each for each in written if not each.ok]
                if refused:
                    raise click.ClickException(str(refused[0].failure))

        before, begun, own = found.cpu(roles), time.monotonic(), time.process_time()
        await asyncio.gather(*(work() for _ in range(at_once)))
        seconds = time.monotonic() - begun
        spent = per_thousand(before.until(found.cpu(roles)), count)
        own_s = (time.process_time() - own) * 1000 / count
        report.add(what, {"per_s": round(count / seconds), "cpu_s_per_1000": spent})
        rows.append((what, round(count / seconds), spent["all"], own_s, shown_costs(spent)))
    await region.close()
    table(
        f"{count:,} config maps in batches of {batch}, {at_once} at once, one tenant partition",
        ("write", "writes/s", "CPU s/1000", "of this program", "by role"), rows,
    )  # fmt: skip


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@click.option("--count", type=int, default=50_000, show_default=True)
@click.option("--batch", type=int, default=250, show_default=True)
@click.option("--at-once", type=int, default=4, show_default=True)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="As in arktos.yaml.")
def main(count: int, batch: int, at_once: int, settings: tuple[str, ...]) -> None:
    count -= count % batch
    report = Report("handles", {"count": count, "batch": batch, "at_once": at_once})
    wait_quiet(report)
    alone = ("tenant-partitions=1", "resource-partitions=1", "dashboard=false", *settings)
    with own_cluster(0, "instant", alone) as found:
        [tenant] = found.make_tenants(1, "handles")
        asyncio.run(measure(found, tenant, count, batch, at_once, report))
    report.save()
    console.print("[dim]each commit is fsynced before it is answered[/dim]")


if __name__ == "__main__":
    main()
