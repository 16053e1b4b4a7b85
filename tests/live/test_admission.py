"""Quotas, limits, webhooks and conversions with kubectl: each tenant its own."""

from __future__ import annotations

import base64
import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from livekit import Cluster, Program, until

from arktos_ray.base import pki
from arktos_ray.base.clock import SystemClock

pytestmark = pytest.mark.live

Object = dict[str, Any]
Kubectl = Callable[..., Program]
GROUP = "admissionregistration.k8s.io"


@pytest.fixture(scope="module")
def left(cluster: Cluster, kubectl: Kubectl) -> Program:
    return kubectl(cluster.tenant("left"))


@pytest.fixture(scope="module")
def right(cluster: Cluster, kubectl: Kubectl) -> Program:
    return kubectl(cluster.tenant("right"))


class Webhook:
    """A webhook in this process: denies pods named `no...`, marks configmaps, converts pipes."""

    def __init__(self, folder: Path) -> None:
        files = pki.ensure(folder, ("127.0.0.1", "localhost"), pki.utc(SystemClock().now()))
        self.ca = base64.b64encode(files.ca.read_bytes()).decode()
        self.asked: list[Object] = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                review = json.loads(self.rfile.read(size))
                asked.append(review["request"])
                body = json.dumps(_judged(review)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files.server, files.server_key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _converted(review: Object) -> Object:
    """v1 has `metres` where v1beta1 had `feet`."""
    request = review["request"]
    for obj in request["objects"]:
        obj["apiVersion"], spec = request["desiredAPIVersion"], obj["spec"]
        if obj["apiVersion"].endswith("/v1"):
            spec["metres"] = spec.pop("feet") // 3
        else:
            spec["feet"] = spec.pop("metres") * 3
    response = {
        "uid": request["uid"], "result": {"status": "Success"},
        "convertedObjects": request["objects"],
    }  # fmt: skip
    return {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}


def _judged(review: Object) -> Object:
    if review["kind"] == "ConversionReview":
        return _converted(review)
    request = review["request"]
    response: Object = {"uid": request["uid"], "allowed": True}
    if request["resource"]["resource"] == "configmaps":
        patch = [{"op": "add", "path": "/metadata/labels", "value": {"seen": "yes"}}]
        raw = base64.b64encode(json.dumps(patch).encode()).decode()
        response |= {"patchType": "JSONPatch", "patch": raw, "warnings": ["it was marked"]}
    elif request["name"].startswith("no"):
        status = {"code": 403, "reason": "Forbidden", "message": "we say no"}
        response |= {"allowed": False, "status": status}
    return {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}


@pytest.fixture
def webhook(tmp_path: Path) -> Iterator[Webhook]:
    webhook = Webhook(tmp_path)
    yield webhook
    webhook.close()


def configuration(kind: str, name: str, webhook: Webhook, resource: str, **more: Any) -> Object:
    return {
        "apiVersion": f"{GROUP}/v1", "kind": kind, "metadata": {"name": name},
        "webhooks": [{
            "name": f"{name}.left.example", "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": webhook.url, "caBundle": webhook.ca},
            "rules": [{
                "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                "resources": [resource],
            }],
            **more,
        }],
    }  # fmt: skip


def test_a_quota_is_each_tenants_own(left: Program, right: Program) -> None:
    for kubectl in (left, right):
        kubectl("create", "ns", "tight")
        kubectl("create", "quota", "q", "--hard=pods=1,requests.cpu=2", "-n", "tight")
        pod = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": "tight"},
            "spec": {"containers": [{
                "name": "c", "image": "i", "resources": {"requests": {"cpu": "500m"}},
            }]},
        }  # fmt: skip
        kubectl("apply", "-f", "-", stdin=pod)
        pod["metadata"] = {"name": "two", "namespace": "tight"}
        assert (
            'pods "two" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, '
            "limited: pods=1"
        ) in kubectl.fails("create", "-f", "-", stdin=pod)
        bare = ("run", "three", "--image=i", "-n", "tight")
        assert (
            'pods "three" is forbidden: failed quota: q: must specify requests.cpu for: three'
            in kubectl.fails(*bare)
        )
        until(lambda kubectl=kubectl: _used(kubectl) == {"pods": "1", "requests.cpu": "500m"})
        lines = [
            line.split() for line in kubectl("describe", "quota", "q", "-n", "tight").splitlines()
        ]
        assert ["pods", "1", "1"] in lines
        assert ["requests.cpu", "500m", "2"] in lines
        kubectl("delete", "pod", "one", "-n", "tight", "--wait=true")
        kubectl("create", "-f", "-", stdin=pod)


def _used(kubectl: Program) -> Object:
    found: Object = kubectl.json("get", "quota", "q", "-n", "tight")["status"].get("used")
    return found


def test_a_webhook_refuses_and_changes_in_one_tenant_only(
    left: Program, right: Program, webhook: Webhook
) -> None:
    left("apply", "-f", "-", stdin=configuration(
        "ValidatingWebhookConfiguration", "judge", webhook, "pods"))  # fmt: skip
    left("apply", "-f", "-", stdin=configuration(
        "MutatingWebhookConfiguration", "mark", webhook, "configmaps"))  # fmt: skip
    said = left.fails("run", "nope", "--image=i")
    assert said == (
        'Error from server (Forbidden): admission webhook "judge.left.example" denied the request:'
        " we say no\n"
    )
    left("run", "fine", "--image=i")
    done = left.result("create", "cm", "c", "--from-literal=a=b")
    assert "Warning: it was marked" in done.stderr
    assert left.json("get", "cm", "c")["metadata"]["labels"] == {"seen": "yes"}
    left("create", "deploy", "web", "--image=i", "--replicas=2")
    left("rollout", "status", "deploy/web", "--timeout=40s")
    assert sum(r["name"].startswith("web-") for r in webhook.asked) == 2
    assert "judge   1" in left("get", "validatingwebhookconfigurations")
    assert "No resources found" in right.result("get", "mutatingwebhookconfigurations").stderr
    before = len(webhook.asked)
    right("run", "nope", "--image=i")
    right("create", "cm", "c", "--from-literal=a=b")
    assert "labels" not in right.json("get", "cm", "c")["metadata"]
    assert len(webhook.asked) == before
    left("delete", "validatingwebhookconfigurations/judge", "mutatingwebhookconfigurations/mark")
    left("run", "nope", "--image=i")


def test_a_webhook_that_is_down_refuses_or_lets_pass(
    left: Program, right: Program, webhook: Webhook
) -> None:
    webhook.close()
    kind = "ValidatingWebhookConfiguration"
    left("apply", "-f", "-", stdin=configuration(kind, "strict", webhook, "secrets"))
    said = left.fails("create", "secret", "generic", "s")
    assert "Internal error occurred: failed calling webhook" in said
    assert "failed to call webhook: Post" in said
    right("create", "secret", "generic", "s")
    left("apply", "-f", "-", stdin=configuration(
        kind, "strict", webhook, "secrets", failurePolicy="Ignore"))  # fmt: skip
    left("create", "secret", "generic", "s")
    left("delete", "validatingwebhookconfiguration", "strict")


def _pipes(webhook: Webhook) -> Object:
    def version(name: str, field: str, storage: bool) -> Object:
        spec = {"type": "object", "properties": {field: {"type": "integer"}}}
        return {
            "name": name, "served": True, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
            "additionalPrinterColumns": [
                {"name": field, "type": "integer", "jsonPath": f".spec.{field}"}
            ],
        }  # fmt: skip

    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "pipes.left.example"},
        "spec": {
            "group": "left.example", "scope": "Namespaced",
            "names": {"plural": "pipes", "kind": "Pipe", "singular": "pipe"},
            "versions": [version("v1", "metres", True), version("v1beta1", "feet", False)],
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1"],
                "clientConfig": {"url": webhook.url, "caBundle": webhook.ca},
            }},
        },
    }  # fmt: skip


def test_a_conversion_webhook_serves_an_old_version(left: Program, webhook: Webhook) -> None:
    left("apply", "-f", "-", stdin=_pipes(webhook))
    pipe = {
        "apiVersion": "left.example/v1beta1", "kind": "Pipe", "metadata": {"name": "p"},
        "spec": {"feet": 12},
    }  # fmt: skip
    assert left("apply", "-f", "-", stdin=pipe) == "pipe.left.example/p created\n"
    assert left("apply", "-f", "-", stdin=pipe) == "pipe.left.example/p unchanged\n"
    assert left.json("get", "pipes", "p")["spec"] == {"metres": 4}
    old = "pipes.v1beta1.left.example"
    assert left.json("get", old, "p")["spec"] == {"feet": 12}
    left("patch", old, "p", "--type=merge", "-p", '{"spec":{"feet":30}}')
    left("apply", "--server-side", "--force-conflicts", "-f", "-", stdin={
        **pipe, "metadata": {"name": "q"}, "spec": {"feet": 9}})  # fmt: skip
    rows = [line.split()[:2] for line in left("get", old, "--no-headers").splitlines()]
    assert rows == [["p", "30"], ["q", "9"]]
    webhook.close()
    said = left.fails("create", "-f", "-", stdin={**pipe, "metadata": {"name": "r"}})
    assert "conversion webhook for left.example/v1beta1, Kind=Pipe failed: Post" in said
    assert left.json("get", "pipes", "q")["spec"] == {"metres": 3}
    left("delete", "crd", "pipes.left.example", "--timeout=30s")
