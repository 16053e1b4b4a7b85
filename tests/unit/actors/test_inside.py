"""Between machines: who is let in, who is believed, and which socket is used."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from arktos_ray.actors.inside import SILENCE_S, Address, Inside, connection
from arktos_ray.actors.streams import REQUEST, StreamPeer, StreamServer, connect_socket, pack
from arktos_ray.api.calls import Call, Reply, WatchEvent
from arktos_ray.api.errors import Unavailable, Unreached
from arktos_ray.base import pki
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.tasks import Tasks

DAY_S = 86_400.0
NOW = SystemClock().now  # TLS compares certificates with the machine's own clock.


class Asked:
    """A Peer that remembers what it was asked."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        raise NotImplementedError

    def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        raise NotImplementedError

    async def request(self, method: str, payload: Any) -> Any:
        self.methods.append(method)
        return method

    def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


@pytest.fixture
def ca(tmp_path: Path) -> pki.InnerCa:
    return pki.ensure_inner(tmp_path / "pki", pki.utc(NOW()))


def inside(
    ca: pki.InnerCa, tmp_path: Path, name: str, machine: str, now: float | None = None
) -> Inside:
    now = NOW() if now is None else now
    return Inside(name, ca, now, machine=machine, host="127.0.0.1", run_dir=tmp_path)


@contextlib.asynccontextmanager
async def listening(tp: Inside, tmp_path: Path) -> AsyncIterator[tuple[Asked, Address]]:
    tasks, asked = Tasks(), Asked()
    server = StreamServer(asked, tmp_path / "tp-1.sock", tasks, tp)
    yield asked, await server.start()
    await server.close()
    await tasks.close()


async def ask(name: str, address: Address, own: Inside | None, method: str = "hello") -> Any:
    peer = StreamPeer(name, lambda: connect_socket(name, address, own))
    try:
        return await peer.request(method, None)
    finally:
        peer.close()


def test_a_peer_of_the_same_machine_is_reached_without_tcp(ca: pki.InnerCa, tmp_path: Path) -> None:
    async def run() -> None:
        async with listening(inside(ca, tmp_path, "tp-1", "a"), tmp_path) as (_, address):
            near = address._replace(tcp="")
            assert await ask("tp-1", near, inside(ca, tmp_path, "rp-1", "a")) == "hello"
            with pytest.raises(Unreached, match="another machine"):
                await ask("tp-1", near, inside(ca, tmp_path, "rp-1", "b"))

    asyncio.run(run())


def test_a_peer_of_another_machine_is_reached_by_tls_alone(ca: pki.InnerCa, tmp_path: Path) -> None:
    async def run() -> None:
        async with listening(inside(ca, tmp_path, "tp-1", "a"), tmp_path) as (_, address):
            far = address._replace(unix="/nowhere")
            assert await ask("tp-1", far, inside(ca, tmp_path, "rp-1", "b")) == "hello"

    asyncio.run(run())


def test_an_actor_of_another_cluster_is_refused_and_refuses(
    ca: pki.InnerCa, tmp_path: Path
) -> None:
    other = pki.ensure_inner(tmp_path / "other", pki.utc(NOW()))

    async def run() -> None:
        async with listening(inside(ca, tmp_path, "tp-1", "a"), tmp_path) as (asked, address):
            stranger = inside(other, tmp_path, "rp-1", "b")
            with pytest.raises(Unreached, match="is not it"):
                await ask("tp-1", address, stranger)
            # One that believes everybody gets no further.
            stranger.connecting.check_hostname = False
            stranger.connecting.verify_mode = ssl.CERT_NONE
            with pytest.raises(Unavailable):
                await ask("tp-1", address, stranger)
            assert asked.methods == []

    asyncio.run(run())


def test_a_certificate_of_our_ca_for_no_actor_is_refused_before_a_frame_is_read(
    ca: pki.InnerCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with listening(inside(ca, tmp_path, "tp-1", "a"), tmp_path) as (asked, address):
            with monkeypatch.context() as patch:
                patch.setattr(pki, "actor_name", lambda cluster, name: f"{name}.elsewhere")
                stranger = inside(ca, tmp_path, "rp-1", "b")
            with pytest.raises(Unavailable):
                await ask("tp-1", address, stranger)
            assert asked.methods == []

    asyncio.run(run())


def test_who_shows_no_certificate_or_speaks_plainly_is_not_heard(
    ca: pki.InnerCa, tmp_path: Path
) -> None:
    async def run() -> None:
        async with listening(inside(ca, tmp_path, "tp-1", "a"), tmp_path) as (asked, address):
            host, _, port = address.tcp.rpartition(":")
            bare = ssl.create_default_context(cadata=ca.certificate.decode())
            bare.check_hostname = False
            for tls in (bare, None):
                reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
                writer.write(pack(REQUEST, 1, ["hello", None]))
                with contextlib.suppress(OSError):
                    # Plain text may be answered with an alert of TLS, never with a frame.
                    assert b"hello" not in await reader.read()
                writer.close()
            assert asked.methods == []

    asyncio.run(run())


def test_another_actor_at_the_address_of_one_is_not_taken_for_it(
    ca: pki.InnerCa, tmp_path: Path
) -> None:
    async def run() -> None:
        async with listening(inside(ca, tmp_path, "tp-2", "a"), tmp_path) as (asked, address):
            with pytest.raises(Unreached, match="is not it"):
                await ask("tp-1", address, inside(ca, tmp_path, "rp-1", "b"))
            assert asked.methods == []

    asyncio.run(run())


def serial(address: Address, own: Inside) -> int:
    host, _, port = address.tcp.rpartition(":")
    with (
        socket.create_connection((host, int(port))) as plain,
        own.connecting.wrap_socket(plain, server_hostname=own.called("tp-1")) as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number


def test_a_certificate_is_renewed_at_half_of_its_days_while_connections_stay(
    ca: pki.InnerCa, tmp_path: Path
) -> None:
    async def run() -> None:
        now = NOW()
        made = now - 16 * DAY_S
        tp = inside(ca, tmp_path, "tp-1", "a", made)
        rp = inside(ca, tmp_path, "rp-1", "b")
        async with listening(tp, tmp_path) as (_, address):
            peer = StreamPeer("tp-1", lambda: connect_socket("tp-1", address, rp))
            assert await peer.request("before", None) == "before"
            first = await asyncio.to_thread(serial, address, rp)
            assert not tp.renew(made + 14 * DAY_S)
            assert await asyncio.to_thread(serial, address, rp) == first

            assert tp.renew(now)

            assert await asyncio.to_thread(serial, address, rp) != first
            assert await peer.request("after", None) == "after"
            peer.close()

    asyncio.run(run())


def test_no_key_stays_in_the_run_directory(ca: pki.InnerCa, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()

    inside(ca, run_dir, "tp-1", "a")

    assert list(run_dir.iterdir()) == []


def test_the_kernel_is_told_to_notice_a_machine_that_went_silent(
    ca: pki.InnerCa, tmp_path: Path
) -> None:
    listener = inside(ca, tmp_path, "tp-1", "a").listener()
    host, port = listener.getsockname()
    calling, where = connection(f"{host}:{port}")
    calling.setblocking(True)
    calling.connect(where)
    accepted, _ = listener.accept()
    for end in (calling, accepted):
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        silence = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert silence == SILENCE_S * 1000
        end.close()
    listener.close()
