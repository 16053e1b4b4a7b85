"""Revisions as hybrid time: comparable integers that grow over all partitions together.

bits 19..62 milliseconds since 1970 | bits 13..18 partition number | bits 0..12 sequence.
Source: spec/scaleout.md 7. Pure.
"""

from __future__ import annotations

TIME_SHIFT = 19
PARTITION_SHIFT = 13
PARTITION_MAX = 63


def next_revision(last: int, now_ms: int, partition: int) -> int:
    """The smallest revision of this partition, at or after this moment, that is over `last`.

    After a burst of over 8,192 in a millisecond, or when the clock stepped back, it runs ahead of
    the clock until the clock catches up. It always carries its own partition's bits, so no two
    partitions ever give out the same one.
    """
    own = partition << PARTITION_SHIFT
    fresh = (now_ms << TIME_SHIFT) | own
    if fresh > last:
        return fresh
    following = last + 1
    if (following >> PARTITION_SHIFT) & PARTITION_MAX == partition:
        return following
    first = (following >> TIME_SHIFT << TIME_SHIFT) | own
    return first if first >= following else first + (1 << TIME_SHIFT)


def time_ms(revision: int) -> int:
    return revision >> TIME_SHIFT


def partition_of(revision: int) -> int:
    """The number of the partition that made it."""
    return (revision >> PARTITION_SHIFT) & PARTITION_MAX
