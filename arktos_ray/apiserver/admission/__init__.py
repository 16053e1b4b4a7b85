"""What a partition asks of an object beyond its own validity: the rules, in the order they run.

Each rule is a pure function in its own file; this file gives it what it needs to know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arktos_ray.api import errors
from arktos_ray.api.calls import Call
from arktos_ray.api.kinds import services
from arktos_ray.api.kinds.config import TOKEN_TYPE
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.api.scheme import RBAC, Resource
from arktos_ray.apiserver import escalation
from arktos_ray.apiserver.admission import (
    limit_ranger,
    namespace,
    priority,
    service_account,
    token_secret,
    tolerations,
)

if TYPE_CHECKING:
    from arktos_ray.apiserver.partition import Partition

Object = dict[str, Any]


def on_create(partition: Partition, call: Call, resource: Resource, obj: Object) -> tuple[str, ...]:
    """Complete the object; warnings for the client. Raises a Failure."""
    _lifecycle(partition, call, resource)
    if resource.gvr == "pods":
        tolerations.apply(obj)
        service_account.apply(obj)
        priority.apply(obj)
        limits = partition.store.table("limitranges")
        if len(limits):
            ranges = [r.decode() for r in limits.range(f"{call.tenant}/{call.namespace}/")]
            if ranges:
                limit_ranger.apply(obj, ranges)
    elif resource.gvr == "services":
        _give_cluster_ip(partition, call, obj)
    elif resource.gvr == "secrets":
        if obj.get("type") == TOKEN_TYPE:
            token_secret.apply(partition, obj)
    elif resource.group == RBAC:
        escalation.check(partition.rights, call, resource, obj, None)
    return ()


def on_update(
    partition: Partition, call: Call, resource: Resource, new: Object, old: Object
) -> tuple[str, ...]:
    if resource.gvr == "services" and not call.subresource:
        _give_cluster_ip(partition, call, new)
    elif resource.gvr == "secrets":
        if new.get("type") == TOKEN_TYPE:
            token_secret.apply(partition, new)
    elif resource.group == RBAC:
        escalation.check(partition.rights, call, resource, new, old)
    return ()


def on_delete(partition: Partition, call: Call, resource: Resource, obj: Object) -> None:
    name = obj["metadata"]["name"]
    if resource.gvr == "tenants" and name == SYSTEM_TENANT:
        raise errors.Forbidden('tenants "system" is forbidden: this tenant may not be deleted')
    if resource.gvr == "namespaces":
        tenant = partition.tenant(call.tenant)
        terminating = tenant is not None and bool(tenant["metadata"].get("deletionTimestamp"))
        namespace.check_delete(obj["metadata"].get("tenant", ""), name, terminating)


def _lifecycle(partition: Partition, call: Call, resource: Resource) -> None:
    if not resource.tenanted:
        return
    tenant = partition.tenant(call.tenant)
    if call.tenant != SYSTEM_TENANT:
        namespace.check_tenant(call.tenant, tenant)
    if resource.namespaced:
        namespace.check_namespace(
            call.tenant, call.namespace, partition.namespace(call.tenant, call.namespace)
        )


def _give_cluster_ip(partition: Partition, call: Call, service: Object) -> None:
    """A virtual address for the kinds of service that have one. Raises Invalid.

    It is taken when the service is saved, which may never happen.
    """
    spec = service["spec"]
    if spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None":
        return
    path = f"{call.tenant}/{call.namespace}/{service['metadata']['name']}"
    ips, address = partition.service_ips, spec.get("clusterIP", "")
    if address:
        if not ips.contains(address) or not ips.is_free(address, path):
            why = (
                "provided IP is already allocated"
                if ips.contains(address)
                else ("provided IP is not in the valid range")
            )
            raise errors.Invalid(
                f'Service "{service["metadata"]["name"]}" is invalid: spec.clusterIPs: '
                f'Invalid value: ["{address}"]: failed to allocate IP {address}: {why}'
            )
    else:
        allocated = ips.choose(path)
        if allocated is None:
            raise errors.Internal("failed to allocate a serviceIP: range is full")
        address = allocated
    services.assign(service, address)
