"""Failure -> HTTP. The only place where that mapping exists."""

from __future__ import annotations

from arktos_ray.api import errors
from arktos_ray.api.calls import Reply

# Seconds a client waits before it repeats, where the failure does not say.
_RETRY_AFTER_S = 1


def reply(failure: errors.Failure) -> Reply:
    """A failure as a Reply, as if a partition had answered it."""
    return Reply(failure.code, failure.encode())


def headers(code: int, retry_after_s: int | None = None) -> bytes:
    """The header lines that belong to a code: what the client should do next."""
    if code == errors.TooManyRequests.code or code == errors.Unavailable.code:
        return b"Retry-After: %d\r\n" % (retry_after_s or _RETRY_AFTER_S)
    if code == errors.Unauthorized.code:
        return b'WWW-Authenticate: Bearer realm="arktos"\r\n'
    return b""


def retry_after(body: bytes) -> int | None:
    """details.retryAfterSeconds of the Status in a Reply, if it has one."""
    if b"retryAfterSeconds" not in body:
        return None
    details = errors.decode(body).details or {}
    seconds = details.get("retryAfterSeconds")
    return seconds if isinstance(seconds, int) and seconds > 0 else None


def unexpected() -> errors.Internal:
    """For a bug of ours. What went wrong is in the log, not in the answer."""
    return errors.Internal("an internal error occurred; it has been logged")
