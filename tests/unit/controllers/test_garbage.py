from __future__ import annotations

from typing import Any

from arktos_ray.api.names import Key
from arktos_ray.controllers.deployment.controller import Deployments
from arktos_ray.controllers.garbage.controller import Garbage
from arktos_ray.controllers.replicaset.controller import ReplicaSets

Object = dict[str, Any]


async def _begin(world: Any, deployment: Any, *others: Any) -> Key:
    world.tp.put("deployments.apps", deployment(3))
    parts = world.parts()
    await world.start(Deployments(parts), ReplicaSets(parts), Garbage(parts))
    await world.live_until(lambda: len(_running(world)) == 3)
    return Key("acme", "default", "web")


def _running(world: Any) -> list[Object]:
    return [pod for pod in world.pods() if pod["status"]["phase"] == "Running"]


def test_background_deletion_takes_replica_sets_and_pods_along(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        key = await _begin(world, deployment)
        await world.client.delete("deployments.apps", key, propagationPolicy="Background")
        assert world.tp.find("deployments.apps", *key) is None
        await world.live_until(lambda: not world.pods(active=False))
        assert world.tp.all("replicasets.apps") == []

    play(story)


def test_foreground_deletion_keeps_the_owner_until_all_is_gone(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        key = await _begin(world, deployment)
        await world.client.delete("deployments.apps", key, propagationPolicy="Foreground")

        def gone() -> bool:
            owner = world.tp.find("deployments.apps", *key)
            [*sets] = world.tp.all("replicasets.apps")
            assert owner is not None or not sets
            assert sets or not world.pods(active=False)
            return owner is None

        await world.live_until(gone)
        assert world.pods(active=False) == []

    play(story)


def test_orphan_deletion_leaves_the_children_alone(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        key = await _begin(world, deployment)
        await world.client.delete("deployments.apps", key, propagationPolicy="Orphan")
        await world.live_until(lambda: world.tp.find("deployments.apps", *key) is None)
        await world.clock.advance(10)
        [left] = world.tp.all("replicasets.apps")
        assert "ownerReferences" not in left["metadata"]
        assert len(_running(world)) == 3

    play(story)


def _child(name: str, tenant: str, owners: list[Object], kind: str = "ConfigMap") -> Object:
    references = [
        {
            "apiVersion": "v1", "kind": kind, "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"], "hashKey": 0,
        }
        for owner in owners
    ]  # fmt: skip
    return {
        "metadata": {
            "tenant": tenant, "namespace": "default", "name": name,
            "ownerReferences": references,
        }
    }  # fmt: skip


def _owner(name: str) -> Object:
    return {"metadata": {"tenant": "acme", "namespace": "default", "name": name}}


def test_a_child_of_two_goes_with_the_second(play: Any) -> None:
    async def story(world: Any) -> None:
        one = world.tp.put("configmaps", _owner("one"))
        two = world.tp.put("configmaps", _owner("two"))
        world.tp.put("secrets", _child("child", "acme", [one, two]))
        await world.start(Garbage(world.parts()))
        world.tp.drop("configmaps", one)
        await world.clock.advance(5)
        child = world.tp.find("secrets", "acme", "default", "child")
        assert [ref["name"] for ref in child["metadata"]["ownerReferences"]] == ["two"]
        world.tp.drop("configmaps", two)
        await world.clock.advance(5)
        assert world.tp.find("secrets", "acme", "default", "child") is None

    play(story)


def test_owners_are_found_in_the_tenant_of_the_child_only(play: Any) -> None:
    async def story(world: Any) -> None:
        one = world.tp.put("configmaps", _owner("one"))
        world.tp.put("secrets", _child("same", "acme", [one]))
        world.tp.put("secrets", _child("foreign", "other", [one]))
        unknown = _child("unknown", "acme", [one], kind="Gizmo")
        world.tp.put("secrets", unknown)
        await world.start(Garbage(world.parts()))
        await world.clock.advance(5)
        assert {each["metadata"]["name"] for each in world.tp.all("secrets")} == {
            "same",
            "unknown",
        }

    play(story)


def test_a_stale_view_of_a_new_owner_deletes_nothing(play: Any) -> None:
    async def story(world: Any) -> None:
        await world.start(Garbage(world.parts()))
        world.tp.watches_held = True
        one = world.tp.put("configmaps", _owner("one"))
        world.tp.put("secrets", _child("child", "acme", [one]))
        # The view of secrets moves on, the one of configmaps does not.
        world.tp.watches_held = False
        await world.clock.advance(60)
        assert world.tp.find("secrets", "acme", "default", "child") is not None

    play(story)
