"""The world's failures, each named after what the caller should do next.

Raised by every layer, turned into HTTP by `ingress/status.py`, and carried between actors as the
bytes of a metav1.Status. Bugs are not in this family: those are `assert`, and stop the actor.
"""

from __future__ import annotations

from typing import Any, ClassVar

import orjson


class Failure(Exception):
    """A refusal that the caller can understand. `message` is what kubectl prints."""

    code: ClassVar[int] = 500
    reason: ClassVar[str] = "InternalError"

    def __init__(self, message: str, *, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        # For the audit log (api/calls.Notes).
        self.notes: tuple[tuple[str, str], ...] = ()

    def status(self) -> dict[str, Any]:
        """The metav1.Status that clients expect."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details:
            body["details"] = self.details
        return body

    def encode(self) -> bytes:
        return orjson.dumps(self.status())


class BadRequest(Failure):
    """The request cannot be understood. Correct it."""

    code, reason = 400, "BadRequest"


class Unauthorized(Failure):
    """We do not know who you are. Bring a credential."""

    code, reason = 401, "Unauthorized"


class Forbidden(Failure):
    """We know who you are, and you may not."""

    code, reason = 403, "Forbidden"


class NotFound(Failure):
    """It is not there."""

    code, reason = 404, "NotFound"


class MethodNotAllowed(Failure):
    """The resource exists, this verb on it does not."""

    code, reason = 405, "MethodNotAllowed"


class NotAcceptable(Failure):
    """We cannot answer in any form that you accept."""

    code, reason = 406, "NotAcceptable"


class AlreadyExists(Failure):
    """Somebody has that name. Choose another, or update."""

    code, reason = 409, "AlreadyExists"


class Conflict(Failure):
    """Someone wrote first. Read again, then decide again."""

    code, reason = 409, "Conflict"


class Expired(Failure):
    """The revision you ask for is gone. List, then watch from there."""

    code, reason = 410, "Expired"


class Reshaped(Expired):
    """Tenants moved since that revision: nobody has the whole of all tenants as it was then. Who
    chose the revision chooses a newer one; to whoever is told of it, it is Expired."""

    reason = "TenantsMoved"


class TooLarge(Failure):
    """The body is over the limit. Send less."""

    code, reason = 413, "RequestEntityTooLarge"


class UnsupportedMediaType(Failure):
    """We cannot read a body of that type."""

    code, reason = 415, "UnsupportedMediaType"


class Invalid(Failure):
    """The object is well formed and breaks a rule. `details.causes` says which, where."""

    code, reason = 422, "Invalid"


class TooManyRequests(Failure):
    """Over a limit for now. Wait `details.retryAfterSeconds`, then repeat."""

    code, reason = 429, "TooManyRequests"


class Internal(Failure):
    """Our fault. The message says what is known."""

    code, reason = 500, "InternalError"


class Unavailable(Failure):
    """No answer. It may or may not have happened: read before repeating a write."""

    code, reason = 503, "ServiceUnavailable"


class Unreached(Unavailable):
    """Nothing was sent: it has not happened, and may be repeated freely. Known to the sender only;
    to whoever is told of it, it is Unavailable."""


class Moved(Unavailable):
    """Its tenant is not served here; nothing was executed. `details.to` is the partition to ask;
    empty while that is being settled (Peer method `settled`). A watch that had begun has told all
    up to `details.after`, and goes on from there."""

    reason = "TenantMoved"

    @property
    def to(self) -> str:
        return str((self.details or {}).get("to", ""))

    @property
    def after(self) -> int:
        return int((self.details or {}).get("after", 0))


class Apart(Unavailable):
    """Webhooks are to be asked first; nothing was executed. Ask again by itself (Peer method
    `reviewed`), where it keeps nobody else waiting."""

    reason = "ReviewedApart"


class Timeout(Failure):
    """Not done in the time that was given."""

    code, reason = 504, "Timeout"


class StorageFull(Failure):
    """The disk took nothing. Nothing was written; free space, then repeat."""

    code, reason = 507, "InsufficientStorage"


_FAMILY: dict[tuple[int, str], type[Failure]] = {
    (kind.code, kind.reason): kind
    for kind in (
        BadRequest, Unauthorized, Forbidden, NotFound, MethodNotAllowed, NotAcceptable,
        AlreadyExists, Conflict, Expired, TooLarge, UnsupportedMediaType, Invalid,
        TooManyRequests, Internal, Unavailable, Timeout, StorageFull, Moved, Reshaped, Apart,
    )
}  # fmt: skip


def moved(tenant: str, to: str, after: int = 0) -> Moved:
    where = f"is in {to} now" if to else "is just moving"
    return Moved(
        f"tenant {tenant} {where}; try again",
        details={"tenant": tenant, "to": to, "after": after, "retryAfterSeconds": 1},
    )


def decode(status: bytes | dict[str, Any]) -> Failure:
    """A Failure from the Status that `encode` made, whatever carried it."""
    body = orjson.loads(status) if isinstance(status, bytes) else status
    kind = _FAMILY.get((body.get("code", 500), body.get("reason", "")), Internal)
    return kind(body.get("message", ""), details=body.get("details"))
