"""Nobody gives more than they have: who makes roles and bindings holds what these give.

Or is allowed the verb `escalate` on the role, or `bind` on the role that a binding names; or is
above roles (system:masters of the system tenant, our own parts). Rules and texts as in Kubernetes.

An operator elsewhere than in the system tenant needs `escalate` or `bind`: what else they hold is
not known here (docs/decisions/0016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from arktos_ray.api import errors
from arktos_ray.api.calls import Call
from arktos_ray.api.scheme import BY_GVR, Resource
from arktos_ray.apiserver import authz
from arktos_ray.apiserver.rights import RightsOfTenants
from arktos_ray.tenancy import rbac, roles
from arktos_ray.tenancy.rbac import Rule

Object = dict[str, Any]

_EVERYTHING = rbac.read_rules(roles.EVERYTHING)
_ROLES = (roles.ROLES, roles.CLUSTER_ROLES)
# What the garbage collector writes gives nobody anything.
_OF_GARBAGE = ("ownerReferences", "finalizers", "managedFields", "resourceVersion")


def check(
    rights: RightsOfTenants, call: Call, resource: Resource, obj: Object, old: Object | None
) -> None:
    """Before a role or binding is written. Raises Forbidden, or NotFound when its role is."""
    if call.user.trusted or roles.is_super(call.user):
        return
    if old is not None and _gist(obj) == _gist(old):
        return
    if resource.gvr in _ROLES:
        _check_role(rights, call, resource, obj, old)
    else:
        _check_binding(rights, call, resource, obj)


def _gist(obj: Object) -> Object:
    meta = {k: v for k, v in obj["metadata"].items() if k not in _OF_GARBAGE}
    return {**obj, "metadata": meta}


def _check_role(
    rights: RightsOfTenants, call: Call, resource: Resource, obj: Object, old: Object | None
) -> None:
    name = obj["metadata"].get("name", "")
    if _may(rights, call, resource, "escalate", name):
        return
    _check_held(rights, call, resource, name, rbac.read_rules(obj.get("rules")))
    if "aggregationRule" in obj or (old is not None and "aggregationRule" in old):
        # It can gather anything.
        held = rights.of(call.user.tenant).rules_of(call.user)
        if rbac.missing(held, _EVERYTHING):
            why = "must have cluster-admin privileges to use the aggregationRule"
            raise _forbidden(resource, name, why)


def _check_binding(rights: RightsOfTenants, call: Call, resource: Resource, obj: Object) -> None:
    ref = obj.get("roleRef") or {}
    cluster, to = ref.get("kind") == "ClusterRole", ref.get("name") or ""
    bound = BY_GVR[roles.CLUSTER_ROLES if cluster else roles.ROLES]
    if _may(rights, call, bound, "bind", to):
        return
    rules = rights.of(call.tenant).rules_of_role(cluster, to, call.namespace)
    if rules is None:
        raise errors.NotFound(
            f'{bound.gvr} "{to}" not found',
            details={"name": to, "group": bound.group, "kind": bound.plural},
        )
    _check_held(rights, call, resource, obj["metadata"].get("name", ""), rules)


def _may(rights: RightsOfTenants, call: Call, resource: Resource, verb: str, name: str) -> bool:
    # A ClusterRole that is bound in a namespace may be so by a role of that namespace.
    asked = replace(call, verb=verb, gvr=resource.gvr, name=name, subresource="", options={})
    return authz.allowed(rights, asked, resource)


def _check_held(
    rights: RightsOfTenants, call: Call, resource: Resource, name: str, rules: Sequence[Rule]
) -> None:
    user = call.user
    held = () if call.granted else rights.of(user.tenant).rules_of(user, call.namespace)
    try:
        lacks = rbac.missing(held, rules)
    except rbac.TooWide:
        raise _forbidden(
            resource, name,
            "its rules are too many, or too wide, to be compared with those of its maker;"
            " split the role",
        ) from None  # fmt: skip
    if lacks:
        told = "\n".join(lacks)
        raise _forbidden(
            resource, name,
            f'user "{user.name}" (groups={rbac.quoted(user.groups)}) is attempting to grant RBAC'
            f" permissions not currently held:\n{told}",
        )  # fmt: skip


def _forbidden(resource: Resource, name: str, why: str) -> errors.Forbidden:
    return errors.Forbidden(
        f'{resource.gvr} "{name}" is forbidden: {why}',
        details={"name": name, "group": resource.group, "kind": resource.plural},
    )
