"""The cluster that a benchmark measures, and what it costs.

CPU is counted over all processes that the cluster lists (GET /arktos/v1/status), Ray's included,
from /proc/<pid>/stat: all threads, user and system, to 10 ms.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from arktos_ray.base import processes
from arktos_ray.client.http import Endpoint
from arktos_ray.testing.load import target

Object = dict[str, Any]
_NAMESPACE_DEADLINE_S = 20.0


class Refused(Exception):
    """An answer that no benchmark can go on from."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class NotStarted(Exception):
    """The cluster did not come up; the message is what `arktos up` said."""


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
        raw = self.raw(method, path, body, media)
        return json.loads(raw) if raw else None

    def raw(self, method: str, path: str, body: Any = None, media: str = "") -> bytes:
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
        return raw

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

    def memory(self, roles: dict[int, str]) -> dict[str, float]:
        """PSS in MB, by role, the largest first."""
        found: dict[str, float] = {}
        for pid, role in roles.items():
            found[role] = found.get(role, 0.0) + processes.pss_bytes(pid) / 2**20
        return dict(sorted(found.items(), key=lambda item: -item[1]))

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


@contextlib.contextmanager
def started(data: Path, *arguments: str) -> Iterator[Cluster]:
    """`arktos up` with these arguments, in that directory; stopped at the end.

    Raises NotStarted.
    """
    data.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    try:
        done = _arktos(
            "up", "--data-dir", str(data), "--port", str(_free_port()), "--no-node", "--detach",
            *arguments,
        )  # fmt: skip
        if done.returncode:
            raise NotStarted(f"arktos up: {(done.stderr or done.stdout).strip()}")
        config = data / "admin.kubeconfig"
        yield Cluster(target(config), config, time.monotonic() - begun)
    finally:
        _arktos("down", "--data-dir", str(data))


def _arktos(*arguments: str) -> subprocess.CompletedProcess[str]:
    # In a session of its own: a Ctrl-C is for us, and the cluster is stopped in order.
    return subprocess.run(
        [sys.executable, "-m", "arktos_ray", *arguments], capture_output=True, text=True,
        check=False, start_new_session=True,
    )  # fmt: skip


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
