"""The density test as figures: what is created, in which order, and what the answers mean. Pure.

As ClusterLoader2 does it for Kubernetes and Arktos (spec/perf.md 3), with totals that may be given
directly. Every tenant partition has one tenant with its share of nodes and pods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Mode = Literal["kubemark", "instant"]
Through = Literal["https", "handles"]
Object = dict[str, Any]

SATURATION, LATENCY = "saturation", "latency"
GROUPS = (SATURATION, LATENCY)
PERCENTS = (50, 90, 99)
# What perf tests report of each pod; every one in seconds.
PHASES = (
    "create_to_schedule", "schedule_to_run", "run_to_watch", "schedule_to_watch", "pod_startup",
)  # fmt: skip

NODES_PER_NAMESPACE = 100
REPLICAS_MAX = 3_000  # of one Deployment
PODS_PER_NODE = 30
LATENCY_PODS_MIN = 500
# A hollow node: spec/perf.md 6.
NODE_PODS, NODE_MEMORY, NODE_MILLI_CPU = 110, 4_026_531_840, 1_000
# (milli CPU, bytes) that each pod asks for, and the same as people write it.
DEMANDS = {SATURATION: (1, 10_000_000), LATENCY: (100, 350_000_000)}
REQUESTS = {SATURATION: ("1m", "10M"), LATENCY: ("100m", "350M")}
# As many tenants as the alphabet can spread over partitions; Config allows 60,000 nodes and more.
TENANT_PARTITIONS_MAX, RESOURCE_PARTITIONS_MAX, NODES_MAX = 26, 60, 100_000


@dataclass(frozen=True, slots=True)
class Published:
    """A row of Arktos' release notes (spec/perf.md 1). Seconds; pods or objects a second."""

    release: str
    config: str
    nodes: int
    rate: int
    p50: str
    p90: str
    p99: str


PUBLISHED = (
    Published("v0.8", "5x5", 50_000, 100, "1.83", "2.78", "5.72"),
    Published("v0.9", "5x5", 50_000, 200, "1.79", "2.58", "3.71"),
    Published("v0.9", "2x2", 50_000, 200, "1.83", "2.78", "7.33"),
    Published("v0.9", "1x1", 25_000, 100, "1.80", "2.63", "4.96"),
    Published("v1.0", "3x3", 60_000, 200, "< 2", "< 3", "< 7"),
)
# Presets of --config: partitions, nodes and pods a second of the newest row of that name.
CONFIGS = {row.config: row for row in PUBLISHED}


class Impossible(Exception):
    """Parameters that no cluster could satisfy; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class Parameters:
    tenant_partitions: int = 1
    resource_partitions: int = 1
    nodes: int = 100
    pods: int = 3_000
    rate: float = 20.0
    latency_pods: int = LATENCY_PODS_MIN
    mode: Mode = "kubemark"
    through: Through = "https"

    def packed(self) -> dict[str, Any]:
        return asdict(self)


def parameters(
    config: str | None = None, *, tenant_partitions: int | None = None,
    resource_partitions: int | None = None, nodes: int | None = None, pods: int | None = None,
    rate: float | None = None, latency_pods: int | None = None, mode: Mode = "kubemark",
    through: Through = "https",
) -> Parameters:  # fmt: skip
    """What was asked for, the rest from the preset or from the shape of the test.

    Raises Impossible.
    """
    made = Parameters(mode=mode, through=through)
    if config is not None:
        row = CONFIGS[config]
        tenants, resources = (int(part) for part in config.split("x"))
        made = replace(
            made, tenant_partitions=tenants, resource_partitions=resources, nodes=row.nodes,
            rate=float(row.rate),
        )  # fmt: skip
    given = {
        "tenant_partitions": tenant_partitions, "resource_partitions": resource_partitions,
        "nodes": nodes, "rate": rate,
    }  # fmt: skip
    made = replace(made, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    made = replace(
        made,
        pods=made.nodes * PODS_PER_NODE if pods is None else pods,
        latency_pods=_latency_pods(made) if latency_pods is None else latency_pods,
    )
    check(made)
    return made


def _latency_pods(made: Parameters) -> int:
    """One for each node, at least 500 a tenant; on small fleets, as many as there is room for."""
    wanted = max(made.nodes, LATENCY_PODS_MIN * made.tenant_partitions)
    per_node = NODE_MILLI_CPU // DEMANDS[LATENCY][0] - 1
    return min(wanted, max(made.nodes * per_node, made.tenant_partitions))


def check(wanted: Parameters) -> None:
    """Raises Impossible, in words that name the option."""
    limits = (
        ("--tenant-partitions", wanted.tenant_partitions, 1, TENANT_PARTITIONS_MAX),
        ("--resource-partitions", wanted.resource_partitions, 1, RESOURCE_PARTITIONS_MAX),
        ("--nodes", wanted.nodes, 1, NODES_MAX),
    )
    for option, value, least, most in limits:
        if not least <= value <= most:
            raise Impossible(f"{option} {value}: between {least} and {most:,}")
    if not (wanted.rate > 0 and math.isfinite(wanted.rate)):
        raise Impossible(f"--rate {wanted.rate:g}: more than 0 pods a second")
    if wanted.nodes < wanted.resource_partitions:
        raise Impossible(
            f"--nodes {wanted.nodes}: each of {wanted.resource_partitions} resource partitions"
            " needs one"
        )
    for option, value in (("--pods", wanted.pods), ("--latency-pods", wanted.latency_pods)):
        if value < wanted.tenant_partitions:
            raise Impossible(
                f"{option} {value}: each of {wanted.tenant_partitions} tenant partitions needs one"
            )
    _check_room(wanted)


def _check_room(wanted: Parameters) -> None:
    counts = {SATURATION: wanted.pods, LATENCY: wanted.latency_pods}
    whole = sum(counts.values())
    if whole > wanted.nodes * NODE_PODS:
        raise Impossible(
            f"--pods {wanted.pods:,} and --latency-pods {wanted.latency_pods:,}: a node holds"
            f" {NODE_PODS} pods, {wanted.nodes:,} nodes {wanted.nodes * NODE_PODS:,}"
        )
    for what, number, room in (("CPU", 0, NODE_MILLI_CPU), ("memory", 1, NODE_MEMORY)):
        asked = sum(counts[group] * DEMANDS[group][number] for group in GROUPS)
        if asked > room * wanted.nodes:
            times = asked / (room * wanted.nodes)
            raise Impossible(
                f"--latency-pods {wanted.latency_pods:,} beside --pods {wanted.pods:,}: they ask"
                f" for {times:.1f} times the {what} of {wanted.nodes:,} nodes"
            )


@dataclass(frozen=True, slots=True)
class Wanted:
    """One Deployment that the test creates."""

    tenant: int
    namespace: int  # of that tenant
    name: str
    group: str
    replicas: int


def spread(total: int, parts: int) -> list[int]:
    """As even as whole numbers can be, the larger ones first."""
    least, more = divmod(total, parts)
    return [least + 1] * more + [least] * (parts - more)


def namespaces(wanted: Parameters) -> list[int]:
    """How many each tenant gets: one for each hundred of its nodes."""
    return [
        max(share // NODES_PER_NAMESPACE, 1)
        for share in spread(wanted.nodes, wanted.tenant_partitions)
    ]


def saturation(wanted: Parameters) -> list[Wanted]:
    """The Deployments that fill the cluster, in turn over tenants."""
    lists = []
    for tenant, (share, count) in enumerate(
        zip(spread(wanted.pods, wanted.tenant_partitions), namespaces(wanted), strict=True)
    ):
        found = []
        for space, pods in enumerate(spread(share, count)):
            pieces = spread(pods, math.ceil(pods / REPLICAS_MAX)) if pods else []
            found += [
                Wanted(tenant, space, f"{SATURATION}-{number}", SATURATION, replicas)
                for number, replicas in enumerate(pieces)
            ]
        lists.append(found)
    return list(_in_turn(lists))


def latency(wanted: Parameters) -> list[Wanted]:
    """The single pods that are measured, in turn over tenants and their namespaces."""
    lists = []
    for tenant, (share, count) in enumerate(
        zip(spread(wanted.latency_pods, wanted.tenant_partitions), namespaces(wanted), strict=True)
    ):
        lists.append(
            [
                Wanted(tenant, number % count, f"{LATENCY}-{number}", LATENCY, 1)
                for number in range(share)
            ]
        )
    return list(_in_turn(lists))


def _in_turn(lists: Sequence[Sequence[Wanted]]) -> Iterator[Wanted]:
    for number in range(max(map(len, lists))):
        for each in lists:
            if number < len(each):
                yield each[number]


def deployment(wanted: Wanted) -> Object:
    """As the perf tests write it."""
    cpu, memory = REQUESTS[wanted.group]
    labels = {"name": wanted.name, "group": wanted.group}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": wanted.name, "labels": {"group": wanted.group}},
        "spec": {
            "replicas": wanted.replicas,
            "selector": {"matchLabels": {"name": wanted.name}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [
                        {
                            "name": wanted.name,
                            "image": "pause:3.1",
                            "imagePullPolicy": "IfNotPresent",
                            "resources": {"requests": {"cpu": cpu, "memory": memory}},
                        }
                    ],
                    "terminationGracePeriodSeconds": 1,
                    "tolerations": [
                        {
                            "key": f"node.kubernetes.io/{what}", "operator": "Exists",
                            "effect": "NoExecute", "tolerationSeconds": 900,
                        }
                        for what in ("not-ready", "unreachable")
                    ],
                },
            },
        },
    }  # fmt: skip


def tenant_names(count: int, run: str) -> list[str]:
    """First letters spread over the alphabet: one tenant for each partition."""
    return [f"{chr(ord('a') + (26 * number) // count)}-bench-{run}" for number in range(count)]


def percentile(ascending: Sequence[float], percent: float) -> float | None:
    """The nearest rank, as perf tests count: element ceil(n*p/100) - 1. None of nothing."""
    if not ascending:
        return None
    return ascending[max(math.ceil(len(ascending) * percent / 100) - 1, 0)]


def percentiles(values: Sequence[float], scale: float = 1.0, digits: int = 4) -> Object:
    ascending = sorted(values)
    found: Object = {}
    for percent in PERCENTS:
        value = percentile(ascending, percent)
        found[f"p{percent}"] = None if value is None else round(value * scale, digits)
    return found
