"""update: replace an object, or one side of it, by compare-and-swap.

`replace` is shared with patch: whatever made the new object, the same rules judge it.
"""

from __future__ import annotations

from arktos_ray.api import errors, kinds
from arktos_ray.api.calls import Call, Reply
from arktos_ray.api.scheme import DEFINITIONS, Resource
from arktos_ray.apiserver import admission
from arktos_ray.apiserver.conversions import is_behind, opened
from arktos_ray.apiserver.partition import (
    MODIFIED,
    Object,
    Partition,
    body_of,
    check_valid,
    conflict,
    is_dry_run,
    key_of,
    reply_with,
    track,
)
from arktos_ray.store.records import Record


def update(partition: Partition, call: Call, resource: Resource) -> Reply:
    dry_run = is_dry_run(call)
    if resource.gvr == DEFINITIONS:
        partition.customs.check_change(call, call.name)
    new, warnings = body_of(call, resource, lambda: partition.latest(resource, call))
    record = partition.latest(resource, call)
    old = opened(resource, record)
    return replace(partition, call, resource, record, old, new, dry_run, warnings)


def replace(
    partition: Partition, call: Call, resource: Resource, record: Record, old: Object, new: Object,
    dry_run: bool, warnings: tuple[str, ...], applied: bool = False, reviewed: bool = False,
) -> Reply:  # fmt: skip
    """Store `new` over `old`, or say why not. `applied`: managedFields are already right.
    `reviewed`: webhooks were asked.

    Budget: 45 us for a status write of a pod by one of our own parts.
    """
    subresource = call.subresource
    _keep_identity(call, resource, new, old)
    rules = kinds.rules_of(resource)
    rules.prepare_update(new, old, subresource)
    if subresource != "status":
        rules.default(new)
    if not call.user.trusted and not applied and new != old:
        track(partition, call, resource, old, new)
    admission.mutate(partition, call, resource, new, old)
    mutated = not reviewed and partition.hooks.mutate(
        partition, call, resource, new, old, record.revision
    )
    if mutated:
        rules.prepare_update(new, old, subresource)
        admission.mutate(partition, call, resource, new, old)
    if mutated or not call.user.trusted:
        causes = kinds.validate_meta(new, resource) + rules.validate_update(new, old, subresource)
        check_valid(resource, call.name, causes)
    if resource.gvr == DEFINITIONS and not is_finished(new):
        partition.customs.settle(new, old, partition.now())
    if not reviewed:
        partition.hooks.validate(partition, call, resource, new, old)
    admission.validate(partition, call, resource, new, old)
    if new == old and not is_behind(resource, record):
        return reply_with(200, record, warnings)
    key = key_of(call)
    if is_finished(new):
        if not dry_run:
            return reply_with(200, partition.remove(resource, key, new), warnings)
    elif not dry_run:
        # What our own parts know of an object must be said, however full the tenant is.
        saved = partition.save(resource, key, new, limited=not call.user.trusted)
        return reply_with(200, saved, warnings)
    return reply_with(200, new, warnings)


def _keep_identity(call: Call, resource: Resource, new: Object, old: Object) -> None:
    """What no update changes. Raises Conflict when the caller saw another object or revision."""
    meta, kept = new.setdefault("metadata", {}), old["metadata"]
    if meta.get("name", call.name) != call.name:
        raise errors.BadRequest(
            f"the name of the object ({meta['name']}) does not match"
            f" the name on the URL ({call.name})"
        )
    if meta.get("namespace") and meta["namespace"] != kept.get("namespace", ""):
        raise errors.BadRequest(
            f"the namespace of the object ({meta['namespace']}) does not match"
            f" the namespace on the request ({call.namespace})"
        )
    if resource.tenanted and meta.get("tenant", call.tenant) != call.tenant:
        raise errors.BadRequest(
            f"the tenant of the object ({meta['tenant']}) does not match"
            f" the tenant on the request ({call.tenant})"
        )
    if meta.get("uid") and meta["uid"] != kept["uid"]:
        raise conflict(
            resource, call.name,
            f"Precondition failed: UID in precondition: {meta['uid']}, "
            f"UID in object meta: {kept['uid']}",
        )  # fmt: skip
    revision = meta.get("resourceVersion", "")
    if revision not in ("", "0") and revision != kept["resourceVersion"]:
        raise conflict(resource, call.name, MODIFIED)
    for name in ("name", "namespace", "tenant", "uid", "hashKey", "creationTimestamp",
                 "generation", "deletionTimestamp", "deletionGracePeriodSeconds",
                 "resourceVersion"):  # fmt: skip
        if name in kept:
            meta[name] = kept[name]
        else:
            meta.pop(name, None)
    meta.pop("selfLink", None)
    if "managedFields" not in meta and "managedFields" in kept:
        meta["managedFields"] = kept["managedFields"]


def is_finished(obj: Object) -> bool:
    """A deleted object that nobody holds any more: it may go for good."""
    meta = obj["metadata"]
    if not meta.get("deletionTimestamp") or meta.get("finalizers"):
        return False
    if obj.get("apiVersion") != "v1":
        return not meta.get("deletionGracePeriodSeconds")
    spec = obj.get("spec")
    if type(spec) is dict and spec.get("finalizers"):  # namespaces and tenants
        return False
    if obj.get("kind") in ("Namespace", "Tenant"):
        return True
    # A pod in its grace period is the node agent's to end.
    return not meta.get("deletionGracePeriodSeconds")
