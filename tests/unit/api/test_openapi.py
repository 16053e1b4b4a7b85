from __future__ import annotations

import re
from typing import Any

import orjson
import pytest

from arktos_ray.api import openapi, scheme
from arktos_ray.api.protobuf import _walk as walk


def documents() -> list[tuple[str, Any, dict[str, Any]]]:
    """(prefix of references, document, its definitions), for v2 and each v3."""
    v2 = orjson.loads(openapi.v2_json())
    found = [("#/definitions/", v2, v2["definitions"])]
    for path in openapi.v3_index()["paths"]:
        v3 = orjson.loads(openapi.v3(path) or b"")
        found.append(("#/components/schemas/", v3, v3["components"]["schemas"]))
    return found


def test_every_reference_leads_somewhere_and_every_definition_is_reached() -> None:
    for prefix, document, definitions in documents():
        text = orjson.dumps(document).decode()
        referred = set(re.findall(f'"{re.escape(prefix)}([^"]+)"', text))
        assert referred <= definitions.keys()
        # Names of kinds are what clients look for, whoever refers to them.
        unreferred = {n for n in definitions.keys() - referred if not n.endswith(".DeleteOptions")}
        assert unreferred == set()


def test_operation_ids_are_unique() -> None:
    for _, document, _ in documents():
        ids = [
            operation["operationId"]
            for item in document["paths"].values()
            for verb, operation in item.items()
            if verb != "parameters"
        ]
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("resource", scheme.RESOURCES, ids=lambda r: r.gvr)
def test_clients_find_each_kind_and_what_its_patch_understands(resource: scheme.Resource) -> None:
    gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    path = f"apis/{resource.api_version}" if resource.group else f"api/{resource.version}"
    v2, v3 = orjson.loads(openapi.v2_json()), orjson.loads(openapi.v3(path) or b"")

    for definitions, paths in (
        (v2["definitions"], v2["paths"]),
        (v3["components"]["schemas"], v3["paths"]),
    ):
        kinds = [d.get("x-kubernetes-group-version-kind", []) for d in definitions.values()]
        assert [gvk] in kinds
        patches = [
            item["patch"]
            for item in paths.values()
            if item.get("patch", {}).get("x-kubernetes-group-version-kind") == gvk
        ]
        assert bool(patches) == ("patch" in resource.verbs)
        for patch in patches:
            names = {parameter["name"] for parameter in patch["parameters"]}
            assert {"dryRun", "fieldManager", "fieldValidation", "force"} <= names


def test_merge_keys_and_types_are_told() -> None:
    spec = orjson.loads(openapi.v2_json())["definitions"]["io.k8s.api.core.v1.PodSpec"]
    containers = spec["properties"]["containers"]

    assert containers["x-kubernetes-patch-merge-key"] == "name"
    assert containers["x-kubernetes-patch-strategy"] == "merge"
    assert containers["x-kubernetes-list-map-keys"] == ["name"]
    assert spec["required"] == ["containers"]
    assert spec["properties"]["virtualMachine"]["$ref"] == (
        "#/definitions/io.arktos.core.v1.VirtualMachine"
    )


def test_descriptions_stand_beside_references_where_the_dialect_allows_it() -> None:
    v3 = orjson.loads(openapi.v3("api/v1") or b"")["components"]["schemas"]
    spec = v3["io.k8s.api.core.v1.Pod"]["properties"]["spec"]

    assert spec["allOf"] == [{"$ref": "#/components/schemas/io.k8s.api.core.v1.PodSpec"}]
    assert spec["description"]


def test_the_index_names_a_document_by_its_content() -> None:
    for path, entry in openapi.v3_index()["paths"].items():
        assert re.fullmatch(
            rf"/openapi/v3/{re.escape(path)}\?hash=[0-9A-F]{{32}}", entry["serverRelativeURL"]
        )
    assert openapi.v3("apis/nothing/v1") is None
    assert openapi.v3("") is None


def fields(raw: int | bytes) -> dict[int, list[Any]]:
    assert isinstance(raw, bytes)
    found: dict[int, list[Any]] = {}
    for number, _, value in walk(raw):
        found.setdefault(number, []).append(value)
    return found


def test_the_protobuf_form_says_what_the_json_says() -> None:
    v2 = orjson.loads(openapi.v2_json())
    document = fields(openapi.v2_protobuf())

    assert document[1] == [b"2.0"]
    paths = {fields(p)[1][0].decode(): fields(fields(p)[2][0]) for p in fields(document[8][0])[2]}
    assert paths.keys() == v2["paths"].keys()
    definitions = {
        fields(d)[1][0].decode(): fields(fields(d)[2][0]) for d in fields(document[9][0])[1]
    }
    assert definitions.keys() == v2["definitions"].keys()

    pod_spec = definitions["io.k8s.api.core.v1.PodSpec"]
    assert pod_spec[19] == [b"containers"]
    properties = {
        fields(p)[1][0].decode(): fields(fields(p)[2][0]) for p in fields(pod_spec[25][0])[1]
    }
    assert properties.keys() == v2["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"].keys()
    extensions = {
        fields(e)[1][0].decode(): orjson.loads(fields(fields(e)[2][0])[2][0])
        for e in properties["containers"][31]
    }
    assert extensions["x-kubernetes-patch-merge-key"] == "name"

    patch = fields(paths["/api/v1/namespaces/{namespace}/pods/{name}"][8][0])
    queries = [
        fields(fields(fields(p)[1][0])[2][0])[3][0]
        for p in patch[8]
        if 2 in fields(fields(p)[1][0])
    ]
    assert {fields(query)[4][0].decode() for query in queries} >= {"dryRun", "fieldValidation"}
