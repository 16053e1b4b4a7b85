"""How long does a tenant with many kinds of its own wait for its whole discovery?

What `kubectl` asks first: /api and /apis in their aggregated form; after a change, when the pages
must be made anew, and again, when only their stamp is asked for. OpenAPI beside it: the index and
one document of v3, and the whole of v2 as older clients read it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import aiohttp
import click
from _cluster import Cluster, own_cluster
from _report import Report, console, table, wait_quiet

from arktos_ray.client.kubeconfig import endpoint as endpoint_of

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_GNOSTIC = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
_TARGET_MS = 200


def definition(number: int, fields: int) -> dict[str, Any]:
    """Groups of ten kinds, with schemas of some KB as operators have them."""
    group = f"g{number // 10}.example.com"
    properties = {
        f"field{i}": {
            "type": "object", "description": f"What field {i} of the kind {number} is for.",
            "properties": {
                "name": {"type": "string", "maxLength": 63},
                "size": {"type": "integer", "minimum": 0, "default": 1},
            },
        }
        for i in range(fields)
    }  # fmt: skip
    schema = {
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": properties}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"things{number}.{group}"},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"plural": f"things{number}", "kind": f"Thing{number}"},
            "versions": [
                {
                    "name": "v1", "served": True, "storage": True,
                    "subresources": {"status": {}}, "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }  # fmt: skip


async def measure(
    found: Cluster, tenant: str, kinds: int, fields: int, rounds: int, report: Report
) -> None:
    endpoint, _ = endpoint_of(found.kubeconfig)
    crds = f"{endpoint.url}/apis/apiextensions.k8s.io/v1/tenants/{tenant}/customresourcedefinitions"
    here = f"{endpoint.url}/t/{tenant}"
    headers = {"Authorization": f"Bearer {endpoint.token}"} if endpoint.token else {}
    connector = aiohttp.TCPConnector(ssl=endpoint.tls) if endpoint.tls else None
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def create(number: int) -> None:
            async with session.post(crds, json=definition(number, fields)) as reply:
                if reply.status != 201:
                    raise click.ClickException(await reply.text())

        async def get(path: str, accept: str) -> tuple[float, int]:
            begun = time.perf_counter()
            async with session.get(here + path, headers={"Accept": accept}) as reply:
                body = await reply.read()
                if reply.status != 200:
                    raise click.ClickException(body.decode()[:500])
            return (time.perf_counter() - begun) * 1000, len(body)

        async def whole() -> tuple[float, int]:
            parts = [await get(path, _AGGREGATED) for path in ("/api", "/apis")]
            return sum(ms for ms, _ in parts), sum(size for _, size in parts)

        begun = time.perf_counter()
        for number in range(kinds):
            await create(number)
        made_ms = (time.perf_counter() - begun) * 1000 / kinds
        asks = {
            "discovery": whole,
            "openapi v3 index": lambda: get("/openapi/v3", "application/json"),
            "openapi v3 of a group": lambda: get(
                "/openapi/v3/apis/g0.example.com/v1", "application/json"
            ),
            "openapi v2 protobuf": lambda: get("/openapi/v2", _GNOSTIC),
        }
        rows = [("a definition made", f"{made_ms:.1f}", "", "")]
        report.add("made", {"ms": made_ms})
        for what, ask in asks.items():
            fresh, again, size = [], [], 0
            for _ in range(rounds):
                kinds += 1
                await create(kinds)  # Now everything is old.
                ms, size = await ask()
                fresh.append(ms)
                again += [(await ask())[0] for _ in range(5)]
            report.add(
                what,
                {
                    "fresh_ms": statistics.median(fresh), "again_ms": statistics.median(again),
                    "fresh_ms_max": max(fresh), "bytes": size,
                },
            )  # fmt: skip
            rows.append(
                (what, f"{statistics.median(fresh):.1f}", f"{statistics.median(again):.1f}",
                 f"{size:,}")
            )  # fmt: skip
    table(
        f"one tenant with {kinds} kinds of its own (target: discovery under {_TARGET_MS} ms)",
        ("asked for", "after a change, ms", "again, ms", "bytes"), rows,
    )  # fmt: skip


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@click.option("--kinds", type=int, default=100, show_default=True)
@click.option("--fields", type=int, default=20, show_default=True, help="Of each schema.")
@click.option("--rounds", type=int, default=7, show_default=True)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="As in arktos.yaml.")
def main(kinds: int, fields: int, rounds: int, settings: tuple[str, ...]) -> None:
    report = Report("discovery", {"kinds": kinds, "fields": fields, "rounds": rounds})
    wait_quiet(report)
    alone = ("tenant-partitions=2", "resource-partitions=1", "dashboard=false", *settings)
    with own_cluster(0, "instant", alone) as found:
        [tenant] = found.make_tenants(1, "discovery")
        asyncio.run(measure(found, tenant, kinds, fields, rounds, report))
    report.save()
    console.print("[dim]over TLS, one request at a time[/dim]")


if __name__ == "__main__":
    main()
