"""Stand-ins for the machine and for a partition: virtual time, and an API server over dicts.

`FakeClock.advance` lets time pass and everything that waits for it run, in a fixed order.
`FakePartition` answers the calls that loops make (create, get, list, watch, update, patch, delete,
deletecollection; status and finalize) with the semantics that controllers rely on: revisions,
compare-and-swap, uid preconditions, generations, finalizers, grace of pods on nodes. It admits
anything and defaults nothing: for those, use the real server.
"""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import orjson

from arktos_ray.api.calls import ADDED, BOOKMARK, DELETED, MODIFIED, Call, Reply, WatchEvent
from arktos_ray.api.errors import (
    AlreadyExists,
    Conflict,
    Expired,
    Failure,
    Forbidden,
    NotFound,
    Unavailable,
)
from arktos_ray.api.names import Key, hash_key
from arktos_ray.api.scheme import resource
from arktos_ray.api.selectors import parse_fields, parse_labels
from arktos_ray.base.clock import rfc3339
from arktos_ray.base.ids import Ids

Object = dict[str, Any]

# Long enough for any chain of wake-ups, short enough to notice a loop that never rests.
_TURNS_MAX = 200_000


async def settle() -> None:
    """Runs everything that can run without time passing."""
    loop = asyncio.get_running_loop()
    for _ in range(_TURNS_MAX):
        await asyncio.sleep(0)
        # asyncio offers no public way to ask whether anybody is ready to run.
        if not loop._ready:  # type: ignore[attr-defined]
            return
    raise AssertionError("something runs for ever without letting time pass")


class FakeClock:
    """Virtual time. Sleepers wake in the order of their moments, then of their going to sleep."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._monotonic = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._sequence = 0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sequence += 1
        heapq.heappush(self._sleepers, (self._monotonic + seconds, self._sequence, waiter))
        await waiter

    async def advance(self, seconds: float) -> None:
        """Lets that much time pass, stopping at every sleeper on the way."""
        end = self._monotonic + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, waiter = heapq.heappop(self._sleepers)
            if waiter.done():
                continue
            self._pass(due)
            waiter.set_result(None)
            await settle()
        self._pass(end)
        await settle()

    async def until(self, condition: Callable[[], bool], limit: float = 120.0) -> None:
        """Lets time pass until that holds; an AssertionError when it does not in the limit."""
        deadline = self._monotonic + limit
        await settle()
        while not condition():
            while self._sleepers and self._sleepers[0][2].done():
                heapq.heappop(self._sleepers)
            assert self._sleepers, "nobody is waiting for time to pass, so nothing will change"
            due = self._sleepers[0][0]
            assert due <= deadline, f"still not so after {limit} s"
            await self.advance(due - self._monotonic)

    def _pass(self, until: float) -> None:
        self._now += max(0.0, until - self._monotonic)
        self._monotonic = max(self._monotonic, until)


class FakePartition:
    """An api.calls.Caller over dicts.

    down: every call and watch answers Unavailable. watches_held: watchers hear nothing, so that
    views grow stale. refuse: called with each write; a Failure that it returns is the reply.
    writes: every write that was accepted, for assertions about batches and order.
    """

    def __init__(self, clock: FakeClock, seed: int = 1) -> None:
        self.down = False
        self.watches_held = False
        self.refuse: Callable[[Call], Failure | None] = lambda _: None
        # Set to lose answers: the batch is carried out, and then Unavailable is raised.
        self.lose_answers = False
        self.batches: list[list[Call]] = []
        self._clock = clock
        self._ids = Ids(seed)
        self._objects: dict[str, dict[Key, Object]] = {}
        self._history: list[tuple[int, str, Key, Object | None, Object | None]] = []
        self._compacted = 0
        self._revision = 1_000
        self._waiters: list[asyncio.Future[None]] = []

    # What tests ask and do directly.

    def all(self, gvr: str, tenant: str = "", namespace: str = "") -> list[Object]:
        return [
            obj
            for key, obj in self._objects.get(gvr, {}).items()
            if (not tenant or key.tenant == tenant)
            and (not namespace or key.namespace == namespace)
        ]

    def find(self, gvr: str, tenant: str, namespace: str, name: str) -> Object | None:
        return self._objects.get(gvr, {}).get(Key(tenant, namespace, name))

    def put(self, gvr: str, obj: Object) -> Object:
        """Creates or replaces, status included; fills in what a server fills in."""
        meta = obj.setdefault("metadata", {})
        key = Key(meta.get("tenant", ""), meta.get("namespace", ""), meta["name"])
        old = self._objects.get(gvr, {}).get(key)
        row = resource(gvr)
        obj.setdefault("apiVersion", row.api_version)
        obj.setdefault("kind", row.kind)
        if old is None:
            meta.setdefault("uid", self._ids.uid())
            meta["hashKey"] = hash_key(meta["uid"])
            meta.setdefault("creationTimestamp", rfc3339(self._clock.now()))
            if row.has_generation:
                meta.setdefault("generation", 1)
        return self._save(gvr, key, obj)

    def change(self, gvr: str, obj: Object, **parts: Any) -> Object:
        """A stored object with some of its top-level parts replaced (`status=...`)."""
        meta = {**obj["metadata"]}
        if "generation" in meta and parts.get("spec", obj.get("spec")) != obj.get("spec"):
            meta["generation"] += 1
        return self.put(gvr, {**obj, "metadata": meta, **parts})

    def drop(self, gvr: str, obj: Object) -> None:
        meta = obj["metadata"]
        self._remove(gvr, Key(meta.get("tenant", ""), meta.get("namespace", ""), meta["name"]))

    def compact(self) -> None:
        """Forgets history: watches that must start before now are told Expired."""
        self._history.clear()
        self._compacted = self._revision

    def wake(self) -> None:
        """Lets watchers look again, after `down` or `watches_held` changed."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # Caller.

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        await asyncio.sleep(0)
        if self.down:
            raise Unavailable("the partition is away")
        writes = [call for call in calls if call.verb not in ("get", "list")]
        if writes:
            self.batches.append(writes)
        replies = []
        for call in calls:
            try:
                replies.append(Reply(200, orjson.dumps(self._handle(call))))
            except Failure as failure:
                replies.append(Reply(failure.code, failure.encode()))
        self.wake()
        if self.lose_answers and writes:
            self.lose_answers = False
            raise Unavailable("the answer was lost")
        return replies

    async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        gvr, at = call.gvr, int(call.options.get("resourceVersion", "0"))
        wanted = _selector(call)
        await asyncio.sleep(0)
        if call.options.get("sendInitialEvents") == "true" and not self.down:
            at = self._revision
            state = [
                WatchEvent(ADDED, at, key.path(), orjson.dumps(obj))
                for key, obj in self._objects.get(gvr, {}).items()
                if wanted(key, obj)
            ]
            yield [*state, WatchEvent(BOOKMARK, at, "", initial_end=True)]
        while True:
            if self.down:
                raise Unavailable("the partition is away")
            if at < self._compacted:
                raise Expired("too old resource version")
            batch = []
            if not self.watches_held:
                start = bisect_right(self._history, at, key=lambda entry: entry[0])
                for revision, of, key, old, new in self._history[start:]:
                    if of != gvr:
                        continue
                    event = _event(revision, key, old, new, wanted)
                    if event is not None:
                        batch.append(event)
                at = self._revision
                if not batch:
                    batch = [WatchEvent(BOOKMARK, at, "")]
                yield batch
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    # The verbs.

    def _handle(self, call: Call) -> Object:
        gvr = call.gvr
        if call.verb == "list":
            matches = _selector(call)
            items = [obj for key, obj in self._objects.get(gvr, {}).items() if matches(key, obj)]
            limit = int(call.options.get("limit", "0"))
            return {
                "kind": resource(gvr).kind + "List",
                "metadata": {"resourceVersion": str(self._revision)},
                "items": items[:limit] if limit else items,
            }
        refusal = None if call.verb == "get" else self.refuse(call)
        if refusal is not None:
            raise refusal
        if call.verb == "create":
            return self._create(gvr, call)
        if call.verb == "deletecollection":
            matches = _selector(call)
            for key, obj in list(self._objects.get(gvr, {}).items()):
                if matches(key, obj):
                    self._delete(gvr, key, obj, orjson.loads(call.body or b"{}"))
            return {"kind": "List", "metadata": {}, "items": []}
        key = Key(call.tenant, call.namespace, call.name)
        old = self._objects.get(gvr, {}).get(key)
        if old is None:
            raise NotFound(f'{gvr} "{call.name}" not found')
        if call.verb == "get":
            return old
        body = orjson.loads(call.body)
        if call.verb == "delete":
            return self._delete(gvr, key, old, body)
        if call.verb == "patch":
            body = _merged(old, body)
        return self._update(gvr, key, old, body, call.subresource)

    def _create(self, gvr: str, call: Call) -> Object:
        obj: Object = orjson.loads(call.body)
        meta = obj.setdefault("metadata", {})
        if not meta.get("name"):
            meta["name"] = meta["generateName"] + self._ids.suffix()
        row = resource(gvr)
        if row.tenanted:
            meta["tenant"] = call.tenant
        if row.namespaced:
            meta["namespace"] = call.namespace
            home = self.find("namespaces", call.tenant, "", call.namespace)
            if home is not None and home["metadata"].get("deletionTimestamp"):
                raise Forbidden("unable to create new content: it is being terminated")
        key = Key(call.tenant, call.namespace, meta["name"])
        if key in self._objects.get(gvr, {}):
            raise AlreadyExists(f'{gvr} "{key.name}" already exists')
        if "status" in row.subresources:
            obj.pop("status", None)
        if gvr == "pods":
            obj["status"] = {"phase": "Pending"}
        elif gvr in ("namespaces", "tenants"):
            finalizer = "kubernetes" if gvr == "namespaces" else "arktos"
            obj["spec"] = {**obj.get("spec", {}), "finalizers": [finalizer]}
            obj["status"] = {"phase": "Active"}
        return self.put(gvr, obj)

    def _update(self, gvr: str, key: Key, old: Object, new: Object, subresource: str) -> Object:
        meta = new["metadata"]
        before = old["metadata"]
        if meta.get("resourceVersion", before["resourceVersion"]) != before["resourceVersion"]:
            raise Conflict(f'{gvr} "{key.name}": the object has been modified')
        if meta.get("uid", before["uid"]) != before["uid"]:
            raise Conflict(f'{gvr} "{key.name}": the uid does not match')
        kept = ("uid", "hashKey", "creationTimestamp", "generation", "deletionTimestamp")
        if subresource == "status":
            # As the real one does: labels, owners and annotations are those that were sent.
            meta = {**meta, **{name: before[name] for name in kept if name in before}}
            new = {**old, "status": new.get("status", {}), "metadata": meta}
        elif subresource == "finalize":
            new = {**old, "spec": new["spec"], "metadata": {**before}}
        else:
            if "status" in resource(gvr).subresources:
                new = {**new, "status": old["status"]} if "status" in old else new
            meta = {**meta, **{name: before[name] for name in kept if name in before}}
            new = {**new, "metadata": meta}
            if resource(gvr).has_generation and new.get("spec") != old.get("spec"):
                meta["generation"] += 1
        same = {**new, "metadata": {**new["metadata"], "resourceVersion": ""}} == {
            **old,
            "metadata": {**before, "resourceVersion": ""},
        }
        if same:
            return old
        saved = self._save(gvr, key, new)
        held = saved["metadata"].get("finalizers") or (
            gvr in ("namespaces", "tenants") and saved["spec"].get("finalizers")
        )
        graceful = gvr == "pods" and saved["metadata"].get("deletionGracePeriodSeconds")
        if saved["metadata"].get("deletionTimestamp") and not held and not graceful:
            self._remove(gvr, key)
        return saved

    def _delete(self, gvr: str, key: Key, old: Object, options: Object) -> Object:
        meta = {**old["metadata"]}
        wanted = options.get("preconditions") or {}
        for name in ("uid", "resourceVersion"):
            if wanted.get(name, meta[name]) != meta[name]:
                raise Conflict(f'{gvr} "{key.name}": precondition {name} failed')
        policy = options.get("propagationPolicy")
        finalizers = list(meta.get("finalizers") or [])
        if policy in ("Foreground", "Orphan"):
            finalizers.append("foregroundDeletion" if policy == "Foreground" else "orphan")
        new = {**old, "metadata": meta}
        grace = 0
        if gvr == "pods" and old.get("spec", {}).get("nodeName"):
            grace = options.get("gracePeriodSeconds", 30)
        held = bool(finalizers)
        if gvr in ("namespaces", "tenants"):
            held = held or bool(old["spec"].get("finalizers"))
            new["status"] = {**old.get("status", {}), "phase": "Terminating"}
        if not held and not grace:
            self._remove(gvr, key)
            return old
        if meta.get("deletionTimestamp") and not (grace == 0 and gvr == "pods"):
            return old
        meta["deletionTimestamp"] = rfc3339(self._clock.now() + grace)
        meta["deletionGracePeriodSeconds"] = grace
        if finalizers:
            meta["finalizers"] = finalizers
        return self._save(gvr, key, new)

    def _save(self, gvr: str, key: Key, obj: Object) -> Object:
        self._revision += 1
        obj["metadata"]["resourceVersion"] = str(self._revision)
        # A copy, so that what a test keeps on changing is not what is stored.
        stored: Object = orjson.loads(orjson.dumps(obj))
        old = self._objects.setdefault(gvr, {}).get(key)
        self._objects[gvr][key] = stored
        self._history.append((self._revision, gvr, key, old, stored))
        self.wake()
        return stored

    def _remove(self, gvr: str, key: Key) -> None:
        old = self._objects[gvr].pop(key)
        self._revision += 1
        self._history.append((self._revision, gvr, key, old, None))
        self.wake()


def _event(
    revision: int,
    key: Key,
    old: Object | None,
    new: Object | None,
    wanted: Callable[[Key, Object], bool],
) -> WatchEvent | None:
    was = old is not None and wanted(key, old)
    is_now = new is not None and wanted(key, new)
    if not was and not is_now:
        return None
    kind = DELETED if not is_now else MODIFIED if was else ADDED
    body = orjson.dumps(new if is_now else old)
    return WatchEvent(kind, revision, key.path(), body)


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _selector(call: Call) -> Callable[[Key, Object], bool]:
    labels = parse_labels(call.options.get("labelSelector", "")).matches
    fields = parse_fields(call.options.get("fieldSelector", "")).on_objects()

    def matches(key: Key, obj: Object) -> bool:
        return (
            call.tenant in ("all", "", key.tenant)
            and call.namespace in ("", key.namespace)
            and labels(obj["metadata"].get("labels") or {})
            and fields(obj)
        )

    return matches


class FakeResourcePartition(FakePartition):
    """One that can be asked who gave a sign of life (apiserver/heartbeats.py), as a Peer."""

    async def request(self, method: str, payload: Any) -> Any:
        await asyncio.sleep(0)
        if self.down:
            raise Unavailable("the partition is away")
        if method == "progress":
            self.wake()
            return self._revision
        if method != "spoke":
            raise NotFound(f"no method {method}")
        [since] = payload
        names = [
            key.name
            for revision, gvr, key, old, new in self._history
            if revision > since
            and gvr == "leases.coordination.k8s.io"
            and new is not None
            and (old is None or old["spec"] != new["spec"])
        ]
        return [self._revision, names]
