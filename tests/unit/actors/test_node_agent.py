"""A machine as a node: over a runtime in memory, partitions in memory, and virtual time."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
import pytest

from arktos_ray.actors.node_agent import NodeAgent, machine_facts
from arktos_ray.api import errors
from arktos_ray.api.calls import Call, Reply, User
from arktos_ray.api.names import Key
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client
from arktos_ray.runtime.fake import FakeHost, FakeRuntime
from arktos_ray.testing.fakes import FakeClock, FakePartition


class Issuing(FakePartition):
    """Gives a token to whoever asks for one of an account."""

    def __init__(self, clock: FakeClock, seed: int) -> None:
        super().__init__(clock, seed)
        self.asked: list[dict[str, Any]] = []

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        if not self.down and calls[0].subresource == "token":
            spec = orjson.loads(calls[0].body)["spec"]
            self.asked.append(spec)
            body = {"spec": spec, "status": {"token": f"token-{len(self.asked)}"}}
            return [Reply(201, orjson.dumps(body))]
        return await super().call(calls)


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.host = FakeHost()
        self.rp = FakePartition(self.clock, 1)
        self.tps = {"tp-1": Issuing(self.clock, 2), "tp-2": Issuing(self.clock, 3)}
        self.boot()

    def boot(self) -> None:
        user = User("system:node:here", trusted=True)
        self.runtime = FakeRuntime(self.clock, self.host)
        self.agent = NodeAgent(
            "here",
            Client(self.rp, user),
            {name: Client(tp, user) for name, tp in self.tps.items()},
            self.runtime,
            self.clock,
            Tasks(),
        )

    async def start(self) -> None:
        await self.agent.start()
        await self.clock.advance(2)

    async def restart(self) -> None:
        await self.agent.close()
        self.boot()
        await self.start()

    def put(
        self, name: str, tp: str = "tp-1", tenant: str = "acme", volumes: Any = (),
        **container: Any,
    ) -> None:  # fmt: skip
        main = {"name": "main", "image": "i:1", **container}
        self.tps[tp].put(
            "pods",
            {
                "metadata": {"tenant": tenant, "namespace": "default", "name": name},
                "spec": {
                    "nodeName": "here",
                    "restartPolicy": "Always",
                    "containers": [main],
                    "volumes": list(volumes),
                },
                "status": {"phase": "Pending"},
            },
        )
        self.tps[tp].wake()

    def pod(self, name: str, tp: str = "tp-1", tenant: str = "acme") -> dict[str, Any]:
        return self.tps[tp].find("pods", tenant, "default", name) or {"status": {"phase": "gone"}}

    def phase(self, name: str, tp: str = "tp-1", tenant: str = "acme") -> str:
        return str(self.pod(name, tp, tenant)["status"]["phase"])

    def conditions(self) -> dict[str, str]:
        node = self.rp.find("nodes", "", "", "here")
        assert node is not None
        return {c["type"]: c["status"] for c in node["status"]["conditions"]}

    def lease(self) -> dict[str, Any]:
        found = self.rp.find("leases.coordination.k8s.io", "system", "kube-node-lease", "here")
        assert found is not None
        return found


def story(test: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        world = World()
        try:
            await test(world)
        finally:
            await world.agent.close()

    def named() -> None:
        asyncio.run(run())

    return named


@story
async def test_the_machine_registers_with_what_it_really_has(world: World) -> None:
    await world.start()
    node = world.rp.find("nodes", "", "", "here")
    assert node is not None
    assert "arktos.io/simulated" not in node["metadata"]["labels"]
    facts = machine_facts()
    assert node["status"]["capacity"]["cpu"] == str(facts.cpus)
    assert node["status"]["nodeInfo"]["containerRuntimeVersion"] == "fake://1.0"
    assert world.conditions()["Ready"] == "True"
    lease = world.lease()
    assert lease["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]


@story
async def test_the_lease_is_renewed_and_an_unchanged_status_is_not_written(world: World) -> None:
    await world.start()
    await world.clock.advance(30)
    renewed = world.lease()["spec"]["renewTime"]
    writes = len([c for b in world.rp.batches for c in b if c.gvr == "nodes"])
    await world.clock.advance(11)
    assert world.lease()["spec"]["renewTime"] > renewed
    assert len([c for b in world.rp.batches for c in b if c.gvr == "nodes"]) == writes


@story
async def test_losing_the_runtime_shows_in_the_conditions_and_so_does_its_return(
    world: World,
) -> None:
    await world.start()
    world.runtime.down = True
    await world.clock.advance(5)
    assert world.conditions()["ContainerRuntimeReady"] == "False"
    assert world.conditions()["Ready"] == "False"
    world.runtime.down = False
    await world.clock.advance(5)
    assert world.conditions()["Ready"] == "True"


@story
async def test_a_partition_that_is_away_at_first_is_waited_for(world: World) -> None:
    world.rp.down = True
    await world.start()
    world.rp.down = False
    await world.clock.advance(10)
    assert world.conditions()["Ready"] == "True"


@story
async def test_pods_of_all_partitions_run_and_their_statuses_go_home(world: World) -> None:
    await world.start()
    world.put("web")
    world.put("web", "tp-2", "other")
    await world.clock.advance(3)
    assert world.phase("web") == "Running"
    assert world.phase("web", "tp-2", "other") == "Running"


@story
async def test_a_deleted_pod_is_stopped_before_it_goes(world: World) -> None:
    await world.start()
    world.put("web")
    await world.clock.advance(3)
    client = Client(world.tps["tp-1"], User("someone"))
    await client.delete("pods", Key("acme", "default", "web"), gracePeriodSeconds=5)
    await world.clock.advance(5)
    assert world.phase("web") == "gone"
    assert world.host.sandboxes == {}


@story
async def test_a_restart_leaves_everything_as_it_is_even_while_a_partition_is_away(
    world: World,
) -> None:
    await world.start()
    world.put("web")
    world.put("web", "tp-2", "other")
    await world.clock.advance(3)
    before = await world.runtime.observe()
    status = world.pod("web")["status"]
    world.tps["tp-2"].down = True
    world.tps["tp-2"].wake()
    await world.restart()
    await world.clock.advance(60)
    assert await world.runtime.observe() == before
    assert world.pod("web")["status"] == status
    # A pod that went while nobody looked goes too, once its partition has spoken.
    world.tps["tp-2"].drop("pods", world.pod("web", "tp-2", "other"))
    world.tps["tp-2"].down = False
    await world.clock.advance(10)
    assert [w.ref.tenant for w in await world.runtime.observe()] == ["acme"]


@story
async def test_statuses_wait_for_a_partition_that_is_away(world: World) -> None:
    await world.start()
    world.put("web", command=["sh", "-c", "sleep 5; exit 1"])
    await world.clock.advance(3)
    world.tps["tp-1"].down = True
    await world.clock.advance(10)
    world.tps["tp-1"].down = False
    await world.clock.advance(10)
    [container] = world.pod("web")["status"]["containerStatuses"]
    assert container["restartCount"] >= 1


@story
async def test_a_pod_waits_for_the_secret_that_it_names(world: World) -> None:
    await world.start()
    value_from = {"secretKeyRef": {"name": "keys", "key": "word"}}
    world.put(
        "web",
        command=["sh", "-c", "echo the word is $WORD; sleep 1000"],
        env=[{"name": "WORD", "valueFrom": value_from}],
    )
    await world.clock.advance(3)
    [container] = world.pod("web")["status"]["containerStatuses"]
    waiting = container["state"]["waiting"]
    assert waiting["reason"] == "CreateContainerConfigError"
    assert waiting["message"] == 'secret "keys" not found'
    metadata = {"tenant": "acme", "namespace": "default", "name": "keys"}
    data = {"word": base64.b64encode(b"please").decode()}
    world.tps["tp-1"].put("secrets", {"metadata": metadata, "data": data})
    await world.clock.advance(8)
    assert world.phase("web") == "Running"
    payload = {"tenant": "acme", "namespace": "default", "name": "web"}
    chunks = [chunk async for chunk in world.agent.subscribe("log", payload)]
    assert b"".join(chunks) == b"the word is please\n"


@story
async def test_logs_that_cannot_be_had_are_explained(world: World) -> None:
    await world.start()
    world.put("web", command=["sh", "-c", "echo hi; sleep 1000"])
    await world.clock.advance(3)

    async def ask(**payload: Any) -> list[Any]:
        whole = {"tenant": "acme", "namespace": "default", "name": "web", **payload}
        return [chunk async for chunk in world.agent.subscribe("log", whole)]

    assert await ask() == [b"hi\n"]
    with pytest.raises(errors.NotFound):
        await ask(name="nobody")
    with pytest.raises(errors.BadRequest, match="not valid for pod"):
        await ask(container="nothing")
    with pytest.raises(errors.BadRequest, match="previous terminated"):
        await ask(previous=True)


@story
async def test_stats_tell_what_runs(world: World) -> None:
    await world.start()
    world.put("web")
    await world.clock.advance(3)
    stats = await world.agent.request("stats", None)
    assert stats["runtime"] == "ready"
    assert [c["pod"] for c in stats["containers"]] == ["web"]


@story
async def test_a_container_finds_a_token_of_its_account_and_later_another(world: World) -> None:
    made = world.tps["tp-1"].asked
    await world.start()
    sources = [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]
    world.put("web", volumes=[{"name": "access", "projected": {"sources": sources}}])
    pod = world.pod("web")
    await world.clock.advance(8)
    assert world.phase("web") == "Running"
    [asked] = made
    assert asked["boundObjectRef"]["uid"] == pod["metadata"]["uid"]
    await world.clock.advance(2600)
    assert len(made) == 1
    await world.clock.advance(300)
    assert len(made) == 2
    files = world.host.files[pod["metadata"]["uid"]]
    assert files == {"access/token": b"token-2", "access/tenant": b"acme"}
