"""Directory: which partition owns which tenant, as the partitions themselves say.

A tenant is where its Tenant object is. A name that nobody has yet goes where the rule says
(tenancy/assignment.py), among the partitions that take new tenants. Every ingress must say the
same, or a name could be made twice. While the topology changes they do not: so a Tenant is made
with the version of the topology that chose its partition, a tenant partition refuses versions
older than the one it knows, and an ingress goes over to a new version only when it has seen every
tenant that was made before the partitions knew it (docs/flows/topology.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from arktos_ray.api.calls import BOOKMARK, DELETED, LEFT
from arktos_ray.api.errors import Failure, Invalid, Unavailable
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.base.clock import Clock
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.informer import ask_progress
from arktos_ray.client.port import Client
from arktos_ray.tenancy.assignment import assign, stored_in
from arktos_ray.tenancy.quota import NO_LIMITS, Allowed, allowed_of, is_suspended
from arktos_ray.tenancy.topology import Topology

log = logging.getLogger(__name__)

_RETRY_S = 0.5
# Before anybody added, drained or moved anything, every tenant is where the rule says.
_FIRST_VERSION = 1


class Directory:
    def __init__(
        self, topology: Topology, client_of: Callable[[str], Client], rule: str, clock: Clock,
        tasks: Tasks,
    ) -> None:  # fmt: skip
        self._client_of, self._rule, self._clock, self._tasks = client_of, rule, clock, tasks
        self._owners: dict[str, tuple[str, str]] = {}  # tenant -> (partition, uid)
        # What their Tenants say of them, of those that say something (tenancy/quota.py).
        self.allowed: dict[str, Allowed] = {}
        self.suspended: set[str] = set()
        self._reached: dict[str, int] = {}  # partition -> the revision up to which we know it
        self._following: dict[str, asyncio.Task[None]] = {}
        self._untold: set[str] = set()  # who has not said yet which tenants it has
        self._told = asyncio.Event()
        # What new tenants are assigned by; the next one, and what must be known before.
        self._assigning = topology
        # Who starts may have a topology that the partitions do not know yet.
        self._sure = topology.version <= _FIRST_VERSION
        self._next: tuple[Topology, Mapping[str, int]] | None = None
        self._follow(topology)

    @property
    def version(self) -> int:
        """Of the topology that new tenants are assigned by."""
        return self._assigning.version

    def owner_of(self, tenant: str, storage: str = "") -> str:
        """storage: the storage cluster of a tenant that is to be made, "" for whichever.

        Raises Unavailable while that cannot be known.
        """
        known = self._owners.get(tenant)
        if known is not None:
            return known[0]
        if tenant == SYSTEM_TENANT or not tenant:
            return self._assigning.system
        if self.version > _FIRST_VERSION:
            self._check_told()  # It may be anywhere.
            if not self._sure:
                raise Unavailable("the partitions have just changed; try again")
        rows = self._assigning.taking("tenant")
        try:
            return assign(tenant, stored_in(storage, rows), self._rule)
        except Invalid:
            # A partition says what is wrong, to those who may make tenants.
            return self._assigning.system

    def uid_of(self, tenant: str) -> str | None:
        """None when there is no such tenant. Raises Unavailable while that cannot be known: a
        credential must not be called wrong because its partition is still starting."""
        known = self._owners.get(tenant)
        if known is not None:
            return known[1]
        self._check_told()
        return None

    def moved(self, tenant: str, to: str) -> None:
        """Its old partition says so; the new one may not have said yet that it has it."""
        known = self._owners.get(tenant)
        if known is not None and to in self._following:
            self._owners[tenant] = (to, known[1])

    def _check_told(self) -> None:
        if self._untold:
            who = ", ".join(sorted(self._untold))
            raise Unavailable(f"{who} has not said yet which tenants there are; try again")

    async def told(self, deadline_s: float) -> None:
        """Wait until every partition has said which tenants it has, or the deadline."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._told.wait()

    # The topology

    def regroup(self, topology: Topology, acks: Mapping[str, int]) -> None:
        """acks: at which of its revisions each tenant partition knew this topology."""
        self._follow(topology)
        self._next = (topology, acks)
        self._go_over()
        for name in self._following:
            self._tasks.start(self._hurry(name, acks.get(name, 0)), f"directory {name} progress")

    def _follow(self, topology: Topology) -> None:
        names = topology.names("tenant")
        for name in [name for name in self._following if name not in names]:
            self._following.pop(name).cancel()
            self._owners = {t: owner for t, owner in self._owners.items() if owner[0] != name}
            self._heard(name)
        for name in names:
            if name not in self._following:
                self._untold.add(name)
                self._told.clear()
                work = self._keep_up(name, self._client_of(name))
                self._following[name] = self._tasks.start(work, f"directory {name}")

    def _heard(self, name: str) -> None:
        self._untold.discard(name)
        if not self._untold:
            self._told.set()

    async def _hurry(self, name: str, revision: int) -> None:
        with contextlib.suppress(Failure):  # Asked again by nobody: a new watch tells it as well.
            await ask_progress(self._client_of(name), revision)

    def _go_over(self) -> None:
        if self._next is None:
            return
        topology, acks = self._next
        behind = [n for n in acks if n in self._following and self._reached.get(n, 0) < acks[n]]
        if not behind and not self._untold:
            self._assigning, self._next, self._sure = topology, None, True
            log.info("directory: new tenants by topology %d", topology.version)

    # The tenants of one partition

    async def _keep_up(self, name: str, client: Client) -> None:
        while True:
            try:
                body = await client.listed("tenants", tenant="", moves="true")
                tenants, revision = body["items"], int(body["metadata"]["resourceVersion"])
                left = body["metadata"].get("moves", {}).get("left", {})
                present = {t["metadata"]["name"]: t["metadata"]["uid"] for t in tenants}
                for tenant, (owner, _) in list(self._owners.items()):
                    if owner == name and tenant not in present and tenant not in left:
                        self._forget(tenant)
                for tenant, (to, uid) in left.items():
                    # Of who starts between the two: the new one has not shown it yet.
                    if self._owners.get(tenant, (name, ""))[0] == name and to in self._following:
                        self._owners[tenant] = (to, uid)
                self._owners.update({t: (name, uid) for t, uid in present.items()})
                for each in tenants:
                    self._learn(each)
                self._heard(name)
                self._reach(name, revision)
                watch = client.watch(
                    "tenants", tenant="", resourceVersion=str(revision),
                    allowWatchBookmarks="true", progress="true", moves="true",
                )  # fmt: skip
                async for events in watch:
                    for event in events:
                        if event.type in (BOOKMARK, LEFT):
                            continue  # Where it went, the other one says.
                        tenant = orjson.loads(event.body)
                        meta = tenant["metadata"]
                        if event.type == DELETED:
                            # Another partition may have it by now.
                            if self._owners.get(meta["name"], ("", ""))[0] == name:
                                self._forget(meta["name"])
                        else:
                            self._owners[meta["name"]] = (name, meta["uid"])
                            self._learn(tenant)
                    self._reach(name, events[-1].revision)
            except Failure as failure:
                log.info("directory: %s: %s", name, failure)
            await self._clock.sleep(_RETRY_S)

    def _learn(self, tenant: dict[str, Any]) -> None:
        name, allowed = tenant["metadata"]["name"], allowed_of(tenant)
        if allowed != NO_LIMITS:
            self.allowed[name] = allowed
        else:
            self.allowed.pop(name, None)
        if is_suspended(tenant):
            self.suspended.add(name)
        else:
            self.suspended.discard(name)

    def _forget(self, tenant: str) -> None:
        del self._owners[tenant]
        self.allowed.pop(tenant, None)
        self.suspended.discard(tenant)

    def _reach(self, name: str, revision: int) -> None:
        self._reached[name] = max(self._reached.get(name, 0), revision)
        self._go_over()
