"""Probes over the network, against a server of a few lines."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from arktos_ray.base.clock import SystemClock
from arktos_ray.runtime.fake import FakeRuntime
from arktos_ray.runtime.plan import wanted
from arktos_ray.runtime.port import ContainerWant, ProbeWant
from arktos_ray.runtime.probes import Prober

ANSWERS = {
    "/ok": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/sick": b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
    "/nonsense": b"hello\r\n",
}


def ask(scheme: str, path: str, *, listening: bool = True) -> bool:
    """Whether a container with this readiness probe becomes ready."""

    serving: set[asyncio.Task[Any] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        line = await reader.readline()
        if line:
            writer.write(ANSWERS[line.split()[1].decode()])
        writer.close()
        await writer.wait_closed()

    async def run() -> bool:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        if not listening:
            server.close()
            await server.wait_closed()
        asked = asyncio.Event()
        probe = ProbeWant(host="127.0.0.1", port=port, scheme=scheme, path=path)
        clock = SystemClock()
        prober = Prober(
            "c", ContainerWant("c", "i", readiness=probe), FakeRuntime(clock), clock, asked.set
        )
        why = await prober._ask(probe)
        await asyncio.sleep(0)
        await asyncio.gather(*[task for task in serving if task])
        server.close()
        await server.wait_closed()
        return not why

    return asyncio.run(run())


@pytest.mark.parametrize(("path", "good"), [("/ok", True), ("/sick", False), ("/nonsense", False)])
def test_http_is_judged_by_its_status(path: str, good: bool) -> None:
    assert ask("HTTP", path) is good


def test_tcp_is_judged_by_whether_somebody_listens() -> None:
    assert ask("", "")
    assert not ask("", "", listening=False)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"exec": {"command": ["cat", "x"]}}, {"command": ("cat", "x")}),
        ({"httpGet": {"path": "/h", "port": "web"}}, {"port": 80, "path": "/h", "scheme": "HTTP"}),
        ({"tcpSocket": {"port": 81}, "periodSeconds": 3}, {"port": 81, "period_s": 3.0}),
    ],
)
def test_probes_are_read_from_the_pod(spec: dict[str, Any], expected: dict[str, Any]) -> None:
    pod = {
        "metadata": {"name": "web", "namespace": "default", "uid": "u"},
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "image": "i",
                    "ports": [{"name": "web", "containerPort": 80}],
                    "livenessProbe": spec,
                }
            ]
        },
    }
    [main] = wanted(pod, "acme", "here", "1.2.3.4", lambda gvr, name: None).containers
    assert main.readiness is None
    assert main.liveness is not None
    assert main.liveness.host == "1.2.3.4"
    for name, value in expected.items():
        assert getattr(main.liveness, name) == value
