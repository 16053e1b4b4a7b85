"""How loops inside the cluster read and write objects: a Client over any Caller.

Objects are dicts as JSON has them. Every failure is a Failure. Batches stay batches: `write` takes
many calls and answers with one Reply each, in order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from arktos_ray.api import errors
from arktos_ray.api.calls import Call, Caller, Reply, User, WatchEvent
from arktos_ray.api.names import Key

Object = dict[str, Any]
# Named out here, because inside the class `list` is the verb.
Objects = list[Object]
Events = list[WatchEvent]
Replies = list[Reply]


class Client:
    """The verbs, over one partition. Cheap to make: it holds no state but who is calling."""

    def __init__(self, caller: Caller, user: User) -> None:
        self._caller = caller
        self._user = user

    @property
    def caller(self) -> Caller:
        """The partition itself, to call it under another name."""
        return self._caller

    async def get(self, gvr: str, key: Key) -> Object:
        return await self._one(self.calling("get", gvr, key))

    async def list(
        self, gvr: str, *, tenant: str = "all", namespace: str = "", **options: str
    ) -> tuple[Objects, int]:
        """The objects, and the revision to watch from."""
        body = await self.listed(gvr, tenant=tenant, namespace=namespace, **options)
        return body["items"], int(body["metadata"]["resourceVersion"])

    async def listed(
        self, gvr: str, *, tenant: str = "all", namespace: str = "", **options: str
    ) -> Object:
        """The whole List."""
        return await self._one(
            Call("list", gvr, tenant, namespace, options=options, user=self._user)
        )

    def watch(
        self, gvr: str, *, tenant: str = "all", namespace: str = "", **options: str
    ) -> AsyncIterator[Events]:
        """Batches of events after `resourceVersion`. Raises Expired when that is too long ago."""
        return self._caller.watch(
            Call("watch", gvr, tenant, namespace, options=options, user=self._user)
        )

    async def create(self, gvr: str, tenant: str, namespace: str, body: Object) -> Object:
        return await self._one(self.creating(gvr, tenant, namespace, body))

    async def update(self, gvr: str, key: Key, body: Object, subresource: str = "") -> Object:
        """Compare-and-swap when the body names a resourceVersion."""
        return await self._one(self.calling("update", gvr, key, body, subresource))

    async def patch(
        self, gvr: str, key: Key, body: Object, subresource: str = "", **options: str
    ) -> Object:
        """A JSON merge patch (RFC 7386)."""
        return await self._one(self.patching(gvr, key, body, subresource, **options))

    async def delete(self, gvr: str, key: Key, **delete_options: Any) -> Object:
        return await self._one(self.deleting(gvr, key, **delete_options))

    # The same as values, for batches.

    def calling(
        self, verb: str, gvr: str, key: Key, body: Object | None = None, subresource: str = "",
        **options: str,
    ) -> Call:  # fmt: skip
        return Call(
            verb, gvr, *key, subresource=subresource, options=options,
            body=b"" if body is None else orjson.dumps(body),
            content_type="application/json", user=self._user,
        )  # fmt: skip

    def creating(self, gvr: str, tenant: str, namespace: str, body: Object) -> Call:
        return self.calling("create", gvr, Key(tenant, namespace, ""), body)

    def patching(
        self, gvr: str, key: Key, body: Object, subresource: str = "", **options: str
    ) -> Call:
        call = self.calling("patch", gvr, key, body, subresource, **options)
        call.content_type = "application/merge-patch+json"
        return call

    def deleting(self, gvr: str, key: Key, **delete_options: Any) -> Call:
        body = {"kind": "DeleteOptions", "apiVersion": "v1", **delete_options}
        return self.calling("delete", gvr, key, body)

    async def write(self, calls: Sequence[Call]) -> Replies:
        """One batch, one commit; a Reply for each call, in order. Raises Unavailable only."""
        return await self._caller.call(calls) if calls else []

    async def request(self, method: str, payload: Any) -> Any:
        """What a partition offers beside the verbs (api/calls.py Peer)."""
        ask = getattr(self._caller, "request", None)
        if ask is None:
            raise errors.NotFound(f"whoever is called offers no method {method}")
        return await ask(method, payload)

    async def _one(self, call: Call) -> Object:
        [reply] = await self._caller.call([call])
        return decoded(reply)


def decoded(reply: Reply) -> Object:
    """The object in a Reply, or the Failure that it carries, raised."""
    if not reply.ok:
        raise errors.decode(reply.body)
    body: Object = orjson.loads(reply.body)
    return body
