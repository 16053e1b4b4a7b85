"""What every verb works on: the store of one partition, and what it knows about itself.

Not a framework: a handful of things that more than one verb needs. The verbs hold the logic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from arktos_ray.api import apply, codec, errors, kinds, schemas, scheme
from arktos_ray.api.calls import Call, Reply
from arktos_ray.api.names import SYSTEM_TENANT, Key
from arktos_ray.api.scheme import DEFINITIONS, Resource
from arktos_ray.apiserver.admission.namespace import check_exists as check_tenant_exists
from arktos_ray.apiserver.admission.namespace import is_terminating
from arktos_ray.apiserver.conversions import Conversions
from arktos_ray.apiserver.customs import Customs
from arktos_ray.apiserver.gate import Gate
from arktos_ray.apiserver.hooks import Hooks
from arktos_ray.apiserver.policies import Policies
from arktos_ray.apiserver.quotas import Quotas
from arktos_ray.apiserver.rights import RightsOfTenants
from arktos_ray.apiserver.service_ips import ServiceIPs
from arktos_ray.apiserver.tokens import Tokens
from arktos_ray.apiserver.turns import Turns
from arktos_ray.base.clock import Clock, rfc3339
from arktos_ray.base.ids import Ids
from arktos_ray.store.moving import TENANTS
from arktos_ray.store.records import Record, encode
from arktos_ray.store.store import OBJECT_BYTES_MAX, Store
from arktos_ray.tenancy.assignment import stored_in
from arktos_ray.tenancy.quota import NO_LIMITS, Allowed, allowed_of, check_room
from arktos_ray.tenancy.topology import PartitionRow

Object = dict[str, Any]
# Namespaces, tenants and service accounts kept decoded, 2 KB each.
_DECODED_MAX = 10_000


@dataclass(slots=True)
class Partition:
    name: str  # tp-1
    store: Store
    clock: Clock
    ids: Ids
    service_ips: ServiceIPs
    gate: Gate = field(init=False)
    rights: RightsOfTenants = field(init=False)
    quotas: Quotas = field(init=False)
    conversions: Conversions = field(init=False)
    customs: Customs = field(init=False)
    hooks: Hooks = field(init=False)
    policies: Policies = field(init=False)
    # Of the topology that this partition knows: tenants are made by no older one.
    topology_version: int = 0
    draining: bool = False  # then it takes no new tenants, or nodes
    # Those that take new tenants, and the storage cluster of this one; "" is whichever.
    rows: Sequence[PartitionRow] = ()
    storage: str = ""
    turns: Turns = field(default_factory=Turns)
    tokens: Tokens = field(default_factory=Tokens)
    defaults: Allowed = NO_LIMITS  # of tenants whose Tenant says nothing
    _allowed: dict[str, tuple[Record, Allowed]] = field(default_factory=dict)
    # With whether it is there to stay.
    _decoded: dict[tuple[str, str], tuple[Record, Object, bool]] = field(default_factory=dict)
    _second: int = -1
    _now: str = ""

    def __post_init__(self) -> None:
        self.gate = Gate(self.store)
        self.rights = RightsOfTenants(self.store)
        self.hooks = Hooks(self.store)
        self.policies = Policies(self.store)
        self.quotas = Quotas(self.store, self.turns, self.clock)
        self.conversions = Conversions(self.store, self.ids)
        self.customs = Customs(self.store, self.conversions.convert)

    def now(self) -> str:
        """The whole second, as objects have it."""
        second = int(self.clock.now())
        if second != self._second:
            self._second, self._now = second, rfc3339(second)
        return self._now

    # Finding things

    def resource_of(self, call: Call) -> Resource:
        """The row of a call, in the version that it speaks. Perhaps nobody defined it."""
        found = scheme.spoken(call.gvr, call.version)
        return found if found is not None else self.customs.resource_of(call)

    def latest(self, resource: Resource, call: Call) -> Record:
        """The newest record that the call names, for a writer. Raises NotFound."""
        record = self.store.latest(resource.gvr, key_of(call).path())
        if record is None:
            if resource.tenanted and call.tenant != SYSTEM_TENANT:
                check_tenant_exists(call.tenant, self.tenant(call.tenant))
            raise not_found(resource, call.name)
        return record

    def namespace(self, tenant: str, name: str) -> Object | None:
        return self._looked_up("namespaces", f"{tenant}//{name}")

    def tenant(self, name: str) -> Object | None:
        return self._looked_up("tenants", f"//{name}")

    def account(self, tenant: str, namespace: str, name: str) -> Object | None:
        return self._looked_up("serviceaccounts", f"{tenant}/{namespace}/{name}")

    def _looked_up(self, gvr: str, path: str) -> Object | None:
        """For reading only: asked for at every create, so decoded once a revision."""
        record = self.store.latest(gvr, path)
        if record is None:
            return None
        seen = self._decoded.get((gvr, path))
        if seen is None or seen[0] is not record:
            if len(self._decoded) >= _DECODED_MAX:
                self._decoded.clear()
            obj = record.decode()
            seen = self._decoded[gvr, path] = (record, obj, not is_terminating(obj))
        return seen[1]

    def stands(self, gvr: str, path: str) -> bool:
        """Whether it was looked up, and found to be there and not on its way out. 0.4 us."""
        seen = self._decoded.get((gvr, path))
        return seen is not None and seen[2] and seen[0] is self.store.latest(gvr, path)

    # Writing

    def check_storage(self, tenant: Object) -> None:
        """Whether a new tenant may keep its objects here. Raises Invalid when it can nowhere."""
        cluster = (tenant.get("spec") or {}).get("storageClusterId") or ""
        if self.storage and cluster not in ("", self.storage):
            stored_in(cluster, self.rows)
            where = ", ".join(self.homes(cluster))
            raise errors.Unavailable(
                f"{self.name} is of storage cluster {self.storage}, tenants of {cluster} go to"
                f" {where}; try again"
            )

    def homes(self, cluster: str) -> list[str]:
        """Partitions for new tenants of that storage cluster."""
        return [row.name for row in self.rows if row.storage == cluster]

    def allowed(self, tenant: str) -> Allowed:
        """What the tenant may have, by the newest word about it. 0.6 us."""
        record = self.store.latest(TENANTS, f"//{tenant}")
        if record is None:
            return NO_LIMITS
        seen = self._allowed.get(tenant)
        if seen is None or seen[0] is not record:
            if len(self._allowed) >= _DECODED_MAX:
                self._allowed.clear()
            seen = self._allowed[tenant] = (record, allowed_of(record.decode(), self.defaults))
        return seen[1]

    def check_room(self, resource: Resource, record: Record, allowed: Allowed) -> None:
        """Raises Forbidden when the tenant may not have that much more."""
        key = record.key
        previous = self.store.latest(resource.gvr, record.path)
        size = len(record.body) - (0 if previous is None else len(previous.body))
        check_room(
            allowed, key.tenant, f'{resource.gvr} "{key.name}"', int(previous is None), size,
            self.store.usage(key.tenant),
        )  # fmt: skip

    def check_room_for(self, resource: Resource, key: Key, obj: Object) -> None:
        """The same for what is not going to be written."""
        allowed = self.allowed(key.tenant)
        if allowed.objects is not None or allowed.bytes is not None:
            copy = {**obj, "metadata": dict(obj["metadata"])}
            self.check_room(resource, encode(self.store.last, key.path(), copy), allowed)

    def save(
        self, resource: Resource, key: Key, obj: Object, bytes_max: int = OBJECT_BYTES_MAX, *,
        limited: bool = False,
    ) -> Record:  # fmt: skip
        """Raises TooLarge, and Forbidden when it is limited; then nothing was written."""
        check = None
        if limited and key.tenant:
            allowed = self.allowed(key.tenant)
            if allowed.objects is not None or allowed.bytes is not None:
                check = partial(self.check_room, resource, allowed=allowed)
        path = key.path()
        if resource.gvr == TENANTS:
            # The name of a new one may be in its body only.
            self.gate.check_tenant(key.name, writes=True)
        record = self.store.put(resource.gvr, path, obj, bytes_max, check)
        if resource.gvr == "services":
            address = cluster_ip(obj)
            if address:
                self.service_ips.mark(address, path)
        self.quotas.saved(resource.gvr, key, obj)
        return record

    def remove(self, resource: Resource, key: Key, obj: Object) -> Record:
        record = self.store.delete(resource.gvr, key.path(), obj)
        self.quotas.removed(resource.gvr, key)
        if resource.gvr == DEFINITIONS:
            for other in self.customs.waiting_for(obj, self.now()):
                self.store.put(resource.gvr, key_in(resource, other).path(), other)
        return record


def cluster_ip(service: Object) -> str:
    """The address of a service, "" when it has none of its own."""
    address: str = (service.get("spec") or {}).get("clusterIP") or ""
    return "" if address == "None" else address


def has_cluster_ip(store: Store, path: str, address: str) -> bool:
    """For ServiceIPs. A deletion that is not durable may still fail, so both states count."""
    return any(
        record is not None and cluster_ip(record.decode()) == address
        for record in (store.latest("services", path), store.get("services", path))
    )


def key_of(call: Call) -> Key:
    return Key(call.tenant, call.namespace, call.name)


def key_in(resource: Resource, obj: Object) -> Key:
    meta = obj["metadata"]
    return Key(meta.get("tenant", ""), meta.get("namespace", ""), meta["name"])


def not_found(resource: Resource, name: str) -> errors.NotFound:
    return errors.NotFound(f'{resource.gvr} "{name}" not found', details=_details(resource, name))


def already_exists(resource: Resource, name: str) -> errors.AlreadyExists:
    return errors.AlreadyExists(
        f'{resource.gvr} "{name}" already exists', details=_details(resource, name)
    )


def conflict(resource: Resource, name: str, why: str) -> errors.Conflict:
    return errors.Conflict(
        f'Operation cannot be fulfilled on {resource.gvr} "{name}": {why}',
        details=_details(resource, name),
    )


MODIFIED = (
    "the object has been modified; please apply your changes to the latest version and try again"
)


def _details(resource: Resource, name: str) -> dict[str, Any]:
    details: dict[str, Any] = {"name": name, "kind": resource.plural}
    if resource.group:
        details["group"] = resource.group
    return details


def check_valid(resource: Resource, name: str, causes: list[kinds.Cause]) -> None:
    if causes:
        raise kinds.invalid(resource, name, causes)


def is_dry_run(call: Call, body_options: dict[str, Any] | None = None) -> bool:
    """Raises BadRequest for a value other than All."""
    value = call.options.get("dryRun", "")
    if not value and body_options:
        values = body_options.get("dryRun") or [""]
        value = values[0]
    if value not in ("", "All"):
        raise errors.BadRequest(f'dryRun: Unsupported value: "{value}": supported values: "All"')
    return value == "All"


def shown(resource: Resource, body: bytes) -> bytes:
    """A stored object in the version that was asked for."""
    form = resource.form
    return body if form is None else orjson.dumps(form.from_stored(orjson.loads(body)))


def copied(obj: Object) -> Object:
    copy: Object = orjson.loads(orjson.dumps(obj))
    return copy


def reply_with(code: int, obj: Object | Record, warnings: tuple[str, ...] = ()) -> Reply:
    body = obj.body if isinstance(obj, Record) else orjson.dumps(obj)
    return Reply(code, body, warnings)


def manager_of(call: Call) -> str:
    """Who owns the fields of this write: fieldManager, else the client's program name."""
    return call.options.get("fieldManager") or call.user_agent.partition("/")[0] or "unknown"


def track(
    partition: Partition, call: Call, resource: Resource, old: Object | None, new: Object
) -> None:
    """Note in managedFields whose write this was. 22 us for a new pod of 1 KB."""
    before, after, form = old, new, resource.form
    if form is not None:
        # Fields have the names that the writer gave them.
        before = None if old is None else form.from_stored(copied(old))
        after = form.from_stored(copied(new))
    managed = apply.track(
        before, after, manager_of(call), "Update", resource.api_version, partition.now(),
        call.subresource, walked(resource),
        has_status=resource.custom is None or "status" in resource.subresources,
    )  # fmt: skip
    if managed:
        new["metadata"]["managedFields"] = managed
    else:
        new["metadata"].pop("managedFields", None)


def walked(resource: Resource) -> schemas.Message | apply.Tree:
    """How field ownership goes through objects of this resource."""
    if resource.custom is None:
        return schemas.message(resource.schema)
    tree: apply.Tree = resource.custom.tree
    return tree


def body_of(
    call: Call, resource: Resource, record: Callable[[], Record] | None = None
) -> tuple[Object, tuple[str, ...]]:
    """The object in a call, checked against its schema, and warnings for the client.

    Our own parts send what they read or what a template held: that is only parsed. record: what an
    update replaces.
    """
    if call.user.trusted:
        obj = parsed(call)
        obj.setdefault("apiVersion", resource.api_version)
        obj.setdefault("kind", resource.kind)
        return stored_form(resource, obj), ()
    validation = call.options.get("fieldValidation", "Warn")
    decoded = codec.decode_object(call.body, call.content_type, resource, validation)
    return sent_form(call, resource, decoded.obj, record), decoded.warnings


def stored_form(resource: Resource, obj: Object) -> Object:
    """What was sent, as it will be stored."""
    return obj if resource.form is None else resource.form.to_stored(obj)


def sent_form(
    call: Call, resource: Resource, obj: Object, record: Callable[[], Record] | None
) -> Object:
    """The same, of what a client sent. Where a webhook makes the stored version of it, it must be
    valid as it was sent; whether what was made of it is, is judged like any other object.

    record: what an update replaces. Raises Invalid, or Unconverted."""
    form = resource.form
    if form is None:
        return obj
    if form.conversion is None or form.api_version == resource.api_version:
        return form.to_stored(obj)
    meta, custom = obj.setdefault("metadata", {}), resource.custom
    for name, wanted in (("tenant", call.tenant), ("namespace", call.namespace)):
        if (meta.get(name) or wanted) != wanted:
            raise errors.BadRequest(
                f"the {name} of the provided object does not match the {name} sent on the request"
            )
        if wanted:
            meta[name] = wanted
    custom.schema.default(obj)
    if not call.subresource:
        old = None if record is None else form.from_stored(record().decode())
        causes = custom.schema.validate(
            _judged(resource, obj), None if old is None else _judged(resource, old)
        )
        check_valid(resource, call.name or meta.get("name", ""), causes)
    return form.to_stored(obj)


def _judged(resource: Resource, obj: Object) -> Object:
    """What of it a plain write changes."""
    if "status" not in resource.subresources:
        return obj
    return {name: value for name, value in obj.items() if name != "status"}


def parsed(call: Call) -> Object:
    obj: Object = orjson.loads(call.body)
    return obj


def is_system(call: Call) -> bool:
    return call.user.tenant == SYSTEM_TENANT
