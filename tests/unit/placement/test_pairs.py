from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arktos_ray.placement import pairs as pairs_module
from arktos_ray.placement.pairs import Pairs, term_of
from arktos_ray.placement.signature import (
    Demand,
    PodRequest,
    PodTerm,
    Requirement,
    Selector,
    Signature,
)

from .reference import World
from .worlds import NAMESPACES, pairs_of, pod_lists, pod_terms, social_signatures

SHAPE = Signature(Demand((("pods", 1),)))
TEAM = Selector((Requirement("team", "Exists"),))
STEPS = st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["a", "b", "c", ""])), max_size=25)


@settings(deadline=None, max_examples=60)
@given(
    pod_lists(social_signatures, 8),
    STEPS,
    st.lists(st.tuples(pod_terms, st.integers(0, 7), st.integers(0, 25)), max_size=3),
)
def test_counts_kept_up_to_date_equal_counts_made_afresh(
    pods: list[PodRequest], steps: list[tuple[int, str]], asked: list[tuple[PodTerm, int, int]]
) -> None:
    pairs = pairs_of([])
    seats: dict[str, tuple[PodRequest, str]] = {}
    terms = []
    for turn, (which, node) in enumerate(steps):
        for rule, holder, when in asked:
            if when == turn and holder < len(pods):
                terms.append((rule, pods[holder]))
                pairs.counts(term_of(rule, pods[holder]).term)
        if which >= len(pods):
            continue
        pod = pods[which]
        if node:
            seats[pod.uid] = (pod, node)
            pairs.place(pod, node)
        else:
            assert pairs.remove(pod.uid) == (seats.pop(pod.uid, None) is not None)

    world = World({}, list(seats.values()), NAMESPACES)
    for rule, holder in terms:
        expected: dict[str, int] = {}
        for pod, node in seats.values():
            if world._means(rule, holder, pod):
                expected[node] = expected.get(node, 0) + 1
        assert pairs.counts(term_of(rule, holder).term) == expected
    fresh = pairs_of(list(seats.values()))
    for tenant in ("t", "u"):
        assert pairs.holders(tenant) == fresh.holders(tenant)


def test_a_term_that_made_room_for_others_is_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "TERMS_MAX", 2)
    pairs = Pairs()
    terms = [pairs_module.Term("t", (name,), None, Selector(())) for name in ("x", "y", "z")]
    pod = PodRequest("u", "t/x/p", "t", "x", {}, 0, 0, SHAPE)
    for term in terms:
        assert pairs.counts(term) == {}
    pairs.place(pod, "n")
    assert [pairs.counts(term) for term in terms] == [{"n": 1}, {}, {}]
    pairs.remove("u")
    assert [pairs.counts(term) for term in terms] == [{}, {}, {}]


def test_a_namespace_that_is_labelled_later_is_meant_from_then_on() -> None:
    rule = PodTerm("zone", Selector(()), (), TEAM)
    pairs = Pairs()
    pod = PodRequest("u", "t/x/p", "t", "x", {}, 0, 0, SHAPE)
    pairs.place(pod, "n")
    term = term_of(rule, pod).term

    assert pairs.counts(term) == {}
    pairs.set_namespace("t", "x", {"team": "red"})
    assert pairs.counts(term) == {"n": 1}
    pairs.remove_namespace("t", "x")
    assert pairs.counts(term) == {}
