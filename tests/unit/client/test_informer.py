from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from arktos_ray.api.calls import User
from arktos_ray.api.names import Key
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.informer import Informer
from arktos_ray.client.port import Client
from arktos_ray.testing.fakes import FakeClock, FakePartition, settle
from arktos_ray.testing.sim import SimCluster


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.partition = FakePartition(self.clock)
        self.tasks = Tasks()
        self.client = Client(self.partition, User("test", trusted=True))
        self.informer = Informer(self.client, "configmaps", self.clock, self.tasks)
        self.changes: list[tuple[str | None, str | None]] = []
        self.informer.on_change(lambda old, new: self.changes.append((_value(old), _value(new))))

    def put(self, name: str, value: str) -> None:
        self.partition.put(
            "configmaps",
            {"metadata": {"tenant": "t", "namespace": "n", "name": name}, "data": {"v": value}},
        )

    def drop(self, name: str) -> None:
        found = self.partition.find("configmaps", "t", "n", name)
        assert found is not None
        self.partition.drop("configmaps", found)


def _value(obj: dict[str, Any] | None) -> str | None:
    return None if obj is None else obj["metadata"]["name"] + obj["data"]["v"]


def story(play: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World()
        try:
            await play(world)
        finally:
            await world.tasks.close()

    asyncio.run(run())


def test_handlers_hear_of_everything_in_order() -> None:
    async def play(world: World) -> None:
        world.put("a", "1")
        world.informer.start()
        await world.informer.synced()
        world.put("a", "2")
        world.put("b", "1")
        world.drop("a")
        await settle()
        assert world.changes == [
            (None, "a1"), ("a1", "a2"), (None, "b1"), ("a2", None),
        ]  # fmt: skip
        assert _value(world.informer.index.get(Key("t", "n", "b"))) == "b1"
        late: list[str | None] = []
        world.informer.on_change(lambda old, new: late.append(_value(new)))
        assert late == ["b1"]

    story(play)


def test_an_outage_is_bridged_without_a_relist() -> None:
    async def play(world: World) -> None:
        world.informer.start()
        await world.informer.synced()
        world.partition.down = True
        world.partition.wake()
        await settle()
        assert not world.informer.connected
        world.put("a", "1")
        await world.clock.advance(20)
        assert world.changes == []
        world.partition.down = False
        await world.clock.advance(6)
        assert world.changes == [(None, "a1")]
        assert world.informer.connected

    story(play)


def test_lost_history_means_a_new_list_and_only_its_differences_are_told() -> None:
    async def play(world: World) -> None:
        for name in "abc":
            world.put(name, "1")
        world.informer.start()
        await world.informer.synced()
        world.partition.watches_held = True
        world.put("a", "2")
        world.drop("b")
        world.put("d", "1")
        world.partition.compact()
        world.partition.watches_held = False
        world.partition.wake()
        world.changes.clear()
        await world.clock.advance(1)
        assert set(world.changes) == {(None, "d1"), ("a1", "a2"), ("b1", None)}
        assert len(world.changes) == 3

    story(play)


def test_one_can_wait_for_ones_own_write() -> None:
    async def play(world: World) -> None:
        world.informer.start()
        await world.informer.synced()
        world.partition.watches_held = True
        made = await world.client.create(
            "configmaps", "t", "n", {"metadata": {"name": "a"}, "data": {"v": "1"}}
        )
        revision = int(made["metadata"]["resourceVersion"])
        waiting = asyncio.ensure_future(world.informer.wait_until(revision))
        await settle()
        assert not waiting.done()
        world.partition.watches_held = False
        world.partition.wake()
        await waiting
        assert world.informer.revision >= revision
        assert Key("t", "n", "a") in world.informer.index

    story(play)


def test_a_selector_is_the_servers_work() -> None:
    async def play(world: World) -> None:
        world.put("a", "1")
        only = Informer(
            world.client, "configmaps", world.clock, world.tasks,
            fieldSelector="metadata.name=b",
        )  # fmt: skip
        only.start()
        await only.synced()
        world.put("b", "1")
        world.put("c", "1")
        await settle()
        assert [key.name for key in only.index.keys()] == ["b"]  # noqa: SIM118

    story(play)


def test_a_large_state_comes_in_pieces_and_is_complete_before_it_counts_as_synced() -> None:
    with SimCluster(seed=4, tenant_partitions=1, resource_partitions=1, with_parts=False) as sim:
        client = sim.client("tp-1")
        count = 2_500  # A piece is 1,000.

        async def fill() -> None:
            first = {"metadata": {"name": "first"}}
            await sim.eventually(lambda: client.create("configmaps", "system", "default", first))
            await client.write(
                [
                    client.creating(
                        "configmaps", "system", "default", {"metadata": {"name": f"c{number}"}}
                    )
                    for number in range(count)
                ]
            )

        sim.run(fill())
        tasks = Tasks()
        informer = Informer(client, "configmaps", sim.clock, tasks)
        sizes: list[int] = []
        informer.on_change(lambda old, new: sizes.append(len(informer.index)))

        async def follow() -> None:
            informer.start()
            await informer.synced()
            assert len(informer.index) == count + 1
            await client.create("configmaps", "system", "default", {"metadata": {"name": "new"}})
            await sim.clock.sleep(1.0)
            await tasks.close()

        sim.run(follow())
        assert len(informer.index) == count + 2
        assert sizes == list(range(1, count + 3))
