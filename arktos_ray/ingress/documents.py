"""What the ingress answers by itself: discovery, OpenAPI, version. Rendered once, then bytes.

The documents are made in `api/`; here is only which form of which path a client gets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

import orjson

from arktos_ray.api.custom import described
from arktos_ray.api.scheme import Resource
from arktos_ray.ingress import http1, routes

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"


class Discovery(Protocol):
    """api/discovery.py, or a fake."""

    def document(
        self,
        path: str,
        accept_aggregated: str = "",
        system: bool = True,
        custom: Sequence[Resource] = (),
    ) -> dict[str, object] | None: ...

    def version_document(self) -> dict[str, object]: ...


class OpenApi(Protocol):
    """api/openapi.py, or a fake."""

    def v2_json(self, custom: Sequence[Resource] = ()) -> bytes: ...

    def v2_protobuf(self, custom: Sequence[Resource] = ()) -> bytes: ...

    def v3_index(self, custom: Sequence[Resource] = ()) -> dict[str, object]: ...

    def v3(self, group_version: str, custom: Sequence[Resource] = ()) -> bytes | None: ...


class Page(NamedTuple):
    body: bytes
    content_type: str = http1.JSON
    code: int = 200
    more: bytes = b""  # header lines


# (stamp, with schemas) -> a newer stamp and rows, or the same one and None.
Ask = Callable[[str, bool], Awaitable[tuple[str, "list[list[Any]] | None"]]]
# Tenants whose kinds are kept, and bytes of the pages made of them: a whole OpenAPI document of a
# tenant with 100 kinds is a few MB.
_TENANTS_MAX = 1_000
_PAGES_BYTES_MAX = 128 << 20


class Kinds:
    """The kinds that one tenant can use beside the built-in ones, and pages made of them."""

    __slots__ = ("pages", "resources", "stamp", "with_schemas")

    def __init__(self, stamp: str, resources: Sequence[Resource], with_schemas: bool) -> None:
        self.stamp, self.resources, self.with_schemas = stamp, resources, with_schemas
        self.pages: dict[tuple[str, ...], Page] = {}


_NONE = Kinds("", (), True)


class Documents:
    """The pages of one ingress. The set of paths and forms is small, so all are kept; those of
    tenants with kinds of their own for as long as these stay as they are."""

    def __init__(self, discovery: Discovery, openapi: OpenApi) -> None:
        self._discovery, self._openapi = discovery, openapi
        self._pages: dict[tuple[str, ...], Page] = {}
        self._kinds: dict[str, Kinds] = {}
        self._bytes = 0  # of the pages of tenants

    async def kinds(self, tenant: str, path: str, ask: Ask) -> Kinds:
        """What the tenant defined, as of now: its partition is asked each time, by the stamp."""
        if not path.startswith(("/api", "/openapi/")):
            return _NONE
        with_schemas = path.startswith("/openapi/")
        known = self._kinds.get(tenant)
        usable = known is not None and (known.with_schemas or not with_schemas)
        stamp, rows = await ask(known.stamp if known is not None and usable else "", with_schemas)
        if rows is None:
            assert known is not None, "only who has a stamp is told that it is the same"
            return known
        if not rows:
            self._forget(tenant)
            return _NONE
        fresh = Kinds(stamp, described.unpacked(rows), with_schemas)
        self._forget(tenant)
        if len(self._kinds) >= _TENANTS_MAX:
            self._forget(next(iter(self._kinds)))
        self._kinds[tenant] = fresh
        return fresh

    def _forget(self, tenant: str) -> None:
        known = self._kinds.pop(tenant, None)
        if known is not None:
            self._bytes -= sum(len(page.body) for page in known.pages.values())
            known.pages = {}

    def page(
        self, path: str, accept: str, if_none_match: str, *, system: bool, kinds: Kinds = _NONE
    ) -> Page:
        """Raises NotFound for whatever is no document."""
        custom = kinds.resources
        if path == "/version":
            return self._kept(_NONE, ("version",), self._version)
        if path == "/openapi/v2":
            if http1.wants_protobuf_openapi(accept):
                return self._kept(kinds, ("v2", "protobuf"), lambda: self._v2_protobuf(custom))
            return self._kept(kinds, ("v2",), lambda: Page(self._openapi.v2_json(custom)))
        if path == "/openapi/v3":
            return self._kept(
                kinds, ("v3",), lambda: Page(orjson.dumps(self._openapi.v3_index(custom)))
            )
        if path.startswith("/openapi/v3/"):
            return self._v3(path.removeprefix("/openapi/v3/"), if_none_match, kinds)
        if path == "/api" or path.startswith(("/api/", "/apis")):
            aggregated = http1.aggregated_of(accept) if path in ("/api", "/apis") else ""
            key = ("discovery", path, aggregated, "system" if system else "tenant")
            return self._kept(kinds, key, lambda: self._discover(path, aggregated, system, custom))
        raise routes.not_found()

    def _kept(self, kinds: Kinds, key: tuple[str, ...], make: Callable[[], Page]) -> Page:
        pages = kinds.pages if kinds is not _NONE else self._pages
        page = pages.get(key)
        if page is None:
            page = make()  # NotFound is not kept: paths are without number.
            pages[key] = page
            if kinds is not _NONE:
                self._bytes += len(page.body)
                while self._bytes > _PAGES_BYTES_MAX and self._kinds:
                    self._forget(next(iter(self._kinds)))
        return page

    def _version(self) -> Page:
        return Page(orjson.dumps(self._discovery.version_document()))

    def _v2_protobuf(self, custom: Sequence[Resource]) -> Page:
        return Page(self._openapi.v2_protobuf(custom), http1.OPENAPI_V2_PROTOBUF)

    def _v3(self, group_version: str, if_none_match: str, kinds: Kinds) -> Page:
        def make() -> Page:
            body = self._openapi.v3(group_version, kinds.resources)
            if body is None:
                raise routes.not_found()
            return _tagged(body)

        page = self._kept(kinds, ("v3", group_version), make)
        if if_none_match and if_none_match.encode() in page.more:
            return page._replace(body=b"", code=304)
        return page

    def _discover(
        self, path: str, aggregated: str, system: bool, custom: Sequence[Resource]
    ) -> Page:
        document = self._discovery.document(path, aggregated, system, custom)
        if document is None:
            raise routes.not_found()
        media = _AGGREGATED.format(aggregated) if aggregated else http1.JSON
        return Page(orjson.dumps(document), media)


def _tagged(body: bytes) -> Page:
    """With the ETag by which kubectl keeps its copy."""
    tag = hashlib.sha256(body).hexdigest()[:32].upper()
    return Page(body, more=b'ETag: "%b"\r\n' % tag.encode())
