"""JSON patch, JSON merge patch and strategic merge patch, as the Kubernetes API has them.

Each takes plain JSON values and returns a new document that shares nothing with its inputs, so
that defaulting the result cannot change the live object. Server-side apply is in `apply.py`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from arktos_ray.api import schemas
from arktos_ray.api.errors import BadRequest, Failure, Invalid, TooLarge

Json = Any
Object = dict[str, Any]

# The real server's limit; a patch is applied operation by operation.
JSON_PATCH_OPERATIONS_MAX = 10_000
# What `copy` may copy in all, about as many bytes of JSON: twenty copies of what has just grown
# make a gigabyte of a kilobyte. The real server has such a limit as well.
JSON_PATCH_COPIED_BYTES_MAX = 3 * 1024 * 1024
# Elements that move up or down because others of their list come and go: 0.2 s.
JSON_PATCH_MOVED_MAX = 100_000_000

# What the real server says of every well-formed patch that does not fit the object.
_REJECTED = "the server rejected our request due to an error in our request"


def copy(value: Json) -> Json:
    """A deep copy of a JSON value. 6 us for a 1 KB pod; copy.deepcopy takes 60."""
    kind = value.__class__
    if kind is dict:
        return {
            k: copy(v) if v.__class__ is dict or v.__class__ is list else v
            for k, v in value.items()
        }
    if kind is list:
        return [copy(v) if v.__class__ is dict or v.__class__ is list else v for v in value]
    return value


def equal(a: Json, b: Json) -> bool:
    """Equality of JSON values: unlike Python's, True is not 1."""
    if a.__class__ is not b.__class__:
        if isinstance(a, bool) or isinstance(b, bool):
            return False
        return bool(a == b)
    if isinstance(a, dict):
        return len(a) == len(b) and all(k in b and equal(v, b[k]) for k, v in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


# ---------------------------------------------------------------------------- RFC 6902


class _Misfit(Exception):
    """The patch is well formed, and does not fit the document."""


_MISSING = object()


class _Room:
    """What is left of what one patch may cost beyond its own size."""

    def __init__(self) -> None:
        self._copied, self._moved = JSON_PATCH_COPIED_BYTES_MAX, JSON_PATCH_MOVED_MAX

    def copied(self, value: Json) -> Json:
        self._weigh(value)
        return copy(value)

    def _weigh(self, value: Json) -> None:
        self._copied -= len(value) + 2 if value.__class__ is str else 4
        if self._copied < 0:
            raise TooLarge(
                "The patch copies more than the allowed maximum of"
                f" {JSON_PATCH_COPIED_BYTES_MAX} bytes"
            )
        if value.__class__ is dict:
            for key, inner in value.items():
                self._weigh(key)
                self._weigh(inner)
        elif value.__class__ is list:
            for inner in value:
                self._weigh(inner)

    def shift(self, holder: list[Json]) -> None:
        self._moved -= len(holder)
        if self._moved < 0:
            raise TooLarge("The patch adds and removes too often in lists that are too long")


def json_patch(doc: Object, operations: Json) -> Object:
    """The document after RFC 6902 operations.

    BadRequest when `operations` are none, Invalid when one does not apply (a failed `test` too).
    Negative indices count from the end, as in the real server.
    """
    if not isinstance(operations, list):
        raise BadRequest(
            "json: cannot unmarshal object into Go value of type jsonpatch.Patch"
            if isinstance(operations, dict)
            else "json patch must be a list of operations"
        )
    if len(operations) > JSON_PATCH_OPERATIONS_MAX:
        raise TooLarge(
            f"The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, "
            f"got {len(operations)}"
        )
    result: Json = copy(doc)
    room = _Room()
    for operation in operations:
        if not isinstance(operation, dict):
            raise BadRequest("json patch operation must be an object")
        try:
            result = _operate(result, operation, room)
        except _Misfit as misfit:
            raise Invalid(_REJECTED) from misfit
    if not isinstance(result, dict):
        raise Invalid(_REJECTED)
    return result


def _operate(doc: Json, operation: Object, room: _Room) -> Json:
    path = _pointer(operation.get("path"))
    match operation.get("op"):
        case "add":
            return _put(doc, path, copy(_value(operation)), room, insert=True)
        case "replace":
            return _put(doc, path, copy(_value(operation)), room, insert=False)
        case "remove":
            _remove(doc, path, room)
            return doc
        case "move":
            origin = _pointer(operation.get("from"))
            if path[: len(origin)] == origin and len(path) > len(origin):
                raise _Misfit("cannot move a value into itself")
            value = _get(doc, origin)
            if path == origin:
                return doc
            _remove(doc, origin, room)
            return _put(doc, path, value, room, insert=True)
        case "copy":
            value = room.copied(_get(doc, _pointer(operation.get("from"))))
            return _put(doc, path, value, room, insert=True)
        case "test":
            expected = operation.get("value")
            try:
                actual = _get(doc, path)
            except _Misfit:
                if expected is None:
                    return doc  # The real server takes absence for null here.
                raise
            if not equal(actual, expected):
                raise _Misfit(f"test failed at {operation['path']}")
            return doc
        case unknown:
            raise _Misfit(f"unexpected kind: {unknown}")


def _value(operation: Object) -> Json:
    if "value" not in operation:
        raise _Misfit("missing value")
    return operation["value"]


def _pointer(path: Json) -> list[str]:
    if not isinstance(path, str) or (path and path[0] != "/"):
        raise _Misfit(f"not a path: {path!r}")
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]


def _index(step: str, size: int) -> int:
    """Of an existing element (below `size`)."""
    try:
        index = int(step)
    except ValueError:
        raise _Misfit(f"not an index: {step}") from None
    if index < 0:
        index += size
    if not 0 <= index < size:
        raise _Misfit(f"index out of bounds: {step}")
    return index


def _get(doc: Json, path: list[str]) -> Json:
    for step in path:
        if isinstance(doc, dict):
            doc = doc.get(step, _MISSING)
            if doc is _MISSING:
                raise _Misfit(f"missing path: {step}")
        elif isinstance(doc, list):
            doc = doc[_index(step, len(doc))]
        else:
            raise _Misfit(f"not a container at {step}")
    return doc


def _put(doc: Json, path: list[str], value: Json, room: _Room, *, insert: bool) -> Json:
    if not path:
        return value
    holder, last = _get(doc, path[:-1]), path[-1]
    if isinstance(holder, dict):
        if not insert and last not in holder:
            raise _Misfit(f"replace operation does not apply: missing path {last}")
        holder[last] = value
    elif isinstance(holder, list):
        if not insert:
            holder[_index(last, len(holder))] = value
        elif last == "-":
            holder.append(value)
        else:
            room.shift(holder)
            # One past the end is allowed here, so that it appends.
            holder.insert(_index(last, len(holder) + 1), value)
    else:
        raise _Misfit(f"not a container at {last}")
    return doc


def _remove(doc: Json, path: list[str], room: _Room) -> None:
    if not path:
        raise _Misfit("the whole document cannot be removed")
    holder, last = _get(doc, path[:-1]), path[-1]
    if isinstance(holder, dict) and last in holder:
        del holder[last]
    elif isinstance(holder, list):
        room.shift(holder)
        del holder[_index(last, len(holder))]
    else:
        raise _Misfit(f"remove operation does not apply: missing path {last}")


# ---------------------------------------------------------------------------- RFC 7386


def merge_patch(doc: Object, patch: Json) -> Object:
    """The document after an RFC 7386 merge patch: null removes, lists are replaced whole."""
    if not isinstance(patch, dict):
        raise BadRequest("json merge patch must be an object")
    merged: Object = _merge(doc, patch)
    return merged


def merge_into(doc: Object, patch: Object) -> Object:
    """The same, changing `doc` itself and taking parts of `patch`: for those who own both.

    3 us for a pod's status, where `merge_patch` takes 45.
    """
    for key, value in patch.items():
        if value is None:
            doc.pop(key, None)
        elif value.__class__ is dict:
            inner = doc.get(key)
            doc[key] = merge_into(inner if inner.__class__ is dict else {}, value)
        else:
            doc[key] = value
    return doc


def merge_over(doc: Object, patch: Object) -> Object:
    """The same, leaving `doc` as it is and sharing with it whatever the patch does not touch: for
    those who change nothing inside of that. It takes parts of `patch`."""
    merged = doc.copy()
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif value.__class__ is dict:
            inner = doc.get(key)
            merged[key] = merge_over(inner if inner.__class__ is dict else {}, value)
        else:
            merged[key] = value
    return merged


def _merge(doc: Json, patch: Json) -> Json:
    if not isinstance(patch, dict):
        return copy(patch)
    target = doc if isinstance(doc, dict) else {}
    merged = {key: copy(value) for key, value in target.items() if key not in patch}
    for key, value in patch.items():
        if value is not None:
            merged[key] = _merge(target.get(key), value)
    # Keys stay where they were: what people read in a diff is only what changed.
    return {key: merged[key] for key in (*target, *patch) if key in merged}


# ---------------------------------------------------------------------------- strategic merge

_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_ORDER = "$setElementOrder/"
_DELETE = "$deleteFromPrimitiveList/"


def strategic_merge(doc: Object, patch: Json, message: schemas.Message | None) -> Object:
    """The document after a strategic merge patch.

    Lists merge by the merge keys of `message`; what the schema does not know merges like JSON.
    """
    if not isinstance(patch, dict):
        raise BadRequest("invalid JSON document")
    try:
        merged = _merge_map(copy(doc), copy(patch), message)
    except Failure:
        raise
    except (AttributeError, TypeError) as error:
        # A directive, or a list, whose value has the wrong type somewhere inside.
        raise BadRequest("invalid JSON document") from error
    return merged


def _merge_map(original: Object, patch: Object, message: schemas.Message | None) -> Object:
    """Merge `patch` into `original`. Owns, and changes, both."""
    directive = patch.pop(_DIRECTIVE, None)
    if directive == "replace":
        replacement: Object = _without_directives(patch)[0]
        return replacement
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise BadRequest(f"unknown patch type: {directive}")

    if _RETAIN in patch:
        _retain_keys(original, patch)
    for key in [key for key in patch if key.startswith(_ORDER)]:
        _merge_ordered(original, patch, key, message)

    for name, value in patch.items():
        deletes = name.startswith(_DELETE)
        key = name[len(_DELETE) :] if deletes else name
        if deletes:
            if not isinstance(value, list):
                raise BadRequest("invalid patch format of primitive list")
            if isinstance(original.get(key), list):
                gone = _Seen(value)
                original[key] = [item for item in original[key] if item not in gone]
        elif value is None:
            original.pop(key, None)
        else:
            original[key] = _merge_value(original.get(key), value, _field(message, key))
    return original


def _field(message: schemas.Message | None, key: str) -> schemas.Field | None:
    return None if message is None else message.fields.get(key)


def _inner(field: schemas.Field | None) -> schemas.Message | None:
    if field is None or not field.is_message or field.shape == "map":
        return None
    return schemas.message(field.type)


def _merge_value(original: Json, patch: Json, field: schemas.Field | None) -> Json:
    strategy = field.patch_strategy if field is not None else ()
    if isinstance(original, dict) and isinstance(patch, dict) and "replace" not in strategy:
        return _merge_map(original, patch, _inner(field))
    if isinstance(original, list) and isinstance(patch, list) and "merge" in strategy:
        assert field is not None
        return _merge_list(original, patch, field)
    return _without_directives(patch)[0]


def _without_directives(value: Json) -> tuple[Json, bool]:
    """(the value as it is to be stored when there is nothing to merge it with, keep it at all)."""
    if isinstance(value, dict):
        if value.get(_DIRECTIVE) == "delete":
            return {}, False
        kept: Object = {}
        for key, inner in value.items():
            if inner is None or key in (_DIRECTIVE, _RETAIN) or key.startswith((_ORDER, _DELETE)):
                continue
            plain, keep = _without_directives(inner)
            if keep:
                kept[key] = plain
        return kept, True
    if isinstance(value, list):
        pairs = [_without_directives(item) for item in value if not _is_list_replace(item)]
        return [plain for plain, keep in pairs if keep], True
    return value, True


def _is_list_replace(item: Json) -> bool:
    """`- $patch: replace` among items says that the list replaces; it is no item itself."""
    return isinstance(item, dict) and item.get(_DIRECTIVE) == "replace" and len(item) == 1


def _retain_keys(original: Object, patch: Object) -> None:
    keys = patch.pop(_RETAIN)
    if not isinstance(keys, list):
        raise BadRequest("invalid patch format of retainKeys")
    kept = {key for key in keys if isinstance(key, str)}
    if any(key not in kept for key in patch if not key.startswith((_ORDER, _DELETE))):
        raise BadRequest("invalid patch format of retainKeys")
    for key in [key for key in original if key not in kept]:
        del original[key]


def _merge_ordered(
    original: Object, patch: Object, directive: str, message: schemas.Message | None
) -> None:
    """Merge the list that a `$setElementOrder/` directive is about, then put it in that order."""
    order = patch.pop(directive)
    key = directive[len(_ORDER) :]
    items, live = patch.get(key), original.get(key)
    if not isinstance(order, list):
        raise BadRequest("invalid patch format of setElementOrder list")
    if (key in patch and items is None) or (items is None and live is None):
        return  # The list is removed, or there is none.
    if (items is not None and not isinstance(items, list)) or (
        live is not None and not isinstance(live, list)
    ):
        raise BadRequest("invalid patch format of setElementOrder list")
    field = _field(message, key)
    merge_key = field.patch_merge_key if field is not None else ""
    if items:
        _check_order(items, order, merge_key)
    patch.pop(key, None)
    merged: list[Json]
    if items is None:
        merged = live or []
    elif live is None:
        merged = _without_directives(items)[0]
    else:
        merged = _merge_value(live, items, field)
    original[key] = _in_order(merged, order, live or [], merge_key)


def _check_order(items: list[Json], order: list[Json], merge_key: str) -> None:
    wanted = [
        _identity(item, merge_key)
        for item in items
        if not (isinstance(item, dict) and _DIRECTIVE in item)
    ]
    listed = iter([_identity(item, merge_key) for item in order])
    if not all(any(item == other for other in listed) for item in wanted):
        raise BadRequest(
            f"The order in patch list:\n{items}\n doesn't match {_ORDER[:-1]} list:\n{order}\n"
        )


def _identity(item: Json, merge_key: str) -> Json:
    """What an item of a merged list is recognised by."""
    if not merge_key or not isinstance(item, dict):
        return item
    if merge_key not in item:
        raise Invalid(f"map: {item} does not contain declared merge key: {merge_key}")
    return item[merge_key]


def _merge_list(original: list[Json], patch: list[Json], field: schemas.Field) -> list[Json]:
    merge_key = field.patch_merge_key
    if not original and not patch:
        return original
    if not isinstance((original or patch)[0], dict):
        merged, known = list(original), _Seen(original)
        for item in patch:
            if item not in known:
                known.add(item)
                merged.append(item)
        return _in_order(merged, patch, original, "")

    if not merge_key:
        raise Invalid(f"cannot merge lists without merge key for {field.name}")
    original, items, replaces = _obey_directives(original, patch, merge_key)
    if replaces:
        return [_without_directives(item)[0] for item in items]
    message = _inner(field)
    merged = list(original)
    places = {str(_identity(item, merge_key)): i for i, item in reversed([*enumerate(merged)])}
    for item in items:
        place = places.get(str(_identity(item, merge_key)))
        if place is None:
            places[str(item[merge_key])] = len(merged)
            merged.append(_without_directives(item)[0])
        else:
            merged[place] = _merge_map(merged[place], item, message)
    return _in_order(merged, items, original, merge_key)


def _obey_directives(
    original: list[Json], patch: list[Json], merge_key: str
) -> tuple[list[Json], list[Json], bool]:
    """(original without what `$patch: delete` names, the other items, whether they replace)."""
    items: list[Json] = []
    gone, replaces = _Seen(()), False
    for item in patch:
        directive = item.get(_DIRECTIVE)
        if directive is None:
            items.append(item)
        elif directive == "delete":
            gone.add(_identity(item, merge_key))
        elif directive == "replace":
            replaces = True
        elif directive == "merge":
            items.append(item)
        else:
            raise BadRequest(f"unknown patch type: {directive}")
    if gone:
        original = [one for one in original if one.get(merge_key) not in gone]
    return original, items, replaces


class _Seen:
    """JSON values, found in one step however many there are: lists of strangers may be long."""

    def __init__(self, values: Iterable[Json]) -> None:
        self._known = {repr(value) for value in values}

    def __contains__(self, value: Json) -> bool:
        return repr(value) in self._known

    def __bool__(self) -> bool:
        return bool(self._known)

    def add(self, value: Json) -> None:
        self._known.add(repr(value))


def _in_order(
    merged: list[Json], order: list[Json], live: list[Json], merge_key: str
) -> list[Json]:
    """Items that the patch orders in its order; the others between them as they were live.

    An item that only the server has goes before the first ordered item that follows it in the live
    list; so one that is new, and thus in no live order, comes before all that remain.
    """
    place = _places(live, merge_key)
    rank = _places(order, merge_key)

    def identity(item: Json) -> str:
        return str(_identity(item, merge_key))

    ordered = sorted((i for i in merged if identity(i) in rank), key=lambda i: rank[identity(i)])
    others = sorted(
        (i for i in merged if identity(i) not in rank),
        key=lambda i: place.get(identity(i), len(live)),
    )
    result: list[Json] = []
    at = 0
    for item in ordered:
        here = place.get(identity(item))
        while here is not None and at < len(others):
            there = place.get(identity(others[at]))
            if there is None or there >= here:
                break
            result.append(others[at])
            at += 1
        result.append(item)
    return result + others[at:]


def _places(items: list[Json], merge_key: str) -> dict[str, int]:
    places: dict[str, int] = {}
    for i, item in enumerate(items):
        places.setdefault(str(_identity(item, merge_key)), i)
    return places
