"""RBAC with kubectl: who is refused, in which words, and allowed from the binding on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from livekit import Cluster, Http, Program, until

pytestmark = pytest.mark.live

Object = dict[str, Any]
Kubectl = Callable[..., Program]
TENANT = "guild"
GROUP = "rbac.authorization.k8s.io"


@pytest.fixture(scope="module")
def boss(cluster: Cluster, kubectl: Kubectl) -> Program:
    return kubectl(cluster.tenant(TENANT))


@pytest.fixture
def ann(cluster: Cluster, kubectl: Kubectl, boss: Program) -> Program:
    return kubectl(cluster.person(TENANT, "ann"))


@pytest.fixture
def space(boss: Program, request: pytest.FixtureRequest) -> str:
    name = request.node.name.replace("_", "-")[:50].strip("-")
    boss("create", "ns", name)
    return str(name)


def test_a_user_is_refused_and_allowed_at_once_after_the_binding(
    boss: Program, ann: Program, space: str
) -> None:
    here = ("-n", space)
    assert ann.fails("get", "pods", *here) == (
        'Error from server (Forbidden): pods is forbidden: User "ann" cannot list resource "pods"'
        f' in API group "" in the namespace "{space}"\n'
    )
    assert ann.fails("get", "ns") == (
        'Error from server (Forbidden): namespaces is forbidden: User "ann" cannot list resource'
        f' "namespaces" in API group "" in the tenant "{TENANT}"\n'
    )
    assert ann.fails("auth", "can-i", "get", "pods", *here).splitlines()[-1] == "no"
    boss("create", "role", "reader", "--verb=get,list,watch", "--resource=pods,pods/log", *here)
    boss("create", "rolebinding", "readers", "--role=reader", "--user=ann", *here)
    assert "No resources found" in ann.result("get", "pods", *here).stderr
    assert ann("auth", "can-i", "get", "pods", *here) == "yes\n"
    assert ann("auth", "can-i", "get", "pods", "--subresource=log", *here) == "yes\n"
    assert "no" in ann.fails("auth", "can-i", "delete", "pods", *here)
    assert "no" in ann.fails("auth", "can-i", "get", "pods", "-n", "default")
    table = boss("get", "rolebindings", "-o", "wide", *here)
    assert table.splitlines()[0].split() == ["NAME", "ROLE", "AGE", "USERS", "GROUPS",
                                             "SERVICEACCOUNTS"]  # fmt: skip
    assert "Role/reader" in table
    assert "ann" in table
    said = boss("describe", "role", "reader", *here)
    assert "pods/log" in said
    boss("delete", "rolebinding", "readers", *here)
    assert "Forbidden" in ann.fails("get", "pods", *here)


def test_the_roles_that_charts_name_can_be_bound(boss: Program, ann: Program, space: str) -> None:
    here = ("-n", space)
    boss("create", "rolebinding", "editors", "--clusterrole=edit", "--user=ann", *here)
    ann("create", "deploy", "web", "--image=nginx", *here)
    ann("rollout", "status", "deploy/web", "--timeout=30s", *here)
    ann("scale", "deploy/web", "--replicas=2", *here)
    ann("get", "pods,svc,events", *here)
    assert "Forbidden" in ann.fails("create", "role", "r", "--verb=get", "--resource=pods", *here)
    ann("delete", "deploy", "web", *here)


def test_what_can_i_do_and_who_am_i(boss: Program, ann: Program, space: str) -> None:
    here = ("-n", space)
    rows = [line.split() for line in boss("auth", "can-i", "--list", *here).splitlines()]
    assert ["*.*", "[]", "[]", "[*]"] in rows
    assert boss("auth", "can-i", "*", "*") == "yes\n"
    # What is of the cluster is not for tenants, whatever their roles.
    assert "no" in boss.fails("auth", "can-i", "list", "nodes")
    assert "no" in boss.fails("auth", "can-i", "get", "/metrics")
    assert boss("auth", "can-i", "get", "/apis") == "yes\n"
    boss("create", "role", "r", "--verb=get", "--resource=secrets", "--resource-name=s", *here)
    boss("create", "rolebinding", "b", "--role=r", "--user=ann", *here)
    listed = ann("auth", "can-i", "--list", *here)
    assert ["secrets", "[]", "[s]", "[get]"] in [line.split() for line in listed.splitlines()]
    assert "selfsubjectaccessreviews.authorization.k8s.io" in listed
    info = ann.json("auth", "whoami")["status"]["userInfo"]
    assert (info["username"], info["extra"]["arktos.futurewei.com/tenant"]) == ("ann", [TENANT])


def test_nobody_gives_more_than_they_have(boss: Program, ann: Program, space: str) -> None:
    here = ("-n", space)
    boss("create", "role", "clerk", "--verb=create,get", f"--resource=roles.{GROUP}", *here)
    boss("create", "rolebinding", "clerk", "--role=clerk", "--user=ann", *here)
    refused = ann.fails("create", "role", "r", "--verb=get", "--resource=secrets", *here)
    assert (
        f'roles.{GROUP} "r" is forbidden: user "ann" (groups=["system:authenticated"]) is'
        " attempting to grant RBAC permissions not currently held:\n"
        '{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}'
    ) in refused
    boss("create", "role", "reader", "--verb=get", "--resource=secrets", *here)
    boss("create", "rolebinding", "reader", "--role=reader", "--user=ann", *here)
    ann("create", "role", "r", "--verb=get", "--resource=secrets", *here)
    changed = boss.json("get", "rolebinding", "reader", *here)
    changed["roleRef"]["name"] = "clerk"
    assert "cannot change roleRef" in boss.fails("replace", "-f", "-", stdin=changed)


def test_impersonation(cluster: Cluster, boss: Program, ann: Program, space: str) -> None:
    here = ("-n", space)
    assert 'User "bob" cannot list' in boss.fails("get", "pods", "--as=bob", *here)
    boss("create", "rolebinding", "x", "--clusterrole=view", "--group=x", *here)
    assert boss("auth", "can-i", "get", "cm", "--as=bob", "--as-group=x", *here) == "yes\n"
    ann("api-resources")  # kubectl asks what there is first, and hides why that is refused.
    assert (
        'users "bob" is forbidden: User "ann" cannot impersonate resource "users" in API group ""'
        " at the cluster scope"
    ) in ann.fails("get", "cm", "--as=bob", *here)
    boss("create", "clusterrole", "speaks", "--verb=impersonate", "--resource=users",
         "--resource-name=bob")  # fmt: skip
    boss("create", "clusterrolebinding", "speaks", "--clusterrole=speaks", "--user=ann")
    assert 'User "bob" cannot' in ann.fails("get", "cm", "--as=bob", *here)
    assert 'User "ann" cannot impersonate' in ann.fails("get", "cm", "--as=eve", *here)
    # Nobody speaks their way out of a tenant.
    as_master = {"Impersonate-User": "x", "Impersonate-Group": "system:masters"}
    answer = Http(cluster.tenant(TENANT))("GET", "/api/v1/nodes", headers=dict(as_master))
    assert answer.code == 403


def test_a_watch_ends_when_its_right_is_withdrawn(
    cluster: Cluster, boss: Program, ann: Program, space: str
) -> None:
    here = ("-n", space)
    boss("create", "rolebinding", "viewers", "--clusterrole=view", "--user=ann", *here)
    http = Http(cluster.person(TENANT, "ann"))
    with http.watch(f"/api/v1/namespaces/{space}/configmaps") as events:
        boss("create", "cm", "seen", *here)
        names = []
        while "seen" not in names:
            names.append(next(events)["object"]["metadata"]["name"])
        boss("delete", "rolebinding", "viewers", *here)
        boss("create", "cm", "unseen", *here)
        last = list(events)[-1]
        assert (last["type"], last["object"]["code"]) == ("ERROR", 403)
        assert "unseen" not in json.dumps(last)


def test_operators_have_roles_too(cluster: Cluster, kubectl: Kubectl, boss: Program) -> None:
    """Of the system tenant: they reach nodes, and tenants in whatever partition."""
    admin = kubectl(cluster.admin)
    names = admin("get", "clusterroles", "-o", "name")
    assert {"cluster-admin", "admin", "edit", "view"} <= {
        name.rpartition("/")[2] for name in names.split()
    }
    op = kubectl(cluster.person("system", "op"))
    assert 'User "op" cannot list resource "nodes"' in op.fails("get", "nodes")
    admin("create", "clusterrole", "ops", "--verb=get,list,watch", "--resource=nodes,configmaps")
    admin("create", "clusterrolebinding", "ops", "--clusterrole=ops", "--user=op")
    assert "sim-" in op("get", "nodes", "-o", "name")
    assert "cannot delete" in op.fails("delete", "nodes", "--all")
    raw = f"/api/v1/tenants/{TENANT}/configmaps"
    assert json.loads(op("get", "--raw", raw))["kind"] == "ConfigMapList"
    assert "Forbidden" in op.fails("get", "--raw", raw.replace("configmaps", "secrets"))
    assert json.loads(op("get", "--raw", "/api/v1/tenants/all/configmaps"))["items"]
    assert 'cannot get path "/metrics"' in op.fails("get", "--raw", "/metrics")
    http = Http(cluster.person("system", "op"))
    with http.watch("/api/v1/nodes") as events:
        assert next(events)["object"]["kind"] == "Node"
        admin("delete", "clusterrolebinding", "ops")
        assert list(events)[-1]["object"]["code"] == 403
    until(lambda: "Forbidden" in op.result("get", "nodes").stderr)
