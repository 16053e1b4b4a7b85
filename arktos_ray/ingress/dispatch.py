"""Calls to partitions and back: searched, merged, and sent through lanes (lanes.py)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from arktos_ray.api import custom, errors, list_options, scheme
from arktos_ray.api.calls import BOOKMARK, Call, Peer, Reply, User, WatchEvent
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.base.bounded import Bounded, Closed
from arktos_ray.base.clock import Clock
from arktos_ray.base.tasks import Tasks
from arktos_ray.ingress import merge, status
from arktos_ray.ingress.authn import Ask
from arktos_ray.ingress.homes import Each, One, Search, home_of, spans
from arktos_ray.ingress.lanes import Lanes
from arktos_ray.ingress.limits import Limits
from arktos_ray.ingress.port import Upstream
from arktos_ray.tenancy.nodes import node_of
from arktos_ray.tenancy.roles import is_super

T = TypeVar("T")

# Who looks an object up for somebody else: the partition still asks whether *they* may.
_FINDER = User("system:apiserver", groups=("system:masters",), trusted=True)
# Where objects were found: 100 bytes each, a node and its lease twice.
_FOUND_MAX = 200_000
# Batches of one member of a merged watch that wait for the others.
_MEMBER_BATCHES_MAX = 64
_PROGRESS_REPEAT_S = 0.5
_SAFE = ("get", "list")
# How a watch says where it begins.
_BEGINNINGS = ("sendInitialEvents", "resourceVersionMatch")
# Verbs that a partition asks for besides: an apply may create, a role may be given.
_ALSO = {
    "create": ("escalate", "bind"), "update": ("escalate", "bind"),
    "patch": ("create", "escalate", "bind"),
}  # fmt: skip
# A step between two partitions takes a few milliseconds.
_RESHAPED_PAUSE_S = 0.01


@contextlib.asynccontextmanager
async def closing(iterator: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Ends a stream at the end of the block, not when it is collected as garbage."""
    try:
        yield iterator
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


def _resource(call: Call) -> scheme.Resource:
    found = scheme.spoken(call.gvr, call.version)
    return custom.unknown(call.gvr, call.version) if found is None else found


async def ask(
    upstream: Upstream, partition: str, calls: Sequence[Call], left_s: float, limits: Limits
) -> list[Reply]:
    """One batch. Failures of the way are replies too, the same for every call.

    While the partition restarts, what is safe to repeat is repeated: reads, and whatever never
    left this process.
    """
    loop = asyncio.get_running_loop()
    patient_until = loop.time() + min(limits.restart_s, left_s) - limits.restart_pause_s
    only_reads = all(call.verb in _SAFE for call in calls)
    try:
        async with asyncio.timeout(left_s):
            while True:
                try:
                    return await upstream.peer(partition).call(calls)
                except errors.Unavailable as error:
                    repeatable = only_reads or isinstance(error, errors.Unreached)
                    if not repeatable or loop.time() > patient_until:
                        raise
                await asyncio.sleep(limits.restart_pause_s)
    except TimeoutError:
        failure: errors.Failure = errors.Timeout(f"{partition} did not answer in time")
    except errors.Failure as error:
        failure = error
    return [status.reply(failure)] * len(calls)


class Dispatcher:
    """Every call and watch of one ingress passes here."""

    def __init__(self, upstream: Upstream, clock: Clock, tasks: Tasks, limits: Limits) -> None:
        self._upstream, self._clock, self._tasks, self._limits = upstream, clock, tasks, limits
        self.lanes = Lanes(self._ask, tasks, limits)
        self._found: dict[tuple[str, str, str, str], str] = {}
        self._merged_watches: set[_MergedWatch] = set()

    def regroup(self) -> None:
        """There are other partitions now. Watches over all of them end; whoever resumes at the
        last revision that it was given gets exactly the rest, from the new ones too."""
        for watching in list(self._merged_watches):
            watching.end()

    async def call(self, call: Call) -> Reply:
        """Raises only what says that no partition could, or should, be asked."""
        if call.gvr == "tenants" and call.verb in ("create", "patch"):
            version = str(self._upstream.topology_version())
            call = replace(call, options={**call.options, "topology": version})
        if call.verb == "list":
            list_options.check(call.options, watch=False)
        resource = _resource(call)
        where = home_of(call, resource, self._upstream)
        if self._is_strange(call, where):
            call = await self._granted(call)
        if isinstance(where, One):
            reply = await self._submit(where.partition, call)
            if reply.code == errors.Moved.code and _is_moved(reply):
                return await self._follow(where.partition, call, reply)
            return reply
        try:
            # Several questions one after the other, and one deadline for all.
            async with asyncio.timeout(self._limits.call_s):
                if isinstance(where, Search):
                    return await self._search(call, where)
                if call.verb == "list":
                    return await self._list(call, where.partitions)
                return await self._everywhere(call, where.partitions)
        except TimeoutError:
            raise errors.Timeout("the partitions did not answer in time") from None

    # Users of the system tenant elsewhere: only its own partition knows what they may.

    def _is_strange(self, call: Call, where: One | Each | Search) -> bool:
        user = call.user
        if user.trusted or user.tenant != SYSTEM_TENANT or is_super(user):
            return False
        if node_of(user):
            return False  # What it may follows from the pods that a partition has.
        return where != One(self._upstream.owner_of(SYSTEM_TENANT))

    def _own(self, user: User) -> Peer:
        return self._upstream.peer(self._upstream.owner_of(user.tenant))

    async def _granted(self, call: Call) -> Call:
        """The call with what its user may. Raises Forbidden."""
        more = _ALSO.get(call.verb, ())
        asked = replace(call, body=b"", options=_selectors(call.options))
        verbs = await self._own(call.user).request("granted", [asked.pack(), list(more)])
        return replace(call, granted=tuple(verbs))

    async def may(self, user: User, asks: Sequence[Ask]) -> list[bool]:
        """What the roles of the user's own tenant allow."""
        if is_super(user):
            return [True] * len(asks)
        payload = [user.pack(), [list(ask) for ask in asks]]
        partition = self._upstream.owner_of(user.tenant)
        while True:
            try:
                answers: list[bool] = await self._upstream.peer(partition).request("may", payload)
                return answers
            except errors.Moved as failure:
                partition = await self._whereto(partition, failure)

    async def kinds(
        self, tenant: str, have: str, with_schemas: bool
    ) -> tuple[str, list[list[Any]] | None]:
        """What kinds the tenant defined, unless they are those that the stamp `have` is of."""
        loop = asyncio.get_running_loop()
        patient_until = loop.time() + self._limits.restart_s - self._limits.restart_pause_s
        partition = self._upstream.owner_of(tenant)
        while True:
            try:
                async with asyncio.timeout(self._limits.call_s):
                    peer = self._upstream.peer(partition)
                    stamp, rows = await peer.request("kinds", [tenant, have, with_schemas])
                    return stamp, rows
            except errors.Moved as failure:
                partition = await self._whereto(partition, failure)
            except errors.Unavailable:
                if loop.time() > patient_until:
                    raise
                await asyncio.sleep(self._limits.restart_pause_s)
            except TimeoutError:
                raise errors.Timeout(f"{partition} did not answer in time") from None

    async def _guarded(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        """A watch that ends when the partition of its user withdraws the right to it."""
        asked = replace(call, body=b"", options=_selectors(call.options))
        arrived: Bounded[list[WatchEvent]] = Bounded(_MEMBER_BATCHES_MAX)
        failures: list[errors.Failure] = []
        tasks = Tasks()

        async def passing(batches: AsyncIterator[list[WatchEvent]]) -> None:
            async for batch in batches:
                await arrived.put(batch)

        async def remaining(guard: AsyncIterator[Any]) -> None:
            async for _ in guard:
                pass

        async def until_end(work: Coroutine[Any, Any, None]) -> None:
            try:
                with contextlib.suppress(Closed):
                    await work
            except errors.Failure as failure:
                failures.append(failure)
            finally:
                arrived.close()

        async with (
            closing(self._own(call.user).subscribe("remains", asked.pack())) as guard,
            # A watch of several begins with a list.
            closing(self._watch(replace(call, granted=("watch", "list")))[0]) as batches,
        ):
            await anext(guard)
            try:
                tasks.start(until_end(passing(batches)), "guarded watch")
                tasks.start(until_end(remaining(guard)), "guard of a watch")
                while True:
                    try:
                        batch = await arrived.get()
                    except Closed:
                        if failures:
                            raise failures[0] from None
                        return
                    if failures:
                        raise failures[0]
                    yield batch
            finally:
                await tasks.close()

    async def _follow(self, partition: str, call: Call, reply: Reply) -> Reply:
        """Its tenant moves, or moved, and nothing was executed: asks again where it is now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.call_s):
                while reply.code == errors.Moved.code and _is_moved(reply):
                    failure = errors.decode(reply.body)
                    assert isinstance(failure, errors.Moved)
                    partition = await self._whereto(partition, failure)
                    reply = await self._submit(partition, call)
        return reply

    async def _whereto(self, partition: str, failure: errors.Moved) -> str:
        tenant = (failure.details or {}).get("tenant", "")
        if failure.to:
            self._upstream.moved(tenant, failure.to)
            return failure.to
        try:
            await self._upstream.peer(partition).request("settled", tenant)
        except errors.Failure:
            await asyncio.sleep(self._limits.restart_pause_s)
        return partition

    async def _followed(self, call: Call, places: list[str]) -> AsyncIterator[list[WatchEvent]]:
        """The watch of one tenant, wherever it is. places: where that is just now."""
        while True:
            try:
                async with closing(self._upstream.peer(places[0]).watch(call)) as events:
                    async for batch in events:
                        yield batch
                return
            except errors.Moved as failure:
                places[0] = await self._whereto(places[0], failure)
                if failure.after:
                    # It was told everything up to there, its initial state included.
                    options = {k: v for k, v in call.options.items() if k not in _BEGINNINGS}
                    options["resourceVersion"] = str(failure.after)
                    call = replace(call, options=options)

    def watch(self, call: Call) -> tuple[AsyncIterator[list[WatchEvent]], Sequence[str]]:
        """The events, and the partitions that they come from; that may change."""
        list_options.check(call.options, watch=True)
        where = home_of(call, _resource(call), self._upstream)
        if self._is_strange(call, where):
            match where:
                case Each(partitions):
                    return self._guarded(call), partitions
                case One(partition) | Search(_, partition, _):
                    return self._guarded(call), (partition,)
        return self._watch(call)

    def _watch(self, call: Call) -> tuple[AsyncIterator[list[WatchEvent]], Sequence[str]]:
        resource = _resource(call)
        match home_of(call, resource, self._upstream):
            case Each(partitions):
                return self._merged(call, resource, partitions), partitions
            case One(partition) if spans(call, resource):
                return self._merged(call, resource, (partition,)), (partition,)
            case One(partition) | Search(_, partition, _):
                places = [partition]
                return self._followed(call, places), places

    async def progress(self, partition: str) -> None:
        """Makes the progress watches of a partition say how far they are."""
        # Its watches end by themselves if it is gone.
        with contextlib.suppress(errors.Failure):
            await self._upstream.peer(partition).request(
                "progress", [merge.revision_at(self._clock.now())]
            )

    async def _submit(self, partition: str, call: Call) -> Reply:
        reply = await self.lanes.submit(partition, call)
        if reply.code == errors.Apart.code and _is_apart(reply):
            # Beside the lanes: nobody waits behind somebody's webhooks.
            try:
                asked = await self._upstream.peer(partition).request("reviewed", call.pack())
            except errors.Failure as failure:
                return status.reply(failure)
            return Reply.unpack(asked)
        return reply

    async def _ask(self, partition: str, calls: Sequence[Call], left_s: float) -> list[Reply]:
        return await ask(self._upstream, partition, calls, left_s, self._limits)

    # Objects that may be in one of several partitions.

    async def _search(self, call: Call, where: Search) -> Reply:
        key = (call.gvr, call.tenant, call.namespace, where.name)
        known = self._found.get(key)
        if known in where.partitions:
            assert known is not None
            reply = await self._submit(known, call)
            if reply.code != errors.NotFound.code:
                return reply
            del self._found[key]
        partition = await self._find(call, where) or where.otherwise
        reply = await self._submit(partition, call)
        if reply.ok and where.name:
            if len(self._found) >= _FOUND_MAX:
                self._found.clear()
            self._found[key] = partition
        return reply

    async def _find(self, call: Call, where: Search) -> str | None:
        """Who has it. Unavailable when somebody who may have it does not answer."""
        if not where.name:
            return None
        looking = replace(
            call, verb="get", name=where.name, subresource="", options={}, body=b"",
            content_type="", accept="PartialObjectMetadata", user=_FINDER,
        )  # fmt: skip
        replies = await asyncio.gather(*(self._submit(p, looking) for p in where.partitions))
        for partition, reply in zip(where.partitions, replies, strict=True):
            if reply.ok:
                return partition
        for reply in replies:
            if reply.code != errors.NotFound.code:
                raise errors.decode(reply.body)
        return None

    async def _everywhere(self, call: Call, partitions: tuple[str, ...]) -> Reply:
        """deletecollection: every member deletes its part; the first refusal is the answer."""
        replies = await asyncio.gather(*(self._submit(p, call) for p in partitions))
        for reply in replies:
            if not reply.ok:
                return reply
        parts = [merge.take_apart(reply.body) for reply in replies]
        if all(str(part.head.get("kind")).endswith("List") for part in parts):
            return Reply(200, merge.join(parts, merge.revision_at(self._clock.now()), ""))
        return replies[0]

    # Lists of several partitions.

    async def _list(self, call: Call, members: tuple[str, ...]) -> Reply:
        newest = merge.revision_at(self._clock.now())
        options = dict(call.options)
        limit = int(options["limit"]) if options.get("limit", "").isdecimal() else 0
        token = options.pop("continue", "")
        options.pop("limit", None)
        chosen = not token and not _is_chosen(options, limit > 0)
        if token:
            page = merge.decode_page(token, members, newest)
        else:
            page = merge.Page(_list_revision(options, newest, limit > 0), members[0], "")
        while True:
            reply = await self._taken(call, options, members, page, limit)
            if not chosen or reply.code != errors.Expired.code or not _is_reshaped(reply):
                return reply
            # Tenants moved while we asked: as it is a moment later.
            await asyncio.sleep(_RESHAPED_PAUSE_S)
            page = page._replace(revision=merge.revision_at(self._clock.now()))

    async def _taken(
        self, call: Call, options: dict[str, str], members: tuple[str, ...], page: merge.Page,
        limit: int,
    ) -> Reply:  # fmt: skip
        if limit:
            return await self._page(call, options, members, page, limit)
        asked = replace(call, options=_exactly(options, page.revision))
        replies = await asyncio.gather(*(self._submit(member, asked) for member in members))
        for reply in replies:
            if not reply.ok:
                return reply
        parts = [merge.take_apart(reply.body) for reply in replies]
        warnings = tuple(dict.fromkeys(w for reply in replies for w in reply.warnings))
        return Reply(200, merge.join(parts, page.revision, ""), warnings)

    async def _page(
        self, call: Call, options: dict[str, str], members: tuple[str, ...], page: merge.Page,
        limit: int,
    ) -> Reply:  # fmt: skip
        parts: list[merge.Part] = []
        token = page.token
        for i in range(members.index(page.member), len(members)):
            if token:
                # The member's token says at which revision.
                asked = {**options, "continue": token}
                for name in ("resourceVersion", "resourceVersionMatch"):
                    asked.pop(name, None)
            else:
                asked = _exactly(options, page.revision)
            asked["limit"] = str(limit)
            reply = await self._submit(members[i], replace(call, options=asked))
            if not reply.ok:
                return reply
            part = merge.take_apart(reply.body)
            parts.append(part)
            limit -= merge.item_count(part)
            token = part.head["metadata"].get("continue", "")
            if token or (limit <= 0 and i + 1 < len(members)):
                member = members[i] if token else members[i + 1]
                following = merge.encode_page(merge.Page(page.revision, member, token))
                return Reply(200, merge.join(parts, page.revision, following))
        return Reply(200, merge.join(parts, page.revision, ""))

    # Watches of several partitions.

    async def _merged(
        self, call: Call, resource: scheme.Resource, members: tuple[str, ...]
    ) -> AsyncIterator[list[WatchEvent]]:
        options = dict(call.options)
        initial = options.pop("sendInitialEvents", "").lower()
        wants_initial = initial in ("true", "1")
        options.pop("resourceVersionMatch", None)
        text = options.pop("resourceVersion", "")
        if initial in ("false", "0") and text in ("", "0"):
            start = merge.revision_at(self._clock.now())
        elif wants_initial or text in ("", "0"):
            listed = {**options, "resourceVersion": text} if text else options
            reply = await self._list(replace(call, verb="list", options=listed), members)
            if not reply.ok:
                raise errors.decode(reply.body)
            part = merge.take_apart(reply.body)
            start = int(part.head["metadata"]["resourceVersion"])
            events = merge.initial_events(part, resource.kind, resource.api_version, start)
            events.append(WatchEvent(BOOKMARK, start, "", initial_end=wants_initial))
            yield events
        else:
            start = _number(text)
        asked = replace(call, options={**options, "resourceVersion": str(start), "progress": "1"})
        watching = _MergedWatch(
            {name: self._upstream.peer(name) for name in members}, asked, start,
            self._clock, self._limits,
        )  # fmt: skip
        self._merged_watches.add(watching)
        try:
            async with closing(watching.events()) as merged:
                async for events in merged:
                    yield events
        finally:
            self._merged_watches.discard(watching)


class _MergedWatch:
    """The shell around merge.Merge: a watch of each member, and questions to those that lag."""

    def __init__(
        self, peers: dict[str, Peer], call: Call, start: int, clock: Clock, limits: Limits
    ) -> None:
        self._peers, self._call, self._clock, self._limits = peers, call, clock, limits
        self._merge = merge.Merge(tuple(peers), start)
        self._arrived: Bounded[tuple[str, list[WatchEvent]]] = Bounded(_MEMBER_BATCHES_MAX)
        self._failure: errors.Failure | None = None
        self._asking: set[str] = set()
        self._asked = dict.fromkeys(peers, 0)
        self._tasks = Tasks()

    async def events(self) -> AsyncIterator[list[WatchEvent]]:
        try:
            for name in self._peers:
                self._tasks.start(self._listen(name), f"merge-{name}")
            self._tasks.start(self._repeat(), "merge-repeat")
            while True:
                try:
                    member, batch = await self._arrived.get()
                except Closed:
                    if self._failure is not None:
                        raise self._failure from None
                    return
                out = self._merge.feed(member, batch)
                if out:
                    yield out
                if self._merge.held:
                    self._ask()
                    if self._merge.held > self._limits.merge_held_max:
                        raise errors.Expired("too many events wait for a partition that lags")
        finally:
            await self._tasks.close()

    def end(self) -> None:
        """In order: what was handed out is all up to some revision."""
        self._arrived.close()

    async def _listen(self, name: str) -> None:
        failure: errors.Failure | None = errors.Internal(f"the watch of {name} ended by a bug")
        try:
            async with closing(self._peers[name].watch(self._call)) as batches:
                async for batch in batches:
                    await self._arrived.put((name, batch))
            failure = None
        except Closed:
            failure = None  # It was ended, in order or by another member.
        except errors.Failure as error:
            failure = error
        finally:
            # One member less would leave a gap: the whole watch ends, whatever the reason.
            self._failure = self._failure or failure
            self._arrived.close()

    def _ask(self) -> None:
        for name in self._peers:
            wanted = self._merge.wanted_of(name)
            if wanted is not None and name not in self._asking and wanted > self._asked[name]:
                self._asking.add(name)
                self._asked[name] = wanted
                self._tasks.start(self._progress(name, wanted), f"progress-{name}")

    async def _progress(self, name: str, wanted: int) -> None:
        """The answer comes as a BOOKMARK in that member's watch."""
        with contextlib.suppress(errors.Failure):
            await self._peers[name].request("progress", [wanted])
        self._asking.discard(name)
        self._ask()  # Others may have gone on meanwhile.

    async def _repeat(self) -> None:
        # A question can be lost, or overtake the start of that member's watch.
        while True:
            await self._clock.sleep(_PROGRESS_REPEAT_S)
            if self._merge.held:
                self._asked = dict.fromkeys(self._peers, 0)
                self._ask()


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 19:
        raise errors.BadRequest(f'Invalid value: "{text}": resourceVersion must be a number')
    return int(text)


def _selectors(options: dict[str, str]) -> dict[str, str]:
    """All of the options that a decision may rest on."""
    text = options.get("fieldSelector")
    return {"fieldSelector": text} if text else {}


def _is_moved(reply: Reply) -> bool:
    return b'"TenantMoved"' in reply.body


def _is_apart(reply: Reply) -> bool:
    return b'"ReviewedApart"' in reply.body


def _is_reshaped(reply: Reply) -> bool:
    return b'"TenantsMoved"' in reply.body


def _is_chosen(options: dict[str, str], paged: bool) -> bool:
    """Whether the client says at which revision a merged list is taken."""
    if options.get("resourceVersion", "") in ("", "0"):
        return False
    match = options.get("resourceVersionMatch")
    return match == "Exact" or (paged and not match)


def _list_revision(options: dict[str, str], newest: int, paged: bool) -> int:
    """At which revision a merged list is taken."""
    asked = _number(options.get("resourceVersion", "") or "0")
    if asked > newest:
        raise errors.Timeout(f"Too large resource version: {asked}, current: {newest}")
    match = options.get("resourceVersionMatch")
    exact = match == "Exact" or (paged and not match)  # Pages without a word on it, as upstream.
    return asked if asked and exact else newest


def _exactly(options: dict[str, str], revision: int) -> dict[str, str]:
    return {
        **options, "resourceVersion": str(revision), "resourceVersionMatch": "Exact",
        "advance": "1",
    }  # fmt: skip
