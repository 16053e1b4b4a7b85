"""A partition stands still, is replaced on another machine, and wakes up: it must change nothing.

Nobody kills the old one. Callers are connected to either, and write to both: names of their own,
and one object that they all change. Whatever either life acknowledged must be in the log, in the
order in which it was; nothing was changed over somebody else's head; and the new one must hold
what the log says.
"""

from __future__ import annotations

import asyncio
import contextlib
import random

import orjson
from consistency import LOST, Played

from arktos_ray.api.errors import AlreadyExists, Conflict, NotFound
from arktos_ray.api.names import SYSTEM_TENANT, Key
from arktos_ray.client.port import Client
from arktos_ray.store.port import Row
from arktos_ray.testing.sim import Faults, SimCluster

GVR = "configmaps"
CALLERS = 4
SHARED = Key(SYSTEM_TENANT, "default", "shared")


class Caller:
    """Creates one object after the other, and changes the shared one, on whatever connection it
    has: now and then on a new one, to whoever is there by then."""

    def __init__(self, sim: SimCluster, number: int) -> None:
        self._sim, self._number = sim, number
        self._rng = random.Random(f"caller {sim.seed} {number}")
        self.made: dict[str, int] = {}
        self.based_on: dict[int, int] = {}  # revision of a change -> of what it changed

    async def run(self) -> None:
        client = self._connected()
        while True:
            if self._rng.random() < 0.1:
                client = self._connected()
            with contextlib.suppress(AlreadyExists, Conflict, NotFound, *LOST):
                await (self._create(client) if self._rng.random() < 0.5 else self._change(client))
            await asyncio.sleep(0.003)

    def _connected(self) -> Client:
        return self._sim.client("tp-1", name=f"caller-{self._number}")

    async def _create(self, client: Client) -> None:
        name = f"c{self._number}-{len(self.made)}-{self._rng.randrange(1 << 30)}"
        made = await client.create(GVR, SYSTEM_TENANT, "default", {"metadata": {"name": name}})
        self.made[name] = int(made["metadata"]["resourceVersion"])

    async def _change(self, client: Client) -> None:
        found = await client.get(GVR, SHARED)
        base = int(found["metadata"]["resourceVersion"])
        found["data"] = {"by": f"{self._number}-{self._rng.randrange(1 << 30)}"}
        changed = await client.update(GVR, SHARED, found)
        self.based_on[int(changed["metadata"]["resourceVersion"])] = base


def play(seed: int) -> Played:
    faults = Faults(disk_delay_s=(0.001, 0.02))
    with SimCluster(
        seed, tenant_partitions=1, resource_partitions=0, faults=faults, with_parts=False
    ) as sim:
        disk = sim.processes["tp-1"].disk
        rows: list[Row] = []  # as they reached the disk
        disk.listeners.append(lambda row: rows.append(row) if row.gvr == GVR else None)
        callers = [Caller(sim, i) for i in range(CALLERS)]
        sim.run_until(lambda: sim.processes["tp-1"].started)
        shared = {"metadata": {"name": SHARED.name}}
        sim.run(sim.client("tp-1").create(GVR, SYSTEM_TENANT, "default", shared))
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
        changes = [row.revision for row in rows if row.path == SHARED.path()]
        before = dict(zip(changes[1:], changes, strict=False))
        for caller in callers:
            for revision, base in caller.based_on.items():
                assert before.get(revision) == base, "two lives changed the same object"
        revisions = [int(orjson.loads(row.body)["metadata"]["resourceVersion"]) for row in rows]
        assert revisions == sorted(revisions), "an older life wrote behind a newer one"
        total = sum(len(caller.made) + len(caller.based_on) for caller in callers)
        return Played(dict(sim.counts), total, sim.loop.virtual)
