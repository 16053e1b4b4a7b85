"""What the audit log costs a request: remembered on the loop, made and written by a thread.

    python benchmarks/audit.py

CPU time of one process, so of both threads together, in microseconds a request.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import orjson

from arktos_ray.api import audit_policy
from arktos_ray.api.calls import Call, User
from arktos_ray.base import collector
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.ids import Ids
from arktos_ray.base.rotated_files import RotatedFiles
from arktos_ray.ingress.audit import Audit

REQUESTS, BATCH = 50_000, 500
BODY = orjson.dumps(
    {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-0", "namespace": "n", "tenant": "acme", "uid": "u",
                     "labels": {"app": "web"}, "annotations": {"a": "b" * 300}},
        "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "x", "value": "y"}]}]},
    }
)  # fmt: skip


async def measure(policy: audit_policy.Policy, verb: str, folder: Path) -> tuple[float, float]:
    """On the loop, and in all."""
    files = RotatedFiles(folder / "audit.log", 20 << 20, 4, 0)
    audit = Audit(policy, files, SystemClock(), Ids(1))
    user = User("admin", "acme", ("system:authenticated",))
    name = "" if verb == "create" else "web-0"
    call = Call(verb, "pods", "acme", "n", name, body=BODY)
    begun, on_loop = time.process_time(), 0.0
    for _ in range(REQUESTS // BATCH):
        start = time.thread_time()
        for _ in range(BATCH):
            trail = audit.begin(
                "POST", "/api/v1/namespaces/n/pods?fieldManager=kubectl", call, "", user, user,
                0.0, peer="127.0.0.1", forwarded="", agent="kubectl/v1.33.1 (linux/amd64)",
            )  # fmt: skip
            if trail is not None:
                trail.code, trail.body = (200 if name else 201), BODY
                audit.complete(trail)
        on_loop += time.thread_time() - start
        audit._flush()
        while audit.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    await audit.close()
    assert audit.dropped == audit.failed == 0
    return on_loop / REQUESTS * 1e6, (time.process_time() - begun) / REQUESTS * 1e6


def main() -> None:
    def policy(level: str) -> audit_policy.Policy:
        rules = [{"level": level}]
        return audit_policy.read(
            {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}
        )

    collector.settle()  # As in an actor.
    default = audit_policy.read(audit_policy.CHANGES)
    for name, rules, verb in (
        ("default, get", default, "get"), ("default, create", default, "create"),
        ("default, patch", default, "patch"), ("Request, create", policy("Request"), "create"),
        ("RequestResponse, create", policy("RequestResponse"), "create"),
    ):  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            loop_us, all_us = asyncio.run(measure(rules, verb, Path(folder)))
        print(f"{name:<24} {loop_us:6.1f} us on the loop, {all_us:6.1f} us in all")


if __name__ == "__main__":
    main()
