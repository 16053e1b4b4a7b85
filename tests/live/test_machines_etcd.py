"""Several machines whose logs are in etcd: a lost one's partitions serve again elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from drills import START_DEADLINE_S, Load
from livekit import Say
from machines import Machine, Region, Several, region

from arktos_ray.base import processes
from arktos_ray.testing.etcd_server import EtcdServer, missing

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {missing()}"),
]


@pytest.fixture(scope="module")
def machines() -> Iterator[Region]:
    with region(3) as made:
        yield made


@pytest.fixture(scope="module")
def ground(machines: Region, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    etcd = EtcdServer(tmp_path_factory.mktemp("etcd"))
    etcd.start()
    try:
        yield machines.up(
            "--ingresses", "2", "--storage", "etcd", "--etcd-endpoints", etcd.endpoint
        )
    finally:
        machines.close()
        etcd.stop()


def lose(machines: Region, ground: Several, load: Load, machine: Machine) -> tuple[float, str]:
    """Seconds until each of its tenant partitions is written to again; and what to say of it."""
    before = ground.whole()
    theirs = {name for name, part in before.items() if part["machine"] == machine.address}
    begun = time.monotonic()
    machine.kill()
    killed_s = time.monotonic() - begun
    recoveries = {p: load.recovery(p, begun) for p in sorted(theirs & {"tp-1", "tp-2"})}
    after = ground.whole([before[n]["pid"] for n in theirs], START_DEADLINE_S)
    whole_s = time.monotonic() - begun

    assert all(part["machine"] != machine.address for part in after.values())
    told = "; ".join(f"{name} {recovery}" for name, recovery in recoveries.items())
    return (
        max((r.write_s for r in recoveries.values()), default=0.0),
        f"lost {machine.address} (killed in {killed_s:.2f} s) with {', '.join(sorted(theirs))}: "
        f"{told or 'no tenant partition'}; all run {whole_s:.2f} s",
    )


def test_partitions_of_a_lost_machine_serve_elsewhere(
    machines: Region, ground: Several, load: Load, say: Say
) -> None:
    where = {name: part["machine"] for name, part in ground.whole().items()}
    tenants = [where["tp-1"], where["tp-2"]]
    lost = next(m for m in machines.machines[1:] if m.address in tenants)

    _, told = lose(machines, ground, load, lost)

    say(told)
    load.rescale()
    load.check()


def test_a_new_supervisor_goes_on_with_the_topology_in_etcd(
    ground: Several, load: Load, say: Say
) -> None:
    assert not (ground.places.data / "topology.json").exists()
    before = ground.parts()["supervisor"]
    ground.arktos("partition", "add", "resource")
    ended = processes.found(before["pid"])
    assert ended is not None
    begun = time.monotonic()
    processes.kill(ended)
    parts = ground.whole([ended.pid], START_DEADLINE_S)
    say(f"supervisor killed: another, with the topology of etcd, {time.monotonic() - begun:.2f} s")

    assert "rp-3" in parts
    ground.arktos("partition", "drain", "rp-3")
    ground.arktos("partition", "remove", "rp-3")
    assert "rp-3" not in ground.whole()
    load.check()
