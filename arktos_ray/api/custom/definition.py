"""A CustomResourceDefinition as Resources: one for each version that it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

from arktos_ray.api import apply, tables
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
class Conversion:
    """Who makes other versions of the objects of a definition: a webhook."""

    tenant: str  # of the definition
    identity: tuple[str, str, str]  # of this revision of it
    client: Object
    reviews: tuple[str, ...]  # versions of ConversionReview
    schemas: dict[str, Structural]  # by apiVersion


# conversion, wanted apiVersion, object -> object
Convert = Callable[[Conversion, str, Object], Object]


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
    # For our own parts, which must not wait for a webhook: objects as they lie, in any version.
    raw: Resource

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


def _nobody(conversion: Conversion, api_version: str, obj: Object) -> Object:
    raise AssertionError("nobody converts here")


def definition(obj: Object, convert: Convert = _nobody) -> Definition:
    """Of a definition as it is stored: it has been checked.

    convert: makes another version of an object, where a webhook is to be asked for it."""
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
    conversion = _conversion(obj)
    turns = partial(convert, conversion) if conversion is not None else _as_version
    source = _schema_of(next(v for v in spec["versions"] if v["name"] == storage))
    versions, stored = {}, None
    for version in sorted(spec["versions"], key=lambda v: _priority(v["name"]), reverse=True):
        if not version.get("served") and version["name"] != storage:
            continue
        simple = lone and version["name"] == storage
        form = None
        if not simple:
            form = Form(
                meta["name"], f"{spec['group']}/{storage}",
                partial(turns, f"{spec['group']}/{version['name']}"),
                partial(turns, f"{spec['group']}/{storage}"), conversion,
            )  # fmt: skip
        made = _resource(obj, version, names, scope, form, source if conversion else None)
        if conversion is not None:
            conversion.schemas[made.api_version] = made.custom.schema
        if version["name"] == storage:
            stored = made
        if version.get("served"):
            versions[made.api_version] = made
    assert stored is not None
    raw = stored
    if conversion is not None and not lone:
        raw = replace(stored, form=None, custom=replace(stored.custom), since=0)
        raw.custom.rules = CustomRules(raw, compiled(None))
    return Definition(
        meta["name"], tenant, is_served(obj), bool(meta.get("deletionTimestamp")),
        tenant == SYSTEM_TENANT and is_forced(obj), versions, stored, raw,
    )  # fmt: skip


def _conversion(obj: Object) -> Conversion | None:
    spec, meta = obj["spec"].get("conversion") or {}, obj["metadata"]
    if spec.get("strategy") != "Webhook":
        return None
    webhook, tenant = spec["webhook"], meta.get("tenant", "")
    identity = (tenant, meta["name"], meta.get("resourceVersion", ""))
    reviews = tuple(webhook.get("conversionReviewVersions") or ())
    return Conversion(tenant, identity, webhook["clientConfig"], reviews, {})


def _schema_of(version: Object) -> Object | None:
    return (version.get("schema") or {}).get("openAPIV3Schema")


def _resource(
    obj: Object, version: Object, names: Object, scope: Scope, form: Form | None,
    stored: Object | None,
) -> Resource:  # fmt: skip
    """stored: the schema of what is stored, when that may look different."""
    spec = obj["spec"]
    group, name = spec["group"], version["name"]
    openapi = _schema_of(version)
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
    resource = Resource(
        group, name, names["plural"], names["kind"],
        names.get("singular") or names["kind"].lower(), scope, "",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources={
            each: _SUBRESOURCE for each in ("scale", "status") if sub.get(each) is not None
        },
        has_generation=True, form=form, custom=custom,
        since=int(obj["metadata"].get("resourceVersion") or 0) if schema.has_defaults else 0,
    )  # fmt: skip
    # Verbs work on objects as they are stored.
    custom.rules = CustomRules(resource, schema if stored is None else compiled(stored))
    return resource


def _as_version(api_version: str, obj: Object) -> Object:
    """Conversion None: the same, under another apiVersion."""
    obj["apiVersion"] = api_version
    return obj


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
