"""The roles that are there from the beginning.

Every tenant begins with `admin-role`, bound to the user `admin` (spec/multitenancy.md 5.1), and
nothing else. The roles that charts and manuals name (`cluster-admin`, `admin`, `edit`, `view`) and
what everybody may (discovery, questions about oneself) are standing: bindings of every tenant can
refer to them, and no tenant need keep them. Who makes a ClusterRole of such a name has that one.
The system tenant keeps them as objects, for its operators to read. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from arktos_ray.api.calls import User
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.api.scheme import RBAC

Object = dict[str, Any]

ROLES, BINDINGS = f"roles.{RBAC}", f"rolebindings.{RBAC}"
CLUSTER_ROLES, CLUSTER_BINDINGS = f"clusterroles.{RBAC}", f"clusterrolebindings.{RBAC}"
RESOURCES = (ROLES, BINDINGS, CLUSTER_ROLES, CLUSTER_BINDINGS)
SUPER_GROUP = "system:masters"
AUTHENTICATED, UNAUTHENTICATED = "system:authenticated", "system:unauthenticated"

ADMIN_ROLE, ADMIN_BINDING, ADMIN = "admin-role", "admin-role-binding", "admin"
_AGGREGATE = f"{RBAC}/aggregate-to-"
_AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
_BOOTSTRAPPED = {"kubernetes.io/bootstrapping": "rbac-defaults"}

_READ = ("get", "list", "watch")
_WRITE = ("create", "delete", "deletecollection", "patch", "update")


def is_super(user: User) -> bool:
    """Above roles, everywhere."""
    return user.tenant == SYSTEM_TENANT and SUPER_GROUP in user.groups


def rule(verbs: Sequence[str], groups: Sequence[str], *resources: str) -> Object:
    return {"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources)}


def path_rule(verbs: Sequence[str], *paths: str) -> Object:
    return {"verbs": list(verbs), "nonResourceURLs": list(paths)}


EVERYTHING: list[Object] = [rule("*", "*", "*"), path_rule("*", "*")]


def distinct(rules: Iterable[Object]) -> list[Object]:
    """Each once, in the order in which they come."""
    found: dict[bytes, Object] = {}
    for each in rules:
        found.setdefault(orjson.dumps(each, option=orjson.OPT_SORT_KEYS), each)
    return list(found.values())


def _with(resources: Sequence[str], *parts: str) -> list[str]:
    return [*resources, *(f"{one}/{part}" for one in resources for part in parts)]


_APPS = [
    "controllerrevisions", *_with(["deployments", "replicasets", "statefulsets"], "scale"),
    "daemonsets",
]  # fmt: skip
_APPS_WRITTEN = [
    "daemonsets", *_with(["deployments", "replicasets", "statefulsets"], "scale"),
    "deployments/rollback",
]  # fmt: skip
_APPS_STATUS = [
    f"{one}/status" for one in ("daemonsets", "deployments", "replicasets", "statefulsets")
]  # fmt: skip
_CONNECT = ["pods/attach", "pods/exec", "pods/portforward", "pods/proxy"]
_CONTROLLERS = _with(["replicationcontrollers"], "scale")
_POD_PARTS = ["pods/action", "pods/ephemeralcontainers", "pods/resize"]

_VIEW: list[Object] = [
    rule(
        _READ, [""], "configmaps", "endpoints", *_with(["persistentvolumeclaims"], "status"),
        "pods", *_CONTROLLERS, "serviceaccounts", *_with(["services"], "status"),
        "bindings", "events", "limitranges", "namespaces", "namespaces/status", "pods/log",
        "pods/status", "replicationcontrollers/status", *_with(["resourcequotas"], "status"),
    ),
    rule(_READ, [""], "namespaces"),
    rule(_READ, ["discovery.k8s.io"], "endpointslices"),
    rule(_READ, ["events.k8s.io"], "events"),
    rule(_READ, ["apps", "extensions"], *_APPS, *_APPS_STATUS),
    rule(_READ, ["autoscaling"], *_with(["horizontalpodautoscalers"], "status")),
    rule(_READ, ["batch"], *_with(["cronjobs", "jobs"], "status")),
    rule(_READ, ["policy"], *_with(["poddisruptionbudgets"], "status")),
    rule(
        _READ, ["networking.k8s.io", "extensions"], *_with(["ingresses"], "status"),
        "networkpolicies",
    ),
]  # fmt: skip
_EDIT: list[Object] = [
    rule(_READ, [""], *_CONNECT, "secrets", "services/proxy"),
    rule(["impersonate"], [""], "serviceaccounts"),
    rule(_WRITE, [""], "pods", *_CONNECT, *_POD_PARTS),
    rule(["create"], [""], "pods/eviction"),
    rule(
        _WRITE, [""], "configmaps", "events", "persistentvolumeclaims", *_CONTROLLERS, "secrets",
        "serviceaccounts", *_with(["services"], "proxy"),
    ),
    rule(["create"], [""], "serviceaccounts/token"),
    rule(_WRITE, ["events.k8s.io"], "events"),
    rule(_WRITE, ["apps", "extensions"], *_APPS_WRITTEN),
    rule(_WRITE, ["autoscaling"], "horizontalpodautoscalers"),
    rule(_WRITE, ["batch"], "cronjobs", "jobs"),
    rule(_WRITE, ["policy"], "poddisruptionbudgets"),
    rule(_WRITE, ["networking.k8s.io", "extensions"], "ingresses", "networkpolicies"),
    rule((*_WRITE, *_READ), ["coordination.k8s.io"], "leases"),
]  # fmt: skip
_ADMIN: list[Object] = [
    rule(["create"], ["authorization.k8s.io"], "localsubjectaccessreviews"),
    rule((*_WRITE, *_READ), [RBAC], "roles", "rolebindings"),
]
_OPEN = ("/healthz", "/livez", "/readyz", "/version", "/version/")
_DISCOVERY = (*_OPEN, "/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*")
_ABOUT_ONESELF: list[Object] = [
    rule(
        ["create"], ["authorization.k8s.io"], "selfsubjectaccessreviews", "selfsubjectrulesreviews"
    ),
    rule(["create"], ["authentication.k8s.io"], "selfsubjectreviews"),
]


def _cluster_role(name: str, rules: list[Object], **labels: str) -> Object:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {**_BOOTSTRAPPED, **labels}},
        "rules": rules,
    }


def _aggregated(name: str, **labels: str) -> Object:
    role = _cluster_role(name, [], **labels)
    role["aggregationRule"] = {
        "clusterRoleSelectors": [{"matchLabels": {_AGGREGATE + name: "true"}}]
    }
    return role


STANDING_ROLES: tuple[Object, ...] = (
    _cluster_role("cluster-admin", EVERYTHING),
    _aggregated("admin"),
    _aggregated("edit", **{_AGGREGATE + "admin": "true"}),
    _aggregated("view", **{_AGGREGATE + "edit": "true"}),
    _cluster_role("system:aggregate-to-admin", _ADMIN, **{_AGGREGATE + "admin": "true"}),
    _cluster_role("system:aggregate-to-edit", _EDIT, **{_AGGREGATE + "edit": "true"}),
    _cluster_role("system:aggregate-to-view", _VIEW, **{_AGGREGATE + "view": "true"}),
    _cluster_role("system:discovery", [path_rule(["get"], *_DISCOVERY)]),
    _cluster_role("system:basic-user", _ABOUT_ONESELF),
    _cluster_role("system:public-info-viewer", [path_rule(["get"], *_OPEN)]),
)


def _cluster_binding(name: str, role: str, kind: str, *subjects: str) -> Object:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name, "labels": dict(_BOOTSTRAPPED)},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": kind, "apiGroup": RBAC, "name": each} for each in subjects],
    }


STANDING_BINDINGS: tuple[Object, ...] = (
    _cluster_binding("system:discovery", "system:discovery", "Group", AUTHENTICATED),
    _cluster_binding("system:basic-user", "system:basic-user", "Group", AUTHENTICATED),
    _cluster_binding(
        "system:public-info-viewer", "system:public-info-viewer", "Group", AUTHENTICATED,
        UNAUTHENTICATED,
    ),
)  # fmt: skip
# In the system tenant alone: its masters are everybody's.
SUPER_BINDING = _cluster_binding("cluster-admin", "cluster-admin", "Group", SUPER_GROUP)


def of_a_tenant(tenant: str) -> tuple[tuple[str, Object], tuple[str, Object]]:
    """(resource, body) of what gives a new tenant its administrator."""
    role = _cluster_role(ADMIN_ROLE, EVERYTHING)
    binding = _cluster_binding(ADMIN_BINDING, ADMIN_ROLE, "User", ADMIN)
    for body in (role, binding):
        body["metadata"] = {"name": body["metadata"]["name"], "tenant": tenant}
    return (CLUSTER_ROLES, role), (CLUSTER_BINDINGS, binding)


def of_the_system() -> list[tuple[str, Object]]:
    """(resource, body) of the standing roles and bindings, as objects of the system tenant."""
    found = [(CLUSTER_ROLES, body) for body in STANDING_ROLES]
    found += [(CLUSTER_BINDINGS, body) for body in (SUPER_BINDING, *STANDING_BINDINGS)]
    return [(gvr, _of_system(body)) for gvr, body in found]


def _of_system(body: Object) -> Object:
    annotations = {_AUTOUPDATE: "true"}
    meta = {**body["metadata"], "tenant": SYSTEM_TENANT, "annotations": annotations}
    return {**body, "metadata": meta}


def is_outdated(kept: Object, body: Object) -> bool:
    """Whether a standing role is not what this version says, and its owner lets us say so."""
    annotations = kept["metadata"].get("annotations") or {}
    if body["kind"] != "ClusterRole" or annotations.get(_AUTOUPDATE) == "false":
        return False
    if "aggregationRule" in body:  # Its rules are what it gathers.
        return bool(kept.get("aggregationRule") != body["aggregationRule"])
    return bool(kept.get("rules") != body["rules"])
