"""Custom objects are pruned, defaulted and refused as Kubernetes does it, and in its words."""

# ruff: noqa: E501 (refusals are quoted whole)

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arktos_ray.api import structural
from arktos_ray.api.structural import gate
from arktos_ray.api.structural.nodes import Node

AT = "spec.versions[0].schema.openAPIV3Schema"


def schema(**properties: Any) -> dict[str, Any]:
    """Of objects with such a spec."""
    return {
        "type": "object",
        "properties": {"spec": {"type": "object", "properties": properties}},
    }


def made(spec: Any, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "x"}, "spec": spec, **more}


def said(of: dict[str, Any], spec: Any, old: Any = None) -> list[str]:
    assert structural.check(of, AT) == []
    before = None if old is None else made(old)
    return [f"{c.field}: {c.message}" for c in structural.compiled(of).validate(made(spec), before)]


# ---------------------------------------------------------------------------- objects


STRING, INTEGER = {"type": "string"}, {"type": "integer"}


@pytest.mark.parametrize(
    ("one", "value", "words"),
    [
        (INTEGER, "x", 'spec.a: Invalid value: "string": spec.a in body must be of type integer: "string"'),
        (STRING, 1, 'spec.a: Invalid value: "integer": spec.a in body must be of type string: "integer"'),
        (INTEGER, 1.5, 'spec.a: Invalid value: "number": spec.a in body must be of type integer: "number"'),
        (INTEGER, True, 'spec.a: Invalid value: "boolean": spec.a in body must be of type integer: "boolean"'),
        ({"type": "array", "items": STRING}, ["a", 1], 'spec.a[1]: Invalid value: "integer": spec.a[1] in body must be of type string: "integer"'),
        ({"x-kubernetes-int-or-string": True}, [], 'spec.a: Invalid value: "array": spec.a in body must be of type integer,string: "array"'),
        ({"type": "object", "required": ["b"], "properties": {"b": STRING}}, {}, "spec.a.b: Required value"),
        ({**STRING, "enum": ["x", "y"]}, "z", 'spec.a: Unsupported value: "z": supported values: "x", "y"'),
        ({**INTEGER, "minimum": 1}, 0, "spec.a: Invalid value: 0: spec.a in body should be greater than or equal to 1"),
        ({**INTEGER, "maximum": 5, "exclusiveMaximum": True}, 5, "spec.a: Invalid value: 5: spec.a in body should be less than 5"),
        ({**INTEGER, "multipleOf": 5}, 7, "spec.a: Invalid value: 7: spec.a in body should be a multiple of 5"),
        ({**STRING, "maxLength": 3}, "abcd", "spec.a: Too long: may not be more than 3 bytes"),
        ({**STRING, "minLength": 3}, "ab", 'spec.a: Invalid value: "ab": spec.a in body should be at least 3 chars long'),
        ({**STRING, "pattern": "^[a-z]+$"}, "A", "spec.a: Invalid value: \"A\": spec.a in body should match '^[a-z]+$'"),
        ({**STRING, "format": "date-time"}, "soon", 'spec.a: Invalid value: "soon": spec.a in body must be of type date-time: "soon"'),
        ({**INTEGER, "format": "int32"}, 1 << 40, 'spec.a: Invalid value: 1099511627776: spec.a in body must be of type int32: "1099511627776"'),
        ({"type": "array", "items": STRING, "maxItems": 1}, ["a", "b"], "spec.a: Too many: 2: must have at most 1 item"),
        ({"type": "array", "items": STRING, "minItems": 1}, [], "spec.a: Invalid value: 0: spec.a in body should have at least 1 items"),
        ({"type": "array", "items": STRING, "x-kubernetes-list-type": "set"}, ["a", "a"], 'spec.a[1]: Duplicate value: "a"'),
        ({"type": "object", "properties": {"b": STRING, "c": STRING}, "oneOf": [{"required": ["b"]}, {"required": ["c"]}]}, {"b": "", "c": ""}, 'spec.a: Invalid value: "": "spec.a" must validate one and only one schema (oneOf). Found 2 valid alternatives'),
        ({"type": "object", "properties": {"b": STRING}, "not": {"required": ["b"]}}, {"b": ""}, 'spec.a: Invalid value: "": "spec.a" must not validate the schema (not)'),
    ],
)  # fmt: skip
def test_a_value_that_breaks_the_schema_is_refused_in_known_words(
    one: dict[str, Any], value: Any, words: str
) -> None:
    assert said(schema(a=one), {"a": value}) == [words]


def test_items_with_the_same_keys_are_refused() -> None:
    item = {"type": "object", "required": ["name", "port"], "properties": {"name": STRING, "port": INTEGER}}  # fmt: skip
    of = schema(
        a={
            "type": "array", "items": item, "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name", "port"],
        }
    )  # fmt: skip

    assert said(of, {"a": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}) == []
    assert said(of, {"a": [{"name": "a", "port": 1}] * 2}) == [
        'spec.a[1]: Duplicate value: {"name":"a","port":1}'
    ]


def test_what_the_schema_does_not_know_is_dropped_and_said() -> None:
    of = schema(
        a=STRING,
        free={"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"b": {"type": "object"}}},
        map={"type": "object", "additionalProperties": {"type": "object", "properties": {"c": STRING}}},
        list={"type": "array", "items": {"type": "object", "properties": {"d": STRING}}},
        pod={"type": "object", "x-kubernetes-embedded-resource": True, "properties": {"spec": {"type": "object"}}},
    )  # fmt: skip
    obj = made(
        {
            "a": "x", "z": 1, "free": {"any": [1], "b": {"gone": 1}}, "map": {"k": {"c": "x", "y": 1}},
            "list": [{"d": "x"}, {"e": 1}],
            "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "other": 1, "spec": {}},
        },
        more=1,
    )  # fmt: skip

    dropped = structural.compiled(of).prune(obj)

    assert sorted(dropped) == [
        "more", "spec.free.b.gone", "spec.list[1].e", "spec.map.k.y", "spec.pod.other", "spec.z",
    ]  # fmt: skip
    assert obj == made(
        {
            "a": "x", "free": {"any": [1], "b": {}}, "map": {"k": {"c": "x"}}, "list": [{"d": "x"}, {}],
            "pod": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}},
        }
    )  # fmt: skip


def test_nulls_go_unless_they_may_be_and_defaults_come() -> None:
    of = schema(
        a={**STRING, "default": "x"}, b={**STRING, "nullable": True, "default": "y"}, c=STRING,
        d={"type": "object", "default": {}, "properties": {"e": {**INTEGER, "default": 1}}},
        f={"type": "array", "items": {"type": "object", "properties": {"g": {**STRING, "default": "h"}}}},
    )  # fmt: skip
    widgets = structural.compiled(of)
    obj = made({"a": None, "b": None, "c": None, "f": [{}, {"g": "i"}]})

    assert widgets.prune(obj) == []
    widgets.default(obj)
    again = copy.deepcopy(obj)
    widgets.default(again)

    assert obj["spec"] == {"a": "x", "b": None, "d": {"e": 1}, "f": [{"g": "h"}, {"g": "i"}]}
    assert again == obj
    assert widgets.validate(obj) == []


def test_a_default_is_not_shared_between_objects() -> None:
    widgets = structural.compiled(schema(a={"type": "array", "items": STRING, "default": []}))
    one, other = made({}), made({})
    widgets.default(one)
    widgets.default(other)
    one["spec"]["a"].append("x")
    assert other["spec"]["a"] == []


def test_what_was_wrong_and_is_unchanged_may_stay() -> None:
    of = schema(a={**STRING, "maxLength": 1}, b=STRING, c={"type": "array", "items": {**STRING, "maxLength": 1}})  # fmt: skip

    assert said(of, {"a": "long", "b": "new"}, {"a": "long", "b": "old"}) == []
    assert len(said(of, {"a": "longer"}, {"a": "long"})) == 1
    assert len(said(of, {"c": ["long", "x"]}, {"c": ["long"]})) == 1  # Which item was which?
    assert said(of, {"b": 1, "a": "long"}, {"a": "long"}) != []


# ---------------------------------------------------------------------------- rules


def ruled(*rules: Any, **properties: Any) -> dict[str, Any]:
    of = schema(**properties)
    of["properties"]["spec"]["x-kubernetes-validations"] = [
        {"rule": rule} if isinstance(rule, str) else rule for rule in rules
    ]
    return of


def test_a_rule_that_does_not_hold_refuses() -> None:
    of = ruled("self.min <= self.max", min=INTEGER, max=INTEGER)
    assert said(of, {"min": 1, "max": 2}) == []
    assert said(of, {"min": 3, "max": 2}) == [
        'spec: Invalid value: "object": failed rule: self.min <= self.max'
    ]
    assert said(of, {"min": 3}) == [
        'spec: Invalid value: "object": no such key: max evaluating rule: self.min <= self.max'
    ]


def test_a_rule_says_why_where_and_what_kind_of_mistake_it_is() -> None:
    of = ruled(
        {"rule": "self.a < 10", "message": "too large", "reason": "FieldValueForbidden", "fieldPath": ".a"},
        {"rule": "self.a != 11", "messageExpression": "'not %d'.format([self.a])", "message": "plain"},
        {"rule": "self.a != 11", "messageExpression": "string(1 / (self.a - 11))", "message": "plain"},
        a=INTEGER,
    )  # fmt: skip
    assert said(of, {"a": 11}) == [
        "spec.a: Forbidden: too large",
        'spec: Invalid value: "object": not 11',
        'spec: Invalid value: "object": plain',
    ]


def test_a_rule_may_compare_with_what_was() -> None:
    fixed = {**STRING, "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is fixed"}]}  # fmt: skip
    of = schema(
        a=fixed,
        list={
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"], "properties": {"k": STRING, "v": fixed}},
        },
    )  # fmt: skip
    assert said(of, {"a": "x"}) == []
    assert said(of, {"a": "y"}, {"a": "x"}) == ['spec.a: Invalid value: "string": is fixed']
    assert said(of, {"a": "y"}, {}) == []
    old = {"list": [{"k": "1", "v": "a"}, {"k": "2", "v": "b"}]}
    assert said(of, {"list": [{"k": "2", "v": "b"}, {"k": "1", "v": "c"}]}, old) == [
        'spec.list[1].v: Invalid value: "string": is fixed'
    ]


def test_a_rule_may_ask_whether_there_was_anything() -> None:
    of = schema(
        a={
            **INTEGER,
            "x-kubernetes-validations": [
                {"rule": "!oldSelf.hasValue() || oldSelf.value() <= self", "optionalOldSelf": True}
            ],
        }
    )
    assert said(of, {"a": 1}) == []
    assert said(of, {"a": 2}, {"a": 1}) == []
    assert len(said(of, {"a": 1}, {"a": 2})) == 1


def test_a_rule_that_did_not_hold_before_does_not_stop_other_changes() -> None:
    of = schema(a={**INTEGER, "x-kubernetes-validations": [{"rule": "self > 0"}]}, b=STRING)
    assert said(of, {"a": 0, "b": "new"}, {"a": 0, "b": "old"}) == []
    assert len(said(of, {"a": -1}, {"a": 0})) == 1


def test_rules_see_dates_numbers_and_names_as_cel_has_them() -> None:
    of = ruled(
        "self.at.getFullYear() == 2024 && self.d > duration('1m')",
        "self.ratio / 2.0 == 0.5 && self.raw == b'abc'",
        "self.x__dash__y == 1 && self.__namespace__ == 'n' && self.either == '50%'",
        "self.ports.all(p, p.name != '' && p.name.size() < 5)",
        at={**STRING, "format": "date-time"}, d={**STRING, "format": "duration"},
        ratio={"type": "number"}, raw={**STRING, "format": "byte"}, namespace=STRING,
        **{"x-y": INTEGER}, either={"x-kubernetes-int-or-string": True},
        ports={"type": "array", "items": {"type": "object", "properties": {"name": STRING}}},
    )  # fmt: skip
    spec = {
        "at": "2024-01-02T03:04:05Z", "d": "90s", "ratio": 1, "raw": "YWJj", "namespace": "n", "x-y": 1,
        "either": "50%", "ports": [{"name": "a"}],
    }  # fmt: skip
    assert said(of, spec) == []


def test_rules_of_an_object_that_is_wrong_otherwise_are_not_asked() -> None:
    of = ruled("self.a > 0", a=INTEGER)
    assert [cause.partition(": ")[0] for cause in said(of, {"a": "x"})] == ["spec.a", "<nil>"]


def test_rules_that_cost_too_much_end_the_judgement() -> None:
    of = ruled("self.a.all(x, self.a.all(y, self.a.all(z, x + y + z >= 0)))", "self.a.size() < 0", a={"type": "array", "items": INTEGER})  # fmt: skip
    words = said(of, {"a": list(range(1000))})
    assert len(words) == 1
    assert "no further validation rules will be run due to call cost exceeds limit" in words[0]


# ---------------------------------------------------------------------------- schemas


@pytest.mark.parametrize(
    ("of", "words"),
    [
        ({}, "type: Required value: must not be empty at the root"),
        ({"type": "array", "items": STRING}, 'type: Invalid value: "array": must be object at the root'),
        ({"type": "object", "nullable": True}, "nullable: Forbidden: nullable cannot be true at the root"),
        ({"type": "object", "additionalProperties": True}, "additionalProperties: Forbidden: must not be used at the root"),
        (schema(a={}), "properties[spec].properties[a].type: Required value: must not be empty for specified object fields"),
        (schema(a={"type": "array"}), "properties[spec].properties[a].items: Required value: must be specified"),
        (schema(a={"type": "array", "items": {}}), "properties[spec].properties[a].items.type: Required value: must not be empty for specified array items"),
        (schema(a={"type": "text"}), 'properties[spec].properties[a].type: Unsupported value: "text": supported values: "array", "boolean", "integer", "number", "object", "string"'),
        (schema(a={"type": "array", "items": STRING, "uniqueItems": True}), "properties[spec].properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic"),
        (schema(a={**STRING, "pattern": "("}), 'properties[spec].properties[a].pattern: Invalid value: "(": must be a valid regular expression, but isn\'t: error parsing regexp: missing ): `(`'),
        (schema(a={**STRING, "$ref": "#/x"}), "properties[spec].properties[a].$ref: Forbidden: $ref is not supported"),
        (schema(a={"type": "object", "properties": {"b": STRING}, "additionalProperties": STRING}), "properties[spec].properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"),
        (schema(a={"type": "object", "properties": {"b": STRING}, "anyOf": [{"properties": {"c": {"minLength": 1}}}]}), "properties[spec].properties[a].properties[c]: Required value: because it is defined in spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[a].anyOf[0].properties[c]"),
        (schema(a={**STRING, "anyOf": [{"type": "string"}]}), "properties[spec].properties[a].anyOf[0].type: Forbidden: must be empty to be structural"),
        (schema(a={"type": "array", "items": STRING, "x-kubernetes-list-type": "map"}), "properties[spec].properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"),
        (schema(a={**STRING, "default": 1}), 'properties[spec].properties[a].default: Invalid value: "integer": spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[a].default in body must be of type string: "integer"'),
        (schema(a={"type": "object", "default": {"x": 1}}), 'properties[spec].properties[a].default: Invalid value: {"x":1}: must not have unknown fields'),
        ({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}, "properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"),
        (schema(a={"type": "object", "x-kubernetes-embedded-resource": True}), "properties[spec].properties[a].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields"),
        (schema(a={"x-kubernetes-preserve-unknown-fields": False, "type": "object"}), "properties[spec].properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined"),
        (ruled(""), "properties[spec].x-kubernetes-validations[0].rule: Required value: rule is not specified"),
        (ruled({"rule": "true", "reason": "Because"}), 'properties[spec].x-kubernetes-validations[0].reason: Unsupported value: "Because": supported values: "FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"'),
        (ruled({"rule": "true", "fieldPath": ".b"}, a=STRING), 'properties[spec].x-kubernetes-validations[0].fieldPath: Invalid value: ".b": fieldPath must be a valid path: does not refer to a valid field'),
        (ruled("1"), 'properties[spec].x-kubernetes-validations[0].rule: Invalid value: {"rule":"1"}: cel expression must evaluate to a bool'),
    ],
)  # fmt: skip
def test_a_schema_that_is_not_sound_is_refused_in_known_words(
    of: dict[str, Any], words: str
) -> None:
    assert f"{AT}.{words}" in [f"{c.field}: {c.message}" for c in structural.check(of, AT)]


def test_a_rule_that_cannot_be_compiled_is_refused_with_its_place() -> None:
    (cause,) = structural.check(ruled("self.a >", a=INTEGER), AT)
    assert cause.field == f"{AT}.properties[spec].x-kubernetes-validations[0].rule"
    assert "compilation failed: ERROR: <input>:1:9: Syntax error" in cause.message

    (cause,) = structural.check(ruled("self.a > 0 && self.b.c == 1", a=INTEGER), AT)
    assert "ERROR: <input>:1:19: undefined field 'b'\n" in cause.message.encode().decode(
        "unicode_escape"
    )


def test_a_rule_that_could_never_compare_is_refused() -> None:
    of = schema(a={"type": "array", "items": {**STRING, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}})  # fmt: skip
    (cause,) = structural.check(of, AT)
    assert "oldSelf cannot be used on the uncorrelatable portion of the schema within" in cause.message  # fmt: skip


def test_sound_schemas_are_taken() -> None:
    assert structural.check({"type": "object", "x-kubernetes-preserve-unknown-fields": True}) == []
    either = {"x-kubernetes-int-or-string": True, "anyOf": [INTEGER, STRING], "pattern": r"^\d+%?$"}
    assert (
        structural.check(schema(a=either, b={"x-kubernetes-preserve-unknown-fields": True})) == []
    )
    metadata = {"type": "object", "properties": {"name": {**STRING, "maxLength": 5}}}
    top = {"apiVersion": STRING, "kind": STRING, "metadata": metadata}
    assert structural.check({"type": "object", "properties": top}) == []


def test_what_is_nested_too_deeply_is_refused() -> None:
    deep, same = nested_maps(1000), nested_maps(1000)
    assert structural.check(schema(a={"type": "object", "default": deep})) != []
    assert structural.check(schema(a={"type": "array", "enum": [deep]})) != []
    nested: Any = STRING
    for _ in range(500):
        nested = {"type": "array", "items": nested}
    assert structural.check(schema(a=nested)) != []

    loose = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    rule = {"rule": "self == oldSelf"}
    widgets = structural.compiled(schema(a={**loose, "x-kubernetes-validations": [rule]}))
    assert widgets.validate(made({"a": deep}), made({"a": same})) != []


def nested_maps(levels: int) -> Any:
    found: Any = {}
    for _ in range(levels):
        found = {"a": found}
    return found


def test_schemas_for_older_documents_say_less_and_never_more() -> None:
    of = schema(
        a={**STRING, "nullable": True}, b={**STRING, "anyOf": [{"minLength": 1}], "default": "x"},
        c={"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"d": STRING}, "required": ["d"]},
    )  # fmt: skip
    spec = structural.openapi_v2(of)["properties"]["spec"]["properties"]
    assert spec == {
        "a": {"x-kubernetes-preserve-unknown-fields": True},
        "b": {"type": "string"},
        "c": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    }


# ---------------------------------------------------------------------------- anything

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(-(1 << 63), (1 << 64) - 1)  # What JSON has beyond is a float.
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "a", "b", "1", "2024-01-01", "2024-01-01T00:00:00Z", "YQ==", "é", "1٢"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b", "c", "apiVersion", "kind"]), inner, max_size=4)
    ),
    max_leaves=12,
)
restrictions = st.fixed_dictionaries(
    {},
    optional={
        "enum": st.lists(json_values, min_size=1, max_size=3),
        "minimum": st.integers(-2, 2), "maximum": st.integers(-2, 2),
        "exclusiveMinimum": st.booleans(), "multipleOf": st.sampled_from([1, 2, 0.5]),
        "minLength": st.integers(0, 2), "maxLength": st.integers(0, 2),
        "pattern": st.sampled_from(["^a", "^[a-z]*$", r"^\d+$", r"\w", "(?i)A", "a|b"]),
        "format": st.sampled_from(["date", "date-time", "byte", "int32", "uuid", "duration", "what"]),
        "minItems": st.integers(0, 2), "maxItems": st.integers(0, 2),
        "minProperties": st.integers(0, 2), "maxProperties": st.integers(0, 2),
        "required": st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True),
    },
)  # fmt: skip
kinds = st.sampled_from(["string", "integer", "number", "boolean"])


def _node(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    shapes = st.one_of(
        st.fixed_dictionaries({"type": kinds}),
        st.fixed_dictionaries({"type": st.just("array"), "items": inner}, optional={"x-kubernetes-list-type": st.sampled_from(["atomic", "set"])}),
        st.fixed_dictionaries({"type": st.just("object"), "properties": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)}),
        st.fixed_dictionaries({"type": st.just("object"), "additionalProperties": inner}),
        st.fixed_dictionaries({"type": st.just("object"), "x-kubernetes-preserve-unknown-fields": st.just(True)}),
        st.just({"x-kubernetes-int-or-string": True}),
    )  # fmt: skip
    more = st.fixed_dictionaries(
        {},
        optional={
            "nullable": st.booleans(), "default": json_values,
            "anyOf": st.lists(restrictions, min_size=1, max_size=2),
            "allOf": st.lists(restrictions, min_size=1, max_size=2),
            "oneOf": st.lists(restrictions, min_size=1, max_size=2), "not": restrictions,
        },
    )  # fmt: skip
    return st.builds(lambda *parts: {k: v for part in parts for k, v in part.items()}, restrictions, more, shapes)  # fmt: skip


schemas = st.recursive(
    st.fixed_dictionaries({"type": kinds}) | st.just({"x-kubernetes-int-or-string": True}),
    _node,
    max_leaves=5,
)
fuzzed = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))


@fuzzed
@given(a=schemas, value=json_values)
def test_the_quick_yes_is_never_wrong(a: Any, value: Any) -> None:
    of = schema(a=a)
    root = Node(of, root=True)
    obj = made({"a": value})

    before = copy.deepcopy(obj)
    root.prune(obj, "", [])
    if gate.closed(root).passes(before):
        assert obj == before
    quick = gate.valid(root)
    if quick is not None and quick.passes(obj):
        found: list[Any] = []
        root.validate(obj, "", found)
        assert found == []


@fuzzed
@given(a=schemas, value=json_values, old=json_values)
def test_pruning_and_defaults_settle_and_an_object_as_it_was_is_no_worse(
    a: Any, value: Any, old: Any
) -> None:
    widgets = structural.compiled(schema(a=a))
    obj = made({"a": value})
    widgets.prune(obj)
    widgets.default(obj)
    assert widgets.validate(obj, copy.deepcopy(obj)) == []
    alone, beside = widgets.validate(obj), widgets.validate(obj, made({"a": old}))
    assert len(beside) <= len(alone)


words = st.sampled_from(
    [
        "type", "properties", "items", "additionalProperties", "allOf", "anyOf", "oneOf", "not", "enum",
        "required", "default", "nullable", "pattern", "format", "minimum", "maxLength", "multipleOf",
        "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type",
        "x-kubernetes-validations", "x-kubernetes-embedded-resource", "x-kubernetes-int-or-string",
        "x-kubernetes-preserve-unknown-fields", "rule", "message", "fieldPath", "reason", "metadata",
    ]
)  # fmt: skip
anything = st.recursive(
    json_values | st.sampled_from(["object", "array", "string", "map", "set", "self.a", "true", "("]),
    lambda inner: st.dictionaries(words | st.sampled_from(["a", "b"]), inner, max_size=5)
    | st.lists(inner, max_size=3),
    max_leaves=25,
)  # fmt: skip


@fuzzed
@given(of=st.dictionaries(words, anything, max_size=6), value=json_values)
def test_no_schema_raises_anything(of: Any, value: Any) -> None:
    of = {"type": "object", **of}
    if structural.check(of, AT):
        return
    widgets = structural.compiled(of)
    obj = made(value)
    widgets.prune(obj)
    widgets.default(obj)
    widgets.validate(obj, made(value))
