from __future__ import annotations

from typing import Any, cast

from arktos_ray.api.calls import User
from arktos_ray.api.names import Key
from arktos_ray.base.certificates import Signer
from arktos_ray.client.port import Client
from arktos_ray.controllers import registry
from arktos_ray.testing.fakes import settle

MIDDLE = 4611686018427387903


def _start(world: Any, *range_: int) -> dict[str, Any]:
    user = User("test", trusted=True)
    signer = cast(Signer, object())  # Nothing is asked of it here.
    controllers = registry.Controllers(
        world.clock, world.ids, world.tasks, *range_, ca="a CA", signer=signer
    )
    controllers.update({"tp-1": Client(world.tp, user)}, {"rp-1": Client(world.rp, user)})
    return controllers.running


def test_a_tenant_lives_and_dies_with_all_controllers_running(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        world.rp.put(
            "nodes",
            {
                "metadata": {"name": "node-1"},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            },
        )
        running = _start(world)
        assert len(running) == len(registry.CONTROLLERS)
        await settle()
        await world.client.create("tenants", "", "", {"metadata": {"name": "acme"}})
        await world.clock.advance(1)
        world.tp.put("deployments.apps", deployment(5))
        await world.live_until(
            lambda: (
                world.tp.find("deployments.apps", "acme", "default", "web")
                .get("status", {})
                .get("availableReplicas")
                == 5
            )
        )
        await world.client.delete("tenants", Key("", "", "acme"))
        await world.live_until(lambda: world.tp.find("tenants", "", "", "acme") is None)
        assert world.tp.all("pods") == []

    play(story)


def test_shards_divide_the_work_and_only_the_first_runs_the_small_ones(
    play: Any, deployment: Any
) -> None:
    async def story(world: Any) -> None:
        first, second = _start(world, 0, MIDDLE), _start(world, MIDDLE, 2**63 - 1)
        assert set(second) == {
            "tp-1/serviceaccount", "tp-1/serviceaccount-token",
            "tp-1/root-ca-certificate-publisher", "tp-1/deployment", "tp-1/replicaset",
            "tp-1/endpoint",
        }  # fmt: skip
        assert len(first) == len(registry.CONTROLLERS)
        await settle()
        for number in range(8):
            world.tp.put("deployments.apps", deployment(2, f"web-{number}"))
        # Everything without nodes: podgc must not take pods of unknown nodes for orphans at once.
        await world.clock.advance(2)
        assert len(world.tp.all("replicasets.apps")) == 8
        assert len(world.tp.all("pods")) == 16
        for number in range(4):
            await world.client.delete(
                "deployments.apps", Key("acme", "default", f"web-{number}"),
                propagationPolicy="Background",
            )  # fmt: skip
        await world.clock.advance(5)
        assert len(world.tp.all("pods")) == 8

    play(story)
