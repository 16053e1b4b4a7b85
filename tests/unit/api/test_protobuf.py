from __future__ import annotations

import base64
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api import codec, protobuf, schemas, scheme
from arktos_ray.api.errors import BadRequest
from arktos_ray.api.schemas import Field

Wire = int | str | bytes


def varint(number: int) -> bytes:
    number &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def pb(*fields: tuple[int, Wire]) -> bytes:
    """A message of (tag, value) pairs."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            raw = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(raw)) + raw
    return out


def body(api_version: str, kind: str, raw: bytes) -> bytes:
    return protobuf.MAGIC + pb((1, pb((1, api_version), (2, kind))), (2, raw), (3, ""), (4, ""))


def decoded(api_version: str, kind: str, *fields: tuple[int, Wire]) -> dict[str, Any]:
    found_version, found_kind, obj = protobuf.decode(body(api_version, kind, pb(*fields)))
    assert (found_version, found_kind) == (api_version, kind)
    return obj


EMPTY_META = pb((1, "cm"), (2, ""), (3, ""), (4, ""), (5, ""), (6, ""), (7, 0), (8, b""))


def test_what_json_leaves_out_is_left_out() -> None:
    obj = decoded("v1", "ConfigMap", (1, EMPTY_META), (2, pb((1, "k"), (2, ""))))

    assert obj == {"metadata": {"name": "cm"}, "data": {"k": ""}}


def test_a_zero_that_was_meant_is_kept() -> None:
    spec = pb((1, 0), (2, pb()), (3, pb((1, b""), (2, pb()))), (4, pb((1, ""))), (5, 0), (7, 0))

    obj = decoded("apps/v1", "Deployment", (1, EMPTY_META), (2, spec), (3, pb((1, 0), (2, 0))))

    assert obj["spec"] == {
        "replicas": 0,
        "selector": {},
        "template": {"metadata": {}, "spec": {}},
        "strategy": {},
    }
    assert obj["status"] == {}


def test_inlined_structs_and_special_types_look_as_in_json() -> None:
    port = pb((1, 0), (2, 80), (3, ""))
    probe = pb((1, pb((2, pb((1, "/"), (2, port))))), (2, 0), (3, 5))
    key_ref = pb((1, pb((1, "cm"))), (2, "key"))
    limit = pb((1, "cpu"), (2, pb((1, "250m"))))
    container = pb(
        (1, "c"), (7, pb((1, "A"), (3, pb((3, key_ref))))), (8, pb((1, limit))), (10, probe)
    )
    empty_dir = pb((1, ""), (2, pb((1, "1Gi"))))
    volume = pb((1, "v"), (2, pb((2, empty_dir))))

    obj = decoded("v1", "Pod", (2, pb((1, volume), (2, container), (4, 0), (11, 0))))

    assert obj["spec"] == {
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}],
        "containers": [
            {
                "name": "c",
                "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "key"}}}
                ],
                "resources": {"limits": {"cpu": "250m"}},
                "livenessProbe": {"httpGet": {"path": "/", "port": 80}, "timeoutSeconds": 5},
            }
        ],
        "terminationGracePeriodSeconds": 0,
    }


def test_bytes_times_and_embedded_objects() -> None:
    secret = decoded("v1", "Secret", (2, pb((1, "k"), (2, b"\x00\xff"))), (3, "Opaque"))
    lease = decoded(
        "coordination.k8s.io/v1", "Lease", (2, pb((4, pb((1, 1_700_000_000), (2, 5_000)))))
    )
    meta = decoded("v1", "Namespace", (1, pb((8, pb((1, 0), (2, 0))))))
    options = decoded("v1", "DeleteOptions", (1, 0), (4, "Foreground"), (5, "All"))
    revision = decoded("apps/v1", "ControllerRevision", (2, pb((1, b'{"a":null}'))), (3, 7))

    assert secret["data"] == {"k": base64.b64encode(b"\x00\xff").decode()}
    assert lease["spec"] == {"renewTime": "2023-11-14T22:13:20.000005Z"}
    assert meta["metadata"] == {"creationTimestamp": "1970-01-01T00:00:00Z"}
    assert options == {
        "gracePeriodSeconds": 0,
        "propagationPolicy": "Foreground",
        "dryRun": ["All"],
    }
    assert revision == {"data": {"a": None}, "revision": 7}


def test_lists_of_strings_in_maps_are_unwrapped() -> None:
    spec = pb((5, pb((1, "scopes"), (2, pb((1, "a"), (1, "b"))))))
    obj = decoded("authorization.k8s.io/v1", "SubjectAccessReview", (2, spec))

    assert obj["spec"] == {"extra": {"scopes": ["a", "b"]}}


def test_unknown_tags_are_skipped() -> None:
    assert decoded("v1", "ConfigMap", (1, pb((1, "a"))), (999, 5), (998, "x")) == {
        "metadata": {"name": "a"}
    }


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0s"), (300_000_000_000, "5m0s"), (3_600_000_000_000, "1h0m0s"),
        (1_500_000_000, "1.5s"), (250_000_000, "250ms"), (1_500, "1.5µs"), (7, "7ns"),
        (-2_000_000_000, "-2s"),
    ],
)  # fmt: skip
def test_durations_are_written_as_go_writes_them(nanos: int, text: str) -> None:
    assert protobuf._duration(nanos) == text


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"k8s", b"{}", b"k8s\x00\xff", body("v9", "Pod", b""), body("v1", "Nothing", b""),
        body("v1", "Pod", b"\x07"), body("v1", "Pod", pb((1, 5))), body("v1", "Pod", b"\x0a\x7f"),
        body("v1", "ConfigMap", pb((1, pb((1, b"\xff"))))),
        body("v1", "Namespace", pb((1, pb((8, pb((1, 1 << 62))))))),
        protobuf.MAGIC + pb((1, pb((1, "v1"), (2, "Pod"))), (2, b""), (3, "gzip")),
    ],
)  # fmt: skip
def test_bad_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        protobuf.decode(raw)


def test_envelopes_in_envelopes_end_somewhere() -> None:
    raw = b"{}"
    for _ in range(500):
        raw = body("v1", "List", pb((2, pb((1, raw)))))

    with pytest.raises(BadRequest):
        protobuf.decode(raw)


KINDS = [(r.api_version, r.kind) for r in scheme.RESOURCES] + [("v1", "DeleteOptions")]


@given(kind=st.sampled_from(KINDS), raw=st.binary(max_size=200))
def test_no_bytes_raise_anything_but_bad_request(kind: tuple[str, str], raw: bytes) -> None:
    for attempt in (raw, protobuf.MAGIC + raw, body(*kind, raw)):
        with contextlib.suppress(BadRequest):
            protobuf.decode(attempt)


def encoded(field: Field, draw: Any, depth: int) -> Wire:
    match field.type:
        case "integer":
            return int(draw(st.integers(-(1 << 31), (1 << 31) - 1)))
        case "boolean":
            return int(draw(st.booleans()))
        case "string":
            return str(draw(st.sampled_from(("", "a", "é"))))
        case "bytes":
            return bytes(draw(st.binary(max_size=3)))
        case "quantity":
            return pb((1, draw(st.sampled_from(("1", "500m", "2Gi")))))
        case "int-or-string":
            return pb((1, draw(st.integers(0, 1))), (2, 80), (3, "http"))
        case "time" | "micro-time":
            return pb((1, draw(st.integers(0, 1 << 31))), (2, 0))
        case "duration":
            return pb((1, 5))
        case "any" | "fields-v1":
            return pb((1, b'{"a":1}'))
        case "strings":
            return pb((1, "x"))
    return message_of(field.type, draw, depth + 1)


def message_of(name: str, draw: Any, depth: int = 0) -> bytes:
    message = schemas.message(name)
    fields = [f for f in (*message.fields.values(), *message.inlined) if f.number]
    chosen = draw(st.lists(st.sampled_from(fields), max_size=4, unique_by=lambda f: f.number))
    out = b""
    for field in chosen if depth < 6 else ():
        if field.type == "number":
            continue
        value = encoded(field, draw, depth)
        if field.shape == "map":
            value = pb((1, "key"), (2, value))
        out += pb((field.number, value))
    return out


@given(data=st.data())
def test_whatever_the_schema_allows_is_read_and_passes_the_json_validator(
    data: st.DataObject,
) -> None:
    resource = data.draw(st.sampled_from([r for r in scheme.RESOURCES if r.kind != "Tenant"]))
    raw = body(resource.api_version, resource.kind, message_of(resource.schema, data.draw))

    decoded = codec.decode_object(raw, codec.PROTOBUF, resource, codec.STRICT)

    assert decoded.obj["kind"] == resource.kind
    assert decoded.warnings == ()
