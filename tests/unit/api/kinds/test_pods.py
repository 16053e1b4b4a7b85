from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api import kinds
from arktos_ray.api.kinds.containers import pull_policy
from arktos_ray.api.kinds.pods import qos_class

RULES = kinds.rules("pods")
NOW = "2026-11-23T00:00:00Z"


def pod(**spec: Any) -> dict[str, Any]:
    spec.setdefault("containers", [{"name": "web", "image": "nginx"}])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "tenant": "acme", "uid": "u"},
        "spec": spec,
    }


def defaulted(**spec: Any) -> dict[str, Any]:
    obj = pod(**spec)
    RULES.default(obj)
    return obj


def made(**spec: Any) -> dict[str, Any]:
    obj = defaulted(**spec)
    RULES.prepare_create(obj, NOW)
    return obj


def container(**more: Any) -> dict[str, Any]:
    return {"name": "web", "image": "nginx", **more}


def told(**spec: Any) -> list[str]:
    return [f"{c.field}: {c.message}" for c in RULES.validate(defaulted(**spec))]


def changed(old: dict[str, Any], subresource: str = "", **spec: Any) -> list[str]:
    new = copy.deepcopy(old)
    new["spec"].update(spec)
    RULES.prepare_update(new, old, subresource)
    RULES.default(new)
    return [f"{c.field}: {c.message}" for c in RULES.validate_update(new, old, subresource)]


# --- defaults -------------------------------------------------------------------------------------


def test_a_minimal_pod_gets_what_every_client_expects() -> None:
    assert defaulted()["spec"] == {
        "containers": [
            {
                "name": "web",
                "image": "nginx",
                "imagePullPolicy": "Always",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }
        ],
        "dnsPolicy": "ClusterFirst",
        "enableServiceLinks": True,
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
    }


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.25", "IfNotPresent"),
        ("registry:5000/nginx", "Always"),
        ("registry:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:0123", "IfNotPresent"),
        ("nginx:latest@sha256:0123", "Always"),
    ],
)
def test_what_moves_is_pulled_each_time(image: str, policy: str) -> None:
    assert pull_policy(image) == policy


def test_probes_ports_and_field_references_are_completed() -> None:
    spec = defaulted(
        containers=[
            container(
                ports=[{"containerPort": 80}],
                env=[{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                livenessProbe={"httpGet": {"port": 80}},
                readinessProbe={"grpc": {"port": 80}, "periodSeconds": 5},
            )
        ]
    )["spec"]["containers"][0]
    assert spec["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert spec["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert spec["livenessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert spec["readinessProbe"]["grpc"] == {"port": 80, "service": ""}
    assert spec["readinessProbe"]["periodSeconds"] == 5


def test_volumes_get_their_modes_and_an_empty_one_is_an_empty_dir() -> None:
    volumes = defaulted(
        volumes=[
            {"name": "a"},
            {"name": "b", "secret": {"secretName": "s"}},
            {"name": "c", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            {"name": "d", "hostPath": {"path": "/x"}},
        ]
    )["spec"]["volumes"]
    assert volumes == [
        {"name": "a", "emptyDir": {}},
        {"name": "b", "secret": {"secretName": "s", "defaultMode": 420}},
        {
            "name": "c",
            "projected": {
                "defaultMode": 420,
                "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}],
            },
        },
        {"name": "d", "hostPath": {"path": "/x", "type": ""}},
    ]


def test_who_states_a_limit_asks_for_it() -> None:
    resources = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}
    spec = defaulted(containers=[container(resources=resources)])["spec"]
    assert spec["containers"][0]["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}


def test_a_vm_does_not_ask_for_its_limit() -> None:
    vm = {"name": "vm", "image": "i", "publicKey": "k", "resources": {"limits": {"cpu": "1"}}}
    obj = pod(virtualMachine=vm, containers=None)
    RULES.default(obj)
    assert RULES.validate(obj) == []
    assert obj["spec"]["virtualMachine"]["resources"] == {"limits": {"cpu": "1"}}
    assert obj["spec"]["virtualMachine"]["powerSpec"] == "Running"
    assert obj["spec"]["virtualMachine"]["imagePullPolicy"] == "IfNotPresent"


def test_on_the_hosts_network_every_port_is_the_hosts() -> None:
    spec = defaulted(
        hostNetwork=True, containers=[container(ports=[{"containerPort": 80}])]
    )["spec"]  # fmt: skip
    assert spec["containers"][0]["ports"][0]["hostPort"] == 80


def test_defaulting_twice_changes_nothing_more() -> None:
    once = defaulted(
        volumes=[{"name": "a"}],
        serviceAccount="robot",
        containers=[container(resources={"limits": {"cpu": 1}}, livenessProbe={"exec": {}})],
    )
    twice = copy.deepcopy(once)
    RULES.default(twice)
    assert once == twice
    assert once["spec"]["serviceAccountName"] == "robot"


# --- creation -------------------------------------------------------------------------------------


def test_a_new_pod_is_pending_whatever_its_author_says() -> None:
    obj = pod()
    obj["status"] = {"phase": "Running", "podIP": "1.2.3.4"}
    RULES.default(obj)
    RULES.prepare_create(obj, NOW)
    assert obj["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert obj["metadata"]["generation"] == 1
    assert obj["metadata"]["creationTimestamp"] == NOW


def test_a_gated_pod_says_so() -> None:
    obj = made(schedulingGates=[{"name": "example.com/wait"}])
    (condition,) = obj["status"]["conditions"]
    assert condition["type"] == "PodScheduled"
    assert condition["reason"] == "SchedulingGated"


def resourced(requests: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    return {"name": "c", "resources": {"requests": requests, "limits": limits}}


FULL = {"cpu": "1", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("containers", "qos"),
    [
        ([{"name": "a"}], "BestEffort"),
        ([resourced({"cpu": "0"}, {})], "BestEffort"),
        ([resourced(FULL, FULL)], "Guaranteed"),
        ([resourced({"cpu": "1000m", "memory": "1024Mi"}, FULL)], "Guaranteed"),
        ([resourced(FULL, FULL), {"name": "b"}], "Burstable"),
        ([resourced({"cpu": "500m"}, FULL)], "Burstable"),
        ([resourced({"cpu": "1"}, {"cpu": "1"})], "Burstable"),
        ([resourced({"example.com/gpu": "1"}, {"example.com/gpu": "1"})], "BestEffort"),
    ],
)
def test_quality_of_service(containers: list[dict[str, Any]], qos: str) -> None:
    assert qos_class({"containers": containers}) == qos


# --- validation -----------------------------------------------------------------------------------


def test_a_pod_needs_something_to_run() -> None:
    assert told(containers=[]) == ["spec.containers: Required value"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            {"containers": [{"name": "Web", "image": "i"}]},
            'spec.containers[0].name: Invalid value: "Web": a lowercase RFC 1123 label must',
        ),
        ({"containers": [{"name": "a"}]}, "spec.containers[0].image: Required value"),
        (
            {"containers": [container(), container()]},
            'spec.containers[1].name: Duplicate value: "web"',
        ),
        (
            {"containers": [container(imagePullPolicy="Often")]},
            'spec.containers[0].imagePullPolicy: Unsupported value: "Often": supported values: '
            '"Always", "IfNotPresent", "Never"',
        ),
        (
            {"containers": [container(ports=[{"containerPort": 70000}])]},
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 "
            "and 65535, inclusive",
        ),
        (
            {"containers": [container(ports=[{"containerPort": 1, "protocol": "ICMP"}])]},
            'spec.containers[0].ports[0].protocol: Unsupported value: "ICMP": supported values: '
            '"SCTP", "TCP", "UDP"',
        ),
        (
            {
                "containers": [
                    container(
                        ports=[
                            {"containerPort": 1, "hostPort": 9},
                            {"containerPort": 2, "hostPort": 9},
                        ]
                    )
                ]
            },
            'spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//9"',
        ),
        (
            {
                "containers": [
                    container(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})
                ]
            },
            'spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal '
            "to cpu limit of 1",
        ),
        (
            {"containers": [container(resources={"requests": {"memory": "-1Gi"}})]},
            'spec.containers[0].resources.requests[memory]: Invalid value: "-1Gi": must be greater '
            "than or equal to 0",
        ),
        (
            {"containers": [container(resources={"requests": {"x.io/gpu": "1"}})]},
            "spec.containers[0].resources.limits: Required value: Limit must be set for non "
            "overcommitable resources",
        ),
        (
            {"containers": [container(volumeMounts=[{"name": "v", "mountPath": "/v"}])]},
            'spec.containers[0].volumeMounts[0].name: Not found: "v"',
        ),
        (
            {"containers": [container(livenessProbe={})]},
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            {"containers": [container(env=[{"name": "a=b"}])]},
            'spec.containers[0].env[0].name: Invalid value: "a=b": a valid environment variable',
        ),
        (
            {"restartPolicy": "Sometimes"},
            'spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", '
            '"OnFailure", "Never"',
        ),
        (
            {"volumes": [{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}]},
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
        ),
        ({"volumes": [{"name": "v", "secret": {}}]}, "spec.volumes[0].secret.secretName: Required"),
        (
            {"tolerations": [{"operator": "Equal", "value": "x"}]},
            'spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when',
        ),
        (
            {"tolerations": [{"key": "a", "operator": "Exists", "tolerationSeconds": 1}]},
            "spec.tolerations[0].effect: Invalid value: \"\": effect must be 'NoExecute' when",
        ),
        (
            {
                "topologySpreadConstraints": [
                    {"maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
                ]
            },
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than",
        ),
        (
            {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}},
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution."
            "nodeSelectorTerms: Required value: must have at least one node selector term",
        ),
        (
            {
                "affinity": {
                    "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}
                }
            },
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]."
            "topologyKey: Required value: can not be empty",
        ),
        ({"nodeName": "Bad_Name"}, 'spec.nodeName: Invalid value: "Bad_Name": a lowercase RFC'),
        (
            {"activeDeadlineSeconds": 0},
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647",
        ),
        (
            {"virtualMachine": {"name": "vm", "publicKey": "k"}},
            "spec.virtualMachine: Forbidden: may not be specified together with containers",
        ),
        (
            {"containers": [], "virtualMachine": {"name": "vm"}},
            "spec.virtualMachine.keyPairName: Required value: one of keyPairName and publicKey",
        ),
    ],
)
def test_what_users_get_wrong_is_said_in_the_words_they_know(
    spec: dict[str, Any], expected: str
) -> None:
    (line,) = told(**spec)
    assert line.startswith(expected)


def test_a_rich_pod_is_fine() -> None:
    term = {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "zone"}
    assert (
        told(
            initContainers=[container(name="init", restartPolicy="Always", livenessProbe={
                "tcpSocket": {"port": "http"}})],
            containers=[
                container(
                    ports=[{"containerPort": 80, "name": "http"}],
                    env=[
                        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                        {"name": "L", "valueFrom": {
                            "fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                    ],
                    envFrom=[{"configMapRef": {"name": "c"}}],
                    resources={
                        "requests": {"cpu": 0.5, "x.io/gpu": 1},
                        "limits": {"cpu": "1", "x.io/gpu": "1"},
                    },
                    volumeMounts=[{"name": "v", "mountPath": "/v", "subPath": "a/b"}],
                    lifecycle={"preStop": {"exec": {"command": ["true"]}}},
                    securityContext={"runAsUser": 1000, "allowPrivilegeEscalation": False},
                )
            ],
            volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
            affinity={
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}
                        ]
                    }
                },
                "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]},
            },
            topologySpreadConstraints=[
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
            ],
            tolerations=[{"operator": "Exists"}],
            hostAliases=[{"ip": "10.0.0.1", "hostnames": ["a.b"]}],
            imagePullSecrets=[{"name": "s"}],
        )
        == []
    )  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(["name", "image", "ports", "env", "resources", "volumeMounts"]),
        st.one_of(st.none()),
    )
)
def test_absent_and_null_are_the_same(container: dict[str, Any]) -> None:
    assert told(containers=[container])


# --- updates --------------------------------------------------------------------------------------


def test_an_image_may_change_and_a_command_may_not() -> None:
    old = made()
    image = [{**old["spec"]["containers"][0], "image": "nginx:2"}]
    command = [{**old["spec"]["containers"][0], "command": ["x"]}]
    assert changed(old, containers=image) == []
    (line,) = changed(old, containers=command)
    assert line.startswith("spec: Forbidden: pod updates may not change fields other than `spec.")
    (line,) = changed(old, containers=image * 2)[1:]
    assert line == "spec.containers: Forbidden: pod updates may not add or remove containers"


def test_the_generation_counts_changes_of_the_spec_only() -> None:
    old = made()
    new = copy.deepcopy(old)
    new["metadata"]["labels"] = {"a": "b"}
    RULES.prepare_update(new, old, "")
    assert new["metadata"]["generation"] == 1
    new["spec"]["tolerations"] = [{"operator": "Exists"}]
    RULES.prepare_update(new, old, "")
    assert new["metadata"]["generation"] == 2


def test_tolerations_may_only_be_added() -> None:
    old = made(tolerations=[{"key": "a", "operator": "Exists"}])
    more = [*old["spec"]["tolerations"], {"key": "b", "operator": "Exists"}]
    assert changed(old, tolerations=more) == []
    assert changed(old, tolerations=more[1:]) == [
        "spec.tolerations: Forbidden: existing toleration can not be modified except its "
        "tolerationSeconds"
    ]


def test_gates_may_go_and_not_come() -> None:
    old = made(schedulingGates=[{"name": "a"}, {"name": "b"}])
    assert changed(old, schedulingGates=[{"name": "b"}]) == []
    assert changed(old, schedulingGates=None, nodeSelector={"disk": "ssd"}) == []
    (line,) = changed(made(), schedulingGates=[{"name": "a"}])
    assert "only deletion is allowed, but found new scheduling gate 'a'" in line


def test_a_node_is_given_by_a_binding_only() -> None:
    (line,) = changed(made(), nodeName="n1")
    assert line.startswith("spec: Forbidden: pod updates may not change fields")


def test_a_vm_may_be_turned_off() -> None:
    vm = {"name": "vm", "image": "i", "publicKey": "k"}
    old = made(virtualMachine=vm, containers=None)
    assert changed(old, virtualMachine={**vm, "powerSpec": "Shutdown"}) == []
    assert changed(old, virtualMachine={**vm, "powerSpec": "Boom"}) != []


def test_a_plain_update_keeps_the_status_and_a_status_update_keeps_the_spec() -> None:
    old = made()
    new = copy.deepcopy(old)
    new["status"] = {"phase": "Running"}
    new["spec"]["nodeName"] = "n1"
    plain, status = copy.deepcopy(new), copy.deepcopy(new)
    RULES.prepare_update(plain, old, "")
    assert plain["status"] == old["status"]
    assert plain["spec"]["nodeName"] == "n1"
    RULES.prepare_update(status, old, "status")
    assert status["spec"] == old["spec"]
    assert status["status"] == {"phase": "Running", "qosClass": "BestEffort"}
    assert status["metadata"]["generation"] == 1


def test_kubectl_debug_adds_a_container_and_nothing_else() -> None:
    old = made()
    new = copy.deepcopy(old)
    new["spec"]["ephemeralContainers"] = [
        {"name": "debug", "image": "busybox", "targetContainerName": "web"}
    ]
    new["spec"]["hostNetwork"] = True
    RULES.prepare_update(new, old, "ephemeralcontainers")
    RULES.default(new)
    assert "hostNetwork" not in new["spec"]
    assert RULES.validate_update(new, old, "ephemeralcontainers") == []
    gone = copy.deepcopy(new)
    gone["spec"]["ephemeralContainers"] = []
    RULES.prepare_update(gone, new, "ephemeralcontainers")
    (cause,) = RULES.validate_update(gone, new, "ephemeralcontainers")
    assert "may not be removed" in cause.message


def test_a_resize_changes_resources_but_not_the_class_of_service() -> None:
    amounts = {"requests": {"cpu": "1"}}
    old = made(containers=[container(resources=amounts)])
    new = copy.deepcopy(old)
    new["spec"]["containers"][0].update(image="other", resources={"requests": {"cpu": "2"}})
    RULES.prepare_update(new, old, "resize")
    assert new["spec"]["containers"][0]["image"] == "nginx"
    assert new["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "2"}}
    assert RULES.validate_update(new, old, "resize") == []
    new["spec"]["containers"][0]["resources"] = {}
    (cause,) = RULES.validate_update(new, old, "resize")
    assert "QOS Class may not change" in cause.message
