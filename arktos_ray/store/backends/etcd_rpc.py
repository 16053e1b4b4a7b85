"""etcd's gRPC API, version 3, as blocking calls to whichever endpoint answers.

`etcd-v3.json` lists the messages for base/messages.py. Every failure is one of ours, and says
whether the request may have been carried out: Unreached and StorageFull say that it was not,
Unavailable that nobody knows. Knows nothing of logs. For one thread.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from arktos_ray.api import errors
from arktos_ray.base.messages import Protocol, protocol

_OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # A page of a log is what we asked for.
    ("grpc.max_send_message_length", -1),
    # A member that was restarted is found again within half a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
]
_NEW_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")


def etcd_protocol() -> Protocol:
    return protocol("arktos_ray.store.backends", "etcd-v3.json", "etcdserverpb")


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Where an etcd is and how it lets us in. Made from plain values, which travel in specs."""

    endpoints: tuple[str, ...]  # host:port
    ca: str = ""  # With it, TLS; a file, as the two others.
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""
    # Everything of ours lies below it, so that clusters can share an etcd.
    prefix: str = "/arktos"
    ttl_s: float = 3.0
    # One attempt at one endpoint. An etcd with a healthy disk answers in 10 ms.
    attempt_s: float = 2.0
    # A write that was not accepted is refused after this: a leader is elected in about 1 s.
    patience_s: float = 3.0
    # A write that may have been accepted is asked after for this long. Then the partition ends.
    doubt_s: float = 30.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> EtcdSettings:
        known = {name: values[name] for name in cls.__slots__ if name in values}
        known["endpoints"] = tuple(values["endpoints"])
        return cls(**known)

    def __post_init__(self) -> None:
        assert self.endpoints, "an etcd has at least one endpoint"


class Etcd:
    """`call` asks the endpoint that answered last, and then each of the others."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._settings = settings
        self._channels = [self._channel(endpoint) for endpoint in settings.endpoints]
        self._current = 0
        self._token = ""
        self._methods = {method.name: method for method in etcd_protocol().methods}

    def _channel(self, endpoint: str) -> Any:
        settings = self._settings
        if not settings.ca:
            return grpc.insecure_channel(endpoint, options=_OPTIONS)
        credentials = grpc.ssl_channel_credentials(
            _file(settings.ca), _file(settings.key), _file(settings.cert)
        )
        return grpc.secure_channel(endpoint, credentials, options=_OPTIONS)

    def call(self, name: str, /, *, deadline_s: float | None = None, **fields: Any) -> Any:
        """One method; `fields` are its request, with dicts for messages inside it.

        Raises StorageFull, Unreached, Unavailable; NotFound and Expired where etcd says so.
        """
        method = self._methods[name]
        request = method.request(**fields)
        attempt_s = deadline_s or self._settings.attempt_s
        doubt: errors.Failure | None = None
        for _ in self._channels:
            try:
                return self._attempt(method, request, attempt_s)
            except errors.Unreached as failure:
                doubt = doubt or failure
            except errors.Unavailable as failure:
                doubt = failure  # It outweighs what the others say.
            self._current = (self._current + 1) % len(self._channels)
        assert doubt is not None
        raise doubt

    def _attempt(self, method: Any, request: Any, attempt_s: float) -> Any:
        if self._settings.user and not self._token:
            self._authenticate(attempt_s)
        try:
            return self._send(method, request, attempt_s)
        except _TokenRefused:
            self._authenticate(attempt_s)
            return self._send(method, request, attempt_s)

    def _authenticate(self, attempt_s: float) -> None:
        settings = self._settings
        try:
            password = Path(settings.password_file).read_text().rstrip("\n")
        except OSError as error:
            raise errors.Unreached(
                f"the password of etcd user {settings.user}: {settings.password_file}:"
                f" {error.strerror}"
            ) from error
        self._token = ""
        method = self._methods["Authenticate"]
        try:
            reply = self._send(
                method, method.request(name=settings.user, password=password), attempt_s
            )
        except errors.Unavailable as failure:
            # Whether we were let in matters to nobody else.
            raise errors.Unreached(failure.message) from failure
        self._token = reply.token

    def _send(self, method: Any, request: Any, attempt_s: float) -> Any:
        channel = self._channels[self._current]
        # hasleader: a member that is cut off from the others refuses, instead of waiting.
        metadata = [("hasleader", "true")]
        if self._token:
            metadata.append(("token", self._token))
        call = channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.reply.FromString,
        )
        try:
            return call(request, timeout=attempt_s, metadata=metadata)
        except grpc.RpcError as error:
            where = f"etcd {self._settings.endpoints[self._current]}"
            raise _failure(where, error, attempt_s) from error

    def close(self) -> None:
        for channel in self._channels:
            with contextlib.suppress(Exception):
                channel.close()


class _TokenRefused(errors.Unreached):
    """Bring a new one."""


def _file(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise errors.Unreached(f"a credential for etcd: {path}: {error.strerror}") from error


def _failure(where: str, error: Any, attempt_s: float) -> errors.Failure:
    code, said = error.code(), str(error.details())
    Code = grpc.StatusCode  # noqa: N806
    if any(words in said for words in _NEW_TOKEN):
        return _TokenRefused(f"{where}: {said}")
    if "database space exceeded" in said:
        return errors.StorageFull(
            f"{where} is full; nothing was written. Defragment it or raise"
            " --quota-backend-bytes, then disarm the alarm (etcdctl alarm disarm)"
        )
    match code:
        case Code.DEADLINE_EXCEEDED:
            return errors.Unavailable(f"{where}: no answer in {attempt_s:g} s. Does it run?")
        case Code.UNAVAILABLE if said.startswith("failed to connect"):
            return errors.Unreached(f"{where} cannot be reached: {said}")
        case Code.NOT_FOUND:
            return errors.NotFound(f"{where}: {said}")
        case Code.OUT_OF_RANGE:
            return errors.Expired(f"{where}: {said}")
        case Code.PERMISSION_DENIED:
            return errors.Unreached(
                f"{where}: {said}. The user needs a role that may read and write the prefix"
            )
        case Code.INVALID_ARGUMENT if "authentication failed" in said:
            return errors.Unreached(f"{where}: {said}. Check etcd-user and etcd-password-file")
        case Code.INVALID_ARGUMENT if "too large" in said:
            return errors.Unreached(f"{where}: {said}. Leave --max-request-bytes at its default")
        case Code.INVALID_ARGUMENT | Code.FAILED_PRECONDITION | Code.RESOURCE_EXHAUSTED:
            return errors.Unreached(f"{where}: {said}")
        case _:
            return errors.Unavailable(f"{where}: {said}")


def lease_seconds(ttl_s: float) -> int:
    """etcd counts in whole seconds, two at least (with its default election timeout)."""
    return max(2, math.ceil(ttl_s))
