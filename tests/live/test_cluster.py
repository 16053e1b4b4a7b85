"""Real Ray round stand-ins: what is killed or hangs comes back, and nothing is left at the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arktos_ray.actors.streams import ANSWER, REQUEST, Deframer, pack
from arktos_ray.base import processes
from arktos_ray.base.places import Places

pytestmark = pytest.mark.live

HERE = Path(__file__).parent
COUNT = 3


class Running:
    def __init__(self, home: Path, *arguments: str) -> None:
        self.places = Places(home)
        self.driver = subprocess.Popen(
            [sys.executable, str(HERE / "standins.py"), str(home), str(COUNT), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, processes.MARK: str(home)},
        )  # fmt: skip

    def told(self, *keys: str) -> dict[str, Any]:
        """The next event of the driver with one of these keys."""
        assert self.driver.stdout is not None
        for line in self.driver.stdout:
            if line.startswith(b"{"):  # Ray writes there as well.
                event: dict[str, Any] = json.loads(line)
                if set(keys) & set(event):
                    return event
        raise AssertionError("the driver ended")

    def ask(self, name: str, method: str, payload: Any = None) -> Any:
        """Over the stream of that actor, as another actor would; None when it does not answer."""
        for path in self.places.run.glob(f"{name}-*.sock"):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(path))
                connection.sendall(pack(REQUEST, 1, [method, payload]))
                deframer = Deframer()
                while data := connection.recv(1 << 16):
                    for kind, _, answer in deframer.feed(data):
                        assert kind == ANSWER, answer
                        return answer
        return None

    def parts(self) -> dict[str, dict[str, Any]]:
        status = self.ask("supervisor", "status")
        return {part["name"]: part for part in status["parts"]} if status else {}

    def until(self, true: Callable[[dict[str, dict[str, Any]]], bool]) -> dict[str, dict[str, Any]]:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            parts = self.parts()
            if parts and true(parts):
                return parts
            time.sleep(0.1)
        raise AssertionError(f"not within 30 s: {parts}")

    def whole(self) -> dict[str, dict[str, Any]]:
        return self.until(
            lambda parts: (
                len(parts) == COUNT + 1
                and all(part["state"] == "running" for part in parts.values())
            )
        )


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*arguments: str) -> Running:
        started.append(Running(tmp_path, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.driver.kill()
        each.driver.wait()
        assert each.driver.stdout is not None
        each.driver.stdout.close()
        processes.end(processes.of_cluster(tmp_path), 0)
        each.places.remove_short()


def test_what_is_killed_or_hangs_is_replaced(running: Callable[..., Running]) -> None:
    cluster = running()
    assert "ready" in cluster.told("ready", "error")
    before = cluster.whole()

    os.kill(before["tp-1"]["pid"], signal.SIGKILL)
    os.kill(before["tp-2"]["pid"], signal.SIGSTOP)
    after = cluster.until(
        lambda parts: all(
            parts[name]["state"] == "running" and parts[name]["restarts"] == 1
            for name in ("tp-1", "tp-2")
        )
    )

    assert after["tp-3"]["pid"] == before["tp-3"]["pid"]
    assert after["tp-3"]["restarts"] == 0
    assert not processes.found(before["tp-2"]["pid"])


def test_the_supervisor_itself_is_replaced_and_disturbs_nobody(
    running: Callable[..., Running],
) -> None:
    cluster = running()
    assert "ready" in cluster.told("ready", "error")
    before = cluster.whole()

    for how in (signal.SIGKILL, signal.SIGSTOP):
        pid = cluster.whole()["supervisor"]["pid"]
        os.kill(pid, how)
        after = cluster.until(
            lambda parts, pid=pid: (
                parts["supervisor"]["pid"] != pid  # type: ignore[misc]
                and parts["tp-1"]["state"] == "running"
            )
        )
        assert after["tp-1"]["pid"] == before["tp-1"]["pid"]


@pytest.mark.parametrize("lost", ["raylet/raylet", "gcs_server"])
def test_a_lost_head_of_ray_is_started_over(running: Callable[..., Running], lost: str) -> None:
    cluster = running()
    assert "ready" in cluster.told("ready", "error")
    before = cluster.whole()

    [head] = [
        p for p in processes.of_cluster(cluster.places.home)
        if lost in processes.command(p.pid).partition(" ")[0]
    ]  # fmt: skip
    processes.kill(head)
    after = cluster.until(
        lambda parts: (
            len(parts) == COUNT + 1
            and all(part["state"] == "running" for part in parts.values())
            and parts["tp-1"]["pid"] != before["tp-1"]["pid"]
        )
    )

    assert not {p["pid"] for p in before.values()} & {p["pid"] for p in after.values()}
    assert cluster.driver.poll() is None


def test_sigterm_leaves_no_process_and_no_socket(running: Callable[..., Running]) -> None:
    cluster = running()
    assert "ready" in cluster.told("ready", "error")
    assert len(processes.of_cluster(cluster.places.home)) > COUNT

    cluster.driver.terminate()

    assert cluster.driver.wait(30) == 0
    assert processes.of_cluster(cluster.places.home) == []
    assert not cluster.places.short.exists()
    assert not cluster.places.held()


def test_a_killed_driver_takes_all_with_it_or_the_next_one_clears_up(
    running: Callable[..., Running],
) -> None:
    first = running()
    assert "ready" in first.told("ready", "error")
    before = {p.pid for p in processes.of_cluster(first.places.home)}
    first.driver.kill()
    first.driver.wait()

    second = running()
    assert "ready" in second.told("ready", "error")

    assert not before & {p.pid for p in processes.of_cluster(first.places.home)}
    second.whole()


def test_a_part_that_cannot_start_says_why_and_nothing_stays(
    running: Callable[..., Running],
) -> None:
    cluster = running("fails")
    event = cluster.told("ready", "error")

    assert "made to fail" in event["error"]
    assert cluster.driver.wait(30) == 1
    assert processes.of_cluster(cluster.places.home) == []
