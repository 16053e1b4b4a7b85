"""What can be known of our own containerd without starting it."""

from __future__ import annotations

from pathlib import Path

import pytest

from arktos_ray.api.errors import Unavailable
from arktos_ray.base import processes
from arktos_ray.base.places import Places
from arktos_ray.runtime.containerd.daemon import Daemon, mounts_under


def daemon(home: Path) -> Daemon:
    return Daemon(home, home / "root", home / "state", home / "logs" / "containerd.log")


def test_one_that_never_ran_is_dismantled_without_a_word(tmp_path: Path) -> None:
    assert daemon(tmp_path).process() is None
    assert daemon(tmp_path).dismantle() == []
    assert list(tmp_path.iterdir()) == []


def test_the_state_of_a_machine_that_was_switched_off_is_cleared(tmp_path: Path) -> None:
    gone = daemon(tmp_path)
    gone.state.mkdir()
    (gone.state / "containerd.pid").write_text("1 0")  # That pid is another process by now.
    assert gone.process() is None
    gone.dismantle()
    assert not gone.state.exists()


def test_a_directory_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    made = daemon(tmp_path)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "containerd.pid").write_text(str(processes.current()))
    made.state.symlink_to(tmp_path / "theirs")
    with pytest.raises(Unavailable, match="ours alone"):
        made.start()
    assert made.process() is None
    assert made.dismantle() == []
    assert (tmp_path / "theirs" / "containerd.pid").exists()


def test_sockets_have_short_paths_wherever_home_is(tmp_path: Path) -> None:
    for home in (tmp_path, tmp_path / ("x" * 120)):
        places = Places(home)
        made = Daemon(home, places.containerd, places.containerd_state, home / "log")
        assert len(f"{made.address}.ttrpc") <= 107
        # Ray's directories are removed while containers go on.
        assert not places.containerd_state.is_relative_to(places.short)


def test_mounts_are_found_by_where_they_are() -> None:
    assert Path("/proc") in mounts_under([Path("/proc")])
    assert mounts_under([Path("/no/such/place")]) == []
