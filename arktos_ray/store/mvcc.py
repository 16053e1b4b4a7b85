"""The present: every object of one resource, by key and in key order. Pure.

A hash map for the single reads and writes, a sorted list of paths for ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sortedcontainers import SortedList

from arktos_ray.store.records import Record


def prefix_of(tenant: str, namespace: str) -> str:
    """Where the objects of a tenant (and namespace) begin; "" is everything.

    The parts are checked segments (names.py): they hold no slash, so a prefix is a whole subtree.
    """
    if tenant == "":
        return ""
    return f"{tenant}/{namespace}/" if namespace else f"{tenant}/"


class Table:
    def __init__(self) -> None:
        self._records: dict[str, Record] = {}
        self._paths: SortedList = SortedList()
        self._by_node: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def get(self, path: str) -> Record | None:
        return self._records.get(path)

    def put(self, record: Record) -> Record | None:
        """Store it; the one that it replaces."""
        path = record.path
        previous = self._records.get(path)
        self._records[path] = record
        if previous is None:
            self._paths.add(path)
        if previous is None or previous.node != record.node:
            self._move(path, previous.node if previous is not None else "", record.node)
        return previous

    def remove(self, path: str) -> Record | None:
        previous = self._records.pop(path, None)
        if previous is not None:
            self._paths.remove(path)
            self._move(path, previous.node, "")
        return previous

    def load(self, record: Record) -> Record | None:
        """As `put` and `remove`, while a log is read; `index` must follow before anything else."""
        path = record.path
        if record.deleted:
            return self._records.pop(path, None)
        previous = self._records.get(path)
        self._records[path] = record
        return previous

    def index(self) -> None:
        # Once, over what lives: half of what it costs row by row.
        self._paths = SortedList(self._records)
        by_node = self._by_node
        for path, record in self._records.items():
            node = record.node
            if node:
                paths = by_node.get(node)
                if paths is None:
                    paths = by_node[node] = set()
                paths.add(path)

    def _move(self, path: str, old_node: str, new_node: str) -> None:
        if old_node:
            paths = self._by_node[old_node]
            paths.discard(path)
            if not paths:
                del self._by_node[old_node]
        if new_node:
            self._by_node.setdefault(new_node, set()).add(path)

    def paths(self, prefix: str = "", after: str = "") -> Iterator[str]:
        """The paths below a prefix, in order, those beyond `after` only."""
        if not prefix and not after:
            return iter(self._paths)
        low = max(prefix, after)
        # "0" is the character behind "/": the end of everything that starts with the prefix.
        high = prefix[:-1] + "0" if prefix else None
        found: Iterator[str] = self._paths.irange(
            low, high, inclusive=(low != after or not after, False)
        )
        return found

    def range(self, prefix: str = "", after: str = "") -> Iterable[Record]:
        records = self._records
        return [records[path] for path in self.paths(prefix, after)]

    def on_node(self, node: str) -> list[Record]:
        return [self._records[path] for path in sorted(self._by_node.get(node, ()))]
