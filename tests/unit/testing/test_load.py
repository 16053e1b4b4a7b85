"""The load generator reads answers and watches however the network cuts them."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.client.http import Endpoint
from arktos_ray.testing import load
from arktos_ray.testing.load import LineWatch, Load, PodObserver, Template, Ticker, percentile

ENDPOINT = Endpoint("http://127.0.0.1:1")


def cut(data: bytes, at: list[int]) -> Iterator[bytes]:
    edges = [0, *sorted(min(i, len(data)) for i in at), len(data)]
    return (data[a:b] for a, b in itertools.pairwise(edges) if b > a)


CUTS = st.lists(st.integers(0, 2_000), max_size=12)


def test_a_template_says_how_long_its_body_is() -> None:
    template = Template(
        ENDPOINT, "POST", "/pods/\0", b'{"name":"\0"}', lengths=[5], media="application/json"
    )
    head, _, body = template.render(b"other", b"pod-1").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /pods/other HTTP/1.1\r\nHost: 127.0.0.1:1\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert body == b'{"name":"pod-1"}'


def test_a_value_of_another_length_is_refused() -> None:
    template = Template(ENDPOINT, "POST", "/pods", b'{"name":"\0"}', lengths=[5])
    with pytest.raises(AssertionError):
        template.render(b"longer")


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(i) for i in range(1, 101)]
    assert [percentile(values, p) for p in (50, 90, 99, 100)] == [50.0, 90.0, 99.0, 100.0]
    assert percentile([7.0], 50) == 7.0
    assert math.isnan(percentile([], 50))


class Wire(asyncio.Transport):
    """Remembers what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...


@given(CUTS)
def test_answers_are_told_apart_however_they_are_cut(at: list[int]) -> None:
    answers = (
        b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nDate: x\r\n\r\nhello",
        b"HTTP/1.1 409 Conflict\r\ncontent-length: 3\r\n\r\nno!",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
    )
    got: list[tuple[int, int]] = []
    connection = load._Connection(lambda _, code, size, text: got.append((code, size)))
    connection.connection_made(Wire())
    for answer in answers:
        connection.send(b"", 0.0)
        for piece in cut(answer, at):
            connection.data_received(piece)
    assert [code for code, _ in got] == [201, 409, 200, 204]
    assert [size for _, size in got][:2] == [5, 3]


@given(CUTS, st.integers(1, 20))
def test_a_ticker_counts_each_number_once(at: list[int], count: int) -> None:
    async def follow() -> tuple[list[int], int]:
        seen: list[int] = []
        ticker = Ticker(b"", b'"turn":"', 10_000_000, seen.append)
        ticker.connection_made(Wire())
        lines = [
            b'{"object":{"turn":"%08d","f:turn":{}}}\n' % (10_000_000 + i) for i in range(count)
        ]
        data = b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(
            b"%x\r\n%b\r\n" % (len(line), line) for line in lines
        )
        for piece in cut(data, at):
            ticker.data_received(piece)
        return seen, ticker.misplaced

    seen, misplaced = asyncio.run(follow())
    assert seen == list(range(10_000_000, 10_000_000 + count))
    assert misplaced == 0


def test_a_ticker_notices_what_is_lost_and_repeated() -> None:
    async def follow() -> int:
        ticker = Ticker(b"", b"#", 10_000_000, lambda _: None)
        ticker.connection_made(Wire())
        ticker.data_received(b"HTTP/1.1 200 OK\r\n\r\n#10000000 #10000002 #10000002 #10000003")
        return ticker.misplaced

    assert asyncio.run(follow()) == 2


@given(CUTS)
def test_lines_of_a_watch_arrive_whole(at: list[int]) -> None:
    lines = [b'{"type":"ADDED","object":{"a":"\\r\\n%d"}}' % i for i in range(5)]
    # The third and fourth come in one chunk, the fifth in two.
    chunks = [lines[0] + b"\n", lines[1] + b"\n", lines[2] + b"\n" + lines[3] + b"\n"]
    chunks += [lines[4][:10], lines[4][10:] + b"\n"]
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
        b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks
    )

    async def follow() -> list[bytes]:
        got: list[bytes] = []
        watch = LineWatch(b"", lambda line, now: got.append(line))
        watch.connection_made(Wire())
        for piece in cut(data, at):
            watch.data_received(piece)
        assert await watch.opened == 200
        return got

    assert asyncio.run(follow()) == lines


def test_an_observer_notes_the_first_of_everything() -> None:
    observer = PodObserver()

    def event(kind: str, node: str, phase: str, started: str = "") -> bytes:
        statuses = [{"state": {"running": {"startedAt": started}}}] if started else []
        pod = {
            "metadata": {
                "tenant": "t", "namespace": "n", "name": "p", "creationTimestamp": "c",
                "labels": {"group": "latency"},
            },
            "spec": {"nodeName": node} if node else {},
            "status": {"phase": phase, "containerStatuses": statuses},
        }  # fmt: skip
        return orjson.dumps({"type": kind, "object": pod})

    observer._arrived(event("ADDED", "", "Pending"), 1.0)
    observer._arrived(event("MODIFIED", "node-1", "Pending"), 2.0)
    observer._arrived(event("MODIFIED", "node-1", "Running", "s"), 3.0)
    observer._arrived(event("MODIFIED", "node-1", "Running", "later"), 4.0)
    [seen] = observer.pods.values()
    assert (seen.first_at, seen.bound_at, seen.running_at) == (1.0, 2.0, 3.0)
    assert (seen.node, seen.started, seen.group) == ("node-1", "s", "latency")
    assert (observer.bound, observer.running, observer.events) == (1, 1, 4)


def test_a_load_asks_all_and_counts_what_fails() -> None:
    async def serve() -> load.Outcome:
        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                await reader.readuntil(b"\r\n\r\n")
                good = b"/pods/7" not in line
                code = b"200 OK" if good else b"404 Not Found"
                writer.write(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\n{}" % code)
            writer.close()
            await writer.wait_closed()
            gone.release()

        gone = asyncio.Semaphore(0)
        server = await asyncio.start_server(client, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        endpoint = Endpoint(f"http://127.0.0.1:{port}")
        template = Template(endpoint, "GET", "/pods/\0")
        requests = (template.render(b"%d" % i) for i in range(10))
        async with Load(endpoint, 3) as client_side:
            outcome = await client_side.run(requests)
        for _ in range(3):
            await gone.acquire()
        server.close()
        await server.wait_closed()
        return outcome

    outcome = asyncio.run(serve())
    assert (outcome.good, outcome.bad) == (9, 1)
    assert outcome.first_refusal.startswith("404")
    assert len(outcome.latencies_s) == 10
