"""What each reader of pods is told, and that it is enough to know what it needs to know."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from arktos_ray.api import errors
from arktos_ray.api.calls import BOOKMARK, User
from arktos_ray.api.names import Key
from arktos_ray.client.port import Client
from arktos_ray.testing.sim import SimCluster

Object = dict[str, Any]
PART = User("system:part", "system", ("system:masters",), trusted=True)


class World:
    """A tenant partition, and the events of one view of its pods."""

    def __init__(self, sim: SimCluster) -> None:
        self.client = Client(sim.client("tp-1").caller, PART)
        self.sim = sim

    async def pod(self, name: str, **spec: Any) -> None:
        resources = {"requests": {"cpu": "100m"}}
        container = {"name": "c", "image": "i", "resources": resources}
        body = {"metadata": {"name": name}, "spec": {"containers": [container], **spec}}
        await self.sim.eventually(lambda: self.client.create("pods", "system", "default", body))

    async def bind(self, name: str, node: str = "n1") -> None:
        call = self.client.calling(
            "create", "pods", key(name), {"target": {"name": node}}, "binding"
        )
        [reply] = await self.client.write([call])
        assert reply.ok, reply.body

    async def status(self, name: str, **status: Any) -> None:
        await self.client.patch("pods", key(name), {"status": status}, "status")

    async def told(
        self, view: str, selector: str, life: Callable[[], Awaitable[None]]
    ) -> list[tuple[str, Object]]:
        """The events of a view while that happens; ended by a pod of the name `end`."""
        _, revision = await self.sim.eventually(
            lambda: self.client.list("pods", fieldSelector=selector, view=view)
        )
        await life()
        await self.pod("end", nodeName="n9")
        found = []
        watch = self.client.watch(
            "pods", fieldSelector=selector, view=view, resourceVersion=str(revision)
        )
        async for batch in watch:
            for event in batch:
                if event.path == key("end").path():
                    await watch.aclose()  # type: ignore[attr-defined]
                    return found
                if event.type != BOOKMARK:
                    found.append((event.type, orjson.loads(event.body or b"{}")))
        raise AssertionError("the watch ended")


def key(name: str) -> Key:
    return Key("system", "default", name)


def story(test: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        with SimCluster(seed=3, tenant_partitions=1, resource_partitions=1, with_parts=False) as s:
            s.run(test(World(s)))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


LIVE = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"


@story
async def test_a_ledger_hears_of_what_a_pod_takes_and_of_nothing_else_as_columns(w: World) -> None:
    async def life() -> None:
        await w.pod("a")
        await w.bind("a")
        await w.status("a", phase="Running")
        await w.status("a", conditions=[{"type": "Ready", "status": "True"}])
        resized = {"spec": {"containers": [
            {"name": "c", "image": "i", "resources": {"requests": {"cpu": "300m"}}}
        ]}}  # fmt: skip
        await w.client.patch("pods", key("a"), resized, "resize")
        await w.status("a", message="still here")
        await w.status("a", phase="NoSchedule")  # A VM that is off on purpose.
        await w.status("a", phase="Running")
        await w.status("a", phase="Succeeded")

    told = await w.told("ledger", LIVE, life)
    kinds = [kind for kind, _ in told]
    assert kinds == ["ADDED", "MODIFIED", "MODIFIED", "MODIFIED", "DELETED"]
    assert told[0][1]["spec"] == {"nodeName": "n1"}
    assert told[0][1]["metadata"]["name"] == "a"
    assert ["cpu", 100] in told[0][1]["demand"][0]
    assert ["cpu", 300] in told[1][1]["demand"][0]
    assert [body["status"]["phase"] for _, body in told[2:4]] == ["NoSchedule", "Running"]
    assert "containers" not in told[0][1]["spec"]


@story
async def test_a_ledger_lists_columns_of_what_is_bound(w: World) -> None:
    await w.pod("loose")
    await w.pod("a")
    await w.bind("a", "n7")
    [row], _ = await w.client.list("pods", fieldSelector=LIVE, view="ledger")
    assert row["spec"] == {"nodeName": "n7"}
    assert row["metadata"]["namespace"] == "default"


@story
async def test_a_scheduler_hears_everything_of_what_waits_and_little_of_what_runs(
    w: World,
) -> None:
    async def life() -> None:
        await w.pod("a")
        await w.status("a", conditions=[{"type": "PodScheduled", "status": "False"}])
        await w.bind("a")
        await w.status("a", phase="Running")
        await w.status("a", podIP="10.0.0.1")
        await w.client.patch("pods", key("a"), {"metadata": {"labels": {"x": "y"}}})
        await w.client.delete("pods", key("a"), gracePeriodSeconds=30)

    selector = "status.phase!=Succeeded,status.phase!=Failed"
    told = await w.told("scheduler", selector, life)
    assert [kind for kind, _ in told] == ["ADDED"] + ["MODIFIED"] * 4
    assert told[2][1]["spec"]["nodeName"] == "n1"
    assert told[3][1]["metadata"]["labels"] == {"x": "y"}
    assert told[4][1]["metadata"]["deletionTimestamp"]


@story
async def test_a_node_hears_of_a_binding_and_a_deletion_and_not_of_its_own_status(
    w: World,
) -> None:
    async def life() -> None:
        await w.pod("a")
        await w.bind("a")
        await w.status("a", phase="Running")
        await w.status("a", podIP="10.0.0.1")
        await w.client.delete("pods", key("a"), gracePeriodSeconds=30)
        await w.status("a", message="stopping")
        await w.client.delete("pods", key("a"), gracePeriodSeconds=0)

    told = await w.told("node", "spec.nodeName!=", life)
    assert [kind for kind, _ in told] == ["ADDED", "MODIFIED", "DELETED"]
    assert told[0][1]["spec"]["containers"]
    assert told[1][1]["metadata"]["deletionGracePeriodSeconds"] == 30


@story
async def test_a_view_is_for_our_own_parts_and_must_exist(w: World) -> None:
    await w.pod("a")
    await w.bind("a")
    stranger = Client(w.client.caller, User("ann", "system", ("system:masters",)))
    [item], _ = await stranger.list("pods", fieldSelector=LIVE, view="ledger")
    assert item["spec"]["containers"]
    with pytest.raises(errors.BadRequest):
        await w.client.list("pods", view="telescope")


@story
async def test_a_reader_who_is_spared_every_change_still_hears_how_far_it_is(w: World) -> None:
    await w.pod("a")
    await w.bind("a")
    _, revision = await w.client.list("pods", fieldSelector=LIVE, view="ledger")
    watch = w.client.watch("pods", fieldSelector=LIVE, view="ledger", resourceVersion=str(revision))
    first = w.sim.loop.create_task(anext(watch))
    await w.sim.clock.sleep(20.0)
    await w.status("a", message="one")
    [event] = await first
    assert event.type == BOOKMARK
    assert event.revision > revision
    await watch.aclose()  # type: ignore[attr-defined]


async def _paced(w: World, client: Client, life: Callable[[], Awaitable[None]]) -> list[Any]:
    """The first batch of a watch that may hear a second late of all that."""
    _, revision = await w.sim.eventually(lambda: w.client.list("pods"))
    watch = client.watch("pods", resourceVersion=str(revision), pace="1000")
    first = asyncio.ensure_future(anext(watch))
    await life()
    events = await first
    await watch.aclose()  # type: ignore[attr-defined]
    return [
        (event.type, event.path.rpartition("/")[2], orjson.loads(event.body)) for event in events
    ]


@story
async def test_a_reader_in_no_hurry_is_told_at_once_what_is(w: World) -> None:
    async def life() -> None:
        await w.pod("a")
        await w.bind("a")
        await w.pod("b")
        await w.status("a", phase="Running")

    told = await _paced(w, w.client, life)
    assert [(kind, name) for kind, name, _ in told] == [("ADDED", "b"), ("ADDED", "a")]
    assert told[1][2]["status"]["phase"] == "Running"


@story
async def test_what_ends_and_begins_again_is_told_apart(w: World) -> None:
    async def life() -> None:
        await w.pod("a")
        await w.status("a", message="one")
        await w.client.delete("pods", key("a"), gracePeriodSeconds=0)
        await w.pod("a")
        await w.status("a", message="two")

    told = await _paced(w, w.client, life)
    assert [kind for kind, *_ in told] == ["ADDED", "DELETED", "ADDED"]
    assert told[0][2]["metadata"]["uid"] != told[2][2]["metadata"]["uid"]
    assert told[2][2]["status"]["message"] == "two"


@story
async def test_a_tenant_in_no_hurry_is_told_every_change(w: World) -> None:
    async def life() -> None:
        await w.pod("a")
        await w.bind("a")
        await w.status("a", phase="Running")

    stranger = Client(w.client.caller, User("ann", "system", ("system:masters",)))
    told = await _paced(w, stranger, life)
    assert [kind for kind, *_ in told] == ["ADDED", "MODIFIED", "MODIFIED"]
