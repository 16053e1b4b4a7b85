"""What the HTTP caller says when an answer is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from arktos_ray.api.calls import Call
from arktos_ray.api.errors import Unavailable
from arktos_ray.client.http import Endpoint, HttpCaller

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class LosesAnswers:
    """Answers the first request of a connection; does the second, and is gone before it answers."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answers in (True, False):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-L")), 0
            )
            await reader.readexactly(length)
            self.done.append(head.split(b" ", 1)[0].decode())
            if answers:
                writer.write(_ANSWER)
        writer.close()


@asynccontextmanager
async def _caller(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[HttpCaller]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    caller = HttpCaller(Endpoint(f"http://127.0.0.1:{port}"))
    try:
        yield caller
    finally:
        await caller.close()
        server.close()


def _call(verb: str) -> Call:
    body = b"{}" if verb in ("create", "update", "patch") else b""
    return Call(verb, "configmaps", "acme", "default", "settings", body=body)


async def _requests(verb: str) -> tuple[list[str], int]:
    """The methods that the server saw after a read went well; the code, or 0 without an answer."""
    there = LosesAnswers()
    async with _caller(there.serve) as caller:
        await caller.call([_call("get")])
        try:
            code = (await caller.call([_call(verb)]))[0].code
        except Unavailable:
            code = 0
    return there.done, code


@pytest.mark.parametrize("verb", ["update", "delete", "create", "patch"])
def test_a_change_whose_answer_is_lost_is_not_sent_again(verb: str) -> None:
    # A second DELETE would be told NotFound about what the first one did.
    methods, code = asyncio.run(_requests(verb))
    assert len(methods) == 2
    assert code == 0


def test_a_read_whose_answer_is_lost_is_sent_again() -> None:
    assert asyncio.run(_requests("get")) == (["GET"] * 3, 200)
