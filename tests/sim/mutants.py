"""Bugs planted on purpose: each must be caught by the story of `consistency.py`.

A mutant is a name and a function that breaks one promise by a small patch. When the story lets
one live, the story is too weak: strengthen it, do not remove the mutant.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from arktos_ray.api.calls import WatchEvent
from arktos_ray.api.errors import Failure
from arktos_ray.apiserver.verbs import list as listing
from arktos_ray.apiserver.verbs import watch as watching
from arktos_ray.ingress import dispatch, merge
from arktos_ray.store import revisions, store
from arktos_ray.store.mvcc import Table
from arktos_ray.store.port import Row
from arktos_ray.store.store import Store, Subscription
from arktos_ray.store.watchcache import Change, WatchCache
from arktos_ray.testing.simdisk import RecordLog

Patch = pytest.MonkeyPatch


def acknowledged_before_durable(patch: Patch) -> None:
    real = RecordLog.append

    async def append(self: RecordLog, rows: Sequence[Row]) -> None:
        asyncio.get_running_loop().create_task(_quietly(real(self, rows)))

    patch.setattr(RecordLog, "append", append)


async def _quietly(work: Awaitable[None]) -> None:
    with contextlib.suppress(Failure):
        await work


def read_before_durable(patch: Patch) -> None:
    patch.setattr(Store, "get", Store.latest)


def overlay_not_looked_at(patch: Patch) -> None:
    patch.setattr(Store, "latest", lambda self, gvr, path: self.table(gvr).get(path))


def refused_batch_leaves_its_overlay(patch: Patch) -> None:
    real = Store._abort

    def abort(self: Store, *what: Any) -> None:
        kept = dict(self._overlay)
        real(self, *what)
        self._overlay.update(kept)

    patch.setattr(Store, "_abort", abort)


def refused_batch_is_published(patch: Patch) -> None:
    real = Store._abort

    def abort(self: Store, why: Any, in_flight: Any = None) -> None:
        for gvr, record in in_flight.changes if in_flight is not None else ():
            self._publish(gvr, record)
        real(self, why, in_flight)

    patch.setattr(Store, "_abort", abort)


def writes_on_top_of_a_refused_batch_go_on(patch: Patch) -> None:
    real = Store._abort

    def abort(self: Store, why: Any, in_flight: Any = None) -> None:
        collected, overlay = self._batch, dict(self._overlay)
        real(self, why, in_flight)
        if in_flight is not None:
            self._batch, self._overlay = collected, overlay
            if collected.done is not None and collected.done.done():
                collected.done = None
            self.commit()

    patch.setattr(Store, "_abort", abort)


def history_skips_one(patch: Patch) -> None:
    def since(self: WatchCache, revision: int, limit: int | None = None) -> Sequence[Change]:
        self.check(revision)
        start = max(bisect_right(self._revisions, revision) + 1, self._dropped)
        return self._changes[start : None if limit is None else start + limit]

    patch.setattr(WatchCache, "since", since)


def history_repeats_one(patch: Patch) -> None:
    def since(self: WatchCache, revision: int, limit: int | None = None) -> Sequence[Change]:
        self.check(revision)
        start = max(bisect_left(self._revisions, revision), self._dropped)
        return self._changes[start : None if limit is None else start + limit]

    patch.setattr(WatchCache, "since", since)


def history_that_is_gone_is_not_refused(patch: Patch) -> None:
    patch.setattr(WatchCache, "check", lambda self, revision: None)


def history_is_refused_too_early(patch: Patch) -> None:
    real = WatchCache.check
    patch.setattr(WatchCache, "check", lambda self, revision: real(self, revision - (200 << 19)))


def slow_watcher_loses_its_backlog(patch: Patch) -> None:
    real = Subscription.next_nowait

    def next_nowait(self: Subscription) -> Sequence[Change]:
        self._lagging = False
        return real(self)

    patch.setattr(Subscription, "next_nowait", next_nowait)


def compaction_forgets_a_live_row(patch: Patch) -> None:
    real = RecordLog.compact

    async def compact(self: RecordLog, gone: Sequence[int], floors: dict[str, int]) -> None:
        rows, also = self._disk.rows, []
        for gvr, floor in floors.items():
            live = {r for r, row in rows.items() if row.gvr == gvr and r <= floor} - {*gone}
            also += [max(live)] if live else []
        await real(self, [*gone, *also], floors)

    patch.setattr(RecordLog, "compact", compact)


def floors_are_not_remembered(patch: Patch) -> None:
    real = RecordLog.compact

    async def compact(self: RecordLog, gone: Sequence[int], floors: dict[str, int]) -> None:
        await real(self, gone, {})

    patch.setattr(RecordLog, "compact", compact)


def deleted_objects_stay(patch: Patch) -> None:
    patch.setattr(Table, "remove", lambda self, path: self.get(path))


def revisions_are_those_of_the_millisecond(patch: Patch) -> None:
    """Of two partitions that write in one millisecond, both give out the same ones."""
    real = revisions.next_revision
    patch.setattr(store, "next_revision", lambda last, now_ms, _: real(last, now_ms, 1))


def a_revision_is_reached_before_the_commit_in_flight(patch: Patch) -> None:
    async def reach(self: Store, revision: int) -> None:
        self._last = max(self._last, revision)
        self.revision = max(self.revision, revision)

    patch.setattr(Store, "reach", reach)


def an_exact_list_is_of_now(patch: Patch) -> None:
    def range_at(self: Store, gvr: str, prefix: str, after: str, revision: int) -> Any:
        return self.table(gvr).range(prefix, after)

    patch.setattr(Store, "range_at", range_at)


def pages_overlap(patch: Patch) -> None:
    real = listing._token
    patch.setattr(listing, "_token", lambda revision, path: real(revision, path[:-1]))


def selectors_forget_what_was(patch: Patch) -> None:
    real = watching._seen_as
    patch.setattr(watching, "_seen_as", lambda record, previous, match: real(record, None, match))


def nobody_looks_for_watchers_of_a_tenant(patch: Patch) -> None:
    real = Store._offer

    def offer(self: Store, gvr: str, change: Change) -> None:
        if not change.record.path.endswith("3"):
            real(self, gvr, change)

    patch.setattr(Store, "_offer", offer)


def a_merge_waits_for_nobody(patch: Patch) -> None:
    real = merge.Merge.feed

    def feed(self: merge.Merge, member: str, events: Sequence[WatchEvent]) -> list[WatchEvent]:
        newest = max((event.revision for event in events), default=0)
        for other in self._reached:
            self._reached[other] = max(self._reached[other], newest)
        return real(self, member, events)

    patch.setattr(merge.Merge, "feed", feed)


def a_merged_list_takes_whatever_each_has(patch: Patch) -> None:
    patch.setattr(dispatch, "_exactly", lambda options, revision: options)


def one_writer_that_leaves_takes_the_others_along(patch: Patch) -> None:
    """The commit that a batch shares was once cancelled with the first of its writers."""
    real = Store.commit

    def commit(self: Store) -> asyncio.Future[None]:
        real(self)
        assert self._batch.done is not None
        return self._batch.done

    patch.setattr(Store, "commit", commit)


MUTANTS: list[Callable[[Patch], None]] = [
    acknowledged_before_durable,
    read_before_durable,
    overlay_not_looked_at,
    refused_batch_leaves_its_overlay,
    refused_batch_is_published,
    writes_on_top_of_a_refused_batch_go_on,
    history_skips_one,
    history_repeats_one,
    history_that_is_gone_is_not_refused,
    history_is_refused_too_early,
    slow_watcher_loses_its_backlog,
    compaction_forgets_a_live_row,
    floors_are_not_remembered,
    deleted_objects_stay,
    revisions_are_those_of_the_millisecond,
    a_revision_is_reached_before_the_commit_in_flight,
    an_exact_list_is_of_now,
    pages_overlap,
    selectors_forget_what_was,
    nobody_looks_for_watchers_of_a_tenant,
    a_merge_waits_for_nobody,
    a_merged_list_takes_whatever_each_has,
    one_writer_that_leaves_takes_the_others_along,
]
