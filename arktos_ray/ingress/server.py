"""The shell of the ingress: sockets, TLS, who is calling, and the way of a request through it.

Thin and stateless: whatever is kept here (verified tokens, where nodes were found, documents) can
be lost at any time. aiohttp parses requests and keeps connections; routing and answers are ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import formatdate
from functools import partial
from typing import Any

import orjson
from aiohttp import web
from aiohttp.web_exceptions import HTTPRequestEntityTooLarge
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from arktos_ray.api import errors
from arktos_ray.api.calls import Call, Reply, User
from arktos_ray.api.kinds.reviews import user_info
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.base.clock import Clock
from arktos_ray.base.ids import Ids
from arktos_ray.base.tasks import Tasks
from arktos_ray.ingress import authn, http1, routes, self_links, status, streams
from arktos_ray.ingress.audit import Audit
from arktos_ray.ingress.audit_events import Trail
from arktos_ray.ingress.dispatch import Dispatcher, closing
from arktos_ray.ingress.documents import Discovery, Documents, OpenApi
from arktos_ray.ingress.limits import Limits
from arktos_ray.ingress.metrics import Metrics
from arktos_ray.ingress.port import Upstream
from arktos_ray.ingress.shares import Rate, Shares
from arktos_ray.tenancy import quota
from arktos_ray.tenancy.roles import UNAUTHENTICATED

log = logging.getLogger(__name__)

_HEALTH_PATHS = frozenset(("healthz", "livez", "readyz"))
_OPEN_PATHS = _HEALTH_PATHS | {"version"}  # for everybody, by first segment
_WEBSOCKET_PROTOCOLS = ("base64.binary.k8s.io", "binary.k8s.io")
_OPENID, _JWKS = "/.well-known/openid-configuration", "/openid/v1/jwks"
_TOKEN_REVIEWS = "tokenreviews.authentication.k8s.io"
# Who asks for more of somebody says who: others alone are looked for no further.
_IMPERSONATING = ("Impersonate-User", "Impersonate-Group", "Impersonate-Uid")
_SWEEP_S = 5.0
# Answers below this fit in the socket's buffer: nobody waits for the client.
_DRAIN_BYTES_MIN = 64 * 1024
# Larger ones go piece by piece: a megabyte costs 1 ms with TLS, and others want to be heard.
_PIECE_BYTES = 256 * 1024
# Time for the client to read an answer, and more for a large one: 100 KB/s. Then it is cut.
_DRAIN_S = 120.0
_DRAIN_BYTES_PER_S = 100_000
_LOOPBACK = ("127.", "::1", "::ffff:127.")
_TEXT = "text/plain; charset=utf-8"
# (method, payload) -> what the supervisor answers.
Operate = Callable[[str, Any], Awaitable[Any]]
_TENANTS_PATH, _STATUS_PATH = "/arktos/v1/tenants/", "/arktos/v1/status"
_OPERATIONS_PATH = "/arktos/v1/operations"


class Answer:
    """Bytes that are a whole response; what aiohttp needs to know of one."""

    __slots__ = ("body", "data", "keep_alive")

    def __init__(self, data: bytes, keep_alive: bool, body: bytes = b"") -> None:
        """body: more, when it is too large to be copied behind `data`."""
        self.data = data
        self.body = body
        self.keep_alive = keep_alive

    async def prepare(self, request: BaseRequest) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client went away")
        if self.data:
            transport.write(self.data)
            if self.body:
                await self._send(request, transport)

    async def _send(self, request: BaseRequest, transport: asyncio.Transport) -> None:
        left_s = _DRAIN_S + len(self.body) / _DRAIN_BYTES_PER_S
        until = asyncio.get_running_loop().time() + left_s
        view = memoryview(self.body)
        for start in range(0, len(view), _PIECE_BYTES):
            transport.write(view[start : start + _PIECE_BYTES])
            await _drain(request, until)
            await asyncio.sleep(0)

    async def write_eof(self) -> None:
        pass


async def _drain(request: BaseRequest, until: float | None = None) -> None:
    """Waits until the client has read; one that does not is cut."""
    if until is None:
        until = asyncio.get_running_loop().time() + _DRAIN_S
    try:
        async with asyncio.timeout_at(until):
            await request.writer.drain()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client does not read") from None


class _Connection(RequestHandler):
    """A client's connection. Remembers who its certificate names, and how long it dawdles."""

    __slots__ = ("certificate_end", "certificate_user", "dawdling_since")

    def __init__(self, server: _Server, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self.certificate_user: User | errors.Unauthorized | None = None
        self.certificate_end = 0.0
        self.dawdling_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        server = self._manager
        assert isinstance(server, _Server)
        self.dawdling_since = self._loop.time()
        if len(server.connections) > server.limits.connections_max:
            server.refused += 1
            self.force_close()
            return
        peercert = transport.get_extra_info("peercert")
        if peercert:
            try:
                self.certificate_end = authn.end_of_peercert(peercert)
                self.certificate_user = authn.user_of_peercert(peercert)
            except errors.Unauthorized as refusal:
                self.certificate_user = refusal

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waiter = self._waiter
        if self._messages or (waiter is not None and waiter.done()):
            self.dawdling_since = 0.0
        elif waiter is not None and not self.dawdling_since:
            # A piece of a request, the rest of which must come soon.
            self.dawdling_since = self._loop.time()

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None,
        message: str | None = None,
    ) -> Any:  # fmt: skip
        """What is no HTTP is answered, closed, and not worth a line in the log."""
        if status >= 500:
            log.error("a request failed outside its handler", exc_info=exc)
            body = errors.Internal("an internal error occurred; it has been logged").encode()
        else:
            body = errors.BadRequest("the request cannot be parsed").encode()
        head = http1.head(status, http1.JSON, len(body), b"Connection: close\r\n")
        return Answer(head + body, keep_alive=False)


class _Request(BaseRequest):
    ATTRS = BaseRequest.ATTRS | {"credential_end", "trail"}
    trail: Trail | None = None  # for the audit log
    credential_end: float = 0.0  # of what says who is calling; 0: it has none


class _Server(web.Server):
    def __init__(self, handler: Any, limits: Limits, **kwargs: Any) -> None:
        super().__init__(handler, **kwargs)
        self.limits = limits
        self.refused = 0

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def sweep(self, now: float) -> None:
        """Disconnects those who take too long to say what they want."""
        for connection in self.connections:
            if isinstance(connection, _Connection):
                since = connection.dawdling_since
                if since and now - since > self.limits.headers_s:
                    connection.force_close()


def hand_out(context: ssl.SSLContext, current: Callable[[], ssl.SSLContext]) -> None:
    """Connections that begin with this context go on with the current one: a listener keeps the
    context that it was made with, while certificates change."""

    def chosen(connection: Any, name: str | None, first: ssl.SSLContext) -> None:
        connection.context = current()

    context.sni_callback = chosen


def tls_context(certificate: str, key: str, *client_ca: str | None) -> ssl.SSLContext:
    """TLS as we serve it: 1.2 or newer, a client certificate welcome when we know its CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    for file in client_ca:
        if file:
            context.load_verify_locations(file)
            context.verify_mode = ssl.CERT_OPTIONAL
    return context


class Ingress:
    """One front door. `listen` as often as there are addresses, then `close`."""

    def __init__(
        self, upstream: Upstream, authenticator: authn.Authenticator, clock: Clock, ids: Ids,
        discovery: Discovery, openapi: OpenApi, *, limits: Limits | None = None,
        operate: Operate | None = None, insecure: bool = False, anonymous: bool = False,
        refresh: Callable[[], None] = lambda: None, url: str = "", audit: Audit | None = None,
    ) -> None:  # fmt: skip
        """insecure: everybody is system:admin; only ever on purpose. anonymous: who shows nothing
        is system:anonymous, and may what roles of the system tenant say. refresh: called every few
        seconds, to see whether files changed. url: of ourselves, as clients know it.
        """
        self._audit = audit
        self._limits = limits or Limits()
        self._upstream, self._authenticator = upstream, authenticator
        self._clock, self._ids, self._insecure = clock, ids, insecure
        self._operate, self._anonymous = operate, anonymous
        self._refresh, self._url = refresh, url
        self._tasks = Tasks()
        self._dispatcher = Dispatcher(upstream, clock, self._tasks, self._limits)
        self._hub = streams.Hub(self._dispatcher, clock, self._tasks, self._limits)
        self._documents = Documents(discovery, openapi)
        self._metrics = Metrics(self._gauges, self._by_tenant)
        most = self._limits
        self._calls = Shares(
            "requests", most.calls_max, most.calls_per_tenant_max, most.calls_reserve
        )
        self._streams = Shares(
            "watches", most.watches_max, most.watches_per_tenant_max, most.watches_reserve
        )
        self._bytes = Shares(
            "bytes of requests and answers", most.bytes_max, most.bytes_per_tenant_max,
            most.bytes_reserve,
        )  # fmt: skip
        self._rate = Rate(most.requests_per_tenant_per_s)
        self._watches: set[streams.Watcher] = set()
        self._stopping = False
        self._dated, self._date_line = 0, b""
        self._listeners: list[asyncio.Server] = []
        self._server: _Server | None = None

    async def listen(
        self, host: str, port: int, tls: ssl.SSLContext | None, reuse_port: bool = False
    ) -> tuple[str, int]:
        """Serves on one more address; returns it (port 0 becomes a real one)."""
        loop, limits = asyncio.get_running_loop(), self._limits
        if self._server is None:
            self._server = _Server(
                self._handle, limits, handler_cancellation=True, request_factory=self._request,
                access_log=None, keepalive_timeout=limits.keepalive_s,
                max_line_size=limits.line_bytes_max, max_field_size=limits.header_bytes_max,
                max_headers=limits.headers_max,
            )  # fmt: skip
            self._hub.start()
            self._tasks.start(self._sweep(), "ingress-sweep")
        listener = await loop.create_server(
            self._server, host, port, ssl=tls, backlog=1024, reuse_port=reuse_port,
            ssl_handshake_timeout=limits.tls_handshake_s if tls else None,
        )  # fmt: skip
        self._listeners.append(listener)
        address = listener.sockets[0].getsockname()
        return address[0], address[1]

    def regroup(self) -> None:
        """The partitions are others: watches over all of them end, and resume with the new ones."""
        self._dispatcher.regroup()

    async def close(self, grace_s: float = 5.0) -> None:
        """Takes nothing new, ends watches in order, lets calls finish for a while."""
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        for watcher in list(self._watches):
            watcher.finish()
        if self._server is not None:
            self._server.pre_shutdown()
            await self._server.shutdown(grace_s)
        for listener in self._listeners:
            await listener.wait_closed()
        await self._tasks.close()
        if self._audit is not None:
            await self._audit.close()

    def _request(
        self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any
    ) -> _Request:
        return _Request(
            message, payload, protocol, writer, task, protocol._loop,
            client_max_size=self._limits.body_bytes_max,
        )  # fmt: skip

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._clock.sleep(_SWEEP_S)
            if self._server is not None:
                self._server.sweep(loop.time())
            self._refresh()

    # One request.

    async def _handle(self, request: _Request) -> Any:
        start = self._clock.monotonic()
        audit = self._audit
        if audit is None:
            return await self._serve(request, start)
        try:
            answer = await self._serve(request, start)
        finally:
            if request.trail is not None:
                audit.complete(request.trail)
        if audit.blocking and request.trail is not None:
            try:
                await audit.wait_written()
            except errors.Unavailable as failure:
                request.trail = None
                return self._respond(request, status.reply(failure))
        return answer

    def _remember(
        self, request: _Request, call: Call | None, speaker: User | None, user: User | None,
        start: float,
    ) -> None:  # fmt: skip
        """For the audit log. call: None when it was refused before it was one; then it is looked
        at once more, as the one who may go everywhere, for what it was about."""
        if self._audit is None or request.trail is not None:
            return
        headers = request.headers
        path, _, query = request.raw_path.partition("?")
        if call is None:
            with contextlib.suppress(errors.Failure):
                routed = routes.route(request.method, path, query, authn.INSECURE)
                if isinstance(routed, Call):
                    call = routed
                    named = "/tenants/" in path or path.startswith("/t/")
                    if user is not None and call.tenant and not named:
                        call.tenant = user.tenant
        request.trail = self._audit.begin(
            request.method, request.raw_path, call, path, speaker, user, start,
            peer=str(request.remote or ""), forwarded=headers.get("X-Forwarded-For", ""),
            agent=headers.get("User-Agent", ""),
        )  # fmt: skip

    async def _serve(self, request: _Request, start: float) -> Any:
        call: Call | None = None
        speaker: User | None = None
        user: User | None = None
        try:
            path, _, query = request.raw_path.partition("?")
            if not path.startswith("/"):
                path = request.rel_url.raw_path  # Absolute form, as proxies send it.
            speaker = user = await self._user(request, path)
            if any(header in request.headers for header in _IMPERSONATING):
                wanted = authn.read_impersonation(request.headers.items())
                if wanted is not None:
                    user = await self._impersonated(user, wanted)
            if self._upstream.is_suspended(user.tenant):
                raise quota.suspended(user.tenant)
            routed = routes.route(request.method, path, query, user)
            if isinstance(routed, routes.Local):
                self._remember(request, None, speaker, user, start)
                return await self._local(request, routed, user)
            call = routed
            self._remember(request, call, speaker, user, start)
            self._metrics.count_of(user.tenant)
            self._rate.take(user.tenant, start)
            if call.verb == "watch":
                return await self._watch(request, call)
            if call.subresource == "log":
                return await self._logs(request, call)
            return await self._answer_call(request, call, start)
        except errors.Failure as failure:
            reply = status.reply(failure)
            if call is not None and failure.code == errors.TooManyRequests.code:
                self._metrics.count_refused(call.user.tenant)
        except HTTPRequestEntityTooLarge:
            reply = status.reply(
                errors.TooLarge(
                    f"the body is over the limit of {self._limits.body_bytes_max} bytes"
                )
            )
        except web.RequestPayloadError:
            reply = status.reply(errors.BadRequest("the body cannot be read"))
        except (asyncio.CancelledError, ConnectionError, web.HTTPException):
            raise
        except Exception:
            log.exception("%s %s failed", request.method, request.raw_path)
            reply = status.reply(status.unexpected())
        if call is None:
            self._remember(request, None, speaker, user, start)
            self._metrics.count("", "", "", reply.code, self._clock.monotonic() - start)
            return self._respond(request, reply)
        return await self._finish(request, call, reply, http1.Form(), start)

    async def _user(self, request: _Request, path: str) -> User:
        if self._insecure:
            return authn.INSECURE
        headers = request.headers
        certified = getattr(request.protocol, "certificate_user", None)
        if isinstance(certified, User):
            end: float = getattr(request.protocol, "certificate_end", 0.0)
            if end and self._clock.now() >= end:
                raise errors.Unauthorized("the client certificate has expired")
            user, request.credential_end = certified, end
        else:
            token = authn.bearer_of(
                headers.get("Authorization", ""), headers.get("Sec-WebSocket-Protocol", "")
            )
            if token:
                now = self._clock.now()
                await self._authenticator.prepare(token, now)
                user = self._authenticator.user_of_token(token, now)
                request.credential_end = self._authenticator.end_of(token)
            elif self._anonymous:
                return User(authn.ANONYMOUS, SYSTEM_TENANT, (UNAUTHENTICATED,))
            elif path.split("/", 2)[1] in _OPEN_PATHS:
                return User(authn.ANONYMOUS, groups=(UNAUTHENTICATED,))
            else:
                raise errors.Unauthorized(certified.message if certified else "Unauthorized")
        return user

    async def _check_credential(self, user: User) -> None:
        """What no partition is asked about is for those only who are somebody still."""
        if user.credential:
            await self._dispatcher.may(user, [])

    async def _impersonated(self, user: User, wanted: authn.Impersonation) -> User:
        """Raises Forbidden unless the caller's roles allow to speak for all of it."""
        asks = authn.needed_for(wanted)
        for ask, yes in zip(asks, await self._dispatcher.may(user, asks), strict=True):
            if not yes:
                raise authn.refusal(user, ask)
        return authn.impersonated(user, wanted)

    async def _answer_call(self, request: _Request, call: Call, start: float) -> Answer:
        headers = request.headers
        form = http1.form_of(headers.get("Accept", ""))
        call.accept = form.shape
        if form.shape:
            call.options["_table"] = form.version
        call.user_agent = headers.get("User-Agent", "")
        tenant = call.user.tenant
        self._calls.enter(tenant, 1, self._upstream.allowed(tenant).requests)
        held = 0
        try:
            if request.method != "GET":
                held = self._hold_body(request, tenant)
                call.body = await self._body(request)
                if call.body or call.verb in ("create", "update", "patch"):
                    call.content_type = http1.body_type(call.verb, headers.get("Content-Type", ""))
            reply = await self._dispatcher.call(call)
        finally:
            self._calls.leave(tenant)
            if held:
                self._bytes.leave(tenant, held)
        if reply.code == errors.TooManyRequests.code:
            self._metrics.count_refused(tenant)
        elif call.gvr == _TOKEN_REVIEWS and reply.ok:
            reply = await self._reviewed(call.user, reply)
        return await self._finish(request, call, reply, form, start)

    async def _reviewed(self, asking: User, reply: Reply) -> Reply:
        """Whose the token is, for those who may ask; of another tenant's it is as if unknown."""
        review = orjson.loads(reply.body)
        spec, now = review.get("spec") or {}, self._clock.now()
        token = spec.get("token") or ""
        review["status"] = {"authenticated": False}
        with contextlib.suppress(errors.Unauthorized):
            await self._authenticator.prepare(token, now)
            user, good_for = self._authenticator.reviewed(token, spec.get("audiences") or (), now)
            if asking.tenant in (SYSTEM_TENANT, user.tenant):
                await self._check_credential(user)
                review["status"] = {"authenticated": True, "user": user_info(user)}
                if good_for:
                    review["status"]["audiences"] = list(good_for)
        return Reply(reply.code, orjson.dumps(review), reply.warnings)

    def _hold_body(self, request: _Request, tenant: str) -> int:
        """Room for what is to come, before it comes; as much as it may be, when nobody says."""
        if not request.can_read_body:
            return 0
        length, most = request.content_length, self._limits.body_bytes_max
        held = most if length is None else min(length, most)
        self._bytes.enter(tenant, held)
        return held

    async def _body(self, request: _Request) -> bytes:
        if not request.can_read_body:
            return b""
        if request.headers.get("Expect", "").lower() == "100-continue":
            length = request.content_length
            if length is not None and length > self._limits.body_bytes_max:
                raise errors.TooLarge("the body is over the limit")
            if request.transport is not None:
                request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.content.is_eof():
            return await request.read()  # All of it came with the headers: nothing to wait for.
        try:
            async with asyncio.timeout(self._limits.body_s):
                return await request.read()
        except TimeoutError:
            raise errors.Timeout("the body did not arrive in time") from None

    async def _finish(
        self, request: _Request, call: Call, reply: Reply, form: http1.Form, start: float
    ) -> Answer:
        self._metrics.count(
            call.verb, call.gvr, call.subresource, reply.code, self._clock.monotonic() - start
        )
        body, media = reply.body, http1.JSON
        if body and reply.ok and not form.shape and self_links.knows(call.user_agent):
            path = request.raw_path.partition("?")[0]
            plural = call.gvr.partition(".")[0]
            body = self_links.add(body, path, plural, call.subresource)
        if form.media is http1.YAML and body:
            body, media = http1.to_yaml(body), http1.YAML
        elif http1.wants_pretty(call.options, call.user_agent) and body:
            body = http1.pretty(body)
        more = b""
        if len(body) >= self._limits.gzip_bytes_min and self._compresses_for(request):
            body = await asyncio.to_thread(http1.compress, body)
            more = b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n"
        answer = self._respond(request, Reply(reply.code, body, reply.warnings), media, more)
        if request.trail is not None:
            request.trail.body = reply.body  # As JSON, whatever the client wanted.
            request.trail.notes = reply.notes
        if not answer.body:
            return answer
        # Large: the tenant has these bytes in our memory until its client has read them.
        tenant, size = call.user.tenant, len(answer.body)
        self._bytes.hold(tenant, size)
        try:
            await answer.prepare(request)
        finally:
            self._bytes.leave(tenant, size)
        return Answer(b"", answer.keep_alive)

    def _respond(
        self, request: _Request, reply: Reply, media: str = http1.JSON, more: bytes = b""
    ) -> Answer:
        body, code = reply.body, reply.code
        trail = request.trail
        if trail is not None:
            trail.code, trail.body = code, body
            more += trail.header
        more += self._date()
        if code >= 400:
            more += status.headers(code, status.retry_after(body))
        if reply.warnings:
            more += http1.warning_lines(reply.warnings)
        keep_alive = request.keep_alive and not self._stopping
        if not keep_alive:
            more += b"Connection: close\r\n"
        elif request.version < (1, 1):
            more += b"Connection: keep-alive\r\n"
        head = http1.head(code, media, len(body), more)
        if request.method == "HEAD":
            return Answer(head, keep_alive)
        if len(body) >= _DRAIN_BYTES_MIN:
            return Answer(head, keep_alive, body)
        return Answer(head + body, keep_alive)

    def _started(self, request: _Request) -> bytes:
        """A long answer begins, with these header lines."""
        trail = request.trail
        if trail is None or self._audit is None:
            return b""
        trail.code = 200
        self._audit.started(trail)
        return trail.header

    def _date(self) -> bytes:
        """The Date header, made once a second."""
        now = int(self._clock.now())
        if now != self._dated:
            self._dated = now
            self._date_line = b"Date: %b\r\n" % formatdate(now, usegmt=True).encode()
        return self._date_line

    def _compresses_for(self, request: _Request) -> bool:
        # On the same machine sending a megabyte costs 1 ms with TLS, compressing it 9 ms.
        peer = str(request.remote or "")
        return not peer.startswith(_LOOPBACK) and "gzip" in request.headers.get(
            "Accept-Encoding", ""
        )

    # Long answers.

    async def _watch(self, request: _Request, call: Call) -> Any:
        form = http1.form_of(request.headers.get("Accept", ""))
        call.accept = form.shape
        if form.shape:
            call.options["_table"] = form.version
        call.user_agent = request.headers.get("User-Agent", "")
        timeout_s = self._watch_timeout_s(call)
        if request.credential_end:
            # Whoever goes on shows something that is good then.
            timeout_s = min(timeout_s, request.credential_end - self._clock.now())
        websocket = request.headers.get("Upgrade", "").lower() == "websocket"
        if websocket and "Origin" not in request.headers:
            raise errors.Forbidden("a WebSocket needs an Origin header")
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client went away")
        if self._stopping:
            raise errors.Unavailable("this ingress is stopping")
        self._open_stream(call.user.tenant)
        try:
            return await self._watching(request, transport, call, form, timeout_s, websocket)
        finally:
            self._streams.leave(call.user.tenant)

    def _open_stream(self, tenant: str) -> None:
        self._streams.enter(tenant, 1, self._upstream.allowed(tenant).watches)

    async def _watching(
        self, request: _Request, transport: asyncio.Transport, call: Call, form: http1.Form,
        timeout_s: float, websocket: bool,
    ) -> Any:  # fmt: skip
        watcher: streams.Watcher | None = None
        fanout, after = self._hub.open(call, form)
        loop = asyncio.get_running_loop()
        try:
            await fanout.ready()
            self._metrics.count("watch", call.gvr, "", 200, 0.0)
            watcher = streams.Watcher(
                transport, self._limits.watch_backlog_bytes_max, after=after, websocket=websocket,
                stalled=self._hub.stalled, tenant=call.user.tenant,
            )  # fmt: skip
            self._watches.add(watcher)
            timer = loop.call_later(timeout_s, streams.end_in_time, fanout, watcher)
            try:
                if websocket:
                    return await self._watch_websocket(request, fanout, watcher)
                keep_alive = request.keep_alive
                more = b"" if keep_alive else b"Connection: close\r\n"
                more += self._started(request)
                transport.write(http1.chunked_head(200, http1.JSON, self._date() + more))
                fanout.add(watcher)
                good = await watcher.done
                return Answer(b"", keep_alive and good and not self._stopping)
            finally:
                timer.cancel()
        finally:
            if watcher is not None:
                self._watches.discard(watcher)
            fanout.release(watcher)

    def _watch_timeout_s(self, call: Call) -> float:
        text = call.options.get("timeoutSeconds", "")
        if text.isdecimal() and int(text[:9]) > 0:
            return float(int(text[:9]))
        least_s = self._limits.watch_min_s
        return self._ids.uniform(least_s, 2 * least_s)

    async def _watch_websocket(
        self, request: _Request, fanout: streams.Fanout, watcher: streams.Watcher
    ) -> Any:
        socket = web.WebSocketResponse(
            protocols=_WEBSOCKET_PROTOCOLS, compress=False, max_msg_size=64 * 1024
        )
        self._started(request)
        await socket.prepare(request)
        fanout.add(watcher)
        # Reads pings and the client's close; what it says otherwise does not matter.
        reading = self._tasks.start(_read_all(socket), "ingress-websocket")
        try:
            await asyncio.wait((watcher.done, reading), return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            watcher.finish()
            await asyncio.wait((reading,))
        await socket.close()
        return socket

    async def _logs(self, request: _Request, call: Call) -> Any:
        """The partition says whether the user may, the log source what there is."""
        reply = await self._dispatcher.call(call)
        if not reply.ok:
            raise errors.decode(reply.body)
        self._open_stream(call.user.tenant)
        try:
            logs = self._upstream.logs(call.tenant, call.namespace, call.name, call.options)
            return await self._following(request, call, logs)
        finally:
            self._streams.leave(call.user.tenant)

    async def _following(self, request: _Request, call: Call, logs: AsyncIterator[bytes]) -> Answer:
        async with closing(logs) as chunks:
            first = await anext(chunks, b"")  # An initial refusal is a plain error.
            transport = request.transport
            if transport is None:
                raise ConnectionResetError("the client went away")
            more = b"Connection: close\r\n" + self._started(request)
            transport.write(http1.chunked_head(200, _TEXT, more))
            if first:
                transport.write(http1.chunk(first))
            try:
                async for data in chunks:
                    if self._upstream.is_suspended(call.user.tenant):
                        raise quota.suspended(call.user.tenant)
                    if request.credential_end and self._clock.now() >= request.credential_end:
                        raise errors.Unauthorized("the credential has expired")
                    if data:
                        transport.write(http1.chunk(data))
                        await _drain(request)
                transport.write(http1.LAST_CHUNK)
            except errors.Failure as failure:
                # Too late for a code: without the last chunk the client knows it is not all.
                log.info("log of %s ended early: %s", call.name, failure.message)
        self._metrics.count("get", call.gvr, "log", 200, 0.0)
        return Answer(b"", keep_alive=False)

    # Paths that name no object.

    async def _local(self, request: _Request, local: routes.Local, user: User) -> Answer:
        path = local.path
        if path in (_STATUS_PATH, _OPERATIONS_PATH) or path.startswith(_TENANTS_PATH):
            return await self._own(request, path, user)
        if request.method not in ("GET", "HEAD"):
            raise routes.not_allowed()
        if path.split("/", 2)[1] in _HEALTH_PATHS:
            return self._health(request, local)
        await self._check_credential(user)
        if user.name == authn.ANONYMOUS and path.split("/", 2)[1] not in _OPEN_PATHS:
            await self._check_path(request, path, user)
        keys = self._keys_page(path)
        if keys is not None:
            return self._respond(request, Reply(200, orjson.dumps(keys)))
        if path == "/metrics":
            await self._check_path(request, path, user)
            body, media = self._metrics.render(request.headers.get("Accept", ""))
            return self._respond(request, Reply(200, body), media)
        # A tenant's view for its users, and for administrators who come by its prefix.
        view = local.tenant or user.tenant
        if user.tenant not in (SYSTEM_TENANT, view):
            raise routes.forbidden_path(user, request.method, path)
        kinds = await self._documents.kinds(
            view, path, partial(self._dispatcher.kinds, view)
        )  # fmt: skip
        page = self._documents.page(
            path, request.headers.get("Accept", ""), request.headers.get("If-None-Match", ""),
            system=view == SYSTEM_TENANT, kinds=kinds,
        )  # fmt: skip
        body = page.body
        if page.content_type == http1.JSON and http1.wants_pretty(
            local.query, request.headers.get("User-Agent", "")
        ):
            body = http1.pretty(body)
        return self._respond(request, Reply(page.code, body), page.content_type, page.more)

    def _keys_page(self, path: str) -> dict[str, Any] | None:
        """What others need to verify tokens of service accounts (RFC 8414, RFC 7517)."""
        keys = self._authenticator.accounts
        if keys is None or path not in (_OPENID, _JWKS):
            return None
        if path == _JWKS:
            return keys.jwks()
        return {
            "issuer": self._authenticator.issuer,
            "jwks_uri": self._url + _JWKS,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": keys.algorithms,
        }

    async def _check_path(self, request: _Request, path: str, user: User) -> None:
        """What is the cluster's own is for users of the system tenant whose roles allow it."""
        ask = authn.Ask(request.method.lower(), path=path)
        if user.tenant != SYSTEM_TENANT or not all(await self._dispatcher.may(user, [ask])):
            raise routes.forbidden_path(user, request.method, path)

    def _health(self, request: _Request, local: routes.Local) -> Answer:
        ready = bool(self._upstream.tenant_partitions()) and not self._stopping
        good = ready or not local.path.startswith("/readyz")
        text = b"ok"
        if "verbose" in request.raw_path or not good:
            partitions = b"ok" if ready else b"failed: no partition is known, or stopping"
            name = local.path.lstrip("/").encode()
            text = b"[+]ping ok\n[%b]partitions %b\n%b check %b\n" % (
                b"+" if ready else b"-", partitions, name, b"passed" if good else b"failed",
            )  # fmt: skip
        return self._respond(request, Reply(200 if good else 500, text), _TEXT)

    async def _own(self, request: _Request, path: str, user: User) -> Answer:
        await self._check_path(request, path, user)
        if path == _STATUS_PATH:
            if request.method != "GET":
                raise routes.not_allowed()
            return await self._operated(request, "status", None)
        if path == _OPERATIONS_PATH:
            if request.method != "POST":
                raise routes.not_allowed()
            try:
                asked = orjson.loads(await self._body(request))
            except orjson.JSONDecodeError as error:
                raise errors.BadRequest(f"the body is not JSON: {error}") from None
            return await self._operated(request, "operate", asked)
        name, _, what = path.removeprefix(_TENANTS_PATH).partition("/")
        if what != "token":
            raise routes.not_found()
        if request.method != "POST":
            raise routes.not_allowed()
        token = self._authenticator.admin_token(name, self._clock.now())
        return self._respond(request, Reply(200, orjson.dumps({"token": token})))

    async def _operated(self, request: _Request, method: str, payload: Any) -> Answer:
        if self._operate is None:
            raise routes.not_found()
        body = orjson.dumps(await self._operate(method, payload))
        if http1.wants_pretty({}, request.headers.get("User-Agent", "")):
            body = http1.pretty(body)
        return self._respond(request, Reply(200, body))

    def usage(self) -> dict[str, dict[str, int]]:
        """Tenant -> what it has open here."""
        watches, requests = self._streams.by_tenant(), self._calls.by_tenant()
        return {
            tenant: {"watches": watches.get(tenant, 0), "requests": requests.get(tenant, 0)}
            for tenant in {*watches, *requests}
        }

    def _by_tenant(self) -> Mapping[str, tuple[str, Mapping[str, int]]]:
        return {
            "arktos_tenant_inflight_requests": ("Calls being answered.", self._calls.by_tenant()),
            "arktos_tenant_watches": ("Watches open.", self._streams.by_tenant()),
            "arktos_tenant_inflight_bytes": (
                "Bytes of requests and answers held.", self._bytes.by_tenant(),
            ),
        }  # fmt: skip

    def _gauges(self) -> Mapping[str, tuple[str, float]]:
        server, audit = self._server, self._audit
        return {
            "apiserver_current_inflight_requests": ("Calls being answered.", self._calls.total),
            "apiserver_longrunning_requests": ("Watches open.", self._streams.total),
            "apiserver_watch_streams": ("Upstream watches open.", self._hub.streams),
            "apiserver_watch_events_sent": ("Events written to watchers.", self._hub.sent),
            "apiserver_watch_dropped": (
                "Watches ended because their client did not read.", self._hub.dropped,
            ),
            "arktos_ingress_bytes": ("Bytes of requests and answers held.", self._bytes.total),
            "arktos_ingress_watch_stalled_bytes": (
                "Bytes that watchers did not read yet.", self._hub.stalled.total,
            ),
            "arktos_ingress_connections": (
                "Connections open.", len(server.connections) if server else 0,
            ),
            "arktos_audit_events": ("Lines of the audit log.", audit.written if audit else 0),
            "arktos_audit_events_dropped": (
                "Requests that should be in the audit log and are not.",
                audit.dropped + audit.failed if audit else 0,
            ),
            "arktos_ingress_connections_refused": (
                "Connections over the limit.", server.refused if server else 0,
            ),
        }  # fmt: skip


async def _read_all(socket: web.WebSocketResponse) -> None:
    async for _ in socket:
        pass
