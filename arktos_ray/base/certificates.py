"""Requests for certificates (PKCS 10): what one asks for, and a certificate for it.

The signer's CA is one of its own: it signs client certificates alone, no server believes it, and
it can be exchanged by itself (`ensure_signer`).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from arktos_ray.base import pki

_RSA_BITS_MIN = 2048
# What the library raises that is no ValueError, for a request that is wrong in other ways.
_MISREAD = (
    x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType,
    x509.AttributeNotFound, x509.ExtensionNotFound,
)  # fmt: skip
_REQUEST_BYTES_MAX = 64 * 1024


class Request(NamedTuple):
    """What a request says of its subject. names: it asks for names of hosts or the like as well."""

    common_name: str
    organizations: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    names: bool = False


class Subject(NamedTuple):
    """What a certificate says."""

    common_name: str
    organizations: tuple[str, ...]
    units: tuple[str, ...] = ()


def read_request(pem: bytes) -> Request:
    """Raises ValueError for what is none, or is not signed by its own key."""
    found = _loaded(pem)

    def said(oid: x509.ObjectIdentifier) -> tuple[str, ...]:
        return tuple(str(each.value) for each in found.subject.get_attributes_for_oid(oid))

    common = said(NameOID.COMMON_NAME)
    if len(common) > 1:
        raise ValueError("more than one common name")
    names = any(
        isinstance(each.value, x509.SubjectAlternativeName) and list(each.value)
        for each in found.extensions
    )
    return Request(
        common[0] if common else "", said(NameOID.ORGANIZATION_NAME),
        said(NameOID.ORGANIZATIONAL_UNIT_NAME), names,
    )  # fmt: skip


def _loaded(pem: bytes) -> x509.CertificateSigningRequest:
    if len(pem) > _REQUEST_BYTES_MAX:
        raise ValueError("too long")
    try:
        found = x509.load_pem_x509_csr(pem)
        key = found.public_key()
        signed = found.is_signature_valid
        found.extensions  # noqa: B018  # It is read here, or nowhere.
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, *_MISREAD) as error:
        raise ValueError(str(error) or "its signature is wrong") from None
    if not signed:
        raise ValueError("its signature is wrong")
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < _RSA_BITS_MIN:
            raise ValueError(f"an RSA key has at least {_RSA_BITS_MIN} bits")
    elif not isinstance(key, (ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)):
        raise ValueError("its key is of no kind that we know")
    return found


class Signer:
    """Signs client certificates with the CA of a directory."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError or ValueError when there is none."""
        key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the signer's key is not ECDSA")
        self._key = key
        self._ca = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())

    def sign(self, pem: bytes, subject: Subject, seconds: int, now: datetime) -> bytes:
        """A certificate for the key of the request, and for this subject whatever it asked for."""
        request = _loaded(pem)
        parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in subject.organizations]
        parts += [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, u) for u in subject.units]
        parts.append(x509.NameAttribute(NameOID.COMMON_NAME, subject.common_name))
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=True,
            data_encipherment=False, key_agreement=False, key_cert_sign=False, crl_sign=False,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        ends = min(now + timedelta(seconds=seconds), self._ca.not_valid_after_utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(parts))
            .issuer_name(self._ca.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)


def ensure_signer(directory: Path, now: datetime) -> None:
    """A CA for client certificates, made when there is none that lasts."""
    pki.ensure_authority(directory, "arktos-client-ca", now)
