from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api import codec, scheme
from arktos_ray.api.errors import BadRequest, Failure, Invalid, UnsupportedMediaType

POD = scheme.resource("pods")
DEPLOYMENT = scheme.resource("deployments.apps")
CONFIG_MAP = scheme.resource("configmaps")
META: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}


def pod(**spec: Any) -> dict[str, Any]:
    return {**META, "spec": spec}


def sent(obj: Any, mode: str = "", resource: scheme.Resource = POD) -> codec.Decoded:
    return codec.decode_object(orjson.dumps(obj), "application/json", resource, mode)


def refused(obj: Any, mode: str = "", resource: scheme.Resource = POD) -> str:
    with pytest.raises(BadRequest) as caught:
        sent(obj, mode, resource)
    return caught.value.message


@pytest.mark.parametrize("mode", ["", "Ignore", "Warn", "Strict"])
def test_a_known_object_comes_back_as_it_was(mode: str) -> None:
    obj = pod(containers=[{"name": "c", "image": "i", "env": []}], nodeSelector={"a": "b"})

    assert sent(obj, mode) == codec.Decoded(obj, ())


def test_null_means_absent_and_absent_stays_absent() -> None:
    obj = pod(containers=[{"name": "c", "livenessProbe": None}], nodeSelector=None)
    obj["metadata"] = {"creationTimestamp": None, "labels": {"a": None}}

    for mode in ("Ignore", "Warn", "Strict"):
        assert sent(obj, mode).obj == {
            **META,
            "metadata": {"labels": {"a": ""}},
            "spec": {"containers": [{"name": "c"}]},
        }


def test_nulls_inside_of_free_form_data_are_data() -> None:
    obj = {"data": {"spec": None}, "revision": 1}
    resource = scheme.resource("controllerrevisions.apps")

    assert sent(obj, resource=resource).obj["data"] == {"spec": None}


def test_unknown_fields_are_dropped_and_named_as_the_client_asked() -> None:
    obj = pod(containers=[{"name": "c", "imge": "i"}], foo={"bar": 1})
    known = pod(containers=[{"name": "c"}])

    assert sent(obj, "Ignore") == codec.Decoded(known, ())
    for mode in ("", "Warn"):
        assert sent(obj, mode) == codec.Decoded(
            known, ('unknown field "spec.containers[0].imge"', 'unknown field "spec.foo"')
        )
    assert refused(pod(foo=1), "Strict") == (
        'Pod in version "v1" cannot be handled as a Pod: '
        'strict decoding error: unknown field "spec.foo"'
    )


@pytest.mark.parametrize("template", ["{%s}", "{ %s }", "{\n  %s\n}"])
def test_names_given_twice_are_reported_and_the_last_one_wins(template: str) -> None:
    inner = '"nodeName": "a", "containers": [{"name":"c","name":"d"}], "nodeName":"b"'
    body = (template % f'"metadata": {{"name": "a b"}}, "spec": {{{inner}}}').encode()

    decoded = codec.decode_object(body, "", POD, "Warn")

    assert decoded.obj["spec"] == {"containers": [{"name": "d"}], "nodeName": "b"}
    assert decoded.warnings == (
        'duplicate field "spec.nodeName"',
        'duplicate field "spec.containers[0].name"',
    )
    assert codec.decode_object(body, "", POD, "Ignore").warnings == ()
    with pytest.raises(BadRequest, match="strict decoding error: duplicate field"):
        codec.decode_object(body, "", POD, "Strict")


def test_any_spelling_of_json_without_duplicates_is_without_warnings() -> None:
    obj = {**META, "metadata": {"name": "a", "annotations": {"é": 'ß "x" < \\', "n": "1 2\n"}}}
    for body in (json.dumps(obj), json.dumps(obj, indent=2), json.dumps(obj, ensure_ascii=False)):
        assert codec.decode_object(body.encode(), "", POD).warnings == ()


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"nodeName": 1}, "spec.nodeName: expected string, got number"),
        ({"priority": "1"}, "spec.priority: expected integer, got string"),
        ({"priority": 1.5}, "spec.priority: expected integer, got number"),
        ({"priority": True}, "spec.priority: expected integer, got boolean"),
        ({"priority": 1 << 31}, "spec.priority: number 2147483648 is out of range"),
        ({"hostNetwork": "true"}, "spec.hostNetwork: expected boolean, got string"),
        ({"containers": {}}, "spec.containers: expected array, got object"),
        ({"containers": [[]]}, "spec.containers[0]: expected object, got array"),
        ({"containers": [None]}, "spec.containers[0]: expected object, got null"),
        ({"nodeSelector": {"a": 1}}, "spec.nodeSelector.a: expected string, got number"),
        (
            {"containers": [{"ports": [{"containerPort": 1 << 40}]}]},
            "spec.containers[0].ports[0].containerPort: number 1099511627776 is out of range",
        ),
        (
            {"containers": [{"livenessProbe": {"httpGet": {"port": 1.5}}}]},
            "spec.containers[0].livenessProbe.httpGet.port: expected integer or string, got number",
        ),
        (
            {"overhead": {"cpu": "a lot"}},
            "spec.overhead.cpu: quantities must match the regular expression "
            "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        ({"overhead": {"cpu": True}}, "spec.overhead.cpu: expected string, got boolean"),
    ],
)
def test_wrong_types_are_refused_with_their_place(spec: dict[str, Any], complaint: str) -> None:
    for mode in ("Ignore", "Warn", "Strict"):
        message = refused({"spec": spec}, mode)
        assert message == f'Pod in version "v1" cannot be handled as a Pod: {complaint}'


def test_quantities_become_canonical_strings() -> None:
    overhead = {"cpu": 0.5, "memory": 1024, "x": "1024Mi", "y": "1000m", "z": 1}

    decoded = sent(pod(overhead=overhead))

    assert decoded.obj["spec"]["overhead"] == {
        "cpu": "500m", "memory": "1024", "x": "1Gi", "y": "1", "z": "1",
    }  # fmt: skip
    assert decoded.warnings == ()


def test_int_or_string_keeps_its_type() -> None:
    for port in (80, "http"):
        obj = {"spec": {"ports": [{"port": 1, "targetPort": port}]}}
        decoded = sent(obj, resource=scheme.resource("services"))
        assert decoded.obj["spec"]["ports"][0]["targetPort"] == port


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("2024-02-29T12:00:00Z", "2024-02-29T12:00:00Z"),
        ("2024-02-29T12:00:00.123456789+02:00", "2024-02-29T10:00:00Z"),
        ("2024-02-30T12:00:00Z", None),
        ("2024-02-29 12:00:00Z", None),
        ("2024-02-29T12:00:00", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("", None),
    ],
)
def test_times_are_those_of_rfc_3339_in_utc(text: str, stored: str | None) -> None:
    obj = {"metadata": {"creationTimestamp": text}}
    if stored is None:
        assert "metadata.creationTimestamp: not a time" in refused(obj)
    else:
        assert sent(obj).obj["metadata"]["creationTimestamp"] == stored


def test_secret_data_is_base64() -> None:
    secret = scheme.resource("secrets")

    assert sent({"data": {"a": "AA\nA="}}, resource=secret).obj["data"] == {"a": "AAA="}
    assert "data.a: illegal base64 data" in refused({"data": {"a": "A"}}, resource=secret)


def test_what_kind_of_object_it_is_is_filled_in() -> None:
    obj = sent({"metadata": {"name": "d"}}, resource=DEPLOYMENT).obj

    assert (obj["apiVersion"], obj["kind"]) == ("apps/v1", "Deployment")


@pytest.mark.parametrize(
    ("api_version", "kind", "message"),
    [
        (
            "v1", "Pod",
            "the API version in the data (v1) does not match the expected API version (apps/v1)",
        ),
        (
            "apps/v1", "ReplicaSet",
            'ReplicaSet in version "v1" cannot be handled as a Deployment: '
            "converting (v1.ReplicaSet) to (v1.Deployment)",
        ),
        (
            "apps/v1", "Deploymnt",
            'Deploymnt in version "v1" cannot be handled as a Deployment: '
            'no kind "Deploymnt" is registered for version "apps/v1"',
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("spec", [{}, {"replicas": "a"}, {"containers": []}])
def test_an_object_of_another_kind_is_refused(
    api_version: str, kind: str, message: str, spec: dict[str, Any]
) -> None:
    obj = {"apiVersion": api_version, "kind": kind, "spec": spec}

    assert refused(obj, resource=DEPLOYMENT) == message


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"a"', b"{} {}", b"\xff\xfe", b'{"kind":"\xff"}',
        b'{"metadata":{"name":"\\ud800"}}', b'{"metadata":{"name":"a\\u0000"}}',
        b'{"metadata":{"name":"a\x00"}}', b'{"metadata":' + b"[" * 100_000,
        b'{"metadata":{"managedFields":[{"fieldsV1":' + b'{"a":' * 5_000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["Ignore", "Warn", "Strict"])
@pytest.mark.parametrize("media", ["application/json", "application/yaml"])
def test_what_is_no_object_is_refused(body: bytes, mode: str, media: str) -> None:
    with pytest.raises(BadRequest):
        codec.decode_object(body, media, POD, mode)


def test_text_that_only_looks_like_a_nul_is_kept() -> None:
    obj = {"data": {"script": "printf '\\u0000'"}}

    assert sent(obj, resource=CONFIG_MAP).obj["data"] == obj["data"]


def test_very_many_unknown_fields_are_counted_instead_of_named() -> None:
    obj = pod(**{f"x{i}": 1 for i in range(5_000)})

    assert sent(obj).warnings == ("more than 100 unknown fields",)


def test_media_types() -> None:
    body = orjson.dumps(META)
    for media in ("", "application/json", "application/json; charset=utf-8", "Application/JSON"):
        assert codec.decode_object(body, media, POD).obj == META
    with pytest.raises(UnsupportedMediaType, match="accepted media types include"):
        codec.decode_object(body, "text/plain", POD)


def test_field_validation_is_one_of_three() -> None:
    with pytest.raises(Invalid, match="fieldValidation"):
        sent(META, "strict")


YAML_POD = b"""
apiVersion: v1
kind: Pod
metadata:
  name: a
  annotations: &shared {time: "2001-12-14", number: '1'}
  labels: *shared
spec:
  terminationGracePeriodSeconds: 0x10
  hostNetwork: yes
  containers:
  - name: c
    args: ["12:30", "a", "08"]
"""


def test_yaml_is_read_as_other_tools_of_kubernetes_read_it() -> None:
    obj = codec.decode_object(YAML_POD, "application/yaml", POD, "Strict").obj

    assert obj["metadata"]["labels"] == {"time": "2001-12-14", "number": "1"}
    assert obj["spec"] == {
        "terminationGracePeriodSeconds": 16,
        "hostNetwork": True,
        "containers": [{"name": "c", "args": ["12:30", "a", "08"]}],
    }


def test_unquoted_yaml_times_are_strings_and_base_sixty_does_not_exist() -> None:
    body = b"data: {a: 2001-12-14, b: 12:30, 1: x, false: y, c: 2001-12-14t21:59:43.10-05:00}"
    obj = codec.decode_object(body, "application/yaml", CONFIG_MAP).obj

    assert obj["data"] == {
        "a": "2001-12-14", "b": "12:30", "1": "x", "false": "y",
        "c": "2001-12-14t21:59:43.10-05:00",
    }  # fmt: skip


def test_json_under_the_name_of_yaml_is_fine() -> None:
    assert codec.decode_object(orjson.dumps(META), "application/yaml", POD).obj == META
    flow = b"{metadata: {name: a}}"
    assert codec.decode_object(flow, "application/yaml", POD).obj["metadata"] == {"name": "a"}


def test_yaml_keys_given_twice_are_reported() -> None:
    body = b"data:\n  a: x\n  a: y\n"

    decoded = codec.decode_object(body, "application/yaml", CONFIG_MAP)

    assert decoded.obj["data"] == {"a": "y"}
    assert decoded.warnings == ('key "a" already set in map',)
    with pytest.raises(BadRequest, match="already set"):
        codec.decode_object(body, "application/yaml", CONFIG_MAP, "Strict")


def lol(levels: int, merge: bool) -> bytes:
    lines = ["a0: &a0 {k0: x, k1: y}"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * 9)
        inner = f"{{<<: [{aliases}]}}" if merge else f"[{aliases}]"
        lines.append(f"a{level}: &a{level} {inner}")
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    "body",
    [
        lol(10, merge=False), b"a: &a [*a]", b"a: !!python/object:os.x {}",
        b"a: b: c", b"a: 1\n---\nb: 2", b"? [a]\n: b", b"a: !!binary aGk=", b"a: !!set {x}",
        b"a: " + b"[" * 500, b"a: " + b"9" * 5_000, b"a: 99999999999999999999999",
        b"x: &x y\nl: [" + b"*x," * 5_000 + b"]", b"a: 0b_", b"\x00", b"a: *nobody",
    ],
)  # fmt: skip
def test_hostile_yaml_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        codec.decode_object(body, "application/yaml", CONFIG_MAP)


def test_keys_that_are_merged_again_and_again_do_not_grow() -> None:
    """Refused by us, or merged once by a PyYAML that knows of it (6.0.4)."""
    try:
        decoded = codec.decode_object(lol(10, merge=True), "application/yaml", CONFIG_MAP)
    except BadRequest:
        return
    assert len(orjson.dumps(decoded.obj)) < 1_000


@given(body=st.binary(max_size=60) | st.text(alphabet="ab:{}[]&*<-'\"\n #!?|>%@,1.", max_size=60))
def test_no_body_raises_anything_but_a_failure(body: bytes | str) -> None:
    raw = body if isinstance(body, bytes) else body.encode()
    for media in ("application/json", "application/yaml", codec.PROTOBUF):
        for mode in ("Ignore", "Warn", "Strict"):
            with contextlib.suppress(Failure):
                codec.decode_object(raw, media, POD, mode)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("spec", "metadata", "containers", "name", "labels", "x")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(obj=st.dictionaries(st.sampled_from(("spec", "metadata", "status", "x")), JSON_VALUES))
def test_all_ways_in_agree(obj: dict[str, Any]) -> None:
    ways: list[Callable[[], codec.Decoded]] = [
        lambda: codec.decode_object(orjson.dumps(obj), "", POD, "Ignore"),
        lambda: codec.decode_object(orjson.dumps(obj), "", POD, "Warn"),
        lambda: codec.decode_object(codec.encode_yaml(obj), "application/yaml", POD, "Warn"),
        lambda: codec.validate(obj, POD, "Warn"),
    ]
    outcomes = []
    for way in ways:
        try:
            outcomes.append(way().obj)
        except (Failure, orjson.JSONEncodeError):
            outcomes.append({"refused": True})
    assert outcomes[0] == outcomes[1] == outcomes[3]
    if "refused" not in outcomes[0]:
        assert outcomes[2] == outcomes[0]


def test_validating_a_patched_object_makes_a_new_one() -> None:
    obj = pod(containers=[{"name": "c", "x": 1}], nodeName=None)

    decoded = codec.validate(obj, POD)

    assert decoded.obj == pod(containers=[{"name": "c"}])
    assert decoded.warnings == ('unknown field "spec.containers[0].x"',)
    assert obj["spec"]["containers"][0]["x"] == 1


def test_delete_options_come_in_every_form() -> None:
    assert codec.decode_options(b"", "") == {}
    body = b'{"kind":"DeleteOptions","apiVersion":"apps/v1","propagationPolicy":"Orphan","x":1}'
    assert codec.decode_options(body, "application/json")["propagationPolicy"] == "Orphan"
    with pytest.raises(BadRequest, match="gracePeriodSeconds: expected integer"):
        codec.decode_options(b'{"gracePeriodSeconds":"1"}', "")


def test_yaml_out_is_what_yaml_in_reads() -> None:
    obj = {"data": {"a": "yes", "b": "1", "c": "x\ny\n", "d": "2001-12-14", "é": "é", "f": "1e3"}}

    text = codec.encode_yaml(obj)

    assert codec.decode_object(text, "application/yaml", CONFIG_MAP).obj["data"] == obj["data"]
    assert "é" in text.decode()
