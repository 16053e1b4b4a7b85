"""CustomResourceDefinition: what others may be called, and how they are served.

Not here: whether the schemas in it are sound, and whether its names are free. Both need more than
the object; the partition asks `api/custom` (apiserver/customs.py).
"""

from __future__ import annotations

import re
from typing import Any

from arktos_ray.api import scheme
from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import Cause, bad, duplicate, forbidden, required, unsupported
from arktos_ray.api.kinds.generic import Object, Rules

_SCOPES = ("Namespaced", "Tenant", "Cluster")
_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS = (
    "", "byte", "date", "date-time", "double", "float", "int32", "int64", "password",
)  # fmt: skip
_APPROVAL = "api-approved.kubernetes.io"
_PROTECTED = ("k8s.io", "kubernetes.io")
SELECTABLE_FIELDS_MAX = 8
_SIMPLE_PATH = re.compile(r"(\.[A-Za-z_$][A-Za-z0-9_$-]*)+")


class DefinitionRules(Rules):
    def initial_status(self, obj: Object) -> None:
        obj.pop("status", None)

    def default(self, obj: Object) -> None:
        spec = obj.get("spec")
        if not isinstance(spec, dict):
            return
        names = spec.get("names")
        if isinstance(names, dict):
            kind = names.get("kind") or ""
            if kind and not names.get("singular"):
                names["singular"] = kind.lower()
            if kind and not names.get("listKind"):
                names["listKind"] = kind + "List"
        conversion = spec.get("conversion")
        if conversion is None:
            conversion = spec["conversion"] = {"strategy": "None"}
        service = ((conversion.get("webhook") or {}).get("clientConfig") or {}).get("service")
        if service is not None:
            service.setdefault("port", 443)

    def check(self, obj: Object, out: list[Cause]) -> None:
        spec = obj.get("spec") or {}
        names = spec.get("names") or {}
        group, plural = spec.get("group") or "", names.get("plural") or ""
        meta = obj.get("metadata") or {}
        if meta.get("name") != f"{plural}.{group}":
            why = 'must be spec.names.plural+"."+spec.group'
            out.append(bad("metadata.name", meta.get("name", ""), why))
        _check_group(group, meta, out)
        if not spec.get("scope"):
            out.append(required("spec.scope"))
        else:
            syntax.one_of(spec["scope"], _SCOPES, "spec.scope", out)
        _check_names(names, "spec.names", out)
        if scheme.BY_GVR.get(f"{plural}.{group}") is not None:
            out.append(forbidden("spec.names.plural", "this kind is built in"))
        if spec.get("preserveUnknownFields"):
            why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in"
            why += " spec.versions[*].schema instead"
            out.append(bad("spec.preserveUnknownFields", True, why))
        _check_versions(spec.get("versions") or [], out)
        _check_conversion(spec.get("conversion") or {}, out)

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        self.check(obj, out)
        spec, was = obj.get("spec") or {}, old.get("spec") or {}
        names, old_names = spec.get("names") or {}, was.get("names") or {}
        for field, new, before in (
            ("spec.group", spec.get("group"), was.get("group")),
            ("spec.names.plural", names.get("plural"), old_names.get("plural")),
            ("spec.scope", spec.get("scope"), was.get("scope")),
            ("spec.names.kind", names.get("kind"), old_names.get("kind")),
        ):
            settled = field in ("spec.group", "spec.names.plural") or _is_established(old)
            if settled and new != before:
                out.append(bad(field, new, syntax.IMMUTABLE))
        known = {version.get("name") for version in spec.get("versions") or ()}
        stored = (old.get("status") or {}).get("storedVersions") or ()
        out += [
            bad(f"status.storedVersions[{i}]", name, "missing from spec.versions; "
                f"{name} was previously a storage version, and must remain in spec.versions until a"
                " storage migration ensures no data remains persisted in "
                f"{name} and removes {name} from status.storedVersions")
            for i, name in enumerate(stored)
            if name not in known
        ]  # fmt: skip

    def check_status(self, obj: Object, old: Object, out: list[Cause]) -> None:
        versions = (obj.get("spec") or {}).get("versions") or ()
        known = {version.get("name") for version in versions}
        storage = next((version.get("name") for version in versions if version.get("storage")), "")
        stored = (obj.get("status") or {}).get("storedVersions") or []
        for i, name in enumerate(stored):
            if name not in known:
                out.append(bad(f"status.storedVersions[{i}]", name, "must appear in spec.versions"))
        if storage not in stored:
            why = f"must have the storage version {storage}"
            out.append(bad("status.storedVersions", stored, why))


def _is_established(obj: Object) -> bool:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions)


def _check_group(group: str, meta: dict[str, Any], out: list[Cause]) -> None:
    if not group:
        out.append(required("spec.group"))
        return
    wrong = syntax.dns_subdomain(group)
    if wrong:
        out.append(bad("spec.group", group, wrong))
    elif "." not in group:
        out.append(bad("spec.group", group, "should be a domain with at least one dot"))
    elif any(group == one or group.endswith("." + one) for one in _PROTECTED):
        approval = (meta.get("annotations") or {}).get(_APPROVAL) or ""
        if not approval.startswith(("http://", "https://", "unapproved")):
            why = f'protected groups must have approval annotation "{_APPROVAL}", see'
            why += " https://github.com/kubernetes/enhancements/pull/1111"
            out.append(required(f"metadata.annotations[{_APPROVAL}]", why))


def _check_names(names: dict[str, Any], at: str, out: list[Cause]) -> None:
    for key in ("plural", "singular", "kind", "listKind"):
        value = names.get(key) or ""
        if not value:
            if key in ("plural", "kind"):
                out.append(required(f"{at}.{key}"))
            continue
        lower = value.lower() if key in ("kind", "listKind") else value
        wrong = syntax.dns_1035_label(lower)
        if wrong:
            may = "may have mixed case, but should otherwise match: " if lower != value else ""
            out.append(bad(f"{at}.{key}", value, may + wrong))
    if names.get("listKind") and names.get("listKind") == names.get("kind"):
        why = "kind and listKind may not be the same"
        out.append(bad(f"{at}.listKind", names["listKind"], why))
    for key in ("shortNames", "categories"):
        for i, value in enumerate(names.get(key) or ()):
            wrong = syntax.dns_1035_label(value)
            if wrong:
                out.append(bad(f"{at}.{key}[{i}]", value, wrong))


def _check_versions(versions: list[Object], out: list[Cause]) -> None:
    seen: set[str] = set()
    stored = 0
    if not versions:
        why = "must have exactly one version marked as storage version"
        out.append(bad("spec.versions", versions, why))
        return
    for i, version in enumerate(versions):
        at, name = f"spec.versions[{i}]", version.get("name") or ""
        wrong = syntax.dns_1035_label(name)
        if wrong:
            out.append(bad(f"{at}.name", name, wrong))
        if name in seen:
            out.append(duplicate(f"{at}.name", name))
        seen.add(name)
        stored += bool(version.get("storage"))
        if version.get("deprecationWarning") and not version.get("deprecated"):
            why = "can only be set for deprecated versions"
            out.append(bad(f"{at}.deprecationWarning", version["deprecationWarning"], why))
        _check_columns(version.get("additionalPrinterColumns") or (), at, out)
        _check_scale((version.get("subresources") or {}).get("scale"), at, out)
        _check_selectable(version, at, out)
    if stored != 1:
        why = "must have exactly one version marked as storage version"
        out.append(bad("spec.versions", [v.get("name") for v in versions], why))


def _check_columns(columns: Any, above: str, out: list[Cause]) -> None:
    for i, column in enumerate(columns):
        at = f"{above}.additionalPrinterColumns[{i}]"
        if not column.get("name"):
            out.append(required(f"{at}.name"))
        kind = column.get("type") or ""
        if not kind:
            out.append(required(f"{at}.type", "must be one of " + ",".join(_COLUMN_TYPES)))
        elif kind not in _COLUMN_TYPES:
            out.append(unsupported(f"{at}.type", kind, _COLUMN_TYPES))
        if (column.get("format") or "") not in _COLUMN_FORMATS:
            out.append(unsupported(f"{at}.format", column["format"], _COLUMN_FORMATS[1:]))
        path = column.get("jsonPath") or ""
        if not path:
            out.append(required(f"{at}.jsonPath"))
        elif not path.startswith("."):
            why = "must be a simple json path starting with ."
            out.append(bad(f"{at}.jsonPath", path, why))


def _check_scale(scale: Object | None, above: str, out: list[Cause]) -> None:
    if scale is None:
        return
    at = f"{above}.subresources.scale"
    for key, roots, needed in (
        ("specReplicasPath", (".spec.",), True), ("statusReplicasPath", (".status.",), True),
        ("labelSelectorPath", (".spec.", ".status."), False),
    ):  # fmt: skip
        path = scale.get(key) or ""
        if not path:
            if needed:
                out.append(required(f"{at}.{key}"))
        elif not path.startswith(roots) or _SIMPLE_PATH.fullmatch(path) is None:
            why = "should be a json path under " + " or ".join(root[:-1] for root in roots)
            out.append(bad(f"{at}.{key}", path, why))


def _check_selectable(version: Object, above: str, out: list[Cause]) -> None:
    fields = version.get("selectableFields") or ()
    at = f"{above}.selectableFields"
    if len(fields) > SELECTABLE_FIELDS_MAX:
        why = f"must have at most {SELECTABLE_FIELDS_MAX} items"
        out.append(Cause(at, "FieldValueTooMany", f"Too many: {len(fields)}: {why}"))
    seen: set[str] = set()
    for i, one in enumerate(fields):
        path = one.get("jsonPath") or ""
        where = f"{at}[{i}].jsonPath"
        if not path:
            out.append(required(where))
            continue
        if path in seen:
            out.append(duplicate(where, path))
        seen.add(path)
        if _SIMPLE_PATH.fullmatch(path) is None or path.startswith(".metadata"):
            out.append(bad(where, path, "must point to a field that is not of metadata"))
            continue
        schema: Any = (version.get("schema") or {}).get("openAPIV3Schema")
        for name in path[1:].split("."):
            known = schema.get("properties") if isinstance(schema, dict) else None
            schema = known.get(name) if isinstance(known, dict) else None
        if not isinstance(schema, dict) or schema.get("type") not in (
            "string",
            "integer",
            "boolean",
        ):
            why = "is an invalid path: field must be of type string, integer or boolean"
            out.append(bad(where, path, why))


def _check_conversion(conversion: Object, out: list[Cause]) -> None:
    at = "spec.conversion"
    strategy, webhook = conversion.get("strategy") or "", conversion.get("webhook")
    if strategy not in ("None", "Webhook"):
        out.append(unsupported(f"{at}.strategy", strategy, ("None", "Webhook")))
    elif strategy == "None":
        if webhook is not None:
            out.append(forbidden(f"{at}.webhook", "should not be set when strategy is not Webhook"))
    else:
        config = (webhook or {}).get("clientConfig")
        if not config:
            why = "required when strategy is set to Webhook"
            out.append(required(f"{at}.webhook.clientConfig", why))
        elif bool(config.get("url")) == bool(config.get("service")):
            why = "exactly one of url or service is required"
            out.append(required(f"{at}.webhook.clientConfig", why))
        versions = (webhook or {}).get("conversionReviewVersions") or []
        if not versions:
            out.append(required(f"{at}.webhook.conversionReviewVersions"))
        elif not {"v1", "v1beta1"} & set(versions):
            why = "must include at least one of v1, v1beta1"
            out.append(bad(f"{at}.webhook.conversionReviewVersions", versions, why))
