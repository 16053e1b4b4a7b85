"""Python's collector of cycles, for processes that hold millions of objects that are no cycles.

What the API stores are trees, and counting references frees them. But a collector walks whatever
has lived for a while: 1.2 us an object that is in no cache any more, so a view of 100,000 pods
cost a controller shard a third of its CPU, in pauses of 0.1 to 1.4 s, and never was any garbage
found. So here

- the young are looked through soon, while they are in the caches: 2,000 at a time, 0.2 ms;
- now and then the rest is, if it is little;
- what came in bulk, or takes too long to look through, is put out of the collector's sight
  (`gc.freeze`), for good. A cycle among that is never freed: none was found in a minute of work,
  but for some 20 KB of each connection to another part that ended.
"""

from __future__ import annotations

import gc
import time

# Objects more than before, until the young are looked through.
_YOUNG = 2_000
_NEVER = 1_000_000_000
# How often `tend` wants to be called.
INTERVAL_S = 10.0
# As many new objects in an interval are a bulk: looking through them would take 25 ms.
_BULK = 20_000
_PAUSE_S = 0.025


def settle() -> None:
    """At the start of a process."""
    gc.set_threshold(_YOUNG, _NEVER, _NEVER)


def tend() -> None:
    """A pause of 25 ms at most, but for the first."""
    if gc.get_count()[1] * _YOUNG > _BULK:
        gc.freeze()
        return
    begun = time.perf_counter()
    gc.collect()
    if time.perf_counter() - begun > _PAUSE_S:
        gc.freeze()
