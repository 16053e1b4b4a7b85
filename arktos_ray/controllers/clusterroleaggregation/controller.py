"""Keeps the rules of aggregated ClusterRoles what they gather. One for a whole partition: roles
change seldom, and those of one tenant concern each other."""

from __future__ import annotations

from arktos_ray.api.errors import NotFound
from arktos_ray.api.names import Key
from arktos_ray.client.index import key_of, tenants
from arktos_ray.controllers.clusterroleaggregation.plan import Object, plan
from arktos_ray.controllers.loop import Controller, ControllerClient, Loop, Parts
from arktos_ray.tenancy.roles import CLUSTER_ROLES

NAME = "clusterrole-aggregation-controller"


class ClusterRoleAggregation(Controller):
    def __init__(self, parts: Parts) -> None:
        self._client = ControllerClient(parts.client, NAME)
        self._roles = parts.informers.of(CLUSTER_ROLES)
        self._loop: Loop[Key] = Loop(
            NAME, self.reconcile, parts.clock, parts.tasks, workers=2, gates=(self._roles,)
        )
        self._roles.on_change(self._changed)

    def start(self) -> None:
        self._loop.start()

    def _changed(self, old: Object | None, new: Object | None) -> None:
        """Any role may be gathered by those of its tenant that gather."""
        changed = new if new is not None else old
        assert changed is not None
        for role in self._roles.index.by(tenants, changed["metadata"]["tenant"]):
            if "aggregationRule" in role:
                self._loop.wake(key_of(role))

    async def reconcile(self, key: Key) -> float | None:
        role = self._roles.index.get(key)
        if role is None:
            return None
        action = plan(role, self._roles.index.by(tenants, key.tenant))
        if action is not None:
            try:
                body = {**role, "rules": action.rules}
                written = await self._client.update(CLUSTER_ROLES, key, body)
                self._loop.wrote(key, self._roles, int(written["metadata"]["resourceVersion"]))
            except NotFound:
                return None
        return None
