"""Whose work a call is: its lane, its flow within the lane, and about what it costs a partition.

Lanes keep apart what must not wait for each other: the heartbeats of nodes, administrators, our
own parts, tenants. A user of a tenant is in the tenants' lane, whatever they ask for and whatever
groups they have; only the system tenant and our own parts are anywhere else.

Costs are microseconds of a partition's event loop, measured on two busy cores; being right within a
factor of two is enough, since they only decide who goes next. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from arktos_ray.api.calls import Call
from arktos_ray.api.names import NODE_LEASE_NAMESPACE, SYSTEM_TENANT

HEARTBEATS, ADMINISTRATORS, SYSTEM, TENANTS = range(4)
NAMES = ("heartbeats", "administrators", "system", "tenants")
# Heartbeats are few and small, and nodes without one are taken for dead: always first. The others
# have what they need while they need little, and shares of 4:4:2 when all want everything.
WEIGHTS: tuple[int | None, ...] = (None, 4, 4, 2)

_COSTS_US = {
    "get": 15, "list": 200, "watch": 150, "create": 120, "update": 100, "patch": 120,
    "delete": 80, "deletecollection": 500,
}  # fmt: skip
_COST_OTHER_US = 100
# Decoding and validating what was sent: 1 KB costs 20 us, most of it in the verb's own figure.
_BODY_BYTES_PER_US = 128
# What is compiled when it is written, about 1 us a byte: schemas, and expressions of tenants.
_COMPILED = frozenset((
    "customresourcedefinitions.apiextensions.k8s.io",
    "validatingadmissionpolicies.admissionregistration.k8s.io",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
))  # fmt: skip
_ANONYMOUS_GROUP = "system:unauthenticated"


def lane_of(call: Call) -> int:
    user = call.user
    if user.tenant != SYSTEM_TENANT:
        return TENANTS
    if _is_heartbeat(call):
        return HEARTBEATS
    if user.trusted:
        return SYSTEM
    return TENANTS if _ANONYMOUS_GROUP in user.groups else ADMINISTRATORS


def _is_heartbeat(call: Call) -> bool:
    if call.verb not in ("update", "patch", "get", "create"):
        return False
    if call.gvr == "leases.coordination.k8s.io":
        return call.namespace == NODE_LEASE_NAMESPACE
    return call.gvr == "nodes" and call.subresource == "status"


def flow_of(call: Call, lane: int) -> str:
    """Tenants share by tenant. Administrators and parts share by name: one does not hold up
    another. All heartbeats are one flow, first come first served."""
    if lane == TENANTS:
        return call.user.tenant
    return call.user.name if lane != HEARTBEATS else ""


def cost_of(call: Call) -> int:
    """Microseconds; of a list, without its objects: see LIST_BYTES_PER_US."""
    cost = _COSTS_US.get(call.verb, _COST_OTHER_US)
    if not call.body:
        return cost
    size = len(call.body)
    return cost + (size if call.gvr in _COMPILED else size // _BODY_BYTES_PER_US)


def cost_of_all(calls: Sequence[Call]) -> int:
    return sum([cost_of(call) for call in calls])


# 10,000 pods of 3 KB are listed in some 30 ms, their way onto the socket included.
LIST_BYTES_PER_US = 1_000
