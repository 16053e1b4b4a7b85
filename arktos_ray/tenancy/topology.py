"""Topology: which partitions a region has, and which simulated fleets. Pure values.

The supervisor keeps the one that counts (actors/topology.py says where) and changes it by the
functions below, each of which returns a new value with the next version. Everybody else is told,
and follows.

Names and revisions stay unique over time: a name is never given out again, and the number of a
partition (it is in every revision that the partition gives out, spec/scaleout.md 7) is the one
that was free the longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from arktos_ray.api.errors import BadRequest, Conflict, NotFound

Kind = Literal["tenant", "resource"]

# Six bits of every revision; resource partitions count down from the last.
NUMBERS = 64
_PREFIX: dict[Kind, str] = {"tenant": "tp-", "resource": "rp-"}
ACTIVE, DRAINING = "active", "draining"
_FIRST_FLEET = "simulated-1"


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """name: tp-3; number: 0..63, unique; state: active takes what is new, draining does not."""

    name: str
    kind: Kind
    number: int
    state: str = ACTIVE
    storage: str = "0"  # the storage cluster that has its log (spec/scaleout.md 6)
    zone: str = ""  # where its actor should run; "" anywhere


@dataclass(frozen=True, slots=True)
class Fleet:
    """Simulated nodes of one actor: so many, spread over those resource partitions in turn."""

    name: str
    nodes: int
    partitions: tuple[str, ...]
    mode: str = "kubemark"
    prefix: str = "sim"
    first_index: int = 0  # of their addresses, so that those of two fleets differ


@dataclass(frozen=True, slots=True)
class Topology:
    """version grows with every change. made: how many partitions of each kind there ever were."""

    version: int = 0
    partitions: tuple[PartitionRow, ...] = ()
    fleets: tuple[Fleet, ...] = ()
    made: tuple[int, int] = (0, 0)  # tenant, resource
    freed: tuple[int, ...] = ()  # numbers that were used before, the longest free first

    # Looking

    def names(self, kind: Kind) -> tuple[str, ...]:
        return tuple(row.name for row in self.partitions if row.kind == kind)

    def taking(self, kind: Kind) -> tuple[PartitionRow, ...]:
        """Those that new tenants, or new nodes, may be given to."""
        return tuple(r for r in self.partitions if r.kind == kind and r.state == ACTIVE)

    def row(self, name: str) -> PartitionRow:
        """Raises NotFound."""
        for row in self.partitions:
            if row.name == name:
                return row
        known = ", ".join(row.name for row in self.partitions)
        raise NotFound(f'there is no partition "{name}"; there are {known or "none"}')

    @property
    def system(self) -> str:
        """The home of the system tenant: the first tenant partition, which stays."""
        return self.names("tenant")[0]

    # Changing

    def added(self, kind: Kind, storage: str = "0", zone: str = "") -> Topology:
        """With one more partition, the last. Raises Conflict when all numbers are taken."""
        made = list(self.made)
        which = 0 if kind == "tenant" else 1
        made[which] += 1
        number, freed = self._free_number(kind)
        row = PartitionRow(f"{_PREFIX[kind]}{made[which]}", kind, number, ACTIVE, storage, zone)
        return replace(
            self, version=self.version + 1, partitions=(*self.partitions, row),
            made=(made[0], made[1]), freed=freed,
        )  # fmt: skip

    def _free_number(self, kind: Kind) -> tuple[int, tuple[int, ...]]:
        used = {row.number for row in self.partitions} | set(self.freed)
        order = range(NUMBERS) if kind == "tenant" else range(NUMBERS - 1, -1, -1)
        for number in order:
            if number not in used:
                return number, self.freed
        if not self.freed:
            raise Conflict(
                f"there are {NUMBERS} partitions already: revisions have room for no more"
            )
        return self.freed[0], self.freed[1:]

    def drained(self, name: str, back: bool = False) -> Topology:
        """That partition takes nothing new any more; back: it does again.

        Raises NotFound, and Conflict for one that must go on.
        """
        row = self.row(name)
        if not back:
            self._check_dispensable(row)
        state = ACTIVE if back else DRAINING
        if row.state == state:
            return self
        changed = replace(row, state=state)
        rows = tuple(changed if each is row else each for each in self.partitions)
        return replace(self, version=self.version + 1, partitions=rows)

    def _check_dispensable(self, row: PartitionRow) -> None:
        if row.kind == "tenant" and row.name == self.system:
            raise Conflict(f"{row.name} is the home of the system tenant, and stays")
        if row.state == ACTIVE and len(self.taking(row.kind)) == 1:
            raise Conflict(f"{row.name} is the last {row.kind} partition that takes what is new")

    def removed(self, name: str) -> Topology:
        """Without that partition. Raises NotFound, and Conflict while it is not drained."""
        row = self.row(name)
        self._check_dispensable(row)
        if row.state != DRAINING:
            raise Conflict(f"{name} is active; drain it first: arktos partition drain {name}")
        for fleet in self.fleets:
            if name in fleet.partitions:
                raise Conflict(
                    f"the simulated nodes of {fleet.name} are in {name}; remove them first: "
                    f"arktos simulate remove {fleet.name}"
                )
        rows = tuple(each for each in self.partitions if each is not row)
        freed = (*self.freed, row.number)
        return replace(self, version=self.version + 1, partitions=rows, freed=freed)

    def with_fleet(
        self, nodes: int, mode: str, partitions: Sequence[str] = (), name: str = ""
    ) -> Topology:
        """With one more fleet, by default over all resource partitions that take nodes."""
        if nodes < 1:
            raise BadRequest("a fleet has at least one node")
        among = tuple(partitions) or tuple(row.name for row in self.taking("resource"))
        for each in among:
            row = self.row(each)
            if row.kind != "resource" or row.state != ACTIVE:
                raise Conflict(f"{each} takes no nodes")
        numbers = [int(f.name.rpartition("-")[2]) for f in self.fleets]
        number = max(numbers, default=0) + 1
        fleet = Fleet(
            name or f"simulated-{number}", nodes, among, mode,
            "sim" if number == 1 else f"sim{number}",
            max((f.first_index + f.nodes for f in self.fleets), default=0),
        )  # fmt: skip
        return replace(self, version=self.version + 1, fleets=(*self.fleets, fleet))

    def without_fleet(self, name: str) -> Topology:
        """Raises NotFound."""
        left = tuple(fleet for fleet in self.fleets if fleet.name != name)
        if len(left) == len(self.fleets):
            known = ", ".join(fleet.name for fleet in self.fleets)
            raise NotFound(f'there are no simulated nodes "{name}"; there are {known or "none"}')
        return replace(self, version=self.version + 1, fleets=left)

    # Travelling

    def pack(self) -> dict[str, Any]:
        """Plain values, as JSON and msgpack have them."""
        return asdict(self)


def unpack(packed: Mapping[str, Any]) -> Topology:
    """What `pack` gave. Raises ValueError for anything else."""
    try:
        return Topology(
            packed["version"],
            tuple(PartitionRow(**row) for row in packed["partitions"]),
            tuple(
                Fleet(**{**fleet, "partitions": tuple(fleet["partitions"])})
                for fleet in packed["fleets"]
            ),
            (packed["made"][0], packed["made"][1]),
            tuple(packed["freed"]),
        )
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"this is no topology: {error}") from error


def initial(tenant: int, resource: int, storage: str = "0", zones: Sequence[str] = ()) -> Topology:
    """Version 1: tp-1.. and rp-1.., in these zones in turn."""
    topology = Topology()
    for _ in range(tenant):
        topology = topology.added("tenant", storage, _next_zone(topology, "tenant", zones))
    for _ in range(resource):
        topology = topology.added("resource", storage, _next_zone(topology, "resource", zones))
    return replace(topology, version=1)


def _next_zone(topology: Topology, kind: Kind, zones: Sequence[str]) -> str:
    return zones[len(topology.names(kind)) % len(zones)] if zones else ""


def fitted(
    kept: Topology | None,
    tenant: int,
    resource: int,
    nodes: int | None,
    mode: str,
    storage: str = "0",
    zones: Sequence[str] = (),
) -> Topology:
    """What `arktos up` starts with: at least so many partitions of each kind, and the first fleet
    of this size (0: none, None: as it is). What there is more stays: only an operator removes."""
    topology = initial(tenant, resource, storage, zones) if kept is None else kept
    kinds: tuple[tuple[Kind, int], ...] = (("tenant", tenant), ("resource", resource))
    for kind, count in kinds:
        while len(topology.names(kind)) < count:
            topology = topology.added(kind, storage, _next_zone(topology, kind, zones))
    first = next((f for f in topology.fleets if f.name == _FIRST_FLEET), None)
    fleets = topology.fleets
    if first is None and nodes:
        fleets = topology.with_fleet(nodes, mode, name=_FIRST_FLEET).fleets
    elif first is not None and nodes is not None:
        resized = (replace(first, nodes=nodes, mode=mode),) if nodes else ()
        fleets = (*resized, *(f for f in topology.fleets if f is not first))
    if fleets == topology.fleets:
        return topology
    # At the start everybody reads it: a version tells of changes while others work.
    return replace(topology, fleets=fleets)
