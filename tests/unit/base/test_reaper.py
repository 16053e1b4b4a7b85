from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from arktos_ray.base import processes

_DRIVER = """
import os, subprocess, sys
from pathlib import Path
from arktos_ray.base import reaper
home = Path(sys.argv[1])
lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT)
import fcntl
fcntl.flock(lock, fcntl.LOCK_EX)
reaper.start(home, lock)
left = subprocess.Popen(["sleep", "60"], start_new_session=True)
print(left.pid, flush=True)
sys.stdin.read()
"""


def test_whom_a_killed_driver_leaves_is_ended_before_its_lock_is_free(tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, str(tmp_path)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env={**os.environ, processes.MARK: str(tmp_path)},
    )  # fmt: skip
    with driver:
        assert driver.stdout is not None
        left = processes.found(int(driver.stdout.readline()))
        assert left is not None
        driver.kill()

    lock = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)  # Waits for the reaper.

    assert not left.alive()
    os.close(lock)
