"""The conversation: batches and order kept, streams bounded, failures told apart.

The same over a Unix socket and over TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.actors import streams
from arktos_ray.actors.inside import Address, Inside
from arktos_ray.actors.streams import (
    CALL,
    CANCEL,
    STREAM_CREDIT,
    WATCH,
    ClientEnd,
    Deframer,
    ServerEnd,
    StreamPeer,
    StreamServer,
    connect_socket,
    pack,
    pack_replies,
)
from arktos_ray.api.calls import ADDED, Call, Reply, User, WatchEvent
from arktos_ray.api.errors import (
    Conflict,
    Expired,
    Internal,
    TooLarge,
    TooManyRequests,
    Unavailable,
    Unreached,
)
from arktos_ray.base import pki
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.tasks import Tasks


class Echo:
    """A Peer whose answers show what it was asked."""

    def __init__(self) -> None:
        self.sent = 0
        self.closed = 0
        self.hold = asyncio.Event()

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        if calls[0].name == "hang":
            await self.hold.wait()
        return [Reply(200, c.body, (c.name, c.user.name)) for c in calls]

    async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        try:
            for i in range(int(call.name)):
                self.sent += 1
                yield [WatchEvent(ADDED, i, f"t/n/{i}", b"x")]
            raise Expired("gone")
        finally:
            self.closed += 1

    async def request(self, method: str, payload: Any) -> Any:
        if method == "refuse":
            raise Conflict("no")
        return [method, payload]

    async def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        for item in payload:
            yield item


class Carrier:
    """How two actors reach each other: `served` by one, `reached` by the other."""

    def __init__(self, run_dir: Path, machines: tuple[Inside, Inside] | None) -> None:
        self.run_dir, self._machines = run_dir, machines

    def serve(self, peer: Any, tasks: Tasks) -> StreamServer:
        inside = self._machines[0] if self._machines else None
        return StreamServer(peer, self.run_dir / "e.sock", tasks, inside)

    async def connect(self, name: str, address: Address) -> ClientEnd:
        return await connect_socket(name, address, self._machines[1] if self._machines else None)

    async def raw(self, address: Address) -> asyncio.StreamWriter:
        """A connection for bytes that no ClientEnd would send."""
        if self._machines is None:
            return (await asyncio.open_unix_connection(address.unix))[1]
        host, _, port = address.tcp.rpartition(":")
        inside = self._machines[1]
        _, writer = await asyncio.open_connection(
            host, int(port), ssl=inside.connecting, server_hostname=inside.called("echo")
        )
        return writer


@pytest.fixture(scope="module")
def inner(tmp_path_factory: pytest.TempPathFactory) -> pki.InnerCa:
    return pki.ensure_inner(tmp_path_factory.mktemp("pki"), pki.utc(SystemClock().now()))


@pytest.fixture(params=["unix", "tls"])
def carrier(request: pytest.FixtureRequest, tmp_path: Path, inner: pki.InnerCa) -> Carrier:
    if request.param == "unix":
        return Carrier(tmp_path, None)
    echo, other = (
        Inside(name, inner, SystemClock().now(), machine=name, host="127.0.0.1", run_dir=tmp_path)
        for name in ("echo", "other")
    )
    return Carrier(tmp_path, (echo, other))


@contextlib.asynccontextmanager
async def serving(
    carrier: Carrier, peer: Any, on_crash: Callable[[BaseException], None] | None = None
) -> AsyncIterator[tuple[StreamPeer, Address]]:
    tasks = Tasks(on_crash)
    server = carrier.serve(peer, tasks)
    address = await server.start()
    reached = StreamPeer("echo", lambda: carrier.connect("echo", address))
    try:
        yield reached, address
    finally:
        reached.close()
        await server.close()
        await tasks.close()


def with_peer(carrier: Carrier, story: Callable[[Echo, StreamPeer], Awaitable[None]]) -> None:
    async def run() -> None:
        echo = Echo()
        async with serving(carrier, echo) as (peer, _):
            await story(echo, peer)

    asyncio.run(run())


def test_a_batch_comes_back_in_order_with_its_bytes(carrier: Carrier) -> None:
    async def story(echo: Echo, peer: StreamPeer) -> None:
        calls = [
            Call("get", "pods", "t", "n", str(i), body=bytes([i]), user=User("u", groups=("g",)))
            for i in range(20)
        ]
        replies = await peer.call(calls)
        assert [(r.body, r.warnings) for r in replies] == [
            (bytes([i]), (str(i), "u")) for i in range(20)
        ]
        assert await peer.request("m", {"a": [1, b"\xff"]}) == ["m", {"a": [1, b"\xff"]}]

    with_peer(carrier, story)


def test_failures_arrive_as_what_they_were(carrier: Carrier) -> None:
    async def story(echo: Echo, peer: StreamPeer) -> None:
        with pytest.raises(Conflict, match="no"):
            await peer.request("refuse", None)
        seen = []
        with pytest.raises(Expired, match="gone"):
            async for events in peer.watch(Call("watch", "pods", name="3")):
                seen += events
        assert [event.revision for event in seen] == [0, 1, 2]

    with_peer(carrier, story)


def test_a_stream_waits_for_a_reader_that_does_not_read(carrier: Carrier) -> None:
    async def story(echo: Echo, peer: StreamPeer) -> None:
        watch = peer.watch(Call("watch", "pods", name="1000"))
        await anext(watch)
        await peer.request("flush", None)  # Whatever was on its way has arrived.
        await peer.request("flush", None)
        assert echo.sent <= STREAM_CREDIT + 3
        count = 1
        with pytest.raises(Expired):
            async for _ in watch:
                count += 1
        assert count == 1000

    with_peer(carrier, story)


def test_a_reader_that_goes_away_stops_the_stream(carrier: Carrier) -> None:
    async def story(echo: Echo, peer: StreamPeer) -> None:
        watch = peer.watch(Call("watch", "pods", name="1000000"))
        await anext(watch)
        await watch.aclose()  # type: ignore[attr-defined]
        await peer.request("flush", None)
        await peer.request("flush", None)
        assert echo.closed == 1

    with_peer(carrier, story)


def test_calls_in_flight_fail_when_the_other_side_goes_and_later_ones_reconnect(
    carrier: Carrier,
) -> None:
    async def run() -> None:
        tasks, echo = Tasks(), Echo()
        server = carrier.serve(echo, tasks)
        addresses = [await server.start()]
        peer = StreamPeer("echo", lambda: carrier.connect("echo", addresses[-1]))
        await peer.request("hello", None)
        hanging = asyncio.ensure_future(peer.call([Call("get", "pods", name="hang")]))
        await peer.request("hello", None)
        await server.close()
        with pytest.raises(Unavailable, match="lost"):
            await hanging
        with pytest.raises(Unavailable, match="nobody answers"):
            await peer.request("hello", None)
        again = carrier.serve(echo, tasks)
        addresses.append(await again.start())
        assert await peer.request("hello", 1) == ["hello", 1]
        peer.close()
        await again.close()
        await tasks.close()

    asyncio.run(run())


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(8, 400), st.data())
def test_frames_survive_any_cutting_of_the_bytes(
    bodies: list[bytes], large: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arktos_ray.actors.streams.LARGE_BYTES", large)
        check_cutting(bodies, data)


def check_cutting(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(pack(1, i, body) for i, body in enumerate(bodies))
    replies = [Reply(200, body, ("w",)) for body in bodies]
    stream += b"".join(pack_replies(len(bodies), replies))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    deframer, frames = Deframer(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        frames += deframer.feed(stream[start:end])
    assert frames[: len(bodies)] == [[1, i, body] for i, body in enumerate(bodies)]
    end = ClientEnd("there", NoPipe())
    answer: asyncio.Future[Any] = asyncio.Future(loop=asyncio.new_event_loop())
    end._waiting[len(bodies)] = answer
    for frame in frames[len(bodies) :]:
        end.received(frame)
    assert [Reply.unpack(packed) for packed in answer.result()] == replies
    answer.get_loop().close()


class NoPipe:
    """Nobody is at the other end."""

    unread = 0

    def send(self, data: bytes) -> None:
        raise AssertionError("nothing is to be sent")

    async def ready(self) -> None:
        return

    def close(self) -> None:
        return


def test_a_bug_of_the_peer_fails_the_call_that_met_it_and_nothing_else(
    carrier: Carrier,
) -> None:
    crashed: list[BaseException] = []

    class Buggy(Echo):
        async def call(self, calls: Sequence[Call]) -> list[Reply]:
            raise KeyError("call")

        async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
            yield [WatchEvent(ADDED, 1, "t/n/a", b"x")]
            raise TypeError("watch")

    async def run() -> None:
        async with serving(carrier, Buggy(), crashed.append) as (peer, _):
            with pytest.raises(Internal, match="KeyError"):
                await peer.call([Call("get", "pods")])
            with pytest.raises(Internal, match="TypeError"):
                async for _ in peer.watch(Call("watch", "pods")):
                    pass
            assert await peer.request("still", "here") == ["still", "here"]

    asyncio.run(run())
    assert not crashed


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff",
        struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        struct.pack(">I", 1) + b"\x01",
        pack(1, 2, 3)[:4] + b"\x93\xc0\xc0\xc0",
        pack(0, 7, 5),
        pack(0, 7, [[1, 2]]),
        pack(4, 8, 5),
        pack(6, 9, "x"),
        pack(10, 1, "x"),
    ],
)
def test_garbage_ends_at_most_its_own_connection(carrier: Carrier, garbage: bytes) -> None:
    crashed: list[BaseException] = []

    async def run() -> None:
        async with serving(carrier, Echo(), crashed.append) as (peer, address):
            await peer.request("hello", None)
            writer = await carrier.raw(address)
            writer.write(garbage)
            await writer.drain()
            assert await peer.request("hello", 1) == ["hello", 1]
            writer.close()

    asyncio.run(run())
    assert not crashed


def test_an_answer_that_is_too_large_is_refused_and_the_connection_stays(
    carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arktos_ray.actors.streams.FRAME_BYTES_MAX", 200_000)

    class Large(Echo):
        async def call(self, calls: Sequence[Call]) -> list[Reply]:
            return [Reply(200, b"x" * int(calls[0].name))]

    async def run() -> None:
        async with serving(carrier, Large()) as (peer, _):
            hanging = asyncio.ensure_future(peer.request("m", 1))
            with pytest.raises(TooLarge, match="limit and continue"):
                await peer.call([Call("list", "pods", name="300000")])
            with pytest.raises(TooLarge):
                await peer.request("m", b"x" * 300_000)
            assert await hanging == ["m", 1]
            [reply] = await peer.call([Call("list", "pods", name="100000")])
            assert len(reply.body) == 100_000

    asyncio.run(run())


def test_large_events_travel_in_frames_of_their_own(
    carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arktos_ray.actors.streams.FRAME_BYTES_MAX", 2_000_000)

    class Wide(Echo):
        async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
            yield [WatchEvent(ADDED, i, f"t/n/{i}", b"x" * 700_000) for i in range(20)]

    async def run() -> None:
        async with serving(carrier, Wide()) as (peer, _):
            watch = peer.watch(Call("watch", "pods"))
            seen = [e.revision async for events in watch for e in events]
            assert seen == list(range(20))

    asyncio.run(run())


def test_a_stream_that_is_cancelled_at_once_leaves_nothing_behind() -> None:
    async def run() -> None:
        tasks, out = Tasks(), Sent()
        end = ServerEnd(Echo(), out, tasks)
        end.received([WATCH, 1, Call("watch", "pods", name="5").pack()])
        end.received([CANCEL, 1, None])
        for _ in range(5):
            await asyncio.sleep(0)
        assert end.in_flight == 0
        assert not end._credit
        await tasks.close()

    asyncio.run(run())


def test_a_crowd_in_front_of_a_closed_door_is_told_once() -> None:
    async def run() -> None:
        attempts = 0

        async def connect() -> Any:
            nonlocal attempts
            attempts += 1
            await asyncio.sleep(0)
            raise Unavailable("closed")

        peer = StreamPeer("closed", connect)
        answers = await asyncio.gather(
            *(peer.request("m", None) for _ in range(50)), return_exceptions=True
        )
        assert all(isinstance(answer, Unreached) for answer in answers)
        assert attempts == 1
        with pytest.raises(Unreached):
            await peer.request("m", None)
        assert attempts == 2, "who comes later tries again"

    asyncio.run(run())


def test_closing_a_peer_closes_its_connection(carrier: Carrier) -> None:
    async def story(echo: Echo, peer: StreamPeer) -> None:
        await anext(peer.watch(Call("watch", "pods", name="1000000")))
        peer.close()
        while not echo.closed:
            await asyncio.sleep(0)

    with_peer(carrier, story)


class Sent:
    """A Pipe that keeps what is sent."""

    unread = 0

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.frames.append(data)

    async def ready(self) -> None:
        return

    def close(self) -> None:
        return


def test_callers_that_wait_for_a_busy_connection_are_bounded(
    carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "CALLS_IN_FLIGHT_MAX", 2)
    monkeypatch.setattr(streams, "CALLS_WAITING_MAX", 3)

    async def story(echo: Echo, peer: StreamPeer) -> None:
        await peer.request("hello", None)
        calls = [
            asyncio.ensure_future(peer.call([Call("get", "pods", name="hang")])) for _ in range(9)
        ]
        refused, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert len(refused) == 4, "two in flight, three waiting"
        assert all(isinstance(call.exception(), TooManyRequests) for call in refused)
        echo.hold.set()
        replies = await asyncio.gather(*(call for call in calls if call not in refused))
        assert [len(reply) for reply in replies] == [1] * 5

    with_peer(carrier, story)


def test_who_does_not_read_its_answers_gets_no_more_and_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "UNREAD_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(streams, "STALL_S", 0.05)

    async def run() -> None:
        tasks, echo = Tasks(), Echo()
        server = StreamServer(echo, tmp_path / "e.sock", tasks)
        await server.start()
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "e.sock"), limit=1)
        for ident in range(20):
            call = Call("get", "pods", name=str(ident), body=b"x" * (1 << 20))
            writer.write(pack(CALL, ident, [call.pack()]))
        async with asyncio.timeout(20):
            while not server._pipes:
                await asyncio.sleep(0)
            while server._pipes:  # Nothing is kept for it in the end.
                await asyncio.sleep(0.001)
            with contextlib.suppress(ConnectionError):
                received = b""
                while piece := await reader.read(1 << 20):
                    received += piece
        assert len(received) < 20 << 20, "it was cut before it had everything"
        writer.close()
        await server.close()
        await tasks.close()

    asyncio.run(run())


def test_a_short_answer_does_not_wait_behind_a_long_list(tmp_path: Path) -> None:
    async def run() -> None:
        tasks, echo = Tasks(), Echo()
        server = StreamServer(echo, tmp_path / "e.sock", tasks)
        address = await server.start()
        connections: list[ClientEnd] = []

        async def connect() -> ClientEnd:
            connections.append(await connect_socket("echo", address))
            return connections[-1]

        peer = StreamPeer("echo", connect)
        await peer.call([Call("get", "pods", name="a")])
        await peer.call([Call("list", "pods", name="b")])
        await peer.call([Call("list", "pods", name="c")])
        assert len(connections) == 2, "lists have a connection of their own"
        peer.close()
        assert all(end.dead for end in connections)
        await server.close()
        await tasks.close()

    asyncio.run(run())
