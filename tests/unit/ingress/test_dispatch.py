"""Promises of merged watches when a member misbehaves."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from arktos_ray.api import errors
from arktos_ray.api.calls import Call, User, WatchEvent
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.tasks import Tasks
from arktos_ray.ingress.dispatch import Dispatcher
from arktos_ray.ingress.limits import Limits

from .fakes import FakePartition, FakeUpstream, run

ADMIN = User("admin", "system", ("system:masters",))


class Broken(FakePartition):
    async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        raise KeyError("a bug")
        yield


def test_a_merged_watch_ends_when_a_member_fails_by_a_bug_instead_of_going_quiet() -> None:
    async def story() -> None:
        upstream = FakeUpstream()
        upstream.partitions["tp-1"] = Broken(1)
        tasks = Tasks()
        dispatcher = Dispatcher(upstream, SystemClock(), tasks, Limits())
        events, members = dispatcher.watch(
            Call("watch", "pods", "all", options={"resourceVersion": "5"}, user=ADMIN)
        )
        assert members == ("tp-0", "tp-1")
        with pytest.raises(errors.Internal):
            await anext(events)
        await tasks.close()

    run(story())
