"""finalize: who still holds a namespace or tenant that is being deleted."""

from __future__ import annotations

from arktos_ray.api import codec
from arktos_ray.api.calls import Call, Reply
from arktos_ray.api.scheme import Resource
from arktos_ray.apiserver.partition import (
    MODIFIED,
    Partition,
    conflict,
    is_dry_run,
    key_of,
    reply_with,
)
from arktos_ray.apiserver.verbs.update import is_finished


def finalize(partition: Partition, call: Call, resource: Resource) -> Reply:
    wanted = codec.decode_object(call.body, call.content_type, resource, "Ignore").obj
    record = partition.latest(resource, call)
    obj = record.decode()
    revision = (wanted.get("metadata") or {}).get("resourceVersion")
    if revision and revision != obj["metadata"]["resourceVersion"]:
        raise conflict(resource, call.name, MODIFIED)
    obj.setdefault("spec", {})["finalizers"] = (wanted.get("spec") or {}).get("finalizers") or []
    if not is_dry_run(call):
        key = key_of(call)
        if is_finished(obj):
            partition.remove(resource, key, obj)
        else:
            partition.save(resource, key, obj)
    return reply_with(200, obj)
