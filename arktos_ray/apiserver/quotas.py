"""The quotas of a partition, and what is used of them: exact, because there is one writer.

A namespace without a quota costs a look-up in an empty dict, or in one that does not have it. With
the first quota its objects are counted, a slice at a time; from then on every write is noted here
in the step that makes it, durable or not, so the next charge of the same batch knows it. What a
failed commit takes back is taken back here too.

`keep` writes what is used into the quotas' status, soon after it changed and not for every pod.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from arktos_ray.api.calls import Call, Reply, User
from arktos_ray.api.errors import Failure, NotFound
from arktos_ray.api.names import SYSTEM_TENANT, Key
from arktos_ray.api.scheme import Resource
from arktos_ray.apiserver.admission import quota
from arktos_ray.apiserver.admission.accounts import Accounts, Entry, Limit, entry_of, status_of
from arktos_ray.apiserver.turns import Turns
from arktos_ray.base import retry
from arktos_ray.base.clock import Clock
from arktos_ray.store.moving import MOVES
from arktos_ray.store.records import Record
from arktos_ray.store.store import Store

Object = dict[str, Any]

QUOTAS = "resourcequotas"
# Objects that are counted in one step, when a namespace gets its first quota: about 2 ms of pods.
_SLICE = 100
_SLICE_US = 2_000
# A status that changes all the time is written ten times a second. Statuses are 50 us each, so
# with these two, those of all quotas take at most a tenth of the partition.
_PAUSE_S = 0.1
_STATUSES = 200
_RETRY_LIMIT_S = 5.0

_OURSELVES = User("system:resourcequota", SYSTEM_TENANT, trusted=True)

_NONE: tuple[Object, None] = ({}, None)


class _Space:
    """One namespace that has, or had, a quota."""

    def __init__(self) -> None:
        self.limits: dict[str, Limit] = {}  # by name
        self.accounts: Accounts | None = None
        self.counted = False  # whether the accounts have everything
        self.counting: asyncio.Future[None] | None = None

    def by_name(self) -> list[Limit]:
        return [self.limits[name] for name in sorted(self.limits)]


class Quotas:
    def __init__(self, store: Store, turns: Turns, clock: Clock) -> None:
        self._store, self._turns, self._clock = store, turns, clock
        self._spaces: dict[tuple[str, str], _Space] = {}
        self._uncounted: dict[tuple[str, str], None] = {}
        self._dirty: dict[tuple[str, str], None] = {}
        # What was just checked is saved next, most of the time.
        self._judged: tuple[Object, Entry | None] = _NONE
        self._work = asyncio.Event()
        for record in store.table(QUOTAS).range():
            self._note_quota(record.key, record.decode())
        store.on_abort = self._aborted

    # Deciding

    @property
    def any(self) -> bool:
        """Whether there is a quota, or was."""
        return bool(self._spaces)

    async def ready(self, calls: Sequence[Call]) -> None:
        """Before these are decided: what they are charged against is counted."""
        if self._uncounted:
            for call in calls:
                where = (call.tenant, call.namespace)
                if where in self._uncounted and call.verb not in ("get", "list"):
                    await self._count(where)

    def check(self, resource: Resource, tenant: str, namespace: str, obj: Object) -> None:
        """Raises Forbidden when the object, as it would be, is more than a quota has left."""
        space = self._spaces.get((tenant, namespace))
        if space is None or not space.limits or resource.gvr in quota.UNCOUNTED:
            return
        accounts = self._accounts(tenant, namespace, space)
        name = obj["metadata"].get("name") or ""
        entry = entry_of(resource.gvr, obj)
        accounts.check(space.by_name(), resource.gvr, resource.plural, name, obj, entry)
        self._judged = (obj, entry)

    # Noting what was written

    def saved(self, gvr: str, key: Key, obj: Object) -> None:
        if gvr == QUOTAS:
            self._note_quota(key, obj)
        if self._spaces:
            space = self._spaces.get((key.tenant, key.namespace))
            if space is not None:
                judged, entry = self._judged
                self._judged = _NONE
                self._put(space, key, gvr, entry if judged is obj else _entry(gvr, obj))

    def removed(self, gvr: str, key: Key) -> None:
        if self._spaces:
            if gvr == "namespaces":
                self._drop((key.tenant, key.name))
            space = self._spaces.get((key.tenant, key.namespace))
            if space is not None:
                if gvr == QUOTAS:
                    # What is counted stays: it may come back, and counting is work.
                    space.limits.pop(key.name, None)
                self._put(space, key, gvr, None)

    def _put(self, space: _Space, key: Key, gvr: str, entry: Entry | None) -> None:
        if space.accounts is not None and space.accounts.put(gvr, key.name, entry):
            self._touch((key.tenant, key.namespace))

    def _note_quota(self, key: Key, obj: Object) -> None:
        where = (key.tenant, key.namespace)
        space = self._spaces.get(where)
        if space is None:
            space = self._spaces[where] = _Space()
            self._uncounted[where] = None
        space.limits[key.name] = Limit({"metadata": obj["metadata"], "spec": obj.get("spec")})
        self._touch(where)

    def _touch(self, where: tuple[str, str]) -> None:
        self._dirty[where] = None
        self._work.set()

    def _drop(self, where: tuple[str, str]) -> None:
        self._spaces.pop(where, None)
        self._uncounted.pop(where, None)

    def _aborted(self, lost: list[tuple[str, str]]) -> None:
        """A commit failed: these are again what they were."""
        for gvr, path in lost:
            record, key = self._store.table(gvr).get(path), Key.from_path(path)
            if record is None:
                self.removed(gvr, key)
            else:
                self.saved(gvr, key, _decode(gvr, record))

    def reread(self, tenant: str) -> None:
        """It came, or went: what is in the store is not what was noted."""
        for where in [where for where in self._spaces if where[0] == tenant]:
            self._drop(where)
        for record in self._store.table(QUOTAS).range(f"{tenant}/"):
            self._note_quota(record.key, record.decode())

    # Counting

    def _accounts(self, tenant: str, namespace: str, space: _Space) -> Accounts:
        """All at once when it must be: the first quota, and a pod, in one batch."""
        if space.accounts is None or not space.counted:
            accounts = self._begin(tenant, namespace, space)
            prefix = f"{tenant}/{namespace}/"
            for gvr in self._counted_kinds():
                for path in self._store.table(gvr).paths(prefix):
                    self._count_one(accounts, gvr, path)
            self._end((tenant, namespace), space)
        assert space.accounts is not None
        return space.accounts

    def _begin(self, tenant: str, namespace: str, space: _Space) -> Accounts:
        if space.accounts is None:
            space.accounts = Accounts()
            for (gvr, path), record in self._store.undurable():
                key = Key.from_path(path)
                if (key.tenant, key.namespace) == (tenant, namespace) and not record.deleted:
                    self._count_one(space.accounts, gvr, path)
        return space.accounts

    def _end(self, where: tuple[str, str], space: _Space) -> None:
        space.counted = True
        if self._spaces.get(where) is space:
            self._uncounted.pop(where, None)
            self._touch(where)

    def _counted_kinds(self) -> list[str]:
        return [g for g in self._store.gvrs() if g not in quota.UNCOUNTED and g != MOVES]

    def _count_one(self, accounts: Accounts, gvr: str, path: str) -> None:
        # The newest: what is written meanwhile is noted, and found here again.
        record = self._store.latest(gvr, path)
        if record is not None and gvr not in quota.UNCOUNTED:
            entry = _entry(gvr, _decode(gvr, record))
            accounts.put(gvr, record.key.name, entry)

    async def _count(self, where: tuple[str, str]) -> None:
        space = self._spaces.get(where)
        while space is not None and not space.counted and self._spaces.get(where) is space:
            if space.counting is not None:
                await asyncio.shield(space.counting)
                continue
            space.counting = asyncio.get_running_loop().create_future()
            try:
                await self._count_in_slices(where, space)
            finally:
                space.counting.set_result(None)
                space.counting = None

    async def _count_in_slices(self, where: tuple[str, str], space: _Space) -> None:
        tenant, namespace = where
        accounts, work = self._begin(tenant, namespace, space), 0
        asking = Call("list", QUOTAS, tenant, namespace, user=User("", tenant))
        for gvr in self._counted_kinds():
            for path in list(self._store.table(gvr).paths(f"{tenant}/{namespace}/")):
                if work == 0:
                    await self._turns.take(asking, _SLICE_US)
                work = (work + 1) % _SLICE
                self._count_one(accounts, gvr, path)
        self._end(where, space)

    # Telling

    async def keep(self, call: Callable[[Sequence[Call]], Any]) -> None:
        """While the store is open: writes what is used into the quotas that say otherwise."""
        waits = retry.exponential(_PAUSE_S, _RETRY_LIMIT_S)
        while self._store.is_open:
            await self._work.wait()
            some = list(self._dirty)[:_STATUSES]
            for where in some:
                await self._count(where)
            calls = [one for where in some for one in self._outdated(where)]
            for where in some:
                self._dirty.pop(where, None)
            if not self._dirty:
                self._work.clear()
            if await self._write(call, calls):
                waits = retry.exponential(_PAUSE_S, _RETRY_LIMIT_S)
                await self._clock.sleep(_PAUSE_S)
            else:
                await self._clock.sleep(next(waits))

    async def _write(self, call: Callable[[Sequence[Call]], Any], calls: list[Call]) -> bool:
        try:
            replies: list[Reply] = await call(calls) if calls else []
        except Failure as failure:
            replies = [Reply(failure.code)] * len(calls)
        failed = False
        for asked, reply in zip(calls, replies, strict=True):
            if not reply.ok and reply.code != NotFound.code:
                failed = True
                self._touch((asked.tenant, asked.namespace))
        return not failed

    def _outdated(self, where: tuple[str, str]) -> list[Call]:
        space = self._spaces.get(where)
        if space is None or space.accounts is None or where in self._uncounted:
            return []
        tenant, namespace = where
        calls = []
        for limit in space.by_name():
            record = self._store.latest(QUOTAS, f"{tenant}/{namespace}/{limit.name}")
            if record is None:
                continue
            obj, status = record.decode(), status_of(limit, space.accounts)
            if obj.get("status") == status:
                continue
            obj["status"] = status
            del obj["metadata"]["resourceVersion"]  # Whatever else was changed meanwhile.
            calls.append(
                Call(
                    "update", QUOTAS, tenant, namespace, limit.name, "status",
                    body=orjson.dumps(obj), user=_OURSELVES, user_agent="resourcequota",
                )
            )  # fmt: skip
        return calls


def _entry(gvr: str, obj: Object) -> Entry | None:
    return None if gvr in quota.UNCOUNTED else entry_of(gvr, obj)


def _decode(gvr: str, record: Record) -> Object:
    """What is only counted need not be read."""
    if gvr in quota.TELLING or gvr == QUOTAS:
        return record.decode()
    return {}
