"""May they? The tenant boundary first, then RBAC. Texts and rules: spec/multitenancy.md 7.

A user of the system tenant in system:masters may everything. Users of other tenants never leave
their own, and never reach what belongs to the whole cluster, whatever their roles say. Inside, the
roles and bindings of the user's tenant decide, which are in the partition that serves it. Only for
users of the system tenant others ask that partition beforehand (`Call.granted`,
docs/decisions/0016).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from arktos_ray.api import selectors
from arktos_ray.api.calls import Call, User
from arktos_ray.api.errors import BadRequest, Forbidden, Unauthorized
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.api.scheme import BY_GVR, Resource
from arktos_ray.apiserver.rights import RightsOfTenants
from arktos_ray.tenancy import nodes, quota
from arktos_ray.tenancy.nodes import NODES_GROUP
from arktos_ray.tenancy.roles import CLUSTER_ROLES, ROLES, SUPER_GROUP, is_super

_CLUSTER_PATHS = ("/metrics", "/arktos")


def authorize(rights: RightsOfTenants, call: Call, resource: Resource) -> None:
    """Raises Forbidden, in the same words whether or not the object exists; Unauthorized for a
    token whose account is gone.

    0.1 us for our own parts, 1.4 for the administrator of a tenant.
    """
    user = call.user
    if user.trusted:
        return
    if user.tenant in rights.suspended:
        raise quota.suspended(user.tenant)
    if user.tenant == SYSTEM_TENANT:
        if SUPER_GROUP in user.groups or call.verb in call.granted:
            return
    elif not user.tenant or not resource.tenanted or call.tenant != user.tenant:
        # Nobody's tenant is "": that is every tenant's prefix.
        raise refusal(call, resource, user)
    if user.credential and not call.granted:  # Else its own partition has looked.
        rights.check_credential(user)
    elif NODES_GROUP in user.groups and _node_may(rights, call):
        return
    # As in Kubernetes, a namespace is in itself: roles that are given there may be about it.
    namespace = call.name if resource.gvr == "namespaces" else call.namespace
    of_tenant = rights.of(user.tenant)
    if of_tenant.may(
        user, call.verb, resource.group, resource.plural, call.subresource, namespace, call.name
    ):
        return
    name = _selected(call)
    if name and of_tenant.may(
        user, call.verb, resource.group, resource.plural, call.subresource, namespace, name
    ):
        return
    raise refusal(call, resource, user, of_tenant.lacking(user, namespace))


def _node_may(rights: RightsOfTenants, call: Call) -> bool:
    """Whether its pods need this of the agent of a node. What is left are roles as for all."""
    node = nodes.node_of(call.user)
    if not node:
        return False
    selected: dict[str, str] = {}
    text = call.options.get("fieldSelector", "")
    if text and call.verb in ("list", "watch"):
        fields = selectors.parse_fields(text)
        for name in ("metadata.name", "spec.nodeName"):
            value = fields.required(name)
            if value is not None:
                selected[name] = value
    found = nodes.ruling(
        node, call.verb, call.gvr, call.subresource, call.tenant, call.namespace, call.name,
        selected,
    )  # fmt: skip
    if isinstance(found, nodes.Need):
        return rights.node_needs(node, call.tenant, call.namespace, found)
    return found


def allowed(rights: RightsOfTenants, call: Call, resource: Resource) -> bool:
    try:
        authorize(rights, call, resource)
    except (Forbidden, Unauthorized):
        return False
    return True


def granted(
    rights: RightsOfTenants, call: Call, resource: Resource, verbs: Iterable[str]
) -> list[str]:
    """For another partition: the call's own verb, or Forbidden, and which others are allowed."""
    authorize(rights, call, resource)
    more = [verb for verb in verbs if _also(rights, call, resource, verb)]
    return [call.verb, *more]


def _also(rights: RightsOfTenants, call: Call, resource: Resource, verb: str) -> bool:
    if verb != "bind":
        return allowed(rights, replace(call, verb=verb), resource)
    # It is about the role, not about the binding, and which one that is nobody reads here: all.
    return all(
        allowed(rights, replace(call, verb=verb, gvr=gvr, name="", subresource=""), BY_GVR[gvr])
        for gvr in (ROLES, CLUSTER_ROLES)
    )


def authorize_also(
    rights: RightsOfTenants, call: Call, resource: Resource, verb: str, name: str = ""
) -> None:
    """The same for another verb that the call amounts to: an apply that creates, say."""
    other = replace(call, verb=verb, name=name or call.name, subresource="")
    authorize(rights, other, resource)


def may(
    rights: RightsOfTenants, user: User, verb: str, group: str, plural: str, subresource: str,
    namespace: str, name: str, path: str,
) -> bool:  # fmt: skip
    """Whether a role allows it, or the user is above roles; inside of the user's own tenant."""
    if user.trusted or is_super(user):
        return True
    if user.tenant in rights.suspended:
        return False
    of_tenant = rights.of(user.tenant)
    if path:
        return of_tenant.may_path(user, verb, path)
    return of_tenant.may(user, verb, group, plural, subresource, namespace, name)


def is_of_cluster(path: str) -> bool:
    """Whether the ingress keeps this path from users of tenants, whatever their roles say."""
    return any(path == one or path.startswith(one + "/") for one in _CLUSTER_PATHS)


def _selected(call: Call) -> str:
    """The one name that a list or watch is about, so that a role may name it."""
    text = call.options.get("fieldSelector", "")
    if call.name or call.verb not in ("list", "watch") or "metadata.name" not in text:
        return ""
    try:
        return selectors.parse_fields(text).required("metadata.name") or ""
    except BadRequest:
        return ""


def refusal(call: Call, resource: Resource, user: User, why: str = "") -> Forbidden:
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
        f' in API group "{resource.group}" {where}' + (f": {why}" if why else ""),
        details={"name": call.name, "group": resource.group, "kind": resource.plural},
    )
