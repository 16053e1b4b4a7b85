"""Several machines whose logs are in etcd: a lost one's partitions serve again elsewhere."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from drills import Load
from machines import Region, Several, redis_server, region

from arktos_ray.testing.etcd_server import EtcdServer, missing

pytestmark = pytest.mark.live

Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def said(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end=" ", flush=True)

    return said


@pytest.fixture(scope="module")
def machines() -> Iterator[Region]:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server here (apt-get install redis-server)")
    with redis_server() as redis, region(3, redis) as made:
        yield made


@pytest.fixture(scope="module")
def ground(machines: Region, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    if missing():
        pytest.skip(f"no {missing()} here")
    etcd = EtcdServer(Path(tmp_path_factory.mktemp("etcd")))
    etcd.start()
    try:
        yield machines.up(
            "--ingresses", "2", "--storage", "etcd", "--etcd-endpoints", etcd.endpoint
        )
    finally:
        etcd.stop()


@pytest.fixture(scope="module")
def load(ground: Several) -> Iterator[Load]:
    load = Load(ground)
    try:
        load.start()
        load.rescale()
        load.settled()
        yield load
    finally:
        load.stop()


def test_partitions_of_a_lost_machine_serve_elsewhere(
    machines: Region, ground: Several, load: Load, say: Say
) -> None:
    before = ground.whole()
    where = {name: part["machine"] for name, part in before.items()}
    say(f"{where}")
    home = machines.head.address
    name = next(n for n in ("tp-1", "tp-2", "rp-1", "rp-2") if where[n] != home)
    assert len({where[n] for n in ("tp-1", "tp-2")}) == 2
    [lost] = [m for m in machines.machines if m.address == where[name]]
    theirs = {n for n in before if where[n] == lost.address}
    begun = time.monotonic()
    lost.kill()
    recoveries = {p: load.recovery(p, begun) for p in sorted(theirs & {"tp-1", "tp-2"})}
    after = ground.whole(without=[before[n]["pid"] for n in theirs], deadline_s=60.0)
    whole_s = time.monotonic() - begun

    said = "; ".join(f"{p}: {r}" for p, r in recoveries.items())
    say(f"lost {lost.address} with {', '.join(sorted(theirs))}: {said}; all run {whole_s:.2f} s")
    assert all(part["machine"] != lost.address for part in after.values())
    load.rescale()
    load.check()
