"""A world for controllers: fake partitions, virtual time, and a node agent of five lines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from arktos_ray.api.calls import User
from arktos_ray.base.clock import rfc3339
from arktos_ray.base.ids import Ids
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.informer import Informers
from arktos_ray.client.port import Client
from arktos_ray.controllers.loop import Controller, Neighbour, Parts, Range
from arktos_ray.testing.fakes import FakeClock, FakePartition, FakeResourcePartition, settle

Object = dict[str, Any]


class World:
    """One partition (`tp`), one neighbour of the other kind (`rp`), and controllers on `tp`."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.tasks = Tasks()
        self.ids = Ids(7)
        self.tp = FakePartition(self.clock)
        self.rp = FakeResourcePartition(self.clock, seed=2)
        self.client = Client(self.tp, User("test", trusted=True))
        self._neighbours = {id(part): self._neighbour(part) for part in (self.tp, self.rp)}

    def _neighbour(self, partition: FakePartition) -> Neighbour:
        client = Client(partition, User("test", trusted=True))
        return Neighbour(client, Informers(client, self.clock, self.tasks))

    def parts(
        self,
        home: FakePartition | None = None,
        others: tuple[FakePartition, ...] | None = None,
        range_: Range | None = None,
    ) -> Parts:
        own = self._neighbours[id(home or self.tp)]
        neighbours = tuple(
            self._neighbours[id(other)] for other in ((self.rp,) if others is None else others)
        )
        return Parts(
            own.client, own.informers, neighbours, self.clock, self.ids, self.tasks,
            range_ or Range(),
        )  # fmt: skip

    async def start(self, *controllers: Controller) -> None:
        for controller in controllers:
            controller.start()
        for neighbour in self._neighbours.values():
            neighbour.informers.start()
        await settle()

    def pods(self, *, active: bool = True) -> list[Object]:
        return [
            pod
            for pod in self.tp.all("pods")
            if not active or "deletionTimestamp" not in pod["metadata"]
        ]

    def run_pods(self, ready: bool = True, node: str = "node-1") -> None:
        """What node agents do: run what is there, let go of what should go."""
        for pod in list(self.tp.all("pods")):
            if "deletionTimestamp" in pod["metadata"]:
                self.tp.drop("pods", pod)
            elif pod["status"].get("phase") != "Running":
                self.set_ready(pod, ready, node)

    def set_ready(self, pod: Object, ready: bool = True, node: str = "node-1") -> Object:
        number = 10 + len(self.tp.batches) % 200
        status = {
            "phase": "Running",
            "podIP": pod["status"].get("podIP", f"10.0.{number}.{len(pod['metadata']['name'])}"),
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True" if ready else "False",
                    "lastTransitionTime": rfc3339(self.clock.now()),
                }
            ],
        }
        spec = {**pod["spec"], "nodeName": pod["spec"].get("nodeName", node)}
        return self.tp.change("pods", pod, status=status, spec=spec)

    async def live_until(self, condition: Callable[[], bool], limit: float = 120.0) -> None:
        """Pods run and time passes until the condition holds."""
        for _ in range(int(limit / 0.5)):
            await self.clock.advance(0.5)
            if condition():
                return
            self.run_pods()
        raise AssertionError(f"still not so after {limit} s")


Story = Callable[[World], Awaitable[None]]


@pytest.fixture
def play() -> Callable[[Story], None]:
    """Plays a story in a world of its own; crashed tasks fail the test."""

    def play(story: Story) -> None:
        async def run() -> None:
            crashes: list[BaseException] = []
            world = World()
            world.tasks = Tasks(crashes.append)
            world._neighbours = {id(part): world._neighbour(part) for part in (world.tp, world.rp)}
            try:
                await story(world)
            finally:
                await world.tasks.close()
            assert not crashes

        asyncio.run(run())

    return play


def template(labels: dict[str, str], image: str = "pause:1") -> Object:
    return {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": "main", "image": image}]},
    }


@pytest.fixture
def replica_set() -> Callable[..., Object]:
    def make(replicas: int = 3, name: str = "web", tenant: str = "acme", **spec: Any) -> Object:
        return {
            "metadata": {"tenant": tenant, "namespace": "default", "name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": template({"app": name}),
                **spec,
            },
        }

    return make


@pytest.fixture
def deployment() -> Callable[..., Object]:
    def make(
        replicas: int = 3, name: str = "web", image: str = "pause:1", tenant: str = "acme",
        **spec: Any,
    ) -> Object:  # fmt: skip
        return {
            "metadata": {"tenant": tenant, "namespace": "default", "name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": name}},
                "template": template({"app": name}, image),
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
                },
                "revisionHistoryLimit": 10,
                "progressDeadlineSeconds": 600,
                **spec,
            },
        }

    return make


@pytest.fixture
def shard() -> Callable[[World, int], Parts]:
    """The parts of one of two shards."""
    middle = 4611686018427387903

    def make(world: World, number: int) -> Parts:
        return world.parts(range_=(Range(0, middle), Range(middle))[number])

    return make
