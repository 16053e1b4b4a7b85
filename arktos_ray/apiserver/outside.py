"""Calls to what tenants run: webhooks of admission, and those that convert custom resources.

A tenant chooses whom we connect to, so this is careful: HTTPS only, the certificate is always
checked, no redirect is followed, the answer is bounded, and addresses of this machine or of its
link (metadata services) are refused, after names were resolved and for the very address that is
connected to. It runs on a thread of its own, so that handshakes and slow names stall nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from arktos_ray.apiserver.targets import Target, Unreachable

# One answer: an object of 3 MiB, as a patch in base64.
RESPONSE_BYTES_MAX = 4 << 20
# At once. One tenant's slow webhooks must not be what another's wait for: so many times its share.
CONNECTIONS_MAX = 1_024
CONNECTIONS_PER_TENANT_MAX = 32
# Names that are looked up at once, each by a thread that cannot be interrupted.
LOOKUPS_MAX = 64
LOOKUPS_PER_TENANT_MAX = 2
# Of one address: endpoints are tried in turn.
_ADDRESSES = 3
_CONTEXTS = 256
_IDLE_S = 30.0
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Of clouds, about the machine that asks, where they are not addresses of its link.
_METADATA = frozenset(
    ipaddress.ip_address(one)
    for one in (
        "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254",
    )
)  # fmt: skip
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Outside(Protocol):
    async def post(self, target: Target, body: bytes, timeout_s: float) -> bytes:
        """The body of a 200. Raises Unreachable."""


class Https:
    """allow_local: also addresses of this machine, for one that is a whole cluster by itself.
    refused: ranges that are nobody's to reach, like `10.0.0.0/24`. Raises ValueError."""

    def __init__(self, allow_local: bool = False, refused: Iterable[str] = ()) -> None:
        self._allow_local = allow_local
        self._refused = tuple(ipaddress.ip_network(one) for one in refused)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._session: Any = None
        self._contexts: dict[tuple[str, str, bytes], ssl.SSLContext] = {}
        self._connections: dict[str, _Share] = {}
        self._lookups: dict[str, _Share] = {}
        self._names: ThreadPoolExecutor | None = None

    async def post(self, target: Target, body: bytes, timeout_s: float) -> bytes:
        loop = self._start()
        work = asyncio.run_coroutine_threadsafe(self._post(target, body, timeout_s), loop)
        return await asyncio.wrap_future(work)

    async def close(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._end(), loop))
            loop.call_soon_threadsafe(loop.stop)
            if self._thread is not None:
                self._thread.join()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None
        if self._names is not None:
            self._names.shutdown(wait=False, cancel_futures=True)
            self._names = None
            # Connections that say goodbye over TLS are closed an iteration later.
            await asyncio.sleep(0)

    def _start(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_live, args=(self._loop,), name="webhooks", daemon=True
            )
            self._thread.start()
        return self._loop

    async def _post(self, target: Target, body: bytes, timeout_s: float) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                async with _share(self._connections, target.tenant, CONNECTIONS_PER_TENANT_MAX):
                    return await self._tried(target, body)
        except TimeoutError:
            raise _failed(target, "context deadline exceeded") from None

    async def _tried(self, target: Target, body: bytes) -> bytes:
        addresses = await self._resolve(target)
        why: Exception | None = None
        for address in addresses[:_ADDRESSES]:
            try:
                return await self._send(target, address, body)
            except ConnectionError as error:
                why = error  # Nothing was sent.
        raise _failed(target, _text(why))

    async def _resolve(self, target: Target) -> list[Address]:
        found: list[Address] = []
        for name in target.names:
            with contextlib.suppress(ValueError):
                found.append(ipaddress.ip_address(name))
                continue
            try:
                found += await self._look_up(target.tenant, name)
            except (OSError, UnicodeError):
                continue
        if not found:
            raise _failed(target, f"dial tcp: lookup {target.names[0]}: no such host")
        allowed = [one for one in found if self._allows(one)]
        if not allowed:
            raise _failed(target, "the address is not allowed")
        return allowed

    def _allows(self, address: Address) -> bool:
        plain = getattr(address, "ipv4_mapped", None) or address
        if any(plain in network for network in self._refused):
            return False
        return self._allow_local or not is_refused(address)

    async def _look_up(self, tenant: str, name: str) -> list[Address]:
        if self._names is None:
            self._names = ThreadPoolExecutor(LOOKUPS_MAX, "webhook-names")
        share = contextlib.AsyncExitStack()
        await share.enter_async_context(_share(self._lookups, tenant, LOOKUPS_PER_TENANT_MAX))
        # Whoever gives up now leaves a thread behind, which counts until it is done; who gave up
        # before that leaves nothing.
        looking = asyncio.ensure_future(self._looked_up(share, name))
        return await asyncio.shield(looking)

    async def _looked_up(self, share: contextlib.AsyncExitStack, name: str) -> list[Address]:
        async with share:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._names, _addresses_of, name)

    async def _send(self, target: Target, address: Address, body: bytes) -> bytes:
        import aiohttp  # 20 MB and 0.3 s, for those who have webhooks

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=_IDLE_S),
                cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False,
            )  # fmt: skip
        literal = f"[{address}]" if address.version == 6 else str(address)
        try:
            answer = await self._session.post(
                f"https://{literal}:{target.port}{target.path}",
                data=body, ssl=self._context(target), server_hostname=target.server_name,
                allow_redirects=False,
                headers={
                    "Host": target.host, "Content-Type": "application/json",
                    "Accept": "application/json", "Accept-Encoding": "identity",
                    "User-Agent": "arktos-apiserver",
                },
            )  # fmt: skip
        except aiohttp.ClientConnectorCertificateError as error:
            text = f"tls: failed to verify certificate: {_text(error.certificate_error)}"
            raise _failed(target, text) from error
        except aiohttp.ClientConnectorError as error:
            text = f"dial tcp {literal}:{target.port}: connect: {error.os_error}"
            raise ConnectionError(text) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failed(target, _text(error) or "EOF") from error
        async with answer:
            return await self._read(target, answer)

    async def _read(self, target: Target, answer: Any) -> bytes:
        import aiohttp

        parts, size = [], 0
        try:
            async for part in answer.content.iter_chunked(1 << 16):
                size += len(part)
                if size > RESPONSE_BYTES_MAX:
                    answer.close()
                    raise _failed(target, f"the answer has more than {RESPONSE_BYTES_MAX} bytes")
                parts.append(part)
        except (aiohttp.ClientError, OSError) as error:
            raise _failed(target, _text(error)) from error
        if answer.status != 200:
            raise Unreachable(
                f"an error on the server ({b''.join(parts)[:200].decode(errors='replace')!r}) has"
                f" prevented the request from succeeding: status {answer.status}"
            )
        return b"".join(parts)

    def _context(self, target: Target) -> ssl.SSLContext:
        """One for each tenant and name: connections are kept by their context, so that nobody is
        given one that was opened, and checked, for somebody else."""
        key = (target.tenant, target.server_name, target.ca)
        context = self._contexts.get(key)
        if context is None:
            if len(self._contexts) >= _CONTEXTS:
                self._contexts.clear()
            try:
                data = target.ca.decode() if target.ca else None
                context = ssl.create_default_context(cadata=data)
            except (ssl.SSLError, ValueError) as error:
                text = f"unable to load root certificates: {_text(error)}"
                raise Unreachable(text) from error
            self._contexts[key] = context
        return context


class _Share:
    """What one tenant has of something, for as long as it has any."""

    def __init__(self, size: int) -> None:
        self.free = asyncio.Semaphore(size)
        self.users = 0


@contextlib.asynccontextmanager
async def _share(shares: dict[str, _Share], tenant: str, size: int) -> AsyncIterator[None]:
    share = shares.setdefault(tenant, _Share(size))
    share.users += 1
    try:
        async with share.free:
            yield
    finally:
        share.users -= 1
        if not share.users:
            del shares[tenant]


def _addresses_of(name: str) -> list[Address]:
    rows = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in rows]


def _live(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def is_refused(address: Address) -> bool:
    """Whether it is this machine, its link, its cloud's word about it, or nobody in particular."""
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    if inner is None and address in _NAT64:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_refused(inner)
    return (
        address.is_loopback or address.is_link_local or address.is_unspecified
        or address.is_multicast or address.is_reserved or address in _METADATA
        or _is_own(address)
    )  # fmt: skip


def _is_own(address: Address) -> bool:
    """Whether an interface of this machine has it: only then can it be bound. 20 us."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((str(address), 0))
        return True
    return False


def _failed(target: Target, why: str) -> Unreachable:
    return Unreachable(f'Post "{target.url}": {why}')


def _text(error: BaseException | None) -> str:
    return str(error) or type(error).__name__
