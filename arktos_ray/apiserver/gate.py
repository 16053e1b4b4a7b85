"""Who is served here: tenants that were moved, are just moving, or are held for their cut-over.

A call that is refused here was not executed, and its failure (Moved) says whom to ask; who is told
to wait asks `settled`. Reads of a held tenant are answered: it does not change.
"""

from __future__ import annotations

import asyncio

from arktos_ray.api.calls import Call
from arktos_ray.api.errors import moved
from arktos_ray.store.moving import ARRIVING, COMPLETE, DEPARTED, TENANTS
from arktos_ray.store.store import Store

_READS = ("get", "list", "watch")
_COLLECTIONS = ("list", "watch")


class Gate:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.held: set[str] = set()  # tenants whose writes wait
        self._waiting: list[asyncio.Future[None]] = []

    def check(self, call: Call) -> None:
        """Raises Moved."""
        if self._store.marks or self.held:
            one = call.gvr == TENANTS and call.verb not in _COLLECTIONS
            tenant = call.name if one else call.tenant
            self.check_tenant(tenant, writes=call.verb not in _READS)

    def check_tenant(self, tenant: str, *, writes: bool) -> None:
        """Raises Moved."""
        mark = self._store.marks.get(tenant)
        if mark is not None and mark.state in (DEPARTED, ARRIVING):
            # While it arrives nobody should ask here, but old news may have sent them.
            raise moved(tenant, mark.other)
        if self._is_unsettled(tenant, writes):
            raise moved(tenant, "")

    def _is_unsettled(self, tenant: str, writes: bool = True) -> bool:
        mark = self._store.marks.get(tenant)
        return (mark is not None and mark.state == COMPLETE) or (writes and tenant in self.held)

    async def settled(self, tenant: str) -> None:
        """Waits until calls of the tenant are answered, or sent elsewhere."""
        while self._is_unsettled(tenant):
            await self._change()

    async def all_settled(self) -> None:
        """Waits while somebody may be neither in another partition any more nor here yet."""
        while any(mark.state == COMPLETE for mark in self._store.marks.values()):
            await self._change()

    async def _change(self) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def wake(self) -> None:
        """Something of the above changed."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)
