"""Tokens of service accounts and certificates of tenants, as kubectl makes and uses them."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from livekit import Cluster, Http, Program, until

from arktos_ray.base import pki
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.places import Places

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


@pytest.fixture
def certified(cluster: Cluster, kubectl: Kubectl) -> Callable[..., Program]:
    """Asks for a client certificate, has it approved, and is then who it says."""

    def make(approver: Program, name: str, signer: str, *organizations: str) -> Program:
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in organizations]
        subject = x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
        asked = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        request = name.replace(":", "-")
        approver(
            "create", "-f", "-",
            stdin={
                "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
                "metadata": {"name": request},
                "spec": {
                    "request": base64.b64encode(asked).decode(), "usages": ["client auth"],
                    "signerName": f"kubernetes.io/{signer}", "expirationSeconds": 3600,
                },
            },
        )  # fmt: skip
        assert "Pending" in approver("get", "csr", request)
        approver("certificate", "approve", request)
        shown = ("get", "csr", request, "-o", "jsonpath={.status.certificate}")
        certificate = until(lambda: approver(*shown))
        assert "Approved,Issued" in approver("get", "csr", request)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )  # fmt: skip
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": cluster.url, "certificate-authority": str(cluster.ca)}}],
            "users": [{"name": "u", "user": {
                "client-certificate-data": certificate,
                "client-key-data": base64.b64encode(private).decode()}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        path = cluster.home / f"{request}.kubeconfig"
        path.write_text(json.dumps(config))
        return kubectl(path)

    return make


def test_a_certificate_is_asked_for_approved_and_makes_a_user_of_the_tenant(
    boss: Program, certified: Callable[..., Program]
) -> None:
    """Whatever the request says of organizations: here it names another tenant."""
    zoe = certified(boss, "zoe", "kube-apiserver-client", "tenant:system", "staff")
    info = json.loads(zoe("auth", "whoami", "-o", "json"))["status"]["userInfo"]
    assert info["username"] == "zoe"
    assert info["groups"] == ["staff", "system:authenticated"]
    assert info["extra"]["arktos.futurewei.com/tenant"] == [TENANT]
    assert "Forbidden" in zoe.fails("get", "pods")
    boss("create", "rolebinding", "staff", "--clusterrole=view", "--group=staff")
    zoe("get", "pods")


def test_the_agent_of_a_node_may_what_its_pods_need(
    cluster: Cluster, boss: Program, kubectl: Kubectl, certified: Callable[..., Program]
) -> None:
    boss("create", "configmap", "unused", "--from-literal=a=b")
    boss("run", "settled", "--image=nginx")
    boss("wait", "--for=condition=Ready", "pod/settled", "--timeout=30s")
    node = boss.json("get", "pod", "settled")["spec"]["nodeName"]
    operator = kubectl(cluster.admin)
    agent = certified(
        operator, f"system:node:{node}", "kube-apiserver-client-kubelet", "system:nodes"
    )
    here = f"/api/v1/tenants/{TENANT}/namespaces/default"
    agent("get", "--raw", f"{here}/pods/settled")
    agent("get", "--raw", f"{here}/configmaps/kube-root-ca.crt")
    agent("get", "--raw", f"/api/v1/tenants/all/pods?fieldSelector=spec.nodeName%3D{node}")
    agent("get", "--raw", f"/api/v1/nodes/{node}")
    other = next(
        name.removeprefix("node/")
        for name in operator("get", "nodes", "-o", "name").split()
        if name != f"node/{node}"
    )
    for path in (
        f"{here}/configmaps/unused", f"{here}/configmaps/absent", f"{here}/configmaps",
        f"{here}/secrets", "/api/v1/tenants/all/pods", f"/api/v1/nodes/{other}",
        f"/api/v1/tenants/all/pods?fieldSelector=spec.nodeName%3D{other}",
    ):  # fmt: skip
        assert "forbidden" in agent.fails("get", "--raw", path).lower(), path
    boss("delete", "pod", "settled", "--now")
    assert "forbidden" in agent.fails("get", "--raw", f"{here}/configmaps/kube-root-ca.crt").lower()


def test_keys_and_certificates_are_exchanged_without_a_restart(
    cluster: Cluster, boss: Program, as_token: Callable[[str], Program]
) -> None:
    places = Places(cluster.home)
    boss("create", "sa", "lasting")
    old = boss("create", "token", "lasting").strip()
    # First where tokens are verified, then where they are signed.
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    pki.write_private(places.account_keys / "99991231.pub", public)
    admin = Http(cluster.admin)
    until(lambda: len(admin.get("/openid/v1/jwks")["keys"]) == 2)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pki.write_private(places.account_keys / "99991231.key", private)

    def kid(token: str) -> str:
        head = token.split(".")[0]
        return str(json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])

    def signed_by_another() -> str:
        token = boss("create", "token", "lasting").strip()
        return token if kid(token) != kid(old) else ""

    new = until(signed_by_another)
    for token in (old, new):
        assert "lasting" in as_token(token)("auth", "whoami")

    def served() -> str:
        host, _, port = cluster.url.removeprefix("https://").rpartition(":")
        return ssl.get_server_certificate((host, int(port)))

    before = served()
    places_pki = pki.Pki(places.pki)
    good = places_pki.server.read_bytes()
    places_pki.server.write_bytes(b"broken")
    boss("get", "ns")
    places_pki.server.write_bytes(good)
    places_pki.server.unlink()
    pki.ensure(places.pki, pki.server_names("127.0.0.1"), pki.utc(SystemClock().now()))
    until(lambda: served() != before)
    boss("get", "ns")
