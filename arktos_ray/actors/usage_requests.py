"""What operators may ask about tenants: the supervisor asks everybody, and keeps nothing.

tenant-usage  {tenant?} -> {tenants: [{tenant, partition, objects, bytes, watches, requests, limits,
              suspended, kinds?}], silent: [...]}: of one tenant, or of all; `kinds` is of one only
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from arktos_ray.actors.part import Part
from arktos_ray.api.errors import Failure, NotFound, Unavailable
from arktos_ray.store.moving import TENANTS
from arktos_ray.store.store import Store
from arktos_ray.tenancy.quota import Allowed, allowed_of, is_suspended

OPERATIONS = ("tenant-usage",)


async def operate(part: Part, asked: Mapping[str, Any], ingresses: Iterable[str]) -> dict[str, Any]:
    tenant = str(asked.get("tenant") or "")
    silent: list[str] = []

    async def ask(name: str, otherwise: Any) -> Any:
        try:
            return await part.peer(name).request("usage", tenant)
        except Failure:
            silent.append(name)
            return otherwise

    names = part.topology.names("tenant")
    found, open_ = await asyncio.gather(
        asyncio.gather(*(ask(name, []) for name in names)),
        asyncio.gather(*(ask(name, {}) for name in ingresses)),
    )
    rows = [{"partition": name, **row} for name, of in zip(names, found, strict=True) for row in of]
    if tenant and not rows:
        if any(name in silent for name in names):
            raise Unavailable(f"{', '.join(sorted(silent))} did not answer; try again")
        raise NotFound(f'tenants "{tenant}" not found')
    for row in rows:
        for what in ("watches", "requests"):
            row[what] = sum(of.get(row["tenant"], {}).get(what, 0) for of in open_)
    return {"tenants": rows, "silent": sorted(silent)}


def usage_of(store: Store, tenant: str, defaults: Allowed) -> list[dict[str, Any]]:
    """What a partition says of its tenants: 8 us each, for all of them together."""
    if tenant:
        own = store.get(TENANTS, f"//{tenant}")
        records = [] if own is None else [own]
    else:
        records = list(store.table(TENANTS).range())
    rows = []
    for record in records:
        obj = record.decode()
        name = obj["metadata"]["name"]
        objects, size = store.usage(name)
        limits = allowed_of(obj, defaults)._asdict()
        row: dict[str, Any] = {
            "tenant": name, "objects": objects, "bytes": size, "suspended": is_suspended(obj),
            "limits": {kind: limit for kind, limit in limits.items() if limit is not None},
        }  # fmt: skip
        if tenant:
            row["kinds"] = {gvr: list(used) for gvr, used in store.usage_by_kind(name).items()}
        rows.append(row)
    return rows
