"""What operators allow a tenant: `spec.limits` and `spec.suspended` of its Tenant. Pure.

    spec:
      limits: {objects: 10000, bytes: 1Gi, watches: 100, requests: 50}
      suspended: true

Objects and bytes are held to exactly, by the partition that has them all. Watches and requests are
those that are open at one ingress. What is left out is what arktos.yaml allows every tenant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from arktos_ray.api import quantity
from arktos_ray.api.errors import Forbidden
from arktos_ray.api.names import SYSTEM_TENANT

Object = dict[str, Any]
KINDS = ("objects", "bytes", "watches", "requests")


class Allowed(NamedTuple):
    """None: as many as there is room for."""

    objects: int | None = None
    bytes: int | None = None
    watches: int | None = None
    requests: int | None = None


NO_LIMITS = Allowed()


def allowed_of(tenant: Object, defaults: Allowed = NO_LIMITS) -> Allowed:
    """By this Tenant, or by default. The system tenant has no limits."""
    if tenant["metadata"]["name"] == SYSTEM_TENANT:
        return NO_LIMITS
    limits = (tenant.get("spec") or {}).get("limits")
    if not limits:
        return defaults
    given = {kind: limits[kind] for kind in KINDS if limits.get(kind) is not None}
    if "bytes" in given:
        given["bytes"] = quantity.value(given["bytes"])
    return defaults._replace(**given)


def is_suspended(tenant: Object) -> bool:
    return bool((tenant.get("spec") or {}).get("suspended"))


def check_room(
    allowed: Allowed, tenant: str, what: str, objects: int, size: int, used: tuple[int, int]
) -> None:
    """objects, size: how many more. used: objects and bytes. Raises Forbidden, which names each
    limit that would be passed; what takes no more of something passes, however much is used."""
    over = []
    for name, more, has, limit in (
        ("objects", objects, used[0], allowed.objects),
        ("bytes", size, used[1], allowed.bytes),
    ):
        if limit is not None and more > 0 and has + more > limit:
            over.append((name, more, has, limit))
    if over:
        raise Forbidden(
            f'{what} is forbidden: exceeded the limits of tenant "{tenant}": requested: '
            + ",".join(f"{name}={more}" for name, more, _, _ in over)
            + ", used: " + ",".join(f"{name}={has}" for name, _, has, _ in over)
            + ", limited: " + ",".join(f"{name}={limit}" for name, _, _, limit in over)
        )  # fmt: skip


def suspended(tenant: str) -> Forbidden:
    """What users of that tenant are told, whatever they ask for."""
    return Forbidden(
        f'tenant "{tenant}" is suspended: its users are refused until an operator resumes it;'
        " its workloads go on"
    )
