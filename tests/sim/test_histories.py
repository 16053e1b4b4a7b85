"""Random operations on a partition that crashes, checked against a model.

Clients are sequential, each on names of its own. An operation that was answered happened exactly
so; one that was not may or may not have happened, and the next read tells. Watchers that lose
their connection go on from the last revision they saw.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import consistency
import orjson

from arktos_ray.api.calls import BOOKMARK, DELETED
from arktos_ray.api.errors import AlreadyExists, Conflict, Expired, NotFound, Timeout, Unavailable
from arktos_ray.api.names import Key
from arktos_ray.client.port import Client
from arktos_ray.testing.sim import Faults, SimCluster

GVR = "configmaps"
TENANTS = ("acme", "beta")
OPERATIONS = 10_000
CLIENTS = 8
NAMES_EACH = 5
_ABSENT = None

State = tuple[str, str] | None  # (value, resourceVersion)


@dataclass
class Actor:
    """One sequential client, and everything that it knows for sure."""

    client: Client
    tenant: str
    number: int
    rng: random.Random
    possible: dict[str, set[str | None]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    written: list[tuple[int, str]] = field(default_factory=list)  # (revision, name)
    unanswered: int = 0

    def key(self, name: str) -> Key:
        return Key(self.tenant, "default", name)

    async def run(self, count: int) -> None:
        for step in range(count):
            name = f"c{self.number}-{self.rng.randrange(NAMES_EACH)}"
            await self.one(name, f"v{step}")

    async def one(self, name: str, value: str) -> None:
        possible = self.possible.setdefault(name, {_ABSENT})
        body = {"metadata": {"name": name}, "data": {"value": value}}
        choice = self.rng.random()
        if choice < 0.3:
            await self.read(name)
            return
        try:
            if choice < 0.5:
                made = await self.client.create(GVR, self.tenant, "default", body)
                assert _ABSENT in possible, f"{name} was created twice"
                self.wrote(name, value, made)
            elif choice < 0.7:
                current = self.revisions.get(name)
                body["metadata"]["resourceVersion"] = current or "1"
                made = await self.client.update(GVR, self.key(name), body)
                assert possible != {_ABSENT}, f"{name} was updated and is not there"
                self.wrote(name, value, made)
            elif choice < 0.85:
                patch = {"data": {"value": value}}
                made = await self.client.patch(GVR, self.key(name), patch)
                self.wrote(name, value, made)
            else:
                await self.client.delete(GVR, self.key(name))
                assert possible != {_ABSENT}, f"{name} was deleted and was not there"
                self.possible[name] = {_ABSENT}
        except AlreadyExists:
            assert possible != {_ABSENT}, f"{name} is said to exist"
            possible.discard(_ABSENT)
        except NotFound:
            assert _ABSENT in possible, f"{name} is lost: it was one of {possible}"
            self.possible[name] = {_ABSENT}
        except Conflict:
            pass  # Our revision is old: an unanswered write of ours happened after all.
        except (Unavailable, Timeout):
            self.unanswered += 1
            possible.add(_ABSENT if choice >= 0.85 else value)

    def wrote(self, name: str, value: str, made: dict[str, Any]) -> None:
        self.possible[name] = {value}
        self.revisions[name] = made["metadata"]["resourceVersion"]
        self.written.append((int(self.revisions[name]), name))

    async def read(self, name: str) -> bool:
        """False when nobody answered."""
        try:
            found = await self.client.get(GVR, self.key(name))
            value: str | None = found["data"]["value"]
            self.revisions[name] = found["metadata"]["resourceVersion"]
        except NotFound:
            value = _ABSENT
        except (Unavailable, Timeout):
            return False
        possible = self.possible.setdefault(name, {_ABSENT})
        assert value in possible, f"{name} reads {value}, should be one of {possible}"
        self.possible[name] = {value}
        return True


@dataclass
class Watcher:
    """Lists once, then watches, reconnecting from where it was."""

    client: Client
    tenant: str
    start: int = 0
    position: int = 0
    state: dict[str, str] = field(default_factory=dict)
    revisions: list[int] = field(default_factory=list)
    reconnects: int = 0

    async def run(self) -> None:
        while not self.start:
            try:
                items, self.start = await self.client.list(GVR, tenant=self.tenant)
                self.state = {i["metadata"]["name"]: i["data"]["value"] for i in items}
                self.position = self.start
            except Unavailable:
                await asyncio.sleep(0.05)
        while True:
            try:
                async for events in self.client.watch(
                    GVR, tenant=self.tenant, resourceVersion=str(self.position)
                ):
                    for event in events:
                        self.see(event)
            except Unavailable:
                self.reconnects += 1
                await asyncio.sleep(0.05)

    def see(self, event: Any) -> None:
        if event.type == BOOKMARK:
            return
        assert event.revision > self.position, "a watch repeats or goes back"
        self.position = event.revision
        self.revisions.append(event.revision)
        name = event.path.split("/")[2]
        if event.type == DELETED:
            assert name in self.state, f"{name} is deleted and was never there"
            del self.state[name]
        else:
            assert (event.type == "ADDED") == (name not in self.state), (event.type, name)
            self.state[name] = orjson.loads(event.body)["data"]["value"]


def test_ten_thousand_operations_while_the_partition_crashes(seed: int) -> None:
    faults = Faults(reset_chance=0.002, restart_s=0.3)
    with SimCluster(
        seed, tenant_partitions=1, resource_partitions=0, faults=faults, with_parts=False
    ) as sim:

        async def seed_tenants() -> None:
            admin = sim.client("tp-1")
            for tenant in TENANTS:
                body = {"metadata": {"name": tenant}, "spec": {"storageClusterId": "0"}}
                await sim.eventually(lambda b=body: made(admin.create("tenants", "", "", b)))
                default = {"metadata": {"name": "default"}}
                await sim.eventually(
                    lambda t=tenant, b=default: made(admin.create("namespaces", t, "", b))
                )

        sim.run(seed_tenants())
        actors = [
            Actor(sim.client("tp-1"), TENANTS[i % 2], i, random.Random(seed * 1000 + i))
            for i in range(CLIENTS)
        ]
        watchers = [Watcher(sim.client("tp-1"), t) for t in (*TENANTS, "all")]
        tasks = [sim.loop.create_task(w.run()) for w in watchers]
        work = [sim.loop.create_task(a.run(OPERATIONS // CLIENTS)) for a in actors]
        while not all(task.done() for task in work):
            sim.run_for(sim.random.uniform(0.1, 1.5))
            sim.crash("tp-1")
        for task in work:
            task.result()
        sim.run_for(2)

        async def settle() -> None:
            for actor in actors:
                for name in list(actor.possible):
                    while not await actor.read(name):
                        await sim.clock.sleep(0.1)

        sim.run(settle())
        sim.run_for(1)
        for watcher in watchers:
            mine = [a for a in actors if watcher.tenant in ("all", a.tenant)]
            expected = {
                name: value
                for a in mine
                for name, values in a.possible.items()
                for value in values
                if value is not None
            }
            assert watcher.state == expected
            told = set(watcher.revisions)
            assert len(told) == len(watcher.revisions)
            missed = [w for a in mine for w in a.written
                      if w[0] > watcher.start and w[0] not in told]  # fmt: skip
            assert not missed, f"a watch of {watcher.tenant} missed {missed[:5]}"
        assert sim.processes["tp-1"].incarnation > 3
        for task in tasks:
            task.cancel()


async def made(work: Any) -> None:
    """A create that an unanswered try of ours may have done already."""
    try:
        await work
    except AlreadyExists:
        return


def test_a_revision_that_is_gone_is_refused_and_never_skipped(seed: int) -> None:
    with SimCluster(seed, tenant_partitions=1, resource_partitions=0, with_parts=False) as sim:
        client = sim.client("tp-1")
        sim.run_for(1)

        async def story() -> None:
            made = [
                await client.create(
                    GVR, "system", "default", {"metadata": {"name": f"a{i}"}, "data": {}}
                )
                for i in range(700)
            ]
            await sim.clock.sleep(400)  # Beyond the history, and through a compaction.
            old = int(made[0]["metadata"]["resourceVersion"])
            try:
                async for _ in client.watch(GVR, tenant="system", resourceVersion=str(old)):
                    raise AssertionError("a watch from before the history must not start")
            except Expired:
                return
            raise AssertionError("no answer")

        sim.run(story(), within_s=600)


def test_nobody_sees_what_was_not_durable_and_nobody_misses_what_was(seed: int) -> None:
    consistency.play(seed)
