"""Failure drills where the logs are in an etcd: etcd itself is away for ten seconds, under load."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from drills import Ground, Load
from livekit import until

from arktos_ray.base import processes
from arktos_ray.testing.etcd_server import EtcdServer, missing

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {missing()}"),
]

AWAY_S = 10.0


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def ground(etcd: EtcdServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    ground = Ground(
        tmp_path_factory.mktemp("ground"), "--storage", "etcd", "--etcd-endpoints", etcd.endpoint
    )
    try:
        ground.start()
        yield ground
    finally:
        ground.stop()


def hang(etcd: EtcdServer) -> Callable[[], None]:
    etcd.pause()
    return etcd.resume


def lose(etcd: EtcdServer) -> Callable[[], None]:
    etcd.kill()
    return lambda: etcd.start() and None


@pytest.mark.parametrize("blow", [hang, lose])
def test_etcd_is_away_for_ten_seconds(
    etcd: EtcdServer, ground: Ground, load: Load, capsys: pytest.CaptureFixture[str],
    blow: Callable[[EtcdServer], Callable[[], None]],
) -> None:  # fmt: skip
    before = ground.whole()
    acknowledged = load.tally()
    back = blow(etcd)
    begun = time.monotonic()
    # Nobody is told the past: reads are refused as soon as somebody else could have taken over.
    until(lambda: load.unreadable(), AWAY_S, "reads are refused")
    refused_s = time.monotonic() - begun
    until(lambda: time.monotonic() - begun > AWAY_S, AWAY_S + 1, "ten seconds")
    back()
    again = time.monotonic()
    recoveries = {name: load.recovery(name, again) for name in ("tp-1", "tp-2", "rp-1", "rp-2")}
    load.rescale()
    load.check()
    after = ground.whole()

    ended = [n for n, part in before.items() if after[n]["pid"] != part["pid"]]
    told = "; ".join(f"{name} {recovery}" for name, recovery in recoveries.items())
    with capsys.disabled():
        print(
            f"\n  etcd away ({blow.__name__}) for {again - begun:.1f} s: reads refused after "
            f"{refused_s:.1f} s; then {told}; started again: {', '.join(ended) or 'nobody'}; "
            f"before: {acknowledged}; now: {load.tally()}",
            end=" ",
        )
    assert all(processes.found(part["pid"]) for part in after.values())
