"""NodeTable: the nodes as columns, one array per question that a filter or a score asks.

A node is a row; a removed node's row is used again. Room is (kinds, nodes), so that each kind is
contiguous (design.md D7). Labels are one column of value ids per key, made when a node first has
that key. Nodes with equal taints share a taint set, so a rule looks at each set once.

Not the truth: a copy that its owner keeps up to date from watches and usage feeds. The ledger of
the ResourcePartition decides (design.md D8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import lt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arktos_ray.placement.signature import (
    CPU,
    EPHEMERAL_STORAGE,
    MEMORY,
    PODS,
    Object,
    Port,
    amounts,
)

Mask = NDArray[np.bool_]  # (nodes,)
Ids = NDArray[np.int32]  # (nodes,): 0 is "has none"
Scores = NDArray[np.float64]  # (nodes,)

# The kinds that scores look at come first, at fixed places.
BASE_KINDS = (CPU, MEMORY, PODS, EPHEMERAL_STORAGE)
SCORED_KINDS = 3
# Derived columns that are remembered until a label, a taint or a readiness changes.
MEMO_MAX = 512

UNSCHEDULABLE_TAINT = "node.kubernetes.io/unschedulable"
NOT_READY_TAINT = "node.kubernetes.io/not-ready"


class Taint(NamedTuple):
    key: str
    value: str
    effect: str


class NodeView(NamedTuple):
    """What placement knows of a node object, and who keeps it (`home`: a ResourcePartition)."""

    name: str
    home: str
    allocatable: Mapping[str, int]
    labels: Mapping[str, str]
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    ready: bool = True
    container_ready: bool = True
    vm_ready: bool = True


def node_view(node: Object, home: str) -> NodeView:
    """A node as JSON has it, read. A node without conditions counts as ready: nobody said no."""
    metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    conditions = {c["type"]: c.get("status") == "True" for c in status.get("conditions") or ()}
    # A node that names neither runtime comes from an agent that knows no such condition.
    names_runtimes = "ContainerRuntimeReady" in conditions or "VmRuntimeReady" in conditions
    return NodeView(
        metadata["name"],
        home,
        amounts(status.get("allocatable") or status.get("capacity")),
        metadata.get("labels") or {},
        tuple(
            Taint(t["key"], t.get("value") or "", t.get("effect") or "")
            for t in spec.get("taints") or ()
        ),
        bool(spec.get("unschedulable")),
        conditions.get("Ready", True),
        conditions.get("ContainerRuntimeReady", not names_runtimes),
        conditions.get("VmRuntimeReady", not names_runtimes),
    )


class Column:
    """The values of one label key, by row. Ids are never reused; 0 is "has no such label"."""

    def __init__(self, rows: int) -> None:
        self.ids: Ids = np.zeros(rows, np.int32)
        self.texts: list[str] = [""]
        self._id_of: dict[str, int] = {}

    def intern(self, text: str) -> int:
        found = self._id_of.get(text)
        if found is None:
            found = self._id_of[text] = len(self.texts)
            self.texts.append(text)
        return found

    def id_of(self, text: str) -> int:
        """-1 when no node ever had that value."""
        return self._id_of.get(text, -1)


class NodeTable:
    """Nodes as columns. Rows of nodes that are gone are False in `live`."""

    def __init__(self, rows: int = 64) -> None:
        self.height = 0  # rows ever used: arrays are longer, `[:height]` is what counts
        self.names: list[str] = []
        self.row_of: dict[str, int] = {}
        self.kinds: dict[str, int] = {name: i for i, name in enumerate(BASE_KINDS)}
        self.allocatable: NDArray[np.int64] = np.zeros((len(BASE_KINDS), rows), np.int64)
        self.used: NDArray[np.int64] = np.zeros((len(BASE_KINDS), rows), np.int64)
        self.free: NDArray[np.int64] = np.zeros((len(BASE_KINDS), rows), np.int64)
        # 1 / allocatable of the scored kinds; 0 where there is nothing to divide by.
        self.inverse: NDArray[np.float64] = np.zeros((SCORED_KINDS, rows), np.float64)
        self.live: Mask = np.zeros(rows, np.bool_)
        self.unschedulable: Mask = np.zeros(rows, np.bool_)
        self.ready: Mask = np.zeros(rows, np.bool_)
        self.container_ready: Mask = np.zeros(rows, np.bool_)
        self.vm_ready: Mask = np.zeros(rows, np.bool_)
        self.labels: dict[str, Column] = {}
        self.taint_sets: list[tuple[Taint, ...]] = [()]
        self.taints: Ids = np.zeros(rows, np.int32)  # into taint_sets
        self.homes = Column(rows)
        self.lost_homes: set[str] = set()
        # Host ports in use, only of rows that have any.
        self.ports: dict[int, frozenset[Port]] = {}
        # What filters and scores derived from the columns that change seldom.
        self.memo: dict[Any, Any] = {}
        self._views: list[NodeView | None] = []
        self._versions: list[int] = []
        self._vacant: list[int] = []
        self._taint_set_ids: dict[tuple[Taint, ...], int] = {(): 0}
        # Usage of nodes that we were not told about yet, or that are gone for the moment.
        self._usage_of_strangers: dict[str, tuple[int, Mapping[str, int], Sequence[Port]]] = {}

    def __len__(self) -> int:
        return len(self.row_of)

    def kind(self, name: str) -> int:
        """The index of a resource in the room columns; a new one is all zeros."""
        found = self.kinds.get(name)
        if found is None:
            found = self.kinds[name] = len(self.kinds)
            nothing = np.zeros((1, self.live.size), np.int64)
            self.allocatable = np.concatenate([self.allocatable, nothing])
            self.used = np.concatenate([self.used, nothing])
            self.free = np.concatenate([self.free, nothing])
        return found

    def home_of(self, name: str) -> str:
        """Who keeps that node; "" when it is not here."""
        row = self.row_of.get(name)
        return "" if row is None else self.homes.texts[self.homes.ids[row]]

    def names_at(self, home: str) -> list[str]:
        """The nodes that one ResourcePartition keeps."""
        rows = np.flatnonzero(self.homes.ids[: self.height] == self.homes.id_of(home))
        return [self.names[row] for row in rows]

    def view(self, name: str) -> NodeView | None:
        row = self.row_of.get(name)
        return None if row is None else self._views[row]

    # Changes. Each answers whether a pod that fitted nowhere might fit now.

    def set_node(self, view: NodeView) -> bool:
        """Adds or replaces a node. 15 us new, 1 us when nothing changed (a heartbeat)."""
        row = self.row_of.get(view.name)
        if row is None:
            row = self._occupy(view.name)
        before = self._views[row]
        if before == view:
            return False
        self._views[row] = view
        self._set_allocatable(row, view)
        if before is None or before._replace(allocatable=view.allocatable) != view:
            self._set_rules(row, before, view)
        if before is None:
            usage = self._usage_of_strangers.pop(view.name, None)
            if usage is not None:
                self.set_usage(view.name, *usage)
        return True

    def remove_node(self, name: str) -> None:
        row = self.row_of.pop(name, None)
        if row is None:
            return
        view = self._views[row]
        assert view is not None, "a row with a name has a view"
        if self._versions[row] >= 0:
            used = {kind: int(self.used[i, row]) for kind, i in self.kinds.items()}
            ports = tuple(self.ports.get(row, ()))
            self._usage_of_strangers[name] = (self._versions[row], used, ports)
        for key in view.labels:
            self.labels[key].ids[row] = 0
        for column in (self.allocatable, self.used, self.free, self.inverse):
            column[:, row] = 0
        self.homes.ids[row] = self.taints[row] = 0
        self.live[row] = False
        self.ports.pop(row, None)
        self.names[row], self._views[row], self._versions[row] = "", None, -1
        self._vacant.append(row)
        self.memo.clear()

    def set_usage(
        self, name: str, version: int, used: Mapping[str, int], ports: Sequence[Port] = (),
        *, force: bool = False,
    ) -> bool:  # fmt: skip
        """What is reserved on a node, whoever reserved it. Older versions are ignored. 3 us."""
        row = self.row_of.get(name)
        if row is None:
            known = self._usage_of_strangers.get(name)
            if force or known is None or known[0] < version:
                self._usage_of_strangers[name] = (version, used, ports)
            return False
        if version <= self._versions[row] and not force:
            return False
        self._versions[row] = version
        for kind in used:
            if kind not in self.kinds:
                self.kind(kind)
        get = used.get
        now = [get(kind, 0) for kind in self.kinds]
        # Lists, because for four numbers an array operation costs more than it saves.
        before = self.used[:, row].tolist()
        freed = any(map(lt, now, before))
        self.used[:, row] = now
        self.free[:, row] = self.allocatable[:, row] - self.used[:, row]
        if ports or row in self.ports:
            taken, after = self.ports.get(row, frozenset()), frozenset(ports)
            freed = freed or not taken <= after
            if after:
                self.ports[row] = after
            else:
                self.ports.pop(row, None)
        return freed

    def set_lost(self, home: str, lost: bool) -> bool:
        """Whether the ResourcePartition `home` cannot be asked; its nodes are then avoided."""
        if lost == (home in self.lost_homes):
            return False
        (self.lost_homes.add if lost else self.lost_homes.discard)(home)
        self.memo.clear()
        return not lost

    def remember(self, key: Any, value: Any) -> None:
        """Keeps a derived column until a rule column changes. The oldest makes room."""
        if len(self.memo) >= MEMO_MAX:
            del self.memo[next(iter(self.memo))]
        self.memo[key] = value

    # The parts of the above.

    def _occupy(self, name: str) -> int:
        if self._vacant:
            row = self._vacant.pop()
            self.names[row] = name
        else:
            row = self.height
            if row == self.live.size:
                self._grow()
            self.height += 1
            self.names.append(name)
            self._views.append(None)
            self._versions.append(-1)
        self.row_of[name] = row
        return row

    def _grow(self) -> None:
        more = max(64, self.live.size)
        wider = ((0, 0), (0, more))
        self.allocatable = np.pad(self.allocatable, wider)
        self.used = np.pad(self.used, wider)
        self.free = np.pad(self.free, wider)
        self.inverse = np.pad(self.inverse, wider)
        self.live, self.unschedulable, self.ready, self.container_ready, self.vm_ready = (
            np.pad(a, (0, more))
            for a in (
                self.live, self.unschedulable, self.ready, self.container_ready, self.vm_ready,
            )
        )  # fmt: skip
        self.taints = np.pad(self.taints, (0, more))
        for column in (self.homes, *self.labels.values()):
            column.ids = np.pad(column.ids, (0, more))

    def _set_allocatable(self, row: int, view: NodeView) -> None:
        for kind in view.allocatable:
            self.kind(kind)
        get = view.allocatable.get
        self.allocatable[:, row] = [get(kind, 0) for kind in self.kinds]
        self.free[:, row] = self.allocatable[:, row] - self.used[:, row]
        for i, kind in enumerate(BASE_KINDS[:SCORED_KINDS]):
            room = get(kind, 0)
            self.inverse[i, row] = 1 / room if room else 0.0

    def _set_rules(self, row: int, before: NodeView | None, view: NodeView) -> None:
        for key in before.labels if before is not None else ():
            if key not in view.labels:
                self.labels[key].ids[row] = 0
        for key, text in view.labels.items():
            column = self.labels.get(key)
            if column is None:
                column = self.labels[key] = Column(self.live.size)
            column.ids[row] = column.intern(text)
        taint_set = self._taint_set_ids.get(view.taints)
        if taint_set is None:
            taint_set = self._taint_set_ids[view.taints] = len(self.taint_sets)
            self.taint_sets.append(view.taints)
        self.taints[row] = taint_set
        self.homes.ids[row] = self.homes.intern(view.home)
        self.live[row] = True
        self.unschedulable[row] = view.unschedulable
        self.ready[row] = view.ready
        self.container_ready[row] = view.container_ready
        self.vm_ready[row] = view.vm_ready
        self.memo.clear()
