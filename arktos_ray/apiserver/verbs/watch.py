"""watch: what changes in a scope, from a revision on, in order, nothing lost, nothing twice.

An object that enters a selector's view is ADDED, one that leaves it is DELETED, whatever happened
to the object itself. Budget: 2 us an event and watcher where only columns are looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

import orjson

from arktos_ray.api import errors, selectors
from arktos_ray.api.calls import ADDED, BOOKMARK, DELETED, MODIFIED, Call, WatchEvent
from arktos_ray.api.lanes import cost_of
from arktos_ray.api.names import ALL_TENANTS
from arktos_ray.api.scheme import DEFINITIONS, Resource
from arktos_ray.apiserver import authz
from arktos_ray.apiserver.conversions import completed, converts
from arktos_ray.apiserver.partition import Partition, shown
from arktos_ray.apiserver.turns import SLICE_US
from arktos_ray.apiserver.verbs.list import (
    Matcher,
    _prefix,
    matcher,
    metadata_only,
    moves_of,
    rendered_table,
    revision_of,
    sees_forced,
)
from arktos_ray.apiserver.views import view_of
from arktos_ray.store.moving import Step
from arktos_ray.store.records import Record, encode
from arktos_ray.store.store import CATCH_UP_CHANGES_MAX, Scope, Subscription
from arktos_ray.store.watchcache import Change
from arktos_ray.tenancy.rights import Rights
from arktos_ray.tenancy.roles import is_super

# The state, and what a watch fell behind, go out in pieces of some milliseconds, so that one huge
# watch does not hold up the loop: plain objects, and those that are decoded and rendered.
_CHUNK, _RENDERED_CHUNK = 300, 30
# To wake a watch and frame what it has to say, and for each change.
_WAKE_US, _CHANGE_US = 30, 3
# A view of ours that fell behind takes larger pieces of the history: while the partition is busy a
# turn comes 5 times a second, and by 500 changes at a time it would never catch up.
_VIEW_PIECE = 4_000
# The most that a reader may ask to be told late, in ms: to be told more at once.
PACE_MS_MAX = 1_000
# History goes back a minute and more: a reader that is told this often can resume.
_VIEW_PACE_S = 10.0


class Watch:
    """One open watch. `ask_progress` makes it say how far it is, as a BOOKMARK."""

    def __init__(self, partition: Partition, call: Call, resource: Resource) -> None:
        self._partition, self._call, self._resource = partition, call, resource
        self._match = matcher(call, resource)
        self._prefix = _prefix(call)
        self._view = view_of(call)
        self._shows_forced = resource.gvr == DEFINITIONS and sees_forced(call)
        self._told_forced: dict[str, Record] = {}
        # Metadata is what it was in any version.
        self._converts = converts(resource) and call.accept != "PartialObjectMetadata"
        self._row = None if self._view is None else self._view.body
        self._subscription: Subscription | None = None
        self._judged_by = self._rights_now()
        self._said_at = 0.0
        self._moves = bool(call.options.get("moves")) and call.user.trusted
        pace = call.options.get("pace", "")
        self._pace_s = min(int(pace[:4]), PACE_MS_MAX) / 1e3 if pace.isdecimal() else 0.0
        # Views of ours that may hear late want to know what is, not each step on the way there.
        # Of a deletion, and of who follows under the same name, they hear apart.
        self._merges = bool(self._pace_s) and call.user.trusted

    def ask_progress(self, revision: int) -> None:
        # The others would wake up for nothing, and there may be thousands.
        if self._subscription is not None and self._call.options.get("progress"):
            self._subscription.ask_progress()

    def reconsider(self) -> None:
        """The user's rights changed: if this watch is no longer theirs, it ends at once."""
        subscription = self._subscription
        if subscription is None:
            return
        with contextlib.suppress(errors.Moved):
            if not authz.allowed(self._partition.rights, self._call, self._resource):
                subscription.ask_progress()

    def _rights_now(self) -> tuple[Rights, int] | None:
        """What the decision about this watch rests on; None when it rests on nothing here."""
        call = self._call
        if call.user.trusted or call.granted or is_super(call.user):
            return None
        rights = self._partition.rights.of(call.user.tenant)
        return rights, rights.version

    def _check_allowed(self) -> None:
        """Before anything is told. Raises Forbidden when the right was withdrawn meanwhile."""
        judged_by = self._judged_by
        if judged_by is None or judged_by[0].version == judged_by[1]:
            return
        # Where its tenant went, the subscription says, after all that came before.
        with contextlib.suppress(errors.Moved):
            authz.authorize(self._partition.rights, self._call, self._resource)
            self._judged_by = self._rights_now()

    async def events(self) -> AsyncIterator[list[WatchEvent]]:
        """Raises Expired when the start is gone, or when the reader fell behind the history, and
        Forbidden when the right to watch is withdrawn."""
        call, store, turns = self._call, self._partition.store, self._partition.turns
        await turns.take(call, cost_of(call))
        options, customs = call.options, self._partition.customs
        start = revision_of(options)
        initial = options.get("sendInitialEvents", "").lower()
        wants_initial = initial in ("true", "1")
        if wants_initial and options.get("resourceVersionMatch") != "NotOlderThan":
            raise errors.Invalid(
                "ListOptions.meta.k8s.io is invalid: resourceVersionMatch: Forbidden: "
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            )
        if start:
            await store.reach(start)
        self._partition.gate.check(call)
        from_state = wants_initial or (not start and initial not in ("false", "0"))
        start = start or store.revision
        gvr = self._resource.gvr
        if from_state and self._moves and not self._prefix:
            await self._partition.gate.all_settled()
        if from_state:
            # One step of the loop: the state, and everything after it.
            start = store.revision
            state = list(store.table(gvr).range(self._prefix))
        step = _VIEW_PIECE if self._merges else CATCH_UP_CHANGES_MAX
        forced = self._forced(start, from_state) if self._shows_forced else []
        subscription = store.subscribe(gvr, self._scope(), start, self._moves, step)
        self._subscription = subscription
        progress = bool(options.get("progress"))
        try:
            if self._shows_forced:
                customs.on_forced[subscription.ask_progress] = None
                if forced:
                    yield forced
            if from_state:
                if self._moves and store.reshaped:
                    yield [WatchEvent(BOOKMARK, 0, "", orjson.dumps(moves_of(self._partition)))]
                async for piece in self._in_pieces(state):
                    yield piece
                if wants_initial:
                    yield [self._bookmark(start, initial_end=True)]
                state.clear()
            while True:
                await subscription.ready()
                if self._pace_s and not subscription.lagging:
                    await self._partition.clock.sleep(self._pace_s)
                    store.check_open()
                # While the partition is behind, more comes together: fewer, larger batches.
                await turns.take(call, _WAKE_US + _CHANGE_US * subscription.waiting)
                self._check_allowed()
                if self._is_outdated():
                    return  # In order: it goes on where it was, with the definition as it is now.
                changes = subscription.next_nowait()
                if self._converts:
                    changes = await self._converted(changes)
                    self._check_allowed()
                events = self._translate(changes)
                if self._shows_forced:
                    events += self._forced_changes(subscription.position)
                late = self._view is not None and self._is_late(bool(events))
                if (progress or late) and (
                    not events or events[-1].revision < subscription.position
                ):
                    events.append(self._bookmark(subscription.position))
                if events:
                    yield events
        finally:
            customs.on_forced.pop(subscription.ask_progress, None)
            subscription.close()
            self._subscription = None

    # Definitions that are everybody's, in a tenant's watch of definitions. They are written in
    # another partition, so an event of one has the place in this watch where it was heard of.

    def _forced(self, start: int, from_state: bool) -> list[WatchEvent]:
        """Of the state; or what changed since. Raises Expired when that cannot be said."""
        customs = self._partition.customs
        if not customs.synced:
            raise errors.Unavailable("which kinds are everybody's is not known here yet; try again")
        if not from_state and start < customs.unforced_at:
            raise errors.Expired(f"too old resource version: {start} ({customs.unforced_at})")
        self._told_forced = {record.path: record for record in customs.forced()}
        return [
            self._event(ADDED, record, start)
            for record in self._told_forced.values()
            if (from_state or record.revision > start) and self._takes(record)
        ]

    def _forced_changes(self, revision: int) -> list[WatchEvent]:
        told = self._told_forced
        now = {record.path: record for record in self._partition.customs.forced()}
        if now == told:
            return []
        self._told_forced = now
        changes = [
            Change(record, told.get(path))
            for path, record in now.items()
            if told.get(path) is not record
        ]
        changes += [
            Change(encode(revision, path, record.decode(), deleted=True), record)
            for path, record in told.items()
            if path not in now
        ]
        match = self._match
        return [
            self._event(kind, change.record, revision)
            for change in changes
            for kind in (_seen_as(change.record, change.previous, match),)
            if kind is not None
        ]

    def _takes(self, record: Record) -> bool:
        return self._match is None or self._match(record)

    def _is_outdated(self) -> bool:
        """Whether the kind is not what it was when this began."""
        resource, call = self._resource, self._call
        if resource.custom is None or call.user.trusted or call.tenant == ALL_TENANTS:
            return False
        return self._partition.resource_of(call) is not resource

    def _bookmark(self, revision: int, initial_end: bool = False) -> WatchEvent:
        """Of a kind that was defined it says which: an ingress cannot know."""
        resource, body = self._resource, b""
        if resource.custom is not None and not self._call.user.trusted:
            body = orjson.dumps({"kind": resource.kind, "apiVersion": resource.api_version})
        return WatchEvent(BOOKMARK, revision, "", body, initial_end)

    def _is_late(self, says: bool) -> bool:
        """Whether a reader who is spared most changes should hear how far it is all the same."""
        now = self._partition.clock.monotonic()
        if says or now - self._said_at < _VIEW_PACE_S:
            self._said_at = now if says else self._said_at
            return False
        self._said_at = now
        return True

    async def _in_pieces(self, state: Sequence[Record]) -> AsyncIterator[list[WatchEvent]]:
        rendered = self._call.accept or self._resource.form is not None
        match, size = self._match, _RENDERED_CHUNK if rendered else _CHUNK
        for i in range(0, len(state), size):
            if i:
                await self._partition.turns.take(self._call, SLICE_US)
                self._check_allowed()
            some = state[i : i + size]
            if self._converts:
                some = await self._partition.conversions.records(self._resource, some)
                self._check_allowed()
            piece = [self._event(ADDED, r, r.revision) for r in some if match is None or match(r)]
            if piece:
                yield piece

    async def _converted(self, changes: Sequence[Change | Step]) -> list[Change | Step]:
        """In the version that is asked for, where a webhook may have to be asked."""
        records = [record for change in changes for record in self._needed(change)]
        turned = iter(await self._partition.conversions.records(self._resource, records))
        found: list[Change | Step] = []
        for change in changes:
            mine = [next(turned) for _ in self._needed(change)]
            if isinstance(change, Step):
                found.append(change._replace(records=mine))
            elif mine:
                was = mine[1] if len(mine) > 1 else change.previous
                found.append(Change(mine[0], was))
            else:
                found.append(change)
        return found

    def _needed(self, change: Change | Step) -> Sequence[Record]:
        """What of it is shown, or asked whether it matches."""
        if isinstance(change, Step):
            return change.records
        record, previous = change
        if self._prefix and not record.path.startswith(self._prefix):
            return ()
        return (record,) if previous is None or self._match is None else (record, previous)

    def _scope(self) -> Scope:
        call = self._call
        fields = selectors.parse_fields(call.options.get("fieldSelector", ""))
        node = fields.required("spec.nodeName") if self._resource.gvr == "pods" else None
        if node:
            return Scope(node=node)
        if call.tenant in ("", ALL_TENANTS) or not self._resource.tenanted:
            return Scope()
        namespace = call.namespace or fields.required("metadata.namespace") or ""
        name = call.name or fields.required("metadata.name") or ""
        if self._resource.namespaced and not namespace:
            return Scope(call.tenant)
        return Scope(call.tenant, namespace if self._resource.namespaced else "", name)

    def _translate(self, changes: Sequence[Change | Step]) -> list[WatchEvent]:
        match, prefix, view = self._match, self._prefix, self._view
        told: list[tuple[str, Record, int] | WatchEvent | None] = []
        latest: dict[str, int] | None = {} if self._merges else None  # path -> where in told
        for change in changes:
            if isinstance(change, Step):
                told += self._stepped(change)
                if latest:
                    latest.clear()  # It is about the objects of a whole tenant.
                continue
            record, previous = change.record, change.previous
            if prefix and not record.path.startswith(prefix):
                continue
            kind = _seen_as(record, previous, match)
            if kind is None:
                continue
            if view is not None and kind == MODIFIED:
                if previous is not None and not view.concerns(record, previous):
                    continue
            elif kind == DELETED and not record.deleted and previous is not None:
                # It left the view: what the watcher had of it, at the revision of leaving.
                record = encode(record.revision, record.path, previous.decode(), deleted=True)
            if latest is not None:
                if kind == DELETED:
                    latest.pop(record.path, None)
                else:
                    before = latest.get(record.path)
                    if before is not None:
                        kind, told[before] = told[before][0], None  # type: ignore[index]
                    latest[record.path] = len(told)
            told.append((kind, record, change.revision))
        return [
            each if isinstance(each, WatchEvent) else self._event(*each)
            for each in told
            if each is not None
        ]

    def _stepped(self, step: Step) -> list[WatchEvent]:
        """A tenant came or went: its objects, as of just before, and then that this is all."""
        match = self._match
        seen = [r for r in step.records if match is None or match(r)]
        told = [self._event(step.kind, record, step.revision - 1) for record in seen]
        return [*told, WatchEvent(BOOKMARK, step.revision, "")]

    def _event(self, kind: str, record: Record, revision: int) -> WatchEvent:
        accept = self._call.accept
        if record.revision < self._resource.since:
            record = completed(self._resource, record)
        if accept == "":
            body = record.body if self._row is None else self._row(record)
            if self._resource.form is not None:
                body = shown(self._resource, body)
        elif accept == "Table":
            body = rendered_table(self._partition, self._call, self._resource, [record], {})
        else:
            body = metadata_only(record)
        return WatchEvent(kind, revision, record.path, body)


def _seen_as(record: Record, previous: Record | None, match: Matcher | None) -> str | None:
    """What the change is to a watcher with this selector; None when it is nothing."""
    was = previous is not None and (match is None or match(previous))
    if record.deleted:
        return DELETED if was else None
    if match is None or match(record):
        return MODIFIED if was else ADDED
    return DELETED if was else None
