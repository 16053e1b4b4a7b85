"""Regular expressions of strangers: RE2, so that none takes longer than its text is long. Pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

# A repetition such as x{1000}{1000} would have cost memory; the real server's bound is the same
# 1,000 for repetitions, and ours is on what they are compiled to.
_PROGRAM_BYTES = 1 << 20
# About 10 KB each: 10 MB.
_CACHE = 1_024


@lru_cache(maxsize=_CACHE)
def compile(pattern: str) -> Any:  # noqa: A001
    """`search` and `finditer` of it. ValueError says what is wrong with it. Import: 7 ms."""
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PROGRAM_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        text = error.args[0] if error.args else ""
        raise ValueError(text.decode() if isinstance(text, bytes) else str(text)) from None
    except UnicodeError:
        raise ValueError("invalid UTF-8") from None
