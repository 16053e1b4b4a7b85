"""What the density test creates for given parameters, and which it refuses."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.bench import plan as planning
from arktos_ray.bench.plan import Impossible


def test_the_defaults_are_those_of_the_perf_tests() -> None:
    made = planning.parameters(nodes=500, rate=5.0)
    assert (made.pods, made.latency_pods) == (15_000, 500)
    assert planning.namespaces(made) == [5]
    assert [each.replicas for each in planning.saturation(made)] == [3_000] * 5


def test_a_preset_is_a_published_row_and_options_go_before_it() -> None:
    made = planning.parameters("3x3", nodes=6_000)
    assert (made.tenant_partitions, made.resource_partitions) == (3, 3)
    assert (made.nodes, made.rate, made.pods) == (6_000, 200.0, 180_000)
    assert planning.parameters("1x1").nodes == 25_000


@given(
    tenants=st.integers(1, 26), nodes=st.integers(1, 3_000), pods=st.integers(1, 90_000),
    latency=st.integers(1, 2_000),
)  # fmt: skip
def test_every_pod_is_created_once_in_shares_that_differ_by_one(
    tenants: int, nodes: int, pods: int, latency: int
) -> None:
    try:
        made = planning.parameters(
            tenant_partitions=tenants, nodes=nodes, pods=pods, latency_pods=latency
        )
    except Impossible:
        return
    for total, wanted in ((pods, planning.saturation(made)), (latency, planning.latency(made))):
        assert sum(each.replicas for each in wanted) == total
        assert all(1 <= each.replicas <= planning.REPLICAS_MAX for each in wanted)
        names = {(each.tenant, each.namespace, each.name) for each in wanted}
        assert len(names) == len(wanted)
        shares = Counter[int]()
        for each in wanted:
            shares[each.tenant] += each.replicas
        assert max(shares.values()) - min(shares.values()) <= 1
        assert set(shares) == set(range(tenants))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tenant_partitions": 0}, "--tenant-partitions 0"),
        ({"tenant_partitions": 27}, "--tenant-partitions 27"),
        ({"nodes": 0}, "--nodes 0"),
        ({"nodes": 2, "resource_partitions": 3}, "--nodes 2"),
        ({"nodes": 1_000_000}, "--nodes 1000000"),
        ({"rate": 0.0}, "--rate 0"),
        ({"rate": float("nan")}, "--rate nan"),
        ({"nodes": 10, "pods": 2_000}, "a node holds 110 pods"),
        ({"nodes": 10, "pods": 10, "latency_pods": 101}, "times the CPU"),
        ({"nodes": 10, "pods": 1, "tenant_partitions": 2}, "--pods 1"),
    ],
)
def test_what_no_cluster_can_do_is_refused_by_name(given: dict[str, float], said: str) -> None:
    with pytest.raises(Impossible, match=said):
        planning.parameters(**given)  # type: ignore[arg-type]


def test_percentiles_are_nearest_ranks_as_perf_tests_count() -> None:
    found = planning.percentiles([0.001 * n for n in range(100, 0, -1)], 1e3, 1)
    assert found == {"p50": 50.0, "p90": 90.0, "p99": 99.0}
    assert planning.percentiles([]) == {"p50": None, "p90": None, "p99": None}


def test_the_deployments_of_a_phase_select_their_own_pods() -> None:
    made = planning.parameters(nodes=100, pods=200, latency_pods=2)
    first, second = planning.latency(made)
    body = planning.deployment(first)
    assert body["spec"]["selector"]["matchLabels"] == {"name": first.name}
    assert body["spec"]["template"]["metadata"]["labels"]["group"] == "latency"
    assert first.name != second.name
