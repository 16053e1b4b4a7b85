"""The webhooks of every tenant of a partition, and which of them a call concerns.

A tenant's webhooks govern what is in the tenant, whoever calls; those of the system tenant also
what is in none. Asking takes time, and a partition decides a batch in one step. So a verb that
comes upon a webhook stops there: `Apart` says that the call must be answered alone, and for one
that is, `Outside` says who is to be asked what. Once they have answered the verb runs again, from
its beginning, with what they said (an Attempt): whatever changed meanwhile is judged again.

A call of a tenant without webhooks costs a look-up in a dict. Nobody is asked while the tenant is
terminating, so that nothing of it can stay because of a webhook that does not answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from arktos_ray.api import errors, scheme
from arktos_ray.api.calls import Call
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.api.scheme import ADMISSION, Resource
from arktos_ray.apiserver.admission import matching
from arktos_ray.apiserver.admission.matching import CREATE, DELETE, EXEMPT, UPDATE, Asked
from arktos_ray.apiserver.admission.namespace import is_terminating
from arktos_ray.apiserver.admission.refusals import forbidden
from arktos_ray.apiserver.by_tenant import ByTenant, Said
from arktos_ray.store.records import Record
from arktos_ray.store.store import Store

if TYPE_CHECKING:
    from arktos_ray.apiserver.partition import Partition

Object = dict[str, Any]

MUTATING = f"mutatingwebhookconfigurations.{ADMISSION}"
VALIDATING = f"validatingwebhookconfigurations.{ADMISSION}"
# What the partition itself writes: it must be able to start, whatever webhooks there are.
_OURSELVES = ("system:apiserver", "system:resourcequota")
# Webhooks of one tenant: each is looked at by every write that it may concern. Then 403.
HOOKS_PER_TENANT_MAX = 256
# How often one call begins again because something changed while webhooks were asked.
_ROUNDS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Hook:
    """One webhook of one configuration, defaults filled in."""

    tenant: str
    config: str
    name: str
    mutating: bool
    spec: Object

    @property
    def fails(self) -> bool:
        return self.spec.get("failurePolicy") != "Ignore"

    @property
    def timeout_s(self) -> int:
        return int(self.spec.get("timeoutSeconds") or 10)


class Apart(Exception):
    """Webhooks are to be asked: not within a batch."""


class Chosen(NamedTuple):
    hook: Hook
    resource: Resource  # the version in which it wants the object


@dataclass(frozen=True, slots=True, eq=False)
class Outside(Exception):
    """Who is to be asked, and about what. They have not been asked."""

    hooks: list[Chosen]
    asked: Asked
    # group, version, kind of the object; None: it is what the resource is
    kind: tuple[str, str, str] | None
    call: Call
    resource: Resource
    namespace: str
    new: Object | None
    old: Object | None
    tenant: str


@dataclass(slots=True)
class Attempt:
    """What was said so far about one call that is answered alone."""

    revision: int = -1  # of the object that is there; 0: there is none
    object: Object | None = None  # as the mutating webhooks made it
    asked: bool = False  # all of them were
    mutated: bool = False  # and they changed it
    agreed: bytes | None = None  # what the validating ones have seen
    rounds: int = 0
    # What was chosen at random, so that it is the same each time: a generated name, and a suffix.
    name: str = ""
    suffix: str = ""
    converted: dict[bytes, bytes] = field(default_factory=dict)  # see conversions.py
    warnings: list[str] = field(default_factory=list)
    audit: dict[str, str] = field(default_factory=dict)

    def begin(self, revision: int) -> None:
        self.revision, self.object, self.agreed = revision, None, None
        self.asked = self.mutated = False

    def count(self) -> None:
        self.rounds += 1
        if self.rounds > _ROUNDS:
            raise errors.Conflict(
                "the object has been modified while webhooks were asked; please try again"
            )


class _Tenant(Said[Chosen]):
    """Mutating ones first, each kind in the order of its names."""

    def __init__(self) -> None:
        super().__init__()
        self.configs: dict[tuple[str, str], list[Hook]] = {}  # by gvr and name

    @property
    def empty(self) -> bool:
        return not self.configs

    def _put(self, gvr: str, record: Record) -> None:
        at = (gvr, record.key.name)
        hooks = [] if record.deleted else _hooks(gvr, record)
        if hooks:
            self.configs[at] = hooks
        else:
            self.configs.pop(at, None)

    def _find(self, asked: Asked) -> list[Chosen]:
        return [
            Chosen(hook, resource)
            for _, hooks in sorted(self.configs.items())
            for hook in hooks
            for resource in (_wanted_as(hook, asked),)
            if resource is not None
        ]


def _is_our_own(call: Call) -> bool:
    return call.user.trusted and call.user.name in _OURSELVES


def _wanted_as(hook: Hook, asked: Asked) -> Resource | None:
    policy = hook.spec.get("matchPolicy") or "Equivalent"
    rules = hook.spec.get("rules") or ()
    return matching.wanted_as(rules, asked, policy, scheme.SERVED.get(asked.resource.gvr, ()))


class Hooks:
    def __init__(self, store: Store) -> None:
        self._tenants = ByTenant(store, (MUTATING, VALIDATING), _Tenant)
        self.reread = self._tenants.reread
        # Set by the server while it works on a call that is answered alone.
        self.attempt: Attempt | None = None

    def check_room(self, resource: Resource, tenant: str, obj: Object) -> None:
        """Raises Forbidden for a configuration that is more than the tenant may have."""
        found, own = self._tenants.get(tenant), (resource.gvr, obj["metadata"]["name"])
        others = (
            [h for at, hooks in found.configs.items() if at != own for h in hooks] if found else []
        )
        if len(others) + len(obj.get("webhooks") or ()) > HOOKS_PER_TENANT_MAX:
            raise forbidden(
                resource.gvr, obj, f"a tenant may have at most {HOOKS_PER_TENANT_MAX} webhooks"
            )

    def concerns(self, tenant: str, operation: str, resource: Resource) -> bool:
        """Whether any webhook may want to be asked, before an object is looked at."""
        found = self._tenants.get(tenant or SYSTEM_TENANT)
        return found is not None and bool(found.wanted(_asked(resource, operation, "", "")))

    # What verbs ask. Raise Apart, or Outside.

    def mutate(
        self, partition: Partition, call: Call, resource: Resource, new: Object, old: Object | None,
        revision: int = 0,
    ) -> bool:  # fmt: skip
        """After defaults and plug-ins completed the object: it becomes what the webhooks made.
        Whether they made something else of it."""
        if not self._tenants or _is_our_own(call):
            return False
        found = self._tenants.get(call.tenant or SYSTEM_TENANT)
        if found is None:
            return False
        operation = CREATE if old is None else UPDATE
        return self._mutate(found, partition, call, resource, operation, new, old, revision, None)

    def validate(
        self, partition: Partition, call: Call, resource: Resource, new: Object, old: Object | None
    ) -> None:
        """Before the object is stored as it is."""
        if not self._tenants or _is_our_own(call):
            return
        found = self._tenants.get(call.tenant or SYSTEM_TENANT)
        if found is not None:
            operation = CREATE if old is None else UPDATE
            self._validate(found, partition, call, resource, operation, new, old, None)

    def agree(
        self, partition: Partition, call: Call, resource: Resource, operation: str,
        new: Object | None, old: Object | None, revision: int,
        kind: tuple[str, str, str] | None = None,
    ) -> None:  # fmt: skip
        """Both in one, for what has no defaults in between: deletions, and other kinds that are
        written to a subresource."""
        if not self._tenants or _is_our_own(call):
            return
        found = self._tenants.get(call.tenant or SYSTEM_TENANT)
        if found is not None:
            at = (found, partition, call, resource, operation)
            self._mutate(*at, new, old, revision, kind)
            self._validate(*at, new, old, kind)

    def delete(
        self, partition: Partition, call: Call, resource: Resource, old: Object, revision: int
    ) -> None:
        self.agree(partition, call, resource, DELETE, None, old, revision)

    def _mutate(
        self, tenant: _Tenant, partition: Partition, call: Call, resource: Resource,
        operation: str, new: Object | None, old: Object | None, revision: int,
        kind: tuple[str, str, str] | None,
    ) -> bool:  # fmt: skip
        asked = _asked(resource, operation, call.subresource, call.name)
        chosen = self._chosen(tenant, partition, call, resource, asked, new, old)
        if not chosen and self.attempt is None:
            return False
        attempt = self.attempt
        if attempt is None:
            raise Apart
        if attempt.revision != revision:
            if attempt.revision >= 0:
                attempt.count()
            attempt.begin(revision)
        if attempt.object is None:
            attempt.object = _copy(new)
        elif new is not None:
            new.clear()
            new.update(_copy(attempt.object) or {})
        if not attempt.asked:
            mutating = [one for one in chosen if one.hook.mutating]
            attempt.asked = True
            if mutating:
                raise self._outside(mutating, call, resource, asked, new, old, kind)
        return attempt.mutated

    def _validate(
        self, tenant: _Tenant, partition: Partition, call: Call, resource: Resource,
        operation: str, new: Object | None, old: Object | None,
        kind: tuple[str, str, str] | None,
    ) -> None:  # fmt: skip
        asked = _asked(resource, operation, call.subresource, call.name)
        chosen = [
            one
            for one in self._chosen(tenant, partition, call, resource, asked, new, old)
            if not one.hook.mutating
        ]
        if not chosen:
            return
        attempt = self.attempt
        if attempt is None:
            raise Apart
        body = orjson.dumps(new, option=orjson.OPT_SORT_KEYS)
        if attempt.agreed != body:
            attempt.count()
            attempt.agreed = body
            raise self._outside(chosen, call, resource, asked, new, old, kind)

    def _chosen(
        self, tenant: _Tenant, partition: Partition, call: Call, resource: Resource, asked: Asked,
        new: Object | None, old: Object | None,
    ) -> list[Chosen]:  # fmt: skip
        wanted = tenant.wanted(asked)
        if not wanted or resource.gvr in EXEMPT or resource.virtual:
            return []
        own = partition.tenant(call.tenant) if call.tenant else None
        if own is not None and is_terminating(own):
            return []
        space: Object | None = None
        if resource.namespaced:
            space = partition.namespace(call.tenant, call.namespace)
        elif resource.gvr == "namespaces":
            space = new if new is not None else old
        return [one for one in wanted if matching.selected(one.hook.spec, space, new, old)]

    def _outside(
        self, chosen: list[Chosen], call: Call, resource: Resource, asked: Asked,
        new: Object | None, old: Object | None, kind: tuple[str, str, str] | None,
    ) -> Outside:  # fmt: skip
        return Outside(
            chosen, asked, kind, call, resource, call.namespace, _copy(new), _copy(old),
            call.tenant or SYSTEM_TENANT,
        )  # fmt: skip


def _hooks(gvr: str, record: Record) -> list[Hook]:
    key = record.key
    specs: Iterable[Object] = record.decode().get("webhooks") or ()
    return [Hook(key.tenant, key.name, spec["name"], gvr == MUTATING, spec) for spec in specs]


def _asked(resource: Resource, operation: str, subresource: str, name: str) -> Asked:
    return Asked(operation, resource, subresource, name)


def _copy(obj: Object | None) -> Object | None:
    if obj is None:
        return None
    copy: Object = orjson.loads(orjson.dumps(obj))
    return copy


assert {MUTATING, VALIDATING} <= set(scheme.BY_GVR)
