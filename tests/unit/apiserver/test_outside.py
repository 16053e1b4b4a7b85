"""Whom the control plane connects to when a tenant says so, and whom it does not."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from arktos_ray.apiserver import outside
from arktos_ray.apiserver.outside import RESPONSE_BYTES_MAX, Https, is_refused
from arktos_ray.apiserver.targets import Target, Unreachable
from arktos_ray.base import pki

NOW = datetime.now(UTC)  # noqa: TID251
NAME = "hook.n.svc"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answering(head: str, body: bytes = b"") -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = await reader.readuntil(b"\r\n\r\n")
        answering.seen = seen.decode()  # type: ignore[attr-defined]
        writer.write(f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        writer.close()

    return serve


class Other:
    """A server of somebody's, with a certificate for NAME."""

    def __init__(self, tmp_path: Path, names: tuple[str, ...] = (NAME,)) -> None:
        self.files = pki.ensure(tmp_path, names, NOW)
        self.ca = self.files.ca.read_bytes()

    async def start(self, serve: Serve) -> int:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.files.server, self.files.server_key)
        self.server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    def target(self, port: int, **other: object) -> Target:
        known: dict[str, object] = {
            "tenant": "acme", "url": f"https://{NAME}/v", "host": NAME, "server_name": NAME,
            "names": ("127.0.0.1",), "port": port, "path": "/v?timeout=1s", "ca": self.ca,
        }  # fmt: skip
        return Target(**{**known, **other})  # type: ignore[arg-type]


async def said(
    other: Other, serve: Serve, allow_local: bool = True, timeout_s: float = 10,
    refused: tuple[str, ...] = (), **more: object,
) -> bytes:  # fmt: skip
    port = await other.start(serve)
    https = Https(allow_local, refused)
    try:
        return await https.post(other.target(port, **more), b"{}", timeout_s)
    finally:
        await https.close()
        other.server.close()


def fails(other: Other, serve: Serve, allow_local: bool = True, **more: Any) -> str:
    with pytest.raises(Unreachable) as failure:
        asyncio.run(said(other, serve, allow_local, **more))
    return str(failure.value)


def test_it_asks_who_the_certificate_is_for(tmp_path: Path) -> None:
    other = Other(tmp_path)
    assert asyncio.run(said(other, answering("200 OK", b"yes"))) == b"yes"
    assert f"Host: {NAME}\r\n" in answering.seen  # type: ignore[attr-defined]
    assert "POST /v?timeout=1s HTTP/1.1" in answering.seen  # type: ignore[attr-defined]
    wrong = fails(other, answering("200 OK", b"yes"), server_name="other.n.svc")
    assert "failed to verify certificate" in wrong
    stranger = pki.ensure(tmp_path / "stranger", (NAME,), NOW).ca.read_bytes()
    assert "failed to verify certificate" in fails(other, answering("200 OK", b"yes"), ca=stranger)
    assert "root certificates" in fails(other, answering("200 OK", b"yes"), ca=b"nonsense")


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    moved = answering("302 Found\r\nLocation: https://127.0.0.1:1/")
    assert "status 302" in fails(Other(tmp_path), moved)


def test_an_answer_is_bounded(tmp_path: Path) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(RESPONSE_BYTES_MAX // (1 << 20) + 2):
            writer.write(bytes(1 << 20))
        writer.close()

    assert "has more than" in fails(Other(tmp_path), endless)


def test_who_does_not_answer_is_given_up(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    why = fails(Other(tmp_path), silent, timeout_s=0.2)
    assert why == f'Post "https://{NAME}/v": context deadline exceeded'


def test_this_machine_is_refused_under_any_name(tmp_path: Path) -> None:
    for names in (("127.0.0.1",), ("localhost",), ("::ffff:127.0.0.1",), ("0.0.0.0",)):
        why = fails(Other(tmp_path), answering("200 OK"), allow_local=False, names=names)
        assert why == f'Post "https://{NAME}/v": the address is not allowed'


def test_ranges_that_operators_name_are_refused_under_any_name(tmp_path: Path) -> None:
    for names in (("127.0.0.1",), ("localhost",), ("::ffff:127.0.0.1",)):
        why = fails(
            Other(tmp_path), answering("200 OK"), refused=("127.0.0.0/8", "::1/128"), names=names
        )
        assert why == f'Post "https://{NAME}/v": the address is not allowed'
    done = said(Other(tmp_path), answering("200 OK", b"yes"), refused=("10.0.0.0/8", "fd00::/8"))
    assert asyncio.run(done) == b"yes"


def test_nobody_there_is_said_as_it_is(tmp_path: Path) -> None:
    other = Other(tmp_path)

    async def gone() -> None:
        port = await other.start(answering("200 OK"))
        other.server.close()
        await other.server.wait_closed()
        https = Https(allow_local=True)
        try:
            await https.post(other.target(port), b"{}", 5)
        finally:
            await https.close()

    with pytest.raises(Unreachable, match="dial tcp"):
        asyncio.run(gone())


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", True),
        ("169.254.169.254", True), ("fe80::1", True), ("::ffff:169.254.169.254", True),
        ("224.0.0.1", True), ("255.255.255.255", True), ("2002:7f00:1::", True),
        ("64:ff9b::127.0.0.1", True), ("64:ff9b::a9fe:a9fe", True), ("64:ff9b::8.8.8.8", False),
        ("fd00:ec2::254", True), ("100.100.100.200", True), ("::127.0.0.1", True),
        ("10.0.0.1", False), ("192.168.1.1", False), ("8.8.8.8", False), ("2606:4700::1", False),
    ],
)  # fmt: skip
def test_addresses(address: str, refused: bool) -> None:
    assert is_refused(ipaddress.ip_address(address)) is refused


def test_every_address_of_this_machine_is_refused_whatever_it_is_called() -> None:
    """As containers and bridges have them, which no name of the machine leads to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        own = ipaddress.ip_address(probe.getsockname()[0])
    assert is_refused(own)
    assert is_refused(ipaddress.ip_address(f"::ffff:{own}"))


def test_who_gives_up_waiting_for_a_name_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = list[str](), threading.Event()

    def slow(name: str) -> list[outside.Address]:
        asked.append(name)
        go_on.wait(20)
        raise OSError("no such host")

    monkeypatch.setattr(outside, "_addresses_of", slow)

    async def story() -> None:
        https, other = Https(), Other(tmp_path)
        try:
            calls = [
                https.post(other.target(443, names=(f"slow{i}.example.org",)), b"{}", 0.3)
                for i in range(20)
            ]
            for why in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(why, Unreachable)
            assert https._lookups["acme"].users == outside.LOOKUPS_PER_TENANT_MAX
        finally:
            go_on.set()
            await https.close()
        assert len(asked) == outside.LOOKUPS_PER_TENANT_MAX

    asyncio.run(story())
