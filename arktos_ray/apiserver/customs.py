"""The definitions of custom resources, as one partition serves them.

Those of its tenants are read from its store, and compiled when somebody asks; what is written in
a batch counts for the rest of it. Those that the system tenant shares with everybody (`forced`)
are in one partition: that one tells itself, the others keep a view of it (`learn`), which stays as
it was while that partition does not answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import orjson

from arktos_ray.api import custom, errors, kinds, scheme
from arktos_ray.api.calls import Call
from arktos_ray.api.custom import Definition, names, paths, schema
from arktos_ray.api.custom.definition import Convert
from arktos_ray.api.custom.described import packed
from arktos_ray.api.kinds.causes import bad
from arktos_ray.api.names import ALL_TENANTS, SYSTEM_TENANT
from arktos_ray.api.scheme import DEFINITIONS, Form, Resource
from arktos_ray.apiserver.admission.refusals import forbidden
from arktos_ray.store.mvcc import prefix_of
from arktos_ray.store.records import Record, encode
from arktos_ray.store.store import Store

Object = dict[str, Any]

# Compiled definitions that are kept: 50 KB each with a schema of 20 KB.
_COMPILED_MAX = 4_000
# All of a tenant's are compiled and shown together, by its partition and by every ingress. Large
# platforms define 1,000. Then 403.
DEFINITIONS_PER_TENANT_MAX = 1_500
# They travel to an ingress with all of their schemas, and become one OpenAPI document. Then 403.
DEFINITION_BYTES_PER_TENANT_MAX = 32 << 20


class Customs:
    def __init__(self, store: Store, convert: Convert) -> None:
        self._store, self._convert = store, convert
        self._compiled: dict[tuple[str, str], tuple[Record, Definition]] = {}
        self._forced: dict[str, Record] = {}  # by name
        # False until this partition knows which are forced; the system tenant's own knows at once.
        self.synced = False
        self.is_system = False
        self._stamps: dict[str, str] = {}  # by tenant, until something changes
        self._forced_stamp = ""
        # Whoever shows them, and the revision of this store when one last ceased to be.
        self.on_forced: dict[Callable[[], None], None] = {}
        self.unforced_at = 0
        store.listeners[DEFINITIONS] = self._published

    # Which are forced

    def start_as_system(self) -> None:
        """In the partition of the system tenant."""
        self.is_system = self.synced = True
        for record in self._store.table(DEFINITIONS).range(f"{SYSTEM_TENANT}/"):
            self.learn(record)

    def learn(self, record: Record) -> None:
        """A definition of the system tenant changed."""
        name = record.key.name
        was = self._forced.pop(name, None)
        if not record.deleted and names.is_forced(record.decode()):
            self._forced[name] = record
        elif was is None:
            return
        else:
            self.unforced_at = max(self._store.revision, record.revision if self.is_system else 0)
        self._forced_stamp = _digest(self._forced.values())
        for tell in self.on_forced:
            tell()

    def told(self, old: Object | None, new: Object | None) -> None:
        """The same, as another partition says."""
        if new is not None:
            self.learn(record_of(new))
        elif old is not None:
            self.learn(record_of(old, deleted=True))

    def forced(self) -> list[Record]:
        return [self._forced[name] for name in sorted(self._forced)]

    def _published(self, gvr: str, record: Record, previous: Record | None) -> None:
        tenant = record.key.tenant
        self._stamps.pop(tenant, None)
        if self.is_system and tenant == SYSTEM_TENANT:
            self.learn(record)

    def stamp(self, tenant: str) -> str:
        """Of what a tenant can see, for whoever keeps a copy: equal for equal definitions."""
        own = self._stamps.get(tenant)
        if own is None:
            records = self._store.table(DEFINITIONS).range(f"{tenant}/")
            own = self._stamps[tenant] = _digest(records)
        return own + self._forced_stamp

    def forget(self, tenant: str) -> None:
        """It came, or went: what is in the store is not what was published."""
        self._stamps.pop(tenant, None)

    # Finding one

    def _forced_record(self, gvr: str) -> Record | None:
        if not self.is_system:
            return self._forced.get(gvr)
        # Also what the same batch has just written.
        record = self._store.latest(DEFINITIONS, f"{SYSTEM_TENANT}//{gvr}")
        return record if record is not None and self._definition(record).forced else None

    def find(self, tenant: str, gvr: str) -> Definition | None:
        """Forced ones first. Raises Unavailable when nobody can know yet that there is none."""
        record = self._forced_record(gvr) if tenant != SYSTEM_TENANT else None
        if record is None:
            record = self._store.latest(DEFINITIONS, f"{tenant}//{gvr}")
        if record is not None:
            return self._definition(record)
        if not self.synced:
            raise errors.Unavailable("which kinds are everybody's is not known here yet; try again")
        return None

    def _definition(self, record: Record) -> Definition:
        key = record.key
        at = (key.tenant, key.name)
        known = self._compiled.get(at)
        if known is None or known[0] is not record:
            if len(self._compiled) >= _COMPILED_MAX:
                self._compiled.clear()
            known = self._compiled[at] = (record, custom.definition(record.decode(), self._convert))
        return known[1]

    def of_kind(self, tenant: str, api_version: str, kind: str) -> Resource | None:
        """As published. None when the tenant cannot use any such."""
        suffix = "." + api_version.rpartition("/")[0]
        for record in (*self.forced(), *self._store.table(DEFINITIONS).range(f"{tenant}/")):
            if record.key.name.endswith(suffix):
                found = self._definition(record)
                resource = found.versions.get(api_version) if found.served else None
                if resource is not None and resource.kind == kind:
                    return resource
        return None

    def of(self, tenant: str) -> list[Definition]:
        """All that a tenant can use, as published."""
        shown = {record.key.name: record for record in self.forced()}
        for record in self._store.table(DEFINITIONS).range(f"{tenant}/"):
            shown.setdefault(record.key.name, record)
        return [self._definition(shown[name]) for name in sorted(shown)]

    def described(self, tenant: str, have: str, *, with_schemas: bool) -> list[Any]:
        """[stamp, rows] for an ingress; no rows when that has the stamp. Raises Unavailable."""
        if not self.synced:
            raise errors.Unavailable("which kinds are everybody's is not known here yet; try again")
        stamp = self.stamp(tenant)
        if stamp == have:
            return [stamp, None]
        return [stamp, packed(self.of(tenant), with_schemas=with_schemas)]

    def held(self, tenant: str, namespace: str) -> list[str]:
        """The kinds beside the built-in ones of which there are objects, defined or not."""
        found = self._store.holds(prefix_of(tenant, namespace) if namespace else f"{tenant}//")
        return [gvr for gvr in found if gvr not in scheme.BY_GVR]

    def resource_of(self, call: Call) -> Resource:
        """The row of a call about custom objects; of `custom.unknown` when there is none."""
        if call.tenant in ("", ALL_TENANTS):
            return self._of_all(call)
        found = self.find(call.tenant, call.gvr)
        if found is None or not (found.served or call.user.trusted):
            return custom.unknown(call.gvr, call.version)
        if not call.version:
            as_it_lies = call.user.trusted and call.subresource != "scale"
            return found.raw if as_it_lies else found.stored
        resource = found.versions.get(call.version)
        return custom.unknown(call.gvr, call.version) if resource is None else resource

    def _of_all(self, call: Call) -> Resource:
        """Objects of many tenants, each with a definition of its own: in the shape of one."""
        resource = custom.unknown(call.gvr, call.version)
        for record in self._store.table(DEFINITIONS).range():
            if record.key.name == call.gvr:
                found = self._definition(record)
                # Its defaults are not those of other tenants.
                resource = replace(found.versions.get(call.version, found.stored), since=0)
                break
        if not call.version:
            return resource
        version = call.version

        def spoken(obj: Object) -> Object:
            obj["apiVersion"] = version
            return obj

        return replace(resource, form=Form(call.gvr, version, spoken, spoken))

    def check(self, call: Call, resource: Resource) -> None:
        """After the right was checked. Refuses wrong paths, and what nobody defined."""
        if call.user.trusted:
            return
        if resource.custom is custom.UNKNOWN:
            if call.tenant == ALL_TENANTS and call.verb in ("list", "watch"):
                return
            raise _not_there()
        if call.subresource and call.subresource not in resource.subresources:
            raise _not_there()
        if resource.namespaced:
            if not call.namespace and (call.name or call.subresource):
                raise _not_there()
            if not call.namespace and call.verb not in ("list", "watch"):
                raise errors.MethodNotAllowed(
                    "the server does not allow this method on the requested resource"
                )
        elif call.namespace:
            raise _not_there()
        if call.verb == "create":
            found = self.find(call.tenant, call.gvr)
            if found is not None and found.terminating:
                raise errors.MethodNotAllowed(
                    "create not allowed while custom resource definition is terminating"
                )

    # Definitions that are written

    def shared(self, call: Call) -> Record | None:
        """The forced definition that a tenant's call names; it is not theirs to change."""
        if call.gvr != DEFINITIONS or call.user.trusted or call.tenant == SYSTEM_TENANT:
            return None
        return self._forced_record(call.name) if call.name else None

    def check_change(self, call: Call, name: str) -> None:
        """Raises the refusals of spec/multitenancy.md 9, in its words."""
        if call.tenant == SYSTEM_TENANT or call.user.trusted:
            return
        if not self.synced:
            raise errors.Unavailable("which kinds are everybody's is not known here yet; try again")
        if self._forced_record(name) is None:
            return
        if call.verb == "delete":
            raise errors.Forbidden(
                f"Forbidden: {name} is a system CRD, it can only be deleted by a cluster admin."
            )
        if call.verb == "create":
            raise errors.AlreadyExists(f"There is already a system forced CRD with the name {name}")
        raise errors.Forbidden(f"{name} is a system CRD, you cannot overwrite it.")

    def settle(self, obj: Object, old: Object | None, now: str) -> None:
        """Checks the schemas of a definition, and gives it its status. Raises Invalid.

        Of what a client says about status only storedVersions counts.
        """
        self._check_room(obj, old)
        causes = self._too_heavy(obj)
        for i, version in enumerate(() if causes else obj["spec"]["versions"]):
            at = f"spec.versions[{i}].schema.openAPIV3Schema"
            causes += schema.check((version.get("schema") or {}).get("openAPIV3Schema"), at)
            for j, column in enumerate(version.get("additionalPrinterColumns") or ()):
                path = column.get("jsonPath") or ""
                wrong = paths.problem(path)
                if wrong:
                    where = f"spec.versions[{i}].additionalPrinterColumns[{j}].jsonPath"
                    causes.append(bad(where, path, wrong))
        if causes:
            raise kinds.invalid(scheme.resource(DEFINITIONS), obj["metadata"]["name"], causes)
        status = dict((old or {}).get("status") or {})
        stored = (obj.get("status") or {}).get("storedVersions")
        if stored is not None and old is not None:
            status["storedVersions"] = stored
        obj["status"] = status
        obj["status"] = names.settled(obj, self._others(obj), now)

    def _check_room(self, obj: Object, old: Object | None) -> None:
        tenant, name = obj["metadata"]["tenant"], obj["metadata"]["name"]
        if tenant == SYSTEM_TENANT:
            return
        found = self._store.table(DEFINITIONS).range(f"{tenant}/")
        others = [len(record.body) for record in found if record.key.name != name]
        why = ""
        if old is None and len(others) >= DEFINITIONS_PER_TENANT_MAX:
            why = f"a tenant has at most {DEFINITIONS_PER_TENANT_MAX} definitions"
        size = len(orjson.dumps(obj))
        if sum(others) + size > DEFINITION_BYTES_PER_TENANT_MAX and (
            old is None or size > len(orjson.dumps(old))
        ):
            why = f"a tenant's definitions have at most {DEFINITION_BYTES_PER_TENANT_MAX} bytes"
        if why:
            raise forbidden(DEFINITIONS, obj, why)

    def _too_heavy(self, obj: Object) -> list[kinds.Cause]:
        """It is checked in one step, while other tenants wait: all versions together."""
        from arktos_ray.api import cel

        texts, weight = list[str](), 0
        for version in obj["spec"]["versions"]:
            one = schema.burden((version.get("schema") or {}).get("openAPIV3Schema"))
            texts += one.expressions
            weight += one.weight
        why = cel.too_many(texts) if texts else ""
        if weight > schema.SCHEMAS_MAX:
            why = f"the schemas of all versions weigh {weight}: at most {schema.SCHEMAS_MAX}"
        return [kinds.Cause("spec.versions", "FieldValueTooMany", why)] if why else []

    def _others(self, obj: Object) -> list[Object]:
        tenant, name = obj["metadata"]["tenant"], obj["metadata"]["name"]
        group = "." + obj["spec"]["group"]
        others = {}
        records = [*self.forced(), *self._store.table(DEFINITIONS).range(f"{tenant}/")]
        for record in records:
            other = record.key.name
            if other != name and other.endswith(group) and other not in others:
                latest = record
                if record.key.tenant == tenant:
                    found = self._store.latest(DEFINITIONS, record.path)
                    if found is None:
                        continue
                    latest = found
                others[other] = latest.decode()
        return list(others.values())

    def waiting_for(self, obj: Object, now: str) -> list[Object]:
        """Definitions that get names which this one, now gone, had."""
        changed = []
        tenant = obj["metadata"]["tenant"]
        for other in self._others(obj):
            accepted = names.condition(other, "NamesAccepted")
            if other["metadata"]["tenant"] != tenant or accepted is None:
                continue
            if accepted.get("status") == "True":
                continue
            beside = [
                each
                for each in self._others(other)
                if each["metadata"]["name"] != obj["metadata"]["name"]
            ]
            status = names.settled(other, beside, now)
            if status != other.get("status"):
                changed.append({**other, "status": status})
        return changed


def _digest(records: Iterable[Record]) -> str:
    """The same for the same revisions of objects; no two objects ever share one."""
    revisions = ",".join(sorted(str(record.revision) for record in records))
    return hashlib.sha256(revisions.encode()).hexdigest()[:16] if revisions else "-"


def record_of(body: Object, deleted: bool = False) -> Record:
    """Of a definition that another partition has."""
    meta = body["metadata"]
    path = f"{meta.get('tenant', '')}//{meta['name']}"
    return encode(int(meta["resourceVersion"]), path, body, deleted)


def _not_there() -> errors.NotFound:
    return errors.NotFound("the server could not find the requested resource")
