"""Chunks give back the rows that were put in, notice damage, and know what is garbage."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arktos_ray.store.backends.chunks import PART_BYTES_MAX, Chunk, Chunks, Unpacker, pack
from arktos_ray.store.port import Corrupt, Row

sizes = st.lists(st.sampled_from([0, 10, 1_000, 400_000, PART_BYTES_MAX, 3 << 20]), max_size=12)


def row(revision: int, size: int = 10) -> Row:
    body = bytes([revision % 251]) * size
    return Row(revision, revision % 7 == 0, "pods", f"t/n/p{revision}", body, b"", "n1", "")


def unpacked(chunks: list[Chunk]) -> list[Row]:
    unpacker = Unpacker()
    found = [r for c in chunks for part in c.parts for r in unpacker.feed(c.first, part)]
    unpacker.finish()
    return found


@settings(deadline=None, max_examples=30)
@given(sizes)
def test_rows_come_out_as_they_went_in_and_no_value_is_too_large(found: list[int]) -> None:
    rows = [row(i, size) for i, size in enumerate(found, 1)]
    chunks = list(pack(rows))
    assert unpacked(chunks) == rows
    assert all(len(part) <= PART_BYTES_MAX + 100 for chunk in chunks for part in chunk.parts)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_changed_byte_and_any_missing_part_is_noticed(data: st.DataObject) -> None:
    [chunk] = pack([row(1, 2 * PART_BYTES_MAX)])
    parts = list(chunk.parts)
    which = data.draw(st.integers(0, len(parts) - 1))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(parts[which]) - 1))
        flipped = parts[which][at] ^ data.draw(st.integers(1, 255))
        parts[which] = parts[which][:at] + bytes([flipped]) + parts[which][at + 1 :]
    else:
        del parts[which]
    with pytest.raises(Corrupt):
        unpacked([Chunk(chunk.rows, tuple(parts))])


def test_a_changed_count_of_parts_is_noticed() -> None:
    [chunk] = pack([row(1, 2 * PART_BYTES_MAX)])
    parts = list(chunk.parts)
    for high in range(1, 256):  # Among others the number of the part itself.
        changed = parts[1][:2] + bytes([parts[1][2] ^ high]) + parts[1][3:]
        with pytest.raises(Corrupt):
            unpacked([Chunk(chunk.rows, (parts[0], changed, *parts[2:]))])


def test_a_value_under_the_key_of_another_is_noticed() -> None:
    one, two = [next(pack([row(i)])) for i in (1, 2)]
    unpacker = Unpacker()
    with pytest.raises(Corrupt, match="another chunk"):
        unpacker.feed(two.first, one.parts[0])


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=20),
    st.lists(st.lists(st.integers(1, 150), max_size=40), max_size=6),
)
def test_no_living_row_is_ever_counted_as_garbage(
    counts: list[int], rounds: list[list[int]]
) -> None:
    chunks, contents, last = Chunks(), {}, 0
    for count in counts:
        rows = [row(last + 2 * i) for i in range(1, count + 1)]  # Every other number is nobody's.
        last = rows[-1].revision
        chunks.add(rows[0].revision, rows, 100 * count)
        contents[rows[0].revision] = {r.revision for r in rows}
    alive = set().union(*contents.values())
    for named in rounds:
        fresh = chunks.forget(named)
        assert set(fresh) == alive & set(named), "each once, and only what is there"
        alive -= set(named)
        for first in chunks.empty(100):
            assert not contents[first] & alive
            chunks.remove(first)
            del contents[first]
        for run in chunks.sparse(10_000):
            for first in run:
                assert 0 < len(contents[first] & alive) <= len(contents[first]) / 2
    dead = set().union(*contents.values()) - alive if contents else set()
    assert set(chunks.garbage()) == dead
