"""What operators change while the cluster works: the supervisor, over parts that note it down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from arktos_ray.actors.cast import Actor, cast, settings
from arktos_ray.actors.part import Surroundings
from arktos_ray.actors.streams import ClientEnd, Deframer, ServerEnd
from arktos_ray.actors.supervisor import Supervisor
from arktos_ray.api.errors import BadRequest, Conflict, NotFound, Unavailable
from arktos_ray.base.ids import Ids
from arktos_ray.base.places import Places
from arktos_ray.base.tasks import Tasks
from arktos_ray.config import Config
from arktos_ray.store.port import Fenced
from arktos_ray.tenancy.topology import Topology, fitted
from arktos_ray.testing.fakes import FakeClock, settle

ME = "supervisor"


class Part:
    """One actor as the supervisor meets it: answers `follow`, unless it is told not to."""

    def __init__(self, region: Region, name: str) -> None:
        self.region, self.name = region, name
        self.told = 0
        self.answers = True
        self.objects: dict[str, int] = {}

    async def request(self, method: str, payload: Any) -> Any:
        if not self.answers:
            raise Unavailable("busy")
        if method == "follow":
            self.told = payload["topology"]["version"]
            self.region.told.append((self.name, self.told, payload["acks"]))
            return 1000 + self.told
        if method == "stats":
            return {"objects": self.objects}
        if method == "retire":
            return 7
        raise NotFound(method)


class Pipe:
    unread = 0

    def __init__(self) -> None:
        self.deliver: Callable[[list[Any]], None] = lambda frame: None
        self._deframer = Deframer()

    def send(self, data: bytes) -> None:
        for frame in self._deframer.feed(data):
            asyncio.get_running_loop().call_soon(self.deliver, frame)

    async def ready(self) -> None:
        return

    def close(self) -> None:
        return


class Region:
    """Processes by name, a topology that is kept, and what everybody was told, in order."""

    def __init__(self, home: Any) -> None:
        self.clock = FakeClock()
        self.tasks = Tasks()
        self.parts: dict[str, Part] = {}
        self.told: list[tuple[str, int, dict[str, int]]] = []
        self.kept = fitted(None, 2, 2, 10, "kubemark")
        self.saved: list[int] = []
        self.replaced = False
        self.ended: list[BaseException] = []
        given = settings(Config(), Places(home), node=None)
        spec = {
            "name": ME, "home": str(home), "run_dir": str(home), "cluster": {},
            "topology": self.kept.pack(),
            "health": {
                "period_s": 1.0, "deadline_s": 1.0, "failures_max": 3, "start_deadline_s": 60.0,
                "stop_deadline_s": 1.0,
            },
        }  # fmt: skip
        around = Surroundings(
            self.clock, Ids(1), self.connect, self.unused, self.ended.append, listens=False
        )
        self.supervisor = Supervisor(spec, around, self, self, lambda t: cast(given, t))

    def unused(self, *_: Any) -> Any:
        raise AssertionError("not here")

    def connect(self, name: str) -> Callable[[], Awaitable[ClientEnd]]:
        async def connect() -> ClientEnd:
            there, back = Pipe(), Pipe()
            client = ClientEnd(name, there)
            server = ServerEnd(self.parts[name], back, self.tasks)  # type: ignore[arg-type]
            there.deliver, back.deliver = server.received, client.received
            return client

        return connect

    # The fleet of processes

    async def start(self, actor: Actor) -> None:
        self.parts[actor.name] = Part(self, actor.name)

    async def report(self, name: str, deadline_s: float) -> dict[str, Any]:
        if name not in self.parts:
            raise NotFound(name)
        told = self.parts[name].told
        return {"pid": 1, "ready": True, "stats": {}, "failure": "", "told": told}

    async def stop(self, name: str, grace_s: float) -> None:
        del self.parts[name]

    async def kill(self, name: str) -> bool:
        return True

    # The store of the topology

    def load(self) -> Topology | None:
        return self.kept

    def save(self, topology: Topology) -> None:
        if self.replaced:
            raise Fenced("another supervisor has changed the topology")
        self.kept = topology
        self.saved.append(topology.version)

    # What the tests do

    async def begin(self) -> None:
        await self.supervisor.start()
        await self.rounds(3)
        self.told.clear()

    async def rounds(self, count: int) -> None:
        for _ in range(count):
            await self.clock.advance(1.0)
            await settle()

    async def operate(self, operation: str, **more: Any) -> Any:
        return await self.supervisor.request("operate", {"operation": operation, **more})

    async def late(self) -> list[str]:
        return [name for name, _ in (await self.operate("topology"))["late"]]


@pytest.fixture
def story(tmp_path: Any) -> Callable[[Callable[[Region], Awaitable[None]]], None]:
    def play(what: Callable[[Region], Awaitable[None]]) -> None:
        async def run() -> None:
            region = Region(tmp_path)
            await region.begin()
            await what(region)
            await region.supervisor.close()

        asyncio.run(run())

    return play


def test_a_new_partition_is_kept_started_and_told_to_ingresses_last(story: Any) -> None:
    async def what(region: Region) -> None:
        assert await region.late() == []
        done = await region.operate("partition-add", kind="tenant")
        assert done == {"version": 2, "name": "tp-3"}
        assert region.saved == [2]
        await region.rounds(3)
        assert {"tp-3", "scheduler-tp-3"} <= region.parts.keys()
        order = [name for name, version, _ in region.told if version == 2]
        assert order.index("ingress-1") > max(order.index(f"tp-{i}") for i in (1, 2, 3))
        acks = next(acks for name, _, acks in region.told if name == "ingress-1")
        assert acks == {"tp-1": 1002, "tp-2": 1002, "tp-3": 1002}
        assert await region.late() == []

    story(what)


def test_an_ingress_waits_for_a_partition_that_does_not_answer(story: Any) -> None:
    async def what(region: Region) -> None:
        region.parts["tp-2"].answers = False
        await region.operate("partition-add", kind="tenant")
        await region.rounds(5)
        assert region.parts["ingress-1"].told == 1
        assert region.parts["rp-1"].told == 2
        assert {"tp-2", "ingress-1"} <= set(await region.late())
        region.parts["tp-2"].answers = True
        await region.rounds(3)
        assert region.parts["ingress-1"].told == 2
        assert await region.late() == []

    story(what)


def test_who_was_restarted_is_told_again_with_what_the_partitions_said(story: Any) -> None:
    async def what(region: Region) -> None:
        await region.operate("partition-add", kind="resource")
        await region.rounds(3)
        region.told.clear()
        region.parts["ingress-1"].told = 0  # As in a process that has just begun.
        await region.rounds(2)
        assert region.told == [("ingress-1", 2, {"tp-1": 1002, "tp-2": 1002})]

    story(what)


def test_a_partition_is_removed_when_it_is_drained_and_empty_and_not_before(story: Any) -> None:
    async def what(region: Region) -> None:
        with pytest.raises(Conflict, match="drain it first"):
            await region.operate("partition-remove", name="tp-2")
        await region.operate("partition-drain", name="tp-2")
        await region.rounds(2)
        region.parts["tp-2"].objects = {"tenants": 1}
        with pytest.raises(Conflict, match="tp-2 still has 1 tenants"):
            await region.operate("partition-remove", name="tp-2")
        region.parts["tp-2"].objects = {}
        await region.operate("partition-remove", name="tp-2")
        await region.rounds(3)
        assert not {"tp-2", "scheduler-tp-2"} & region.parts.keys()
        assert region.kept.names("tenant") == ("tp-1",)
        assert await region.late() == []
        assert (await region.operate("partition-add", kind="tenant"))["name"] == "tp-3"

    story(what)


def test_a_partition_that_does_not_know_that_it_is_drained_is_not_removed(story: Any) -> None:
    async def what(region: Region) -> None:
        region.parts["tp-2"].answers = False
        await region.operate("partition-drain", name="tp-2")
        with pytest.raises(Unavailable, match="try again"):
            await region.operate("partition-remove", name="tp-2")
        assert "tp-2" in region.parts

    story(what)


def test_fleets_come_and_go_with_their_nodes(story: Any) -> None:
    async def what(region: Region) -> None:
        done = await region.operate("simulate-add", nodes=5, partitions=["rp-2"], mode="instant")
        assert done["name"] == "simulated-2"
        await region.rounds(2)
        assert "simulated-2" in region.parts
        assert (await region.operate("simulate-remove", name="simulated-2"))["nodes"] == 7
        await region.rounds(2)
        assert "simulated-2" not in region.parts
        for wrong in ({"nodes": "5"}, {"nodes": 5, "mode": "x"}, {"nodes": 5, "partitions": 3}):
            with pytest.raises(BadRequest):
                await region.operate("simulate-add", **wrong)

    story(what)


def test_what_nobody_can_do_is_refused_with_what_can_be_done(story: Any) -> None:
    async def what(region: Region) -> None:
        for asked in ({"operation": "x"}, [], {}, "x", None):
            with pytest.raises(BadRequest, match="partition-add, partition-drain"):
                await region.supervisor.request("operate", asked)
        with pytest.raises(BadRequest, match="tenant or resource"):
            await region.operate("partition-add", kind="both")
        assert region.saved == []

    story(what)


def test_a_supervisor_that_was_replaced_tells_nobody_and_ends(story: Any) -> None:
    async def what(region: Region) -> None:
        region.replaced = True
        with pytest.raises(Fenced):
            await region.operate("partition-add", kind="tenant")
        assert [type(error) for error in region.ended] == [Fenced]
        await region.rounds(2)
        assert region.told == []
        assert "tp-3" not in region.parts

    story(what)
