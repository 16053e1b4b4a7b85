"""Versions that a webhook makes: what is sent, stored, shown, and what when it does not answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from acme_world import ACME, ADMIN, Acme, Reviewed, acme
from widgets import DEFINITIONS, GVR, definition, version, widget

from arktos_ray.api import errors
from arktos_ray.api.calls import Call, User
from arktos_ray.apiserver import conversions
from arktos_ray.apiserver.targets import Target, Unreachable
from arktos_ray.testing.fakes import settle

Object = dict[str, Any]
V1, BETA = "example.com/v1", "example.com/v1beta1"
ZETA = User("admin", "zeta")
OURS = User("system:generic-garbage-collector", "system", trusted=True)
MERGE, APPLY = "application/merge-patch+json", "application/apply-patch+yaml"


def schema(field: str) -> Object:
    return {"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "required": [field], "properties": {
            field: {"type": "integer", "minimum": 1},
            "color": {"type": "string", "default": "red" if field == "size" else "green"},
        }},
        "status": {"type": "object", "properties": {"seen": {"type": "integer"}}},
    }}}  # fmt: skip


def kinds(storage: str = "v1", **more: Any) -> Object:
    """Of widgets with a `size`, that once was their `length`."""
    sub = {"subresources": {"status": {}, "scale": {
        "statusReplicasPath": ".status.seen", "specReplicasPath": ".spec.size"}}}  # fmt: skip
    old = {"subresources": {"status": {}, "scale": {
        "statusReplicasPath": ".status.seen", "specReplicasPath": ".spec.length"}}}  # fmt: skip
    made = definition(versions=[
        version("v1", storage=storage == "v1", **{**sub, "schema": schema("size")},
                selectableFields=[{"jsonPath": ".spec.size"}]),
        version("v1beta1", storage=storage == "v1beta1", **{**old, "schema": schema("length")},
                selectableFields=[{"jsonPath": ".spec.length"}]),
    ], **more)  # fmt: skip
    made["spec"]["conversion"] = {"strategy": "Webhook", "webhook": {
        "conversionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://hooks.example/convert"},
    }}  # fmt: skip
    return made


def turned(obj: Object, wanted: str) -> Object:
    before, after = ("size", "length") if wanted == BETA else ("length", "size")
    obj["apiVersion"] = wanted
    if before in obj.get("spec", {}):
        obj["spec"][after] = obj["spec"].pop(before)
    return obj


class Outside:
    """The webhook."""

    def __init__(self) -> None:
        self.asked: list[Object] = []
        self.targets: list[Target] = []
        self.hold: asyncio.Event | None = None
        self.turn: Callable[[Object, str], Any] = turned
        self.down = False
        self.change: Callable[[Object], None] = lambda answer: None
        self.raw: Callable[[Object], bytes] = orjson.dumps

    async def post(self, target: Target, body: bytes, timeout_s: float) -> bytes:
        if self.down:
            raise Unreachable(f'Post "{target.url}": dial tcp: connect: connection refused')
        review = orjson.loads(body)
        request = review["request"]
        self.asked.append(orjson.loads(body)["request"])
        self.targets.append(target)
        if self.hold is not None:
            await self.hold.wait()
        answer = {**review, "response": {
            "uid": request["uid"], "result": {"status": "Success"},
            "convertedObjects": [
                self.turn(obj, request["desiredAPIVersion"]) for obj in request["objects"]
            ],
        }}  # fmt: skip
        self.change(answer)
        return self.raw(answer)


class World(Reviewed):
    def __init__(self, w: Acme) -> None:
        super().__init__(w)
        self.outside = w.part.server.reviews.outside = Outside()

    def call(self, *what: Any, version: str = "", **more: Any) -> Call:
        call = self.w.call(*what, **more)
        call.version = version
        return call

    async def install(self, **more: Any) -> None:
        await self.ok("create", DEFINITIONS, kinds(**more), at=("acme", "", ""))

    async def restore(self, storage: str) -> None:
        """From now on, what is stored is stored in that version."""
        found = await self.ok("get", DEFINITIONS, at=("acme", "", GVR))
        found["spec"]["versions"] = kinds(storage)["spec"]["versions"]
        await self.ok("update", DEFINITIONS, found, at=("acme", "", GVR))

    async def stored(self, name: str = "w", version: str = V1) -> Object:
        """What lies there, without asking anybody."""
        before, self.outside.down = self.outside.down, True
        found = await self.ok("get", GVR, name=name, version=version)
        self.outside.down = before
        return found


def world(story: Callable[[World], Any], **more: Any) -> None:
    async def run(w: Acme) -> None:
        made = World(w)
        await made.install(**more)
        await story(made)

    acme(run)


def beta(name: str = "w", **spec: Any) -> Object:
    return {
        "apiVersion": BETA, "kind": "Widget", "metadata": {"name": name},
        "spec": {"length": 1, **spec},
    }  # fmt: skip


def test_what_one_version_writes_the_other_reads() -> None:
    async def story(w: World) -> None:
        made = await w.ok("create", GVR, beta(length=3), version=BETA)
        assert (made["apiVersion"], made["spec"]["length"]) == (BETA, 3)
        assert made["metadata"]["uid"]
        stored = await w.stored()
        assert (stored["apiVersion"], stored["spec"]) == (V1, {"size": 3, "color": "green"})
        shown = await w.ok("get", GVR, name="w", version=BETA)
        assert (shown["apiVersion"], shown["spec"]["length"]) == (BETA, 3)
        assert shown["metadata"] == stored["metadata"] == made["metadata"]
        review = w.outside.asked[0]
        assert review["desiredAPIVersion"] == V1
        [sent] = review["objects"]
        assert (sent["apiVersion"], sent["metadata"]["namespace"]) == (BETA, "n")
        assert w.outside.targets[0].url == "https://hooks.example/convert?timeout=30s"

    world(story)


def test_updates_patches_and_applies_are_made_in_the_version_they_are_sent_in() -> None:
    async def story(w: World) -> None:
        await w.ok("create", GVR, widget(size=2), version=V1)
        old = await w.ok("get", GVR, name="w", version=BETA)
        old["spec"]["length"] = 5
        done = await w.ok("update", GVR, old, name="w", version=BETA)
        assert (done["spec"]["length"], (await w.stored())["spec"]["size"]) == (5, 5)
        done = await w.ok("patch", GVR, {"spec": {"length": 7}}, name="w", kind=MERGE, version=BETA)
        assert (done["spec"]["length"], (await w.stored())["spec"]["size"]) == (7, 7)
        done = await w.ok(
            "patch", GVR, beta(length=9), name="w", kind=APPLY, version=BETA, fieldManager="me",
            force="true",
        )  # fmt: skip
        assert (done["spec"]["length"], (await w.stored())["spec"]["size"]) == (9, 9)
        [mine] = [m for m in done["metadata"]["managedFields"] if m["manager"] == "me"]
        assert mine["apiVersion"] == BETA
        assert "f:length" in mine["fieldsV1"]["f:spec"]
        # To a status, and to the number of replicas.
        done["status"] = {"seen": 1}
        done = await w.ok("update", GVR, done, name="w", sub="status", version=BETA)
        assert (await w.stored())["status"] == done["status"] == {"seen": 1}
        scale = await w.ok("get", GVR, name="w", sub="scale", version=BETA)
        assert scale["spec"] == {"replicas": 9}
        scale["spec"]["replicas"] = 4
        scale = await w.ok("update", GVR, scale, name="w", sub="scale", version=BETA)
        stored = await w.stored()
        assert (scale["spec"]["replicas"], stored["spec"]["size"]) == (4, 4)
        assert scale["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]

    world(story)


def test_an_object_is_created_by_apply_and_by_a_generated_name() -> None:
    async def story(w: World) -> None:
        await w.ok(
            "patch", GVR, beta(length=9), name="w", kind=APPLY, version=BETA, fieldManager="me"
        )
        assert (await w.stored())["spec"]["size"] == 9
        named = beta()
        named["metadata"] = {"generateName": "x-"}
        made = await w.ok("create", GVR, named, version=BETA)
        assert (await w.stored(made["metadata"]["name"]))["spec"]["size"] == 1

    world(story)


def test_both_versions_must_find_an_object_valid() -> None:
    async def story(w: World) -> None:
        said = await w.fails(422, "create", GVR, beta(length=0), version=BETA)
        assert "spec.length: Invalid value" in said
        assert not w.outside.asked
        w.outside.turn = lambda obj, wanted: {**turned(obj, wanted), "spec": {"size": 0}}
        said = await w.fails(422, "create", GVR, beta(length=2), version=BETA)
        assert "spec.size: Invalid value" in said

    world(story)


def test_a_list_asks_in_batches_and_not_again() -> None:
    async def story(w: World) -> None:
        for i in range(250):
            await w.ok("create", GVR, widget(f"w{i:03}", size=i + 1), version=V1)
        listed = await w.ok("list", GVR, version=BETA)
        assert [item["spec"]["length"] for item in listed["items"]] == list(range(1, 251))
        assert listed["apiVersion"] == BETA
        assert [len(review["objects"]) for review in w.outside.asked] == [100, 100, 50]
        await w.ok("list", GVR, version=BETA)
        await w.ok("get", GVR, name="w000", version=BETA)
        assert len(w.outside.asked) == 3
        page = await w.ok("list", GVR, version=BETA, limit="2")
        assert [item["spec"]["length"] for item in page["items"]] == [1, 2]
        assert page["metadata"]["remainingItemCount"] == 248
        chosen = await w.ok("list", GVR, version=BETA, fieldSelector="spec.length=7")
        assert [item["metadata"]["name"] for item in chosen["items"]] == ["w006"]
        tables = w.call("list", GVR, version=BETA)
        tables.accept = "Table"
        [reply] = await w.w.part.call([tables])
        assert len(orjson.loads(reply.body)["rows"]) == 250

    world(story)


def test_a_watch_waits_for_the_webhook_and_others_do_not() -> None:
    async def story(w: World) -> None:
        await w.ok("create", GVR, widget("a", size=4), version=V1)
        watch = w.w.part.watch(w.call("watch", GVR, version=BETA))
        [event] = await anext(watch)
        assert orjson.loads(event.body)["spec"]["length"] == 4
        w.outside.hold = asyncio.Event()
        coming = asyncio.ensure_future(anext(watch))
        await w.ok("create", GVR, widget("b", size=5), version=V1)
        await settle()
        assert not coming.done()
        await w.ok("create", GVR, widget("c", size=6), version=V1)
        w.outside.hold.set()
        told = [*await coming]
        while len(told) < 2:
            told += await anext(watch)
        assert [orjson.loads(e.body)["spec"]["length"] for e in told] == [5, 6]
        assert [e.revision for e in told] == sorted(e.revision for e in told)
        await w.ok("delete", GVR, name="a", version=V1)
        [event] = await anext(watch)
        assert (event.type, orjson.loads(event.body)["apiVersion"]) == ("DELETED", BETA)
        w.outside.down = True
        await w.ok("create", GVR, widget("d", size=7), version=V1)
        with pytest.raises(errors.Internal, match=r"conversion webhook for .* failed: Post"):
            await anext(watch)

    world(story)


def test_a_webhook_that_does_not_answer_fails_what_needs_it_and_nothing_else() -> None:
    async def story(w: World) -> None:
        await w.ok("create", GVR, widget(size=4), version=V1)
        w.outside.down = True
        said = await w.fails(500, "get", GVR, name="w", version=BETA)
        assert said == (
            "conversion webhook for example.com/v1, Kind=Widget failed: Post"
            ' "https://hooks.example/convert?timeout=30s": dial tcp: connect: connection refused'
        )
        assert await w.fails(500, "list", GVR, version=BETA) == said
        assert await w.fails(500, "create", GVR, beta("x"), version=BETA) != said
        await w.ok("get", GVR, name="w", version=V1)
        await w.fails(404, "get", GVR, name="x", version=V1)
        # Nor does it keep anything: what is deleted is not converted.
        await w.ok("delete", GVR, name="w", version=BETA)
        await w.fails(404, "get", GVR, name="w", version=V1)

    world(story)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.pop("response"), " failed: no response provided"),
        (lambda a: a.update(kind="Other"),
         " failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got"
         " apiextensions.k8s.io/v1, Kind=Other"),
        (lambda a: a["response"].update(uid="x"), '", got "x"'),
        (lambda a: a["response"].update(result={"status": "Failure", "message": "we cannot"}),
         " failed: we cannot"),
        (lambda a: a["response"].update(result={}),
         " failed: response.result.status was '', not 'Success'"),
        (lambda a: a["response"].update(convertedObjects=[]), " returned 0 objects, expected 1"),
        (lambda a: a["response"].update(convertedObjects=["x"]), "it is not an object"),
        (lambda a: a["response"]["convertedObjects"][0].update(apiVersion="example.com/v3"),
         "invalid groupVersion, expected v1beta1, got example.com/v3"),
        (lambda a: a["response"]["convertedObjects"][0].update(kind="Gadget"),
         "must have the same kind: Widget != Gadget"),
        (lambda a: a["response"]["convertedObjects"][0].pop("metadata"),
         "missing metadata in converted object"),
        (lambda a: a["response"]["convertedObjects"][0]["metadata"].update(name="other"),
         "must have the same name: w != other"),
        (lambda a: a["response"]["convertedObjects"][0]["metadata"].update(labels={"-": "x"}),
         "invalid metadata: metadata.labels"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_said_to_be(change: Any, said: str) -> None:
    async def story(w: World) -> None:
        await w.ok("create", GVR, widget(size=4), version=V1)
        w.outside.change = change
        assert said in await w.fails(500, "get", GVR, name="w", version=BETA)

    world(story)


def deep(depth: int) -> Object:
    made: Object = {}
    for _ in range(depth):
        made = {"a": made}
    return made


@pytest.mark.parametrize(
    "spec",
    [{"length": 1, "any": deep(300)}, {"length": 1, "any": "a\0b"}, [], None, "x", {"any": [[]]}],
)
def test_no_answer_of_a_webhook_harms_the_partition(spec: Any) -> None:
    async def story(w: World) -> None:
        found = await w.ok("get", DEFINITIONS, at=("acme", "", GVR))
        shape = found["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        shape["x-kubernetes-preserve-unknown-fields"] = True
        await w.ok("update", DEFINITIONS, found, at=("acme", "", GVR))
        for depth in range(244, 256):
            # What can just be read cannot always be sent on.
            body = json.dumps(beta(f"d{depth}", any=deep(depth))).encode()
            await w.reply("create", GVR, body, version=BETA)
        await w.ok("create", GVR, widget(size=4), version=V1)
        w.outside.raw = lambda answer: json.dumps(answer).encode()
        w.outside.turn = lambda obj, wanted: {**turned(obj, wanted), "spec": spec}
        reply = await w.reply("get", GVR, name="w", version=BETA)
        assert reply.ok or b"conversion webhook" in reply.body
        await w.ok("get", GVR, name="w", version=V1)

    world(story)


@pytest.mark.parametrize("client", [{"url": "https://h:99999/"}, {"url": "https://[::1/"}])
def test_no_address_of_a_webhook_harms_the_partition(client: Object) -> None:
    async def story(w: World) -> None:
        found = await w.ok("get", DEFINITIONS, at=("acme", "", GVR))
        found["spec"]["conversion"]["webhook"]["clientConfig"] = client
        if (await w.reply("update", DEFINITIONS, found, at=("acme", "", GVR))).ok:
            await w.ok("create", GVR, widget(size=4), version=V1)
            said = await w.fails(500, "get", GVR, name="w", version=BETA)
            assert said.startswith("conversion webhook for")

    world(story)


def test_of_metadata_a_webhook_changes_labels_and_annotations_alone() -> None:
    async def story(w: World) -> None:
        def marked(obj: Object, wanted: str) -> Object:
            meta = obj["metadata"]
            meta |= {"labels": {"as": wanted[-2:]}, "annotations": {"a": "b"}}
            meta |= {"finalizers": ["x/y"], "resourceVersion": "1", "creationTimestamp": None}
            return {**turned(obj, wanted), "unknown": 1}

        await w.ok("create", GVR, widget(size=4), version=V1)
        w.outside.turn = marked
        shown = await w.ok("get", GVR, name="w", version=BETA)
        stored = await w.stored()
        assert shown["metadata"] == {
            **stored["metadata"],
            "labels": {"as": "a1"},
            "annotations": {"a": "b"},
        }
        assert "unknown" not in shown
        chosen = await w.ok("list", GVR, version=BETA, labelSelector="as=a1")
        assert len(chosen["items"]) == 1

    world(story)


def test_objects_of_a_version_that_is_stored_no_more_are_found_in_every_version() -> None:
    async def story(w: World) -> None:
        await w.ok("create", GVR, beta(length=3), version=BETA)
        await w.restore("v1")
        shown = await w.ok("get", GVR, name="w", version=V1)
        assert (shown["apiVersion"], shown["spec"]["size"]) == (V1, 3)
        assert (await w.stored(version=BETA))["spec"]["length"] == 3
        listed = await w.ok("list", GVR, version=V1)
        assert [item["spec"]["size"] for item in listed["items"]] == [3]
        # Who writes it back as it was has it stored anew.
        await w.ok("update", GVR, shown, name="w", version=V1)
        assert (await w.stored())["spec"]["size"] == 3
        asked = len(w.outside.asked)
        await w.ok("update", GVR, {**shown, "metadata": {"name": "w"}}, name="w", version=V1)
        assert len(w.outside.asked) == asked

    world(story, storage="v1beta1")


def test_our_own_parts_do_not_wait_for_a_tenants_webhook() -> None:
    async def story(w: World) -> None:
        held = beta("held", length=3)
        held["metadata"]["finalizers"] = ["example.com/x"]
        for one in (held, beta("free")):
            await w.ok("create", GVR, one, version=BETA)
        await w.restore("v1")
        w.outside.down = True
        for name in ("held", "free"):
            await w.ok("delete", GVR, name=name, user=OURS)
        listed = await w.ok("list", GVR, user=OURS)
        assert [item["metadata"]["name"] for item in listed["items"]] == ["held"]
        await w.ok(
            "patch", GVR, {"metadata": {"finalizers": None}}, name="held", kind=MERGE, user=OURS
        )
        assert (await w.ok("list", GVR, user=OURS))["items"] == []

    world(story, storage="v1beta1")


def test_a_collection_is_deleted_in_any_version() -> None:
    async def story(w: World) -> None:
        for name in ("a", "b"):
            await w.ok("create", GVR, widget(name, size=2), version=V1)
        gone = await w.ok("deletecollection", GVR, version=BETA)
        assert [item["spec"]["length"] for item in gone["items"]] == [2, 2]
        assert (await w.ok("list", GVR, version=V1))["items"] == []

    world(story)


def test_who_asks_for_the_same_at_once_asks_once() -> None:
    async def story(w: World) -> None:
        await w.ok("create", GVR, widget(size=2), version=V1)
        w.outside.hold = asyncio.Event()
        asking = [asyncio.ensure_future(w.ok("get", GVR, name="w", version=BETA)) for _ in range(9)]
        await settle()
        asking[0].cancel()
        await settle()
        w.outside.hold.set()
        found = await asyncio.gather(*asking[1:])
        assert {one["spec"]["length"] for one in found} == {2}
        assert len(w.outside.asked) == 1

    world(story)


def test_nobody_waits_behind_a_list_that_waits() -> None:
    async def story(w: World) -> None:
        await w.ok("create", GVR, widget(size=2), version=V1)
        w.outside.hold = asyncio.Event()
        listing = asyncio.ensure_future(w.ok("list", GVR, version=BETA))
        calls = [w.call("list", GVR, version=BETA), w.call("list", GVR, version=V1)]
        late, now = await w.w.part.call(calls)
        assert (late.code, now.code) == (503, 200)
        w.outside.hold.set()
        assert len((await listing)["items"]) == 1

    world(story)


def test_a_tenant_that_converts_too_much_is_told_so_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversions, "CONVERSIONS_PER_TENANT_MAX", 1)

    async def story(w: World) -> None:
        await w.ok("create", "tenants", {"metadata": {"name": "zeta"},
                   "spec": {"storageClusterId": "0"}}, at=("", "", ""), user=ADMIN)  # fmt: skip
        there = ("zeta", "n", "w")
        await w.ok("create", "namespaces", {"metadata": {"name": "n"}}, at=("zeta", "", ""),
                   user=ZETA)  # fmt: skip
        await w.ok("create", DEFINITIONS, kinds(), at=("zeta", "", ""), user=ZETA)
        await w.ok("create", GVR, widget(size=1), at=there, user=ZETA, version=V1)
        for name in ("a", "b"):
            await w.ok("create", GVR, widget(name, size=2), version=V1)
        w.outside.hold = asyncio.Event()
        one = asyncio.ensure_future(w.ok("get", GVR, name="a", version=BETA))
        await settle()
        await w.fails(429, "get", GVR, name="b", version=BETA)
        other = asyncio.ensure_future(w.ok("get", GVR, at=there, user=ZETA, version=BETA))
        await settle()
        w.outside.hold.set()
        assert [(await each)["spec"]["length"] for each in (one, other)] == [2, 1]
        assert [target.tenant for target in w.outside.targets] == ["acme", "zeta"]

    world(story)


def test_what_is_known_is_bounded_for_each_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversions, "KNOWN_BYTES_PER_TENANT_MAX", 1_000)

    async def story(w: World) -> None:
        for i in range(20):
            await w.ok("create", GVR, widget(f"w{i}", size=i + 1), version=V1)
        listed = await w.ok("list", GVR, version=BETA)
        assert len(listed["items"]) == 20
        asked = len(w.outside.asked)
        await w.ok("get", GVR, name="w9", version=BETA)  # the last by name
        assert len(w.outside.asked) == asked
        await w.ok("get", GVR, name="w0", version=BETA)
        assert len(w.outside.asked) == asked + 1

    world(story)


def test_a_definition_that_changed_is_asked_again() -> None:
    async def story(w: World) -> None:
        await w.ok("create", GVR, widget(size=2), version=V1)
        await w.ok("get", GVR, name="w", version=BETA)
        found = await w.ok("get", DEFINITIONS, at=("acme", "", GVR))
        found["spec"]["conversion"]["webhook"]["clientConfig"]["url"] = "https://hooks.example/new"
        await w.ok("update", DEFINITIONS, found, at=("acme", "", GVR))
        await w.ok("get", GVR, name="w", version=BETA)
        assert [target.path for target in w.outside.targets] == [
            "/convert?timeout=30s", "/new?timeout=30s"
        ]  # fmt: skip

    world(story)


def test_a_shared_definition_converts_for_each_tenant_by_itself() -> None:
    async def run(a: Acme) -> None:
        w = World(a)
        await w.ok("create", DEFINITIONS, kinds(forced=True), at=("system", "", ""), user=ADMIN)
        await w.ok("create", GVR, widget(size=2), version=V1)
        shown = await w.ok("get", GVR, name="w", version=BETA)
        assert shown["spec"]["length"] == 2
        assert w.outside.targets[0].tenant == "acme"

    acme(run)


def test_admission_webhooks_see_the_version_that_was_sent() -> None:
    async def story(w: World) -> None:
        seen: list[Object] = []
        convert = w.outside.post

        async def post(target: Target, body: bytes, timeout_s: float) -> bytes:
            if not target.path.startswith("/admit"):
                return await convert(target, body, timeout_s)
            review = orjson.loads(body)
            seen.append(review["request"])
            return orjson.dumps({
                "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                "response": {"uid": review["request"]["uid"], "allowed": True},
            })  # fmt: skip

        w.outside.post = post  # type: ignore[method-assign]
        await w.ok("create", "validatingwebhookconfigurations.admissionregistration.k8s.io", {
            "metadata": {"name": "hooks"}, "webhooks": [{
                "name": "a.acme.example", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": "https://hooks.example/admit"},
                "rules": [{"operations": ["*"], "apiGroups": ["example.com"],
                           "apiVersions": ["*"], "resources": ["widgets"]}],
            }]}, at=("acme", "", ""), user=ACME)  # fmt: skip
        await w.ok("create", GVR, beta(length=6), version=BETA)
        [request] = seen
        assert (request["object"]["apiVersion"], request["object"]["spec"]["length"]) == (BETA, 6)
        assert request["kind"]["version"] == "v1beta1"

    world(story)
