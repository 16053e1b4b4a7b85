"""Tenants that move between partitions while they are used, and what nobody may notice of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import consistency
import pytest
from consistency import (
    GVR,
    HOMES,
    LIMITS,
    Front,
    Lister,
    Peeker,
    Rows,
    Truth,
    View,
    Watcher,
    Writer,
)
from test_stories import (
    check_no_node_is_oversubscribed,
    create,
    deployment,
    make_tenants,
    running,
)

from arktos_ray.api.calls import Call, Reply, User, WatchEvent
from arktos_ray.api.errors import Failure
from arktos_ray.client.port import Client
from arktos_ray.store import store
from arktos_ray.store.backends.memory import MemoryDisk
from arktos_ray.testing.sim import Faults, SimCluster

PARTITIONS = ("tp-1", "tp-2")


class MovingFront(Front):
    """An ingress: it learns where tenants are from the partitions alone.

    In a tenant everybody is its administrator: what they may moves along.
    """

    def __init__(self, sim: SimCluster) -> None:
        super().__init__(sim)
        self.owners = dict(HOMES)

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        return await super().call([_as_administrator(call) for call in calls])

    def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        return super().watch(_as_administrator(call))

    def moved(self, tenant: str, to: str) -> None:
        self.owners[tenant] = to

    def owner_of(self, tenant: str, storage: str = "") -> str:
        return self.owners.get(tenant, "tp-1")


def _as_administrator(call: Call) -> Call:
    return replace(call, user=User("admin", call.tenant)) if call.tenant in HOMES else call


class MovingWorld(consistency.World):
    """Everybody goes through the front: nobody else is told where a tenant is."""

    def __init__(self, sim: SimCluster, seed: int) -> None:
        super().__init__(sim, seed)
        self.front = MovingFront(sim)

    def client(self, name: str) -> Client:
        return super().client("front")

    def check_gone(self, view: View, revision: int) -> None:
        floors = []
        for home in PARTITIONS:
            process: Any = self.sim.processes[home]
            if process.part is None or not process.started:
                return
            kept = process.part.store
            floors.append(kept.history(GVR).floor)
            # Of what came in, as much is known as the other partition knew.
            # And a tenant that comes back drops what was left here of its first time.
            wide = view.tenant == "all"
            floors += [
                floor
                for (gvr, who), floor in kept._tenant_floors.items()
                if gvr == GVR and (wide or who != "*")
            ]
        assert revision < max(floors), "Expired, and nothing is gone"


class ForPages:
    """For who lists: a page of all tenants as they were before a move is nobody's to give."""

    def __init__(self, world: MovingWorld) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world, name)

    def check_gone(self, view: View, revision: int) -> None:
        parts: list[Any] = [self._world.sim.processes[home].part for home in PARTITIONS]
        if view.tenant == "all" and any(p is None or revision < p.store.reshaped for p in parts):
            return
        self._world.check_gone(view, revision)


def homes_of(sim: SimCluster, tenant: str) -> list[str]:
    parts: list[Any] = [sim.part(name) for name in PARTITIONS]
    return [p.name for p in parts if p.store.get("tenants", f"//{tenant}") is not None]


async def ask_to_move(sim: SimCluster, front: MovingFront, tenant: str) -> None:
    source = front.owners[tenant]
    target = next(name for name in PARTITIONS if name != source)
    try:
        await front.peer(target).request("move-in", {"tenant": tenant, "from": source})
    except Failure:
        return  # It is away, or the tenant is just moving; somebody asks again.


def one_disk(disks: Sequence[MemoryDisk]) -> MemoryDisk:
    """All that was ever durable; a row that moved was on both, and the same."""
    together = MemoryDisk()
    together.rows = Rows()
    for disk in disks:
        assert isinstance(disk.rows, Rows)
        for revision, row in disk.rows.all.items():
            assert together.rows.get(revision, row) == row
            together.rows[revision] = row
    return together


def play(seed: int, *, steps: int = 80, writers: int = 6, crashes: bool = True) -> list[float]:
    """The story of consistency.py, with tenants that move to and fro; the pauses of writes, ms."""
    faults = Faults(
        reset_chance=0.004 if crashes else 0.0, restart_s=0.2, disk_delay_s=(0.001, 0.02)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "HistoryLimits", lambda: LIMITS)
        patch.setattr(store, "_BACKLOG_CHANGES_MAX", 8)
        patch.setattr(store, "_COMPACT_INTERVAL_S", 0.7)
        sim = SimCluster(
            seed, tenant_partitions=2, resource_partitions=0, faults=faults, with_parts=False
        )
        disks = []
        for process in sim.processes.values():
            process.disk.rows = Rows()
            disks.append(process.disk)
        pauses: list[float] = []
        with sim:
            world = MovingWorld(sim, seed)
            sim.run(consistency._tenants(sim))
            _run(sim, world, steps, writers, crashes, pauses)
            found = {}
            for tenant in HOMES:
                homes = homes_of(sim, tenant)
                assert len(homes) == 1, f"{tenant} is in {homes}"
                found[tenant] = homes[0]
            present = {home: found[tenant] for tenant, home in HOMES.items()}
            truth = Truth([one_disk(disks)])
            real = sim.part
            patch.setattr(sim, "part", lambda name: real(present[name]))
            consistency.check(world, truth)
        return pauses


def _run(
    sim: SimCluster, world: MovingWorld, steps: int, writers: int, crashes: bool,
    pauses: list[float],
) -> None:  # fmt: skip
    views = [
        (View("acme", ""), "tp-1"), (View("beta", "red"), "tp-2"), (View("all", ""), "front"),
        (View("all", "blue"), "front"), (View("acme", "red"), "front"),
    ]  # fmt: skip
    others = [Watcher(world, view, who, i).run() for i, (view, who) in enumerate(views)]
    others += [Lister(ForPages(world), i).run() for i in range(3)]  # type: ignore[arg-type]
    others += [Peeker(world, tenant).run() for tenant in HOMES]
    running = [sim.loop.create_task(work) for work in others]
    work = [sim.loop.create_task(Writer(world, i).run(steps)) for i in range(writers)]
    front: Any = world.front
    seen: set[tuple[str, float]] = set()

    def note() -> None:
        for name in PARTITIONS:
            part: Any = sim.processes[name].part
            for coming in part.moves._coming.values() if part is not None and part.prepared else ():
                if coming.paused_ms and (coming.id, coming.paused_ms) not in seen:
                    seen.add((coming.id, coming.paused_ms))
                    pauses.append(coming.paused_ms)

    try:
        while not all(task.done() for task in work):
            for tenant in HOMES:
                if sim.random.random() < 0.5:
                    sim.run(ask_to_move(sim, front, tenant))
            sim.run_for(sim.random.uniform(0.03, 0.6))
            note()
            if crashes and sim.random.random() < 0.5:
                sim.crash(sim.random.choice(PARTITIONS))
            consistency._raise_failed([*work, *running])
        sim.faults = Faults()
        world.busy = 0.0
        sim.run_for(12)
        note()
        for home in PARTITIONS:
            sim.crash(home)
        sim.run_for(4)
        consistency._raise_failed([*work, *running])
    finally:
        for task in (*work, *running):
            task.cancel()
        sim.loop.run_until_complete(asyncio.gather(*work, *running, return_exceptions=True))
        sim.loop.run_until_complete(world.front.tasks.close())


@pytest.mark.parametrize("crashes", [False, True], ids=["calm", "crashing"])
def test_nobody_notices_that_a_tenant_moves(seed: int, crashes: bool) -> None:
    pauses = play(seed, crashes=crashes)
    if not crashes:
        assert pauses, "somebody moved"
        print(f"writes waited {[round(ms) for ms in sorted(pauses)]} ms")
        assert max(pauses) < 500


@pytest.mark.parametrize("method", ["move-in", "move-cancel"])
def test_who_asked_for_a_move_may_go_away_at_once(seed: int, method: str) -> None:
    """What was begun is gone on with, and what was given up is given up."""
    faults = Faults(disk_delay_s=(0.05, 0.1))
    with SimCluster(
        seed, tenant_partitions=2, resource_partitions=0, faults=faults, with_parts=False
    ) as sim:
        sim.run_until(lambda: all(process.started for process in sim.processes.values()))
        tenant = {"metadata": {"name": "acme"}, "spec": {"storageClusterId": "0"}}
        sim.run(sim.client("tp-1").create("tenants", "", "", tenant))

        def ask(method: str) -> asyncio.Task[Any]:
            caller: Any = sim.client("tp-2").caller
            return sim.loop.create_task(
                caller.request(method, {"tenant": "acme", "from": "tp-1"}), name="operator"
            )

        asked = ask("move-in")
        if method == "move-cancel":
            sim.run(asked)
            sim.run_for(0.01)
            asked = ask("move-cancel")
        sim.run_for(sim.random.uniform(0.005, 0.06))
        for connection in sim.processes["tp-2"].connections:
            connection.break_off()
        sim.run_for(10)
        assert isinstance(asked.exception(), Failure), "it was not answered"
        part: Any = sim.part("tp-2")
        assert homes_of(sim, "acme") == (["tp-2"] if method == "move-in" else ["tp-1"])
        assert part.store.staged("acme") == 0
        if method == "move-cancel":
            assert "acme" not in part.store.marks


def test_workloads_go_on_while_their_tenants_move(seed: int) -> None:
    """Exactly the pods of each Deployment, the same ones, on nodes that are not oversubscribed."""
    with SimCluster(seed, nodes=8) as sim:
        make_tenants(sim, namespaces=False)
        create(sim, "acme", "deployments.apps", deployment("web", 20))
        create(sim, "zeta", "deployments.apps", deployment("web", 20))
        sim.run_until(lambda: running(sim) == 40)
        sim.run_for(5)

        def outline() -> dict[str, Any]:
            return {
                p["metadata"]["uid"]: (
                    p["spec"]["nodeName"], p["status"]["podIP"], p["status"]["containerStatuses"],
                )
                for p in sim.objects("pods")
            }  # fmt: skip

        before = outline()
        for source, target in (("tp-1", "tp-2"), ("tp-2", "tp-1")):
            sim.run(
                sim.client(target).caller.request("move-in", {"tenant": "acme", "from": source})
            )
            sim.run_until(lambda target=target: homes_of(sim, "acme") == [target])
            sim.run_for(30)
            assert outline() == before, "no pod is made, lost, restarted or given another address"
            for name in ("rp-1", "rp-2"):
                part: Any = sim.part(name)
                held = [uid for uid in before if part.reservations.ledger.node_of(uid)]
                assert len(held) == len(part.reservations.ledger), "the books hold what is there"
            check_no_node_is_oversubscribed(sim)


@pytest.mark.parametrize("victim", ["tp-1", "tp-2", "rp-1", "shard-1", "simulated-1"])
def test_workloads_survive_crashes_while_their_tenants_move(seed: int, victim: str) -> None:
    with SimCluster(seed, nodes=8, faults=Faults(reset_chance=0.0005)) as sim:
        make_tenants(sim, namespaces=False)
        create(sim, "acme", "deployments.apps", deployment("web", 20))
        create(sim, "zeta", "deployments.apps", deployment("web", 20))
        sim.run_for(sim.random.uniform(0.5, 4))  # Some pods run, some are just starting.
        owners = {"acme": "tp-1", "zeta": "tp-2"}

        async def move(tenant: str) -> None:
            try:
                source = owners[tenant]
                target = "tp-2" if source == "tp-1" else "tp-1"
                peer = sim.client(target).caller
                await peer.request("move-in", {"tenant": tenant, "from": source})  # type: ignore[attr-defined]
            except Failure:
                return

        for _ in range(4):
            for tenant in owners:
                sim.run(move(tenant))
            sim.run_for(sim.random.uniform(0.0, 0.2))
            sim.crash(victim)
            sim.run_for(sim.random.uniform(2, 6))
            for tenant in owners:
                for home in homes_of(sim, tenant):
                    owners[tenant] = home
        sim.run_until(lambda: running(sim) == 40)
        sim.run_for(90)
        assert running(sim) == 40
        for tenant in owners:
            assert len(homes_of(sim, tenant)) == 1
            found = [
                p for p in sim.objects("pods", tenant) if not p["metadata"].get("deletionTimestamp")
            ]
            assert len(found) == 20, "each Deployment has exactly its pods"
        check_no_node_is_oversubscribed(sim)


def test_a_quota_and_a_webhook_move_along(seed: int) -> None:
    group = "admissionregistration.k8s.io"
    with SimCluster(seed, nodes=4) as sim:
        make_tenants(sim, namespaces=False)
        quota = {"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "4"}}}
        sim.run(sim.client("tp-1").create("resourcequotas", "acme", "default", quota))
        rules = [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"],
                  "resources": ["secrets"]}]  # fmt: skip
        hooks = {"metadata": {"name": "h"}, "webhooks": [{
            "name": "h.acme.example", "rules": rules, "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://h.example/"},
        }]}  # fmt: skip
        gvr = f"validatingwebhookconfigurations.{group}"
        sim.run(sim.client("tp-1").create(gvr, "acme", "", hooks))
        made = 0
        for source, target in (("tp-1", "tp-2"), ("tp-2", "tp-1"), ("tp-1", "tp-2")):

            def make(at: str, name: str, of: str = "configmaps") -> Reply:
                client = Client(sim.client(at).caller, User("admin", "acme"))
                body = {"metadata": {"name": name}}
                [reply] = sim.run(client.write([client.creating(of, "acme", "default", body)]))
                assert isinstance(reply, Reply)
                return reply

            while make(source, f"c{made}").ok:
                made += 1
            assert b"exceeded quota" in make(source, "more").body
            assert b"ReviewedApart" in make(source, "s", "secrets").body
            sim.run(
                sim.client(target).caller.request("move-in", {"tenant": "acme", "from": source})
            )
            sim.run_until(lambda target=target: homes_of(sim, "acme") == [target])
            assert b"exceeded quota" in make(target, "more").body
            assert b"ReviewedApart" in make(target, "s", "secrets").body
            sim.run_for(10)
            [kept] = sim.objects("resourcequotas", "acme")
            assert kept["status"]["used"] == {"count/configmaps": "4"}
