"""Requests for certificates, as strangers send them."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from arktos_ray.base.certificates import read_request


def test_a_request_of_a_version_that_there_is_not_cannot_be_read() -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bob")])
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    assert read_request(made.public_bytes(serialization.Encoding.PEM)).common_name == "bob"
    raw = made.public_bytes(serialization.Encoding.DER)
    wrong = raw.replace(b"\x02\x01\x00", b"\x02\x01\x02", 1)
    text = base64.encodebytes(wrong).decode()
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{text}-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(ValueError, match="not a valid CSR version"):
        read_request(pem.encode())
