"""delete and deletecollection: preconditions, grace, finalizers, propagation.

An object that somebody still holds (a finalizer, a node agent in its grace period) is only marked;
the garbage collector and the agents do the rest and remove it by update or a last delete.
"""

from __future__ import annotations

import itertools
from typing import Any

from arktos_ray.api import codec
from arktos_ray.api.calls import Call, Reply
from arktos_ray.api.custom import names
from arktos_ray.api.errors import BadRequest, Conflict, Invalid
from arktos_ray.api.names import Key
from arktos_ray.api.scheme import DEFINITIONS, Resource
from arktos_ray.apiserver import admission
from arktos_ray.apiserver.admission.matching import DELETE
from arktos_ray.apiserver.conversions import converts
from arktos_ray.apiserver.hooks import Apart
from arktos_ray.apiserver.partition import (
    Object,
    Partition,
    conflict,
    is_dry_run,
    key_of,
    reply_with,
    shown,
)
from arktos_ray.apiserver.verbs.list import list_body, number_of, select
from arktos_ray.apiserver.verbs.update import is_finished
from arktos_ray.base.clock import parse_rfc3339, rfc3339
from arktos_ray.store.records import Record
from arktos_ray.store.store import OBJECT_BYTES_MAX

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
_POLICIES = ("", "Background", "Foreground", "Orphan")
_POD_GRACE_S = 30
# Ten years: beyond it dates have no four digits some day, and nobody means it.
_GRACE_S_MAX = 315_360_000
# Deleting these answers with the object itself; the others with a Status.
_RETURNS_OBJECT = frozenset({"pods", "services", "serviceaccounts", "namespaces", "tenants"})


def delete(partition: Partition, call: Call, resource: Resource) -> Reply:
    options = codec.decode_options(call.body, call.content_type)
    _query_options(call, options)
    dry_run = is_dry_run(call, options)
    if resource.gvr == DEFINITIONS:
        partition.customs.check_change(call, call.name)
    record = partition.latest(resource, call)
    obj = record.decode()
    check_preconditions(resource, call.name, obj, options)
    partition.hooks.delete(partition, call, resource, obj, record.revision)
    admission.validate(partition, call, resource, None, obj)
    left = delete_one(partition, resource, key_of(call), record, obj, options, dry_run)
    if left is not None and not converts(resource):
        return reply_with(200, left)
    if resource.gvr in _RETURNS_OBJECT:
        return reply_with(200, obj)
    details: dict[str, Any] = {"name": call.name, "kind": resource.plural}
    if resource.group:
        details["group"] = resource.group
    details["uid"] = obj["metadata"]["uid"]
    return reply_with(
        200,
        {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": details,
        },
    )  # fmt: skip


def delete_one(
    partition: Partition, resource: Resource, key: Key, record: Record, obj: Object,
    options: dict[str, Any], dry_run: bool,
) -> Object | Record | None:  # fmt: skip
    """Mark or remove; what is left of the object, None when it is gone."""
    meta = obj["metadata"]
    before = (
        meta.get("deletionTimestamp"), meta.get("deletionGracePeriodSeconds"),
        meta.get("finalizers"),
    )  # fmt: skip
    _hold_for_dependents(meta, options)
    grace_s = _grace(resource, obj, options)
    now = partition.clock.now()
    if meta.get("deletionTimestamp"):
        # A second delete may shorten the wait if it says so, never lengthen it.
        asked = options.get("gracePeriodSeconds") is not None
        if asked and grace_s < meta.get("deletionGracePeriodSeconds", 0):
            started = parse_rfc3339(meta["deletionTimestamp"]) - meta["deletionGracePeriodSeconds"]
            meta["deletionTimestamp"] = rfc3339(max(started + grace_s, now))
            meta["deletionGracePeriodSeconds"] = grace_s
    else:
        meta["deletionTimestamp"] = rfc3339(now + grace_s)
        meta["deletionGracePeriodSeconds"] = grace_s
        if resource.gvr == DEFINITIONS:
            # Its objects go first (controllers/customresources).
            meta["finalizers"] = [*(meta.get("finalizers") or ()), names.CLEANUP]
            obj["status"] = names.terminating(obj.get("status") or {}, partition.now())
        if resource.has_generation:
            meta["generation"] = meta.get("generation", 0) + 1
    if resource.gvr in ("namespaces", "tenants"):
        meta.pop("deletionGracePeriodSeconds", None)
        obj.setdefault("status", {})["phase"] = "Terminating"
        if (obj.get("spec") or {}).get("finalizers") and before[0]:
            raise conflict(
                resource, key.name,
                "The system is ensuring all content is removed. "
                "Upon completion, this object will automatically be purged by the system.",
            )  # fmt: skip
    if is_finished(obj):
        if not dry_run:
            partition.remove(resource, key, obj)
        return None
    after = (
        meta.get("deletionTimestamp"), meta.get("deletionGracePeriodSeconds"),
        meta.get("finalizers"),
    )  # fmt: skip
    if before == after:
        return record
    # However large it is, it can be deleted: the mark has room beyond the limit.
    return obj if dry_run else partition.save(resource, key, obj, 2 * OBJECT_BYTES_MAX)


def deletecollection(partition: Partition, call: Call, resource: Resource) -> Reply:
    options = codec.decode_options(call.body, call.content_type)
    _query_options(call, options)
    dry_run = is_dry_run(call, options)
    if partition.hooks.concerns(call.tenant, DELETE, resource) or converts(resource):
        raise Apart
    bodies: list[bytes] = []
    for record in selected(partition, call, resource):
        latest = partition.store.latest(resource.gvr, record.path)
        if latest is None:
            continue
        obj = latest.decode()
        try:
            admission.validate(partition, call, resource, None, obj)
            delete_one(partition, resource, latest.key, latest, obj, options, dry_run)
        except Conflict:
            continue  # Already on its way.
        bodies.append(shown(resource, latest.body))
    return collected(partition, resource, bodies)


def selected(partition: Partition, call: Call, resource: Resource) -> list[Record]:
    """The objects of a collection that is to be deleted."""
    limit = number_of(call.options, "limit")
    return list(itertools.islice(select(partition, call, resource), limit or None))


def collected(partition: Partition, resource: Resource, bodies: list[bytes]) -> Reply:
    return Reply(
        200, list_body(resource, bodies, {"resourceVersion": str(partition.store.revision)})
    )


def _query_options(call: Call, options: dict[str, Any]) -> None:
    """Older clients put some of the options into the URL."""
    if "gracePeriodSeconds" in call.options and "gracePeriodSeconds" not in options:
        text = call.options["gracePeriodSeconds"]
        if not text.removeprefix("-").isdecimal() or len(text) > 19:
            raise BadRequest(f'gracePeriodSeconds: Invalid value: "{text}": must be a number')
        options["gracePeriodSeconds"] = int(text)
    for name in ("propagationPolicy", "orphanDependents"):
        if name in call.options and name not in options:
            value = call.options[name]
            options[name] = value == "true" if name == "orphanDependents" else value
    policy = options.get("propagationPolicy") or ""
    wrong = ""
    if policy not in _POLICIES:
        shown = ", ".join(f'"{one}"' for one in _POLICIES if one)
        wrong = f'Unsupported value: "{policy}": supported values: {shown}'
    elif policy and options.get("orphanDependents") is not None:
        wrong = "Invalid value: orphanDependents and propagationPolicy cannot be both set"
    if wrong:
        raise Invalid(f'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: {wrong}')


def check_preconditions(
    resource: Resource, name: str, obj: Object, options: dict[str, Any]
) -> None:
    meta, wanted = obj["metadata"], options.get("preconditions") or {}
    if wanted.get("uid") and wanted["uid"] != meta["uid"]:
        raise conflict(
            resource, name,
            f"Precondition failed: UID in precondition: {wanted['uid']}, "
            f"UID in object meta: {meta['uid']}",
        )  # fmt: skip
    revision = wanted.get("resourceVersion")
    if revision and revision != meta["resourceVersion"]:
        raise conflict(
            resource, name,
            f"Precondition failed: ResourceVersion in precondition: {revision}, "
            f"ResourceVersion in object meta: {meta['resourceVersion']}",
        )  # fmt: skip


def _hold_for_dependents(meta: dict[str, Any], options: dict[str, Any]) -> None:
    policy = options.get("propagationPolicy", "")
    if options.get("orphanDependents") is True:
        policy = "Orphan"
    finalizers = [f for f in meta.get("finalizers") or [] if f not in (FOREGROUND, ORPHAN)]
    if policy == "Foreground":
        finalizers.append(FOREGROUND)
    elif policy == "Orphan":
        finalizers.append(ORPHAN)
    elif not policy:
        finalizers = meta.get("finalizers") or []
    if finalizers:
        meta["finalizers"] = finalizers
    else:
        meta.pop("finalizers", None)


def _grace(resource: Resource, obj: Object, options: dict[str, Any]) -> int:
    """Seconds until the object may go; only pods on a node have any."""
    if resource.gvr != "pods":
        return 0
    spec, phase = obj.get("spec") or {}, (obj.get("status") or {}).get("phase")
    if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
        return 0
    asked = options.get("gracePeriodSeconds")
    if asked is None:
        asked = spec.get("terminationGracePeriodSeconds", _POD_GRACE_S)
    # Negative values mean at once, but politely (upstream: one second).
    return 1 if asked < 0 else min(int(asked), _GRACE_S_MAX)
