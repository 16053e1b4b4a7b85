"""Protobuf messages that are made at run time from a table of their fields.

No generated code: that would tie us to one version of protobuf. A table is JSON: `messages` lists
every message (field number, name, type), `services` every method (name, request, reply, whether it
streams). What is not listed is skipped when it is read, as protobuf has it. Knows no transport.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

import orjson
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_SCALARS: Final = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9,
    "bytes": 12, "uint32": 13,
}  # fmt: skip
_MESSAGE, _ENUM = 11, 14
_OPTIONAL, _REPEATED = 1, 3


class Method(NamedTuple):
    path: str  # /package.Service/Method
    name: str
    request: Any  # the class of a message
    reply: Any
    streams: bool


class Protocol:
    """The messages and methods of one package. `protocol` makes one from a file."""

    def __init__(self, table: dict[str, Any], package: str) -> None:
        self._package = package
        self._pool = _pool(table["messages"], package)
        self._made: dict[str, Any] = {}
        self.methods = [
            Method(f"/{service}/{name}", name, self._full(request), self._full(reply), streams)
            for service, methods in table["services"].items()
            for name, request, reply, streams in methods
        ]

    def message(self, name: str) -> Any:
        """The class of a message, by its name in the package."""
        return self._full(f"{self._package}.{name}")

    def _full(self, name: str) -> Any:
        found = self._made.get(name)
        if found is None:
            descriptor = self._pool.FindMessageTypeByName(name)
            found = self._made[name] = message_factory.GetMessageClass(descriptor)
        return found


@cache
def protocol(module: str, file: str, package: str) -> Protocol:
    """From a JSON file beside a module. 5 ms for a hundred messages."""
    return Protocol(orjson.loads(files(module).joinpath(file).read_bytes()), package)


def _pool(messages: dict[str, Any], package: str) -> descriptor_pool.DescriptorPool:
    """All messages, as if a compiler had read their .proto file."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"arktos/{package}.proto", package=package, syntax="proto3"
    )
    enums = {name.removeprefix("enum ") for name in messages if name.startswith("enum ")}
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for full in messages:
        if not full.startswith("enum "):
            made[full] = file.message_type.add(name=full.removeprefix(f"{package}."))
    for full, fields in messages.items():
        if full.startswith("enum "):
            _add_enum(file, made, full.removeprefix("enum "), fields)
            continue
        for number, name, kind in fields:
            _add_field(made[full], full, number, name, kind, enums)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call, unused-ignore]
    return pool


def _add_enum(
    file: descriptor_pb2.FileDescriptorProto,
    made: dict[str, descriptor_pb2.DescriptorProto],
    full: str,
    values: list[tuple[int, str]],
) -> None:
    outer, _, name = full.rpartition(".")
    enum = made[outer].enum_type.add(name=name) if outer in made else file.enum_type.add(name=name)
    for number, label in values:
        enum.value.add(name=label, number=number)


def _add_field(
    message: descriptor_pb2.DescriptorProto,
    full: str,
    number: int,
    name: str,
    kind: str,
    enums: set[str],
) -> None:
    repeated = kind.startswith("repeated ")
    kind = kind.removeprefix("repeated ")
    field = message.field.add(name=name, number=number, label=_REPEATED if repeated else _OPTIONAL)
    if kind.startswith("map<"):
        key, value = kind[4:-1].split(",")
        entry = message.nested_type.add(
            name="".join(part[:1].upper() + part[1:] for part in name.split("_")) + "Entry"
        )
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=_OPTIONAL, type=_SCALARS[key])
        entry.field.add(name="value", number=2, label=_OPTIONAL, type=_SCALARS[value.strip()])
        field.label, field.type = _REPEATED, _MESSAGE  # type: ignore[assignment]
        field.type_name = f".{full}.{entry.name}"
    elif kind in _SCALARS:
        field.type = _SCALARS[kind]  # type: ignore[assignment]
    else:
        field.type = _ENUM if kind in enums else _MESSAGE  # type: ignore[assignment]
        field.type_name = f".{kind}"
