"""The table of kinds. A new kind starts with a row here, and a schema for its body.

Everything else about a kind is derived from its row: URLs, discovery, OpenAPI, storage keys, which
partition owns it. `api/kinds/` adds defaults and validation, `api/tables.py` the printed columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

STANDARD_VERBS = (
    "create", "delete", "deletecollection", "get", "list", "patch", "update", "watch",
)  # fmt: skip


class Scope(StrEnum):
    NAMESPACED = "Namespaced"
    TENANT = "Tenant"
    CLUSTER = "Cluster"


class Home(StrEnum):
    """Which kind of partition keeps the objects (spec/scaleout.md 1.1)."""

    TENANT_PARTITION = "tp"
    RESOURCE_PARTITION = "rp"
    # Leases and events: beside their subject. Node leases and node events are in the RP.
    EITHER = "either"


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """One served resource: a (group, version, plural) and everything that follows from it."""

    group: str  # "" is the core group
    version: str
    plural: str
    kind: str
    singular: str
    scope: Scope
    schema: str  # the message of its body, in the names of the Kubernetes protobuf API
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    # subresource -> its verbs
    subresources: dict[str, tuple[str, ...]] = field(default_factory=dict)
    verbs: tuple[str, ...] = STANDARD_VERBS
    home: Home = Home.TENANT_PARTITION
    # Kinds with a status subresource ignore status on create and on plain updates.
    has_generation: bool = False
    # False: kept in memory only, rebuilt by whoever renews it (design.md D3).
    durable: bool = True
    # Virtual resources answer a question and store nothing (access reviews).
    virtual: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def gvr(self) -> str:
        """`pods`, `deployments.apps`: unique, short, stable; used in keys, frames and messages."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def namespaced(self) -> bool:
        return self.scope is Scope.NAMESPACED

    @property
    def tenanted(self) -> bool:
        return self.scope is not Scope.CLUSTER


_STATUS = ("get", "patch", "update")
_CORE = "k8s.io.api.core.v1."
_APPS = "k8s.io.api.apps.v1."
_RBAC = "k8s.io.api.rbac.v1."
RBAC = "rbac.authorization.k8s.io"
_AUTHORIZATION = "authorization.k8s.io"


def _v1(scope: Scope, group: str, plural: str, kind: str, schema: str, **more: object) -> Resource:
    return Resource(
        group,
        "v1",
        plural,
        kind,
        kind.lower(),
        scope,
        schema,
        **more,  # type: ignore[arg-type]
    )


_namespaced = partial(_v1, Scope.NAMESPACED)
_tenant_scoped = partial(_v1, Scope.TENANT)


RESOURCES: tuple[Resource, ...] = (
    Resource(
        "", "v1", "tenants", "Tenant", "tenant", Scope.CLUSTER, "arktos.core.v1.Tenant",
        short_names=("te",), subresources={"status": _STATUS, "finalize": ("update",)},
        verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
    ),
    Resource(
        "", "v1", "storageclusters", "StorageCluster", "storagecluster", Scope.CLUSTER,
        "arktos.core.v1.StorageCluster",
    ),
    Resource(
        "", "v1", "namespaces", "Namespace", "namespace", Scope.TENANT, _CORE + "Namespace",
        short_names=("ns",), subresources={"status": _STATUS, "finalize": ("update",)},
        verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
    ),
    Resource(
        "", "v1", "nodes", "Node", "node", Scope.CLUSTER, _CORE + "Node",
        short_names=("no",), subresources={"status": _STATUS}, home=Home.RESOURCE_PARTITION,
    ),
    _namespaced(
        "", "pods", "Pod", _CORE + "Pod", short_names=("po",), categories=("all",),
        has_generation=True,
        subresources={
            "status": _STATUS, "binding": ("create",), "eviction": ("create",), "log": ("get",),
            "ephemeralcontainers": _STATUS, "resize": _STATUS,
        },
    ),
    _namespaced(
        "", "services", "Service", _CORE + "Service", short_names=("svc",), categories=("all",),
        subresources={"status": _STATUS},
    ),
    _namespaced("", "endpoints", "Endpoints", _CORE + "Endpoints", short_names=("ep",)),
    _namespaced("", "configmaps", "ConfigMap", _CORE + "ConfigMap", short_names=("cm",)),
    _namespaced("", "secrets", "Secret", _CORE + "Secret"),
    _namespaced(
        "", "serviceaccounts", "ServiceAccount", _CORE + "ServiceAccount", short_names=("sa",),
        subresources={"token": ("create",)},
    ),
    _namespaced(
        "", "events", "Event", _CORE + "Event", short_names=("ev",), home=Home.EITHER
    ),
    _namespaced("", "podtemplates", "PodTemplate", _CORE + "PodTemplate"),
    _namespaced(
        "", "resourcequotas", "ResourceQuota", _CORE + "ResourceQuota", short_names=("quota",),
        subresources={"status": _STATUS},
    ),
    _namespaced("", "limitranges", "LimitRange", _CORE + "LimitRange", short_names=("limits",)),
    _namespaced(
        "apps", "deployments", "Deployment", _APPS + "Deployment", short_names=("deploy",),
        categories=("all",), subresources={"status": _STATUS, "scale": _STATUS},
        has_generation=True,
    ),
    _namespaced(
        "apps", "replicasets", "ReplicaSet", _APPS + "ReplicaSet", short_names=("rs",),
        categories=("all",), subresources={"status": _STATUS, "scale": _STATUS},
        has_generation=True,
    ),
    _namespaced(
        "apps", "controllerrevisions", "ControllerRevision", _APPS + "ControllerRevision"
    ),
    _namespaced(
        "coordination.k8s.io", "leases", "Lease", "k8s.io.api.coordination.v1.Lease",
        home=Home.EITHER, durable=False,
    ),
    _namespaced(
        "discovery.k8s.io", "endpointslices", "EndpointSlice",
        "k8s.io.api.discovery.v1.EndpointSlice",
    ),
    _namespaced(RBAC, "roles", "Role", _RBAC + "Role"),
    _namespaced(RBAC, "rolebindings", "RoleBinding", _RBAC + "RoleBinding"),
    _tenant_scoped(RBAC, "clusterroles", "ClusterRole", _RBAC + "ClusterRole"),
    _tenant_scoped(
        RBAC, "clusterrolebindings", "ClusterRoleBinding", _RBAC + "ClusterRoleBinding"
    ),
    _namespaced(
        _AUTHORIZATION, "localsubjectaccessreviews", "LocalSubjectAccessReview",
        "k8s.io.api.authorization.v1.LocalSubjectAccessReview", verbs=("create",), virtual=True,
    ),
    *[
        _tenant_scoped(
            _AUTHORIZATION, kind.lower() + "s", kind, f"k8s.io.api.authorization.v1.{kind}",
            verbs=("create",), virtual=True,
        )
        for kind in ("SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview")
    ],
    *[
        _tenant_scoped(
            "authentication.k8s.io", kind.lower() + "s", kind,
            f"k8s.io.api.authentication.v1.{kind}", verbs=("create",), virtual=True,
        )
        for kind in ("SelfSubjectReview", "TokenReview")
    ],
)  # fmt: skip

BY_PATH: dict[tuple[str, str, str], Resource] = {
    (r.group, r.version, r.plural): r for r in RESOURCES
}
BY_KIND: dict[tuple[str, str], Resource] = {(r.api_version, r.kind): r for r in RESOURCES}
BY_GVR: dict[str, Resource] = {r.gvr: r for r in RESOURCES}
VOLATILE: frozenset[str] = frozenset(r.gvr for r in RESOURCES if not r.durable)


def resource(gvr: str) -> Resource:
    """The row of `pods`, `deployments.apps`, ...; KeyError is a bug in the caller."""
    return BY_GVR[gvr]
