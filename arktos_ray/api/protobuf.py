"""Bodies in `application/vnd.kubernetes.protobuf`, read into the dicts that JSON would give.

kubectl from 1.32 on and Helm send these, and do not fall back. A small reader of the wire format,
driven by the tags in `api/schemas.py`: no generated code. Only for reading; we answer in JSON.

What JSON leaves out is left out here too, so that an object is the same whichever way it came:
the wire always carries the zeros of what Go holds by value (Field.keeps_zero tells them apart).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import orjson

from arktos_ray.api import schemas
from arktos_ray.api.errors import BadRequest
from arktos_ray.api.schemas import Field

MAGIC: Final = b"k8s\x00"
# Deeper than any message of ours, shallow enough for Python's stack.
DEPTH_MAX: Final = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIRES = {"integer": _VARINT, "boolean": _VARINT, "number": _FIXED64}
# What JSON leaves out when zero. Structs are never left out, and int-or-string is one.
_OMITTED = frozenset(("string", "integer", "number", "boolean", "bytes"))
_ABSENT: Final = object()


def decode(body: bytes) -> tuple[str, str, dict[str, Any]]:
    """(apiVersion, kind, object). A pod of 1 KB: 60 us."""
    return _decode(body, 0)


def _decode(body: bytes, depth: int) -> tuple[str, str, dict[str, Any]]:
    if not body.startswith(MAGIC):
        raise BadRequest("the body does not begin like a Kubernetes protobuf message")
    try:
        api_version, kind, raw = _envelope(body[len(MAGIC) :])
        name = schemas.of_kind(api_version, kind)
        if name is None:
            raise BadRequest(f'no kind "{kind}" is registered for version "{api_version}"')
        return api_version, kind, _message(raw, name, depth)
    except (ValueError, OverflowError) as error:
        raise BadRequest(f"the body is not a Kubernetes protobuf message: {error}") from error


def _envelope(body: bytes) -> tuple[str, str, bytes]:
    """runtime.Unknown: the type, and the bytes of the object."""
    kinds, raw = {1: "", 2: ""}, b""
    for number, wire, value in _walk(body):
        if wire != _BYTES or not isinstance(value, bytes):
            continue
        if number == 1:
            for inner, _, text in _walk(value):
                if inner in kinds and isinstance(text, bytes):
                    kinds[inner] = text.decode()
        elif number == 2:
            raw = value
        elif number == 3 and value:
            raise ValueError("an encoding of the content is not supported")
    return kinds[1], kinds[2], raw


def _walk(raw: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """(tag, wire type, value) of each field, in the order of the wire."""
    at, end = 0, len(raw)
    while at < end:
        tag, at = _varint(raw, at)
        wire = tag & 7
        if tag < 8:
            raise ValueError("tag 0")
        if wire == _VARINT:
            number, at = _varint(raw, at)
            yield tag >> 3, wire, number
            continue
        if wire == _BYTES:
            size, at = _varint(raw, at)
        elif wire == _FIXED64:
            size = 8
        elif wire == _FIXED32:
            size = 4
        else:
            raise ValueError(f"wire type {wire}")
        if size > end - at:
            raise ValueError("it ends too early")
        yield tag >> 3, wire, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise ValueError("it ends too early")
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError("a number of more than 64 bits")


@cache
def _plan(name: str) -> dict[int, Field]:
    message = schemas.message(name)
    fields = (*message.fields.values(), *message.inlined)
    return {field.number: field for field in fields if field.number}


def _message(raw: bytes, name: str, depth: int) -> dict[str, Any]:
    if depth > DEPTH_MAX:
        raise ValueError("it is nested too deeply")
    plan = _plan(name)
    obj: dict[str, Any] = {}
    for number, wire, value in _walk(raw):
        field = plan.get(number)
        if field is None:
            continue  # A newer client's; any server prunes what it does not know.
        if field.shape == "map":
            key, item = _entry(value, field, depth)
            obj.setdefault(field.name, {})[key] = item
        elif field.shape == "list":
            obj.setdefault(field.name, []).extend(_items(field, wire, value, depth))
        elif field.inline:
            assert field.is_message
            obj.update(_message(_expect_bytes(value), field.type, depth + 1))
        else:
            item = _value(field, wire, value, depth)
            if item is _ABSENT or (not item and field.type in _OMITTED and not field.keeps_zero):
                continue
            obj[field.name] = item
    return obj


def _items(field: Field, wire: int, value: int | bytes, depth: int) -> list[Any]:
    if wire == _BYTES and _WIRES.get(field.type) == _VARINT:  # Packed.
        packed, at, items = _expect_bytes(value), 0, []
        while at < len(packed):
            number, at = _varint(packed, at)
            items.append(_value(field, _VARINT, number, depth))
        return items
    item = _value(field, wire, value, depth)
    return [None if item is _ABSENT else item]


def _entry(value: int | bytes, field: Field, depth: int) -> tuple[str, Any]:
    """One entry of a map. A missing half is that type's zero."""
    wire = _WIRES.get(field.type, _BYTES)
    key, found = "", (wire, b"" if wire == _BYTES else 0)
    for number, inner, half in _walk(_expect_bytes(value)):
        if number == 1:
            key = _expect_bytes(half).decode()
        elif number == 2:
            found = (inner, half)
    item = _value(field, *found, depth)
    return key, None if item is _ABSENT else item


def _value(field: Field, wire: int, value: int | bytes, depth: int) -> Any:
    """One value, in its JSON form; _ABSENT where Go's zero stands for null."""
    kind = field.type
    if wire != _WIRES.get(kind, _BYTES):
        raise ValueError(f"field {field.name} is of the wrong wire type")
    if isinstance(value, int):
        return bool(value) if kind == "boolean" else _signed(value)
    match kind:
        case "string":
            return value.decode()
        case "bytes":
            return base64.b64encode(value).decode()
        case "number":
            return struct.unpack("<d", value)[0]
        case "strings":
            return [_expect_bytes(item).decode() for _, _, item in _walk(value)]
        case "quantity":
            return _expect_bytes(_scalars(value).get(1, b"")).decode() or "0"
        case "int-or-string":
            parts = _scalars(value)
            if parts.get(1):
                return _expect_bytes(parts.get(3, b"")).decode()
            return _signed(parts.get(2, 0))
        case "time" | "micro-time":
            return _time(value, micro=kind == "micro-time")
        case "duration":
            return _duration(_signed(_scalars(value).get(1, 0)))
        case "any" | "fields-v1":
            return _any(_expect_bytes(_scalars(value).get(1, b"")), depth)
    return _message(value, kind, depth + 1)


def _scalars(raw: bytes) -> dict[int, int | bytes]:
    """The fields of one of the small messages above, by tag."""
    return {number: value for number, _, value in _walk(raw)}


def _any(raw: bytes, depth: int) -> Any:
    """An embedded object: JSON, or an envelope again."""
    if not raw:
        return _ABSENT
    if raw.startswith(MAGIC):
        api_version, kind, obj = _decode(raw, depth + 1)
        return {"apiVersion": api_version, "kind": kind, **obj}
    return orjson.loads(raw)


def _time(raw: bytes, *, micro: bool) -> Any:
    if not raw:
        return _ABSENT
    parts = _scalars(raw)
    nanos = _signed(parts.get(2, 0))
    moment = _EPOCH + timedelta(seconds=_signed(parts.get(1, 0)), microseconds=nanos // 1000)
    text = moment.isoformat(timespec="microseconds" if micro else "seconds")
    return text.replace("+00:00", "Z")


def _duration(nanos: int) -> str:
    """As Go prints durations: 1h0m5s, 250ms."""
    if nanos == 0:
        return "0s"
    sign, left = ("-", -nanos) if nanos < 0 else ("", nanos)
    if left < 1_000_000_000:
        for unit, name in ((1_000_000, "ms"), (1_000, "µs"), (1, "ns")):
            if left >= unit:
                return f"{sign}{_decimal(left, unit)}{name}"
    minutes, left = divmod(left, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    seconds = _decimal(left, 1_000_000_000) + "s"
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else sign + seconds


def _decimal(amount: int, unit: int) -> str:
    whole, rest = divmod(amount, unit)
    digits = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)


def _signed(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes where a number is wanted")
    return value - (1 << 64) if value >= 1 << 63 else value


def _expect_bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number where bytes are wanted")
    return value
