"""Who was replaced can neither write, nor publish, nor answer, whenever it wakes up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import orjson
import pytest

from arktos_ray.api.errors import Failure, Timeout, Unavailable
from arktos_ray.api.names import Key
from arktos_ray.client.port import Client
from arktos_ray.store.port import Lease
from arktos_ray.testing.sim import SimCluster

TTL_S = 3.0
NAME = "tp-1"


def key(name: str) -> Key:
    return Key("acme", "default", name)


ONE = key("one")


def config_map(name: str, value: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": {"value": value}}


async def settle(client: Client) -> None:
    tenant = {"metadata": {"name": "acme"}, "spec": {"storageClusterId": "0"}}
    await client.create("tenants", "", "", tenant)
    await client.create("namespaces", "acme", "", {"metadata": {"name": "default"}})
    await client.create("configmaps", "acme", "default", config_map("one", "old"))


async def value(client: Client, name: str = "one") -> str:
    found = await client.get("configmaps", key(name))
    return str(found["data"]["value"])


async def outcome(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except Failure as failure:
        return failure


async def follow(client: Client, told: list[tuple[str, str]]) -> None:
    """Everything that a watch tells, until it ends."""
    watch = client.watch(
        "configmaps",
        tenant="acme",
        namespace="default",
        allowWatchBookmarks="true",
        progress="true",
    )
    async for events in watch:
        for event in events:
            name = orjson.loads(event.body)["metadata"]["name"] if event.body else ""
            told.append((event.type, name))


def replace(sim: SimCluster) -> None:
    """On another machine: nothing there ends the old one."""
    sim.loop.call_soon(partial(sim.replace, NAME, kill=False))
    sim.run_until(lambda: sim.processes[NAME].incarnation == 2)


@contextmanager
def running(seed: int, told: list[tuple[str, str]]) -> Iterator[tuple[SimCluster, Client]]:
    """A cluster whose logs are leased, a client of tp-1 with a connection, and a watch."""
    with SimCluster(seed, with_parts=False, lease=Lease(TTL_S)) as sim:
        sim.run_until(lambda: sim.processes[NAME].started)
        old = sim.client(NAME)
        sim.run(settle(old))
        watching = sim.loop.create_task(outcome(follow(old, told)), name="watcher")
        sim.run_until(lambda: bool(told))
        yield sim, old
        watching.cancel()


@pytest.mark.parametrize("asleep_s", [5.0, 300.0])
def test_who_slept_while_it_was_replaced_wakes_up_to_nothing(seed: int, asleep_s: float) -> None:
    told: list[tuple[str, str]] = []
    with running(seed, told) as (sim, old):
        begun = sim.clock.monotonic()
        sim.stall(NAME, asleep_s)
        sim.run_for(sim.random.uniform(0.0, 0.2))
        told.clear()
        # What reaches it while it sleeps, it finds when it wakes up.
        tasks = [
            sim.loop.create_task(outcome(work), name="asked")
            for work in (
                value(old), old.list("configmaps", tenant="acme", namespace="default"),
                old.create("configmaps", "acme", "default", config_map("lost", "old")),
                # Refusals are answers too: it still has "one", and never had "two".
                old.create("configmaps", "acme", "default", config_map("one", "again")),
                value(old, "two"),
            )
        ]  # fmt: skip
        sim.run_for(sim.random.uniform(0.0, 1.0))
        replace(sim)
        sim.run_until(lambda: sim.processes[NAME].started)
        assert sim.clock.monotonic() - begun < TTL_S + 1.5, "no longer than its lease, and a start"

        new = sim.client(NAME)
        changed = sim.run(new.get("configmaps", ONE))
        changed["data"]["value"] = "new"
        sim.run(new.update("configmaps", ONE, changed))
        sim.run(new.create("configmaps", "acme", "default", config_map("two", "new")))

        sim.run_for(asleep_s + 5.0)
        assert sim.fenced == [NAME], "it found out, and ended"
        for answer in sim.run(asyncio.gather(*tasks)):
            assert isinstance(answer, Unavailable | Timeout)
        assert told == [], "its watchers were told nothing more"
        names = {o["metadata"]["name"] for o in sim.objects("configmaps")}
        assert names == {"one", "two"}
        assert sim.run(value(new)) == "new"


def test_who_slept_a_moment_goes_on(seed: int) -> None:
    told: list[tuple[str, str]] = []
    with running(seed, told) as (sim, old):
        for _ in range(5):
            sim.stall(NAME, sim.random.uniform(0.1, 10.0))
            sim.run_for(0.05)
            changed = sim.run(sim.eventually(lambda: old.get("configmaps", ONE)))
            sim.run(outcome(old.update("configmaps", ONE, changed)))
        sim.run_for(5.0)
        assert sim.fenced == []
        assert sim.processes[NAME].incarnation == 1
        assert sim.run(value(old)) == "old"


def test_no_two_incarnations_ever_answer_at_the_same_time(seed: int) -> None:
    """The old one is well, and does not know that another machine was given its work."""
    told: list[tuple[str, str]] = []
    with running(seed, told) as (sim, old):
        answers: list[tuple[float, str]] = []

        async def ask(client: Client, who: str) -> None:
            while True:
                # Unless it answers at once, the connection is lost, and the next one would be to
                # whoever is there then.
                if not isinstance(await outcome(value(client)), Failure):
                    answers.append((sim.clock.monotonic(), who))
                elif who == "old":
                    return
                await sim.clock.sleep(0.02)

        asking = sim.loop.create_task(ask(old, "old"), name="old")
        sim.run_for(sim.random.uniform(0.0, 2.0))
        replace(sim)
        also = sim.loop.create_task(ask(sim.client(NAME), "new"), name="new")
        sim.run_for(10.0)
        assert sim.fenced == [NAME]
        last_old = max(at for at, who in answers if who == "old")
        first_new = min(at for at, who in answers if who == "new")
        assert last_old < first_new
        asking.cancel()
        also.cancel()
