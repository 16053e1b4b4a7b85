from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api import scheme, tables

Object = dict[str, Any]
NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
PODS = scheme.resource("pods")


def ago(**delta: float) -> str:
    return (NOW - timedelta(**delta)).strftime("%Y-%m-%dT%H:%M:%SZ")


def shown(gvr: str, obj: Object) -> dict[str, Any]:
    """The row, by the names of its columns."""
    resource = scheme.resource(gvr)
    obj.setdefault("metadata", {"name": "x", "creationTimestamp": ago(minutes=5)})
    cells = tables.row(resource, obj, NOW.timestamp())
    names = [column["name"] for column in tables.columns(resource)]
    return dict(zip(names, cells, strict=True))


def pod(phase: str = "Running", *states: Object, **more: Any) -> Object:
    meta = more.pop("metadata", {})
    spec = more.pop("spec", {"containers": [{"name": f"c{i}"} for i in range(len(states))]})
    return {
        "metadata": {"name": "x", "creationTimestamp": ago(minutes=5), **meta},
        "spec": spec,
        "status": {
            "phase": phase,
            "containerStatuses": [{"name": f"c{i}", **state} for i, state in enumerate(states)],
            **more,
        },
    }


UP = {"ready": True, "restartCount": 0, "state": {"running": {}}}
CRASHING = {
    "ready": False,
    "restartCount": 3,
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"exitCode": 1, "finishedAt": ago(minutes=5)}},
}


def ended(code: int = 0, **more: Any) -> Object:
    return {"ready": False, "restartCount": 0, "state": {"terminated": {"exitCode": code, **more}}}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (200, "3m20s"),
        (600, "10m"), (3 * 3600 - 1, "179m"), (3 * 3600, "3h"), (3.5 * 3600, "3h30m"),
        (8 * 3600, "8h"), (47 * 3600, "47h"), (48 * 3600, "2d"), (52 * 3600, "2d4h"),
        (8 * 86400, "8d"), (729 * 86400, "729d"), (730 * 86400, "2y"), (735 * 86400, "2y5d"),
        (9 * 365 * 86400, "9y"),
    ],
)  # fmt: skip
def test_ages_read_like_kubectls(seconds: float, text: str) -> None:
    assert tables.human_duration(seconds) == text


@given(st.floats(min_value=0, max_value=1e10))
def test_no_age_has_more_than_two_units(seconds: float) -> None:
    assert sum(c.isalpha() for c in tables.human_duration(seconds)) in (1, 2)


@pytest.mark.parametrize(
    ("obj", "ready", "status", "restarts"),
    [
        (pod("Pending"), "0/0", "Pending", "0"),
        (pod("Running", UP), "1/1", "Running", "0"),
        (pod("Running", UP, CRASHING), "1/2", "CrashLoopBackOff", "3 (5m ago)"),
        (pod("Pending", {"state": {"waiting": {"reason": "ContainerCreating"}}}),
         "0/1", "ContainerCreating", "0"),
        (pod("Succeeded", ended(reason="Completed")), "0/1", "Completed", "0"),
        (pod("Failed", ended(3)), "0/1", "ExitCode:3", "0"),
        (pod("Failed", ended(137, signal=9)), "0/1", "Signal:9", "0"),
        (pod("Failed", reason="Evicted"), "0/0", "Evicted", "0"),
        # One container is done, the other goes on.
        (pod("Running", ended(reason="Completed"), UP,
             conditions=[{"type": "Ready", "status": "True"}]), "1/2", "Running", "0"),
        (pod("Running", ended(reason="Completed"), UP), "1/2", "NotReady", "0"),
        (pod("Running", UP, metadata={"deletionTimestamp": ago()}), "1/1", "Terminating", "0"),
        (pod("Succeeded", ended(reason="Completed"), metadata={"deletionTimestamp": ago()}),
         "0/1", "Completed", "0"),
        (pod("Running", UP, metadata={"deletionTimestamp": ago()}, reason="NodeLost"),
         "1/1", "Unknown", "0"),
        (pod("Pending", conditions=[{"type": "PodScheduled", "reason": "SchedulingGated"}]),
         "0/0", "SchedulingGated", "0"),
    ],
)  # fmt: skip
def test_the_state_of_a_pod_in_a_word(obj: Object, ready: str, status: str, restarts: str) -> None:
    cells = shown("pods", obj)
    assert (cells["Ready"], cells["Status"], cells["Restarts"]) == (ready, status, restarts)


TWO_INITS = {
    "containers": [{"name": "c0"}],
    "initContainers": [{"name": "side", "restartPolicy": "Always"}, {"name": "once"}],
}


@pytest.mark.parametrize(
    ("inits", "ready", "status", "restarts"),
    [
        ([{"name": "side", "state": {"waiting": {"reason": "PodInitializing"}}}],
         "0/2", "Init:0/2", "0"),
        ([{"name": "side", "started": True, "ready": True, "restartCount": 1},
          {"name": "once", "state": {"running": {}}}], "1/2", "Init:1/2", "1"),
        ([{"name": "side", "started": True, "ready": True},
          {"name": "once", "restartCount": 2, "state": {"terminated": {"exitCode": 1}}}],
         "1/2", "Init:ExitCode:1", "2"),
        ([{"name": "side", "started": True, "ready": True},
          {"name": "once", "state": {"waiting": {"reason": "ImagePullBackOff"}}}],
         "1/2", "Init:ImagePullBackOff", "0"),
    ],
)  # fmt: skip
def test_a_pod_that_initialises_says_how_far_it_is(
    inits: list[Object], ready: str, status: str, restarts: str
) -> None:
    cells = shown("pods", pod("Pending", spec=TWO_INITS, initContainerStatuses=inits))
    assert (cells["Ready"], cells["Status"], cells["Restarts"]) == (ready, status, restarts)


def test_once_initialised_only_restarts_of_what_stays_count() -> None:
    inits = [
        {"name": "side", "started": True, "ready": True, "restartCount": 1},
        {"name": "once", "restartCount": 5, "state": {"terminated": {"exitCode": 0}}},
    ]
    cells = shown("pods", pod("Running", UP, spec=TWO_INITS, initContainerStatuses=inits))
    assert (cells["Ready"], cells["Status"], cells["Restarts"]) == ("2/2", "Running", "1")


def test_a_vm_counts_as_one_container() -> None:
    vm = {"virtualMachine": {"name": "vm", "image": "i"}}
    obj = pod("Running", spec=vm, virtualMachineStatus={"ready": True, "restartCount": 2})
    assert shown("pods", obj)["Ready"] == "1/1"
    assert shown("pods", obj)["Restarts"] == "2"


def test_the_wide_columns_of_a_pod() -> None:
    obj = pod(
        "Running", UP, metadata={"hashKey": 7}, podIPs=[{"ip": "10.0.0.1"}],
        conditions=[{"type": "a/b", "status": "True"}],
        spec={"containers": [{"name": "c"}], "nodeName": "n1",
              "readinessGates": [{"conditionType": "a/b"}, {"conditionType": "c/d"}]},
    )  # fmt: skip
    cells = shown("pods", obj)
    assert cells["IP"] == "10.0.0.1"
    assert cells["Node"] == "n1"
    assert cells["Nominated Node"] == "<none>"
    assert cells["Readiness Gates"] == "1/2"
    assert cells["HashKey"] == 7


@pytest.mark.parametrize("resource", scheme.RESOURCES, ids=lambda r: r.gvr)
def test_every_kind_prints_even_when_it_is_nearly_empty(resource: scheme.Resource) -> None:
    stored = orjson.dumps({"metadata": {"name": "x"}})
    body = orjson.loads(tables.table(resource, [stored], {}, 0.0))
    (row,) = body["rows"]
    assert len(row["cells"]) == len(body["columnDefinitions"])
    names = [c["name"] for c in body["columnDefinitions"]]
    assert row["cells"][names.index("Name")] == "x"


def test_stock_users_see_the_columns_they_know() -> None:
    seen = [c["name"] for c in tables.columns(PODS) if c["priority"] == 0]
    assert seen == ["Name", "Ready", "Status", "Restarts", "Age"]


TEMPLATE = {"spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j"}]}}


@pytest.mark.parametrize(
    ("gvr", "obj", "expected"),
    [
        ("deployments.apps",
         {"spec": {"replicas": 3, "template": TEMPLATE, "selector": {
             "matchLabels": {"b": "1"},
             "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]},
                                  {"key": "c", "operator": "DoesNotExist"}]}},
          "status": {"readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2}},
         {"Ready": "2/3", "Up-to-date": 1, "Available": 2, "Age": "5m", "Containers": "a,b",
          "Images": "i:1,j", "Selector": "a in (x,y),b=1,!c"}),
        ("replicasets.apps", {"spec": {"replicas": 3}, "status": {"replicas": 2}},
         {"Desired": 3, "Current": 2, "Ready": 0}),
        ("services",
         {"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [
             {"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}},
         {"Type": "NodePort", "Cluster-IP": "10.0.0.1", "External-IP": "<none>",
          "Port(s)": "80:30080/TCP,53/UDP", "Selector": "<none>"}),
        ("services", {"spec": {"type": "LoadBalancer"}}, {"External-IP": "<pending>"}),
        ("services", {"spec": {"type": "ExternalName", "externalName": "a.b"}},
         {"Cluster-IP": "<none>", "External-IP": "a.b", "Port(s)": "<none>"}),
        ("endpoints", {"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                                    "ports": [{"port": 80}, {"port": 81}]}]},
         {"Endpoints": "10.0.0.1:80,[fd00::1]:80,10.0.0.1:81 + 1 more..."}),
        ("endpoints", {}, {"Endpoints": "<none>"}),
        ("endpointslices.discovery.k8s.io",
         {"addressType": "IPv4", "ports": [{"port": 80}],
          "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]},
         {"AddressType": "IPv4", "Ports": "80", "Endpoints": "10.0.0.1,10.0.0.2"}),
        ("nodes",
         {"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "",
                                               "node-role.kubernetes.io/control-plane": ""}},
          "spec": {"unschedulable": True},
          "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
                     "addresses": [{"type": "InternalIP", "address": "10.0.0.9"}],
                     "nodeInfo": {"kubeletVersion": "v1"}}},
         {"Status": "NotReady,SchedulingDisabled", "Roles": "control-plane,worker", "Version": "v1",
          "Internal-IP": "10.0.0.9", "External-IP": "<none>", "OS-Image": "<unknown>",
          "Age": "<unknown>"}),
        ("events",
         {"involvedObject": {"kind": "Pod", "name": "p"}, "type": "Normal", "reason": "Started",
          "message": "up\n", "count": 3, "source": {"component": "agent", "host": "n1"},
          "firstTimestamp": ago(minutes=10), "lastTimestamp": ago(seconds=30)},
         {"Last Seen": "30s", "Object": "pod/p", "Message": "up", "First Seen": "10m", "Count": 3,
          "Source": "agent, n1"}),
        ("events",
         {"involvedObject": {"kind": "Pod", "name": "p"}, "message": "up",
          "eventTime": ago(seconds=9), "reportingComponent": "c/d",
          "series": {"count": 4, "lastObservedTime": ago(seconds=1)}},
         {"Last Seen": "1s", "First Seen": "9s", "Count": 4, "Message": "up", "Source": "c/d"}),
        ("resourcequotas",
         {"status": {"hard": {"pods": "5", "limits.cpu": "2"}, "used": {"pods": "1"}}},
         {"Request": "pods: 1/5", "Limit": "limits.cpu: 0/2"}),
        ("namespaces", {"metadata": {"name": "n", "tenant": "acme"}, "status": {"phase": "Active"}},
         {"Status": "Active", "Tenant": "acme"}),
        ("tenants", {"spec": {"storageClusterId": "0"}, "status": {"phase": "Active"}},
         {"StorageId": "0", "Status": "Active"}),
        ("configmaps", {"data": {"a": ""}, "binaryData": {"b": ""}}, {"Data": 2}),
        ("secrets", {"data": {"a": ""}, "type": "Opaque"}, {"Type": "Opaque", "Data": 1}),
        ("leases.coordination.k8s.io", {"spec": {"holderIdentity": "me"}}, {"Holder": "me"}),
        ("controllerrevisions.apps",
         {"metadata": {"name": "r", "ownerReferences": [
             {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "controller": True}]},
          "revision": 4}, {"Controller": "daemonset.apps/d", "Revision": 4}),
        ("rolebindings.rbac.authorization.k8s.io",
         {"roleRef": {"kind": "ClusterRole", "name": "view"},
          "subjects": [{"kind": "User", "name": "ann"}, {"kind": "User", "name": "bob"},
                       {"kind": "ServiceAccount", "namespace": "n", "name": "bot"}]},
         {"Role": "ClusterRole/view", "Users": "ann, bob", "Groups": "",
          "ServiceAccounts": "n/bot"}),
    ],
)  # fmt: skip
def test_cells(gvr: str, obj: Object, expected: dict[str, Any]) -> None:
    cells = shown(gvr, obj)
    assert {name: cells[name] for name in expected} == expected


def test_a_table_carries_as_much_of_the_objects_as_was_asked_for() -> None:
    stored = b'{"kind":"Pod", "metadata":{"name":"x"},"spec":{}}'
    meta = {"resourceVersion": "7"}
    partial = orjson.loads(tables.table(PODS, [stored], meta, 0.0, version="v1beta1"))
    assert partial["apiVersion"] == "meta.k8s.io/v1beta1"
    assert partial["metadata"] == meta
    assert partial["rows"][0]["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1beta1",
        "metadata": {"name": "x"},
    }
    # Not even the blanks of the stored object are touched.
    assert stored in tables.table(PODS, [stored], meta, 0.0, "Object")
    bare = orjson.loads(tables.table(PODS, [stored], meta, 0.0, "None", with_columns=False))
    assert bare["rows"][0]["object"] is None
    assert bare["columnDefinitions"] == []


def test_finished_pods_are_marked_for_clients_that_hide_them() -> None:
    stored = orjson.dumps(pod("Succeeded"))
    (row,) = orjson.loads(tables.table(PODS, [stored], {}, 0.0))["rows"]
    assert row["conditions"][0]["reason"] == "Succeeded"
