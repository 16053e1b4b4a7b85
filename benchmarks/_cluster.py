"""The cluster that a benchmark measures: one that runs, or one of its own; and what it costs.

CPU is counted over all processes that the cluster lists (GET /arktos/v1/status), Ray's included,
from /proc/<pid>/stat: all threads, user and system, to 10 ms.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from _report import Report, console

from arktos_ray.base import processes
from arktos_ray.client.http import Endpoint
from arktos_ray.testing.load import target

Object = dict[str, Any]
_READY_DEADLINE_S = 120.0
_NAMESPACE_DEADLINE_S = 20.0


class Refused(Exception):
    """An answer that no benchmark can go on from."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds so far, by process."""

    by_pid: dict[int, float]
    roles: dict[int, str]

    def until(self, later: Cpu) -> dict[str, float]:
        """Seconds spent between the two, by role, the largest first. Processes that came or went
        in between count from or to their last known second."""
        spent: dict[str, float] = {}
        for pid, seconds in later.by_pid.items():
            role = later.roles[pid]
            spent[role] = spent.get(role, 0.0) + seconds - self.by_pid.get(pid, 0.0)
        return dict(sorted(spent.items(), key=lambda item: -item[1]))


@dataclass(slots=True)
class Cluster:
    endpoint: Endpoint
    kubeconfig: Path
    up_seconds: float = 0.0  # of `arktos up`, when it is our own
    _tenants: list[str] = field(default_factory=list)

    # Single calls, outside of what is measured.

    def request(self, method: str, path: str, body: Any = None, media: str = "") -> Any:
        where = urlsplit(self.endpoint.url)
        assert where.hostname is not None
        connection: http.client.HTTPConnection
        if self.endpoint.tls is not None:
            connection = http.client.HTTPSConnection(
                where.hostname, where.port, timeout=120, context=self.endpoint.tls
            )
        else:
            connection = http.client.HTTPConnection(where.hostname, where.port, timeout=120)
        headers = {"Accept": "application/json", "User-Agent": "arktos-bench"}
        if self.endpoint.token:
            headers["Authorization"] = f"Bearer {self.endpoint.token}"
        content = None
        if body is not None:
            content = json.dumps(body)
            headers["Content-Type"] = media or "application/json"
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            try:
                message = json.loads(raw).get("message", "")
            except ValueError:
                message = raw[:200].decode(errors="replace")
            raise Refused(response.status, f"{method} {path}: {message}")
        return json.loads(raw) if raw else None

    def status(self) -> Object:
        found: Object = self.request("GET", "/arktos/v1/status")
        return found

    # What it costs

    def roles(self) -> dict[int, str]:
        """pid -> role, of every process of the cluster."""
        return {p["pid"]: p["role"] for p in self.status()["processes"]}

    def cpu(self, roles: dict[int, str] | None = None) -> Cpu:
        """roles: from before, to ask the cluster nothing in the middle of a measurement."""
        roles = roles if roles is not None else self.roles()
        return Cpu({pid: processes.cpu_s(pid) for pid in roles}, roles)

    def writes(self) -> dict[str, int]:
        """What the partitions wrote since their start; up to a second old."""
        found = {"rows": 0, "commits": 0, "calls": 0}
        for part in self.status()["parts"]:
            if part["role"] == "tenant partition":
                for name in found:
                    found[name] += part["stats"].get(name, 0)
        return found

    # Where the objects go

    def make_tenants(self, count: int, run: str) -> list[str]:
        """Tenants on as many partitions as there are, with first letters spread evenly."""
        names = []
        for number in range(count):
            letter = chr(ord("a") + (26 * number) // count)
            name = f"{letter}-bench-{run}"
            self.request(
                "POST", "/api/v1/tenants", _named("Tenant", name, spec={"storageClusterId": "0"})
            )
            names.append(name)
            self._tenants.append(name)
        for name in names:
            self.make_namespace(name, "bench")
        return names

    def make_namespace(self, tenant: str, name: str) -> None:
        """Created and visible: the ingress learns of a new tenant by a watch."""
        until = time.monotonic() + _NAMESPACE_DEADLINE_S
        path = f"/api/v1/tenants/{tenant}/namespaces"
        while True:
            try:
                self.request("POST", path, _named("Namespace", name))
            except Refused as refusal:
                if refusal.code == 409:
                    return
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
            else:
                return

    def revision(self, collection: str) -> str:
        listed = self.request("GET", f"{collection}?limit=1")
        revision: str = listed["metadata"]["resourceVersion"]
        return revision

    def delete_pods(self, tenant: str, namespace: str) -> None:
        path = f"/api/v1/tenants/{tenant}/namespaces/{namespace}/pods"
        self.request("DELETE", f"{path}?gracePeriodSeconds=0")

    def clear(self) -> None:
        """Delete the tenants that were made here; their contents go when the cluster gets to it."""
        for tenant in self._tenants:
            with contextlib.suppress(Refused):
                self.request("DELETE", f"/api/v1/tenants/{tenant}")
        self._tenants.clear()

    def nodes(self) -> int:
        return int(self.status()["totals"]["nodes"])

    def pids_of(self, role: str) -> list[int]:
        return [pid for pid, known in self.roles().items() if known == role]


def _named(kind: str, name: str, **more: Any) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **more}


def options(nodes: int, mode: str) -> Callable[[Any], Any]:
    """The options that say which cluster; with the defaults of one of our own."""

    def add(command: Any) -> Any:
        for option in (
            click.option(
                "--kubeconfig", type=click.Path(path_type=Path, exists=True),
                help="Measure this running cluster (.arktos/admin.kubeconfig)."
                "  [start one, and stop it afterwards]",
            ),
            click.option(
                "--nodes", type=int, default=nodes, show_default=True,
                help="Simulated nodes of a cluster of our own.",
            ),
            click.option(
                "--mode", type=click.Choice(["kubemark", "instant"]), default=mode,
                show_default=True, help="Delays of its simulated nodes.",
            ),
            click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
                help="More settings for a cluster of our own, as in arktos.yaml."),
        ):  # fmt: skip
            command = option(command)
        return command

    return add


@contextlib.contextmanager
def cluster(
    kubeconfig: Path | None, nodes: int, mode: str, settings: tuple[str, ...], report: Report
) -> Iterator[Cluster]:
    """The running cluster, or one of our own until the end."""
    if kubeconfig is not None:
        found = Cluster(target(kubeconfig), kubeconfig)
        try:
            yield found
        finally:
            found.clear()
        return
    with own_cluster(nodes, mode, settings) as found:
        report.parameters["cluster"] = {"nodes": nodes, "mode": mode, "settings": list(settings)}
        yield found


@contextlib.contextmanager
def own_cluster(
    nodes: int, mode: str, settings: tuple[str, ...] = (), *, wait: bool = True
) -> Iterator[Cluster]:
    """wait: until its nodes are registered."""
    home = Path(tempfile.mkdtemp(prefix="arktos-bench-"))
    data = home / "cluster"
    file = home / "arktos.yaml"
    # A stopped scheduler makes a backlog; nobody may take it for a hung one.
    lines = ["health-failures-max: 1000", *(s.replace("=", ": ", 1) for s in settings)]
    file.write_text("\n".join(lines) + "\n")
    arguments = [
        "up", "--data-dir", str(data), "--port", str(_free_port()), "--simulated-nodes", str(nodes),
        "--simulated-mode", mode, "--no-node", "--config", str(file), "--detach",
    ]  # fmt: skip
    begun = time.monotonic()
    try:
        with console.status(f"starting a cluster of {nodes:,} simulated nodes"):
            _arktos(*arguments)
            took = time.monotonic() - begun
            found = Cluster(target(data / "admin.kubeconfig"), data / "admin.kubeconfig", took)
            until = time.monotonic() + _READY_DEADLINE_S
            while wait and found.nodes() < nodes:
                if time.monotonic() > until:
                    raise click.ClickException(f"only {found.nodes()} of {nodes} nodes came")
                time.sleep(0.5)
        console.print(f"[dim]cluster up in {took:.1f} s[/dim]")
        yield found
    finally:
        with console.status("stopping the cluster"):
            _arktos("down", "--data-dir", str(data), check=False)
        shutil.rmtree(home, ignore_errors=True)


def _arktos(*arguments: str, check: bool = True) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "arktos_ray", *arguments], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if check and done.returncode:
        raise click.ClickException(f"arktos {arguments[0]}: {done.stderr or done.stdout}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def per_thousand(spent: dict[str, float], operations: int) -> dict[str, float]:
    """CPU seconds by role for 1,000 operations, and their sum as `all`."""
    if not operations:
        return {}
    costs = {role: seconds * 1000 / operations for role, seconds in spent.items()}
    return {"all": sum(costs.values()), **costs}


def shown_costs(costs: dict[str, float], least: float = 0.01) -> str:
    """`tenant partition 0.31, ingress 0.25`: the roles that matter."""
    return ", ".join(
        f"{role} {figure:.2f}"
        for role, figure in costs.items()
        if role != "all" and figure >= least
    )
