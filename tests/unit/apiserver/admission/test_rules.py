"""Tolerations, accounts, priorities, namespaces: what admission adds to objects and refuses."""

from __future__ import annotations

from typing import Any

import pytest

from arktos_ray.api import errors
from arktos_ray.apiserver.admission import (
    daemon_set,
    limit_ranger,
    namespace,
    network,
    priority,
    service_account,
    storage_class,
    tolerations,
)

Object = dict[str, Any]


def pod(**spec: Any) -> Object:
    return {"metadata": {"name": "web"}, "spec": spec}


def tolerated(*given: Object) -> list[tuple[str | None, int | None]]:
    obj = pod(tolerations=list(given))
    tolerations.apply(obj)
    return [(t.get("key"), t.get("tolerationSeconds")) for t in obj["spec"]["tolerations"]]


def test_a_pod_outlives_its_node_by_five_minutes() -> None:
    assert tolerated() == [
        ("node.kubernetes.io/not-ready", 300),
        ("node.kubernetes.io/unreachable", 300),
    ]


def test_a_pod_that_says_how_long_is_left_alone() -> None:
    own = {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "tolerationSeconds": 5}
    assert tolerated(own) == [
        ("node.kubernetes.io/not-ready", 5),
        ("node.kubernetes.io/unreachable", 300),
    ]
    assert tolerated({"operator": "Exists"}) == [(None, None)]
    other = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
    assert len(tolerated(other)) == 3


def test_a_pod_acts_as_somebody() -> None:
    obj = pod()
    service_account.apply(obj)
    assert obj["spec"] == {"serviceAccountName": "default", "serviceAccount": "default"}
    obj = pod(serviceAccountName="robot")
    service_account.apply(obj)
    assert obj["spec"]["serviceAccount"] == "robot"


def test_every_container_finds_the_token_unless_it_has_something_there() -> None:
    own = {"name": "x", "mountPath": service_account.MOUNT_PATH}
    obj = pod(containers=[{"name": "a"}, {"name": "b", "volumeMounts": [own]}],
              initContainers=[{"name": "i"}])  # fmt: skip
    service_account.mount(obj, {}, "abcde")
    mounted = {"name": "kube-api-access-abcde", "readOnly": True,
               "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}  # fmt: skip
    [a, b] = obj["spec"]["containers"]
    assert a["volumeMounts"] == [mounted]
    assert b["volumeMounts"] == [own]
    assert obj["spec"]["initContainers"][0]["volumeMounts"] == [mounted]
    [volume] = obj["spec"]["volumes"]
    assert volume["name"] == "kube-api-access-abcde"
    assert [next(iter(each)) for each in volume["projected"]["sources"]] == [
        "serviceAccountToken", "configMap", "downwardAPI",
    ]  # fmt: skip
    again = {"metadata": {}, "spec": {**obj["spec"]}}
    service_account.mount(again, {}, "other")
    assert again["spec"]["volumes"] == [volume]


@pytest.mark.parametrize(
    ("of_pod", "of_account", "mounted"),
    [
        (None, None, True), (None, False, False), (False, None, False), (True, False, True),
        (False, True, False),
    ],
)  # fmt: skip
def test_a_pod_or_its_account_may_do_without_a_token(
    of_pod: bool | None, of_account: bool | None, mounted: bool
) -> None:
    obj = pod(containers=[{"name": "a"}])
    if of_pod is not None:
        obj["spec"]["automountServiceAccountToken"] = of_pod
    account = {} if of_account is None else {"automountServiceAccountToken": of_account}
    service_account.mount(obj, {**account, "imagePullSecrets": [{"name": "s"}]}, "x")
    assert ("volumes" in obj["spec"]) == mounted
    assert obj["spec"]["imagePullSecrets"] == [{"name": "s"}]


@pytest.mark.parametrize(
    ("name", "value"),
    [("", 0), ("system-node-critical", 2000001000), ("system-cluster-critical", 2000000000)],
)
def test_a_class_becomes_a_number(name: str, value: int) -> None:
    obj = pod(priorityClassName=name)
    priority.apply(obj)
    assert obj["spec"]["priority"] == value
    assert obj["spec"]["preemptionPolicy"] == "PreemptLowerPriority"


def test_a_class_of_our_own_and_the_global_default() -> None:
    classes = {
        "high": {"value": 100, "preemptionPolicy": "Never"},
        "usual": {"value": 7, "globalDefault": True},
    }
    obj = pod(priorityClassName="high")
    priority.apply(obj, classes)
    assert (obj["spec"]["priority"], obj["spec"]["preemptionPolicy"]) == (100, "Never")
    obj = pod()
    priority.apply(obj, classes)
    assert (obj["spec"]["priority"], obj["spec"]["priorityClassName"]) == (7, "usual")


def test_an_unknown_class_is_refused_by_name() -> None:
    with pytest.raises(errors.Forbidden) as refusal:
        priority.apply(pod(priorityClassName="gold"))
    assert refusal.value.message == (
        'pods "web" is forbidden: no PriorityClass with name gold was found'
    )


def test_nobody_gives_themselves_a_number() -> None:
    with pytest.raises(errors.Forbidden, match=r"integer value of priority \(5\) must not be"):
        priority.apply(pod(priority=5))
    priority.apply(pod(priority=0))


ACTIVE: Object = {"metadata": {"name": "x"}, "status": {"phase": "Active"}}
ENDING: Object = {"metadata": {"name": "x"}, "status": {"phase": "Terminating"}}


def test_nothing_is_made_in_a_missing_place() -> None:
    with pytest.raises(errors.NotFound) as refusal:
        namespace.check_tenant("acme", None)
    assert refusal.value.message == 'tenants "acme" not found'
    with pytest.raises(errors.NotFound) as refusal:
        namespace.check_namespace("acme", "dev", None)
    assert refusal.value.message == 'namespaces "dev" not found'
    namespace.check_tenant("acme", ACTIVE)
    namespace.check_namespace("acme", "dev", ACTIVE)
    namespace.check_tenant("system", None)  # exists before anything else does


def test_nothing_is_made_in_a_place_that_ends() -> None:
    with pytest.raises(errors.Forbidden) as refusal:
        namespace.check_tenant("acme", ENDING)
    assert refusal.value.message == (
        "unable to create new content in tenant acme because it is being terminated"
    )
    with pytest.raises(errors.Forbidden) as refusal:
        namespace.check_namespace("acme", "dev", ENDING, 'pods "web"')
    assert refusal.value.message == (
        'pods "web" is forbidden: unable to create new content in namespace acme/dev because it is '
        "being terminated"
    )
    assert refusal.value.details is not None
    assert refusal.value.details["causes"][0]["reason"] == "NamespaceTerminating"


@pytest.mark.parametrize("name", ["default", "kube-system", "kube-public"])
def test_some_namespaces_live_as_long_as_their_tenant(name: str) -> None:
    with pytest.raises(errors.Forbidden) as refusal:
        namespace.check_delete("acme", name, tenant_terminating=False)
    assert refusal.value.message == (
        f'namespaces "acme/{name}" is forbidden: this namespace may not be deleted'
    )
    namespace.check_delete("acme", name, tenant_terminating=True)
    namespace.check_delete("acme", "dev", tenant_terminating=False)


def test_the_system_tenant_stays() -> None:
    with pytest.raises(errors.Forbidden) as refusal:
        namespace.check_delete_tenant("system")
    assert refusal.value.message == (
        'tenants "system" is forbidden: this tenant may not be deleted'
    )  # fmt: skip
    namespace.check_delete_tenant("acme")


def test_only_the_system_runs_daemons_on_every_node() -> None:
    daemons: dict[str, Any] = {"metadata": {"name": "d"}}
    daemon_set.check("system", daemons)
    with pytest.raises(errors.Forbidden, match="only system tenant is allowed to have DaemonSet"):
        daemon_set.check("acme", daemons)


@pytest.mark.parametrize(
    ("ours", "pods", "fits"),
    [("", "", True), ("a", "a", True), ("a", "b", False), ("a", "", False), ("", "a", False)],
)
def test_a_deployment_and_its_pods_are_in_one_network(ours: str, pods: str, fits: bool) -> None:
    def labels(network_name: str) -> dict[str, Any]:
        return {"labels": {network.LABEL: network_name}} if network_name else {}

    deployment = {"metadata": labels(ours), "spec": {"template": {"metadata": labels(pods)}}}
    if fits:
        network.check_deployment(deployment)
    else:
        with pytest.raises(errors.BadRequest, match="conflicting network label"):
            network.check_deployment(deployment)


def test_a_claim_without_a_class_gets_the_newest_default() -> None:
    mark = {"storageclass.kubernetes.io/is-default-class": "true"}
    classes = [
        {"metadata": {"name": "a", "creationTimestamp": "2026-01-01", "annotations": mark}},
        {"metadata": {"name": "b", "creationTimestamp": "2026-01-02", "annotations": mark}},
        {"metadata": {"name": "c", "creationTimestamp": "2026-01-03"}},
    ]
    claim: dict[str, Any] = {"metadata": {"name": "x"}, "spec": {}}
    storage_class.apply(claim, classes)
    assert claim["spec"] == {"storageClassName": "b"}
    none: dict[str, Any] = {"metadata": {"name": "x"}, "spec": {"storageClassName": ""}}
    storage_class.apply(none, classes)
    assert none["spec"] == {"storageClassName": ""}, "it asks for none"


def test_a_claim_keeps_to_the_bounds_of_its_namespace() -> None:
    bounds = {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}
    ranges = [{"spec": {"limits": [bounds]}}]

    def claim(storage: str) -> dict[str, Any]:
        spec = {"resources": {"requests": {"storage": storage}}}
        return {"metadata": {"name": "x"}, "spec": spec}

    limit_ranger.check_claim(claim("1Gi"), ranges)
    with pytest.raises(errors.Forbidden) as refusal:
        limit_ranger.check_claim(claim("3Gi"), ranges)
    assert refusal.value.message == (
        'persistentvolumeclaims "x" is forbidden: maximum storage usage per PersistentVolumeClaim '
        "is 2Gi, but request is 3Gi"
    )
    with pytest.raises(errors.Forbidden, match="minimum storage usage"):
        limit_ranger.check_claim(claim("500Mi"), ranges)
