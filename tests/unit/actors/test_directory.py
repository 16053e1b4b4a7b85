from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from arktos_ray.actors.directory import Directory
from arktos_ray.api.errors import Unavailable
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client
from arktos_ray.testing.fakes import FakeClock


class Partition:
    """Answers a list once it may, and then watches for ever."""

    def __init__(self, *tenants: str) -> None:
        self.up = asyncio.Event()
        self._tenants = [{"metadata": {"name": name, "uid": f"uid-{name}"}} for name in tenants]

    async def list(self, gvr: str, **_: str) -> tuple[list[dict[str, Any]], int]:
        await self.up.wait()
        return self._tenants, 1

    async def watch(self, gvr: str, **_: str) -> Any:
        await asyncio.Event().wait()
        yield []


def test_a_tenant_is_called_unknown_only_when_every_partition_has_spoken() -> None:
    async def story() -> None:
        one, two = Partition("acme"), Partition("zeta")
        partitions = {"tp-1": cast(Client, one), "tp-2": cast(Client, two)}
        directory = Directory(partitions, "letters", FakeClock())
        tasks = Tasks()
        for name in partitions:
            tasks.start(directory.follow(name), name)

        with pytest.raises(Unavailable):
            directory.uid_of("acme")
        one.up.set()
        await asyncio.sleep(0)
        await directory.told(0.0)
        assert directory.uid_of("acme") == "uid-acme"
        with pytest.raises(Unavailable, match="tp-2"):
            directory.uid_of("zeta")
        two.up.set()
        await directory.told(5.0)
        assert directory.uid_of("zeta") == "uid-zeta"
        assert directory.uid_of("nobody") is None
        await tasks.close()

    asyncio.run(story())
