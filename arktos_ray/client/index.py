"""The objects of one informer, by key and by whatever column a controller asks for.

A column is a function from an object to the values that it should be found under; it is built the
first time somebody asks for it and kept up to date from then on. Objects are shared by everyone
who reads the index: never change one.

Pure. Not a cache with an opinion about freshness: that is `informer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

from arktos_ray.api.names import Key

Object = dict[str, Any]
Column = Callable[[Object], tuple[Hashable, ...]]


def key_of(obj: Object) -> Key:
    meta = obj["metadata"]
    return Key(meta.get("tenant", ""), meta.get("namespace", ""), meta["name"])


def owners(obj: Object) -> tuple[str, ...]:
    """The uids of all owners."""
    references = obj["metadata"].get("ownerReferences")
    return tuple([ref["uid"] for ref in references]) if references else ()


def controllers(obj: Object) -> tuple[str, ...]:
    """The uid of the owner that manages it."""
    for ref in obj["metadata"].get("ownerReferences") or ():
        if ref.get("controller"):
            return (ref["uid"],)
    return ()


def uncontrolled(obj: Object) -> tuple[tuple[str, str], ...]:
    """(tenant, namespace) of an object that nobody manages: the candidates for adoption."""
    meta = obj["metadata"]
    if meta.get("ownerReferences") and controllers(obj):
        return ()
    return ((meta.get("tenant", ""), meta.get("namespace", "")),)


def tenants(obj: Object) -> tuple[str]:
    return (obj["metadata"].get("tenant", ""),)


def namespaces(obj: Object) -> tuple[tuple[str, str]]:
    """(tenant, namespace)."""
    meta = obj["metadata"]
    return ((meta.get("tenant", ""), meta.get("namespace", "")),)


def labels(obj: Object) -> tuple[tuple[str, str, str, str], ...]:
    """(tenant, namespace, label, value) of each label."""
    meta = obj["metadata"]
    found = meta.get("labels")
    if not found:
        return ()
    tenant, namespace = meta.get("tenant", ""), meta.get("namespace", "")
    return tuple([(tenant, namespace, name, value) for name, value in found.items()])


def uids(obj: Object) -> tuple[str]:
    return (obj["metadata"]["uid"],)


def nodes(obj: Object) -> tuple[str, ...]:
    """Where a pod was bound to."""
    name = obj.get("spec", {}).get("nodeName")
    return (name,) if name else ()


class Index:
    """2 us to put an object that changed none of its three columns (on busy cores)."""

    def __init__(self) -> None:
        self._objects: dict[Key, Object] = {}
        # Dicts as ordered sets: the order of answers must not depend on string hashing.
        self._columns: dict[Column, dict[Hashable, dict[Key, None]]] = {}
        # What each object is filed under: half the work of a put would be to compute it again.
        self._filed: dict[Column, dict[Key, tuple[Hashable, ...]]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Object]:
        return iter(self._objects.values())

    def __contains__(self, key: Key) -> bool:
        return key in self._objects

    def get(self, key: Key) -> Object | None:
        return self._objects.get(key)

    def keys(self) -> list[Key]:
        return list(self._objects)

    def by(self, column: Column, value: Hashable) -> list[Object]:
        """The objects under that value, in the order in which they came under it."""
        found = self._column(column).get(value)
        if not found:
            return []
        objects = self._objects
        return [objects[key] for key in found]

    def count(self, column: Column, value: Hashable) -> int:
        return len(self._column(column).get(value, ()))

    def values(self, column: Column) -> list[Hashable]:
        """Every value under which there is an object."""
        return list(self._column(column))

    def matching(self, tenant: str, namespace: str, wanted: Mapping[str, str]) -> list[Object]:
        """The objects of a namespace that carry all these labels; all of it for no labels."""
        if not wanted:
            return self.by(namespaces, (tenant, namespace))
        column = self._column(labels)
        found = [column.get((tenant, namespace, *pair)) for pair in wanted.items()]
        if not all(found):
            return []
        smallest, *others = sorted((each for each in found if each), key=len)
        objects = self._objects
        return [objects[key] for key in smallest if all(key in other for other in others)]

    def put(self, key: Key, obj: Object) -> Object | None:
        """Returns what was there before."""
        old = self._objects.get(key)
        self._objects[key] = obj
        for column, filed in self._filed.items():
            before = filed.get(key, ())
            after = column(obj)
            if before != after:
                filed[key] = after
                _move(self._columns[column], key, before, after)
        return old

    def remove(self, key: Key) -> Object | None:
        old = self._objects.pop(key, None)
        if old is not None:
            for column, values in self._columns.items():
                _move(values, key, self._filed[column].pop(key, ()), ())
        return old

    def _column(self, column: Column) -> dict[Hashable, dict[Key, None]]:
        values = self._columns.get(column)
        if values is None:
            values = self._columns[column] = {}
            filed = self._filed[column] = {}
            for key, obj in self._objects.items():
                filed[key] = after = column(obj)
                _move(values, key, (), after)
        return values


def _move(
    values: dict[Hashable, dict[Key, None]],
    key: Key,
    before: tuple[Hashable, ...],
    after: tuple[Hashable, ...],
) -> None:
    for value in before:
        if value not in after:
            keys = values[value]
            keys.pop(key, None)
            if not keys:
                del values[value]
    for value in after:
        if value in values:
            values[value][key] = None
        else:
            values[value] = {key: None}
