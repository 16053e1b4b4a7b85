"""Load: HTTP clients that cost so little that they can share a machine with what they measure.

No client library: requests are bytes made beforehand, of which only a name varies, and of an
answer only the status and the length are read. 20-30 us a request over TLS, most of it the TLS.
For benchmarks and live tests; run it under uvloop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import orjson

from arktos_ray.client import kubeconfig
from arktos_ray.client.http import Endpoint

P = TypeVar("P", bound=asyncio.BaseProtocol)

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_CHUNKS_END = b"\r\n0\r\n\r\n"
SLOT = b"\0"  # In a template: where a value goes.


def target(path: Path) -> Endpoint:
    """The cluster of a kubeconfig."""
    return kubeconfig.endpoint(path)[0]


class Template:
    """A request with slots (SLOT, in the path or the body) for values of known lengths."""

    def __init__(
        self, endpoint: Endpoint, method: str, path: str, body: bytes = b"",
        *, lengths: Sequence[int] = (), media: str = "application/json",
    ) -> None:  # fmt: skip
        """lengths: how many bytes each value of the body has, in order."""
        assert body.count(SLOT) == len(lengths)
        size = len(body) - len(lengths) + sum(lengths)
        head = [
            f"{method} {path} HTTP/1.1",
            f"Host: {urlsplit(endpoint.url).netloc}",
            "User-Agent: arktos-load",
            "Accept: application/json",
        ]
        if endpoint.token:
            head.append(f"Authorization: Bearer {endpoint.token}")
        if body:
            head += [f"Content-Type: {media}", f"Content-Length: {size}"]
        self._pieces = ("\r\n".join(head).encode() + _HEAD_END + body).split(SLOT)
        self._size = sum(lengths)
        self._body_from = len(self._pieces) - 1 - len(lengths)

    def render(self, *values: bytes) -> bytes:
        # Otherwise the server waits for the rest of the body, and nobody knows why.
        assert sum(map(len, values[self._body_from :])) == self._size, values
        pieces = self._pieces
        whole = [pieces[0]]
        for value, piece in zip(values, pieces[1:], strict=True):
            whole += (value, piece)
        return b"".join(whole)


@dataclass(slots=True)
class Outcome:
    """What a run was answered. Latencies in seconds, ascending once the run is over."""

    seconds: float = 0.0
    client_cpu_s: float = 0.0
    codes: Counter[int] = field(default_factory=Counter)
    first_refusal: str = ""
    bytes_read: int = 0
    latencies_s: array[float] = field(default_factory=lambda: array("d"))

    @property
    def good(self) -> int:
        return sum(n for code, n in self.codes.items() if code < 400)

    @property
    def bad(self) -> int:
        return sum(self.codes.values()) - self.good

    @property
    def rate(self) -> float:
        return self.good / self.seconds if self.seconds else 0.0

    def percentile_s(self, percent: float) -> float:
        return percentile(self.latencies_s, percent)


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The nearest rank, as perf-tests count it: element ceil(n*p/100) - 1. NaN of nothing."""
    if not ascending:
        return math.nan
    return ascending[max(math.ceil(len(ascending) * percent / 100) - 1, 0)]


class Load:
    """Connections that ask one thing after another. `open` them, `run` as often as you like."""

    def __init__(self, endpoint: Endpoint, connections: int) -> None:
        self._endpoint, self._count = endpoint, connections
        self._connections: list[_Connection] = []
        self._requests: Iterator[bytes] = iter(())
        self._outcome = Outcome()
        self._rate = self._until = 0.0
        self._started = 0
        self._began = 0.0
        self._busy = 0
        self._done: asyncio.Future[None] | None = None
        # Told of each answer: when it came, and its code.
        self.on_answer: Callable[[float, int], None] | None = None
        self.last_sent = 0.0  # when the request of the last answer left

    async def open(self) -> None:
        for _ in range(self._count):
            self._connections.append(
                await connect(self._endpoint, lambda: _Connection(self._answered))
            )

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    @property
    def answered(self) -> int:
        """How many answers came so far, for who shows progress."""
        return len(self._outcome.latencies_s)

    async def run(
        self, requests: Iterator[bytes], *, seconds: float = math.inf, rate: float = 0.0
    ) -> Outcome:
        """Until the requests or the seconds are used up and the last answer is here.

        rate: requests a second; latency then counts from when a request was due, so that a server
        that stalls is charged for what it kept waiting. 0 is as fast as the connections go.
        """
        self._requests, self._rate = requests, rate
        self._outcome = outcome = Outcome()
        self._started = 0
        self._done = asyncio.get_running_loop().create_future()
        cpu, self._began = time.process_time(), time.perf_counter()
        self._until = self._began + seconds
        self._busy = len(self._connections)
        for connection in self._connections:
            self._next(connection, self._began)
        await self._done
        outcome.seconds = time.perf_counter() - self._began
        outcome.client_cpu_s = time.process_time() - cpu
        outcome.latencies_s = array("d", sorted(outcome.latencies_s))
        return outcome

    def _next(self, connection: _Connection, now: float) -> None:
        request = next(self._requests, None) if now < self._until else None
        if request is None:
            self._busy -= 1
            if not self._busy and self._done is not None and not self._done.done():
                self._done.set_result(None)
            return
        if not self._rate:
            connection.send(request, now)
            return
        due = self._began + self._started / self._rate
        self._started += 1
        if due <= now:
            connection.send(request, due)
        else:
            asyncio.get_running_loop().call_later(due - now, connection.send, request, due)

    def _answered(self, connection: _Connection, code: int, size: int, text: bytes) -> None:
        now = time.perf_counter()
        outcome = self._outcome
        outcome.codes[code] += 1
        outcome.bytes_read += size
        outcome.latencies_s.append(now - connection.since)
        self.last_sent = connection.sent
        if code >= 400 and not outcome.first_refusal:
            outcome.first_refusal = f"{code}: {text[:300].decode(errors='replace')}"
        if self.on_answer is not None:
            self.on_answer(now, code)
        if code == _LOST:
            self._busy -= 1
            if not self._busy and self._done is not None and not self._done.done():
                self._done.set_result(None)
            return
        self._next(connection, now)


_LOST = 599  # The connection broke: not an HTTP status.


async def connect(endpoint: Endpoint, make: Callable[[], P]) -> P:
    where = urlsplit(endpoint.url)
    host, port = where.hostname or "", where.port or 443
    _, protocol = await asyncio.get_running_loop().create_connection(
        make, host, port, ssl=endpoint.tls, server_hostname=host if endpoint.tls else None
    )
    return protocol


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it."""

    __slots__ = (
        "_answered", "_chunked", "_code", "_head", "_left", "_size", "_tail", "_transport",
        "sent", "since", "waiting",
    )  # fmt: skip

    def __init__(self, answered: Callable[[_Connection, int, int, bytes], None]) -> None:
        self._answered = answered
        self._transport: asyncio.Transport | None = None
        self._head = b""  # what came of a head that is not complete
        self._tail = b""
        self._left = self._code = self._size = 0
        self._chunked = False
        self.waiting = False
        self.since = self.sent = 0.0  # when the request was due, and when it left

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, request: bytes, since: float) -> None:
        self.since, self.sent, self.waiting = since, time.perf_counter(), True
        if self._transport is None or self._transport.is_closing():
            self._finish(_LOST, b"the connection is closed")
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if not self._left:
            if self._head:
                data, self._head = self._head + data, b""
            end = data.find(_HEAD_END)
            if end < 0:
                self._head = data
                return
            self._code = int(data[9:12])
            size = _length(data, end)
            self._chunked = size < 0
            self._size = self._left = size if size >= 0 else 1
            self._tail = b""
            data = data[end + 4 :]
            if size == 0:
                self._finish(self._code, b"")
                return
            if not data:
                return
        if self._chunked:
            self._size += len(data)
            self._tail = self._tail[-7:] + data
            if self._tail.endswith(_CHUNKS_END):
                self._left = 0
                self._finish(self._code, self._tail)
            return
        self._left -= len(data)
        if self._left <= 0:
            self._left = 0
            self._finish(self._code, data)

    def _finish(self, code: int, text: bytes) -> None:
        self.waiting = False
        self._answered(self, code, self._size, text)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.waiting:
            self._finish(_LOST, f"the connection was lost: {exc}".encode())

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _length(data: bytes, end: int) -> int:
    """Content-Length of a head that ends there; -1 when it is chunked."""
    start = data.find(b"Content-Length:", 0, end)
    if start < 0:
        start = data[:end].lower().find(_LENGTH)
        if start < 0:
            return -1
    stop = data.find(b"\r\n", start)
    return int(data[start + len(_LENGTH) : stop])


# Bodies


def pod(
    name: str,
    namespace: str = "bench",
    *,
    scheduler: str = "default-scheduler",
    group: str = "",
    seconds_tolerated: int = 900,
) -> dict[str, Any]:
    """A pod as people write them: 1.1 KB. Small requests, so that a hollow node takes 110."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app": "web", "group": group or "bench", "tier": "front", "release": "r42"},
            "annotations": {"example.com/owner": "benchmarks", "example.com/scrape": "true"},
        },
        "spec": {
            "schedulerName": scheduler,
            "containers": [
                {
                    "name": "web",
                    "image": "example.com/web:1.4.2",
                    "imagePullPolicy": "IfNotPresent",
                    "args": ["--port", "8080"],
                    "env": [
                        {"name": "REGION", "value": "here"},
                        {"name": "LEVEL", "value": "info"},
                        {
                            "name": "POD_IP",
                            "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
                        },
                    ],
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "resources": {
                        "requests": {"cpu": "1m", "memory": "10M"},
                        "limits": {"cpu": "100m", "memory": "100M"},
                    },
                    "readinessProbe": {
                        "httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 10,
                    },
                }
            ],
            "tolerations": [
                {
                    "key": f"node.kubernetes.io/{what}", "operator": "Exists",
                    "effect": "NoExecute", "tolerationSeconds": seconds_tolerated,
                }
                for what in ("not-ready", "unreachable")
            ],
            "terminationGracePeriodSeconds": 1,
        },
    }  # fmt: skip


def slotted(obj: dict[str, Any], marker: str = "SLOT") -> bytes:
    """An object as a body for a Template: wherever the marker stands, a value goes."""
    return orjson.dumps(obj).replace(marker.encode(), SLOT)


# Watches


def watch_request(endpoint: Endpoint, path: str, revision: str, **options: str) -> bytes:
    """The request of a watch from a revision on; path is that of the collection."""
    query = "".join(f"&{name}={value}" for name, value in options.items())
    whole = f"{path}?watch=true&resourceVersion={revision}&timeoutSeconds=3600{query}"
    return Template(endpoint, "GET", whole).render()


class Ticker(asyncio.Protocol):
    """A watch that only notes when numbers of eight digits behind a marker arrive.

    The numbers must arrive as `first`, `first + 1`, ...: what is lost or repeated is counted.
    """

    def __init__(
        self, request: bytes, marker: bytes, first: int, arrived: Callable[[int], None]
    ) -> None:
        self._request, self._marker, self._arrived = request, marker, arrived
        self._next = first
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self.opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.received = self.bytes_read = self.misplaced = 0
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._transport.write(self._request)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        self.bytes_read += len(data)
        marker = self._marker
        data = self._rest + data
        if not self.opened.done() and len(data) >= 12:
            self.opened.set_result(int(data[9:12]))
        width = len(marker) + 8
        at, seen = data.find(marker), 0
        while at >= 0 and at + width <= len(data):
            number = int(data[at + len(marker) : at + width])
            if number != self._next:
                self.misplaced += 1
            self._next = number + 1
            self.received += 1
            self._arrived(number)
            seen = at + width
            at = data.find(marker, seen)
        # What may be the beginning of a marker and its number, and was not counted.
        self._rest = data[max(seen, len(data) - width + 1) :]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.opened.done():
            self.opened.set_result(_LOST)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class LineWatch(asyncio.Protocol):
    """A watch whose events are handed on as they come: (line, moment of receipt)."""

    def __init__(self, request: bytes, arrived: Callable[[bytes, float], None]) -> None:
        self._request, self._arrived = request, arrived
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._line = b""  # the beginning of a line whose end has not come
        self._in_head = True
        self.opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._transport.write(self._request)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        now = time.time()
        buffer = self._buffer
        buffer += data
        if self._in_head:
            end = buffer.find(_HEAD_END)
            if end < 0:
                return
            code = int(buffer[9:12])
            del buffer[: end + 4]
            self._in_head = False
            if not self.opened.done():
                self.opened.set_result(code)
        start = 0
        while True:
            stop = buffer.find(b"\r\n", start)
            if stop < 0:
                break
            size = int(buffer[start:stop], 16)
            if len(buffer) < stop + 2 + size + 2:
                break
            if size:
                *lines, self._line = (self._line + bytes(buffer[stop + 2 : stop + 2 + size])).split(
                    b"\n"
                )
                for line in lines:
                    self._arrived(line, now)
            start = stop + 2 + size + 2
        del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.opened, self.closed):
            if not future.done():
                future.set_result(_LOST if future is self.opened else None)  # type: ignore[arg-type]

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


# Pods seen from outside


@dataclass(slots=True)
class Seen:
    """What a watcher learned of a pod, and when (seconds since 1970, at receipt)."""

    created: str = ""  # metadata.creationTimestamp
    group: str = ""  # its label `group`
    node: str = ""
    started: str = ""  # the latest startedAt of its containers
    first_at: float = 0.0
    bound_at: float = 0.0
    running_at: float = 0.0


class PodObserver:
    """Follows the pods of one tenant by one watch, and keeps what perf tests look at.

    Events are decoded when they come (8 us for 2 KB); the moment is taken before.
    """

    def __init__(self) -> None:
        self.pods: dict[str, Seen] = {}  # by namespace/name
        self.bound = self.running = self.events = 0
        self.last_bound_at = self.last_running_at = 0.0
        self.failure = ""
        self._watches: list[LineWatch] = []

    async def follow(self, endpoint: Endpoint, path: str, revision: str, **options: str) -> None:
        """Returns when the watch is open. Several tenants may be followed."""
        request = watch_request(endpoint, path, revision, **options)
        watch = await connect(endpoint, lambda: LineWatch(request, self._arrived))
        code = await watch.opened
        if code != 200:
            raise RuntimeError(f"the watch of {path} was answered {code}")
        self._watches.append(watch)

    def close(self) -> None:
        for watch in self._watches:
            watch.close()

    @property
    def is_whole(self) -> bool:
        """Whether every watch is still open, so that nothing was missed."""
        return not self.failure and not any(watch.closed.done() for watch in self._watches)

    def _arrived(self, line: bytes, now: float) -> None:
        event = orjson.loads(line)
        self.seen(event["type"], event["object"], now)

    def seen(self, kind: str, pod: dict[str, Any], now: float) -> None:
        """One event of a watch, received at that moment."""
        if kind == "ERROR":
            self.failure = pod.get("message", "the watch failed")
            return
        if kind == "BOOKMARK":
            return
        self.events += 1
        meta = pod["metadata"]
        path = f"{meta.get('tenant', '')}/{meta['namespace']}/{meta['name']}"
        seen = self.pods.get(path)
        if seen is None:
            seen = self.pods[path] = Seen(
                meta["creationTimestamp"], (meta.get("labels") or {}).get("group", ""), first_at=now
            )
        node = pod["spec"].get("nodeName", "")
        if node and not seen.node:
            seen.node, seen.bound_at, self.last_bound_at = node, now, now
            self.bound += 1
        status = pod.get("status") or {}
        if status.get("phase") == "Running" and not seen.running_at:
            seen.running_at = self.last_running_at = now
            self.running += 1
            for container in status.get("containerStatuses") or ():
                with contextlib.suppress(KeyError):
                    seen.started = max(seen.started, container["state"]["running"]["startedAt"])
