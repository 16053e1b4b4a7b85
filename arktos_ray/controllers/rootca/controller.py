"""Keeps the ConfigMap `kube-root-ca.crt` in every namespace: pods know the API by it."""

from __future__ import annotations

from arktos_ray.api.errors import AlreadyExists, Forbidden, NotFound
from arktos_ray.api.names import Key
from arktos_ray.client.index import key_of
from arktos_ray.controllers.loop import Controller, ControllerClient, Loop, Parts
from arktos_ray.controllers.rootca.plan import Create, Object, Update, plan
from arktos_ray.tenancy.accounts import ROOT_CA

NAME = "root-ca-cert-publisher"

REFUSED_WAIT_S = 5.0


class RootCa(Controller):
    def __init__(self, parts: Parts) -> None:
        self._client = ControllerClient(parts.client, NAME)
        self._ca = parts.ca
        self._namespaces = parts.informers.of("namespaces", **parts.range.selectors())
        self._maps = parts.informers.of("configmaps", fieldSelector=f"metadata.name={ROOT_CA}")
        self._loop: Loop[Key] = Loop(
            NAME, self.reconcile, parts.clock, parts.tasks,
            workers=4, gates=(self._namespaces, self._maps),
        )  # fmt: skip
        self._namespaces.on_change(self._namespace_changed)
        self._maps.on_change(self._map_changed)

    def start(self) -> None:
        self._loop.start()

    def _namespace_changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None and old is None:
            self._loop.wake(key_of(new))

    def _map_changed(self, old: Object | None, new: Object | None) -> None:
        found = new or old
        if found is not None:
            meta = found["metadata"]
            self._loop.wake(Key(meta["tenant"], "", meta["namespace"]))

    async def reconcile(self, key: Key) -> float | None:
        namespace = self._namespaces.index.get(key)
        if namespace is None:
            return None
        name = Key(key.tenant, key.name, ROOT_CA)
        try:
            match plan(namespace, self._maps.index.get(name), self._ca):
                case Create(body):
                    made = await self._client.create("configmaps", key.tenant, key.name, body)
                case Update(patch):
                    made = await self._client.patch("configmaps", name, patch)
                case None:
                    return None
        except (AlreadyExists, NotFound):
            return None
        except Forbidden:
            return REFUSED_WAIT_S  # The namespace goes, or a quota is full.
        self._loop.wrote(key, self._maps, int(made["metadata"]["resourceVersion"]))
        return None
