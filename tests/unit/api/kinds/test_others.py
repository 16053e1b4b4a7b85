"""Every kind but Pod."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest

from arktos_ray.api import kinds, scheme

NOW = "2026-11-23T00:00:00Z"
Object = dict[str, Any]


def make(gvr: str, **body: Any) -> Object:
    """A new object as the server would store it."""
    resource, rules = scheme.resource(gvr), kinds.rules(gvr)
    obj: Object = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": "x", "uid": "u", **body.pop("metadata", {})},
        **copy.deepcopy(body),
    }
    if resource.tenanted:
        obj["metadata"].setdefault("tenant", "acme")
    if resource.namespaced:
        obj["metadata"].setdefault("namespace", "default")
    rules.default(obj)
    rules.prepare_create(obj, NOW)
    return obj


def told(gvr: str, obj: Object) -> list[str]:
    return [f"{c.field}: {c.message}" for c in kinds.rules(gvr).validate(obj)]


def changed(gvr: str, old: Object, subresource: str = "", **body: Any) -> tuple[Object, list[str]]:
    rules, new = kinds.rules(gvr), {**copy.deepcopy(old), **copy.deepcopy(body)}
    rules.prepare_update(new, old, subresource)
    rules.default(new)
    causes = rules.validate_update(new, old, subresource)
    return new, [f"{c.field}: {c.message}" for c in causes]


@pytest.mark.parametrize("gvr", [r.gvr for r in scheme.RESOURCES])
def test_every_kind_has_rules_that_survive_an_empty_object(gvr: str) -> None:
    rules = kinds.rules(gvr)
    obj: Object = {"metadata": {"name": "x"}}
    rules.default(obj)
    rules.prepare_create(obj, NOW)
    rules.validate(obj)
    once = copy.deepcopy(obj)
    rules.default(obj)
    assert obj == once
    for subresource in ("", *rules.resource.subresources):
        new = copy.deepcopy(obj)
        rules.prepare_update(new, obj, subresource)
        assert rules.validate_update(new, obj, subresource) == rules.validate_update(
            obj, obj, subresource
        )


# --- workloads ------------------------------------------------------------------------------------

TEMPLATE = {
    "metadata": {"labels": {"app": "web"}},
    "spec": {"containers": [{"name": "web", "image": "nginx:1"}]},
}
SELECTOR = {"matchLabels": {"app": "web"}}


def test_a_minimal_deployment_gets_what_every_client_expects() -> None:
    obj = make("deployments.apps", spec={"selector": SELECTOR, "template": TEMPLATE})
    spec = obj["spec"]
    assert told("deployments.apps", obj) == []
    assert spec["replicas"] == 1
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"},
    }
    assert spec["revisionHistoryLimit"] == 10
    assert spec["progressDeadlineSeconds"] == 600
    assert spec["template"]["spec"]["securityContext"] == {}
    # Only pods get these, never templates.
    assert "enableServiceLinks" not in spec["template"]["spec"]
    assert obj["metadata"]["generation"] == 1


def test_a_template_does_not_ask_for_its_limits() -> None:
    template = copy.deepcopy(TEMPLATE)
    template["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "1"}}  # type: ignore[index]
    obj = make("replicasets.apps", spec={"selector": SELECTOR, "template": template})
    container = obj["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"] == {"limits": {"cpu": "1"}}


def test_a_selector_must_find_its_own_pods() -> None:
    other = {"matchLabels": {"app": "db"}}
    obj = make("deployments.apps", spec={"selector": other, "template": TEMPLATE})
    assert told("deployments.apps", obj) == [
        'spec.template.metadata.labels: Invalid value: {"app":"web"}: `selector` does not match '
        "template `labels`"
    ]


def test_a_selector_is_required_and_never_changes() -> None:
    obj = make("deployments.apps", spec={"template": TEMPLATE})
    assert told("deployments.apps", obj) == ["spec.selector: Required value"]
    old = make("deployments.apps", spec={"selector": SELECTOR, "template": TEMPLATE})
    wider = {"matchExpressions": [{"key": "app", "operator": "Exists"}]}
    _, lines = changed("deployments.apps", old, spec={**old["spec"], "selector": wider})
    (line,) = lines
    assert line.startswith("spec.selector: Invalid value: ")
    assert line.endswith(": field is immutable")


def test_a_rollout_must_be_able_to_move() -> None:
    stuck = {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}
    obj = make(
        "deployments.apps", spec={"selector": SELECTOR, "template": TEMPLATE, "strategy": stuck}
    )
    assert told("deployments.apps", obj) == [
        "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when "
        "`maxSurge` is 0"
    ]


def test_annotations_of_a_deployment_are_a_new_generation() -> None:
    old = make("deployments.apps", spec={"selector": SELECTOR, "template": TEMPLATE})
    meta = {**old["metadata"], "annotations": {"a": "b"}}
    new, lines = changed("deployments.apps", old, metadata=meta)
    assert lines == []
    assert new["metadata"]["generation"] == 2
    new, _ = changed("deployments.apps", old, "status", status={"replicas": 1})
    assert new["metadata"]["generation"] == 1


def test_pods_of_a_replica_set_restart_always() -> None:
    template = copy.deepcopy(TEMPLATE)
    template["spec"]["restartPolicy"] = "Never"  # type: ignore[index]
    obj = make("replicasets.apps", spec={"selector": SELECTOR, "template": template})
    assert told("replicasets.apps", obj) == [
        'spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"'
    ]


# --- services -------------------------------------------------------------------------------------


def service(**spec: Any) -> Object:
    return make("services", spec={"ports": [{"port": 80}], **spec})


def test_a_minimal_service_gets_what_every_client_expects() -> None:
    obj = service(selector={"app": "web"})
    assert told("services", obj) == []
    assert obj["spec"] == {
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "selector": {"app": "web"},
        "sessionAffinity": "None",
        "type": "ClusterIP",
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
    }
    assert obj["status"] == {"loadBalancer": {}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"ports": []}, "spec.ports: Required value"),
        ({"ports": [{"port": 1}, {"port": 2, "name": "b"}]}, "spec.ports[0].name: Required value"),
        ({"ports": [{"port": 0}]}, "spec.ports[0].port: Invalid value: 0: must be between 1"),
        (
            {"ports": [{"port": 1, "nodePort": 30001}]},
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            {"type": "NodePort", "ports": [{"port": 1, "nodePort": 80}]},
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. "
            "The range of valid ports is 30000-32767",
        ),
        ({"type": "Magic"}, 'spec.type: Unsupported value: "Magic": supported values: "ClusterIP"'),
        ({"type": "ExternalName"}, "spec.externalName: Required value"),
        (
            {"type": "LoadBalancer", "clusterIP": "None"},
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for Load",
        ),
        ({"clusterIP": "nonsense"}, 'spec.clusterIPs[0]: Invalid value: "nonsense": must be a va'),
    ],
)
def test_bad_services(spec: Object, expected: str) -> None:
    lines = told("services", service(**spec))
    assert lines[0].startswith(expected)


def test_the_address_of_a_service_stays() -> None:
    old = service(clusterIP="10.0.0.5")
    new, lines = changed("services", old, spec={"ports": [{"port": 81}]})
    assert lines == []
    assert new["spec"]["clusterIP"] == "10.0.0.5"
    assert new["spec"]["clusterIPs"] == ["10.0.0.5"]
    _, lines = changed("services", old, spec={**old["spec"], "clusterIP": "10.0.0.6"})
    assert lines == [
        'spec.clusterIPs[0]: Invalid value: ["10.0.0.6"]: may not change once set'
    ]  # fmt: skip


def test_node_ports_stay_with_their_ports() -> None:
    old = service(type="NodePort", clusterIP="10.0.0.5", ports=[{"port": 80, "nodePort": 30080}])
    new, lines = changed("services", old, spec={"type": "NodePort", "ports": [{"port": 80}]})
    assert lines == []
    assert new["spec"]["ports"][0]["nodePort"] == 30080


def test_a_service_may_become_a_mere_name() -> None:
    old = service(clusterIP="10.0.0.5")
    spec = {**old["spec"], "type": "ExternalName", "externalName": "example.com"}
    new, lines = changed("services", old, spec=spec)
    assert lines == []
    assert "clusterIP" not in new["spec"]


def test_endpoint_slices_say_their_family_and_keep_it() -> None:
    gvr = "endpointslices.discovery.k8s.io"
    obj = make(gvr, addressType="IPv4", endpoints=[{"addresses": ["10.0.0.1"]}],
               ports=[{"port": 80}])  # fmt: skip
    assert told(gvr, obj) == []
    assert obj["ports"] == [{"port": 80, "name": "", "protocol": "TCP"}]
    _, lines = changed(gvr, obj, addressType="IPv6", endpoints=[])
    assert lines == ['addressType: Invalid value: "IPv6": field is immutable']
    assert told(gvr, make(gvr)) == ["addressType: Required value"]
    wrong = make(gvr, addressType="IPv6", endpoints=[{"addresses": ["10.0.0.1"]}])
    assert len(told(gvr, wrong)) == 1


def test_endpoints_are_real_addresses() -> None:
    subset = {"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 80}]}
    (line,) = told("endpoints", make("endpoints", subsets=[subset]))
    assert "may not be in the loopback range" in line
    assert told("endpoints", make("endpoints", subsets=[{}])) == [
        "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"
    ]


# --- tenants and namespaces -----------------------------------------------------------------------


def test_a_new_tenant_is_active_and_held_by_its_finalizer() -> None:
    obj = make("tenants", spec={"storageClusterId": "0"}, status={"phase": "Terminating"})
    assert told("tenants", obj) == []
    assert obj["spec"] == {"storageClusterId": "0", "finalizers": ["arktos"]}
    assert obj["status"] == {"phase": "Active"}


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        (None, "Required value: must specify storage cluster id"),
        ("", "Required value: must specify storage cluster id"),
        ("64", 'Invalid value: "64": must be integer 0-63'),
        ("-1", 'Invalid value: "-1": must be integer 0-63'),
        ("a", 'Invalid value: "a": must be integer 0-63'),
        ("²", 'Invalid value: "²": must be integer 0-63'),
    ],
)
def test_a_tenant_says_which_storage_cluster(cluster: str | None, words: str) -> None:
    obj = make("tenants", spec={"storageClusterId": cluster} if cluster is not None else {})
    assert told("tenants", obj) == [f"spec.storageClusterId: {words}"]


def test_a_plain_update_of_a_tenant_moves_nothing() -> None:
    old = make("tenants", spec={"storageClusterId": "0"})
    new, lines = changed("tenants", old, spec={"storageClusterId": "5", "finalizers": []})
    assert lines == []
    assert new["spec"] == old["spec"]
    new, lines = changed("tenants", old, "finalize", spec={"finalizers": []})
    assert lines == []
    assert new["spec"] == {"storageClusterId": "0", "finalizers": []}


def test_a_storage_cluster_has_an_address_and_an_id_that_stays() -> None:
    one = make("storageclusters", storageClusterId="1", serviceAddress="10.0.0.5:2379")
    assert told("storageclusters", one) == []
    assert told("storageclusters", make("storageclusters", storageClusterId="64")) == [
        'storageClusterId: Invalid value: "64": must be integer 0-63',
        "serviceAddress: Required value: must specify service address",
    ]
    _, lines = changed("storageclusters", one, storageClusterId="2")
    assert lines == ['storageClusterId: Invalid value: "2": field is immutable']
    _, lines = changed("storageclusters", one, serviceAddress="10.0.0.6:2379")
    assert lines == []


def test_a_namespace_carries_its_name_as_a_label() -> None:
    obj = make("namespaces")
    assert obj["metadata"]["labels"] == {"kubernetes.io/metadata.name": "x"}
    assert obj["spec"] == {"finalizers": ["kubernetes"]}
    assert obj["status"] == {"phase": "Active"}


def test_a_namespace_ends_only_when_it_is_deleted() -> None:
    old = make("namespaces")
    _, lines = changed("namespaces", old, "status", status={"phase": "Terminating"})
    assert lines == [
        "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if "
        "`deletionTimestamp` is empty"
    ]


# --- configuration --------------------------------------------------------------------------------


def test_what_is_written_as_text_is_kept_as_base64() -> None:
    obj = make("secrets", stringData={"password": "s3cret"}, data={"user": "YWRtaW4="})
    assert told("secrets", obj) == []
    assert obj["type"] == "Opaque"
    assert "stringData" not in obj
    assert base64.b64decode(obj["data"]["password"]) == b"s3cret"
    assert obj["data"]["user"] == "YWRtaW4="


def test_a_secret_keeps_its_type_and_needs_its_keys() -> None:
    obj = make("secrets", type="kubernetes.io/tls", data={"tls.crt": ""})
    assert told("secrets", obj) == ["data[tls.key]: Required value"]
    old = make("secrets")
    assert changed("secrets", old, type="kubernetes.io/tls")[1][0] == (
        'type: Invalid value: "kubernetes.io/tls": field is immutable'
    )
    new, lines = changed("secrets", old, type="")
    assert (new["type"], lines) == ("Opaque", [])


@pytest.mark.parametrize("gvr", ["configmaps", "secrets"])
def test_what_is_sealed_stays_as_it_is(gvr: str) -> None:
    old = make(gvr, immutable=True, data={"a": "Yg=="})
    assert changed(gvr, old, metadata={**old["metadata"], "labels": {"a": "b"}})[1] == []
    assert changed(gvr, old, data={"a": "Yw=="})[1] == [
        "data: Forbidden: field is immutable when `immutable` is set"
    ]
    assert changed(gvr, old, immutable=False)[1] == [
        "immutable: Forbidden: field is immutable when `immutable` is set"
    ]


def test_config_keys_are_file_names_and_a_mebibyte_is_enough() -> None:
    assert told("configmaps", make("configmaps", data={"a/b": ""}))[0].startswith(
        'data[a/b]: Invalid value: "a/b": a valid config key must consist of'
    )
    assert told("configmaps", make("configmaps", data={"a": "x" * (1 << 20)})) == []
    assert told("configmaps", make("configmaps", data={"a": "x" * (1 << 20), "b": "x"})) == [
        ": Too long: may not be more than 1048576 bytes"
    ]


# --- limits ---------------------------------------------------------------------------------------


def test_a_limit_range_completes_itself_from_its_bounds() -> None:
    item = {"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1", "memory": "1Mi"}}
    obj = make("limitranges", spec={"limits": [item]})
    assert told("limitranges", obj) == []
    (filled,) = obj["spec"]["limits"]
    assert filled["default"] == {"cpu": "2"}
    assert filled["defaultRequest"] == {"cpu": "2", "memory": "1Mi"}


def test_bounds_must_be_in_order() -> None:
    item = {"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}}
    assert told("limitranges", make("limitranges", spec={"limits": [item]})) == [
        'spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1'
    ]


def test_a_quota_names_what_it_limits() -> None:
    good = make("resourcequotas", spec={"hard": {"pods": "5", "limits.memory": "1Gi",
                                                "count/deployments.apps": 3}})  # fmt: skip
    assert told("resourcequotas", good) == []
    bad = make("resourcequotas", spec={"hard": {"pods": "500m", "cats": 1}})
    assert told("resourcequotas", bad) == [
        'spec.hard[pods]: Invalid value: "500m": must be an integer',
        'spec.hard[cats]: Invalid value: "cats": must be a standard resource for quota',
    ]
    both = make("resourcequotas", spec={"scopes": ["BestEffort", "NotBestEffort"]})
    assert "conflicting scopes" in told("resourcequotas", both)[0]


# --- nodes, leases, events ------------------------------------------------------------------------


def test_a_node_registers_with_its_status() -> None:
    obj = make("nodes", status={"capacity": {"cpu": "4"}})
    assert obj["status"]["allocatable"] == {"cpu": "4"}
    assert told("nodes", obj) == []


def test_taints_are_unique_and_well_spelt() -> None:
    taint = {"key": "a", "effect": "NoSchedule"}
    lines = told("nodes", make("nodes", spec={"taints": [taint, taint]}))
    assert lines[0].endswith("taints must be unique by key and effect pair")
    (line,) = told("nodes", make("nodes", spec={"taints": [{"key": "a", "effect": "Later"}]}))
    assert line.startswith('spec.taints[0].effect: Unsupported value: "Later"')


def test_a_pod_cidr_is_given_once() -> None:
    old = make("nodes", spec={"podCIDR": "10.0.0.0/24"})
    _, lines = changed("nodes", old, spec={"podCIDR": "10.0.1.0/24"})
    assert lines[0].startswith("spec.podCIDRs: Forbidden: node updates may not change podCIDR")


def test_a_lease_lasts() -> None:
    gvr = "leases.coordination.k8s.io"
    assert told(gvr, make(gvr, spec={"leaseDurationSeconds": 0})) == [
        "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"
    ]


def test_an_event_is_where_its_subject_is() -> None:
    subject = {"kind": "Pod", "name": "p", "namespace": "other"}
    assert told("events", make("events", involvedObject=subject)) == [
        'involvedObject.namespace: Invalid value: "other": does not match event.namespace'
    ]
