"""Helm 3 and 4: a small chart installed, upgraded, rolled back and removed.

Helm 4 applies on the server and insists on owning what it wrote; both keep their releases in
Secrets, sent as protobuf.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from livekit import Cluster, Program, until

pytestmark = pytest.mark.live

FILES = {
    "Chart.yaml": "apiVersion: v2\nname: shop\nversion: 0.1.0\n",
    "values.yaml": "replicas: 2\nimage: nginx:1\ngreeting: hello\n",
    "templates/deployment.yaml": """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}
  labels: {app.kubernetes.io/managed-by: {{ .Release.Service }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: {{ .Values.image }}
        ports: [{containerPort: 80}]
        envFrom: [{configMapRef: {name: {{ .Release.Name }}}}]
""",
    "templates/service.yaml": """\
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80}]}
""",
    "templates/configmap.yaml": """\
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data: {greeting: {{ .Values.greeting | quote }}}
""",
}


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chart")
    (folder / "templates").mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("version", ["3", "4"])
def test_a_release(
    version: str, cluster: Cluster, chart: Path, helm: Callable[[str, Path], Program],
    kubectl: Callable[..., Program],
) -> None:  # fmt: skip
    tenant = cluster.tenant(f"helm-{version}")
    h, k = helm(version, tenant), kubectl(tenant)
    wait = ("--wait", "--timeout", "40s")

    h("install", "shop", str(chart), *wait)
    assert k.json("get", "deploy", "shop")["status"]["readyReplicas"] == 2
    assert k.json("get", "cm", "shop")["data"] == {"greeting": "hello"}
    assert "cannot" in h.fails("install", "shop", str(chart))

    upgraded = ("--set", "image=nginx:2,replicas=3,greeting=servus")
    h("upgrade", "shop", str(chart), *upgraded, *wait)
    deploy = k.json("get", "deploy", "shop")
    assert deploy["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:2"
    assert deploy["status"]["updatedReplicas"] == 3
    assert k.json("get", "cm", "shop")["data"] == {"greeting": "servus"}
    history = json.loads(h("history", "shop", "-o", "json"))
    assert [entry["revision"] for entry in history] == [1, 2]

    h("rollback", "shop", "1", *wait)
    deploy = k.json("get", "deploy", "shop")
    assert deploy["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:1"
    assert deploy["spec"]["replicas"] == 2
    listed = json.loads(h("list", "-o", "json"))
    assert [(r["name"], r["revision"], r["status"]) for r in listed] == [("shop", "3", "deployed")]
    assert "nginx:1" in h("get", "manifest", "shop")
    assert len(k("get", "secrets", "-l", "owner=helm,name=shop", "-o", "name").split()) == 3
    h("upgrade", "--install", "shop", str(chart), "--dry-run=server")

    h("uninstall", "shop", *wait)
    left = k("get", "deploy,svc,cm,secrets", "-o", "name").split()
    # What every namespace has.
    assert not [name for name in left if "kube-root-ca" not in name and "-token-" not in name]
    until(lambda: not k("get", "pods,rs,ep,endpointslices", "-o", "name"))
