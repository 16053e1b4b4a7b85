"""The quick yes: jsonschema-rs finds in 5 us that a good object of 1 KB is good, our walk in 60.

A gate is at least as strict as the walk in nodes.py, which decides what a gate refuses and finds
the words for it. So the two agree by construction where it matters: what a gate takes, the walk
would take (tests/unit/api/test_structural.py tries both on generated objects). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from arktos_ray.api.cel import patterns
from arktos_ray.api.structural.nodes import BOUNDS, FORMATS, Json, Node, Object

_ALL_BUT_NULL = ["array", "boolean", "integer", "number", "object", "string"]
_AS_THEY_ARE = (
    "exclusiveMaximum", "exclusiveMinimum", "maxItems", "maxLength", "maxProperties", "maximum",
    "minItems", "minLength", "minProperties", "minimum", "multipleOf", "required",
)  # fmt: skip
# A pattern of these means the same to RE2 and to Rust: no classes of letters, no groups with flags.
_SAME = re.compile(r"(?:[\w \-.,:/@^$*+|{}=<>#~%&!'\"]|\\[.\-/+*?()\[\]{}^$|]|\((?!\?)|\)|\?|\[(?!:)|\])*", re.A)  # fmt: skip  # noqa: E501


class Gate:
    """Whether an object surely has nothing unknown, or surely breaks nothing."""

    __slots__ = ("_validator",)

    def __init__(self, schema: Object, formats: dict[str, Callable[[str], bool]]) -> None:
        import jsonschema_rs

        self._validator: Any = jsonschema_rs.Draft4Validator(
            schema, formats=formats, validate_formats=True,
            pattern_options=jsonschema_rs.RegexOptions(),
        )  # fmt: skip

    def passes(self, obj: Json) -> bool:
        try:
            return bool(self._validator.is_valid(obj))
        except (ValueError, TypeError, OverflowError, RecursionError):
            return False  # Numbers beyond 64 bits, or nested deeper than it goes.


def closed(root: Node) -> Gate:
    """Nothing would be pruned."""
    return Gate(_closed(root), {})


def _closed(node: Node) -> Object:
    out: Object = {}
    known: Object = {}
    if node.root or node.embedded:
        known = {"apiVersion": {}, "kind": {}, "metadata": {}}
    for name, inner in node.properties.items():
        if name == "metadata" and (node.root or node.embedded):
            continue
        known[name] = _closed_value(inner)
    if known:
        out["properties"] = known
    if isinstance(node.additional, Node):
        out["additionalProperties"] = _closed_value(node.additional)
    elif node.additional is False and not node.preserves:
        out["additionalProperties"] = False
    if node.items is not None:
        out["items"] = _closed(node.items)
    return out


def _closed_value(node: Node) -> Object:
    out = _closed(node)
    if not node.nullable and not node.has_default and node.types is not None:
        out["type"] = _ALL_BUT_NULL
    return out


def valid(root: Node) -> Gate | None:
    """Nothing is wrong. None where the two could disagree."""
    formats: dict[str, Callable[[str], bool]] = {}
    schema = _valid(root, formats)
    if schema is None:
        return None
    try:
        return Gate(schema, formats)
    except ValueError:
        return None  # Its regular expressions are RE2's, and not Rust's.


def _valid(node: Node, formats: dict[str, Callable[[str], bool]]) -> Object | None:
    schema = node.schema
    out: Object = {key: schema[key] for key in _AS_THEY_ARE if schema.get(key) is not None}
    for most in ("minimum", "maximum"):
        if most not in out:
            out.pop(f"exclusive{most.capitalize()}", None)
    if isinstance(out.get("multipleOf"), float):
        return None
    if schema.get("enum") is not None:
        out["enum"] = schema["enum"]
    if not out.get("required"):
        out.pop("required", None)  # Draft 4 has no empty one.
    kind: Any = ["integer", "string"] if node.int_or_string else node.kind
    if kind:
        kinds = kind if isinstance(kind, list) else [kind]
        out["type"] = [*kinds, "null"] if node.nullable else kinds
    both: list[Object] = []
    if pattern := schema.get("pattern"):
        if _SAME.fullmatch(pattern):
            out["pattern"] = pattern
        else:
            name = f"pattern {pattern}"
            formats[name] = _search(pattern)
            both.append({"format": name})
    if format_ := schema.get("format"):
        if format_ in BOUNDS:
            low, high = BOUNDS[format_]
            both.append({"minimum": low, "maximum": high})
        elif test := FORMATS.get(format_.replace("-", "").lower()):
            name = f"format {format_}"
            formats[name] = test
            both.append({"format": name})
    parts: dict[str, list[Node]] = {}
    for key in ("allOf", "anyOf", "oneOf"):
        parts[key] = node.choices.get(key, [])
    for key, choices in parts.items():
        made = [_valid(choice, formats) for choice in choices]
        if None in made:
            return None
        if key == "allOf":
            both += [one for one in made if one is not None]
        elif made:
            both.append({key: made})
    if node.choices.get("oneOf") or node.choices.get("not"):
        # There a stricter part makes a laxer whole.
        return None
    if both:
        out["allOf"] = both
    if node.embedded:
        filled = {"type": "string", "minLength": 1}
        both.append(
            {
                "required": ["apiVersion", "kind"],
                "properties": {
                    "apiVersion": filled, "kind": filled, "metadata": {"type": "object"},
                },
            }
        )  # fmt: skip
        out["allOf"] = both
    if node.properties:
        known = {name: _valid(inner, formats) for name, inner in node.properties.items()}
        if None in known.values():
            return None
        out["properties"] = known
    if isinstance(node.additional, Node):
        out["additionalProperties"] = _valid(node.additional, formats)
        if out["additionalProperties"] is None:
            return None
    if node.items is not None:
        out["items"] = _valid(node.items, formats)
        if out["items"] is None:
            return None
    return out


def _search(pattern: str) -> Callable[[str], bool]:
    compiled: list[Any] = []

    def search(text: str) -> bool:
        if not compiled:
            compiled.append(patterns.compile(pattern))
        return compiled[0].search(text) is not None

    return search
