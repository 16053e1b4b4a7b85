"""The same objects in another version, and under another group, than they are stored in."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from arktos_ray.api import scheme
from arktos_ray.api.calls import Call
from arktos_ray.api.scheme import Form, Resource
from tests.unit.apiserver.acme_world import Acme, Object, acme


def _old(obj: Object) -> Object:
    obj["apiVersion"] = "extensions/v1beta1"
    if "replicas" in obj.get("spec", {}):
        obj["spec"]["minReadySeconds"] = obj["spec"].pop("replicas")
    return obj


def _new(obj: Object) -> Object:
    obj["apiVersion"] = "apps/v1"
    if "minReadySeconds" in obj.get("spec", {}):
        obj["spec"]["replicas"] = obj["spec"].pop("minReadySeconds")
    return obj


_FORM = Form("deployments.apps", "apps/v1", _old, _new)
_V1 = scheme.resource("deployments.apps")
# A version that calls the number of replicas something else, so that both ways show.
OLD = Resource(
    "extensions", "v1beta1", "deployments", "Deployment", "deployment", _V1.scope,
    "k8s.io.api.apps.v1.Deployment", subresources=_V1.subresources, has_generation=True,
    form=_FORM,
)  # fmt: skip
AS = "extensions/v1beta1"


@pytest.fixture(autouse=True)
def _served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scheme.BY_VERSION, ("deployments.apps", AS), OLD)


def _deployment(**spec: Any) -> Object:
    labels = {"app": "web"}
    container = {"name": "c", "image": "i"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return {
        "apiVersion": AS, "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": labels}, "template": template, **spec},
    }  # fmt: skip


async def _asked(world: Acme, *what: Any, **more: Any) -> Object:
    call = world.call(*what, **more)
    call.version = AS
    [reply] = await world.part.call([call])
    assert reply.ok, reply.body
    found: Object = orjson.loads(reply.body)
    return found


def test_a_call_travels_with_its_version() -> None:
    call = Call("get", "deployments.apps", "acme", "n", "web", version=AS)
    assert Call.unpack(call.pack()) == call


def test_what_one_version_writes_the_other_reads() -> None:
    async def story(world: Acme) -> None:
        made = await _asked(world, "create", "deployments.apps", _deployment(minReadySeconds=3))
        assert (made["apiVersion"], made["spec"]["minReadySeconds"]) == (AS, 3)

        new = await world.ok("get", "deployments.apps", name="web")
        assert (new["apiVersion"], new["spec"]["replicas"]) == ("apps/v1", 3)

        old = await _asked(world, "get", "deployments.apps", name="web")
        old["spec"]["minReadySeconds"] = 5
        await _asked(world, "update", "deployments.apps", old, name="web")
        patch = {"spec": {"minReadySeconds": 7}}
        await _asked(
            world, "patch", "deployments.apps", patch, name="web",
            kind="application/merge-patch+json",
        )  # fmt: skip
        assert (await world.ok("get", "deployments.apps", name="web"))["spec"]["replicas"] == 7

        listed = await _asked(world, "list", "deployments.apps")
        assert listed["apiVersion"] == AS
        assert [each["apiVersion"] for each in listed["items"]] == [AS]
        gone = await _asked(world, "delete", "deployments.apps", name="web")
        assert gone["kind"] == "Status"

    acme(story)


def test_managed_fields_say_in_which_version_they_are_named() -> None:
    async def story(world: Acme) -> None:
        await world.ok(
            "patch", "deployments.apps", {**_deployment(replicas=2), "apiVersion": "apps/v1"},
            name="web", kind="application/apply-patch+yaml", fieldManager="new",
        )  # fmt: skip
        applied = await _asked(
            world, "patch", "deployments.apps",
            {"apiVersion": AS, "kind": "Deployment", "metadata": {"labels": {"a": "b"}}},
            name="web", kind="application/apply-patch+yaml", fieldManager="old",
        )  # fmt: skip
        entries = {e["manager"]: e["apiVersion"] for e in applied["metadata"]["managedFields"]}
        assert entries == {"new": "apps/v1", "old": AS}
        assert (await world.ok("get", "deployments.apps", name="web"))["spec"]["replicas"] == 2

    acme(story)


def test_a_watch_speaks_the_version_that_was_asked_for() -> None:
    async def story(world: Acme) -> None:
        await world.ok(
            "create", "deployments.apps", {**_deployment(replicas=4), "apiVersion": "apps/v1"}
        )
        call = world.call("watch", "deployments.apps")
        call.version = AS
        events = world.part.watch(call)
        async with asyncio.timeout(5):
            [event] = await anext(events)
        await events.aclose()  # type: ignore[attr-defined]
        body = orjson.loads(event.body)
        assert (body["apiVersion"], body["spec"]["minReadySeconds"]) == (AS, 4)

    acme(story)
