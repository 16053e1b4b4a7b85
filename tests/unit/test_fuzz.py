"""Parsers that face the network: what the fuzzer found before, and mutations of it, seeded."""

from __future__ import annotations

import base64
import random

import pytest

from tests.fuzz.targets import CORPUS, TARGETS

MUTATIONS = 1_500
_PIECES = (
    b"..", b"%2e", b"/", b"%2F", b"\0", b"all", b"tenants/", b"{}", b"[", b'"', b"null", b"-1",
    b"9" * 30, b"1e999", b"\xff", b"\xf0\x9f\x98\x80", b"system", b"((((", b"=", b",", b"!",
    b"\\u0000",
)  # fmt: skip


def corpus(name: str) -> list[bytes]:
    return [base64.b64decode(line) for line in (CORPUS / f"{name}.txt").read_text().split()]


def mutated(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0:
                data = data[:at] + rng.choice(_PIECES) + data[at:]
            case 1:
                data = data[:at] + data[at + rng.randrange(1, 9) :]
            case 2:
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            case 3:
                other = rng.choice(others)
                data = data[:at] + other[rng.randrange(len(other) + 1) :]
            case 4:
                data = data[:at] + data[at : at + 8] * rng.randrange(2, 20) + data[at:]
            case _:
                data = data[:at]
    return data[:4096]


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_that_anybody_sends_breaks_a_parser(name: str) -> None:
    inputs, check = corpus(name), TARGETS[name]
    assert inputs, "a corpus is never empty"
    rng = random.Random(name)
    for data in inputs:
        check(data)
    for _ in range(MUTATIONS):
        data = mutated(rng.choice(inputs), inputs, rng)
        try:
            check(data)
        except BaseException as error:
            raise AssertionError(f"{name}: {data!r}") from error
