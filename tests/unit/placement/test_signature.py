from __future__ import annotations

from typing import Any

from arktos_ray.placement.signature import AMOUNT_MAX, Signatures, amounts, demand_of


def container(cpu: str = "", memory: str = "", **more: Any) -> dict[str, Any]:
    requests = {"cpu": cpu, "memory": memory}
    return {"resources": {"requests": {k: v for k, v in requests.items() if v}}, **more}


def amounts_of(**spec: Any) -> dict[str, int]:
    return dict(demand_of(spec).amounts)


def test_containers_add_up_and_every_pod_is_one_pod() -> None:
    spec = {"containers": [container("250m", "1Gi"), container("1", "1Mi"), {"name": "none"}]}

    assert amounts_of(**spec) == {"cpu": 1250, "memory": 2**30 + 2**20, "pods": 1}
    assert amounts_of(containers=[{}]) == {"pods": 1}


def test_an_init_container_counts_only_where_it_needs_more_than_what_comes_after() -> None:
    spec = {
        "containers": [container("1", "1Gi")],
        "initContainers": [container("3", "1Mi"), container("2", "2Gi")],
        "overhead": {"cpu": "100m"},
    }

    assert amounts_of(**spec) == {"cpu": 3100, "memory": 2 * 2**30, "pods": 1}


def test_a_sidecar_runs_beside_the_containers_and_beside_later_init_containers() -> None:
    sidecar = container("1", restartPolicy="Always")

    assert amounts_of(containers=[container("1")], initContainers=[sidecar])["cpu"] == 2000
    later = {"containers": [container("1")], "initContainers": [sidecar, container("5")]}
    assert amounts_of(**later)["cpu"] == 6000
    earlier = {"containers": [container("1")], "initContainers": [container("5"), sidecar]}
    assert amounts_of(**earlier)["cpu"] == 5000


def test_a_wish_to_grow_takes_nothing_before_the_node_agrees() -> None:
    growing = container("4", resourcesAllocated={"cpu": "1"})

    assert amounts_of(containers=[growing])["cpu"] == 1000


def test_a_vm_counts_like_a_container_and_a_pod_wide_request_overrides() -> None:
    assert amounts_of(virtualMachine=container("2", "200Mi"))["cpu"] == 2000
    whole = {"containers": [container("1")], "resources": {"requests": {"cpu": "3"}}}
    assert amounts_of(**whole)["cpu"] == 3000


def test_amounts_are_rounded_up_bounded_and_never_fail() -> None:
    assert amounts({"cpu": "1n", "memory": "1.5", "a": "1e30", "b": "-3", "c": "many"}) == {
        "cpu": 1,
        "memory": 2,
        "a": AMOUNT_MAX,
        "b": 0,
    }


def test_host_ports_are_those_of_everything_that_keeps_running() -> None:
    spec = {
        "containers": [{"ports": [{"containerPort": 1}, {"hostPort": 80, "protocol": "UDP"}]}],
        "initContainers": [
            {"restartPolicy": "Always", "ports": [{"hostPort": 81, "hostIP": "1.1.1.1"}]},
            {"ports": [{"hostPort": 82}]},
        ],
    }

    assert demand_of(spec).ports == (("TCP", 81, "1.1.1.1"), ("UDP", 80, "0.0.0.0"))


def test_pods_of_one_shape_share_a_signature_whatever_they_are_called() -> None:
    signatures = Signatures()

    def pod(name: str, **spec: Any) -> dict[str, Any]:
        metadata = {"name": name, "namespace": "x", "tenant": "t", "uid": name}
        image = {"image": name, **container("1")}
        return {"metadata": metadata, "spec": {"containers": [image], **spec}}

    one = signatures.request(pod("a", nodeName="n"))
    assert one.path == "t/x/a"
    assert one.signature is signatures.request(pod("b")).signature
    assert one.signature.alone
    for other in (
        {"nodeSelector": {"disk": "ssd"}},
        {"tolerations": [{"operator": "Exists"}]},
        {"overhead": {"cpu": "1"}},
        {"initContainers": [container("1")]},
        {"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1}]},
    ):
        assert one.signature is not signatures.request(pod("c", **other)).signature
