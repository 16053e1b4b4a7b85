"""Which partitions a call concerns. Pure: it looks at the call and at who owns what.

Tenant partitions own their tenants' objects and those tenants' Tenant objects; resource
partitions own nodes and what lies beside a node: its lease, its events.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import yaml

from arktos_ray.api import errors
from arktos_ray.api.calls import Call
from arktos_ray.api.names import ALL_TENANTS, NODE_LEASE_NAMESPACE, SYSTEM_TENANT
from arktos_ray.api.scheme import Home, Resource
from arktos_ray.ingress.http1 import PROTOBUF, YAML
from arktos_ray.ingress.port import Upstream

_TENANTS, _EVENTS = "tenants", "events"
_COLLECTION = ("list", "watch", "deletecollection")


@dataclass(frozen=True, slots=True)
class One:
    """One partition has it all."""

    partition: str


@dataclass(frozen=True, slots=True)
class Each:
    """Each has a part: merge what they say."""

    partitions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Search:
    """At most one of them has the object; `otherwise` is for when none does."""

    partitions: tuple[str, ...]
    otherwise: str
    name: str


def home_of(call: Call, resource: Resource, upstream: Upstream) -> One | Each | Search:
    """Raises Unavailable when there is no partition of the kind that would have it."""
    collection = call.verb in _COLLECTION
    if resource.home is Home.TENANT_PARTITION:
        if resource.gvr == _TENANTS:
            if collection:
                return _each(upstream.tenant_partitions())
            return One(upstream.owner_of(call.name or _tenant_to_create(call)))
        if call.tenant == ALL_TENANTS:
            return _each(upstream.tenant_partitions())
        return One(upstream.owner_of(call.tenant))
    if resource.home is Home.RESOURCE_PARTITION:
        return _among_hosts(call, collection, upstream)

    if call.tenant == ALL_TENANTS:
        return _each((*upstream.tenant_partitions(), *upstream.resource_partitions()))
    own = upstream.owner_of(call.tenant)
    if call.tenant != SYSTEM_TENANT:
        return One(own)
    if call.namespace == NODE_LEASE_NAMESPACE:
        return _among_hosts(call, collection, upstream)
    # Node events lie beside their node, in whatever namespace; other leases with their tenant.
    events = resource.plural == _EVENTS
    if call.verb == "create" or (call.namespace and not events):
        return One(own)
    everywhere = (own, *upstream.resource_partitions())
    if collection:
        return _each(everywhere)
    return _search(everywhere, own, call.name) if events else One(own)


def _among_hosts(call: Call, collection: bool, upstream: Upstream) -> One | Each | Search:
    partitions = upstream.resource_partitions()
    if not partitions:
        raise errors.Unavailable("no resource partition is known yet")
    if collection:
        return _each(partitions)
    name = call.name or name_of(call.body, call.content_type)
    return _search(partitions, by_hash(name, partitions), name)


def _each(partitions: Sequence[str]) -> One | Each:
    unique = tuple(dict.fromkeys(partitions))
    if not unique:
        raise errors.Unavailable("no partition is known yet")
    return One(unique[0]) if len(unique) == 1 else Each(unique)


def _search(partitions: Sequence[str], otherwise: str, name: str) -> One | Search:
    unique = tuple(dict.fromkeys(partitions))
    return One(unique[0]) if len(unique) == 1 else Search(unique, otherwise, name)


def by_hash(name: str, partitions: Sequence[str]) -> str:
    """Where a new object goes. The same in every ingress, so that two creates of it meet."""
    return partitions[zlib.crc32(name.encode()) % len(partitions)]


def _tenant_to_create(call: Call) -> str:
    name = name_of(call.body, call.content_type)
    if not name:
        # A generated name would only be known to a partition that need not own it.
        raise errors.BadRequest("a Tenant needs metadata.name")
    return name


def name_of(body: bytes, content_type: str) -> str:
    """metadata.name of an object that was sent; empty when it has none or cannot be read."""
    if content_type == PROTOBUF:
        return _name_in_protobuf(body)
    try:
        obj: Any = _yaml(body) if content_type == YAML else orjson.loads(body)
        name = obj["metadata"]["name"]
    except (ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""
    return name if isinstance(name, str) else ""


def _yaml(body: bytes) -> Any:
    return yaml.load(body, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _name_in_protobuf(body: bytes) -> str:
    # "k8s\0" + Unknown{raw = 2}; in every kind 1 is the metadata, and there 1 is the name.
    raw = _bytes_field(body[4:], 2) if body.startswith(b"k8s\0") else b""
    return _bytes_field(_bytes_field(raw, 1), 1).decode(errors="replace")


def _bytes_field(message: bytes, wanted: int) -> bytes:
    """The first length-delimited field of that number; empty when absent or malformed."""
    at = 0
    try:
        while at < len(message):
            tag, at = _varint(message, at)
            if tag & 7 == 2:
                size, at = _varint(message, at)
                if tag >> 3 == wanted:
                    return message[at : at + size]
                at += size
            elif tag & 7 == 0:
                _, at = _varint(message, at)
            elif tag & 7 in (1, 5):
                at += 8 if tag & 7 == 1 else 4
            else:
                return b""
    except IndexError:
        pass
    return b""


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError("not a varint")
