"""A CustomResourceDefinition as Resources: one for each version that it serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from arktos_ray.api import apply, errors, tables
from arktos_ray.api.custom import paths
from arktos_ray.api.custom.columns import Columns
from arktos_ray.api.custom.names import is_forced, is_served
from arktos_ray.api.custom.rules import CustomRules, as_text
from arktos_ray.api.custom.schema import Structural, compiled
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.api.scheme import Form, Resource, Scope

Object = dict[str, Any]

_SUBRESOURCE = ("get", "patch", "update")
CUSTOM_SUBRESOURCES = {"scale": _SUBRESOURCE, "status": _SUBRESOURCE}


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """Where the replicas of a kind are."""

    replicas: tuple[str, ...]
    status_replicas: tuple[str, ...]
    selector: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class Custom:
    """What a Resource has beside its names when a definition made it (`Resource.custom`)."""

    list_kind: str
    schema: Structural
    columns: Columns
    tree: apply.Tree
    selectable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scale: Scale | None = None
    warning: str = ""  # to whoever uses a version that is deprecated
    openapi: Object | None = None
    rules: CustomRules = field(init=False)

    def field_of(self, obj: Object, name: str) -> str:
        return as_text(paths.get(obj, self.selectable[name]))


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    name: str  # widgets.example.com: also the gvr of its objects
    tenant: str
    served: bool
    terminating: bool
    forced: bool
    versions: Mapping[
        str, Resource
    ]  # those that are served, by apiVersion; clients prefer the first
    stored: Resource

    @property
    def resources(self) -> list[Resource]:
        """For discovery."""
        return list(self.versions.values()) if self.served else []


# Stands for a definition that is not there. Our own parts may still remove what it left.
UNKNOWN: Any = object()


@lru_cache(maxsize=1024)
def unknown(gvr: str, version: str = "") -> Resource:
    """For questions that come before knowing whether there is such a kind."""
    plural, _, group = gvr.partition(".")
    return Resource(
        group, version.rpartition("/")[2] or "v1", plural, plural, plural, Scope.TENANT, "",
        subresources={"status": _SUBRESOURCE, "scale": _SUBRESOURCE}, custom=UNKNOWN,
    )  # fmt: skip


def definition(obj: Object) -> Definition:
    """Of a definition as it is stored: it has been checked."""
    spec, meta = obj["spec"], obj["metadata"]
    accepted = (obj.get("status") or {}).get("acceptedNames") or {}
    # Until they are accepted it is not served; then only what it has is.
    names = {"kind": spec["names"]["kind"], **accepted, "plural": spec["names"]["plural"]}
    storage = next(v["name"] for v in spec["versions"] if v.get("storage"))
    scope = Scope(spec["scope"])
    tenant = meta.get("tenant", "")
    if scope is Scope.CLUSTER and tenant != SYSTEM_TENANT:
        scope = Scope.TENANT
    # Objects that were written as another version are turned into the one that is asked for, too.
    lone = (obj.get("status") or {}).get("storedVersions") == [storage]
    versions, stored = {}, None
    for version in sorted(spec["versions"], key=lambda v: _priority(v["name"]), reverse=True):
        if not version.get("served") and version["name"] != storage:
            continue
        simple = lone and version["name"] == storage
        made = _resource(obj, version, names, scope, None if simple else storage)
        if version["name"] == storage:
            stored = made
        if version.get("served"):
            versions[made.api_version] = made
    assert stored is not None
    return Definition(
        meta["name"], tenant, is_served(obj), bool(meta.get("deletionTimestamp")),
        tenant == SYSTEM_TENANT and is_forced(obj), versions, stored,
    )  # fmt: skip


def _resource(
    obj: Object, version: Object, names: Object, scope: Scope, storage: str | None
) -> Resource:
    spec = obj["spec"]
    group, name = spec["group"], version["name"]
    openapi = (version.get("schema") or {}).get("openAPIV3Schema")
    schema = compiled(openapi)
    sub = version.get("subresources") or {}
    scale = sub.get("scale")
    custom = Custom(
        names.get("listKind") or names["kind"] + "List", schema,
        Columns(version.get("additionalPrinterColumns"), tables.since),
        apply.tree_of(openapi or {}), openapi=openapi,
        selectable={
            one["jsonPath"].removeprefix("."): paths.simple(one["jsonPath"]) or ()
            for one in version.get("selectableFields") or ()
        },
    )  # fmt: skip
    if scale:
        custom.scale = Scale(
            paths.simple(scale["specReplicasPath"]) or (),
            paths.simple(scale["statusReplicasPath"]) or (),
            paths.simple(scale.get("labelSelectorPath") or "") or (),
        )
    if version.get("deprecated"):
        custom.warning = version.get("deprecationWarning") or (
            f"{group}/{name} {names['kind']} is deprecated"
        )
    form = None
    if storage is not None:
        turn = _as_version
        if (spec.get("conversion") or {}).get("strategy") == "Webhook" and name != storage:
            turn = _not_converted
        form = Form(
            obj["metadata"]["name"], f"{group}/{storage}",
            partial(turn, f"{group}/{name}"), partial(turn, f"{group}/{storage}"),
        )  # fmt: skip
    resource = Resource(
        group, name, names["plural"], names["kind"],
        names.get("singular") or names["kind"].lower(), scope, "",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources={
            each: _SUBRESOURCE for each in ("scale", "status") if sub.get(each) is not None
        },
        has_generation=True, form=form, custom=custom,
    )  # fmt: skip
    custom.rules = CustomRules(resource, schema)
    return resource


def _as_version(api_version: str, obj: Object) -> Object:
    """Conversion None: the same, under another apiVersion."""
    obj["apiVersion"] = api_version
    return obj


def _not_converted(api_version: str, obj: Object) -> Object:
    raise errors.Internal(
        f"conversion webhook for {obj.get('apiVersion')}, Kind={obj.get('kind')} failed:"
        f" objects are not converted to {api_version} here yet"
    )


_RANK = {"": 3, "beta": 2, "alpha": 1}


def _priority(name: str) -> tuple[int, int, int, str]:
    """v2 before v1 before v1beta1 before v1alpha2 before any other name, those by the alphabet."""
    body = name.removeprefix("v")
    for word in ("alpha", "beta", ""):
        major, found, minor = body.partition(word) if word else (body, "", "")
        if (
            name.startswith("v")
            and major.isdecimal()
            and (not word or (found and minor.isdecimal()))
        ):
            return _RANK[word], int(major), int(minor or 0), ""
    return 0, 0, 0, "".join(chr(0x10FFFF - ord(c)) for c in name)
