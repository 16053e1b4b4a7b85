"""What the functions and operators of CEL do, with those that Kubernetes adds.

By name and the types of the values at hand; which calls there may be at all is for the checker
(declarations.py). Every function takes the budget first: what walks a text or makes one pays for
its length before it does so. A call that fits no type is `no such overload`. Pure.
"""

from __future__ import annotations

import ipaddress
import math
import operator
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from fractions import Fraction
from functools import cmp_to_key, lru_cache
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

from arktos_ray.api import quantity
from arktos_ray.api.cel import formats, patterns
from arktos_ray.api.cel.values import (
    INT_MAX,
    INT_MIN,
    NANO,
    NONE,
    NUMBERS,
    TYPE_NAMES,
    UINT_MAX,
    Budget,
    CelError,
    Cidr,
    Duration,
    Format,
    Ip,
    Optional,
    Quantity,
    Semver,
    Timestamp,
    Type,
    UInt,
    Url,
    compare,
    double_text,
    equal,
    no_overload,
)  # fmt: skip

Function = Callable[..., Any]
FUNCTIONS: dict[str, Function] = {}

# What a text costs that is read as an address, a quantity, a moment: 2 to 8 us.
_PARSING = 20
# Texts that were read so, of each kind: constants of rules, mostly. 1,024 x 1 KB.
_CACHE = 1_024


def _function(*names: str) -> Callable[[Function], Function]:
    def keep(function: Function) -> Function:
        for name in names:
            FUNCTIONS[name] = function
        return function

    return keep


def _integer(value: int) -> int:
    if not INT_MIN <= value <= INT_MAX:
        raise CelError("integer overflow")
    return value


def _unsigned(value: int) -> UInt:
    if not 0 <= value <= UINT_MAX:
        raise CelError("unsigned integer overflow")
    return UInt(value)


def _need(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise no_overload()
    return value


# --------------------------------------------------------------------------------------- operators


@_function("_+_")
def _add(budget: Budget, left: Any, right: Any) -> Any:
    kind, other = type(left), type(right)
    if kind is other:
        if kind is int:
            return _integer(left + right)
        if kind is str or kind is bytes:
            budget.charge((len(left) + len(right)) >> 4)
            return left + right
        if kind is float:
            return left + right
        if kind is list:
            budget.charge(len(left) + len(right))
            return left + right
        if kind is UInt:
            return _unsigned(int(left) + int(right))
        if kind is Duration:
            return Duration(left.ns + right.ns)
    elif {kind, other} == {Timestamp, Duration}:
        return Timestamp(left.ns + right.ns)
    raise no_overload()


@_function("_-_")
def _subtract(budget: Budget, left: Any, right: Any) -> Any:
    kind, other = type(left), type(right)
    if kind is other:
        if kind is int:
            return _integer(left - right)
        if kind is float:
            return left - right
        if kind is UInt:
            return _unsigned(int(left) - int(right))
        if kind in (Duration, Timestamp):
            return Duration(left.ns - right.ns)
    elif kind is Timestamp and other is Duration:
        return Timestamp(left.ns - right.ns)
    raise no_overload()


@_function("_*_")
def _multiply(budget: Budget, left: Any, right: Any) -> Any:
    kind = type(left)
    if kind is type(right):
        if kind is int:
            return _integer(left * right)
        if kind is float:
            return left * right
        if kind is UInt:
            return _unsigned(int(left) * int(right))
    raise no_overload()


@_function("_/_")
def _divide(budget: Budget, left: Any, right: Any) -> Any:
    kind = type(left)
    if kind is type(right):
        if kind is float:
            if right == 0:
                return math.nan if left == 0 or left != left else math.copysign(math.inf, left)
            return left / right
        if kind is int or kind is UInt:
            if right == 0:
                raise CelError("division by zero")
            whole = abs(int(left)) // abs(int(right))
            if kind is UInt:
                return UInt(whole)
            return _integer(whole if (left < 0) == (right < 0) else -whole)
    raise no_overload()


@_function("_%_")
def _modulo(budget: Budget, left: Any, right: Any) -> Any:
    kind = type(left)
    if kind is type(right) and (kind is int or kind is UInt):
        if right == 0:
            raise CelError("modulus by zero")
        rest = abs(int(left)) % abs(int(right))
        return UInt(rest) if kind is UInt else (rest if left >= 0 else -rest)
    raise no_overload()


@_function("-_")
def _negate(budget: Budget, value: Any) -> Any:
    kind = type(value)
    if kind is int:
        return _integer(-value)
    if kind is float:
        return -value
    raise no_overload()


@_function("!_")
def _not(budget: Budget, value: Any) -> Any:
    return not _need(value, bool)


@_function("_==_")
def _equals(budget: Budget, left: Any, right: Any) -> bool:
    return equal(left, right, budget)


@_function("_!=_")
def _differs(budget: Budget, left: Any, right: Any) -> bool:
    return not equal(left, right, budget)


def _comparison(wanted: Callable[[int, int], bool]) -> Function:
    def apply(budget: Budget, left: Any, right: Any) -> bool:
        if type(left) is int and type(right) is int:
            return wanted(left, right)
        order = compare(left, right, budget)
        return order is not None and wanted(order, 0)

    return apply


FUNCTIONS["_<_"] = _comparison(operator.lt)
FUNCTIONS["_<=_"] = _comparison(operator.le)
FUNCTIONS["_>_"] = _comparison(operator.gt)
FUNCTIONS["_>=_"] = _comparison(operator.ge)


@_function("@in")
def _in(budget: Budget, value: Any, whole: Any) -> bool:
    kind = type(whole)
    if kind is list:
        budget.charge(1 + len(whole))
        return any(equal(value, item, budget) for item in whole)
    if kind is dict:
        return key_of(value) in whole
    raise no_overload()


def key_of(value: Any) -> Any:
    """The key of a map. Numbers of any type are one key, as they are equal."""
    kind = type(value)
    if kind is str or kind is int or kind is UInt:
        return value
    if kind is float and value.is_integer():
        return int(value)
    if kind is float:
        return None
    # A bool would be the key 1 or 0 to a dict; nobody has maps of bools.
    raise CelError(f"unsupported key type: {type_name(value)}")


@_function("_[_]")
def index(budget: Budget, whole: Any, key: Any) -> Any:
    kind = type(whole)
    if kind is dict:
        key = key_of(key)
        if key in whole:
            return whole[key]
        raise CelError(f"no such key: {key}")
    if kind is list:
        at = key
        if type(at) is float and at.is_integer():
            at = int(at)
        if type(at) is not int and type(at) is not UInt:
            raise CelError(f"unsupported index type '{type_name(key)}' in list")
        if 0 <= at < len(whole):
            return whole[at]
        raise CelError(f"index out of bounds: {at}")
    if kind is Optional:
        return optional_index(budget, whole, key)
    raise no_overload()


@_function("_[?_]")
def optional_index(budget: Budget, whole: Any, key: Any) -> Optional:
    if type(whole) is Optional:
        if not whole.present:
            return NONE
        whole = whole.value
    kind = type(whole)
    if kind is dict:
        key = key_of(key)
        return Optional(whole[key]) if key in whole else NONE
    if kind is list:
        at = int(_need(key, int, UInt, float))
        return Optional(whole[at]) if 0 <= at < len(whole) else NONE
    raise no_overload()


# ------------------------------------------------------------------------------ types, conversions


def type_name(value: Any) -> str:
    return TYPE_NAMES[type(value)]


@_function("type")
def _type(budget: Budget, value: Any) -> Type:
    return Type(type_name(value))


@_function("dyn")
def _dyn(budget: Budget, value: Any) -> Any:
    return value


@_function("size")
def _size(budget: Budget, value: Any) -> int:
    if type(value) in (str, bytes, list, dict):
        return len(value)
    raise no_overload()


_WHOLE = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(inf|infinity)|nan", re.A | re.I)  # fmt: skip  # noqa: E501


@_function("int")
def _int(budget: Budget, value: Any) -> int:
    kind = type(value)
    if kind is int or kind is UInt:
        return _integer(int(value))
    if kind is float:
        if not math.isfinite(value) or not INT_MIN < value < INT_MAX:
            raise CelError("integer overflow")
        return int(value)
    if kind is str:
        if not _WHOLE.fullmatch(value):
            raise CelError(f'strconv.ParseInt: parsing "{value[:64]}": invalid syntax')
        number = int(value)
        if not INT_MIN <= number <= INT_MAX:
            raise CelError(f'strconv.ParseInt: parsing "{value}": value out of range')
        return number
    if kind is Timestamp:
        return int(value.ns // NANO)
    if kind is Duration:
        return int(value.ns)
    raise no_overload()


@_function("uint")
def _uint(budget: Budget, value: Any) -> UInt:
    kind = type(value)
    if kind is int or kind is UInt:
        return _unsigned(int(value))
    if kind is float:
        if not math.isfinite(value) or not 0 <= value < UINT_MAX:
            raise CelError("unsigned integer overflow")
        return UInt(int(value))
    if kind is str:
        if not _WHOLE.fullmatch(value) or value[0] in "+-":
            raise CelError(f'strconv.ParseUint: parsing "{value[:64]}": invalid syntax')
        return _unsigned(int(value))
    raise no_overload()


@_function("double")
def _double(budget: Budget, value: Any) -> float:
    kind = type(value)
    if kind in NUMBERS:
        return float(value)
    if kind is str:
        if len(value) > 400 or not _FLOAT.fullmatch(value):
            raise CelError(f'strconv.ParseFloat: parsing "{value[:64]}": invalid syntax')
        return float(value)
    raise no_overload()


@_function("bool")
def _bool(budget: Budget, value: Any) -> bool:
    if type(value) is bool:
        return value
    if type(value) is str:
        if value in ("1", "t", "T", "true", "TRUE", "True"):
            return True
        if value in ("0", "f", "F", "false", "FALSE", "False"):
            return False
        raise CelError(f'strconv.ParseBool: parsing "{value[:64]}": invalid syntax')
    raise no_overload()


@_function("string")
def _string(budget: Budget, value: Any) -> str:
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int or kind is UInt:
        return str(int(value))
    if kind is float:
        return double_text(value)
    if kind is bytes:
        budget.charge(len(value) >> 4)
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            raise CelError("invalid UTF-8 in bytes, cannot convert to string") from None
    if kind is Timestamp or kind is Duration:
        return str(value.text())
    if kind is Ip:
        return str(value.address)
    if kind is Cidr:
        return str(value.interface)
    raise no_overload()


@_function("bytes")
def _bytes(budget: Budget, value: Any) -> bytes:
    if type(value) is bytes:
        return value
    budget.charge(len(_need(value, str)) >> 4)
    return str(value).encode()


_MOMENT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
)


@_function("timestamp")
def timestamp(budget: Budget, value: Any) -> Timestamp:
    kind = type(value)
    if kind is Timestamp:
        return value  # type: ignore[no-any-return]
    if kind is int:
        return Timestamp(value * NANO)
    budget.charge(_PARSING)
    return Timestamp(_moment_ns(_need(value, str)))


@lru_cache(maxsize=_CACHE)
def _moment_ns(text: str) -> int:
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise CelError(f'parsing time "{text[:64]}" as "2006-01-02T15:04:05Z07:00": cannot parse')
    try:
        moment = datetime(*(int(part) for part in found.groups()[:6]), tzinfo=UTC)  # type: ignore[arg-type, misc]
    except ValueError:
        raise CelError(f'parsing time "{text}": out of range') from None
    seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    if found[8]:
        shift = int(found[9]) * 3600 + int(found[10]) * 60
        seconds += -shift if found[8] == "+" else shift
    return seconds * NANO + int((found[7] or "0").ljust(9, "0"))


_UNITS = {
    "ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 1_000_000, "s": NANO, "m": 60 * NANO,
    "h": 3600 * NANO,
}  # fmt: skip
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_SPAN = re.compile(r"[+-]?(0|(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)", re.ASCII)


@_function("duration")
def duration(budget: Budget, value: Any) -> Duration:
    kind = type(value)
    if kind is Duration:
        return value  # type: ignore[no-any-return]
    if kind is int:
        return Duration(value)
    budget.charge(_PARSING)
    return Duration(_span_ns(_need(value, str)))


@lru_cache(maxsize=_CACHE)
def _span_ns(text: str) -> int:
    if len(text) > 128 or not _SPAN.fullmatch(text):
        raise CelError(f'time: invalid duration "{text[:64]}"')
    parts = _PART.findall(text)
    ns = sum(int(Fraction(number.rstrip(".")) * _UNITS[unit]) for number, unit in parts)
    return -ns if text[0] == "-" else ns


# ------------------------------------------------------------------------------------------- times


@lru_cache(maxsize=256)
def _zone(name: str) -> tzinfo:
    if found := re.fullmatch(r"([+-]?)(\d\d):(\d\d)", name, re.ASCII):
        minutes = int(found[2]) * 60 + int(found[3])
        if minutes >= 24 * 60:
            raise CelError(f"unknown time zone {name}")
        return timezone(timedelta(minutes=-minutes if found[1] == "-" else minutes))
    if len(name) > 64 or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_+\-/]*", name):
        raise CelError(f"unknown time zone {name[:64]}")
    try:
        return ZoneInfo(name)
    except Exception:
        raise CelError(f"unknown time zone {name}") from None


def _of_moment(take: Callable[[datetime], int]) -> Function:
    def apply(budget: Budget, value: Any, zone: Any = None) -> int:
        budget.charge(_PARSING)
        moment = _need(value, Timestamp).moment()
        if zone is not None:
            try:
                moment = moment.astimezone(_zone(_need(zone, str)))
            except OverflowError:
                raise CelError("timestamp overflow") from None
        return take(moment)

    return apply


FUNCTIONS["getFullYear"] = _of_moment(lambda moment: moment.year)
FUNCTIONS["getMonth"] = _of_moment(lambda moment: moment.month - 1)
FUNCTIONS["getDate"] = _of_moment(lambda moment: moment.day)
FUNCTIONS["getDayOfMonth"] = _of_moment(lambda moment: moment.day - 1)
FUNCTIONS["getDayOfWeek"] = _of_moment(lambda moment: moment.isoweekday() % 7)
FUNCTIONS["getDayOfYear"] = _of_moment(lambda moment: moment.timetuple().tm_yday - 1)


def _of_time(take: Callable[[datetime], int], unit_ns: int) -> Function:
    of_moment = _of_moment(take)

    def apply(budget: Budget, value: Any, zone: Any = None) -> int:
        if type(value) is Duration and zone is None:
            whole = abs(value.ns) // unit_ns
            if unit_ns < NANO:
                whole %= 1000
            return -whole if value.ns < 0 else whole
        return of_moment(budget, value, zone)  # type: ignore[no-any-return]

    return apply


FUNCTIONS["getHours"] = _of_time(lambda moment: moment.hour, 3600 * NANO)
FUNCTIONS["getMinutes"] = _of_time(lambda moment: moment.minute, 60 * NANO)
FUNCTIONS["getSeconds"] = _of_time(lambda moment: moment.second, NANO)
FUNCTIONS["getMilliseconds"] = _of_time(lambda moment: moment.microsecond // 1000, 1_000_000)


# -------------------------------------------------------------------------------------------- text


def _text(budget: Budget, *values: Any) -> None:
    for value in values:
        budget.charge(1 + (len(_need(value, str)) >> 4))


@_function("contains")
def _contains(budget: Budget, text: Any, part: Any) -> bool:
    _text(budget, text, part)
    return part in text


@_function("startsWith")
def _starts_with(budget: Budget, text: Any, part: Any) -> bool:
    _text(budget, text, part)
    return bool(text.startswith(part))


@_function("endsWith")
def _ends_with(budget: Budget, text: Any, part: Any) -> bool:
    _text(budget, text, part)
    return bool(text.endswith(part))


@_function("matches")
def _matches(budget: Budget, text: Any, pattern: Any) -> bool:
    return _pattern(budget, text, pattern).search(text) is not None


def _pattern(budget: Budget, text: Any, pattern: Any) -> Any:
    """A regular expression that takes time in proportion to both."""
    _text(budget, text, pattern)
    budget.charge(24 + ((len(text) + 16) * (len(pattern) + 16) >> 8))
    try:
        return patterns.compile(pattern)
    except ValueError as error:
        raise CelError(f"error parsing regexp: {error}") from None


@_function("find")
def _find(budget: Budget, text: Any, pattern: Any) -> str:
    found = _pattern(budget, text, pattern).search(text)
    return found[0] if found else ""


@_function("findAll")
def _find_all(budget: Budget, text: Any, pattern: Any, limit: int = -1) -> list[str]:
    compiled = _pattern(budget, text, pattern)
    out: list[str] = []
    if limit == 0:
        return out
    for found in compiled.finditer(text):
        budget.charge(1 + (len(text) >> 6))
        out.append(found[0])
        if len(out) == limit:
            break
    return out


@_function("charAt")
def _char_at(budget: Budget, text: Any, at: Any) -> str:
    if not 0 <= at <= len(text):
        raise CelError(f"index out of range: {at}")
    return str(text[at : at + 1])


def _offset(at: int, text: str) -> int:
    if not 0 <= at <= len(text):
        raise CelError(f"index out of range: {at}")
    return at


@_function("indexOf")
def _index_of(budget: Budget, whole: Any, part: Any, at: int = 0) -> int:
    if type(whole) is list:
        for place, item in enumerate(whole):
            budget.charge(1)
            if equal(item, part, budget):
                return place
        return -1
    _text(budget, whole, part)
    return int(whole.find(part, _offset(at, whole)))


@_function("lastIndexOf")
def _last_index_of(budget: Budget, whole: Any, part: Any, at: int | None = None) -> int:
    if type(whole) is list:
        for place in range(len(whole) - 1, -1, -1):
            budget.charge(1)
            if equal(whole[place], part, budget):
                return place
        return -1
    _text(budget, whole, part)
    if at is None:
        return int(whole.rfind(part))
    return int(whole.rfind(part, 0, _offset(at, whole) + len(part)))


_LOWER = {code: code + 32 for code in range(65, 91)}
_UPPER = {code: code - 32 for code in range(97, 123)}


@_function("lowerAscii")
def _lower(budget: Budget, text: Any) -> str:
    _text(budget, text)
    return str(text.translate(_LOWER))


@_function("upperAscii")
def _upper(budget: Budget, text: Any) -> str:
    _text(budget, text)
    return str(text.translate(_UPPER))


@_function("trim")
def _trim(budget: Budget, text: Any) -> str:
    _text(budget, text)
    return str(text.strip())


@_function("reverse")
def _reverse(budget: Budget, text: Any) -> str:
    _text(budget, text)
    return str(text[::-1])


@_function("replace")
def _replace(budget: Budget, text: Any, old: Any, new: Any, limit: int = -1) -> str:
    _text(budget, text, old, new)
    times = text.count(old) if limit < 0 else min(limit, text.count(old))
    budget.charge(times * len(new) >> 4)
    return str(text.replace(old, new, limit))


@_function("split")
def _split(budget: Budget, text: Any, mark: Any, limit: int = -1) -> list[str]:
    _text(budget, text, mark)
    if limit == 0:
        return []
    if not mark:
        budget.charge(len(text))
        parts = list(text)
        return parts if not 0 < limit < len(parts) else [*parts[: limit - 1], text[limit - 1 :]]
    budget.charge(text.count(mark))
    return list(text.split(mark, limit - 1 if limit > 0 else -1))


@_function("substring")
def _substring(budget: Budget, text: Any, start: Any, end: Any = None) -> str:
    _text(budget, text)
    if end is None:
        end = len(text)
    _offset(start, text), _offset(end, text)
    if start > end:
        raise CelError(f"invalid substring range. start: {start}, end: {end}")
    return str(text[start:end])


@_function("join")
def _join(budget: Budget, parts: Any, mark: Any = "") -> str:
    length = 0
    for part in _need(parts, list):
        length += len(_need(part, str)) + len(mark)
        budget.charge(1)
    budget.charge(length >> 4)
    return str(mark.join(parts))


_QUOTED = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
    "\\": "\\\\", '"': '\\"',
}  # fmt: skip


@_function("strings.quote")
def _quote(budget: Budget, text: Any) -> str:
    budget.charge(len(_need(text, str)) >> 1)
    return '"' + "".join(_QUOTED.get(char, char) for char in text) + '"'


_CLAUSE = re.compile(r"%(?:\.(\d{1,3}))?(.)|%", re.DOTALL)


@_function("format")
def _format(budget: Budget, text: Any, args: Any) -> str:
    _text(budget, text)
    _need(args, list)
    used = 0

    def one(found: re.Match[str]) -> str:
        nonlocal used
        digits, clause = found[1], found[2]
        if clause == "%":
            return "%"
        if clause is None or clause not in "sdfebxXo":
            raise CelError(f'unrecognized formatting clause "{clause or ""}"')
        if used >= len(args):
            raise CelError(f"index {used} out of range")
        value = args[used]
        used += 1
        shown = _clause(budget, clause, value, int(digits) if digits else 6)
        budget.charge(1 + (len(shown) >> 4))
        return shown

    return _CLAUSE.sub(one, text)


def _clause(budget: Budget, clause: str, value: Any, digits: int) -> str:
    kind = type(value)
    if clause == "s":
        return _shown(budget, value)
    if clause in "fe" and kind in NUMBERS:
        if not math.isfinite(value):
            return {"+Inf": "Infinity", "-Inf": "-Infinity"}.get(double_text(value), "NaN")
        return f"{float(value):.{digits}{clause}}"
    if clause == "d" and kind in NUMBERS:
        return str(int(value)) if kind is not float else double_text(value)
    if clause in "xX" and kind in (str, bytes):
        budget.charge(len(value) >> 3)
        raw = value.encode() if kind is str else value
        return str(raw.hex()) if clause == "x" else str(raw.hex().upper())
    if clause in "bxXo" and kind in (int, UInt):
        return format(int(value), clause)
    if clause == "b" and kind is bool:
        return "1" if value else "0"
    raise CelError(f"error during formatting: {clause} clause can not be used on {type_name(value)}")  # fmt: skip  # noqa: E501


def _shown(budget: Budget, value: Any) -> str:
    budget.charge(1)
    kind = type(value)
    if kind is list:
        return "[" + ", ".join([_shown(budget, item) for item in value]) + "]"
    if kind is dict:
        pairs = sorted((_shown(budget, key), _shown(budget, item)) for key, item in value.items())
        return "{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}"
    if value is None:
        return "null"
    if kind is Type:
        return str(value.name)
    if kind is str:
        budget.charge(len(value) >> 4)
    if kind in (Quantity, Url, Semver, Format, Optional):
        raise CelError(
            "error during formatting: string clause can only be used on strings, bools, bytes, "
            f"ints, doubles, maps, lists, types, durations, and timestamps, was given {type_name(value)}"  # noqa: E501
        )
    return str(_string(budget, value))


# ------------------------------------------------------------------------------------ lists, sets


def _in_order(budget: Budget, left: Any, right: Any) -> int:
    budget.charge(1)
    order = compare(left, right, budget)
    return 1 if order is None else order


@_function("isSorted")
def _is_sorted(budget: Budget, items: Any) -> bool:
    _need(items, list)
    return all(_in_order(budget, a, b) <= 0 for a, b in pairwise(items))


@_function("sum")
def _sum(budget: Budget, items: Any) -> Any:
    budget.charge(len(_need(items, list)))
    if not items:
        return 0
    total = items[0]
    for item in items[1:]:
        total = _add(budget, total, item)
    if type(total) not in (int, UInt, float, Duration):
        raise no_overload()
    return total


@_function("min")
def _min(budget: Budget, items: Any) -> Any:
    if not _need(items, list):
        raise CelError("min called on empty list")
    return min(items, key=cmp_to_key(lambda a, b: _in_order(budget, a, b)))


@_function("max")
def _max(budget: Budget, items: Any) -> Any:
    if not _need(items, list):
        raise CelError("max called on empty list")
    return max(items, key=cmp_to_key(lambda a, b: _in_order(budget, a, b)))


@_function("sets.contains")
def _set_contains(budget: Budget, left: Any, right: Any) -> bool:
    return all(_in(budget, item, left) for item in right)


@_function("sets.equivalent")
def _set_equivalent(budget: Budget, left: Any, right: Any) -> bool:
    return bool(_set_contains(budget, left, right) and _set_contains(budget, right, left))


@_function("sets.intersects")
def _set_intersects(budget: Budget, left: Any, right: Any) -> bool:
    return any(_in(budget, item, left) for item in right)


# --------------------------------------------------------------------------------------- optionals


@_function("optional.of")
def _optional_of(budget: Budget, value: Any) -> Optional:
    return Optional(value)


@_function("optional.ofNonZeroValue")
def _optional_of_non_zero(budget: Budget, value: Any) -> Optional:
    zero = type(value) in (str, bytes, list, dict, bool, int, UInt, float) and not value
    return NONE if zero or value is None else Optional(value)


@_function("optional.none")
def _optional_none(budget: Budget) -> Optional:
    return NONE


@_function("value")
def _optional_value(budget: Budget, value: Any) -> Any:
    if not _need(value, Optional).present:
        raise CelError("optional.none() dereference")
    return value.value


@_function("hasValue")
def _optional_has_value(budget: Budget, value: Any) -> bool:
    return bool(_need(value, Optional).present)


# -------------------------------------------------------------------------------------- quantities


def _parsed(text: Any) -> Quantity:
    if len(_need(text, str)) > 128:
        raise CelError(quantity.BAD_FORM)
    try:
        return Quantity(quantity.parse(text))
    except ValueError as error:
        raise CelError(str(error)) from None


def _can(parse: Callable[[Any], Any]) -> Function:
    def apply(budget: Budget, text: Any) -> bool:
        budget.charge(_PARSING)
        _text(budget, text)
        try:
            parse(text)
        except CelError:
            return False
        return True

    return apply


@_function("quantity")
def _quantity(budget: Budget, text: Any) -> Quantity:
    budget.charge(_PARSING)
    return _parsed(text)


FUNCTIONS["isQuantity"] = _can(_parsed)


@_function("sign")
def _sign(budget: Budget, value: Any) -> int:
    amount = _need(value, Quantity).amount
    return int(amount > 0) - int(amount < 0)


@_function("isInteger")
def _is_integer(budget: Budget, value: Any) -> bool:
    amount = _need(value, Quantity).amount
    return bool(amount.denominator == 1 and INT_MIN <= amount <= INT_MAX)


@_function("asInteger")
def _as_integer(budget: Budget, value: Any) -> int:
    if not _is_integer(budget, value):
        raise CelError("cannot convert value to integer")
    return int(value.amount)


@_function("asApproximateFloat")
def _as_float(budget: Budget, value: Any) -> float:
    return float(_need(value, Quantity).amount)


def _amount(value: Any) -> Fraction:
    return value.amount if type(value) is Quantity else Fraction(_need(value, int))


@_function("add")
def _quantity_add(budget: Budget, left: Any, right: Any) -> Quantity:
    return Quantity(_need(left, Quantity).amount + _amount(right))


@_function("sub")
def _quantity_sub(budget: Budget, left: Any, right: Any) -> Quantity:
    return Quantity(_need(left, Quantity).amount - _amount(right))


@_function("compareTo")
def _compare_to(budget: Budget, left: Any, right: Any) -> int:
    if type(left) is Quantity and type(right) is Quantity:
        a: Any = left.amount
        b: Any = right.amount
    elif type(left) is Semver and type(right) is Semver:
        a, b = left.order, right.order
    else:
        raise no_overload()
    return int(a > b) - int(a < b)


@_function("isLessThan")
def _is_less(budget: Budget, left: Any, right: Any) -> bool:
    return bool(_compare_to(budget, left, right) < 0)


@_function("isGreaterThan")
def _is_greater(budget: Budget, left: Any, right: Any) -> bool:
    return bool(_compare_to(budget, left, right) > 0)


_SEMVER = re.compile(
    r"(0|[1-9]\d{0,18})\.(0|[1-9]\d{0,18})\.(0|[1-9]\d{0,18})"
    r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?",
    re.ASCII,
)


def _version(text: Any) -> Semver:
    found = _SEMVER.fullmatch(_need(text, str)) if len(text) <= 256 else None
    if found is None:
        raise CelError("No Major.Minor.Patch elements found")
    parts: list[tuple[int, Any]] = []
    for part in (found[4] or "").split(".") if found[4] else ():
        if part.isdigit():
            if len(part) > 1 and part[0] == "0":
                raise CelError("Numeric PreRelease version must not contain leading zeroes")
            parts.append((0, int(part)))
        else:
            parts.append((1, part))
    return Semver((int(found[1]), int(found[2]), int(found[3])), tuple(parts))


def _normalized(text: Any) -> Any:
    """`v1.02` as `1.2.0`."""
    plain = _need(text, str).removeprefix("v")
    head = re.match(r"[0-9]+(\.[0-9]+){0,2}", plain[:256], re.ASCII)
    if head is None:
        return text
    numbers = [str(int(number)) for number in head[0].split(".")]
    return ".".join([*numbers, "0", "0"][:3]) + plain[head.end() :]


@_function("semver")
def _semver(budget: Budget, text: Any, normalize: Any = False) -> Semver:
    budget.charge(_PARSING)
    _text(budget, text)
    return _version(_normalized(text) if normalize else text)


@_function("isSemver")
def _is_semver(budget: Budget, text: Any, normalize: Any = False) -> bool:
    try:
        _semver(budget, text, normalize)
    except CelError:
        return False
    return True


def _part_of_version(at: int) -> Function:
    return lambda budget, value: _need(value, Semver).numbers[at]


FUNCTIONS["major"], FUNCTIONS["minor"], FUNCTIONS["patch"] = map(_part_of_version, range(3))


# --------------------------------------------------------------------------------- URLs, addresses

# What a URL may not have as it is.
_NOT_URL = re.compile(r"[\x00-\x20\x7f]|%(?![0-9a-fA-F]{2})")


@_function("url")
def _url(budget: Budget, text: Any) -> Url:
    budget.charge(_PARSING)
    _text(budget, text)
    return _located(text)


def _located(text: Any) -> Url:
    problem = f'URL parse error during conversion from string: parse "{_need(text, str)[:256]}": '
    if _NOT_URL.search(text):
        raise CelError(problem + "invalid character or escape in URL")
    try:
        parts = urlsplit(text)
        # Asked for here, because that is where they are checked.
        _ = parts.port, parts.hostname
    except ValueError as error:
        raise CelError(problem + str(error)) from None
    if not parts.scheme and not text.startswith("/"):
        raise CelError(problem + "invalid URI for request")
    return Url(text, parts)


FUNCTIONS["isURL"] = _can(_located)


def _part_of_url(take: Callable[[Url], Any]) -> Function:
    return lambda budget, value: take(_need(value, Url))


FUNCTIONS["getScheme"] = _part_of_url(lambda url: url.parts.scheme)
FUNCTIONS["getHost"] = _part_of_url(lambda url: url.parts.netloc.rpartition("@")[2])
FUNCTIONS["getHostname"] = _part_of_url(lambda url: url.parts.hostname or "")
FUNCTIONS["getPort"] = _part_of_url(
    lambda url: "" if url.parts.port is None else str(url.parts.port)
)
FUNCTIONS["getEscapedPath"] = _part_of_url(lambda url: url.parts.path)


@_function("getQuery")
def _query(budget: Budget, value: Any) -> dict[str, list[str]]:
    query = _need(value, Url).parts.query
    budget.charge(1 + query.count("&") * 2 + (len(query) >> 2))
    return parse_qs(query, keep_blank_values=True)


def _address(text: Any) -> Ip:
    if "%" in _need(text, str):
        raise CelError(f'IP Address "{text[:64]}" with zone value is not allowed')
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise CelError(
            f'IP Address "{text[:64]}" parse error during conversion from string'
        ) from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        raise CelError(f'IPv4-mapped IPv6 address "{text}" is not allowed')
    return Ip(address)


def _network(text: Any) -> Cidr:
    host, _, length = _need(text, str).partition("/")
    if not re.fullmatch(r"0|[1-9][0-9]{0,2}", length, re.ASCII):
        raise CelError(f'network address parse error during conversion from string: "{text[:64]}"')
    try:
        _address(host)
        return Cidr(ipaddress.ip_interface(text))
    except ValueError:
        raise CelError(
            f'network address parse error during conversion from string: "{text[:64]}"'
        ) from None


@_function("ip")
def _ip(budget: Budget, value: Any) -> Ip:
    budget.charge(_PARSING)
    if type(value) is Cidr:
        return Ip(ipaddress.ip_address(int(value.interface)))
    return _address(value)


@_function("cidr")
def _cidr(budget: Budget, text: Any) -> Cidr:
    budget.charge(_PARSING)
    return _network(text)


FUNCTIONS["isIP"] = _can(_address)
FUNCTIONS["isCIDR"] = _can(_network)


@_function("ip.isCanonical")
def _is_canonical(budget: Budget, text: Any) -> bool:
    budget.charge(_PARSING)
    return bool(str(_address(text).address) == text)


@_function("family")
def _family(budget: Budget, value: Any) -> int:
    return int(_need(value, Ip).address.version)


def _kind_of_address(take: Callable[[Any], bool]) -> Function:
    return lambda budget, value: take(_need(value, Ip).address)


def _is_global_unicast(address: Any) -> bool:
    # As Go means it: private addresses are global, too.
    return not (
        address.is_unspecified or address.is_loopback or address.is_multicast
        or address.is_link_local or str(address) == "255.255.255.255"
    )  # fmt: skip


def _is_link_local_multicast(address: Any) -> bool:
    raw = address.packed
    return bool(raw[:3] == b"\xe0\0\0" if len(raw) == 4 else raw[0] == 0xFF and raw[1] & 15 == 2)


FUNCTIONS["isUnspecified"] = _kind_of_address(lambda address: address.is_unspecified)
FUNCTIONS["isLoopback"] = _kind_of_address(lambda address: address.is_loopback)
FUNCTIONS["isLinkLocalUnicast"] = _kind_of_address(lambda address: address.is_link_local)
FUNCTIONS["isLinkLocalMulticast"] = _kind_of_address(_is_link_local_multicast)
FUNCTIONS["isGlobalUnicast"] = _kind_of_address(_is_global_unicast)


@_function("containsIP")
def _contains_ip(budget: Budget, value: Any, address: Any) -> bool:
    budget.charge(_PARSING)
    found = address if type(address) is Ip else _address(address)
    return found.address in _need(value, Cidr).interface.network


@_function("containsCIDR")
def _contains_cidr(budget: Budget, value: Any, other: Any) -> bool:
    budget.charge(_PARSING)
    inner = (other if type(other) is Cidr else _network(other)).interface
    outer = _need(value, Cidr).interface
    return (
        inner.version == outer.version
        and inner.network.prefixlen >= outer.network.prefixlen
        and inner.ip in outer.network
    )


@_function("masked")
def _masked(budget: Budget, value: Any) -> Cidr:
    budget.charge(_PARSING)
    return Cidr(ipaddress.ip_interface(str(_need(value, Cidr).interface.network)))


@_function("prefixLength")
def _prefix_length(budget: Budget, value: Any) -> int:
    return int(_need(value, Cidr).interface.network.prefixlen)


# ----------------------------------------------------------------------------------------- formats


@_function("format.named")
def _named_format(budget: Budget, name: Any) -> Optional:
    return Optional(Format(name)) if name in formats.NAMED else NONE


def _format_maker(name: str) -> Function:
    return lambda budget: Format(name)


for _name in formats.NAMED:
    FUNCTIONS["format." + _name] = _format_maker(_name)


@_function("validate")
def _validate(budget: Budget, value: Any, text: Any) -> Optional:
    _text(budget, text)
    problems = formats.NAMED[_need(value, Format).name](text)
    return Optional(problems) if problems else NONE
