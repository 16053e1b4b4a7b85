from __future__ import annotations

import pytest

from arktos_ray.api import schemas, scheme


@pytest.mark.parametrize("resource", scheme.RESOURCES, ids=lambda r: r.gvr)
def test_every_resource_has_a_schema_of_its_own_kind(resource: scheme.Resource) -> None:
    message = schemas.message(resource.schema)

    assert message.kind == (resource.group, resource.version, resource.kind)
    assert {"apiVersion", "kind", "metadata"} <= message.fields.keys()
    assert schemas.exists(resource.schema + "List") == ("list" in resource.verbs)


def test_every_field_refers_to_something_that_exists() -> None:
    for name in schemas.names():
        message = schemas.message(name)
        for field in (*message.fields.values(), *message.inlined):
            assert not field.is_message or schemas.exists(field.type), (name, field)


def test_tags_of_a_message_are_unique() -> None:
    for name in schemas.names():
        message = schemas.message(name)
        numbers = [f.number for f in (*message.fields.values(), *message.inlined) if f.number]
        assert len(numbers) == len(set(numbers)), name


def test_json_has_the_fields_of_inlined_messages_as_its_own() -> None:
    volume = schemas.message("k8s.io.api.core.v1.Volume")

    assert {"name", "configMap", "secret"} <= volume.fields.keys()
    assert "volumeSource" not in volume.fields
    assert [field.name for field in volume.inlined] == ["volumeSource"]


def test_merge_keys_and_list_types_are_known() -> None:
    pod_spec = schemas.message("k8s.io.api.core.v1.PodSpec")

    assert pod_spec.fields["containers"].patch_merge_key == "name"
    assert pod_spec.fields["containers"].map_keys == ("name",)
    assert pod_spec.fields["volumes"].patch_strategy == ("merge", "retainKeys")
    assert pod_spec.fields["tolerations"].list_type == "atomic"
    assert pod_spec.fields["nodeSelector"].map_type == "atomic"


def test_our_own_fields_are_there() -> None:
    meta = schemas.message("k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta")
    pod_spec = schemas.message("k8s.io.api.core.v1.PodSpec")

    assert meta.fields["tenant"].type == "string"
    assert meta.fields["hashKey"].type == "integer"
    assert pod_spec.fields["virtualMachine"].type == "arktos.core.v1.VirtualMachine"
    assert pod_spec.fields["nics"].shape == "list"


def test_kinds_are_found_by_their_names() -> None:
    assert schemas.of_kind("apps/v1", "Deployment") == "k8s.io.api.apps.v1.Deployment"
    assert schemas.of_kind("v1", "Deployment") is None
    assert str(schemas.of_kind("apps/v1", "DeleteOptions")).endswith(".DeleteOptions")


def test_descriptions_are_about_something_that_exists() -> None:
    _, _, descriptions = schemas._data()
    for name, texts in descriptions.items():
        if name != "*":
            fields = schemas.message(name).fields
            assert texts.keys() <= {"", *fields}, name


@pytest.mark.parametrize("resource", scheme.RESOURCES, ids=lambda r: r.gvr)
def test_every_resource_is_described(resource: scheme.Resource) -> None:
    message = schemas.message(resource.schema)

    assert message.description
    assert message.fields["metadata"].description
