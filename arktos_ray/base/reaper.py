"""Reaper: outlives a driver that was killed by a moment, and ends whom it left.

Most of Ray's processes end with the driver by themselves. Its agents need not: when the raylet and
the GCS end together, they try to report that to the GCS, and stay for a minute.

Run as `python -m arktos_ray.base.reaper HOME PIPE LOCK`. PIPE is a descriptor that reads an end of
file when the driver is gone. LOCK is the driver's lock on its directory: nobody starts there
before the last process has ended. A driver that stops in order ends its reaper with the rest.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from arktos_ray.base import processes

# How closely the moment of the driver's death is known; 0.02% of a core.
_LOOK_S = 0.5


def start(home: Path, lock: int) -> None:
    """For as long as this process lives, and a moment longer."""
    reading, _ = os.pipe()  # The other end stays open until we end; no child gets it.
    subprocess.Popen(
        [sys.executable, "-m", "arktos_ray.base.reaper", str(home), str(reading), str(lock)],
        pass_fds=[reading, lock], stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(reading)


def main() -> None:
    home, pipe = Path(sys.argv[1]), int(sys.argv[2])
    alive = processes.tick()
    while not select.select([pipe], [], [], _LOOK_S)[0]:
        alive = processes.tick()
    while left := [p for p in processes.of_cluster(home) if _is_left(p, alive)]:
        if processes.end(left, 0.0):
            return  # Not ours to end, or stuck in the kernel. `status` shows them.


def _is_left(process: processes.Process, alive: int) -> bool:
    """Whether the dead driver left it. The next driver may wait for the lock already: it started
    after the other was last seen alive, and has no Ray before it has the lock."""
    return process.started < alive or processes.is_ray(processes.command(process.pid))


if __name__ == "__main__":
    main()
