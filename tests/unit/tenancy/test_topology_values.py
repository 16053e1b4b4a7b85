from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api.errors import BadRequest, Conflict, Failure, NotFound
from arktos_ray.tenancy.topology import NUMBERS, Kind, Topology, fitted, initial, unpack

KINDS = st.sampled_from(["tenant", "resource"])


def test_the_first_partitions_are_named_and_numbered_from_both_ends() -> None:
    topology = initial(2, 2)
    rows = [(row.name, row.number) for row in topology.partitions]
    assert rows == [("tp-1", 0), ("tp-2", 1), ("rp-1", 63), ("rp-2", 62)]
    assert (topology.version, topology.system) == (1, "tp-1")


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "drain", "undo", "remove"]), KINDS, st.integers(0, 9)),
        max_size=200,
    )
)
def test_names_are_never_used_again_and_numbers_never_twice_at_once(
    steps: list[tuple[str, Kind, int]],
) -> None:
    topology, seen = initial(2, 2), set(initial(2, 2).names("tenant"))
    for what, kind, which in steps:
        names = topology.names(kind)
        name = names[which % len(names)]
        before = topology
        try:
            if what == "add":
                topology = topology.added(kind)
                assert topology.partitions[-1].name not in seen
                seen.add(topology.partitions[-1].name)
            elif what == "remove":
                topology = topology.removed(name)
            else:
                topology = topology.drained(name, back=what == "undo")
        except Failure:
            assert topology is before
        numbers = [row.number for row in topology.partitions]
        assert len(set(numbers)) == len(numbers)
        assert all(0 <= number < NUMBERS for number in numbers)
        assert topology.taking("tenant")
        assert topology.taking("resource")
        assert topology.system == "tp-1"
        assert topology.version == before.version + (topology != before)
        assert unpack(json.loads(json.dumps(topology.pack()))) == topology


def test_the_number_that_was_free_the_longest_is_used_again_when_none_is_new() -> None:
    topology = initial(62, 1)
    for name in ("tp-3", "tp-2"):
        topology = topology.drained(name).removed(name)
    topology = topology.added("tenant")
    assert topology.partitions[-1].number == 62  # The last that was never used.
    assert topology.added("tenant").partitions[-1].number == 2
    full = topology.added("tenant").added("tenant")
    with pytest.raises(Conflict, match="64 partitions"):
        full.added("resource")


def test_what_must_go_on_is_not_drained_and_what_is_active_not_removed() -> None:
    topology = initial(2, 1)
    with pytest.raises(Conflict, match="home of the system tenant"):
        topology.drained("tp-1")
    with pytest.raises(Conflict, match="last resource partition"):
        topology.drained("rp-1")
    with pytest.raises(Conflict, match="drain it first: arktos partition drain tp-2"):
        topology.removed("tp-2")
    with pytest.raises(NotFound, match="there are tp-1, tp-2, rp-1"):
        topology.drained("tp-9")
    assert topology.drained("tp-2").drained("tp-2", back=True).taking("tenant") == topology.taking(
        "tenant"
    )


def test_fleets_have_names_and_addresses_of_their_own() -> None:
    topology = fitted(None, 1, 2, 100, "instant").with_fleet(50, "kubemark", ["rp-2"])
    first, second = topology.fleets
    assert (first.name, first.prefix, first.first_index) == ("simulated-1", "sim", 0)
    assert (second.name, second.prefix, second.first_index) == ("simulated-2", "sim2", 100)
    assert (first.partitions, second.partitions) == (("rp-1", "rp-2"), ("rp-2",))
    with pytest.raises(Conflict, match="arktos simulate remove simulated-1"):
        topology.drained("rp-1").removed("rp-1")
    with pytest.raises(Conflict, match="rp-1 takes no nodes"):
        topology.drained("rp-1").with_fleet(5, "instant", ["rp-1"])
    with pytest.raises(BadRequest):
        topology.with_fleet(0, "instant")
    assert topology.without_fleet("simulated-1").fleets == (second,)


def test_a_start_grows_what_was_asked_for_and_takes_nothing_away() -> None:
    kept = initial(2, 2).added("tenant").drained("tp-2").removed("tp-2")
    assert fitted(kept, 1, 1, None, "kubemark") == kept
    assert fitted(kept, 3, 1, None, "kubemark").names("tenant") == ("tp-1", "tp-3", "tp-4")
    with_nodes = fitted(kept, 1, 1, 7, "instant")
    assert [f.nodes for f in with_nodes.fleets] == [7]
    assert [f.nodes for f in fitted(with_nodes, 1, 1, 9, "instant").fleets] == [9]
    assert fitted(with_nodes, 1, 1, 0, "instant").fleets == ()
    assert fitted(with_nodes, 1, 1, None, "instant") == with_nodes


def test_what_is_no_topology_is_refused() -> None:
    for packed in ({}, {"version": 1}, {**Topology().pack(), "partitions": [{"name": "x"}]}):
        with pytest.raises(ValueError, match="no topology"):
            unpack(packed)
