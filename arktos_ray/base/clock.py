"""The only caller of `time` and `datetime.now`. Everyone else is given a Clock, or just `now`."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since 1970, as the wall has it. May jump."""

    def monotonic(self) -> float:
        """Seconds since some moment. Never goes back; for durations and deadlines.

        Counts while the machine sleeps: a lease that ran out meanwhile has run out.
        """

    async def sleep(self, seconds: float) -> None: ...


# Linux counts the time asleep in the one, not in the other; elsewhere there is only the other.
_MONOTONIC = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.clock_gettime(_MONOTONIC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def rfc3339(now: float) -> str:
    """`2026-01-31T12:00:00Z`: the whole-second form of creationTimestamp."""
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(now: float) -> str:
    """`2026-01-31T12:00:00.000000Z`: metav1.MicroTime, as leases and events use it."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_rfc3339(text: str) -> float:
    """Seconds since 1970; ValueError when the text is no RFC 3339 time."""
    return datetime.fromisoformat(text).timestamp()
