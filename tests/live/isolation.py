"""What another tenant could send: requests in pairs, one at what is there, one at what is not.

Not a test. Pure: a World and a seed give the same requests for ever. Both requests of a pair differ
in names only, so their answers may differ in these names only; otherwise somebody who sends both
learns that something exists.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from urllib.parse import quote

from arktos_ray.api.scheme import Resource


class Place(NamedTuple):
    """Where something is, or is not."""

    tenant: str
    namespace: str
    name: str
    uid: str
    token: str  # a continue token of a list there
    revision: str
    bearer: str  # the token of a service account there
    group: str  # of a kind that is defined there
    plural: str


@dataclass(frozen=True)
class World:
    own: str  # the tenant of who sends
    there: Place
    absent: Place
    resources: Sequence[Resource]


@dataclass(frozen=True)
class Request:
    method: str
    target: str  # as it goes over the wire
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Pair(NamedTuple):
    there: Request
    absent: Request
    foreign: bool  # plainly of another tenant: never a success


Maker = Callable[[Place], Request]
_METHODS = ("GET", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "get", "PROPFIND")
_PATCHES = (
    "application/merge-patch+json", "application/json-patch+json",
    "application/strategic-merge-patch+json", "application/apply-patch+yaml", "application/json",
    "application/vnd.kubernetes.protobuf", "text/plain",
)  # fmt: skip
_ACCEPTS = (
    "application/json", "application/json;as=Table;v=v1;g=meta.k8s.io", "*/*", "application/yaml",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    "application/vnd.kubernetes.protobuf", "text/html",
)  # fmt: skip
_SUBRESOURCES = (
    "status", "scale", "proxy/x", "exec", "attach", "portforward", "log", "token", "approval",
    "binding", "eviction", "finalize", "resize", "ephemeralcontainers",
)  # fmt: skip
# What is put before, behind or instead of a segment, to mean another one than is checked.
_SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda s: "%2e%2e/" + s,
    lambda s: "../" + s,
    lambda s: "..%2f" + s,
    lambda s: "./" + s,
    lambda s: "%2e/" + s,
    lambda s: s + "%2f",
    lambda s: s + "%00",
    lambda s: s + "/",
    lambda s: "/" + s,
    lambda s: s.upper(),
    lambda s: s.capitalize(),
    lambda s: "".join(f"%{ord(c):02x}" for c in s),
    lambda s: f"%{ord(s[0]):02X}" + s[1:] if s else s,
    lambda s: "%25" + s,
    lambda s: s + ";x=1",
    lambda s: s + "%20",
    lambda s: "%09" + s,
    lambda s: s + "%ff",
    lambda s: s + "\\",
    lambda s: "%5c" + s,
    lambda s: s + ".",
    lambda s: s + "%0a",
    lambda s: s + "%c0%af",
    lambda s: s + "#x",
    lambda s: s + "%3fwatch=1",
    lambda s: quote(quote(s + "/x", safe=""), safe=""),
    lambda s: s * 40,
    lambda s: "",
    lambda s: "all",
    lambda s: "*",
)


def pairs(world: World, seed: int) -> Iterator[Pair]:
    """Without end."""
    rng = random.Random(seed)
    while True:
        make, foreign = _one(world, rng)
        yield Pair(make(world.there), make(world.absent), foreign)


def _one(world: World, rng: random.Random) -> tuple[Maker, bool]:
    resource = rng.choice(world.resources)
    kind = rng.random()
    if kind < 0.35:
        return _plain(world, resource, rng), True
    if kind < 0.65:
        return _misspelt(world, resource, rng), False
    if kind < 0.85:
        return _own(world, resource, rng), False
    if kind < 0.9:
        return _asking(rng), False
    return _pages(rng), False


def _group(resource: Resource) -> str:
    return f"/apis/{resource.group}/{resource.version}" if resource.group else "/api/v1"


def _plain(world: World, resource: Resource, rng: random.Random) -> Maker:
    """Forms of the specification, of another tenant."""
    path = _path(world, resource, rng)
    while not any(word in path for word in ("{tenant}", "/all/")):
        path = _path(world, resource, rng)
    return _request(path, resource, rng)


def _path(world: World, resource: Resource, rng: random.Random) -> str:
    group = _group(resource)
    prefix = rng.choice(("", "", "/t/{tenant}", f"/t/{world.own}"))
    tenant = "" if prefix and rng.random() < 0.5 else rng.choice(
        ("/tenants/{tenant}", "/tenants/{tenant}", "/tenants/all", f"/tenants/{world.own}", "")
    )  # fmt: skip
    watch = rng.choice(("", "", "", "/watch"))
    namespace = "/namespaces/{namespace}" if resource.namespaced and rng.random() < 0.8 else ""
    path = f"{prefix}{group}{watch}{tenant}{namespace}/{resource.plural}"
    if rng.random() < 0.7:
        path += "/{name}"
        known = [*resource.subresources, *_SUBRESOURCES]
        if rng.random() < 0.4:
            path += "/" + rng.choice(known)
    return path


def _misspelt(world: World, resource: Resource, rng: random.Random) -> Maker:
    segments = _path(world, resource, rng).split("/")[1:]
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(segments))
        how = rng.choice(_SPELLINGS)
        # Names are put in first: their spelling is what is tried.
        segments[at] = "\0" + str(_SPELLINGS.index(how)) + "\0" + segments[at]
    if rng.random() < 0.1:
        segments.insert(rng.randrange(len(segments)), rng.choice(("tenants", "{tenant}", "..")))
    made = _request("/" + "/".join(segments), resource, rng)

    def spelt(place: Place) -> Request:
        request = made(place)
        path, mark, query = request.target.partition("?")
        done = [_spell(segment) for segment in path.split("/")]
        return replace(request, target="/".join(done) + mark + query)

    return spelt


def _spell(segment: str) -> str:
    while segment.startswith("\0"):
        _, number, segment = segment.split("\0", 2)
        segment = _SPELLINGS[int(number)](_spell(segment))
    return segment


def _own(world: World, resource: Resource, rng: random.Random) -> Maker:
    """In the sender's own space, with something of the other's in it."""
    tenant = rng.choice(("", "", f"/tenants/{world.own}"))
    place = f"{_group(resource)}{tenant}"
    if resource.namespaced:
        place += "/namespaces/default"
    path = f"{place}/{resource.plural}"
    if rng.random() < 0.35:
        return _body(path, resource, rng)
    options = rng.choice((
        "continue={token}", "continue={token}&limit=1", "limit=1&continue={revision}",
        "resourceVersion={revision}", "resourceVersion={revision}&resourceVersionMatch=Exact",
        "resourceVersion={revision}&resourceVersionMatch=NotOlderThan",
        "fieldSelector=metadata.name%3D{name}", "fieldSelector=metadata.namespace%3D{namespace}",
        "fieldSelector=metadata.tenant%3D{tenant}", "labelSelector=of%3D{tenant}",
        "labelSelector=of+in+({tenant},x)", "fieldSelector=involvedObject.uid%3D{uid}",
        "fieldSelector=involvedObject.tenant%3D{tenant}", "fieldSelector=spec.nodeName%3D{name}",
        "tenant={tenant}", "tenant=all", "namespace={namespace}", "allowPartialWatch=true",
        "fieldSelector=metadata.ownerReferences.hashkey.Pod%3D{revision}",
        "_table={tenant}", "advance=1&resourceVersion={revision}", "moves=1", "topology=999",
        "fieldSelector=metadata.hashkey%3E0%3Bmetadata.name%3D{name}",
    ))  # fmt: skip
    if rng.random() < 0.1:
        options += "&watch=1&timeoutSeconds=1"
    headers = {"Accept": rng.choice(_ACCEPTS), **_pretence(rng)}

    def make(p: Place) -> Request:
        given = {h: v.format(**p._asdict()) for h, v in headers.items()}
        return Request("GET", path + "?" + options.format(**p._asdict()), b"", given)

    return make


def _body(path: str, resource: Resource, rng: random.Random) -> Maker:
    owner = rng.random() < 0.5
    says = rng.random() < 0.3
    number = rng.randrange(1 << 40)

    def make(place: Place) -> Request:
        meta: dict[str, object] = {"generateName": f"own-{number:x}-"}
        if owner:
            meta["ownerReferences"] = [{
                "apiVersion": "v1", "kind": "ConfigMap", "name": place.name, "uid": place.uid,
                "controller": True, "blockOwnerDeletion": True,
            }]  # fmt: skip
        if says:
            meta["tenant"] = place.tenant
        meta["uid"] = place.uid
        meta["labels"] = {"of": place.tenant}
        body = {
            "metadata": meta, "involvedObject": {"kind": "Pod", "name": place.name,
            "namespace": place.namespace, "uid": place.uid, "tenant": place.tenant},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                        "name": place.name},
            "spec": {"nodeName": place.name, "serviceAccountName": place.name,
                     "containers": [{"name": "c", "image": "i", "envFrom": [
                         {"secretRef": {"name": place.name}}]}]},
        }  # fmt: skip
        return Request(
            "POST", path + "?dryRun=All", json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip

    return make


# Paths of the sender's own, and what is asked or made there with names of the other's.
_QUESTIONS: tuple[tuple[str, Callable[[Place], dict[str, object]]], ...] = (
    ("/apis/authentication.k8s.io/v1/tokenreviews", lambda p: {"spec": {"token": p.bearer}}),
    ("/apis/authentication.k8s.io/v1beta1/tokenreviews", lambda p: {
        "spec": {"token": p.bearer, "audiences": [p.name]}}),
    ("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", lambda p: {"spec": {
        "resourceAttributes": {"verb": "get", "resource": p.plural, "group": p.group,
                               "namespace": p.namespace, "name": p.name, "tenant": p.tenant}}}),
    ("/apis/authorization.k8s.io/v1/subjectaccessreviews", lambda p: {"spec": {
        "user": f"system:serviceaccount:{p.namespace}:{p.name}", "uid": p.uid,
        "resourceAttributes": {"verb": "*", "resource": "*", "tenant": p.tenant}}}),
    ("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", lambda p: {"spec": {
        "namespace": p.namespace}}),
    ("/api/v1/namespaces/default/serviceaccounts/default/token", lambda p: {"spec": {
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": p.name, "uid": p.uid}}}),
    ("/api/v1/namespaces/default/serviceaccounts/{name}/token", lambda p: {"spec": {
        "audiences": [p.tenant]}}),
    ("/api/v1/namespaces/{namespace}/serviceaccounts/default/token", lambda p: {}),
    ("/apis/certificates.k8s.io/v1/certificatesigningrequests/{name}/approval", lambda p: {}),
    ("/apis/{group}/v1/namespaces/default/{plural}", lambda p: {"metadata": {"name": p.name}}),
    ("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", lambda p: {
        "metadata": {"generateName": "w-"}, "webhooks": [{
            "name": "a.example.org", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "rules": [{"operations": ["*"], "apiGroups": [p.group], "apiVersions": ["*"],
                       "resources": [p.plural]}],
            "clientConfig": {"service": {"namespace": p.namespace, "name": p.name}}}]}),
    ("/apis/rbac.authorization.k8s.io/v1beta1/clusterrolebindings", lambda p: {
        "metadata": {"generateName": "b-"}, "subjects": [{
            "kind": "ServiceAccount", "namespace": p.namespace, "name": p.name}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                    "name": p.name}}),
)  # fmt: skip


def _asking(rng: random.Random) -> Maker:
    path, body = rng.choice(_QUESTIONS)
    headers = {"Content-Type": "application/json", **_pretence(rng)}

    def make(place: Place) -> Request:
        names = place._asdict()
        given = {h: v.format(**names) for h, v in headers.items()}
        target = path.format(**names) + "?dryRun=All"
        return Request("POST", target, json.dumps(body(place)).encode(), given)

    return make


def _pages(rng: random.Random) -> Maker:
    """What is no object: discovery, schemas, health, operators' paths."""
    path = rng.choice((
        "/t/{tenant}", "/t/{tenant}/", "/t/{tenant}/api", "/t/{tenant}/apis",
        "/t/{tenant}/api/v1", "/t/{tenant}/apis/apps/v1", "/t/{tenant}/openapi/v2",
        "/t/{tenant}/openapi/v3", "/t/{tenant}/openapi/v3/api/v1", "/t/{tenant}/version",
        "/t/{tenant}/healthz", "/t/{tenant}/metrics", "/t/{tenant}/readyz?verbose",
        "/apis?tenant={tenant}", "/api?tenant={tenant}", "/openapi/v2?tenant={tenant}",
        "/arktos/v1/tenants/{tenant}/token", "/arktos/v1/tenants/{tenant}/kubeconfig",
        "/arktos/v1/tenants/{tenant}/move", "/arktos/v1/status", "/arktos/v1/operations/{name}",
        "/metrics?tenant={tenant}", "/metrics/{tenant}", "/arktos/v1/usage/{tenant}",
        "/apis/{tenant}/v1", "/apis/{tenant}.example.org/v1/{name}", "/logs/{tenant}",
        "/debug/{name}",
        "/apis/{tenant}.example.org/v1/namespaces/default/{name}",
        "/apis/{group}", "/apis/{group}/v1", "/apis/{group}/v1?tenant={tenant}",
        "/openapi/v3/apis/{group}/v1", "/t/{tenant}/apis/{group}/v1",
        "/apis/{group}/v1/{plural}", "/apis/{group}/v1/namespaces/default/{plural}/{name}",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{group}",
        "/apis/apiextensions.k8s.io/v1beta1/customresourcedefinitions/{plural}.{group}/status",
    ))  # fmt: skip
    method = rng.choice(("GET", "GET", "POST", "DELETE"))
    headers = {"Accept": rng.choice(_ACCEPTS), **_pretence(rng)}

    def make(place: Place) -> Request:
        given = {h: v.format(**place._asdict()) for h, v in headers.items()}
        return Request(method, path.format(**place._asdict()), b"", given)

    return make


def _request(path: str, resource: Resource, rng: random.Random) -> Maker:
    method = rng.choice(_METHODS)
    headers = {"Accept": rng.choice(_ACCEPTS), **_pretence(rng)}
    query = rng.choice(
        ("", "", "", "?limit=1", "?continue={token}", "?labelSelector=of%3D{tenant}")
    )
    if method in ("GET", "HEAD"):
        query = (query + "&" if query else "?") + "timeoutSeconds=1"
        query += "&watch=1" if rng.random() < 0.15 else ""
    if method == "GET" and rng.random() < 0.1:
        headers |= {
            "Upgrade": rng.choice(("websocket", "SPDY/3.1")), "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "MDEyMzQ1Njc4OWFiY2RlZg==",
            "Origin": "https://example.org",
        }  # fmt: skip
    sends = method in ("POST", "PUT", "PATCH", "DELETE")
    if sends:
        headers["Content-Type"] = rng.choice(_PATCHES) if method == "PATCH" else "application/json"
        if method == "PATCH" and rng.random() < 0.5:
            query = (query + "&" if query else "?") + "fieldManager=x&force=true"
    broken = rng.random() < 0.1

    def make(place: Place) -> Request:
        names = place._asdict()
        body = b""
        if sends:
            obj = {
                "apiVersion": resource.api_version, "kind": resource.kind,
                "metadata": {"name": place.name, "namespace": place.namespace},
            }  # fmt: skip
            body = b"{" if broken else json.dumps(obj).encode()
        given = {h: v.format(**names) for h, v in headers.items()}
        return Request(method, (path + query).format(**names), body, given)

    return make


def _pretence(rng: random.Random) -> dict[str, str]:
    """Headers by which some servers believe who somebody is."""
    if rng.random() < 0.85:
        return {}
    return rng.choice((
        {"Impersonate-User": "admin", "Impersonate-Extra-Tenant": "{tenant}"},
        {"Impersonate-User": "system:admin", "Impersonate-Group": "system:masters"},
        {"Impersonate-User": "system:serviceaccount:{namespace}:{name}"},
        {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"},
        {"X-Forwarded-Host": "{tenant}", "X-Original-URL": "/api/v1/tenants/{tenant}/secrets"},
        {"X-Tenant": "{tenant}"},
        {"Host": "{tenant}.example.org"},
        {"Sec-WebSocket-Protocol": "base64url.bearer.authorization.k8s.io.e30"},
    ))  # fmt: skip
