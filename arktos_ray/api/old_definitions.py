"""CustomResourceDefinition in apiextensions.k8s.io/v1beta1, from and to v1. Pure.

What v1beta1 says once for all versions, v1 says for each.
"""

from __future__ import annotations

from typing import Any

import orjson

Object = dict[str, Any]

_OF_ALL = ("subresources", "additionalPrinterColumns", "selectableFields")
_V1, _V1BETA1 = "apiextensions.k8s.io/v1", "apiextensions.k8s.io/v1beta1"


def to_v1(obj: Object) -> Object:
    obj["apiVersion"] = _V1
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        return obj
    name = spec.pop("version", "")
    versions = spec.get("versions") or []
    if not versions and name:
        versions = spec["versions"] = [{"name": name, "served": True, "storage": True}]
    common = {key: spec.pop(key) for key in _OF_ALL if key in spec}
    validation = spec.pop("validation", None)
    lenient = spec.pop("preserveUnknownFields", True)
    spec.setdefault("scope", "Namespaced")
    for version in versions:
        for key, value in common.items():
            version.setdefault(key, orjson.loads(orjson.dumps(value)))
        if "schema" not in version and validation is not None:
            version["schema"] = orjson.loads(orjson.dumps(validation))
        for column in version.get("additionalPrinterColumns") or ():
            if "JSONPath" in column:
                column["jsonPath"] = column.pop("JSONPath")
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        if not isinstance(schema, dict):
            # v1beta1 can do without; everything is kept then.
            version["schema"] = {
                "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            }
        else:
            schema.setdefault("type", "object")
            if lenient:
                schema.setdefault("x-kubernetes-preserve-unknown-fields", True)
    conversion = spec.get("conversion")
    if isinstance(conversion, dict):
        config = conversion.pop("webhookClientConfig", None)
        reviews = conversion.pop("conversionReviewVersions", None)
        if config is not None:
            conversion["webhook"] = {
                "clientConfig": config, "conversionReviewVersions": reviews or ["v1beta1"],
            }  # fmt: skip
    return obj


def from_v1(obj: Object) -> Object:
    obj["apiVersion"] = _V1BETA1
    spec = obj.get("spec")
    if not isinstance(spec, dict):
        return obj
    versions = spec.get("versions") or []
    for version in versions:
        for column in version.get("additionalPrinterColumns") or ():
            if "jsonPath" in column:
                column["JSONPath"] = column.pop("jsonPath")
    if versions:
        spec["version"] = versions[0].get("name", "")
        # What is the same in all of them is said once.
        for key, above in (("schema", "validation"), *((each, each) for each in _OF_ALL)):
            values = [version.get(key) for version in versions]
            if values[0] is not None and all(value == values[0] for value in values):
                spec[above] = values[0]
                for version in versions:
                    del version[key]
    spec["preserveUnknownFields"] = False
    conversion = spec.get("conversion")
    if isinstance(conversion, dict) and "webhook" in conversion:
        webhook = conversion.pop("webhook")
        conversion["webhookClientConfig"] = webhook.get("clientConfig")
        conversion["conversionReviewVersions"] = webhook.get("conversionReviewVersions")
    return obj
