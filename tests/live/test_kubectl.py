"""kubectl, every version that is here: its users' stories, each in a namespace of its own.

The stories run side by side in threads, since kubectl mostly waits; each test is one story of one
version. Versions differ in how they talk (clients.md of the project's notes): 1.27 needs OpenAPI v2
as protobuf, 1.32 and later send protobuf bodies, 1.35 and later watch lists.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from livekit import NODES, Cluster, Program, kubectls, until

from arktos_ray.api import networks, scheme

pytestmark = pytest.mark.live

Object = dict[str, Any]
VERSIONS = ("1.27", "1.29", "1.31", "1.33", "1.36")
BETWEEN = ("1.28", "1.30", "1.32")
AT_ONCE = 4


class User:
    """One story's user: kubectl in a namespace of its own tenant, and as the administrator."""

    def __init__(self, k: Program, admin: Program, namespace: str, version: str) -> None:
        self.k, self.admin, self.namespace = k, admin, namespace
        self.minor = int(version.partition(".")[2])
        self.tenant = tenant_of(version)


def tenant_of(version: str) -> str:
    return "user-of-" + version.replace(".", "-")


def deployment(name: str, image: str = "nginx:1", replicas: int = 1) -> Object:
    container = {
        "name": "c", "image": image, "ports": [{"containerPort": 80}],
        "env": [{"name": "A", "value": "1"}],
    }  # fmt: skip
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
            },
        },
    }


ROOT_CA = "kube-root-ca.crt"  # in every namespace


def configmap(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pod(name: str, **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "containers": [{"name": "c", "image": "nginx:1"}],
            "terminationGracePeriodSeconds": 0,
            **spec,
        },
    }


def limit_range(**of_containers: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "LimitRange",
        "metadata": {"name": "l"},
        "spec": {"limits": [{"type": "Container", **of_containers}]},
    }


def as_list(*objects: Object) -> Object:
    return {"apiVersion": "v1", "kind": "List", "items": list(objects)}


def managers(obj: Object) -> set[tuple[str, str]]:
    return {(m["manager"], m["operation"]) for m in obj["metadata"]["managedFields"]}


# Stories


def getting(user: User) -> None:
    k = user.k
    k("apply", "-f", "-", stdin=as_list(deployment("web", replicas=2), configmap("conf", a="1")))
    k("rollout", "status", "deploy/web", "--timeout=30s")

    rows = k("get", "pods", "--no-headers").splitlines()
    assert len(rows) == 2
    assert all("Running" in row and "1/1" in row for row in rows)
    assert k("get", "deploy").split()[:5] == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    wide = k("get", "deploy", "-o", "wide")
    assert "nginx:1" in wide
    assert "app=web" in wide
    assert "sim-" in k("get", "pods", "-o", "wide")
    assert yaml.safe_load(k("get", "cm", "conf", "-o", "yaml"))["data"] == {"a": "1"}
    assert k.json("get", "cm", "conf")["data"] == {"a": "1"}
    assert k("get", "cm/conf", "-o", "name") == "configmap/conf\n"
    assert k("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}") == "2"
    columns = k("get", "deploy", "-o", "custom-columns=N:.metadata.name,R:.spec.replicas")
    assert columns.split() == ["N", "R", "web", "2"]
    k("create", "cm", "another")
    names = k("get", "cm", "--sort-by=.metadata.name", "-o", "name").split()
    assert names == sorted(names)
    by_age = k("get", "cm", "--sort-by={.metadata.creationTimestamp}", "--no-headers")
    assert [line.split()[0] for line in by_age.splitlines() if ROOT_CA not in line] == [
        "conf", "another",
    ]  # fmt: skip
    everything = k("get", "all", "-o", "name")
    assert "deployment.apps/web" in everything
    assert "replicaset.apps/web-" in everything
    assert user.namespace in k("get", "pods", "-A")
    assert "web" in k("get", "pods", "-l", "app in (web),!nothing", "--show-labels")
    assert k("get", "pods", "-l", "app=other", "-o", "name") == ""
    running = k("get", "pods", "--field-selector=status.phase=Running", "-o", "name").split()
    assert len(running) == 2
    node = k("get", running[0], "-o", "jsonpath={.spec.nodeName}")
    there = k("get", "pods", f"--field-selector=spec.nodeName={node},status.phase!=Failed")
    assert running[0].removeprefix("pod/") in there
    assert len(_ours(k("get", "cm,deploy,rs", "--chunk-size=1", "-o", "name"))) == 4
    refused = k.fails("get", "pods", "nobody")
    assert 'Error from server (NotFound): pods "nobody" not found' in refused
    assert k("get", "pods", "nobody", "--ignore-not-found") == ""
    assert "the server doesn't have a resource type" in k.fails("get", "nonsense")
    assert "field label not supported" in k.fails("get", "pods", "--field-selector=spec.x=1")
    assert "No resources found" in k.result("get", "quota").stderr


def describing(user: User) -> None:
    """Every kind that a tenant has, described without a complaint."""
    k = user.k
    objects = [
        deployment("web"), configmap("conf", a="1"),
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"a": "Yg=="}},
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
        },
        {
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
            "spec": {"hard": {"pods": "100"}},
        },
        limit_range(max={"cpu": "2"}),
        {
            "apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"},
            "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
        {
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
            "spec": {"holderIdentity": "me", "leaseDurationSeconds": 10},
        },
        {
            "apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "r"},
            "revision": 1, "data": {"a": 1},
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "reader"},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "readers"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader",
            },
            "subjects": [
                {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"},
            ],
        },
    ]  # fmt: skip
    k("apply", "-f", "-", stdin=as_list(*objects))
    k("rollout", "status", "deploy/web", "--timeout=30s")
    until(lambda: k("get", "ep", "web", "-o", "jsonpath={.subsets[*].addresses[*].ip}"))
    for resource in scheme.RESOURCES:
        if resource.namespaced and not resource.virtual:
            said = k("describe", resource.gvr)
            found = k("get", resource.gvr, "-o", "name").split()
            assert found, f"no {resource.gvr} to describe"
            assert re.search(r"^Name:", said, re.M), said
    said = k("describe", "pods", "-l", "app=web")
    assert re.search(r"Node: +sim-", said)
    assert "Successfully assigned" in said
    assert "Scaled up replica set" in k("describe", "deploy", "web")
    assert re.search(r"Endpoints: +10\.", k("describe", "svc", "web"))
    assert re.search(r"a: +1 bytes", k("describe", "secret", "s"))
    assert user.namespace in k("describe", "ns", user.namespace)
    # Whatever the server says of a pod that fits nowhere, users read it here.
    k("create", "-f", "-", stdin=pod("nowhere", nodeSelector={"disk": "none"}))
    until(lambda: "nodes are available" in k("describe", "pod", "nowhere"))
    # The events of one object.
    assert "Scheduled" in k(
        "events", "--for", k("get", "pods", "-l", "app=web", "-o", "name").strip()
    )
    assert "FailedScheduling" in k("get", "events", "--field-selector=reason=FailedScheduling")
    warnings = k("events", "--types=Warning")
    assert "FailedScheduling" in warnings
    assert "Successfully" not in warnings


def creating(user: User) -> None:
    """The generators (their bodies are protobuf from 1.32 on), dry runs, strictness, managers."""
    k = user.k
    k("create", "cm", "c", "--from-literal=a=1", "--from-literal=b=")
    assert k.json("get", "cm", "c")["data"] == {"a": "1", "b": ""}
    k("create", "secret", "generic", "s", "--from-literal=password=hush")
    secret = k.json("get", "secret", "s")
    assert (secret["data"], secret["type"]) == ({"password": "aHVzaA=="}, "Opaque")
    k("create", "deploy", "d", "--image=nginx", "--replicas=0", "--port=80")
    made = k.json("get", "deploy", "d")
    assert made["spec"]["replicas"] == 0
    assert made["spec"]["template"]["spec"]["containers"][0]["ports"] == [
        {"containerPort": 80, "protocol": "TCP"}
    ]
    assert made["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == "25%"
    k("create", "sa", "robot")
    k("create", "quota", "q", "--hard=pods=20,requests.cpu=500m,secrets=10")
    assert k.json("get", "quota", "q")["spec"]["hard"]["requests.cpu"] == "500m"
    k("create", "service", "clusterip", "svc", "--tcp=80:8080")
    service = k.json("get", "svc", "svc")["spec"]
    assert service["ports"][0]["targetPort"] == 8080
    assert service["clusterIP"].startswith("10.")
    k("create", "service", "externalname", "ext", "--external-name=example.org")
    k("create", "service", "nodeport", "np", "--tcp=80")
    if user.minor >= 29:
        k("create", "secret", "docker-registry", "reg", "--docker-server=x", "--docker-username=u",
          "--docker-password=p")  # fmt: skip
        assert k.json("get", "secret", "reg")["type"] == "kubernetes.io/dockerconfigjson"
    k("create", "ns", user.namespace + "-more")
    assert k.json("get", "ns", user.namespace + "-more")["status"]["phase"] == "Active"
    assert "already exists" in k.fails("create", "cm", "c")
    k.fails("create", "cm", "Not_A_Name")

    assert "(dry run)" in k("create", "cm", "dry", "--dry-run=client")
    assert "(server dry run)" in k("create", "cm", "dry", "--dry-run=server")
    whole = k.json("create", "deploy", "dry", "--image=x", "--dry-run=server")
    assert whole["metadata"]["uid"]
    assert whole["spec"]["revisionHistoryLimit"] == 10
    k.fails("get", "cm,deploy", "dry")

    k("create", "cm", "managed", "--from-literal=a=1", "--field-manager=mine")
    assert managers(k.json("get", "cm", "managed", "--show-managed-fields")) == {("mine", "Update")}

    odd = {**configmap("odd", a="1"), "dat": {}}
    refused = k.fails("create", "--validate=strict", "-f", "-", stdin=odd)
    assert 'unknown field "dat"' in refused
    warned = k.result("create", "--validate=warn", "-f", "-", stdin=odd)
    assert warned.returncode == 0
    assert 'unknown field "dat"' in warned.stderr
    quiet = k.result("create", "--validate=ignore", "-f", "-", stdin={
        **odd, "metadata": {"name": "odd2"},
    })  # fmt: skip
    assert (quiet.returncode, quiet.stderr) == (0, "")

    named = {**configmap("", a="1"), "metadata": {"generateName": "gen-"}}
    first = k("create", "-f", "-", "-o", "name", stdin=named)
    second = k("create", "-f", "-", "-o", "name", stdin=named)
    assert re.fullmatch(r"configmap/gen-\w{5}\n", first)
    assert first != second

    # The quota counts CPU, so pods say how much they want, or a LimitRange says it for them.
    run = ("run", "one", "--image=nginx", "--labels=run=me", "--env=A=b", "--restart=Never")
    assert "failed quota: q: must specify requests.cpu for: one" in k.fails(*run)
    k("create", "-f", "-", stdin=limit_range(defaultRequest={"cpu": "100m"}))
    k(*run)
    assert k.json("get", "pod", "one")["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "100m"}
    }
    k("wait", "--for=condition=Ready", "pod/one", "--timeout=30s")
    assert k.json("get", "pod", "one")["spec"]["restartPolicy"] == "Never"
    refused = k.fails("logs", "one")
    assert "simulated" in refused
    assert "nobody" in k.fails("logs", "one", "-c", "nobody")


def applying(user: User) -> None:
    k = user.k
    said = k("apply", "-f", "-", stdin=as_list(deployment("web"), configmap("conf", a="1", b="1")))
    assert "deployment.apps/web created" in said
    again = k("apply", "-f", "-", stdin=as_list(deployment("web"), configmap("conf", a="1", b="1")))
    assert again.count("unchanged") == 2
    changed = as_list(deployment("web", "nginx:2"), configmap("conf", a="2"))
    diff = k.result("diff", "-f", "-", stdin=changed)
    assert diff.returncode == 1, diff.stderr
    assert "+        image: nginx:2" in diff.stdout
    assert '-  b: "1"' in diff.stdout
    assert k("apply", "-f", "-", stdin=changed).count("configured") == 2
    # What is no longer in the file goes; what others added stays.
    assert k.json("get", "cm", "conf")["data"] == {"a": "2"}
    k("scale", "deploy", "web", "--replicas=2")
    more = deployment("web", "nginx:2")
    del more["spec"]["replicas"]
    more["spec"]["template"]["spec"]["containers"].append({"name": "d", "image": "busybox"})
    k("apply", "-f", "-", stdin=more)
    spec = k.json("get", "deploy", "web")["spec"]
    assert [c["name"] for c in spec["template"]["spec"]["containers"]] == ["c", "d"]
    assert k.result("diff", "-f", "-", stdin=more).returncode == 0
    assert "busybox" in k("apply", "view-last-applied", "deploy/web")
    k("apply", "--dry-run=server", "-f", "-", stdin=configmap("conf", a="3"))
    assert k.json("get", "cm", "conf")["data"] == {"a": "2"}

    # Server-side: from client-side apply, conflicts, and taking over.
    k("apply", "--server-side", "-f", "-", stdin=configmap("conf", a="2"))
    conf = k.json("get", "cm", "conf", "--show-managed-fields")
    # The second one keeps kubectl's own annotation up to date.
    assert managers(conf) == {("kubectl", "Apply"), ("kubectl-last-applied", "Apply")}
    k("apply", "--server-side", "-f", "-", stdin=configmap("conf", b="2"))
    assert k.json("get", "cm", "conf")["data"] == {"b": "2"}
    refused = k.fails(
        "apply", "--server-side", "--field-manager=other", "-f", "-", stdin=configmap("conf", b="3")
    )
    assert 'conflict with "kubectl": .data.b' in refused
    k("apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-",
      stdin=configmap("conf", b="3"))  # fmt: skip
    k("apply", "--server-side", "--field-manager=third", "-f", "-", stdin=configmap("conf", c="1"))
    conf = k.json("get", "cm", "conf", "--show-managed-fields")
    assert conf["data"] == {"b": "3", "c": "1"}
    assert {("other", "Apply"), ("third", "Apply")} <= managers(conf)
    k("apply", "--server-side", "-f", "-", stdin=deployment("fresh", replicas=0))
    k("scale", "deploy", "fresh", "--replicas=1")
    refused = k.fails("apply", "--server-side", "-f", "-", stdin=deployment("fresh", replicas=0))
    assert ".spec.replicas" in refused
    k("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=configmap("unborn", a="1"))
    k.fails("get", "cm", "unborn")

    # Replace, edit, patch, label, annotate.
    k("replace", "-f", "-", stdin=configmap("conf", z="1"))
    assert k.json("get", "cm", "conf")["data"] == {"z": "1"}
    stale = {**configmap("conf", z="2"), "metadata": {"name": "conf", "resourceVersion": "1"}}
    assert "the object has been modified" in k.fails("replace", "-f", "-", stdin=stale)
    before = k("get", "cm", "conf", "-o", "jsonpath={.metadata.uid}")
    k("replace", "--force", "-f", "-", stdin=configmap("conf", z="3"))
    assert k("get", "cm", "conf", "-o", "jsonpath={.metadata.uid}") != before
    k("edit", "cm", "conf", KUBE_EDITOR="sed -i s/z:/edited:/")
    assert k.json("get", "cm", "conf")["data"] == {"edited": "3"}
    assert "no changes made" in k.result("edit", "cm", "conf", KUBE_EDITOR="true").stderr

    strategic = {"spec": {"template": {"spec": {"containers": [{"name": "d", "image": "b:2"}]}}}}
    k("patch", "deploy", "web", "-p", json.dumps(strategic))
    containers = k.json("get", "deploy", "web")["spec"]["template"]["spec"]["containers"]
    assert [(c["name"], c["image"]) for c in containers] == [("c", "nginx:2"), ("d", "b:2")]
    remove = {"spec": {"template": {"spec": {"containers": [{"name": "d", "$patch": "delete"}]}}}}
    k("patch", "deploy", "web", "-p", json.dumps(remove))
    k("patch", "deploy", "web", "--type=merge", "-p", '{"metadata":{"labels":{"x":"y"}}}')
    k("patch", "deploy", "web", "--type=json",
      "-p", '[{"op":"test","path":"/metadata/labels/x","value":"y"},'
            '{"op":"remove","path":"/metadata/labels/x"}]')  # fmt: skip
    web = k.json("get", "deploy", "web")
    assert "x" not in web["metadata"]["labels"]
    assert len(web["spec"]["template"]["spec"]["containers"]) == 1
    k.fails("patch", "deploy", "web", "--type=json",
            "-p", '[{"op":"test","path":"/spec/replicas","value":77}]')  # fmt: skip
    k.fails("patch", "deploy", "web", "-p", '{"spec":{"replicas":-1}}')
    assert "no change" in k("patch", "deploy", "web", "-p", '{"spec":{"replicas":1}}')
    k("patch", "deploy", "web", "--subresource=scale", "--type=merge", "-p",
      '{"spec":{"replicas":3}}')  # fmt: skip
    assert k("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}") == "3"
    scale = k.json("get", "deploy", "web", "--subresource=scale")
    assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 3)
    k("create", "-f", "-", stdin=pod("ill", nodeSelector={"disk": "none"}))
    k("patch", "pod", "ill", "--subresource=status", "--type=merge", "-p",
      '{"status":{"message":"set by hand"},"metadata":{"labels":{"app":"well"}}}')  # fmt: skip
    assert k.json("get", "pod", "ill")["status"]["message"] == "set by hand"

    k("label", "cm", "conf", "tier=a")
    k.fails("label", "cm", "conf", "tier=b")
    k("label", "cm", "conf", "tier=b", "--overwrite")
    assert k("get", "cm", "-l", "tier=b", "-o", "name") == "configmap/conf\n"
    k("label", "cm", "conf", "tier-")
    k("annotate", "cm", "conf", "note=hello", "--overwrite")
    assert k.json("get", "cm", "conf")["metadata"]["annotations"]["note"] == "hello"
    k("label", "cm", "--all", "seen=1")
    k("set", "env", "deploy/web", "B=2")
    k("set", "resources", "deploy/web", "--limits=cpu=1,memory=64Mi", "--requests=cpu=10m")
    k("set", "serviceaccount", "deploy/web", "default")
    container = k.json("get", "deploy", "web")["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "64Mi"}
    assert {"name": "B", "value": "2"} in container["env"]

    # Pruning: only what carries the label, and is not in the file any more.
    labelled = {**configmap("p1"), "metadata": {"name": "p1", "labels": {"set": "p"}}}
    other = {**configmap("p2"), "metadata": {"name": "p2", "labels": {"set": "p"}}}
    prune = ("apply", "--prune", "-l", "set=p", "--prune-allowlist=core/v1/ConfigMap", "-f", "-")
    k(*prune, stdin=as_list(labelled, other))
    assert "configmap/p2 pruned" in k(*prune, stdin=as_list(labelled))


def rolling_out(user: User) -> None:
    k = user.k
    k("create", "-f", "-", stdin=deployment("web", replicas=3))
    assert "successfully rolled out" in k("rollout", "status", "deploy/web", "--timeout=30s")
    k("annotate", "deploy/web", "kubernetes.io/change-cause=first")
    k("set", "image", "deploy/web", "c=nginx:2")
    k("annotate", "deploy/web", "kubernetes.io/change-cause=second", "--overwrite")
    assert "successfully rolled out" in k("rollout", "status", "deploy/web", "--timeout=30s")
    history = until(lambda: _with(k("rollout", "history", "deploy/web"), "second"))
    assert re.search(r"^1 +first", history, re.M), history
    assert "nginx:1" in k("rollout", "history", "deploy/web", "--revision=1")
    assert k("rollout", "undo", "deploy/web").startswith("deployment.apps/web rolled back")
    k("rollout", "status", "deploy/web", "--timeout=30s")
    image = "jsonpath={.spec.template.spec.containers[0].image}"
    assert k("get", "deploy", "web", "-o", image) == "nginx:1"
    k("rollout", "undo", "deploy/web", "--to-revision=2")
    assert k("get", "deploy", "web", "-o", image) == "nginx:2"
    k("rollout", "status", "deploy/web", "--timeout=30s")
    until(lambda: len(k("get", "pods", "-o", "name").split()) == 3)
    before = set(k("get", "pods", "-o", "name").split())
    k("rollout", "restart", "deploy/web")
    k("rollout", "status", "deploy/web", "--timeout=30s")
    until(lambda: not before & set(k("get", "pods", "-o", "name").split()))
    k("rollout", "pause", "deploy/web")
    k.fails("rollout", "restart", "deploy/web")
    k("set", "image", "deploy/web", "c=nginx:3")
    sets = len(k("get", "rs", "-o", "name").split())
    k("rollout", "resume", "deploy/web")
    k("rollout", "status", "deploy/web", "--timeout=30s")
    assert len(k("get", "rs", "-o", "name").split()) == sets + 1

    k("scale", "deploy/web", "--replicas=2", "--current-replicas=3")
    k.fails("scale", "deploy/web", "--replicas=2", "--current-replicas=9")
    k("wait", "deploy/web", "--for=jsonpath={.status.replicas}=2", "--timeout=30s")
    k("wait", "deploy/web", "--for=condition=Available", "--timeout=30s")
    k("wait", "pod", "-l", "app=web", "--for=condition=Ready", "--timeout=30s")
    rs = k("get", "rs", "--sort-by=.metadata.creationTimestamp", "-o", "name").split()[-1]
    k("scale", rs, "--replicas=2")
    k("expose", "deploy/web", "--port=80", "--target-port=8080", "--name=front")
    assert k.json("get", "svc", "front")["spec"]["selector"] == {"app": "web"}
    addresses = "jsonpath={.subsets[*].addresses[*].ip}"
    until(lambda: len(k("get", "ep", "front", "-o", addresses).split()) == 2)
    slices = k.json("get", "endpointslices", "-l", "kubernetes.io/service-name=front")["items"]
    assert sum(len(s["endpoints"]) for s in slices) == 2
    k("delete", "svc", "front")
    until(lambda: not k("get", "ep,endpointslices", "-o", "name"))
    refused = k.fails("wait", "deploy/web", "--for=condition=Nothing", "--timeout=1s")
    assert "timed out" in refused


def _with(text: str, part: str) -> str:
    return text if part in text else ""


def deleting(user: User) -> None:
    k = user.k
    k("create", "cm", "a")
    assert 'configmap "a" deleted' in k("delete", "cm", "a")
    assert "NotFound" in k.fails("delete", "cm", "a")
    k("delete", "cm", "a", "--ignore-not-found")
    for name in "bcd":
        k("create", "cm", name)
    k("label", "cm", "b", "c", "which=these")
    k("delete", "cm", "-l", "which=these")
    k("delete", "cm", "d", "--dry-run=server")
    assert _ours(k("get", "cm", "-o", "name")) == ["configmap/d"]
    k("delete", "cm", "--all")
    assert _ours(k("get", "cm", "-o", "name")) == []

    def web(name: str) -> None:
        k("create", "-f", "-", stdin=deployment(name, replicas=2))
        k("rollout", "status", f"deploy/{name}", "--timeout=30s")

    web("fore")
    k("delete", "deploy", "fore", "--cascade=foreground", "--timeout=30s")
    assert k("get", "deploy,rs,pods", "-l", "app=fore", "-o", "name") == ""
    web("back")
    k("delete", "deploy", "back", "--cascade=background")
    until(lambda: not k("get", "deploy,rs,pods", "-l", "app=back", "-o", "name"))
    web("left")
    k("delete", "deploy", "left", "--cascade=orphan")
    left = until(lambda: _orphaned(k.json("get", "rs", "-l", "app=left")["items"]))
    assert len(left) == 1
    assert len(k("get", "pods", "-l", "app=left", "-o", "name").split()) == 2
    k("delete", "rs", "-l", "app=left", "--cascade=orphan")
    until(lambda: _orphaned(k.json("get", "pods", "-l", "app=left")["items"]))
    k("delete", "pods", "-l", "app=left", "--now")
    assert k("get", "pods", "-l", "app=left", "-o", "name") == ""

    held = {**configmap("held"), "metadata": {"name": "held", "finalizers": ["example.org/x"]}}
    k("create", "-f", "-", stdin=held)
    k("delete", "cm", "held", "--wait=false")
    assert k.json("get", "cm", "held")["metadata"]["deletionTimestamp"]
    waiting = k.start("wait", "--for=delete", "cm/held", "--timeout=30s")
    k("patch", "cm", "held", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    said, _ = waiting.communicate(timeout=40)
    assert waiting.returncode == 0, said

    slow = pod("slow")
    slow["spec"]["terminationGracePeriodSeconds"] = 600
    k("create", "-f", "-", stdin=slow)
    k("wait", "--for=condition=Ready", "pod/slow", "--timeout=30s")
    k("delete", "pod", "slow", "--grace-period=0", "--force")
    until(lambda: "NotFound" in k.result("get", "pod", "slow").stderr)
    # One whose grace has to run out first, on a node that runs nothing.
    k("create", "-f", "-", stdin=pod("quick"))
    k("wait", "--for=condition=Ready", "pod/quick", "--timeout=30s")
    k("delete", "pod", "quick", "--timeout=30s")

    k("create", "ns", user.namespace + "-gone")
    k("create", "cm", "inside", "-n", user.namespace + "-gone")
    k("delete", "ns", user.namespace + "-gone", "--timeout=40s")
    assert "NotFound" in k.fails("get", "ns", user.namespace + "-gone")
    assert k("get", "cm", "-n", user.namespace + "-gone", "-o", "name") == ""


def _ours(names: str) -> list[str]:
    """Without what every namespace has from the beginning."""
    return [name for name in names.split() if ROOT_CA not in name]


def _orphaned(items: list[Object]) -> list[Object]:
    return items if items and not any("ownerReferences" in i["metadata"] for i in items) else []


def watching(user: User) -> None:
    k = user.k
    until(lambda: k("get", "cm", ROOT_CA, "--ignore-not-found"))
    k("create", "cm", "a")
    following = k.start("get", "cm", "-w", "--output-watch-events")
    only = k.start("get", "cm", "--watch-only", "-o", "name")
    try:
        lines = iter(following.stdout or ())
        seen = [next(lines), next(lines)]
        assert ROOT_CA in next(lines)
        assert "NAME" in seen[0]
        assert re.match(r"ADDED +a ", seen[1]), seen
        for name in ("b", "c"):
            k("create", "cm", name)
        k("label", "cm", "b", "x=y")
        k("delete", "cm", "b")
        seen += [next(lines) for _ in range(4)]
        kinds = [line.split()[0] + line.split()[1] for line in seen[2:]]
        assert kinds == ["ADDEDb", "ADDEDc", "MODIFIEDb", "DELETEDb"]
    finally:
        for program in (following, only):
            program.kill()
    said, _ = only.communicate()
    assert "configmap/a" not in said
    following.communicate()


def looking_around(user: User) -> None:
    """Discovery, explain, versions: what the server says of itself."""
    k = user.k
    kinds = k("api-resources", "--no-headers", "--sort-by=name")
    for resource in scheme.RESOURCES:
        assert (re.search(rf"^{resource.plural} .*{resource.kind}$", kinds, re.M) is not None) == (
            resource.tenanted
        ), resource.gvr
    served = (*scheme.RESOURCES, *scheme.OLDER)

    def name_of(resource: scheme.Resource) -> str:
        return f"{resource.plural}.{resource.group}" if resource.group else resource.plural

    namespaced = k("api-resources", "--namespaced=true", "-o", "name").split()
    assert set(namespaced) == {name_of(r) for r in served if r.namespaced}
    every = set(user.admin("api-resources", "-o", "name").split())
    # A kind by definition, not of the table.
    assert every == {name_of(r) for r in served} | {networks.NETWORKS}
    assert networks.NETWORKS in k("api-resources", "--namespaced=false", "-o", "name").split()
    assert "network" in k("explain", f"{networks.NETWORKS}.spec").lower()
    assert "deployments.apps" in k("api-resources", "--verbs=list,watch", "-o", "name")
    assert {"v1", "apps/v1", "coordination.k8s.io/v1", "discovery.k8s.io/v1"} <= set(
        k("api-versions").split()
    )
    said = k("explain", "deploy.spec.strategy")
    assert "rollingUpdate" in said
    assert "rollingUpdate" in k("explain", "deploy", "--recursive")
    for resource in scheme.RESOURCES:
        assert resource.kind in user.admin("explain", resource.plural)
    assert k.fails("explain", "pods.spec.nonsense")
    version = json.loads(k("version", "-o", "json"))["serverVersion"]
    assert re.match(r"v1\.\d+\.\d+", version["gitVersion"])
    assert "is running at" in user.admin("cluster-info")
    assert k("get", "--raw", "/readyz") == "ok"
    assert "[+]ping ok" in k("get", "--raw", "/readyz?verbose")
    assert json.loads(k("get", "--raw", "/apis"))["kind"] == "APIGroupList"
    assert "Active" in k("get", "ns", "default")


def keeping_nodes(user: User) -> None:
    """As the administrator: cordon, taint, drain, and the pods that must go elsewhere.

    What a stock kubectl drains are the pods of the system tenant, since that is whose they are on
    the short path; a NoExecute taint moves everybody's.
    """
    admin, k = user.admin, user.k
    node = f"sim-{(user.minor - 26) % NODES}"
    system = ("-n", user.namespace)
    admin("create", "ns", user.namespace)
    assert re.search(rf"^{node} +Ready", admin("get", "nodes"), re.M)
    assert "INTERNAL-IP" in admin("get", "nodes", "-o", "wide")
    admin("cordon", node)
    assert "SchedulingDisabled" in admin("get", "node", node)
    k("create", "-f", "-", stdin=pod("here", nodeName=node))
    there = pod("there", nodeSelector={"kubernetes.io/hostname": node})
    k("create", "-f", "-", stdin=there)
    admin(*system, "create", "-f", "-", stdin=there)
    until(lambda: "unschedulable" in k("describe", "pod", "there"))
    admin("uncordon", node)
    k("wait", "--for=condition=Ready", "pod/there", "pod/here", "--timeout=30s")
    admin(*system, "wait", "--for=condition=Ready", "pod/there", "--timeout=30s")
    said = admin("describe", "node", node)
    assert re.search(r"Allocatable:\n +cpu: ", said), said
    assert "HolderIdentity" in said
    assert re.search(rf"{user.namespace} +there", said)
    admin("label", "node", node, "live-test=1", "--overwrite")
    assert admin("get", "nodes", "-l", "live-test=1", "-o", "name")
    admin("label", "node", node, "live-test-")

    drained = admin("drain", node, "--ignore-daemonsets", "--force", "--delete-emptydir-data",
                    "--timeout=40s")  # fmt: skip
    assert "drained" in drained
    assert admin(*system, "get", "pods", "-o", "name") == ""
    assert len(k("get", "pods", "-o", "name").split()) == 2
    admin("uncordon", node)
    admin("taint", "node", node, "only=these:NoExecute")
    taints = admin.json("get", "node", node)["spec"]["taints"]
    assert {"key": "only", "value": "these", "effect": "NoExecute"} in taints
    until(lambda: not k("get", "pods", "-o", "name"), what="the taint moves every tenant's pods")
    admin("taint", "node", node, "only-")
    admin("delete", "ns", user.namespace, "--timeout=40s")


def debugging(user: User) -> None:
    """Containers beside those of a pod, and copies of it; a folder of manifests; odds and ends."""
    k = user.k
    k("run", "one", "--image=nginx", "--restart=Never")
    k("wait", "--for=condition=Ready", "pod/one", "--timeout=30s")
    # 1.33 and later read the whole security context of the pod for it.
    k("debug", "one", "--image=busybox", "--attach=false")
    images = "jsonpath={.spec.ephemeralContainers[*].image}"
    assert k("get", "pod", "one", "-o", images) == "busybox"
    assert "Ephemeral Containers:" in k("describe", "pod", "one")
    k("debug", "one", "--image=busybox", "--copy-to=two", "--attach=false")
    assert len(k.json("get", "pod", "two")["spec"]["containers"]) == 2
    assert k("get", "pods", "--server-print=false").split()[:2] == ["NAME", "AGE"]
    k("delete", "pod", "one", "two", "--now")

    folder = user.k.home / "base"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text("namePrefix: kz-\nresources: [cm.yaml]\n")
    (folder / "cm.yaml").write_text(yaml.safe_dump(configmap("a", b="1")))
    assert "configmap/kz-a created" in k("apply", "-k", str(folder))
    assert "configmap/kz-a unchanged" in k("apply", "-k", str(folder))
    k("delete", "-k", str(folder))
    for kind in ("nodes", "tenants"):
        assert "doesn't have a resource type" in k.fails("get", kind)


def governing(user: User) -> None:
    """What whoever runs a tenant does: a kind of their own, tokens, certificates, rights."""
    k, boss = user.k, Program(user.k.path, user.k.kubeconfig, user.k.home)
    kind = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "recipes.kitchen.example.com"},
        "spec": {
            "group": "kitchen.example.com", "scope": "Namespaced",
            "names": {"plural": "recipes", "kind": "Recipe", "shortNames": ["rcp"]},
            "versions": [{
                "name": "v1", "served": True, "storage": True,
                "additionalPrinterColumns": [
                    {"name": "Serves", "type": "integer", "jsonPath": ".spec.serves"},
                ],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {
                    "type": "object", "description": "What to cook.",
                    "properties": {"serves": {
                        "type": "integer", "minimum": 1, "default": 2,
                        "description": "For how many it is.",
                    }},
                }}}},
            }],
        },
    }  # fmt: skip
    file = user.k.home / "crd.yaml"
    file.write_text(yaml.safe_dump(kind))
    assert "created" in boss("apply", "-f", str(file))
    crd = "crd/recipes.kitchen.example.com"
    assert "condition met" in boss("wait", "--for=condition=Established", crd, "--timeout=10s")
    assert "unchanged" in boss("apply", "-f", str(file))
    assert "For how many it is." in k("explain", "recipe.spec.serves")
    assert "serves" in k("explain", "rcp", "--recursive")
    soup: Object = {
        "apiVersion": "kitchen.example.com/v1", "kind": "Recipe", "metadata": {"name": "soup"},
        "spec": {},
    }  # fmt: skip
    k("apply", "-f", "-", stdin=soup)
    soup["spec"]["serves"] = 4
    assert k.result("diff", "-f", "-", stdin=soup).returncode == 1
    assert "configured" in k("apply", "-f", "-", stdin=soup)
    assert k("get", "rcp", "--no-headers").split()[:2] == ["soup", "4"]
    assert "Serves:  4" in k("describe", "recipe", "soup")
    soup["spec"]["serves"] = 0
    assert "spec.serves" in k.fails("apply", "-f", "-", stdin=soup)
    waiting = k.start("wait", "rcp/soup", "--for=jsonpath={.spec.serves}=6", "--timeout=30s")
    k("patch", "rcp", "soup", "--type=merge", "-p", '{"spec":{"serves":6}}')
    said, _ = waiting.communicate(timeout=40)
    assert waiting.returncode == 0, said

    # A service account that may read recipes, and nothing else.
    k("create", "sa", "cook")
    k("create", "role", "reader", "--verb=get,list", "--resource=recipes.kitchen.example.com")
    k("create", "rolebinding", "readers", "--role=reader",
      f"--serviceaccount={user.namespace}:cook")  # fmt: skip
    cook = _with_token(user, k("create", "token", "cook", "--duration=30m").strip())
    assert "soup" in cook("get", "recipes")
    assert "cannot list resource" in cook.fails("get", "cm")
    rights = [line.split() for line in cook("auth", "can-i", "--list").splitlines()]
    assert ["recipes.kitchen.example.com", "[]", "[]", "[get", "list]"] in rights
    assert cook("auth", "can-i", "list", "recipes.kitchen.example.com") == "yes\n"
    assert cook.fails("auth", "can-i", "delete", "rcp").splitlines()[0] == "no"
    assert f"system:serviceaccount:{user.namespace}:cook" in cook("auth", "whoami")
    assert ["*.*", "[]", "[]", "[*]"] in [
        line.split() for line in boss("auth", "can-i", "--list").splitlines()
    ]
    k("auth", "reconcile", "-f", "-", stdin=as_list({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "reader", "namespace": user.namespace},
        "rules": [{
            "verbs": ["delete"], "apiGroups": ["kitchen.example.com"], "resources": ["recipes"],
        }],
    }))  # fmt: skip
    cook("delete", "rcp", "soup")

    # A person, by a certificate that is asked for and approved.
    key, asked = _request_of("dora")
    name = f"{user.namespace}-dora"
    boss("create", "-f", "-", stdin=asking(name, asked))
    assert "Pending" in boss("get", "csr", name)
    assert "approved" in boss("certificate", "approve", name)
    given = until(lambda: boss("get", "csr", name, "-o", "jsonpath={.status.certificate}"))
    assert "Approved,Issued" in boss("get", "csr", name)
    dora = _with_certificate(user, given, key)
    assert 'User "dora" cannot list' in dora.fails("get", "rcp")
    k("create", "rolebinding", "doras", "--role=reader", "--user=dora")
    assert dora("get", "rcp", "-o", "name") == ""
    assert "Forbidden" in dora.fails("get", "cm")
    assert "dora" in dora("auth", "whoami")
    name += "-not"
    boss("create", "-f", "-", stdin=asking(name, asked))
    assert "denied" in boss("certificate", "deny", name)
    assert "Denied" in boss("get", "csr", name)

    boss("delete", "csr", "--all")
    boss("delete", "crd", "recipes.kitchen.example.com", "--timeout=20s")
    # Who remembers what there was still asks for it.
    said = k.fails("get", "recipes")
    assert "doesn't have a resource type" in said or "could not find the requested" in said


def asking(name: str, request: str) -> Object:
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": request,
            "usages": ["client auth"],
            "signerName": "kubernetes.io/kube-apiserver-client",
        },
    }


def _request_of(name: str) -> tuple[bytes, str]:
    """A private key, and a request for a certificate as CertificateSigningRequests carry it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    asked = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return private, base64.b64encode(asked).decode()


def _with_certificate(user: User, certificate: str, key: bytes) -> Program:
    return _as(user, "certificate", {
        "client-certificate-data": certificate,
        "client-key-data": base64.b64encode(key).decode(),
    })  # fmt: skip


def _with_token(user: User, token: str) -> Program:
    return _as(user, "token", {"token": token})


def _as(user: User, name: str, credential: Object) -> Program:
    """kubectl with another credential, in the story's namespace."""
    config = yaml.safe_load(user.k.kubeconfig.read_text())
    config["users"][0]["user"] = credential
    path = user.k.home / f"{name}.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return Program(user.k.path, path, user.k.home / name, *user.k.always)


def smoking(user: User) -> None:
    """The versions in between: what differs from version to version, in short."""
    k = user.k
    k("apply", "-f", "-", stdin=as_list(deployment("web", replicas=2), configmap("conf", a="1")))
    k("rollout", "status", "deploy/web", "--timeout=30s")
    k("create", "secret", "generic", "s", "--from-literal=a=b")
    k("apply", "--server-side", "-f", "-", stdin=configmap("conf", a="1"))
    assert k.result("diff", "-f", "-", stdin=configmap("conf", a="2")).returncode == 1
    assert "rollingUpdate" in k("explain", "deploy.spec.strategy")
    assert "Running" in k("get", "pods", "-o", "wide")
    assert "Successfully assigned" in k("describe", "pods")
    k("wait", "deploy/web", "--for=condition=Available", "--timeout=30s")
    k("delete", "deploy/web", "--cascade=foreground", "--timeout=30s")
    assert "deployments" in k("api-resources")


STORIES: dict[str, Callable[[User], None]] = {
    f.__name__: f
    for f in (
        getting, describing, creating, applying, rolling_out, deleting, watching, looking_around,
        keeping_nodes, debugging, governing,
    )
}  # fmt: skip
CASES = [(story, version) for version in VERSIONS for story in STORIES]
CASES += [("smoking", version) for version in BETWEEN]
CASES += [("governing", "1.32")]  # The first that sends protobuf.


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Future[None]]]:
    """Every story that this run has selected, running."""
    programs = kubectls()
    wanted = [
        (item.callspec.params["story"], item.callspec.params["version"])
        for item in request.session.items
        if item.path == Path(__file__) and hasattr(item, "callspec")
    ]  # fmt: skip

    def tell(story: str, version: str) -> None:
        home = tmp_path_factory.mktemp(f"{story}-{version}-")
        # Whoever brings kinds along has a tenant of their own: others look at what there is.
        own = "-and-kinds" if story == "governing" else ""
        path, tenant = programs[version], cluster.tenant(tenant_of(version) + own)
        namespace = f"{story.replace('_', '-')}-{time.monotonic_ns() % 100_000}"
        k = Program(path, tenant, home, "-n", namespace)
        admin = Program(path, cluster.admin, home)
        k("create", "ns", namespace)
        {**STORIES, "smoking": smoking}[story](User(k, admin, namespace, version))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            (story, version): pool.submit(tell, story, version)
            for story, version in wanted
            if version in programs
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("story", "version"), CASES)
def test_kubectl(story: str, version: str, told: dict[tuple[str, str], Future[None]]) -> None:
    if (story, version) not in told:
        pytest.skip(f"no kubectl {version} here: neither on the path nor from npm")
    told[story, version].result(timeout=240)


# Bodies of either form


def test_json_and_protobuf_make_the_same(
    cluster: Cluster, make_kubectl: Callable[..., Program]
) -> None:
    """1.31 sends JSON where 1.33 sends protobuf."""
    made = []
    for version in ("1.31", "1.33"):
        k = make_kubectl(version, cluster.tenant("forms-" + version.replace(".", "-")))
        k("create", "ns", "shop")
        k = make_kubectl(version, k.kubeconfig, "-n", "shop")
        k("create", "cm", "c", "--from-literal=a=1", "--from-literal=empty=")
        k("create", "secret", "generic", "s", "--from-literal=a=\u00e4", "--type=example.org/x")
        k("create", "deploy", "d", "--image=nginx", "--replicas=0", "--port=80")
        k("create", "sa", "robot")
        k("create", "service", "clusterip", "svc", "--tcp=80:web,443:8443")
        k("create", "service", "loadbalancer", "lb", "--tcp=53")
        k("run", "one", "--image=nginx:1", "--env=A=", "--port=80", "--labels=a=b",
          "--overrides", json.dumps({"spec": {"nodeSelector": {"disk": "none"}}}))  # fmt: skip
        # Last: it would refuse the pod.
        k("create", "quota", "q", "--hard=cpu=1500m,pods=0,requests.memory=1Gi")
        found = k.json("get", "cm,secret,deploy,sa,quota,svc,pods", "--show-managed-fields")[
            "items"
        ]
        ours = (i for i in found if ROOT_CA not in i["metadata"]["name"])
        made.append(
            [_without_what_differs(i) for i in ours if "-token-" not in i["metadata"]["name"]]
        )
    assert made[0] == made[1]


def _without_what_differs(obj: Object) -> Object:
    meta = obj["metadata"]
    for name in ("uid", "hashKey", "resourceVersion", "creationTimestamp", "tenant"):
        meta.pop(name, None)
    meta["managedFields"] = [
        {**entry, "time": "", "manager": ""}
        for entry in meta.get("managedFields", ())
        if entry.get("subresource") != "status"
    ]
    obj.pop("status", None)
    spec = obj.get("spec", {})
    if obj["kind"] == "Pod":  # The volume with the token has a name of chance.
        spec["volumes"][0]["name"] = spec["containers"][0]["volumeMounts"][0]["name"] = ""
    for name in ("clusterIP", "clusterIPs"):
        obj.get("spec", {}).pop(name, None)
    (obj.get("metadata", {}).get("annotations") or {}).clear()
    for port in obj.get("spec", {}).get("ports", ()):
        port.pop("nodePort", None)
    return obj
