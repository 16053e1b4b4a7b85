"""The checked tree of a CEL expression, out of the bytes that the checker serializes.

Only what evaluation needs: expressions, and which names the checker resolved to what. A dozen
messages of one fixed format (cel.expr.CheckedExpr), read by hand: no descriptors to load. Pure.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

_SIGN, _WRAP = 1 << 63, 1 << 64


class Const(NamedTuple):
    kind: str  # null bool int uint double string bytes
    value: Any


class Ident(NamedTuple):
    name: str


class Select(NamedTuple):
    operand: Expr
    field: str
    test: bool  # has(operand.field)


class Call(NamedTuple):
    function: str
    args: tuple[Expr, ...]  # The receiver first.
    member: bool


class MakeList(NamedTuple):
    elements: tuple[Expr, ...]
    optional: frozenset[int]  # indices of `?x`


class Entry(NamedTuple):
    key: Expr
    value: Expr
    optional: bool


class MakeMap(NamedTuple):
    entries: tuple[Entry, ...]


class Comprehension(NamedTuple):
    variable: str
    over: Expr
    total: str  # the accumulator's name
    start: Expr
    condition: Expr
    step: Expr
    result: Expr


class MakeMessage(NamedTuple):
    name: str


Expr = (
    Const | Ident | Select | Call | MakeList | MakeMap | Comprehension | MakeMessage
)  # fmt: skip


def decode(data: bytes) -> Expr:
    """The tree in a serialized `google.protobuf.Any` of a CheckedExpr."""
    checked = dict(_fields(data))[2]
    names: dict[int, str] = {}
    root = b""
    for number, value in _fields(checked):
        if number == 2:
            entry = dict(_fields(value))
            reference = list(_fields(entry[2]))
            # With an overload it is a function, whose call says its name.
            if all(field != 3 for field, _ in reference):
                names[entry[1]] = dict(reference).get(1, b"").decode()
        elif number == 4:
            root = value
    return _expr(root, names)


def size(expr: Expr) -> int:
    """How many nodes a tree has."""
    match expr:
        case Select(operand):
            return 1 + size(operand)
        case Call(_, args):
            return 1 + sum(map(size, args))
        case MakeList(elements):
            return 1 + sum(map(size, elements))
        case MakeMap(entries):
            return 1 + sum(size(entry.key) + size(entry.value) for entry in entries)
        case Comprehension(_, over, _, start, condition, step, result):
            return 1 + sum(map(size, (over, start, condition, step, result)))
    return 1


def _expr(data: bytes, names: dict[int, str]) -> Expr:
    fields = dict(_fields(data))
    name = names.get(fields.get(2, 0)) if 8 not in fields else None
    if name:
        return Ident(name)
    if 3 in fields:
        return _const(fields[3])
    if 4 in fields:
        return Ident(_text(fields[4], 1))
    if 5 in fields:
        select = dict(_fields(fields[5]))
        return Select(_expr(select[1], names), select[2].decode(), bool(select.get(3)))
    if 6 in fields:
        return _call(fields[6], names)
    if 7 in fields:
        elements, optional = [], frozenset[int]()
        for number, value in _fields(fields[7]):
            if number == 1:
                elements.append(_expr(value, names))
            else:
                optional |= frozenset(_packed(value) if isinstance(value, bytes) else (value,))
        return MakeList(tuple(elements), optional)
    if 8 in fields:
        return _struct(fields[8], names)
    loop = dict(_fields(fields[9]))
    return Comprehension(
        loop[1].decode(), _expr(loop[2], names), loop[3].decode(),
        *(_expr(loop[number], names) for number in (4, 5, 6, 7)),
    )  # fmt: skip


def _call(data: bytes, names: dict[int, str]) -> Call:
    function, args, target = "", [], None
    for number, value in _fields(data):
        if number == 1:
            target = _expr(value, names)
        elif number == 2:
            function = value.decode()
        else:
            args.append(_expr(value, names))
    if target is not None:
        args.insert(0, target)
    return Call(function, tuple(args), target is not None)


def _struct(data: bytes, names: dict[int, str]) -> MakeMap | MakeMessage:
    entries = []
    for number, value in _fields(data):
        if number == 1 and value:
            return MakeMessage(value.decode())
        entry = dict(_fields(value))
        optional = bool(entry.get(5))
        entries.append(Entry(_expr(entry[3], names), _expr(entry[4], names), optional))
    return MakeMap(tuple(entries))


def _const(data: bytes) -> Const:
    for number, value in _fields(data):
        match number:
            case 2:
                return Const("bool", bool(value))
            case 3:
                return Const("int", value - _WRAP if value & _SIGN else value)
            case 4:
                return Const("uint", value)
            case 5:
                return Const("double", struct.unpack("<d", value)[0])
            case 6:
                return Const("string", value.decode())
            case 7:
                return Const("bytes", value)
    return Const("null", None)


def _text(data: bytes, number: int) -> str:
    found: bytes = dict(_fields(data)).get(number, b"")
    return found.decode()


def _fields(data: bytes) -> list[tuple[int, Any]]:
    """(number, int or bytes) of every field of a message."""
    found: list[tuple[int, Any]] = []
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                value, at = _varint(data, at)
                found.append((tag >> 3, value))
            case 1:
                found.append((tag >> 3, data[at : at + 8]))
                at += 8
            case 2:
                length, at = _varint(data, at)
                found.append((tag >> 3, data[at : at + length]))
                at += length
            case _:
                raise AssertionError("the checker writes no other types")
    return found


def _packed(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
