"""Partitions are added, drained and removed while clients work, by the command line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from drills import DEADLINE_S, Ground, Load
from livekit import ARKTOS, Program, kubectls, until

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    ground = Ground(tmp_path_factory.mktemp("partitions"))
    try:
        ground.start()
        yield ground
    finally:
        ground.stop()


def arktos(ground: Ground, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ARKTOS, *arguments, "--data-dir", str(ground.home)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def done(ground: Ground, *arguments: str) -> str:
    ran = arktos(ground, *arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def _tenants(ground: Ground) -> dict[str, int]:
    return {part["name"]: part["tenants"] for part in ground.status()["partitions"]}


def names(ground: Ground) -> set[str]:
    return set(done(ground, "partition", "list", "-o", "name").split())


@pytest.fixture
def kubectl(ground: Ground, tmp_path: Path) -> Callable[[Path], Program]:
    found = kubectls()
    if not found:
        pytest.skip("no kubectl here: neither on the path nor from npm")
    program = next(iter(found.values()))
    return lambda kubeconfig: Program(program, kubeconfig, tmp_path)


def test_partitions_come_and_go_under_load_and_nobody_loses_an_event(
    ground: Ground, kubectl: Callable[[Path], Program]
) -> None:
    admin = kubectl(ground.admin)
    load = Load(ground)
    try:
        load.start()
        added = done(ground, "partition", "add", "tenant") + done(
            ground, "partition", "add", "resource"
        )
        assert "tp-3 added" in added
        assert "rp-3 added" in added
        assert names(ground) == {"tp-1", "tp-2", "tp-3", "rp-1", "rp-2", "rp-3"}

        # New nodes in the new one, and a new tenant that runs there too.
        done(ground, "simulate", "add", "5", "--in", "rp-3", "--mode", "instant")
        ground.nodes += 5
        young = kubectl(ground.tenant("young"))
        young("create", "deployment", "web", "--image=nginx", "--replicas=3")
        until(lambda: young("get", "pods").count("Running") == 3, DEADLINE_S)
        assert admin("get", "nodes").count("sim2-") == 5

        # Drained: the next tenant of a name that fell to it goes elsewhere.
        done(ground, "partition", "drain", "tp-3")
        refused = arktos(ground, "partition", "remove", "tp-3")
        assert refused.returncode == 1
        assert "tp-3 still has 1 tenants" in refused.stderr
        ground.tenant("zoe")
        assert _tenants(ground)["tp-3"] == 1

        admin("delete", "tenant", "young")
        done(ground, "partition", "remove", "tp-3")
        assert "tp-3" not in names(ground)
        refused = arktos(ground, "partition", "drain", "tp-1")
        assert "home of the system tenant" in refused.stderr

        # Emptied under the load of one of its tenants, who does not notice.
        moved = done(ground, "partition", "drain", "tp-2", "--move")
        assert "zeta is in tp-1" in moved
        until(lambda: _tenants(ground)["tp-2"] == 0, DEADLINE_S)

        ground.whole()
        load.check()
    finally:
        load.stop()
