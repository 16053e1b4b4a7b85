"""list: the objects of a scope that a selector takes, at one revision, whole or in pages.

Budget: 2 us an object; nothing is decoded unless a selector or a table asks for it. What is
listed is fixed in one step of the loop, as references; what follows is done in slices, between
which others have their turn (turns.py), and shows that one revision all the same.

Measured in CPU time: 20,000 pods of 2.7 KB are fixed in 1.2 ms and joined in 43 ms, 1 ms a slice.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson

from arktos_ray.api import errors, selectors, tables
from arktos_ray.api.calls import Call, LongReply, Reply
from arktos_ray.api.custom import UNKNOWN
from arktos_ray.api.names import ALL_TENANTS, SYSTEM_TENANT
from arktos_ray.api.scheme import DEFINITIONS, Resource
from arktos_ray.apiserver.conversions import BATCH_OBJECTS, completed, converts
from arktos_ray.apiserver.partition import Partition, shown
from arktos_ray.apiserver.turns import SLICE_US
from arktos_ray.apiserver.views import view_of
from arktos_ray.store.moving import DEPARTED
from arktos_ray.store.mvcc import prefix_of
from arktos_ray.store.records import Record

Matcher = Callable[[Record], bool]
# Fields that a record holds beside its body.
_COLUMNS = {"spec.nodeName", "status.phase"}
# Objects in a slice of SLICE_US: joined as they are, asked for a selector, decoded and rendered.
_JOINED, _MATCHED, _RENDERED = 500, 500, 30
# Answers that a matcher remembers, 200 bytes each.
_ANSWERS_MAX = 20_000
# Stands for all nodes that a selector does not name; no node can be called that.
_ANOTHER = "/"


async def list_objects(
    partition: Partition, call: Call, resource: Resource, *, alone: bool = False
) -> Reply:
    """alone: nobody waits behind it, so it may wait for a webhook; else it raises Unconverted."""
    options = call.options
    match = matcher(call, resource)
    limit = number_of(options, "limit")
    asked = revision_of(options)
    exact = options.get("resourceVersionMatch") == "Exact"
    if exact and not asked:
        raise errors.BadRequest(
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden"
            ' unless a resourceVersion other than "0" is provided'
        )
    store, after = partition.store, ""
    revision = store.revision
    if options.get("continue"):
        revision, after = _continued(options["continue"])
        store.check_past(resource.gvr, _prefix(call).partition("/")[0], revision)
        if revision > store.revision:
            # Ours, from before a restart that lost nothing but the clock; or nobody's.
            raise errors.Expired(
                "The provided continue parameter is from another time. List again without it."
            )
    elif asked:
        # Not older than, or exactly: first be there. Pages without a word on it are exact, as
        # upstream.
        await store.reach(asked)
        exact = exact or bool(limit and not options.get("resourceVersionMatch"))
        revision = asked if exact else store.revision
    prefix = _prefix(call)
    is_past = exact or bool(options.get("continue"))
    if not prefix and (is_past or options.get("moves")):
        await partition.gate.all_settled()
        if not is_past:
            revision = store.revision
        elif revision < store.reshaped:
            raise errors.Reshaped(
                f"tenants have moved since {revision}; list again without a revision"
            )
    elif prefix:
        partition.gate.check(call)  # After the last wait.
    node = _node_only(call, resource)
    if node and revision >= store.revision:
        records: Iterable[Record] = [
            r
            for r in store.table(resource.gvr).on_node(node)
            if r.path.startswith(prefix) and r.path > after
        ]
    else:
        records = store.range_at(resource.gvr, prefix, after, revision)
    # Of this moment; a record is never changed, so the rest can take its time.
    records = records if isinstance(records, list) else list(records)
    meta: dict[str, Any] = {"resourceVersion": str(revision)}
    if store.reshaped and options.get("moves") and call.user.trusted:
        meta["moves"] = moves_of(partition)
    if converts(resource) and not (call.accept == "PartialObjectMetadata" and match is None):
        chosen = await _converted(partition, call, resource, match, records, limit, alone)
    elif match is None:
        chosen = records
    else:
        chosen = await _matching(partition, call, match, records, limit)
    if resource.gvr == DEFINITIONS and not after and sees_forced(call):
        # Whatever the caller selects (spec/multitenancy.md 9).
        chosen = [*partition.customs.forced(), *chosen]
    if limit and len(chosen) > limit:
        left = len(chosen) - limit
        chosen = chosen[:limit]
        meta["continue"] = _token(revision, chosen[-1].path)
        if match is None:
            meta["remainingItemCount"] = left
    if resource.since and call.accept != "PartialObjectMetadata":
        chosen = await _completed(partition, call, resource, chosen)
    return await _reply(partition, call, resource, chosen, meta)


def sees_forced(call: Call) -> bool:
    return not call.user.trusted and call.tenant not in ("", ALL_TENANTS, SYSTEM_TENANT)


async def _matching(
    partition: Partition, call: Call, match: Matcher, records: Sequence[Record], limit: int
) -> list[Record]:
    """Those that match; of a page no more than tell that there are more."""
    chosen: list[Record] = []
    for start in range(0, len(records), _MATCHED):
        if start:
            await partition.turns.take(call, SLICE_US)
        chosen += [r for r in records[start : start + _MATCHED] if match(r)]
        if limit and len(chosen) > limit:
            break
    return chosen


async def _completed(
    partition: Partition, call: Call, resource: Resource, records: Sequence[Record]
) -> list[Record]:
    """With the defaults that their schema got since: only older ones are looked at."""
    found = list(records)
    old = [i for i, record in enumerate(found) if record.revision < resource.since]
    for number, i in enumerate(old, 1):
        found[i] = completed(resource, found[i])
        if number % _RENDERED == 0:
            await partition.turns.take(call, SLICE_US)
    return found


async def _converted(
    partition: Partition, call: Call, resource: Resource, match: Matcher | None,
    records: Sequence[Record], limit: int, alone: bool,
) -> list[Record]:  # fmt: skip
    """The same, in the version that is asked for: a webhook may be asked."""
    chosen: list[Record] = []
    size = min(limit + 1, BATCH_OBJECTS) if limit and match is None else BATCH_OBJECTS
    for start in range(0, len(records), size):
        await partition.turns.take(call, SLICE_US)
        some = await partition.conversions.records(
            resource, records[start : start + size], wait=alone
        )
        chosen += some if match is None else [r for r in some if match(r)]
        if limit and len(chosen) > limit:
            # What is beyond the page counts, but is not looked at.
            return chosen if match is not None else [*chosen, *records[len(chosen) :]]
    return chosen


def moves_of(partition: Partition) -> dict[str, Any]:
    """For our own parts: since when the tenants are those that they are, and where others went."""
    store = partition.store
    left = {m.tenant: [m.other, m.uid] for m in store.marks.values() if m.state == DEPARTED}
    return {"since": store.reshaped, "left": left}


def select(partition: Partition, call: Call, resource: Resource) -> list[Record]:
    """The durable records that a collection call names."""
    match = matcher(call, resource)
    records = partition.store.table(resource.gvr).range(_prefix(call))
    return [r for r in records if match is None or match(r)]


def matcher(call: Call, resource: Resource) -> Matcher | None:
    """Whether a record is in the collection that the call names. None: the prefix says it all.

    Raises BadRequest for a selector that cannot be read or a field that cannot be selected.
    """
    labels = selectors.parse_labels(call.options.get("labelSelector", ""))
    fields = selectors.parse_fields(call.options.get("fieldSelector", ""))
    custom = resource.custom
    selectable = () if custom in (None, UNKNOWN) else (*custom.selectable, "metadata.tenant")
    for name in fields.fields:
        if not selectors.supported_field(resource.gvr, name) and name not in selectable:
            raise errors.BadRequest(f"field label not supported: {name}")
    tests: list[Matcher] = []
    if call.tenant in ("", ALL_TENANTS) and call.namespace:
        part = f"/{call.namespace}/"
        tests.append(lambda record: part in record.path)
    if not labels.empty:
        tests.append(lambda record: labels.matches(record.labels))
    if fields.fields <= _COLUMNS and not selectable:
        if fields.fields:
            tests.append(_by_columns(fields))
    elif fields.fields:
        read = custom.field_of if selectable else None
        tests.append(lambda record: fields.matches(_FieldsOf(record, read)))
    if call.name:
        name = call.name
        tests.append(lambda record: record.path.endswith("/" + name))
    if not tests:
        return None
    if len(tests) == 1:
        return tests[0]
    return lambda record: all(test(record) for test in tests)


def _by_columns(fields: selectors.FieldSelector) -> Matcher:
    """Every watcher of pods asks this twice a change: answered once for each node and phase.

    Where only some nodes are named, all others are alike: 60,000 nodes need not be remembered.
    """
    known: dict[tuple[str, str], bool] = {}
    terms = [
        term for clause in fields.clauses for term in clause if term.field == "spec.nodeName"
    ]  # fmt: skip
    named = {"", *(term.value for term in terms)}
    alike = all(term.operator in ("=", "!=") for term in terms)

    def match(record: Record) -> bool:
        node = record.node
        columns = (node if node in named or not alike else _ANOTHER, record.phase)
        answer = known.get(columns)
        if answer is None:
            if len(known) >= _ANSWERS_MAX:
                known.clear()
            answer = known[columns] = fields.matches(_FieldsOf(record))
        return answer

    return match


class _FieldsOf:
    """The fields of a record by selector name; decodes it only for those that are no column."""

    __slots__ = ("_obj", "_read", "_record")

    def __init__(
        self, record: Record, read: Callable[[dict[str, Any], str], str] | None = None
    ) -> None:
        """read: for kinds that say themselves what can be selected."""
        self._record, self._read = record, read
        self._obj: dict[str, Any] | None = None

    def __call__(self, field: str) -> str:
        record = self._record
        if field == "metadata.name":
            return record.path.rpartition("/")[2]
        if field == "metadata.namespace":
            return record.path.split("/")[1]
        if field == "metadata.tenant":
            return record.path.split("/")[0]
        if self._read is None:
            if field == "spec.nodeName":
                return record.node
            if field == "status.phase":
                return record.phase
        if self._obj is None:
            self._obj = record.decode()
        if self._read is not None and not field.startswith("metadata."):
            return self._read(self._obj, field)
        return selectors.field_value(self._obj, field)


def revision_of(options: dict[str, str]) -> int:
    """resourceVersion as a number; 0 when there is none."""
    text = options.get("resourceVersion", "") or "0"
    if not text.isdecimal() or len(text) > 19:
        raise errors.BadRequest(f'Invalid value: "{text}": resourceVersion must be a number')
    return int(text)


def number_of(options: dict[str, str], name: str) -> int:
    text = options.get(name, "") or "0"
    if not text.isdecimal() or len(text) > 19:
        raise errors.BadRequest(f'{name}: Invalid value: "{text}": must be a number, 0 or more')
    return int(text)


def _prefix(call: Call) -> str:
    if call.tenant in ("", ALL_TENANTS):
        return ""
    return prefix_of(call.tenant, call.namespace)


def _node_only(call: Call, resource: Resource) -> str:
    if resource.gvr != "pods":
        return ""
    text = call.options.get("fieldSelector", "")
    return (selectors.parse_fields(text).required("spec.nodeName") or "") if text else ""


def _token(revision: int, path: str) -> str:
    raw = orjson.dumps({"v": "arktos/v1", "rv": revision, "after": path})
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _continued(token: str) -> tuple[int, str]:
    try:
        raw = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        revision, after = raw["rv"], raw["after"]
        if type(revision) is not int or not isinstance(after, str):
            raise TypeError(raw)
    except (binascii.Error, ValueError, TypeError, KeyError) as error:
        raise errors.BadRequest("continue key is not valid: it is not one that we gave") from error
    return revision, after


async def _reply(
    partition: Partition, call: Call, resource: Resource, records: Sequence[Record],
    meta: dict[str, Any],
) -> Reply:  # fmt: skip
    render: Callable[[Sequence[Record]], list[bytes]]
    size = _RENDERED
    if call.accept == "Table":
        head = tables.head(resource, meta, call.options.get("_table", "v1"))
        now = partition.clock.now()
        include, version = _included(call)

        def render(some: Sequence[Record]) -> list[bytes]:
            return tables.rows(
                resource, [shown(resource, r.body) for r in some], now, include, version
            )

    elif call.accept == "PartialObjectMetadata":
        kind = '{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":'
        head = b"".join((kind.encode(), orjson.dumps(meta), b',"items":['))

        def render(some: Sequence[Record]) -> list[bytes]:
            return [metadata_only(r) for r in some]

    else:
        view = view_of(call)
        body = view.body if view is not None else None
        size = _JOINED if body is None else _RENDERED
        head = list_head(resource, meta)

        if resource.form is not None:
            size = _RENDERED

        def render(some: Sequence[Record]) -> list[bytes]:
            if resource.form is not None:
                return [shown(resource, r.body) for r in some]
            return [r.body if body is None else body(r) for r in some]

    pieces = [head]
    for start in range(0, len(records), size):
        if len(records) > size:
            await partition.turns.take(call, SLICE_US)
        if start:
            pieces.append(b",")
        pieces.append(b",".join(render(records[start : start + size])))
    pieces.append(b"]}")
    if len(pieces) <= 3:
        return Reply(200, b"".join(pieces))
    return LongReply(200, pieces)


def list_body(resource: Resource, bodies: Sequence[bytes], meta: dict[str, Any]) -> bytes:
    return b"".join((list_head(resource, meta), b",".join(bodies), b"]}"))


def list_head(resource: Resource, meta: dict[str, Any]) -> bytes:
    kind = f"{resource.kind}List"
    if resource.custom not in (None, UNKNOWN):
        kind = resource.custom.list_kind
    head = f'{{"kind":"{kind}","apiVersion":"{resource.api_version}","metadata":'
    return b"".join((head.encode(), orjson.dumps(meta), b',"items":['))


def _included(call: Call) -> tuple[str, str]:
    """What a table shows of each object, and in which version."""
    return call.options.get("includeObject", "Metadata"), call.options.get("_table", "v1")


def metadata_only(record: Record) -> bytes:
    return orjson.dumps(
        {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": record.decode()["metadata"],
        }
    )


def rendered_table(
    partition: Partition, call: Call, resource: Resource, records: Sequence[Record],
    meta: dict[str, Any], with_columns: bool = True,
) -> bytes:  # fmt: skip
    if not meta and records:
        meta = {"resourceVersion": str(records[0].revision)}
    return tables.table(
        resource, (shown(resource, record.body) for record in records), meta, partition.clock.now(),
        include_object=call.options.get("includeObject", "Metadata"),
        version=call.options.get("_table", "v1"), with_columns=with_columns,
    )  # fmt: skip
