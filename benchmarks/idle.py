"""What does the default cluster cost when nobody uses it, and how soon is it there?

Starts the default cluster (two partitions of each kind, 100 simulated nodes, Ray's dashboard) in
a directory of its own, times `arktos up --detach` and the first kubectl that succeeds, lets it
settle, and then counts memory (PSS: shared pages divided among their users) and CPU by role.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import Any

import click
from _cluster import Cluster, own_cluster
from _report import Report, console, progress, table, wait_quiet

from arktos_ray.base import processes


def _first_kubectl(found: Cluster) -> tuple[str, float]:
    """Seconds until a client lists the nodes: kubectl where there is one, else plain HTTPS."""
    kubectl = shutil.which("kubectl")
    begun = time.monotonic()
    while kubectl:
        done = subprocess.run(
            [kubectl, "--kubeconfig", str(found.kubeconfig), "get", "nodes", "-o", "name"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0 and done.stdout.strip():
            return "kubectl get nodes", time.monotonic() - begun
        if time.monotonic() - begun > 30.0:
            raise click.ClickException(f"kubectl: {done.stderr.strip()}")
    found.request("GET", "/api/v1/nodes")
    return "GET /api/v1/nodes", time.monotonic() - begun


def _wait(title: str, seconds: float) -> None:
    with progress() as bars:
        bar = bars.add_task(title, total=int(seconds))
        for _ in range(int(seconds)):
            time.sleep(1.0)
            bars.advance(bar)


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@click.option("--settle", type=float, default=30.0, show_default=True, help="Seconds before.")
@click.option("--seconds", type=float, default=30.0, show_default=True, help="Of counting CPU.")
@click.option("--nodes", type=int, default=100, show_default=True, help="Simulated nodes.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="As in arktos.yaml.")
def main(settle: float, seconds: float, nodes: int, settings: tuple[str, ...]) -> None:
    report = Report("idle", {"settle_s": settle, "seconds": seconds, "nodes": nodes})
    wait_quiet(report)
    begun = time.monotonic()
    with own_cluster(nodes, "kubemark", settings, wait=False) as found:
        how, asked_s = _first_kubectl(found)
        first_s = time.monotonic() - begun
        _wait("settling", settle)
        roles = found.roles()
        before, at = found.cpu(roles), time.monotonic()
        _wait("counting", seconds)
        spent = before.until(found.cpu(roles))
        took = time.monotonic() - at
        memory: dict[str, int] = {}
        counts: dict[str, int] = {}
        for pid, role in roles.items():
            memory[role] = memory.get(role, 0) + processes.pss_bytes(pid)
            counts[role] = counts.get(role, 0) + 1
    rows: list[dict[str, Any]] = [
        {
            "role": role,
            "processes": counts[role],
            "pss_mb": round(size / 2**20, 1),
            "cpu_percent": round(spent.get(role, 0.0) / took * 100, 2),
        }
        for role, size in sorted(memory.items(), key=lambda item: -item[1])
    ]
    whole = {
        "role": "all",
        "processes": len(roles),
        "pss_mb": round(sum(memory.values()) / 2**20, 1),
        "cpu_percent": round(sum(spent.values()) / took * 100, 2),
    }
    ours = [row for row in rows if not row["role"].startswith("ray ")]
    table(
        f"the default cluster, idle, {nodes} simulated nodes",
        ("role", "processes", "PSS MB", "% of one core"),
        [(r["role"], r["processes"], r["pss_mb"], r["cpu_percent"]) for r in [*rows, whole]],
    )
    console.print(
        f"without Ray's own processes: {sum(r['pss_mb'] for r in ours):,.0f} MB,"
        f" {sum(r['cpu_percent'] for r in ours):.1f}% of one core"
    )
    console.print(
        f"arktos up --detach: {found.up_seconds:.1f} s; {how}: after {first_s:.1f} s"
        f" ({asked_s:.2f} s of its own)"
    )
    report.add("roles", rows)
    report.add("all", whole)
    report.add("up_s", round(found.up_seconds, 2))
    report.add("first_client", how)
    report.add("first_client_s", round(first_s, 2))
    report.save()


if __name__ == "__main__":
    main()
