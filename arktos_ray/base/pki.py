"""The cluster's own certificates, and the kubeconfigs that carry them.

A CA, a server certificate and the administrator's client certificate, ECDSA P-256, in one
directory. `ensure` keeps what is good, so clients go on working over restarts, and renews what is
near its end or does not cover the names that are asked for.

A second CA is for the inside: actors of one cluster show each other its certificates when they
talk between machines (actors/inside.py). It signs nothing else, and no client of the API knows it.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 3650
# Renewed at every start that finds less than RENEW_DAYS left, so a year is never reached.
LEAF_DAYS = 365
RENEW_DAYS = 60
# A client whose clock is a little behind must not find the certificate not yet valid.
_BACKDATED = timedelta(minutes=10)
TOKEN_KEY_BYTES = 32
# An actor makes its own certificate when it starts, and a new one at half of its days.
ACTOR_DAYS = 30


@dataclass(frozen=True, slots=True)
class Pki:
    """Where the files are."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def ca_key(self) -> Path:
        return self.directory / "ca.key"

    @property
    def server(self) -> Path:
        return self.directory / "server.crt"

    @property
    def server_key(self) -> Path:
        return self.directory / "server.key"

    @property
    def admin(self) -> Path:
        return self.directory / "admin.crt"

    @property
    def admin_key(self) -> Path:
        return self.directory / "admin.key"

    @property
    def inner_ca(self) -> Path:
        return self.directory / "inner-ca.crt"

    @property
    def inner_ca_key(self) -> Path:
        return self.directory / "inner-ca.key"


def server_names(bind: str) -> list[str]:
    """What clients may call the server: loopback, this machine, and the service in a cluster."""
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname()]
    names += [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    if bind not in ("", "0.0.0.0", "::"):
        names.append(bind)
    return list(dict.fromkeys(names))


def ensure(directory: Path, names: Iterable[str], now: datetime) -> Pki:
    """All files present, valid for long enough, and for these names."""
    pki = Pki(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = _read(pki.ca, pki.ca_key)
    if authority is None or not _lasting(authority[0], now):
        authority = _make_ca(now)
        _write(pki.ca, pki.ca_key, *authority)
    names = list(names)
    server = _read(pki.server, pki.server_key)
    if server is None or not _good(server[0], authority[0], now) or _lacks(server[0], names):
        _write(
            pki.server, pki.server_key,
            *_make_leaf("arktos", [], (ExtendedKeyUsageOID.SERVER_AUTH,), names, authority, now),
        )  # fmt: skip
    admin = _read(pki.admin, pki.admin_key)
    if admin is None or not _good(admin[0], authority[0], now):
        _write(
            pki.admin, pki.admin_key,
            *client_certificate("system:admin", ["system:masters"], authority, now),
        )  # fmt: skip
    return pki


def ensure_authority(directory: Path, prefix: str, now: datetime) -> None:
    """A CA of its own, as ca.crt and ca.key of that directory; made when none is there that
    lasts."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificate, key = directory / "ca.crt", directory / "ca.key"
    found = _read(certificate, key)
    if found is None or not _lasting(found[0], now):
        _write(certificate, key, *_make_ca(now, prefix))


# The inside


@dataclass(frozen=True, slots=True)
class InnerCa:
    """The CA of the inside, as PEM. Travels with the specs of actors."""

    certificate: bytes
    key: bytes

    @property
    def cluster(self) -> str:
        """What all names of the inside end with; of this cluster alone."""
        loaded = x509.load_pem_x509_certificate(self.certificate)
        [name] = loaded.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(name.value)


def ensure_inner(directory: Path, now: datetime) -> InnerCa:
    """The CA of the inside, made when there is none that lasts."""
    pki = Pki(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = _read(pki.inner_ca, pki.inner_ca_key)
    if authority is None or not _lasting(authority[0], now):
        authority = _make_ca(now, "inside")
        _write(pki.inner_ca, pki.inner_ca_key, *authority)
    return InnerCa(pki.inner_ca.read_bytes(), pki.inner_ca_key.read_bytes())


def read_inner(directory: Path) -> InnerCa | None:
    """The same, where a cluster of several machines has left it."""
    pki = Pki(directory)
    try:
        return InnerCa(pki.inner_ca.read_bytes(), pki.inner_ca_key.read_bytes())
    except OSError:
        return None


def actor_name(cluster: str, name: str) -> str:
    """What an actor's certificate says: `tp-1.inside-0a1b2c3d`."""
    return f"{name}.{cluster}"


def actor_certificate(inner: InnerCa, name: str, now: datetime) -> bytes:
    """Certificate and key of that actor, as one PEM: good for either end of a connection."""
    key = serialization.load_pem_private_key(inner.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    authority = x509.load_pem_x509_certificate(inner.certificate), key
    certificate, own = _make_leaf(
        name, [], (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
        [actor_name(inner.cluster, name)], authority, now, ACTOR_DAYS,
    )  # fmt: skip
    return _pem(own) + certificate.public_bytes(serialization.Encoding.PEM)


# How they are made


_Key = ec.EllipticCurvePrivateKey
_Pair = tuple[x509.Certificate, _Key]


def client_certificate(
    common_name: str, organizations: list[str], authority: _Pair, now: datetime
) -> _Pair:
    usage = (ExtendedKeyUsageOID.CLIENT_AUTH,)
    return _make_leaf(common_name, organizations, usage, [], authority, now)


def _make_ca(now: datetime, prefix: str = "arktos-ca") -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # The number keeps two clusters' CAs apart in a client's list of trusted ones.
    name = _name(f"{prefix}-{secrets.token_hex(4)}", [])
    certificate = (
        _begun(name, name, key.public_key(), now, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _make_leaf(
    common_name: str, organizations: list[str], usage: Iterable[x509.ObjectIdentifier],
    names: list[str], authority: _Pair, now: datetime, days: int = LEAF_DAYS,
) -> _Pair:  # fmt: skip
    ca, ca_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _begun(_name(common_name, organizations), ca.subject, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
    )
    if names:
        general = x509.SubjectAlternativeName([_general(name) for name in names])
        builder = builder.add_extension(general, critical=False)
    return builder.sign(ca_key, hashes.SHA256()), key


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _name(common_name: str, organizations: list[str]) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in organizations]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=signs, crl_sign=signs,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _lasting(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_after_utc - now > timedelta(days=RENEW_DAYS)


def _good(certificate: x509.Certificate, ca: x509.Certificate, now: datetime) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except Exception:  # ValueError, TypeError or InvalidSignature: not ours, whatever the reason
        return False
    return _lasting(certificate, now)


def _lacks(certificate: x509.Certificate, names: list[str]) -> bool:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return True
    return not {_general(name) for name in names} <= set(extension.value)


def _read(certificate: Path, key: Path) -> _Pair | None:
    """None when a file is missing or damaged: then both are made again."""
    try:
        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError, AssertionError):
        return None
    return (found, loaded) if found.public_key() == loaded.public_key() else None


def _write(
    certificate_path: Path, key_path: Path, certificate: x509.Certificate, key: _Key
) -> None:
    write_private(key_path, _pem(key))
    write_private(certificate_path, certificate.public_bytes(serialization.Encoding.PEM))


def _pem(key: _Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_private(path: Path, content: bytes) -> None:
    """Whole or not at all, and never readable by others, not even for a moment.

    A device or a pipe is written to, not replaced.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def ensure_secret(path: Path, size: int = TOKEN_KEY_BYTES) -> bytes:
    """The random bytes in that file, made on first use: the key that signs tenants' tokens."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        found = b""
    if len(found) < size:
        found = secrets.token_bytes(size)
        write_private(path, found)
    return found


def utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# Kubeconfigs


def kubeconfig(
    server: str, user: str, *, ca: bytes | None = None, certificate: bytes | None = None,
    key: bytes | None = None, token: str = "",
) -> dict[str, Any]:  # fmt: skip
    """A kubeconfig with everything inside it, so that it works wherever it is copied to."""
    cluster: dict[str, Any] = {"server": server}
    if ca is not None:
        cluster["certificate-authority-data"] = _b64(ca)
    credential: dict[str, Any] = {}
    if certificate is not None and key is not None:
        credential["client-certificate-data"] = _b64(certificate)
        credential["client-key-data"] = _b64(key)
    if token:
        credential["token"] = token
    context = {"cluster": "arktos", "user": user, "namespace": "default"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "arktos", "cluster": cluster}],
        "users": [{"name": user, "user": credential}],
        "contexts": [{"name": f"{user}@arktos", "context": context}],
        "current-context": f"{user}@arktos",
    }


def admin_kubeconfig(server: str, pki: Pki) -> dict[str, Any]:
    return kubeconfig(
        server, "admin", ca=pki.ca.read_bytes(), certificate=pki.admin.read_bytes(),
        key=pki.admin_key.read_bytes(),
    )  # fmt: skip


def write_kubeconfig(path: Path, config: dict[str, Any]) -> None:
    write_private(path, dump_kubeconfig(config).encode())


def dump_kubeconfig(config: dict[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(config, sort_keys=False)
    return text


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()
