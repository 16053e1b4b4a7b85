"""The conversation between two actors: framed messages on one connection (design.md D6).

A frame is a 4-byte length and a msgpack list [kind, id, payload]; the large body of a reply goes
ahead of it in a frame of bare bytes. One side offers a Peer
(`ServerEnd`), the other uses it (`ClientEnd`). Neither knows what carries the bytes: `Pipe` is a
socket here, a Ray call in `handles.py`, and a function call in the simulator.

Actors of one machine talk over a Unix socket, others over TCP with mutual TLS (inside.py).
Measured over a Unix socket: 13 us a round trip, 3 us of it when pipelined; a Ray call takes 1 ms.

Bounded in both directions: a stream may be STREAM_CREDIT batches ahead of its reader; a connection
may have CALLS_IN_FLIGHT_MAX calls in flight and CALLS_WAITING_MAX that wait for one of those; who
does not read what it was answered is answered no more, and in the end let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgpack

from arktos_ray.actors.inside import CONNECT_DEADLINE_S, Address, Inside, connection
from arktos_ray.api import errors
from arktos_ray.api.calls import Call, LongReply, Peer, Reply, WatchEvent
from arktos_ray.api.errors import (
    Failure,
    Internal,
    TooLarge,
    TooManyRequests,
    Unavailable,
    Unreached,
)
from arktos_ray.base.bounded import Gate
from arktos_ray.base.tasks import Tasks

log = logging.getLogger(__name__)

CALL, REPLY, REQUEST, ANSWER, WATCH, EVENTS, SUBSCRIBE, ITEM, END, CANCEL, CREDIT, BODY = range(12)

# Batches that a stream sends ahead of its reader; each holds whatever waited, so few are enough.
STREAM_CREDIT = 16
# About 2 KB an event: a frame of a stream stays near 1 MB, however large its objects are.
EVENTS_PER_FRAME_MAX = 500
EVENTS_BYTES_PER_FRAME = 1 << 20
# A list of 100,000 pods is 200 MB; anything larger is a bug or an attack.
FRAME_BYTES_MAX = 512 << 20
CALLS_IN_FLIGHT_MAX = 2_000
# Callers that wait until a call of theirs may be in flight. Then 429: nothing was sent.
CALLS_WAITING_MAX = 10_000
# Streams open on one connection: all watches of a few ingresses. Then 429.
STREAMS_MAX = 20_000
# Answers that the other side did not read yet: one of the largest, and usual ones behind it. It
# gets no more work done until it has: 429.
UNREAD_BYTES_MAX = FRAME_BYTES_MAX + (64 << 20)
# Nothing of what was sent was read for so long: the connection is cut, and what it holds let go.
STALL_S = 30.0
# From here on a copy costs more than a system call.
LARGE_BYTES = 64 << 10
_LENGTH = struct.Struct(">I")
# In the length of a frame: what follows is an ident and the bare bytes of one body.
_RAW = 1 << 31
_IDENT = struct.Struct(">Q")


class Pipe(Protocol):
    """Carries bytes to the other end, in order."""

    def send(self, data: bytes) -> None:
        """A frame, or the next piece of one."""

    async def ready(self) -> None:
        """Returns when more may be sent without piling up."""

    @property
    def unread(self) -> int:
        """Bytes that were sent and have not left yet."""

    def close(self) -> None: ...


def pack(kind: int, ident: int, payload: Any) -> bytes:
    """Raises TooLarge for what the other end would take for an attack."""
    body: bytes = msgpack.packb([kind, ident, payload])
    _check_size(len(body))
    return _LENGTH.pack(len(body)) + body


def _check_size(length: int) -> None:
    if length > FRAME_BYTES_MAX:
        raise TooLarge(
            f"the answer has {length} bytes, the limit is {FRAME_BYTES_MAX}: ask for less at once,"
            " as with limit and continue"
        )


def pack_replies(ident: int, replies: Sequence[Reply]) -> list[bytes]:
    """The frame of these replies, after those of their large bodies, in pieces.

    A large body travels as it is, without msgpack: a list of 10,000 pods is 30 MB, and each copy
    of it on its way costs 3 to 20 ms.
    """
    pieces: list[bytes] = []
    packed: list[list[Any]] = []
    for reply in replies:
        body = reply.pieces if isinstance(reply, LongReply) else (reply.body,)
        size = sum([len(piece) for piece in body])
        if size < LARGE_BYTES:
            packed.append(reply.pack())
            continue
        _check_size(size)
        pieces += [_LENGTH.pack(_RAW | size) + _IDENT.pack(ident), *body]
        packed.append([reply.code, None, reply.warnings])
    return [*pieces, pack(REPLY, ident, packed)]


class Deframer:
    """Bytes in, frames out. Pure.

    The pieces of a large frame are kept as they came, and joined once.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._pieces: list[bytes] = []
        self._missing = 0  # of the large frame that is coming in
        self._ident: int | None = None  # whose body it is; None: an ordinary frame

    def feed(self, data: bytes) -> list[list[Any]]:
        """The frames that are complete now. Raises ValueError for what is no frame."""
        frames: list[list[Any]] = []
        if self._missing:
            if len(data) < self._missing:
                self._pieces.append(data)
                self._missing -= len(data)
                return frames
            self._pieces.append(data[: self._missing])
            data = data[self._missing :]
            frames.append(_frame(self._ident, b"".join(self._pieces)))
            self._pieces, self._missing = [], 0
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        while end - start >= _LENGTH.size:
            (word,) = _LENGTH.unpack_from(buffer, start)
            length, raw = word & ~_RAW, word & _RAW
            if length > FRAME_BYTES_MAX:
                raise ValueError(f"a frame of {length} bytes")
            body = start + _LENGTH.size + (_IDENT.size if raw else 0)
            if end < body:
                break
            ident = _IDENT.unpack_from(buffer, start + _LENGTH.size)[0] if raw else None
            if end - body < length:
                if length >= LARGE_BYTES:
                    self._pieces = [bytes(buffer[body:])]
                    self._missing = length - (end - body)
                    self._ident = ident
                    start = end
                break
            with memoryview(buffer) as view:
                frames.append(_frame(ident, view[body : body + length]))
            start = body + length
        if start:
            del buffer[:start]
        return frames


def _frame(ident: int | None, body: bytes | memoryview) -> list[Any]:
    return _unpacked(body) if ident is None else [BODY, ident, bytes(body)]


def _unpacked(body: bytes | memoryview) -> list[Any]:
    frame = msgpack.unpackb(body)
    if not isinstance(frame, list) or len(frame) != 3:
        raise ValueError("a frame that is no [kind, id, payload]")
    return frame


class ServerEnd:
    """Offers a Peer to whoever is at the other end of one connection."""

    def __init__(self, peer: Peer, pipe: Pipe, tasks: Tasks) -> None:
        self._peer, self._pipe, self._tasks = peer, pipe, tasks
        self._running: dict[int, asyncio.Task[Any]] = {}
        self._credit: dict[int, asyncio.Semaphore] = {}

    def received(self, frame: list[Any]) -> None:
        kind, ident, payload = frame
        if kind in (CALL, REQUEST, WATCH, SUBSCRIBE):
            refusal = self._refused(kind)
            if refusal is not None:
                self._pipe.send(pack(END, ident, refusal.encode()))
                return
        if kind == CALL:
            self._start(ident, self._call(ident, payload))
        elif kind == REQUEST:
            self._start(ident, self._request(ident, payload))
        elif kind == WATCH:
            self._stream(
                ident, lambda: _packed_events(self._peer.watch(Call.unpack(payload))), EVENTS
            )
        elif kind == SUBSCRIBE:
            self._stream(ident, lambda: self._peer.subscribe(*payload), ITEM)
        elif kind == CREDIT:
            semaphore = self._credit.get(ident)
            if semaphore is not None:
                for _ in range(payload):
                    semaphore.release()
        elif kind == CANCEL:
            task = self._running.get(ident)
            if task is not None:
                task.cancel()

    @property
    def in_flight(self) -> int:
        return len(self._running)

    def _refused(self, kind: int) -> Failure | None:
        """Our side of the limits: the other end keeps to its own, if it is ours."""
        if self._pipe.unread > UNREAD_BYTES_MAX:
            return _busy("read what you were answered before you ask for more")
        streams = len(self._credit)
        if kind in (WATCH, SUBSCRIBE):
            return _busy("too many streams on this connection") if streams >= STREAMS_MAX else None
        if len(self._running) - streams >= CALLS_IN_FLIGHT_MAX:
            return _busy("too many calls in flight on this connection")
        return None

    def _start(self, ident: int, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks.start(work, "stream-call")
        self._running[ident] = task
        task.add_done_callback(lambda _: self._running.pop(ident, None))

    async def _call(self, ident: int, packed: list[Any]) -> None:
        try:
            replies = await self._peer.call([Call.unpack(p) for p in packed])
            for piece in pack_replies(ident, replies):
                self._pipe.send(piece)
        except Exception as error:
            self._pipe.send(pack(END, ident, _refusal(error).encode()))

    async def _request(self, ident: int, payload: list[Any]) -> None:
        try:
            method, argument = payload
            self._pipe.send(pack(ANSWER, ident, await self._peer.request(method, argument)))
        except Exception as error:
            self._pipe.send(pack(END, ident, _refusal(error).encode()))

    def _stream(self, ident: int, items: Callable[[], AsyncIterator[Any]], kind: int) -> None:
        semaphore = self._credit[ident] = asyncio.Semaphore(STREAM_CREDIT)
        self._start(ident, self._pump(ident, items, kind, semaphore))
        # Not the pump's to do: one that is cancelled before its first step does nothing.
        self._running[ident].add_done_callback(lambda _: self._credit.pop(ident, None))

    async def _pump(
        self, ident: int, items: Callable[[], AsyncIterator[Any]], kind: int,
        credit: asyncio.Semaphore,
    ) -> None:  # fmt: skip
        end: bytes | None = None
        iterator = None
        try:
            iterator = items()
            async for item in iterator:
                await credit.acquire()
                await self._pipe.ready()
                self._pipe.send(pack(kind, ident, item))
        except Exception as error:
            end = _refusal(error).encode()
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()
        self._pipe.send(pack(END, ident, end))

    def lost(self) -> None:
        """The other end is gone: stop working for it."""
        for task in list(self._running.values()):
            task.cancel()


def _busy(message: str) -> TooManyRequests:
    return TooManyRequests(message, details={"retryAfterSeconds": 1})


async def _packed_events(watch: AsyncIterator[list[WatchEvent]]) -> AsyncIterator[list[Any]]:
    try:
        async for events in watch:
            frame: list[Any] = []
            size = 0
            for event in events:
                if frame and (
                    len(frame) >= EVENTS_PER_FRAME_MAX
                    or size + len(event.body) > EVENTS_BYTES_PER_FRAME
                ):
                    yield frame
                    frame, size = [], 0
                frame.append(event.pack())
                size += len(event.body)
            yield frame
    finally:
        close = getattr(watch, "aclose", None)
        if close is not None:
            await close()


def _refusal(error: Exception) -> Failure:
    """What the other end is told. A bug fails the one that met it, loudly, and nobody else."""
    if isinstance(error, Failure):
        return error
    log.error("a bug, met by a call over a stream", exc_info=error)
    return Internal(f"internal error ({type(error).__name__}); see the log")


def _put_in(replies: list[list[Any]], bodies: list[bytes]) -> None:
    """The large bodies where they belong: in order, wherever a packed reply has None."""
    rest = iter(bodies)
    for reply in replies:
        if reply[1] is None:
            reply[1] = next(rest)


class _Inbox:
    """The items of one stream that arrived and were not read yet; bounded by the credit."""

    __slots__ = ("ended", "failure", "items", "wake")

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self.wake: asyncio.Future[None] | None = None
        self.ended = False
        self.failure: Failure | None = None

    def notify(self) -> None:
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)


class ClientEnd:
    """Uses the Peer at the other end of one connection. After `lost`, every call fails."""

    def __init__(self, name: str, pipe: Pipe) -> None:
        self.name, self._pipe = name, pipe
        self._last_id = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._bodies: dict[int, list[bytes]] = {}  # came ahead of their reply
        self._inboxes: dict[int, _Inbox] = {}
        self._in_flight = Gate(CALLS_IN_FLIGHT_MAX, CALLS_WAITING_MAX)
        self.dead = False

    def received(self, frame: list[Any]) -> None:
        kind, ident, payload = frame
        if kind in (REPLY, ANSWER):
            future = self._waiting.pop(ident, None)
            bodies = self._bodies.pop(ident, None)
            if bodies:
                _put_in(payload, bodies)
            if future is not None and not future.done():
                future.set_result(payload)
        elif kind == BODY:
            if ident in self._waiting:
                self._bodies.setdefault(ident, []).append(payload)
        elif kind in (EVENTS, ITEM):
            inbox = self._inboxes.get(ident)
            if inbox is not None:
                inbox.items.append(payload)
                inbox.notify()
        elif kind == END:
            failure = errors.decode(payload) if payload else None
            future = self._waiting.pop(ident, None)
            if future is not None and not future.done():
                future.set_exception(failure or Unavailable(f"{self.name}: no answer"))
            inbox = self._inboxes.get(ident)
            if inbox is not None:
                inbox.ended, inbox.failure = True, failure
                inbox.notify()

    def lost(self) -> None:
        self.dead = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable(f"{self.name}: the connection was lost"))
        self._waiting.clear()
        for inbox in self._inboxes.values():
            inbox.ended = True
            inbox.failure = Unavailable(f"{self.name}: the connection was lost")
            inbox.notify()

    def close(self) -> None:
        """Let go of the connection; whoever waits is told."""
        self._pipe.close()
        self.lost()

    async def ask(self, kind: int, payload: Any, deadline_s: float) -> Any:
        if not await self._in_flight.enter():
            raise _busy(f"too many calls wait for {self.name}; try again")
        try:
            return await self._ask(kind, payload, deadline_s)
        finally:
            self._in_flight.leave()

    async def _ask(self, kind: int, payload: Any, deadline_s: float) -> Any:
        if self.dead:
            raise Unavailable(f"{self.name}: the connection was lost")
        self._last_id = ident = self._last_id + 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting[ident] = future
        timer = loop.call_later(deadline_s, self._expire, ident, deadline_s)
        try:
            self._pipe.send(pack(kind, ident, payload))
            return await future
        finally:
            timer.cancel()
            self._waiting.pop(ident, None)
            self._bodies.pop(ident, None)

    def _expire(self, ident: int, deadline_s: float) -> None:
        future = self._waiting.pop(ident, None)
        if future is not None and not future.done():
            future.set_exception(
                errors.Timeout(f"{self.name}: no answer in {deadline_s:g} s; it may have happened")
            )

    async def stream(self, kind: int, payload: Any) -> AsyncIterator[Any]:
        if self.dead:
            raise Unavailable(f"{self.name}: the connection was lost")
        self._last_id = ident = self._last_id + 1
        self._pipe.send(pack(kind, ident, payload))
        inbox = self._inboxes[ident] = _Inbox()
        unpaid = 0
        try:
            while True:
                while inbox.items:
                    item = inbox.items.popleft()
                    unpaid += 1
                    if unpaid * 2 >= STREAM_CREDIT and not self.dead:
                        self._pipe.send(pack(CREDIT, ident, unpaid))
                        unpaid = 0
                    yield item
                if inbox.ended:
                    if inbox.failure is not None:
                        raise inbox.failure
                    return
                inbox.wake = asyncio.get_running_loop().create_future()
                await inbox.wake
                inbox.wake = None
        finally:
            del self._inboxes[ident]
            if not inbox.ended and not self.dead:
                self._pipe.send(pack(CANCEL, ident, None))


class SocketPipe(asyncio.Protocol):
    """A Pipe over a socket. Frames of one loop iteration leave in one write.

    admits: asked, once, for the certificate of the other end, before anything is read.
    """

    def __init__(
        self, received: Callable[[list[Any]], None], lost: Callable[[], None],
        admits: Callable[[Any], bool] | None = None,
    ) -> None:  # fmt: skip
        self._received, self._lost, self._admits = received, lost, admits
        self._deframer = Deframer()
        self._out: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._out_bytes = 0
        self._writable: asyncio.Future[None] | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._sent = 0  # ever
        self._read = 0  # of that, when it was looked at last

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        if self._admits is not None and not self._admits(transport.get_extra_info("peercert")):
            log.warning("refused a connection from %s", transport.get_extra_info("peername"))
            transport.abort()  # type: ignore[attr-defined]
            return
        self._transport = transport  # type: ignore[assignment]
        # Large lists and many watches share one connection; 1 MB in the kernel's way is enough.
        self._transport.set_write_buffer_limits(high=1 << 20)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return  # Refused; what it sent along is not read.
        try:
            frames = self._deframer.feed(data)
        except ValueError:
            self.close()
            return
        for frame in frames:
            try:
                self._received(frame)
            except Exception:
                log.exception("a frame that makes no sense; the connection ends")
                self.close()
                return

    def send(self, frame: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return  # `lost` tells whoever waits for an answer.
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(frame)
        self._out_bytes += len(frame)
        self._sent += len(frame)

    @property
    def unread(self) -> int:
        transport = self._transport
        return self._out_bytes + (transport.get_write_buffer_size() if transport else 0)

    def _flush(self) -> None:
        out, self._out = self._out, []
        self._out_bytes = 0
        if self._transport is None or self._transport.is_closing():
            return
        together: list[bytes] = []
        for piece in out:
            if len(piece) < LARGE_BYTES:
                together.append(piece)
                continue
            if together:
                self._transport.write(b"".join(together))
                together = []
            self._transport.write(piece)
        if together:
            self._transport.write(b"".join(together))

    async def ready(self) -> None:
        while self._writable is not None:
            await asyncio.shield(self._writable)

    def pause_writing(self) -> None:
        loop = asyncio.get_running_loop()
        self._writable = loop.create_future()
        self._read = self._sent - self.unread
        self._stalled = loop.call_later(STALL_S, self._look)

    def _look(self) -> None:
        """Whether anything was read since the last look."""
        if self._transport is None:
            return
        read = self._sent - self.unread
        if read <= self._read:
            log.warning(
                "the other end reads nothing; its connection and %d bytes are let go", self.unread
            )
            self._transport.abort()
            return
        self._read = read
        self._stalled = asyncio.get_running_loop().call_later(STALL_S, self._look)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        waiting, self._writable = self._writable, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.resume_writing()
        self._lost()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class StreamServer:
    """Listens for the other actors: those of this machine on a Unix socket of its own, those of
    other machines, when it has credentials for them, by TLS on a free port."""

    def __init__(self, peer: Peer, path: Path, tasks: Tasks, inside: Inside | None = None) -> None:
        self._peer, self._path, self._tasks, self._inside = peer, path, tasks, inside
        self._servers: list[asyncio.Server] = []
        self._pipes: set[SocketPipe] = set()

    async def start(self) -> Address:
        """The address to give to the others."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_unix_server(self._connected, str(self._path)))
        os.chmod(self._path, 0o600)
        inside = self._inside
        if inside is None:
            return Address(unix=str(self._path))
        listener = inside.listener()
        host, port = listener.getsockname()[:2]
        self._servers.append(
            await loop.create_server(
                lambda: self._connected(inside.admits), sock=listener, ssl=inside.listening,
                ssl_handshake_timeout=CONNECT_DEADLINE_S,
            )
        )  # fmt: skip
        return Address(inside.machine, str(self._path), f"{host}:{port}")

    def _connected(self, admits: Callable[[Any], bool] | None = None) -> SocketPipe:
        # The two ends of the same connection name each other.
        ends: list[ServerEnd] = []

        def received(frame: list[Any]) -> None:
            ends[0].received(frame)

        def lost() -> None:
            self._pipes.discard(pipe)
            ends[0].lost()

        pipe = SocketPipe(received, lost, admits)
        ends.append(ServerEnd(self._peer, pipe, self._tasks))
        self._pipes.add(pipe)
        return pipe

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for pipe in list(self._pipes):
            pipe.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


Connect = Callable[[], Awaitable[ClientEnd]]


class StreamPeer:
    """A Peer by name: connects when first used, and again after the other end was replaced.

    Calls are never repeated here: one that was in flight when the connection broke raises
    Unavailable, and the caller knows whether repeating it is safe.

    Lists travel on a connection of their own: behind 30 MB of pods the shortest answer waits 50 ms.
    """

    # Long enough for a group commit on a slow disk; the ingress has its own, shorter patience.
    CALL_DEADLINE_S = 60.0

    def __init__(self, name: str, connect: Connect) -> None:
        self.name = name
        self._connect = connect
        self._end: ClientEnd | None = None
        self._connecting: asyncio.Lock | None = None
        self._attempts = 0
        self._refused: Unreached | None = None  # by the latest attempt
        self._lists: StreamPeer | None = None

    async def _ready(self) -> ClientEnd:
        end = self._end
        if end is not None and not end.dead:
            return end
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        attempts = self._attempts
        async with self._connecting:
            if self._end is None or self._end.dead:
                if self._attempts > attempts and self._refused is not None:
                    # Somebody tried while we waited: a crowd must not try one after the other.
                    raise Unreached(self._refused.message)
                try:
                    self._end, self._refused = await self._connect(), None
                except Unavailable as failure:
                    self._refused = Unreached(failure.message)
                    raise self._refused from failure
                finally:
                    self._attempts += 1
            return self._end

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        if len(calls) == 1 and calls[0].verb == "list":
            if self._lists is None:
                self._lists = StreamPeer(self.name, self._connect)
            return await self._lists._ask(calls)
        return await self._ask(calls)

    async def _ask(self, calls: Sequence[Call]) -> list[Reply]:
        end = await self._ready()
        packed = [call.pack() for call in calls]
        replies = await end.ask(CALL, packed, self.CALL_DEADLINE_S)
        return [Reply.unpack(reply) for reply in replies]

    async def request(self, method: str, payload: Any) -> Any:
        end = await self._ready()
        return await end.ask(REQUEST, [method, payload], self.CALL_DEADLINE_S)

    async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        end = await self._ready()
        items = end.stream(WATCH, call.pack())
        try:
            async for packed in items:
                yield [WatchEvent.unpack(event) for event in packed]
        finally:
            await items.aclose()  # type: ignore[attr-defined]

    async def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        end = await self._ready()
        items = end.stream(SUBSCRIBE, [method, payload])
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()  # type: ignore[attr-defined]

    def close(self) -> None:
        if self._lists is not None:
            self._lists.close()
        if self._end is not None:
            self._end.close()


def socket_path(run_dir: Path, name: str, pid: int) -> Path:
    """A fresh path for each process: nobody reaches a predecessor's socket by mistake."""
    return run_dir / f"{name}-{pid}.sock"


async def connect_socket(name: str, address: Address, inside: Inside | None = None) -> ClientEnd:
    """A connection to the address that `StreamServer.start` gave. Raises Unavailable.

    inside: where we are ourselves; None in a cluster of one machine.
    """
    ends: list[ClientEnd] = []
    loop = asyncio.get_running_loop()
    pipe = SocketPipe(lambda frame: ends[0].received(frame), lambda: ends[0].lost())
    ends.append(ClientEnd(name, pipe))
    try:
        if inside is None or address.machine == inside.machine:
            await loop.create_unix_connection(lambda: pipe, address.unix)
        elif not address.tcp:
            raise Unreached(f"{name} is on another machine, and does not listen for others")
        else:
            await _connect_tls(name, address.tcp, inside, pipe)
    except ssl.SSLError as error:
        raise Unreached(f"{name}: who answers at {address.tcp} is not it ({error})") from error
    except OSError as error:
        why = error.strerror or str(error) or "in time"
        raise Unreached(f"{name}: nobody answers at its address ({why})") from error
    return ends[0]


async def _connect_tls(name: str, address: str, inside: Inside, pipe: SocketPipe) -> None:
    loop = asyncio.get_running_loop()
    found, where = connection(address)
    try:
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            await loop.sock_connect(found, where)
    except BaseException:
        found.close()
        raise
    await loop.create_connection(
        lambda: pipe, sock=found, ssl=inside.connecting, server_hostname=inside.called(name),
        ssl_handshake_timeout=CONNECT_DEADLINE_S,
    )  # fmt: skip
