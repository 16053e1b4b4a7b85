"""Whatever a codec lets through, the rules of its kind answer and never fail."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arktos_ray.api import kinds, schemas, scheme, tables

Object = dict[str, Any]

TEXTS = st.sampled_from(
    ["", "a", "A/b", "x" * 64, "None", "80", "10.0.0.1", "ClusterIP", "Always", "/", "a@b:c", "é"]
)
NUMBERS = st.sampled_from([-1, 0, 1, 80, 70000, 1 << 62])
SIMPLE: dict[str, st.SearchStrategy[Any]] = {
    "integer": NUMBERS,
    "number": st.sampled_from([-1.5, 0.0, 2.5]),
    "boolean": st.booleans(),
    "bytes": st.sampled_from(["", "YQ==", "YWI="]),
    "quantity": st.sampled_from(["0", "-1", "1", "100m", "1Gi", "12345678901234567890"]),
    "int-or-string": st.sampled_from([-1, 0, 80, "", "http", "25%", "x%"]),
    "time": st.sampled_from(["2026-01-01T00:00:00Z"]),
    "micro-time": st.sampled_from(["2026-01-01T00:00:00.000001Z"]),
    "fields-v1": st.just({}),
    "any": st.sampled_from([{}, {"a": 1}]),
}
DEPTH = 5


def value_of(draw: st.DrawFn, field: schemas.Field, depth: int) -> Any:
    def one() -> Any:
        if field.is_message:
            return message_of(draw, field.type, depth - 1)
        return draw(SIMPLE.get(field.type, TEXTS))

    if field.shape == "list":
        return [one() for _ in range(draw(st.integers(0, 2)))]
    if field.shape == "map":
        return {key: one() for key in draw(st.lists(TEXTS, max_size=2))}
    return one()


def message_of(draw: st.DrawFn, name: str, depth: int) -> Object:
    fields = list(schemas.message(name).fields.values()) if depth else []
    if not fields:
        return {}
    wanted = draw(st.lists(st.sampled_from(fields), max_size=4))
    # The body matters more than what is around it.
    wanted += [f for f in fields if f.name in ("spec", "template") and draw(st.booleans())]
    return {field.name: value_of(draw, field, depth) for field in wanted}


@st.composite
def objects(draw: st.DrawFn, resource: scheme.Resource) -> Object:
    obj = message_of(draw, resource.schema, DEPTH)
    # The server has seen to these before anyone asks the rules.
    obj["metadata"] = {**obj.get("metadata", {}), "name": "x", "namespace": "d", "tenant": "t"}
    return obj


@pytest.mark.parametrize("resource", scheme.RESOURCES, ids=lambda r: r.gvr)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_rules_answer_for_any_object(resource: scheme.Resource, data: st.DataObject) -> None:
    rules = kinds.rules(resource.gvr)
    obj = data.draw(objects(resource))
    rules.default(obj)
    rules.prepare_create(obj, "2026-01-01T00:00:00Z")
    kinds.validate_meta(obj, resource)
    rules.validate(obj)

    again = copy.deepcopy(obj)
    rules.default(again)
    assert again == obj, "defaulting twice is defaulting once"

    new = data.draw(objects(resource))
    for subresource in ("", *resource.subresources):
        changed = copy.deepcopy(new)
        rules.prepare_update(changed, obj, subresource)
        rules.default(changed)
        rules.validate_update(changed, obj, subresource)

    assert len(tables.row(resource, obj, 0.0)) == len(tables.columns(resource))
    assert len(tables.row(resource, new, 0.0)) == len(tables.columns(resource))
