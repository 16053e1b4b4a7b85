"""Empties namespaces that are being deleted, then lets them go.

Asks the partition, never a view, whether something is left. Deletes are collection calls, so a
namespace of 3,000 pods costs a few batches. One for a whole partition: few keys, little work.
"""

from __future__ import annotations

from arktos_ray.api import errors
from arktos_ray.api.calls import Call
from arktos_ray.api.errors import Failure, NotFound
from arktos_ray.api.names import Key
from arktos_ray.api.scheme import BY_GVR
from arktos_ray.client.index import key_of
from arktos_ray.client.port import Client, decoded
from arktos_ray.controllers.ending import Empty, Finish, finalized
from arktos_ray.controllers.loop import Controller, ControllerClient, Loop, Parts
from arktos_ray.controllers.namespace import plan as planning
from arktos_ray.controllers.namespace.plan import Object
from arktos_ray.controllers.pods import is_terminating

NAME = "namespace-controller"

# Pods need their grace; a namespace of configmaps is gone at the second look.
LOOK_AGAIN_FIRST_S, LOOK_AGAIN_S = 0.05, 1.0


class Namespaces(Controller):
    def __init__(self, parts: Parts) -> None:
        self._client = ControllerClient(parts.client, NAME)
        self._namespaces = parts.informers.of("namespaces")
        self._loop: Loop[Key] = Loop(
            NAME, self.reconcile, parts.clock, parts.tasks,
            workers=10, gates=(self._namespaces,),
        )  # fmt: skip
        self._contents = planning.contents()
        self._looked: set[Key] = set()
        self._namespaces.on_change(self._changed)

    def start(self) -> None:
        self._loop.start()

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None and is_terminating(new):
            self._loop.wake(key_of(new))
        elif new is None and old is not None:
            self._looked.discard(key_of(old))

    async def reconcile(self, key: Key) -> float | None:
        namespace = self._namespaces.index.get(key)
        if namespace is None or not is_terminating(namespace):
            return None
        custom = await custom_kinds(self._client, key.tenant, key.name)
        gvrs = (*custom, *self._contents)
        left = await what_is_left(self._client, gvrs, key.tenant, key.name)
        match planning.plan(namespace, left):
            case Empty(gvrs):
                await empty(self._client, gvrs, key.tenant, key.name)
                first = key not in self._looked
                self._looked.add(key)
                return LOOK_AGAIN_FIRST_S if first else LOOK_AGAIN_S
            case Finish():
                await finish(self._client, "namespaces", key, planning.FINALIZER)
            case None:
                pass
        return None


async def custom_kinds(client: Client, tenant: str, namespace: str = "") -> tuple[str, ...]:
    """The kinds beside the built-in ones of which objects are there."""
    try:
        return tuple(await client.request("held", [tenant, namespace]))
    except NotFound:
        return ()


async def what_is_left(
    client: Client, gvrs: tuple[str, ...], tenant: str, namespace: str = ""
) -> dict[str, bool]:
    """resource -> whether it holds an object there, asked in one batch."""
    calls = []
    for gvr in gvrs:
        call = client.calling("list", gvr, Key(tenant, namespace, ""), None, "", limit="1")
        call.body, call.content_type = b"", ""
        calls.append(call)
    replies = await client.write(calls)
    return {gvr: bool(decoded(reply)["items"]) for gvr, reply in zip(gvrs, replies, strict=True)}


async def empty(client: Client, gvrs: tuple[str, ...], tenant: str, namespace: str = "") -> None:
    """Deletes everything in these resources, in order. Refusals are raised after all were tried."""
    options: Object = {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "propagationPolicy": "Background",
    }
    calls: list[Call] = []
    for gvr in gvrs:
        place = Key(tenant, namespace, "")
        known = BY_GVR.get(gvr)
        if known is None or "deletecollection" in known.verbs:
            calls.append(client.calling("deletecollection", gvr, place, options))
            continue
        objects, _ = await client.list(gvr, tenant=tenant, namespace=namespace)
        calls += [
            client.deleting(
                gvr, key_of(each), propagationPolicy="Background",
                preconditions={"uid": each["metadata"]["uid"]},
            )
            for each in objects
            if not is_terminating(each)
        ]  # fmt: skip
    failure: Failure | None = None
    for reply in await client.write(calls):
        if not reply.ok and not isinstance(refusal := errors.decode(reply.body), NotFound):
            failure = refusal
    if failure is not None:
        raise failure


async def finish(client: Client, gvr: str, key: Key, finalizer: str) -> None:
    """Takes a finalizer off through `/finalize`; the object goes with its last one."""
    try:
        live = await client.get(gvr, key)
        if finalizer not in (live.get("spec", {}).get("finalizers") or ()):
            return
        body = finalized(live, finalizer)
        await client.update(gvr, key, body, "finalize")
    except NotFound:
        return
