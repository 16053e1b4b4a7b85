"""Resource quantities: `500m`, `2Gi`, `1e3` to exact numbers and back to the canonical text.

The canonical form is the one the Kubernetes API writes, so that what we store and print is what
clients compare with. Pure; no floats anywhere.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

Text = str | int | float

# The text of a ValueError, as clients know it from the real server.
BAD_FORM = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)
BAD_NUMBER = "unable to parse numeric part of quantity"
BAD_SUFFIX = "unable to parse quantity's suffix"

_SHAPE = re.compile(r"([+-]?)([0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)", re.ASCII)
_NUMBER = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+", re.ASCII)
_EXPONENT = re.compile(r"[eE]([-+]?[0-9]+)", re.ASCII)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL_NAMES = {power: name for name, power in _DECIMAL.items()}
_BINARY_NAMES = {power: name for name, power in _BINARY.items()} | {0: ""}
_INT64_MAX = 9223372036854775807
_NANO = 1_000_000_000
# Nobody has 10^64 of anything; without a bound `1e999999999` would cost all memory.
_EXPONENT_MAX = 64
# A cluster uses a few hundred different texts. 16,384 x about 300 B: 5 MB at most.
_CACHE = 16_384

# Families of suffixes. Sums keep the family of their first operand that is not zero.
_SI, _IEC, _SCIENTIFIC = 0, 1, 2


def _as_text(quantity: Text) -> str:
    if isinstance(quantity, str):
        return quantity.strip()
    if isinstance(quantity, bool):
        raise ValueError(BAD_FORM)
    return repr(quantity)


def _scan(quantity: Text) -> tuple[Fraction, int]:
    """(exact amount, family of suffix)."""
    shape = _SHAPE.fullmatch(_as_text(quantity))
    if shape is None:
        raise ValueError(BAD_FORM)
    sign, digits, suffix = shape.groups()
    if suffix in _BINARY:
        power, family = _BINARY[suffix], _IEC
    elif suffix in _DECIMAL:
        power, family = _DECIMAL[suffix], _SI
    else:
        exponent = _EXPONENT.fullmatch(suffix)
        if exponent is None or abs(int(exponent[1])) > _EXPONENT_MAX:
            raise ValueError(BAD_SUFFIX)
        power, family = int(exponent[1]), _SCIENTIFIC
    if _NUMBER.fullmatch(digits) is None:
        # A lone dot is zero in the real server's scanner; anything else with dots is not a number.
        raise ValueError(BAD_NUMBER if digits != "." else BAD_FORM)
    if "." in digits:
        whole, part = digits.split(".")
        amount = Fraction(int((whole + part) or "0"), 10 ** len(part))
    else:
        amount = Fraction(int(digits))
    amount *= Fraction(2**power) if family is _IEC else Fraction(10) ** power
    # Finer than nano is rounded away from zero: who wants a little, gets a little.
    if amount.denominator != 1 and _NANO % amount.denominator:
        amount = Fraction(-((-amount * _NANO) // 1), _NANO)
    if family is _IEC:
        if amount > _INT64_MAX:
            amount = Fraction(_INT64_MAX)
        if 0 < amount < 1:
            family = _SI
    return (-amount if sign == "-" else amount), family


def _format(amount: Fraction, family: int) -> str:
    if not amount:
        return "0"
    if family is _IEC and amount.denominator == 1 and abs(amount) >= 1024:
        whole, power = amount.numerator, 0
        while power < 60 and not whole % 1024:
            whole //= 1024
            power += 10
        return f"{whole}{_BINARY_NAMES[power]}"
    if family is _IEC:
        family = _SI
    if amount.denominator == 1:
        whole, power = amount.numerator, 0
        while not whole % 1000:
            whole //= 1000
            power += 3
    else:
        whole, power = amount.numerator, 0
        for power in (-3, -6, -9):  # The first that makes it whole.
            scaled = amount * 10**-power
            whole = scaled.numerator
            if scaled.denominator == 1:
                break
    if family is _SI and power in _DECIMAL_NAMES:
        return f"{whole}{_DECIMAL_NAMES[power]}"
    return f"{whole}e{power}" if power else str(whole)


# 60 ns when cached, 5 us when not; the same for the three below.
@lru_cache(maxsize=_CACHE, typed=True)
def parse(quantity: Text) -> Fraction:
    """The exact amount. ValueError, in the real server's words, when it is not a quantity."""
    return _scan(quantity)[0]


@lru_cache(maxsize=_CACHE, typed=True)
def milli(quantity: Text) -> int:
    """In thousandths, rounded up: for cpu."""
    return -((-_scan(quantity)[0] * 1000) // 1)


@lru_cache(maxsize=_CACHE, typed=True)
def value(quantity: Text) -> int:
    """In whole units, rounded up: for bytes and counts."""
    return -((-_scan(quantity)[0]) // 1)


@lru_cache(maxsize=_CACHE, typed=True)
def canonical(quantity: Text) -> str:
    """The same amount as the API writes it: no fraction, the largest suffix of the same family."""
    return _format(*_scan(quantity))


def add(left: Text, right: Text) -> str:
    """The canonical sum, in the family of `left` (of `right` when `left` is zero)."""
    amount, family = _scan(left)
    more, other = _scan(right)
    return _format(amount + more, family if amount else other)


def subtract(left: Text, right: Text) -> str:
    """The canonical difference; may be negative."""
    amount, family = _scan(left)
    less, other = _scan(right)
    return _format(amount - less, family if amount else other)


def compare(left: Text, right: Text) -> int:
    """-1, 0 or 1."""
    a, b = parse(left), parse(right)
    return (a > b) - (a < b)
