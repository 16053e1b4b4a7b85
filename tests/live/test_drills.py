"""Failure drills: real processes are killed, stopped and starved while clients read and write.

After each, whatever was acknowledged is there, every watch was told of every write once and in
order, each Deployment has exactly its pods, and no node has more than it can hold. How long it
took is printed; only a generous deadline is asserted.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drills import (
    DEADLINE_S,
    START_DEADLINE_S,
    Ground,
    Load,
    fill,
    small_disk,
)
from livekit import ARKTOS, Program, Say, kubectls, until

from arktos_ray.api.errors import StorageFull
from arktos_ray.base import processes
from arktos_ray.bootstrap import free_port

pytestmark = pytest.mark.live

# Room for a cluster of this size, and little to fill.
DISK_MB = 160
KILLED = ["tp-1", "tp-2", "rp-1", "scheduler-tp-1", "shard-1", "simulated-1", "ingress-1",
          "supervisor"]  # fmt: skip


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | str]:
    """A small disk, or why there is none."""
    with small_disk(tmp_path_factory.mktemp("disk"), DISK_MB) as found:
        yield found


@pytest.fixture(scope="module")
def ground(disk: Path | str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """One cluster for all drills that leave one behind; on the small disk where there is one."""
    home = disk if isinstance(disk, Path) else tmp_path_factory.mktemp("drills")
    settings = tmp_path_factory.mktemp("settings") / "arktos.yaml"
    settings.write_text("free-disk-mb-min: 20\n")
    ground = Ground(home, "--config", str(settings))
    try:
        ground.start()
        yield ground
    finally:
        ground.stop()
        processes.end(processes.of_cluster(ground.home), 0)


@pytest.mark.parametrize("name", KILLED)
def test_a_killed_actor_is_back_and_nothing_is_lost(
    ground: Ground, load: Load, say: Say, name: str
) -> None:
    before = ground.whole()
    load.rescale()  # Work that is under way when it dies.
    begun = time.monotonic()
    os.kill(before[name]["pid"], signal.SIGKILL)
    recovery = load.recovery(name, begun)
    load.rescale()  # And work that comes while it may still be dead.
    load.settled()
    settled_s = time.monotonic() - begun

    after = ground.whole(without=[before[name]["pid"]])

    say(f"kill -9 {name}: {recovery}, workloads {settled_s:.2f} s")
    assert {n for n in before if after[n]["pid"] != before[n]["pid"]} == {name}
    load.check()


def test_a_partition_that_hangs_is_replaced_and_cannot_write_any_more(
    ground: Ground, load: Load, say: Say
) -> None:
    before = ground.whole()
    hung = processes.found(before["tp-1"]["pid"])
    assert hung is not None
    begun = time.monotonic()
    os.kill(hung.pid, signal.SIGSTOP)
    try:
        recovery = load.recovery("tp-1", begun)
    finally:
        if hung.alive():
            os.kill(hung.pid, signal.SIGCONT)

    after = ground.whole(without=[hung.pid])

    say(f"SIGSTOP tp-1: {recovery}")
    assert not hung.alive()
    assert after["tp-1"]["epoch"] == before["tp-1"]["epoch"] + 1
    load.rescale()
    load.check()


def test_a_full_disk_refuses_writes_and_nothing_else(
    ground: Ground, load: Load, say: Say, disk: Path | str
) -> None:
    if isinstance(disk, str):
        pytest.skip(disk)
    before = ground.whole()
    taken = fill(disk)
    try:
        # Until then a log may go on in space that it had already.
        refusal = until(load.refusal, what="a write is refused")
        assert isinstance(refusal, StorageFull), refusal
        assert "disk is full" in refusal.message
        assert load.readable()
        watchers = {name: watched.resumed for name, watched in load.watched.items()}
    finally:
        for path in taken:
            path.unlink()
    begun = time.monotonic()
    recovery = load.recovery("tp-1", begun)

    say(f"full disk: writes go on after {recovery.write_s:.2f} s; {load.tally()}")
    assert {name: watched.resumed for name, watched in load.watched.items()} == watchers
    load.rescale()
    load.check()
    after = ground.whole()
    assert {n: p["pid"] for n, p in after.items()} == {n: p["pid"] for n, p in before.items()}


def test_a_second_up_says_that_it_runs_already(ground: Ground) -> None:
    before = ground.pids()

    done = ground.up()

    assert done.returncode == 0
    assert "Already running" in done.stdout
    assert set(ground.pids()) == set(before)


@pytest.mark.parametrize(("role", "named"), [("ray raylet", "raylet"), ("ray head (GCS)", "gcs")])
def test_a_killed_part_of_rays_head_is_mended_by_the_driver(
    ground: Ground, load: Load, say: Say, role: str, named: str
) -> None:
    before = ground.status()
    [pid] = [p["pid"] for p in before["processes"] if p["role"] == role]
    begun = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    said = until(lambda: _said_of_start(ground), what="status says what is wrong")
    recovery = load.recovery("tp-1", begun, START_DEADLINE_S)

    ground.whole(without=[p["pid"] for p in before["parts"]], deadline_s=START_DEADLINE_S)

    say(f"kill -9 {role}: {recovery}; status said: {said}")
    assert named in said
    assert "has ended" in said
    load.rescale()
    load.check()


def _said_of_start(ground: Ground) -> str:
    status = ground.status()
    return f"{status['phase']} ({status['reason']})" if status["phase"] == "starting" else ""


def test_a_killed_driver_takes_everything_with_it(ground: Ground, load: Load, say: Say) -> None:
    driver = ground.places.driver()
    assert driver is not None
    begun = time.monotonic()
    processes.kill(driver)
    until(lambda: not processes.of_cluster(ground.home), what="no process stays behind")
    gone_s = time.monotonic() - begun
    status = ground.status()
    ground.start()
    recovery = load.recovery("tp-1", begun, START_DEADLINE_S)

    say(f"kill -9 driver: the rest is gone after {gone_s:.2f} s; with a new one {recovery}")
    assert status["phase"] == "stopped"
    load.rescale()
    load.check()


def test_after_everything_was_killed_up_brings_all_back(
    ground: Ground, load: Load, say: Say
) -> None:
    ground.whole()
    begun = time.monotonic()
    for pid in ground.pids():
        os.kill(pid, signal.SIGKILL)
    ground.start()
    started_s = time.monotonic() - begun
    recovery = load.recovery("tp-1", begun, START_DEADLINE_S)

    say(f"kill -9 of all: up after {started_s:.2f} s, {recovery}")
    ground.whole()
    load.rescale()
    load.check()
    say(load.tally())


# Where it cannot start


def refused(home: Path, *arguments: str) -> str:
    """What `up` says there, leaving nothing behind."""
    done = subprocess.run(
        [*ARKTOS, "up", "--detach", "--data-dir", str(home), "--no-node", "--no-dashboard",
         *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    left = processes.of_cluster(home)
    processes.end(left, 0)
    assert done.returncode == 1, done.stdout + done.stderr
    assert left == []
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


def test_a_busy_port_is_refused_with_who_has_it(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]

        said = refused(tmp_path / "home", "--port", str(port))

    assert f"port {port} is in use" in said
    assert str(os.getpid()) in said


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")

    said = refused(tmp_path, "--port", str(free_port(0)))

    assert "thesis.txt" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_read_only_directory_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path, 16) as found:
        if isinstance(found, str):
            pytest.skip(found)
        subprocess.run(["mount", "-o", "remount,ro", str(found)], check=True)

        assert "read-only" in refused(found / "home", "--port", str(free_port(0)))


def test_a_disk_that_is_almost_full_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path, 16) as found:
        if isinstance(found, str):
            pytest.skip(found)

        assert "MB are needed" in refused(found / "home", "--port", str(free_port(0)))


# Without sockets


def test_over_ray_calls_alone_a_deployment_runs(tmp_path: Path, say: Say) -> None:
    found = kubectls()
    if not found:
        pytest.skip("no kubectl here: neither on the path nor from npm")
    ground = Ground(tmp_path / "home", "--transport", "ray")
    try:
        ground.start()
        kubectl = Program(next(iter(found.values())), ground.tenant("acme"), tmp_path / "kubectl")
        begun = time.monotonic()
        kubectl("create", "deployment", "web", "--image=web:1", "--replicas=3")
        kubectl("rollout", "status", "deployment/web", f"--timeout={DEADLINE_S:g}s")
        say(f"over Ray: three pods run after {time.monotonic() - begun:.2f} s")
        phases = kubectl("get", "pods", "-o", "jsonpath={.items[*].status.phase}")
        assert phases.split() == ["Running"] * 3
    finally:
        ground.stop()
        shutil.rmtree(ground.home, ignore_errors=True)
