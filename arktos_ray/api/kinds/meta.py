"""metadata: what every object has, whatever its kind.

`validate_meta` on create, `validate_meta_update` when there was an object before. Which names are
good depends on the kind and is in `_NAMES`. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from arktos_ray.api import names, scheme
from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import Cause, bad, forbidden, required, too_long

# Keys and values together. Clients print the limit, so it is theirs: 256 KiB.
ANNOTATIONS_BYTES_MAX = 256 * 1024

_NAMES: dict[str, Callable[[str], str]] = {
    "namespaces": syntax.dns_label,
    "tenants": syntax.dns_label,
    "services": syntax.dns_1035_label,
    # `system:node` is a role of Kubernetes.
    **dict.fromkeys(
        (
            f"{plural}.{scheme.RBAC}"
            for plural in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")
        ),
        syntax.path_segment,
    ),
}

# Finalizers without a domain are ours or Kubernetes' own.
_STANDARD_FINALIZERS = frozenset(("kubernetes", "orphan", "foregroundDeletion", "arktos"))
_IMMUTABLE = (
    "name", "namespace", "tenant", "uid", "creationTimestamp", "deletionTimestamp",
    "deletionGracePeriodSeconds",
)  # fmt: skip


def validate_meta(obj: dict[str, Any], resource: scheme.Resource) -> list[Cause]:
    out: list[Cause] = []
    meta = obj.get("metadata") or {}
    name_rule = _NAMES.get(resource.gvr, syntax.dns_subdomain)

    generate = meta.get("generateName")
    if generate:
        # What the server appends is a good end, so a dash may be last here.
        wrong = name_rule(generate[:-1] + "a" if generate[-1] == "-" else generate)
        if wrong:
            out.append(bad("metadata.generateName", generate, wrong))
    name = meta.get("name")
    if name:
        wrong = name_rule(name)
        if wrong:
            out.append(bad("metadata.name", name, wrong))
        elif resource.gvr == "tenants" and name == names.ALL_TENANTS:
            out.append(bad("metadata.name", name, "is not an acceptable tenant name"))
    else:
        out.append(required("metadata.name", "name or generateName is required"))

    _places(meta, resource, out)
    _generic(meta, out)
    return out


def validate_meta_update(obj: dict[str, Any], old: dict[str, Any]) -> list[Cause]:
    """What an update may not do to metadata, beside making it invalid."""
    meta, was = obj.get("metadata") or {}, old.get("metadata") or {}
    out = [
        bad(f"metadata.{key}", meta.get(key), syntax.IMMUTABLE)
        for key in _IMMUTABLE
        if meta.get(key) != was.get(key)
    ]
    if meta.get("generation", 0) < was.get("generation", 0):
        why = "must not be decremented"
        out.append(bad("metadata.generation", meta.get("generation", 0), why))
    if was.get("deletionTimestamp"):
        known = was.get("finalizers") or ()
        added = [f for f in meta.get("finalizers") or () if f not in known]
        if added:
            listed = ", ".join(f'"{one}"' for one in added)
            why = (
                "no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{listed}}}"
            )
            out.append(forbidden("metadata.finalizers", why))
    return out


def _places(meta: dict[str, Any], resource: scheme.Resource, out: list[Cause]) -> None:
    namespace, tenant = meta.get("namespace"), meta.get("tenant")
    if resource.namespaced:
        if not namespace:
            out.append(required("metadata.namespace"))
        else:
            wrong = syntax.dns_label(namespace)
            if wrong:
                out.append(bad("metadata.namespace", namespace, wrong))
    elif namespace:
        out.append(forbidden("metadata.namespace", "not allowed on this type"))
    if resource.tenanted:
        if not tenant:
            out.append(required("metadata.tenant"))
        elif tenant == names.ALL_TENANTS:
            out.append(bad("metadata.tenant", tenant, "is not an acceptable tenant name"))
        else:
            wrong = syntax.dns_label(tenant)
            if wrong:
                out.append(bad("metadata.tenant", tenant, wrong))
    elif tenant:
        out.append(forbidden("metadata.tenant", "not allowed on this type"))


def _generic(meta: dict[str, Any], out: list[Cause]) -> None:
    if meta.get("generation", 0) < 0:
        out.append(bad("metadata.generation", meta["generation"], syntax.NOT_NEGATIVE))
    labels = meta.get("labels")
    if labels:
        syntax.labels(labels, "metadata.labels", out)
    annotations = meta.get("annotations")
    if annotations:
        validate_annotations(annotations, "metadata.annotations", out)
    references = meta.get("ownerReferences")
    if references:
        _owners(references, out)
    for finalizer in meta.get("finalizers") or ():
        validate_finalizer(finalizer, "metadata.finalizers", out)


def validate_annotations(annotations: dict[str, Any], field: str, out: list[Cause]) -> None:
    size = 0
    for key, value in annotations.items():
        wrong = syntax.qualified_name(key.lower())
        if wrong:
            out.append(bad(field, key, wrong))
        size += len(key) + len(value or "")
    # Counting characters is enough unless the text could be wide and near the limit.
    if size * 4 > ANNOTATIONS_BYTES_MAX:
        size = sum(len(k.encode()) + len((v or "").encode()) for k, v in annotations.items())
        if size > ANNOTATIONS_BYTES_MAX:
            out.append(too_long(field, ANNOTATIONS_BYTES_MAX))


def validate_finalizer(finalizer: str, field: str, out: list[Cause]) -> None:
    wrong = syntax.qualified_name(finalizer)
    if wrong:
        out.append(bad(field, finalizer, wrong))
    elif "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
        why = "name is neither a standard finalizer name nor is it fully qualified"
        out.append(bad(field, finalizer, why))


def _owners(references: list[dict[str, Any]], out: list[Cause]) -> None:
    controller = ""
    for i, one in enumerate(references):
        at = f"metadata.ownerReferences[{i}]"
        version = one.get("apiVersion", "")
        if not version.rpartition("/")[2]:
            out.append(bad(f"{at}.apiVersion", version, "version must not be empty"))
        out += [
            bad(f"{at}.{key}", one.get(key, ""), "must not be empty")
            for key in ("kind", "name", "uid")
            if not one.get(key)
        ]
        if (version, one.get("kind")) == ("v1", "Event"):
            out.append(bad(at, one, "/v1, Kind=Event is disallowed from being an owner"))
        if one.get("controller"):
            if controller:
                why = (
                    'Only one reference can have Controller set to true. Found "true" in '
                    f"references for {controller} and {one.get('name', '')}"
                )
                out.append(bad("metadata.ownerReferences", references, why))
            controller = one.get("name", "")
