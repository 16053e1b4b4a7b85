"""What becomes of an approved request for a client certificate. Pure.

Whoever may approve in a tenant decides about users of that tenant, and of no other: a certificate
says `O=tenant:T` whatever was asked for, and its groups are units. Only certificates of nodes,
which are the system tenant's, keep the form of Kubernetes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from arktos_ray.api.kinds.certificates import (
    APPROVED,
    CLIENT,
    DENIED,
    FAILED,
    KUBELET_CLIENT,
    is_so,
)
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.tenancy.nodes import NODE_PREFIX, NODES_GROUP

Object = dict[str, Any]

SIGNERS = (CLIENT, KUBELET_CLIENT)
SECONDS_MAX = 365 * 24 * 3600
_CLIENT_USAGES = frozenset(("digital signature", "key encipherment", "client auth"))


class Asked(NamedTuple):
    """What is in the request itself."""

    common_name: str
    organizations: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    names: bool = False  # of hosts and the like


@dataclass(frozen=True, slots=True)
class Sign:
    common_name: str
    organizations: tuple[str, ...]
    units: tuple[str, ...]
    seconds: int
    why: str


@dataclass(frozen=True, slots=True)
class Fail:
    why: str


def is_due(csr: Object) -> bool:
    """Whether it waits for us."""
    return (
        (csr.get("spec") or {}).get("signerName") in SIGNERS
        and is_so(csr, APPROVED)
        and not is_so(csr, DENIED)
        and not is_so(csr, FAILED)
        and not (csr.get("status") or {}).get("certificate")
    )


def plan(csr: Object, asked: Asked | None) -> Sign | Fail:
    """asked: None when the request cannot be read."""
    spec, tenant = csr["spec"], csr["metadata"]["tenant"]
    if asked is None:
        return Fail("the request cannot be read")
    if not asked.common_name:
        return Fail("the subject has no common name")
    usages = frozenset(spec.get("usages") or ())
    if "client auth" not in usages or not usages <= _CLIENT_USAGES:
        return Fail("usages are: client auth, and perhaps digital signature and key encipherment")
    seconds = min(spec.get("expirationSeconds") or SECONDS_MAX, SECONDS_MAX)
    if spec["signerName"] == KUBELET_CLIENT:
        return _of_node(tenant, asked, seconds)
    if asked.names:
        return Fail("a client certificate has no names of hosts")
    # A user is told apart by name and tenant; two organizations would be two tenants.
    groups = dict.fromkeys([*asked.organizations, *asked.units])
    units = tuple(group for group in groups if group and not group.startswith("tenant:"))
    why = f"approved for a user of {tenant}"
    return Sign(asked.common_name, (f"tenant:{tenant}",), units, seconds, why)


def _of_node(tenant: str, asked: Asked, seconds: int) -> Sign | Fail:
    if tenant != SYSTEM_TENANT:
        return Fail("nodes are of the system tenant")
    if not asked.common_name.startswith(NODE_PREFIX) or asked.common_name == NODE_PREFIX:
        return Fail(f"the common name of a node begins with {NODE_PREFIX}")
    if asked.organizations != (NODES_GROUP,) or asked.units:
        return Fail(f"the organization of a node is {NODES_GROUP}, and it has no unit")
    if asked.names:
        return Fail("a client certificate has no names of hosts")
    return Sign(asked.common_name, (NODES_GROUP,), (), seconds, "approved for a node")
