"""A partition stands still, is replaced on another machine, and wakes up: it must change nothing.

Nobody kills the old one. Callers that are still connected to it go on writing to both; whatever
either acknowledged must be in the log, in the order in which it was, and the new one must hold what
the log says.
"""

from __future__ import annotations

import asyncio
import contextlib

import orjson
from consistency import LOST, Played

from arktos_ray.api.errors import AlreadyExists, Conflict, NotFound
from arktos_ray.api.names import SYSTEM_TENANT, Key
from arktos_ray.client.port import Client
from arktos_ray.testing.sim import Faults, SimCluster

GVR = "configmaps"
CALLERS = 4


class Caller:
    """Creates one object after the other, on whatever connection it has."""

    def __init__(self, client: Client, number: int) -> None:
        self.client, self.number = client, number
        self.made: dict[str, int] = {}

    async def run(self) -> None:
        count = 0
        while True:
            count += 1
            name = f"c{self.number}-{count}"
            with contextlib.suppress(AlreadyExists, Conflict, NotFound, *LOST):
                body = {"metadata": {"name": name}, "data": {"n": str(count)}}
                made = await self.client.create(GVR, SYSTEM_TENANT, "default", body)
                self.made[name] = int(made["metadata"]["resourceVersion"])
            await asyncio.sleep(0.003)


def play(seed: int) -> Played:
    faults = Faults(disk_delay_s=(0.001, 0.02))
    with SimCluster(
        seed, tenant_partitions=1, resource_partitions=0, faults=faults, with_parts=False
    ) as sim:
        callers = [Caller(sim.client("tp-1", name=f"caller-{i}"), i) for i in range(CALLERS)]
        sim.run_until(lambda: sim.processes["tp-1"].started)
        work = [sim.loop.create_task(caller.run()) for caller in callers]
        for _ in range(3):
            sim.run_for(sim.random.uniform(0.05, 0.3))
            sim.stall("tp-1", sim.random.uniform(0.2, 3.0))
            sim.run_for(sim.random.uniform(0.01, 0.5))
            sim.replace("tp-1", kill=False)
        sim.run_for(4)
        for task in work:
            task.cancel()
        sim.loop.run_until_complete(asyncio.gather(*work, return_exceptions=True))
        for _, life, connections in sim.processes["tp-1"].ghosts:
            assert not life.stalled
            for connection in connections:
                connection.break_off()
        sim.crash("tp-1")
        sim.run_until(lambda: sim.processes["tp-1"].started)

        async def look() -> None:
            client = sim.client("tp-1")
            for caller in callers:
                for name, revision in caller.made.items():
                    found = await client.get(GVR, Key(SYSTEM_TENANT, "default", name))
                    assert found["metadata"]["resourceVersion"] == str(revision), name

        sim.run(look())
        rows = [row for row in sim.processes["tp-1"].disk.rows.values() if row.gvr == GVR]
        paths = [row.path for row in rows]
        assert len(set(paths)) == len(paths), "two lives wrote the same object"
        revisions = [int(orjson.loads(row.body)["metadata"]["resourceVersion"]) for row in rows]
        assert revisions == sorted(revisions), "an older life wrote behind a newer one"
        total = sum(len(caller.made) for caller in callers)
        return Played(dict(sim.counts), total, sim.loop.virtual)
