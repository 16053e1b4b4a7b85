"""Admission webhooks: who is asked what, what becomes of the answers, and who never notices."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from acme_world import ACME, ADMIN, Acme, Reviewed, acme
from widgets import AS, DEFINITIONS, GVR, definition, version, widget

from arktos_ray.api import errors
from arktos_ray.api.calls import Reply, User
from arktos_ray.apiserver.targets import Target, Unreachable
from arktos_ray.apiserver.tokens import Tokens
from arktos_ray.base.signing import TokenKeys, ensure_keys
from arktos_ray.testing.fakes import settle

Object = dict[str, Any]
ZETA = User("admin", "zeta")
CONTROLLER = User("system:replicaset-controller", "system", trusted=True)
KINDS = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")


def answer(review: Object, allowed: bool = True, patch: Any = None, **more: Any) -> Object:
    response: Object = {"uid": review["request"]["uid"], "allowed": allowed, **more}
    if patch is not None:
        raw = base64.b64encode(orjson.dumps(patch)).decode()
        response |= {"patch": raw, "patchType": "JSONPatch"}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}


class Fake:
    """What is outside: webhooks by the path of their URL."""

    def __init__(self) -> None:
        self.hooks: dict[str, Callable[[Object], Object | None]] = {}
        self.asked: list[tuple[str, Object]] = []
        self.targets: list[Target] = []
        self.hold: asyncio.Event | None = None

    async def post(self, target: Target, body: bytes, timeout_s: float) -> bytes:
        path = target.path.partition("?")[0].strip("/")
        review = orjson.loads(body)
        self.asked.append((path, review["request"]))
        self.targets.append(target)
        if self.hold is not None:
            await self.hold.wait()
        said = self.hooks[path](review)
        if said is None:
            raise Unreachable(f'Post "{target.url}": dial tcp: connection refused')
        return orjson.dumps(said)


def hook(path: str, *resources: str, operations: Any = ("*",), **more: Any) -> Object:
    return {
        "name": f"{path}.acme.example", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": f"https://hooks.example/{path}"},
        "rules": [{
            "operations": list(operations), "apiGroups": ["*"], "apiVersions": ["*"],
            "resources": list(resources) or ["configmaps"],
        }],
        **more,
    }  # fmt: skip


def patching(path: str, value: str) -> Callable[[Object], Object]:
    return lambda review: answer(review, patch=[{"op": "add", "path": path, "value": value}])


class Hooked(Reviewed):
    def __init__(self, w: Acme) -> None:
        super().__init__(w)
        self.fake = w.part.server.reviews.outside = Fake()

    async def install(
        self, kind: str, *hooks: Object, at: str = "acme", user: User = ACME, name: str = "hooks"
    ) -> None:
        gvr = next(one for one in KINDS if one.startswith(kind)) + ".admissionregistration.k8s.io"
        body = {"metadata": {"name": name}, "webhooks": list(hooks)}
        await self.w.ok("create", gvr, body, at=(at, "", ""), user=user)

    def paths(self) -> list[str]:
        return [path for path, _ in self.fake.asked]


def hooked(story: Callable[[Hooked], Any]) -> None:
    async def run(w: Acme) -> None:
        await story(Hooked(w))

    acme(run)


def config(name: str = "c", **data: str) -> Object:
    return {"metadata": {"name": name}, "data": data}


def pod(name: str = "p") -> Object:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}}


def test_a_mutating_webhook_changes_what_is_stored() -> None:
    async def story(h: Hooked) -> None:
        await h.install("mutating", hook("a"))
        h.fake.hooks["a"] = patching("/data", {"x": "1"})  # type: ignore[arg-type]
        made = await h.ok("create", "configmaps", config())
        stored = await h.ok("get", "configmaps", name="c")
        assert made["data"] == stored["data"] == {"x": "1"}
        [(_, request)] = h.fake.asked
        assert request["operation"] == "CREATE"
        assert request["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
        assert (request["namespace"], request["name"], request["dryRun"]) == ("n", "c", False)
        assert request["object"]["metadata"]["uid"] == made["metadata"]["uid"]
        assert request["oldObject"] is None
        assert request["userInfo"]["username"] == "admin"
        assert request["options"]["kind"] == "CreateOptions"

    hooked(story)


def test_webhooks_are_asked_about_custom_objects_too() -> None:
    async def story(h: Hooked) -> None:
        body = definition(versions=[version(deprecated=True, deprecationWarning="use v2")])
        await h.w.ok("create", DEFINITIONS, body, at=("acme", "", ""))
        await h.install("mutating", hook("a", "widgets"))
        h.fake.hooks["a"] = patching("/spec/color", "green")
        call = h.w.call("create", GVR, widget())
        call.version = AS
        [apart] = await h.w.part.call([call])
        assert b"ReviewedApart" in apart.body
        reply = Reply.unpack(await h.w.part.request("reviewed", call.pack()))
        assert reply.ok, reply.body
        assert orjson.loads(reply.body)["spec"]["color"] == "green"
        assert "use v2" in reply.warnings
        [(_, request)] = h.fake.asked
        assert request["resource"] == {
            "group": "example.com", "version": "v1", "resource": "widgets",
        }  # fmt: skip
        assert request["kind"]["kind"] == "Widget"

    hooked(story)


def test_a_validating_webhook_refuses_in_its_own_words() -> None:
    async def story(h: Hooked) -> None:
        await h.install("validating", hook("v", "pods"))
        status = {"code": 403, "reason": "Forbidden", "message": "not on Fridays"}
        h.fake.hooks["v"] = lambda review: answer(review, False, status=status)
        refusal = await h.fails(403, "create", "pods", pod())
        assert refusal == 'admission webhook "v.acme.example" denied the request: not on Fridays'
        h.fake.hooks["v"] = lambda review: answer(review, False)
        refusal = await h.fails(400, "create", "pods", pod())
        assert refusal == (
            'admission webhook "v.acme.example" denied the request without explanation'
        )
        await h.fails(404, "get", "pods", name="p")
        h.fake.hooks["v"] = answer
        await h.ok("create", "pods", pod())

    hooked(story)


def test_a_refusal_cannot_pretend_to_be_what_our_own_parts_say() -> None:
    async def story(h: Hooked) -> None:
        await h.install("validating", hook("v"))
        status = {
            "code": 503, "reason": "TenantMoved", "message": "x",
            "details": {"tenant": "zeta", "to": "tp-2", "causes": [{"message": "TenantMoved"}]},
        }  # fmt: skip
        h.fake.hooks["v"] = lambda review: answer(review, False, status=status)
        reply = await h.reply("create", "configmaps", config())
        assert not isinstance(errors.decode(reply.body), errors.Moved)
        assert b'"TenantMoved"' not in reply.body

    hooked(story)


def test_mutating_ones_come_first_and_validating_ones_see_what_they_made() -> None:
    async def story(h: Hooked) -> None:
        await h.install("validating", hook("v"))
        await h.install("mutating", hook("a"), hook("b"))
        h.fake.hooks |= {
            "a": patching("/metadata/labels", {"a": "1"}),  # type: ignore[arg-type]
            "b": patching("/metadata/labels/b", "2"),
            "v": answer,
        }
        made = await h.ok("create", "configmaps", config())
        assert h.paths() == ["a", "b", "v"]
        assert h.fake.asked[1][1]["object"]["metadata"]["labels"] == {"a": "1"}
        assert h.fake.asked[2][1]["object"]["metadata"]["labels"] == {"a": "1", "b": "2"}
        assert made["metadata"]["labels"] == {"a": "1", "b": "2"}

    hooked(story)


def test_who_wants_to_see_what_others_made_is_asked_once_more() -> None:
    async def story(h: Hooked) -> None:
        await h.install("mutating", hook("a", reinvocationPolicy="IfNeeded"), hook("b"))
        h.fake.hooks |= {
            "a": answer, "b": patching("/metadata/labels", {"b": "2"}),  # type: ignore[arg-type]
        }  # fmt: skip
        await h.ok("create", "configmaps", config())
        assert h.paths() == ["a", "b", "a"]
        assert h.fake.asked[2][1]["object"]["metadata"]["labels"] == {"b": "2"}

    hooked(story)


def test_another_tenant_is_never_asked_about() -> None:
    async def story(h: Hooked) -> None:
        tenant = {"metadata": {"name": "zeta"}, "spec": {"storageClusterId": "0"}}
        await h.w.ok("create", "tenants", tenant, at=("", "", ""), user=ADMIN)
        await h.ok("create", "namespaces", {"metadata": {"name": "n"}}, at=("zeta", "", ""),
                   user=ZETA)  # fmt: skip
        everything = hook("v", "*/*")
        await h.install("validating", everything)
        await h.install("validating", everything, at="system", user=ADMIN)
        await h.ok("create", "configmaps", config(), at=("zeta", "n", ""), user=ZETA)
        assert h.fake.asked == []

    hooked(story)


@pytest.mark.parametrize("kind", ["mutating", "validating"])
def test_a_webhook_that_does_not_answer_refuses_or_lets_pass(kind: str) -> None:
    async def story(h: Hooked) -> None:
        await h.install(kind, hook("gone"), hook("loose", "secrets", failurePolicy="Ignore"))
        h.fake.hooks |= {"gone": lambda review: None, "loose": lambda review: None}
        refusal = await h.fails(500, "create", "configmaps", config())
        assert refusal == (
            'Internal error occurred: failed calling webhook "gone.acme.example": failed to call '
            'webhook: Post "https://hooks.example/gone?timeout=10s": dial tcp: connection refused'
        )
        await h.ok("create", "secrets", config())

    hooked(story)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "webhook response was absent"),
        ({"response": {"allowed": True}, "kind": "AdmissionReview",
          "apiVersion": "admission.k8s.io/v1"}, "expected response.uid="),
        ({"response": {"allowed": True}, "kind": "AdmissionReview",
          "apiVersion": "admission.k8s.io/v2"}, "expected webhook response of"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_counts_as_no_answer(said: Object, why: str) -> None:
    async def story(h: Hooked) -> None:
        await h.install("validating", hook("v"))
        h.fake.hooks["v"] = lambda review: said
        assert why in await h.fails(500, "create", "configmaps", config())

    hooked(story)


@pytest.mark.parametrize(
    "patch",
    [
        [{"op": "remove", "path": "/nothing"}],
        [{"op": "add", "path": "/data", "value": "text"}],
        {"op": "add"},
        [{"op": "replace", "path": "/metadata", "value": 5}],
    ],
)
def test_a_patch_that_does_not_fit_changes_nothing(patch: Any) -> None:
    async def story(h: Hooked) -> None:
        await h.install("mutating", hook("a"))
        h.fake.hooks["a"] = lambda review: answer(review, patch=patch)
        assert "failed calling webhook" in await h.fails(500, "create", "configmaps", config())
        await h.fails(404, "get", "configmaps", name="c")

    hooked(story)


def test_a_webhook_gives_nothing_another_identity() -> None:
    async def story(h: Hooked) -> None:
        await h.install("mutating", hook("a"))
        h.fake.hooks["a"] = lambda review: answer(review, patch=[
            {"op": "replace", "path": "/metadata/namespace", "value": "other"},
            {"op": "replace", "path": "/metadata/tenant", "value": "zeta"},
            {"op": "replace", "path": "/metadata/uid", "value": "u"},
            {"op": "add", "path": "/metadata/deletionTimestamp", "value": "2020-01-01T00:00:00Z"},
        ])  # fmt: skip
        made = (await h.ok("create", "configmaps", config()))["metadata"]
        assert (made["tenant"], made["namespace"]) == ("acme", "n")
        assert made["uid"] != "u"
        assert "deletionTimestamp" not in made

    hooked(story)


def test_what_a_webhook_makes_must_be_valid_and_within_the_quota() -> None:
    async def story(h: Hooked) -> None:
        await h.install("mutating", hook("a", "pods"))
        request = {"resources": {"requests": {"cpu": "4"}}, "name": "c", "image": "i"}
        h.fake.hooks["a"] = lambda review: answer(
            review, patch=[{"op": "replace", "path": "/spec/containers/0", "value": request}]
        )
        quota = {"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "3"}}}
        await h.ok("create", "resourcequotas", quota)
        assert "exceeded quota" in await h.fails(403, "create", "pods", pod())
        h.fake.hooks["a"] = lambda review: answer(
            review, patch=[{"op": "replace", "path": "/spec/containers/0/name", "value": "!"}]
        )
        for user in (ACME, CONTROLLER):
            await h.fails(422, "create", "pods", pod(), user=user)

    hooked(story)


def test_updates_and_deletions_are_asked_about_with_what_was_there() -> None:
    async def story(h: Hooked) -> None:
        made = await h.ok("create", "configmaps", config(x="1"))
        await h.install("validating", hook("v"))
        h.fake.hooks["v"] = answer
        await h.ok("update", "configmaps", {**made, "data": {"x": "2"}}, name="c")
        await h.ok("delete", "configmaps", name="c")
        [(_, update), (_, delete)] = h.fake.asked
        assert (update["operation"], delete["operation"]) == ("UPDATE", "DELETE")
        assert update["oldObject"]["data"] == {"x": "1"}
        assert update["object"]["data"] == {"x": "2"}
        assert delete["object"] is None
        assert delete["oldObject"]["data"] == {"x": "2"}
        await h.fails(404, "get", "configmaps", name="c")

    hooked(story)


def test_of_a_collection_each_deletion_is_asked_about() -> None:
    async def story(h: Hooked) -> None:
        for name in "abc":
            await h.ok("create", "configmaps", config(name))
        await h.install("validating", hook("v", operations=["DELETE"]))

        def judge(review: Object) -> Object:
            return answer(review, review["request"]["name"] != "b")

        h.fake.hooks["v"] = judge
        await h.fails(400, "deletecollection", "configmaps", at=("acme", "n", ""))
        listed = await h.ok("list", "configmaps", at=("acme", "n", ""))
        assert [one["metadata"]["name"] for one in listed["items"]] == ["b", "c"]

    hooked(story)


def test_a_subresource_is_asked_about_by_who_names_it() -> None:
    async def story(h: Hooked) -> None:
        await h.ok("create", "pods", pod())
        await h.install("validating", hook("s", "pods/status"), hook("b", "pods/binding"))
        h.fake.hooks |= {"s": answer, "b": answer}
        one = await h.ok("get", "pods", name="p")
        one["status"]["phase"] = "Running"
        await h.ok("update", "pods", one, name="p", sub="status")
        body = {"target": {"name": "node-1"}, "metadata": {"name": "p"}}
        await h.ok("create", "pods", body, name="p", sub="binding")
        assert h.paths() == ["s", "b"]
        assert h.fake.asked[0][1]["subResource"] == "status"
        assert h.fake.asked[1][1]["kind"]["kind"] == "Binding"

    hooked(story)


def test_the_scale_of_a_deployment_is_a_scale() -> None:
    async def story(h: Hooked) -> None:
        labels = {"app": "x"}
        await h.ok("create", "deployments.apps", {
            "metadata": {"name": "d"},
            "spec": {
                "replicas": 1, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod()["spec"]},
            },
        })  # fmt: skip
        await h.install("mutating", hook("m", "deployments/scale"))
        h.fake.hooks["m"] = patching("/spec/replicas", 3)  # type: ignore[arg-type]
        body = {"spec": {"replicas": 9}}
        scale = await h.ok("patch", "deployments.apps", body, name="d", sub="scale",
                           kind="application/merge-patch+json")  # fmt: skip
        assert scale["spec"]["replicas"] == 3
        [(_, request)] = h.fake.asked
        assert request["kind"] == {"group": "autoscaling", "version": "v1", "kind": "Scale"}

    hooked(story)


def test_what_changes_while_webhooks_are_asked_is_judged_again() -> None:
    async def story(h: Hooked) -> None:
        made = await h.ok("create", "configmaps", config(x="1"))
        await h.install("validating", hook("v", operations=["UPDATE"]))
        h.fake.hooks["v"] = answer
        h.fake.hold = asyncio.Event()
        conditional = asyncio.ensure_future(
            h.reply("update", "configmaps", {**made, "data": {"x": "2"}}, name="c")
        )
        patch = asyncio.ensure_future(
            h.reply("patch", "configmaps", {"data": {"y": "3"}}, name="c",
                    kind="application/merge-patch+json")
        )  # fmt: skip
        await settle()
        assert len(h.fake.asked) == 2
        # Somebody writes meanwhile: a status of ours, which no webhook wants to see.
        await h.w.ok("delete", f"{KINDS[1]}.admissionregistration.k8s.io",
                     at=("acme", "", "hooks"))  # fmt: skip
        await h.ok("patch", "configmaps", {"data": {"z": "4"}}, name="c",
                   kind="application/merge-patch+json")  # fmt: skip
        h.fake.hold.set()
        assert (await conditional).code == 409
        assert (await patch).code == 200
        stored = await h.ok("get", "configmaps", name="c")
        assert stored["data"] == {"x": "1", "y": "3", "z": "4"}

    hooked(story)


def test_who_loses_the_right_meanwhile_is_refused() -> None:
    async def story(h: Hooked) -> None:
        await h.install("validating", hook("v"))
        h.fake.hooks["v"] = answer
        h.fake.hold = asyncio.Event()
        making = asyncio.ensure_future(h.reply("create", "configmaps", config()))
        await settle()
        group = "rbac.authorization.k8s.io"
        await h.ok("delete", f"clusterrolebindings.{group}",
                   at=("acme", "", "admin-role-binding"), user=ADMIN)  # fmt: skip
        h.fake.hold.set()
        assert (await making).code == 403

    hooked(story)


def test_who_waits_for_a_webhook_keeps_nobody_waiting() -> None:
    async def story(h: Hooked) -> None:
        await h.install("validating", hook("v", "pods"))
        h.fake.hooks["v"] = answer
        h.fake.hold = asyncio.Event()
        slow = asyncio.ensure_future(h.reply("create", "pods", pod()))
        await settle()
        replies = await h.w.part.call([
            h.w.call("create", "configmaps", config("a")),
            h.w.call("create", "pods", pod("q")),
            h.w.call("create", "configmaps", config("b")),
        ])  # fmt: skip
        assert [reply.code for reply in replies] == [201, 503, 201]
        assert not slow.done()
        h.fake.hold.set()
        assert (await slow).code == 201

    hooked(story)


def test_a_tenant_has_only_so_many_requests_that_wait() -> None:
    async def story(h: Hooked) -> None:
        await h.install("validating", hook("v"))
        h.fake.hooks["v"] = answer
        h.fake.hold = asyncio.Event()
        many = [
            asyncio.ensure_future(h.reply("create", "configmaps", config(f"c{i}")))
            for i in range(70)
        ]
        await settle()
        refused = [one.result().code for one in many if one.done()]
        assert refused == [429] * 6
        h.fake.hold.set()
        assert [reply.code for reply in await asyncio.gather(*many)].count(201) == 64

    hooked(story)


def test_one_of_our_own_parts_comes_again_and_finds_what_was_begun() -> None:
    async def story(h: Hooked) -> None:
        await h.install("validating", hook("v", "pods"))
        h.fake.hooks["v"] = answer
        h.fake.hold = asyncio.Event()
        body = {"metadata": {"generateName": "web-"}, "spec": pod()["spec"]}
        calls = [h.w.call("create", "pods", body, user=CONTROLLER) for _ in range(3)]
        first = asyncio.ensure_future(h.w.part.call(calls))
        assert [reply.code for reply in await first] == [503] * 3
        second = await h.w.part.call(calls)
        assert [reply.code for reply in second] == [503] * 3
        assert len(h.fake.asked) == 3
        h.fake.hold.set()
        await settle()
        listed = await h.ok("list", "pods", at=("acme", "n", ""))
        assert len(listed["items"]) == 3
        h.fake.hold = None
        h.fake.hooks["v"] = lambda review: answer(review, False, status={"message": "no"})
        [reply] = await h.w.part.call(calls[:1])
        assert errors.decode(reply.body).message.endswith("denied the request: no")

    hooked(story)


def test_a_change_of_the_configuration_counts_at_once() -> None:
    async def story(h: Hooked) -> None:
        gvr = f"{KINDS[1]}.admissionregistration.k8s.io"
        await h.install("validating", hook("v"))
        h.fake.hooks["v"] = lambda review: answer(review, False)
        await h.fails(400, "create", "configmaps", config())
        await h.ok("delete", gvr, at=("acme", "", "hooks"))
        await h.ok("create", "configmaps", config())
        await h.install("validating", hook("v", "secrets"))
        await h.ok("create", "configmaps", config("d"))
        await h.fails(400, "create", "secrets", config())
        again = Acme(h.w.disk)
        await again.part.start()
        more = Hooked(again)
        more.fake.hooks["v"] = lambda review: answer(review, False)
        await more.fails(400, "create", "secrets", config())
        await again.part.close()

    hooked(story)


def test_a_partition_starts_whatever_webhooks_the_system_has() -> None:
    async def story(h: Hooked) -> None:
        await h.install("validating", hook("v", "*/*"), at="system", user=ADMIN)
        again = Acme(h.w.disk)
        await again.part.start()
        more = Hooked(again)
        more.fake.hooks["v"] = lambda review: None
        space = {"metadata": {"name": "x"}}
        await more.fails(500, "create", "namespaces", space, at=("system", "", ""), user=ADMIN)
        tenant = {"metadata": {"name": "t"}, "spec": {"storageClusterId": "0"}}
        await more.fails(500, "create", "tenants", tenant, at=("", "", ""), user=ADMIN)
        more.fake.hooks["v"] = answer
        await more.ok("create", "tenants", tenant, at=("", "", ""), user=ADMIN)
        await more.ok("get", "clusterroles.rbac.authorization.k8s.io",
                      at=("t", "", "admin-role"), user=ADMIN)  # fmt: skip
        await again.part.close()

    hooked(story)


def test_a_bad_webhook_can_always_be_taken_away() -> None:
    async def story(h: Hooked) -> None:
        await h.install("validating", hook("v", "*/*"))
        h.fake.hooks["v"] = lambda review: answer(review, False)
        gvr = f"{KINDS[1]}.admissionregistration.k8s.io"
        await h.ok("delete", gvr, at=("acme", "", "hooks"))
        assert h.fake.asked == []

    hooked(story)


def test_selectors_choose() -> None:
    async def story(h: Hooked) -> None:
        space = {"metadata": {"name": "m", "labels": {"env": "prod"}}}
        await h.ok("create", "namespaces", space, at=("acme", "", ""))
        await h.install(
            "validating",
            hook("space", namespaceSelector={"matchLabels": {"env": "prod"}}),
            hook("label", objectSelector={"matchLabels": {"app": "x"}}),
        )
        h.fake.hooks |= {"space": answer, "label": answer}
        await h.ok("create", "configmaps", config("a"))
        assert h.paths() == []
        await h.ok("create", "configmaps", config("a"), at=("acme", "m", ""))
        assert h.paths() == ["space"]
        labelled = {"metadata": {"name": "b", "labels": {"app": "x"}}}
        made = await h.ok("create", "configmaps", labelled)
        del made["metadata"]["labels"]
        await h.ok("update", "configmaps", made, name="b")
        assert h.paths() == ["space", "label", "label"], "the old object counts too"

    hooked(story)


def test_conditions_choose() -> None:
    async def story(h: Hooked) -> None:
        def when(expression: str, **more: Any) -> Object:
            return {"matchConditions": [{"name": "c", "expression": expression}], **more}

        await h.install(
            "validating",
            hook("yes", **when("object.metadata.name == 'c' && request.operation == 'CREATE'")),
            hook("no", **when("has(object.data) && 'x' in object.data")),
            hook("broken", **when("object.nothing.at.all == 1", failurePolicy="Ignore")),
        )
        h.fake.hooks["yes"] = answer
        await h.ok("create", "configmaps", config())
        assert h.paths() == ["yes"]
        broken = hook("broken", "secrets", **when("object.nothing.at.all == 1"))
        await h.install("validating", broken, name="more")
        assert "match conditions" in await h.fails(403, "create", "secrets", config())
        body = {"metadata": {"name": "x"}, "webhooks": [hook("v", **when("1 +"))]}
        gvr = f"{KINDS[1]}.admissionregistration.k8s.io"
        assert "compilation failed" in await h.fails(422, "create", gvr, body, at=("acme", "", ""))

    hooked(story)


def test_all_conditions_of_a_request_cost_no_more_than_one_may() -> None:
    async def story(h: Hooked) -> None:
        everything = "object.data.all(a, object.data.all(b, object.data.all(c, a + b + c != '')))"
        long = {"matchConditions": [{"name": "c", "expression": everything}]}
        await h.install("validating", *[hook(f"v{i}", **long) for i in range(64)])
        big = config(**{f"k{i}": "" for i in range(200)})
        assert "match conditions" in await h.fails(403, "create", "configmaps", big)
        assert h.fake.asked == []

    hooked(story)


def test_a_tenant_has_only_so_many_webhooks() -> None:
    async def story(h: Hooked) -> None:
        for name in "abcd":
            await h.install("validating", *[hook(f"v{i}") for i in range(64)], name=name)
        body = {"metadata": {"name": "e"}, "webhooks": [hook("v")]}
        gvr = f"{KINDS[0]}.admissionregistration.k8s.io"
        refusal = await h.fails(403, "create", gvr, body, at=("acme", "", ""))
        assert "a tenant may have at most 256 webhooks" in refusal

    hooked(story)


def test_a_rule_for_one_version_is_a_rule_for_all_of_them() -> None:
    async def story(h: Hooked) -> None:
        labels = {"app": "x"}
        deployment = {
            "metadata": {"name": "d"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod()["spec"]},
            },
        }
        old = hook("old", rules=[{
            "operations": ["CREATE"], "apiGroups": ["extensions"], "apiVersions": ["v1beta1"],
            "resources": ["deployments"],
        }])  # fmt: skip
        exact = {**old, "name": "exact.acme.example", "matchPolicy": "Exact"}
        await h.install("mutating", old, exact)
        h.fake.hooks["old"] = patching("/spec/replicas", 3)  # type: ignore[arg-type]
        made = await h.ok("create", "deployments.apps", deployment)
        assert (made["apiVersion"], made["spec"]["replicas"]) == ("apps/v1", 3)
        [(_, request)] = h.fake.asked
        assert request["object"]["apiVersion"] == "extensions/v1beta1"
        assert request["resource"]["group"] == "extensions"
        assert request["requestResource"]["group"] == "apps"

    hooked(story)


def test_a_dry_run_says_so_and_stores_nothing() -> None:
    async def story(h: Hooked) -> None:
        await h.install("mutating", hook("a"))
        h.fake.hooks["a"] = patching("/data", {"x": "1"})  # type: ignore[arg-type]
        made = await h.ok("create", "configmaps", config(), dryRun="All")
        assert made["data"] == {"x": "1"}
        assert h.fake.asked[0][1]["dryRun"] is True
        await h.fails(404, "get", "configmaps", name="c")

    hooked(story)


def test_an_old_client_configures_webhooks_as_it_used_to() -> None:
    async def story(h: Hooked) -> None:
        gvr = f"{KINDS[1]}.admissionregistration.k8s.io"
        old = hook("v")
        del old["sideEffects"], old["admissionReviewVersions"]
        call = h.w.call("create", gvr, {"metadata": {"name": "x"}, "webhooks": [old]},
                        at=("acme", "", ""))  # fmt: skip
        call.version = "admissionregistration.k8s.io/v1beta1"
        [reply] = await h.w.part.call([call])
        made = orjson.loads(reply.body)
        assert reply.code == 201, made
        assert made["apiVersion"] == "admissionregistration.k8s.io/v1beta1"
        h.fake.hooks["v"] = lambda review: {"response": {"allowed": False}}
        await h.fails(400, "create", "configmaps", config())
        refusal = await h.fails(400, "create", "configmaps", config(), dryRun="All")
        assert refusal == 'admission webhook "v.acme.example" does not support dry run'
        h.fake.hooks["v"] = lambda review: None
        await h.ok("create", "configmaps", config())

    hooked(story)


def test_warnings_reach_the_client() -> None:
    async def story(h: Hooked) -> None:
        await h.install("validating", hook("v"))
        h.fake.hooks["v"] = lambda review: answer(review, warnings=["careful", "x" * 999])
        reply = await h.reply("create", "configmaps", config())
        assert reply.warnings == ("careful", "x" * 256)

    hooked(story)


def test_a_service_is_found_in_its_own_tenant() -> None:
    async def story(h: Hooked) -> None:
        client = {"service": {"name": "s", "namespace": "n", "path": "/v"}}
        await h.install("validating", hook("v", clientConfig=client))
        h.fake.hooks["v"] = answer
        assert 'service "s" not found' in await h.fails(500, "create", "configmaps", config())
        spec = {"ports": [{"port": 443, "targetPort": 8443, "name": "https"}]}
        await h.ok("create", "services", {"metadata": {"name": "s"}, "spec": spec})
        refusal = await h.fails(500, "create", "configmaps", config())
        assert 'no endpoints available for service "s"' in refusal
        await h.ok("create", "endpoints", {"metadata": {"name": "s"}, "subsets": [
            {"addresses": [{"ip": "10.9.9.9"}], "ports": [{"port": 8443, "name": "https"}]}
        ]})  # fmt: skip
        await h.ok("create", "configmaps", config())
        [target] = h.fake.targets
        assert (target.names, target.port) == (("10.9.9.9",), 8443)
        assert (target.server_name, target.host) == ("s.n.svc", "s.n.svc:443")

    hooked(story)


def test_a_tenant_that_ends_is_not_held_up_by_its_webhooks() -> None:
    async def story(h: Hooked) -> None:
        await h.ok("create", "configmaps", config())
        await h.install("validating", hook("v", "*/*"))
        h.fake.hooks["v"] = lambda review: None
        await h.fails(500, "delete", "configmaps", name="c")
        await h.w.ok("delete", "tenants", at=("", "", "acme"), user=ADMIN)
        await h.ok("delete", "configmaps", name="c", user=ADMIN)

    hooked(story)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "short"}, "should be a domain with at least three segments"),
        ({"sideEffects": "Some"}, 'Unsupported value: "Some"'),
        ({"sideEffects": None}, "must specify one of None, NoneOnDryRun"),
        ({"admissionReviewVersions": ["v9"]}, "must include at least one of v1, v1beta1"),
        ({"timeoutSeconds": 31}, "the timeout value must be between 1 and 30 seconds"),
        ({"clientConfig": {}}, "exactly one of url or service is required"),
        ({"clientConfig": {"url": "http://x/"}}, "'https' is the only allowed URL scheme"),
        ({"clientConfig": {"url": "https://u:p@x/"}}, "user information is not permitted"),
        ({"failurePolicy": "Maybe"}, "failurePolicy: Unsupported value"),
    ],
)
def test_a_configuration_that_means_nothing_is_refused(change: Object, why: str) -> None:
    async def story(h: Hooked) -> None:
        gvr = f"{KINDS[1]}.admissionregistration.k8s.io"
        body = {"metadata": {"name": "x"}, "webhooks": [{**hook("v"), **change}]}
        assert why in await h.fails(422, "create", gvr, body, at=("acme", "", ""))

    hooked(story)


def test_custom_objects_are_asked_about_like_all_others() -> None:
    async def story(h: Hooked) -> None:
        await h.ok("create", DEFINITIONS, definition(), at=("acme", "", ""))
        await h.install("mutating", hook("a", "widgets"))
        await h.install("validating", hook("v", "widgets"))
        h.fake.hooks |= {"a": patching("/spec/size", 5), "v": answer}  # type: ignore[arg-type]
        quota = {"metadata": {"name": "q"}, "spec": {"hard": {"count/widgets.example.com": "1"}}}
        await h.ok("create", "resourcequotas", quota)
        made = await h.ok("create", GVR, widget())
        assert made["spec"]["size"] == 5
        assert h.paths() == ["a", "v"]
        assert h.fake.asked[0][1]["kind"]["kind"] == "Widget"
        refusal = await h.fails(403, "create", GVR, widget("second"))
        assert "exceeded quota: q, requested: count/widgets.example.com=1" in refusal
        h.fake.hooks["a"] = patching("/spec/size", 0)  # type: ignore[arg-type]
        await h.fails(422, "create", GVR, widget("third"))

    hooked(story)


def test_what_a_webhook_notes_travels_with_the_answer() -> None:
    async def story(h: Hooked) -> None:
        await h.install("validating", hook("a"))
        said = {"team": "blue", "long": "x" * 100_000}
        h.fake.hooks["a"] = lambda review: answer(review, auditAnnotations=said)
        reply = await h.reply("create", "configmaps", config())
        assert reply.notes == (("a.acme.example/team", "blue"),)
        h.fake.hooks["a"] = lambda review: answer(review, False, auditAnnotations={"team": "red"})
        reply = await h.reply("create", "configmaps", config("d"))
        assert (reply.ok, reply.notes) == (False, (("a.acme.example/team", "red"),))

    hooked(story)


def test_a_pod_that_gets_a_token_is_agreed_to_once(tmp_path: Path) -> None:
    ensure_keys(tmp_path, datetime(2026, 1, 2, tzinfo=UTC))

    async def story(h: Hooked) -> None:
        h.w.part.server.partition.tokens = Tokens(TokenKeys(tmp_path), ca=b"the CA")
        await h.install("validating", hook("a", "pods"))
        h.fake.hooks["a"] = answer
        made = await h.ok("create", "pods", pod())
        [(_, request)] = h.fake.asked
        assert request["object"]["spec"]["volumes"] == made["spec"]["volumes"]

    hooked(story)


def test_a_refusal_is_as_long_as_somebody_may_read() -> None:
    long = {
        "code": 422,
        "message": "m" * 1_000_000,
        "details": {"causes": [{"field": "f" * 99}] * 9_999},
    }

    async def story(h: Hooked) -> None:
        await h.install("validating", hook("v"))
        h.fake.hooks["v"] = lambda review: answer(review, allowed=False, status=long)
        said = await h.fails(422, "create", "configmaps", config())
        assert said.endswith("denied the request: " + "m" * 8_192)
        odd = {"code": 409, "message": "no", "details": ["causes"]}
        h.fake.hooks["v"] = lambda review: answer(review, allowed=False, status=odd)
        assert (await h.fails(409, "create", "configmaps", config())).endswith("request: no")

    hooked(story)
