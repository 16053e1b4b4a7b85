"""create: decode, complete, admit, validate, store.

Budget: 90 us a pod of 1 KB (decode and validate 20, admit and default 30, fields 20, encode and
index 20), the commit aside.
"""

from __future__ import annotations

import contextlib
from typing import Any

import orjson

from arktos_ray.api import errors, kinds, names, scheme
from arktos_ray.api.calls import Call, Reply, User
from arktos_ray.api.scheme import DEFINITIONS, Resource
from arktos_ray.apiserver import admission
from arktos_ray.apiserver.partition import (
    Object,
    Partition,
    already_exists,
    body_of,
    check_valid,
    is_dry_run,
    is_system,
    key_in,
    reply_with,
    track,
)
from arktos_ray.tenancy import roles

_OURSELVES = User("system:apiserver", names.SYSTEM_TENANT, trusted=True)
# Names that a client leaves to us: prefix + 5 characters, in all at most 63.
_GENERATED_PREFIX_MAX = 58
_GENERATE_TRIES = 8
# What a drained partition takes no more of; all else belongs to one of these.
_SETTLERS = ("tenants", "nodes")


def create(partition: Partition, call: Call, resource: Resource, *, limited: bool = True) -> Reply:
    """limited: whether the tenant must have room for it."""
    dry_run = is_dry_run(call)
    obj, warnings = body_of(call, resource)
    complete_metadata(partition, call, resource, obj)
    prepare(partition, call, resource, obj, tracked=not call.user.trusted)
    return store_new(partition, resource, obj, dry_run, warnings, limited=limited)


def complete_metadata(partition: Partition, call: Call, resource: Resource, obj: Object) -> None:
    """Where it is, what it is called, and what only the server says."""
    if partition.draining and resource.gvr in _SETTLERS:
        raise errors.Unavailable(f"{partition.name} is drained: it takes no new {resource.gvr}")
    if "topology" in call.options and int(call.options["topology"]) < partition.topology_version:
        raise errors.Unavailable("the partitions have just changed; try again")
    meta: dict[str, Any] = obj.setdefault("metadata", {})
    agree(call, resource, meta)
    name = meta.get("name", "")
    if resource.gvr == DEFINITIONS:
        partition.customs.check_change(call, name)
    if call.name and name != call.name:  # PATCH with apply creates by name
        if name:
            raise errors.BadRequest(
                f"the name of the object ({name}) does not match the name on the URL ({call.name})"
            )
        name = meta["name"] = call.name
    if not name and meta.get("generateName"):
        name = meta["name"] = _generate(partition, call, resource, meta["generateName"])
    if name and not names.is_path_segment(name):
        # Also from our own parts: a key is built from checked segments only.
        raise errors.BadRequest(f"metadata.name: {name!r} cannot be part of a path")
    now = partition.now()
    uid = meta.get("uid", "")
    if not (_is_uuid(uid) and is_system(call)):
        # The specification keeps any valid uid. A tenant's own choice could be another tenant's:
        # ledgers and agents know pods by uid alone.
        uid = partition.ids.uid()
    meta["uid"] = uid
    meta["hashKey"] = names.hash_key(uid)
    meta["creationTimestamp"] = now
    for ours in ("resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds",
                 "generation", "managedFields"):  # fmt: skip
        meta.pop(ours, None)


def prepare(
    partition: Partition, call: Call, resource: Resource, obj: Object, *, tracked: bool
) -> None:
    """Defaults, admission and validation of an object that is about to be. Raises a Failure.

    tracked: note who owns the fields. Defaults are the writer's, what admission adds is nobody's:
    else a later apply by the same client would take it away again.
    """
    rules = kinds.rules_of(resource)
    rules.default(obj)
    if tracked:
        track(partition, call, resource, None, obj)
    admission.mutate(partition, call, resource, obj, None)
    mutated = partition.hooks.mutate(partition, call, resource, obj, None)
    if mutated:
        rules.default(obj)
        admission.mutate(partition, call, resource, obj, None)
    # After admission: a pod's QoS class follows from the requests that it may have filled in.
    rules.prepare_create(obj, obj["metadata"]["creationTimestamp"])
    if mutated or not call.user.trusted:
        causes = kinds.validate_meta(obj, resource) + rules.validate(obj)
        check_valid(resource, obj["metadata"].get("name", ""), causes)
    admission.complete(partition, call, resource, obj)
    partition.hooks.validate(partition, call, resource, obj, None)
    admission.validate(partition, call, resource, obj, None)


def store_new(
    partition: Partition, resource: Resource, obj: Object, dry_run: bool,
    warnings: tuple[str, ...], *, limited: bool = True,
) -> Reply:  # fmt: skip
    key = key_in(resource, obj)
    if partition.store.latest(resource.gvr, key.path()) is not None:
        raise already_exists(resource, key.name)
    if resource.gvr == "tenants":
        partition.check_storage(obj)
    elif resource.gvr == DEFINITIONS:
        partition.customs.settle(obj, None, partition.now())
    if dry_run:
        if limited:
            partition.check_room_for(resource, key, obj)
        return reply_with(201, obj, warnings)
    reply = reply_with(201, partition.save(resource, key, obj, limited=limited), warnings)
    if resource.gvr == "tenants":
        _give_administrator(partition, key.name)
    return reply


def _give_administrator(partition: Partition, tenant: str) -> None:
    """With the tenant itself, so that its first user is nobody to be refused. The tenant
    controller makes all else, and these when they are lost."""
    for gvr, body in roles.of_a_tenant(tenant):
        call = Call("create", gvr, tenant, body=orjson.dumps(body), user=_OURSELVES)
        with contextlib.suppress(errors.AlreadyExists):
            create(partition, call, scheme.resource(gvr), limited=False)


def agree(call: Call, resource: Resource, meta: dict[str, Any]) -> None:
    """Body and URL must name the same tenant and namespace (spec/multitenancy.md 3.5)."""
    if not resource.tenanted:
        meta.pop("tenant", None)
        meta.pop("namespace", None)
        return
    if (meta.get("tenant") or call.tenant) != call.tenant:
        raise errors.BadRequest(
            "the tenant of the provided object does not match the tenant sent on the request"
        )
    meta["tenant"] = call.tenant
    if not resource.namespaced:
        meta.pop("namespace", None)
        return
    if (meta.get("namespace") or call.namespace) != call.namespace:
        raise errors.BadRequest(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    meta["namespace"] = call.namespace


def _generate(partition: Partition, call: Call, resource: Resource, prefix: str) -> str:
    prefix = prefix[:_GENERATED_PREFIX_MAX]
    attempt = partition.hooks.attempt
    for _ in range(_GENERATE_TRIES):
        name = prefix + partition.ids.suffix()
        if attempt is not None:
            # The same each time: what was said of the object was said of this name.
            name, attempt.name = attempt.name or name, ""
        key = names.Key(call.tenant, call.namespace, name)
        if partition.store.latest(resource.gvr, key.path()) is None:
            if attempt is not None:
                attempt.name = name
            return name
    raise already_exists(resource, name)


def _is_uuid(text: str) -> bool:
    return (
        len(text) == 36
        and text[8] == text[13] == text[18] == text[23] == "-"
        and all(c in "0123456789abcdefABCDEF-" for c in text)
    )
