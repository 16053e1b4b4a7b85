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


# What an operator's chart has: its kind, rights, an object of the kind, and hooks round it all.
OPERATOR = {
    "Chart.yaml": "apiVersion: v2\nname: operator\nversion: 0.1.0\nkubeVersion: '>=1.25.0-0'\n",
    "values.yaml": "size: 3\n",
    "crds/gears.yaml": """\
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gears.chart.example.com}
spec:
  group: chart.example.com
  scope: Namespaced
  names: {plural: gears, singular: gear, kind: Gear, listKind: GearList}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer, minimum: 1}}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
""",
    "templates/rights.yaml": """\
{{- $who := dict "kind" "ServiceAccount" "name" .Release.Name "namespace" .Release.Namespace }}
apiVersion: v1
kind: ServiceAccount
metadata: {name: {{ .Release.Name }}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: {{ .Release.Name }}}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, list, watch, update]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: {{ .Release.Name }}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .Release.Name }}}
subjects: [{{ $who | toJson }}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: {{ .Release.Name }}-gears}
rules: [{apiGroups: [chart.example.com], resources: [gears, gears/status], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: {{ .Release.Name }}-gears}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ .Release.Name }}-gears}
subjects: [{{ $who | toJson }}]
""",
    "templates/gear.yaml": """\
apiVersion: chart.example.com/v1
kind: Gear
metadata: {name: {{ .Release.Name }}}
spec: {size: {{ .Values.size }}}
""",
    "templates/found.yaml": """\
{{- $ns := lookup "v1" "Namespace" "" .Release.Namespace }}
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data:
  namespace: {{ dig "metadata" "name" "" $ns | quote }}
  rbac: {{ .Capabilities.APIVersions.Has "rbac.authorization.k8s.io/v1" | quote }}
  gears: {{ .Capabilities.APIVersions.Has "chart.example.com/v1/Gear" | quote }}
""",
    # A pod that has to end well before anything else is made, and is removed then.
    "templates/before.yaml": """\
apiVersion: v1
kind: Pod
metadata:
  name: {{ .Release.Name }}-before
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-delete-policy: hook-succeeded,before-hook-creation
    arktos.io/simulated-run-seconds: "0.1"
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: migrate}]
""",
    "templates/after.yaml": """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-after
  annotations: {helm.sh/hook: "post-install,post-upgrade", helm.sh/hook-weight: "5"}
data: {revision: {{ .Release.Revision | quote }}}
""",
}


def written(files: dict[str, str], folder: Path) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(FILES, tmp_path_factory.mktemp("chart"))


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


@pytest.mark.parametrize("version", ["3", "4"])
def test_a_release_with_kinds_rights_and_hooks(
    version: str, cluster: Cluster, tmp_path: Path, helm: Callable[[str, Path], Program],
    kubectl: Callable[..., Program],
) -> None:  # fmt: skip
    """What is of the cluster elsewhere (kinds, cluster roles) is the tenant's: a tenant's
    administrator installs it, and another tenant may do the same."""
    chart = str(written(OPERATOR, tmp_path))
    wait = ("--wait", "--timeout", "40s")
    for name in (f"chart-{version}", f"chart-{version}-too"):
        tenant = cluster.tenant(name)
        h, k = helm(version, tenant), kubectl(tenant, "-n", "machines")
        h("install", "op", chart, "-n", "machines", "--create-namespace", *wait)
        assert k.json("get", "gear", "op")["spec"] == {"size": 3}
        assert k.json("get", "cm", "op")["data"]["rbac"] == "true"
        assert k.json("get", "cm", "op-after")["data"] == {"revision": "1"}
        assert k("get", "pods", "-o", "name") == ""
        account = "system:serviceaccount:machines:op"
        for right in (("patch", "gears"), ("update", "cm"), ("create", "gears", "-A")):
            assert k("auth", "can-i", *right, f"--as={account}") == "yes\n"
        k.fails("auth", "can-i", "create", "cm", f"--as={account}")

        h("upgrade", "op", chart, "-n", "machines", "--set", "size=5", *wait)
        assert k.json("get", "gear", "op")["spec"] == {"size": 5}
        assert k.json("get", "cm", "op-after")["data"] == {"revision": "2"}
        # The release was rendered before its namespace and its kind were there; this one after.
        assert k.json("get", "cm", "op")["data"] == {
            "namespace": "machines", "rbac": "true", "gears": "true",
        }  # fmt: skip
        refused = h.fails("upgrade", "op", chart, "-n", "machines", "--set", "size=0", *wait)
        assert "size" in refused
        h("rollback", "op", "1", "-n", "machines", *wait)
        assert k.json("get", "gear", "op")["spec"] == {"size": 3}
        assert json.loads(h("status", "op", "-n", "machines", "-o", "json"))["version"] == 4

        h("uninstall", "op", "-n", "machines", *wait)
        assert k("get", "gears", "-o", "name") == ""
        # Helm leaves the kinds that a chart brought, because of the objects.
        k("delete", "crd", "gears.chart.example.com", "--timeout=20s")
