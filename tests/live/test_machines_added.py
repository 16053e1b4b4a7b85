"""A partition that finds no room brings a machine, and takes it along when it is removed.

Ray's autoscaler, with Ray's own provider for tests: a machine is one more raylet here.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from livekit import ARKTOS, until
from machines import Region, Several, region

from arktos_ray.base import processes
from arktos_ray.testing.etcd_server import EtcdServer, missing

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {missing()}"),
]

# A machine is added every second at most, and takes some seconds to start on a busy one.
_ADDED_S = 90.0
_GONE_S = 120.0
_ROOM = {"tenant_partition": 1, "resource_partition": 1}


@pytest.fixture
def machines() -> Iterator[Region]:
    """One, with room for one partition of each kind; more come when they are needed."""
    added = {
        "for-a-tenant-partition": {
            "resources": {"CPU": 1, "tenant_partition": 1, "object_store_memory": 80 << 20},
            "node_config": {},
            "min_workers": 0, "max_workers": 2,
        }
    }  # fmt: skip
    with region(1, resources=_ROOM, autoscaling=added) as made:
        yield made


@pytest.fixture
def ground(machines: Region, tmp_path: Path) -> Iterator[Several]:
    etcd = EtcdServer(tmp_path / "etcd")
    etcd.start()
    try:
        yield machines.up(
            "--tenant-partitions", "1", "--resource-partitions", "1", "--claim-resources",
            "--storage", "etcd", "--etcd-endpoints", etcd.endpoint,
        )  # fmt: skip
    finally:
        machines.close()
        etcd.stop()


def raylets(machines: Region) -> list[int]:
    return machines.head.pids("raylet")


def test_a_new_partition_brings_a_machine_and_a_removed_one_lets_it_go(
    machines: Region, ground: Several, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ground.whole()
    assert len(raylets(machines)) == 1
    begun = time.monotonic()

    ground.arktos("partition", "add", "tenant")

    parts = ground.whole(deadline_s=_ADDED_S)
    added_s = time.monotonic() - begun
    assert len(raylets(machines)) == 2
    assert parts["tp-2"]["machine"] not in ("", parts["tp-1"]["machine"])
    assert parts["tp-1"]["pid"] == before["tp-1"]["pid"]

    ground.arktos("tenant", "create", "zeta", "-o", str(ground.home / "zeta"))
    [tenant] = [t for t in tenants(ground) if t["metadata"]["name"] == "zeta"]
    assert tenant["status"]["phase"] == "Active"
    [row] = [p for p in ground.status()["partitions"] if p["name"] == "tp-2"]
    assert row["tenants"] == 1

    ground.arktos("partition", "drain", "tp-2", "--move")
    until(lambda: removed(ground, "tp-2"), _GONE_S, "tp-2 is removed")
    begun = time.monotonic()
    until(lambda: len(raylets(machines)) == 1, _GONE_S, "the machine goes")
    gone_s = time.monotonic() - begun

    with capsys.disabled():
        print(
            f"\n  a partition and its machine after {added_s:.2f} s, "
            f"the machine gone {gone_s:.2f} s after the partition",
            end=" ",
        )
    assert "tp-2" not in ground.whole()
    assert "zeta" in {t["metadata"]["name"] for t in tenants(ground)}
    assert processes.found(before["tp-1"]["pid"]) is not None


def removed(ground: Several, name: str) -> bool:
    """Refused for the moment in which watches of all tenants may still read there."""
    done = subprocess.run(
        [*ARKTOS, "partition", "remove", name, "--data-dir", str(ground.home)],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0 or "try again" in done.stderr, done.stderr
    return done.returncode == 0


def tenants(ground: Several) -> list[dict[str, dict[str, str]]]:
    listed: list[dict[str, dict[str, str]]] = json.loads(
        ground.arktos("tenant", "list", "-o", "json")
    )
    return listed
