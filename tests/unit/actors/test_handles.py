"""Promises of the conversation over Ray calls alone, with an actor of three lines and no Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from arktos_ray.actors import handles
from arktos_ray.actors.streams import StreamPeer
from arktos_ray.api.calls import ADDED, Call, Reply, WatchEvent
from arktos_ray.api.errors import Unavailable
from arktos_ray.base.tasks import Tasks


class Counting:
    """A Peer; its watch goes on until it is told to stop."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.ended = 0

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        return [Reply(200, call.body) for call in calls]

    async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        try:
            yield [WatchEvent(ADDED, 1, "t/n/a", b"x" * 3_000_000)]
            await self.go.wait()
            yield [WatchEvent(ADDED, 2, "t/n/b", b"x")]
            await asyncio.Event().wait()
        finally:
            self.ended += 1

    async def request(self, method: str, payload: Any) -> Any:
        return payload

    def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


class Method:
    def __init__(self, what: Callable[..., Awaitable[Any]]) -> None:
        self.remote = what


class Actor:
    """What a Ray handle looks like from here. `restart` loses all sessions, as a process does."""

    def __init__(self, peer: Counting, tasks: Tasks) -> None:
        self._peer, self._tasks = peer, tasks
        self.restart()
        self.push = Method(lambda *what: self.sessions.push(*what))
        self.pull = Method(lambda *what: self.sessions.pull(*what))

    def restart(self) -> None:
        self.sessions = handles.RaySessions(self._peer, self._tasks)


def over_ray(story: Callable[[Counting, Actor, StreamPeer], Awaitable[None]]) -> None:
    async def run() -> None:
        tasks, peer = Tasks(), Counting()
        actor = Actor(peer, tasks)

        async def connect() -> Any:
            return handles._connect_over_ray("tp-1", actor, tasks)

        reached = StreamPeer("tp-1", connect)
        await story(peer, actor, reached)
        reached.close()
        await tasks.close()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_calls_keep_their_order_and_large_ones_arrive() -> None:
    async def story(peer: Counting, actor: Actor, reached: StreamPeer) -> None:
        answers = await asyncio.gather(*(reached.request("m", i) for i in range(50)))
        assert answers == list(range(50))
        [reply] = await reached.call([Call("get", "pods", body=b"x" * 5_000_000)])
        assert len(reply.body) == 5_000_000

    over_ray(story)


def test_a_watch_outlives_many_parked_pulls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "_PULL_WAIT_S", 0.001)

    async def story(peer: Counting, actor: Actor, reached: StreamPeer) -> None:
        watch = reached.watch(Call("watch", "pods"))
        [first] = await anext(watch)
        assert first.revision == 1
        for i in range(20):
            assert await reached.request("m", i) == i
        peer.go.set()
        [second] = await anext(watch)
        assert second.revision == 2
        await watch.aclose()  # type: ignore[attr-defined]

    over_ray(story)


def test_a_watch_whose_session_the_other_side_lost_ends_and_does_not_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handles, "_PULL_WAIT_S", 0.001)

    async def story(peer: Counting, actor: Actor, reached: StreamPeer) -> None:
        watch = reached.watch(Call("watch", "pods"))
        await anext(watch)
        actor.restart()
        with pytest.raises(Unavailable):
            await anext(watch)
        assert await reached.request("again", 1) == 1

    over_ray(story)


def test_a_client_that_stopped_pulling_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(peer: Counting, actor: Actor, reached: StreamPeer) -> None:
        await anext(reached.watch(Call("watch", "pods")))
        monkeypatch.setattr(handles._Session, "IDLE_S", -1.0)
        with pytest.raises(Unavailable):
            await actor.sessions.pull("stranger", 0.0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert peer.ended == 1

    over_ray(story)
