"""What a partition does with a call: authorise, find the verb, run it, commit, answer.

`call` takes a batch, and waits for its turn while the partition is behind (turns.py). Every call
of it is decided in order, in one step of the loop unless a list is long or must wait for a
revision; the batch is committed once; then all are answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from arktos_ray.api import errors
from arktos_ray.api.calls import Call, Reply, User, WatchEvent
from arktos_ray.api.custom import UNKNOWN
from arktos_ray.api.errors import Failure
from arktos_ray.api.names import ALL_TENANTS, SYSTEM_TENANT
from arktos_ray.api.scheme import Resource
from arktos_ray.apiserver import authz
from arktos_ray.apiserver.conversions import Unconverted, converts
from arktos_ray.apiserver.hooks import Apart, Attempt, Outside
from arktos_ray.apiserver.outside import Https
from arktos_ray.apiserver.outside import Outside as Way
from arktos_ray.apiserver.partition import Partition, shown
from arktos_ray.apiserver.reviews import REVIEW_S, Reviews
from arktos_ray.apiserver.subresources.binding import bind, evict
from arktos_ray.apiserver.subresources.finalize import finalize
from arktos_ray.apiserver.subresources.scale import get_scale, update_scale
from arktos_ray.apiserver.subresources.token import create_token
from arktos_ray.apiserver.turns import LONG_US
from arktos_ray.apiserver.verbs.create import create
from arktos_ray.apiserver.verbs.delete import collected, delete, deletecollection, selected
from arktos_ray.apiserver.verbs.get import get
from arktos_ray.apiserver.verbs.list import list_objects
from arktos_ray.apiserver.verbs.patch import patch
from arktos_ray.apiserver.verbs.review import review
from arktos_ray.apiserver.verbs.update import update
from arktos_ray.apiserver.verbs.watch import Watch
from arktos_ray.base.tasks import Tasks

log = logging.getLogger(__name__)

Verb = Callable[[Partition, Call, Resource], Reply]

_VERBS: dict[str, Verb] = {
    "get": get,
    "create": create,
    "update": update,
    "patch": patch,
    "delete": delete,
    "deletecollection": deletecollection,
}
# (subresource, verb) that are not the plain verb on one side of the object.
_SUBRESOURCES: dict[tuple[str, str], Verb] = {
    ("binding", "create"): bind,
    ("eviction", "create"): evict,
    ("finalize", "update"): finalize,
    ("scale", "get"): get_scale,
    ("token", "create"): create_token,
    ("scale", "update"): update_scale,
    ("scale", "patch"): update_scale,
}
_READS = ("get", "list")
# One of our own parts waits this long for webhooks, and then comes again: it has others to serve.
_PATIENCE_S = 0.25
# Calls of our own parts whose webhooks are asked, or said no: as many as there may be reviews.
BACKGROUND_MAX = 1_024
_APART_FAILURE = errors.Apart("webhooks are to be asked first; try again")
_APART = Reply(_APART_FAILURE.code, _APART_FAILURE.encode())
_LATER_FAILURE = errors.Unavailable("webhooks are being asked; try again")
_LATER = Reply(_LATER_FAILURE.code, _LATER_FAILURE.encode())
# Refusals of a write that follow from what others wrote, durable or not: they wait for the commit.
_OF_STATE = (errors.AlreadyExists, errors.Conflict, errors.NotFound)


class Server:
    """The API of one partition. Knows no transport, no actor and no clock of its own."""

    def __init__(
        self, partition: Partition, tasks: Tasks | None = None, outside: Way | None = None
    ) -> None:
        """outside: how webhooks are reached."""
        self.partition = partition
        self._tasks = tasks or Tasks()
        self._monotonic = partition.clock.monotonic
        self.reviews = Reviews(partition, outside or Https())
        self._reviewing: dict[tuple[Any, ...], list[asyncio.Task[Reply]]] = {}
        self._watches: dict[Watch, None] = {}  # ordered, so that a replay is exact
        # Those of users whose rights may change, by tenant; and whose may have, just now.
        self._judged: dict[str, dict[Watch | Guard, None]] = {}
        self._withdrawn: set[str] = set()
        partition.rights.on_withdrawn = self._reconsider
        partition.conversions.tasks = self._tasks
        partition.conversions.post = lambda *what: self.reviews.outside.post(*what)
        self.calls_total = 0

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        """Raises TooManyRequests when too much waits already: nothing of it was done."""
        await self.partition.turns.begin(calls)
        await self.partition.quotas.ready(calls)
        return await self._call(calls, None)

    async def _call(self, calls: Sequence[Call], attempt: Attempt | None) -> list[Reply]:
        """attempt: of the one call that is answered alone. Raises Outside then."""
        replies: list[Reply] = []
        # Of our own parts, whose webhooks are being asked: by place.
        reviewed: dict[int, asyncio.Task[Reply]] = {}
        wrote: list[int] = []  # not committed yet
        unsure = False  # whether a call that failed left a part of its work (deletecollection)
        for i, call in enumerate(calls):
            if call.verb == "list" and wrote:
                # A list may wait, and a commit that fails meanwhile takes along what came before.
                await self._settle(replies, wrote)
            try:
                if attempt is None or call.verb == "list":
                    replies.append(await self._one(call, alone=attempt is not None))
                else:
                    replies.append(self._one_again(call, attempt))
            except (Apart, Unconverted):
                if attempt is not None:
                    raise
                if call.user.trusted:
                    reviewed[i] = self._in_background(call, set(reviewed.values()))
                    replies.append(_LATER)
                else:
                    replies.append(_APART)
                continue
            except Outside:
                raise
            except Failure as failure:
                replies.append(Reply(failure.code, failure.encode(), notes=failure.notes))
                if not isinstance(failure, _OF_STATE):
                    unsure = unsure or call.verb not in _READS
                    continue
            except Exception:
                # A bug in one verb fails that call, loudly; the store was not touched half-way:
                # every verb queues its write as its last step.
                log.exception("%s %s %s/%s", call.verb, call.gvr, call.namespace, call.name)
                bug = errors.Internal(f"{call.verb} {call.gvr}: internal error; see the log")
                replies.append(Reply(bug.code, bug.encode()))
                unsure = True
                continue
            if call.verb not in _READS:
                wrote.append(i)
        self.calls_total += len(calls)
        if wrote or unsure:
            await self._settle(replies, wrote)
        if reviewed:
            await asyncio.wait(reviewed.values(), timeout=_PATIENCE_S)
            for i, answer in reviewed.items():
                if answer.done():
                    replies[i] = answer.result()
        try:
            self.partition.store.check_trusted()
        except Failure as failure:
            # What was read may be the past by now, and a refusal is as good as a read.
            return [Reply(failure.code, failure.encode())] * len(calls)
        return replies

    # Calls that webhooks are asked about

    async def reviewed(self, call: Call) -> Reply:
        """The answer to one call that was told Apart, after its webhooks were asked."""
        attempt, tenant = Attempt(), call.tenant or SYSTEM_TENANT
        try:
            with self.reviews.room(tenant, len(call.body)):
                async with asyncio.timeout(REVIEW_S):
                    if call.verb == "deletecollection":
                        return await self._delete_each(call)
                    return await self._reviewed(call, attempt)
        except TimeoutError:
            failure: Failure = errors.Timeout("webhooks did not answer in time")
        except Failure as refusal:
            failure = refusal
        notes = (*attempt.audit.items(), *failure.notes)
        return Reply(failure.code, failure.encode(), tuple(attempt.warnings), notes)

    async def _reviewed(self, call: Call, attempt: Attempt) -> Reply:
        conversions = self.partition.conversions
        while True:
            try:
                await self.partition.turns.begin([call])
                await self.partition.quotas.ready([call])
                [reply] = await self._call([call], attempt)
            except Outside as what:
                await self.reviews.ask(what, attempt)
            except Unconverted as objects:
                await conversions.learn(objects, attempt.converted)
            else:
                if reply.ok and call.verb not in _READS:
                    reply = await self._spoken_after(call, reply)
                if attempt.warnings or attempt.audit:
                    warnings = (*reply.warnings, *attempt.warnings)
                    notes = (*attempt.audit.items(), *reply.notes)
                    reply = Reply(reply.code, reply.body, warnings, notes)
                return reply

    def _one_again(self, call: Call, attempt: Attempt) -> Reply:
        resource = self._admitted(call)
        verb = self._verb(call, resource)

        def carried_out() -> Reply:
            reply = self._carried_out(verb, call, resource)
            if converts(resource) and call.verb not in _READS:
                return _warned(reply, resource)  # It was written: the rest is for later.
            return _told(reply, resource)

        # In one step: nobody else finds this attempt.
        self.partition.hooks.attempt = attempt
        try:
            return self.partition.conversions.run(carried_out, attempt.converted)
        finally:
            self.partition.hooks.attempt = None

    async def _spoken_after(self, call: Call, reply: Reply) -> Reply:
        """The answer to a write, where a webhook makes the version that was asked for."""
        resource = self.partition.resource_of(call)
        if not converts(resource):
            return reply
        return await self.partition.conversions.settled(lambda: _spoken(reply, resource))

    async def _delete_each(self, call: Call) -> Reply:
        """A collection whose webhooks are asked about each object by itself. Raises a Failure."""
        resource = self._admitted(call)
        self._verb(call, resource)
        # Who may delete them all need not be allowed to delete one.
        user = replace(call.user, trusted=True)
        found = selected(self.partition, call, resource)
        spoken = found
        if converts(resource):
            spoken = await self.partition.conversions.records(resource, found)
        for record in found:
            key = record.key
            one = replace(
                call, verb="delete", user=user, tenant=key.tenant, namespace=key.namespace,
                name=key.name,
            )  # fmt: skip
            reply = await self._reviewed(one, Attempt())
            if not reply.ok and reply.code not in (errors.NotFound.code, errors.Conflict.code):
                return reply
        return collected(self.partition, resource, [shown(resource, r.body) for r in spoken])

    def _in_background(self, call: Call, taken: set[asyncio.Task[Reply]]) -> asyncio.Task[Reply]:
        """For one of our own parts, which must not wait for a tenant's webhook. What was begun
        goes on; who repeats the call meanwhile finds it, so that it is not begun twice, and who
        repeats it later finds why it was refused. taken: by equal calls of the same batch."""
        key = (call.verb, call.gvr, call.tenant, call.namespace, call.name, call.subresource,
               call.body, call.user.name, call.version)  # fmt: skip
        tasks = self._reviewing.get(key, ())
        for task in tasks:
            if task not in taken:
                taken.add(task)
                if task.done():
                    self._forget(key, task)
                return task
        while len(self._reviewing) >= BACKGROUND_MAX:
            del self._reviewing[next(iter(self._reviewing))]
        task = self._tasks.start(self.reviewed(call), f"review {call.verb} {call.gvr}")
        self._reviewing.setdefault(key, []).append(task)
        task.add_done_callback(lambda task: self._review_ended(key, task))
        taken.add(task)
        return task

    def _review_ended(self, key: tuple[Any, ...], task: asyncio.Task[Reply]) -> None:
        # What succeeded is seen in the store; a refusal for want of room is no answer.
        if task.cancelled() or task.exception() or task.result().ok or task.result().code == 429:
            self._forget(key, task)

    def _forget(self, key: tuple[Any, ...], task: asyncio.Task[Reply]) -> None:
        tasks = self._reviewing.get(key)
        if tasks and task in tasks:
            tasks.remove(task)
            if not tasks:
                del self._reviewing[key]

    async def _settle(self, replies: list[Reply], wrote: list[int]) -> None:
        """Commit; then the replies to these calls are true, or become the reason why not."""
        try:
            if self.partition.store.pending:
                await self.partition.store.commit()
        except Failure as failure:
            for i in wrote:
                replies[i] = Reply(failure.code, failure.encode())
        wrote.clear()

    async def _one(self, call: Call, *, alone: bool = False) -> Reply:
        if call.verb == "list":
            resource = self.partition.resource_of(call)
            authz.authorize(self.partition.rights, call, resource)
            if resource.custom is not None:
                self._check_custom(call, resource)
            return await list_objects(self.partition, call, resource, alone=alone)
        resource = self._admitted(call)
        verb = self._verb(call, resource)
        if resource.form is not None and _is_spoken_late(call, resource):
            raise Apart
        return _told(self._carried_out(verb, call, resource), resource)

    def _check_custom(self, call: Call, resource: Resource) -> None:
        if call.tenant not in ("", ALL_TENANTS):
            # Where the tenant is, its definitions are.
            self.partition.gate.check(call)
        self.partition.customs.check(call, resource)

    def _carried_out(self, verb: Verb, call: Call, resource: Resource) -> Reply:
        """With what admission policies warn of, and note."""
        policies = self.partition.policies
        policies.begin()
        begun = self._monotonic()
        try:
            reply = verb(self.partition, call, resource)
        except Failure as failure:
            if policies.audit:
                failure.notes = tuple(policies.audit.items())
            raise
        finally:
            spent_us = int((self._monotonic() - begun) * 1e6)
            if spent_us > LONG_US:
                self.partition.turns.charge(call, spent_us)
        if policies.warnings or policies.audit:
            warnings = (*reply.warnings, *policies.warnings)
            return Reply(reply.code, reply.body, warnings, tuple(policies.audit.items()))
        return reply

    def _admitted(self, call: Call) -> Resource:
        """What the call is about. Raises a Failure for who may not, or should ask elsewhere."""
        resource = self.partition.resource_of(call)
        authz.authorize(self.partition.rights, call, resource)
        if call.tenant == ALL_TENANTS and resource.tenanted:
            raise errors.BadRequest('the tenant "all" is for list and watch only')
        self.partition.gate.check(call)
        if resource.custom is not None:
            self.partition.customs.check(call, resource)
        return resource

    def _verb(self, call: Call, resource: Resource) -> Verb:
        if call.subresource:
            if call.verb not in resource.subresources.get(call.subresource, ()):
                raise errors.NotFound("the server could not find the requested resource")
            special = _SUBRESOURCES.get((call.subresource, call.verb))
            if special is not None:
                return special
        elif call.verb not in resource.verbs:
            raise errors.MethodNotAllowed(
                "the server does not allow this method on the requested resource"
            )
        return review if resource.virtual else _VERBS[call.verb]

    async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        resource = self.partition.resource_of(call)
        authz.authorize(self.partition.rights, call, resource)
        if resource.custom is not None:
            self._check_custom(call, resource)
        watch = Watch(self.partition, call, resource)
        self._watches[watch] = None
        judged: dict[Watch | Guard, None] = {}
        if not call.user.trusted:
            judged = self._judged.setdefault(call.user.tenant, judged)
        judged[watch] = None
        try:
            with self.partition.rights.relied_on(call.user):
                async for events in watch.events():
                    yield events
        finally:
            self._watches.pop(watch, None)
            judged.pop(watch, None)

    def allows(self, call: Call) -> bool:
        return authz.allowed(self.partition.rights, call, self.partition.resource_of(call))

    def granted(self, call: Call, verbs: Sequence[str]) -> list[str]:
        """What a user of our own may elsewhere. Raises Forbidden."""
        return authz.granted(self.partition.rights, call, self.partition.resource_of(call), verbs)

    def may(self, user: User, asks: Sequence[Sequence[str]]) -> list[bool]:
        """asks: [verb, group, resource, subresource, namespace, name, path], for an ingress; none
        is the question whether it is somebody still. Raises Unauthorized when not."""
        if user.credential:
            self.partition.rights.check_credential(user)
        return [authz.may(self.partition.rights, user, *ask) for ask in asks]

    async def remains(self, call: Call) -> AsyncIterator[bool]:
        """True, once; and the end, as Forbidden, when the right is withdrawn."""
        resource = self.partition.resource_of(call)
        authz.authorize(self.partition.rights, call, resource)
        guard = Guard(self.partition, call, resource)
        judged = self._judged.setdefault(call.user.tenant, {})
        judged[guard] = None
        try:
            with self.partition.rights.relied_on(call.user):
                yield True
                await guard.withdrawn
        finally:
            judged.pop(guard, None)

    def _reconsider(self, tenant: str) -> None:
        """Once for all that is published together: watches whose right is withdrawn end."""
        if not self._judged.get(tenant):
            return
        if not self._withdrawn:
            asyncio.get_running_loop().call_soon(self._end_watches)
        self._withdrawn.add(tenant)

    def _end_watches(self) -> None:
        tenants, self._withdrawn = sorted(self._withdrawn), set()
        for tenant in tenants:
            for watch in self._judged.get(tenant, ()):
                watch.reconsider()

    async def progress(self, revision: int) -> None:
        """Every watch that asked for progress says how far it is, at or beyond the revision."""
        await self.partition.store.reach(revision)
        for watch in self._watches:
            watch.ask_progress(revision)

    def stats(self) -> dict[str, Any]:
        store = self.partition.store
        return {
            "objects": store.counts(),
            "revision": store.revision,
            "watches": len(self._watches),
            "calls": self.calls_total,
            "commits": store.commits,
            "rows": store.rows_written,
            "waiting": self.partition.turns.waiting(),
            "refused": self.partition.turns.refused,
        }


def _is_spoken_late(call: Call, resource: Resource) -> bool:
    """Whether the answer to a write is in a version that a webhook makes of what was written."""
    form = resource.form
    return (
        form is not None
        and form.conversion is not None
        and form.api_version != resource.api_version
        and call.verb in ("create", "update", "patch")
    )


def _told(reply: Reply, resource: Resource) -> Reply:
    """As its client should hear it."""
    if resource.custom is not None:
        reply = _warned(reply, resource)
    return reply if resource.form is None else _spoken(reply, resource)


def _warned(reply: Reply, resource: Resource) -> Reply:
    warning = "" if resource.custom is UNKNOWN else resource.custom.warning
    if not warning:
        return reply
    return Reply(reply.code, reply.body, (*reply.warnings, warning), reply.notes)


def _spoken(reply: Reply, resource: Resource) -> Reply:
    """An answer that is one object, in the version that was asked for. Lists are already."""
    form = resource.form
    assert form is not None
    obj = orjson.loads(reply.body)
    group = form.api_version.rpartition("/")[0]
    if obj.get("kind") != resource.kind or obj["apiVersion"].rpartition("/")[0] != group:
        return reply
    return Reply(reply.code, orjson.dumps(form.from_stored(obj)), reply.warnings, reply.notes)


class Guard:
    """Stands for a watch elsewhere: ends when the right to it does."""

    def __init__(self, partition: Partition, call: Call, resource: Resource) -> None:
        self._partition, self._call, self._resource = partition, call, resource
        self.withdrawn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def reconsider(self) -> None:
        try:
            authz.authorize(self._partition.rights, self._call, self._resource)
        except Failure as failure:
            if not self.withdrawn.done():
                self.withdrawn.set_exception(failure)
