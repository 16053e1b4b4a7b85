"""What informers keep of a pod or node is as it was; the rest is gone, and equal parts are one."""

from __future__ import annotations

import copy
from typing import Any

from arktos_ray.client.slim import slim_node, slim_pod

Object = dict[str, Any]


def pod(name: str) -> Object:
    return {
        "metadata": {
            "name": name, "uid": name, "labels": {"app": "web"}, "managedFields": [{"a": 1}],
            "ownerReferences": [{"kind": "ReplicaSet", "uid": "u", "controller": True}],
            "annotations": {"controller.kubernetes.io/pod-deletion-cost": "5"},
        },
        "spec": {
            "nodeName": "n1", "hostname": "h", "tolerations": [{"key": "k"}],
            "containers": [
                {"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 80}]}
            ],
            "initContainers": [{"name": "s", "restartPolicy": "Always", "image": "i"}],
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
            "conditions": [
                {"type": "Initialized", "status": "True"},
                {"type": "Ready", "status": "True", "lastTransitionTime": "t"},
            ],
            "containerStatuses": [{"name": "c", "restartCount": 2}, {"restartCount": 1}],
        },
    }  # fmt: skip


def test_a_pod_keeps_what_controllers_read() -> None:
    whole = pod("a")
    slim = slim_pod(copy.deepcopy(whole))
    assert slim["metadata"] == {k: v for k, v in whole["metadata"].items() if k != "managedFields"}
    assert slim["spec"] == {
        "nodeName": "n1", "hostname": "h",
        "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}],
        "initContainers": [{"name": "s", "restartPolicy": "Always"}],
    }  # fmt: skip
    assert slim["status"]["conditions"] == [whole["status"]["conditions"][1]]
    assert slim["status"]["podIPs"] == [{"ip": "10.0.0.1"}]
    assert [each["restartCount"] for each in slim["status"]["containerStatuses"]] == [3]


def test_equal_parts_of_two_pods_are_one_object_and_different_ones_are_not() -> None:
    first, second, other = slim_pod(pod("a")), slim_pod(pod("b")), pod("c")
    other["metadata"]["labels"] = {"app": "db"}
    other["spec"]["containers"][0]["ports"][0]["containerPort"] = 81
    slim_pod(other)
    for part in ("labels", "ownerReferences"):
        assert first["metadata"][part] is second["metadata"][part]
    assert first["spec"]["containers"] is second["spec"]["containers"]
    assert other["metadata"]["labels"] == {"app": "db"}
    assert other["spec"]["containers"][0]["ports"][0]["containerPort"] == 81


def test_a_pod_that_has_hardly_anything_is_taken_as_it_is() -> None:
    assert slim_pod({"metadata": {"name": "a"}, "spec": {}})["spec"] == {"containers": []}


def test_a_node_keeps_its_taints_and_every_condition() -> None:
    conditions = [{"type": "Ready", "status": "True", "lastHeartbeatTime": "t"},
                  {"type": "Custom", "status": "False"}]  # fmt: skip
    slim = slim_node(
        {
            "metadata": {"name": "n", "uid": "u", "resourceVersion": "5", "labels": {"a": "b"}},
            "spec": {"taints": [{"key": "k"}], "unschedulable": True, "podCIDR": "10.0.0.0/24"},
            "status": {"conditions": list(conditions), "capacity": {"cpu": "1"}, "images": []},
        }
    )
    assert slim == {
        "metadata": {"name": "n", "uid": "u", "resourceVersion": "5"},
        "spec": {"taints": [{"key": "k"}], "unschedulable": True},
        "status": {"conditions": conditions},
    }
