"""x-kubernetes-validations: the rules in CEL at the nodes of a schema. Pure.

A rule sees `self`, the value at its node, and `oldSelf`, what was there before. What was not
changed is not judged again, except by rules that compare with the past.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

from arktos_ray.api import cel
from arktos_ray.api.cel import ast, formats
from arktos_ray.api.cel.functions import duration, timestamp
from arktos_ray.api.cel.program import unescape
from arktos_ray.api.kinds.causes import Cause, bad, forbidden, required, shown
from arktos_ray.api.structural.nodes import NOTHING, Json, Node, Object, Out

# All rules of one object: as much as two that use all they may.
OBJECT_COST_MAX = 2 * cel.COST_MAX
MESSAGE_CHARS_MAX = 5 * 1024
_NONE_LEFT = (
    "validation failed due to running out of cost budget, no further validation rules will be run"
)
_TOO_MUCH = "no further validation rules will be run due to call cost exceeds limit for rule"
_NO_CALL = "call arguments did not match a supported operator, function or macro signature"
_SCALARS = {"string": "string", "integer": "int", "number": "double", "boolean": "bool"}
_STRINGS = {
    "byte": "bytes", "date": "google.protobuf.Timestamp", "datetime": "google.protobuf.Timestamp",
    "duration": "google.protobuf.Duration",
}  # fmt: skip


def cel_type(schema: Object) -> str:
    """How a value of that schema is declared. Objects are dyn: their fields are looked up below."""
    if schema.get("x-kubernetes-int-or-string"):
        return "dyn"
    kind = schema.get("type")
    if kind == "array":
        return f"list<{cel_type(schema.get('items') or {})}>"
    if kind == "string":
        return _STRINGS.get(_format(schema), "string")
    return _SCALARS.get(kind or "", "dyn")


def _format(schema: Object) -> str:
    return str(schema.get("format") or "").replace("-", "").lower()


class Rule:
    """One rule. Compiled when it is first needed; a partition starts with all its definitions.
    Programs are kept by cel, which knows how much they are together."""

    __slots__ = ("at", "optional_old", "spec", "types", "uses_old")

    def __init__(self, spec: Object, node: Node) -> None:
        self.spec = spec
        kind = cel_type(node.schema)
        self.optional_old = bool(spec.get("optionalOldSelf"))
        self.types = {"self": kind, "oldSelf": "dyn" if self.optional_old else kind}
        # A guess that errs to yes; the program knows.
        self.uses_old = "oldSelf" in spec.get("rule", "")
        path = spec.get("fieldPath") or ""
        self.at = "".join(
            f".{name}" if plain else f"[{name}]" for name, plain in field_path(path, node.schema)
        )

    def program(self) -> cel.Program:
        found = cel.compile(self.spec["rule"], self.types)
        self.uses_old = "oldSelf" in found.names
        return found

    def message_program(self) -> cel.Program:
        return cel.compile(self.spec["messageExpression"], self.types)

    @property
    def shown(self) -> str:
        return str(self.spec.get("message") or self.spec.get("rule") or "").strip()


def attach(node: Node) -> bool:
    """Give every node its rules; whether there are any."""
    specs = list(node.schema.get("x-kubernetes-validations") or ())
    node.rules = tuple(Rule(spec, node) for spec in specs)
    inner = [attach(child) for child in children(node)]
    node.has_rules = bool(node.rules) or any(inner)
    node.converts = (
        node.kind == "number"
        or cel_type(node.schema) in _STRINGS.values()
        or any(child.converts for child in children(node))
    )
    return node.has_rules


def children(node: Node) -> Iterator[Node]:
    yield from node.properties.values()
    if node.items is not None:
        yield node.items
    if isinstance(node.additional, Node):
        yield node.additional


def evaluate(root: Node, obj: Object, old: Json, out: Out) -> None:
    """Judge an object that fits its schema."""
    _walk(root, obj, "", old, out, cel.Budget(OBJECT_COST_MAX))


def _walk(node: Node, value: Json, at: str, old: Json, out: Out, budget: cel.Budget) -> bool:
    """False when nothing more can be afforded."""
    if value is None:
        return True
    if node.rules and not _judge(node, value, at, old, out, budget):
        return False
    if type(value) is dict:
        was: Object | None = None
        if type(old) is dict and node.schema.get("x-kubernetes-map-type") != "atomic":
            was = old
        for name, item in value.items():
            inner = node.properties.get(name)
            where = f"{at}.{name}" if at else name
            if inner is None:
                if not isinstance(node.additional, Node):
                    continue
                inner, where = node.additional, f"{at}[{name}]"
            if inner.has_rules:
                before = NOTHING if was is None else was.get(name, NOTHING)
                if not _walk(inner, item, where, before, out, budget):
                    return False
    elif type(value) is list and node.items is not None and node.items.has_rules:
        former = node.correlated(value, old)
        for i, item in enumerate(value):
            before = NOTHING if former is None else former[i]
            if not _walk(node.items, item, f"{at}[{i}]", before, out, budget):
                return False
    return True


def _judge(node: Node, value: Json, at: str, old: Json, out: Out, budget: cel.Budget) -> bool:
    kind = node.kind
    same = old is not NOTHING and old == value
    values: dict[str, Any] | None = None
    for rule in node.rules:
        if same and not rule.uses_old:
            continue
        if rule.uses_old and not rule.optional_old and (old is NOTHING or old is None):
            continue
        where = at or "<nil>"
        try:
            program = rule.program()
        except cel.CelError as error:
            out.append(bad(where, kind, f"rule compile error: {error.text}"))
            continue
        if values is None:
            values = {"self": to_cel(node, value)}
            had = old is not NOTHING and old is not None
            if had and any(each.uses_old for each in node.rules):
                values["oldSelf"] = to_cel(node, old)
        given = values
        if rule.optional_old:
            past = values.get("oldSelf", NOTHING)
            given = {**values, "oldSelf": cel.NONE if past is NOTHING else cel.Optional(past)}
        call = cel.Budget(min(cel.COST_MAX, budget.left))
        start = call.left
        try:
            verdict = program.evaluate(given, call)
        except cel.CostExceeded as error:
            if start < cel.COST_MAX:
                out.append(bad(where, kind, _NONE_LEFT))
            else:
                out.append(bad(where, kind, f"'{error.text}': {_TOO_MUCH}: {rule.shown}"))
            return False
        except cel.CelError as error:
            if error.text.startswith("no such overload"):
                out.append(bad(where, kind, f"'{error.text}': {_NO_CALL} for rule: {rule.shown}"))
            else:
                out.append(bad(where, kind, f"{error.text} evaluating rule: {rule.shown}"))
            verdict = True
        finally:
            budget.left -= start - max(call.left, 0)
        if verdict is True:
            continue
        detail = _message(rule, given, budget)
        out.append(_cause(f"{at}{rule.at}".lstrip(".") or "<nil>", kind, detail, rule))
    return True


def _message(rule: Rule, given: dict[str, Any], budget: cel.Budget) -> str:
    if rule.spec.get("messageExpression"):
        try:
            found = rule.message_program().evaluate(given, budget)
        except cel.CelError:
            found = ""
        text = found.strip() if isinstance(found, str) else ""
        if text and "\n" not in text and len(text.encode()) <= MESSAGE_CHARS_MAX:
            return text
    return str(rule.spec.get("message") or "").strip() or f"failed rule: {rule.shown}"


def _cause(at: str, kind: str, detail: str, rule: Rule) -> Cause:
    match rule.spec.get("reason"):
        case "FieldValueForbidden":
            return forbidden(at, detail)
        case "FieldValueRequired":
            return required(at, detail)
        case "FieldValueDuplicate":
            return Cause(at, "FieldValueDuplicate", f"Duplicate value: {shown(kind)}")
    return bad(at, kind, detail)


# --------------------------------------------------------------------------------- values for CEL


def to_cel(node: Node, value: Json) -> Json:
    """The value as CEL has it. JSON is, but for `number: 1`, dates, durations and bytes."""
    return _converted(node, value) if node.converts else value


def _converted(node: Node, value: Json) -> Json:
    match value:
        case bool() | None:
            return value
        case int() if node.kind == "number":
            return float(value)
        case str() if node.kind == "string":
            return _of_text(_format(node.schema), value)
        case list() if node.items is not None:
            return [_converted(node.items, item) for item in value]
        case dict():
            more = node.additional if isinstance(node.additional, Node) else None
            return {
                name: _converted(inner, item) if inner is not None else item
                for name, item in value.items()
                for inner in (node.properties.get(name, more),)
            }
    return value


def _of_text(name: str, text: str) -> Any:
    budget = cel.Budget(1000)
    try:
        match name:
            case "byte":
                return base64.b64decode(text) if formats.is_base64(text) else text
            case "date":
                return timestamp(budget, text + "T00:00:00Z")
            case "datetime":
                return timestamp(budget, text)
            case "duration":
                return duration(budget, text)
    except cel.CelError:
        pass
    return text


# ------------------------------------------------------------------------- whether a rule is sound


def undefined(program: cel.Program, schema: Object, *, root: bool) -> str | None:
    """What is wrong with the fields that a rule names, as the real server says it."""
    found: list[str] = []
    start = {"self": schema, "oldSelf": schema}
    _resolve(program.tree, start, found, root=schema if root else None)
    if not found:
        return None
    faults = []
    for name in dict.fromkeys(found):
        line, column, text = _place(program.expression, name)
        said = f"ERROR: <input>:{line}:{column}: undefined field '{name}'"
        faults.append(f"{said}\n | {text}\n | {'.' * (column - 1)}^")
    return "\n".join(faults)


def _place(expression: str, name: str) -> tuple[int, int, str]:
    spot = re.search(rf"\.\s*\??`?{re.escape(name)}\b", expression)
    at = spot.start() if spot else 0
    line = expression.count("\n", 0, at)
    start = expression.rfind("\n", 0, at) + 1
    return line + 1, at - start + 1, expression.split("\n")[line]


_ANY: Object = {}
_TOP = {
    "apiVersion": {"type": "string"},
    "kind": {"type": "string"},
    "metadata": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "generateName": {"type": "string"}},
    },
}


def _resolve(
    expr: ast.Expr, scope: dict[str, Object], out: list[str], *, root: Object | None
) -> Object:
    """The schema of what an expression is; _ANY when it is not known."""

    def inner(one: ast.Expr, more: dict[str, Object] | None = None) -> Object:
        return _resolve(one, {**scope, **more} if more else scope, out, root=root)

    match expr:
        case ast.Ident(name):
            return scope.get(name, _ANY)
        case ast.Select(operand, field):
            return _field(inner(operand), field, out, root)
        case ast.Call("_?._", (operand, ast.Const(_, field))):
            return _field(inner(operand), field, out, root)
        case ast.Call("_[_]" | "_[?_]", (whole, key)):
            inner(key)
            found = inner(whole)
            more = found.get("items") or found.get("additionalProperties")
            return more if isinstance(more, dict) else _ANY
        case ast.Call(_, args):
            for arg in args:
                inner(arg)
        case ast.MakeList(elements):
            for element in elements:
                inner(element)
        case ast.MakeMap(entries):
            for entry in entries:
                inner(entry.key), inner(entry.value)
        case ast.Comprehension():
            over = inner(expr.over)
            items = over.get("items")
            item = items if over.get("type") == "array" and isinstance(items, dict) else _ANY
            within = {expr.variable: item, expr.total: _ANY}
            inner(expr.start)
            for one in (expr.condition, expr.step):
                inner(one, within)
            inner(expr.result, {expr.total: _ANY})
    return _ANY


def _field(schema: Object, field: str, out: list[str], root: Object | None) -> Object:
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        return more
    known = schema.get("properties") or {}
    if schema is root or schema.get("x-kubernetes-embedded-resource"):
        known = {**known, **_TOP}
    for name in (field, unescape(field)):
        if isinstance(known.get(name), dict):
            return known[name]  # type: ignore[no-any-return]
    # Who keeps unknown fields cannot name them in rules either.
    if known and schema.get("type") == "object":
        out.append(field)
    return _ANY


_STEP = re.compile(r"\.([^.\[\]']+)|\['((?:[^'\\]|\\.)*)'\]")


def field_path(path: str, schema: Object) -> list[tuple[str, bool]]:
    """(name, whether it is a property) of each step of `.spec['a.b']`. ValueError when there is no
    such place."""
    out: list[tuple[str, bool]] = []
    at = 0
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            raise ValueError(f"expected [ or . but got: {path[at:]}")
        name = step[1] if step[1] is not None else re.sub(r"\\(.)", r"\1", step[2])
        at = step.end()
        known, more = schema.get("properties"), schema.get("additionalProperties")
        if known:
            if name not in known:
                raise ValueError("does not refer to a valid field")
            schema = known[name]
            out.append((name, True))
        elif isinstance(more, dict):
            schema = more
            out.append((name, False))
        else:
            raise ValueError("does not refer to a valid field")
    return out
