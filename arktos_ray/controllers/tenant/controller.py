"""Furnishes new tenants (namespaces, the administrator's role) and empties deleted ones.

A tenant costs one batch of writes to create. Deleting one deletes its namespaces and whatever
else it holds directly; the namespace controller does the rest, and each namespace that goes wakes
its tenant. One for a whole partition.
"""

from __future__ import annotations

from arktos_ray.api import errors
from arktos_ray.api.errors import AlreadyExists, Failure
from arktos_ray.api.names import Key
from arktos_ray.client.index import key_of, tenants
from arktos_ray.controllers.ending import Empty, Finish
from arktos_ray.controllers.loop import Controller, ControllerClient, Loop, Parts
from arktos_ray.controllers.namespace.controller import custom_kinds, empty, finish, what_is_left
from arktos_ray.controllers.pods import is_terminating
from arktos_ray.controllers.tenant import plan as planning
from arktos_ray.controllers.tenant.plan import Object

NAME = "tenant-controller"

# Its last namespace wakes a tenant; this is for content that nobody here watches.
LOOK_AGAIN_S = 1.0


class Tenants(Controller):
    def __init__(self, parts: Parts) -> None:
        self._client = ControllerClient(parts.client, NAME)
        self._tenants = parts.informers.of("tenants")
        self._namespaces = parts.informers.of("namespaces")
        self._loop: Loop[Key] = Loop(
            NAME, self.reconcile, parts.clock, parts.tasks,
            workers=10, gates=(self._tenants, self._namespaces),
        )  # fmt: skip
        self._contents = planning.contents()
        self._network = parts.network
        self._furnished: set[str] = set()  # uids
        self._tenants.on_change(self._changed)
        self._namespaces.on_change(self._namespace_changed)

    def start(self) -> None:
        self._loop.start()

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self._furnished.discard(old["metadata"]["uid"])
        else:
            self._loop.wake(key_of(new))

    def _namespace_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None and old is not None:
            key = Key("", "", old["metadata"]["tenant"])
            if key in self._tenants.index:
                self._loop.wake(key)

    async def reconcile(self, key: Key) -> float | None:
        tenant = self._tenants.index.get(key)
        if tenant is None:
            return None
        if not is_terminating(tenant):
            await self._furnish(tenant)
            return None
        gvrs = (*await custom_kinds(self._client, key.name), *self._contents)
        left = await what_is_left(self._client, gvrs, key.name)
        match planning.plan(tenant, left):
            case Empty(gvrs):
                await empty(self._client, gvrs, key.name)
                return LOOK_AGAIN_S
            case Finish():
                await finish(self._client, "tenants", key, planning.FINALIZER)
            case None:
                pass
        return None

    async def _furnish(self, tenant: Object) -> None:
        name, uid = tenant["metadata"]["name"], tenant["metadata"]["uid"]
        present = [each["metadata"]["name"] for each in self._namespaces.index.by(tenants, name)]
        actions = planning.furnish(tenant, present, self._network)
        if uid in self._furnished:
            # What the administrator removed since then (the role, say) stays removed.
            actions = [action for action in actions if action.gvr == "namespaces"]
        replies = await self._client.write(
            [self._client.creating(action.gvr, name, "", action.body) for action in actions]
        )
        failure: Failure | None = None
        for reply in replies:
            if not reply.ok and not isinstance(refusal := errors.decode(reply.body), AlreadyExists):
                failure = refusal
        if failure is not None:
            raise failure
        self._furnished.add(uid)
