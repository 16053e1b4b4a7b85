from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from arktos_ray.api.calls import LEFT, WatchEvent
from arktos_ray.api.errors import Unavailable
from arktos_ray.placement.ledger import UNCONFIRMED_S

from .cluster import Cluster

ONE_CPU = [[["cpu", 1000], ["pods", 1]], []]


def run(story: Callable[[Cluster], Awaitable[None]], **shape: int) -> None:
    async def play() -> None:
        cluster = Cluster(**shape)
        try:
            await story(cluster)
        finally:
            await cluster.close()

    asyncio.run(play())


def claims(*claims: tuple[str, str], source: str = "tp-0") -> dict[str, Any]:
    """(name, node): the uid is the name."""
    return {
        "source": source,
        "shapes": [ONE_CPU],
        "claims": [[name, f"acme/x/{name}", node, 0] for name, node in claims],
    }


def pod_with_uid(cluster: Cluster, name: str, **spec: Any) -> None:
    cluster.tp.put(
        "pods",
        {
            "metadata": {"name": name, "namespace": "x", "tenant": "acme", "uid": name},
            "spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}], **spec},
            "status": {"phase": "Pending"},
        },
    )


def test_nothing_is_granted_before_the_bound_pods_of_every_partition_are_known() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.node("n", cpu="2")
        pod_with_uid(cluster, "old", nodeName="n")
        cluster.tps["tp-1"].down = True
        await cluster.clock.advance(1)
        with pytest.raises(Unavailable, match="tp-1"):
            await cluster.reservations["rp-0"].reserve(claims(("a", "n")))

        cluster.tps["tp-1"].down = False
        await cluster.clock.advance(10)
        whys, _, rows = await cluster.reservations["rp-0"].reserve(claims(("a", "n"), ("b", "n")))

        assert whys == ["", "Insufficient cpu"]
        assert rows[0][0] == "n"
        assert rows[0][2] == {"cpu": 2000, "pods": 2}

    run(story, tps=2)


def test_room_comes_back_when_a_pod_finishes_or_goes() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.node("n", cpu="2")
        pod_with_uid(cluster, "a", nodeName="n")
        pod_with_uid(cluster, "b", nodeName="n")
        await cluster.clock.advance(1)
        reservations = cluster.reservations["rp-0"]
        assert (await reservations.reserve(claims(("c", "n"))))[0] == ["Insufficient cpu"]

        cluster.tp.change("pods", cluster.get("a"), status={"phase": "Succeeded"})
        cluster.remove("b")
        await cluster.clock.advance(1)

        assert (await reservations.reserve(claims(("c", "n"), ("d", "n"))))[0] == ["", ""]

    run(story)


def test_a_vm_that_is_off_takes_nothing() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.node("n", cpu="1")
        pod_with_uid(cluster, "vm", nodeName="n")
        await cluster.clock.advance(1)
        cluster.tp.change("pods", cluster.get("vm"), status={"phase": "NoSchedule"})
        await cluster.clock.advance(1)

        assert (await cluster.reservations["rp-0"].reserve(claims(("c", "n"))))[0] == [""]

    run(story)


def test_a_reservation_expires_only_when_its_pod_is_not_bound() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.node("n", cpu="4")
        await cluster.clock.advance(1)
        reservations = cluster.reservations["rp-0"]
        for name in ("never", "bound"):
            pod_with_uid(cluster, name)
        await reservations.reserve(claims(("never", "n"), ("gone", "n"), ("bound", "n")))
        # The bind happens, and we do not hear of it by the watch.
        cluster.tp.watches_held = True
        pod_with_uid(cluster, "bound", nodeName="n")
        # While the partition does not answer, nobody knows, and everything stays.
        cluster.tp.down = True
        await cluster.clock.advance(2 * UNCONFIRMED_S)
        assert len(reservations.ledger) == 3

        cluster.tp.down = False
        await cluster.clock.advance(UNCONFIRMED_S)

        assert len(reservations.ledger) == 1
        assert reservations.ledger.node_of("bound") == "n"

    run(story)


def test_release_gives_back_a_reservation_and_never_a_bound_pod() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.node("n", cpu="4")
        await cluster.clock.advance(1)
        reservations = cluster.reservations["rp-0"]
        pod_with_uid(cluster, "a")
        pod_with_uid(cluster, "b")
        await reservations.reserve(claims(("a", "n"), ("b", "n")))
        cluster.tp.watches_held = True
        pod_with_uid(cluster, "b", nodeName="n")

        await reservations.release([["a", "b", "stranger"]])

        assert reservations.ledger.node_of("a") == ""
        assert reservations.ledger.node_of("b") == "n"

    run(story)


def test_the_usage_feed_starts_with_everything_and_sends_many_changes_as_one() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.node("n")
        cluster.node("m")
        await cluster.clock.advance(1)
        reservations = cluster.reservations["rp-0"]
        feed = reservations.usage({})
        complete, rows = await anext(feed)
        assert complete
        assert sorted(row[0] for row in rows) == ["m", "n"]

        await reservations.reserve(claims(("a", "n")))
        await reservations.reserve(claims(("b", "n")))
        _, rows = await anext(feed)

        assert [(row[0], row[2]) for row in rows] == [("n", {"cpu": 2000, "pods": 2})]
        await feed.aclose()  # type: ignore[attr-defined]

    run(story)


def test_pods_that_vanished_while_history_was_lost_are_released() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.node("n", cpu="1")
        pod_with_uid(cluster, "a", nodeName="n")
        await cluster.clock.advance(1)
        cluster.tp.watches_held = True
        cluster.remove("a")
        cluster.tp.compact()
        cluster.tp.watches_held = False
        cluster.tp.wake()
        await cluster.clock.advance(10)

        assert (await cluster.reservations["rp-0"].reserve(claims(("c", "n"))))[0] == [""]

    run(story)


def test_a_pod_whose_tenant_moved_keeps_its_room_until_its_new_partition_is_asked() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.node("n", cpu="2")
        pod_with_uid(cluster, "a", nodeName="n")
        await cluster.clock.advance(1)
        reservations = cluster.reservations["rp-0"]
        source = reservations._sources["tp-0"]
        assert len(reservations.ledger) == 1
        # It is not shown here any more, and not (yet) anywhere else.
        source._changed([WatchEvent(LEFT, 1, "acme/x/a", b"{}")])
        assert reservations.ledger.node_of("a") == "n", "nobody said that it is gone"
        await cluster.clock.advance(5)
        assert reservations.ledger.node_of("a") == "n", "its partition says that it is bound"
        source._changed([WatchEvent(LEFT, 1, "acme/x/a", b"{}")])
        cluster.remove("a")
        await cluster.clock.advance(5)
        assert len(reservations.ledger) == 0, "its partition says that it is gone"

    run(story)


def test_a_pod_that_arrived_is_of_its_new_partition_and_its_leaving_costs_it_nothing() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.node("n", cpu="2")
        pod_with_uid(cluster, "a", nodeName="n")
        await cluster.clock.advance(1)
        reservations = cluster.reservations["rp-0"]
        reservations._sources["tp-1"].pod_seen(cluster.get("a"))
        reservations._sources["tp-0"]._changed([WatchEvent(LEFT, 1, "acme/x/a", b"{}")])
        cluster.remove("a")
        await cluster.clock.advance(30)
        claim = reservations.ledger.claim_of("a")
        assert claim is not None
        assert claim.source == "tp-1"

    run(story, tps=2)
