"""Keeps a Secret with a token for every ServiceAccount, and none for those that are gone."""

from __future__ import annotations

import contextlib

from arktos_ray.api.errors import Conflict, Forbidden, NotFound
from arktos_ray.api.kinds.config import TOKEN_TYPE
from arktos_ray.api.names import Key
from arktos_ray.client.index import key_of
from arktos_ray.controllers.loop import Controller, ControllerClient, Loop, Parts
from arktos_ray.controllers.serviceaccounttoken.plan import (
    Create,
    Delete,
    Fill,
    Object,
    account_of,
    plan,
)

NAME = "tokens-controller"

REFUSED_WAIT_S = 5.0


class ServiceAccountTokens(Controller):
    def __init__(self, parts: Parts) -> None:
        self._client = ControllerClient(parts.client, NAME)
        self._range = parts.range
        self._accounts = parts.informers.of("serviceaccounts", **parts.range.selectors())
        self._secrets = parts.informers.of("secrets", fieldSelector=f"type={TOKEN_TYPE}")
        self._by_account: dict[Key, dict[str, Object]] = {}
        self._loop: Loop[Key] = Loop(
            NAME, self.reconcile, parts.clock, parts.tasks,
            workers=4, gates=(self._accounts, self._secrets),
        )  # fmt: skip
        self._accounts.on_change(self._account_changed)
        self._secrets.on_change(self._secret_changed)

    def start(self) -> None:
        self._loop.start()

    def _account_changed(self, old: Object | None, new: Object | None) -> None:
        found = new or old
        if found is not None:
            self._loop.wake(key_of(found))

    def _secret_changed(self, old: Object | None, new: Object | None) -> None:
        for secret, present in ((old, False), (new, True)):
            if secret is None or not account_of(secret):
                continue
            key = _account_key(secret)
            name = secret["metadata"]["name"]
            if present:
                self._by_account.setdefault(key, {})[name] = secret
            else:
                known = self._by_account.get(key, {})
                known.pop(name, None)
                if not known:
                    self._by_account.pop(key, None)
            self._loop.wake(key)

    async def reconcile(self, key: Key) -> float | None:
        account = self._accounts.index.get(key)
        secrets = [secret for _, secret in sorted(self._by_account.get(key, {}).items())]
        if account is None:
            if not secrets:
                return None
            # The views may not be equally far, and it may be in another shard's range.
            try:
                account = await self._client.get("serviceaccounts", key)
            except NotFound:
                account = None
            if account is not None and account["metadata"]["hashKey"] not in self._range:
                return None
        action = plan(account, secrets)
        try:
            match action:
                case Create(body):
                    made = await self._client.create("secrets", key.tenant, key.namespace, body)
                    self._wrote(key, made)
                case Delete(named):
                    for name, uid in named:
                        await self._delete(Key(key.tenant, key.namespace, name), uid)
                case Fill(name, annotations):
                    body = {"metadata": {"annotations": annotations}}
                    secret = Key(key.tenant, key.namespace, name)
                    self._wrote(key, await self._client.patch("secrets", secret, body))
                    return 0.0  # There may be more to do.
        except NotFound:
            pass
        except Forbidden:
            return REFUSED_WAIT_S  # Its namespace goes, or a quota is full.
        return None

    async def _delete(self, key: Key, uid: str) -> None:
        with contextlib.suppress(NotFound, Conflict):  # It went, or is another one by now.
            await self._client.delete("secrets", key, preconditions={"uid": uid})

    def _wrote(self, key: Key, made: Object) -> None:
        self._loop.wrote(key, self._secrets, int(made["metadata"]["resourceVersion"]))


def _account_key(secret: Object) -> Key:
    meta = secret["metadata"]
    return Key(meta["tenant"], meta["namespace"], account_of(secret))
