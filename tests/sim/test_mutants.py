"""Each planted bug is noticed by a story: else it would not notice a real one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import consistency
import more_mutants
import mutants
import pytest

from arktos_ray.api.errors import Failure

# The first that notices counts; most need one.
SEEDS = range(1, 9)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")  # What a broken program leaves lying about.
@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_planted_bug_is_noticed(mutant: Callable[[pytest.MonkeyPatch], None]) -> None:
    for seed in SEEDS:
        with pytest.MonkeyPatch.context() as patch:
            mutant(patch)
            try:
                # Without stalls and clocks that jump: those excuse what these mutants do.
                consistency.play(seed, steps=80, weird=False)
            except (AssertionError, Failure):
                return  # A check that fails, or a story that cannot even begin.
    raise AssertionError(f"{mutant.__name__} lives: the story is too weak")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("mutant", "play", "seeds"),
    more_mutants.MUTANTS,
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_bug_outside_the_store_is_noticed(
    mutant: Callable[[pytest.MonkeyPatch], None], play: Callable[[int], object], seeds: int
) -> None:
    for seed in range(1, seeds + 1):
        with pytest.MonkeyPatch.context() as patch:
            mutant(patch)
            try:
                play(seed)
            except Exception:
                return
    raise AssertionError(f"{mutant.__name__} lives: the story is too weak")
