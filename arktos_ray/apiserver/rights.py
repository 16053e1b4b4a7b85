"""The rights of every tenant of a partition, read from its store and kept up to date by it.

A tenant's are read when the first of its users asks; from then on each change that is published
counts for the next question. What is not durable yet counts for nobody.
"""

from __future__ import annotations

from collections.abc import Callable

from arktos_ray.api.errors import moved
from arktos_ray.store.moving import COMPLETE, HERE
from arktos_ray.store.records import Record
from arktos_ray.store.store import Store
from arktos_ray.tenancy.rights import Rights
from arktos_ray.tenancy.roles import BINDINGS, CLUSTER_BINDINGS, RESOURCES


class RightsOfTenants:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._tenants: dict[str, Rights] = {}
        # Told of a tenant some of whose users may have lost something.
        self.on_withdrawn: Callable[[str], None] = lambda tenant: None
        for gvr in RESOURCES:
            store.listeners[gvr] = self._published

    def of(self, tenant: str) -> Rights:
        """Raises Moved for a tenant whose roles are in another partition, or on their way."""
        if self._store.marks:
            mark = self._store.marks.get(tenant)
            if mark is not None and mark.state != HERE:
                raise moved(tenant, "" if mark.state == COMPLETE else mark.other)
        found = self._tenants.get(tenant)
        if found is None:
            found = self._tenants[tenant] = Rights()
            for gvr in RESOURCES:
                for record in self._store.table(gvr).range(f"{tenant}/"):
                    found.put(gvr, record.key.namespace, record.decode())
        return found

    def forget(self, tenant: str) -> None:
        """It came, or went: what is in the store is not what was published."""
        self._tenants.pop(tenant, None)

    def _published(self, gvr: str, record: Record, previous: Record | None) -> None:
        key = record.key
        rights = self._tenants.get(key.tenant)
        if rights is None:
            return
        if record.deleted:
            rights.remove(gvr, key.namespace, key.name)
        else:
            rights.put(gvr, key.namespace, record.decode())
        # A binding that was not there before only gives.
        if record.deleted or previous is not None or gvr not in (BINDINGS, CLUSTER_BINDINGS):
            self.on_withdrawn(key.tenant)
