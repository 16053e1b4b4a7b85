"""scale: the number of replicas of anything that has one, as autoscaling/v1 Scale."""

from __future__ import annotations

from typing import Any

import orjson

from arktos_ray.api import codec, errors, selectors
from arktos_ray.api import patch as patches
from arktos_ray.api.calls import Call, Reply
from arktos_ray.api.custom import paths
from arktos_ray.api.scheme import Resource
from arktos_ray.apiserver.admission.matching import UPDATE
from arktos_ray.apiserver.conversions import converts, opened
from arktos_ray.apiserver.partition import (
    MODIFIED,
    Object,
    Partition,
    conflict,
    is_dry_run,
    key_of,
    not_found,
    reply_with,
    sent_form,
)
from arktos_ray.apiserver.verbs import patch as patching
from arktos_ray.apiserver.verbs.update import replace
from arktos_ray.store.records import Record

_SCHEMA = "k8s.io.api.autoscaling.v1.Scale"
_REPLICAS_MAX = 2**31 - 1


def scale_of(resource: Resource, obj: Object) -> Object:
    if resource.custom is not None:
        return _custom_scale(resource, obj)
    status: dict[str, Any] = {"replicas": obj.get("status", {}).get("replicas", 0)}
    selector = selectors.from_label_selector(obj["spec"].get("selector"))
    if not selector.empty:
        status["selector"] = str(selector)
    return _scale(obj["metadata"], obj["spec"].get("replicas", 0), status)


def _custom_scale(resource: Resource, obj: Object) -> Object:
    where = resource.custom.scale
    wanted = paths.get(obj, where.replicas)
    if wanted is None:
        path = ".".join(where.replicas)
        raise errors.Internal(f'the spec replicas field ".{path}" does not exist')
    status: dict[str, Any] = {"replicas": paths.get(obj, where.status_replicas) or 0}
    selector = paths.get(obj, where.selector) if where.selector else None
    if isinstance(selector, str) and selector:
        status["selector"] = selector
    return _scale(obj["metadata"], wanted, status)


def _scale(meta: Object, replicas: int, status: Object) -> Object:
    kept = ("name", "namespace", "tenant", "uid", "hashKey", "resourceVersion",
            "creationTimestamp")  # fmt: skip
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: meta[name] for name in kept if name in meta},
        "spec": {"replicas": replicas},
        "status": status,
    }


def get_scale(partition: Partition, call: Call, resource: Resource) -> Reply:
    record = partition.store.get(resource.gvr, key_of(call).path())
    if record is None:
        raise not_found(resource, call.name)
    return reply_with(200, scale_of(resource, _shown(resource, record)))


def update_scale(partition: Partition, call: Call, resource: Resource) -> Reply:
    record = partition.latest(resource, call)
    old = opened(resource, record)
    current = scale_of(resource, _shown(resource, record))
    if call.verb == "patch":
        form = call.content_type.partition(";")[0].strip()
        try:
            change = orjson.loads(call.body or b"{}")
        except orjson.JSONDecodeError as error:
            raise errors.BadRequest(f"the patch is not valid JSON: {error}") from error
        if form == patching.JSON_PATCH:
            wanted = patches.json_patch(current, change)
        elif form in (patching.MERGE_PATCH, patching.STRATEGIC_PATCH, patching.APPLY_PATCH):
            wanted = patches.merge_patch(current, change)
        else:
            raise errors.UnsupportedMediaType(f"a scale cannot be patched with {form}")
    else:
        wanted = codec.decode(call.body, call.content_type, _SCHEMA).obj
    for part in ("metadata", "spec"):
        if not isinstance(wanted.get(part) or {}, dict):
            raise errors.BadRequest(f"{part} of a Scale is an object")
    revision = (wanted.get("metadata") or {}).get("resourceVersion")
    if revision and revision != old["metadata"]["resourceVersion"]:
        raise conflict(resource, call.name, MODIFIED)
    wanted = {**current, "spec": wanted.get("spec") or {}}
    kind = ("autoscaling", "v1", "Scale")
    partition.hooks.agree(partition, call, resource, UPDATE, wanted, current, record.revision, kind)
    replicas = (wanted.get("spec") or {}).get("replicas", 0)
    if type(replicas) is not int or not 0 <= replicas <= _REPLICAS_MAX:
        raise errors.Invalid(
            f'Scale.autoscaling "{call.name}" is invalid: spec.replicas: Invalid value: '
            f"{replicas!r}: must be greater than or equal to 0"
        )
    new = _shown(resource, record)
    where = ("spec", "replicas") if resource.custom is None else resource.custom.scale.replicas
    paths.put(new, where, replicas)
    plain = Call(
        "update", call.gvr, call.tenant, call.namespace, call.name, "", call.options, b"",
        call.content_type, "", call.user, call.user_agent,
    )  # fmt: skip
    if converts(resource):
        new = sent_form(plain, resource, new, lambda: record)
    reply = replace(
        partition, plain, resource, record, old, new, is_dry_run(call), (), reviewed=True
    )
    made = orjson.loads(reply.body)
    if converts(resource):
        # It is stored in a version that may have replicas elsewhere.
        done = _scale(made["metadata"], replicas, current["status"])
    else:
        done = scale_of(resource, made)
    return reply_with(200, done, reply.warnings)


def _shown(resource: Resource, record: Record) -> Object:
    """In the version whose paths say where the replicas are. Raises Unconverted."""
    if not converts(resource) or resource.form is None:
        return record.decode()
    return resource.form.from_stored(record.decode())
