"""Which partitions a call concerns. Pure: it looks at the call and at who owns what.

Tenant partitions own their tenants' objects and those tenants' Tenant objects; resource
partitions own nodes and what lies beside a node: its lease, its events.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arktos_ray.api import codec, errors
from arktos_ray.api.calls import Call
from arktos_ray.api.names import ALL_TENANTS, NODE_LEASE_NAMESPACE, SYSTEM_TENANT
from arktos_ray.api.scheme import Home, Resource
from arktos_ray.ingress.port import Upstream

_TENANTS, _EVENTS = "tenants", "events"
_ABOUT_ONESELF = "selfsubject"
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
            return One(upstream.owner_of(*_named_or_new(call, resource)))
        if call.tenant == ALL_TENANTS:
            return _each(upstream.tenant_partitions())
        if resource.virtual and resource.plural.startswith(_ABOUT_ONESELF):
            return One(upstream.owner_of(call.user.tenant))  # The roles of whoever asks are there.
        return One(upstream.owner_of(call.tenant))
    if resource.home is Home.RESOURCE_PARTITION:
        return _among_hosts(call, resource, upstream)

    if call.tenant == ALL_TENANTS:
        return _each((*upstream.tenant_partitions(), *upstream.resource_partitions()))
    own = upstream.owner_of(call.tenant)
    if call.tenant != SYSTEM_TENANT:
        return One(own)
    if call.namespace == NODE_LEASE_NAMESPACE:
        return _among_hosts(call, resource, upstream)
    # Node events lie beside their node, in whatever namespace; other leases with their tenant.
    events = resource.plural == _EVENTS
    if call.verb == "create" or (call.namespace and not events):
        return One(own)
    everywhere = (own, *upstream.resource_partitions())
    if collection:
        return _each(everywhere)
    return _search(everywhere, own, call.name) if events else One(own)


def spans(call: Call, resource: Resource) -> bool:
    """Whether a collection is of all partitions of a kind, even while there is only one."""
    if resource.home is Home.RESOURCE_PARTITION or resource.gvr == _TENANTS:
        return True
    return call.tenant == ALL_TENANTS or (
        resource.home is not Home.TENANT_PARTITION
        and call.tenant == SYSTEM_TENANT
        and (call.namespace == NODE_LEASE_NAMESPACE or resource.plural == _EVENTS)
    )


def _among_hosts(call: Call, resource: Resource, upstream: Upstream) -> One | Each | Search:
    partitions = upstream.resource_partitions()
    if not partitions:
        raise errors.Unavailable("no resource partition is known yet")
    if call.verb in _COLLECTION:
        return _each(partitions)
    name = call.name or name_of(call, resource)
    return _search(partitions, by_hash(name, upstream.taking_nodes() or partitions), name)


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


def _named_or_new(call: Call, resource: Resource) -> tuple[str, str]:
    """The tenant, and the storage cluster that it would be made on; "" when it is not made."""
    if call.verb not in ("create", "patch"):
        return call.name, ""
    storage = (_sent(call, resource).get("spec") or {}).get("storageClusterId", "")
    name = call.name or name_of(call, resource)
    if not name:
        # A generated name would only be known to a partition that need not own it.
        raise errors.BadRequest("a Tenant needs metadata.name")
    return name, storage


def name_of(call: Call, resource: Resource) -> str:
    """metadata.name of the object that was sent; empty when it has none or cannot be read."""
    name = _sent(call, resource).get("metadata", {}).get("name", "")
    return name if isinstance(name, str) else ""


def _sent(call: Call, resource: Resource) -> dict[str, Any]:
    """The object; empty when it cannot be read.

    The codec does it because it survives whatever is sent; PyYAML alone overflows the C stack.
    """
    try:
        return codec.decode_object(call.body, call.content_type, resource, codec.IGNORE).obj
    except errors.Failure:
        return {}  # The partition says what is wrong with it.
