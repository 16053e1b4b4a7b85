"""Fair queues: what a flow may count on, whatever the others do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.base.fair import FairQueue, Lanes

costs = st.integers(1, 100)
# (flow, cost) to push, or None to pop.
steps = st.lists(st.none() | st.tuples(st.sampled_from("abcd"), costs), max_size=200)


@given(steps=steps)
def test_everything_comes_out_once_and_each_flow_in_its_own_order(
    steps: list[tuple[str, int] | None],
) -> None:
    queue: FairQueue[str, int] = FairQueue(10_000)
    pushed: dict[str, list[int]] = {}
    popped: dict[str, list[int]] = {}

    def pop(most: int = 1) -> bool:
        taken = queue.pop(most, 150)
        if taken is None:
            return False
        popped.setdefault(taken.flow, []).extend(taken.items)
        queue.done(taken.flow, taken.cost, taken.cost)
        return True

    for number, step in enumerate(steps):
        if step is None:
            pop(1 + number % 5)
        else:
            flow, cost = step
            assert queue.push(flow, cost, number)
            pushed.setdefault(flow, []).append(number)
    while pop():
        pass
    assert popped == pushed
    assert (len(queue), queue.running) == (0, 0)


@given(a=st.lists(costs, min_size=50, max_size=80), b=st.lists(costs, min_size=50, max_size=80))
def test_two_that_both_want_everything_get_the_same(a: list[int], b: list[int]) -> None:
    queue: FairQueue[str, None] = FairQueue(10_000)
    for cost in a:
        queue.push("a", cost, None)
    for cost in b:
        queue.push("b", cost, None)
    served = {"a": 0, "b": 0}
    while queue.waiting_of("a") and queue.waiting_of("b"):
        taken = queue.pop()
        assert taken is not None
        served[taken.flow] += taken.cost
        assert abs(served["a"] - served["b"]) <= 100, "at most the largest item apart"


@given(
    noisy=st.dictionaries(st.sampled_from("abcdef"), st.lists(costs, min_size=1, max_size=60)),
    before=st.integers(0, 100),
)
def test_who_was_quiet_waits_for_at_most_one_item_of_each_other(
    noisy: dict[str, list[int]], before: int
) -> None:
    queue: FairQueue[str, None] = FairQueue(10_000)
    for flow, wanted in noisy.items():
        for cost in wanted:
            queue.push(flow, cost, None)
    for _ in range(before):
        queue.pop()
    queue.push("quiet", 1, None)
    ahead = []
    while (taken := queue.pop()) is not None and taken.flow != "quiet":
        ahead.append(taken.flow)
    assert len(ahead) == len(set(ahead))


@given(
    wanted=st.lists(costs, min_size=1, max_size=50), most=st.integers(1, 9), size=st.integers(1, 9)
)
def test_a_flow_runs_no_more_than_its_limit_and_the_others_go_on(
    wanted: list[int], most: int, size: int
) -> None:
    queue: FairQueue[str, None] = FairQueue(10_000, most)
    for cost in wanted:
        queue.push("noisy", cost, None)
    running, left = [], len(wanted)
    while (taken := queue.pop(size, 10_000)) is not None:
        assert len(taken.items) <= size
        running.append(taken.cost)
        left -= len(taken.items)
    assert len(running) == min(most, -(-len(wanted) // size))
    queue.push("quiet", 1, None)
    taken = queue.pop()
    assert taken is not None
    assert taken.flow == "quiet"
    assert taken.light
    for cost in running:
        queue.done("noisy", cost, cost)
    again = queue.pop()
    assert (again is not None) == (left > 0)


def test_what_cost_more_than_expected_is_owed() -> None:
    queue: FairQueue[str, int] = FairQueue(100)
    queue.push("lists", 1, 0)
    taken = queue.pop()
    assert taken is not None
    queue.push("gets", 1, 0)  # Somebody waits, so the account is kept.
    queue.done("lists", 1, 10)
    queue.push("lists", 1, 1)
    for number in range(1, 12):
        queue.push("gets", 1, number)
    order = []
    while (taken := queue.pop()) is not None:
        order.append(taken.flow)
        queue.done(taken.flow, 1, 1)
    assert order.index("lists") in (10, 11)


def test_one_flow_fills_half_of_the_room_and_a_newcomer_finds_some() -> None:
    queue: FairQueue[str, None] = FairQueue(100)
    assert sum(queue.push("a", 1, None) for _ in range(100)) == 50
    assert sum(queue.push("b", 1, None) for _ in range(100)) == 25
    assert queue.push("c", 1, None)


def test_flows_that_went_away_are_forgotten() -> None:
    queue: FairQueue[int, None] = FairQueue(100_000)
    queue.push(-1, 1, None)  # Somebody always waits.
    for number in range(5_000):
        queue.push(number, 1, None)
        taken = queue.pop()
        assert taken is not None
        queue.done(taken.flow, taken.cost, taken.cost)
    assert len(queue._flows) < 2_100


def _order(lanes: Lanes[str, str]) -> list[str]:
    order = []
    while (taken := lanes.pop()) is not None:
        order += taken.items
    return order


def test_the_lane_without_a_weight_goes_first_and_the_others_by_weight() -> None:
    lanes: Lanes[str, str] = Lanes((None, 4, 2), 1_000)
    for _ in range(60):
        lanes.push(1, "admin", 10, "a")
        lanes.push(2, "tenant", 10, "t")
    lanes.push(0, "", 10, "h")
    order = _order(lanes)
    assert order[0] == "h"
    assert 18 <= order[1:31].count("a") <= 21, "two of three, while both want everything"


@given(flood=st.lists(costs, min_size=1, max_size=100), before=st.integers(0, 120))
def test_a_quiet_lane_waits_for_one_item_of_a_loud_one(flood: list[int], before: int) -> None:
    lanes: Lanes[str, str] = Lanes((None, 4, 2), 1_000)
    for number, cost in enumerate(flood):
        lanes.push(2, f"tenant-{number % 7}", cost, "t")
    for _ in range(before):
        lanes.pop()
    lanes.push(1, "admin", 10, "a")
    assert _order(lanes)[:2].count("a") == 1


def test_who_is_charged_for_what_was_not_foreseen_waits_for_it() -> None:
    lanes: Lanes[str, str] = Lanes([1], 100)
    for i in range(3):
        for flow in ("a", "b"):
            lanes.push(0, flow, 10, f"{flow}{i}")
    first = lanes.pop()
    assert first is not None
    assert first.items == ["a0"]
    lanes.charge(0, "a", 15)
    order = [taken.items[0] for taken in iter(lanes.pop, None)]
    assert order == ["b0", "b1", "b2", "a1", "a2"]
