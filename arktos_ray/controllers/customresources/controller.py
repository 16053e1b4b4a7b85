"""Removes the objects of definitions that are being deleted, then lets the definitions go.

Those of a kind that the system tenant shared with everybody are in every tenant partition. Asks the
partitions, never a view, whether something is left. One for a whole partition: few keys.
"""

from __future__ import annotations

from arktos_ray.api.errors import NotFound
from arktos_ray.api.names import ALL_TENANTS, Key
from arktos_ray.api.scheme import DEFINITIONS
from arktos_ray.client.index import key_of
from arktos_ray.client.port import Client
from arktos_ray.controllers.customresources import plan as planning
from arktos_ray.controllers.customresources.plan import Empty, Finish, Object
from arktos_ray.controllers.loop import Controller, ControllerClient, Loop, Parts
from arktos_ray.controllers.namespace.controller import empty
from arktos_ray.controllers.pods import is_terminating

NAME = "customresource-cleanup-controller"

LOOK_AGAIN_FIRST_S, LOOK_AGAIN_S = 0.05, 1.0


class CustomResources(Controller):
    def __init__(self, parts: Parts) -> None:
        self._client = ControllerClient(parts.client, NAME)
        self._siblings = parts.siblings
        self._definitions = parts.informers.of(DEFINITIONS)
        self._loop: Loop[Key] = Loop(
            NAME, self.reconcile, parts.clock, parts.tasks, workers=4, gates=(self._definitions,)
        )
        self._looked: set[Key] = set()
        self._definitions.on_change(self._changed)

    def start(self) -> None:
        self._loop.start()

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None and is_terminating(new):
            self._loop.wake(key_of(new))
        elif new is None and old is not None:
            self._looked.discard(key_of(old))

    async def reconcile(self, key: Key) -> float | None:
        definition = self._definitions.index.get(key)
        if definition is None or not is_terminating(definition):
            return None
        gvr, tenant = key.name, key.tenant
        clients: list[Client] = [self._client]
        if planning.is_everybodys(definition):
            tenant = ALL_TENANTS
            clients = [ControllerClient(each.client, NAME) for each in self._siblings] or clients
        left = [client for client in clients if await _is_left(client, gvr, tenant)]
        match planning.plan(definition, bool(left)):
            case Empty():
                for client in left:
                    await empty(client, (gvr,), "" if tenant == ALL_TENANTS else tenant)
                first = key not in self._looked
                self._looked.add(key)
                return LOOK_AGAIN_FIRST_S if first else LOOK_AGAIN_S
            case Finish(finalizers):
                await self._finish(key, definition, finalizers)
            case None:
                pass
        return None

    async def _finish(self, key: Key, definition: Object, finalizers: list[str]) -> None:
        meta = definition["metadata"]
        change = {
            "metadata": {
                "uid": meta["uid"], "resourceVersion": meta["resourceVersion"],
                "finalizers": finalizers or None,
            }
        }  # fmt: skip
        try:
            await self._client.patch(DEFINITIONS, key, change)
        except NotFound:
            return


async def _is_left(client: Client, gvr: str, tenant: str) -> bool:
    found, _ = await client.list(gvr, tenant=tenant, limit="1")
    return bool(found)
