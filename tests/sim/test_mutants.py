"""The story of `consistency.py` notices each planted bug: else it would not notice a real one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import consistency
import mutants
import pytest

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
                consistency.play(seed)
            except AssertionError:
                return
    raise AssertionError(f"{mutant.__name__} lives: the story is too weak")
