"""Where a webhook is: a `url`, or a `service` of the tenant itself, as addresses to connect to.

Pure: it is given the tenant's Service and Endpoints. Whether an address may be connected to at all
is asked where it is known (outside.py): a name is resolved there, and anybody can write Endpoints.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Object = dict[str, Any]
# kind, namespace, name -> the object of that tenant, or None
Lookup = Callable[[str, str, str], Object | None]


class Unreachable(Exception):
    """Why it cannot be called, in the words that follow `failed to call webhook: `."""


@dataclass(frozen=True, slots=True)
class Target:
    tenant: str
    url: str  # as messages name it
    host: str  # the Host header
    server_name: str  # whose certificate it must be
    names: tuple[str, ...]  # addresses, or names to be resolved
    port: int
    path: str
    ca: bytes  # PEM; empty: the certificates that this machine trusts


def resolve(tenant: str, client: Object, lookup: Lookup, timeout_s: float | None = None) -> Target:
    """Raises Unreachable."""
    try:
        return _resolved(tenant, client, lookup, timeout_s)
    except ValueError as error:
        raise Unreachable(f"the clientConfig cannot be read: {error}") from error


def _resolved(tenant: str, client: Object, lookup: Lookup, timeout_s: float | None) -> Target:
    ca = base64.b64decode(client.get("caBundle") or "")
    query = f"?timeout={timeout_s:g}s" if timeout_s is not None else ""
    url = client.get("url")
    if url is not None:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
        path = (parts.path or "/") + query
        return Target(tenant, url + query, parts.netloc, host, (host,), port, path, ca)
    service = client["service"]
    namespace, name = service["namespace"], service["name"]
    port = service.get("port") or 443
    server_name = f"{name}.{namespace}.svc"
    path = (service.get("path") or "/") + query
    shown = f"https://{server_name}:{port}{path}"
    names, target_port = _endpoints(namespace, name, port, lookup, shown)
    host = f"{server_name}:{port}"
    return Target(tenant, shown, host, server_name, names, target_port, path, ca)


def _endpoints(
    namespace: str, name: str, port: int, lookup: Lookup, shown: str
) -> tuple[tuple[str, ...], int]:
    service = lookup("services", namespace, name)
    if service is None:
        raise Unreachable(f'Post "{shown}": service "{name}" not found')
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return (spec.get("externalName") or "",), port
    ports = [one for one in spec.get("ports") or () if one.get("port") == port]
    if not ports:
        raise Unreachable(f'Post "{shown}": no service port {port} found for service "{name}"')
    wanted = ports[0].get("name") or ""
    endpoints = lookup("endpoints", namespace, name) or {}
    for subset in endpoints.get("subsets") or ():
        addresses = tuple(one["ip"] for one in subset.get("addresses") or () if one.get("ip"))
        for one in subset.get("ports") or ():
            if addresses and (one.get("name") or "") == wanted:
                return addresses, int(one["port"])
    raise Unreachable(f'Post "{shown}": no endpoints available for service "{name}"')
