"""The CRI as gRPC calls. `cri-v1.json` lists every message and method of runtime.v1 for
base/messages.py. Knows nothing of pods.
"""

from __future__ import annotations

from typing import Any, Final

import grpc
import grpc.aio

from arktos_ray.api import errors
from arktos_ray.base.messages import Protocol, protocol

# A pull, and a stop with a long grace, bring deadlines of their own.
DEADLINE_S: Final = 30.0
# Lists of containers on a full host: about 1 KB each.
_MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024


def _cri() -> Protocol:
    return protocol("arktos_ray.runtime.containerd", "cri-v1.json", "runtime.v1")


def message(name: str) -> Any:
    """The class of a message of runtime.v1, by its short name."""
    return _cri().message(name)


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
        unary = [method for method in _cri().methods if not method.streams]
        self._methods = {
            method.name: self._channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.reply.FromString,
            )
            for method in unary
        }
        self._requests = {method.name: method.request for method in unary}

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
