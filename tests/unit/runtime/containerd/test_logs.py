"""Log files as a CRI runtime writes them, read as `kubectl logs` asks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from arktos_ray.api import errors
from arktos_ray.base.clock import parse_rfc3339
from arktos_ray.runtime.containerd import logs
from arktos_ray.runtime.port import LogOptions
from arktos_ray.testing.fakes import FakeClock

LOG = (
    b"2026-11-23T00:47:30.645857073Z stdout F one\n"
    b"2026-11-23T00:47:31.000000001Z stderr F two\n"
    b"2026-11-23T00:47:32.5Z stdout P thr\n"
    b"2026-11-23T00:47:32.6Z stdout F ee\n"
    b"2026-11-23T00:47:33Z stdout F \n"
)


def read(path: Path, options: LogOptions) -> bytes:
    async def ended() -> bool:
        return False

    async def run() -> bytes:
        chunks = logs.read(path, options, FakeClock(), ended)
        return b"".join([chunk async for chunk in chunks])

    return asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "0.log"
    file.write_bytes(LOG)
    return file


def test_parts_of_a_line_are_joined(path: Path) -> None:
    assert read(path, LogOptions()) == b"one\ntwo\nthree\n\n"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [(0, b""), (1, b"\n"), (2, b"three\n\n"), (3, b"two\nthree\n\n"), (99, b"one\ntwo\nthree\n\n")],
)
def test_the_tail_counts_whole_lines(path: Path, lines: int, expected: bytes) -> None:
    assert read(path, LogOptions(tail_lines=lines)) == expected


def test_the_tail_of_a_long_file_is_its_end(tmp_path: Path) -> None:
    file = tmp_path / "0.log"
    stamp = b"2026-11-23T00:47:33Z stdout F "
    file.write_bytes(b"".join(stamp + b"%d\n" % i for i in range(20_000)))
    assert read(file, LogOptions(tail_lines=3)) == b"19997\n19998\n19999\n"
    everything = read(file, LogOptions(tail_lines=19_999))
    assert everything.startswith(b"1\n2\n")
    assert everything.count(b"\n") == 19_999


def test_since_leaves_out_what_is_older(path: Path) -> None:
    since = parse_rfc3339("2026-11-23T00:47:31Z")
    assert read(path, LogOptions(since=since)) == b"two\nthree\n\n"


def test_timestamps_are_the_ones_of_the_file(path: Path) -> None:
    shown = read(path, LogOptions(timestamps=True, tail_lines=4))
    assert shown.startswith(b"2026-11-23T00:47:30.645857073Z one\n")


def test_a_limit_of_bytes_cuts(path: Path) -> None:
    assert read(path, LogOptions(limit_bytes=5)) == b"one\nt"


def test_a_line_cut_by_a_crash_is_left_out(path: Path) -> None:
    path.write_bytes(LOG + b"2026-11-23T00:47:3")
    assert read(path, LogOptions()) == b"one\ntwo\nthree\n\n"


def test_a_log_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        read(tmp_path / "1.log", LogOptions())


def test_a_follower_gets_what_is_written_later_and_then_ends(path: Path) -> None:
    async def run() -> bytes:
        clock = FakeClock()
        looks = 0

        async def may_grow() -> bool:
            nonlocal looks
            looks += 1
            if looks == 3:
                with path.open("ab") as file:
                    file.write(b"2026-11-23T00:47:34Z stdout F late\n")
            return looks < 3

        async def follow() -> bytes:
            options = LogOptions(follow=True, tail_lines=1)
            return b"".join([c async for c in logs.read(path, options, clock, may_grow)])

        task = asyncio.ensure_future(follow())
        await clock.advance(5)
        return await task

    assert asyncio.run(run()) == b"\nlate\n"
