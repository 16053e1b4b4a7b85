"""What a tenant lacks, or still holds. Pure; the rules are in spec/multitenancy.md 5.1 and 5.2."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from arktos_ray.api import networks
from arktos_ray.api.scheme import RESOURCES, Home, Scope
from arktos_ray.controllers import ending
from arktos_ray.controllers.ending import Empty, Finish
from arktos_ray.tenancy import roles

Object = dict[str, Any]

FINALIZER = "arktos"
NAMESPACES = ("default", "kube-system", "kube-public")


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


def furnish(
    tenant: Object, namespaces: Collection[str], network: Object | None = None
) -> list[Create]:
    """namespaces: those it has. The others are always asked for; that they exist already is fine.
    network: the template of its default network, if tenants begin with one."""
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
    actions += [
        Create(gvr, body, "the tenant's administrator needs it")
        for gvr, body in roles.of_a_tenant(name)
    ]
    if network is not None:
        gvr, body = networks.of_tenant(network, name)
        actions.append(Create(gvr, body, "tenants begin with one"))
    return actions


def plan(tenant: Object, left: Mapping[str, bool]) -> Empty | Finish | None:
    """left: tenant-scoped resource -> whether the tenant still holds such objects."""
    return ending.plan(tenant, FINALIZER, left, "nothing is left of it")
