"""What tenants said in objects of a few kinds, kept ready for every request of theirs.

Webhooks (hooks.py) and admission policies (policies.py) stand on this: read from the store, kept up
to date as records are published, and what matches a request is found once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from arktos_ray.apiserver.admission.matching import Asked
from arktos_ray.store.records import Record
from arktos_ray.store.store import Store

# What the rules of one tenant say about (operation, resource, subresource), remembered.
_REMEMBERED = 2_000

W = TypeVar("W")
T = TypeVar("T", bound="Said")  # type: ignore[type-arg]


class Said(ABC, Generic[W]):
    """Of one tenant."""

    def __init__(self) -> None:
        self._wanted: dict[tuple[str, ...], list[W]] = {}

    def put(self, gvr: str, record: Record) -> None:
        self._wanted.clear()
        self._put(gvr, record)

    def wanted(self, asked: Asked) -> list[W]:
        """What matches, whatever the name of the object: those are too many to remember."""
        of = asked.resource
        key = (asked.operation, of.group, of.version, of.plural, asked.subresource)
        found = self._wanted.get(key)
        if found is None:
            if len(self._wanted) >= _REMEMBERED:
                self._wanted.clear()
            found = self._wanted[key] = self._find(asked)
        return found

    @property
    @abstractmethod
    def empty(self) -> bool: ...

    @abstractmethod
    def _put(self, gvr: str, record: Record) -> None:
        """The record may be a deletion."""

    @abstractmethod
    def _find(self, asked: Asked) -> list[W]: ...


class ByTenant(Generic[T]):
    def __init__(self, store: Store, gvrs: Sequence[str], make: Callable[[], T]) -> None:
        self._store, self._gvrs, self._make = store, gvrs, make
        self._tenants: dict[str, T] = {}
        for gvr in gvrs:
            store.listeners[gvr] = self._published
            for record in store.table(gvr).range():
                self._published(gvr, record, None)

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def get(self, tenant: str) -> T | None:
        return self._tenants.get(tenant)

    def reread(self, tenant: str) -> None:
        """It came, or went."""
        self._tenants.pop(tenant, None)
        for gvr in self._gvrs:
            for record in self._store.table(gvr).range(f"{tenant}/"):
                self._published(gvr, record, None)

    def _published(self, gvr: str, record: Record, previous: Record | None) -> None:
        key = record.key
        tenant = self._tenants.get(key.tenant)
        if tenant is None:
            if record.deleted:
                return
            tenant = self._tenants[key.tenant] = self._make()
        tenant.put(gvr, record)
        if tenant.empty:
            del self._tenants[key.tenant]
