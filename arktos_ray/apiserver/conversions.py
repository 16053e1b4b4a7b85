"""Custom objects in versions that a webhook of their definition makes: ConversionReviews.

A verb works in one step and cannot wait. Where it needs an object in another version, `convert`
gives what is known already, or raises Unconverted: the call is then answered alone (server.py), and
its verb runs again once the webhook has answered. A list leaves its batch, too, and then waits
where it is, as a watch does.

An answer is known by what it was made from: the revision of the definition, the version that is
wanted, and the object without what a server alone says of it. So it is found again for an object
that was not stored yet, and never for another object. Of an answer's metadata only labels and
annotations count. What the schema of its version does not know is left out, and defaults are put
in, once, when it comes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from arktos_ray.api import errors
from arktos_ray.api.custom import Conversion
from arktos_ray.api.errors import Failure
from arktos_ray.api.kinds import Cause, syntax
from arktos_ray.api.kinds.meta import validate_annotations
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.api.scheme import Resource
from arktos_ray.apiserver import targets
from arktos_ray.apiserver.targets import Target, Unreachable
from arktos_ray.base.ids import Ids
from arktos_ray.base.tasks import Tasks
from arktos_ray.store.records import Record, encode
from arktos_ray.store.store import Store

Object = dict[str, Any]
T = TypeVar("T")
Post = Callable[[Target, bytes, float], Awaitable[bytes]]

# Objects in one review, and about how large it gets: an answer has at most 4 MiB.
BATCH_OBJECTS = 100
BATCH_BYTES = 1 << 20
# As in Kubernetes, and not to be chosen.
TIMEOUT_S = 30.0
# Reviews that are asked at once. Then 429.
CONVERSIONS_PER_TENANT_MAX = 64
CONVERSIONS_MAX = 1_024
# Their bodies. Then 429.
CONVERSION_BYTES_PER_TENANT_MAX = 16 << 20
CONVERSION_BYTES_MAX = 128 << 20
# Answers that are kept: about 4,000 objects of a tenant. Then its oldest go.
KNOWN_BYTES_PER_TENANT_MAX = 8 << 20
# Of all tenants. Then those of the tenant that has most.
KNOWN_BYTES_MAX = 64 << 20
# Beside the bytes of an answer: its key, and its place.
_ANSWER_BYTES = 200
# Versions that one call may ask for, one after the other: a patch needs four.
_ROUNDS = 16
# Metadata that changes without the object changing.
_OF_SERVERS = ("uid", "hashKey", "creationTimestamp", "resourceVersion", "generation", "selfLink",
               "managedFields", "deletionTimestamp", "deletionGracePeriodSeconds",
               "finalizers", "ownerReferences")  # fmt: skip
_REVIEWS = ("v1", "v1beta1")
_GROUP = "apiextensions.k8s.io"
_BUSY = "too many objects wait for conversion; try again"


@dataclass(frozen=True, slots=True, eq=False)
class Unconverted(Exception):
    """Objects are needed in another version: by key, of one tenant."""

    conversion: Conversion
    api_version: str
    objects: dict[bytes, Object]


class Conversions:
    def __init__(self, store: Store, ids: Ids) -> None:
        self._store, self._ids = store, ids
        # Set by the server: how webhooks are reached.
        self.post: Post = _nobody
        self.tasks = Tasks()
        # While a verb runs: what was converted for its call alone, so that it is there for sure.
        self._own: dict[bytes, bytes] = {}
        self._known: dict[str, OrderedDict[bytes, bytes]] = {}  # by tenant
        self._held: Counter[str] = Counter()  # bytes of those
        self._held_total = 0
        self._asking: dict[bytes, asyncio.Task[dict[bytes, bytes] | Failure]] = {}
        self._reviews: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._reviews_total = self._bytes_total = 0

    # For whoever cannot wait

    def convert(self, conversion: Conversion, api_version: str, obj: Object) -> Object:
        """`Form.from_stored` and `to_stored`. Raises Unconverted."""
        if obj.get("apiVersion") == api_version:
            return obj
        key = _key(conversion, api_version, obj)
        found = self._own.get(key) or self._find(_tenant(obj), key)
        if found is None:
            raise Unconverted(conversion, api_version, {key: obj})
        return _completed(found, obj)

    def run(self, step: Callable[[], T], own: dict[bytes, bytes]) -> T:
        """What the step says, with what was converted for it. Raises Unconverted."""
        before, self._own = self._own, own
        try:
            return step()
        finally:
            self._own = before

    # For whoever can

    async def settled(self, step: Callable[[], T]) -> T:
        """The same, tried until there is nothing to be converted. Raises a Failure."""
        own: dict[bytes, bytes] = {}
        while True:
            try:
                return self.run(step, own)
            except Unconverted as what:
                await self.learn(what, own)

    async def learn(self, what: Unconverted, own: dict[bytes, bytes]) -> None:
        """Asks. Raises a Failure."""
        if len(own) >= _ROUNDS:
            raise errors.Internal("the object is converted again and again")
        own.update(await self._answers(what.conversion, what.api_version, what.objects))

    async def records(
        self, resource: Resource, records: Sequence[Record], *, wait: bool = True
    ) -> list[Record]:
        """As they would be, had they been stored in the version of the resource.

        Raises a Failure; and Unconverted, when it must not wait and has not all of them."""
        form = resource.form
        assert form is not None
        wanted: dict[bytes, Object] = {}
        made: list[tuple[Record, bytes, Object] | None] = []
        for record in records:
            obj = record.decode()
            if obj.get("apiVersion") == resource.api_version:
                made.append(None)
                continue
            key = _key(form.conversion, resource.api_version, obj)
            wanted[key] = obj
            made.append((record, key, obj))
        if not wanted:
            return list(records)
        if not wait and any(self._find(_tenant(obj), key) is None for key, obj in wanted.items()):
            raise Unconverted(form.conversion, resource.api_version, wanted)
        answers: dict[bytes, bytes] = {}
        for batch in _batches(wanted):
            answers |= await self._answers(form.conversion, resource.api_version, batch)
        return [
            records[i] if each is None else _turned(each[0], _completed(answers[each[1]], each[2]))
            for i, each in enumerate(made)
        ]

    async def _answers(
        self, conversion: Conversion, api_version: str, wanted: dict[bytes, Object]
    ) -> dict[bytes, bytes]:
        """Of a batch. Raises a Failure."""
        found: dict[bytes, bytes] = {}
        fresh: dict[bytes, Object] = {}
        tasks: dict[asyncio.Task[dict[bytes, bytes] | Failure], None] = {}
        for key, obj in wanted.items():
            known, task = self._find(_tenant(obj), key), self._asking.get(key)
            if known is not None:
                found[key] = known
            elif task is not None:
                tasks[task] = None  # Somebody else wants the same.
            else:
                fresh[key] = obj
        if fresh:
            task = self.tasks.start(self._ask(conversion, api_version, fresh), "convert")
            tasks[task] = None
            for key in fresh:
                self._asking[key] = task
            task.add_done_callback(lambda _: self._asked(fresh))
        for task in tasks:
            # Whoever gives up leaves it to the others.
            answer = await asyncio.shield(task)
            if isinstance(answer, Failure):
                raise answer
            found |= answer
        return found

    def _asked(self, keys: dict[bytes, Object]) -> None:
        for key in keys:
            self._asking.pop(key, None)

    # Asking

    async def _ask(
        self, conversion: Conversion, api_version: str, objects: dict[bytes, Object]
    ) -> dict[bytes, bytes] | Failure:
        try:
            return await self._reviewed(conversion, api_version, objects)
        except (TypeError, ValueError, RecursionError) as error:
            # What is sent or said may be nested more deeply than can be written.
            first = next(iter(objects.values()))
            return errors.Internal(f"conversion webhook for {_kind(first)} failed: {error}")

    async def _reviewed(
        self, conversion: Conversion, api_version: str, objects: dict[bytes, Object]
    ) -> dict[bytes, bytes] | Failure:
        first = next(iter(objects.values()))
        tenant = _tenant(first)
        start = f"conversion webhook for {_kind(first)}"
        version = next((one for one in conversion.reviews if one in _REVIEWS), "v1")
        api = f"{_GROUP}/{version}"
        uid = self._ids.uid()
        review = {
            "kind": "ConversionReview", "apiVersion": api,
            "request": {
                "uid": uid, "desiredAPIVersion": api_version, "objects": list(objects.values()),
            },
        }  # fmt: skip
        body = orjson.dumps(review)
        if not self._has_room(tenant, len(body)):
            return errors.TooManyRequests(_BUSY, details={"retryAfterSeconds": 1})
        self._count(tenant, 1, len(body))
        try:
            lookup = self._lookup(conversion.tenant)
            # For the tenant whose objects they are: of a shared definition, too, each has its own
            # share of what goes outside.
            target = targets.resolve(tenant, conversion.client, lookup, TIMEOUT_S)
            said = await self.post(target, body, TIMEOUT_S)
            if b"\\u0000" in said:
                raise Unreachable("the answer has NUL in a text")
            converted = _understood(orjson.loads(said), api, uid)
        except (Unreachable, orjson.JSONDecodeError) as why:
            return errors.Internal(f"{start} failed: {why}")
        finally:
            self._count(tenant, -1, -len(body))
        if len(converted) != len(objects):
            return errors.Internal(
                f"{start} returned {len(converted)} objects, expected {len(objects)}"
            )
        found = {}
        for i, ((key, obj), new) in enumerate(zip(objects.items(), converted, strict=True)):
            wrong = _problem(obj, new, api_version)
            if wrong:
                return errors.Internal(
                    f"{start} returned invalid converted object at index {i}: {wrong}"
                )
            found[key] = _kept(conversion, api_version, new)
        for key, made in found.items():
            self._remember(tenant, key, made)
        return found

    def _lookup(self, tenant: str) -> targets.Lookup:
        def lookup(gvr: str, namespace: str, name: str) -> Object | None:
            record = self._store.get(gvr, f"{tenant}/{namespace}/{name}")
            return None if record is None else record.decode()

        return lookup

    def _has_room(self, tenant: str, size: int) -> bool:
        return (
            self._reviews[tenant] < CONVERSIONS_PER_TENANT_MAX
            and self._reviews_total < CONVERSIONS_MAX
            and self._bytes[tenant] + size <= CONVERSION_BYTES_PER_TENANT_MAX
            and self._bytes_total + size <= CONVERSION_BYTES_MAX
        )

    def _count(self, tenant: str, reviews: int, size: int) -> None:
        self._reviews[tenant] += reviews
        self._bytes[tenant] += size
        self._reviews_total += reviews
        self._bytes_total += size
        if not self._reviews[tenant]:
            del self._reviews[tenant], self._bytes[tenant]

    # Remembering

    def _find(self, tenant: str, key: bytes) -> bytes | None:
        known = self._known.get(tenant)
        found = None if known is None else known.get(key)
        if found is not None and known is not None:
            known.move_to_end(key)
        return found

    def _remember(self, tenant: str, key: bytes, made: bytes) -> None:
        known = self._known.setdefault(tenant, OrderedDict())
        if key in known:
            return
        known[key] = made
        self._hold(tenant, len(made) + _ANSWER_BYTES)
        while self._held[tenant] > KNOWN_BYTES_PER_TENANT_MAX:
            self._drop_oldest(tenant)
        while self._held_total > KNOWN_BYTES_MAX:
            self._drop_oldest(max(self._held, key=lambda one: self._held[one]))

    def _drop_oldest(self, tenant: str) -> None:
        _, made = self._known[tenant].popitem(last=False)
        self._hold(tenant, -len(made) - _ANSWER_BYTES)
        if not self._known[tenant]:
            del self._known[tenant], self._held[tenant]

    def _hold(self, tenant: str, size: int) -> None:
        self._held[tenant] += size
        self._held_total += size

    def forget(self, tenant: str) -> None:
        """It went."""
        if self._known.pop(tenant, None) is not None:
            self._held_total -= self._held.pop(tenant)


def converts(resource: Resource) -> bool:
    """Whether a webhook may have to be asked for objects of this resource."""
    return resource.form is not None and resource.form.conversion is not None


def opened(resource: Resource, record: Record) -> Object:
    """A stored object in the version that is stored now. Raises Unconverted."""
    obj, form = completed(resource, record).decode(), resource.form
    return obj if form is None or form.conversion is None else form.to_stored(obj)


def completed(resource: Resource, record: Record) -> Record:
    """With the defaults that its schema got since it was stored."""
    if record.revision >= resource.since:
        return record
    obj = record.decode()
    if obj.get("apiVersion") != resource.api_version and converts(resource):
        return record  # Who converts it does the rest.
    before = orjson.dumps(obj)
    resource.custom.schema.default(obj)
    return record if orjson.dumps(obj) == before else _turned(record, obj)


def is_behind(resource: Resource, record: Record) -> bool:
    """Whether it is stored in a version that no more is, or without defaults that it has now."""
    form = resource.form
    if completed(resource, record) is not record:
        return True
    if form is None or form.conversion is None:
        return False
    return bool(record.decode().get("apiVersion") != form.api_version)


def _tenant(obj: Object) -> str:
    tenant: str = obj["metadata"].get("tenant") or SYSTEM_TENANT
    return tenant


def _key(conversion: Conversion, api_version: str, obj: Object) -> bytes:
    meta = {name: v for name, v in obj["metadata"].items() if name not in _OF_SERVERS}
    made_from = [*conversion.identity, api_version, {**obj, "metadata": meta}]
    try:
        body = orjson.dumps(made_from, option=orjson.OPT_SORT_KEYS)
    except (TypeError, RecursionError) as error:
        why = f"conversion webhook for {_kind(obj)} failed: nested too deeply"
        raise errors.Internal(why) from error
    return hashlib.blake2b(body, digest_size=16).digest()


def _batches(wanted: dict[bytes, Object]) -> list[dict[bytes, Object]]:
    batches: list[dict[bytes, Object]] = [{}]
    size = 0
    for key, obj in wanted.items():
        length = len(orjson.dumps(obj))
        if batches[-1] and (len(batches[-1]) >= BATCH_OBJECTS or size + length > BATCH_BYTES):
            batches.append({})
            size = 0
        batches[-1][key] = obj
        size += length
    return batches


def _understood(answer: Any, api_version: str, uid: str) -> list[Any]:
    """The objects in a ConversionReview. Raises Unreachable."""
    answer = answer if isinstance(answer, dict) else {}
    got = (answer.get("apiVersion", ""), answer.get("kind", ""))
    if got != (api_version, "ConversionReview"):
        raise Unreachable(
            f"expected webhook response of {api_version}, Kind=ConversionReview, got"
            f" {got[0]}, Kind={got[1]}"
        )
    response = answer.get("response")
    if not isinstance(response, dict):
        raise Unreachable("no response provided")
    if response.get("uid") != uid:
        raise Unreachable(f'expected response.uid="{uid}", got "{response.get("uid") or ""}"')
    result = response.get("result")
    result = result if isinstance(result, dict) else {}
    if result.get("status") != "Success":
        said = f"response.result.status was '{result.get('status') or ''}', not 'Success'"
        raise Unreachable(str(result.get("message") or "") or said)
    converted = response.get("convertedObjects")
    return converted if isinstance(converted, list) else []


def _problem(obj: Object, new: Any, api_version: str) -> str:
    """Why an answer is none; "" when it is one."""
    if not isinstance(new, dict):
        return "it is not an object"
    if new.get("apiVersion") != api_version:
        want = api_version.rpartition("/")[2]
        return f"invalid groupVersion, expected {want}, got {new.get('apiVersion')}"
    if new.get("kind") != obj.get("kind"):
        return f"must have the same kind: {obj.get('kind')} != {new.get('kind')}"
    meta = new.get("metadata")
    if not isinstance(meta, dict):
        return "missing metadata in converted object"
    for name in ("name", "namespace", "uid"):
        was, now = obj["metadata"].get(name) or "", meta.get(name) or ""
        if was != now:
            return f"must have the same {'UID' if name == 'uid' else name}: {was} != {now}"
    for name in ("labels", "annotations"):
        values = meta.get(name)
        if values is None:
            continue
        if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
            return f"invalid metadata: {name} are strings by name"
        out: list[Cause] = []
        check = syntax.labels if name == "labels" else validate_annotations
        check(values, f"metadata.{name}", out)
        if out:
            return f"invalid metadata: {out[0].field}: {out[0].message}"
    return ""


def _kept(conversion: Conversion, api_version: str, new: Object) -> bytes:
    """What counts of an answer."""
    schema = conversion.schemas[api_version]
    meta = new["metadata"]
    new["metadata"] = {name: meta[name] for name in ("labels", "annotations") if meta.get(name)}
    schema.prune(new)
    schema.default(new)
    return bytes(memoryview(orjson.dumps(new)))


def _completed(made: bytes, obj: Object) -> Object:
    """An answer with the metadata of what it was made from."""
    new: Object = orjson.loads(made)
    said, meta = new["metadata"], dict(obj["metadata"])
    for name in ("labels", "annotations"):
        if name in said:
            meta[name] = said[name]
        else:
            meta.pop(name, None)
    new["metadata"] = meta
    return new


def _turned(record: Record, obj: Object) -> Record:
    return encode(record.revision, record.path, obj, record.deleted)


def _kind(obj: Object) -> str:
    return f"{obj.get('apiVersion')}, Kind={obj.get('kind')}"


async def _nobody(target: Target, body: bytes, timeout_s: float) -> bytes:
    raise Unreachable(f'Post "{target.url}": nothing is reached from here')
