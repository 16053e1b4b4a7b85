"""RFC 3339 to seconds and back, for plans, which may not touch the machine. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=4096)  # A big ReplicaSet asks for the same few seconds again and again.
def seconds(text: str) -> float:
    """Seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


def rfc3339(now: float) -> str:
    return _whole(int(now))


@lru_cache(maxsize=64)  # 3 us to make, and everything that happens in a second asks for it.
def _whole(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
