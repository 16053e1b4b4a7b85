"""What does a noisy tenant cost its neighbours? Latencies over HTTPS, alone and beside it.

Quiet tenants get, create, list and watch 20 times a second, an administrator gets, a node renews
its lease. The noisy tenant, in a process of its own, does the same from hundreds of connections
that never pause, lists thousands of objects, and watches all of its own churn. Everybody shares one
tenant partition and one ingress.

`--queue` measures the fair queue alone.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson
import uvloop
from _cluster import Cluster, cluster, options
from _report import Report, console, table

from arktos_ray.base.fair import FairQueue

PERIOD_S = 0.05
LARGE_BYTES = 3_000
_DEADLINE_S = 60.0


def _tls() -> ssl.SSLContext:
    """Without a client certificate: who is calling is in the token."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Caller:
    def __init__(self, url: str, tls: ssl.SSLContext, tenant: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls), headers=headers,
            timeout=aiohttp.ClientTimeout(total=None),
        )  # fmt: skip
        self._url = url
        self.configmaps = f"/api/v1/tenants/{tenant}/namespaces/bench/configmaps"
        self.codes: dict[int, int] = {}

    async def say(self, method: str, path: str, body: Any = None) -> bytes:
        data = orjson.dumps(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if data else {}
        async with self._session.request(
            method, self._url + path, data=data, headers=headers
        ) as answer:
            self.codes[answer.status] = self.codes.get(answer.status, 0) + 1
            return await answer.read()

    async def create(self, name: str, size: int = 300) -> bytes:
        body = {"metadata": {"name": name}, "data": {"x": "y" * size}}
        return await self.say("POST", self.configmaps, body)

    async def watch(self, told: Callable[[bytes], None], query: str = "") -> None:
        url = f"{self._url}{self.configmaps}?watch=1{query}"
        while True:
            async with self._session.get(url) as answer:
                async for line in answer.content:
                    told(line)

    async def close(self) -> None:
        await self._session.close()


# The noisy tenant, in its own process.


async def noise(url: str, tenant: str, token: str, objects: int, scale: int) -> None:
    caller = Caller(url, _tls(), tenant, token)
    names = (f"churn-{number}" for number in itertools.count())
    gate = asyncio.Semaphore(32)

    async def fill(number: int) -> None:
        async with gate:
            await caller.create(f"large-{number}", LARGE_BYTES)

    await asyncio.gather(*(fill(number) for number in range(objects)))

    async def again(work: Callable[[], Awaitable[bytes]]) -> None:
        while True:
            refused = caller.codes.get(429, 0)
            try:
                await work()
            except (aiohttp.ClientError, ConnectionError):
                await asyncio.sleep(0.1)
            if caller.codes.get(429, 0) > refused:
                await asyncio.sleep(1.0)

    works: list[tuple[int, Callable[[], Awaitable[bytes]]]] = [
        (8, lambda: caller.say("GET", caller.configmaps + "/large-1")),
        (8, lambda: caller.create(next(names))),
        (3, lambda: caller.say("GET", caller.configmaps)),
        (1, lambda: caller.say("GET", caller.configmaps + "?limit=500")),
    ]
    running = [asyncio.ensure_future(again(work)) for n, work in works for _ in range(n * scale)]
    running += [
        asyncio.ensure_future(caller.watch(len, f"&labelSelector=n!%3D{i}"))  # type: ignore[arg-type]
        for i in range(5 * scale)
    ]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for task in running:
        task.cancel()
    print(orjson.dumps(caller.codes, option=orjson.OPT_NON_STR_KEYS).decode(), flush=True)
    await caller.close()


# The others.


class Quiet:
    def __init__(self, found: Cluster, tenants: dict[str, str], seconds: float) -> None:
        url, tls = found.endpoint.url, found.endpoint.tls
        assert tls is not None
        self.callers = [Caller(url, _tls(), name, token) for name, token in tenants.items()]
        self.admin = Caller(url, tls, next(iter(tenants)), "")
        self.seconds = seconds
        self.taken: dict[str, list[float]] = {}
        self.names = (f"quiet-{number}" for number in itertools.count())

    async def _timed(self, what: str, work: Awaitable[Any]) -> None:
        start = time.perf_counter()
        await work
        self.taken.setdefault(what, []).append(time.perf_counter() - start)

    async def _regularly(self, work: Callable[[], Awaitable[None]], after: float) -> None:
        await asyncio.sleep(after)
        begun, running = time.perf_counter(), []
        for number in range(int(self.seconds / PERIOD_S)):
            await asyncio.sleep(max(0.0, begun + number * PERIOD_S - time.perf_counter()))
            running.append(asyncio.ensure_future(work()))
        await asyncio.wait_for(asyncio.gather(*running), _DEADLINE_S)

    async def measure(self) -> dict[str, Any]:
        self.taken = {}
        watching, jobs = [], []
        for number, caller in enumerate(self.callers):
            created: dict[bytes, float] = {}

            def told(line: bytes, created: dict[bytes, float] = created) -> None:
                obj = orjson.loads(line)["object"]
                start = created.pop(obj["metadata"]["name"].encode(), 0.0)
                if start:
                    self.taken.setdefault("watch", []).append(time.perf_counter() - start)

            async def work(caller: Caller = caller, created: dict[bytes, float] = created) -> None:
                await self._timed("get", caller.say("GET", caller.configmaps + "/known"))
                name = next(self.names)
                created[name.encode()] = time.perf_counter()
                await self._timed("create", caller.create(name))
                await self._timed("list", caller.say("GET", caller.configmaps + "?limit=20"))

            watching.append(asyncio.ensure_future(caller.watch(told)))
            jobs.append(self._regularly(work, number * 0.011))
        path = self.admin.configmaps + "/known"
        lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/bench-node"
        renewed = {"metadata": {"name": "bench-node"}, "spec": {"holderIdentity": "bench-node"}}

        async def administrator() -> None:
            await self._timed("administrator", self.admin.say("GET", path))

        async def heartbeat() -> None:
            await self._timed("heartbeat", self.admin.say("PUT", lease, renewed))

        jobs += [self._regularly(administrator, 0.0), self._regularly(heartbeat, 0.005)]
        await asyncio.gather(*jobs)
        for task in watching:
            task.cancel()
        return {
            what: {
                "count": len(values),
                "p50_ms": round(sorted(values)[len(values) // 2] * 1e3, 2),
                "p99_ms": round(sorted(values)[int(len(values) * 0.99)] * 1e3, 2),
            }
            for what, values in sorted(self.taken.items())
        }

    def codes(self) -> dict[int, int]:
        found: dict[int, int] = {}
        for caller in (*self.callers, self.admin):
            for code, count in caller.codes.items():
                found[code] = found.get(code, 0) + count
        return found

    async def close(self) -> None:
        for caller in (*self.callers, self.admin):
            await caller.close()


async def run(
    found: Cluster, tenants: dict[str, str], seconds: float, objects: int, scale: int,
    report: Report,
) -> None:  # fmt: skip
    [*quiet, noisy] = tenants
    calm = Quiet(found, {name: tenants[name] for name in quiet}, seconds)
    for caller in calm.callers:
        await caller.create("known")
    lease = {"metadata": {"name": "bench-node"}, "spec": {"holderIdentity": "bench-node"}}
    leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    await calm.admin.say("POST", leases, lease)
    await calm.measure()  # Connections, and what is done once.
    report.add("alone", await calm.measure())
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--noise", found.endpoint.url, noisy, tenants[noisy],
        str(objects), str(scale), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readline()
    await asyncio.sleep(2.0)
    before = found.cpu()
    begun = time.monotonic()
    report.add("beside", await calm.measure())
    report.add("quiet_codes", calm.codes())
    spent = before.until(found.cpu())
    report.add("cpu_cores", {k: round(v / (time.monotonic() - begun), 2) for k, v in spent.items()})
    out, _ = await process.communicate(b"\n")
    report.add("noisy_codes", orjson.loads(out))
    await calm.close()


def queue() -> None:
    """CPU microseconds of push, pop and done."""
    for flows, depth in ((1, 0), (1, 100), (200, 5)):
        fair: FairQueue[int, None] = FairQueue(1_000_000)
        for _ in range(depth):
            for flow in range(flows):
                fair.push(flow, 15, None)
        count, start = 200_000, time.process_time()
        for number in range(count):
            fair.push(number % flows, 15, None)
            taken = fair.pop()
            assert taken is not None
            fair.done(taken.flow, taken.cost, taken.cost)
        us = (time.process_time() - start) / count * 1e6
        console.print(f"{flows} flows, {depth} waiting in each: {us:.2f} us an item")


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@options(nodes=0, mode="instant")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="For each figure.")
@click.option("--objects", type=int, default=5_000, show_default=True, help="Of the noisy tenant.")
@click.option("--scale", type=int, default=20, show_default=True, help="20: 400 connections.")
@click.option("--queue", "only_queue", is_flag=True, help="The fair queue alone.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="The figures, here as well.")
def main(
    kubeconfig: Path | None, nodes: int, mode: str, settings: tuple[str, ...], seconds: float,
    objects: int, scale: int, only_queue: bool, path: Path | None,
) -> None:  # fmt: skip
    if only_queue:
        queue()
        return
    report = Report("fairness", {"seconds": seconds, "objects": objects, "connections": 20 * scale})
    one_of_each = ("tenant-partitions=1", "resource-partitions=1", "dashboard=false")
    with cluster(kubeconfig, nodes, mode, (*one_of_each, *settings), report) as found:
        tenants = {}
        for name in found.make_tenants(5, "fair"):
            made = found.request("POST", f"/arktos/v1/tenants/{name}/token")
            tenants[name] = made["token"]
        uvloop.run(run(found, tenants, seconds, objects, scale, report))
    alone, beside = report.figures["alone"], report.figures["beside"]
    table(
        "neighbours of a noisy tenant",
        ("what", "p50 ms alone", "beside", "p99 ms alone", "beside"),
        [
            (
                what, alone[what]["p50_ms"], beside[what]["p50_ms"],
                alone[what]["p99_ms"], beside[what]["p99_ms"],
            )
            for what in alone if what in beside
        ],
    )  # fmt: skip
    console.print(report.figures["noisy_codes"], report.figures["cpu_cores"])
    saved = report.save()
    if path is not None:
        path.write_bytes(saved.read_bytes())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--noise"]:
        where, who, key, many, how = sys.argv[2:]
        uvloop.run(noise(where, who, key, int(many), int(how)))
    else:
        main()
