"""Promises of revisions: they grow, and no two partitions ever give out the same one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.store.revisions import PARTITION_MAX, PARTITION_SHIFT, next_revision, time_ms

moments = st.integers(1_700_000_000_000, 1_700_000_000_003)
numbers = st.integers(0, PARTITION_MAX)
jumps = st.integers(0, 3 << 19)


@given(numbers, st.lists(st.tuples(moments, st.one_of(st.just(0), jumps)), max_size=30))
def test_revisions_grow_and_carry_their_partition(
    partition: int, steps: list[tuple[int, int]]
) -> None:
    last = 0
    for now_ms, reached in steps:
        last += reached if last else 0  # Another partition's revision was reached meanwhile.
        fresh = next_revision(last, now_ms, partition)
        assert fresh > last
        assert (fresh >> PARTITION_SHIFT) & PARTITION_MAX == partition
        assert time_ms(fresh) <= max(now_ms, time_ms(last) + 1), "no further ahead than it must be"
        last = fresh


def test_a_burst_of_one_millisecond_does_not_run_into_the_next_partition() -> None:
    now_ms, last = 1_700_000_000_000, 0
    seen = set()
    for _ in range(20_000):
        last = next_revision(last, now_ms, 5)
        seen.add((last >> PARTITION_SHIFT) & PARTITION_MAX)
    assert seen == {5}
