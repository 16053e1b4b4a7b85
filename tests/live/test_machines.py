"""Several machines: partitions and loops on all of them, and what happens when one is lost.

Real Ray, one raylet a machine, all on loopback (machines.py). Figures are printed, and only
generous deadlines asserted.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from drills import START_DEADLINE_S, Load
from livekit import Say, until
from machines import Machine, Region, Several, redis_server, region

from arktos_ray.base import processes

pytestmark = pytest.mark.live

# Tied to the machine of the driver while partitions keep files.
HOME = {"tp-1", "tp-2", "rp-1", "rp-2", "supervisor", "ingress-1"}


@pytest.fixture(scope="module")
def machines() -> Iterator[Region]:
    """Three, with their GCS in a Redis."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server here (apt-get install redis-server)")
    with redis_server() as redis, region(3, redis) as made:
        yield made


@pytest.fixture(scope="module")
def ground(machines: Region) -> Several:
    return machines.up("--ingresses", "2")


def on(parts: dict[str, Any], machine: Machine) -> set[str]:
    return {name for name, part in parts.items() if part["machine"] == machine.address}


def test_actors_are_spread_and_work_with_each_other(
    machines: Region, ground: Several, load: Load, say: Say
) -> None:
    parts = ground.whole()
    say("; ".join(f"{m.address}: {', '.join(sorted(on(parts, m)))}" for m in machines.machines))

    assert on(parts, machines.head) >= HOME
    assert len({part["machine"] for part in parts.values()}) > 1
    load.rescale()
    load.check()
    shown = ground.arktos("status")
    assert "MACHINE" in shown
    for part in parts.values():
        assert [part["machine"], str(part["pid"])] in [row.split()[:2] for row in shown.split("\n")]


def test_a_lost_machine_is_replaced_and_nothing_is_lost(
    machines: Region, ground: Several, load: Load, say: Say
) -> None:
    before = ground.whole()
    lost = max(machines.machines[1:], key=lambda machine: len(on(before, machine)))
    theirs = on(before, lost)
    begun = time.monotonic()
    lost.kill()
    load.rescale()
    recovery = load.recovery("tp-1", begun)
    load.settled()
    settled_s = time.monotonic() - begun
    after = ground.whole(without=[before[name]["pid"] for name in theirs])
    whole_s = time.monotonic() - begun

    say(
        f"lost {lost.address} with {', '.join(sorted(theirs))}: {recovery}, "
        f"workloads {settled_s:.2f} s, all run elsewhere {whole_s:.2f} s"
    )
    assert theirs
    assert not on(after, lost)
    load.check()
    lost.again()


def test_an_actor_that_hangs_on_another_machine_is_replaced(
    machines: Region, ground: Several, load: Load, say: Say
) -> None:
    before = ground.whole()
    name = next(n for n in sorted(before) if n not in HOME and n != "ingress-2")
    hung = processes.found(before[name]["pid"])
    assert hung is not None
    begun = time.monotonic()
    processes._signal([hung], signal.SIGSTOP)
    ground.whole(without=[hung.pid], deadline_s=60.0)

    say(f"SIGSTOP {name} on {before[name]['machine']}: replaced after {_since(begun)}")
    assert not hung.alive()
    load.rescale()
    load.check()


def test_while_the_gcs_is_away_reads_and_writes_go_on(
    machines: Region, ground: Several, load: Load, say: Say
) -> None:
    before = ground.whole()
    resumed = {name: watched.resumed for name, watched in load.watched.items()}
    machines.head.kill_gcs()
    begun = time.monotonic()
    recovery = load.recovery("tp-1", begun)
    load.rescale()
    load.settled()
    assert {name: watched.resumed for name, watched in load.watched.items()} == resumed
    machines.head.restart_gcs()
    away_s = time.monotonic() - begun

    say(f"GCS away for {away_s:.2f} s: {recovery}")
    after = ground.whole()
    assert {n: p["pid"] for n, p in after.items()} == {n: p["pid"] for n, p in before.items()}
    # And it does its work again.
    victim = processes.found(after["scheduler-tp-1"]["pid"])
    assert victim is not None
    processes.kill(victim)
    ground.whole(without=[victim.pid])
    load.rescale()
    load.check()


def test_a_driver_that_was_killed_disturbs_nobody_and_the_next_finds_all(
    ground: Several, load: Load
) -> None:
    before = ground.whole()
    driver = ground.places.driver()
    assert driver is not None
    processes.kill(driver)
    until(lambda: not processes.of_cluster(ground.home), what="its helpers are gone")
    load.rescale()
    load.settled()

    ground.start()

    after = ground.whole()
    assert {n: p["pid"] for n, p in after.items()} == {n: p["pid"] for n, p in before.items()}
    load.check()


def test_the_ray_head_may_be_lost_with_all_that_is_on_it(
    machines: Region, ground: Several, load: Load, say: Say
) -> None:
    before = ground.whole()
    begun = time.monotonic()
    machines.head.kill()
    processes.end(processes.of_cluster(ground.home), 0.0)
    machines.head.again()
    head_s = time.monotonic() - begun
    ground.start()
    recovery = load.recovery("tp-1", begun, START_DEADLINE_S)
    after = ground.whole(deadline_s=START_DEADLINE_S)

    theirs = ", ".join(sorted(on(before, machines.head)))
    say(f"lost the head with {theirs}; it is back after {head_s:.2f} s, {recovery}")
    others = set(before) - on(before, machines.head) - on(after, machines.head)
    assert {n: after[n]["pid"] for n in others} == {n: before[n]["pid"] for n in others}
    load.rescale()
    load.check()


def _since(begun: float) -> str:
    return f"{time.monotonic() - begun:.2f} s"
