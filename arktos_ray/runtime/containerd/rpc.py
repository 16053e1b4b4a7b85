"""The CRI as gRPC calls: messages are built at run time from a table of their fields.

No generated code: that would tie us to one version of protobuf. `cri-v1.json` lists every message
(field number, name, type) and every method of runtime.v1. Knows nothing of pods.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Final

import grpc
import grpc.aio
import orjson
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from arktos_ray.api import errors

_SCALARS: Final = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9,
    "bytes": 12, "uint32": 13,
}  # fmt: skip
_MESSAGE, _ENUM = 11, 14
_OPTIONAL, _REPEATED = 1, 3
# A pull, and a stop with a long grace, bring deadlines of their own.
DEADLINE_S: Final = 30.0
# Lists of containers on a full host: about 1 KB each.
_MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024


@cache
def _table() -> dict[str, Any]:
    text = files("arktos_ray.runtime.containerd").joinpath("cri-v1.json").read_bytes()
    table: dict[str, Any] = orjson.loads(text)
    return table


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    """All messages of runtime.v1, as if a compiler had read their .proto file. 5 ms."""
    file = descriptor_pb2.FileDescriptorProto(
        name="arktos/cri-v1.proto", package="runtime.v1", syntax="proto3"
    )
    messages: dict[str, Any] = _table()["messages"]
    enums = {name.removeprefix("enum ") for name in messages if name.startswith("enum ")}
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for full in messages:
        if not full.startswith("enum "):
            made[full] = file.message_type.add(name=full.removeprefix("runtime.v1."))
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


@cache
def message(name: str) -> Any:
    """The class of a message of runtime.v1, by its short name."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"runtime.v1.{name}"))


class Cri:
    """One connection to a CRI socket. Every failure is one of ours."""

    def __init__(self, address: str) -> None:
        """address: the path of a Unix socket."""
        self._channel = grpc.aio.insecure_channel(
            f"unix:{address}",
            options=[
                ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
                # The daemon may be restarted at any time: find it again within a second.
                ("grpc.max_reconnect_backoff_ms", 1000),
                ("grpc.default_authority", "localhost"),
            ],
        )
        self._methods: dict[str, Any] = {}
        for service, methods in _table()["services"].items():
            for name, request, reply, stream in methods:
                if not stream:
                    self._methods[name] = self._channel.unary_unary(
                        f"/{service}/{name}",
                        request_serializer=message(
                            request.removeprefix("runtime.v1.")
                        ).SerializeToString,
                        response_deserializer=message(reply.removeprefix("runtime.v1.")).FromString,
                    )
        self._requests = {
            name: message(request.removeprefix("runtime.v1."))
            for methods in _table()["services"].values()
            for name, request, _, _ in methods
        }

    async def call(self, method: str, *, deadline_s: float = DEADLINE_S, **fields: Any) -> Any:
        """One unary method; `fields` are its request, with dicts for messages inside it."""
        request = self._requests[method](**fields)
        try:
            return await self._methods[method](request, timeout=deadline_s)
        except grpc.aio.AioRpcError as error:
            raise _failure(method, error) from error

    async def close(self) -> None:
        await self._channel.close()


def _failure(method: str, error: grpc.aio.AioRpcError) -> errors.Failure:
    text = f"{method}: {error.details()}"
    match error.code():
        case grpc.StatusCode.NOT_FOUND:
            return errors.NotFound(text)
        case grpc.StatusCode.ALREADY_EXISTS:
            return errors.AlreadyExists(text)
        case grpc.StatusCode.INVALID_ARGUMENT:
            return errors.Invalid(text)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.Timeout(text)
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return errors.Unavailable(text)
        case _:
            return errors.Internal(text)
