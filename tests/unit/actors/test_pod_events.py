"""Events of a node's pods: written, counted, and never too many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from arktos_ray.actors.pod_events import PodEvents
from arktos_ray.api.calls import User
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client
from arktos_ray.runtime.events import Happening
from arktos_ray.testing.fakes import FakeClock, FakePartition

STARTED = Happening("Started", "Started container main", "main")


def pod(name: str) -> dict[str, Any]:
    metadata = {"tenant": "acme", "namespace": "default", "name": name, "uid": f"uid-{name}"}
    return {"metadata": metadata, "spec": {"containers": [{"name": "main"}]}}


class World:
    def __init__(self) -> None:
        self.clock, self.tasks = FakeClock(), Tasks()
        self.partition = FakePartition(self.clock)
        self.events = PodEvents(Client(self.partition, User("node")), self.clock, "here")
        self.tasks.start(self.events.run(), "events")

    def written(self) -> list[dict[str, Any]]:
        return self.partition.all("events")


def story(test: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        world = World()
        try:
            await test(world)
        finally:
            await world.tasks.close()

    return lambda: asyncio.run(run())


async def written_as_a_kubelet_would(world: World) -> None:
    world.events.tell(pod("web"), STARTED)
    await world.clock.advance(1)
    [event] = world.written()
    assert event["source"] == {"component": "kubelet", "host": "here"}
    assert event["involvedObject"]["fieldPath"] == "spec.containers{main}"
    assert (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == ("Pod", "web")
    assert (event["type"], event["reason"], event["count"]) == ("Normal", "Started", 1)


async def counted(world: World) -> None:
    for _ in range(3):
        world.events.tell(pod("web"), STARTED)
        await world.clock.advance(10)
    [event] = world.written()
    assert event["count"] == 3
    assert event["lastTimestamp"] > event["firstTimestamp"]


async def counted_anew(world: World) -> None:
    world.events.tell(pod("web"), STARTED)
    await world.clock.advance(1)
    [event] = world.written()
    world.partition.drop("events", event)
    for _ in range(2):
        world.events.tell(pod("web"), STARTED)
        await world.clock.advance(1)
    [event] = world.written()
    assert event["count"] == 1


async def bounded(world: World) -> None:
    for number in range(100):
        world.events.tell(pod("web"), Happening("Failed", f"Error: {number}", "main", True))
    world.events.tell(pod("other"), STARTED)
    await world.clock.advance(1)
    assert len(world.written()) == 26
    await world.clock.advance(301)
    world.events.tell(pod("web"), STARTED)
    await world.clock.advance(1)
    assert len(world.written()) == 27


async def waiting(world: World) -> None:
    world.partition.down = True
    world.events.tell(pod("web"), STARTED)
    await world.clock.advance(1)
    world.partition.down = False
    await world.clock.advance(5)
    assert len(world.written()) == 1


test_an_event_looks_like_that_of_a_kubelet = story(written_as_a_kubelet_would)
test_what_repeats_is_counted_in_one_event = story(counted)
test_an_event_that_was_thrown_away_is_written_anew = story(counted_anew)
test_a_pod_that_talks_too_much_is_cut_short_and_others_are_not = story(bounded)
test_a_partition_that_is_down_for_a_moment_loses_none = story(waiting)
