"""A tenant on its way between two stores: the marks it leaves, what is staged, what arrives. Pure.

A mark says in the log where a tenant stands; the newest one of a tenant counts.

    arriving   its rows are being imported: staged, and visible to nobody
    complete   every row is here; the other partition is asked, or was asked, to let go
    here       it arrived at the revision of this mark, and is served here
    departed   it left at the revision of this mark, and is never served here again

Rows keep their revisions when they move, and a revision names the partition that made it. So each
change is told to watches over all tenants by the partition that made it, and by no other
(docs/flows/tenant-move.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from arktos_ray.store.records import Record
from arktos_ray.store.watchcache import Change

# Never served by the API: no row of api/scheme.py has that name.
MOVES = "arktos.moves"
TENANTS = "tenants"
ARRIVING, COMPLETE, HERE, DEPARTED = "arriving", "complete", "here", "departed"
STAGING = (ARRIVING, COMPLETE)
# In the floors of a log: `pods/acme` is a tenant's own floor, `pods/*` that of all-tenant watches.
WIDE = "*"
# There as well, once rows of another partition were taken in.
RECEIVED = f"{MOVES}/"


@dataclass(frozen=True, slots=True)
class Mark:
    """other: the partition it comes from, or went to. uid, addresses: of what departed."""

    tenant: str
    state: str
    other: str
    revision: int = 0
    uid: str = ""
    addresses: tuple[str, ...] = ()

    def body(self) -> dict[str, Any]:
        return {
            "metadata": {"name": self.tenant},
            "state": self.state, "other": self.other, "uid": self.uid,
            "addresses": list(self.addresses),
        }  # fmt: skip


def read_mark(record: Record) -> Mark:
    body = record.decode()
    return Mark(
        body["metadata"]["name"], body["state"], body["other"], record.revision, body["uid"],
        tuple(body["addresses"]),
    )  # fmt: skip


def mark_path(tenant: str) -> str:
    return f"//{tenant}"


def owner_of(gvr: str, path: str) -> str:
    """The tenant that an object moves with; "" for what belongs to the partition."""
    tenant = path[: path.index("/")]
    return tenant or (path[2:] if gvr == TENANTS else "")


def split_floors(floors: Mapping[str, int]) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Those of whole resources, and those of (resource, tenant)."""
    whole: dict[str, int] = {}
    parts: dict[tuple[str, str], int] = {}
    for name, revision in floors.items():
        gvr, slash, tenant = name.partition("/")
        if slash:
            parts[gvr, tenant] = revision
        else:
            whole[name] = revision
    return whole, parts


class Step(NamedTuple):
    """Objects of one resource that left or arrived together, for watchers that asked for it."""

    kind: str  # LEFT or ARRIVED of api/calls.py
    revision: int
    records: Sequence[Record]


@dataclass(slots=True)
class Arrival:
    """What a tenant brings, ready to be put in place in one step."""

    live: dict[str, list[Record]] = field(default_factory=dict)  # by gvr
    changes: dict[str, list[Change]] = field(default_factory=dict)
    superfluous: list[int] = field(default_factory=list)  # rows that nothing needs any more


def arrival(
    staged: Iterable[tuple[str, Record]], floors: Mapping[tuple[str, str], int], tenant: str,
    own_floors: Mapping[str, int],
) -> Arrival:  # fmt: skip
    """From rows in any order: the state, and the past after the later of both floors."""
    found = Arrival()
    states: dict[str, dict[str, Record]] = {}
    needed: set[int] = set()
    rows = sorted(staged, key=lambda row: row[1].revision)
    for gvr, record in rows:
        state = states.setdefault(gvr, {})
        previous = state.get(record.path)
        if record.deleted:
            state.pop(record.path, None)
        else:
            state[record.path] = record
        if record.revision > max(floors.get((gvr, tenant), 0), own_floors.get(gvr, 0)):
            found.changes.setdefault(gvr, []).append(Change(record, previous))
            needed.add(record.revision)
            if previous is not None:
                needed.add(previous.revision)
    for gvr, state in states.items():
        found.live[gvr] = list(state.values())
        needed.update(record.revision for record in state.values())
    found.superfluous = [r.revision for _, r in rows if r.revision not in needed]
    return found
