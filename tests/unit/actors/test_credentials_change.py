"""Files of credentials that change while an ingress runs."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from arktos_ray.actors.ingress import Ingress
from arktos_ray.api.errors import Unauthorized
from arktos_ray.base.signing import TokenKeys, ensure_keys
from arktos_ray.ingress.authn import Authenticator
from arktos_ray.tenancy import accounts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ensure_keys(tmp_path / "keys", datetime(2026, 1, 2, tzinfo=UTC))
    return tmp_path


def _watched(folder: Path, **spec: Any) -> tuple[Authenticator, Any]:
    keys = TokenKeys(folder / "keys")
    authenticator = Authenticator(
        {"acme": "u1"}.get, keys=keys, issuer=accounts.ISSUER, audiences=[accounts.ISSUER]
    )
    ingress = cast(Ingress, SimpleNamespace(spec=spec, name="ingress-1"))
    refreshing = Ingress._watch_credentials(ingress, authenticator)

    def refresh() -> None:
        for each in refreshing:
            each()

    return authenticator, refresh


def _write(file: Path, text: str, second: int) -> None:
    file.write_text(text)
    os.utime(file, (second, second))


def test_a_token_file_is_read_again_and_a_broken_one_is_not(folder: Path) -> None:
    file = folder / "tokens.csv"
    _write(file, "one,ann,1,,acme\n", 1)
    authenticator, refresh = _watched(folder, token_auth_file=str(file))
    assert authenticator.user_of_token("one", 0.0).name == "ann"
    _write(file, "two,bob,2,,acme\n", 2)
    refresh()
    assert authenticator.user_of_token("two", 0.0).name == "bob"
    with pytest.raises(Unauthorized):
        authenticator.user_of_token("one", 0.0)
    _write(file, "nonsense\n", 3)
    refresh()
    assert authenticator.user_of_token("two", 0.0).name == "bob"


def test_a_key_that_is_taken_away_is_believed_no_more(folder: Path) -> None:
    authenticator, refresh = _watched(folder)
    keys = authenticator.accounts
    assert keys is not None
    subject = accounts.Subject("acme", "u1", "n", accounts.Ref("bot", "b"))
    token = keys.sign(
        accounts.claims(subject, accounts.ISSUER, [accounts.ISSUER], 600, 1000.0, "id")
    )
    assert authenticator.user_of_token(token, 1001.0).tenant == "acme"
    for file in (folder / "keys").iterdir():
        file.unlink()
    ensure_keys(folder / "keys", datetime(2027, 1, 2, tzinfo=UTC))
    refresh()
    with pytest.raises(Unauthorized):
        authenticator.user_of_token(token, 1001.0)
