from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api import quantity

amounts = st.builds(
    lambda sign, number, suffix: f"{sign}{number}{suffix}",
    st.sampled_from(["", "-", "+"]),
    st.decimals(min_value=0, max_value=10**6, places=3).map(str) | st.integers(0, 10**9).map(str),
    st.sampled_from(["", "n", "u", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3", "E-3", "e0"]),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", "0"),
        ("0Mi", "0"),
        ("0.5", "500m"),
        (".5", "500m"),
        ("1.", "1"),
        (1, "1"),
        (0.25, "250m"),
        (2.0, "2"),
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("1024Ki", "1Mi"),
        ("1000Ki", "1000Ki"),
        ("1.5Gi", "1536Mi"),
        ("1023", "1023"),
        ("1000Mi", "1000Mi"),
        ("512", "512"),
        ("1000", "1k"),
        ("0.5Ki", "512"),
        ("1000000", "1M"),
        ("100e1", "1e3"),
        ("12e6", "12e6"),
        ("1E", "1E"),
        ("1E3", "1e3"),
        ("1e-3", "1e-3"),
        ("100000000000000000000", "100E"),
        ("1000E", "1e21"),
        ("0.0000000001", "1n"),
        ("-0.0000000001", "-1n"),
        ("-500m", "-500m"),
        ("+3", "3"),
        (" 3 ", "3"),
        ("8Ei", "9223372036854775807"),
        ("1.0000001Ki", "1024000102400n"),
    ],
)
def test_quantities_are_written_as_the_api_writes_them(text: str, expected: str) -> None:
    assert quantity.canonical(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "x", "1x", "1.2.3", "1 Gi", "Gi", "1gi", "--1", "1e", "1KiB", "1e99999999", True, "."],
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantit"):
        quantity.parse(text)


def test_cpu_and_bytes_are_rounded_up() -> None:
    assert quantity.milli("0.1") == 100
    assert quantity.milli("1u") == 1
    assert quantity.milli("2") == 2000
    assert quantity.value("1m") == 1
    assert quantity.value("1.5Gi") == 1536 * 2**20
    assert quantity.value("-1.5") == -1


def test_a_sum_keeps_the_suffix_family_of_the_first_that_is_not_zero() -> None:
    assert quantity.add("1Gi", "1Gi") == "2Gi"
    assert quantity.add("0", "1Mi") == "1Mi"
    assert quantity.add("500m", "1") == "1500m"
    assert quantity.subtract("1Gi", "512Mi") == "512Mi"
    assert quantity.compare("1024Ki", "1Mi") == 0
    assert quantity.compare("1k", "1Ki") == -1
    assert quantity.compare("2", "1999m") == 1


@given(amounts)
def test_canonical_text_means_the_same_and_is_stable(text: str) -> None:
    canonical = quantity.canonical(text)
    assert quantity.parse(canonical) == quantity.parse(text)
    assert quantity.canonical(canonical) == canonical


@given(amounts, amounts)
def test_sums_are_exact(left: str, right: str) -> None:
    expected = quantity.parse(left) + quantity.parse(right)
    assert quantity.parse(quantity.add(left, right)) == expected


@given(amounts)
def test_rounding_is_up_and_by_less_than_one(text: str) -> None:
    exact = quantity.parse(text)
    assert 0 <= quantity.value(text) - exact < 1
    assert 0 <= Fraction(quantity.milli(text), 1000) - exact < Fraction(1, 1000)
