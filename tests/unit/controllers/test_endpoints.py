from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api.names import Key
from arktos_ray.controllers.endpoints import plan as planning
from arktos_ray.controllers.endpoints.controller import SLICES, Endpoints
from arktos_ray.controllers.endpoints.plan import Put, Remove

Object = dict[str, Any]


def _service(**spec: Any) -> Object:
    return {
        "metadata": {
            "tenant": "acme", "namespace": "default", "name": "web", "uid": "u", "hashKey": 1,
        },
        "spec": {
            "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
            **spec,
        },
    }  # fmt: skip


def _pod(number: int, ready: bool = True, port: int = 8080, tenant: str = "acme") -> Object:
    return {
        "metadata": {
            "tenant": tenant, "namespace": "default", "name": f"web-{number}",
            "uid": f"uid-{tenant}-{number}", "labels": {"app": "web"},
        },
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}],
        },
        "status": {
            "phase": "Running", "podIP": f"10.0.{number // 250}.{number % 250 + 1}",
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }  # fmt: skip


def test_ready_and_unready_pods_and_named_ports() -> None:
    put = planning.endpoints(_service(), [_pod(1), _pod(2, ready=False), _pod(3, port=9090)], None)
    assert put is not None
    one, other = put.body["subsets"]
    assert one["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
    assert [a["ip"] for a in one["addresses"]] == ["10.0.0.2"]
    assert [a["ip"] for a in one["notReadyAddresses"]] == ["10.0.0.3"]
    assert one["addresses"][0]["targetRef"]["tenant"] == "acme"
    assert other["ports"][0]["port"] == 9090
    known = {**put.body, "metadata": {**put.body["metadata"], "uid": "e", "resourceVersion": "5"}}
    assert (
        planning.endpoints(_service(), [_pod(3, port=9090), _pod(2, ready=False), _pod(1)], known)
        is None
    )


def test_a_headless_service_without_ports_lists_addresses() -> None:
    put = planning.endpoints(_service(clusterIP="None", ports=[]), [_pod(1)], None)
    assert put is not None
    [subset] = put.body["subsets"]
    assert "ports" not in subset
    assert put.body["metadata"]["labels"][planning.HEADLESS_LABEL] == ""


pods = st.lists(
    st.builds(_pod, st.integers(0, 400), st.booleans(), st.sampled_from([8080, 9090])),
    max_size=260,
    unique_by=lambda pod: pod["metadata"]["uid"],
)


@given(before=pods, after=pods)
def test_slices_hold_each_pod_once_and_are_left_alone_when_they_are_right(
    before: list[Object], after: list[Object]
) -> None:
    number = iter(range(10_000))
    names = (f"web-{next(number)}" for _ in range(10_000))
    known: dict[str, Object] = {}

    def apply(members: list[Object]) -> int:
        actions = planning.slices(_service(), members, list(known.values()), names)
        for action in actions:
            match action:
                case Put(body):
                    meta = {"uid": "u", **body["metadata"], "resourceVersion": "1"}
                    known[meta["name"]] = {**body, "metadata": meta}
                case Remove(obj):
                    del known[obj["metadata"]["name"]]
        return len(actions)

    for members in (before, after):
        apply(members)
        held = [
            (
                endpoint["targetRef"]["uid"],
                endpoint["conditions"]["ready"],
                each["ports"][0]["port"],
            )
            for each in known.values()
            for endpoint in each["endpoints"]
        ]
        assert sorted(held) == sorted(
            (
                pod["metadata"]["uid"],
                pod["status"]["conditions"][0]["status"] == "True",
                pod["spec"]["containers"][0]["ports"][0]["containerPort"],
            )
            for pod in members
        )
        assert all(len(each["endpoints"]) <= planning.SLICE_MAX for each in known.values())
        assert known
        assert apply(members) == 0


def test_endpoints_follow_pods_and_go_with_the_service(play: Any) -> None:
    async def story(world: Any) -> None:
        await world.start(Endpoints(world.parts()))
        service = world.tp.put("services", _service())
        first = world.tp.put("pods", _pod(1))
        world.tp.put("pods", _pod(2))
        world.tp.put("pods", _pod(3, tenant="other"))
        await world.clock.advance(1)

        def ips() -> list[str]:
            found = world.tp.find("endpoints", "acme", "default", "web")
            return [a["ip"] for subset in found["subsets"] for a in subset["addresses"]]

        assert ips() == ["10.0.0.2", "10.0.0.3"]
        [piece] = world.tp.all(SLICES)
        assert piece["metadata"]["ownerReferences"][0]["uid"] == service["metadata"]["uid"]
        assert len(piece["endpoints"]) == 2
        count = len(world.tp.batches)
        await world.clock.advance(60)
        assert len(world.tp.batches) == count

        world.tp.drop("pods", first)
        await world.clock.advance(1)
        assert ips() == ["10.0.0.3"]

        # Somebody deletes them by hand.
        world.tp.drop("endpoints", world.tp.find("endpoints", "acme", "default", "web"))
        await world.clock.advance(1)
        assert ips() == ["10.0.0.3"]

        await world.client.delete("services", Key("acme", "default", "web"))
        await world.clock.advance(1)
        assert world.tp.all("endpoints") == []
        assert world.tp.all(SLICES) == []

    play(story)


def test_endpoints_kept_by_hand_are_left_alone(play: Any) -> None:
    async def story(world: Any) -> None:
        world.tp.put("services", _service(selector=None))
        own = {"metadata": {"tenant": "acme", "namespace": "default", "name": "web"}}
        world.tp.put("endpoints", {**own, "subsets": []})
        await world.start(Endpoints(world.parts()))
        await world.clock.advance(1)
        await world.client.delete("services", Key("acme", "default", "web"))
        await world.clock.advance(1)
        assert len(world.tp.all("endpoints")) == 1

    play(story)


def test_endpoints_of_a_service_that_went_unseen_are_swept(play: Any) -> None:
    async def story(world: Any) -> None:
        put = planning.endpoints(_service(), [_pod(1)], None)
        assert put is not None
        world.tp.put("endpoints", put.body)
        await world.start(Endpoints(world.parts()))
        await world.clock.advance(2)
        assert world.tp.all("endpoints") == []

    play(story)
