"""Python handles: a cluster, its tenants, and typed verbs on their objects.

    cluster = arktos_ray.connect()
    web = cluster.tenant("acme").deployments
    web.create({"metadata": {"name": "web"}, "spec": {...}})
    for event in cluster.tenant("acme").pods.watch():
        print(event.type, event.object.metadata.name)

`Async...` are the same with await. Objects come back as pydantic models (client/models.py); what
goes in may be a model or a dict. Failures are those of api/errors.py, whatever carries the calls.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import orjson

from arktos_ray.api import errors, scheme
from arktos_ray.api.calls import BOOKMARK, Call, Caller, Reply, User
from arktos_ray.api.errors import Failure
from arktos_ray.api.names import SYSTEM_TENANT, Key
from arktos_ray.client import models
from arktos_ray.client.models import Model
from arktos_ray.client.port import Client, decoded

T = TypeVar("T")
Body = Model | Mapping[str, Any]
# Calls of one message: as many as an ingress sends to a partition at once, about 0.5 MB of pods.
_MANY = 250
# An end that is there answers within milliseconds; one that is not keeps nobody waiting.
_GOODBYE_S = 1.0
_USER = User("arktos-python", SYSTEM_TENANT, ("system:masters",))


@dataclass(frozen=True, slots=True)
class Event:
    type: str  # ADDED, MODIFIED, DELETED
    object: Any  # the model of the kind
    revision: int


class Written:
    """What became of one write of many. The object is read when somebody looks at it."""

    __slots__ = ("_reply", "_typed")

    def __init__(self, reply: Reply, typed: Callable[[dict[str, Any]], Any]) -> None:
        self._reply, self._typed = reply, typed

    @property
    def ok(self) -> bool:
        return self._reply.ok

    @property
    def failure(self) -> Failure | None:
        """Why it was refused."""
        return None if self._reply.ok else errors.decode(self._reply.body)

    @property
    def object(self) -> Any:
        """The object as it is stored now; of a deletion what the server answered. Raises the
        Failure of a refusal."""
        return self._typed(decoded(self._reply))

    def __repr__(self) -> str:
        return f"Written({'ok' if self.ok else self.failure})"


# Named out here, because inside the classes `list` is the verb.
Many = list[Written]


class AsyncObjects:
    """The objects of one kind in one tenant (and namespace, "" is all of them for lists)."""

    def __init__(self, caller: Caller, gvr: str, tenant: str, namespace: str, user: User) -> None:
        resource = scheme.resource(gvr)
        self._caller, self._client, self._user = caller, Client(caller, user), user
        self._gvr, self._resource = gvr, resource
        self._model = models.model_of(resource)
        self._tenant = tenant if resource.tenanted else ""
        self._namespace = namespace if resource.namespaced else ""

    def _key(self, name: str) -> Key:
        return Key(self._tenant, self._namespace, name)

    async def create(self, body: Body) -> Any:
        return self._typed(
            await self._client.create(self._gvr, self._tenant, self._namespace, _dict(body))
        )

    async def get(self, name: str) -> Any:
        return self._typed(await self._client.get(self._gvr, self._key(name)))

    async def list(self, **options: str) -> list[Any]:
        """options: labelSelector, fieldSelector, limit, ..."""
        items, _ = await self._client.list(
            self._gvr, tenant=self._tenant, namespace=self._namespace, **options
        )
        return [self._typed(item) for item in items]

    async def replace(self, body: Body) -> Any:
        obj = _dict(body)
        return self._typed(
            await self._client.update(self._gvr, self._key(obj["metadata"]["name"]), obj)
        )

    async def patch(self, name: str, change: Mapping[str, Any], **options: str) -> Any:
        """A JSON merge patch."""
        changed = await self._client.patch(self._gvr, self._key(name), dict(change), **options)
        return self._typed(changed)

    async def apply(self, body: Body, *, manager: str, force: bool = False) -> Any:
        """Server-side apply. Raises Conflict when another manager owns a field, unless forced."""
        obj = {"apiVersion": self._resource.api_version, "kind": self._resource.kind, **_dict(body)}
        call = self._client.calling(
            "patch", self._gvr, self._key(obj["metadata"]["name"]), obj,
            fieldManager=manager, force=str(force).lower(),
        )  # fmt: skip
        call.content_type = "application/apply-patch+yaml"
        [reply] = await self._caller.call([call])
        return self._typed(decoded(reply))

    async def delete(self, name: str, **delete_options: Any) -> None:
        """delete_options: gracePeriodSeconds, propagationPolicy, preconditions, ..."""
        await self._client.delete(self._gvr, self._key(name), **delete_options)

    # Many at once: over Ray one message, decided in order; over HTTP requests side by side. What
    # reaches a partition together shares a commit. A refusal concerns its object only.

    async def create_many(self, bodies: Iterable[Body]) -> Many:
        """One answer for each, in order. 1,000 config maps: 0.1 s of CPU over all processes."""
        where = (self._tenant, self._namespace)
        return await self._write(
            [self._client.creating(self._gvr, *where, _dict(body)) for body in bodies]
        )

    async def patch_many(self, changes: Mapping[str, Mapping[str, Any]]) -> Many:
        """JSON merge patches by name; one answer for each, in order."""
        return await self._write(
            [
                self._client.patching(self._gvr, self._key(name), dict(change))
                for name, change in changes.items()
            ]
        )

    async def delete_many(self, names: Iterable[str], **delete_options: Any) -> Many:
        """One answer for each, in order."""
        return await self._write(
            [self._client.deleting(self._gvr, self._key(name), **delete_options) for name in names]
        )

    async def _write(self, calls: Sequence[Call]) -> Many:
        written: Many = []
        for start in range(0, len(calls), _MANY):
            replies = await self._caller.call(calls[start : start + _MANY])
            written += [Written(reply, self._typed) for reply in replies]
        return written

    async def watch(self, revision: str = "", **options: str) -> AsyncIterator[Event]:
        """Without a revision: first what is there, as ADDED, then every change. Ends with Expired
        when the watch fell behind the server's history: list, then watch again."""
        if revision:
            options["resourceVersion"] = revision
        call = Call(
            "watch", self._gvr, self._tenant, self._namespace, options=options, user=self._user
        )
        async for events in self._caller.watch(call):
            for event in events:
                if event.type != BOOKMARK:
                    yield Event(event.type, self._typed(orjson.loads(event.body)), event.revision)

    def _typed(self, obj: dict[str, Any]) -> Any:
        if obj.get("kind") != self._resource.kind:
            obj = {**obj, "kind": self._resource.kind, "apiVersion": self._resource.api_version}
        return self._model.model_validate(obj)


class AsyncTenant:
    """`tenant.pods`, `tenant.deployments`, ...: any plural of the scheme, in one namespace."""

    def __init__(self, caller: Caller, name: str, namespace: str, user: User) -> None:
        self._caller, self.name, self._namespace, self._user = caller, name, namespace, user

    def namespace(self, namespace: str) -> AsyncTenant:
        """The same tenant, looking at another namespace; "" is all of them."""
        return AsyncTenant(self._caller, self.name, namespace, self._user)

    def objects(self, gvr: str) -> AsyncObjects:
        return AsyncObjects(self._caller, gvr, self.name, self._namespace, self._user)

    def __getattr__(self, plural: str) -> AsyncObjects:
        return self.objects(_gvr_of(plural))


class AsyncCluster:
    """What `aconnect` returns. Cluster-scoped kinds are here: `cluster.nodes`."""

    def __init__(
        self, caller: Caller, close: Callable[[], Awaitable[None]], user: User = _USER
    ) -> None:
        self.caller, self._close, self._user = caller, close, user

    def tenant(self, name: str, namespace: str = "default") -> AsyncTenant:
        return AsyncTenant(self.caller, name, namespace, self._user)

    def __getattr__(self, plural: str) -> AsyncObjects:
        return AsyncObjects(self.caller, _gvr_of(plural), "", "", self._user)

    async def close(self) -> None:
        await self._close()


def _gvr_of(plural: str) -> str:
    for resource in scheme.RESOURCES:
        if resource.plural == plural:
            return resource.gvr
    raise AttributeError(plural)


def _dict(body: Body) -> dict[str, Any]:
    return body.dump() if isinstance(body, Model) else dict(body)


class Background:
    """An event loop in a thread of its own, for the synchronous handles."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="arktos-client", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> T:
            return await anext(items)

        try:
            while True:
                try:
                    yield self.run(following())
                except StopAsyncIteration:
                    return
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                self.run(close())

    def stop(self) -> None:
        self.run(self._goodbye())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _goodbye(self) -> None:
        """A connection whose request was cancelled is closed once the other end has taken leave
        (TLS). aiohttp forgets it before that, so the loop itself is asked."""
        until = self.loop.time() + _GOODBYE_S
        while getattr(self.loop, "_transports", None) and self.loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Objects:
    """AsyncObjects without await."""

    def __init__(self, inner: AsyncObjects, background: Background) -> None:
        self._inner, self._background = inner, background

    def create(self, body: Body) -> Any:
        return self._background.run(self._inner.create(body))

    def get(self, name: str) -> Any:
        return self._background.run(self._inner.get(name))

    def list(self, **options: str) -> list[Any]:
        return self._background.run(self._inner.list(**options))

    def replace(self, body: Body) -> Any:
        return self._background.run(self._inner.replace(body))

    def patch(self, name: str, change: Mapping[str, Any], **options: str) -> Any:
        return self._background.run(self._inner.patch(name, change, **options))

    def apply(self, body: Body, *, manager: str, force: bool = False) -> Any:
        return self._background.run(self._inner.apply(body, manager=manager, force=force))

    def delete(self, name: str, **delete_options: Any) -> None:
        self._background.run(self._inner.delete(name, **delete_options))

    def create_many(self, bodies: Iterable[Body]) -> Many:
        return self._background.run(self._inner.create_many(bodies))

    def patch_many(self, changes: Mapping[str, Mapping[str, Any]]) -> Many:
        return self._background.run(self._inner.patch_many(changes))

    def delete_many(self, names: Iterable[str], **delete_options: Any) -> Many:
        return self._background.run(self._inner.delete_many(names, **delete_options))

    def watch(self, revision: str = "", **options: str) -> Iterator[Event]:
        return self._background.iterate(self._inner.watch(revision, **options))


class Tenant:
    """AsyncTenant without await."""

    def __init__(self, inner: AsyncTenant, background: Background) -> None:
        self._inner, self._background = inner, background
        self.name = inner.name

    def namespace(self, namespace: str) -> Tenant:
        return Tenant(self._inner.namespace(namespace), self._background)

    def objects(self, gvr: str) -> Objects:
        return Objects(self._inner.objects(gvr), self._background)

    def __getattr__(self, plural: str) -> Objects:
        return self.objects(_gvr_of(plural))


class Cluster:
    """What `connect` returns: AsyncCluster without await. Also a context manager."""

    def __init__(self, inner: AsyncCluster, background: Background) -> None:
        self._inner, self._background = inner, background

    def tenant(self, name: str, namespace: str = "default") -> Tenant:
        return Tenant(self._inner.tenant(name, namespace), self._background)

    def __getattr__(self, plural: str) -> Objects:
        return Objects(getattr(self._inner, plural), self._background)

    def close(self) -> None:
        self._background.run(self._inner.close())
        self._background.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
