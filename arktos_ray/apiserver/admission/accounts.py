"""What the objects of one namespace count against its quotas, object by object. Pure.

Kept only where there is a quota, by whoever writes (quotas.py), so that a charge is a sum and no
walk. Quotas may come and change without a recount: the sums are kept by scope, for every resource.

Memory: about 200 B an object; equal usages are one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from arktos_ray.api import quantity
from arktos_ray.apiserver.admission import quota
from arktos_ray.apiserver.admission.amounts import Milli
from arktos_ray.apiserver.admission.limit_ranger import shown
from arktos_ray.apiserver.admission.quota import Object, Scopes


class Entry(NamedTuple):
    scopes: Scopes | None  # of a pod
    usage: tuple[tuple[str, int], ...]


_interned: dict[Entry, Entry] = {}
_INTERNED = 20_000


def entry_of(gvr: str, obj: Object) -> Entry:
    """8 us for a pod of one container. obj may be empty for what is only counted."""
    scopes = quota.scopes_of(obj.get("spec") or {}) if gvr == "pods" else None
    entry = Entry(scopes, tuple(quota.usage_of(gvr, obj).items()))
    if len(_interned) > _INTERNED:
        _interned.clear()
    return _interned.setdefault(entry, entry)


class Limit:
    """One ResourceQuota, as charges need it."""

    def __init__(self, obj: Object) -> None:
        self.obj = obj
        self.name: str = obj["metadata"]["name"]
        self.hard: Mapping[str, Any] = (obj.get("spec") or {}).get("hard") or {}
        self._terms = quota.scope_terms(obj)

    def applies(self, scopes: Scopes | None) -> bool:
        return quota.is_within(self._terms, scopes)


class Accounts:
    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}  # by gvr and name
        self._sums: dict[Scopes | None, Milli] = {}
        self._counts: dict[Scopes | None, int] = {}

    def get(self, gvr: str, name: str) -> Entry | None:
        return self._entries.get((gvr, name))

    def put(self, gvr: str, name: str, entry: Entry | None) -> bool:
        """What the object counts from now on; None: it is gone. Whether that changes anything."""
        old = self._entries.get((gvr, name))
        if old is entry or old == entry:
            return False
        if old is not None:
            self._add(old, -1)
        if entry is None:
            del self._entries[gvr, name]
        else:
            self._add(entry, 1)
            self._entries[gvr, name] = entry
        return True

    def _add(self, entry: Entry, sign: int) -> None:
        sums = self._sums.setdefault(entry.scopes, {})
        for name, amount in entry.usage:
            sums[name] = sums.get(name, 0) + sign * amount
        left = self._counts.get(entry.scopes, 0) + sign
        if left:
            self._counts[entry.scopes] = left
        else:
            del self._sums[entry.scopes], self._counts[entry.scopes]

    def used(self, limit: Limit) -> Milli:
        """Of everything that the quota limits."""
        total: Milli = dict.fromkeys(limit.hard, 0)
        for scopes, sums in self._sums.items():
            if limit.applies(scopes):
                for name in total:
                    total[name] += sums.get(name, 0)
        return total

    def check(
        self, limits: list[Limit], gvr: str, plural: str, name: str, obj: Object, new: Entry
    ) -> None:
        """Raises Forbidden when the object, as it would be, is more than a quota has left."""
        old = self.get(gvr, name)
        if old == new:
            return
        if gvr == "pods" and old is None:
            for limit in limits:
                if limit.applies(new.scopes):
                    quota.check_specified(limit.obj, obj)
        for limit in limits:
            after = dict(new.usage) if limit.applies(new.scopes) else {}
            before = dict(old.usage) if old is not None and limit.applies(old.scopes) else {}
            deltas = quota.difference(after, before)
            if any(deltas.get(one, 0) > 0 for one in limit.hard):
                used = self.used(limit)
                quota.check_within(limit.name, limit.hard, used, deltas, plural, obj)


def status_of(limit: Limit, accounts: Accounts) -> Object:
    """What the quota's status says of it."""
    used = accounts.used(limit)
    return {
        "hard": {name: quantity.canonical(limit.hard[name]) for name in sorted(limit.hard)},
        "used": {name: shown(name, used[name]) for name in sorted(used)},
    }
