"""How fast is a partition's log? Durable rows and commits a second, and how fast it is read back.

Each log takes batches of pods of 1.5 KB, one batch after the other, as a partition has one commit
in flight. Reading is measured with what a partition makes of the rows (Store.recover) and without.
CPU is this process's own; an etcd's is shown beside it. The etcd is one member, on this disk.
"""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from _report import Report, console, table, wait_quiet

from arktos_ray.base import processes
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.tasks import Tasks
from arktos_ray.store.backends.etcd import EtcdLog
from arktos_ray.store.backends.memory import MemoryDisk, MemoryLog
from arktos_ray.store.backends.sqlite import SqliteLog
from arktos_ray.store.port import Log, Row
from arktos_ray.store.records import encode, row_of
from arktos_ray.store.store import Store
from arktos_ray.testing.etcd_server import EtcdServer, missing

_BATCHES = (1, 10, 100, 1_000)
_FILL_BATCH = 1_000
_NOTE = "n" * 500


def rows(count: int, start: int = 0) -> Iterator[Row]:
    """Pods as they are when they run, of 50 Deployments on 1,000 nodes."""
    first = int(SystemClock().now() * 1000) << 19
    for i in range(start, start + count):
        name = f"web-{i % 50}-{i:07x}-abcde"
        env = [{"name": f"E{j}", "value": "v" * 10} for j in range(12)]
        pod = {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "default", "tenant": "acme", "uid": f"{i:032x}",
                "labels": {"app": f"web-{i % 50}"}, "annotations": {"note": _NOTE},
            },
            "spec": {
                "nodeName": f"node-{i % 1000}",
                "containers": [{"name": "c", "image": "nginx", "env": env}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [
                {"type": kind, "status": "True"} for kind in ("Ready", "PodScheduled")]},
        }  # fmt: skip
        yield row_of("pods", encode(first + i, f"acme/default/{name}", pod))


class Subject:
    """One kind of log. server_pid: who works for it beside us."""

    def __init__(self, name: str, open_log: Callable[[], Log], server_pid: int = 0) -> None:
        self.name, self.open, self.server_pid = name, open_log, server_pid

    def server_cpu_s(self) -> float:
        return processes.cpu_s(self.server_pid) if self.server_pid else 0.0


async def append(subject: Subject, batch: int, seconds: float, start: int) -> dict[str, Any]:
    log = subject.open()
    for _ in log.replay():
        pass
    await log.take_over()
    ready = list(rows(max(2_000, batch), start))
    commits = 0
    cpu, server, began = time.process_time(), subject.server_cpu_s(), time.monotonic()
    shift = 0
    while (took := time.monotonic() - began) < seconds:
        at = commits * batch % len(ready)
        if at + batch > len(ready):
            at = 0
        shift += 10_000_000
        await log.append([r._replace(revision=r.revision + shift) for r in ready[at : at + batch]])
        commits += 1
    cpu, server = time.process_time() - cpu, subject.server_cpu_s() - server
    log.close()
    done = commits * batch
    return {
        "log": subject.name, "batch": batch, "commits_per_s": round(commits / took, 1),
        "rows_per_s": round(done / took, 1), "cpu_us_per_row": round(cpu / done * 1e6, 2),
        "server_cpu_us_per_row": round(server / done * 1e6, 2),
    }  # fmt: skip


async def fill(log: Log, count: int) -> None:
    for _ in log.replay():
        pass
    await log.take_over()
    batch: list[Row] = []
    for row in rows(count):
        batch.append(row)
        if len(batch) == _FILL_BATCH:
            await log.append(batch)
            batch = []
    if batch:
        await log.append(batch)
    log.close()


def read(subject: Subject, how: str, count: int, work: Callable[[Log], Any]) -> dict[str, Any]:
    log = subject.open()
    cpu, server, began = time.process_time(), subject.server_cpu_s(), time.monotonic()
    work(log)
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    server = subject.server_cpu_s() - server
    log.close()
    return {
        "log": subject.name, "what": how, "rows": count, "rows_per_s": round(count / took, 1),
        "cpu_s": round(cpu, 3), "server_cpu_s": round(server, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }  # fmt: skip


def count_rows(log: Log) -> None:
    for _ in log.replay():
        pass


def recover(log: Log) -> None:
    Store(log, 1, SystemClock(), Tasks()).recover()


@click.command()
@click.option("--seconds", default=3.0, show_default=True, help="For each size of batch.")
@click.option("--rows", "count", default=100_000, show_default=True, help="Read back.")
@click.option("--logs", default="memory,sqlite,etcd", show_default=True)
def main(seconds: float, count: int, logs: str) -> None:
    """Durable rows a second, and rows read back a second, of each log."""
    report = Report("store", {"seconds": seconds, "rows": count, "logs": logs})
    wait_quiet(report)
    wanted = logs.split(",")
    written: list[dict[str, Any]] = []
    read_back: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=".") as name:
        home = Path(name)
        server: EtcdServer | None = None
        pid = 0
        if "etcd" in wanted and missing():
            report.note(f"no etcd: {missing()} is not installed")
            wanted.remove("etcd")
        if "etcd" in wanted:
            server = EtcdServer(home / "etcd", flags=("--quota-backend-bytes=8589934592",))
            pid = server.start()
        try:
            for kind in wanted:
                for batch in _BATCHES:
                    console.print(f"[dim]{kind}, {batch} rows a commit[/dim]")
                    made = subject(kind, home, f"batch-{batch}", server, pid)
                    written.append(asyncio.run(append(made, batch, seconds, 0)))
                console.print(f"[dim]{kind}, {count} rows to read[/dim]")
                made = subject(kind, home, "read", server, pid)
                asyncio.run(fill(made.open(), count))
                for how, work in (("replay", count_rows), ("recover", recover)):
                    read_back.append(read(made, how, count, work))
        finally:
            if server is not None:
                server.stop()
    report.add("append", written)
    report.add("read", read_back)
    table(
        "Appending rows of 1.5 KB, one commit after the other",
        ["log", "rows a commit", "commits/s", "rows/s", "CPU us/row", "server us/row"],
        [list(row.values()) for row in written],
    )
    table(
        "Reading them back",
        ["log", "what", "rows", "rows/s", "CPU s", "server CPU s", "peak MB"],
        [list(row.values()) for row in read_back],
    )
    report.save()


def subject(kind: str, home: Path, name: str, server: EtcdServer | None, pid: int) -> Subject:
    if kind == "memory":
        disk = MemoryDisk()
        return Subject(kind, lambda: MemoryLog(disk))
    if kind == "sqlite":
        return Subject(kind, lambda: SqliteLog(home / f"{name}.sqlite"))
    assert server is not None
    settings = server.settings()
    return Subject(kind, lambda: EtcdLog(settings, name, SystemClock()), pid)


if __name__ == "__main__":
    main()
