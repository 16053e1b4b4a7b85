"""Real containers, in a containerd of our own (needs root and Debian's packages)."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from arktos_ray.actors.node_agent import NodeAgent
from arktos_ray.api.calls import User
from arktos_ray.base.clock import Clock, SystemClock
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client
from arktos_ray.runtime.containerd import images
from arktos_ray.runtime.containerd.driver import Containerd
from arktos_ray.runtime.port import Runtime
from arktos_ray.testing.containerd_daemon import ContainerdDaemon, missing
from arktos_ray.testing.contracts_runtime import RuntimeContract
from arktos_ray.testing.fakes import FakeClock, FakePartition

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="containerd needs root"),
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {missing()}"),
]


@pytest.fixture(scope="module")
def daemon() -> Iterator[ContainerdDaemon]:
    root = Path(tempfile.mkdtemp(prefix="ctd-", dir="/tmp"))
    made = ContainerdDaemon(root)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(root, ignore_errors=True)


class TestContainerd(RuntimeContract):
    image = images.BUSYBOX_IMAGE

    @pytest.fixture(autouse=True)
    def _setup(self, daemon: ContainerdDaemon) -> Iterator[None]:
        self.daemon = daemon
        yield
        assert daemon.leftovers() == []
        assert daemon.shims() == []

    def runtime(self) -> Runtime:
        return Containerd(
            self.daemon.socket,
            self.daemon.root / "logs",
            SystemClock(),
            owner="contract",
            offline=True,
        )

    def run(self, story: Callable[[Runtime, Clock], Awaitable[None]]) -> None:
        async def drive() -> None:
            runtime = self.runtime()
            try:
                await story(runtime, SystemClock())
            finally:
                await runtime.close()

        asyncio.run(drive())


class Machine:
    """A node agent on real containerd, in front of a partition in memory."""

    def __init__(self, daemon: ContainerdDaemon) -> None:
        self.daemon = daemon
        self.partition = FakePartition(FakeClock())
        self.user = Client(self.partition, User("someone"))
        self.agent = self.made()

    def made(self) -> NodeAgent:
        clock = SystemClock()
        runtime = Containerd(
            self.daemon.socket,
            self.daemon.root / "pods",
            clock,
            owner="here",
            offline=True,
        )
        client = Client(self.partition, User("system:node:here", trusted=True))
        return NodeAgent("here", client, {"tp-1": client}, runtime, clock, Tasks())

    def put(self, name: str, script: str, **spec: Any) -> None:
        container = {
            "name": "main",
            "image": images.BUSYBOX_IMAGE,
            "command": ["sh", "-c", script],
            "env": [{"name": "ME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"limits": {"cpu": "200m", "memory": "64Mi"}},
        }
        self.partition.put(
            "pods",
            {
                "metadata": {"tenant": "acme", "namespace": "default", "name": name},
                "spec": {
                    "nodeName": "here",
                    "restartPolicy": "Always",
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{**container, **spec.pop("container", {})}],
                    **spec,
                },
                "status": {"phase": "Pending"},
            },
        )
        self.partition.wake()

    def pod(self, name: str) -> dict[str, Any] | None:
        return self.partition.find("pods", "acme", "default", name)

    def container(self, name: str) -> dict[str, Any]:
        pod = self.pod(name)
        statuses: Sequence[dict[str, Any]] = (
            pod["status"].get("containerStatuses", ()) if pod else ()
        )
        return statuses[0] if statuses else {"state": {}}

    async def until(self, condition: Callable[[], bool], limit_s: float = 30.0) -> None:
        for _ in range(int(limit_s / 0.05)):
            if condition():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"not so after {limit_s} s: {self.partition.all('pods')}")

    async def restart(self) -> None:
        await self.agent.close()
        self.agent = self.made()
        await self.agent.start()


def with_machine(daemon: ContainerdDaemon, story: Callable[[Machine], Awaitable[None]]) -> None:
    async def drive() -> None:
        machine = Machine(daemon)
        await machine.agent.start()
        try:
            await story(machine)
        finally:
            await machine.agent.close()

    asyncio.run(drive())


async def read(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def test_a_pod_runs_prints_survives_the_agent_and_leaves_nothing(daemon: ContainerdDaemon) -> None:
    async def story(machine: Machine) -> None:
        machine.put("web", "echo hello from $ME; sleep 600")
        await machine.until(lambda: "running" in machine.container("web")["state"])
        pod = machine.pod("web")
        assert pod is not None
        assert pod["status"]["phase"] == "Running"
        assert machine.container("web")["ready"]
        before = machine.container("web")
        payload = {"uid": pod["metadata"]["uid"]}
        await asyncio.sleep(0.3)
        assert await read(machine.agent.subscribe("log", payload)) == b"hello from web\n"
        node = machine.partition.find("nodes", "", "", "here")
        assert node is not None
        stats = await machine.agent.request("stats", None)
        assert [c["pod"] for c in stats["containers"]] == ["web"]

        await machine.restart()
        await machine.agent.wait_until_registered()
        await asyncio.sleep(1.5)
        assert machine.container("web") == before

        await machine.agent.close()
        machine.put("late", "sleep 600")
        machine.agent = machine.made()
        await machine.agent.start()
        await machine.until(lambda: "running" in machine.container("late")["state"])

        for name in ("web", "late"):
            found = machine.pod(name)
            assert found is not None
            meta = {
                **found["metadata"],
                "deletionTimestamp": "2027-01-01T00:00:00Z",
                "deletionGracePeriodSeconds": 1,
            }
            machine.partition.put("pods", {**found, "metadata": meta})
        machine.partition.wake()
        await machine.until(lambda: not machine.partition.all("pods"))
        assert daemon.leftovers() == []
        assert daemon.shims() == []
        assert list((daemon.root / "pods").iterdir()) == []

    with_machine(daemon, story)


def test_containers_see_their_volumes_and_keep_what_they_wrote(
    daemon: ContainerdDaemon,
) -> None:
    async def story(machine: Machine) -> None:
        metadata = {"tenant": "acme", "namespace": "default", "name": "conf"}
        machine.partition.put("configmaps", {"metadata": metadata, "data": {"word": "please"}})
        machine.put(
            "web",
            "cat /conf/word; echo; echo kept >> /data/f; cat /data/f; exit 1",
            container={
                "volumeMounts": [
                    {"name": "conf", "mountPath": "/conf", "readOnly": True},
                    {"name": "data", "mountPath": "/data"},
                ]
            },
            volumes=[
                {"name": "conf", "configMap": {"name": "conf"}},
                {"name": "data", "emptyDir": {}},
            ],
        )
        await machine.until(lambda: machine.container("web").get("restartCount", 0) >= 1)
        await machine.until(lambda: "waiting" in machine.container("web")["state"])
        payload = {"tenant": "acme", "namespace": "default", "name": "web"}
        assert await read(machine.agent.subscribe("log", payload)) == b"please\nkept\nkept\n"
        before = await read(machine.agent.subscribe("log", {**payload, "previous": True}))
        assert before == b"please\nkept\n"
        for pod in machine.partition.all("pods"):
            machine.partition.drop("pods", pod)
        machine.partition.wake()
        await machine.until(lambda: daemon.leftovers() == [] and daemon.shims() == [])
        await machine.until(lambda: list((daemon.root / "pods").iterdir()) == [])

    with_machine(daemon, story)


def test_probes_run_in_the_container(daemon: ContainerdDaemon) -> None:
    async def story(machine: Machine) -> None:
        often = {"periodSeconds": 1, "failureThreshold": 1}
        machine.put(
            "web",
            "sleep 2; echo > /ready; sleep 3; echo > /sick; sleep 600",
            container={
                "readinessProbe": {"exec": {"command": ["cat", "/ready"]}, **often},
                "livenessProbe": {
                    "exec": {"command": ["sh", "-c", "! cat /sick"]},
                    **often,
                },
            },
        )
        await machine.until(lambda: "running" in machine.container("web")["state"])
        assert not machine.container("web")["ready"]
        await machine.until(lambda: machine.container("web")["ready"])
        await machine.until(lambda: machine.container("web")["restartCount"] == 1)
        assert machine.container("web")["lastState"]["terminated"]["exitCode"] == 137
        for pod in machine.partition.all("pods"):
            machine.partition.drop("pods", pod)
        machine.partition.wake()
        await machine.until(lambda: daemon.leftovers() == [] and daemon.shims() == [])

    with_machine(daemon, story)


def test_containers_that_end_are_restarted_or_not_as_asked(daemon: ContainerdDaemon) -> None:
    async def story(machine: Machine) -> None:
        machine.put("once", "exit 0", restartPolicy="Never")
        machine.put("fails", "exit 3", restartPolicy="Never")
        machine.put("again", "exit 1")
        machine.put("absent", "exit 0", container={"image": "docker.io/library/absent:1"})
        machine.put("nonsense", "", container={"command": ["/no/such/program"]})

        def phase(name: str) -> str:
            pod = machine.pod(name)
            return pod["status"]["phase"] if pod else "gone"

        def waiting(name: str) -> str:
            state = machine.container(name)["state"]
            return str(state.get("waiting", {}).get("reason", ""))

        await machine.until(lambda: phase("once") == "Succeeded")
        await machine.until(lambda: phase("fails") == "Failed")
        assert machine.container("fails")["state"]["terminated"]["exitCode"] == 3
        await machine.until(lambda: waiting("again") == "CrashLoopBackOff")
        assert machine.container("again")["restartCount"] == 1
        await machine.until(lambda: waiting("absent") in ("ErrImagePull", "ImagePullBackOff"))
        await machine.until(
            lambda: waiting("nonsense") in ("CrashLoopBackOff", "CreateContainerError")
        )
        for pod in machine.partition.all("pods"):
            machine.partition.drop("pods", pod)
        machine.partition.wake()
        await machine.until(lambda: daemon.leftovers() == [] and daemon.shims() == [])

    with_machine(daemon, story)
