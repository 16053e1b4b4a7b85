"""What the server answers on the wire: codes, media types, headers, pages, revisions.

Expectations are those of a real API server, asked the same (and where ours differs on purpose,
a comment says so).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml
from livekit import Cluster, Http

from arktos_ray.api import scheme

pytestmark = pytest.mark.live

Object = dict[str, Any]
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
PLAIN: dict[str, str | None] = {"Accept": "application/json"}
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PARTIAL = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
PARTIAL_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


def configmap(name: str, **data: str) -> Object:
    return {"metadata": {"name": name}, "data": data}


@pytest.fixture(scope="module")
def http(cluster: Cluster) -> Iterator[Http]:
    """As a tenant with nothing in it but what the tests here make."""
    http = Http(cluster.tenant("protocol"))
    yield http
    for name in ("configmaps", "pods"):
        http("DELETE", f"/api/v1/namespaces/default/{name}")


def status(answer: Any, code: int, reason: str) -> Object:
    """The Status in an answer, after a look at what every Status has."""
    assert answer.code == code, answer
    body: Object = answer.json
    assert (body["kind"], body["apiVersion"], body["status"]) == ("Status", "v1", "Failure")
    assert (body["code"], body["reason"]) == (code, reason)
    assert body["message"]
    return body


def test_bodies_in_every_form(http: Http) -> None:
    made = http("POST", CONFIGMAPS, configmap("json", a="1"))
    assert made.code == 201
    assert made.json["metadata"]["uid"]
    # The Python client sends no Content-Type at all.
    made = http("POST", CONFIGMAPS, configmap("plain"), headers={"Content-Type": None})
    assert made.code == 201
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", **configmap("yaml", a="y")})
    yaml_type: dict[str, str | None] = {"Content-Type": "application/yaml"}
    assert http("POST", CONFIGMAPS, text.encode(), headers=yaml_type).code == 201
    refused = http("POST", CONFIGMAPS, b"x", headers={"Content-Type": "text/plain"})
    body = status(refused, 415, "UnsupportedMediaType")
    assert "accepted media types include: application/json" in body["message"]
    patch = http("PATCH", CONFIGMAPS + "/json", {}, headers={"Content-Type": "application/json"})
    status(patch, 415, "UnsupportedMediaType")
    status(http("POST", CONFIGMAPS, b"{"), 400, "BadRequest")
    status(http("POST", CONFIGMAPS, b"[]"), 400, "BadRequest")
    status(http("POST", CONFIGMAPS, b""), 400, "BadRequest")
    status(http("POST", CONFIGMAPS, {"kind": "Pod", "apiVersion": "v1"}), 400, "BadRequest")
    status(http("POST", CONFIGMAPS, configmap("json")), 409, "AlreadyExists")
    big = {"metadata": {"name": "big"}, "data": {"a": "x" * (4 << 20)}}
    assert http("POST", CONFIGMAPS, big).code == 413
    invalid = status(http("POST", CONFIGMAPS, configmap("No_Name")), 422, "Invalid")
    assert invalid["details"]["causes"][0]["field"] == "metadata.name"
    assert invalid["details"]["kind"] == "ConfigMap"


def test_answers_in_the_form_that_was_asked_for(http: Http) -> None:
    http("POST", CONFIGMAPS, configmap("form", a="1"))
    path = CONFIGMAPS + "/form"
    for accept in (
        "*/*", "application/json, */*;q=0.8", "application/json;q=0.9,text/html;q=0.1", None,
        "application/vnd.kubernetes.protobuf,application/json",
    ):  # fmt: skip
        answer = http("GET", path, headers={"Accept": accept})
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json["data"] == {"a": "1"}
    answer = http("GET", path, headers={"Accept": "application/yaml"})
    assert answer.headers["Content-Type"] == "application/yaml"
    assert yaml.safe_load(answer.body)["data"] == {"a": "1"}
    refused = status(http("GET", path, headers={"Accept": "text/html"}), 406, "NotAcceptable")
    assert "application/json" in refused["message"]

    table = http.get(CONFIGMAPS, headers={"Accept": TABLE})
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert [c["name"] for c in table["columnDefinitions"]][:3] == ["Name", "Data", "Age"]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    assert "data" not in table["rows"][0]["object"]
    whole = http.get(CONFIGMAPS, headers={"Accept": TABLE}, includeObject="Object")
    assert whole["rows"][0]["object"]["kind"] == "ConfigMap"
    bare = http.get(CONFIGMAPS, headers={"Accept": TABLE}, includeObject="None")
    assert "object" not in bare["rows"][0] or bare["rows"][0]["object"] is None
    old = TABLE.replace("v=v1;", "v=v1beta1;")
    assert http.get(path, headers={"Accept": old})["apiVersion"] == "meta.k8s.io/v1beta1"

    partial = http.get(path, headers={"Accept": PARTIAL})
    assert (partial["kind"], partial["apiVersion"]) == ("PartialObjectMetadata", "meta.k8s.io/v1")
    assert "data" not in partial
    listed = http.get(CONFIGMAPS, headers={"Accept": PARTIAL_LIST})
    assert listed["kind"] == "PartialObjectMetadataList"
    assert all("data" not in item for item in listed["items"])

    assert b"\n  " in http("GET", path, headers={"User-Agent": "curl/8"}).body
    assert b"\n  " in http("GET", path, pretty="true").body
    assert b"\n" not in http("GET", path).body


def test_paths_and_verbs_that_are_not_there(http: Http) -> None:
    body = status(http("GET", CONFIGMAPS + "/nobody"), 404, "NotFound")
    assert body["message"] == 'configmaps "nobody" not found'
    assert body["details"] == {"name": "nobody", "kind": "configmaps"}
    body = status(http("GET", "/apis/apps/v1/namespaces/default/deployments/x"), 404, "NotFound")
    assert body["message"] == 'deployments.apps "x" not found'
    assert body["details"] == {"name": "x", "group": "apps", "kind": "deployments"}
    for path in ("/api/v1/nonsense", "/apis/apps/v2/deployments", "/apis/none/v1/x", "/nonsense",
                 CONFIGMAPS + "/json/status", PODS + "/x/nonsense"):  # fmt: skip
        assert http("GET", path).code == 404, path
    for method, path in (
        ("PUT", CONFIGMAPS), ("PATCH", CONFIGMAPS), ("POST", CONFIGMAPS + "/json"),
        ("DELETE", "/api/v1/namespaces"), ("POST", "/api/v1/configmaps"), ("POST", "/version"),
        ("DELETE", "/api/v1/configmaps"),
    ):  # fmt: skip
        answer = http(method, path, {} if method != "DELETE" else None,
                      headers={"Content-Type": "application/json"})  # fmt: skip
        assert answer.code in (404, 405), (method, path, answer)
        assert answer.json["reason"] in ("MethodNotAllowed", "NotFound")
    status(http("PUT", CONFIGMAPS, {}), 405, "MethodNotAllowed")
    for path in ("/version/", "/apis/", "/api/", "/api/v1/", CONFIGMAPS + "/"):
        assert http("GET", path).code == 200, path


def test_who_are_you(cluster: Cluster, http: Http) -> None:
    nobody = Http(cluster.tenant("protocol"))
    for authorization in (None, "Bearer nonsense", "Bearer a.b", "Basic eDp5", "Bearer "):
        answer = nobody("GET", CONFIGMAPS, headers={"Authorization": authorization})
        status(answer, 401, "Unauthorized")
    assert nobody("GET", "/version", headers={"Authorization": None}).code == 200
    assert nobody("GET", "/readyz", headers={"Authorization": None}).body == b"ok"
    body = status(http("GET", "/api/v1/nodes"), 403, "Forbidden")
    assert 'User "admin" cannot list resource "nodes"' in body["message"]
    status(http("GET", "/metrics"), 403, "Forbidden")


def test_field_validation(http: Http) -> None:
    odd = {**configmap("odd"), "foo": 1, "bar": {"x": []}}
    warned = http("POST", CONFIGMAPS, odd, fieldValidation="Warn")
    assert warned.code == 201
    assert '299 - "unknown field \\"foo\\""' in warned.headers.get_all("Warning", [])
    assert "foo" not in warned.json
    strict = http("POST", CONFIGMAPS, odd, fieldValidation="Strict")
    body = status(strict, 400, "BadRequest")
    assert 'strict decoding error: unknown field "foo", unknown field "bar"' in body["message"]
    quiet = http(
        "POST", CONFIGMAPS, {**odd, "metadata": {"name": "odd2"}}, fieldValidation="Ignore"
    )
    assert (quiet.code, quiet.headers.get_all("Warning")) == (201, None)
    twice = b'{"metadata":{"name":"twice"},"data":{"a":"1"},"data":{"a":"2"}}'
    body = status(http("POST", CONFIGMAPS, twice, fieldValidation="Strict"), 400, "BadRequest")
    assert 'duplicate field "data"' in body["message"]
    status(http("POST", CONFIGMAPS, odd, fieldValidation="Sometimes"), 422, "Invalid")
    wrong = status(http("POST", CONFIGMAPS, {**configmap("t"), "data": 7}), 400, "BadRequest")
    assert "data" in wrong["message"]


def test_pages(http: Http) -> None:
    for i in range(7):
        http.post(CONFIGMAPS, {**configmap(f"page-{i}"), "metadata": {
            "name": f"page-{i}", "labels": {"paged": "yes"},
        }})  # fmt: skip
    whole = http.get(CONFIGMAPS)
    first = http.get(CONFIGMAPS, limit=3)
    assert len(first["items"]) == 3
    assert first["metadata"]["remainingItemCount"] == len(whole["items"]) - 3
    # What comes later is not in the later pages: they are of one moment.
    http.post(CONFIGMAPS, configmap("page-late"))
    seen, page = list(first["items"]), first
    while page["metadata"].get("continue"):
        page = http.get(CONFIGMAPS, limit=3, **{"continue": page["metadata"]["continue"]})
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        seen += page["items"]
    names = [item["metadata"]["name"] for item in seen]
    assert names == [item["metadata"]["name"] for item in whole["items"]]
    assert "remainingItemCount" not in page["metadata"]
    chosen = http.get(CONFIGMAPS, limit=2, labelSelector="paged=yes")
    assert "remainingItemCount" not in chosen["metadata"]
    rest = http.get(
        CONFIGMAPS,
        limit=50,
        labelSelector="paged=yes",
        **{"continue": chosen["metadata"]["continue"]},
    )
    assert len(rest["items"]) == 5
    status(http("GET", CONFIGMAPS, **{"continue": "nonsense"}), 400, "BadRequest")
    status(http("GET", CONFIGMAPS, limit="x"), 400, "BadRequest")
    mixed = http("GET", CONFIGMAPS, resourceVersion="5",
                 **{"continue": chosen["metadata"]["continue"]})  # fmt: skip
    status(mixed, 400, "BadRequest")


def test_revisions_of_lists(http: Http) -> None:
    first = http.post(CONFIGMAPS, configmap("then", a="1"))
    then = first["metadata"]["resourceVersion"]
    assert then.isdecimal()
    http("PUT", CONFIGMAPS + "/then", {**first, "data": {"a": "2"}})

    def value(**options: str) -> str:
        items = http.get(CONFIGMAPS, fieldSelector="metadata.name=then", **options)["items"]
        return str(items[0]["data"]["a"])

    assert value() == "2"
    assert value(resourceVersion="0") == "2"
    assert value(resourceVersion=then) == "2"
    assert value(resourceVersion=then, resourceVersionMatch="NotOlderThan") == "2"
    assert value(resourceVersion=then, resourceVersionMatch="Exact") == "1"
    exact = http.get(CONFIGMAPS, resourceVersion=then, resourceVersionMatch="Exact")
    assert exact["metadata"]["resourceVersion"] == then
    for options in (
        {"resourceVersionMatch": "Exact"},
        {"resourceVersionMatch": "NotOlderThan"},
        {"resourceVersion": "0", "resourceVersionMatch": "Exact"},
        {"resourceVersion": then, "resourceVersionMatch": "Sometimes"},
    ):
        status(http("GET", CONFIGMAPS, **options), 422, "Invalid")
    status(http("GET", CONFIGMAPS, resourceVersion="x"), 400, "BadRequest")
    far = status(http("GET", CONFIGMAPS, resourceVersion=str(2**62)), 504, "Timeout")
    assert far["message"].startswith("Too large resource version")
    assert far["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


def test_selectors(http: Http) -> None:
    made = [
        http.post(CONFIGMAPS, {"metadata": {"name": f"sel-{c}", "labels": {"c": c, "sel": "1"}}})
        for c in "abc"
    ]

    def names(**options: str) -> str:
        items = http.get(CONFIGMAPS, **options)["items"]
        return "".join(i["metadata"]["name"][-1] for i in items)

    assert names(labelSelector="sel") == "abc"
    assert names(labelSelector="sel,c!=b") == "ac"
    assert names(labelSelector="c in (a,b),sel=1") == "ab"
    assert names(labelSelector="sel,c notin (a,b)") == "c"
    assert names(labelSelector="sel,!c") == ""
    assert names(fieldSelector="metadata.name=sel-b,metadata.name=sel-b") == "b"
    assert names(labelSelector="sel", fieldSelector="metadata.name!=sel-b") == "ac"
    assert names(labelSelector="sel", fieldSelector="metadata.namespace=default") == "abc"
    # The ranges of hash keys by which controllers share the work.
    keys = sorted(m["metadata"]["hashKey"] for m in made)
    found = names(labelSelector="sel", fieldSelector=f"metadata.hashkey=gt:{keys[0]}")
    assert len(found) == 2
    between = f"metadata.hashkey=gte:{keys[0]},metadata.hashkey=lt:{keys[2]}"
    assert len(names(labelSelector="sel", fieldSelector=between)) == 2
    status(http("GET", CONFIGMAPS, fieldSelector="spec.x=1"), 400, "BadRequest")
    status(http("GET", CONFIGMAPS, labelSelector="a b c"), 400, "BadRequest")
    status(http("GET", CONFIGMAPS, fieldSelector="nonsense"), 400, "BadRequest")


def test_writes_compare_and_swap(http: Http) -> None:
    made = http.post(CONFIGMAPS, configmap("swap", n="0"))
    path = CONFIGMAPS + "/swap"

    def add_one(_: int) -> int:
        """Read, change, write; again when somebody was faster. How often that was."""
        tries = 0
        while True:
            seen = http.get(path)
            seen["data"]["n"] = str(int(seen["data"]["n"]) + 1)
            answer = http("PUT", path, seen)
            if answer.code == 200:
                return tries
            body = status(answer, 409, "Conflict")
            assert "the object has been modified" in body["message"]
            tries += 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_one, range(12)))
    assert http.get(path)["data"]["n"] == "12"
    # Without a revision the last one wins; nothing changed, nothing written.
    now = http("PUT", path, configmap("swap", n="x")).json
    same = http("PUT", path, configmap("swap", n="x")).json
    assert same["metadata"]["resourceVersion"] == now["metadata"]["resourceVersion"]
    status(http("PUT", path, configmap("other")), 400, "BadRequest")
    status(http("PUT", CONFIGMAPS + "/nobody", configmap("nobody")), 404, "NotFound")
    other_uid = {"metadata": {"name": "swap", "uid": "7d3f0f5a-0000-4000-8000-000000000000"}}
    status(http("PUT", path, other_uid), 409, "Conflict")

    def delete(**preconditions: str) -> Any:
        return http("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1",
                                     "preconditions": preconditions})  # fmt: skip

    status(delete(uid="somebody else"), 409, "Conflict")
    status(delete(resourceVersion="1"), 409, "Conflict")
    gone = delete(uid=made["metadata"]["uid"])
    assert gone.code == 200
    assert (gone.json["kind"], gone.json["status"]) == ("Status", "Success")
    assert gone.json["details"]["uid"] == made["metadata"]["uid"]


def test_dry_runs_change_nothing(http: Http) -> None:
    assert http("POST", CONFIGMAPS, configmap("dry"), dryRun="All").code == 201
    assert http("GET", CONFIGMAPS + "/dry").code == 404
    http.post(CONFIGMAPS, configmap("dry", a="1"))
    merge: dict[str, str | None] = {"Content-Type": "application/merge-patch+json"}
    patched = http("PATCH", CONFIGMAPS + "/dry", {"data": {"a": "2"}}, headers=merge, dryRun="All")
    assert patched.json["data"] == {"a": "2"}
    assert http("DELETE", CONFIGMAPS + "/dry", dryRun="All").code == 200
    everything: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]}
    assert http("DELETE", CONFIGMAPS, everything).code == 200
    assert http.get(CONFIGMAPS + "/dry")["data"] == {"a": "1"}
    refused = http("POST", CONFIGMAPS, configmap("dry2"), dryRun="Some")
    assert refused.code in (400, 422)


def test_every_kind_can_be_made_read_changed_and_deleted_in_all_forms(http: Http) -> None:
    """One round of verbs per kind, on the least object that the kind accepts."""
    bodies: dict[str, Object] = {
        "pods": {
            "spec": {"containers": [{"name": "c", "image": "i"}], "nodeSelector": {"no": "x"}},
        },
        "services": {"spec": {"ports": [{"port": 80}]}},
        "podtemplates": {"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}},
        "events": {"involvedObject": {"kind": "Pod", "name": "x", "namespace": "default"}},
        "limitranges": {"spec": {"limits": []}},
        "controllerrevisions.apps": {"revision": 1, "data": {}},
        "endpointslices.discovery.k8s.io": {"addressType": "IPv4", "endpoints": []},
        "rolebindings.rbac.authorization.k8s.io": {
            "roleRef": {"kind": "ClusterRole", "name": "view"},
        },
    }  # fmt: skip
    template = {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "nodeSelector": {"no": "x"}},
    }
    spec = {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    bodies["deployments.apps"] = bodies["replicasets.apps"] = {"spec": spec}
    merge: dict[str, str | None] = {"Content-Type": "application/merge-patch+json"}
    for resource in scheme.RESOURCES:
        if not resource.namespaced or resource.virtual:
            continue
        group = f"/apis/{resource.group}" if resource.group else "/api"
        collection = f"{group}/{resource.version}/namespaces/default/{resource.plural}"
        path = collection + "/round"
        body = {"metadata": {"name": "round"}, **bodies.get(resource.gvr, {})}
        made = http.post(collection, body)
        assert (made["kind"], made["apiVersion"]) == (resource.kind, resource.api_version)
        assert made["metadata"]["tenant"] == "protocol"
        got = http.get(path)
        assert got["metadata"]["uid"] == made["metadata"]["uid"]
        changed = http("PATCH", path, {"metadata": {"labels": {"x": "y"}}}, headers=merge).json
        assert int(changed["metadata"]["resourceVersion"]) > int(
            made["metadata"]["resourceVersion"]
        )
        # Its controller may have written its status meanwhile.
        put = http("PUT", path, {**changed, "metadata": {
            **changed["metadata"], "resourceVersion": "",
        }})  # fmt: skip
        assert put.code == 200, (resource.gvr, put)
        assert put.json["metadata"]["labels"] == {"x": "y"}
        listed = http.get(collection, labelSelector="x=y")
        assert listed["kind"] == resource.kind + "List"
        assert [i["metadata"]["name"] for i in listed["items"]] == ["round"]
        table = http.get(collection, headers={"Accept": TABLE}, labelSelector="x=y")
        assert len(table["rows"]) == 1
        assert len(table["rows"][0]["cells"]) == len(table["columnDefinitions"])
        for name in resource.subresources:
            if "get" in resource.subresources[name] and name != "log":
                assert http("GET", f"{path}/{name}").code == 200, (resource.gvr, name)
        assert http("DELETE", collection, labelSelector="x=y").code == 200, resource.gvr
        assert http("GET", path).code == 404, resource.gvr


def test_large_lists_are_compressed_for_whoever_is_far_away(http: Http) -> None:
    """On loopback they are not, which is allowed: only the header must be true."""
    answer = http("GET", CONFIGMAPS, headers={"Accept-Encoding": "gzip"})
    if answer.headers.get("Content-Encoding") == "gzip":
        assert gzip.decompress(answer.body)


def test_openapi(http: Http) -> None:
    index = http.get("/openapi/v3")["paths"]
    url = index["apis/apps/v1"]["serverRelativeURL"]
    document = http("GET", url)
    assert document.headers["ETag"]
    assert "io.k8s.api.apps.v1.Deployment" in document.json["components"]["schemas"]
    again = http("GET", url, headers={"If-None-Match": document.headers["ETag"]})
    assert (again.code, again.body) == (304, b"")
    v2 = http.get("/openapi/v2")
    assert v2["swagger"] == "2.0"
    assert "io.k8s.api.core.v1.Pod" in v2["definitions"]
    accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    protobuf = http("GET", "/openapi/v2", headers={"Accept": accept})
    # With the @ of the request kubectl could not read it.
    assert protobuf.headers["Content-Type"] == accept.replace("@", ".")
    for group_version in index:
        assert http("GET", "/openapi/v3/" + group_version).code == 200
