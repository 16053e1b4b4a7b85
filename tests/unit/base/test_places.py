"""The directory of a cluster: one holder, short sockets, nobody else's files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from arktos_ray.base import machine, processes
from arktos_ray.base.places import InUse, Places

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, processes.MARK: str(tmp_path)}
    with subprocess.Popen(SLEEPER, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_sockets_always_fit_into_an_address(tmp_path: Path) -> None:
    assert Places(Path("/srv/a")).run == Path("/srv/a/run")
    deep = Places(tmp_path / ("x" * 90))
    assert len(str(deep.run / "scheduler-tp-64-4194304.sock")) <= 107


def test_two_homes_never_share_a_short_directory() -> None:
    assert Places(Path("/srv/a")).short != Places(Path("/srv/b")).short


def test_a_strangers_short_directory_is_refused(tmp_path: Path) -> None:
    places = Places(tmp_path / "home")
    places.short.mkdir(mode=0o755)
    try:
        with pytest.raises(PermissionError):
            places.make()
    finally:
        places.short.rmdir()


def test_only_one_holds_a_home(tmp_path: Path) -> None:
    places = Places(tmp_path)
    descriptor = places.hold()
    with pytest.raises(InUse) as caught:
        places.hold()
    assert caught.value.pid == os.getpid()
    assert places.held()

    os.close(descriptor)

    assert not places.held()
    os.close(places.hold())


def test_a_directory_with_other_things_is_foreign(tmp_path: Path) -> None:
    places = Places(tmp_path)
    assert places.foreign() == []
    (tmp_path / "thesis.tex").touch()
    assert places.foreign() == ["thesis.tex"]
    (tmp_path / "data").mkdir()
    assert places.foreign() == []


def test_a_note_counts_only_while_its_writer_lives(tmp_path: Path) -> None:
    places = Places(tmp_path)
    me = processes.current()
    places.write_note({"pid": me.pid, "started": me.started})
    assert places.driver() == me
    places.write_note({"pid": me.pid, "started": me.started + 1})
    assert places.driver() is None


def test_processes_of_a_cluster_are_found_and_ended(
    tmp_path: Path, child: subprocess.Popen[bytes]
) -> None:
    [found] = processes.of_cluster(tmp_path)
    assert found.pid == child.pid
    assert processes.of_cluster(tmp_path / "other") == []
    assert processes.pss_bytes(child.pid) > 0

    assert processes.end([found], 5.0) == []

    assert processes.of_cluster(tmp_path) == []


def test_a_runtime_is_not_ended_with_its_cluster(tmp_path: Path) -> None:
    # Started by the cluster, with an environment of its own; its child is a container.
    script = f"env -i {processes.RUNTIME_MARK}={tmp_path} sh -c 'env -i sleep 60 & wait'"
    with subprocess.Popen(
        ["/bin/sh", "-c", f"{script} & wait"], env={processes.MARK: str(tmp_path)}
    ) as started:
        runtime: list[processes.Process] = []
        inside: list[processes.Process] = []
        try:
            # What inherited the mark, and has not replaced its environment yet, is there as well.
            while not (inside and len(runtime) == 1):
                assert started.poll() is None
                runtime = processes.of_runtime(tmp_path)
                inside = processes.descendants([p.pid for p in runtime])
            assert [p.pid for p in processes.of_cluster(tmp_path)] == [started.pid]
        finally:
            processes.end([*runtime, *inside], 0.0)
    assert processes.of_runtime(tmp_path) == []


def test_a_later_process_with_the_same_pid_is_not_killed(child: subprocess.Popen[bytes]) -> None:
    now = processes.found(child.pid)
    assert now is not None
    processes.kill(processes.Process(now.pid, now.started - 1))
    assert now.alive()


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (
            "/x/arktos/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp/arktos-0-1/ray",
            "ray head (GCS)",
        ),
        ("/x/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/arktos", "ray raylet"),
        ("/x/python /x/ray/dashboard/dashboard.py --temp-dir=/tmp/arktos", "ray dashboard"),
        ("ray::IDLE", "ray spare worker"),
        ('/x/python -m arktos_ray serve {"data-dir": "/x"} --progress 3', "driver"),
        ("/usr/bin/containerd --config /x/state/config.toml", "containerd"),
        ("/usr/bin/containerd-shim-runc-v2 -namespace k8s.io -id 1", "containerd shim"),
        ("bash", "other"),
    ],
)
def test_a_process_is_called_by_what_it_does(command: str, role: str) -> None:
    assert processes.role_of(command) == role


def test_the_doctor_examines_everything(tmp_path: Path) -> None:
    findings = {f.what: f for f in machine.examine(tmp_path, tmp_path / "none.sock")}
    assert findings["python"].verdict == "ok"
    # Nobody answers there: it is either missing, or ours to start.
    lacking = bool(machine.lacks_for_containers())
    assert findings["containerd"].verdict == ("missing" if lacking else "ok")
    assert bool(findings["containerd"].hint) == lacking
