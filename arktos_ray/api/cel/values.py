"""The values of CEL as Python values, what is equal, and how they are written.

null bool int double string bytes list map are None bool int float str bytes list dict: a decoded
JSON object is one as it is. What JSON has not is a class here. Pure.
"""

from __future__ import annotations

import ipaddress
import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from urllib.parse import SplitResult

INT_MIN, INT_MAX, UINT_MAX = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
NANO = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999999Z
TIMESTAMP_MIN_NS = -62_135_596_800 * NANO
TIMESTAMP_MAX_NS = 253_402_300_800 * NANO - 1


class CelError(Exception):
    """An expression that cannot be compiled, or not be evaluated for these values."""

    def __init__(self, text: str, line: int = 0, column: int = 0) -> None:
        super().__init__(text)
        self.text = text
        self.line, self.column = line, column  # of the first error in the text; 0 when unknown


class CostExceeded(CelError):
    """The expression was stopped: it would have taken too long, or too much memory."""

    def __init__(self) -> None:
        super().__init__("operation cancelled: actual cost limit exceeded")


class Budget:
    """What an evaluation may still cost: about one for each node, item or 16 bytes looked at."""

    __slots__ = ("left",)

    def __init__(self, cost_max: int) -> None:
        self.left = cost_max

    def charge(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise CostExceeded


def no_overload() -> CelError:
    return CelError("no such overload")


class UInt(int):
    __slots__ = ()


class Type:
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Type) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


class Optional:
    """A value or none. `NONE` is the one without."""

    __slots__ = ("present", "value")

    def __init__(self, value: Any, *, present: bool = True) -> None:
        self.value = value
        self.present = present


NONE = Optional(None, present=False)


class Duration:
    __slots__ = ("ns",)

    def __init__(self, ns: int) -> None:
        if not INT_MIN <= ns <= INT_MAX:
            raise CelError("duration overflow")
        self.ns = ns

    def text(self) -> str:
        sign, ns = ("-", -self.ns) if self.ns < 0 else ("", self.ns)
        whole, part = divmod(ns, NANO)
        fraction = f".{part:09d}".rstrip("0") if part else ""
        return f"{sign}{whole}{fraction}s"


class Timestamp:
    __slots__ = ("ns",)

    def __init__(self, ns: int) -> None:
        if not TIMESTAMP_MIN_NS <= ns <= TIMESTAMP_MAX_NS:
            raise CelError("timestamp overflow")
        self.ns = ns

    def moment(self) -> datetime:
        return _EPOCH + timedelta(microseconds=self.ns // 1000)

    def text(self) -> str:
        part = self.ns % NANO
        fraction = f".{part:09d}".rstrip("0") if part else ""
        return f"{self.moment().strftime('%Y-%m-%dT%H:%M:%S').zfill(19)}{fraction}Z"


class Quantity:
    __slots__ = ("amount",)

    def __init__(self, amount: Fraction) -> None:
        self.amount = amount


class Url:
    __slots__ = ("parts", "text")

    def __init__(self, text: str, parts: SplitResult) -> None:
        self.text = text
        self.parts = parts


class Ip:
    __slots__ = ("address",)

    def __init__(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        self.address = address


class Cidr:
    __slots__ = ("interface",)

    def __init__(self, interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> None:
        self.interface = interface


class Semver:
    __slots__ = ("numbers", "prerelease")

    def __init__(self, numbers: tuple[int, ...], prerelease: tuple[tuple[int, Any], ...]) -> None:
        self.numbers = numbers
        self.prerelease = prerelease

    @property
    def order(self) -> tuple[Any, ...]:
        return self.numbers, not self.prerelease, self.prerelease


class Format:
    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


TYPE_NAMES: dict[type, str] = {
    type(None): "null_type",
    bool: "bool",
    int: "int",
    UInt: "uint",
    float: "double",
    str: "string",
    bytes: "bytes",
    list: "list",
    dict: "map",
    Type: "type",
    Optional: "optional_type",
    Duration: "google.protobuf.Duration",
    Timestamp: "google.protobuf.Timestamp",
    Quantity: "kubernetes.Quantity",
    Url: "kubernetes.URL",
    Ip: "net.IP",
    Cidr: "net.CIDR",
    Semver: "kubernetes.Semver",
    Format: "kubernetes.NamedFormat",
}
NUMBERS = frozenset((int, UInt, float))


def equal(left: Any, right: Any, budget: Budget) -> bool:
    """CEL's equality: numbers across types, and true is not 1."""
    kind, other = type(left), type(right)
    if kind is not other:
        return kind in NUMBERS and other in NUMBERS and bool(left == right)
    if kind is str or kind is bytes:
        budget.charge(min(len(left), len(right)) >> 4)
        return bool(left == right)
    if kind is list:
        if len(left) != len(right):
            return False
        budget.charge(3 * len(left))
        return all(equal(a, b, budget) for a, b in zip(left, right, strict=True))
    if kind is dict:
        if len(left) != len(right):
            return False
        budget.charge(4 * len(left))
        return all(key in right and equal(a, right[key], budget) for key, a in left.items())
    if kind is Optional:
        if not (left.present and right.present):
            return bool(left.present == right.present)
        return equal(left.value, right.value, budget)
    if kind is Duration or kind is Timestamp:
        return bool(left.ns == right.ns)
    if kind is Quantity:
        return bool(left.amount == right.amount)
    if kind is Url:
        return bool(left.text == right.text)
    if kind is Ip:
        return bool(left.address == right.address)
    if kind is Cidr:
        return bool(left.interface == right.interface)
    if kind is Semver:
        return bool(left.order == right.order)
    if kind is Format:
        return bool(left.name == right.name)
    return bool(left == right)


def compare(left: Any, right: Any, budget: Budget) -> int | None:
    """-1, 0 or 1; None when one is no number (NaN)."""
    kind, other = type(left), type(right)
    if kind is other and kind in (str, bytes):
        budget.charge(min(len(left), len(right)) >> 4)
    elif kind is other and kind in (Duration, Timestamp):
        left, right = left.ns, right.ns
    elif not (kind in NUMBERS and other in NUMBERS) and not (kind is other is bool):
        raise no_overload()
    elif left != left or right != right:
        return None
    return int(left > right) - int(left < right)


def is_zero(value: Any) -> bool:
    if isinstance(value, Duration | Timestamp):
        return not value.ns
    return value is None or (type(value) in TYPE_NAMES and not value)


def double_text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    if text.endswith(".0"):
        text = text[:-2]
    return text
