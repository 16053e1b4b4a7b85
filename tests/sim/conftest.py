"""Seeds: `SIM_SEED=7 pytest tests/sim` replays one; `SIM_SEEDS=200` runs that many."""

from __future__ import annotations

import os

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        only = os.environ.get("SIM_SEED")
        count = int(os.environ.get("SIM_SEEDS", "2"))
        metafunc.parametrize("seed", [int(only)] if only else list(range(1, count + 1)))
