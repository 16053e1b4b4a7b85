from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from arktos_ray.placement import filters
from arktos_ray.placement.ledger import UNCONFIRMED_S, Claim, Ledger
from arktos_ray.placement.signature import CPU, PODS, Demand

UIDS = st.sampled_from([f"u{i}" for i in range(8)])
NODES = st.sampled_from(["a", "b", "c"])
DEMANDS = st.sampled_from(
    [
        Demand(((CPU, 1), (PODS, 1))),
        Demand(((CPU, 2), ("gpu", 1), (PODS, 1))),
        Demand(((PODS, 1),), (("TCP", 80, "0.0.0.0"),)),
        Demand(((PODS, 1),), (("TCP", 80, "1.1.1.1"),)),
    ]
)
CLAIMS = st.builds(Claim, UIDS, NODES, DEMANDS, st.sampled_from(["tp1", "tp2"]))


class AnyInterleaving(RuleBasedStateMachine):
    """Beside the ledger, a plain dict of who is where; the two must always agree."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(version=100)
        self.room: dict[str, dict[str, int]] = {}
        self.held: dict[str, tuple[Claim, bool]] = {}  # by uid: the claim, whether bound
        self.seen: dict[str, tuple[int, dict[str, int]]] = {}  # a follower of usage_since
        self.seen_version = 0
        self.now = 1.0

    def used(self, node: str) -> dict[str, int]:
        used: dict[str, int] = {}
        for claim, _ in self.held.values():
            if claim.node == node:
                for kind, amount in claim.demand.amounts:
                    used[kind] = used.get(kind, 0) + amount
        return used

    @rule(name=NODES, cpu=st.integers(0, 6), gpu=st.integers(0, 2), pods=st.integers(0, 4))
    def a_node_registers(self, name: str, cpu: int, gpu: int, pods: int) -> None:
        self.room[name] = {CPU: cpu, "gpu": gpu, PODS: pods}
        self.ledger.set_node(name, self.room[name])

    @rule(name=NODES)
    def a_node_leaves(self, name: str) -> None:
        self.room.pop(name, None)
        self.seen.pop(name, None)
        self.ledger.remove_node(name)

    @rule(claims=st.lists(CLAIMS, max_size=4))
    def a_scheduler_reserves(self, claims: list[Claim]) -> None:
        verdicts = self.ledger.reserve(claims, self.now)
        for claim, verdict in zip(claims, verdicts, strict=True):
            held = self.held.get(claim.uid)
            if held is not None and held[0].node != claim.node:
                assert not verdict.granted
                assert verdict.held_at == held[0].node
                continue
            if held is not None and (held[1] or held[0].demand == claim.demand):
                assert verdict.granted
                continue
            self.held.pop(claim.uid, None)
            used = self.used(claim.node)
            room = self.room.get(claim.node)
            taken = [
                port
                for other, _ in self.held.values()
                if other.node == claim.node
                for port in other.demand.ports
            ]
            fits = (
                room is not None
                and all(used.get(k, 0) + a <= room.get(k, 0) for k, a in claim.demand.amounts)
                and not filters.ports_clash(claim.demand.ports, taken)
            )
            assert verdict.granted == fits
            if fits:
                self.held[claim.uid] = (claim, False)

    @rule(claim=CLAIMS)
    def a_pod_is_seen_bound(self, claim: Claim) -> None:
        self.held[claim.uid] = (claim, True)
        self.ledger.bound(claim)

    @rule(uid=UIDS)
    def a_pod_goes(self, uid: str) -> None:
        assert self.ledger.release(uid) == (self.held.pop(uid, None) is not None)

    @rule(seconds=st.sampled_from([1.0, UNCONFIRMED_S]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for claim in self.ledger.expire(self.now):
            assert self.held[claim.uid] == (claim, False)

    @rule()
    def a_follower_catches_up(self) -> None:
        for node, version, amounts, _ in self.ledger.usage_since(self.seen_version):
            self.seen[node] = (version, amounts)
            self.seen_version = max(self.seen_version, version)
        assert {node: amounts for node, (_, amounts) in self.seen.items()} == {
            node: self.used(node) for node in self.room
        }

    @invariant()
    def it_holds_what_it_granted(self) -> None:
        assert len(self.ledger) == len(self.held)
        for uid, (claim, is_bound) in self.held.items():
            assert self.ledger.node_of(uid) == claim.node
            assert (self.ledger.unconfirmed(uid) is None) == is_bound


AnyInterleaving.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyInterleavingOfSchedulersKeepsTheBooks = AnyInterleaving.TestCase


@given(st.lists(st.lists(CLAIMS, max_size=6), max_size=6), st.integers(0, 8), st.integers(0, 3))
def test_grants_never_add_up_to_more_than_a_node_has(
    batches: list[list[Claim]], cpu: int, pods: int
) -> None:
    ledger = Ledger()
    for name in "abc":
        ledger.set_node(name, {CPU: cpu, "gpu": 1, PODS: pods})

    for batch in batches:
        ledger.reserve(batch, 1.0)

    for usage in ledger.usage_since(0):
        room = {CPU: cpu, "gpu": 1, PODS: pods}
        assert all(amount <= room[kind] for kind, amount in usage.amounts.items())


def test_an_unconfirmed_reservation_is_offered_for_release_and_a_confirmed_one_is_not() -> None:
    ledger = Ledger()
    ledger.set_node("a", {CPU: 10, PODS: 10})
    demand = Demand(((CPU, 1), (PODS, 1)))
    kept, lost = Claim("kept", "a", demand), Claim("lost", "a", demand)
    ledger.reserve([kept, lost], now=100.0)
    ledger.bound(kept)

    assert ledger.expire(100.0 + UNCONFIRMED_S - 1) == []
    assert ledger.expire(100.0 + UNCONFIRMED_S) == [lost]
    # Asked about, not yet released: it still takes its room.
    assert ledger.usage_since(0)[0].amounts == {CPU: 2, PODS: 2}


def test_pods_on_a_node_that_is_not_known_yet_count_when_it_registers() -> None:
    ledger = Ledger()
    ledger.bound(Claim("early", "a", Demand(((CPU, 3), (PODS, 1)))))
    ledger.set_node("a", {CPU: 4, PODS: 10})

    [verdict] = ledger.reserve([Claim("late", "a", Demand(((CPU, 2), (PODS, 1))))], now=0.0)

    assert verdict.why == "Insufficient cpu"


def test_a_reader_is_spared_its_own_reservations_and_nobody_elses() -> None:
    ledger = Ledger()
    demand = Demand(((CPU, 1), (PODS, 1)))
    for name in "ab":
        ledger.set_node(name, {CPU: 10, PODS: 10})
    before = ledger.version
    ledger.reserve([Claim("u1", "a", demand, "tp1"), Claim("u2", "b", demand, "tp1")], 1.0)
    ledger.reserve([Claim("u3", "b", demand, "tp2")], 1.0)

    def heard(source: str) -> list[str]:
        return [usage.node for usage in ledger.usage_since(before, source)]

    assert heard("tp1") == ["b"]
    assert heard("tp2") == ["a"]
    assert heard("") == ["a", "b"]
    ledger.release("u1")
    assert heard("tp1") == ["b", "a"]


def test_a_scheduler_that_carries_on_gets_the_whole_time_again() -> None:
    ledger = Ledger()
    ledger.set_node("a", {CPU: 10, PODS: 10})
    demand = Demand(((CPU, 1), (PODS, 1)))
    mine, other = Claim("mine", "a", demand, "tp1"), Claim("other", "a", demand, "tp2")
    ledger.reserve([mine, other], 100.0)

    assert ledger.renew("tp1", 130.0) == [mine]
    assert ledger.expire(100.0 + UNCONFIRMED_S) == [other]
    assert not ledger.is_overdue("mine", 100.0 + UNCONFIRMED_S)
    assert ledger.is_overdue("mine", 130.0 + UNCONFIRMED_S)
