"""Which partitions a call concerns."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api import errors, scheme
from arktos_ray.api.calls import Call
from arktos_ray.ingress.homes import Each, One, Search, by_hash, home_of, name_of
from arktos_ray.ingress.http1 import JSON, PROTOBUF, YAML

from .fakes import FakeUpstream

LEASES = "leases.coordination.k8s.io"
TPS, RPS = ("tp-0", "tp-1"), ("rp-0", "rp-1")


def upstream(tps: int = 2, rps: int = 2) -> FakeUpstream:
    async def make() -> FakeUpstream:
        return FakeUpstream(tps, rps)

    return asyncio.run(make())


def home(call: Call, up: FakeUpstream | None = None) -> One | Each | Search:
    return home_of(call, scheme.resource(call.gvr), up or upstream())


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (Call("list", "pods", "acme"), One("tp-1")),
        (Call("list", "pods", "system"), One("tp-0")),
        (Call("watch", "pods", "all"), Each(TPS)),
        (Call("list", "tenants"), Each(TPS)),
        (Call("get", "tenants", name="acme"), One("tp-1")),
        (Call("watch", "nodes"), Each(RPS)),
        (Call("deletecollection", "nodes"), Each(RPS)),
        (Call("list", LEASES, "system", "kube-node-lease"), Each(RPS)),
        (Call("list", LEASES, "system", "kube-system"), One("tp-0")),
        (Call("list", LEASES, "system"), Each(("tp-0", *RPS))),
        (Call("list", LEASES, "acme", "kube-node-lease"), One("tp-1")),
        (Call("list", LEASES, "all"), Each((*TPS, *RPS))),
        (Call("watch", "events", "system", "default"), Each(("tp-0", *RPS))),
        (Call("create", "events", "system", "default"), One("tp-0")),
        (Call("watch", "events", "acme"), One("tp-1")),
        (Call("watch", "events", "all"), Each((*TPS, *RPS))),
        (
            Call("get", "events", "system", "default", "e"),
            Search(("tp-0", *RPS), "tp-0", "e"),
        ),
    ],
)
def test_every_kind_has_its_home(call: Call, expected: One | Each) -> None:
    assert home(call) == expected


def test_with_one_partition_of_a_kind_nothing_is_searched_or_merged() -> None:
    up = upstream(1, 1)
    for call in (Call("list", "nodes"), Call("get", "nodes", name="n"), Call("create", "nodes")):
        assert home(call, up) == One("rp-0")
    assert home(Call("list", "tenants"), up) == One("tp-0")


def test_without_a_partition_the_answer_is_unavailable() -> None:
    for call in (Call("list", "nodes"), Call("get", "nodes", name="n")):
        with pytest.raises(errors.Unavailable):
            home(call, upstream(1, 0))


def test_a_new_node_goes_where_its_name_says_in_every_ingress() -> None:
    homes = set()
    for i in range(20):
        body = orjson.dumps({"metadata": {"name": f"n{i}"}})
        where = home(Call("create", "nodes", body=body, content_type="application/json"))
        assert where == Search(RPS, by_hash(f"n{i}", RPS), f"n{i}")
        homes.add(where.otherwise)
    assert homes == set(RPS)


def _field(number: int, raw: bytes) -> bytes:
    return bytes((number << 3 | 2, len(raw))) + raw


def name_in(body: bytes, media: str) -> str:
    call = Call("create", "nodes", body=body, content_type=media)
    return name_of(call, scheme.resource("nodes"))


def test_the_name_is_read_from_every_form_of_body() -> None:
    assert name_in(b'{"metadata":{"name":"a"}}', "application/json") == "a"
    assert name_in(b"metadata:\n  name: a\n", YAML) == "a"
    node = _field(1, _field(1, b"a"))
    unknown = b"k8s\0" + _field(1, _field(1, b"v1") + _field(2, b"Node")) + _field(2, node)
    assert name_in(unknown, PROTOBUF) == "a"


@given(st.binary(max_size=60), st.sampled_from(["application/json", YAML, PROTOBUF]))
def test_a_body_without_a_name_has_none(body: bytes, media: str) -> None:
    for sent in (body, b"k8s\0" + body, b'{"metadata":' + body + b"}"):
        assert isinstance(name_in(sent, media), str)


@pytest.mark.parametrize("body", [b"[" * 200_000, b"- " * 200_000, b"k8s\0" + b"\xff" * 3_000_000])
def test_a_hostile_body_has_none_either(body: bytes) -> None:
    assert name_in(body, PROTOBUF if body.startswith(b"k8s") else YAML) == ""


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        (("create", "", {"spec": {"storageClusterId": "3"}}), "3"),
        (("patch", "acme", {"spec": {"storageClusterId": "3"}}), "3"),
        (("create", "", {}), ""),
        (("update", "acme", {"spec": {"storageClusterId": "3"}}), ""),
    ],
)
def test_a_new_tenant_is_looked_for_on_the_storage_cluster_that_it_names(
    call: tuple[str, str, dict[str, object]], asked: str
) -> None:
    verb, name, more = call
    body = orjson.dumps({"metadata": {"name": "acme"}, **more})
    up = upstream()

    home(Call(verb, "tenants", name=name, body=body, content_type=JSON), up)

    assert up.storages == {"acme": asked}
