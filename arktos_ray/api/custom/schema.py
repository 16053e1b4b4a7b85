"""The one place where custom objects meet their schema.

For now what is known of a schema is its shape: unknown fields, defaults, and the simple types.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

from arktos_ray.api.kinds.causes import Cause, bad, required, unsupported

Object = dict[str, Any]

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
    "boolean": bool,
}  # fmt: skip


class Structural(Protocol):
    """The schema of one version of a definition."""

    def prune(self, obj: Object) -> list[str]:
        """Takes out what the schema does not know; the paths of it."""

    def default(self, obj: Object) -> None: ...

    def validate(self, obj: Object, old: Object | None = None) -> list[Cause]: ...


def check(schema: Any) -> list[Cause]:
    """What is wrong with a schema itself, below `openAPIV3Schema`."""
    if schema is None:
        return [required("", "schemas are required")]
    if not isinstance(schema, dict):
        return [bad("", schema, "must be an object")]
    if schema.get("type") != "object":
        return [bad("type", schema.get("type", ""), "must be object at the root")]
    return []


def compiled(schema: Object | None) -> Structural:
    return _Shape(schema or {"x-kubernetes-preserve-unknown-fields": True})


class _Shape:
    def __init__(self, schema: Object) -> None:
        self._schema = schema

    def prune(self, obj: Object) -> list[str]:
        out: list[str] = []
        keep = {"apiVersion", "kind", "metadata"}
        _prune(obj, self._schema, "", out, keep)
        return out

    def default(self, obj: Object) -> None:
        _default(obj, self._schema)

    def validate(self, obj: Object, old: Object | None = None) -> list[Cause]:
        out: list[Cause] = []
        _validate(obj, self._schema, "", out)
        return out


def _prune(value: Any, schema: Object, at: str, out: list[str], keep: set[str]) -> None:
    if isinstance(value, list):
        items = schema.get("items") or {}
        for i, item in enumerate(value):
            _prune(item, items, f"{at}[{i}]", out, set())
        return
    if not isinstance(value, dict):
        return
    if schema.get("x-kubernetes-embedded-resource"):
        keep = {"apiVersion", "kind", "metadata"}
    known, more = schema.get("properties") or {}, schema.get("additionalProperties")
    for name in list(value):
        if name in keep:
            continue
        inner = known.get(name, more)
        where = f"{at}.{name}" if at else name
        if isinstance(inner, dict):
            _prune(value[name], inner, where, out, set())
        elif not inner and not schema.get("x-kubernetes-preserve-unknown-fields"):
            del value[name]
            out.append(where)


def _default(value: Any, schema: Object) -> None:
    if isinstance(value, list):
        for item in value:
            _default(item, schema.get("items") or {})
    elif isinstance(value, dict):
        known, more = schema.get("properties") or {}, schema.get("additionalProperties")
        for name, inner in known.items():
            if "default" in inner and (
                name not in value or (value[name] is None and not inner.get("nullable"))
            ):
                value[name] = copy.deepcopy(inner["default"])
        for name, item in value.items():
            inner = known.get(name, more)
            if isinstance(inner, dict):
                _default(item, inner)


def _validate(value: Any, schema: Object, at: str, out: list[Cause]) -> None:
    wanted = schema.get("type")
    if value is None and schema.get("nullable"):
        return
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            out.append(bad(at, value, "must be of type integer or string"))
        return
    if wanted and (
        not isinstance(value, _TYPES.get(wanted, object))
        or (isinstance(value, bool) and wanted != "boolean")
    ):
        out.append(bad(at, value, f'{at} in body must be of type {wanted}: "{value}"'))
        return
    if "enum" in schema and value not in schema["enum"]:
        out.append(unsupported(at, value, schema["enum"]))
    if isinstance(value, int | float):
        if "minimum" in schema and value < schema["minimum"]:
            why = f"{at} in body should be greater than or equal to {schema['minimum']}"
            out.append(bad(at, value, why))
        if "maximum" in schema and value > schema["maximum"]:
            why = f"{at} in body should be less than or equal to {schema['maximum']}"
            out.append(bad(at, value, why))
    if isinstance(value, list):
        for i, item in enumerate(value):
            _validate(item, schema.get("items") or {}, f"{at}[{i}]", out)
    elif isinstance(value, dict):
        known, more = schema.get("properties") or {}, schema.get("additionalProperties")
        out += [
            required(f"{at}.{name}" if at else name)
            for name in schema.get("required") or ()
            if name not in value
        ]
        for name, item in value.items():
            if not at and name in ("apiVersion", "kind", "metadata"):
                continue
            inner = known.get(name, more)
            if isinstance(inner, dict):
                _validate(item, inner, f"{at}.{name}" if at else name, out)
