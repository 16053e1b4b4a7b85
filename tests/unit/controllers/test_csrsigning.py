"""Requests for client certificates: whom they make, and whom never."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api.kinds.certificates import CLIENT, KUBELET_CLIENT
from arktos_ray.base.certificates import Signer, Subject, ensure_signer, read_request
from arktos_ray.controllers.csrsigning.controller import REQUESTS, CsrSigning
from arktos_ray.controllers.csrsigning.plan import SECONDS_MAX, Asked, Fail, Sign, is_due, plan
from arktos_ray.ingress.authn import user_of_certificate

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def request(
    common_name: str = "ann", organizations: tuple[str, ...] = (), names: tuple[str, ...] = ()
) -> bytes:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in organizations]
    parts.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(parts))
    if names:
        general = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(general, critical=False)
    key = ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def csr(tenant: str = "acme", signer: str = CLIENT, pem: bytes = b"", **spec: Any) -> Any:
    return {
        "metadata": {"tenant": tenant, "name": "r"},
        "spec": {
            "request": base64.b64encode(pem or request()).decode(), "signerName": signer,
            "usages": ["client auth"], **spec,
        },
        "status": {"conditions": [{"type": "Approved", "status": "True"}]},
    }  # fmt: skip


texts = st.sampled_from(
    [
        "ann",
        "system:admin",
        "system:masters",
        "tenant:other",
        "tenant:acme",
        "system:nodes",
        "g",
        "",
    ]
)


@given(
    name=texts.filter(bool), organizations=st.lists(texts, max_size=3),
    units=st.lists(texts, max_size=3),
)  # fmt: skip
def test_whatever_is_asked_for_the_user_is_of_the_tenant(
    name: str, organizations: list[str], units: list[str]
) -> None:
    found = plan(csr(), Asked(name, tuple(organizations), tuple(units)))
    assert isinstance(found, Sign)
    user = user_of_certificate(found.common_name, found.organizations, found.units)
    assert (user.name, user.tenant) == (name, "acme")
    wanted = {*organizations, *units}
    assert set(found.units) == {g for g in wanted if g and not g.startswith("tenant:")}


def test_a_certificate_is_good_for_as_long_as_was_asked_and_at_most_a_year() -> None:
    assert plan(csr(expirationSeconds=700), Asked("a")).seconds == 700  # type: ignore[union-attr]
    assert plan(csr(), Asked("a")).seconds == SECONDS_MAX  # type: ignore[union-attr]
    long = plan(csr(expirationSeconds=10**9), Asked("a"))
    assert long.seconds == SECONDS_MAX  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given_csr", "asked"),
    [
        (csr(), None),
        (csr(), Asked("")),
        (csr(), Asked("a", names=True)),
        (csr(usages=["server auth"]), Asked("a")),
        (csr(usages=["client auth", "server auth"]), Asked("a")),
        (csr(signer=KUBELET_CLIENT), Asked("system:node:n", ("system:nodes",))),
        (csr("system", KUBELET_CLIENT), Asked("system:node:", ("system:nodes",))),
        (csr("system", KUBELET_CLIENT), Asked("system:admin", ("system:nodes",))),
        (csr("system", KUBELET_CLIENT), Asked("system:node:n", ("system:masters",))),
        (csr("system", KUBELET_CLIENT), Asked("system:node:n", ("system:nodes", "x"))),
        (csr("system", KUBELET_CLIENT), Asked("system:node:n", ("system:nodes",), ("x",))),
    ],
)
def test_what_is_no_client_of_ours_fails(given_csr: Any, asked: Asked | None) -> None:
    assert isinstance(plan(given_csr, asked), Fail)


def test_a_node_is_a_node_of_the_system_tenant() -> None:
    found = plan(csr("system", KUBELET_CLIENT), Asked("system:node:n1", ("system:nodes",)))
    assert isinstance(found, Sign)
    user = user_of_certificate(found.common_name, found.organizations, found.units)
    assert (user.name, user.tenant) == ("system:node:n1", "system")
    assert "system:nodes" in user.groups


def test_only_what_is_approved_and_not_done_is_due() -> None:
    approved = csr()
    assert is_due(approved)
    assert not is_due({**approved, "status": {}})
    assert not is_due(csr(signer="example.com/mine"))
    for more in ("Denied", "Failed"):
        said = [*approved["status"]["conditions"], {"type": more, "status": "True"}]
        assert not is_due({**approved, "status": {"conditions": said}})
    assert not is_due({**approved, "status": {**approved["status"], "certificate": "x"}})


def test_a_request_is_read_and_signed_for_its_own_key(tmp_path: Path) -> None:
    ensure_signer(tmp_path, NOW)
    ca = (tmp_path / "ca.crt").read_bytes()
    ensure_signer(tmp_path, NOW + timedelta(days=10))
    assert (tmp_path / "ca.crt").read_bytes() == ca
    pem = request("ann", ("a", "b"))
    assert read_request(pem)[:2] == ("ann", ("a", "b"))
    assert read_request(request(names=("x.example",))).names
    made = Signer(tmp_path).sign(pem, Subject("ann", ("tenant:acme",), ("g",)), 600, NOW)
    certificate = x509.load_pem_x509_certificate(made)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))
    asked = x509.load_pem_x509_csr(pem)
    assert certificate.public_key() == asked.public_key()
    assert certificate.not_valid_after_utc == NOW + timedelta(seconds=600)
    said = {a.rfc4514_attribute_name: a.value for a in certificate.subject}
    assert said == {"O": "tenant:acme", "OU": "g", "CN": "ann"}
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert not constraints.value.ca


def test_what_is_no_request_cannot_be_read() -> None:
    good = request()
    weak_key = rsa.generate_private_key(65537, 1024)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    weak = x509.CertificateSigningRequestBuilder().subject_name(subject)
    broken = good.replace(good[60:64], b"AAAA")
    for pem in (
        b"", b"x", broken, good + b"\0" * 100_000,
        weak.sign(weak_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"."):
            read_request(pem)


def test_an_approved_request_gets_its_certificate_or_is_told_why_not(
    play: Any, tmp_path: Path
) -> None:
    ensure_signer(tmp_path, NOW)

    async def story(world: Any) -> None:
        await world.start(CsrSigning(replace(world.parts(), signer=Signer(tmp_path))))
        waiting = csr()
        waiting["status"] = {}
        world.tp.put(REQUESTS, waiting)
        bad = csr(usages=["server auth"])
        bad["metadata"]["name"] = "bad"
        world.tp.put(REQUESTS, bad)
        await world.clock.advance(1)
        found = world.tp.find(REQUESTS, "acme", "", "r")
        assert "certificate" not in found["status"]
        failed = world.tp.find(REQUESTS, "acme", "", "bad")["status"]["conditions"][-1]
        assert (failed["type"], failed["status"]) == ("Failed", "True")
        world.tp.change(REQUESTS, found, status=csr()["status"])
        await world.clock.advance(1)
        status = world.tp.find(REQUESTS, "acme", "", "r")["status"]
        pem = base64.b64decode(status["certificate"])
        assert "O=tenant:acme" in x509.load_pem_x509_certificate(pem).subject.rfc4514_string()
        assert [c["type"] for c in status["conditions"]] == ["Approved"]

    play(story)
