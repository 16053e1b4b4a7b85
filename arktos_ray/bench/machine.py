"""What figures depend on and cannot show: the machine, the version, and how busy it was."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import Any

from arktos_ray import __version__

# Above this, somebody else uses the machine, and times say more about them.
QUIET_LOAD = 1.0


def machine() -> dict[str, Any]:
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "arktos": __version__,
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
