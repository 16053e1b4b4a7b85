"""Tenants: equal names side by side, and no way across, whatever the kind, the verb and the path.

The walk goes through the table of kinds, so a new kind is held to the same from its first day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from livekit import Cluster, Http, Program, until

from arktos_ray.api import networks, scheme
from arktos_ray.api.scheme import Resource

pytestmark = pytest.mark.live

Object = dict[str, Any]
Kubectl = Callable[..., Program]
DELETED_WITHIN_S = 60.0
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"

SPECS: dict[str, Object] = {
    "pods": {"spec": {"containers": [{"name": "c", "image": "i"}], "nodeSelector": {"no": "x"}}},
    "services": {"spec": {"ports": [{"port": 80}]}},
    "podtemplates": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
    "events": {"involvedObject": {"kind": "Pod", "name": "x"}},
    "limitranges": {"spec": {"limits": []}},
    "controllerrevisions.apps": {"revision": 1, "data": {}},
    "endpointslices.discovery.k8s.io": {"addressType": "IPv4", "endpoints": []},
    "rolebindings.rbac.authorization.k8s.io": {"roleRef": {"kind": "ClusterRole", "name": "view"}},
}
_REPLICATED = {
    "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        },
    }
}
SPECS["deployments.apps"] = SPECS["replicasets.apps"] = _REPLICATED

NAMESPACED = [r for r in scheme.RESOURCES if r.namespaced and not r.virtual]
CLUSTER = [r for r in scheme.RESOURCES if not r.tenanted and not r.virtual]


def base(resource: Resource) -> str:
    group = f"/apis/{resource.group}" if resource.group else "/api"
    return f"{group}/{resource.version}"


def collection(resource: Resource, tenant: str = "", namespace: str = "default") -> str:
    path = base(resource) + (f"/tenants/{tenant}" if tenant and resource.tenanted else "")
    if resource.namespaced and namespace:
        path += f"/namespaces/{namespace}"
    return f"{path}/{resource.plural}"


def body_of(resource: Resource, name: str = "same") -> Object:
    return {"metadata": {"name": name}, **SPECS.get(resource.gvr, {})}


@pytest.fixture(scope="module")
def admin(cluster: Cluster) -> Http:
    return Http(cluster.admin)


@pytest.fixture(scope="module")
def left(cluster: Cluster) -> Http:
    return Http(cluster.tenant("left"))


@pytest.fixture(scope="module")
def right(cluster: Cluster) -> Http:
    return Http(cluster.tenant("right"))


@pytest.fixture(scope="module")
def _filled(left: Http, right: Http) -> Iterator[None]:
    """The same object of every kind in both tenants."""
    for resource in NAMESPACED:
        for http in (left, right):
            http.post(collection(resource), body_of(resource))
    yield
    for resource in NAMESPACED:
        for http in (left, right):
            http("DELETE", collection(resource))


# The two of them


@pytest.mark.usefixtures("_filled")
@pytest.mark.parametrize("resource", NAMESPACED, ids=lambda r: r.gvr)
def test_equal_names_side_by_side(resource: Resource, left: Http, right: Http, admin: Http) -> None:
    mine, other = (http.get(collection(resource) + "/same") for http in (left, right))
    assert mine["metadata"]["tenant"] == "left"
    assert other["metadata"]["tenant"] == "right"
    assert mine["metadata"]["uid"] != other["metadata"]["uid"]
    # Short path, explicit path and prefix are one and the same.
    long, prefix = collection(resource, "left") + "/same", "/t/left" + collection(resource)
    changing = resource.gvr in ("pods", "deployments.apps", "replicasets.apps", "endpoints")
    for http, path in ((left, long), (admin, long), (left, prefix + "/same"),
                       (admin, prefix + "/same")):  # fmt: skip
        found = http.get(path)
        assert found["metadata"]["uid"] == mine["metadata"]["uid"]
        if not changing:
            assert found == mine
    # Nobody sees more than is theirs; `all` is the administrator's.
    for namespace in ("default", ""):
        items = left.get(collection(resource, namespace=namespace))["items"]
        assert {i["metadata"]["tenant"] for i in items} == {"left"}
    for namespace in ("default", ""):
        items = admin.get(collection(resource, "all", namespace))["items"]
        assert {"left", "right"} <= {i["metadata"]["tenant"] for i in items}
    for path in (collection(resource, "all"), collection(resource, "all", "")):
        assert left("GET", path).code == 403
    for method, code in (("GET", 400), ("DELETE", 400)):
        answer = admin(method, collection(resource, "all") + "/same")
        assert answer.code in (code, 404, 405), answer


@pytest.mark.usefixtures("_filled")
@pytest.mark.parametrize("resource", scheme.RESOURCES, ids=lambda r: r.gvr)
def test_no_verb_reaches_another_tenant(resource: Resource, left: Http, right: Http) -> None:
    """Refused in the same words whether or not there is such a tenant, namespace or object."""

    def tries(tenant: str, namespace: str, name: str) -> list[tuple[int, Object]]:
        answers = []
        where = collection(resource, tenant, namespace)
        requests: list[tuple[str, str, Object | None, str, dict[str, str]]] = [
            ("GET", where, None, "", {}),
            ("GET", where, None, "", {"watch": "1"}),
            ("POST", where, body_of(resource, name), "application/json", {}),
            ("DELETE", where, None, "", {}),
            ("GET", f"{where}/{name}", None, "", {}),
            ("PUT", f"{where}/{name}", body_of(resource, name), "application/json", {}),
            ("PATCH", f"{where}/{name}", {}, MERGE, {}),
            ("PATCH", f"{where}/{name}", body_of(resource, name), APPLY, {"fieldManager": "x"}),
            ("DELETE", f"{where}/{name}", None, "", {}),
        ]
        for subresource, verbs in resource.subresources.items():
            path = f"{where}/{name}/{subresource}"
            methods = {"get": "GET", "update": "PUT", "create": "POST", "patch": "PATCH"}
            for verb in verbs:
                content = MERGE if verb == "patch" else "application/json"
                requests.append((methods[verb], path, {} if verb != "get" else None, content, {}))
        for prefix in ("", "/t/" + tenant if resource.tenanted else ""):
            for method, path, body, content, options in requests:
                plain = path.replace(f"/tenants/{tenant}/", "/") if prefix else path
                headers: dict[str, str | None] = {"Content-Type": content or None}
                answer = left(method, prefix + plain, body, headers=headers, **options)
                answers.append((answer.code, answer.json))
        return answers

    there = tries("right", "default", "same")
    absent = tries("right", "default", "nobody")
    nowhere = tries("nowhere", "nothing", "nobody")
    system = tries("system", "default", "same")
    for answers in (there, absent, nowhere, system):
        for code, answer in answers:
            assert (code, answer["reason"]) == (403, "Forbidden"), answer
            assert 'User "admin" cannot' in answer["message"]
    if resource.tenanted:

        def words(answers: list[tuple[int, Object]], **names: str) -> str:
            text = json.dumps(answers)
            for name, placeholder in names.items():
                text = text.replace(f'"{name}\\"', f'"{placeholder}\\"')
                text = text.replace(f'"{name}"', f'"{placeholder}"')
            return text

        assert words(there, same="NAME") == words(absent, nobody="NAME")
        assert "right" not in words(nowhere)
        if not resource.virtual:
            still = right.get(collection(resource) + ("/same" if resource.namespaced else ""))
            assert "deletionTimestamp" not in still.get("metadata", {})


def test_a_body_cannot_say_another_tenant_than_the_path(left: Http, admin: Http) -> None:
    body = {"metadata": {"name": "x", "tenant": "right"}}
    answer = left("POST", "/api/v1/namespaces/default/configmaps", body)
    assert (answer.code, answer.json["message"]) == (
        400, "the tenant of the provided object does not match the tenant sent on the request",
    )  # fmt: skip
    answer = admin("POST", "/api/v1/tenants/left/namespaces/default/configmaps", body)
    assert answer.code == 400


def test_names_that_could_widen_a_range(left: Http, admin: Http) -> None:
    for name in ("..", "%2e%2e", "a%2fb", "left%2f", "%00", ".", "left%2f%2f"):
        for path in (
            f"/api/v1/tenants/{name}/configmaps",
            f"/api/v1/tenants/left/namespaces/{name}/configmaps",
            f"/api/v1/namespaces/default/configmaps/{name}",
            f"/t/{name}/api/v1/configmaps",
        ):
            for http in (left, admin):
                assert http("GET", path).code in (400, 403, 404), path
    assert left("GET", "/api/v1/tenants/left//configmaps").code in (400, 404)
    assert admin("GET", "/api/v1/tenants//configmaps").code in (400, 404)


def test_discovery_is_of_the_tenant(left: Http, admin: Http) -> None:
    def kinds(http: Http, prefix: str = "") -> set[str]:
        found = set()
        for path in {*map(base, scheme.RESOURCES), f"/apis/{networks.GROUP}/v1"}:
            for served in http.get(prefix + path)["resources"]:
                if "/" not in served["name"]:
                    found.add(served["kind"])
        return found

    def aggregated(http: Http, prefix: str = "") -> set[str]:
        found = set()
        accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        for path in ("/api", "/apis"):
            for group in http.get(prefix + path, headers={"Accept": accept})["items"]:
                for version in group["versions"]:
                    found |= {r["responseKind"]["kind"] for r in version["resources"]}
        return found

    # Networks are a kind by definition, which everybody has.
    everything = {r.kind for r in scheme.RESOURCES} | {"Network"}
    tenants = {r.kind for r in scheme.RESOURCES if r.tenanted} | {"Network"}
    for seen in (kinds, aggregated):
        assert seen(left) == tenants
        assert seen(admin) == everything
        assert seen(admin, "/t/left") == tenants
        assert seen(left, "/t/left") == tenants
    assert left("GET", "/t/right/api/v1").code == 403


def test_kubectl_by_every_way_into_a_tenant(cluster: Cluster, kubectl: Kubectl) -> None:
    """The short path, and the prefix in the kubeconfig, which works for the administrator too."""
    tenant = cluster.tenant("left")
    ways = {
        "short": tenant,
        "prefixed": cluster.kubeconfig(tenant, "left-prefixed", suffix="/t/left"),
        "by-admin": cluster.kubeconfig(cluster.admin, "left-by-admin", suffix="/t/left"),
    }
    programs = {name: kubectl(path) for name, path in ways.items()}
    for name, k in programs.items():
        k("create", "cm", name)
        k("annotate", "cm", name, "by=" + name)
    for k in programs.values():
        found = set(k("get", "cm", "-o", "jsonpath={.items[*].metadata.name}").split())
        assert set(programs) <= found
        assert "nodes" not in k("api-resources", "-o", "name").split()
        # A resource that discovery hides cannot even be named.
        assert "doesn't have a resource type" in k.fails("get", "nodes")
    admin = kubectl(cluster.admin)
    raw = json.loads(admin("get", "--raw", "/api/v1/tenants/left/namespaces/default/configmaps"))
    assert set(programs) <= {i["metadata"]["name"] for i in raw["items"]}
    programs["short"]("delete", "cm", *programs)
    other = cluster.kubeconfig(tenant, "left-to-right", suffix="/t/right")
    assert "orbidden" in kubectl(other).fails("get", "cm")


def test_two_tenants_deploy_the_same_at_once(cluster: Cluster, kubectl: Kubectl) -> None:
    programs = [kubectl(cluster.tenant(name)) for name in ("left", "right")]

    def deploy(k: Program) -> Object:
        k("create", "ns", "shop")
        k("-n", "shop", "create", "deploy", "web", "--image=nginx", "--replicas=3")
        k("-n", "shop", "expose", "deploy/web", "--port=80")
        k("-n", "shop", "rollout", "status", "deploy/web", "--timeout=30s")
        addresses = "jsonpath={.subsets[*].addresses[*].ip}"
        until(lambda: len(k("-n", "shop", "get", "ep", "web", "-o", addresses).split()) == 3)
        pods = k.json("-n", "shop", "get", "pods")["items"]
        return {
            "pods": {p["metadata"]["uid"] for p in pods},
            "endpoints": set(k("-n", "shop", "get", "ep", "web", "-o", addresses).split()),
            "own": {p["status"]["podIP"] for p in pods},
        }

    with ThreadPoolExecutor(2) as pool:
        mine, other = pool.map(deploy, programs)
    assert len(mine["pods"] | other["pods"]) == 6
    for one in (mine, other):
        assert one["endpoints"] == one["own"]
    # What one does to its own is nothing to the other; and what is lost comes back.
    k, untouched = programs
    pod = k("-n", "shop", "get", "pods", "-o", "name").split()[0]
    k("-n", "shop", "delete", pod, "--now")
    k("-n", "shop", "delete", "rs", "--all", "--cascade=background")
    k("-n", "shop", "wait", "deploy/web", "--for=jsonpath={.status.readyReplicas}=3",
      "--timeout=30s")  # fmt: skip
    k("delete", "ns", "shop", "--timeout=60s")
    assert k("get", "all", "-n", "shop", "-o", "name") == ""
    uids = untouched("-n", "shop", "get", "pods", "-o", "jsonpath={.items[*].metadata.uid}")
    assert set(uids.split()) == other["pods"]
    untouched("-n", "shop", "delete", "svc", "web")
    until(lambda: not untouched("-n", "shop", "get", "ep", "-o", "name"))
    untouched("delete", "ns", "shop", "--timeout=60s")


# The life of a tenant


def test_the_system_tenant_is_for_ever(admin: Http) -> None:
    body = {"metadata": {"name": "system"}, "spec": {"storageClusterId": "0"}}
    answer = admin("POST", "/api/v1/tenants", body)
    assert (answer.code, answer.json["reason"]) == (409, "AlreadyExists")
    answer = admin("DELETE", "/api/v1/tenants/system")
    assert answer.code == 403
    assert answer.json["message"] == (
        'tenants "system" is forbidden: this tenant may not be deleted'
    )
    assert admin.get("/api/v1/tenants/system")["status"]["phase"] == "Active"


def test_a_tenant_from_its_first_moment_to_its_last(
    cluster: Cluster, admin: Http, kubectl: Kubectl
) -> None:
    user = Http(cluster.tenant("mayfly"))
    made = admin.get("/api/v1/tenants/mayfly")
    assert made["status"]["phase"] == "Active"
    assert made["spec"]["finalizers"] == ["arktos"]
    names = {"default", "kube-system", "kube-public"}

    def namespaces() -> set[str]:
        return {
            n["metadata"]["name"]
            for n in user.get("/api/v1/namespaces")["items"]
            if n["status"]["phase"] == "Active"
        }

    until(lambda: namespaces() == names)
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    until(lambda: [a["metadata"]["name"] for a in user.get(accounts)["items"]] == ["default"])
    user("DELETE", accounts + "/default")
    until(lambda: user("GET", accounts + "/default").code == 200, what="the account comes back")
    for name in names:
        answer = user("DELETE", f"/api/v1/namespaces/{name}")
        assert answer.code == 403
        assert answer.json["message"] == (
            f'namespaces "mayfly/{name}" is forbidden: this namespace may not be deleted'
        )
    assert admin("POST", "/api/v1/tenants", body_of_tenant("mayfly")).code == 409
    assert admin("POST", "/api/v1/tenants", body_of_tenant("No_Tenant")).code == 422
    assert admin("POST", "/api/v1/tenants", body_of_tenant("all")).code in (403, 409, 422)

    k = kubectl(cluster.tenant("mayfly"))
    k("create", "deploy", "web", "--image=nginx", "--replicas=2")
    k("rollout", "status", "deploy/web", "--timeout=30s")
    user.post("/api/v1/namespaces", {"metadata": {"name": "more"}})
    for resource in NAMESPACED:
        user.post(collection(resource, namespace="more"), body_of(resource))
    held = {"metadata": {"name": "held", "finalizers": ["example.org/hold"]}}
    user.post("/api/v1/namespaces/more/configmaps", held)

    gone = admin("DELETE", "/api/v1/tenants/mayfly")
    assert gone.code == 200
    assert gone.json["status"]["phase"] == "Terminating"
    assert admin("DELETE", "/api/v1/tenants/mayfly").code in (200, 409)
    refused = admin("POST", "/api/v1/tenants/mayfly/namespaces/default/configmaps",
                    {"metadata": {"name": "late"}})  # fmt: skip
    assert refused.code in (403, 404)
    # Somebody still holds one object, so the tenant waits for that.
    path = "/api/v1/tenants/mayfly/namespaces/more/configmaps/held"
    until(lambda: "deletionTimestamp" in admin.get(path)["metadata"], DELETED_WITHIN_S)
    assert admin.get("/api/v1/tenants/mayfly")["status"]["phase"] == "Terminating"
    admin("PATCH", path, {"metadata": {"finalizers": None}}, headers={"Content-Type": MERGE})
    until(lambda: admin("GET", "/api/v1/tenants/mayfly").code == 404, DELETED_WITHIN_S,
          "the tenant is gone")  # fmt: skip
    assert user("GET", "/api/v1/namespaces").code == 401
    for resource in scheme.RESOURCES:
        if resource.tenanted and not resource.virtual:
            items = admin.get(collection(resource, "all", ""))["items"]
            assert not [i for i in items if i["metadata"].get("tenant") == "mayfly"], resource.gvr
    # Its name may be used again; the old credential does not come back to life with it.
    assert admin("POST", "/api/v1/tenants", body_of_tenant("mayfly")).code == 201
    until(lambda: len(admin.get("/api/v1/tenants/mayfly/namespaces")["items"]) == 3)
    found = admin.get("/api/v1/tenants/mayfly/configmaps")["items"]
    assert {item["metadata"]["name"] for item in found} <= {"kube-root-ca.crt"}
    assert user("GET", "/api/v1/namespaces").code == 401
    admin("DELETE", "/api/v1/tenants/mayfly")


def body_of_tenant(name: str) -> Object:
    return {"metadata": {"name": name}, "spec": {"storageClusterId": "0"}}


def test_there_is_no_place_in_a_tenant_that_is_not_there(admin: Http, left: Http) -> None:
    for path in ("/api/v1/tenants/nobody/namespaces",
                 "/api/v1/tenants/nobody/namespaces/default/configmaps"):  # fmt: skip
        answer = admin("POST", path, {"metadata": {"name": "x"}})
        assert (answer.code, answer.json["message"]) == (404, 'tenants "nobody" not found')
    answer = left("POST", "/api/v1/namespaces/nothing/configmaps", {"metadata": {"name": "x"}})
    assert (answer.code, answer.json["message"]) == (404, 'namespaces "nothing" not found')
    # Lists of nothing are empty, not an error.
    assert left.get("/api/v1/namespaces/nothing/configmaps")["items"] == []


def test_namespaces_end_with_all_that_is_in_them(left: Http, admin: Http) -> None:
    left.post("/api/v1/namespaces", {"metadata": {"name": "full"}})
    for resource in NAMESPACED:
        left.post(collection(resource, namespace="full"), body_of(resource))
    going = left("DELETE", "/api/v1/namespaces/full")
    assert going.json["status"]["phase"] == "Terminating"
    until(lambda: left("GET", "/api/v1/namespaces/full").code == 404, DELETED_WITHIN_S)
    for resource in NAMESPACED:
        assert left.get(collection(resource, namespace="full"))["items"] == [], resource.gvr
    system = {n["metadata"]["name"] for n in admin.get("/api/v1/namespaces")["items"]}
    assert "full" not in system
    tenants = {n["metadata"]["tenant"] for n in admin.get("/api/v1/namespaces")["items"]}
    assert tenants == {"system"}
    every = {n["metadata"]["tenant"] for n in admin.get("/api/v1/tenants/all/namespaces")["items"]}
    assert {"system", "left", "right"} <= every


@pytest.mark.parametrize("resource", CLUSTER, ids=lambda r: r.gvr)
def test_what_is_of_the_cluster_belongs_to_no_tenant(
    resource: Resource, admin: Http, left: Http
) -> None:
    assert admin("GET", collection(resource)).code == 200
    assert left("GET", collection(resource)).code == 403
    assert admin("GET", base(resource) + "/tenants/left/" + resource.plural).code in (400, 404)
    for item in admin.get(collection(resource))["items"]:
        assert "tenant" not in item["metadata"]
        assert "namespace" not in item["metadata"]
