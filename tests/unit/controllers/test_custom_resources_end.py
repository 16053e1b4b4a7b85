"""How definitions, and what was made of them, come to their end; on a real partition."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from arktos_ray.api.calls import User
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client
from arktos_ray.controllers import registry
from tests.unit.apiserver.acme_world import ACME, ADMIN, Acme
from tests.unit.apiserver.widgets import AS, DEFINITIONS, GVR, definition, widget

Object = dict[str, Any]
TENANT = ("acme", "", "")


async def _until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.01)


def played(story: Callable[[Acme], Awaitable[None]]) -> None:
    """A partition and all controllers."""

    async def run() -> None:
        world = Acme()
        await world.start()
        tasks = Tasks(world.crashed.append)
        controllers = registry.Controllers(SystemClock(), world.part.ids, tasks)
        controllers.update({"tp-1": Client(world.part, User("test", trusted=True))}, {})
        try:
            await story(world)
            assert not world.crashed
        finally:
            await tasks.close()
            await world.part.close()

    asyncio.run(run())


async def _make(world: Acme, name: str, **more: Any) -> Object:
    body = widget(name)
    body["metadata"].update(more)
    call = world.call("create", GVR, body)
    call.version = AS
    [reply] = await world.part.call([call])
    assert reply.ok, reply.body
    made: Object = orjson.loads(reply.body)
    return made


def _left(world: Acme) -> list[str]:
    return world.part.server.partition.customs.held("acme", "n")


def test_a_deleted_definition_takes_its_objects_along() -> None:
    async def story(world: Acme) -> None:
        await world.ok("create", DEFINITIONS, definition(), at=TENANT)
        for name in "abc":
            await _make(world, name)
        await world.ok("delete", DEFINITIONS, at=("acme", "", GVR))

        async def gone() -> bool:
            reply = await world.reply("get", DEFINITIONS, at=("acme", "", GVR))
            return reply.code == 404

        await _until(gone)
        assert _left(world) == []
        await world.ok("create", DEFINITIONS, definition(), at=TENANT)

    played(story)


def test_a_deleted_forced_definition_takes_the_objects_of_all_tenants_along() -> None:
    async def story(world: Acme) -> None:
        system = ("system", "", "")
        await world.ok("create", DEFINITIONS, definition(forced=True), at=system, user=ADMIN)
        await _make(world, "a")
        await world.ok("delete", DEFINITIONS, at=("system", "", GVR), user=ADMIN)

        async def gone() -> bool:
            reply = await world.reply("get", DEFINITIONS, at=("system", "", GVR), user=ADMIN)
            return reply.code == 404

        await _until(gone)
        assert _left(world) == []

    played(story)


def test_a_namespace_and_a_tenant_take_custom_objects_along() -> None:
    async def story(world: Acme) -> None:
        await world.ok("create", DEFINITIONS, definition(), at=TENANT)
        await _make(world, "a")
        await world.ok("delete", "namespaces", at=("acme", "", "n"))

        async def gone() -> bool:
            return (await world.reply("get", "namespaces", at=("acme", "", "n"))).code == 404

        await _until(gone)
        assert _left(world) == []
        await world.ok("create", "namespaces", {"metadata": {"name": "n"}}, at=TENANT)
        await _make(world, "a")
        await world.ok("delete", "tenants", at=("", "", "acme"), user=ADMIN)

        async def ended() -> bool:
            return (
                await world.reply("get", "tenants", at=("", "", "acme"), user=ADMIN)
            ).code == 404

        await _until(ended)
        assert world.part.store.holds("acme/") == []

    played(story)


def test_custom_owners_and_dependents_are_collected() -> None:
    async def story(world: Acme) -> None:
        await world.ok("create", DEFINITIONS, definition(), at=TENANT)
        owner = await _make(world, "owner")
        ref = {"apiVersion": AS, "kind": "Widget", "name": "owner", "uid": owner["metadata"]["uid"]}
        await _make(world, "child", ownerReferences=[ref])
        config = {"metadata": {"name": "c", "ownerReferences": [ref]}}
        await world.ok("create", "configmaps", config, user=ACME)
        call = world.call("delete", GVR, name="owner")
        call.version = AS
        await world.part.call([call])

        async def gone() -> bool:
            config = await world.reply("get", "configmaps", name="c")
            return config.code == 404 and _left(world) == []

        await _until(gone)

    played(story)
