"""Claims: a tenant's name is made once, also where there are several storage clusters.

Within one storage cluster the name alone chooses the partition, so two who make it meet there.
With several, its spec.storageClusterId chooses as well, and two could make it side by side. So a
partition claims the name, then asks those of the other clusters whether they have it or claim it,
and makes it only when all of them said no. Of two that do so at once, at least one is told of the
other. A claim is memory: who loses it has lost the process, and its log, that would have made it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from arktos_ray.actors.part import Part
from arktos_ray.api.errors import AlreadyExists, Failure, Unavailable
from arktos_ray.store.moving import STAGING, TENANTS
from arktos_ray.store.store import Store

# Of who is asked; creations of tenants are refused while one of them is away.
_DEADLINE_S = 3.0


class Claims:
    def __init__(self, part: Part, store: Store) -> None:
        self._part, self._store = part, store
        self._claimed: Counter[str] = Counter()
        self._rivals: tuple[str, ...] = ()

    def regroup(self) -> None:
        rows = [row for row in self._part.topology.partitions if row.kind == "tenant"]
        own = {row.storage for row in rows if row.name == self._part.name}
        self._rivals = tuple(row.name for row in rows if row.storage not in own)

    @property
    def needed(self) -> bool:
        return bool(self._rivals)

    @contextlib.contextmanager
    def held(self, tenant: str) -> Iterator[None]:
        """From before the question until the tenant is in the log, or is not made."""
        self._claimed[tenant] += 1
        try:
            yield
        finally:
            self._claimed[tenant] -= 1
            if not self._claimed[tenant]:
                del self._claimed[tenant]

    async def check(self, tenant: str) -> None:
        """Raises AlreadyExists, or Unavailable when that cannot be known just now."""
        await asyncio.gather(*(self._ask(rival, tenant) for rival in self._rivals))

    async def _ask(self, rival: str, tenant: str) -> None:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                known = await self._part.peer(rival).request("tenant-known", tenant)
        except (Failure, TimeoutError) as failure:
            raise Unavailable(
                f"{rival}, of another storage cluster, does not say whether it has tenant {tenant}"
            ) from failure
        if known == "made":
            raise AlreadyExists(f'{TENANTS} "{tenant}" already exists')
        if known == "claimed":
            raise Unavailable(f"tenant {tenant} is just being made in {rival}; try again")

    def known(self, tenant: Any) -> str:
        """made, claimed, or "": what `tenant-known` is answered with."""
        self._store.check_trusted()
        mark = self._store.marks.get(tenant)
        staging = mark is not None and mark.state in STAGING
        if staging or self._store.latest(TENANTS, f"//{tenant}") is not None:
            return "made"
        return "claimed" if tenant in self._claimed else ""
