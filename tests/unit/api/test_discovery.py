from __future__ import annotations

import re
from typing import Any

import pytest

from arktos_ray.api import discovery, scheme

CLUSTER = {r.plural for r in scheme.RESOURCES if not r.tenanted}


def names_in(document: Any) -> set[str]:
    """All plurals, in either form."""
    if "resources" in document:
        return {row["name"].partition("/")[0] for row in document["resources"]}
    return {
        row["resource"]
        for item in document["items"]
        for version in item["versions"]
        for row in version["resources"]
    }


def path_of(resource: scheme.Resource) -> str:
    return f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"


@pytest.mark.parametrize("resource", scheme.RESOURCES, ids=lambda r: r.gvr)
def test_every_resource_is_found_in_both_forms(resource: scheme.Resource) -> None:
    for path, form in ((path_of(resource), ""), ("/apis" if resource.group else "/api", "v2")):
        full = discovery.document(path, form, system=True)
        assert full is not None
        assert resource.plural in names_in(full)

        tenants = discovery.document(path, form, system=False)
        seen = set() if tenants is None else names_in(tenants)
        assert (resource.plural in seen) == resource.tenanted


def test_a_tenant_sees_nothing_of_the_cluster_anywhere() -> None:
    for form in ("", "v2", "v2beta1"):
        for path in ("/api", "/apis", *{path_of(r) for r in scheme.RESOURCES}):
            document = discovery.document(path, form, system=False)
            assert document is None or not CLUSTER & set(re.findall(r"[a-z]+", str(document)))


def test_the_flags_of_a_resource_say_where_it_lives() -> None:
    document = discovery.document("/api/v1")
    assert document is not None
    rows = {row["name"]: row for row in document["resources"]}

    def flags(name: str) -> tuple[bool, bool]:
        return rows[name]["namespaced"], rows[name]["tenanted"]

    assert flags("pods") == (True, True)
    assert flags("pods/status") == (True, True)
    assert flags("namespaces") == (False, True)
    assert flags("nodes") == (False, False)


def test_subresources_name_the_kind_that_they_speak() -> None:
    legacy, aggregated = discovery.document("/api/v1"), discovery.document("/api", "v2")
    assert legacy is not None
    assert aggregated is not None
    eviction = next(row for row in legacy["resources"] if row["name"] == "pods/eviction")
    pods = next(
        row
        for row in aggregated["items"][0]["versions"][0]["resources"]
        if row["resource"] == "pods"
    )

    assert (eviction["group"], eviction["version"], eviction["kind"]) == (
        "policy", "v1", "Eviction",
    )  # fmt: skip
    assert {
        "subresource": "eviction",
        "responseKind": {"group": "policy", "version": "v1", "kind": "Eviction"},
        "verbs": ["create"],
    } in pods["subresources"]


def test_groups_and_versions() -> None:
    assert (discovery.document("/api") or {})["versions"] == ["v1"]
    groups = (discovery.document("/apis") or {})["groups"]
    assert "apps" in {group["name"] for group in groups}
    assert "" not in {group["name"] for group in groups}
    apps = discovery.document("/apis/apps") or {}
    assert (apps["kind"], apps["preferredVersion"]["groupVersion"]) == ("APIGroup", "apps/v1")
    for slash in ("/api/", "/apis/", "/api/v1/"):
        assert discovery.document(slash) == discovery.document(slash.rstrip("/"))


@pytest.mark.parametrize("path", ["/api/v2", "/apis/none", "/apis/apps/v2", "/apis//v1", "/x", ""])
def test_what_is_not_there_is_none(path: str) -> None:
    assert discovery.document(path) is None


def test_the_version_is_semver_of_the_minor_that_clients_choose_by() -> None:
    version = discovery.version_document()

    assert version["minor"] == "33"
    assert re.fullmatch(r"v1\.33\.\d+\+[0-9A-Za-z.-]+", version["gitVersion"])
