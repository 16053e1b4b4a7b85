"""A tenant that wants a hundred times its share, and its neighbours: in virtual time, where a
partition's work takes as long as it is modelled to, and the loop does nothing else meanwhile.

The ingress's dispatcher, the streams, the partition and its store are the real ones.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from arktos_ray.actors.streams import StreamPeer
from arktos_ray.api import lanes
from arktos_ray.api.calls import Call, Peer, Reply, User
from arktos_ray.apiserver import turns
from arktos_ray.apiserver.verbs import list as list_verb
from arktos_ray.base.tasks import Tasks
from arktos_ray.ingress.dispatch import Dispatcher
from arktos_ray.ingress.limits import Limits
from arktos_ray.testing.sim import Faults, SimCluster

ADMIN = User("admin", "system", ("system:masters",))
NODE = User("system:node:n1", "system", ("system:nodes", "system:masters"))
QUIET = ("ann", "bea", "cas", "dee")
NOISY = "max"
# The noisy tenant's: a list is some 10 MB, 10 ms of a partition.
LARGE, LARGE_BYTES = 800, 12_000
PERIOD_S = 0.05
# In quiet a neighbour waits for nobody. Beside the noisy one it may wait for what is on its way
# already: a turn in the partition, and a commit of more rows.
FACTORS = {"heartbeat": 2.0, "administrator": 12.0, "get": 12.0, "create": 6.0, "list": 12.0}

Latencies = dict[str, list[float]]


class Upstream:
    def __init__(self, sim: SimCluster) -> None:
        self._peers = {
            name: StreamPeer(name, sim._connector("outside", name)) for name in ("tp-1", "rp-1")
        }

    def owner_of(self, tenant: str, storage: str = "") -> str:
        return "tp-1"

    def tenant_uid(self, tenant: str) -> str | None:
        return None

    def tenant_partitions(self) -> Sequence[str]:
        return ["tp-1"]

    def resource_partitions(self) -> Sequence[str]:
        return ["rp-1"]

    def taking_nodes(self) -> Sequence[str]:
        return ["rp-1"]

    def topology_version(self) -> int:
        return 1

    def peer(self, partition: str) -> Peer:
        return self._peers[partition]

    def logs(
        self, tenant: str, namespace: str, pod: str, options: Mapping[str, str]
    ) -> AsyncIterator[bytes]:
        raise NotImplementedError


class Story:
    def __init__(self, sim: SimCluster, seconds: float) -> None:
        self.sim, self.seconds = sim, seconds
        self.tasks = Tasks()
        self.names = (f"x{number}" for number in itertools.count())
        self.latencies: Latencies = {}
        self.noisy_calls = 0
        self.refused = 0

        async def begin() -> Dispatcher:
            return Dispatcher(Upstream(sim), sim.clock, self.tasks, Limits())

        self.dispatcher = sim.run(begin())

    async def say(self, verb: str, user: User, tenant: str, **more: Any) -> Reply:
        gvr, body = more.pop("gvr", "configmaps"), more.pop("body", None)
        namespace = more.pop("namespace", "default")
        call = Call(
            verb, gvr, tenant, namespace, body=orjson.dumps(body) if body else b"",
            content_type="application/json", user=user, **more,
        )  # fmt: skip
        reply = await self.dispatcher.call(call)
        assert reply.code in (200, 201, 429), reply.body
        return reply

    async def create(self, user: User, tenant: str, size: int = 500) -> Reply:
        body = {"metadata": {"name": next(self.names)}, "data": {"x": "y" * size}}
        return await self.say("create", user, tenant, body=body)

    async def set_up(self) -> None:
        for tenant in (*QUIET, NOISY):
            body: dict[str, Any] = {
                "metadata": {"name": tenant}, "spec": {"storageClusterId": "0"},
            }  # fmt: skip
            await self.say("create", ADMIN, "", gvr="tenants", namespace="", body=body)
            body = {"metadata": {"name": "default"}}
            await self.say("create", ADMIN, tenant, gvr="namespaces", namespace="", body=body)
            body = {"metadata": {"name": "known"}, "data": {"x": "y"}}
            await self.say("create", ADMIN, tenant, body=body)
        lease = {"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1"}}
        await self.say(
            "create", NODE, "system", gvr="leases.coordination.k8s.io",
            namespace="kube-node-lease", body=lease,
        )  # fmt: skip
        for _ in range(LARGE):
            await self.create(ADMIN, NOISY, LARGE_BYTES)

    # Who does what

    async def _timed(self, what: str, work: Awaitable[Reply]) -> None:
        start = self.sim.loop.time()
        reply = await work
        assert reply.ok, "a quiet caller is never refused"
        self.latencies.setdefault(what, []).append(self.sim.loop.time() - start)

    async def _regularly(self, start: float, work: Callable[[], Awaitable[None]]) -> None:
        """Does not wait for the last one: a slow answer does not thin out the questions."""
        loop = self.sim.loop
        running = []
        for number in range(int(self.seconds / PERIOD_S)):
            await asyncio.sleep(max(0.0, start + number * PERIOD_S - loop.time()))
            running.append(self.tasks.start(work(), "regular"))  # type: ignore[arg-type]
        await asyncio.gather(*running)

    async def quiet(self) -> None:
        loop = self.sim.loop
        jobs = []
        for number, tenant in enumerate(QUIET):
            user = User("admin", tenant)

            async def work(user: User = user, tenant: str = tenant) -> None:
                await self._timed("get", self.say("get", user, tenant, name="known"))
                await self._timed("create", self.create(user, tenant))
                await self._timed("list", self.say("list", user, tenant))

            jobs.append(self._regularly(loop.time() + number * 0.011, work))

        async def heartbeat() -> None:
            body = {"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1"}}
            renewal = self.say(
                "update", NODE, "system", gvr="leases.coordination.k8s.io",
                namespace="kube-node-lease", name="n1", body=body,
            )  # fmt: skip
            await self._timed("heartbeat", renewal)

        async def administrator() -> None:
            await self._timed("administrator", self.say("get", ADMIN, "ann", name="known"))

        jobs += [
            self._regularly(loop.time(), heartbeat),
            self._regularly(loop.time(), administrator),
        ]
        await asyncio.gather(*jobs)

    def noise(self) -> list[asyncio.Task[Any]]:
        """160 callers that never pause, and 30 watches of their own churn."""
        user = User("admin", NOISY)

        async def again(work: Callable[[], Awaitable[Reply]]) -> None:
            while True:
                reply = await work()
                self.noisy_calls += 1
                if not reply.ok:
                    self.refused += 1
                    await asyncio.sleep(0.1)

        async def watch(number: int) -> None:
            options = {"labelSelector": f"n!={number}"}
            call = Call("watch", "configmaps", NOISY, "default", options=options, user=user)
            events, _ = self.dispatcher.watch(call)
            async for _ in events:
                pass

        works: list[tuple[int, Callable[[], Awaitable[Reply]]]] = [
            (60, lambda: self.say("get", user, NOISY, name="known")),
            (60, lambda: self.create(user, NOISY)),
            (25, lambda: self.say("list", user, NOISY)),
            (15, lambda: self.say("list", user, NOISY, options={"limit": "200"})),
        ]
        tasks = [
            self.tasks.start(again(work), "noise") for count, work in works for _ in range(count)
        ]
        return tasks + [self.tasks.start(watch(number), "noise") for number in range(30)]


@contextmanager
def modelled(sim: SimCluster) -> Iterator[None]:
    """A partition does what it took on for as long as that takes, and nothing else meanwhile."""

    def schedule(self: turns.Turns) -> None:
        def work() -> None:
            taken_us, self._left_us = turns.TURN_US - self._left_us, 0
            sim.loop.call_later(taken_us / 1e6, self._next)

        self._scheduled = True
        sim.loop.call_soon(work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns.Turns, "_schedule", schedule)
        # A slice of objects of this size costs what a slice is meant to cost.
        patch.setattr(list_verb, "_JOINED", turns.SLICE_US * lanes.LIST_BYTES_PER_US // LARGE_BYTES)
        yield


def measure(*, noisy: bool, seconds: float = 0.6) -> Story:
    # No dice in the network or the disk: what differs is the neighbour.
    faults = Faults(network_delay_s=(0.0005, 0.0005), disk_delay_s=(0.003, 0.003))
    with SimCluster(
        1, tenant_partitions=1, resource_partitions=1, with_parts=False, faults=faults
    ) as sim:
        sim.run_until(lambda: all(process.started for process in sim.processes.values()))
        story = Story(sim, seconds)
        sim.run(story.set_up(), within_s=1_000)
        with modelled(sim):

            async def run() -> None:
                noise = story.noise() if noisy else []
                await asyncio.sleep(0.3)
                await story.quiet()
                for task in noise:
                    task.cancel()

            sim.run(run(), within_s=1_000)
        return story


def p99_ms(story: Story) -> dict[str, float]:
    return {
        what: sorted(values)[int(len(values) * 0.99)] * 1_000
        for what, values in sorted(story.latencies.items())
    }


@pytest.fixture(scope="module")
def calm() -> dict[str, float]:
    return p99_ms(measure(noisy=False))


def beyond(calm: dict[str, float], beside: dict[str, float]) -> dict[str, str]:
    """Who is hurt more than promised."""
    return {
        what: f"{calm[what]:.1f} ms alone, {beside[what]:.1f} ms beside the noisy tenant"
        for what in calm
        if beside[what] > calm[what] * FACTORS[what]
    }


def test_a_tenant_with_a_hundred_times_the_load_does_not_hurt_its_neighbours(
    calm: dict[str, float],
) -> None:
    story = measure(noisy=True)
    quiet_calls = sum(map(len, story.latencies.values())) / (len(QUIET) + 2)
    assert story.noisy_calls > 50 * quiet_calls, "it gets what the others do not need"
    assert not beyond(calm, p99_ms(story))
