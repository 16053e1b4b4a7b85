"""ControllerShard: the controllers of one range of hashKeys, over every partition.

Tenants never cross partitions, so each partition gets a set of controllers of its own. Keeps
nothing: what it knows is rebuilt from lists and watches after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arktos_ray.actors.part import Part
from arktos_ray.base.certificates import Signer
from arktos_ray.controllers.registry import Controllers
from arktos_ray.tenancy.topology import Topology


class ControllerShard(Part):
    """Spec adds: shard (0-based) and shards (how many); ca, by which clients know the API;
    signer_dir, the CA of client certificates, where this shard signs; default_network, a template
    (api/networks.py)."""

    role = "controller shard"

    async def open(self) -> None:
        low, high = hash_range(self.spec.get("shard", 0), self.spec.get("shards", 1))
        self.controllers = Controllers(
            self.clock,
            self.ids,
            self.tasks,
            low,
            high,
            ca=self.spec.get("ca", ""),
            signer=_signer(self.spec.get("signer_dir")),
            network=self.spec.get("default_network"),
        )
        self.controllers.update(self.tenant_clients(), self.resource_clients())

    async def regroup(self, old: Topology, acks: Mapping[str, int]) -> None:
        self.controllers.update(self.tenant_clients(), self.resource_clients())

    async def stats(self) -> dict[str, Any]:
        return {"controllers": sorted(self.controllers.running)}


def _signer(directory: str | None) -> Signer | None:
    return Signer(Path(directory)) if directory else None


HASH_KEY_MAX = 9223372036854775807


def hash_range(shard: int, shards: int) -> tuple[int, int]:
    """(L, U]: the hashKeys of a shard (spec/scaleout.md 8.2). The first one includes 0."""
    interval = HASH_KEY_MAX // shards
    low = shard * interval
    return low, HASH_KEY_MAX if shard == shards - 1 else (shard + 1) * interval
