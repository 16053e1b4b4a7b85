"""What stands still for a while: the disk, and an ingress with a thousand watches."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drills import DEADLINE_S, Ground, Load, small_disk
from livekit import Say, until

from arktos_ray.base import processes
from arktos_ray.testing.load import LineWatch, connect, target, watch_request

pytestmark = pytest.mark.live

FROZEN_S = 5.0
WATCHES = 1_000
DISK_MB = 200


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | str]:
    with small_disk(tmp_path_factory.mktemp("disk"), DISK_MB) as found:
        yield found


@pytest.fixture(scope="module")
def ground(disk: Path | str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Two ingresses share the port; everything is on a disk that can be made to stand still."""
    home = disk if isinstance(disk, Path) else tmp_path_factory.mktemp("stalls")
    settings = tmp_path_factory.mktemp("settings") / "arktos.yaml"
    settings.write_text("free-disk-mb-min: 20\n")
    ground = Ground(home, "--config", str(settings), "--ingresses", "2")
    try:
        ground.start()
        yield ground
    finally:
        ground.stop()
        processes.end(processes.of_cluster(ground.home), 0)


def test_while_the_disk_stands_still_writes_wait_and_reads_do_not(
    ground: Ground, load: Load, say: Say, disk: Path | str
) -> None:
    if isinstance(disk, str):
        pytest.skip(disk)
    before = ground.whole()
    begun = time.monotonic()
    subprocess.run(["fsfreeze", "--freeze", str(disk)], check=True)
    try:
        slowest_read_s = 0.0
        while time.monotonic() - begun < FROZEN_S:
            asked = time.monotonic()
            # Of one partition. A list over several is of one moment, which writes under way
            # must have passed.
            assert load.readable("acme")
            slowest_read_s = max(slowest_read_s, time.monotonic() - asked)
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(disk)], check=True)
    recovery = load.recovery("tp-1", time.monotonic())

    say(f"disk frozen for {FROZEN_S:g} s: slowest read {slowest_read_s:.2f} s; then {recovery}")
    load.rescale()
    load.check()
    after = ground.whole()
    assert {n: p["pid"] for n, p in after.items()} == {n: p["pid"] for n, p in before.items()}


def test_an_ingress_that_stands_still_with_a_thousand_watches_hurts_nobody_else(
    ground: Ground, load: Load, say: Say
) -> None:
    before = ground.whole()
    watches = asyncio.run(_watched(ground, before, load))
    after = ground.whole(without=[watches["stopped"]])

    say(
        f"SIGSTOP of {watches['name']} with {watches['open']} watches: tp-1 grew by "
        f"{watches['grew_mb']:.0f} MB; watches that ended: {watches['ended']}"
    )
    # What it did not read is bounded, however long it stands still.
    assert watches["grew_mb"] < 100
    assert after["tp-1"]["pid"] == before["tp-1"]["pid"]
    load.rescale()
    load.check()


async def _watched(ground: Ground, parts: dict[str, Any], load: Load) -> dict[str, Any]:
    """Open a thousand watches of one tenant, stop the ingress that has more of them, and write."""
    endpoint = target(ground.tenant("acme"))
    path = "/api/v1/tenants/acme/namespaces/default/configmaps"
    open_: list[LineWatch] = []
    gate = asyncio.Semaphore(50)

    async def one(number: int) -> None:
        # Each with a selector of its own: a stream of its own from the partition.
        request = watch_request(endpoint, path, "", labelSelector=f"nobody!=w{number}")
        async with gate:
            watch = await connect(endpoint, lambda: LineWatch(request, lambda line, now: None))
            assert await watch.opened == 200
            open_.append(watch)

    await asyncio.gather(*(one(number) for number in range(WATCHES)))
    pids = {name: part["pid"] for name, part in parts.items() if name.startswith("ingress")}
    name = max(pids, key=lambda each: _sockets(pids[each]))
    pid, partition = pids[name], parts["tp-1"]["pid"]
    grown_from = processes.pss_bytes(partition)
    os.kill(pid, signal.SIGSTOP)
    # The writers of the load go on through the other ingress; the supervisor ends this one.
    await asyncio.to_thread(until, lambda: processes.found(pid) is None, DEADLINE_S)
    grew = (processes.pss_bytes(partition) - grown_from) / (1 << 20)
    ended = sum(watch.closed.done() for watch in open_)
    for watch in open_:
        watch.close()
    return {"name": name, "stopped": pid, "open": len(open_), "grew_mb": grew, "ended": ended}


def _sockets(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
