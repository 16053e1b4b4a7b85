"""binding: a pod gets its node, once. Also eviction, which is a delete that may be refused."""

from __future__ import annotations

from typing import Any

from arktos_ray.api import codec, errors
from arktos_ray.api.calls import Call, Reply
from arktos_ray.api.scheme import Resource
from arktos_ray.apiserver.admission.matching import CREATE
from arktos_ray.apiserver.partition import (
    Partition,
    conflict,
    is_dry_run,
    key_of,
    parsed,
    reply_with,
)
from arktos_ray.apiserver.verbs.delete import check_preconditions, delete_one

_SUCCESS = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


def bind(partition: Partition, call: Call, resource: Resource) -> Reply:
    """Budget: 30 us a pod."""
    if call.user.trusted:
        binding = parsed(call)
    else:
        binding = codec.decode(call.body, call.content_type, "k8s.io.api.core.v1.Binding").obj
    record = partition.latest(resource, call)
    kind = ("", "v1", "Binding")
    partition.hooks.agree(partition, call, resource, CREATE, binding, None, record.revision, kind)
    partition.policies.check(partition, call, resource, binding, None, kind)
    target: dict[str, Any] = binding.get("target") or {}
    node = target.get("name", "")
    if not node:
        raise errors.Invalid(
            f'Binding "{call.name}" is invalid: target.name: Required value',
        )
    pod = record.decode()
    meta = pod["metadata"]
    uid = (binding.get("metadata") or {}).get("uid")
    if uid and uid != meta["uid"]:
        raise conflict(
            resource, call.name,
            f"Precondition failed: UID in precondition: {uid}, UID in object meta: {meta['uid']}",
        )  # fmt: skip
    if meta.get("deletionTimestamp"):
        raise conflict(resource, call.name, "pod is being deleted, cannot be assigned to a host")
    if record.node:
        raise conflict(
            resource, call.name, f'pod {call.name} is already assigned to node "{record.node}"'
        )
    if pod["spec"].get("schedulingGates"):
        raise conflict(resource, call.name, "pod has non-empty .spec.schedulingGates")
    pod["spec"]["nodeName"] = node
    status = pod.setdefault("status", {})
    conditions = [c for c in status.get("conditions") or [] if c["type"] != "PodScheduled"]
    conditions.append(
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": partition.now()}
    )
    status["conditions"] = conditions
    annotations = (binding.get("metadata") or {}).get("annotations")
    if annotations:
        meta.setdefault("annotations", {}).update(annotations)
    if not is_dry_run(call):
        partition.save(resource, key_of(call), pod)
    return reply_with(201, {**_SUCCESS, "code": 201})


def evict(partition: Partition, call: Call, resource: Resource) -> Reply:
    """policy/v1 Eviction. PodDisruptionBudgets come with their kind."""
    eviction = codec.decode(call.body, call.content_type, "k8s.io.api.policy.v1.Eviction").obj
    options = eviction.get("deleteOptions") or {}
    record = partition.latest(resource, call)
    pod = record.decode()
    check_preconditions(resource, call.name, pod, options)
    kind = ("policy", "v1", "Eviction")
    partition.hooks.agree(partition, call, resource, CREATE, eviction, None, record.revision, kind)
    partition.policies.check(partition, call, resource, eviction, None, kind)
    delete_one(partition, resource, key_of(call), record, pod, options, is_dry_run(call, options))
    return reply_with(201, {**_SUCCESS, "code": 201})
