"""Revisions as hybrid time: comparable integers that grow over all partitions together.

bits 19..62 milliseconds since 1970 | bits 13..18 partition number | bits 0..12 sequence.
Source: spec/scaleout.md 7. Pure.
"""

from __future__ import annotations

TIME_SHIFT = 19
PARTITION_SHIFT = 13
PARTITION_MAX = 63


def next_revision(last: int, now_ms: int, partition: int) -> int:
    """The smallest revision of this moment and partition that is greater than `last`.

    After a burst of over 8,192 in a millisecond, or when the clock stepped back, it is last + 1:
    then it runs ahead of the clock until the clock catches up.
    """
    fresh = (now_ms << TIME_SHIFT) | (partition << PARTITION_SHIFT)
    return fresh if fresh > last else last + 1


def at_ms(now_ms: int) -> int:
    """The first revision of a millisecond, of whatever partition."""
    return now_ms << TIME_SHIFT


def time_ms(revision: int) -> int:
    return revision >> TIME_SHIFT
