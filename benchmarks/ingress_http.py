"""What one ingress process carries over TLS: GETs a second, and the cost of telling a watcher.

Partitions answer at once and in this process, so the figures are the ingress alone. Clients are
other processes: `wrk` for requests (skipped when it is not installed), this file for watches.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import resource
import shutil
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import orjson
import uvloop
from _report import Report, table, wait_quiet

from arktos_ray.api import discovery, openapi
from arktos_ray.api.calls import Call, Reply, User, WatchEvent
from arktos_ray.base import pki
from arktos_ray.base.bounded import Bounded
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.ids import Ids
from arktos_ray.ingress.authn import Authenticator
from arktos_ray.ingress.server import Ingress, tls_context

TOKEN = "benchmark"
CONNECTIONS = 64
EVENTS_PER_S = 20
_PODS = "/api/v1/namespaces/default/pods"


class Partition:
    """Answers at once with a pod of 1 KB; its watches get whatever `tell` is given."""

    def __init__(self) -> None:
        pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "x": "y" * 900}}
        self.body = orjson.dumps(pod)
        self.calls = self.batches = 0
        self._watches: set[Bounded[list[WatchEvent]]] = set()

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        self.calls += len(calls)
        self.batches += 1
        return [Reply(200, self.body)] * len(calls)

    async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        events: Bounded[list[WatchEvent]] = Bounded(1_000)
        self._watches.add(events)
        try:
            while True:
                yield await events.get()
        finally:
            self._watches.discard(events)

    def tell(self, event: WatchEvent) -> None:
        for events in self._watches:
            events.put_nowait([event])

    async def request(self, method: str, payload: Any) -> Any:
        return None

    def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


class Upstream:
    def __init__(self) -> None:
        self.partition = Partition()

    def owner_of(self, tenant: str) -> str:
        return "tp-0"

    def tenant_uid(self, tenant: str) -> str | None:
        return None

    def topology_version(self) -> int:
        return 1

    def taking_nodes(self) -> list[str]:
        return list(self.resource_partitions())

    def tenant_partitions(self) -> list[str]:
        return ["tp-0"]

    resource_partitions = tenant_partitions

    def peer(self, partition: str) -> Partition:
        return self.partition

    def logs(self, *what: Any) -> AsyncIterator[bytes]:
        raise NotImplementedError


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def requests(port: int, upstream: Upstream, seconds: int) -> dict[str, float]:
    partition = upstream.partition
    cpu, calls, batches = cpu_s(), partition.calls, partition.batches
    wrk = await asyncio.create_subprocess_exec(
        "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency",
        "-H", f"Authorization: Bearer {TOKEN}", f"https://127.0.0.1:{port}{_PODS}/p",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await wrk.communicate()
    said = dict(re.findall(r"(Requests/sec|50%|99%):?\s+([\d.]+)", out.decode()))
    calls, batches = partition.calls - calls, partition.batches - batches
    return {
        "per_s": float(said["Requests/sec"]),
        "p50_ms": float(said["50%"]),
        "p99_ms": float(said["99%"]),
        "cpu_us": (cpu_s() - cpu) / calls * 1e6,
        "calls_per_batch": calls / batches,
    }


async def watches(
    port: int, upstream: Upstream, seconds: int, count: int, shared: bool
) -> dict[str, float]:
    """Everybody watches the same, or each something else (then nothing is shared)."""
    client = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--watch", str(port), str(count), str(int(shared)),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout is not None
    await client.stdout.readline()  # All are connected.
    cpu, start = cpu_s(), time.monotonic()
    for i in range(seconds * EVENTS_PER_S):
        event = WatchEvent("MODIFIED", (1 << 40) + i, "", upstream.partition.body)
        upstream.partition.tell(event)
        await asyncio.sleep(max(0.0, start + (i + 1) / EVENTS_PER_S - time.monotonic()))
    cpu = cpu_s() - cpu
    out, _ = await client.communicate(b"\n")
    got = int(out)
    return {"deliveries": got, "per_s": got / seconds, "cpu_us": cpu / got * 1e6}


class _Watching(asyncio.Protocol):
    got = started = 0

    def __init__(self, query: str) -> None:
        self._query = query

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        request = f"GET {_PODS}?watch=1&resourceVersion=1000{self._query} HTTP/1.1\r\n"
        request += f"Host: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        cast(asyncio.Transport, transport).write(request.encode())

    def data_received(self, data: bytes) -> None:
        _Watching.started += data.count(b"HTTP/1.1 200 OK")
        _Watching.got += data.count(b'"MODIFIED"')


async def watching(port: int, count: int, shared: bool) -> None:
    """The client's side, in its own process."""
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    loop = asyncio.get_running_loop()
    for i in range(count):
        query = "" if shared else f"&labelSelector=number%3D{i}"
        await loop.create_connection(partial(_Watching, query), "127.0.0.1", port, ssl=tls)
    while _Watching.started < count:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.sleep(0.5)
    print(_Watching.got, flush=True)


async def measure(report: Report, seconds: int, count: int) -> None:
    upstream, clock = Upstream(), SystemClock()
    admin = User("admin", "system", ("system:masters",))
    ingress = Ingress(
        upstream, Authenticator(upstream.tenant_uid, tokens={TOKEN: admin}), clock, Ids(1),
        discovery, openapi,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        made = pki.ensure(Path(folder), ["localhost"], pki.utc(clock.now()))
        tls = tls_context(str(made.server), str(made.server_key), str(made.ca))
        _, port = await ingress.listen("127.0.0.1", 0, tls)
    if shutil.which("wrk"):
        report.add("get", await requests(port, upstream, seconds))
    else:
        report.note("wrk is not installed: no requests were measured")
    for name, shared in (("watch_shared", True), ("watch_distinct", False)):
        report.add(name, await watches(port, upstream, seconds, count, shared))
    await ingress.close()


def main() -> None:
    if sys.argv[1:2] == ["--watch"]:
        port, count, shared = map(int, sys.argv[2:])
        uvloop.run(watching(port, count, bool(shared)))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 s each; no file is written")
    quick: bool = parser.parse_args().quick
    # Two descriptors a watch are open here and in the client.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))
    parameters = {"connections": CONNECTIONS, "watches": 1_000, "events_per_s": EVENTS_PER_S}
    report = Report("ingress_http", parameters)
    if not quick:
        wait_quiet(report)
    uvloop.run(measure(report, 2 if quick else 8, 1_000))
    rows = [
        [name, f["per_s"], f["cpu_us"], f.get("p50_ms"), f.get("p99_ms")]
        for name, f in report.figures.items()
    ]
    table("One ingress over TLS", ["what", "a second", "CPU us each", "p50 ms", "p99 ms"], rows)
    if not quick:
        report.save()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
