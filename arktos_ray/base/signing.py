"""The keys that sign tokens of service accounts, and what they sign (JWT, RFC 7519).

A directory holds them: `*.key` are pairs, `*.pub` public keys that verify and never sign. The key
file whose name is last in order signs; all verify. So a key is rotated by adding one, first as
`.pub` where others verify, and by taking the old one away when its tokens are over.

ECDSA P-256 where we make the key (80 us to sign, 130 to verify on a busy core; RSA of 2048 bits
takes 870 and 60). Others' keys may be RSA. Knows nothing of what claims mean.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from arktos_ray.base import pki
from arktos_ray.base.watched import Watched

_Public = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Claims = dict[str, Any]

# Longer ones are nobody's: a header of HTTP has 16 KiB.
_TOKEN_BYTES_MAX = 16 * 1024
_P256_BYTES = 32


class BadToken(ValueError):
    """Not signed by a key that we know, or no token at all."""


class _Keys(NamedTuple):
    """By key id. signer: id and key of the one that signs, if there is one."""

    public: Mapping[str, _Public]
    signer: tuple[str, _Private] | None


def ensure_keys(directory: Path, now: datetime) -> None:
    """At least one key that signs."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not any(directory.glob("*.key")):
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )  # fmt: skip
        pki.write_private(directory / f"{now:%Y%m%d-%H%M%S}.key", pem)


class TokenKeys:
    """The keys of one directory. `refresh` reads them again when they changed."""

    def __init__(self, directory: Path) -> None:
        """Raises ValueError for a file that holds no key."""
        self._watched = Watched(lambda: _files(directory), lambda: _read(directory))

    def refresh(self) -> bool:
        return self._watched.refresh()

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Raises BadToken when there is no key that signs."""
        signer = self._watched.value.signer
        if signer is None:
            raise BadToken("there is no key to sign with")
        key_id, key = signer
        algorithm = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
        head = orjson.dumps({"alg": algorithm, "kid": key_id, "typ": "JWT"})
        signed = f"{encoded(head)}.{encoded(orjson.dumps(claims))}"
        return f"{signed}.{encoded(_signature(key, signed.encode()))}"

    def verify(self, token: str) -> Claims:
        """What it says; whether that is true now is for the caller to see. Raises BadToken."""
        head, claims, signed, signature = taken_apart(token)
        public = self._watched.value.public
        key_id = head.get("kid")
        key = public.get(key_id) if isinstance(key_id, str) else None
        # The key says how it signs: what the token says of that is compared, never followed.
        if key is None or head.get("alg") != _algorithm(key):
            raise BadToken("signed by no key of ours")
        try:
            if isinstance(key, rsa.RSAPublicKey):
                key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
            else:
                if len(signature) != 2 * _P256_BYTES:
                    raise BadToken("the signature has the wrong length")
                r, s = signature[:_P256_BYTES], signature[_P256_BYTES:]
                pair = utils.encode_dss_signature(int.from_bytes(r), int.from_bytes(s))
                key.verify(pair, signed, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise BadToken("the signature is wrong") from None
        return claims

    def jwks(self) -> dict[str, Any]:
        """The public keys, as RFC 7517 shows them."""
        return {"keys": [_jwk(i, key) for i, key in sorted(self._watched.value.public.items())]}

    @property
    def algorithms(self) -> list[str]:
        return sorted({_algorithm(key) for key in self._watched.value.public.values()})


def taken_apart(token: str) -> tuple[dict[str, Any], Claims, bytes, bytes]:
    """Header, claims, what is signed, and the signature; nothing verified. Raises BadToken."""
    if len(token) > _TOKEN_BYTES_MAX:
        raise BadToken("too long")
    parts = token.split(".")
    if len(parts) != 3:
        raise BadToken("not three parts")
    try:
        head, claims = orjson.loads(decoded(parts[0])), orjson.loads(decoded(parts[1]))
        signature = decoded(parts[2])
        signed = f"{parts[0]}.{parts[1]}".encode("ascii")
    except ValueError:
        raise BadToken("cannot be read") from None
    if not isinstance(head, dict) or not isinstance(claims, dict):
        raise BadToken("not objects")
    return head, claims, signed, signature


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decoded(text: str) -> bytes:
    """Raises ValueError for anything that `encoded` would not have written."""
    if not text.isascii():
        raise ValueError("not ASCII")
    raw = base64.b64decode((text + "=" * (-len(text) % 4)).encode(), altchars=b"-_", validate=True)
    if encoded(raw) != text:
        raise ValueError("not canonical")
    return raw


def _signature(key: _Private, signed: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    r, s = utils.decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(_P256_BYTES) + s.to_bytes(_P256_BYTES)


def _algorithm(key: _Public) -> str:
    return "RS256" if isinstance(key, rsa.RSAPublicKey) else "ES256"


def _files(directory: Path) -> list[Path]:
    return sorted([*directory.glob("*.key"), *directory.glob("*.pub")])


def _read(directory: Path) -> _Keys:
    public: dict[str, _Public] = {}
    signer = None
    for path in _files(directory):
        content = path.read_bytes()
        if path.suffix == ".key":
            private = serialization.load_pem_private_key(content, None)
            if not isinstance(private, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
                raise ValueError(f"{path.name} is neither ECDSA nor RSA")
            known = _checked(path, private.public_key())
            signer = (_key_id(known), private)
        else:
            known = _checked(path, serialization.load_pem_public_key(content))
        public[_key_id(known)] = known
    return _Keys(public, signer)


def _checked(path: Path, key: object) -> _Public:
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < 2048:
            raise ValueError(f"{path.name} has fewer than 2048 bits")
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ValueError(f"{path.name} is neither ECDSA P-256 nor RSA")


def _key_id(key: _Public) -> str:
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded(hashlib.sha256(der).digest())


def _jwk(key_id: str, key: _Public) -> dict[str, str]:
    common = {"use": "sig", "kid": key_id, "alg": _algorithm(key)}
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kty": "RSA", **common, "n": _number(numbers.n), "e": _number(numbers.e)}
    point = key.public_numbers()
    x, y = point.x.to_bytes(_P256_BYTES), point.y.to_bytes(_P256_BYTES)
    return {"kty": "EC", **common, "crv": "P-256", "x": encoded(x), "y": encoded(y)}


def _number(value: int) -> str:
    return encoded(value.to_bytes((value.bit_length() + 7) // 8))
