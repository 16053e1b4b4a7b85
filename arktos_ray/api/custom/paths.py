"""JSON paths as definitions have them: `.spec.size`, `.status.list[?(@.type=="Ready")].status`.

The part of the Kubernetes dialect that printer columns, scale and selectable fields use. A path is
compiled once; what it does not understand is refused when the definition is made. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

Step = Callable[[list[Any]], list[Any]]

_NAME = re.compile(r"\.((?:[^.\[\]\\'\"]|\\.)+)")
_QUOTED = re.compile(r"\[\s*(?:'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\")\s*\]")
_INDEX = re.compile(r"\[\s*(-?\d{1,6})\s*\]")
_SLICE = re.compile(r"\[\s*(-?\d{0,6})\s*:\s*(-?\d{0,6})\s*\]")
_ALL = re.compile(r"\[\s*\*\s*\]|\.\*")
_FILTER = re.compile(
    r"\[\?\(\s*@((?:\.(?:[^.\[\]\\'\"=!<>\s]|\\.)+)+)\s*"
    r"(?:(==|!=|<=|>=|<|>)\s*(?:'([^']*)'|\"([^\"]*)\"|(-?\d+(?:\.\d+)?|true|false)))?\s*\)\]"
)


@lru_cache(maxsize=4096)
def compiled(text: str) -> tuple[Step, ...]:
    """Raises ValueError for what cannot be read."""
    rest = text.strip()
    if rest.startswith("{") and rest.endswith("}"):
        rest = rest[1:-1].strip()
    rest = rest.removeprefix("$")
    if rest and rest[0] not in ".[":
        rest = "." + rest
    steps: list[Step] = []
    if rest == ".":
        rest = ""
    while rest:
        for pattern, make in _STEPS:
            found = pattern.match(rest)
            if found is not None:
                steps.append(make(found))
                rest = rest[found.end() :]
                break
        else:
            raise ValueError(f"unrecognized path at {rest[:40]!r}")
    return tuple(steps)


def problem(text: str) -> str:
    """Why a path cannot be read; "" when it can."""
    try:
        compiled(text)
    except ValueError as error:
        return str(error)
    return ""


def find(obj: Any, text: str) -> list[Any]:
    """Everything at that path; [] when there is nothing."""
    found = [obj]
    for step in compiled(text):
        found = step(found)
        if not found:
            break
    return found


def simple(text: str) -> tuple[str, ...] | None:
    """The names of a path that has nothing but names; None for any other."""
    parts, rest = [], text
    while rest:
        found = _NAME.match(rest)
        if found is None or found[1] == "*":
            return None
        parts.append(re.sub(r"\\(.)", r"\1", found[1]))
        rest = rest[found.end() :]
    return tuple(parts) or None


def get(obj: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(name)
    return obj


def put(obj: dict[str, Any], names: tuple[str, ...], value: Any) -> None:
    """Makes the objects on the way there."""
    for name in names[:-1]:
        inner = obj.get(name)
        if not isinstance(inner, dict):
            inner = obj[name] = {}
        obj = inner
    obj[names[-1]] = value


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _member(found: re.Match[str]) -> Step:
    name = _unescaped(next(group for group in found.groups() if group is not None))
    return lambda values: [v[name] for v in values if isinstance(v, dict) and name in v]


def _item(found: re.Match[str]) -> Step:
    at = int(found[1])
    return lambda values: [
        v[at] for v in values if isinstance(v, list) and -len(v) <= at < len(v)
    ]  # fmt: skip


def _part(found: re.Match[str]) -> Step:
    where = slice(*(int(one) if one else None for one in found.groups()))
    return lambda values: [each for v in values if isinstance(v, list) for each in v[where]]


def _each(found: re.Match[str]) -> Step:
    def step(values: list[Any]) -> list[Any]:
        out: list[Any] = []
        for value in values:
            if isinstance(value, list):
                out += value
            elif isinstance(value, dict):
                out += value.values()
        return out

    return step


def _where(found: re.Match[str]) -> Step:
    inner, operator = compiled(found[1]), found[2]
    text = found[3] if found[3] is not None else found[4]
    wanted: Any = text
    if text is None and operator:
        wanted = {"true": True, "false": False}.get(found[5])
        if wanted is None:
            wanted = float(found[5])

    def holds(item: Any) -> bool:
        values = [item]
        for step in inner:
            values = step(values)
        if not operator:
            return bool(values)
        return any(_compare(value, operator, wanted) for value in values)

    def step(values: list[Any]) -> list[Any]:
        return [each for v in values if isinstance(v, list) for each in v if holds(each)]

    return step


def _compare(value: Any, operator: str, wanted: Any) -> bool:
    if operator == "==":
        return bool(value == wanted)
    if operator == "!=":
        return bool(value != wanted)
    if isinstance(value, bool) or isinstance(value, str) is not isinstance(wanted, str):
        return False
    try:
        match operator:
            case "<":
                return bool(value < wanted)
            case "<=":
                return bool(value <= wanted)
            case ">":
                return bool(value > wanted)
        return bool(value >= wanted)
    except TypeError:
        return False


_STEPS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Step]], ...] = (
    (_ALL, _each), (_NAME, _member), (_QUOTED, _member), (_INDEX, _item), (_SLICE, _part),
    (_FILTER, _where),
)  # fmt: skip
