"""What an operator may ask about tenants that move: the supervisor passes it on, and keeps nothing.

tenant-move         {tenant, to} -> {from}: begin; the partition that takes it finishes it
tenant-move-cancel  {tenant, to}: give up, as long as not all is copied
tenant-moves        -> {moves: [...]}: those under way and the last ones, with `to` and pauses
tenant-homes        -> {homes: {partition: [tenants]}}; not the system tenant, which stays
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arktos_ray.actors.part import Part
from arktos_ray.api.errors import BadRequest, Conflict, Failure, NotFound
from arktos_ray.api.names import SYSTEM_TENANT, Key
from arktos_ray.tenancy.topology import DRAINING

OPERATIONS = ("tenant-move", "tenant-move-cancel", "tenant-moves", "tenant-homes")


async def operate(part: Part, asked: Mapping[str, Any]) -> dict[str, Any]:
    names = part.topology.names("tenant")
    if asked["operation"] == "tenant-moves":
        moves: list[dict[str, Any]] = []
        for name in names:
            try:
                found = await part.peer(name).request("moves", None)
            except Failure as failure:
                found = [{"tenant": "", "state": "unknown", "failure": failure.message}]
            moves += [{"to": name, **move} for move in found]
        return {"moves": moves}
    if asked["operation"] == "tenant-homes":
        homes: dict[str, list[str]] = {}
        for name, client in part.tenant_clients().items():
            found, _ = await client.list("tenants", tenant="")
            every = (tenant["metadata"]["name"] for tenant in found)
            homes[name] = [each for each in every if each != SYSTEM_TENANT]
        return {"homes": homes}
    tenant, to = str(asked.get("tenant") or ""), str(asked.get("to") or "")
    if not tenant or to not in names:
        raise BadRequest(f"expected a tenant, and to: one of {', '.join(names)}")
    if asked["operation"] == "tenant-move-cancel":
        await part.peer(to).request("move-cancel", {"tenant": tenant})
        return {"cancelled": tenant}
    if part.topology.row(to).state == DRAINING:
        raise Conflict(f"{to} is drained: it takes no tenants")
    source = await _home_of(part, tenant)
    await part.peer(to).request("move-in", {"tenant": tenant, "from": source})
    return {"from": source}


async def _home_of(part: Part, tenant: str) -> str:
    for name, client in part.tenant_clients().items():
        # Who is away is not skipped: it may be there. Who has moved it on says Moved.
        try:
            await client.get("tenants", Key("", "", tenant))
        except Failure as failure:
            if isinstance(failure, NotFound) or failure.reason == "TenantMoved":
                continue
            raise
        return name
    raise NotFound(f"there is no tenant {tenant}")
