"""A structural schema as older documents can say it. Pure."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

# OpenAPI v2 has no word for these.
_UNKNOWN_TO_V2 = frozenset(["allOf", "anyOf", "oneOf", "not", "nullable", "default"])


def openapi_v2(schema: Object) -> Object:
    """For /openapi/v2: clients check objects against it before they send them, so it says less than
    the schema where v2 cannot say as much, and never more."""
    if schema.get("nullable"):
        # Nothing in v2 lets a null be there beside anything else.
        return _described(schema)
    out: Object = {}
    preserves = schema.get("x-kubernetes-preserve-unknown-fields")
    for key, value in schema.items():
        if key in _UNKNOWN_TO_V2 or value is None:
            continue
        if key == "properties":
            if not preserves:
                out[key] = {name: openapi_v2(inner) for name, inner in value.items()}
        elif key == "items" or (key == "additionalProperties" and isinstance(value, dict)):
            if not preserves:
                out[key] = openapi_v2(value)
        else:
            out[key] = value
    if out.get("required") and (preserves or not out.get("properties")):
        del out["required"]
    if preserves and schema.get("type") == "array":
        out.pop("type")
    return out


def _described(schema: Object) -> Object:
    kept = {key: schema[key] for key in ("description", "title") if schema.get(key)}
    return {**kept, "x-kubernetes-preserve-unknown-fields": True}
