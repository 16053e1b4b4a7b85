"""Views: watches of pods for one reader of ours, without the changes that do not concern it.

A pod of 2 KB changes six times in its life. The ledger of each resource partition needs four
words of two of those changes; a node that hears the echo of its own status throws it away. So a
list or watch of one of our own parts may name a view (option `view`; from anybody else the option
means nothing). A view leaves out changes, never an object, an appearance or a disappearance, and
may send columns instead of the object.

    ledger     {metadata: {tenant, namespace, name, uid}, spec: {nodeName}, demand: [amounts,
               ports], status: {phase}}; changes of spec, and of phase
               when another amount is taken
    scheduler  whole; of a pod on a node only changes of labels, spec, phase or deletion
    node       whole; only deletion

Judging a change costs 0.5-1.5 us; the columns of a pod 15, once for all ledgers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import orjson

from arktos_ray.api import errors
from arktos_ray.api.calls import Call
from arktos_ray.placement.signature import Signatures
from arktos_ray.store.records import Record

OPTION = "view"
_SPEC, _STATUS = b',"spec":{', b',"status":{'
_DELETION = b'"deletionTimestamp":"'
# Phases in which a pod takes nothing of its node.
_TAKES_LESS = ("Succeeded", "Failed", "NoSchedule")
# Columns that were just made are asked for by one ledger after the other.
_REMEMBERED = 4_096


@dataclass(frozen=True, slots=True)
class View:
    """concerns: whether a change, from the second to the first, matters to this reader."""

    concerns: Callable[[Record, Record], bool]
    body: Callable[[Record], bytes] | None = None  # None: the whole object


def view_of(call: Call) -> View | None:
    """The view that the call names. Raises BadRequest when there is none of that name."""
    name = call.options.get(OPTION)
    if name is None or not call.user.trusted or call.gvr != "pods":
        return None
    view = VIEWS.get(name)
    if view is None:
        raise errors.BadRequest(f"there is no view {name!r}")
    return view


def _spec(record: Record) -> bytes | None:
    """The bytes of spec, as we encode pods: metadata, spec, status. None for another order.

    A quote inside of a string is escaped, so what is found is a member; the first is the pod's own.
    """
    body = record.body
    start = body.find(_SPEC)
    end = body.find(_STATUS, start)
    return body[start:end] if 0 <= start < end else None


def _same_spec(new: Record, old: Record) -> bool:
    spec = _spec(new)
    return spec is not None and spec == _spec(old)


def _for_ledger(new: Record, old: Record) -> bool:
    if new.node != old.node or not _same_spec(new, old):
        return True
    return new.phase != old.phase and (new.phase in _TAKES_LESS or old.phase in _TAKES_LESS)


def _for_scheduler(new: Record, old: Record) -> bool:
    if not new.node or new.node != old.node:
        return True
    return (
        new.labels != old.labels
        or _is_off(new) != _is_off(old)
        or (_DELETION in new.body) != (_DELETION in old.body)
        or not _same_spec(new, old)
    )


def _is_off(record: Record) -> bool:
    return record.phase not in ("Pending", "Running")


def _for_node(new: Record, old: Record) -> bool:
    return new.node != old.node or (_DELETION in new.body) != (_DELETION in old.body)


_signatures = Signatures()


@lru_cache(maxsize=_REMEMBERED)
def _ledger_body(record: Record) -> bytes:
    pod = record.decode()
    spec: Mapping[str, object] = pod["spec"]
    tenant, namespace, name = record.path.split("/")
    demand = _signatures.signature(spec).demand
    return orjson.dumps(
        {
            "metadata": {
                "tenant": tenant, "namespace": namespace, "name": name,
                "uid": pod["metadata"]["uid"],
            },
            "spec": {"nodeName": record.node},
            "demand": [demand.amounts, demand.ports],
            "status": {"phase": record.phase},
        }
    )  # fmt: skip


VIEWS: Mapping[str, View] = {
    "ledger": View(_for_ledger, _ledger_body),
    "scheduler": View(_for_scheduler),
    "node": View(_for_node),
}
