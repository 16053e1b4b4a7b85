"""One stored object: its bytes, and beside them the few columns that a partition decides on.

Pure. The bytes are what lists, watches and peers get; nothing here re-encodes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from sys import intern
from typing import Any

import orjson

from arktos_ray.api.names import Key
from arktos_ray.store.port import Row

# Objects of one workload carry equal labels; one dict serves them all.
_interned: dict[tuple[tuple[str, str], ...], Mapping[str, str]] = {}
_INTERNED_MAX = 100_000
_NO_LABELS: Mapping[str, str] = {}
# The same by their bytes in a log.
_decoded: dict[bytes, Mapping[str, str]] = {}


class Record:
    """A revision of an object. Immutable by convention: a change makes a new Record.

    Memory: about 250 B beside the body.
    """

    __slots__ = ("body", "deleted", "labels", "node", "path", "phase", "revision")

    def __init__(
        self, revision: int, path: str, body: bytes, labels: Mapping[str, str],
        node: str, phase: str, deleted: bool = False,
    ) -> None:  # fmt: skip
        self.revision = revision
        self.path = path
        self.body = body
        self.labels = labels
        self.node = node  # spec.nodeName of a pod, else ""
        self.phase = phase  # status.phase, "" where there is none
        self.deleted = deleted

    @property
    def key(self) -> Key:
        return Key.from_path(self.path)

    def decode(self) -> dict[str, Any]:
        """A fresh dict; 3-5 us a KB."""
        obj: dict[str, Any] = orjson.loads(self.body)
        return obj


def encode(revision: int, path: str, obj: dict[str, Any], deleted: bool = False) -> Record:
    """The record of `obj` at this revision; writes the revision into its metadata."""
    obj["metadata"]["resourceVersion"] = str(revision)
    # What orjson returns keeps the buffer it was written into, 4 KB or more, for as long as it
    # lives (3.13). Records live long: a copy has its own size, and takes 0.1 us.
    body = bytes(memoryview(orjson.dumps(obj)))
    return _record(revision, path, body, obj, deleted)


def restore(row: Row) -> Record:
    """The record of a row that came out of a log. 0.8 us, or 5 us when the row has no columns."""
    revision, deleted, _, path, body, labels, node, phase = row
    if labels is None:
        return _record(revision, path, body, orjson.loads(body), deleted)
    known = _decoded.get(labels) if labels else _NO_LABELS
    if known is None:
        known = _interned_labels(orjson.loads(labels))
        if len(_decoded) > _INTERNED_MAX:
            _decoded.clear()
        _decoded[labels] = known
    return Record(revision, path, body, known, intern(node), intern(phase), deleted == 1)


def row_of(gvr: str, record: Record) -> Row:
    """What a log keeps of a record."""
    labels = orjson.dumps(record.labels) if record.labels else b""
    return Row(
        record.revision, record.deleted, gvr, record.path, record.body, labels, record.node,
        record.phase,
    )  # fmt: skip


def _record(revision: int, path: str, body: bytes, obj: dict[str, Any], deleted: bool) -> Record:
    labels = obj["metadata"].get("labels")
    spec, status = obj.get("spec"), obj.get("status")
    node = spec.get("nodeName", "") if type(spec) is dict else ""
    phase = status.get("phase", "") if type(status) is dict else ""
    labels = _interned_labels(labels) if labels else _NO_LABELS
    # What a custom object has there may be anything.
    if type(node) is not str:
        node = ""
    if type(phase) is not str:
        phase = ""
    return Record(revision, path, body, labels, node, phase, deleted)


def _interned_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    if len(_interned) > _INTERNED_MAX:
        _interned.clear()
    return _interned.setdefault(tuple(labels.items()), labels)
