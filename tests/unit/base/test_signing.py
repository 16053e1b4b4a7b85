"""Keys that sign tokens, and files that are read again."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arktos_ray.base.signing import BadToken, TokenKeys, encoded, ensure_keys
from arktos_ray.base.watched import Watched

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def public_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_what_was_signed_is_verified_and_nothing_else(tmp_path: Path) -> None:
    ensure_keys(tmp_path, NOW)
    ensure_keys(tmp_path, NOW)
    [file] = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0
    keys = TokenKeys(tmp_path)
    token = keys.sign({"a": 1})
    assert keys.verify(token) == {"a": 1}
    head, claims, signature = token.split(".")
    for forged in (
        f"{head}.{encoded(b'{}')}.{signature}",
        f"{encoded(b'{}')}.{claims}.{signature}",
        f"{head}.{claims}.",
        f"{head}.{claims}",
        "a.b.c",
        "",
        "é.ü.ä",
        token + "A" * 20_000,
    ):
        with pytest.raises(BadToken):
            keys.verify(forged)


def test_the_token_does_not_choose_its_algorithm(tmp_path: Path) -> None:
    ensure_keys(tmp_path, NOW)
    keys = TokenKeys(tmp_path)
    kid = keys.jwks()["keys"][0]["kid"]
    for algorithm in ("none", "HS256", "RS256"):
        head = encoded(f'{{"alg":"{algorithm}","kid":"{kid}"}}'.encode())
        with pytest.raises(BadToken):
            keys.verify(f"{head}.{encoded(b'{}')}.{encoded(b'x' * 64)}")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 10_000), byte=st.integers(33, 126))
def test_a_token_with_any_byte_changed_is_refused(tmp_path: Path, at: int, byte: int) -> None:
    ensure_keys(tmp_path, NOW)
    keys = TokenKeys(tmp_path)
    token = keys.sign({"sub": "somebody"})
    at %= len(token)
    forged = token[:at] + chr(byte) + token[at + 1 :]
    if forged != token:
        with pytest.raises(BadToken):
            keys.verify(forged)


def test_a_key_is_rotated_without_a_restart(tmp_path: Path) -> None:
    """First as a public key everywhere, then as the one that signs; the old one goes last."""
    ensure_keys(tmp_path, NOW)
    [old] = tmp_path.iterdir()
    signing, verifying = TokenKeys(tmp_path), TokenKeys(tmp_path)
    of_old = signing.sign({"by": "old"})
    key = rsa.generate_private_key(65537, 2048)
    (tmp_path / "29990101.pub").write_bytes(public_pem(key))
    assert verifying.refresh()
    assert not verifying.refresh()
    (tmp_path / "29990101.key").write_bytes(private_pem(key))
    assert signing.refresh()
    of_new = signing.sign({"by": "new"})
    assert verifying.verify(of_new) == {"by": "new"}
    assert verifying.verify(of_old) == {"by": "old"}
    assert verifying.algorithms == ["ES256", "RS256"]
    old.unlink()
    assert verifying.refresh()
    assert verifying.verify(of_new) == {"by": "new"}
    with pytest.raises(BadToken):
        verifying.verify(of_old)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"curve", b"weak"])
def test_a_file_that_is_no_key_leaves_the_others_as_they_were(
    tmp_path: Path, content: bytes
) -> None:
    ensure_keys(tmp_path, NOW)
    keys = TokenKeys(tmp_path)
    token = keys.sign({})
    if content == b"curve":
        content = private_pem(ec.generate_private_key(ec.SECP384R1()))
    elif content == b"weak":
        content = private_pem(rsa.generate_private_key(65537, 1024))
    (tmp_path / "9.key").write_bytes(content)
    assert not keys.refresh()
    assert keys.verify(token) == {}
    assert keys.verify(keys.sign({"a": 1})) == {"a": 1}


def test_others_find_the_public_keys_in_the_usual_form(tmp_path: Path) -> None:
    ensure_keys(tmp_path, NOW)
    (tmp_path / "1.pub").write_bytes(public_pem(rsa.generate_private_key(65537, 2048)))
    jwt = pytest.importorskip("jwt")
    keys = TokenKeys(tmp_path)
    found = {key["kid"]: jwt.PyJWK(key) for key in keys.jwks()["keys"]}
    assert {key.key_type for key in found.values()} == {"EC", "RSA"}
    token = keys.sign({"sub": "x"})
    key = found[jwt.get_unverified_header(token)["kid"]]
    assert jwt.decode(token, key, algorithms=["ES256"]) == {"sub": "x"}


def test_a_broken_file_is_told_of_once_and_the_old_value_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    watched = Watched(lambda: [path], lambda: int(path.read_text()))
    path.write_text("two")
    assert not watched.refresh()
    assert not watched.refresh()
    assert watched.value == 1
    assert len(caplog.records) == 1
    path.unlink()
    assert not watched.refresh()
    path.write_text("3")
    os.utime(path, (1, 1))
    assert watched.refresh()
    assert watched.value == 3
