"""Who creates the load, and who watches it: over HTTPS, or over handles (Ray and streams)."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

import orjson

from arktos_ray.api.calls import Call, User
from arktos_ray.api.errors import Failure
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.bench.cluster import Cluster
from arktos_ray.bench.plan import Wanted, deployment
from arktos_ray.client.http import Endpoint
from arktos_ray.client.port import Client
from arktos_ray.connection import aconnect
from arktos_ray.testing.load import Load, PodObserver, Template

# Requests under way at once; a server that stalls is charged from when each was due.
CREATORS = 16
Place = tuple[str, str]  # tenant, namespace


class Refusal(Exception):
    """A Deployment that the cluster did not take."""


class Sent:
    """When each Deployment of a phase was due (seconds since 1970), and how long answers took."""

    def __init__(self) -> None:
        self.due: dict[tuple[str, str, str], float] = {}
        self.latencies_s: array[float] = array("d")


class Generator(Protocol):
    async def follow(self, tenant: str, revision: str) -> PodObserver:
        """Observes the pods of a tenant from a revision on."""

    async def create(
        self, wanted: Sequence[Wanted], places: Sequence[Sequence[Place]], rate: float, sent: Sent
    ) -> None:
        """Every Deployment, at so many pods a second; 0 is as fast as it goes. Raises Refusal."""

    async def close(self) -> None: ...


def place_of(wanted: Wanted, places: Sequence[Sequence[Place]]) -> Place:
    return places[wanted.tenant][wanted.namespace]


class OverHttps:
    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def follow(self, tenant: str, revision: str) -> PodObserver:
        observer = PodObserver()
        await observer.follow(self._endpoint, f"/api/v1/tenants/{tenant}/pods", revision)
        return observer

    async def create(
        self, wanted: Sequence[Wanted], places: Sequence[Sequence[Place]], rate: float, sent: Sent
    ) -> None:
        async with Load(self._endpoint, min(CREATORS, len(wanted))) as load:
            began = time.time()

            def requests() -> Iterator[bytes]:
                for number, one in enumerate(wanted):
                    tenant, space = place_of(one, places)
                    # As Load counts: the nth is due at n / rate, or when a connection is free.
                    due = began + number / rate if rate else time.time()
                    sent.due[tenant, space, one.name] = due
                    path = f"/apis/apps/v1/tenants/{tenant}/namespaces/{space}/deployments"
                    yield Template(
                        self._endpoint, "POST", path, orjson.dumps(deployment(one))
                    ).render()

            outcome = await load.run(requests(), rate=rate)
        sent.latencies_s.extend(outcome.latencies_s)
        if outcome.bad:
            raise Refusal(f"{outcome.bad} Deployments were refused: {outcome.first_refusal}")

    async def close(self) -> None:
        return


class OverHandles:
    """The same calls as arktos_ray.connect(transport="ray") makes: no HTTP, no TLS."""

    def __init__(self, client: Client, close: Callable[[], Awaitable[None]]) -> None:
        self._client, self._close = client, close
        self._watches: list[asyncio.Task[None]] = []

    @classmethod
    async def open(cls, cluster: Cluster) -> OverHandles:
        handle = await aconnect(cluster.kubeconfig.parent, transport="ray")
        user = User("arktos-bench", SYSTEM_TENANT, ("system:masters",))
        return cls(Client(handle.caller, user), handle.close)

    async def follow(self, tenant: str, revision: str) -> PodObserver:
        observer = PodObserver()
        self._watches.append(asyncio.create_task(self._watch(observer, tenant, revision)))
        return observer

    async def _watch(self, observer: PodObserver, tenant: str, revision: str) -> None:
        try:
            async for batch in self._client.watch("pods", tenant=tenant, resourceVersion=revision):
                now = time.time()
                for event in batch:
                    if event.body:
                        observer.seen(event.type, orjson.loads(event.body), now)
            observer.failure = "the watch ended"
        except Failure as failure:
            observer.failure = failure.message

    async def create(
        self, wanted: Sequence[Wanted], places: Sequence[Sequence[Place]], rate: float, sent: Sent
    ) -> None:
        began = time.time()
        room = asyncio.Semaphore(CREATORS)
        refusals: list[str] = []

        async def one_of(call: Call, due: float) -> None:
            try:
                [reply] = await self._client.write([call])
                if not reply.ok:
                    refusals.append(reply.body[:300].decode(errors="replace"))
            except Failure as failure:
                refusals.append(failure.message)
            finally:
                room.release()
            sent.latencies_s.append(time.time() - due)

        tasks = set()
        for number, one in enumerate(wanted):
            tenant, space = place_of(one, places)
            due = began + number / rate if rate else time.time()
            await asyncio.sleep(max(due - time.time(), 0.0))
            await room.acquire()
            sent.due[tenant, space, one.name] = due if rate else time.time()
            call = self._client.creating("deployments.apps", tenant, space, deployment(one))
            task = asyncio.create_task(one_of(call, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        if refusals:
            raise Refusal(f"{len(refusals)} Deployments were refused: {refusals[0]}")

    async def close(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await self._close()
