"""What the agent of a node may read and write: what its pods need, in any tenant, and no more.
And requests for certificates, as a partition admits them."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from acme_world import ACME, ADMIN, Acme, acme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api.calls import User
from arktos_ray.api.scheme import RESOURCES
from arktos_ray.apiserver.tokens import Tokens
from arktos_ray.base.signing import TokenKeys, ensure_keys
from arktos_ray.tenancy.nodes import Need, node_of, refers, ruling, wrong_node

N1 = User("system:node:n1", "system", ("system:nodes", "system:authenticated"))
N2 = User("system:node:n2", "system", ("system:nodes", "system:authenticated"))
HERE = ("acme", "n", "")


def pod(name: str, node: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "i", **spec.pop("container", {})}
    return {
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [container], **spec},
    }


async def furnish(world: Acme) -> None:
    secrets = [{"name": "s", "secret": {"secretName": "used"}}]
    env = [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "used", "key": "k"}}}]
    body = pod("mine", "n1", volumes=secrets, container={"env": env}, serviceAccountName="bot")
    await world.ok("create", "serviceaccounts", {"metadata": {"name": "bot"}})
    await world.ok("create", "serviceaccounts", {"metadata": {"name": "other"}})
    await world.ok("create", "pods", body)
    await world.ok("create", "pods", pod("theirs", "n2"))
    for gvr in ("secrets", "configmaps"):
        for name in ("used", "unused"):
            await world.ok("create", gvr, {"metadata": {"name": name}})


def test_an_agent_reads_what_its_pods_refer_to_and_nothing_else() -> None:
    async def story(world: Acme) -> None:
        await furnish(world)
        for gvr in ("secrets", "configmaps"):
            await world.ok("get", gvr, name="used", user=N1)
            for name in ("unused", "absent"):
                await world.fails(403, "get", gvr, name=name, user=N1)
            await world.fails(403, "get", gvr, name="used", user=N2)
            await world.fails(403, "list", gvr, at=HERE, user=N1)
            one = {"fieldSelector": "metadata.name=used"}
            await world.ok("list", gvr, at=HERE, user=N1, **one)
            await world.fails(403, "update", gvr, {}, name="used", user=N1)
            await world.fails(403, "delete", gvr, name="used", user=N1)
        await world.ok("delete", "pods", {"gracePeriodSeconds": 0}, name="mine")
        await world.fails(403, "get", "secrets", name="used", user=N1)

    acme(story)


def test_an_agent_sees_and_reports_its_own_pods() -> None:
    async def story(world: Acme) -> None:
        await furnish(world)
        await world.ok("get", "pods", name="mine", user=N1)
        await world.fails(403, "get", "pods", name="theirs", user=N1)
        own, all_of_them = {"fieldSelector": "spec.nodeName=n1"}, ("all", "", "")
        listed = await world.ok("list", "pods", at=all_of_them, user=N1, **own)
        assert [p["metadata"]["name"] for p in listed["items"]] == ["mine"]
        await world.fails(403, "list", "pods", at=all_of_them, user=N1)
        other = {"fieldSelector": "spec.nodeName=n2"}
        await world.fails(403, "list", "pods", at=all_of_them, user=N1, **other)
        merge = "application/merge-patch+json"
        running = {"status": {"phase": "Running"}}
        for name, code in (("mine", 200), ("theirs", 403)):
            reply = await world.reply(
                "patch", "pods", running, name=name, sub="status", kind=merge, user=N1
            )
            assert reply.code == code, reply.body
        labelled = {"metadata": {"labels": {"a": "b"}}}
        await world.fails(
            403, "patch", "pods", labelled, name="mine", sub="status", kind=merge, user=N1
        )
        await world.fails(403, "patch", "pods", labelled, name="mine", kind=merge, user=N1)
        await world.fails(403, "create", "pods", pod("new", "n1"), user=N1)
        await world.fails(403, "create", "pods", {}, name="mine", sub="binding", user=N1)

    acme(story)


def test_an_agent_gets_tokens_for_its_pods_bound_to_them(tmp_path: Path) -> None:
    ensure_keys(tmp_path, datetime(2026, 1, 2, tzinfo=UTC))

    async def story(world: Acme) -> None:
        world.part.server.partition.tokens = Tokens(TokenKeys(tmp_path))
        await furnish(world)
        mine = await world.ok("get", "pods", name="mine")
        bound = {"apiVersion": "v1", "kind": "Pod", "name": "mine",
                 "uid": mine["metadata"]["uid"]}  # fmt: skip

        async def ask(account: str, ref: Any, user: User) -> int:
            body = {"spec": {"boundObjectRef": ref} if ref else {}}
            return (
                await world.reply(
                    "create", "serviceaccounts", body, name=account, sub="token", user=user
                )
            ).code

        assert await ask("bot", bound, N1) == 201
        assert await ask("bot", None, N1) == 403
        assert await ask("bot", {**bound, "uid": ""}, N1) == 403
        assert await ask("bot", {**bound, "kind": "Secret", "name": "used", "uid": ""}, N1) == 403
        assert await ask("other", bound, N1) == 403
        assert await ask("bot", bound, N2) == 403

    acme(story)


def test_an_agent_writes_its_own_node_and_lease() -> None:
    async def story(world: Acme) -> None:
        system = ("system", "kube-node-lease", "")
        await world.ok("create", "namespaces", {"metadata": {"name": "kube-node-lease"}},
                       at=("system", "", ""), user=ADMIN)  # fmt: skip
        lease = {"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1"}}
        leases = "leases.coordination.k8s.io"
        await world.ok("create", leases, lease, at=system, user=N1)
        other = {**lease, "metadata": {"name": "n2"}}
        await world.fails(403, "create", leases, other, at=system, user=N1)
        await world.fails(403, "create", leases, lease, at=HERE, user=N1)
        for name, code in (("n1", 200), ("n2", 403)):
            reply = await world.reply("get", leases, at=(*system[:2], name), user=N1)
            assert reply.code == code

    acme(story)


@pytest.mark.parametrize(
    ("labels", "good"),
    [
        ({"kubernetes.io/hostname": "n1"}, True),
        ({"mine": "x"}, True),
        ({"kubelet.kubernetes.io/x": "y"}, True),
        ({"node-restriction.kubernetes.io/secret": "y"}, False),
        ({"node-role.kubernetes.io/master": ""}, False),
        ({"x.k8s.io/y": ""}, False),
    ],
)
def test_an_agent_does_not_say_what_its_node_is_for(labels: dict[str, str], good: bool) -> None:
    new = {"metadata": {"name": "n1", "labels": labels}}
    old: dict[str, Any] = {"metadata": {"name": "n1"}}
    assert (wrong_node("n1", new, old) == "") == good
    assert wrong_node("n2", new, None)
    assert wrong_node("n1", {**old, "spec": {"taints": [{"key": "k"}]}}, old)


kinds = st.sampled_from(sorted({r.gvr for r in RESOURCES}))
verbs = st.sampled_from(
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]
)


@given(gvr=kinds, verb=verbs, sub=st.sampled_from(["", "status", "token", "exec", "binding"]))
def test_without_pods_an_agent_is_alone_with_itself(gvr: str, verb: str, sub: str) -> None:
    """Whatever is allowed without a look at pods is about the node itself."""
    found = ruling("n1", verb, gvr, sub, "acme", "n", "x", {})
    if found is True:
        assert (gvr, verb) == ("nodes", "create")
    elif found is not False:
        assert isinstance(found, Need)
        assert verb != "deletecollection"


def test_only_nodes_of_the_system_tenant_are_nodes() -> None:
    assert node_of(N1) == "n1"
    assert node_of(User("system:node:n1", "acme", ("system:nodes",))) == ""
    assert node_of(User("system:node:n1", "system")) == ""
    assert node_of(User("bob", "system", ("system:nodes",))) == ""


def test_all_ways_to_refer_to_something_count() -> None:
    spec = {
        "serviceAccountName": "a",
        "imagePullSecrets": [{"name": "s1"}],
        "volumes": [
            {"name": "v1", "secret": {"secretName": "s2"}},
            {"name": "v2", "configMap": {"name": "m1"}},
            {"name": "v3", "projected": {"sources": [{"secret": {"name": "s3"}},
                                                     {"configMap": {"name": "m2"}}]}},
            {"name": "v4", "persistentVolumeClaim": {"claimName": "c1"}},
            {"name": "v5", "ephemeral": {}},
            {"name": "v6", "csi": {"nodePublishSecretRef": {"name": "s4"}}},
        ],
        "initContainers": [{"envFrom": [{"secretRef": {"name": "s5"}}]}],
        "containers": [
            {"env": [{"valueFrom": {"secretKeyRef": {"name": "s6"}}}],
             "envFrom": [{"configMapRef": {"name": "m3"}}]},
        ],
    }  # fmt: skip
    found = {"metadata": {"name": "p"}, "spec": spec}
    wanted = {
        "secrets": [f"s{i}" for i in range(1, 7)], "configmaps": ["m1", "m2", "m3"],
        "persistentvolumeclaims": ["c1", "p-v5"], "serviceaccounts": ["a"],
    }  # fmt: skip
    for gvr, names in wanted.items():
        for other, others in wanted.items():
            for name in others:
                assert refers(found, gvr, name) == (gvr == other and name in names)


# Requests for certificates

CSRS = "certificatesigningrequests.certificates.k8s.io"
CLIENT = "kubernetes.io/kube-apiserver-client"


def request(name: str, *organizations: str) -> str:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in organizations]
    subject = x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, name)])
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return base64.b64encode(made.public_bytes(serialization.Encoding.PEM)).decode()


def asking(name: str = "r", **spec: Any) -> dict[str, Any]:
    given_spec = {
        "request": request("ann"), "signerName": CLIENT, "usages": ["client auth"], **spec,
    }  # fmt: skip
    return {"metadata": {"name": name}, "spec": given_spec}


def test_a_request_says_who_asked_and_is_decided_by_who_may() -> None:
    async def story(world: Acme) -> None:
        at = ("acme", "", "")
        lies = asking(username="somebody", groups=["system:masters"])
        made = await world.ok("create", CSRS, lies, at=at)
        assert made["spec"]["username"] == "admin"
        assert "groups" not in made["spec"]
        assert made["status"] == {}
        approved = {**made, "status": {
            "conditions": [{"type": "Approved", "status": "True", "reason": "x"}],
            "certificate": base64.b64encode(b"made up").decode(),
        }}  # fmt: skip
        named = ("acme", "", "r")
        eve = User("eve", "acme")
        rules = [{"verbs": ["*"], "apiGroups": ["certificates.k8s.io"],
                  "resources": ["certificatesigningrequests",
                                "certificatesigningrequests/approval"]}]  # fmt: skip
        await world.ok("create", "clusterroles.rbac.authorization.k8s.io",
                       {"metadata": {"name": "r"}, "rules": rules}, at=at)  # fmt: skip
        await world.ok(
            "create", "clusterrolebindings.rbac.authorization.k8s.io",
            {"metadata": {"name": "r"}, "subjects": [{"kind": "User", "name": "eve"}],
             "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                         "name": "r"}}, at=at,
        )  # fmt: skip
        said = await world.fails(403, "update", CSRS, approved, at=named, sub="approval", user=eve)
        assert "not permitted to approve" in said
        after = await world.ok("update", CSRS, approved, at=named, sub="approval")
        assert [c["type"] for c in after["status"]["conditions"]] == ["Approved"]
        assert "certificate" not in after["status"]
        changed = {**after, "spec": {**after["spec"], "request": request("other")}}
        kept = await world.ok("update", CSRS, changed, at=named)
        assert kept["spec"]["request"] == made["spec"]["request"]
        taken_back = {**kept, "status": {}}
        await world.fails(422, "update", CSRS, taken_back, at=named, sub="approval")
        both = {**kept, "status": {"conditions": [
            {"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"},
        ]}}  # fmt: skip
        await world.fails(422, "update", CSRS, both, at=named, sub="approval")

    acme(story)


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"request": base64.b64encode(b"nothing").decode()}, 422),
        ({"request": ""}, 422),
        ({"signerName": ""}, 422),
        ({"signerName": "no-domain/x"}, 422),
        ({"signerName": "kubernetes.io/legacy-unknown"}, 422),
        ({"usages": []}, 422),
        ({"usages": ["everything"]}, 422),
        ({"expirationSeconds": 599}, 422),
        ({"request": request("a", "system:masters")}, 403),
        ({"signerName": "example.com/mine"}, 201),
    ],
)
def test_a_request_that_nobody_could_sign_is_refused(spec: dict[str, Any], code: int) -> None:
    async def story(world: Acme) -> None:
        reply = await world.reply("create", CSRS, asking(**spec), at=("acme", "", ""), user=ACME)
        assert reply.code == code, reply.body

    acme(story)
