"""The supervisor's rounds, over actors that do what the test says."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from arktos_ray.actors.cast import Actor, cast, settings
from arktos_ray.actors.part import Surroundings
from arktos_ray.actors.supervisor import Restarting, Supervisor, Watched, hangs
from arktos_ray.api.errors import Failure, NotFound, Unavailable
from arktos_ray.base.ids import Ids
from arktos_ray.base.places import Places
from arktos_ray.config import Config
from arktos_ray.tenancy.topology import Topology, fitted, initial
from arktos_ray.testing.fakes import FakeClock


def report(pid: int, ready: bool = True, **stats: Any) -> dict[str, Any]:
    return {"pid": pid, "ready": ready, "stats": stats, "failure": "", "told": 1}


@pytest.fixture
def watched() -> Watched:
    return Watched(Actor("tp-1", "tenant partition", "x:Y"))


def test_another_pid_is_a_restart(watched: Watched) -> None:
    watched.reported(report(10), 0.0)
    watched.reported(report(10), 1.0)
    assert watched.restarts == 0
    watched.reported(report(11), 2.0)
    assert (watched.restarts, watched.pid, watched.state) == (1, 11, "running")


def test_who_does_not_answer_three_times_in_a_row_hangs(watched: Watched) -> None:
    watched.reported(report(10), 0.0)
    for failures in (1, 2, 3):
        watched.silent("no answer")
        assert (hangs(watched, float(failures), 3, 60.0) is not None) == (failures == 3)

    watched.reported(report(10), 4.0)

    assert hangs(watched, 4.0, 3, 60.0) is None


def test_who_recovers_for_long_is_left_in_peace_until_the_deadline(watched: Watched) -> None:
    watched.reported(report(10, ready=False), 0.0)
    for _ in range(50):
        watched.silent("busy")
    assert hangs(watched, 50.0, 3, 60.0) is None
    assert hangs(watched, 61.0, 3, 60.0) is not None


def test_restarting_is_not_hanging(watched: Watched) -> None:
    watched.reported(report(10), 0.0)
    for second in range(10):
        watched.restarting("Ray starts it again")
        assert hangs(watched, float(second), 3, 60.0) is None


def test_counters_become_rates(watched: Watched) -> None:
    watched.reported(report(10, calls=100, objects={"pods": 1}), 0.0)
    watched.reported(report(10, calls=600, objects={"pods": 1}), 5.0)
    assert watched.rates == {"calls": 100.0}


def test_a_new_process_counts_from_its_own_beginning(watched: Watched) -> None:
    watched.reported(report(10, calls=1000), 0.0)
    watched.reported(report(11, calls=3), 6.0)
    watched.reported(report(11, calls=13), 11.0)
    assert watched.rates == {"calls": 2.0}


class FakeFleet:
    def __init__(self) -> None:
        self.reports: dict[str, dict[str, Any] | Failure] = {}
        self.did: list[tuple[str, str]] = []

    async def start(self, actor: Actor) -> None:
        self.did.append(("start", actor.name))

    async def report(self, name: str, deadline_s: float) -> dict[str, Any]:
        said = self.reports.get(name, NotFound(f"{name} is not running"))
        if isinstance(said, Failure):
            raise said
        return said

    async def stop(self, name: str, grace_s: float) -> None:
        self.did.append(("stop", name))
        if isinstance(self.reports.get(name), Failure):
            raise Unavailable(f"{name} does not answer")

    async def kill(self, name: str) -> bool:
        self.did.append(("kill", name))
        return True


class Kept:
    """A topology that is kept in memory."""

    def __init__(self) -> None:
        self.topology: Topology | None = None

    def load(self) -> Topology | None:
        return self.topology

    def save(self, topology: Topology) -> None:
        self.topology = topology


def supervised(tmp_path: Path, names: list[str]) -> tuple[Supervisor, FakeFleet, FakeClock]:
    actors = [Actor(name, "tenant partition", "x:Y", stage=i) for i, name in enumerate(names)]
    spec = {
        "name": "supervisor", "home": str(tmp_path), "run_dir": str(tmp_path),
        "topology": initial(1, 0).pack(), "cluster": {"version": "1"},
        "health": {
            "period_s": 1.0, "deadline_s": 1.0, "failures_max": 3, "start_deadline_s": 60.0,
            "stop_deadline_s": 1.0,
        },
    }  # fmt: skip
    clock, fleet = FakeClock(), FakeFleet()

    def unused(*_: Any) -> Any:
        raise AssertionError("the supervisor needs no disk of its own")

    def connect(name: str) -> Any:
        async def refused() -> Any:
            raise Unavailable(f"{name} is not reached in this test")

        return refused

    around = Surroundings(clock, Ids(1), connect, unused, unused, listens=False)
    return Supervisor(spec, around, fleet, Kept(), lambda _: actors), fleet, clock


def test_rounds_start_who_is_absent_and_kill_who_hangs(tmp_path: Path) -> None:
    async def story() -> None:
        supervisor, fleet, clock = supervised(tmp_path, ["gone", "fine", "hung"])
        fleet.reports = {"fine": report(1), "hung": report(2)}
        await supervisor.start()
        await clock.advance(0.5)
        assert fleet.did == [("start", "gone")]
        fleet.reports |= {"gone": report(3), "hung": Unavailable("no answer in 1 s")}
        fleet.did.clear()
        await clock.advance(3.1)
        assert fleet.did == [("kill", "hung")]
        fleet.reports["hung"] = report(4)
        await clock.advance(1.0)
        states = {n: (s, r) for n, s, r, _ in await supervisor.request("readiness", None)}
        assert states == {"gone": ("running", 0), "fine": ("running", 0), "hung": ("running", 1)}
        await supervisor.close()

    asyncio.run(story())


def test_draining_goes_by_stages_and_one_that_hangs_stops_nobody(tmp_path: Path) -> None:
    async def story() -> None:
        supervisor, fleet, clock = supervised(tmp_path, ["door", "work", "store"])
        fleet.reports = {"door": report(1), "work": Unavailable("hangs"), "store": report(3)}
        await supervisor.start()
        await clock.advance(0.5)
        await supervisor.request("drain", None)
        stops = [name for what, name in fleet.did if what == "stop"]
        assert stops == ["door", "work", "store"]
        fleet.did.clear()
        fleet.reports.clear()
        await clock.advance(5.0)
        assert fleet.did == []
        await supervisor.close()

    asyncio.run(story())


def test_status_tells_partitions_and_processes(tmp_path: Path) -> None:
    async def story() -> None:
        supervisor, fleet, clock = supervised(tmp_path, ["tp-1"])
        counts = {"tenants": 2, "nodes": 0, "pods": 5, "namespaces": 6}
        fleet.reports = {"tp-1": report(os.getpid(), objects=counts, epoch=7, revision=99)}
        await supervisor.start()
        await clock.advance(0.5)
        status = await supervisor.request("status", None)
        [partition] = status["partitions"]
        assert (partition["epoch"], partition["tenants"], partition["objects"]) == (7, 2, 13)
        assert {part["name"] for part in status["parts"]} == {"tp-1", "supervisor"}
        assert os.getpid() in {process["pid"] for process in status["processes"]}
        assert status["totals"]["pods"] == 5
        await supervisor.close()

    asyncio.run(story())


def test_the_default_cast_is_complete_and_in_order(tmp_path: Path) -> None:
    topology = fitted(None, 2, 2, 100, "kubemark")
    actors = cast(settings(Config(), Places(tmp_path), node="here"), topology)
    names = [actor.name for actor in actors]
    assert names == [
        "tp-1", "tp-2", "rp-1", "rp-2", "ingress-1", "scheduler-tp-1", "scheduler-tp-2", "shard-1",
        "simulated-1", "node-agent",
    ]  # fmt: skip
    numbers = [a.spec["number"] for a in actors if "number" in a.spec]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= n < 64 for n in numbers)
    assert [Actor(*a.pack()) for a in actors] == actors


def test_the_node_uses_the_containerd_that_is_there_or_starts_its_own(tmp_path: Path) -> None:
    config, places = Config(offline=True), Places(tmp_path)
    there = cast(settings(config, places, node="here"), initial(1, 1))[-1].spec
    assert there["containerd"] == "/run/containerd/containerd.sock"
    assert "own_containerd" not in there
    given = settings(config, places, node="here", own_containerd=True)
    own = cast(given, initial(1, 1))[-1].spec
    assert own["own_containerd"] == [str(places.containerd), str(places.containerd_state)]
    assert "containerd" not in own
    assert own["offline"]


def test_what_is_not_wanted_is_not_cast(tmp_path: Path) -> None:
    given = settings(Config(), Places(tmp_path), node=None)
    names = [a.name for a in cast(given, fitted(None, 1, 2, 0, "kubemark"))]
    assert "simulated-1" not in names
    assert "node-agent" not in names
    assert "tp-2" not in names


def test_restarting_is_told_apart_from_gone() -> None:
    assert issubclass(Restarting, Unavailable)
    assert not issubclass(Restarting, NotFound)
