"""Container logs in the form that every CRI runtime writes them.

A line is `<RFC 3339 time> <stdout|stderr> <F|P> <text>`; P marks a part of a longer line, F its
end. Reading is by plain file access: the driver says which file, and whether more may come.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import BinaryIO, Final

from arktos_ray.api import errors
from arktos_ray.base.clock import Clock, parse_rfc3339
from arktos_ray.runtime.port import LogOptions

_BLOCK: Final = 64 * 1024
# How soon a follower sees a new line.
_POLL_S: Final = 0.2


async def read(
    path: Path,
    options: LogOptions,
    clock: Clock,
    may_grow: Callable[[], Awaitable[bool]],
) -> AsyncGenerator[bytes, None]:
    """The lines that `options` asks for; one chunk for each block of the file that was read."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise errors.NotFound(f"no log of it is here: {error.strerror}") from error
    left = options.limit_bytes if options.limit_bytes is not None else -1
    with file:
        if options.tail_lines is not None:
            file.seek(_start_of_tail(file, options.tail_lines))
        rest = b""
        ending = False
        while True:
            block = file.read(_BLOCK)
            if block:
                lines = (rest + block).split(b"\n")
                rest = lines.pop()
                chunk = b"".join([_shown(line, options) for line in lines])
                if 0 <= left < len(chunk):
                    chunk = chunk[:left]
                if chunk:
                    yield chunk
                if left >= 0:
                    left -= len(chunk)
                    if left == 0:
                        return
            elif ending or not options.follow:
                return
            else:
                # Once it has ended, one more look: the last lines may just have been written.
                ending = not await may_grow()
                if not ending:
                    await clock.sleep(_POLL_S)


def _shown(line: bytes, options: LogOptions) -> bytes:
    parts = line.split(b" ", 3)
    if len(parts) < 4:
        return b""  # Not of this form: a write that was cut by a crash.
    stamp, _, tag, text = parts
    if options.since:
        try:
            # Nanoseconds are cut to the microseconds that Python can read.
            if parse_rfc3339(_micro(stamp.decode())) < options.since:
                return b""
        except ValueError:
            return b""
    if tag[:1] == b"F":
        text += b"\n"
    return stamp + b" " + text if options.timestamps else text


def _micro(stamp: str) -> str:
    whole, dot, rest = stamp.partition(".")
    if not dot:
        return stamp
    digits = rest.rstrip("Z").split("+")[0].split("-")[0]
    return f"{whole}.{digits[:6]:0<6}{rest[len(digits) :]}"


def _start_of_tail(file: BinaryIO, lines: int) -> int:
    """The offset of the last so many whole lines; parts of one line count as one."""
    end = file.seek(0, os.SEEK_END)
    if lines <= 0:
        return end
    data = b""
    while end > 0:
        start = max(0, end - _BLOCK)
        file.seek(start)
        data = file.read(end - start) + data
        end = start
        at = _tail_in(data, lines)
        if at > 0:
            return start + at
    return 0


def _tail_in(data: bytes, lines: int) -> int:
    """Where the last `lines` full lines begin in data; 0 when it holds no more than those."""
    ends = []
    at = data.find(b"\n")
    start = 0
    while at >= 0:
        parts = data[start : start + 80].split(b" ", 3)
        if len(parts) == 4 and parts[2][:1] == b"F":
            ends.append(at + 1)
        start = at + 1
        at = data.find(b"\n", start)
    return ends[-lines - 1] if len(ends) > lines else 0
