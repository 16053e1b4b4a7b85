"""What a tenant lacks, or still holds. Pure; the rules are in spec/multitenancy.md 5.1 and 5.2."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from arktos_ray.api.scheme import BY_GVR, RESOURCES, Home, Scope
from arktos_ray.controllers import ending
from arktos_ray.controllers.ending import Empty, Finish

Object = dict[str, Any]

FINALIZER = "arktos"
NAMESPACES = ("default", "kube-system", "kube-public")
ROLE, BINDING = "admin-role", "admin-role-binding"
_RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True, slots=True)
class Create:
    gvr: str
    body: Object
    why: str


def contents() -> tuple[str, ...]:
    """The resources a tenant holds directly. Namespaces take what is inside along."""
    return tuple(
        row.gvr
        for row in RESOURCES
        if row.scope is Scope.TENANT
        and not row.virtual
        and row.home is Home.TENANT_PARTITION
        and {"list", "delete"} <= set(row.verbs)
    )


def furnish(tenant: Object, namespaces: Collection[str]) -> list[Create]:
    """namespaces: those it has. Roles are always asked for; that they exist already is fine."""
    name = tenant["metadata"]["name"]
    actions = [
        Create(
            "namespaces",
            {
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": each, "tenant": name},
            },
            "every tenant has it",
        )
        for each in NAMESPACES
        if each not in namespaces
    ]  # fmt: skip
    for gvr, body in (
        (f"clusterroles.{_RBAC}", _role(name)),
        (f"clusterrolebindings.{_RBAC}", _binding(name)),
    ):
        if gvr in BY_GVR:
            actions.append(Create(gvr, body, "the tenant's administrator needs it"))
    return actions


def plan(tenant: Object, left: Mapping[str, bool]) -> Empty | Finish | None:
    """left: tenant-scoped resource -> whether the tenant still holds such objects."""
    return ending.plan(tenant, FINALIZER, left, "nothing is left of it")


def _role(tenant: str) -> Object:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": ROLE, "tenant": tenant},
        "rules": [
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
            {"verbs": ["*"], "nonResourceURLs": ["*"]},
        ],
    }


def _binding(tenant: str) -> Object:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": BINDING, "tenant": tenant},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": ROLE},
        "subjects": [{"kind": "User", "apiGroup": _RBAC, "name": "admin"}],
    }
