"""Certificates are made once: 30 ms."""

from __future__ import annotations

from pathlib import Path

import pytest

from .fakes import certificates


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    folder: Path = tmp_path_factory.mktemp("certificates")
    return certificates(folder)
