"""The groups and versions of Kubernetes 1.15, served from what is stored."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from arktos_ray.api import discovery, openapi, scheme
from arktos_ray.api.calls import User
from arktos_ray.api.scheme import Resource
from tests.unit.apiserver.acme_world import Acme, Object, acme

APPS = ("extensions/v1beta1", "apps/v1beta1", "apps/v1beta2")


def _body(**spec: Any) -> Object:
    container = {"name": "c", "image": "i"}
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}}
    return {"metadata": {"name": "web"}, "spec": {"template": template, **spec}}


async def _in(world: Acme, version: str, *what: Any, **more: Any) -> Object:
    call = world.call(*what, **more)
    call.version = version
    [reply] = await world.part.call([call])
    assert reply.ok, reply.body
    found: Object = orjson.loads(reply.body)
    return found


@pytest.mark.parametrize("version", APPS)
def test_a_deployment_without_a_selector_gets_its_template_s(version: str) -> None:
    async def story(world: Acme) -> None:
        made = await _in(world, version, "create", "deployments.apps", _body())
        assert (made["apiVersion"], made["spec"]["replicas"]) == (version, 1)
        stored = await world.ok("get", "deployments.apps", name="web")
        assert stored["apiVersion"] == "apps/v1"
        assert stored["spec"]["selector"] == {"matchLabels": {"app": "web"}}

    acme(story)


def test_the_oldest_deployments_go_one_by_one_and_remember_everything() -> None:
    async def story(world: Acme) -> None:
        made = await _in(world, APPS[0], "create", "deployments.apps", _body())
        assert made["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 1}
        assert made["spec"]["revisionHistoryLimit"] == 2**31 - 1
        # What a later version wrote stays as it is, whoever looks.
        await world.ok("create", "deployments.apps", {
            **_body(selector={"matchLabels": {"app": "web"}}), "metadata": {"name": "new"},
        })  # fmt: skip
        seen = await _in(world, APPS[0], "get", "deployments.apps", name="new")
        assert seen["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == "25%"
        assert seen["spec"]["revisionHistoryLimit"] == 10

    acme(story)


def test_an_event_of_either_group_is_the_same_event() -> None:
    async def story(world: Acme) -> None:
        regarding = {"kind": "Pod", "name": "p", "namespace": "n"}
        body = {
            "metadata": {"name": "e"}, "note": "it began", "regarding": regarding,
            "reportingController": "me", "eventTime": "2026-01-01T00:00:00.000000Z",
        }  # fmt: skip
        await _in(world, "events.k8s.io/v1", "create", "events", body)
        core = await world.ok("get", "events", name="e")
        assert (core["message"], core["involvedObject"]["name"]) == ("it began", "p")
        assert core["reportingComponent"] == "me"
        again = await _in(world, "events.k8s.io/v1beta1", "get", "events", name="e")
        assert (again["note"], again["regarding"]) == ("it began", core["involvedObject"])
        assert "message" not in again
        call = world.call("get", "events", name="e")
        call.version, call.accept = "events.k8s.io/v1", "Table"
        [reply] = await world.part.call([call])
        [row] = orjson.loads(reply.body)["rows"]
        assert {"it began", "pod/p"} <= set(map(str, row["cells"]))

    acme(story)


def test_a_role_of_one_group_says_nothing_about_the_other() -> None:
    async def story(world: Acme) -> None:
        ann = User("ann", "acme", ("system:authenticated",))
        rule = {"verbs": ["list"], "apiGroups": ["extensions"], "resources": ["deployments"]}
        await world.ok("create", "roles.rbac.authorization.k8s.io",
                       {"metadata": {"name": "r"}, "rules": [rule]})  # fmt: skip
        await world.ok("create", "rolebindings.rbac.authorization.k8s.io", {
            "metadata": {"name": "r"}, "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "ann"}],
        })  # fmt: skip
        await _in(world, "extensions/v1beta1", "list", "deployments.apps", user=ann)
        refused = await world.reply("list", "deployments.apps", user=ann)
        assert refused.code == 403

    acme(story)


@pytest.mark.parametrize("resource", scheme.OLDER, ids=lambda r: f"{r.plural}.{r.api_version}")
def test_every_older_version_is_described(resource: Resource) -> None:
    listed = discovery.document(f"/apis/{resource.api_version}")
    assert listed is not None
    [row] = [r for r in listed["resources"] if r["name"] == resource.plural]
    assert (row["kind"], "categories" in row) == (resource.kind, False)
    described = openapi.v3(f"apis/{resource.api_version}")
    assert described is not None
    kinds = [
        (k["group"], k["version"], k["kind"])
        for schema in orjson.loads(described)["components"]["schemas"].values()
        for k in schema.get("x-kubernetes-group-version-kind", ())
    ]
    assert (resource.group, resource.version, resource.kind) in kinds
    groups = discovery.document("/apis")
    assert groups is not None
    [group] = [g for g in groups["groups"] if g["name"] == resource.group]
    newest = group["preferredVersion"]["version"]
    assert newest == "v1" or resource.group == "extensions"
