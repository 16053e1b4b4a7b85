"""Keeps the ServiceAccount `default` in every namespace; brings it back when it is deleted."""

from __future__ import annotations

from arktos_ray.api.errors import AlreadyExists, Forbidden, NotFound
from arktos_ray.api.names import Key
from arktos_ray.client.index import key_of
from arktos_ray.controllers.loop import Controller, ControllerClient, Loop, Parts
from arktos_ray.controllers.serviceaccount.plan import DEFAULT, Object, plan

NAME = "service-account-controller"

REFUSED_WAIT_S = 5.0


class ServiceAccounts(Controller):
    def __init__(self, parts: Parts) -> None:
        self._client = ControllerClient(parts.client, NAME)
        self._namespaces = parts.informers.of("namespaces", **parts.range.selectors())
        self._accounts = parts.informers.of(
            "serviceaccounts", fieldSelector=f"metadata.name={DEFAULT}"
        )
        self._loop: Loop[Key] = Loop(
            NAME, self.reconcile, parts.clock, parts.tasks,
            workers=4, gates=(self._namespaces, self._accounts),
        )  # fmt: skip
        self._namespaces.on_change(self._namespace_changed)
        self._accounts.on_change(self._account_changed)

    def start(self) -> None:
        self._loop.start()

    def _namespace_changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None and old is None:
            self._loop.wake(key_of(new))

    def _account_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None and old is not None:
            meta = old["metadata"]
            self._loop.wake(Key(meta["tenant"], "", meta["namespace"]))

    async def reconcile(self, key: Key) -> float | None:
        namespace = self._namespaces.index.get(key)
        if namespace is None:
            return None
        there = Key(key.tenant, key.name, DEFAULT) in self._accounts.index
        action = plan(namespace, there)
        if action is not None:
            try:
                made = await self._client.create(
                    "serviceaccounts", key.tenant, key.name, action.body
                )
                self._loop.wrote(key, self._accounts, int(made["metadata"]["resourceVersion"]))
            except (AlreadyExists, NotFound):
                pass
            except Forbidden:
                # The namespace has begun to go, and our view does not know yet; or it is
                # something else (a quota), that may pass.
                return REFUSED_WAIT_S
        return None
