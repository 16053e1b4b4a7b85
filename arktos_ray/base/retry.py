"""Backoff schedules as plain iterators. The caller does the sleeping, with its own Clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator


def exponential(
    first_s: float,
    limit_s: float,
    factor: float = 2.0,
    jitter: Callable[[float, float], float] | None = None,
) -> Iterator[float]:
    """first, first*factor, ... up to the limit, for ever.

    jitter: `Ids.uniform`, to spread callers that failed together: each wait is then drawn from
    the upper half of its step, so that it still grows.
    """
    wait = first_s
    while True:
        yield wait if jitter is None else jitter(wait / 2, wait)
        wait = min(wait * factor, limit_s)
