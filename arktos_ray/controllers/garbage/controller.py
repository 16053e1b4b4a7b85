"""Deletes what belongs to owners that are gone; carries out foreground and orphan deletion.

Works by owner, so the pods of a ReplicaSet go in batches. An owner counts as gone only after a
live look at it (by tenant, namespace, kind, name and uid: a dependent never matches an owner of
another tenant), never because a view lacks it. Owners of kinds that nobody here knows are left
alone, and so is everything that refers to them.

One for a whole partition: owners and dependents lie in different ranges of hashKey.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

from arktos_ray.api import custom, errors
from arktos_ray.api.calls import Call
from arktos_ray.api.custom import names
from arktos_ray.api.errors import Failure, NotFound
from arktos_ray.api.names import SYSTEM_TENANT, Key
from arktos_ray.api.scheme import BY_KIND, DEFINITIONS, RESOURCES, Home, Resource, Scope
from arktos_ray.client.index import key_of, owners
from arktos_ray.client.informer import Informer
from arktos_ray.controllers.garbage import plan as planning
from arktos_ray.controllers.garbage.plan import FOREGROUND, ORPHAN, Action, Delete, Object, Unlink
from arktos_ray.controllers.loop import Controller, ControllerClient, Loop, Parts, written
from arktos_ray.controllers.pods import is_terminating

NAME = "generic-garbage-collector"

# One frame and one commit; holds the partition's writer for some 50 ms.
BATCH_MAX = 500
# A dependent may be seen before its owner: the views of two kinds do not move together.
PATIENCE_S = 1.0


class Owner(NamedTuple):
    """As a reference names it, in the place of the dependent that holds the reference.

    In one version, whichever the reference speaks.
    """

    api_version: str
    kind: str
    key: Key
    uid: str


class Garbage(Controller):
    def __init__(self, parts: Parts) -> None:
        self._client = ControllerClient(parts.client, NAME)
        self._neighbours = parts.neighbours
        self._views: dict[str, tuple[Resource, Informer]] = {}
        self._informers = parts.informers
        for row in RESOURCES:
            if is_collected(row):
                self._views[row.gvr] = (row, parts.informers.of(row.gvr))
        # (tenant, group, kind) of what tenants defined; of everybody's the tenant is "".
        self._custom: dict[tuple[str, str, str], Resource] = {}
        self._loop: Loop[Owner] = Loop(
            NAME, self.reconcile, parts.clock, parts.tasks,
            workers=4, gates=[informer for _, informer in self._views.values()],
        )  # fmt: skip
        for row, informer in self._views.values():
            informer.on_change(partial(self._changed, row))
        parts.informers.of(DEFINITIONS).on_change(partial(self._defined, False))
        for each in parts.siblings:
            if each.informers is not parts.informers:
                each.informers.of(DEFINITIONS).on_change(partial(self._defined, True))

    def start(self) -> None:
        self._loop.start()

    def _defined(self, elsewhere: bool, old: Object | None, new: Object | None) -> None:
        """elsewhere: by another partition, so only what is everybody's concerns us."""
        for definition in (old, new):
            if definition is None:
                continue
            meta, spec = definition["metadata"], definition["spec"]
            shared = meta.get("tenant") == SYSTEM_TENANT and names.is_forced(definition)
            if elsewhere and not shared:
                continue
            tenant = "" if shared else meta.get("tenant", "")
            at = (tenant, spec["group"], spec["names"]["kind"])
            if definition is old:
                self._custom.pop(at, None)
            else:
                self._custom[at] = self._row_of(definition)

    def _row_of(self, definition: Object) -> Resource:
        """As far as references are concerned. Its view is kept when the definition goes: the
        objects go after it."""
        gvr, spec = definition["metadata"]["name"], definition["spec"]
        namespaced = spec["scope"] == Scope.NAMESPACED
        row = replace(
            custom.unknown(gvr), kind=spec["names"]["kind"],
            scope=Scope.NAMESPACED if namespaced else Scope.TENANT,
        )  # fmt: skip
        if gvr not in self._views:
            informer = self._informers.of(gvr)
            self._views[gvr] = (row, informer)
            informer.on_change(partial(self._changed, row))
        return row

    def _row(self, tenant: str, api_version: str, kind: str) -> Resource | None:
        """What a reference of an object of that tenant means; None for what nobody knows."""
        row = BY_KIND.get((api_version, kind))
        if row is None and self._custom:
            group = api_version.rpartition("/")[0]
            row = self._custom.get(("", group, kind)) or self._custom.get((tenant, group, kind))
        return row

    def _named(self, ref: Object, dependent: Object | None) -> Owner | None:
        """Whom a reference means: somebody in the dependent's own tenant and namespace."""
        if dependent is None:
            return None
        meta = dependent["metadata"]
        row = self._row(meta.get("tenant", ""), ref["apiVersion"], ref["kind"])
        if row is None:
            return None
        key = Key(
            meta.get("tenant", "") if row.tenanted else "",
            meta.get("namespace", "") if row.namespaced else "",
            ref["name"],
        )
        return Owner(row.api_version, row.kind, key, ref["uid"])

    def _named_by(self, obj: Object, owner: Owner) -> bool:
        return any(
            ref["uid"] == owner.uid and self._named(ref, obj) == owner
            for ref in obj["metadata"].get("ownerReferences") or ()
        )

    def _changed(self, row: Resource, old: Object | None, new: Object | None) -> None:
        """1.3 us for a pod that has one owner, and keeps it."""
        before = () if old is None else old["metadata"].get("ownerReferences") or ()
        after = () if new is None else new["metadata"].get("ownerReferences") or ()
        if new is None:
            assert old is not None
            if self._has_dependents(old["metadata"]["uid"]):
                self._loop.wake(_owner(row, old))
        elif is_terminating(new):
            finalizers = new["metadata"].get("finalizers") or ()
            if FOREGROUND in finalizers or ORPHAN in finalizers:
                self._loop.wake(_owner(row, new))
        if before == after:
            return
        for ref in after:
            owner = self._named(ref, new)
            if owner is not None and not self._is_known(owner):
                self._loop.wake(owner, PATIENCE_S)
        for ref in before:
            owner = self._named(ref, old)
            if owner is not None and ref not in after and self._is_waiting(owner):
                self._loop.wake(owner)

    def _has_dependents(self, uid: str) -> bool:
        return any(informer.index.count(owners, uid) for _, informer in self._views.values())

    def _seen(self, owner: Owner) -> Object | None:
        row = self._row(owner.key.tenant, owner.api_version, owner.kind)
        view = None if row is None else self._views.get(row.gvr)
        found = None if view is None else view[1].index.get(owner.key)
        return found if found is not None and found["metadata"]["uid"] == owner.uid else None

    def _is_known(self, owner: Owner) -> bool:
        return self._seen(owner) is not None

    def _is_waiting(self, owner: Owner) -> bool:
        found = self._seen(owner)
        return found is not None and is_terminating(found)

    async def reconcile(self, owner: Owner) -> float | None:
        """Bring the dependents of one owner in line with what became of it."""
        dependents: list[tuple[Resource, Object]] = [
            (row, obj)
            for row, informer in self._views.values()
            for obj in informer.index.by(owners, owner.uid)
            if self._named_by(obj, owner)
        ]
        seen = self._seen(owner)
        if seen is None and not dependents:
            return None
        if seen is not None and not is_terminating(seen):
            return None  # It is there after all; when it goes, we hear of it.
        rows = {id(obj): row for row, obj in dependents}
        objects = [obj for _, obj in dependents]
        live = await self._look(owner)
        if live is not None and not is_terminating(live):
            return None
        present = await self._present_owners(objects, owner)
        parents = {
            obj["metadata"]["uid"]
            for obj in objects
            if self._has_dependents(obj["metadata"]["uid"])
        }
        if live is None:
            actions = planning.after_the_end(objects, owner.uid, present, parents)
        else:
            actions = planning.before_the_end(live, objects, present, parents)
        return await self._carry_out(owner, live, rows, actions)

    async def _look(self, owner: Owner) -> Object | None:
        """The owner as it is now; None when it is gone. An unknown kind looks alive for ever."""
        row = self._row(owner.key.tenant, owner.api_version, owner.kind)
        if row is None or (row.namespaced and not owner.key.namespace):
            return {"metadata": {"uid": owner.uid}}
        clients: tuple[ControllerClient, ...] = (self._client,)
        if row.home is Home.RESOURCE_PARTITION:
            clients = tuple(ControllerClient(each.client, NAME) for each in self._neighbours)
            if not clients:
                return {"metadata": {"uid": owner.uid}}
        for client in clients:
            try:
                found = await client.get(row.gvr, owner.key)
            except NotFound:
                continue
            if found["metadata"]["uid"] == owner.uid:
                return found
        return None

    async def _present_owners(self, objects: list[Object], gone: Owner) -> set[str]:
        """The other owners that stay."""
        present: set[str] = set()
        asked: set[Owner] = set()
        for obj in objects:
            for ref in obj["metadata"].get("ownerReferences") or ():
                owner = self._named(ref, obj)
                if owner is None:
                    present.add(ref["uid"])  # Of a kind that we do not know: not ours to judge.
                if ref["uid"] == gone.uid or owner is None or owner in asked:
                    continue
                asked.add(owner)
                live = await self._look(owner)
                if live is not None and not _waits_in_foreground(live):
                    present.add(owner.uid)
        return present

    async def _carry_out(
        self, owner: Owner, live: Object | None, rows: dict[int, Resource],
        actions: list[Action],
    ) -> float | None:  # fmt: skip
        calls: list[Call] = []
        informers: list[Informer] = []
        finish: Call | None = None
        for action in actions:
            match action:
                case Delete(obj, policy):
                    row = rows[id(obj)]
                    calls.append(
                        self._client.deleting(
                            row.gvr, key_of(obj), propagationPolicy=policy,
                            preconditions={"uid": obj["metadata"]["uid"]},
                        )
                    )  # fmt: skip
                    informers.append(self._views[row.gvr][1])
                case Unlink(obj, uids):
                    row = rows[id(obj)]
                    calls.append(
                        self._client.patching(row.gvr, key_of(obj), _without_owners(obj, uids))
                    )
                    informers.append(self._views[row.gvr][1])
                case planning.Finish(finalizer):
                    assert live is not None
                    known = self._row(owner.key.tenant, owner.api_version, owner.kind)
                    if known is None:
                        continue  # Its definition went meanwhile, and takes it along.
                    finish = self._client.patching(
                        known.gvr, owner.key,
                        _without_finalizer(live, finalizer),
                    )  # fmt: skip
        failure: Failure | None = None
        for start in range(0, len(calls), BATCH_MAX):
            replies = await self._client.write(calls[start : start + BATCH_MAX])
            for reply in replies:
                if not reply.ok:
                    refusal = errors.decode(reply.body)
                    # Gone, or another object of that name: both mean that nothing is left to do.
                    if not isinstance(refusal, NotFound):
                        failure = refusal
            revision = written(replies)
            for informer in set(informers[start : start + BATCH_MAX]):
                if any(isinstance(action, Unlink) for action in actions):
                    self._loop.wrote(owner, informer, revision)
        if failure is not None:
            raise failure
        if finish is not None:
            [reply] = await self._client.write([finish])
            if not reply.ok and not isinstance(refusal := errors.decode(reply.body), NotFound):
                raise refusal
        # Orphans first, then the finalizer: as soon as the view shows that they are free.
        is_orphaning = any(isinstance(action, Unlink) for action in actions)
        return 0.001 if is_orphaning and live is not None else None


def is_collected(row: Resource) -> bool:
    """Kinds whose objects can be dependents here."""
    return (
        row.home is Home.TENANT_PARTITION
        and not row.virtual
        and row.tenanted
        # As upstream: events end by themselves, and are the half of all that is written.
        and row.gvr != "events"
        and {"list", "watch", "delete"} <= set(row.verbs)
    )


def _owner(row: Resource, obj: Object) -> Owner:
    kind = row.kind if row.custom is None else obj["kind"]  # One name, a kind in each tenant.
    return Owner(row.api_version, kind, key_of(obj), obj["metadata"]["uid"])


def _waits_in_foreground(obj: Object) -> bool:
    return is_terminating(obj) and FOREGROUND in (obj["metadata"].get("finalizers") or ())


def _without_owners(obj: Object, uids: frozenset[str]) -> Object:
    meta = obj["metadata"]
    left = [ref for ref in meta.get("ownerReferences") or () if ref["uid"] not in uids]
    return {
        "metadata": {
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
            "ownerReferences": left or None,
        }
    }


def _without_finalizer(obj: Object, finalizer: str) -> Object:
    meta = obj["metadata"]
    left = [each for each in meta.get("finalizers") or () if each != finalizer]
    return {
        "metadata": {
            "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"],
            "finalizers": left or None,
        }
    }
