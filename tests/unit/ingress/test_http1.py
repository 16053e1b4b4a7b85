"""Forms of answers, and answers as bytes."""

from __future__ import annotations

import gzip

import orjson
import pytest
import yaml

from arktos_ray.api import errors
from arktos_ray.api.calls import WatchEvent
from arktos_ray.ingress import http1
from arktos_ray.ingress.http1 import Form, body_type, form_of

TABLE = "application/json;as=Table;v={};g=meta.k8s.io"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Form()),
        ("*/*", Form()),
        ("application/json, */*;q=0.8", Form()),
        ("application/vnd.kubernetes.protobuf,application/json", Form()),
        ("application/yaml", Form("application/yaml")),
        ("application/json;q=0.1, application/yaml;q=0.9", Form("application/yaml")),
        (
            ",".join((TABLE.format("v1"), TABLE.format("v1beta1"), "application/json")),
            Form("application/json", "Table", "v1"),
        ),
        (
            TABLE.format("v1beta1") + ", application/json",
            Form("application/json", "Table", "v1beta1"),
        ),
        (TABLE.format("v9") + ", application/json", Form()),
        (
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
            Form("application/json", "PartialObjectMetadata", "v1"),
        ),
        ("application/json;stream=watch", Form()),
    ],
)
def test_the_most_wanted_form_that_we_have_is_chosen(accept: str, form: Form) -> None:
    assert form_of(accept) == form


@pytest.mark.parametrize("accept", ["text/plain", "application/json;q=0", TABLE.format("v9")])
def test_a_form_that_we_do_not_have_is_406(accept: str) -> None:
    with pytest.raises(errors.NotAcceptable, match="only the following media types"):
        form_of(accept)


def test_bodies_are_json_unless_they_say_otherwise() -> None:
    assert body_type("create", "") == "application/json"
    assert body_type("update", "application/yaml; charset=utf-8") == "application/yaml"
    assert body_type("create", "application/vnd.kubernetes.protobuf") == http1.PROTOBUF
    assert body_type("patch", "application/apply-patch+yaml") == "application/apply-patch+yaml"


@pytest.mark.parametrize(
    ("verb", "media"), [("create", "text/plain"), ("patch", "application/json"), ("patch", "")]
)
def test_a_body_that_we_cannot_read_is_415(verb: str, media: str) -> None:
    with pytest.raises(errors.UnsupportedMediaType, match="accepted media types include"):
        body_type(verb, media)


def test_kubectl_gets_the_discovery_it_prefers() -> None:
    aggregated = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"
    both = ",".join((aggregated.format("v2"), aggregated.format("v2beta1"), "application/json"))
    assert http1.aggregated_of(both) == "v2"
    assert http1.aggregated_of(aggregated.format("v2beta1") + ",application/json") == "v2beta1"
    assert http1.aggregated_of("application/json") == ""
    assert http1.aggregated_of("") == ""


def test_curl_gets_indented_json_unless_it_declines() -> None:
    assert http1.wants_pretty({}, "curl/8.1")
    assert not http1.wants_pretty({}, "kubectl/v1.32")
    assert http1.wants_pretty({"pretty": "true"}, "kubectl/v1.32")
    assert not http1.wants_pretty({"pretty": "0"}, "curl/8.1")
    assert http1.pretty(b'{"b":1,"a":[]}').startswith(b'{\n  "b": 1')


def test_yaml_and_gzip_keep_what_was_said() -> None:
    body = orjson.dumps({"kind": "Pod", "metadata": {"name": "ü"}})
    assert yaml.safe_load(http1.to_yaml(body)) == orjson.loads(body)
    assert gzip.decompress(http1.compress(body)) == body


def test_a_warning_cannot_break_out_of_its_header() -> None:
    line = http1.warning_lines(('unknown field "x"\r\nSet-Cookie: a=b\\',))
    assert line == b'Warning: 299 - "unknown field \\"x\\"  Set-Cookie: a=b\\\\"\r\n'


def test_a_watch_event_is_one_line_in_one_chunk() -> None:
    line = http1.event_line(WatchEvent("ADDED", 5, "a//b", b'{"kind":"Node"}'))
    assert line == b'{"type":"ADDED","object":{"kind":"Node"}}\n'
    assert http1.chunk(line) == b"2a\r\n" + line + b"\r\n"


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_websocket_frame_says_its_length(size: int) -> None:
    frame = http1.text_frame(b"x" * size)
    header = 2 if size < 126 else 4 if size < 65536 else 10
    assert frame[0] == 0x81
    assert len(frame) == header + size
    assert int.from_bytes(frame[1:header] if size < 126 else frame[2:header], "big") == size


def test_bookmarks_have_the_shape_of_their_watch() -> None:
    plain = orjson.loads(http1.bookmark_line("Pod", "v1", Form(), 9, initial_end=True))
    assert plain["type"] == "BOOKMARK"
    assert plain["object"]["kind"] == "Pod"
    assert plain["object"]["metadata"]["resourceVersion"] == "9"
    assert plain["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    form = Form(shape="Table", version="v1")
    table = orjson.loads(http1.bookmark_line("Pod", "v1", form, 9, initial_end=False))["object"]
    assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert table["rows"][0]["object"]["metadata"]["resourceVersion"] == "9"
