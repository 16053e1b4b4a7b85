"""Cycles are freed while they are young, or few; what came in bulk is never walked again."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from arktos_ray.base import collector


class Knot:
    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def settled() -> Iterator[None]:
    before = gc.get_threshold()
    gc.collect()
    collector.settle()
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _bulk() -> list[Any]:
    return [[number] for number in range(100_000)]


def test_a_young_cycle_is_freed_without_being_asked() -> None:
    knot = weakref.ref(Knot())
    kept = _bulk()
    assert knot() is None
    assert kept


def test_an_older_cycle_is_freed_in_a_quiet_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector, "_PAUSE_S", 60.0)  # However slow this machine is just now.
    knot = Knot()
    gone = weakref.ref(knot)
    collector.tend()  # It is old now.
    del knot
    collector.tend()
    assert gone() is None


def test_what_came_in_bulk_is_out_of_sight() -> None:
    kept = _bulk()
    before = gc.get_freeze_count()
    collector.tend()
    assert gc.get_freeze_count() - before >= len(kept)
