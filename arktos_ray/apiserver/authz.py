"""May they? The tenant boundary; roles within a tenant come with RBAC.

Texts and rules: spec/multitenancy.md 7. A user of the system tenant in system:masters may
everything; any other user everything in their own tenant, and nothing outside it.
"""

from __future__ import annotations

from arktos_ray.api.calls import Call, User
from arktos_ray.api.errors import Forbidden
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.api.scheme import Resource

SUPER_GROUP = "system:masters"


def authorize(call: Call, resource: Resource) -> None:
    """Raises Forbidden, in the same words whether or not the object exists."""
    user = call.user
    if user.trusted:
        return
    if user.tenant == SYSTEM_TENANT:
        if SUPER_GROUP in user.groups:
            return
    elif user.tenant and resource.tenanted and call.tenant == user.tenant:
        return  # Nobody's tenant is "": that is every tenant's prefix.
    raise refusal(call, resource, user)


def refusal(call: Call, resource: Resource, user: User) -> Forbidden:
    what = resource.plural + (f"/{call.subresource}" if call.subresource else "")
    if call.namespace and resource.gvr != "namespaces":
        where = f'in the namespace "{call.namespace}"'
    elif call.tenant:
        where = f'in the tenant "{call.tenant}"'
    else:
        where = "at the cluster scope"
    subject = resource.gvr + (f' "{call.name}"' if call.name else "")
    return Forbidden(
        f'{subject} is forbidden: User "{user.name}" cannot {call.verb} resource "{what}"'
        f' in API group "{resource.group}" {where}',
        details={"name": call.name, "group": resource.group, "kind": resource.plural},
    )
