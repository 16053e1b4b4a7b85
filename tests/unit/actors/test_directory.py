from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from arktos_ray.actors.directory import Directory
from arktos_ray.api.calls import BOOKMARK, WatchEvent
from arktos_ray.api.errors import Unavailable
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client
from arktos_ray.tenancy.topology import initial
from arktos_ray.testing.fakes import FakeClock, settle


class Partition:
    """Answers a list once it may, and then watches for ever."""

    def __init__(self, *tenants: str) -> None:
        self.up = asyncio.Event()
        self._tenants = [{"metadata": {"name": name, "uid": f"uid-{name}"}} for name in tenants]

    async def listed(self, gvr: str, **_: str) -> dict[str, Any]:
        await self.up.wait()
        return {"items": self._tenants, "metadata": {"resourceVersion": "1"}}

    async def watch(self, gvr: str, **_: str) -> Any:
        await asyncio.Event().wait()
        yield []


def test_a_tenant_is_called_unknown_only_when_every_partition_has_spoken() -> None:
    async def story() -> None:
        one, two = Partition("acme"), Partition("zeta")
        partitions = {"tp-1": cast(Client, one), "tp-2": cast(Client, two)}
        tasks = Tasks()
        directory = Directory(
            initial(2, 0), partitions.__getitem__, "letters", FakeClock(), tasks
        )  # fmt: skip
        await asyncio.sleep(0)

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


class Growing(Partition):
    """Tells of tenants while it is watched."""

    def __init__(self, *tenants: str) -> None:
        super().__init__(*tenants)
        self.up.set()
        self.events: asyncio.Queue[WatchEvent] = asyncio.Queue()  # noqa: TID251

    async def watch(self, gvr: str, **_: str) -> Any:
        while True:
            yield [await self.events.get()]


def test_a_new_topology_assigns_only_when_all_that_came_before_it_is_known() -> None:
    async def story() -> None:
        one, two = Growing(), Growing()
        partitions = {"tp-1": cast(Client, one), "tp-2": cast(Client, two)}
        tasks = Tasks()
        first = initial(1, 1)
        directory = Directory(first, partitions.__getitem__, "letters", FakeClock(), tasks)
        await directory.told(5.0)
        assert (directory.owner_of("zeta"), directory.version) == ("tp-1", 1)

        directory.regroup(first.added("tenant"), {"tp-1": 100, "tp-2": 1})
        await asyncio.sleep(0)
        await directory.told(5.0)
        # Another ingress may have made zeta in tp-1 at a revision up to 100, unseen yet.
        assert (directory.owner_of("zeta"), directory.version) == ("tp-1", 1)
        body = b'{"metadata": {"name": "yoga", "uid": "u"}}'
        two.events.put_nowait(WatchEvent(BOOKMARK, 50, ""))
        one.events.put_nowait(WatchEvent("ADDED", 99, "//yoga", body))
        await settle()
        assert directory.version == 1
        one.events.put_nowait(WatchEvent(BOOKMARK, 100, ""))
        await settle()
        assert (directory.owner_of("zeta"), directory.version) == ("tp-2", 2)
        assert directory.owner_of("yoga") == "tp-1", "it is where it was made, not where a new is"
        await tasks.close()

    asyncio.run(story())


def test_who_starts_with_a_changed_topology_assigns_nothing_before_it_is_told() -> None:
    async def story() -> None:
        partitions = {"tp-1": cast(Client, Growing("acme")), "tp-2": cast(Client, Growing())}
        tasks = Tasks()
        changed = initial(1, 1).added("tenant")
        directory = Directory(changed, partitions.__getitem__, "letters", FakeClock(), tasks)
        await asyncio.sleep(0)
        await directory.told(5.0)
        assert directory.owner_of("acme") == "tp-1"
        with pytest.raises(Unavailable, match="just changed"):
            directory.owner_of("zeta")
        directory.regroup(changed, {"tp-1": 1, "tp-2": 1})
        assert directory.owner_of("zeta") == "tp-2"
        await tasks.close()

    asyncio.run(story())


def test_a_new_tenant_goes_to_a_partition_of_the_storage_cluster_that_it_names() -> None:
    async def story() -> None:
        topology = initial(2, 0).added("tenant", "1").added("tenant", "1").drained("tp-4")
        partitions = {name: cast(Client, Growing()) for name in topology.names("tenant")}
        tasks = Tasks()
        directory = Directory(topology, partitions.__getitem__, "letters", FakeClock(), tasks)
        directory.regroup(topology, {})
        await directory.told(5.0)

        assert directory.owner_of("acme", "0") == "tp-1"
        assert directory.owner_of("zeta", "0") == "tp-2"
        assert directory.owner_of("acme", "1") == directory.owner_of("zeta", "1") == "tp-3"
        # There a partition says what is wrong with it.
        assert directory.owner_of("zeta", "7") == "tp-1"
        await tasks.close()

    asyncio.run(story())
