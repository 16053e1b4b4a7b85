"""Tokens of service accounts and certificates of tenants, as kubectl makes and uses them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from livekit import Cluster, Program, until

pytestmark = pytest.mark.live

Kubectl = Callable[..., Program]
TENANT = "idents"


@pytest.fixture(scope="module")
def boss(cluster: Cluster, kubectl: Kubectl) -> Program:
    return kubectl(cluster.tenant(TENANT))


@pytest.fixture
def as_token(cluster: Cluster, kubectl: Kubectl) -> Callable[[str], Program]:
    """token -> kubectl that shows it and nothing else."""

    def make(token: str) -> Program:
        made = json.loads(
            json.dumps(
                {
                    "apiVersion": "v1", "kind": "Config", "current-context": "c",
                    "clusters": [{"name": "c", "cluster": {
                        "server": cluster.url, "certificate-authority": str(cluster.ca)}}],
                    "users": [{"name": "u", "user": {"token": token}}],
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                }
            )
        )  # fmt: skip
        path = cluster.home / f"as-{abs(hash(token))}.kubeconfig"
        path.write_text(json.dumps(made))
        return kubectl(path)

    return make


def claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def test_a_token_is_made_used_and_over_with_its_account(
    boss: Program, as_token: Callable[[str], Program]
) -> None:
    boss("create", "sa", "robot")
    boss("create", "rolebinding", "robots", "--clusterrole=edit", "--serviceaccount=default:robot")
    token = boss("create", "token", "robot", "--duration=20m").strip()
    robot = as_token(token)
    robot("create", "configmap", "mine", "--from-literal=a=b")
    assert "system:serviceaccount:default:robot" in robot("auth", "whoami")
    assert "Forbidden" in robot.fails("get", "pods", "-n", "kube-system")
    said = robot.fails("get", "--raw", "/api/v1/tenants/system/namespaces/default/configmaps")
    assert "forbidden" in said.lower()
    assert claims(token)["kubernetes.io"]["tenant"] == TENANT
    boss("delete", "sa", "robot")
    for what in (("get", "configmaps"), ("get", "--raw", "/api")):
        assert "Unauthorized" in robot.fails(*what)
    boss("create", "sa", "robot")
    assert "Unauthorized" in robot.fails("get", "configmaps")
    assert "duration less than" in boss.fails("create", "token", "robot", "--duration=1m")


def test_a_token_is_bound_to_a_pod(boss: Program, as_token: Callable[[str], Program]) -> None:
    boss("run", "holder", "--image=nginx")
    boss("create", "rolebinding", "d", "--clusterrole=view", "--serviceaccount=default:default")
    bound = ("--bound-object-kind=Pod", "--bound-object-name=holder")
    token = boss("create", "token", "default", *bound).strip()
    assert claims(token)["kubernetes.io"]["pod"]["name"] == "holder"
    holder = as_token(token)
    holder("get", "pods")
    boss("delete", "pod", "holder", "--now")
    assert "Unauthorized" in holder.fails("get", "pods")


def test_every_namespace_has_one_secret_with_a_token_and_the_ca(
    boss: Program, as_token: Callable[[str], Program]
) -> None:
    boss("create", "ns", "fresh")

    def of_default() -> list[dict[str, Any]]:
        found = boss.json("get", "secrets", "-n", "fresh")["items"]
        return [s for s in found if s["metadata"]["name"].startswith("default-token-")]

    until(lambda: len(of_default()) == 1)
    [secret] = of_default()
    data = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    assert sorted(data) == ["ca.crt", "namespace", "token"]
    assert data["namespace"] == f"{TENANT}/fresh"
    assert claims(data["token"])["kubernetes.io/serviceaccount/tenant"] == TENANT
    whoami = as_token(data["token"])("auth", "whoami", "-o", "json")
    assert json.loads(whoami)["status"]["userInfo"]["username"] == (
        "system:serviceaccount:fresh:default"
    )
    boss("delete", "secret", secret["metadata"]["name"], "-n", "fresh")
    assert "Unauthorized" in as_token(data["token"]).fails("auth", "whoami")
    until(lambda: len(of_default()) == 1)
    found = until(lambda: boss.json("get", "configmap", "kube-root-ca.crt", "-n", "fresh"))
    assert found["data"]["ca.crt"] == data["ca.crt"]
    assert len(of_default()) == 1


def test_a_certificate_is_asked_for_approved_and_makes_a_user_of_the_tenant(
    cluster: Cluster, boss: Program, kubectl: Kubectl
) -> None:
    """Whatever the request says of organizations: here it names the masters of another tenant."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = [(NameOID.ORGANIZATION_NAME, "tenant:system"), (NameOID.ORGANIZATION_NAME, "staff"),
               (NameOID.COMMON_NAME, "zoe")]  # fmt: skip
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in subject])
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    pem = made.public_bytes(serialization.Encoding.PEM)
    boss(
        "create", "-f", "-",
        stdin={
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": "zoe"},
            "spec": {
                "request": base64.b64encode(pem).decode(), "usages": ["client auth"],
                "signerName": "kubernetes.io/kube-apiserver-client", "expirationSeconds": 3600,
            },
        },
    )  # fmt: skip
    assert "Pending" in boss("get", "csr")
    boss("certificate", "approve", "zoe")
    until(lambda: boss("get", "csr", "zoe", "-o", "jsonpath={.status.certificate}"))
    assert "Approved,Issued" in boss("get", "csr")
    certificate = boss("get", "csr", "zoe", "-o", "jsonpath={.status.certificate}")
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": cluster.url, "certificate-authority": str(cluster.ca)}}],
        "users": [{"name": "u", "user": {
            "client-certificate-data": certificate,
            "client-key-data": base64.b64encode(private).decode()}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    path = cluster.home / "zoe.kubeconfig"
    path.write_text(json.dumps(config))
    zoe = kubectl(path)
    info = json.loads(zoe("auth", "whoami", "-o", "json"))["status"]["userInfo"]
    assert info["username"] == "zoe"
    assert info["groups"] == ["staff", "system:authenticated"]
    assert info["extra"]["arktos.futurewei.com/tenant"] == [TENANT]
    assert "Forbidden" in zoe.fails("get", "pods")
    boss("create", "rolebinding", "staff", "--clusterrole=view", "--group=staff")
    zoe("get", "pods")
