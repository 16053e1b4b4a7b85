"""NamespaceLifecycle and TenantExists: nothing is made where there is no place for it. Pure.

Each function takes what is known: the Tenant or Namespace object, or None when there is none.
"""

from __future__ import annotations

from typing import Any

from arktos_ray.api import errors
from arktos_ray.api.names import SYSTEM_TENANT

# These live as long as their tenant.
IMMORTAL = frozenset(("default", "kube-system", "kube-public"))

Object = dict[str, Any]


def is_terminating(place: Object) -> bool:
    """A Tenant or Namespace on its way out."""
    return (
        bool(place["metadata"].get("deletionTimestamp"))
        or (place.get("status") or {}).get("phase") == "Terminating"
    )


def check_exists(name: str, tenant: Object | None) -> None:
    if tenant is None:
        raise errors.NotFound(
            f'tenants "{name}" not found', details={"name": name, "kind": "tenants"}
        )


def check_tenant(name: str, tenant: Object | None, what: str = "") -> None:
    """Before a create in a tenant. `what`: the object, as `pods "web"`, for the message."""
    if name == SYSTEM_TENANT:
        return
    check_exists(name, tenant)
    assert tenant is not None
    if is_terminating(tenant):
        raise _ending("tenant", name, "TenantTerminating", "metadata.tenant", what)


def check_namespace(tenant: str, name: str, namespace: Object | None, what: str = "") -> None:
    """Before a create in a namespace."""
    if namespace is None:
        raise errors.NotFound(
            f'namespaces "{name}" not found', details={"name": name, "kind": "namespaces"}
        )
    if is_terminating(namespace):
        place = f"{tenant}/{name}"
        raise _ending("namespace", place, "NamespaceTerminating", "metadata.namespace", what)


def check_delete(tenant: str, name: str, tenant_terminating: bool) -> None:
    """Before the delete of a namespace."""
    if name in IMMORTAL and not tenant_terminating:
        raise errors.Forbidden(
            f'namespaces "{tenant}/{name}" is forbidden: this namespace may not be deleted',
            details={"name": f"{tenant}/{name}", "kind": "namespaces"},
        )


def check_delete_tenant(name: str) -> None:
    if name == SYSTEM_TENANT:
        raise errors.Forbidden(
            f'tenants "{name}" is forbidden: this tenant may not be deleted',
            details={"name": name, "kind": "tenants"},
        )


def _ending(kind: str, name: str, reason: str, field: str, what: str) -> errors.Forbidden:
    why = f"unable to create new content in {kind} {name} because it is being terminated"
    message = f"{what} is forbidden: {why}" if what else why
    # Clients of namespaces look for this cause, to give up instead of trying again.
    cause = {"reason": reason, "message": f"{kind} {name} is being terminated", "field": field}
    return errors.Forbidden(message, details={"causes": [cause]})
