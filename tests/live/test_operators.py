"""What operators see and govern: limits, suspension, usage, the audit log, ways into a tenant.

And what an outsider finds, who looks at every port and every path.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from livekit import Cluster, Http, Program, until

from arktos_ray.base import processes

pytestmark = pytest.mark.live

Object = dict[str, Any]
Kubectl = Callable[..., Program]
MAPS = "/api/v1/namespaces/default/configmaps"
TABLE = "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json"


@pytest.fixture(scope="module")
def admin(cluster: Cluster) -> Http:
    return Http(cluster.admin)


@pytest.fixture(scope="module")
def guided(cluster: Cluster) -> Http:
    return Http(cluster.tenant("guided"))


def usage(cluster: Cluster, tenant: str) -> Object:
    rows: list[Object] = json.loads(cluster.arktos("tenant", "usage", tenant, "-o", "json"))
    return rows[0]


# Limits


def test_a_tenant_has_what_operators_allow_and_kubectl_says_what_that_is(
    cluster: Cluster, kubectl: Kubectl
) -> None:
    k = kubectl(cluster.tenant("thrifty"))
    until(lambda: len(k("get", "sa", "-A", "-o", "name").split()) >= 3)
    has = usage(cluster, "thrifty")["objects"]
    cluster.arktos("tenant", "limits", "thrifty", "--objects", str(has + 2))
    created, refused = 0, ""
    for number in range(8):  # Controllers may make something meanwhile: at most two fit.
        result = k.result("create", "cm", f"c{number}")
        if result.returncode:
            refused = result.stderr
            break
        created += 1
    assert created <= 2
    assert re.search(
        r'exceeded the limits of tenant "thrifty": requested: objects=1, used: objects=(\d+),'
        rf" limited: objects={has + 2}",
        refused,
    )
    size = usage(cluster, "thrifty")["bytes"]
    cluster.arktos(
        "tenant", "limits", "thrifty", "--objects", "none", "--bytes", str(size + 50_000)
    )
    large = k.fails("create", "cm", "large", f"--from-literal=x={'x' * 60_000}")
    assert f"limited: bytes={size + 50_000}" in large
    k("create", "cm", "small")
    shown = cluster.arktos("tenant", "show", "thrifty")
    assert "Ki/" in shown
    assert "configmaps" in shown
    cluster.arktos("tenant", "limits", "thrifty", "--bytes", "none")


def test_watches_of_a_tenant_are_limited(cluster: Cluster, guided: Http) -> None:
    cluster.arktos("tenant", "limits", "guided", "--watches", "1")
    with guided.watch(MAPS, resourceVersion="1", timeoutSeconds="20"):
        answer = until(
            lambda: (a := guided("GET", MAPS, watch="1", timeoutSeconds="1")).code == 429 and a
        )
        assert "it has 1, and may have 1" in answer.json["message"]
        assert until(lambda: usage(cluster, "guided")["watches"] == 1)
    cluster.arktos("tenant", "limits", "guided", "--watches", "none")


# Suspended


def test_a_suspended_tenant_is_closed_to_its_users_and_its_workloads_go_on(
    cluster: Cluster, admin: Http, kubectl: Kubectl
) -> None:
    path = cluster.tenant("paused")
    k, user, boss = kubectl(path), Http(path), kubectl(cluster.admin)
    k("create", "deploy", "web", "--image=nginx", "--replicas=2")
    k("rollout", "status", "deploy/web", "--timeout=30s")
    with user.watch(MAPS) as events:
        next(events)
        cluster.arktos("tenant", "suspend", "paused")
        last = list(events)[-1]
        assert (last["type"], last["object"]["code"]) == ("ERROR", 403)
    assert 'tenant "paused" is suspended' in k.fails("get", "pods")
    assert user("GET", "/api/v1/namespaces/default/pods/x").code == 403
    assert user("GET", "/apis").code == 403
    assert "Active,Suspended" in cluster.arktos("tenant", "list")
    # It is remembered where the tenant goes, as is what it has.
    before = usage(cluster, "paused")
    here = before["partition"]
    cluster.arktos("tenant", "move", "paused", "tp-2" if here == "tp-1" else "tp-1")
    assert 'tenant "paused" is suspended' in k.fails("get", "pods")
    after = usage(cluster, "paused")
    assert after["partition"] != here
    assert after["suspended"]
    assert abs(after["objects"] - before["objects"]) <= 5  # Events come and go.
    assert after["objects"] == sum(objects for objects, _ in after["kinds"].values())
    pods = "/api/v1/tenants/paused/namespaces/default/pods"
    first = admin.get(pods)["items"][0]["metadata"]["name"]
    boss("delete", "--raw", f"{pods}/{first}")

    def replaced() -> bool:
        items = admin.get(pods)["items"]
        running = [p for p in items if p["status"].get("phase") == "Running"]
        return len(running) == 2 and first not in {p["metadata"]["name"] for p in running}

    until(replaced)
    cluster.arktos("tenant", "resume", "paused")
    until(lambda: k.result("get", "pods").returncode == 0)
    cluster.arktos("tenant", "delete", "paused")
    assert admin("GET", "/api/v1/tenants/paused").code == 404


# The audit log


def test_who_changed_what_is_in_the_audit_log_and_no_secret_is(
    cluster: Cluster, kubectl: Kubectl
) -> None:
    k = kubectl(cluster.tenant("guided"))
    k("create", "cm", "audited")
    k("create", "secret", "generic", "hidden", "--from-literal=p=hunter2hunter2")
    k("annotate", "secret", "hidden", "note=hunter2hunter2")
    answer = Http(cluster.tenant("guided"))("DELETE", f"{MAPS}/audited")
    files = list((cluster.home / "logs").glob("audit-ingress-*.log"))

    def lines() -> list[Object]:
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    found = until(
        lambda: [e for e in lines() if e["auditID"] == answer.headers["Audit-Id"]]
    )[0]  # fmt: skip
    assert (found["verb"], found["objectRef"]["tenant"]) == ("delete", "guided")
    assert found["user"]["username"] == "admin"
    assert found["responseStatus"]["code"] == 200
    names = {(e["verb"], e["objectRef"].get("name")) for e in lines() if "objectRef" in e}
    assert {("create", "audited"), ("create", "hidden"), ("patch", "hidden")} <= names
    hidden = base64.b64encode(b"hunter2hunter2").decode()
    for file in files:
        text = file.read_text()
        assert "hunter2" not in text
        assert hidden not in text
        assert file.stat().st_mode & 0o077 == 0


# Ways into a tenant


def test_an_operator_enters_a_tenant_with_their_own_credential(
    cluster: Cluster, kubectl: Kubectl, tmp_path: Path
) -> None:
    path = tmp_path / "op.kubeconfig"
    cluster.tenant("guided")
    cluster.arktos("tenant", "kubeconfig", "guided", "--as-operator", "-o", str(path))
    assert yaml.safe_load(path.read_text())["clusters"][0]["cluster"]["server"].endswith(
        "/t/guided"
    )
    op, boss = kubectl(path), kubectl(cluster.admin)
    op("create", "cm", "by-op")
    assert "by-op" in kubectl(cluster.tenant("guided"))("get", "cm", "-o", "name")
    # Two views by one program at one address: their discovery is kept apart.
    for _ in range(2):
        assert "nodes" in boss("api-resources", "-o", "name", "--cached").split()
        assert "nodes" not in op("api-resources", "-o", "name", "--cached").split()
    assert "doesn't have a resource type" in op.fails("get", "nodes")
    assert op("version").count("v1.") >= 2
    for raw in ("/readyz", "/healthz", "/openapi/v2", "/openapi/v3", "/apis"):
        assert op("get", "--raw", raw)
    op("explain", "deploy.spec")
    http = Http(path)
    assert http("GET", "/api/v1/nodes").code == 404
    with http.watch(MAPS, timeoutSeconds="30") as events:
        op("label", "cm", "by-op", "a=b")
        seen = next(e for e in events if e["object"]["metadata"].get("labels", {}).get("a") == "b")
        assert seen["object"]["metadata"]["tenant"] == "guided"
    # As its tenant, so is whoever comes by another's prefix.
    other = Http(cluster.kubeconfig(cluster.tenant("guided"), "astray", suffix="/t/thrifty"))
    for raw in (MAPS, "/apis", "/api/v1"):
        assert other("GET", raw).code == 403


def test_a_watch_over_all_tenants_goes_on_from_the_revision_of_a_list(
    cluster: Cluster, admin: Http
) -> None:
    """Over several partitions, which have the two tenants."""
    names = ("guided", "thrifty", "zulu", "mike")
    users = {name: Http(cluster.tenant(name)) for name in names}
    assert len({usage(cluster, name)["partition"] for name in names}) > 1
    for name in names:
        users[name].post(MAPS, {"metadata": {"name": "before"}})
    listed = admin.get("/api/v1/tenants/all/configmaps")
    revision = listed["metadata"]["resourceVersion"]
    assert set(names) <= {
        i["metadata"]["tenant"] for i in listed["items"] if i["metadata"]["name"] == "before"
    }
    for name in names:
        users[name].post(MAPS, {"metadata": {"name": "after"}})
    with admin.watch(
        "/api/v1/tenants/all/configmaps", resourceVersion=revision, timeoutSeconds="20"
    ) as events:
        told = []
        while len(told) < len(names):
            event = next(events)
            meta = event["object"]["metadata"]
            assert int(meta["resourceVersion"]) > int(revision)
            told.append((event["type"], meta["tenant"], meta["name"]))
    assert sorted(told) == sorted(("ADDED", name, "after") for name in names)


# Arktos's own kubectl (1.15): what it sends, and what it expects


def test_the_requests_of_arktos_kubectl(cluster: Cluster, admin: Http, guided: Http) -> None:
    agent: dict[str, str | None] = {"User-Agent": "kubectl/v1.15.0 (linux/amd64) kubernetes/arktos"}
    table = {**agent, "Accept": TABLE}
    # Discovery, group by group, of one tenant by a parameter as well.
    for path in ("/api", "/apis", "/api/v1", "/apis/apps/v1"):
        assert admin("GET", path, headers=agent, timeout="32s").code == 200
    resources = admin.get("/api/v1", headers=agent, tenant="guided")["resources"]
    assert "nodes" not in {r["name"] for r in resources}
    pods = next(r for r in resources if r["name"] == "pods")
    assert (pods["namespaced"], pods["tenanted"]) == (True, True)
    # get: lists on the short path; by name with an explicit tenant, `system` when none is set.
    shown = guided.get("/api/v1/namespaces", headers=table, limit="500")
    assert shown["kind"] == "Table"
    assert "Tenant" in [c["name"] for c in shown["columnDefinitions"]]
    admin.get("/api/v1/tenants/system/namespaces/default", headers=agent)
    answer = guided("GET", "/api/v1/tenants/system/namespaces/default", headers=agent)
    assert answer.code == 403
    assert 'in the tenant "system"' in answer.json["message"]
    own = guided.get("/api/v1/namespaces/default", headers=agent)["metadata"]["selfLink"]
    assert own == "/api/v1/tenants/guided/namespaces/default"
    # --tenant, --all-tenants
    admin.get("/api/v1/tenants/guided/namespaces/default/pods", headers=table)
    admin.get("/api/v1/tenants/all/pods", headers=table, limit="500")
    admin.get("/api/v1/tenants/all/namespaces/default/pods", headers=table)
    # create tenant
    body = {
        "kind": "Tenant", "apiVersion": "v1",
        "metadata": {"name": "fresh", "creationTimestamp": None},
        "spec": {"storageClusterId": "0"}, "status": {},
    }  # fmt: skip
    made = admin("POST", "/api/v1/tenants", body, headers=agent)
    assert (made.code, made.json["status"]["phase"]) == (201, "Active")
    again = admin("POST", "/api/v1/tenants", body, headers=agent)
    assert (again.code, again.json["message"]) == (409, 'tenants "fresh" already exists')
    # Created in a tenant: the body names it too.
    maps = "/api/v1/tenants/fresh/namespaces/default/configmaps"
    until(lambda: admin("GET", "/api/v1/tenants/fresh/namespaces/default").code == 200)
    meta = {"name": "c", "tenant": "fresh", "namespace": "default", "creationTimestamp": None}
    assert admin("POST", maps, {"metadata": meta}, headers=agent).code == 201
    # After a 404 it looks for the namespace, and says which of the two is missing.
    gone = "/api/v1/tenants/fresh/namespaces/nowhere"
    assert admin("GET", f"{gone}/pods/p", headers=agent).code == 404
    answer = admin("GET", gone, headers=agent)
    assert answer.json["message"] == 'namespaces "nowhere" not found'
    # In a tenant that is not there.
    nobody = "/api/v1/tenants/nobody/namespaces"
    answer = admin("POST", nobody, {"metadata": {"name": "n"}}, headers=agent)
    assert (answer.code, answer.json["message"]) == (404, 'tenants "nobody" not found')
    # drain: the pods of all tenants on a node, and their evictions one by one.
    guided.post("/api/v1/namespaces/default/pods", {
        "metadata": {"name": "drained"}, "spec": {"containers": [{"name": "c", "image": "i"}]},
    })  # fmt: skip
    on_node = "/api/v1/tenants/guided/namespaces/default/pods/drained"
    node = until(lambda: admin.get(on_node)["spec"].get("nodeName"))
    cordon = {"spec": {"unschedulable": True}}
    patch = {**agent, "Content-Type": "application/strategic-merge-patch+json"}
    assert admin("PATCH", f"/api/v1/nodes/{node}", cordon, headers=patch).code == 200
    found = admin.get(
        "/api/v1/tenants/all/pods", headers=agent, fieldSelector=f"spec.nodeName={node}"
    )
    assert ("guided", "drained") in {
        (p["metadata"]["tenant"], p["metadata"]["name"]) for p in found["items"]
    }
    eviction = {
        "kind": "Eviction", "apiVersion": "policy/v1beta1",
        "metadata": {"name": "drained", "namespace": "default", "creationTimestamp": None},
        "deleteOptions": {"gracePeriodSeconds": 0},
    }  # fmt: skip
    assert admin("POST", f"{on_node}/eviction", eviction, headers=agent).code == 201
    until(lambda: admin("GET", on_node).code == 404)
    back = {"spec": {"unschedulable": None}}
    assert admin("PATCH", f"/api/v1/nodes/{node}", back, headers=patch).code == 200
    cluster.arktos("tenant", "delete", "fresh")


# Outside


OPEN = ("/healthz", "/livez", "/readyz", "/version")
PATHS = (
    "/", "/api", "/api/v1", "/apis", "/apis/apps/v1", "/openapi/v2", "/openapi/v3", "/metrics",
    "/arktos/v1/status", "/arktos/v1/operations", "/arktos/v1/tenants/guided/token", "/logs",
    "/debug/pprof/", "/swagger.json", "/ui", "/configz", "/api/v1/nodes", "/api/v1/tenants",
    "/api/v1/tenants/all/pods", "/api/v1/namespaces/default/pods", "/t/guided/api/v1/pods",
    "/t/guided/version", "/t/guided/healthz", "/servers", "/flavors", "/identity/v3", "/stats",
    "/.well-known/openid-configuration", "/openid/v1/jwks", "/healthz/../api/v1/nodes",
    "/version/../metrics", "/healthz%2f..%2fmetrics", "//metrics", "/%2e/metrics",
    "/apis/authentication.k8s.io/v1/tokenreviews",
    "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
)  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@pytest.fixture(scope="module")
def stranger(cluster: Cluster) -> Http:
    """Who knows where the cluster is, and nothing else."""
    http = Http(cluster.tenant("guided"))
    del http.headers["Authorization"]
    return http


@pytest.mark.parametrize("method", METHODS)
def test_who_shows_no_credential_sees_health_and_version_alone(stranger: Http, method: str) -> None:
    for path in OPEN:
        answer = stranger(method, path)
        if method in ("GET", "HEAD"):
            assert answer.code == 200
            if method == "GET" and path == "/version":
                assert set(answer.json) == {
                    "major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate",
                    "goVersion", "compiler", "platform",
                }  # fmt: skip
            elif method == "GET":
                assert answer.body == b"ok"
        else:
            assert answer.code in (401, 405), (method, path)
    for path in PATHS:
        for options in ({}, {"watch": "1"}, {"token": "x", "access_token": "x"}):
            answer = stranger(method, path, **options)
            assert answer.code in (400, 401, 404, 405), (method, path, answer)
            if answer.code == 404:  # Below an open path, where nothing is.
                assert path.startswith(("/healthz", "/version"))
            assert b"sim-" not in answer.body


def test_credentials_that_are_made_up_are_none(cluster: Cluster, stranger: Http) -> None:
    claims = base64.urlsafe_b64encode(
        b'{"sub":"admin","tenant":"system","groups":["system:masters"],"tenantUid":"x"}'
    ).decode()
    tries: list[dict[str, str | None]] = [
        {"Authorization": "Bearer x"},
        {"Authorization": f"Bearer {claims}.{claims}"},
        {"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."},
        {"Authorization": "Basic YWRtaW46YWRtaW4="},
        {"X-Remote-User": "system:admin", "X-Remote-Group": "system:masters"},
        {"Impersonate-User": "system:admin", "Impersonate-Group": "system:masters"},
        {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Client-Cert": "By=admin"},
        {"Sec-WebSocket-Protocol": f"base64url.bearer.authorization.k8s.io.{claims}"},
    ]
    for headers in tries:
        for path in ("/api/v1/nodes", "/api/v1/namespaces/default/secrets", "/metrics"):
            assert stranger("GET", path, headers=headers).code == 401, headers


def listening() -> dict[str, list[tuple[str, int]]]:
    """inode -> where TCP sockets listen."""
    found: dict[str, list[tuple[str, int]]] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            cells = line.split()
            host, port = cells[1].split(":")
            if cells[3] == "0A":  # LISTEN
                words = [host[i : i + 8] for i in range(0, len(host), 8)]
                raw = b"".join(bytes.fromhex(word)[::-1] for word in words)
                family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
                found.setdefault(cells[9], []).append(
                    (socket.inet_ntop(family, raw), int(port, 16))
                )
    return found


def test_nothing_of_the_cluster_listens_to_other_machines(cluster: Cluster) -> None:
    """Ray's ports too; what is on this machine asks for a credential."""
    sockets, open_ = listening(), set()
    ours = processes.of_cluster(cluster.home)
    assert len(ours) > 5
    for process in ours:
        for link in Path(f"/proc/{process.pid}/fd").glob("*"):
            try:
                target = str(link.readlink())
            except OSError:
                continue
            for where in sockets.get(target.removeprefix("socket:[").rstrip("]"), ()):
                open_.add((*where, processes.command(process.pid)[:60]))
    api = urlsplit(cluster.url).port
    assert api in {port for _, port, _ in open_}
    # Ray's as well: its head is among what was looked at.
    head = json.loads((cluster.home / "state.json").read_text())["ray_address"]
    assert int(head.rpartition(":")[2]) in {port for _, port, _ in open_}
    outside = [each for each in open_ if not _is_loopback(each[0])]
    assert not outside, f"open to other machines: {outside}"
    # Our actors talk over sockets in directories that nobody else may enter.
    for folder in (cluster.home / "pki", cluster.home / "run"):
        if folder.exists():
            assert folder.stat().st_mode & 0o077 == 0
    for secret in (cluster.home / "token.key", cluster.home / "pki" / "ray.token"):
        assert secret.stat().st_mode & 0o077 == 0


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("::1", "::ffff:127.0.0.1")


def test_plain_http_and_old_tls_are_not_spoken(cluster: Cluster) -> None:
    url = urlsplit(cluster.url)
    assert url.hostname is not None
    with socket.create_connection((url.hostname, url.port), 10) as plain:
        plain.sendall(b"GET /api/v1/nodes HTTP/1.1\r\nHost: x\r\n\r\n")
        plain.settimeout(10)
        try:
            said = plain.recv(100)
        except ConnectionError:
            said = b""
        assert b"HTTP/1.1 200" not in said
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((url.hostname, url.port), 10) as raw,
        context.wrap_socket(raw) as spoken,
    ):
        assert spoken.version() in ("TLSv1.2", "TLSv1.3")
