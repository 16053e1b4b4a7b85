"""Whether a schema is one: structural, complete, and with rules that compile.

Causes are in the words of Kubernetes, their fields below `at`, which is where the schema is
(`spec.versions[0].schema.openAPIV3Schema`). Pure.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from arktos_ray.api import cel
from arktos_ray.api.cel import patterns
from arktos_ray.api.kinds.causes import Cause, bad, duplicate, forbidden, required, unsupported
from arktos_ray.api.structural import rules
from arktos_ray.api.structural.nodes import Node, Object, Out

# A schema is walked by recursion, and so are objects along it.
DEPTH_MAX = 64
# All subschemas of one version. The largest in wide use have 6,000.
SCHEMAS_MAX = 20_000
_MESSAGE_CHARS_MAX = 2048
# What else weighs as much as a subschema.
_ENUM_A_SCHEMA = 20
_WRITTEN_OUT_A_SCHEMA = 80
_PATTERN_WEIGHT_MAX = 250
_REPEATED = re.compile(r"[{,](\d{1,9})\}")

_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_REASONS = (
    "FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired",
)  # fmt: skip
_UNSUPPORTED = ("additionalItems", "patternProperties", "definitions", "dependencies", "id", "$ref")


def check(schema: Any, at: str = "") -> Out:
    """What is wrong with a schema itself."""
    if schema is None:
        return [required(at, "schemas are required")]
    out: Out = []
    count = _well_formed(schema, at, out, 0)
    if count > SCHEMAS_MAX:
        out.append(
            Cause(
                at, "FieldValueTooMany", f"Too many: {count}: must have at most {SCHEMAS_MAX} items"
            )
        )
    if out:
        return out
    if schema.get("nullable"):
        out.append(forbidden(_join(at, "nullable"), "nullable cannot be true at the root"))
    _plain(schema, at, out)
    _structural(schema, at, out, _ROOT)
    _complete(schema, schema, at, at, out)
    if not out:
        _defaults(Node(schema, root=True), at, out)
    if not out:
        _rules(schema, at, out, root=True, uncorrelated="")
    return out


class Burden(NamedTuple):
    """What checking a schema costs. weight: in subschemas, 80 us each."""

    expressions: list[str]
    weight: int


def burden(schema: Any) -> Burden:
    """Of a schema that may be anything yet."""
    texts: list[str] = []
    patterns: set[str] = set()
    weight = 0.0
    found = [(schema, 0)]
    while found:
        one, depth = found.pop()
        if not isinstance(one, dict) or depth > DEPTH_MAX:
            continue
        weight += 1 + len(_listed(one.get("enum"))) / _ENUM_A_SCHEMA
        if isinstance(one.get("pattern"), str):
            patterns.add(one["pattern"])
        for rule in _listed(one.get("x-kubernetes-validations")):
            if isinstance(rule, dict):
                said = (rule.get("rule"), rule.get("messageExpression"))
                texts += [text for text in said if isinstance(text, str) and text]
        inner = [one.get("items"), one.get("additionalProperties"), one.get("not")]
        named = one.get("properties")
        inner += list(named.values()) if isinstance(named, dict) else []
        for key in ("allOf", "anyOf", "oneOf"):
            inner += _listed(one.get(key))
        found += [(each, depth + 1) for each in inner]
    return Burden(texts, int(weight + sum(map(_of_pattern, patterns))))


def _of_pattern(pattern: str) -> float:
    """Repetitions are written out before they are compiled: x{1000} takes 4 ms, and no pattern
    more than 20."""
    times = 1
    for found in _REPEATED.findall(pattern):
        times = min(times * max(int(found[-4:]), 1), 10_000)
    return min(len(pattern) * times / _WRITTEN_OUT_A_SCHEMA, _PATTERN_WEIGHT_MAX)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _property(at: str, name: str) -> str:
    return f"{_join(at, 'properties')}[{name}]"


# ----------------------------------------------------------------------------------------- forms

_SCHEMA, _SCHEMAS, _NAMED = "a schema", "a list of schemas", "schemas by name"
_FORMS: dict[str, Any] = {
    "type": str, "format": str, "title": str, "description": str, "pattern": str, "nullable": bool,
    "minimum": (int, float), "maximum": (int, float), "exclusiveMinimum": bool,
    "exclusiveMaximum": bool, "multipleOf": (int, float), "maxLength": int, "minLength": int,
    "maxItems": int, "minItems": int, "maxProperties": int, "minProperties": int,
    "uniqueItems": bool, "enum": list, "required": list, "items": _SCHEMA, "not": _SCHEMA,
    "allOf": _SCHEMAS, "anyOf": _SCHEMAS, "oneOf": _SCHEMAS, "properties": _NAMED,
    "x-kubernetes-preserve-unknown-fields": bool, "x-kubernetes-embedded-resource": bool,
    "x-kubernetes-int-or-string": bool, "x-kubernetes-list-type": str,
    "x-kubernetes-list-map-keys": list, "x-kubernetes-map-type": str,
    "x-kubernetes-validations": list,
}  # fmt: skip
_NAMES = {str: "a string", bool: "a boolean", int: "an integer", (int, float): "a number", list: "an array"}  # fmt: skip  # noqa: E501


def _well_formed(schema: Any, at: str, out: Out, depth: int) -> int:
    """Whether every keyword has a value of its form; the number of schemas."""
    if not isinstance(schema, dict):
        out.append(bad(at, schema, "must be an object"))
        return 1
    if depth > DEPTH_MAX:
        out.append(bad(at, "", f"must not be nested deeper than {DEPTH_MAX} levels"))
        return 1
    count = 1
    for key, value in schema.items():
        form = _FORMS.get(key)
        where = _join(at, key)
        if key in ("default", "enum") and _deeper(value, DEPTH_MAX):
            out.append(bad(where, "", f"must not be nested deeper than {DEPTH_MAX} levels"))
            continue
        if value is None or form is None:
            if key == "additionalProperties" and value is not None and not isinstance(value, bool):
                count += _well_formed(value, where, out, depth + 1)
        elif form is _SCHEMA:
            if key == "items" and isinstance(value, list):
                out.append(forbidden(where, "items must be a schema object and not an array"))
            else:
                count += _well_formed(value, where, out, depth + 1)
        elif form is _SCHEMAS:
            if not isinstance(value, list):
                out.append(bad(where, value, "must be an array"))
                continue
            for i, one in enumerate(value):
                count += _well_formed(one, f"{where}[{i}]", out, depth + 1)
        elif form is _NAMED:
            if not isinstance(value, dict):
                out.append(bad(where, value, "must be an object"))
                continue
            for name, one in value.items():
                count += _well_formed(one, f"{where}[{name}]", out, depth + 1)
        elif not isinstance(value, form) or (isinstance(value, bool) and form is not bool):
            out.append(bad(where, value, f"must be {_NAMES[form]}"))
        elif key in ("required", "x-kubernetes-list-map-keys"):
            out += [
                bad(f"{where}[{i}]", one, "must be a string")
                for i, one in enumerate(value)
                if not isinstance(one, str)
            ]
        elif key == "x-kubernetes-validations":
            _rules_well_formed(value, where, out)
        elif isinstance(value, int) and not isinstance(value, bool) and form is int and value < 0:
            out.append(bad(where, value, "must be greater than or equal to 0"))
    return count


def _deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return levels == 0 or any(_deeper(item, levels - 1) for item in value)


def _rules_well_formed(found: list[Any], at: str, out: Out) -> None:
    for i, rule in enumerate(found):
        if not isinstance(rule, dict):
            out.append(bad(f"{at}[{i}]", rule, "must be an object"))
            continue
        for key, value in rule.items():
            wanted = bool if key == "optionalOldSelf" else str
            if value is not None and not isinstance(value, wanted):
                out.append(bad(f"{at}[{i}].{key}", value, f"must be {_NAMES[wanted]}"))


# -------------------------------------------------------------------- what every schema must keep


def _each(schema: Object, at: str) -> Iterator[tuple[Object, str]]:
    """The schemas right below one, and where."""
    for name, inner in (schema.get("properties") or {}).items():
        yield inner, _property(at, name)
    for key in ("items", "additionalProperties", "not"):
        if isinstance(schema.get(key), dict):
            yield schema[key], _join(at, key)
    for key in ("allOf", "anyOf", "oneOf"):
        for i, inner in enumerate(schema.get(key) or ()):
            yield inner, f"{_join(at, key)}[{i}]"


def _plain(schema: Object, at: str, out: Out) -> None:
    for key in _UNSUPPORTED:
        if schema.get(key):
            out.append(forbidden(_join(at, key), f"{key} is not supported"))
    kind = schema.get("type")
    if kind == "null":
        why = "type cannot be set to null, use nullable as an alternative"
        out.append(forbidden(_join(at, "type"), why))
    elif kind and kind not in _TYPES:
        out.append(unsupported(_join(at, "type"), kind, _TYPES))
    if schema.get("uniqueItems"):
        why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        out.append(forbidden(_join(at, "uniqueItems"), why))
    if "additionalProperties" in schema:
        more = schema["additionalProperties"]
        if more is False:
            why = "additionalProperties cannot be set to false"
            out.append(forbidden(_join(at, "additionalProperties"), why))
        if schema.get("properties") and more is not None and more is not False:
            why = "additionalProperties and properties are mutual exclusive"
            out.append(forbidden(_join(at, "additionalProperties"), why))
    if schema.get("x-kubernetes-preserve-unknown-fields") is False:
        where = _join(at, "x-kubernetes-preserve-unknown-fields")
        out.append(bad(where, False, "must be true or undefined"))
    if "enum" in schema and schema["enum"] is not None and not schema["enum"]:
        out.append(required(_join(at, "enum"), "must not be empty"))
    if isinstance(schema.get("multipleOf"), int | float) and schema["multipleOf"] <= 0:
        out.append(bad(_join(at, "multipleOf"), schema["multipleOf"], "must be greater than 0"))
    _lists_and_maps(schema, at, out)
    for inner, where in _each(schema, at):
        _plain(inner, where, out)


def _lists_and_maps(schema: Object, at: str, out: Out) -> None:
    kind, list_type = schema.get("type"), schema.get("x-kubernetes-list-type")
    map_type, keys = schema.get("x-kubernetes-map-type"), schema.get("x-kubernetes-list-map-keys")
    items = schema.get("items") or {}
    if list_type is not None:
        if kind != "array":
            why = "must be array if x-kubernetes-list-type is specified"
            where = _join(at, "type")
            out.append(bad(where, kind, why) if kind else required(where, why))
        if list_type not in ("atomic", "map", "set"):
            where = _join(at, "x-kubernetes-list-type")
            out.append(unsupported(where, list_type, ("atomic", "map", "set")))
    if keys and list_type != "map":
        where = _join(at, "x-kubernetes-list-type")
        why = "must be map if x-kubernetes-list-map-keys is non-empty"
        out.append(bad(where, list_type, why) if list_type else required(where, why))
    if list_type == "map":
        _map_keys(keys or [], items, at, out)
    if list_type == "set":
        if items.get("nullable"):
            why = "cannot be nullable when x-kubernetes-list-type is set"
            out.append(forbidden(_join(at, "items.nullable"), why))
        inner, key = items.get("type"), None
        if inner == "object" and items.get("x-kubernetes-map-type") != "atomic":
            key = "x-kubernetes-map-type"
        elif inner == "array" and items.get("x-kubernetes-list-type") not in (None, "atomic"):
            key = "x-kubernetes-list-type"
        if key is not None:
            why = "must be atomic as item of a list with x-kubernetes-list-type=set"
            where = _join(at, f"items.{key}")
            have = items.get(key)
            out.append(bad(where, have, why) if have else required(where, why))
    if map_type is not None:
        if kind != "object":
            why = "must be object if x-kubernetes-map-type is specified"
            where = _join(at, "type")
            out.append(bad(where, kind, why) if kind else required(where, why))
        if map_type not in ("atomic", "granular"):
            where = _join(at, "x-kubernetes-map-type")
            out.append(unsupported(where, map_type, ("atomic", "granular")))


def _map_keys(keys: list[str], items: Object, at: str, out: Out) -> None:
    where = _join(at, "x-kubernetes-list-map-keys")
    if not keys:
        out.append(required(where, "must not be empty if x-kubernetes-list-type is map"))
    if items.get("type") != "object":
        why = "must be object if parent array's x-kubernetes-list-type is map"
        kind = items.get("type")
        place = _join(at, "items.type")
        out.append(bad(place, kind, why) if kind else required(place, why))
        return
    if items.get("nullable"):
        why = "cannot be nullable when x-kubernetes-list-type is map"
        out.append(forbidden(_join(at, "items.nullable"), why))
    known, needed = items.get("properties") or {}, items.get("required") or ()
    seen = set()
    for i, key in enumerate(keys):
        if key in seen:
            out.append(duplicate(f"{where}[{i}]", key))
            continue
        seen.add(key)
        inner = known.get(key)
        place = f"{_join(at, 'items')}.properties[{key}]"
        if inner is None:
            out.append(bad(f"{where}[{i}]", key, "entries must all be names of item properties"))
            continue
        if inner.get("type") in ("array", "object"):
            why = "must be a scalar type if parent array's x-kubernetes-list-type is map"
            out.append(bad(f"{place}.type", inner["type"], why))
        if inner.get("nullable"):
            why = "cannot be nullable as it is in x-kubernetes-list-map-keys"
            out.append(forbidden(f"{place}.nullable", why))
        if "default" not in inner and key not in needed:
            why = (
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be "
                "a required property"
            )
            out.append(required(f"{place}.default", why))


# ------------------------------------------------------------------------------------- structural

_ROOT, _ITEM, _FIELD = "root", "item", "field"
_MISSING_TYPE = {
    _ROOT: "must not be empty at the root",
    _ITEM: "must not be empty for specified array items",
    _FIELD: "must not be empty for specified object fields",
}


def _structural(schema: Object, at: str, out: Out, level: str) -> None:
    kind = schema.get("type")
    embedded = schema.get("x-kubernetes-embedded-resource")
    preserves = schema.get("x-kubernetes-preserve-unknown-fields")
    either = schema.get("x-kubernetes-int-or-string")
    items, known, more = (schema.get(k) for k in ("items", "properties", "additionalProperties"))
    if kind == "array" and items is None:
        out.append(required(_join(at, "items"), "must be specified"))
    if items is not None:
        _structural(items, _join(at, "items"), out, _ITEM)
    for name, inner in (known or {}).items():
        _structural(inner, _property(at, name), out, _FIELD)
    if more is not None and level is _ROOT:
        out.append(forbidden(_join(at, "additionalProperties"), "must not be used at the root"))
    if isinstance(more, dict):
        _structural(more, _join(at, "additionalProperties"), out, _FIELD)
    if either:
        for key, set_ in (("preserve-unknown-fields", preserves), ("embedded-resource", embedded)):
            if set_:
                why = "must be false if x-kubernetes-int-or-string is true"
                out.append(bad(_join(at, f"x-kubernetes-{key}"), True, why))
    _values(schema, at, out, skip=bool(either))
    where = _join(at, "type")
    if embedded and kind != "object":
        why = "must be object if x-kubernetes-embedded-resource is true"
        out.append(bad(where, kind, why) if kind else required(where, why))
    elif not kind and not either and not preserves:
        out.append(required(where, _MISSING_TYPE[level]))
    if embedded and more is not None:
        why = "must not be used if x-kubernetes-embedded-resource is set"
        out.append(forbidden(_join(at, "additionalProperties"), why))
    if embedded and not preserves and not known:
        why = (
            "must not be empty if x-kubernetes-embedded-resource is true without "
            "x-kubernetes-preserve-unknown-fields"
        )
        out.append(required(_join(at, "properties"), why))
    if level is _ROOT and kind and kind != "object":
        out.append(bad(where, kind, "must be object at the root"))
    if level is _ROOT or embedded:
        _implicit(known or {}, at, out, root=level is _ROOT)


def _implicit(known: Object, at: str, out: Out, *, root: bool) -> None:
    for name in ("apiVersion", "kind"):
        if name in known and known[name].get("type") != "string":
            where = f"{_property(at, name)}.type"
            out.append(bad(where, known[name].get("type") or "", "must be string"))
    metadata = known.get("metadata")
    if metadata is None:
        return
    where = _property(at, "metadata")
    if metadata.get("type") != "object":
        out.append(bad(f"{where}.type", metadata.get("type") or "", "must be object"))
    if root:
        other = set(metadata) - {"type", "properties", "default", "description"}
        if other or set(metadata.get("properties") or ()) - {"name", "generateName"}:
            why = (
                "must not specify anything other than name and generateName, but metadata is "
                "implicitly specified"
            )
            out.append(forbidden(where, why))


_EITHER = [{"type": "integer"}, {"type": "string"}]


def _values(schema: Object, at: str, out: Out, *, skip: bool = False) -> None:
    """What is in allOf, anyOf, oneOf and not only restricts."""
    if not (skip and _is_either(schema.get("anyOf"))):
        for i, inner in enumerate(schema.get("anyOf") or ()):
            _nested(inner, f"{_join(at, 'anyOf')}[{i}]", out)
    for i, inner in enumerate(schema.get("allOf") or ()):
        first = skip and i == 0 and _is_either(inner.get("anyOf"))
        _nested(inner, f"{_join(at, 'allOf')}[{i}]", out, skip=first)
    for i, inner in enumerate(schema.get("oneOf") or ()):
        _nested(inner, f"{_join(at, 'oneOf')}[{i}]", out)
    if schema.get("not") is not None:
        _nested(schema["not"], _join(at, "not"), out)
    pattern = schema.get("pattern")
    if pattern:
        try:
            patterns.compile(pattern)
        except ValueError as error:
            why = (
                "must be a valid regular expression, but isn't: error parsing regexp: "
                f"{_as_go_says(str(error))}"
            )
            out.append(bad(_join(at, "pattern"), pattern, why))


def _is_either(choices: Any) -> bool:
    return bool(choices == _EITHER)


def _as_go_says(text: str) -> str:
    """RE2 and Go name the faulty piece after a colon; Go quotes it."""
    what, found, piece = text.partition(": ")
    return f"{what}: `{piece}`" if found else text


_NESTED_FORBIDDEN = {
    "type": "must be empty to be structural",
    "additionalProperties": "must be undefined to be structural",
    "default": "must be undefined to be structural",
    "title": "must be empty to be structural",
    "description": "must be empty to be structural",
    "nullable": "must be false to be structural",
    "externalDocs": "must be undefined to be structural",
    "x-kubernetes-preserve-unknown-fields": "must be false to be structural",
    "x-kubernetes-embedded-resource": "must be false to be structural",
    "x-kubernetes-int-or-string": "must be false to be structural",
    "x-kubernetes-list-map-keys": "must be empty to be structural",
    "x-kubernetes-list-type": "must be undefined to be structural",
    "x-kubernetes-map-type": "must be undefined to be structural",
    "x-kubernetes-validations": "must be empty to be structural",
}


def _nested(schema: Object, at: str, out: Out, *, skip: bool = False) -> None:
    _values(schema, at, out, skip=skip)
    if schema.get("items") is not None:
        _nested(schema["items"], _join(at, "items"), out)
    for name, inner in (schema.get("properties") or {}).items():
        _nested(inner, _property(at, name), out)
    for key, why in _NESTED_FORBIDDEN.items():
        if schema.get(key):
            out.append(forbidden(_join(at, key), why))
    if "metadata" in (schema.get("properties") or {}):
        why = "must not be specified in a nested context"
        out.append(forbidden(_property(at, "metadata"), why))


def _complete(value: Object, schema: Object | None, at: str, said: str, out: Out) -> None:
    """Every field that a restriction names is a field."""
    for key in ("allOf", "anyOf", "oneOf"):
        for i, inner in enumerate(value.get(key) or ()):
            _complete_nested(inner, schema, at, f"{_join(said, key)}[{i}]", out)
    if value.get("not") is not None:
        _complete_nested(value["not"], schema, at, _join(said, "not"), out)
    if value is schema:
        for inner, where in _each({k: v for k, v in schema.items() if k in _PARTS}, at):
            _complete(inner, inner, where, where, out)


_PARTS = ("properties", "items", "additionalProperties")


def _complete_nested(value: Object, schema: Object | None, at: str, said: str, out: Out) -> None:
    if schema is None:
        out.append(required(at, f"because it is defined in {said}"))
        return
    _complete(value, schema, at, said, out)
    if value.get("items") is not None:
        _complete_nested(
            value["items"], schema.get("items"), _join(at, "items"), _join(said, "items"), out
        )
    for name, inner in (value.get("properties") or {}).items():
        known = (schema.get("properties") or {}).get(name)
        _complete_nested(inner, known, _property(at, name), _property(said, name), out)


# --------------------------------------------------------------------------------------- defaults


def _defaults(node: Node, at: str, out: Out) -> None:
    if node.has_default:
        where = _join(at, "default")
        if node.default is None:
            if not node.nullable:
                out.append(bad(where, None, "must not be null"))
        else:
            pruned = copy.deepcopy(node.default)
            lost: list[str] = []
            node.prune(pruned, "", lost)
            if lost:
                out.append(bad(where, node.default, "must not have unknown fields"))
            node.fill(pruned)
            node.validate(pruned, where, out)
    for name, inner in node.properties.items():
        _defaults(inner, _property(at, name), out)
    if node.items is not None:
        _defaults(node.items, _join(at, "items"), out)
    if isinstance(node.additional, Node):
        _defaults(node.additional, _join(at, "additionalProperties"), out)


# ------------------------------------------------------------------------------------------ rules


def _rules(schema: Object, at: str, out: Out, *, root: bool, uncorrelated: str) -> None:
    """uncorrelated: from where on an item has no old one of its own; "" when it has."""
    for i, rule in enumerate(schema.get("x-kubernetes-validations") or ()):
        _rule(
            rule, schema, f"{_join(at, 'x-kubernetes-validations')}[{i}]", out, root, uncorrelated
        )
    apart = uncorrelated
    if schema.get("x-kubernetes-map-type") == "atomic":
        apart = apart or at
    for name, inner in (schema.get("properties") or {}).items():
        _rules(inner, _property(at, name), out, root=False, uncorrelated=apart)
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        _rules(more, _join(at, "additionalProperties"), out, root=False, uncorrelated=apart)
    if schema.get("items") is not None:
        where = _join(at, "items")
        if schema.get("x-kubernetes-list-type") != "map":
            apart = apart or where
        _rules(schema["items"], where, out, root=False, uncorrelated=apart)


def _rule(rule: Object, schema: Object, at: str, out: Out, root: bool, uncorrelated: str) -> None:
    before = len(out)
    text, message = (rule.get("rule") or "").strip(), rule.get("message") or ""
    if not text:
        out.append(required(f"{at}.rule", "rule is not specified"))
    elif message and not message.strip():
        out.append(bad(f"{at}.message", message, "message must be non-empty if specified"))
    elif len(message) > _MESSAGE_CHARS_MAX:
        why = f"message must have a maximum length of {_MESSAGE_CHARS_MAX} characters"
        out.append(bad(f"{at}.message", message[:10] + "...", why))
    elif "\n" in message.strip():
        out.append(bad(f"{at}.message", message, "message must not contain line breaks"))
    elif "\n" in text and not message.strip():
        why = "message must be specified if rule contains line breaks"
        out.append(required(f"{at}.message", why))
    expression = rule.get("messageExpression") or ""
    if expression and not expression.strip():
        why = "messageExpression must be non-empty if specified"
        out.append(required(f"{at}.messageExpression", why))
    if rule.get("reason") and rule["reason"] not in _REASONS:
        out.append(unsupported(f"{at}.reason", rule["reason"], _REASONS))
    path = rule.get("fieldPath") or ""
    if path and not path.strip():
        out.append(bad(f"{at}.fieldPath", path, "fieldPath must be non-empty if specified"))
    elif "\n" in path:
        out.append(bad(f"{at}.fieldPath", path, "fieldPath must not contain line breaks"))
    elif path:
        try:
            rules.field_path(path, schema)
        except ValueError as error:
            out.append(bad(f"{at}.fieldPath", path, f"fieldPath must be a valid path: {error}"))
    if len(out) > before:
        return
    kind = rules.cel_type(schema)
    types = {"self": kind, "oldSelf": "dyn" if rule.get("optionalOldSelf") else kind}
    program = _compile(rule["rule"], types, "bool", f"{at}.rule", rule, schema, out, root)
    uses_old = program is not None and "oldSelf" in program.names
    if expression:
        _compile(expression, types, "string", f"{at}.messageExpression", rule, schema, out, root)
    if uses_old and uncorrelated:
        why = "oldSelf cannot be used on the uncorrelatable portion of the schema within"
        out.append(bad(f"{at}.rule", rule["rule"], f"{why} {uncorrelated}"))
    if rule.get("optionalOldSelf") and program is not None and not uses_old:
        why = "may not be set if oldSelf is not used in rule"
        out.append(bad(f"{at}.optionalOldSelf", True, why))


_WANTED = {
    "bool": "cel expression must evaluate to a bool",
    "string": "messageExpression must evaluate to a string",
}


def _compile(
    text: str,
    types: dict[str, str],
    wanted: str,
    at: str,
    rule: Object,
    schema: Object,
    out: Out,
    root: bool,
) -> cel.Program | None:
    kind = "messageExpression" if wanted == "string" else ""
    said = f"{kind} compilation failed: ".lstrip()
    try:
        program = cel.compile(text, types)
    except cel.CelError as error:
        out.append(bad(at, rule, said + error.text))
        return None
    if program.result not in (wanted, "dyn"):
        out.append(bad(at, rule, _WANTED[wanted]))
        return None
    unknown = rules.undefined(program, schema, root=root)
    if unknown is not None:
        out.append(bad(at, rule, said + unknown))
        return None
    return program
