"""get: the stored bytes, or a table or the metadata of them."""

from __future__ import annotations

from arktos_ray.api.calls import Call, Reply
from arktos_ray.api.scheme import DEFINITIONS, Resource
from arktos_ray.apiserver.conversions import completed
from arktos_ray.apiserver.partition import Partition, key_of, not_found, reply_with
from arktos_ray.apiserver.verbs.list import metadata_only, rendered_table


def get(partition: Partition, call: Call, resource: Resource) -> Reply:
    record = partition.store.get(resource.gvr, key_of(call).path())
    if resource.gvr == DEFINITIONS:
        record = partition.customs.shared(call) or record
    if record is None:
        raise not_found(resource, call.name)
    if record.revision < resource.since:
        record = completed(resource, record)
    if call.accept == "Table":
        return Reply(200, rendered_table(partition, call, resource, [record], {}))
    if call.accept == "PartialObjectMetadata":
        return Reply(200, metadata_only(record))
    return reply_with(200, record)
