from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api.calls import Call
from arktos_ray.api.errors import Failure, Forbidden
from arktos_ray.controllers.events import GATHER_S
from arktos_ray.controllers.replicaset.controller import ReplicaSets
from arktos_ray.controllers.replicaset.plan import (
    DELETION_COST,
    CreatePods,
    DeletePods,
    plan,
    status,
)

Object = dict[str, Any]

pods = st.builds(
    lambda phase, ready, node, cost, going, uid: {
        "metadata": {
            "name": uid, "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {DELETION_COST: str(cost)},
            **({"deletionTimestamp": "2026-01-01T00:00:01Z"} if going else {}),
        },
        "spec": {"nodeName": node} if node else {},
        "status": {
            "phase": phase,
            "conditions": [
                {"type": "Ready", "status": str(ready),
                 "lastTransitionTime": "2026-01-01T00:00:00Z"}
            ],
        },
    },
    st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    st.booleans(),
    st.sampled_from(["", "n1", "n2"]),
    st.integers(-5, 5),
    st.booleans(),
    st.uuids().map(str),
)  # fmt: skip


def _is_live(pod: Object) -> bool:
    return "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] not in (
        "Succeeded",
        "Failed",
    )


@given(wanted=st.integers(0, 30), found=st.lists(pods, max_size=30))
def test_carrying_out_the_plan_leaves_exactly_the_wanted_pods(
    wanted: int, found: list[Object]
) -> None:
    live = [pod for pod in found if _is_live(pod)]
    left = len(live)
    match plan({"metadata": {}, "spec": {"replicas": wanted}}, found):
        case CreatePods(count):
            left += count
        case DeletePods(victims):
            assert all(pod in live for pod in victims)
            left -= len(victims)
        case None:
            pass
    assert left == wanted


@given(found=st.lists(pods, max_size=12))
def test_no_ready_pod_is_lost_while_a_worse_one_could_be(found: list[Object]) -> None:
    live = [pod for pod in found if _is_live(pod)]
    action = plan({"metadata": {}, "spec": {"replicas": len(live) // 2}}, found)
    if not isinstance(action, DeletePods):
        return
    kept = [pod for pod in live if pod not in action.pods]

    def worth(pod: Object) -> tuple[bool, int, bool]:
        rank = {"Pending": 0, "Unknown": 1, "Running": 2}[pod["status"]["phase"]]
        return (
            bool(pod["spec"].get("nodeName")),
            rank,
            pod["status"]["conditions"][0]["status"] == "True",
        )

    if kept:
        assert max(map(worth, action.pods)) <= min(map(worth, kept))


def test_cheap_pods_go_first_and_crowded_nodes_are_thinned() -> None:
    def pod(name: str, node: str, cost: str = "0") -> Object:
        return {
            "metadata": {"name": name, "uid": name, "annotations": {DELETION_COST: cost}},
            "spec": {"nodeName": node},
            "status": {"phase": "Running"},
        }

    found = [pod("a", "n1"), pod("b", "n2"), pod("c", "n2"), pod("d", "n2", "-1")]
    match plan({"metadata": {}, "spec": {"replicas": 2}}, found):
        case DeletePods(victims):
            assert [v["metadata"]["name"] for v in victims] == ["d", "b"]
        case other:
            raise AssertionError(other)


def test_a_pod_counts_as_available_after_min_ready_seconds() -> None:
    pod = {
        "metadata": {"labels": {"a": "b", "c": "d"}},
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:01:40Z"}
            ],
        },
    }
    replica_set = {
        "metadata": {"generation": 4},
        "spec": {"minReadySeconds": 10, "template": {"metadata": {"labels": {"a": "b"}}}},
    }
    body, wait = status(replica_set, [pod], 104.0, None)
    assert body == {
        "replicas": 1, "fullyLabeledReplicas": 1, "readyReplicas": 1, "observedGeneration": 4,
    }  # fmt: skip
    assert wait == 6.0
    body, wait = status(replica_set, [pod], 110.0, None)
    assert body["availableReplicas"] == 1
    assert wait is None


def test_scales_up_in_growing_batches_and_reports(play: Any, replica_set: Any) -> None:
    async def story(world: Any) -> None:
        made = world.tp.put("replicasets.apps", replica_set(100))
        await world.start(ReplicaSets(world.parts()))
        await world.live_until(lambda: _status(world).get("availableReplicas") == 100)
        creates = [len(batch) for batch in world.tp.batches if batch[0].gvr == "pods"]
        assert creates == [8, 32, 60]
        pod = world.pods()[0]
        assert pod["metadata"]["tenant"] == "acme"
        assert pod["metadata"]["name"].startswith("web-")
        [ref] = pod["metadata"]["ownerReferences"]
        assert ref == {
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web",
            "uid": made["metadata"]["uid"], "hashKey": made["metadata"]["hashKey"],
            "controller": True, "blockOwnerDeletion": True,
        }  # fmt: skip
        messages = [event["message"] for event in world.tp.all("events")]
        assert len(messages) == 3
        assert messages[0].startswith("Created pods: web-")
        assert _status(world) == {
            "replicas": 100, "fullyLabeledReplicas": 100, "readyReplicas": 100,
            "availableReplicas": 100, "observedGeneration": 1,
        }  # fmt: skip

    play(story)


def _status(world: Any, name: str = "web") -> Object:
    found = world.tp.find("replicasets.apps", "acme", "default", name)
    status: Object = found.get("status", {})
    return status


def test_a_lost_pod_is_replaced_and_scaling_down_deletes(play: Any, replica_set: Any) -> None:
    async def story(world: Any) -> None:
        stored = world.tp.put("replicasets.apps", replica_set(5))
        await world.start(ReplicaSets(world.parts()))
        await world.live_until(lambda: _status(world).get("readyReplicas") == 5)
        world.tp.drop("pods", world.pods()[0])
        await world.live_until(lambda: len(world.pods()) == 5)
        stored = world.tp.find("replicasets.apps", "acme", "default", "web")
        world.tp.change("replicasets.apps", stored, spec={**stored["spec"], "replicas": 2})
        await world.live_until(lambda: len(world.pods(active=False)) == 2)
        await world.clock.advance(1)
        assert _status(world)["replicas"] == 2

    play(story)


def test_a_stale_view_creates_nothing_twice(play: Any, replica_set: Any) -> None:
    async def story(world: Any) -> None:
        await world.start(ReplicaSets(world.parts()))
        stored = world.tp.put("replicasets.apps", replica_set(5))
        await world.clock.advance(0.0)
        world.tp.watches_held = True
        await world.clock.advance(30)
        assert len(world.pods()) in (0, 5)
        world.tp.watches_held = False
        world.tp.wake()
        await world.clock.advance(1)
        assert len(world.pods()) == 5
        world.tp.watches_held = True
        world.tp.change("replicasets.apps", stored, spec={**stored["spec"], "replicas": 7})
        world.tp.watches_held = False
        world.tp.wake()
        await world.clock.advance(30)
        assert len(world.pods()) == 7

    play(story)


def test_a_lost_answer_creates_nothing_twice(play: Any, replica_set: Any) -> None:
    async def story(world: Any) -> None:
        await world.start(ReplicaSets(world.parts()))
        world.tp.lose_answers = True
        world.tp.put("replicasets.apps", replica_set(6))
        await world.clock.advance(60)
        assert not world.tp.lose_answers
        assert len(world.pods()) == 6

    play(story)


def test_a_refusal_costs_one_small_batch_and_is_reported(play: Any, replica_set: Any) -> None:
    async def story(world: Any) -> None:
        def refuse(call: Call) -> Failure | None:
            if call.gvr == "pods" and call.verb == "create":
                return Forbidden("exceeded quota")
            return None

        world.tp.refuse = refuse
        world.tp.put("replicasets.apps", replica_set(3000))
        await world.start(ReplicaSets(world.parts()))
        await world.clock.advance(0.004)
        attempts = sum(len(batch) for batch in world.tp.batches if batch[0].gvr == "pods")
        assert attempts == 8
        [condition] = _status(world)["conditions"]
        assert condition["type"] == "ReplicaFailure"
        assert condition["reason"] == "FailedCreate"
        await world.clock.advance(GATHER_S)
        assert world.tp.all("events")[0]["type"] == "Warning"
        world.tp.refuse = lambda _: None
        await world.live_until(lambda: _status(world).get("readyReplicas") == 3000)
        assert "conditions" not in _status(world)

    play(story)


def test_orphans_are_adopted_and_strangers_released(play: Any, replica_set: Any) -> None:
    async def story(world: Any) -> None:
        def orphan(tenant: str, name: str) -> Object:
            return {
                "metadata": {
                    "tenant": tenant, "namespace": "default", "name": name,
                    "labels": {"app": "web"},
                },
                "spec": {}, "status": {"phase": "Pending"},
            }  # fmt: skip

        world.tp.put("pods", orphan("acme", "mine"))
        world.tp.put("pods", orphan("other", "theirs"))
        world.tp.put("replicasets.apps", replica_set(2))
        await world.start(ReplicaSets(world.parts()))
        await world.clock.advance(1)
        assert len(world.tp.all("pods", "acme")) == 2
        mine = world.tp.find("pods", "acme", "default", "mine")
        assert mine["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"
        theirs = world.tp.find("pods", "other", "default", "theirs")
        assert "ownerReferences" not in theirs["metadata"]

        mine = {**mine, "metadata": {**mine["metadata"], "labels": {"app": "debug"}}}
        world.tp.put("pods", mine)
        await world.clock.advance(1)
        mine = world.tp.find("pods", "acme", "default", "mine")
        assert "ownerReferences" not in mine["metadata"]
        assert len(world.tp.all("pods", "acme")) == 3

    play(story)


def test_two_shards_share_the_work_and_nothing_is_done_twice(
    play: Any, replica_set: Any, shard: Callable[[Any, int], Any]
) -> None:
    async def story(world: Any) -> None:
        for number in range(12):
            world.tp.put("replicasets.apps", replica_set(2, f"web-{number}"))
        await world.start(ReplicaSets(shard(world, 0)), ReplicaSets(shard(world, 1)))
        await world.live_until(
            lambda: all(
                _status(world, f"web-{number}").get("readyReplicas") == 2 for number in range(12)
            )
        )
        assert len(world.pods()) == 24

    play(story)
