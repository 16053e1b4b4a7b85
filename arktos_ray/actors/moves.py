"""Moves: what a tenant partition does when tenants move, on the giving and on the taking side.

The taking side drives a move, and finishes it whatever crashes (docs/flows/tenant-move.md). Its
requests, beside those of the API:

    move-in      {tenant, from}: begin, or go on; asked of the partition that takes
    move-cancel  {tenant}: give up, as long as nothing was completed
    moves        -> [{tenant, from, state, objects, paused_ms, failure}]
    settled      tenant: answers when calls of a held tenant are worth repeating

and of the giving side, by the taking one. A move-begin makes every earlier attempt void:

    move-begin   {tenant, to, id} -> {departed: revision or 0}
    move-freeze  {tenant, id}: holds the tenant's writes; the export ends when it is complete
    move-depart  {tenant, to, id, last} -> the revision at which it left
    export       {tenant, id} (a stream): floors, rows, "caught", rows, ..., "complete"
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arktos_ray.api.errors import BadRequest, Conflict, Failure, NotFound, Unavailable
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.apiserver.partition import Partition, cluster_ip
from arktos_ray.base import retry
from arktos_ray.store.moving import (
    ARRIVING,
    COMPLETE,
    DEPARTED,
    HERE,
    STAGING,
    TENANTS,
    Mark,
)
from arktos_ray.store.port import Row
from arktos_ray.store.records import Record

if TYPE_CHECKING:
    from arktos_ray.actors.part import Part

log = logging.getLogger(__name__)

# Writes of the tenant are held no longer than this; then they go on where they are, and the move
# begins again. A cut-over takes some 20 ms.
HOLD_S_MAX = 5.0
# One item of the export: a frame near 1 MB, 20 ms of either side's time.
_ROWS_MAX, _BYTES_MAX = 500, 1 << 20
# So few changes wait that the rest is a matter of milliseconds.
_LAG_ROWS_MAX = 50
_RETRY_FIRST_S, _RETRY_LIMIT_S = 0.1, 2.0
_FINISHED_MAX = 100  # that `moves` remembers


@dataclass(slots=True)
class _Leaving:
    """An attempt of somebody to take a tenant from here."""

    to: str
    id: str
    departing: asyncio.Future[int] | None = None
    exports: int = 0


@dataclass(slots=True)
class _Coming:
    tenant: str
    source: str
    state: str  # arriving | complete | here | failed | cancelled
    id: str = ""
    paused_ms: float = 0.0
    failure: str = ""
    objects: int = 0
    task: asyncio.Task[Any] | None = None

    def told(self) -> dict[str, Any]:
        return {
            "tenant": self.tenant, "from": self.source, "state": self.state,
            "objects": self.objects, "paused_ms": self.paused_ms, "failure": self.failure,
        }  # fmt: skip


class _Over(Exception):
    """The move ends here, for this reason: nothing was lost, and trying again is no use."""


class Moves:
    REQUESTS = (
        "move-in", "move-cancel", "moves", "settled", "move-begin", "move-freeze", "move-depart",
    )  # fmt: skip

    def __init__(self, part: Part, partition: Partition) -> None:
        self._part, self._partition = part, partition
        self._store, self._gate = partition.store, partition.gate
        self._clock, self._tasks = part.clock, part.tasks
        self._leaving: dict[str, _Leaving] = {}
        self._coming: dict[str, _Coming] = {}
        self._store.on_step = self._stepped
        for mark in self._store.marks.values():
            if mark.state == DEPARTED:
                partition.service_ips.lend(mark.tenant, mark.addresses)

    def start(self) -> None:
        """Go on with what was under way."""
        for mark in list(self._store.marks.values()):
            if mark.state in STAGING:
                self._drive(_Coming(mark.tenant, mark.other, mark.state))

    async def request(self, method: str, payload: Any) -> Any:
        if method == "move-in":
            return await self._move_in(payload["tenant"], payload["from"])
        if method == "move-cancel":
            return await self._cancel(payload["tenant"])
        if method == "moves":
            for coming in self._coming.values():
                coming.objects = self._store.staged(coming.tenant) or coming.objects
            return [coming.told() for coming in self._coming.values()]
        if method == "settled":
            await self._gate.settled(payload)
            return True
        if method == "move-begin":
            return await self._begin(payload["tenant"], payload["to"], payload["id"])
        if method == "move-freeze":
            return await self._freeze(payload["tenant"], payload["id"])
        return await self._depart(payload)

    async def regroup(self) -> None:
        """A partition that is no more has no tenants: who is sent there would find nobody."""
        names = self._part.topology.names("tenant")
        gone = [
            m.tenant
            for m in self._store.marks.values()
            if m.state == DEPARTED and m.other not in names
        ]
        for tenant in gone:
            self._store.delete_mark(tenant)
        if gone:
            with contextlib.suppress(Failure):  # Told again with the next change.
                await self._store.commit()

    def _stepped(self, mark: Mark, records: Mapping[str, Sequence[Record]]) -> None:
        ips = self._partition.service_ips
        self._partition.rights.forget(mark.tenant)
        self._partition.quotas.reread(mark.tenant)
        self._partition.customs.forget(mark.tenant)
        self._partition.conversions.forget(mark.tenant)
        self._partition.hooks.reread(mark.tenant)
        self._partition.policies.reread(mark.tenant)
        if mark.state == DEPARTED:
            ips.lend(mark.tenant, mark.addresses)
        else:
            ips.back(mark.tenant)
            for record in records.get("services", ()):
                address = cluster_ip(record.decode())
                if address:
                    ips.mark(address, record.path)
        self._gate.wake()

    # Giving

    def _has(self, tenant: str) -> Record | None:
        return self._store.get(TENANTS, f"//{tenant}")

    async def _begin(self, tenant: str, to: str, attempt: str) -> dict[str, Any]:
        current = self._leaving.get(tenant)
        if current is not None and current.departing is not None:
            with contextlib.suppress(Failure):
                await asyncio.shield(current.departing)
        mark = self._store.marks.get(tenant)
        if mark is not None and mark.state == DEPARTED:
            if mark.other != to:
                raise NotFound(f"tenant {tenant} is in {mark.other}")
            return {"departed": mark.revision}
        record = self._has(tenant)
        if record is None:
            raise NotFound(f"tenant {tenant} is not in {self._part.name}")
        current = self._leaving.get(tenant)
        if current is not None and current.to != to and current.exports:
            raise Unavailable(f"tenant {tenant} is just moving to {current.to}")
        self._unfreeze(tenant, "another attempt began")
        self._leaving[tenant] = _Leaving(to, attempt)
        spec = record.decode().get("spec") or {}
        return {"departed": 0, "storage": spec.get("storageClusterId", "")}

    def _current(self, tenant: str, attempt: str) -> _Leaving:
        leaving = self._leaving.get(tenant)
        if leaving is None or leaving.id != attempt:
            raise Conflict(f"this attempt to move tenant {tenant} is void")
        return leaving

    async def export(self, payload: Mapping[str, Any]) -> AsyncIterator[Any]:
        tenant = payload["tenant"]
        leaving = self._current(tenant, payload["id"])
        floors, rows, tap = self._store.tap(tenant)
        leaving.exports += 1
        try:
            yield ["floors", floors]
            for batch in _batches(rows):
                yield ["rows", batch]
            rows.clear()
            caught = False
            while True:
                some: list[tuple[str, Record]] = []
                while tap.waiting and len(some) < _ROWS_MAX:
                    what = tap.waiting.popleft()
                    if isinstance(what, int):
                        for batch in _batches(some):
                            yield ["rows", batch]
                        yield ["complete", what]
                        return
                    some.append(what)
                for batch in _batches(some):
                    yield ["rows", batch]
                if not caught and len(tap.waiting) < _LAG_ROWS_MAX:
                    caught = True
                    yield ["caught", self._store.revision]
                await tap.wait()
        finally:
            leaving.exports -= 1

    async def _freeze(self, tenant: str, attempt: str) -> int:
        leaving = self._current(tenant, attempt)
        self._gate.held.add(tenant)
        self._tasks.start(self._let_go(tenant, leaving), f"move {tenant} hold")
        if self._store.pending:
            with contextlib.suppress(Failure):  # What is refused is settled too.
                await self._store.commit()
        self._current(tenant, attempt)
        self._store.close_tap(tenant, self._store.revision)
        return self._store.revision

    async def _let_go(self, tenant: str, leaving: _Leaving) -> None:
        await self._clock.sleep(HOLD_S_MAX)
        if self._leaving.get(tenant) is leaving and leaving.departing is None:
            self._unfreeze(tenant, f"the cut-over took longer than {HOLD_S_MAX:g} s")

    def _unfreeze(self, tenant: str, why: str) -> None:
        """Its writes go on here, and whatever was tried is void."""
        self._leaving.pop(tenant, None)
        self._gate.held.discard(tenant)
        self._store.untap(tenant, Unavailable(why))
        self._gate.wake()

    async def _depart(self, payload: Mapping[str, Any]) -> int:
        tenant = payload["tenant"]
        leaving = self._current(tenant, payload["id"])
        if tenant not in self._gate.held:
            raise Conflict(f"the writes of tenant {tenant} are not held")
        if leaving.departing is None:
            leaving.departing = asyncio.get_running_loop().create_future()
            # Not ours to cancel: whoever asked may be gone, and the mark be written.
            self._tasks.start(
                self._write_departed(tenant, leaving, payload["last"]), f"move {tenant} departs"
            )
        return await asyncio.shield(leaving.departing)

    async def _write_departed(self, tenant: str, leaving: _Leaving, last: int) -> None:
        assert leaving.departing is not None
        store, record = self._store, self._has(tenant)
        try:
            if record is None:
                raise NotFound(f"tenant {tenant} is not in {self._part.name}")
            # Whatever the other side showed without this tenant is older than our mark.
            await store.reach(last)
            addresses = (
                cluster_ip(each.decode()) for each in store.table("services").range(f"{tenant}/")
            )
            uid = record.decode()["metadata"]["uid"]
            revision = store.put_mark(
                Mark(tenant, DEPARTED, leaving.to, 0, uid, tuple(a for a in addresses if a))
            )
            await store.commit()
        except Failure as failure:
            leaving.departing.set_exception(failure)
            leaving.departing.exception()  # Who asked may be gone.
            self._unfreeze(tenant, failure.message)
            return
        leaving.departing.set_result(revision)
        self._unfreeze(tenant, "it departed")
        log.info("%s: tenant %s departed to %s", self._part.name, tenant, leaving.to)

    # Taking

    async def _move_in(self, tenant: str, source: str) -> bool:
        if tenant == SYSTEM_TENANT:
            raise BadRequest("the system tenant stays where it is")
        if source == self._part.name or source not in self._part.topology.names("tenant"):
            raise BadRequest(f"{source} is no other tenant partition")
        mark = self._store.marks.get(tenant)
        if mark is not None and mark.state in STAGING:
            if mark.other != source:
                raise Conflict(f"tenant {tenant} is just coming from {mark.other}")
            return True
        if self._has(tenant) is not None:
            raise Conflict(f"tenant {tenant} is in {self._part.name} already")
        # Before anything is noted here: it says whether there is anything to move.
        answer = await self._ask(source, "move-begin", tenant, self._part.ids.uid())
        if answer["departed"]:
            raise NotFound(f"tenant {tenant} is not in {source}")
        self._check_storage(tenant, answer.get("storage", ""))
        mark = self._store.marks.get(tenant)
        if mark is None or mark.state not in STAGING:
            await self._to_its_end(self._note_coming(tenant, source), f"move {tenant} begins")
        return True

    async def _to_its_end(self, work: Coroutine[Any, Any, Failure | None], name: str) -> None:
        """Not for who asked to cancel: they may be gone, and half of it would be done."""
        failure = await asyncio.shield(self._tasks.start(work, name))
        if failure is not None:
            raise failure

    async def _note_coming(self, tenant: str, source: str) -> Failure | None:
        try:
            self._store.put_mark(Mark(tenant, ARRIVING, source))
            await self._store.commit()
        except Failure as failure:
            return failure
        self._drive(_Coming(tenant, source, ARRIVING))
        return None

    def _check_storage(self, tenant: str, cluster: str) -> None:
        own = self._partition.storage
        if own and cluster not in ("", own):
            raise Conflict(
                f"tenant {tenant} keeps its objects in storage cluster {cluster}"
                f" (spec.storageClusterId), and {self._part.name} is of storage cluster {own};"
                f" it may move to: {', '.join(self._partition.homes(cluster)) or 'none'}"
            )

    async def _ask(self, source: str, method: str, tenant: str, attempt: str, **more: Any) -> Any:
        payload = {"tenant": tenant, "to": self._part.name, "id": attempt, **more}
        return await self._part.peer(source).request(method, payload)

    def _drive(self, coming: _Coming) -> None:
        running = self._coming.pop(coming.tenant, None)
        if running is not None and running.state in STAGING:
            self._coming[coming.tenant] = running
            return
        while len(self._coming) >= _FINISHED_MAX:
            self._coming.pop(next(iter(self._coming)))
        self._coming[coming.tenant] = coming
        coming.task = self._tasks.start(self._finish(coming), f"move {coming.tenant}")

    async def _finish(self, coming: _Coming) -> None:
        waits = retry.exponential(_RETRY_FIRST_S, _RETRY_LIMIT_S)
        while True:
            try:
                await self._attempt(coming)
                coming.state, coming.failure = HERE, ""
                log.info(
                    "%s: tenant %s arrived from %s; its writes waited %.0f ms",
                    self._part.name, coming.tenant, coming.source, coming.paused_ms,
                )  # fmt: skip
                return
            except _Over as over:
                if await self._abandon(coming):
                    coming.state, coming.failure = "failed", str(over)
                    return
            except Failure as failure:
                coming.failure = failure.message
                log.info("%s: move of %s: %s", self._part.name, coming.tenant, failure.message)
            await self._clock.sleep(next(waits))

    async def _abandon(self, coming: _Coming) -> bool:
        """Nothing of it is left here."""
        try:
            await self._store.clear(coming.tenant)
            self._store.delete_mark(coming.tenant)
            await self._store.commit()
        except Failure as failure:
            log.info("%s: move of %s: %s", self._part.name, coming.tenant, failure.message)
            return False
        finally:
            self._gate.wake()
        return True

    async def _attempt(self, coming: _Coming) -> None:
        tenant, store = coming.tenant, self._store
        coming.id = self._part.ids.uid()
        try:
            answer = await self._ask(coming.source, "move-begin", tenant, coming.id)
        except NotFound as failure:
            raise _Over(failure.message) from None
        if answer["departed"]:
            if coming.state != COMPLETE:
                raise _Over(f"tenant {tenant} is not in {coming.source}")
            await self._activate(coming, answer["departed"])
            return
        # From here on no earlier attempt can make it depart: what it brought may go.
        await store.clear(tenant)
        if coming.state != ARRIVING:
            store.put_mark(Mark(tenant, ARRIVING, coming.source))
            await store.commit()
            coming.state = ARRIVING
            self._gate.wake()
        began = await self._take_over_rows(coming)
        store.put_mark(Mark(tenant, COMPLETE, coming.source))
        await store.commit()
        coming.state, coming.objects = COMPLETE, store.staged(tenant)
        departed = await self._ask(
            coming.source, "move-depart", tenant, coming.id, last=store.last
        )  # fmt: skip
        await self._activate(coming, departed)
        coming.paused_ms = round((self._clock.monotonic() - began) * 1000, 1)

    async def _take_over_rows(self, coming: _Coming) -> float:
        """Returns when every row is durable here; the moment at which writes began to wait."""
        tenant, store, began = coming.tenant, self._store, 0.0
        floors: dict[str, int] = {}
        export = self._part.peer(coming.source).subscribe(
            "export", {"tenant": tenant, "id": coming.id}
        )
        try:
            async for kind, payload in export:
                if kind == "floors":
                    floors = payload
                elif kind == "rows":
                    await store.stage(
                        tenant, [Row(rev, dead, gvr, path, body)
                                 for gvr, rev, dead, path, body in payload]
                    )  # fmt: skip
                elif kind == "caught":
                    began = self._clock.monotonic()
                    await self._ask(coming.source, "move-freeze", tenant, coming.id)
                else:
                    await store.complete(tenant, floors)
                    return began
        finally:
            await export.aclose()  # type: ignore[attr-defined]
        raise Unavailable(f"the export of tenant {tenant} ended early")

    async def _activate(self, coming: _Coming, departed: int) -> None:
        """Only forward from here: it is nowhere else."""
        store = self._store
        await store.reach(departed)
        store.put_mark(Mark(coming.tenant, HERE, coming.source))
        await store.commit()
        self._gate.wake()

    async def _cancel(self, tenant: str) -> bool:
        coming = self._coming.get(tenant)
        if coming is None or coming.state not in STAGING:
            raise NotFound(f"tenant {tenant} is not just coming here")
        if coming.state != ARRIVING or coming.task is None:
            raise Conflict(f"tenant {tenant} has all but arrived; the move will finish")
        coming.task.cancel()
        coming.state = "cancelled"
        await self._to_its_end(self._give_up(coming), f"move {tenant} is given up")
        return True

    async def _give_up(self, coming: _Coming) -> Failure | None:
        # Makes the attempt void over there, and what is held goes on.
        with contextlib.suppress(Failure):
            await self._ask(coming.source, "move-begin", coming.tenant, self._part.ids.uid())
        if await self._abandon(coming):
            return None
        self._drive(_Coming(coming.tenant, coming.source, ARRIVING))
        return Unavailable("the log takes no writes just now, and the move goes on; cancel again")


def _batches(rows: Sequence[tuple[str, Record]]) -> list[list[Any]]:
    batches: list[list[Any]] = []
    size = _BYTES_MAX
    for gvr, record in rows:
        if size >= _BYTES_MAX or len(batches[-1]) >= _ROWS_MAX:
            batches.append([])
            size = 0
        batches[-1].append([gvr, record.revision, record.deleted, record.path, record.body])
        size += len(record.body)
    return batches
