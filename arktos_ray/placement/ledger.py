"""The ledger: what is reserved on the nodes of one ResourcePartition, whoever asked for it.

Schedulers of many TenantPartitions propose; the ledger accepts or refuses pod by pod, with the fit
functions of `filters.py` (design.md D8). A claim is reserved first and bound once its pod was seen
with that node; a claim that nobody confirms becomes overdue, and the shell asks the
TenantPartition before it releases it.

Pure, and derived: rebuilt from the bound pods after a restart. It grants nothing beyond what a
node can hold, but takes in what is already there, even when that is too much.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from arktos_ray.placement import filters
from arktos_ray.placement.signature import PODS, Demand, Port

# A bind follows its reservation within milliseconds. A minute is past every deadline a scheduler
# has for it, so that a bind still under way cannot arrive after its room was given away.
UNCONFIRMED_S = 60.0

GRANTED = ""


class Claim(NamedTuple):
    """One pod on one node. `source` and `path` say whom to ask about it."""

    uid: str
    node: str
    demand: Demand
    source: str = ""  # the TenantPartition
    path: str = ""  # tenant/namespace/name


class Verdict(NamedTuple):
    """`why` is empty when the claim was granted."""

    uid: str
    why: str = GRANTED
    # Where the pod has a reservation already, when that is why.
    held_at: str = ""

    @property
    def granted(self) -> bool:
        return not self.why


class Usage(NamedTuple):
    """What is taken on one node, as of `version`."""

    node: str
    version: int
    amounts: dict[str, int]
    ports: tuple[Port, ...]


@dataclass(slots=True)
class _Entry:
    """A claim, and when it must be confirmed; 0 once it is bound."""

    claim: Claim
    deadline: float


class _Node:
    """The books of one node. `free` is None while the node is unknown: then nothing is granted."""

    __slots__ = ("allocatable", "by", "claims", "free", "ports", "used", "version")

    def __init__(self, kinds: int) -> None:
        self.allocatable: dict[int, int] | None = None
        self.used = [0] * kinds
        self.free = [0] * kinds
        self.ports: dict[Port, int] = {}  # how many claims take it: bound pods may clash
        self.claims = 0
        self.version = 0
        self.by = ""  # whose reservation changed it last; "" when something else did


class Ledger:
    """`version` starts above every version of an earlier ledger (the shell takes it from time)."""

    def __init__(self, version: int = 0, unconfirmed_s: float = UNCONFIRMED_S) -> None:
        self._version = version
        self._unconfirmed_s = unconfirmed_s
        self._kinds: dict[str, int] = {}
        self._nodes: dict[str, _Node] = {}
        self._entries: dict[str, _Entry] = {}  # by uid
        self._unconfirmed: dict[str, None] = {}  # uids, oldest first
        self._changed: dict[str, None] = {}  # nodes, least recently changed first
        # A demand in our kinds, by the demand: pods of a shape share one.
        self._wants: dict[Demand, list[tuple[int, int]]] = {}

    @property
    def version(self) -> int:
        """Of the latest change."""
        return self._version

    def __len__(self) -> int:
        return len(self._entries)

    def claim_of(self, uid: str) -> Claim | None:
        entry = self._entries.get(uid)
        return None if entry is None else entry.claim

    def node_of(self, uid: str) -> str:
        entry = self._entries.get(uid)
        return "" if entry is None else entry.claim.node

    def set_node(self, name: str, allocatable: Mapping[str, int]) -> None:
        node = self._node(name)
        room = {self._kind(kind): amount for kind, amount in allocatable.items()}
        if node.allocatable == room:
            return
        node.allocatable = room
        node.free = [room.get(i, 0) - used for i, used in enumerate(node.used)]
        self._touch(name, node)

    def remove_node(self, name: str) -> None:
        """Grants nothing more there. What is claimed stays on the books until it is released."""
        node = self._nodes.get(name)
        if node is None:
            return
        node.allocatable = None
        self._changed.pop(name, None)
        if not node.claims:
            del self._nodes[name]

    def reserve(self, claims: Iterable[Claim], now: float) -> list[Verdict]:
        """One verdict for each claim, in order; each counts for those behind it. 3 us a claim.

        The same pod on the same node is granted again; on another node it is refused until the
        earlier claim is released.
        """
        return [self._reserve(claim, now) for claim in claims]

    def bound(self, claim: Claim) -> None:
        """The pod was seen on that node: the claim stands, whatever was reserved before."""
        entry = self._entries.get(claim.uid)
        if entry is not None:
            if entry.claim.node == claim.node and entry.claim.demand == claim.demand:
                entry.claim = claim  # Its tenant may have moved: then it is of another source.
                self._confirm(entry)
                return
            self.release(claim.uid)
        self._enter(claim, 0.0)

    def release(self, uid: str) -> bool:
        """The pod takes nothing any more. False when it took nothing."""
        entry = self._entries.pop(uid, None)
        if entry is None:
            return False
        self._unconfirmed.pop(uid, None)
        self._book(entry.claim, -1)
        return True

    def release_all(self, source: str) -> None:
        """Nothing of that TenantPartition takes anything any more: it is gone."""
        for uid in [u for u, entry in self._entries.items() if entry.claim.source == source]:
            self.release(uid)

    def unconfirmed(self, uid: str) -> Claim | None:
        """The claim of that pod, if it is reserved and not bound."""
        entry = self._entries.get(uid)
        return entry.claim if entry is not None and entry.deadline else None

    def renew(self, source: str, now: float) -> list[Claim]:
        """The unconfirmed claims of one TenantPartition, each with its whole time ahead of it."""
        entries = [self._entries[uid] for uid in self._unconfirmed]
        mine = [entry for entry in entries if entry.claim.source == source]
        for entry in mine:
            self._await_confirmation(entry, now)
        return [entry.claim for entry in mine]

    def is_overdue(self, uid: str, now: float) -> bool:
        entry = self._entries.get(uid)
        return entry is not None and 0.0 < entry.deadline <= now

    def expire(self, now: float) -> list[Claim]:
        """Reservations that were not confirmed in time, still held: ask, then release."""
        overdue = []
        for uid in self._unconfirmed:
            entry = self._entries[uid]
            if entry.deadline > now:
                break
            overdue.append(entry.claim)
        return overdue

    def usage_since(self, version: int, but_not_by: str = "") -> list[Usage]:
        """What changed after that version, known nodes only, each once. From 0: everything.

        but_not_by: the answers to that source's own reservations have told it of the others.
        """
        changes = []
        for name in reversed(self._changed):
            node = self._nodes[name]
            if node.version <= version:
                break
            if not node.by or node.by != but_not_by:
                changes.append(self._usage(name, node))
        changes.reverse()
        return changes

    def usage_of(self, names: Iterable[str]) -> list[Usage]:
        return [
            self._usage(name, node)
            for name in names
            if (node := self._nodes.get(name)) is not None and node.allocatable is not None
        ]

    # The parts of the above.

    def _reserve(self, claim: Claim, now: float) -> Verdict:
        uid, name = claim.uid, claim.node
        entry = self._entries.get(uid)
        if entry is not None:
            held_at = entry.claim.node
            if held_at != name:
                return Verdict(uid, f"pod already has a reservation on {held_at}", held_at)
            if not entry.deadline:
                return Verdict(uid)  # It is there already; the bind will say so too.
            if entry.claim.demand == claim.demand:
                self._await_confirmation(entry, now)
                return Verdict(uid)
            self.release(uid)
        node = self._nodes.get(name)
        if node is None or node.allocatable is None:
            return Verdict(uid, f"node {name} is not here")
        want = self._want(claim.demand)
        if not filters.fits(want, node.free):
            return Verdict(uid, _shortage(claim.demand, want, node.free))
        if claim.demand.ports and filters.ports_clash(claim.demand.ports, node.ports):
            return Verdict(uid, "the node's free ports are not those that the pod wants")
        self._await_confirmation(self._enter(claim, now), now)
        node.by = claim.source
        return Verdict(uid)

    def _enter(self, claim: Claim, deadline: float) -> _Entry:
        entry = self._entries[claim.uid] = _Entry(claim, deadline)
        self._book(claim, 1)
        return entry

    def _await_confirmation(self, entry: _Entry, now: float) -> None:
        entry.deadline = now + self._unconfirmed_s
        self._unconfirmed.pop(entry.claim.uid, None)
        self._unconfirmed[entry.claim.uid] = None

    def _confirm(self, entry: _Entry) -> None:
        entry.deadline = 0.0
        self._unconfirmed.pop(entry.claim.uid, None)

    def _book(self, claim: Claim, sign: int) -> None:
        want = self._want(claim.demand)
        node = self._node(claim.node)
        for kind, amount in want:
            node.used[kind] += sign * amount
            node.free[kind] -= sign * amount
        for port in claim.demand.ports:
            takers = node.ports.get(port, 0) + sign
            if takers:
                node.ports[port] = takers
            else:
                del node.ports[port]
        node.claims += sign
        if node.allocatable is not None:
            self._touch(claim.node, node)
        elif not node.claims:
            del self._nodes[claim.node]

    def _touch(self, name: str, node: _Node) -> None:
        self._version += 1
        node.version = self._version
        node.by = ""
        self._changed.pop(name, None)
        self._changed[name] = None

    def _usage(self, name: str, node: _Node) -> Usage:
        amounts = {kind: node.used[i] for kind, i in self._kinds.items() if node.used[i]}
        return Usage(name, node.version, amounts, tuple(node.ports))

    def _node(self, name: str) -> _Node:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = _Node(len(self._kinds))
        return node

    def _kind(self, name: str) -> int:
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._kinds[name] = len(self._kinds)
            for node in self._nodes.values():
                node.used.append(0)
                node.free.append(0)
        return kind

    def _want(self, demand: Demand) -> list[tuple[int, int]]:
        want = self._wants.get(demand)
        if want is None:
            if len(self._wants) > 10_000:
                self._wants.clear()
            want = [(self._kind(name), amount) for name, amount in demand.amounts]
            self._wants[demand] = want
        return want


def _shortage(demand: Demand, want: Sequence[tuple[int, int]], free: list[int]) -> str:
    return ", ".join(
        "Too many pods" if name == PODS else f"Insufficient {name}"
        for (name, _), pair in zip(demand.amounts, want, strict=True)
        if not filters.fits((pair,), free)
    )
