"""A partition with a tenant in one process, for tests of what a partition answers. Not a test."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from arktos_ray.actors.part import Surroundings
from arktos_ray.actors.tenant_partition import TenantPartition
from arktos_ray.api import errors
from arktos_ray.api.calls import Call, Reply, User
from arktos_ray.api.errors import Unavailable
from arktos_ray.base.ids import Ids
from arktos_ray.store.backends.memory import MemoryDisk, MemoryLog
from arktos_ray.store.port import Log
from arktos_ray.tenancy.topology import initial
from arktos_ray.testing.fakes import FakeClock

Object = dict[str, Any]
ADMIN = User("admin", "system", ("system:masters",))
ACME = User("admin", "acme")


class ShortClock(FakeClock):
    """Short waits pass at once; long ones (housekeeping) never end."""

    async def sleep(self, seconds: float) -> None:
        if seconds > 0.1:
            await asyncio.Event().wait()
        self._now += seconds
        await asyncio.sleep(0)


class Asking(ABC):
    """Short words for what is asked, whichever way it goes."""

    @abstractmethod
    async def reply(self, *what: Any, **more: Any) -> Reply: ...

    async def ok(self, *what: Any, **more: Any) -> Object:
        reply = await self.reply(*what, **more)
        assert reply.ok, reply.body
        found: Object = orjson.loads(reply.body)
        return found

    async def fails(self, code: int, *what: Any, **more: Any) -> str:
        reply = await self.reply(*what, **more)
        assert reply.code == code, (reply.code, reply.body)
        return errors.decode(reply.body).message


class Reviewed(Asking):
    """As an ingress asks a partition whose tenants have webhooks."""

    def __init__(self, w: Acme) -> None:
        self.w = w

    def call(self, *what: Any, **more: Any) -> Call:
        return self.w.call(*what, **more)

    async def reply(self, *what: Any, **more: Any) -> Reply:
        """Again, alone, when it is told to."""
        call = self.call(*what, **more)
        [reply] = await self.w.part.call([call])
        if reply.code == 503 and b"ReviewedApart" in reply.body:
            return Reply.unpack(await self.w.part.request("reviewed", call.pack()))
        return reply


class Acme(Asking):
    """A partition with one tenant, and short words for what is asked of it."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.disk = disk or MemoryDisk()
        self.clock = ShortClock()
        self.crashed: list[BaseException] = []

        def open_log(_: Any) -> Log:
            self.log = MemoryLog(self.disk)
            return self.log

        def nobody(name: str) -> Any:
            raise Unavailable(name)

        self.part = TenantPartition(
            {
                "name": "tp-1", "number": 1, "service_cidr": "10.1.0.0/28",
                "topology": initial(1, 0).pack(),
            },
            Surroundings(
                self.clock, Ids(1), nobody, open_log, self.crashed.append, listens=False
            ),
        )  # fmt: skip

    async def start(self) -> None:
        await self.part.start()
        await self.ok("create", "tenants", {"metadata": {"name": "acme"},
                      "spec": {"storageClusterId": "0"}}, at=("", "", ""), user=ADMIN)  # fmt: skip
        await self.ok("create", "namespaces", {"metadata": {"name": "n"}}, at=("acme", "", ""))

    def call(
        self, verb: str, gvr: str, body: Any = None, *, at: tuple[str, str, str] | None = None,
        name: str = "", sub: str = "", kind: str = "application/json", user: User = ACME,
        **options: str,
    ) -> Call:  # fmt: skip
        where = at or ("acme", "n", name)
        raw = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        return Call(
            verb, gvr, *where, subresource=sub, options=options, body=raw, content_type=kind,
            user=user,
        )  # fmt: skip

    async def reply(self, *what: Any, **more: Any) -> Reply:
        [reply] = await self.part.call([self.call(*what, **more)])
        return reply


def acme(story: Callable[[Acme], Awaitable[None]]) -> None:
    async def run() -> None:
        world = Acme()
        await world.start()
        try:
            await story(world)
            assert not world.crashed
        finally:
            await world.part.close()

    asyncio.run(run())
