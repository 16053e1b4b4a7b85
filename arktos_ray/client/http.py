"""The Caller port over HTTP: what the CLI, the Python handles and tests use from outside.

One connection pool; a batch of calls goes out as concurrent requests. Failures are the same
Failures that a part inside the cluster gets.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from arktos_ray.api import errors, scheme
from arktos_ray.api.calls import BOOKMARK, Call, Reply, WatchEvent
from arktos_ray.api.errors import Failure, Unavailable

# A watch line holds one object; the server takes bodies of up to 3 MiB.
_LINE_BYTES_MAX = 8 << 20
_METHODS = {
    "get": "GET", "list": "GET", "watch": "GET", "create": "POST", "update": "PUT",
    "patch": "PATCH", "delete": "DELETE", "deletecollection": "DELETE",
}  # fmt: skip


def path_of(call: Call) -> str:
    """The URL path of a call, with its tenant spelled out (spec/multitenancy.md 3.1)."""
    resource = scheme.resource(call.gvr)
    parts = ["api", resource.version] if not resource.group else [
        "apis", resource.group, resource.version
    ]  # fmt: skip
    if resource.tenanted and call.tenant:
        parts += ["tenants", call.tenant]
    if resource.namespaced and call.namespace:
        parts += ["namespaces", call.namespace]
    parts += [resource.plural, call.name, call.subresource]
    return "/" + "/".join(quote(part, safe="") for part in parts if part)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a cluster is and who we are there."""

    url: str  # https://127.0.0.1:6443
    tls: ssl.SSLContext | None = None
    token: str = ""


class _Unanswered(aiohttp.ClientError):
    """Sent, and nobody knows what became of it."""


async def _changes_once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """aiohttp repeats what is idempotent when a kept connection breaks: reads only, please.

    A DELETE that was done is told NotFound the second time, and an update Conflict.
    """
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        if request.method == "GET" or isinstance(error, aiohttp.ClientConnectorError):
            raise
        raise _Unanswered(f"no answer to {request.method}: {error}") from error


class HttpCaller:
    """Close it when done. Belongs to the event loop it was first used on."""

    def __init__(self, endpoint: Endpoint, user_agent: str = "arktos-python") -> None:
        self._endpoint = endpoint
        self._headers = {"User-Agent": user_agent, "Accept": "application/json"}
        if endpoint.token:
            self._headers["Authorization"] = f"Bearer {endpoint.token}"
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                self._endpoint.url,
                headers=self._headers,
                connector=aiohttp.TCPConnector(ssl=self._endpoint.tls or True, limit=0),
                timeout=aiohttp.ClientTimeout(total=None, connect=10.0),
                read_bufsize=1 << 18,
                middlewares=[_changes_once],
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        if len(calls) == 1:
            return [await self._one(calls[0])]
        return list(await asyncio.gather(*(self._one(call) for call in calls)))

    async def raw(self, method: str, path: str, body: Any = None) -> Any:
        """Any path of the server, as JSON. Raises the Failure that it answers."""
        data = None if body is None else orjson.dumps(body)
        try:
            async with self.session().request(method, path, data=data) as response:
                text = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{self._endpoint.url}: {error}") from error
        if response.status >= 400:
            raise _failure(response.status, text)
        return orjson.loads(text)

    async def _one(self, call: Call) -> Reply:
        headers = {"Content-Type": call.content_type or "application/json"} if call.body else {}
        try:
            async with self.session().request(
                _METHODS[call.verb], path_of(call), params=call.options, data=call.body or None,
                headers=headers,
            ) as response:  # fmt: skip
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{self._endpoint.url}: {error}") from error
        if response.status >= 400:
            return Reply(response.status, _failure(response.status, body).encode())
        warnings = [w.partition('"')[2].rstrip('"') for w in response.headers.getall("Warning", [])]
        return Reply(response.status, body, tuple(warnings))

    async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        params = {**call.options, "watch": "true"}
        try:
            async with self.session().get(path_of(call), params=params) as response:
                if response.status >= 400:
                    raise _failure(response.status, await response.read())
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    if len(rest) > _LINE_BYTES_MAX:
                        raise Unavailable(f"{self._endpoint.url}: a watch line without an end")
                    events = [_event(line) for line in lines if line]
                    if events:
                        yield events
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{self._endpoint.url}: {error}") from error


def _event(line: bytes) -> WatchEvent:
    event = orjson.loads(line)
    kind, obj = event["type"], event["object"]
    if kind == "ERROR":
        raise errors.decode(obj)
    meta = obj["metadata"]
    revision = int(meta["resourceVersion"])
    if kind == BOOKMARK:
        ends = (meta.get("annotations") or {}).get("k8s.io/initial-events-end") == "true"
        return WatchEvent(BOOKMARK, revision, "", b"", ends)
    path = f"{meta.get('tenant', '')}/{meta.get('namespace', '')}/{meta['name']}"
    return WatchEvent(kind, revision, path, orjson.dumps(obj))


def _failure(code: int, body: bytes) -> Failure:
    try:
        status = orjson.loads(body)
        if isinstance(status, dict) and status.get("kind") == "Status":
            return errors.decode(status)
    except orjson.JSONDecodeError:
        pass
    return Unavailable(f"HTTP {code}: {body[:200].decode(errors='replace')}")
