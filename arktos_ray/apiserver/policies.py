"""The admission policies of every tenant of a partition, and what they say of a call.

A tenant's policies govern what is in the tenant, whoever writes it; those of the system tenant also
what is in none. They are evaluated in the step that writes, on what will be stored: nothing is
asked outside. A call of a tenant without policies costs a look-up in a dict.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from arktos_ray.api import scheme
from arktos_ray.api.calls import Call, User
from arktos_ray.api.kinds import syntax
from arktos_ray.api.names import SYSTEM_TENANT, is_path_segment
from arktos_ray.api.scheme import Resource
from arktos_ray.apiserver.admission import matching, policy
from arktos_ray.apiserver.admission.matching import CREATE, DELETE, EXEMPT, UPDATE, Asked
from arktos_ray.apiserver.admission.namespace import is_terminating
from arktos_ray.apiserver.admission.policy import BINDINGS, POLICIES, Binding, Policy
from arktos_ray.apiserver.by_tenant import ByTenant, Said
from arktos_ray.apiserver.conversions import completed
from arktos_ray.store.records import Record
from arktos_ray.store.store import Store

if TYPE_CHECKING:
    from arktos_ray.apiserver.partition import Partition

Object = dict[str, Any]

# All policies of one call together, in units of CEL: usual ones take tens. Others wait for 15 ms
# when somebody uses it up, 40 with the dearest functions.
COST_MAX = 60_000
_WARNINGS_CHARS = 4_096
# What the policies of one call may say to the audit log.
_AUDIT_CHARS = 32_768
_VALIDATION_FAILURE = "validation.policy.admission.k8s.io/validation_failure"
Wanted = list[tuple[Policy, Resource]]


class _Tenant(Said[tuple[Policy, Resource]]):
    """In the order of their names."""

    def __init__(self) -> None:
        super().__init__()
        self.policies: dict[str, Policy] = {}
        self.bindings: dict[str, Binding] = {}

    @property
    def empty(self) -> bool:
        return not self.policies and not self.bindings

    def _put(self, gvr: str, record: Record) -> None:
        name = record.key.name
        if gvr == POLICIES:
            self.policies.pop(name, None)
            if not record.deleted:
                self.policies[name] = Policy(record.decode())
        else:
            self.bindings.pop(name, None)
            if not record.deleted:
                self.bindings[name] = Binding(record.decode())

    def _find(self, asked: Asked) -> Wanted:
        return [
            (one, resource)
            for _, one in sorted(self.policies.items())
            for resource in (_wanted_as(one.constraints, asked, names=False),)
            if resource is not None
        ]

    def bound(self, name: str) -> list[Binding]:
        return [one for _, one in sorted(self.bindings.items()) if one.policy == name]


class Policies:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._tenants = ByTenant(store, (POLICIES, BINDINGS), _Tenant)
        self.reread = self._tenants.reread
        # What was said of the call that is just being carried out, though it was not refused.
        self.warnings: list[str] = []
        self.audit: dict[str, str] = {}

    def begin(self) -> None:
        if self.warnings or self.audit:
            self.warnings, self.audit = [], {}

    def check(
        self, partition: Partition, call: Call, resource: Resource, new: Object | None,
        old: Object | None, kind: tuple[str, str, str] | None = None,
    ) -> None:  # fmt: skip
        """Raises a Failure when a policy is broken and its binding says Deny. kind: group, version
        and kind of the object, when it is not what the resource is."""
        if not self._tenants:
            return
        found = self._tenants.get(call.tenant or SYSTEM_TENANT)
        if found is None or resource.virtual or resource.gvr in EXEMPT:
            return
        operation = CREATE if old is None else UPDATE if new is not None else DELETE
        name = call.name or ((new or old or {}).get("metadata") or {}).get("name") or ""
        asked = Asked(operation, resource, call.subresource, name)
        wanted = found.wanted(asked)
        if wanted:
            self._judge(found, wanted, partition, call, asked, new, old, kind)

    def _judge(
        self, tenant: _Tenant, wanted: Wanted, partition: Partition, call: Call, asked: Asked,
        new: Object | None, old: Object | None, kind: tuple[str, str, str] | None,
    ) -> None:  # fmt: skip
        from arktos_ray.api import cel

        own = partition.tenant(call.tenant) if call.tenant else None
        if own is not None and is_terminating(own):
            return
        space: Object | None = None
        if asked.resource.namespaced:
            space = partition.namespace(call.tenant, call.namespace)
        elif asked.resource.gvr == "namespaces":
            space = new if new is not None else old
        budget = cel.Budget(COST_MAX)
        denied: list[tuple[policy.Breach, str]] = []
        for one, resource in wanted:
            if not _concerns(one.constraints, asked, space, new, old):
                continue
            values: Object = {
                "object": _shown(resource, new),
                "oldObject": _shown(resource, old),
                "namespaceObject": space if asked.resource.namespaced else None,
                "request": cel.Lazy(partial(_request, call, asked, resource, kind)),
            }
            for binding in tenant.bound(one.name):
                if binding.match and not (
                    _concerns(binding.match, asked, space, new, old)
                    and (
                        not binding.match.get("resourceRules")
                        or _wanted_as(binding.match, asked) is not None
                    )
                ):
                    continue
                try:
                    given = self._params(one, binding, partition, call)
                except policy.NoParams as why:
                    if one.fails:
                        message = f"failed to configure binding: {why}"
                        said = policy.text(one.name, binding.name, message)
                        denied.append((policy.Breach(message), said))
                    continue
                for params in given:
                    judged = one.judge({**values, "params": params}, budget)
                    for key, value in judged.annotations.items():
                        self._note(key, value)
                    for breach in judged.breaches:
                        self._follow(one, binding, breach, denied)
        if denied:
            breach, message = denied[0]
            raise policy.refusal(asked.resource, asked.name, breach, message)

    def _follow(
        self, one: Policy, binding: Binding, breach: policy.Breach,
        denied: list[tuple[policy.Breach, str]],
    ) -> None:  # fmt: skip
        """What the binding says shall follow from a breach."""
        for action in binding.actions:
            if action == "Deny":
                denied.append((breach, policy.text(one.name, binding.name, breach.message)))
            elif action == "Warn":
                said = policy.warning(one.name, binding.name, breach.message)
                if sum(map(len, self.warnings)) + len(said) <= _WARNINGS_CHARS:
                    self.warnings.append(said)
            elif action == "Audit":
                before = self.audit.get(_VALIDATION_FAILURE)
                failure = {
                    "message": breach.message, "policy": one.name, "binding": binding.name,
                    "expressionIndex": breach.place, "validationActions": list(binding.actions),
                }  # fmt: skip
                failures = [*(orjson.loads(before) if before else ()), failure]
                self._note(_VALIDATION_FAILURE, orjson.dumps(failures).decode())

    def _note(self, key: str, value: str) -> None:
        """For the audit log; what is too much is left out."""
        others = sum(len(k) + len(v) for k, v in self.audit.items() if k != key)
        if others + len(key) + len(value) <= _AUDIT_CHARS:
            self.audit[key] = value

    def _params(
        self, one: Policy, binding: Binding, partition: Partition, call: Call
    ) -> list[Object | None]:
        """Raises NoParams, and Unconverted."""
        kind, tenant = one.param_kind, call.tenant or SYSTEM_TENANT
        if kind is None:
            return [None]
        found = policy.kind_of(kind, partial(partition.customs.of_kind, tenant))
        if found is None:
            raise policy.NoParams(
                "failed to find resource referenced by paramKind: "
                f"'{kind.get('apiVersion')}, Kind={kind.get('kind')}'"
            )
        table = self._store.table(found.gvr)

        def listed(namespace: str) -> list[Object]:
            # Of the tenant alone: a key starts with it, and with nothing that the tenant chooses.
            name = (binding.param_ref or {}).get("name")
            if not all(is_path_segment(part) for part in (namespace, name) if part):
                return []
            if name:
                record = self._store.get(found.gvr, f"{tenant}/{namespace}/{name}")
                return [] if record is None else [_as(found, record)]
            return [_as(found, r) for r in table.range(f"{tenant}/{namespace}/")]

        return policy.params_of(
            binding, found.namespaced, call.namespace, listed, syntax.selector_matches
        )


def _concerns(
    match: Object, asked: Asked, space: Object | None, new: Object | None, old: Object | None
) -> bool:
    """Whether its selectors choose the object, and no rule leaves it out."""
    if match.get("excludeResourceRules"):
        left_out = matching.wanted_as(
            match["excludeResourceRules"], asked, match.get("matchPolicy") or "Equivalent",
            scheme.SERVED.get(asked.resource.gvr, ()),
        )  # fmt: skip
        if left_out is not None:
            return False
    rules = match.get("resourceRules") or ()
    if any(rule.get("resourceNames") for rule in rules) and _wanted_as(match, asked) is None:
        return False
    return matching.selected(match, space, new, old)


def _wanted_as(match: Object, asked: Asked, *, names: bool = True) -> Resource | None:
    rules = match.get("resourceRules") or ()
    if not names:
        rules = [{**rule, "resourceNames": None} for rule in rules]
    served = scheme.SERVED.get(asked.resource.gvr, ())
    return matching.wanted_as(rules, asked, match.get("matchPolicy") or "Equivalent", served)


def _as(resource: Resource, record: Record) -> Object:
    obj = completed(resource, record).decode()
    if resource.form is not None:
        return resource.form.from_stored(obj)
    return {"apiVersion": resource.api_version, "kind": resource.kind, **obj}


def _shown(resource: Resource, obj: Object | None) -> Object | None:
    """In the version that the policy names."""
    if obj is None or resource.form is None:
        return obj
    return resource.form.from_stored(orjson.loads(orjson.dumps(obj)))


def _request(
    call: Call, asked: Asked, resource: Resource, kind: tuple[str, str, str] | None
) -> Object:
    """`request`, as an AdmissionReview has it, without the objects."""
    request: Object = {
        "kind": _kind(resource, kind),
        "resource": _names(resource),
        "requestKind": _kind(asked.resource, kind),
        "requestResource": _names(asked.resource),
        "name": asked.name,
        "operation": asked.operation,
        "userInfo": _user(call.user),
        "dryRun": call.options.get("dryRun") == "All",
        "options": {},
    }
    if asked.subresource:
        request["subResource"] = request["requestSubResource"] = asked.subresource
    if asked.resource.namespaced:
        request["namespace"] = call.namespace
    elif asked.resource.gvr == "namespaces":
        request["namespace"] = asked.name
    return request


def _kind(resource: Resource, other: tuple[str, str, str] | None) -> Object:
    group, version, kind = other or (resource.group, resource.version, resource.kind)
    return {"group": group, "version": version, "kind": kind}


def _names(resource: Resource) -> Object:
    return {"group": resource.group, "version": resource.version, "resource": resource.plural}


def _user(user: User) -> Object:
    return {
        "username": user.name,
        "uid": user.uid,
        "groups": list(user.groups),
        "extra": {key: list(values) for key, values in user.extra},
    }
