"""What the ingress answers by itself: discovery, OpenAPI, version. Rendered once, then bytes.

The documents are made in `api/`; here is only which form of which path a client gets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

import orjson

from arktos_ray.ingress import http1, routes

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"


class Discovery(Protocol):
    """api/discovery.py, or a fake."""

    def document(
        self, path: str, accept_aggregated: str = "", system: bool = True
    ) -> dict[str, object] | None: ...

    def version_document(self) -> dict[str, object]: ...


class OpenApi(Protocol):
    """api/openapi.py, or a fake."""

    def v2_json(self) -> bytes: ...

    def v2_protobuf(self) -> bytes: ...

    def v3_index(self) -> dict[str, object]: ...

    def v3(self, group_version: str) -> bytes | None: ...


class Page(NamedTuple):
    body: bytes
    content_type: str = http1.JSON
    code: int = 200
    more: bytes = b""  # header lines


class Documents:
    """The pages of one ingress. The set of paths and forms is small, so all are kept."""

    def __init__(self, discovery: Discovery, openapi: OpenApi) -> None:
        self._discovery, self._openapi = discovery, openapi
        self._pages: dict[tuple[str, ...], Page] = {}

    def page(self, path: str, accept: str, if_none_match: str, *, system: bool) -> Page:
        """Raises NotFound for whatever is no document."""
        if path == "/version":
            return self._kept(("version",), self._version)
        if path == "/openapi/v2":
            if http1.wants_protobuf_openapi(accept):
                return self._kept(("v2", "protobuf"), self._v2_protobuf)
            return self._kept(("v2",), lambda: Page(self._openapi.v2_json()))
        if path == "/openapi/v3":
            return self._kept(("v3",), lambda: Page(orjson.dumps(self._openapi.v3_index())))
        if path.startswith("/openapi/v3/"):
            return self._v3(path.removeprefix("/openapi/v3/"), if_none_match)
        if path == "/api" or path.startswith(("/api/", "/apis")):
            aggregated = http1.aggregated_of(accept) if path in ("/api", "/apis") else ""
            key = ("discovery", path, aggregated, "system" if system else "tenant")
            return self._kept(key, lambda: self._discover(path, aggregated, system))
        raise routes.not_found()

    def _kept(self, key: tuple[str, ...], make: Callable[[], Page]) -> Page:
        page = self._pages.get(key)
        if page is None:
            page = self._pages[key] = make()  # NotFound is not kept: paths are without number.
        return page

    def _version(self) -> Page:
        return Page(orjson.dumps(self._discovery.version_document()))

    def _v2_protobuf(self) -> Page:
        return Page(self._openapi.v2_protobuf(), http1.OPENAPI_V2_PROTOBUF)

    def _v3(self, group_version: str, if_none_match: str) -> Page:
        body = self._openapi.v3(group_version)
        if body is None:
            raise routes.not_found()
        page = self._kept(("v3", group_version), lambda: _tagged(body))
        if if_none_match and if_none_match.encode() in page.more:
            return page._replace(body=b"", code=304)
        return page

    def _discover(self, path: str, aggregated: str, system: bool) -> Page:
        document = self._discovery.document(path, aggregated, system)
        if document is None:
            raise routes.not_found()
        media = _AGGREGATED.format(aggregated) if aggregated else http1.JSON
        return Page(orjson.dumps(document), media)


def _tagged(body: bytes) -> Page:
    """With the ETag by which kubectl keeps its copy."""
    tag = hashlib.sha256(body).hexdigest()[:32].upper()
    return Page(body, more=b'ETag: "%b"\r\n' % tag.encode())
