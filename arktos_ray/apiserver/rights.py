"""The rights of every tenant of a partition, read from its store and kept up to date by it.

A tenant's are read when the first of its users asks; from then on each change that is published
counts for the next question. What is not durable yet counts for nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from arktos_ray.api.calls import User
from arktos_ray.api.errors import Unauthorized, moved
from arktos_ray.api.names import ALL_TENANTS
from arktos_ray.store.moving import COMPLETE, HERE, TENANTS
from arktos_ray.store.records import Record
from arktos_ray.store.store import Store
from arktos_ray.tenancy import quota
from arktos_ray.tenancy.accounts import ACCOUNTS, PODS, SECRETS
from arktos_ray.tenancy.nodes import Need, refers
from arktos_ray.tenancy.rights import Rights
from arktos_ray.tenancy.roles import BINDINGS, CLUSTER_BINDINGS, RESOURCES

# Accounts, pods and secrets of which we know the uid, 150 bytes each. When full, all are forgotten
# and decoded again (3 us each).
UIDS_MAX = 20_000


class RightsOfTenants:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._tenants: dict[str, Rights] = {}
        # Told of a tenant some of whose users may have lost something.
        self.on_withdrawn: Callable[[str], None] = lambda tenant: None
        self._uids: dict[tuple[str, str], tuple[Record, str]] = {}
        # What the tokens behind open watches rest on: (gvr, path) -> how many.
        self._relied_on: Counter[tuple[str, str]] = Counter()
        for gvr in (ACCOUNTS, PODS, SECRETS):
            store.listeners[gvr] = self._is_there_still
        # Tenants whose users are refused, whatever their roles.
        self.suspended: set[str] = set()
        for gvr in RESOURCES:
            store.listeners[gvr] = self._published
        store.listeners[TENANTS] = self._tenant_published
        for record in store.table(TENANTS).range():
            if b'"suspended":true' in record.body:
                self._judge(record.key.name, record)

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

    def check_credential(self, user: User) -> None:
        """Raises Unauthorized when what the user's token rests on is gone; Moved when it may be
        elsewhere. 1.2 us for an account alone."""
        self.of(user.tenant)
        for gvr, path, uid in user.credential:
            record = self._store.get(gvr, path)
            if record is None or self._uid_of(gvr, record) != uid:
                raise Unauthorized("Unauthorized")

    def _uid_of(self, gvr: str, record: Record) -> str:
        known = self._uids.get((gvr, record.path))
        if known is None or known[0] is not record:
            if len(self._uids) >= UIDS_MAX:
                self._uids.clear()
            known = self._uids[gvr, record.path] = (record, record.decode()["metadata"]["uid"])
        return known[1]

    def node_needs(self, node: str, tenant: str, namespace: str, need: Need) -> bool:
        """Whether a pod that is bound to the node makes this its business. 0.1 us for each pod of
        the namespace, 5 more for each of the node."""
        if not tenant or not namespace or tenant == ALL_TENANTS:
            return False
        pods = self._store.table(PODS)
        if need.gvr == PODS and need.name:
            record = self._store.get(PODS, f"{tenant}/{namespace}/{need.name}")
            return record is not None and record.node == node
        bound = (r for r in pods.range(f"{tenant}/{namespace}/") if r.node == node)
        if need.gvr == PODS:
            return any(True for _ in bound)
        return any(refers(record.decode(), need.gvr, need.name) for record in bound)

    @contextmanager
    def relied_on(self, user: User) -> Iterator[None]:
        """While somebody watches by this token, its end is an end of their rights."""
        rests = [(gvr, path) for gvr, path, _ in user.credential]
        self._relied_on.update(rests)
        try:
            yield
        finally:
            self._relied_on.subtract(rests)
            for each in rests:
                if self._relied_on[each] <= 0:
                    del self._relied_on[each]

    def _is_there_still(self, gvr: str, record: Record, previous: Record | None) -> None:
        if record.deleted and (gvr, record.path) in self._relied_on:
            tenant = record.key.tenant
            rights = self._tenants.get(tenant)
            if rights is not None:
                rights.version += 1
            self.on_withdrawn(tenant)

    def forget(self, tenant: str) -> None:
        """It came, or went: what is in the store is not what was published."""
        self._tenants.pop(tenant, None)
        self._judge(tenant, self._store.get(TENANTS, f"//{tenant}"))

    def _judge(self, tenant: str, record: Record | None) -> None:
        if record is not None and not record.deleted and quota.is_suspended(record.decode()):
            self.suspended.add(tenant)
        else:
            self.suspended.discard(tenant)

    def _tenant_published(self, gvr: str, record: Record, previous: Record | None) -> None:
        tenant = record.key.name
        was = tenant in self.suspended
        self._judge(tenant, record)
        if not was and tenant in self.suspended:
            found = self._tenants.get(tenant)
            if found is not None:
                found.version += 1  # Open watches look again.
            self.on_withdrawn(tenant)

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
