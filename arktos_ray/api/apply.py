"""Who set which field: managedFields after a write, and server-side apply.

A set of fields is kept just as metadata.managedFields has it (FieldsV1): nested dicts whose keys
are `f:name` (a field or map key), `k:{...}` (an item of a keyed list) and `v:...` (an item of a
set). `{}` is a member; a node with children is one only if it also holds `"."`. Field sets are
values: never changed in place, and freely shared.

How a message is walked is compiled once into a tree of `_Node`. Pure. Patches are in `patch.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import orjson

from arktos_ray.api import quantity, schemas
from arktos_ray.api.errors import BadRequest, Conflict
from arktos_ray.api.patch import copy

Json = Any
Object = dict[str, Any]
Fields = dict[str, Any]
Entry = dict[str, Any]

# A manager that updates once costs an entry for ever, so the oldest Update entries are merged.
UPDATE_MANAGERS_MAX = 10
ANCIENT_MANAGER = "ancient-changes"
# Owner of all that was there before the first apply to an object nobody tracked.
BEFORE_FIRST_APPLY = "before-first-apply"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

_MEMBER: Fields = {}
# In a set of removed fields: this one and all below.
_WHOLE = None
Removed = dict[str, Any]


# ---------------------------------------------------------------------------- how to walk a message

# Kinds of node. A leaf is owned as a whole: a scalar, or anything atomic.
_LEAF, _STRUCT, _MAP, _LIST, _SET, _DEDUCED, _SERVER, _OTHER = range(8)
# _DEDUCED: no schema; objects are granular maps, the rest is a leaf.
# _SERVER: written by the server or part of the name: nobody owns it.
# _OTHER: belongs to another subresource (status, mostly): this write does not touch it.


class _Node:
    """One place in a message: what is there and how it is owned."""

    __slots__ = (
        "_fields", "_leaves", "_message", "_overrides", "item", "keys", "kind", "present",
        "quantity",
    )  # fmt: skip

    def __init__(
        self,
        kind: int,
        *,
        message: schemas.Message | None = None,
        overrides: dict[str, _Node] | None = None,
        item: _Node | None = None,
        keys: tuple[str, ...] = (),
        is_quantity: bool = False,
    ) -> None:
        self.kind = kind
        self.item = item  # of a map or a list
        self.keys = keys  # that name an item of a list
        self.present = False  # The server always has a value here, if only an empty one.
        self.quantity = is_quantity
        self._message = message
        self._overrides = overrides or {}
        self._fields: dict[str, tuple[str, _Node]] | None = None
        self._leaves: dict[str, str] | None = None

    @property
    def fields(self) -> dict[str, tuple[str, _Node]]:
        """Of a struct: name -> (`f:name`, node). Built late, because messages may be recursive."""
        if self._fields is None:
            declared = self._message.fields if self._message is not None else {}
            nodes = {name: _field_node(self._message, field) for name, field in declared.items()}
            nodes.update(self._overrides)
            self._fields = {name: ("f:" + name, node) for name, node in nodes.items()}
        return self._fields

    @property
    def leaves(self) -> dict[str, str]:
        """Of a struct: name -> `f:name` for the fields that are leaves; most are."""
        if self._leaves is None:
            fields = self.fields.items()
            self._leaves = {name: tag for name, (tag, node) in fields if node.kind == _LEAF}
        return self._leaves

    @property
    def closed(self) -> bool:
        """Whether a name that is not among `fields` is a mistake."""
        return self.kind == _STRUCT and self._message is not None

    def child(self, name: str) -> tuple[str, _Node]:
        """(`f:name`, its node) for any key of an object at this node."""
        if self.kind == _STRUCT:
            return self.fields.get(name) or ("f:" + name, _ANY)
        assert self.item is not None
        return "f:" + name, self.item

    def item_name(self, item: Json) -> str:
        """The path element of one item of a list or set."""
        if self.kind == _SET:
            return "v:" + orjson.dumps(item).decode()
        keys = self.keys
        if len(keys) == 1:
            return _key_text(keys[0], item[keys[0]])
        return (
            "k:"
            + orjson.dumps(
                {key: item[key] if key in item else _KEY_DEFAULTS[key] for key in keys}
            ).decode()
        )


@lru_cache(maxsize=8192, typed=True)
def _key_text(key: str, value: str | int) -> str:
    """The name of an item with one key; most lists have few different ones (`name: app`)."""
    return f'k:{{"{key}":{orjson.dumps(value).decode()}}}'


_KEY_DEFAULTS = {"protocol": "TCP"}

_SCALAR = _Node(_LEAF)
_QUANTITY = _Node(_LEAF, is_quantity=True)
_ANY = _Node(_DEDUCED)
_ANY.item = _ANY
_IGNORED = _Node(_SERVER)
_ELSEWHERE = _Node(_OTHER)

_PREFIX = "k8s.io.apimachinery.pkg.apis.meta.v1."
# Structs that are owned as a whole also where they are items of a list.
_ATOMIC_ITEMS = frozenset(
    [
        _PREFIX + "OwnerReference", "k8s.io.api.core.v1.LocalObjectReference",
        "k8s.io.api.core.v1.ObjectReference", "k8s.io.api.core.v1.SecretReference",
    ]
)  # fmt: skip
# Structs that are no pointers in the real server, so that they are never added or removed.
_PRESENT = frozenset(
    [
        "daemonEndpoints", "jobTemplate", "kubeletEndpoint", "loadBalancer", "metadata", "nodeInfo",
        "resources", "source", "spec", "status", "strategy", "template", "updateStrategy",
    ]
)  # fmt: skip
_ABSENT = frozenset([("k8s.io.api.core.v1.PodSpec", "resources")])
# What stays out of every set (managedFields among them, or it would own itself).
_SERVER_FIELDS = (
    "name", "namespace", "tenant", "uid", "hashKey", "creationTimestamp", "generation",
    "managedFields", "resourceVersion", "selfLink", "clusterName",
)  # fmt: skip


def _field_node(owner: schemas.Message | None, field: schemas.Field) -> _Node:
    node = _plain_node(field)
    required = field.required and (field.is_message or field.shape == "list")
    named = field.name in _PRESENT and field.is_message and field.shape == "one"
    if (required or named) and owner and (owner.name, field.name) not in _ABSENT:
        if node.kind == _LEAF:
            return node
        fresh = _Node(
            node.kind, message=node._message, item=node.item, keys=node.keys,
            overrides=node._overrides,
        )  # fmt: skip
        fresh.present = True
        return fresh
    return node


def _plain_node(field: schemas.Field) -> _Node:
    scalar = _QUANTITY if field.type == "quantity" else _SCALAR
    if field.shape == "map":
        if field.map_type == "atomic":
            return _SCALAR
        return _Node(_MAP, item=_struct(field.type) if field.is_message else scalar)
    if field.shape == "list":
        if field.list_type == "set":
            return _Node(_SET, item=scalar)
        if field.list_type == "map":
            atomic = field.type in _ATOMIC_ITEMS or field.map_type == "atomic"
            keys = tuple(sorted(field.map_keys))
            return _Node(_LIST, item=_SCALAR if atomic else _struct(field.type), keys=keys)
        return _SCALAR
    if field.is_message and field.map_type != "atomic":
        return _struct(field.type)
    return scalar


class Tree:
    """How objects of a JSON schema are walked, in the place of a message."""

    def __init__(self, fields: dict[str, _Node]) -> None:
        self._fields = fields
        self._roots: dict[tuple[str, bool], _Node] = {}

    def root(self, subresource: str, has_status: bool) -> _Node:
        found = self._roots.get((subresource, has_status))
        if found is None:
            overrides = self._fields | _common(subresource, has_status)
            if has_status and subresource == "status":
                apart = {name: _ELSEWHERE for name in self._fields if name != "status"}
                overrides = {**apart, **_common(subresource, has_status)}
                overrides["status"] = self._fields.get("status", _ANY)
            found = self._roots[subresource, has_status] = _Node(_STRUCT, overrides=overrides)
        return found


def tree_of(schema: Object) -> Tree:
    """The tree of the objects of a definition. What the schema does not know is granular."""
    return Tree({name: _of_schema(inner) for name, inner in _properties(schema).items()})


def _properties(schema: Object) -> dict[str, Object]:
    return schema.get("properties") or {}


def _of_schema(schema: Object) -> _Node:
    items, more = schema.get("items"), schema.get("additionalProperties")
    match schema.get("type"):
        case "array":
            kind = schema.get("x-kubernetes-list-type")
            if kind == "set":
                return _Node(_SET, item=_SCALAR)
            if kind == "map" and isinstance(items, dict):
                atomic = items.get("x-kubernetes-map-type") == "atomic"
                keys = tuple(sorted(schema.get("x-kubernetes-list-map-keys") or ()))
                return _Node(_LIST, item=_SCALAR if atomic else _of_schema(items), keys=keys)
            return _SCALAR
        case "object":
            if schema.get("x-kubernetes-map-type") == "atomic":
                return _SCALAR
            if isinstance(more, dict):
                return _Node(_MAP, item=_of_schema(more))
            known = _properties(schema)
            if known:
                return _Node(
                    _STRUCT, overrides={name: _of_schema(each) for name, each in known.items()}
                )
            return _ANY
        case None:
            return _ANY
    return _SCALAR


_structs: dict[str, _Node] = {}
_roots: dict[tuple[int, str, bool], tuple[schemas.Message | None, _Node]] = {}


def _struct(name: str) -> _Node:
    node = _structs.get(name)
    if node is None:
        node = _structs[name] = _Node(_STRUCT, message=schemas.message(name))
    return node


def _common(subresource: str, has_status: bool) -> dict[str, _Node]:
    """What is in every object."""
    metadata = _Node(
        _STRUCT,
        message=schemas.message(_PREFIX + "ObjectMeta"),
        overrides=dict.fromkeys(_SERVER_FIELDS, _IGNORED),
    )
    metadata.present = True
    overrides = {"apiVersion": _IGNORED, "kind": _IGNORED, "metadata": metadata}
    if has_status:
        overrides["spec" if subresource == "status" else "status"] = _ELSEWHERE
    return overrides


def _root(message: schemas.Message | Tree | None, subresource: str, has_status: bool) -> _Node:
    """Of a whole object. The message is kept beside it, so that its id stays its own."""
    if isinstance(message, Tree):
        return message.root(subresource, has_status)
    key = (id(message), subresource, has_status)
    found = _roots.get(key)
    if found is None:
        root = _Node(_STRUCT, message=message, overrides=_common(subresource, has_status))
        found = _roots[key] = (message, root)
    return found[1]


def _index(items: Iterable[Json], node: _Node) -> dict[str, Json]:
    """Items by path element. Those that share a name come as one list, and are owned as a leaf."""
    index: dict[str, Json] = {}
    repeated: set[str] = set()
    for item in items:
        try:
            name = node.item_name(item)
        except (KeyError, TypeError):
            continue  # Has no key: validation's business, and nobody's field.
        if name not in index:
            index[name] = item
        elif node.kind == _LIST:
            index[name] = [*index[name], item] if name in repeated else [index[name], item]
            repeated.add(name)
    return index


# ---------------------------------------------------------------------------- sets from values


def _everything(value: Json, node: _Node) -> Fields:
    """All that a value sets, itself and every node above a leaf included.

    The hot path of every create: 20 us for a pod of 1 KB (50 fields).
    """
    kind = node.kind
    fields: Fields
    if kind == _STRUCT:
        if not value or value.__class__ is not dict:
            return _MEMBER
        fields = {".": _MEMBER}
        leaves = node.leaves
        for name, inner in value.items():
            if inner is None:
                continue
            leaf = leaves.get(name)
            if leaf is not None:
                fields[leaf] = _MEMBER
                continue
            tag, child = node.child(name)
            if child.kind < _SERVER:
                fields[tag] = _everything(inner, child)
        return fields
    if kind == _LEAF or not value:
        return _MEMBER
    if kind in (_LIST, _SET):
        if value.__class__ is not list:
            return _MEMBER
        fields = {".": _MEMBER}
        item_node = node.item
        assert item_node is not None
        for item in value:
            try:
                name = node.item_name(item)
            except (KeyError, TypeError):
                continue
            fields[name] = _MEMBER if name in fields else _everything(item, item_node)
        return fields
    if value.__class__ is not dict:
        return _MEMBER
    fields = {".": _MEMBER}
    item_node = node.item
    assert item_node is not None
    if item_node.kind == _LEAF:
        for name in value:
            fields["f:" + name] = _MEMBER
    else:
        for name, inner in value.items():
            if inner is not None:
                fields["f:" + name] = _everything(inner, item_node)
    return fields


def _applied(value: Json, node: _Node) -> Fields:
    """What a manager owns by applying `value`: leaves, items and map keys; not the structs above.

    Without the node itself: the caller knows whether that is a member.
    """
    fields: Fields = {}
    if node.kind in (_LIST, _SET):
        assert node.item is not None
        if isinstance(value, list):
            for name, item in _index(value, node).items():
                fields[name] = _with_self(_applied(item, node.item))
        return fields
    if node.kind == _LEAF or not isinstance(value, dict):
        return fields
    known = node.fields if node.kind == _STRUCT else {}
    for name, inner in value.items():
        tag, child = node.child(name)
        if child.kind >= _SERVER:
            continue
        below = _applied(inner, child)
        if (
            child.kind == _LEAF
            or inner is None
            or (isinstance(inner, dict) and not inner)
            or (child.kind == _DEDUCED and not isinstance(inner, dict))
            or name not in known
        ):
            fields[tag] = _with_self(below)
        elif below:
            fields[tag] = below
    return fields


def _with_self(below: Fields) -> Fields:
    return {".": _MEMBER, **below} if below else _MEMBER


# ---------------------------------------------------------------------------- differences


def _difference(old: Json, new: Json, node: _Node) -> tuple[Fields, Removed]:
    """(what `new` adds or changes, what it no longer has), below two values that both exist."""
    changed: Fields = {}
    removed: Removed = {}
    if node.kind in (_LIST, _SET):
        assert node.item is not None
        before, after = _index(old, node), _index(new, node)
        for name, inner in after.items():
            _compare(before.get(name), inner, name, node.item, changed, removed)
        for name in before:
            if name not in after:
                removed[name] = _WHOLE
        return changed, removed
    for name, inner in new.items():
        was = old.get(name)
        if inner is not None and inner != was:
            tag, child = node.child(name)
            if child.kind < _SERVER:
                _compare(was, inner, tag, child, changed, removed)
    for name, was in old.items():
        if was is not None and new.get(name) is None:
            tag, child = node.child(name)
            if child.kind < _SERVER:
                removed[tag] = _WHOLE
    return changed, removed


def _compare(
    old: Json, new: Json, tag: str, node: _Node, changed: Fields, removed: Removed
) -> None:
    if old is None:
        if not node.present:
            changed[tag] = _everything(new, node)
            return
        old = new.__class__()
    elif old == new:
        return
    shape = list if node.kind in (_LIST, _SET) else dict
    if node.kind == _LEAF or old.__class__ is not shape or new.__class__ is not shape:
        if node.kind != _LEAF:
            removed[tag] = _WHOLE  # It was of another type: what was below is gone.
        changed[tag] = _everything(new, node)
        return
    below, gone = _difference(old, new, node)
    if below:
        changed[tag] = below
    if gone:
        removed[tag] = gone


# ---------------------------------------------------------------------------- arithmetic of sets


def _is_member(fields: Fields) -> bool:
    return not fields or "." in fields


def _node(member: bool, below: Fields) -> Fields | None:
    """A node with these children; None when there is nothing."""
    if member:
        return _with_self(below)
    return below or None


def union(a: Fields, b: Fields) -> Fields:
    """Fields in either."""
    result = dict(a)
    for name, right in b.items():
        left = result.get(name)
        if left is None or left == right:
            result[name] = right
        elif name != ".":
            below = union(left, right)
            below.pop(".", None)
            whole = _node(_is_member(left) or _is_member(right), below)
            result[name] = _MEMBER if whole is None else whole
    return result


def intersection(a: Fields, b: Fields) -> Fields:
    """Fields in both."""
    result: Fields = {}
    for name, left in a.items():
        right = b.get(name)
        if right is None or name == ".":
            continue
        both = _node(_is_member(left) and _is_member(right), intersection(left, right))
        if both is not None:
            result[name] = both
    return result


def difference(a: Fields, b: Fields) -> Fields:
    """Fields of `a` that are not in `b`. A field goes without those below it."""
    result: Fields = {}
    for name, left in a.items():
        right = b.get(name)
        if name == ".":
            continue
        if right is None:
            result[name] = left
            continue
        rest = _node(_is_member(left) and not _is_member(right), difference(left, right))
        if rest is not None:
            result[name] = rest
    return result


def _without(a: Fields, removed: Removed) -> Fields:
    """Fields of `a` that still exist."""
    result: Fields = {}
    for name, left in a.items():
        if name not in removed:
            result[name] = left
        elif (gone := removed[name]) is not _WHOLE:
            below = _without(left, gone)
            below.pop(".", None)
            rest = _node(_is_member(left), below)
            if rest is not None:
                result[name] = rest
    return result


_ELEMENT = re.compile(r"([fkvi]):(.*)", re.DOTALL)


def _step(name: str) -> str:
    """One path element as conflicts print it."""
    found = _ELEMENT.fullmatch(name)
    if found is None:
        return name
    kind, text = found.groups()
    if kind == "f":
        return "." + text
    if kind == "k":
        try:
            keys: Object = dict(orjson.loads(text))
        except (ValueError, TypeError):
            return f"[{text}]"  # Some client's own invention.
        parts = [f"{key}={orjson.dumps(keys[key]).decode()}" for key in sorted(keys)]
        return f"[{','.join(parts)}]"
    return f"[={text}]" if kind == "v" else f"[{text}]"


def paths(fields: Fields, prefix: str = "") -> Iterator[str]:
    """The members of a set, as `.spec.containers[name="a"].image`."""
    for name in sorted(fields):
        if name == ".":
            continue
        path = prefix + _step(name)
        if _is_member(fields[name]):
            yield path
        yield from paths(fields[name], path)


# ---------------------------------------------------------------------------- managers


def _identity(entry: Entry) -> tuple[str, str, str, str]:
    """An applier is the same one whatever version it applies in; an updater is not."""
    operation = entry.get("operation", "")
    version = "" if operation == "Apply" else entry.get("apiVersion", "")
    return entry.get("manager", ""), operation, version, entry.get("subresource", "")


def _entry(
    manager: str, operation: str, api_version: str, time: str, subresource: str, fields: Fields
) -> Entry:
    entry: Entry = {
        "manager": manager or "unknown",
        "operation": operation,
        "apiVersion": api_version,
        "time": time,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
    if subresource:
        entry["subresource"] = subresource
    return entry


def _order(entry: Entry) -> tuple[str, str, str, str, str]:
    return (
        entry.get("operation", ""), entry.get("time") or "", entry.get("manager", ""),
        entry.get("apiVersion", ""), entry.get("subresource", ""),
    )  # fmt: skip


def _entries(obj: Object | None) -> list[Entry]:
    metadata = (obj or {}).get("metadata") or {}
    return metadata.get("managedFields") or []


def _current_entries(live: Object | None, new: Object, subresource: str) -> list[Entry]:
    """The entries to start from: a client may edit them, except through a subresource.

    A list of one empty entry resets them.
    """
    entries, before = _entries(new), _entries(live)
    if subresource or not entries or entries == before:
        return before
    if entries == [{}]:
        return []
    return entries if all(map(_well_formed, entries)) else before


def _well_formed(entry: Json) -> bool:
    """Whether an entry that a client wrote can be worked with."""
    return (
        isinstance(entry, dict)
        and entry.get("operation") in ("Apply", "Update")
        and all(isinstance(entry.get(name, ""), str) for name in _ENTRY_TEXTS)
        and _is_set(entry.get("fieldsV1") or {})
    )


_ENTRY_TEXTS = ("manager", "apiVersion", "time", "subresource")


def _is_set(fields: Json) -> bool:
    return isinstance(fields, dict) and all(
        name == "." or (_ELEMENT.fullmatch(name) is not None and _is_set(below))
        for name, below in fields.items()
    )


def _with_fields(entry: Entry, fields: Fields) -> Entry:
    return {**entry, "fieldsV1": fields}


def _capped(entries: list[Entry]) -> list[Entry]:
    """At most UPDATE_MANAGERS_MAX Update entries: the oldest of each version become one."""
    updates = sorted((e for e in entries if e.get("operation") == "Update"), key=_order)
    excess = len(updates) - UPDATE_MANAGERS_MAX
    if excess <= 0:
        return entries
    kept = {_identity(entry): entry for entry in entries}
    first: dict[str, Entry] = {}
    for entry in updates:
        if excess <= 0:
            break
        version = entry.get("apiVersion", "")
        if version not in first:
            first[version] = entry
            continue
        bucket = _entry(ANCIENT_MANAGER, "Update", version, entry.get("time", ""), "", {})
        name = _identity(bucket)
        if _identity(entry) == name:
            continue
        if name not in kept:
            kept[name] = kept.pop(_identity(first[version]))
        del kept[_identity(entry)]
        fields = union(kept[name].get("fieldsV1") or {}, entry.get("fieldsV1") or {})
        kept[name] = {**bucket, "fieldsV1": fields}
        excess -= 1
    return list(kept.values())


def track(
    live: Object | None,
    new: Object,
    manager: str,
    operation: str,
    api_version: str,
    time: str,
    subresource: str,
    message: schemas.Message | Tree | None,
    *,
    has_status: bool = True,
) -> list[Entry]:
    """metadata.managedFields of `new`, which `manager` wrote over `live` (None: it creates it).

    What it set or changed is the writer's, what it removed is nobody's, the rest stays as it was.
    `has_status`: the kind has a status subresource, so that only writes through that own status.
    """
    assert operation == "Update", "server-side apply is apply()"
    root = _root(message, subresource, has_status)
    entries = _current_entries(live, new, subresource)
    if not entries and live is not None:
        return []  # Nobody tracks this object, until somebody applies to it.

    changed, removed = _difference(live or {}, new, root)
    if not changed and not removed:
        return entries
    mine = _entry(manager, "Update", api_version, time, subresource, changed)
    if not entries:
        return [mine] if changed else []

    me = _identity(mine)
    result: list[Entry] = []
    for entry in entries:
        fields = entry.get("fieldsV1") or {}
        rest = difference(fields, changed) if changed else fields
        if removed:
            rest = _without(rest, removed)
        if _identity(entry) == me:
            if changed:
                mine["fieldsV1"] = union(rest, changed)
                result.append(mine)
            elif rest:
                result.append(_with_fields(entry, rest))
        elif rest:
            result.append(entry if rest is fields else _with_fields(entry, rest))
    if changed and all(_identity(entry) != me for entry in entries):
        result.append(mine)
    return sorted(_capped(result), key=_order)


# ---------------------------------------------------------------------------- server-side apply


class _Conflicts(Exception):
    def __init__(self, found: list[tuple[Entry, Fields]]) -> None:
        super().__init__("conflicts")
        self.found = found

    def without(self, allowed: Fields) -> list[tuple[Entry, Fields]]:
        rest = [(entry, difference(fields, allowed)) for entry, fields in self.found]
        return [(entry, fields) for entry, fields in rest if fields]


def apply(
    live: Object | None,
    config: Object,
    manager: str,
    force: bool,
    api_version: str,
    time: str,
    subresource: str,
    message: schemas.Message | Tree | None,
    *,
    has_status: bool = True,
) -> Object:
    """The object after `manager` applied `config` to `live` (None: it is created).

    Conflict when others own a field that this changes and not `force`; BadRequest when the
    configuration cannot be applied at all. When nothing changes, the result equals `live`.
    """
    root = _root(message, subresource, has_status)
    _check_config(config, api_version, root)
    if live is not None and not _entries(live):
        live = _adopted(live, api_version, time, root)
    try:
        return _apply(live, config, manager, force, api_version, time, subresource, root)
    except _Conflicts as conflicts:
        # kubectl: what client-side apply set last may be taken over by kubectl without a conflict.
        found = conflicts.found
        if manager == "kubectl" and live is not None:
            found = conflicts.without(_last_applied(live, root))
        if found:
            raise _refusal(found) from None
    return _apply(live, config, manager, True, api_version, time, subresource, root)


def _apply(
    live: Object | None,
    config: Object,
    manager: str,
    force: bool,
    api_version: str,
    time: str,
    subresource: str,
    root: _Node,
) -> Object:
    before = live or {}
    mine = _entry(manager, "Apply", api_version, time, subresource, _applied(config, root))
    me = _identity(mine)
    entries = _entries(live)
    last = next((entry for entry in entries if _identity(entry) == me), None)
    others = [entry for entry in entries if entry is not last]

    merged: Object = _merge(copy(before), config, root)
    if last is not None:
        # Whoever applies names the object, so that there is always metadata.
        owned: Fields = {"f:metadata": _MEMBER, **mine["fieldsV1"]}
        for entry in others:
            owned = union(owned, entry.get("fieldsV1") or {})
        merged = _prune(merged, last.get("fieldsV1") or {}, owned, root)
    changed, removed = _difference(before, merged, root)

    conflicts: list[tuple[Entry, Fields]] = []
    result: list[Entry] = []
    for entry in others:
        fields = entry.get("fieldsV1") or {}
        taken = intersection(fields, changed)
        if taken:
            conflicts.append((entry, taken))
            fields = difference(fields, taken)
        rest = _without(fields, removed) if removed else fields
        if rest:
            result.append(entry if rest == entry.get("fieldsV1") else _with_fields(entry, rest))
    if conflicts and not force:
        raise _Conflicts(conflicts)

    if last is not None and not changed and not removed:
        unchanged = {**mine, "time": last.get("time")} == last
        mine = last if unchanged else mine
    if mine["fieldsV1"]:
        result.append(mine)
    metadata = merged.setdefault("metadata", {})
    metadata.pop("managedFields", None)
    if result:
        metadata["managedFields"] = sorted(result, key=_order)
    if manager == "kubectl":
        _renew_last_applied(before, merged, config)
    return merged


def _adopted(live: Object, api_version: str, time: str, root: _Node) -> Object:
    """An object that nobody tracked, with all its fields given to one manager."""
    fields, _ = _difference({}, live, root)
    entry = _entry(BEFORE_FIRST_APPLY, "Update", api_version, time, "", fields)
    metadata = {**(live.get("metadata") or {}), "managedFields": [entry] if fields else []}
    return {**live, "metadata": metadata}


def _check_config(config: Object, api_version: str, root: _Node) -> None:
    metadata = config.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise BadRequest("metadata: expected map")
    if (metadata or {}).get("managedFields"):
        raise BadRequest("metadata.managedFields must be nil")
    specified = config.get("apiVersion", "")
    if specified != api_version:
        raise BadRequest(
            "Incorrect version specified in apply patch. "
            f"Specified patch version: {specified}, expected: {api_version}"
        )
    problem = _problem(config, root, "")
    if problem:
        name = (metadata or {}).get("name", "")
        namespace = (metadata or {}).get("namespace", "")
        where = f"{namespace}/{name}" if namespace else f"/{name}"
        raise BadRequest(
            f"failed to create typed patch object ({where}; {api_version}, "
            f"Kind={config.get('kind', '')}): {problem}"
        )


def _problem(value: Json, node: _Node, path: str) -> str:
    """Why a configuration does not fit its schema as far as ownership goes; "" if it does."""
    if value is None or node.kind in (_LEAF, _DEDUCED, _SERVER):
        return ""
    if node.kind in (_LIST, _SET):
        return _list_problem(value, node, path)
    if node.kind == _OTHER:
        return ""
    if not isinstance(value, dict):
        return f"{path}: expected map, got {_go_form(value)}"
    for name, inner in value.items():
        if node.closed and name not in node.fields:
            return f"{path}.{name}: field not declared in schema"
        problem = _problem(inner, node.child(name)[1], f"{path}.{name}")
        if problem:
            return problem
    return ""


def _list_problem(value: Json, node: _Node, path: str) -> str:
    assert node.item is not None
    if not isinstance(value, list):
        return f"{path}: expected list, got {_go_form(value)}"
    seen: set[str] = set()
    for i, item in enumerate(value):
        if node.kind == _LIST:
            if not isinstance(item, dict):
                return (
                    f"{path}: element {i}: associative list with keys may not have non-map elements"
                )
            for key in node.keys:
                if item.get(key) is None and key not in _KEY_DEFAULTS:
                    return (
                        f"{path}: element {i}: associative list with keys has an element that "
                        f'omits key field "{key}" (and doesn\'t have default value)'
                    )
        name = node.item_name(item)
        if name in seen:
            return f"{path}: duplicate entries for key {_step(name)}"
        seen.add(name)
        problem = _problem(item, node.item, path + _step(name))
        if problem:
            return problem
    return ""


def _go_form(value: Json) -> str:
    return f"&{{{value}}}"


def _refusal(conflicts: list[tuple[Entry, Fields]]) -> Conflict:
    by_manager = sorted((_manager_text(entry), [*paths(fields)]) for entry, fields in conflicts)
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f"conflict with {manager}",
            "field": path,
        }
        for manager, found in by_manager
        for path in found
    ]
    if len(causes) == 1:
        text = f"1 conflict: {causes[0]['message']}: {causes[0]['field']}"
    else:
        lines: dict[str, list[str]] = {}
        for manager, found in by_manager:
            lines.setdefault(f"conflicts with {manager}:", []).extend(f"- {p}" for p in found)
        text = f"{len(causes)} conflicts: " + "\n".join(
            line for head, rest in lines.items() for line in (head, *rest)
        )
    return Conflict(f"Apply failed with {text}", details={"causes": causes})


def _manager_text(entry: Entry) -> str:
    text = orjson.dumps(entry.get("manager", "")).decode()
    if entry.get("subresource"):
        text += f' with subresource "{entry["subresource"]}"'
    if entry.get("operation") == "Update":
        text += f" using {entry.get('apiVersion', '')}"
    return text


def _last_applied(live: Object, root: _Node) -> Fields:
    """Fields that client-side apply set last and that still have that value."""
    text = ((live.get("metadata") or {}).get("annotations") or {}).get(LAST_APPLIED)
    try:
        config = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(config, dict):
        return {}
    changed, removed = _difference(config, live, root)
    return _without(difference(_applied(config, root), changed), removed)


def _renew_last_applied(before: Object, merged: Object, config: Object) -> None:
    """Keep the annotation true, so that client-side apply can go on where this apply ended."""
    if LAST_APPLIED not in ((before.get("metadata") or {}).get("annotations") or {}):
        return
    annotations = merged["metadata"].get("annotations")
    if annotations is None or LAST_APPLIED not in annotations:
        return
    text: Object = copy(config)
    metadata = text.get("metadata") or {}
    metadata.pop("managedFields", None)
    (metadata.get("annotations") or {}).pop(LAST_APPLIED, None)
    annotations[LAST_APPLIED] = orjson.dumps(
        text, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    ).decode()


# ---------------------------------------------------------------------------- merge and prune


def _merge(live: Json, config: Json, node: _Node) -> Json:
    """`config` over `live`: objects and keyed lists item by item, all else is replaced.

    Owns, and changes, `live`.
    """
    if node.kind == _LEAF or (node.kind == _DEDUCED and not isinstance(config, dict)):
        same = node.quantity and _same_quantity(live, config)
        return live if same else copy(config)
    if node.kind in (_LIST, _SET):
        return _merge_list(live, config, node)
    merged: Object = live if isinstance(live, dict) else {}
    for name, inner in config.items():
        _, child = node.child(name)
        was = merged.get(name)
        if child.kind == _OTHER:
            continue
        if inner is not None:
            value = copy(inner) if child.kind == _SERVER else _merge(was, inner, child)
            merged[name] = value
        elif child.kind == _LEAF or (child.kind == _DEDUCED and not isinstance(was, dict)):
            merged.pop(name, None)
    return merged


def _same_quantity(a: Json, b: Json) -> bool:
    """A configuration may say 0.5 where the server stored 500m: that is no change."""
    if a is None or a == b:
        return a is not None
    try:
        return quantity.compare(a, b) == 0
    except ValueError:
        return False


def _merge_list(live: Json, config: list[Json], node: _Node) -> list[Json]:
    """Items of the configuration in its order, with those that only `live` has left in between."""
    assert node.item is not None
    item_node = node.item
    has = [(_name_or_id(item, node), item) for item in live or ()]
    wants = {node.item_name(item): item for item in config}
    known: dict[str, Json] = {}
    for name, item in has:
        known.setdefault(name, item)

    def take(name: str) -> Json:
        was = known.get(name)
        return _merge(was, wants[name], item_node) if was is not None else copy(wants[name])

    merged: list[Json] = []
    order = list(wants)
    shared = iter([name for name in order if name in known])
    next_shared = next(shared, None)
    done: set[str] = set()
    at = right = 0
    while at < len(has) or right < len(order):
        if at < len(has):
            name, item = has[at]
            if name not in wants:
                merged.append(item)
                at += 1
                continue
            if name in done or (right < len(order) and name not in (order[right], next_shared)):
                at += 1  # Comes where the configuration has it.
                continue
        if right >= len(order):
            at += 1
            continue
        name = order[right]
        merged.append(take(name))
        done.add(name)
        if at < len(has) and has[at][0] == name:
            at += 1
        if name == next_shared:
            next_shared = next(shared, None)
        right += 1
    return merged


def _name_or_id(item: Json, node: _Node) -> str:
    try:
        return node.item_name(item)
    except (KeyError, TypeError):
        return f"?{id(item)}"  # Nameless: never equal to another.


def _prune(merged: Object, last: Fields, owned: Fields, node: _Node) -> Object:
    """Without what the applier owned `last` and neither it nor anybody else owns now."""
    result: Object = {}
    for name, value in merged.items():
        tag, child = node.child(name)
        was = last.get(tag)
        if was is None or child.kind >= _SERVER:
            result[name] = value
            continue
        named = node.kind == _STRUCT and name in node.fields
        kept = _pruned(value, was, owned.get(tag), child, named)
        if kept is not _GONE:
            result[name] = kept
    return result


_GONE: Any = object()


def _pruned(value: Json, was: Fields, owned: Fields | None, node: _Node, named: bool) -> Json:
    """What remains of one value; `named`: a field of a struct, which goes when it owns nothing."""
    if owned is None:
        if named or _is_member(was):
            return _GONE
        owned = {}
    elif not named and _is_member(was) and not _is_member(owned):
        return _GONE
    if node.kind in (_LIST, _SET):
        if not isinstance(value, list):
            return value
        assert node.item is not None
        items: list[Json] = []
        for item in value:
            tag = _name_or_id(item, node)
            before = was.get(tag)
            if before is not None:
                item = _pruned(item, before, owned.get(tag), node.item, False)
            if item is not _GONE:
                items.append(item)
        return items if items or not value else _GONE
    if node.kind == _LEAF or not isinstance(value, dict):
        return value
    rest = _prune(value, was, owned, node)
    return rest if rest or not value else _GONE
