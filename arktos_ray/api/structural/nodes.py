"""A structural schema, compiled: how objects of it are pruned, defaulted and validated.

A Node is one place of the schema. What it says of a wrong value are the words of Kubernetes. Rules
in CEL are in rules.py; whether a schema is sound was asked before (soundness.py). Pure.
"""

from __future__ import annotations

import copy
import ipaddress
import re
from collections.abc import Callable
from typing import Any

import orjson

from arktos_ray.api.cel import formats, patterns
from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import Cause, bad, required, shown, too_long, too_many, unsupported

Json = Any
Object = dict[str, Any]
Out = list[Cause]

NOTHING: Any = object()  # No old value: there is none, or none that corresponds.

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_IMPLICIT = frozenset(["apiVersion", "kind", "metadata"])


def type_name(value: Json) -> str:
    """What JSON calls the type of a value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


class Node:
    __slots__ = (
        "additional", "checks", "choices", "converts", "default", "embedded", "has_default",
        "has_rules", "int_or_string", "items", "junctors", "keys", "kind", "list_type",
        "nested_defaults", "nested_unique", "nullable", "preserves", "properties", "prunes",
        "required", "root", "rules", "schema", "types",
    )  # fmt: skip

    def __init__(self, schema: Object, *, root: bool = False) -> None:
        self.schema = schema
        self.root = root
        self.kind: str = schema.get("type") or ""
        self.nullable = bool(schema.get("nullable"))
        self.int_or_string = bool(schema.get("x-kubernetes-int-or-string"))
        self.preserves = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
        self.embedded = bool(schema.get("x-kubernetes-embedded-resource"))
        self.types = (int, str) if self.int_or_string else _PYTHON_TYPES.get(self.kind)
        self.has_default = "default" in schema
        self.default = schema.get("default")
        self.list_type: str = schema.get("x-kubernetes-list-type") or "atomic"
        self.keys = tuple(schema.get("x-kubernetes-list-map-keys") or ())
        self.required = tuple(schema.get("required") or ())
        self.properties: dict[str, Node] = {
            name: Node(inner) for name, inner in (schema.get("properties") or {}).items()
        }
        items, more = schema.get("items"), schema.get("additionalProperties")
        self.items = Node(items) if isinstance(items, dict) else None
        # True: any property; a Node: properties of that kind.
        self.additional = Node(more) if isinstance(more, dict) else bool(more)
        self.checks = _checks(schema)
        # allOf, anyOf, oneOf, not: the nodes in them.
        self.choices = _choices(schema, self.int_or_string)
        self.junctors = tuple(_JUNCTORS[key](nodes) for key, nodes in self.choices.items())
        self.rules: Any = ()  # rules.py
        self.has_rules = False
        self.converts = False  # whether CEL has other values than JSON here or below
        inner = self._inner()
        self.nested_defaults: bool = any(node.has_default or node.nested_defaults for node in inner)
        self.nested_unique: bool = self.list_type != "atomic" or any(n.nested_unique for n in inner)
        # Whether anything below could be unknown, or null without leave.
        self.prunes: bool = (
            self.kind == "object" or bool(self.properties) or any(n.prunes for n in inner)
        )

    def _inner(self) -> list[Node]:
        both = (self.items, self.additional)
        return [*self.properties.values(), *(one for one in both if isinstance(one, Node))]

    # --- pruning and defaults ---------------------------------------------------------------------

    def prune(self, value: Json, at: str, out: list[str]) -> None:
        """Take out what is unknown, and nulls that may be none and have no default."""
        if type(value) is dict:
            properties, additional = self.properties, self.additional
            gone: list[str] | None = None
            for name, item in value.items():
                inner = properties.get(name)
                if inner is None:
                    if additional is False:
                        implicit = (self.root or self.embedded) and name in _IMPLICIT
                        if not self.preserves and not implicit:
                            gone = [*(gone or ()), name]
                            out.append(f"{at}.{name}" if at else name)
                        continue
                    if additional is True:
                        continue
                    inner = additional
                elif (self.root or self.embedded) and name == "metadata":
                    continue
                if item is None:
                    if not inner.nullable and not inner.has_default and inner.types is not None:
                        gone = [*(gone or ()), name]
                elif inner.prunes:
                    inner.prune(item, f"{at}.{name}" if at else name, out)
            for name in gone or ():
                del value[name]
        elif type(value) is list and self.items is not None and self.items.prunes:
            for i, item in enumerate(value):
                self.items.prune(item, f"{at}[{i}]", out)

    def fill(self, value: Json) -> None:
        """Put defaults where nothing is."""
        if type(value) is dict:
            for name, inner in self.properties.items():
                if inner.has_default and (
                    name not in value or (value[name] is None and not inner.nullable)
                ):
                    value[name] = copy.deepcopy(inner.default)
                if inner.nested_defaults and name in value:
                    inner.fill(value[name])
            more = self.additional
            if isinstance(more, Node):
                for name, item in value.items():
                    if item is None and more.has_default and not more.nullable:
                        value[name] = copy.deepcopy(more.default)
                    if more.nested_defaults:
                        more.fill(value[name])
        elif type(value) is list and self.items is not None:
            items = self.items
            for i, item in enumerate(value):
                if item is None and items.has_default and not items.nullable:
                    value[i] = copy.deepcopy(items.default)
                if items.nested_defaults:
                    items.fill(value[i])

    # --- validation -------------------------------------------------------------------------------

    def validate(self, value: Json, at: str, out: Out, old: Json = NOTHING) -> None:
        """Say what is wrong with a value. What is as it was in `old` is not looked at."""
        if old is not NOTHING and value == old:
            return
        if value is None and self.nullable:
            return
        kind = type(value)
        types = self.types
        # 1.0 is an integer, too.
        if (
            types is not None
            and kind not in types
            and not (kind is float and self.kind == "integer" and value.is_integer())
        ):
            out.append(_wrong_type(at, value, self.kind or "integer,string"))
            return
        for check in self.checks:
            check(value, at, out)
        if kind is dict:
            for name in self.required:
                if name not in value:
                    out.append(required(f"{at}.{name}" if at else name))
            if self.embedded:
                _embedded(value, at, out)
            properties, more = self.properties, self.additional
            was = old if type(old) is dict else None
            for name, item in value.items():
                inner = properties.get(name)
                if inner is None:
                    if type(more) is bool:
                        continue
                    inner = more
                where = f"{at}.{name}" if at else name
                inner.validate(item, where, out, NOTHING if was is None else was.get(name, NOTHING))
        elif kind is list and self.items is not None:
            items = self.items
            former = self.correlated(value, old)
            for i, item in enumerate(value):
                items.validate(item, f"{at}[{i}]", out, NOTHING if former is None else former[i])
        for junctor in self.junctors:
            junctor(value, at, out)

    def correlated(self, value: list[Json], old: Json) -> list[Json] | None:
        """The old item of each item; None when items are not told apart by keys."""
        if type(old) is not list or self.list_type != "map":
            return None
        before: dict[bytes, Json] = {}
        for item in old:
            if type(item) is dict:
                before.setdefault(self._key(item), item)
        return [
            before.get(self._key(item), NOTHING) if type(item) is dict else NOTHING
            for item in value
        ]

    def _key(self, item: Object) -> bytes:
        return orjson.dumps([item.get(key) for key in self.keys])

    def duplicates(self, value: Json, at: str, out: Out, old: Json = NOTHING) -> None:
        """Items of sets and of lists with keys that are there twice."""
        if old is not NOTHING and value == old:
            return
        if type(value) is dict:
            was = old if type(old) is dict else None
            for name, item in value.items():
                inner = self.properties.get(name, self.additional)
                if isinstance(inner, Node) and inner.nested_unique:
                    where = f"{at}.{name}" if at else name
                    before = NOTHING if was is None else was.get(name, NOTHING)
                    inner.duplicates(item, where, out, before)
        elif type(value) is list and self.items is not None:
            if self.list_type != "atomic":
                self._twice(value, at, out)
            if self.items.nested_unique:
                former = self.correlated(value, old)
                for i, item in enumerate(value):
                    before = NOTHING if former is None else former[i]
                    self.items.duplicates(item, f"{at}[{i}]", out, before)

    def _twice(self, value: list[Json], at: str, out: Out) -> None:
        keys = self.keys if self.list_type == "map" else ()
        only = self._names(value, keys[0]) if len(keys) == 1 else None
        if only is not None and len(set(only)) == len(only):
            return
        seen: set[bytes] = set()
        for i, item in enumerate(value):
            told: Json = item
            if keys:
                if type(item) is not dict:
                    continue
                told = {key: item[key] for key in keys if key in item}
                if len(told) < len(keys):
                    continue  # Said already: keys are required, or have defaults.
            text = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
            if text in seen:
                said = f"Duplicate value: {shown(told)}"
                out.append(Cause(f"{at}[{i}]", "FieldValueDuplicate", said))
            seen.add(text)

    @staticmethod
    def _names(items: list[Json], key: str) -> list[str] | None:
        """The values of a key, when all are text."""
        out = []
        for item in items:
            name = item.get(key) if type(item) is dict else None
            if type(name) is not str:
                return None
            out.append(name)
        return out


def _wrong_type(at: str, value: Json, wanted: str) -> Cause:
    found = type_name(value)
    said = f'{at or "<root>"} in body must be of type {wanted}: "{found}"'
    return Cause(at, "FieldValueTypeInvalid", f'Invalid value: "{found}": {said}')


def _embedded(value: Object, at: str, out: Out) -> None:
    for name in ("apiVersion", "kind"):
        if not value.get(name):
            out.append(required(f"{at}.{name}", "must not be empty"))
    if "metadata" in value and type(value["metadata"]) is not dict:
        out.append(_wrong_type(f"{at}.metadata", value["metadata"], "object"))


# ---------------------------------------------------------------------------- checks of one value

Check = Callable[[Json, str, Out], None]


def _number(value: Json) -> bool:
    return type(value) is int or type(value) is float


def _limit(wanted: Callable[[Any], bool], said: str) -> Check:
    """A check of numbers: `said` follows `spec.x in body should be`."""

    def check(value: Json, at: str, out: Out) -> None:
        if _number(value) and not wanted(value):
            out.append(bad(at, value, f"{at} in body should be {said}"))

    return check


def _shown_number(number: Any) -> str:
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)


def _checks(schema: Object) -> tuple[Check, ...]:
    out: list[Check] = []
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None:
        text = _shown_number(least)
        out.append(
            _limit(lambda value: value > least, f"greater than {text}")
            if schema.get("exclusiveMinimum")
            else _limit(lambda value: value >= least, f"greater than or equal to {text}")
        )
    if most is not None:
        text = _shown_number(most)
        out.append(
            _limit(lambda value: value < most, f"less than {text}")
            if schema.get("exclusiveMaximum")
            else _limit(lambda value: value <= most, f"less than or equal to {text}")
        )
    if step := schema.get("multipleOf"):
        out.append(_limit(lambda value: _is_multiple(value, step), f"a multiple of {step}"))
    for key, make in _MAKERS.items():
        if schema.get(key) is not None:
            out.append(make(schema[key]))
    return tuple(out)


def _is_multiple(value: float, step: float) -> bool:
    if type(value) is int and type(step) is int:
        return value % step == 0
    times = value / step
    return times == int(times) if abs(times) < 2**63 else True


def _enum(allowed: list[Json]) -> Check:
    # 1 is no true, and 1.0 is 1.
    def key(value: Json) -> Any:
        if type(value) is float and value.is_integer() and abs(value) < 2**63:
            value = int(value)
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)

    known = {key(one) for one in allowed}
    texts = [one if isinstance(one, str) else orjson.dumps(one).decode() for one in allowed]
    plain = frozenset(one for one in allowed if isinstance(one, str))

    def check(value: Json, at: str, out: Out) -> None:
        if (type(value) is not str or value not in plain) and key(value) not in known:
            out.append(unsupported(at, value, texts))

    return check


def _max_length(limit: int) -> Check:
    def check(value: Json, at: str, out: Out) -> None:
        if type(value) is str and len(value) > limit:
            out.append(too_long(at, limit))

    return check


def _min_length(limit: int) -> Check:
    def check(value: Json, at: str, out: Out) -> None:
        if type(value) is str and len(value) < limit:
            out.append(bad(at, value, f"{at} in body should be at least {limit} chars long"))

    return check


def _pattern(pattern: str) -> Check:
    compiled: list[Any] = []  # When it is first needed: definitions are many, objects of most few.

    def check(value: Json, at: str, out: Out) -> None:
        if type(value) is not str:
            return
        if not compiled:
            compiled.append(patterns.compile(pattern))
        if compiled[0].search(value) is None:
            out.append(bad(at, value, f"{at} in body should match '{pattern}'"))

    return check


def _max_items(limit: int) -> Check:
    def check(value: Json, at: str, out: Out) -> None:
        if type(value) is list and len(value) > limit:
            out.append(too_many(at, len(value), limit))

    return check


def _min_items(limit: int) -> Check:
    def check(value: Json, at: str, out: Out) -> None:
        if type(value) is list and len(value) < limit:
            out.append(bad(at, len(value), f"{at} in body should have at least {limit} items"))

    return check


def _max_properties(limit: int) -> Check:
    def check(value: Json, at: str, out: Out) -> None:
        if type(value) is dict and len(value) > limit:
            out.append(too_many(at, len(value), limit))

    return check


def _min_properties(limit: int) -> Check:
    def check(value: Json, at: str, out: Out) -> None:
        if type(value) is dict and len(value) < limit:
            said = f"{at} in body should have at least {limit} properties"
            out.append(bad(at, len(value), said))

    return check


def _format(name: str) -> Check:
    test = FORMATS.get(name.replace("-", "").lower())
    bounds = BOUNDS.get(name)

    def check(value: Json, at: str, out: Out) -> None:
        wrong = (type(value) is str and test is not None and not test(value)) or (
            bounds is not None and type(value) is int and not bounds[0] <= value <= bounds[1]
        )
        if wrong:
            out.append(bad(at, value, f'{at} in body must be of type {name}: "{value}"'))

    return check


_MAKERS: dict[str, Callable[[Any], Check]] = {
    "enum": _enum,
    "maxLength": _max_length,
    "minLength": _min_length,
    "pattern": _pattern,
    "format": _format,
    "maxItems": _max_items,
    "minItems": _min_items,
    "maxProperties": _max_properties,
    "minProperties": _min_properties,
}
BOUNDS = {"int32": (-(1 << 31), (1 << 31) - 1), "int64": (-(1 << 63), (1 << 63) - 1)}


def _ip(version: int) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            return ipaddress.ip_address(text).version == version
        except ValueError:
            return False

    return check


def _cidr(text: str) -> bool:
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False
    return "/" in text


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.ASCII)
    return lambda text: len(text) <= 4096 and compiled.fullmatch(text) is not None


def _uuid(version: int) -> Callable[[str], bool]:
    return _matches(
        rf"(?i)[0-9a-f]{{8}}-?[0-9a-f]{{4}}-?{version}[0-9a-f]{{3}}-?[89ab][0-9a-f]{{3}}-?"
        "[0-9a-f]{12}"
    )


def _duration(text: str) -> bool:
    return _SPAN.fullmatch(text) is not None


# Go's durations, and the words that the real server knows beside them.
_SPAN = re.compile(
    r"[+-]?(0|([0-9]+\.?[0-9]*(ns|us|µs|ms|s|m|h))+)|[0-9]+ *(ns|nanoseconds?|us|µs|ms|s|m|h|d|w|"
    r"seconds?|minutes?|hours?|days?|weeks?)",
    re.ASCII,
)
# A name without dashes, in lower case: the test. Others are not checked.
FORMATS: dict[str, Callable[[str], bool]] = {
    "byte": formats.is_base64,
    "date": formats.is_date,
    "datetime": formats.is_moment,
    "duration": _duration,
    "uri": formats.is_uri,
    "uuid": formats.is_uuid,
    "uuid3": _matches("(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}"),
    "uuid4": _uuid(4),
    "uuid5": _uuid(5),
    "ipv4": _ip(4),
    "ipv6": _ip(6),
    "cidr": _cidr,
    "mac": _matches("([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}"),
    "email": _matches(r"[^@\s<>]+@[^@\s<>]+"),
    "hostname": _matches(
        r"([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?)(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?)*\.?"
    ),
    "hexcolor": _matches("#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})"),
    "rgbcolor": _matches(r"rgb\( *(\d{1,3}) *, *(\d{1,3}) *, *(\d{1,3}) *\)"),
    "bsonobjectid": _matches("[0-9a-f]{24}"),
    "isbn10": _matches("[0-9]{9}[0-9X]"),
    "isbn13": _matches("97[89][0-9]{10}"),
    "ssn": _matches(r"\d{3}[- ]?\d{2}[- ]?\d{4}"),
    "creditcard": _matches(r"(\d[ -]?){12,18}\d"),
    "k8sshortname": lambda text: not syntax.dns_label(text),
    "k8slongname": lambda text: not syntax.dns_subdomain(text),
}


# ------------------------------------------------------------------------------ allOf and the rest


def _choices(schema: Object, int_or_string: bool) -> dict[str, list[Node]]:
    out = {}
    for key in ("allOf", "anyOf", "oneOf"):
        choices = schema.get(key)
        if not choices:
            continue
        kinds = [choice.get("type") for choice in choices]
        if int_or_string and key == "anyOf" and kinds == ["integer", "string"]:
            continue  # Said by the type itself.
        out[key] = [Node(choice) for choice in choices]
    if schema.get("not"):
        out["not"] = [Node(schema["not"])]
    return out


def _junction(at: str, said: str) -> Cause:
    return Cause(at, "FieldValueInvalid", f'Invalid value: "": "{at}" must {said}')


def _all_of(choices: list[Node]) -> Check:
    def check(value: Json, at: str, out: Out) -> None:
        before = len(out)
        good = 0
        for choice in choices:
            length = len(out)
            choice.validate(value, at, out)
            good += len(out) == length
        if len(out) > before:
            none = ". None validated" if not good else ""
            out.append(_junction(at, f"validate all the schemas (allOf){none}"))

    return check


def _tried(choices: list[Node], value: Json, at: str) -> tuple[int, Out]:
    """(how many hold, what is wrong with the one that is nearest to holding)."""
    held, best = 0, None
    for choice in choices:
        found: Out = []
        choice.validate(value, at, found)
        if not found:
            held += 1
        elif best is None or len(found) < len(best):
            best = found
    return held, best or []


def _any_of(choices: list[Node]) -> Check:
    def check(value: Json, at: str, out: Out) -> None:
        held, best = _tried(choices, value, at)
        if not held:
            out.append(_junction(at, "validate at least one schema (anyOf)"))
            out.extend(best)

    return check


def _one_of(choices: list[Node]) -> Check:
    def check(value: Json, at: str, out: Out) -> None:
        held, best = _tried(choices, value, at)
        if held == 1:
            return
        found = f"Found {held} valid alternatives" if held else "Found none valid"
        out.append(_junction(at, f"validate one and only one schema (oneOf). {found}"))
        if not held:
            out.extend(best)

    return check


def _not(choices: list[Node]) -> Check:
    (choice,) = choices

    def check(value: Json, at: str, out: Out) -> None:
        found: Out = []
        choice.validate(value, at, found)
        if not found:
            out.append(_junction(at, "not validate the schema (not)"))

    return check


_JUNCTORS: dict[str, Callable[[list[Node]], Check]] = {
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
}
