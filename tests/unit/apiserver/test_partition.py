"""Promises of a partition's verbs: answers are durable, refusals are true, nothing leaks."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import orjson
import pytest
from acme_world import Acme, acme

from arktos_ray.api.calls import User
from arktos_ray.api.errors import StorageFull
from arktos_ray.testing.fakes import settle

Object = dict[str, Any]
JSON_PATCH = "application/json-patch+json"


def config(name: str, **more: Any) -> Object:
    return {"metadata": {"name": name}, **more}


def pod(name: str, node: str = "", **meta: Any) -> Object:
    spec: Object = {"containers": [{"name": "c", "image": "i"}]}
    if node:
        spec["nodeName"] = node
    return {"metadata": {"name": name, **meta}, "spec": spec}


def service(name: str, **spec: Any) -> Object:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def test_a_write_that_a_failed_commit_took_along_is_not_acknowledged() -> None:
    async def story(w: Acme) -> None:
        w.log.fail_next.append(StorageFull("full"))
        late = str(w.part.store.revision)
        made, listed, second = await w.part.call([
            w.call("create", "configmaps", config("a")),
            w.call("list", "configmaps", at=("acme", "n", ""), resourceVersion=late),
            w.call("create", "configmaps", config("b")),
        ])  # fmt: skip
        assert made.code == 507, "it is not there"
        assert listed.ok, "a reader has nothing to do with a writer's disk"
        assert second.ok
        await w.fails(404, "get", "configmaps", name="a")
        await w.ok("get", "configmaps", name="b")

    acme(story)


def test_a_list_at_a_revision_is_answered_while_writes_are_refused() -> None:
    async def story(w: Acme) -> None:
        ahead = str(w.part.store.revision + 5)
        w.log.fail_next.append(StorageFull("full"))
        made, listed = await asyncio.gather(
            w.reply("create", "configmaps", config("a")),
            w.reply("list", "configmaps", at=("acme", "n", ""), resourceVersion=ahead),
        )
        assert made.code == 507
        assert listed.ok
        body = orjson.loads(listed.body)
        assert body["items"] == []
        assert int(body["metadata"]["resourceVersion"]) >= int(ahead)

    acme(story)


def test_a_refusal_is_not_based_on_what_never_became_durable() -> None:
    async def story(w: Acme) -> None:
        w.log.fail_next.append(StorageFull("full"))
        first, second = await asyncio.gather(
            w.reply("create", "configmaps", config("a")),
            w.reply("create", "configmaps", config("a")),
        )
        assert first.code == 507
        assert second.code == 507, "it did not exist, so it cannot be in the way"

    acme(story)


def test_a_revision_of_the_far_future_is_refused_as_clients_expect() -> None:
    async def story(w: Acme) -> None:
        far = str(w.part.store.revision + (3_600_000 << 19))
        at = ("acme", "n", "")
        reply = await w.reply("list", "configmaps", at=at, resourceVersion=far)
        assert reply.code == 504
        [cause] = orjson.loads(reply.body)["details"]["causes"]
        assert cause["reason"] == "ResourceVersionTooLarge"

    acme(story)


def test_revisions_do_not_go_back_behind_one_that_was_shown_ahead_of_the_clock() -> None:
    async def story(w: Acme) -> None:
        ahead = w.part.store.revision + (20_000 << 19)
        listed = await w.ok("list", "configmaps", at=("acme", "n", ""), resourceVersion=str(ahead))
        shown = int(listed["metadata"]["resourceVersion"])
        assert shown >= ahead
        again = Acme(w.disk)
        await again.part.start()
        made = await again.ok("create", "configmaps", config("a"))
        assert int(made["metadata"]["resourceVersion"]) > shown
        await again.part.close()

    acme(story)


def test_pages_of_the_pods_of_one_node_come_to_an_end() -> None:
    async def story(w: Acme) -> None:
        for i in range(5):
            await w.ok("create", "pods", pod(f"p{i}", "node-1"))
        seen: list[str] = []
        token = ""
        for _ in range(10):
            options = {"limit": "2", "fieldSelector": "spec.nodeName=node-1"}
            if token:
                options["continue"] = token
            page = await w.ok("list", "pods", at=("acme", "n", ""), **options)
            seen += [item["metadata"]["name"] for item in page["items"]]
            token = page["metadata"].get("continue", "")
            if not token:
                break
        assert seen == [f"p{i}" for i in range(5)]

    acme(story)


def test_pages_show_one_revision_whatever_happens_to_the_object_they_ended_with() -> None:
    async def story(w: Acme) -> None:
        for name in "abcd":
            await w.ok("create", "configmaps", config(name, data={"v": "1"}))
        at = ("acme", "n", "")
        first = await w.ok("list", "configmaps", at=at, limit="2")
        await w.ok("delete", "configmaps", name="b")
        await w.ok("delete", "configmaps", name="c")
        await w.ok("update", "configmaps", config("d", data={"v": "2"}), name="d")
        await w.ok("create", "configmaps", config("bb"))
        token = first["metadata"]["continue"]
        second = await w.ok("list", "configmaps", at=at, limit="2", **{"continue": token})
        assert [(i["metadata"]["name"], i["data"]["v"]) for i in second["items"]] == [
            ("c", "1"), ("d", "1"),
        ]  # fmt: skip
        assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]

    acme(story)


def test_pages_that_begin_at_a_revision_show_that_revision() -> None:
    async def story(w: Acme) -> None:
        at = ("acme", "n", "")
        await w.ok("create", "configmaps", config("a"))
        then = (await w.ok("list", "configmaps", at=at))["metadata"]["resourceVersion"]
        await w.ok("create", "configmaps", config("b"))
        paged = await w.ok("list", "configmaps", at=at, limit="5", resourceVersion=then)
        assert [item["metadata"]["name"] for item in paged["items"]] == ["a"]
        assert paged["metadata"]["resourceVersion"] == then

    acme(story)


@pytest.mark.parametrize("rv", [True, -5, 2**62, "7", None])
def test_a_made_up_page_is_refused(rv: Any) -> None:
    async def story(w: Acme) -> None:
        raw = orjson.dumps({"v": "arktos/v1", "rv": rv, "after": "zzz"})
        token = base64.urlsafe_b64encode(raw).decode()
        reply = await w.reply("list", "configmaps", at=("acme", "n", ""), **{"continue": token})
        assert reply.code in (400, 410)

    acme(story)


# Services: 10.1.0.0/28 has fourteen addresses.


def test_refused_and_dry_creates_of_services_use_up_no_addresses() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "services", service("web"))
        for _ in range(20):
            await w.fails(409, "create", "services", service("web"))
            await w.ok("create", "services", service("dry"), dryRun="All")
            await w.fails(422, "create", "services", service("bad", ports=[]))
            await w.ok("update", "services", service("web"), name="web", dryRun="All")
        for i in range(13):
            await w.ok("create", "services", service(f"s{i}"))
        assert "range is full" in await w.fails(500, "create", "services", service("more"))

    acme(story)


def test_an_address_is_given_again_when_its_service_gave_it_up_and_not_before() -> None:
    async def story(w: Acme) -> None:
        web = await w.ok("create", "services", service("web"))
        address = web["spec"]["clusterIP"]
        w.log.fail_next.append(StorageFull("full"))
        await w.fails(507, "delete", "services", name="web")
        mine = service("mine", clusterIP=address)
        assert "already allocated" in await w.fails(422, "create", "services", mine)
        external = service("web", type="ExternalName", externalName="example.org")
        changed = await w.ok("update", "services", external, name="web")
        assert not changed["spec"].get("clusterIP")
        assert (await w.ok("create", "services", mine))["spec"]["clusterIP"] == address
        back = await w.ok("update", "services", service("web"), name="web")
        assert back["spec"]["clusterIP"] not in ("", "None", address)
        kept = await w.ok("update", "services", service("web"), name="web")
        assert kept["spec"]["clusterIP"] == back["spec"]["clusterIP"]

    acme(story)


def test_a_patch_cannot_grow_an_object_beyond_the_limit_and_it_can_still_be_deleted() -> None:
    async def story(w: Acme) -> None:
        big = "x" * (200 << 10)
        body = {"apiVersion": "v1", **pod("p", finalizers=["example.org/hold"])}
        await w.ok("create", "pods", body)
        reply = None
        for i in range(20):
            container = {"ephemeralContainers": [{"name": f"e{i}", "image": "i", "command": [big]}]}
            reply = await w.reply(
                "patch", "pods", {"spec": container}, name="p", sub="ephemeralcontainers",
                kind="application/strategic-merge-patch+json",
            )  # fmt: skip
            if not reply.ok:
                break
        assert reply is not None
        assert reply.code == 413, reply.body
        size = len((await w.reply("get", "pods", name="p")).body)
        assert size <= 3 << 20
        left = await w.ok("delete", "pods", name="p")
        assert left["metadata"]["deletionTimestamp"]

    acme(story)


# Deleting


def test_a_second_delete_without_a_grace_changes_nothing() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "pods", pod("p", "node-1"))
        first = await w.ok("delete", "pods", {"gracePeriodSeconds": 60}, name="p")
        assert first["metadata"]["deletionGracePeriodSeconds"] == 60
        second = await w.ok("delete", "pods", name="p")
        assert second["metadata"] == first["metadata"]
        third = await w.ok("delete", "pods", {"gracePeriodSeconds": 5}, name="p")
        assert third["metadata"]["deletionGracePeriodSeconds"] == 5
        await w.ok("delete", "pods", {"gracePeriodSeconds": 0}, name="p")
        await w.fails(404, "get", "pods", name="p")

    acme(story)


@pytest.mark.parametrize(
    ("options", "query", "code"),
    [
        ({"propagationPolicy": "Sideways"}, {}, 422),
        ({"propagationPolicy": "Orphan", "orphanDependents": True}, {}, 422),
        ({}, {"propagationPolicy": "x"}, 422),
        ({}, {"gracePeriodSeconds": "--5"}, 400),
        ({}, {"gracePeriodSeconds": "²"}, 400),
        ({"gracePeriodSeconds": 2**62}, {}, 200),
    ],
)
def test_delete_options_that_make_no_sense_are_refused_clearly(
    options: Object, query: dict[str, str], code: int
) -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "pods", pod("p", "node-1"))
        reply = await w.reply("delete", "pods", options, name="p", **query)
        assert reply.code == code, reply.body

    acme(story)


def test_the_last_finalizer_takes_the_object_along() -> None:
    async def story(w: Acme) -> None:
        hold = {"metadata": {"name": "a", "finalizers": ["example.org/hold"]}}
        await w.ok("create", "configmaps", hold)
        marked = await w.ok("delete", "configmaps", name="a")
        assert marked["metadata"]["deletionTimestamp"]
        added = {"metadata": {"name": "a", "finalizers": ["example.org/more", "example.org/hold"]}}
        await w.fails(422, "update", "configmaps", added, name="a")
        await w.ok("update", "configmaps", config("a"), name="a", dryRun="All")
        await w.ok("get", "configmaps", name="a")
        await w.ok("update", "configmaps", config("a"), name="a")
        await w.fails(404, "get", "configmaps", name="a")

    acme(story)


def test_deletecollection_takes_what_its_selector_and_limit_say_and_nothing_on_a_dry_run() -> None:
    async def story(w: Acme) -> None:
        for i in range(6):
            labels = {"odd": str(i % 2)}
            await w.ok("create", "configmaps", {"metadata": {"name": f"c{i}", "labels": labels}})
        at = ("acme", "n", "")
        dry = await w.ok("deletecollection", "configmaps", at=at, dryRun="All")
        assert len(dry["items"]) == 6
        gone = await w.ok("deletecollection", "configmaps", at=at, labelSelector="odd=1", limit="2")
        assert [i["metadata"]["name"] for i in gone["items"]] == ["c1", "c3"]
        left = await w.ok("list", "configmaps", at=at)
        assert [i["metadata"]["name"] for i in left["items"]] == ["c0", "c2", "c4", "c5"]

    acme(story)


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("application/merge-patch+json", b"{", 400),
        (
            "application/json-patch+json",
            [{"op": "replace", "path": "/metadata", "value": "x"}],
            400,
        ),
        (
            "application/json-patch+json",
            [{"op": "test", "path": "/spec/replicas", "value": 9}],
            422,
        ),
        ("application/merge-patch+json", {"spec": {"replicas": 10**12}}, 422),
        ("application/merge-patch+json", {"spec": {"replicas": True}}, 422),
        ("application/merge-patch+json", {"metadata": {"resourceVersion": "1"}}, 409),
        ("application/merge-patch+json", {"spec": {"replicas": 3}}, 200),
    ],
)
def test_a_scale_is_patched_or_refused_clearly(kind: str, body: Any, code: int) -> None:
    async def story(w: Acme) -> None:
        labels = {"app": "w"}
        await w.ok("create", "deployments.apps", {
            "metadata": {"name": "w"},
            "spec": {
                "replicas": 2, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod("x")["spec"]},
            },
        })  # fmt: skip
        reply = await w.reply("patch", "deployments.apps", body, name="w", sub="scale", kind=kind)
        assert reply.code == code, reply.body

    acme(story)


def test_a_watch_that_wants_no_initial_events_gets_none() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "configmaps", config("old"))
        call = w.call("watch", "configmaps", at=("acme", "n", ""), sendInitialEvents="false",
                      resourceVersionMatch="NotOlderThan")  # fmt: skip
        events = w.part.watch(call)
        first = asyncio.ensure_future(anext(events))
        await settle()
        await w.ok("create", "configmaps", config("new"))
        assert [event.path for event in await first] == ["acme/n/new"]
        await events.aclose()  # type: ignore[attr-defined]

    acme(story)


def test_who_has_no_tenant_sees_nobodys_objects() -> None:
    async def story(w: Acme) -> None:
        stray = User("stray", "")
        await w.fails(403, "list", "configmaps", at=("", "", ""), user=stray)

    acme(story)
