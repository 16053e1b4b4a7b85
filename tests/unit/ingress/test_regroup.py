"""Watches over several partitions when there are other partitions."""

from __future__ import annotations

import asyncio

from arktos_ray.api.calls import Call, User
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.tasks import Tasks
from arktos_ray.ingress.dispatch import Dispatcher
from arktos_ray.ingress.limits import Limits

from .fakes import FakeUpstream, run

ADMIN = User("system:admin", groups=("system:masters",))


def test_they_end_in_order_and_without_a_failure_while_members_are_busy() -> None:
    async def story() -> None:
        upstream = FakeUpstream()
        dispatcher = Dispatcher(upstream, SystemClock(), Tasks(), Limits())
        everywhere = Call("watch", "configmaps", "all", user=ADMIN)
        everywhere.options = {"resourceVersion": "1"}
        events, members = dispatcher.watch(everywhere)
        assert len(members) > 1
        stop = asyncio.Event()

        async def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                for name in members:
                    call = Call("create", "configmaps", "acme", "default", user=ADMIN)
                    obj = {"metadata": {"name": f"{name}-{number}"}}
                    await upstream.peer(name).put(call, obj)
                await asyncio.sleep(0)

        writing = asyncio.create_task(write())  # noqa: TID251
        seen = 0
        async for batch in events:
            seen += len(batch)
            if seen > 100:
                dispatcher.regroup()
                seen = -1_000_000
                for _ in range(100):  # The members have more to say meanwhile.
                    await asyncio.sleep(0)
        stop.set()
        await writing
        assert seen < 0, "it had begun, and it ended"

    run(story())
