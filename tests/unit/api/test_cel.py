"""CEL answers as Kubernetes answers, and nothing a tenant writes gets out of its bounds."""

from __future__ import annotations

import string
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arktos_ray.api import cel
from arktos_ray.api.cel import program

SELF = {
    "replicas": 3, "name": "web", "ratio": 1.5, "on": True, "none": None, "cpu": "500m",
    "ports": [80, 443], "labels": {"app": "web", "x-y": "z"}, "namespace": "here",
    "items": [{"name": "a", "size": 1}, {"name": "b", "size": 2}],
    "when": "2024-02-29T23:30:00.5Z",
}  # fmt: skip


def value(text: str, **values: Any) -> Any:
    found = cel.compile(text, {"self": "dyn", **dict.fromkeys(values, "dyn")}).evaluate(
        {"self": SELF, **values}
    )
    return (found.value if found.present else "none") if isinstance(found, cel.Optional) else found


TRUE = """
self.replicas == 3 && self.ratio > 1 && self.replicas < 3.5
self.on != (self.replicas == 1)
dyn(1) == 1.0 && dyn(1u) == 1 && !(dyn(true) == 1)
has(self.name) && !has(self.missing) && has(self.none)
self.ports.all(p, p > 0) && self.ports.exists(p, p == 443) && self.ports.exists_one(p, p < 100)
self.ports.map(p, p + 1) == [81, 444] && self.ports.filter(p, p > 100) == [443]
self.items.map(i, i.size > 1, i.name) == ['b']
self.labels.all(key, self.labels[key].size() > 0) && 'app' in self.labels && 80 in self.ports
self.items.all(i, self.items.exists_one(j, j.name == i.name))
[1, 2].exists(x, [3, 4].exists(x, x == 4) && x == 2)
self.__namespace__ == 'here' && self.labels.x__dash__y == 'z'
self.?labels.app.orValue('none') == 'web' && !self.?labels.?gone.hasValue()
self[?'gone'].optMap(x, x + 1).orValue(7) == 7 && self.?replicas.optMap(x, x + 1) == optional.of(4)
optional.none().or(optional.of(1)).value() == 1
[1, ?optional.none(), ?optional.of(2)] == [1, 2] && {?'a': optional.none()} == {}
1 / 0 == 1 || true
!(1 / 0 == 1 && false)
[0, 1].exists(x, 1 / x == 1)
7 / -2 == -3 && -7 % 3 == -1 && 7 % -3 == 1
int('42') == 42 && string(42) == '42' && double('1.5') == 1.5 && int(3.9) == 3 && uint(3) == 3u
string(1.0) == '1' && string(true) == 'true' && bytes('a') == b'a' && string(b'a') == 'a'
type(1) == int && type('') == string && type([]) == list && type({}) == map && type(null) == null_type
size('äö') == 2 && 'abc'.size() == 3 && [1].size() == 1
'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c']
['a', 'b'].join('-') == 'a-b' && 'Abc'.lowerAscii() == 'abc' && 'abc'.upperAscii() == 'ABC'
' a '.trim() == 'a' && 'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco'
'aXbX'.replace('X', '-') == 'a-b-' && 'aXbX'.replace('X', '-', 1) == 'a-bX'
'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3 && 'hello'.charAt(1) == 'e'
'%s has %d, %.2f, %x, %b, %%'.format(['a', 3, 1.5, 255, 5]) == 'a has 3, 1.50, ff, 101, %'
'%s'.format([[1, 'a']]) == '[1, a]' && '%s'.format([{'b': 1, 'a': true}]) == '{a: true, b: 1}'
strings.quote('a"b') == '"a\\\\"b"'
'web-1'.matches('^[a-z]+-[0-9]$') && 'abc'.contains('b') && 'abc'.startsWith('a') && 'abc'.endsWith('c')
'a1b22'.find('[0-9]+') == '1' && 'a1b22'.findAll('[0-9]+') == ['1', '22'] && 'a1b2'.findAll('[0-9]', 1) == ['1']
[1, 2, 3].isSorted() && ![2, 1].isSorted() && [1, 2].sum() == 3 && [3, 1].min() == 1 && ['a', 'c'].max() == 'c'
[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2 && [1].indexOf(9) == -1
sets.contains([1, 2], [2]) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 1], [1])
quantity('500m') == quantity('0.5') && quantity('1Gi').isGreaterThan(quantity('1G'))
quantity(self.cpu).add(quantity('1')).compareTo(quantity('1500m')) == 0 && quantity('2').sub(1).asInteger() == 1
isQuantity('1Ki') && !isQuantity('x') && quantity('1k').isInteger() && quantity('-1').sign() == -1
isURL('https://h:8080/p?q=1') && url('https://h:8080/p?q=1').getPort() == '8080' && !isURL('../x')
url('https://h:8080/p?q=1&q=2').getQuery() == {'q': ['1', '2']} && url('https://[::1]:80/a').getHostname() == '::1'
ip('127.0.0.1').isLoopback() && ip('::1').family() == 6 && !isIP('1.2.3') && string(ip('10.0.0.1')) == '10.0.0.1'
cidr('10.0.0.0/8').containsIP('10.1.1.1') && !cidr('10.0.0.0/8').containsIP(ip('11.1.1.1'))
cidr('10.1.0.0/8').masked() == cidr('10.0.0.0/8') && cidr('10.0.0.0/8').prefixLength() == 8
cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && !isCIDR('10.0.0.0/33') && ip.isCanonical('::1')
semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-a').isLessThan(semver('1.0.0')) && isSemver('v1.2', true)
!format.dns1123Label().validate('web').hasValue() && format.named('uuid').value().validate('x').hasValue()
timestamp('2024-03-01T00:00:00Z') - timestamp(self.when) < duration('30m') && duration('90m').getMinutes() == 90
timestamp(self.when).getFullYear() == 2024 && timestamp(self.when).getMonth() == 1 && timestamp(self.when).getDate() == 29
timestamp(self.when).getHours('+01:00') == 0 && timestamp(self.when).getMilliseconds() == 500
string(timestamp(self.when)) == '2024-02-29T23:30:00.5Z' && string(duration('1m30s')) == '90s'
self.none == null && dyn({'a': 1}) == {'a': 1.0} && [1] != [2]
self.missing == 1 ? false : true || true
"""  # noqa: E501


@pytest.mark.parametrize("text", TRUE.strip().split("\n")[:-1])
def test_an_expression_is_what_the_language_says(text: str) -> None:
    assert value(text) is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("self.missing", "no such key: missing"),
        ("self.labels['q']", "no such key: q"),
        ("self.ports[2]", "index out of bounds: 2"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "modulus by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("self.name + 1", "no such overload"),
        ("!self.name", "no such overload"),
        ("self.name.size() > self.name", "no such overload"),
        ("optional.none().value()", "optional.none() dereference"),
        ("int('x')", 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("'a'.matches('(')", "error parsing regexp: missing ): ("),
        ("{self.name: 1, 'web': 2}", "Failed with repeated key: web"),
    ],
)
def test_a_value_that_there_is_not_is_an_error_in_known_words(text: str, said: str) -> None:
    with pytest.raises(cel.CelError) as caught:
        value(text)
    assert caught.value.text == said


def test_a_fault_in_the_text_is_said_with_its_place() -> None:
    with pytest.raises(cel.CelError) as caught:
        cel.compile("self.a &&\n  foo(1)", {"self": "dyn"})

    assert (caught.value.line, caught.value.column) == (2, 6)
    assert caught.value.text.startswith("ERROR: <input>:2:6: undeclared reference to 'foo'")


def test_types_are_checked_before_anything_is_evaluated() -> None:
    with pytest.raises(cel.CelError, match="found no matching overload for '_\\+_'"):
        cel.compile("1 + 'a'", {})
    assert cel.compile("self.a == 1", {"self": "dyn"}).result == "bool"
    assert cel.compile("'a'", {}).result == "string"


@pytest.mark.parametrize("text", ["cel.bind(x, 1, x)", "math.greatest(1, 2)", "self.sortBy(x, x)", "google.protobuf.Timestamp{seconds: 1}"])  # fmt: skip  # noqa: E501
def test_what_kubernetes_has_not_is_refused(text: str) -> None:
    with pytest.raises(cel.CelError):
        cel.compile(text, {"self": "dyn"})


HOSTILE = [
    "self.all(x, self.all(y, self.all(z, x + y + z >= 0)))",
    "self.map(x, self).map(x, self.map(y, self)).size() > 0",
    "self.map(x, self.map(y, self.map(z, 'aaaaaaaaaaaa'))).size() == 1",
    # Each turn would double a text.
    *["['" + "a" * 1000 + "']" + ".map(x, x + x)" * 24 + "[0].size() == 1"],
    "self.map(x, '"
    + "a" * 4000
    + "').join('"
    + "b" * 4000
    + "').replace('a', '"
    + "c" * 4000
    + "').size() > 1",
    "self.all(x, self == self)",
    "self.all(x, '" + "a" * 9000 + "'.matches('(a|b|c|d)*e{1,200}') || true)",
    "self.all(x, self.all(y, timestamp('2024-01-01T00:00:00Z') == timestamp('2024-01-01T00:00:00Z')))",  # noqa: E501
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_an_expression_that_would_never_end_is_stopped(text: str) -> None:
    program = cel.compile(text, {"self": "dyn"})
    with pytest.raises(cel.CostExceeded, match="actual cost limit exceeded"):
        program.evaluate({"self": list(range(5000))})


@pytest.mark.parametrize(
    "text",
    [
        "1" + " + 1" * 5000, "(" * 5000 + "1" + ")" * 5000, "self" + ".a" * 5000, "[" * 5000,
        "self.?a" + ".optMap(v, v)" * 200, "self.all(x, " * 300 + "true" + ")" * 300,
        "'" + "a" * 20_000 + "'", "\0", "\ud800", "a\0b", "", " ", "//", "\ufeff1",
    ],
    ids=range(14),
)  # fmt: skip
def test_a_text_that_is_too_much_is_refused(text: str) -> None:
    with pytest.raises(cel.CelError):
        cel.compile(text, {"self": "dyn"})


def test_several_evaluations_share_a_budget() -> None:
    program = cel.compile("self.all(x, x >= 0)", {"self": "dyn"})
    budget = cel.Budget(10_000)
    with pytest.raises(cel.CostExceeded):
        for _ in range(1000):
            program.evaluate({"self": list(range(100))}, budget)


def test_values_nested_deeper_than_we_walk_are_an_error() -> None:
    deep: Any = []
    for _ in range(sys.getrecursionlimit() * 2):
        deep = [deep]
    with pytest.raises(cel.CelError):
        value("self == other", other=deep[0])
        cel.compile("a == b", {"a": "dyn", "b": "dyn"}).evaluate({"a": deep, "b": [deep[0]]})


def test_a_late_variable_is_worked_out_once_and_only_when_it_is_read() -> None:
    asked: list[int] = []
    program = cel.compile("a || b == 2 && b == 2", {"a": "bool", "b": "int"})

    def make() -> int:
        asked.append(1)
        return 2

    assert program.evaluate({"a": True, "b": cel.Lazy(make)}) is True
    assert asked == []
    assert program.evaluate({"a": False, "b": cel.Lazy(make)}) is True
    assert asked == [1]


# Pieces that make whole expressions often, so that more than the parser is tried.
PIECES = [
    "self", "self.a", "1", "0", "-1", "2u", "1.5", "'a'", "b'x'", "true", "null", "[]", "{}",
    "[1, 'a']", "{'a': 1}", "x", "self.b[0]", "optional.none()",
    "timestamp('2024-01-01T00:00:00Z')",
    "duration('1h')", "quantity('1')", "ip('10.0.0.1')", "cidr('10.0.0.0/8')", "url('http://a')",
    "dyn(1)", "dyn('a')", "dyn([])", "type(1)", "semver('1.0.0')", "format.uuid()", "1e300",
    "9223372036854775807", "'%s'", "'('",
]  # fmt: skip
JOINS = [
    "({}) + ({})", "({}) == ({})", "({}) < ({})", "({}) && ({})", "({}) || ({})", "({}) in ({})",
    "({}) / ({})", "({}) % ({})", "({}) * ({})", "({}) - ({})", "({})[{}]", "({})[?{}]", "!({}){}",
    "({}).all(x, {})", "({}).map(x, {})", "({}).filter(x, {})", "({}).exists_one(x, {})",
    "({}) ? ({}) : 1", "has(({}).a) || {}", "({}).?a.orValue({})", "({}).matches({})",
    "({}).indexOf({})", "({}).split({})", "({}).format([{}])", "({}).substring({})",
    "({}).join({})", "({}).charAt({})", "({}).findAll({})", "({}).containsIP({})",
    "({}).isGreaterThan({})", "({}).getHours({})", "({}).replace({}, 'b')",
    "sets.contains({}, {})",
    "string({}) + string({})", "int({}) + int({})", "double({}) + double({})",
    "size({}) + size({})",
    "timestamp({}) < timestamp({})", "duration({}) < duration({})", "({}).sum() == {}",
    "({}).min() == {}", "({}).isSorted() && {}", "bytes({}) == bytes({})", "uint({}) + uint({})",
    "bool({}) && bool({})", "type({}) == type({})", "({}).add({})", "({}).validate({})",
    "({}).getQuery() == {}", "ip({}) == ip({})", "quantity({}) == quantity({})",
    "({}).lastIndexOf({})",
]  # fmt: skip
expressions = st.recursive(
    st.sampled_from(PIECES),
    lambda inner: st.builds(
        lambda join, left, right: join.format(left, right), st.sampled_from(JOINS), inner, inner
    ),
    max_leaves=6,
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b", "x"]) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))
@given(text=expressions | st.text(max_size=40) | st.text(string.printable, max_size=60), of=json_values)  # fmt: skip  # noqa: E501
def test_no_text_and_no_value_raises_anything_else(text: str, of: Any) -> None:
    try:
        program = cel.compile(text, {"self": "dyn"})
    except cel.CelError:
        return
    with suppress(cel.CelError):
        program.evaluate({"self": of})


def test_what_is_kept_of_all_expressions_is_bounded_by_their_size() -> None:
    known = program._known
    for i in range(60):
        cel.compile(f"a > {i}" + " && a > 0" * 1_000, {"a": "int"})
    assert program._NODES // 2 < known.nodes <= program._NODES
    again = cel.compile("a > 59" + " && a > 0" * 1_000, {"a": "int"})
    assert cel.compile("a > 59" + " && a > 0" * 1_000, {"a": "int"}) is again
