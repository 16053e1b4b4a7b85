from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api import selectors
from arktos_ray.api.errors import BadRequest
from arktos_ray.api.selectors import parse_fields, parse_labels

LABELS = {"app": "web", "tier": "front", "n": "5", "blank": ""}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        ("app", True),
        ("!app", False),
        ("!other", True),
        ("app=web", True),
        ("app==web", True),
        (" app = web , tier = front ", True),
        ("app=api", False),
        ("app!=web", False),
        ("other!=web", True),
        ("app in (api, web)", True),
        ("app in(api)", False),
        ("app notin (api)", True),
        ("other notin (api)", True),
        ("app in (api,web),!other,tier", True),
        ("blank=", True),
        ("other=", False),
        ("blank in (x,)", True),
        ("n>4", True),
        ("n<5", False),
        ("app>4", False),
        ("in in (a)", False),
    ],
)
def test_label_selectors_select_as_kubernetes_does(text: str, selected: bool) -> None:
    assert parse_labels(text).matches(LABELS) is selected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a,", "found '', expected: identifier after ','"),
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',', or ')'"),
        ("a/b/c=d", "a qualified name must consist"),
        ("a=-", 'values[0][a]: Invalid value: "-": a valid label must be'),
        ("a>b", "the value must be an integer"),
    ],
)
def test_bad_label_selectors_are_refused_in_the_servers_words(text: str, message: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_labels(text)
    assert message in refusal.value.message


def test_the_object_form_selects_the_same() -> None:
    selector = selectors.from_label_selector(
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["front", "back"]},
                {"key": "n", "operator": "Exists"},
                {"key": "other", "operator": "DoesNotExist"},
                {"key": "n", "operator": "NotIn", "values": ["6"]},
            ],
        }
    )
    assert selector.matches(LABELS)
    assert not selector.matches({**LABELS, "other": ""})
    assert selector.required("app") == "web"
    assert selector.required("tier") is None
    assert parse_labels(str(selector)).matches(LABELS)


def test_no_selector_selects_nothing_and_an_empty_one_everything() -> None:
    assert not selectors.from_label_selector(None).matches(LABELS)
    assert not selectors.from_label_selector(None).empty
    assert selectors.from_label_selector({}).matches({})
    assert selectors.from_label_selector({}).empty
    assert parse_labels("").empty


@pytest.mark.parametrize(
    "expression",
    [
        {"key": "a", "operator": "Near"},
        {"key": "a", "operator": "In"},
        {"key": "a", "operator": "Exists", "values": ["b"]},
        {"key": "", "operator": "Exists"},
    ],
)
def test_bad_expressions_are_refused(expression: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        selectors.from_label_selector({"matchExpressions": [expression]})


words = st.text("abc", min_size=1, max_size=2)


@given(
    st.lists(st.tuples(words, st.sampled_from(["=", "!="]), words), max_size=3),
    st.dictionaries(words, words, max_size=3),
)
def test_a_label_selector_is_the_conjunction_of_its_terms(
    terms: list[tuple[str, str, str]], labels: dict[str, str]
) -> None:
    text = ",".join("".join(term) for term in terms)
    expected = all((labels.get(key) == value) is (op == "=") for key, op, value in terms)
    assert parse_labels(text).matches(labels) is expected


POD: dict[str, Any] = {
    "metadata": {
        "name": "p",
        "namespace": "d",
        "tenant": "t",
        "hashKey": 100,
        "ownerReferences": [
            {"kind": "Job", "hashKey": 9},
            {"kind": "ReplicaSet", "hashKey": 50, "controller": True},
        ],
    },
    "spec": {"nodeName": "n-1"},
    "status": {"phase": "Running"},
}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        ("metadata.name=p", True),
        ("metadata.name==p", True),
        ("metadata.name!=p", False),
        ("metadata.name=p,spec.nodeName=other", False),
        ("metadata.name=q;spec.nodeName=n-1", True),
        ("metadata.name=q;spec.nodeName=n-1,status.phase!=Running", False),
        ("metadata.hashkey=gt:99,metadata.hashkey=lte:100", True),
        ("metadata.hashkey=gt:100", False),
        ("metadata.hashkey=gte:100", True),
        ("metadata.hashkey=lt:1000", True),
        ("metadata.name=gt:o", True),
        ("metadata.name=lt:o", False),
        ("metadata.ownerReferences.hashkey.ReplicaSet=gt:49", True),
        ("metadata.ownerReferences.hashkey.Deployment=gt:0", False),
        ("spec.hostNetwork=false", True),
        ("spec.nodeName=", False),
        ("status.podIP=", True),
        ("metadata.name=p,,", True),
    ],
)
def test_field_selectors_select_by_value_and_by_range(text: str, selected: bool) -> None:
    selector = parse_fields(text)
    assert selector.matches(lambda field: selectors.field_value(POD, field)) is selected
    assert selector.on_objects()(POD) is selected
    selectors.check_fields("pods", selector)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abc", "invalid selector: 'abc'; can't understand 'abc'"),
        ("a=b=c", "unescaped character in value: ="),
        ("a=\\b", "invalid escape sequence: \\b"),
        ("a=b\\", "invalid escape sequence: \\"),
    ],
)
def test_bad_field_selectors_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_fields(text)
    assert message in refusal.value.message


@given(st.lists(st.tuples(words, st.text("a\\,=;!:", max_size=5)), min_size=1, max_size=3))
def test_field_selectors_survive_being_written_and_read(terms: list[tuple[str, str]]) -> None:
    selector = selectors.FieldSelector(
        [[selectors.Term(field, "=", value) for field, value in terms]]
    )
    assert parse_fields(str(selector)).clauses == selector.clauses


def test_an_index_is_told_what_a_field_must_equal() -> None:
    selector = parse_fields("spec.nodeName=n-1,status.phase!=Failed")
    assert selector.required("spec.nodeName") == "n-1"
    assert selector.required("status.phase") is None
    assert selector.fields == {"spec.nodeName", "status.phase"}
    assert parse_fields("spec.nodeName=a;spec.nodeName=b").required("spec.nodeName") is None


def test_only_known_fields_can_be_selected_by() -> None:
    assert selectors.supported_field("events", "involvedObject.uid")
    assert selectors.supported_field("nodes", "spec.unschedulable")
    assert selectors.supported_field("configmaps", "metadata.name")
    assert not selectors.supported_field("configmaps", "spec.nodeName")
    with pytest.raises(BadRequest, match=r"field label not supported: spec\.nodeName"):
        selectors.check_fields("configmaps", parse_fields("spec.nodeName=a"))


def test_fields_that_json_omits_have_their_zero() -> None:
    assert selectors.field_value({}, "spec.unschedulable") == "false"
    assert selectors.field_value({"spec": {"unschedulable": True}}, "spec.unschedulable") == "true"
    assert selectors.field_value({"metadata": {}}, "metadata.hashkey") == "0"
    assert selectors.field_value({"source": {"component": "k"}}, "source") == "k"
    assert selectors.field_value({"involvedObject": {"name": "x"}}, "regarding.name") == "x"
