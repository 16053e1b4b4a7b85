"""What parts say to each other: a Call, its Reply, and the events of a watch.

The same values travel over a stream, a Ray call and the simulator; `pack` and `unpack` turn them
into msgpack lists, with object bodies as raw bytes that nobody re-encodes on the way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from arktos_ray.api.names import SYSTEM_TENANT


@dataclass(frozen=True, slots=True)
class User:
    """Who is calling. `trusted` is one of our own parts: decoded leniently, never refused.

    credential: what must still be there, for the token that was shown to be good: (gvr, path, uid)
    of a service account, and of what else it is bound to (tenancy/accounts.py).
    """

    name: str
    tenant: str = SYSTEM_TENANT
    groups: tuple[str, ...] = ()
    uid: str = ""
    trusted: bool = False
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    credential: tuple[tuple[str, str, str], ...] = ()

    def pack(self) -> list[Any]:
        return [
            self.name, self.tenant, self.groups, self.uid, self.trusted, self.extra,
            self.credential,
        ]  # fmt: skip

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> User:
        name, tenant, groups, uid, trusted, extra, rests = packed
        more = tuple([(key, tuple(values)) for key, values in extra]) if extra else ()
        credential = tuple([(gvr, path, its) for gvr, path, its in rests]) if rests else ()
        return cls(name, tenant, tuple(groups), uid, trusted, more, credential)


@dataclass(slots=True)
class Call:
    """One request, routed but not yet decoded.

    verb: get list watch create update patch delete deletecollection.
    gvr: `pods`, `deployments.apps`: see api/scheme.py; tenant may be `all` for list and watch.
    options: query parameters as sent (fieldSelector, limit, dryRun, fieldManager, ...).
    version: the apiVersion that the caller speaks (`extensions/v1beta1`), "" is the one that is
    stored; gvr says which objects, whatever group they are asked for under.
    granted: verbs that the partition of the user's own tenant allowed, for users of the system
    tenant; other partitions do not know their roles.
    """

    verb: str
    gvr: str
    tenant: str = ""
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    options: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    content_type: str = ""
    # "" is the plain object; "Table" and "PartialObjectMetadata"(List) are the other two forms.
    accept: str = ""
    user: User = User("system:unknown")
    user_agent: str = ""
    granted: tuple[str, ...] = ()
    version: str = ""

    def pack(self) -> list[Any]:
        return [
            self.verb, self.gvr, self.tenant, self.namespace, self.name, self.subresource,
            self.options, self.body, self.content_type, self.accept,
            self.user.pack(), self.user_agent, self.granted, self.version,
        ]  # fmt: skip

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> Call:
        (verb, gvr, tenant, namespace, name, subresource, options, body, content_type, accept,
         user, user_agent, granted, version) = packed  # fmt: skip
        return cls(
            verb, gvr, tenant, namespace, name, subresource, options, body, content_type, accept,
            User.unpack(user), user_agent, tuple(granted) if granted else (), version,
        )  # fmt: skip


# Annotations of the audit log: key, value.
Notes = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Reply:
    """The answer: an HTTP code, a JSON body, and warnings for the client to print.

    A failure is a Reply too (code >= 400, body is the Status), so a batch can fail in part.
    notes: what policies and webhooks want to be in the audit log beside it.
    """

    code: int
    body: bytes = b""
    warnings: tuple[str, ...] = ()
    notes: Notes = ()

    @property
    def ok(self) -> bool:
        return self.code < 400

    def pack(self) -> list[Any]:
        packed: list[Any] = [self.code, self.body, self.warnings]
        if self.notes:
            packed.append(self.notes)
        return packed

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> Reply:
        if len(packed) == 3:
            return cls(packed[0], packed[1], tuple(packed[2]))
        notes = tuple([(key, value) for key, value in packed[3]])
        return cls(packed[0], packed[1], tuple(packed[2]), notes)


class LongReply(Reply):
    """A Reply whose body is in pieces, as it leaves in: joining 30 MB takes 20 ms in one step."""

    __slots__ = ("pieces",)

    def __init__(self, code: int, pieces: Sequence[bytes]) -> None:
        self.code, self.warnings, self.notes = code, (), ()
        self.pieces = pieces

    @property
    def body(self) -> bytes:  # type: ignore[override]
        return b"".join(self.pieces)


# Event types. A BOOKMARK's body is empty; only its revision counts.
ADDED, MODIFIED, DELETED, BOOKMARK = "ADDED", "MODIFIED", "DELETED", "BOOKMARK"
# For our own parts that ask for it (option `moves`): the object is what it was, but its tenant
# moved out of this partition, or into it. Many share one revision, so each carries the one before
# it, and a BOOKMARK ends them: who hears only some of them lists again.
LEFT, ARRIVED = "LEFT", "ARRIVED"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change, as our own parts see it. `body` is the stored bytes of the object."""

    type: str
    revision: int
    path: str  # Key.path(), so that nobody decodes a body to learn whose it is
    body: bytes = b""
    # A bookmark that ends the initial state of a WatchList.
    initial_end: bool = False

    def pack(self) -> list[Any]:
        return [self.type, self.revision, self.path, self.body, self.initial_end]

    @classmethod
    def unpack(cls, packed: Sequence[Any]) -> WatchEvent:
        return cls(packed[0], packed[1], packed[2], packed[3], packed[4])


class Caller(Protocol):
    """A partition as everyone else sees it: over a stream, over Ray, or in the same process.

    `call` carries a batch and keeps its order: writes of one batch are applied in sequence and
    committed together; each gets its own Reply. `watch` yields batches of events (never an empty
    batch) until its end, and raises a Failure (Expired, Unavailable) when it cannot go on.
    """

    async def call(self, calls: Sequence[Call]) -> list[Reply]: ...

    def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]: ...


class Peer(Caller, Protocol):
    """A Caller with methods of its own beside the API's verbs (`reserve`, `usage`, ...).

    Payloads and answers are msgpack values: None, bool, int, float, str, bytes, list, dict.
    Every actor offers one, and holds one for every actor that it talks to.
    """

    async def request(self, method: str, payload: Any) -> Any: ...

    def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]: ...
