"""How many placements a second: nodes x signatures, in batches as the scheduler makes them.

    python benchmarks/placement.py [--quick]

Prints a table, and writes it with the circumstances (load, CPU, versions, commit) beside the other
results. A batch of 2,000 pods is what a busy scheduler takes at once; all of them at once shows
what the arithmetic alone can do. The last columns are the ledger, and one full pass over the nodes.
Seconds are of CPU time, so that a busy machine's figures still mean something (they are higher by
what its caches and sibling threads cost: see the load beside them).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from arktos_ray.placement.assign import Assignment
from arktos_ray.placement.ledger import Claim, Ledger
from arktos_ray.placement.pairs import Pairs
from arktos_ray.placement.signature import (
    Demand,
    PodRequest,
    PodRules,
    PodTerm,
    Requirement,
    Selector,
    Signature,
    SpreadRule,
)
from arktos_ray.placement.solve import solve
from arktos_ray.placement.tables import NodeTable, NodeView

RESULTS = Path(__file__).parent / "results" / "placement.json"
BATCH = 2_000
MI = 2**20


def nodes_of(count: int) -> NodeTable:
    """Three sizes of nodes in three zones, each with some use already."""
    table = NodeTable()
    dice = np.random.default_rng(1)
    for i in range(count):
        cpu = (16_000, 32_000, 64_000)[i % 3]
        name = f"node-{i}"
        labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"z{i % 3}"}
        room = {"cpu": cpu, "memory": cpu * 4 * MI, "pods": 110, "ephemeral-storage": 100_000 * MI}
        table.set_node(NodeView(name, f"rp-{i % 2}", room, labels))
        share = float(dice.uniform(0, 0.3))
        used = {"cpu": int(cpu * share), "memory": int(cpu * 4 * MI * share), "pods": 10}
        table.set_usage(name, 1, used)
    return table


def demand_of(number: int) -> Demand:
    return Demand((("cpu", 50 + number % 400), ("memory", (64 + number) * MI), ("pods", 1)))


def pods_of(count: int, signatures: list[Signature]) -> list[PodRequest]:
    return [
        PodRequest(
            f"uid-{i}", f"acme/x/pod-{i}", "acme", "x", {"app": "a"}, 0, i,
            signatures[i % len(signatures)],
        )
        for i in range(count)
    ]  # fmt: skip


def seconds_of_batches(table: NodeTable, pods: list[PodRequest], batch: int) -> float:
    """Without the reservations between the batches, so usage stays as it is."""
    rng = np.random.default_rng(2)
    started = time.process_time()
    for start in range(0, len(pods), batch):
        plan = solve(table, pods[start : start + batch], rng=rng)
        assert not plan.unplaced
    return time.process_time() - started


def full_pass_ms(table: NodeTable) -> float:
    signature = Signature(demand_of(0))
    batch = Assignment(table, Pairs(), {signature: 1}, np.random.default_rng(3))
    shelf = batch.shelf(pods_of(1, [signature])[0])
    started = time.process_time()
    for _ in range(50):
        batch._scored(shelf, batch._open(shelf)).argmax()
    return (time.process_time() - started) / 50 * 1e3


def ledger_us(table: NodeTable, pods: list[PodRequest]) -> float:
    plan = solve(table, pods, rng=np.random.default_rng(4))
    ledger = Ledger()
    for name in table.row_of:
        ledger.set_node(name, {"cpu": 64_000, "memory": 2**40, "pods": 110})
    claims = [Claim(pod.uid, node, pod.signature.demand, "tp") for pod, node in plan.placed]
    started = time.process_time()
    ledger.reserve(claims, 0.0)
    return (time.process_time() - started) / len(claims) * 1e6


def sociable(number: int) -> list[tuple[str, Signature]]:
    """Shapes that need a pass for each pod."""
    app = Selector((Requirement("app", "In", ("a",)),))
    demand = demand_of(number)
    spread = SpreadRule(1, "topology.kubernetes.io/zone", True, app)
    apart = PodTerm("kubernetes.io/hostname", app)
    return [
        ("spread over zones", Signature(demand, pod_rules=PodRules(spread=(spread,)))),
        ("one a node", Signature(demand, pod_rules=PodRules(anti_affinity=(apart,)))),
    ]


def measure(*, quick: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for count in (1_000, 5_000) if quick else (1_000, 5_000, 60_000):
        table = nodes_of(count)
        pass_ms = full_pass_ms(table)
        for kinds in (1, 50, 1_000, 0):
            total = 4_000 if quick else 20_000
            if kinds == 0:
                total = BATCH
            signatures = [Signature(demand_of(i)) for i in range(kinds or total)]
            pods = pods_of(total, signatures)
            batched = seconds_of_batches(table, pods, BATCH)
            whole = seconds_of_batches(table, pods, total)
            rows.append(
                {
                    "nodes": count,
                    "signatures": kinds or "all distinct",
                    "batched_per_s": round(total / batched),
                    "batched_us": round(batched / total * 1e6, 1),
                    "whole_per_s": round(total / whole),
                    "ledger_us": round(ledger_us(table, pods[:BATCH]), 1),
                    "full_pass_ms": round(pass_ms, 2),
                }
            )
        for name, signature in sociable(0):
            pods = pods_of(min(500, count // 2), [signature])
            seconds = seconds_of_batches(table, pods, BATCH)
            rows.append(
                {
                    "nodes": count,
                    "signatures": name,
                    "batched_per_s": round(len(pods) / seconds),
                    "batched_us": round(seconds / len(pods) * 1e6, 1),
                    "full_pass_ms": round(pass_ms, 2),
                }
            )
    return rows


def circumstances(load_before: tuple[float, float, float]) -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    models = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()  # fmt: skip
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": models[0] if models else platform.processor(),
        "cpus": os.cpu_count(),
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "commit": commit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="How many placements a second.")
    parser.add_argument("--quick", action="store_true", help="a few seconds; no file is written")
    quick: bool = parser.parse_args().quick
    load = os.getloadavg()
    rows = measure(quick=quick)
    table = Table(title="placement")
    columns = list(rows[0])
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in columns))
    Console().print(table)
    if not quick:
        RESULTS.parent.mkdir(exist_ok=True)
        found = {"circumstances": circumstances(load), "rows": rows}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
