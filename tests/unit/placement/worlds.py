"""Small random clusters and pods: few names and few values, so that they meet each other."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from arktos_ray.placement.pairs import Pairs
from arktos_ray.placement.signature import (
    Demand,
    NodeRules,
    NodeTerm,
    PodRequest,
    PodRules,
    PodTerm,
    Requirement,
    Selector,
    Signature,
    SpreadRule,
    Toleration,
)
from arktos_ray.placement.tables import NodeTable, NodeView, Taint

KEYS = ("zone", "host", "size")
taints = st.builds(
    Taint,
    st.sampled_from(["gpu", "node.kubernetes.io/not-ready"]),
    st.sampled_from(["", "a"]),
    st.sampled_from(["NoSchedule", "NoExecute", "PreferNoSchedule"]),
)


@st.composite
def node_lists(draw: st.DrawFn) -> list[NodeView]:
    count = draw(st.integers(0, 7))
    return [
        NodeView(
            f"n{i}",
            "rp",
            {
                "cpu": draw(st.integers(0, 6)),
                "memory": draw(st.integers(0, 8)),
                "pods": draw(st.integers(0, 5)),
                "gpu": draw(st.integers(0, 2)),
            },
            {
                "host": f"n{i}",
                **draw(
                    st.dictionaries(
                        st.sampled_from(["zone", "size"]), st.sampled_from("123"), max_size=2
                    )
                ),
            },
            tuple(draw(st.lists(taints, max_size=1))),
            unschedulable=draw(st.integers(0, 9)) == 9,
            ready=draw(st.integers(0, 9)) < 9,
            container_ready=draw(st.integers(0, 9)) < 9,
            vm_ready=draw(st.integers(0, 9)) < 5,
        )
        for i in range(count)
    ]


node_requirements = st.one_of(
    st.builds(
        Requirement,
        st.sampled_from(KEYS),
        st.sampled_from(["In", "NotIn"]),
        st.lists(st.sampled_from(["1", "2", "n1"]), min_size=1, max_size=2).map(tuple),
    ),
    st.builds(Requirement, st.sampled_from(KEYS), st.sampled_from(["Exists", "DoesNotExist"])),
    st.builds(
        Requirement,
        st.just("size"),
        st.sampled_from(["Gt", "Lt"]),
        st.sampled_from(["1", "2", "x"]).map(lambda text: (text,)),
    ),
)
fields = st.builds(
    Requirement,
    st.just("metadata.name"),
    st.sampled_from(["In", "NotIn"]),
    st.sampled_from(["n0", "n1", "n9"]).map(lambda name: (name,)),
)
node_terms = st.builds(
    NodeTerm,
    st.lists(node_requirements, max_size=2).map(tuple),
    st.lists(fields, max_size=1).map(tuple),
)
tolerations = st.builds(
    Toleration,
    st.sampled_from(["", "gpu", "node.kubernetes.io/unschedulable"]),
    st.just("Exists"),
    st.just(""),
    st.sampled_from(["", "NoSchedule", "NoExecute"]),
) | st.builds(Toleration, st.just("gpu"), st.just("Equal"), st.sampled_from(["", "a"]), st.just(""))
node_rules = st.builds(
    NodeRules,
    needs_vm_runtime=st.sampled_from([False, False, True]),
    selector=st.dictionaries(
        st.sampled_from(["zone", "size"]), st.sampled_from("12"), max_size=1
    ).map(lambda d: tuple(sorted(d.items()))),
    required=st.none() | st.lists(node_terms, max_size=2).map(tuple),
    preferred=st.lists(st.tuples(st.integers(1, 100), node_terms), max_size=1).map(tuple),
    tolerations=st.lists(tolerations, max_size=1).map(tuple),
)
demands = st.builds(
    lambda cpu, memory, gpu, odd, ports: Demand(
        tuple(
            (kind, amount)
            for kind, amount in (
                ("cpu", cpu), ("memory", memory), ("gpu", gpu), ("odd", odd), ("pods", 1),
            )
            if amount
        ),
        ports,
    ),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([0, 0, 0, 1]),
    st.sampled_from([0] * 9 + [1]),
    st.lists(
        st.tuples(
            st.just("TCP"), st.sampled_from([80, 81]), st.sampled_from(["0.0.0.0", "1.1.1.1"])
        ),
        max_size=1,
    ).map(tuple),
)  # fmt: skip
label_selectors = st.builds(
    Selector,
    st.lists(
        st.builds(
            Requirement,
            st.just("app"),
            st.sampled_from(["In", "NotIn"]),
            st.sampled_from([("a",), ("b",), ("a", "b")]),
        ),
        max_size=1,
    ).map(tuple),
)
pod_terms = st.builds(
    PodTerm,
    st.sampled_from(["zone", "host", "rack"]),
    st.one_of(label_selectors, label_selectors, st.none()),
    st.sampled_from([(), (), ("x",), ("x", "y")]),
    st.sampled_from([None, None, Selector(()), Selector((Requirement("team", "Exists"),))]),
)
spread_rules = st.builds(
    SpreadRule,
    st.integers(1, 2),
    st.sampled_from(["zone", "host"]),
    st.booleans(),
    label_selectors,
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
pod_rules = st.builds(
    PodRules,
    affinity=st.lists(pod_terms, max_size=2).map(tuple),
    anti_affinity=st.lists(pod_terms, max_size=1).map(tuple),
    preferred=st.lists(st.tuples(st.integers(-9, 9), pod_terms), max_size=1).map(tuple),
    spread=st.lists(spread_rules, max_size=2).map(tuple),
)
plain_signatures = st.builds(Signature, demands, st.just(NodeRules()))
picky_signatures = st.builds(Signature, demands, node_rules)
social_signatures = st.builds(Signature, demands, st.just(NodeRules()) | node_rules, pod_rules)
NAMESPACES = {("t", "x"): {"team": "red"}, ("t", "y"): {}, ("u", "x"): {"team": "red"}}


@st.composite
def pod_lists(
    draw: st.DrawFn, signatures: st.SearchStrategy[Signature], max_size: int = 12
) -> list[PodRequest]:
    shapes = draw(st.lists(signatures, min_size=1, max_size=4))
    count = draw(st.integers(0, max_size))
    return [
        PodRequest(
            f"uid-{i}",
            f"t/x/p{i}",
            draw(st.sampled_from("tttu")),
            draw(st.sampled_from("xxy")),
            draw(st.sampled_from([{}, {"app": "a"}, {"app": "b"}])),
            draw(st.sampled_from([0, 0, 5])),
            i,
            draw(st.sampled_from(shapes)),
        )
        for i in range(count)
    ]


def table_of(nodes: Sequence[NodeView]) -> NodeTable:
    table = NodeTable(rows=2)
    for node in nodes:
        table.set_node(node)
    return table


def pairs_of(seats: Sequence[tuple[PodRequest, str]]) -> Pairs:
    pairs = Pairs()
    for (tenant, name), labels in NAMESPACES.items():
        pairs.set_namespace(tenant, name, labels)
    for pod, node in seats:
        pairs.place(pod, node)
    return pairs
