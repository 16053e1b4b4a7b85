"""Directory: which partition owns which tenant, as the partitions themselves say.

A tenant is where its Tenant object is. A name that nobody has yet goes where the rule says
(tenancy/assignment.py), the same for every ingress, so a name cannot be created twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import orjson

from arktos_ray.api.calls import DELETED
from arktos_ray.api.errors import Failure, Unavailable
from arktos_ray.base.clock import Clock
from arktos_ray.client.port import Client
from arktos_ray.tenancy.assignment import assign

log = logging.getLogger(__name__)

_RETRY_S = 0.5


class Directory:
    def __init__(self, partitions: dict[str, Client], rule: str, clock: Clock) -> None:
        self._partitions, self._rule, self._clock = partitions, rule, clock
        self._names = list(partitions)
        self._owners: dict[str, tuple[str, str]] = {}  # tenant -> (partition, uid)
        self._untold = set(partitions)  # who has not said yet which tenants it has
        self._told = asyncio.Event()

    def owner_of(self, tenant: str) -> str:
        known = self._owners.get(tenant)
        return known[0] if known is not None else assign(tenant, self._names, self._rule)

    def uid_of(self, tenant: str) -> str | None:
        """None when there is no such tenant. Raises Unavailable while that cannot be known: a
        credential must not be called wrong because its partition is still starting."""
        known = self._owners.get(tenant)
        if known is not None:
            return known[1]
        if self._untold:
            who = ", ".join(sorted(self._untold))
            raise Unavailable(f"{who} has not said yet which tenants there are; try again")
        return None

    async def told(self, deadline_s: float) -> None:
        """Wait until every partition has said which tenants it has, or the deadline."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._told.wait()

    async def follow(self, name: str) -> None:
        """Keep up with the tenants of one partition, for ever."""
        client = self._partitions[name]
        while True:
            try:
                tenants, revision = await client.list("tenants", tenant="")
                present = {t["metadata"]["name"]: t["metadata"]["uid"] for t in tenants}
                for tenant, (owner, _) in list(self._owners.items()):
                    if owner == name and tenant not in present:
                        del self._owners[tenant]
                self._owners.update({t: (name, uid) for t, uid in present.items()})
                self._untold.discard(name)
                if not self._untold:
                    self._told.set()
                watch = client.watch("tenants", tenant="", resourceVersion=str(revision))
                async for events in watch:
                    for event in events:
                        meta = orjson.loads(event.body)["metadata"]
                        if event.type == DELETED:
                            # Another partition may have it by now.
                            if self._owners.get(meta["name"], ("", ""))[0] == name:
                                del self._owners[meta["name"]]
                        else:
                            self._owners[meta["name"]] = (name, meta["uid"])
            except Failure as failure:
                log.info("directory: %s: %s", name, failure)
            await self._clock.sleep(_RETRY_S)
