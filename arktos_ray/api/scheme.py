"""The table of kinds. A new kind starts with a row here, and a schema for its body.

Everything else about a kind is derived from its row: URLs, discovery, OpenAPI, storage keys, which
partition owns it. `api/kinds/` adds defaults and validation, `api/tables.py` the printed columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any

from arktos_ray.api import forms, old_definitions

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
class Form:
    """How a version beside the stored one is turned into it and back.

    Both get a dict of their own to change, and give one with its apiVersion and kind.
    """

    gvr: str  # under which the objects are stored
    api_version: str  # in which they are
    from_stored: Callable[[dict[str, Any]], dict[str, Any]]
    to_stored: Callable[[dict[str, Any]], dict[str, Any]]
    # Who else must be asked for it (api/custom); None: nobody.
    conversion: Any = None


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
    # None: objects are stored as this version says.
    form: Form | None = None
    # What a definition says of its kind (api/custom); None: the kind is one of this table.
    custom: Any = None
    # Of a custom kind with defaults: the revision of its definition. What was stored before may
    # lack some of them.
    since: int = 0

    # What follows, worked out once: every call asks for some of it, several times.
    api_version: str = field(init=False)
    # `pods`, `deployments.apps`: unique, short, stable; used in keys, frames and messages. Of what
    # is stored: versions and groups that show the same objects have the same.
    gvr: str = field(init=False)
    namespaced: bool = field(init=False)
    tenanted: bool = field(init=False)

    def __post_init__(self) -> None:
        group, form = self.group, self.form
        gvr = f"{self.plural}.{group}" if group else self.plural
        follows = {
            "api_version": f"{group}/{self.version}" if group else self.version,
            "gvr": gvr if form is None else form.gvr,
            "namespaced": self.scope is Scope.NAMESPACED,
            "tenanted": self.scope is not Scope.CLUSTER,
        }
        for name, value in follows.items():
            object.__setattr__(self, name, value)


_STATUS = ("get", "patch", "update")
_CORE = "k8s.io.api.core.v1."
_APPS = "k8s.io.api.apps.v1."
_APPS_V1BETA1, _APPS_V1BETA2 = "k8s.io.api.apps.v1beta1.", "k8s.io.api.apps.v1beta2."
_EXTENSIONS = "k8s.io.api.extensions.v1beta1."
_RBAC = "k8s.io.api.rbac.v1."
RBAC = "rbac.authorization.k8s.io"
_AUTHORIZATION = "authorization.k8s.io"
_APIEXTENSIONS = "apiextensions.k8s.io"
DEFINITIONS = f"customresourcedefinitions.{_APIEXTENSIONS}"
ADMISSION = "admissionregistration.k8s.io"


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


def _definitions(version: str, form: Form | None = None) -> Resource:
    return Resource(
        _APIEXTENSIONS, version, "customresourcedefinitions", "CustomResourceDefinition",
        "customresourcedefinition", Scope.TENANT,
        f"k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.{version}.CustomResourceDefinition",
        short_names=("crd", "crds"), categories=() if form else ("api-extensions",),
        subresources={"status": _STATUS}, has_generation=True, form=form,
    )  # fmt: skip


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
    _definitions("v1"),
    # Cluster-scoped in Kubernetes; here each tenant has its own (docs/decisions/0022).
    *[
        _tenant_scoped(
            ADMISSION, kind.lower() + "s", kind, f"k8s.io.api.admissionregistration.v1.{kind}",
            categories=("api-extensions",), has_generation=True,
        )
        for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
    ],
    _tenant_scoped(
        ADMISSION, "validatingadmissionpolicies", "ValidatingAdmissionPolicy",
        "k8s.io.api.admissionregistration.v1.ValidatingAdmissionPolicy",
        categories=("api-extensions",), has_generation=True,
    ),
    _tenant_scoped(
        ADMISSION, "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding",
        "k8s.io.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding",
        categories=("api-extensions",), has_generation=True,
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
    _tenant_scoped(
        "certificates.k8s.io", "certificatesigningrequests", "CertificateSigningRequest",
        "k8s.io.api.certificates.v1.CertificateSigningRequest", short_names=("csr",),
        subresources={"status": _STATUS, "approval": _STATUS},
    ),
)  # fmt: skip

_STORED = {r.gvr: r for r in RESOURCES}


def _older(
    gvr: str, api_version: str, schema: str,
    fill: Callable[[dict[str, Any]], None] = lambda spec: None,
) -> Resource:  # fmt: skip
    """A version that says the same as the stored one, but for its defaults.

    It has no short names and categories: `kubectl get all` should show each object once.
    """
    stored = _STORED[gvr]
    group, _, version = api_version.partition("/")
    form = Form(
        gvr, stored.api_version, forms.says(api_version), forms.completed(stored.api_version, fill)
    )
    return replace(
        stored, group=group, version=version, schema=schema + stored.kind, form=form,
        short_names=(), categories=(),
    )  # fmt: skip


def _older_rbac(version: str) -> list[Resource]:
    plurals = ("roles", "rolebindings", "clusterroles", "clusterrolebindings")
    return [
        _older(f"{plural}.{RBAC}", f"{RBAC}/{version}", f"k8s.io.api.rbac.{version}.")
        for plural in plurals
    ]


def _older_events(version: str) -> Resource:
    api_version = f"events.k8s.io/{version}"
    form = Form("events", "v1", forms.event_from_stored(api_version), forms.event_to_stored)
    return replace(
        _STORED["events"], group="events.k8s.io", version=version, form=form,
        schema=f"k8s.io.api.events.{version}.Event", short_names=(),
    )  # fmt: skip


def _older_webhooks(kind: str) -> Resource:
    stored = _STORED[f"{kind}webhookconfigurations.{ADMISSION}"]
    api_version = f"{ADMISSION}/v1beta1"
    form = Form(stored.gvr, stored.api_version, forms.says(api_version), forms.webhooks_to_stored)
    return replace(
        stored, version="v1beta1", form=form, short_names=(), categories=(),
        schema=f"k8s.io.api.admissionregistration.v1beta1.{stored.kind}",
    )  # fmt: skip


# Versions, and groups, that show the objects of another row: each has a form. The first of a group
# is the one that clients prefer.
OLDER: tuple[Resource, ...] = (
    _older("deployments.apps", "apps/v1beta2", _APPS_V1BETA2, forms.selects_its_template),
    _older("replicasets.apps", "apps/v1beta2", _APPS_V1BETA2, forms.selects_its_template),
    _older("controllerrevisions.apps", "apps/v1beta2", _APPS_V1BETA2),
    _older("deployments.apps", "apps/v1beta1", _APPS_V1BETA1, forms.apps_v1beta1_deployment),
    _older("controllerrevisions.apps", "apps/v1beta1", _APPS_V1BETA1),
    _older("deployments.apps", "extensions/v1beta1", _EXTENSIONS, forms.extensions_deployment),
    _older("replicasets.apps", "extensions/v1beta1", _EXTENSIONS, forms.selects_its_template),
    _older(
        "leases.coordination.k8s.io", "coordination.k8s.io/v1beta1",
        "k8s.io.api.coordination.v1beta1.",
    ),
    _older_events("v1"),
    _older_events("v1beta1"),
    *_older_rbac("v1beta1"),
    *[_older_webhooks(kind) for kind in ("mutating", "validating")],
    *[
        _older(
            f"{kind.lower()}s.{_AUTHORIZATION}", f"{_AUTHORIZATION}/v1beta1",
            "k8s.io.api.authorization.v1beta1.",
        )
        for kind in ("SelfSubjectAccessReview", "SelfSubjectRulesReview")
    ],
    *[
        _older(
            f"{kind.lower()}s.authentication.k8s.io", "authentication.k8s.io/v1beta1",
            "k8s.io.api.authentication.v1beta1.",
        )
        for kind in ("SelfSubjectReview", "TokenReview")
    ],
    _definitions(
        "v1beta1",
        Form(
            DEFINITIONS, f"{_APIEXTENSIONS}/v1", old_definitions.from_v1, old_definitions.to_v1
        ),
    ),
)  # fmt: skip

BY_PATH: dict[tuple[str, str, str], Resource] = {
    (r.group, r.version, r.plural): r for r in (*RESOURCES, *OLDER)
}
BY_GVR: dict[str, Resource] = _STORED
# Of an older version it is the row that is stored.
BY_KIND: dict[tuple[str, str], Resource] = {
    (r.api_version, r.kind): BY_GVR[r.gvr] for r in (*RESOURCES, *OLDER)
}
BY_VERSION: dict[tuple[str, str], Resource] = {(r.gvr, r.api_version): r for r in OLDER}
# gvr -> the versions, and groups, in which its objects are served.
SERVED: dict[str, list[Resource]] = {}
for _row in BY_PATH.values():
    SERVED.setdefault(_row.gvr, []).append(_row)
VOLATILE: frozenset[str] = frozenset(r.gvr for r in RESOURCES if not r.durable)


def resource(gvr: str) -> Resource:
    """The row of `pods`, `deployments.apps`, ...; KeyError is a bug in the caller."""
    return BY_GVR[gvr]


def spoken(gvr: str, version: str) -> Resource | None:
    """The row of a call: its gvr and version."""
    return BY_VERSION.get((gvr, version)) if version else BY_GVR.get(gvr)
