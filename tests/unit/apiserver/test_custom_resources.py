"""Custom resources: what a tenant that defines a kind of its own can rely on."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
import pytest

from arktos_ray.api import discovery, errors, networks, openapi
from arktos_ray.api.calls import BOOKMARK, Reply, User
from arktos_ray.api.custom import names
from arktos_ray.api.custom.described import unpacked
from arktos_ray.apiserver import customs
from arktos_ray.testing.fakes import settle
from tests.unit.apiserver.acme_world import ADMIN, Acme, Object, acme
from tests.unit.apiserver.widgets import AS, DEFINITIONS, GVR, definition, version, widget

TENANT = ("acme", "", "")
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"


async def define(world: Acme, body: Object | None = None, tenant: str = "acme") -> Object:
    user = ADMIN if tenant == "system" else User("admin", tenant)
    return await world.ok(
        "create", DEFINITIONS, body or definition(), at=(tenant, "", ""), user=user
    )


async def asked(world: Acme, *what: Any, version: str = AS, **more: Any) -> tuple[Reply, Object]:
    call = world.call(*what, **more)
    call.version = version
    [reply] = await world.part.call([call])
    return reply, orjson.loads(reply.body)


async def good(world: Acme, *what: Any, **more: Any) -> Object:
    reply, body = await asked(world, *what, **more)
    assert reply.ok, body
    return body


async def bad(world: Acme, code: int, *what: Any, **more: Any) -> str:
    reply, body = await asked(world, *what, **more)
    assert reply.code == code, body
    return errors.decode(body).message


def test_a_kind_can_be_used_as_soon_as_it_is_defined() -> None:
    async def story(world: Acme) -> None:
        made = await define(world)
        conditions = {c["type"]: c["status"] for c in made["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}
        assert made["status"]["storedVersions"] == ["v1"]
        assert made["spec"]["names"]["listKind"] == "WidgetList"

        body = await good(world, "create", GVR, widget(unknown=1))
        assert body["spec"] == {"size": 1, "color": "red", "replicas": 1}
        assert body["metadata"]["generation"] == 1
        listed = await good(world, "list", GVR)
        assert (listed["kind"], listed["apiVersion"]) == ("WidgetList", AS)
        assert [each["metadata"]["name"] for each in listed["items"]] == ["w"]

        patched = await good(world, "patch", GVR, {"spec": {"size": 2}}, name="w", kind=MERGE)
        assert (patched["spec"]["size"], patched["metadata"]["generation"]) == (2, 2)
        labelled = await good(
            world, "patch", GVR, {"metadata": {"labels": {"a": "b"}}}, name="w", kind=MERGE
        )
        assert labelled["metadata"]["generation"] == 2
        assert (await good(world, "delete", GVR, name="w"))["status"] == "Success"
        assert await bad(world, 404, "get", GVR, name="w") == 'widgets.example.com "w" not found'

    acme(story)


def test_what_nobody_defined_is_not_found() -> None:
    async def story(world: Acme) -> None:
        missing = "the server could not find the requested resource"
        assert await bad(world, 404, "list", GVR) == missing
        await define(world)
        assert await bad(world, 404, "list", GVR, version="example.com/v9") == missing
        assert await bad(world, 404, "get", "gadgets.example.com", name="w") == missing

    acme(story)


def test_objects_that_break_their_schema_are_refused() -> None:
    async def story(world: Acme) -> None:
        await define(world)
        assert "spec.size" in await bad(world, 422, "create", GVR, widget(size=0))
        why = await bad(world, 400, "create", GVR, widget(oops=1), fieldValidation="Strict")
        assert 'unknown field "spec.oops"' in why
        reply, _ = await asked(world, "create", GVR, widget(oops=1))
        assert 'unknown field "spec.oops"' in reply.warnings
        strategic = "application/strategic-merge-patch+json"
        await bad(world, 415, "patch", GVR, {}, name="w", kind=strategic)

    acme(story)


def test_rules_of_a_definition_hold_for_its_objects() -> None:
    async def story(world: Acme) -> None:
        schema = orjson.loads(orjson.dumps(version()["schema"]))
        spec = schema["openAPIV3Schema"]["properties"]["spec"]
        spec["x-kubernetes-validations"] = [
            {"rule": "self.size <= 10", "message": "too large"},
            {"rule": "self.color == oldSelf.color", "message": "color is for ever"},
        ]
        await define(world, definition(versions=[version(schema=schema)]))
        assert "too large" in await bad(world, 422, "create", GVR, widget(size=11))
        await good(world, "create", GVR, widget(size=10))
        change = {"spec": {"color": "blue"}}
        why = await bad(world, 422, "patch", GVR, change, name="w", kind=MERGE)
        assert "color is for ever" in why

        spec["x-kubernetes-validations"] = [{"rule": "self.nothing > 1"}]
        body = definition("gadgets", "Gadget", versions=[version(schema=schema)])
        why = await world.fails(422, "create", DEFINITIONS, body, at=TENANT)
        assert "spec.versions[0].schema.openAPIV3Schema.properties[spec]" in why

    acme(story)


def test_status_and_scale_are_written_apart() -> None:
    async def story(world: Acme) -> None:
        await define(world)
        made = await good(world, "create", GVR, {**widget(), "status": {"replicas": 9}})
        assert "status" not in made
        made["status"], made["spec"]["size"] = {"replicas": 3, "selector": "a=b"}, 7
        updated = await good(world, "update", GVR, made, name="w", sub="status")
        assert (updated["spec"]["size"], updated["status"]["replicas"]) == (1, 3)
        assert updated["metadata"]["generation"] == 1

        scale = await good(world, "get", GVR, name="w", sub="scale")
        assert scale["spec"] == {"replicas": 1}
        assert scale["status"] == {"replicas": 3, "selector": "a=b"}
        await good(
            world, "patch", GVR, {"spec": {"replicas": 5}}, name="w", sub="scale", kind=MERGE
        )
        now = await good(world, "get", GVR, name="w")
        assert (now["spec"]["replicas"], now["metadata"]["generation"]) == (5, 2)

    acme(story)


def test_applied_fields_are_owned_item_by_item() -> None:
    async def story(world: Acme) -> None:
        await define(world)

        async def apply(manager: str, *parts: Object, code: int = 200) -> Reply:
            reply, body = await asked(
                world, "patch", GVR, widget(parts=list(parts)), name="w", kind=APPLY,
                fieldManager=manager,
            )  # fmt: skip
            assert reply.code == code, body
            return reply

        await apply("one", {"name": "a", "n": 1}, code=201)
        await apply("two", {"name": "b", "n": 2})
        found = await good(world, "get", GVR, name="w")
        assert [part["name"] for part in found["spec"]["parts"]] == ["a", "b"]
        await apply("two", {"name": "a", "n": 5}, code=409)
        await apply("two")
        found = await good(world, "get", GVR, name="w")
        assert [part["name"] for part in found["spec"]["parts"]] == ["a"]

    acme(story)


def test_tables_have_the_columns_of_the_definition() -> None:
    async def story(world: Acme) -> None:
        await define(world)
        await good(world, "create", GVR, widget(size=4))
        call = world.call("list", GVR)
        call.version, call.accept = AS, "Table"
        [reply] = await world.part.call([call])
        table = orjson.loads(reply.body)
        assert [c["name"] for c in table["columnDefinitions"]] == ["Name", "Size", "Color", "Age"]
        assert table["rows"][0]["cells"][:3] == ["w", 4, "red"]

    acme(story)


def test_lists_select_by_the_fields_that_the_definition_names() -> None:
    async def story(world: Acme) -> None:
        await define(world)
        await good(world, "create", GVR, widget("a", color="blue"))
        await good(world, "create", GVR, widget("b"))
        found = await good(world, "list", GVR, fieldSelector="spec.color=blue")
        assert [each["metadata"]["name"] for each in found["items"]] == ["a"]
        await bad(world, 400, "list", GVR, fieldSelector="spec.size=1")

    acme(story)


def test_a_watch_tells_of_custom_objects() -> None:
    async def story(world: Acme) -> None:
        await define(world)
        call = world.call(
            "watch", GVR, sendInitialEvents="true", resourceVersionMatch="NotOlderThan",
            allowWatchBookmarks="true",
        )  # fmt: skip
        call.version = AS
        events = world.part.watch(call)
        async with asyncio.timeout(5):
            [end] = await anext(events)
            assert (end.type, end.initial_end) == (BOOKMARK, True)
            assert orjson.loads(end.body) == {"kind": "Widget", "apiVersion": AS}
            await good(world, "create", GVR, widget())
            [event] = await anext(events)
        await events.aclose()  # type: ignore[attr-defined]
        assert (event.type, orjson.loads(event.body)["kind"]) == ("ADDED", "Widget")

    acme(story)


def test_every_version_shows_the_same_objects() -> None:
    async def story(world: Acme) -> None:
        versions = [version("v1"), version("v2", storage=False)]
        await define(world, definition(versions=versions))
        await good(world, "create", GVR, widget())
        shown = await good(world, "get", GVR, name="w", version="example.com/v2")
        assert shown["apiVersion"] == "example.com/v2"
        shown["spec"]["size"] = 8
        await good(world, "update", GVR, shown, name="w", version="example.com/v2")
        assert (await good(world, "get", GVR, name="w"))["spec"]["size"] == 8

        found = await world.ok("get", DEFINITIONS, at=("acme", "", GVR))
        for each in found["spec"]["versions"]:
            each["storage"] = not each["storage"]
        found = await world.ok("update", DEFINITIONS, found, at=("acme", "", GVR))
        assert found["status"]["storedVersions"] == ["v1", "v2"]
        assert (await good(world, "get", GVR, name="w"))["apiVersion"] == AS
        listed = await good(world, "list", GVR, version="example.com/v2")
        assert [each["apiVersion"] for each in listed["items"]] == ["example.com/v2"]

    acme(story)


def test_a_name_that_is_taken_is_not_served_until_it_is_free() -> None:
    async def story(world: Acme) -> None:
        await define(world, definition(shortNames=["wd"]))
        other = await define(world, definition("gadgets", "Widget"))
        accepted = other["status"]["conditions"][0]
        assert accepted["reason"] == "SingularConflict"
        assert '"Widget" is already in use' in accepted["message"]
        gadgets = "gadgets.example.com"
        await bad(world, 404, "list", gadgets)

        await world.ok("delete", DEFINITIONS, at=("acme", "", GVR))
        left = await world.ok("get", DEFINITIONS, at=("acme", "", GVR))
        assert left["metadata"]["finalizers"] == ["customresourcecleanup.apiextensions.k8s.io"]
        await bad(world, 405, "create", GVR, widget())
        left["metadata"]["finalizers"] = []
        await world.ok("update", DEFINITIONS, left, at=("acme", "", GVR))
        assert (await good(world, "list", gadgets))["items"] == []

    acme(story)


def test_a_watch_ends_when_its_kind_changes_and_goes_on_as_that_is_now() -> None:
    async def story(world: Acme) -> None:
        body = await define(world)
        made = await good(world, "create", GVR, widget())
        start = made["metadata"]["resourceVersion"]

        def watching() -> Any:
            call = world.call("watch", GVR, resourceVersion=start)
            call.version = AS
            return world.part.watch(call)

        events = watching()
        waiting = asyncio.ensure_future(anext(events, None))
        await asyncio.sleep(0)
        body["spec"]["versions"] = [
            version("v1", storage=False), version("v2"),
        ]  # fmt: skip
        await world.ok("update", DEFINITIONS, body, at=("acme", "", GVR))
        await good(
            world, "patch", GVR, {"spec": {"size": 9}}, name="w", kind=MERGE,
            version="example.com/v2",
        )  # fmt: skip
        async with asyncio.timeout(5):
            assert await waiting is None
            again = watching()
            [event] = await anext(again)
            await again.aclose()
        seen = orjson.loads(event.body)
        assert (seen["apiVersion"], seen["spec"]["size"]) == (AS, 9)

    acme(story)


def test_roles_are_about_custom_kinds_as_about_any() -> None:
    async def story(world: Acme) -> None:
        await define(world)
        await good(world, "create", GVR, widget("mine"))
        await good(world, "create", GVR, widget("other"))
        rule = {
            "apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["get"],
            "resourceNames": ["mine"],
        }  # fmt: skip
        rbac = "rbac.authorization.k8s.io"
        await world.ok("create", f"roles.{rbac}", {"metadata": {"name": "r"}, "rules": [rule]})
        binding = {
            "metadata": {"name": "b"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "r"},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": "bob"}],
        }
        await world.ok("create", f"rolebindings.{rbac}", binding)
        bob = User("bob", "acme")
        await good(world, "get", GVR, name="mine", user=bob)
        for name in ("other", "none"):
            await bad(world, 403, "get", GVR, name=name, user=bob)
        await bad(world, 403, "list", GVR, user=bob)
        await bad(world, 403, "list", "gadgets.example.com", user=bob)

    acme(story)


def test_what_is_everybodys_is_not_guessed_before_it_is_known() -> None:
    async def story(world: Acme) -> None:
        customs = world.part.server.partition.customs
        customs.is_system = customs.synced = False  # As in any other partition when it starts.
        await bad(world, 503, "list", GVR)
        await world.fails(503, "create", DEFINITIONS, definition(), at=TENANT)

        body = {**definition(forced=True)}
        body["metadata"] |= {"tenant": "system", "resourceVersion": "7"}
        body["status"] = names.settled(body, (), "2026-01-01T00:00:00Z")
        customs.told(None, body)
        customs.synced = True
        await good(world, "create", GVR, widget())
        assert "There is already" in await world.fails(
            409, "create", DEFINITIONS, definition(), at=TENANT
        )
        customs.told(body, None)
        await bad(world, 404, "list", GVR)
        await define(world)

    acme(story)


def test_a_tenants_watch_of_definitions_shows_those_that_are_everybodys() -> None:
    async def story(world: Acme) -> None:
        body = await define(world, definition(forced=True), "system")
        call = world.call("watch", DEFINITIONS, at=TENANT)
        events = world.part.watch(call)

        async def told(watch: Any = events) -> list[tuple[str, str, str]]:
            async with asyncio.timeout(5):
                return [
                    (e.type, o["metadata"]["name"], o["metadata"].get("labels", {}).get("a", ""))
                    for e in await anext(watch)
                    for o in (orjson.loads(e.body),)
                    if o["metadata"]["name"] != networks.NETWORKS
                ]

        assert await told() == [("ADDED", GVR, "")]
        await define(world, definition("gadgets", "Gadget"))
        assert await told() == [("ADDED", "gadgets.example.com", "")]
        start = (await world.ok("list", DEFINITIONS, at=TENANT))["metadata"]["resourceVersion"]
        body["metadata"]["labels"]["a"] = "b"
        await world.ok("update", DEFINITIONS, body, at=("system", "", GVR), user=ADMIN)
        assert await told() == [("MODIFIED", GVR, "b")]

        # Who was away meanwhile is told, or lists again.
        def resumed() -> Any:
            return world.part.watch(
                world.call("watch", DEFINITIONS, at=TENANT, resourceVersion=start)
            )

        again = resumed()
        assert await told(again) == [("ADDED", GVR, "b")]
        await again.aclose()
        body["metadata"] = {"name": GVR}
        await world.ok("update", DEFINITIONS, body, at=("system", "", GVR), user=ADMIN)
        assert await told() == [("DELETED", GVR, "b")]
        with pytest.raises(errors.Expired):
            await anext(resumed())
        start = (await world.ok("list", DEFINITIONS, at=TENANT))["metadata"]["resourceVersion"]
        again = resumed()
        waiting = asyncio.ensure_future(told(again))
        await asyncio.sleep(0)
        await define(world, definition("things", "Thing"))
        assert await waiting == [("ADDED", "things.example.com", "")]
        await events.aclose()  # type: ignore[attr-defined]
        await again.aclose()
        await settle()
        assert not world.part.server.partition.customs.on_forced

    acme(story)


def test_what_was_stored_before_a_default_has_it_when_it_is_read() -> None:
    async def story(world: Acme) -> None:
        body = await define(world)
        old = await good(world, "create", GVR, widget())
        shape = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        shape["spec"]["properties"]["weight"] = {"type": "integer", "default": 3}
        await world.ok("update", DEFINITIONS, body, at=("acme", "", GVR))
        shown = await good(world, "get", GVR, name="w")
        assert shown["spec"] == {**old["spec"], "weight": 3}
        assert shown["metadata"] == old["metadata"]
        [listed] = (await good(world, "list", GVR))["items"]
        call = world.call("watch", GVR)
        call.version = AS
        events = world.part.watch(call)
        [event] = await anext(events)
        await events.aclose()  # type: ignore[attr-defined]
        assert listed == orjson.loads(event.body) == shown
        # Nobody wrote it; who writes its status keeps what was shown.
        shown["status"] = {"replicas": 1}
        done = await good(world, "update", GVR, shown, name="w", sub="status")
        assert done["spec"]["weight"] == 3
        assert done["metadata"]["generation"] == 1

    acme(story)


def test_a_deprecated_version_says_so() -> None:
    async def story(world: Acme) -> None:
        old = version(deprecated=True, deprecationWarning="use v2")
        await define(world, definition(versions=[old]))
        reply, _ = await asked(world, "create", GVR, widget())
        assert "use v2" in reply.warnings

    acme(story)


async def _globex(world: Acme) -> User:
    user = User("admin", "globex")
    tenant = {"metadata": {"name": "globex"}, "spec": {"storageClusterId": "0"}}
    await world.ok("create", "tenants", tenant, at=("", "", ""), user=ADMIN)
    await world.ok(
        "create", "namespaces", {"metadata": {"name": "n"}}, at=("globex", "", ""), user=user
    )
    return user


def test_two_tenants_have_the_same_name_for_different_kinds() -> None:
    async def story(world: Acme) -> None:
        user = await _globex(world)
        there = ("globex", "n", "w")
        await define(world)
        await bad(world, 404, "list", GVR, at=("globex", "n", ""), user=user)
        other = version(schema={"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {
                "type": "object", "properties": {"size": {"type": "string"}}}}}})  # fmt: skip
        await define(world, definition(versions=[other]), "globex")

        await good(world, "create", GVR, widget())
        await bad(world, 422, "create", GVR, widget(), at=there, user=user)
        made = await good(world, "create", GVR, widget(size="large"), at=there, user=user)
        assert made["spec"] == {"size": "large"}
        for at in (there, ("globex", "n", "none")):
            why = await bad(world, 403, "get", GVR, at=at)
            assert "widgets.example.com" in why

    acme(story)


def test_operators_see_the_objects_of_all_tenants_as_one_kind() -> None:
    async def story(world: Acme) -> None:
        user = await _globex(world)
        everywhere = ("all", "", "")
        await define(world, definition(versions=[version("v1"), version("v2", storage=False)]))
        await define(world, definition(), "globex")
        await good(world, "create", GVR, widget())
        await good(world, "create", GVR, widget(), at=("globex", "n", ""), user=user)
        listed = await good(world, "list", GVR, at=everywhere, user=ADMIN)
        assert [each["metadata"]["tenant"] for each in listed["items"]] == ["acme", "globex"]
        for gvr in (GVR, "nothings.example.com"):
            call = world.call("list", gvr, at=everywhere, user=ADMIN)
            call.version, call.accept = AS, "Table"
            [reply] = await world.part.call([call])
            assert len(orjson.loads(reply.body)["rows"]) == (2 if gvr == GVR else 0)
        await bad(world, 403, "list", GVR, at=everywhere)

    acme(story)


def test_a_forced_kind_is_everybodys_and_nobody_elses_to_change() -> None:
    async def story(world: Acme) -> None:
        await define(world, definition("private", "Private"), "system")
        await define(world, definition(forced=True), "system")
        names = [d["metadata"]["name"] for d in (await world.ok(
            "list", DEFINITIONS, at=TENANT))["items"]]  # fmt: skip
        assert names == [networks.NETWORKS, GVR]
        assert (await world.ok("get", DEFINITIONS, at=("acme", "", GVR)))["metadata"]["name"] == GVR
        made = await good(world, "create", GVR, widget())
        assert made["metadata"]["tenant"] == "acme"
        await bad(world, 404, "list", "private.example.com")

        at = ("acme", "", GVR)
        assert await world.fails(409, "create", DEFINITIONS, definition(), at=TENANT) == (
            f"There is already a system forced CRD with the name {GVR}"
        )
        overwrite = f"{GVR} is a system CRD, you cannot overwrite it."
        assert await world.fails(403, "update", DEFINITIONS, definition(), at=at) == overwrite
        assert await world.fails(
            403, "patch", DEFINITIONS, {"metadata": {"labels": None}}, at=at, kind=MERGE
        ) == overwrite  # fmt: skip
        assert await world.fails(403, "delete", DEFINITIONS, at=at) == (
            f"Forbidden: {GVR} is a system CRD, it can only be deleted by a cluster admin."
        )

    acme(story)


def test_of_the_whole_cluster_is_only_what_the_system_tenant_defines() -> None:
    async def story(world: Acme) -> None:
        await define(world, definition("things", "Thing", scope="Cluster"))
        things = "things.example.com"
        made = await good(
            world, "create", things, {"metadata": {"name": "t"}, "spec": {"size": 1}}, at=TENANT
        )
        assert made["metadata"]["tenant"] == "acme"
        await define(world, definition(scope="Cluster", forced=True), "system")
        await bad(world, 403, "list", GVR, at=TENANT)

    acme(story)


def test_definitions_speak_v1beta1_too() -> None:
    async def story(world: Acme) -> None:
        old = {
            "apiVersion": "apiextensions.k8s.io/v1beta1", "kind": "CustomResourceDefinition",
            "metadata": {"name": GVR},
            "spec": {
                "group": "example.com", "version": "v1", "scope": "Namespaced",
                "names": {"plural": "widgets", "kind": "Widget"}, "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "JSONPath": ".spec.size"}
                ],
            },
        }  # fmt: skip
        made = await good(
            world, "create", DEFINITIONS, old, at=TENANT, version="apiextensions.k8s.io/v1beta1"
        )
        assert made["spec"]["version"] == "v1"
        assert made["spec"]["additionalPrinterColumns"][0]["JSONPath"] == ".spec.size"
        new = await world.ok("get", DEFINITIONS, at=("acme", "", GVR))
        assert new["spec"]["versions"][0]["additionalPrinterColumns"][0]["jsonPath"] == ".spec.size"
        kept = await good(world, "create", GVR, widget(anything={"at": "all"}))
        assert kept["spec"]["anything"] == {"at": "all"}

    acme(story)


async def _kinds(world: Acme, have: str = "", tenant: str = "acme") -> tuple[str, list[Any] | None]:
    stamp, rows = await world.part.request("kinds", [tenant, have, True])
    return stamp, None if rows is None else unpacked(rows)


def test_discovery_knows_of_a_definition_at_once_and_of_nobody_elses() -> None:
    async def story(world: Acme) -> None:
        nothing, rows = await _kinds(world)
        assert [row.gvr for row in rows or ()] == [networks.NETWORKS]
        await define(world, definition(shortNames=["wd"], categories=["all"]))
        stamp, kinds = await _kinds(world, nothing)
        assert stamp != nothing
        assert kinds is not None
        assert await _kinds(world, stamp) == (stamp, None)
        system = (await _kinds(world, tenant="system"))[1] or []
        assert [row.gvr for row in system] == [networks.NETWORKS]

        found = discovery.document("/apis", "v2", False, kinds)
        assert found is not None
        [group] = [each for each in found["items"] if each["metadata"]["name"] == "example.com"]
        [row] = group["versions"][0]["resources"]
        assert (row["resource"], row["shortNames"], row["scope"]) == (
            "widgets",
            ["wd"],
            "Namespaced",
        )
        assert [each["subresource"] for each in row["subresources"]] == ["scale", "status"]
        plain = discovery.document("/apis/example.com/v1", "", False, kinds)
        assert plain is not None
        assert {r["name"] for r in plain["resources"]} >= {"widgets", "widgets/status"}

        page = openapi.v3("apis/example.com/v1", kinds)
        assert page is not None
        document = orjson.loads(page)
        schema = document["components"]["schemas"]["com.example.v1.Widget"]
        assert schema["properties"]["spec"]["required"] == ["size"]
        assert schema["x-kubernetes-group-version-kind"][0]["kind"] == "Widget"
        known = set(document["components"]["schemas"])
        assert set(re.findall(r'"#/components/schemas/([^"]+)"', page.decode())) <= known
        assert "apis/example.com/v1" in openapi.v3_index(kinds)["paths"]
        old = orjson.loads(openapi.v2_json(kinds))
        assert old["definitions"]["com.example.v1.Widget"]["properties"]["spec"]
        assert b"com.example.v1.Widget" in openapi.v2_protobuf(kinds)

        await define(world, definition("gadgets", "Gadget"))
        assert (await _kinds(world, stamp))[0] not in (stamp, nothing)

    acme(story)


def test_definitions_that_cannot_be_are_refused() -> None:
    async def story(world: Acme) -> None:
        wrong = definition()
        wrong["metadata"]["name"] = "other.example.com"
        assert "metadata.name" in await world.fails(422, "create", DEFINITIONS, wrong, at=TENANT)
        for change, where in (
            ({"scope": "Galaxy"}, "spec.scope"),
            ({"versions": [version(storage=False)]}, "spec.versions"),
            ({"group": "flat"}, "spec.group"),
        ):
            body = definition()
            body["spec"].update(change)
            assert where in await world.fails(422, "create", DEFINITIONS, body, at=TENANT)
        column = {"name": "X", "type": "string", "jsonPath": ".spec[?(@.a~'x')].b"}
        body = definition(versions=[version(additionalPrinterColumns=[column])])
        why = await world.fails(422, "create", DEFINITIONS, body, at=TENANT)
        assert "additionalPrinterColumns[0].jsonPath" in why
        await define(world)
        body = await world.ok("get", DEFINITIONS, at=("acme", "", GVR))
        body["spec"]["scope"] = "Tenant"
        why = await world.fails(422, "update", DEFINITIONS, body, at=("acme", "", GVR))
        assert "spec.scope" in why

    acme(story)


def test_definitions_and_objects_are_there_after_a_restart() -> None:
    async def story(world: Acme) -> None:
        await define(world)
        await good(world, "create", GVR, {**widget(), "spec": {"size": 2, "nodeName": 5}})
        again = Acme(world.disk)
        await again.part.start()
        assert (await good(again, "get", GVR, name="w"))["spec"]["size"] == 2
        await again.part.close()

    acme(story)


def test_a_definition_is_no_more_work_than_others_can_wait_for() -> None:
    def with_schema(**spec: Any) -> Object:
        schema = {"type": "object", "properties": {"spec": {"type": "object", **spec}}}
        made = {"openAPIV3Schema": schema}
        return definition(versions=[
            version("v1", schema=made), version("v2", storage=False, schema=made),
        ])  # fmt: skip

    async def refused(world: Acme, **spec: Any) -> str:
        body = with_schema(**spec)
        return await world.fails(
            422, "create", DEFINITIONS, body, at=TENANT, user=User("admin", "acme")
        )

    async def story(world: Acme) -> None:
        rules = [{"rule": f"self == {i}"} for i in range(501)]
        assert "1002 expressions are too many" in await refused(
            world, **{"x-kubernetes-validations": rules}
        )
        long = "self.a > 0" + " && self.a > 0" * 1100
        said = await refused(world, **{"x-kubernetes-validations": [{"rule": long}] * 3})
        assert "those of one object have at most 65536" in said
        for many in (
            {"enum": [str(i) for i in range(300_000)]},
            {"properties": {f"a{i}": {"type": "string"} for i in range(10_000)}},
            {"properties": {
                f"a{i}": {"type": "string", "pattern": f"(a|b|c){{1,1000}}{i}"} for i in range(100)
            }},
        ):  # fmt: skip
            assert "weigh" in await refused(world, **many)
        await define(
            world, with_schema(properties={"a": {"type": "string", "pattern": "^a{1,63}$"}})
        )

    acme(story)


def test_a_tenant_has_no_more_definitions_than_others_can_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(customs, "DEFINITIONS_PER_TENANT_MAX", 2)

    async def story(world: Acme) -> None:
        bodies = [definition(f"things{i}", f"Thing{i}") for i in range(3)]
        for body in bodies[:2]:
            await define(world, body)
        user = User("admin", "acme")
        assert "a tenant has at most 2 definitions" in await world.fails(
            403, "create", DEFINITIONS, bodies[2], at=TENANT, user=user
        )
        await define(world, bodies[2], tenant="system")

    acme(story)


def test_the_definitions_of_a_tenant_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(world: Acme) -> None:
        made = await define(world)
        size = len(orjson.dumps(made))
        monkeypatch.setattr(customs, "DEFINITION_BYTES_PER_TENANT_MAX", size + size // 2)
        user = User("admin", "acme")
        other = definition("gadgets", "Gadget")
        assert "definitions have at most" in await world.fails(
            403, "create", DEFINITIONS, other, at=TENANT, user=user
        )
        monkeypatch.setattr(customs, "DEFINITION_BYTES_PER_TENANT_MAX", size // 2)
        at = ("acme", "", made["metadata"]["name"])
        spec = {"names": {**made["spec"]["names"], "categories": ["all"]}}
        assert "definitions have at most" in await world.fails(
            403, "patch", DEFINITIONS, {"spec": spec}, at=at, user=user, kind=MERGE
        )
        less = {"spec": {"versions": [version()]}}
        await world.ok("patch", DEFINITIONS, less, at=at, user=user, kind=MERGE)

    acme(story)
