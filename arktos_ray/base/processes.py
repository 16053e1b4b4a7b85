"""What the kernel knows of a cluster's processes: who they are, what they cost, how to end them.

A process belongs to the cluster whose directory stands in its environment (MARK), which every
child inherits; children of such a process belong too, because some rewrite their environment.
Linux only: it reads /proc.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

MARK = "ARKTOS_CLUSTER"
# The same for a cluster's own container runtime, which outlives the cluster's processes.
RUNTIME_MARK = "ARKTOS_RUNTIME"
_PROC = Path("/proc")
_VARIABLE = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*=")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """A process, told apart from a later one with the same pid by the tick of its start."""

    pid: int
    started: int

    def alive(self) -> bool:
        return found(self.pid) == self

    def __str__(self) -> str:
        return f"{self.pid} {self.started}"


def current() -> Process:
    process = found(os.getpid())
    assert process is not None
    return process


def identity() -> str:
    """This process among all processes of all machines: kernel, pid namespace, pid, start."""
    boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink(_PROC / 'self/ns/pid')} {current()}"


def is_gone(who: str) -> bool:
    """Whether that process (`identity`) has certainly ended. One that we cannot see has not."""
    here, there = identity().split(), who.split()
    if len(there) != 4 or here[:2] != there[:2]:
        return False
    return not Process(int(there[2]), int(there[3])).alive()


def same_machine(one: str, other: str) -> bool:
    """Whether two processes (`identity`) go by the same wall clock."""
    return one.split(" ")[0] == other.split(" ")[0]


def tick() -> int:
    """Now, in the unit of `Process.started`."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def is_ray(command: str) -> bool:
    """Whether it is one of Ray's own programs, or a worker of Ray."""
    return command.startswith("ray::") or any(
        program in command for program in ("/ray/core/", "/ray/_private/", "/ray/dashboard/")
    )


def found(pid: int) -> Process | None:
    """None when there is no such process, or only its zombie."""
    fields = _stat(pid)
    if fields is None or fields[0] in ("Z", "X"):
        return None
    return Process(pid, int(fields[19]))


def _stat(pid: int) -> list[str] | None:
    """The fields after the name, which may itself hold spaces and brackets."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def of_cluster(directory: Path) -> list[Process]:
    """Every process of that cluster but ourselves. About 20 us a process of the machine."""
    wanted = f"{MARK}={directory}".encode()
    ours: set[int] = set()
    children: dict[int, list[int]] = {}
    for entry in os.listdir(_PROC):
        if not entry.isdigit():
            continue
        pid = int(entry)
        fields = _stat(pid)
        if fields is None:
            continue
        children.setdefault(int(fields[1]), []).append(pid)
        with contextlib.suppress(OSError):
            if wanted in (_PROC / entry / "environ").read_bytes().split(b"\0"):
                ours.add(pid)
    waiting = list(ours)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in ours and _inherits(child):
                ours.add(child)
                waiting.append(child)
    ours.discard(os.getpid())
    return [process for process in map(found, sorted(ours)) if process is not None]


def of_runtime(directory: Path) -> list[Process]:
    """The container runtime of that cluster and its shims; not what runs in containers."""
    wanted = f"{RUNTIME_MARK}={directory}".encode()
    ours = []
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (_PROC / entry / "environ").read_bytes().split(b"\0"):
                    ours.append(int(entry))
    return [process for process in map(found, sorted(ours)) if process is not None]


def descendants(pids: list[int]) -> list[Process]:
    """Their children, and theirs; not they themselves."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields is not None:
                children.setdefault(int(fields[1]), []).append(int(entry))
    below: list[int] = []
    waiting = list(pids)
    while waiting:
        fresh = [pid for pid in children.get(waiting.pop(), ()) if pid not in pids]
        below += fresh
        waiting += fresh
    return [process for process in map(found, below) if process is not None]


def _inherits(pid: int) -> bool:
    """A child that wrote its title over its environment is ours; one that was given another is not.

    The node agent may start a container runtime with a clean environment: it outlives us.
    """
    try:
        environ = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return False
    return _VARIABLE.match(environ) is None


def end(processes: list[Process], grace_s: float) -> list[Process]:
    """SIGTERM, then SIGKILL to who is left after the grace. Returns who is still there."""
    _signal(processes, signal.SIGTERM)
    left = wait_gone(processes, grace_s) if grace_s > 0 else processes
    if left:
        _signal(left, signal.SIGKILL)
        left = wait_gone(left, 5.0)
    return left


def kill(process: Process) -> None:
    _signal([process], signal.SIGKILL)


def _signal(processes: list[Process], number: signal.Signals) -> None:
    for process in processes:
        if process.alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, number)


def wait_gone(processes: list[Process], deadline_s: float) -> list[Process]:
    """Those that are still there at the deadline."""
    until = time.monotonic() + deadline_s
    left = processes
    while left := [process for process in left if process.alive()]:
        if time.monotonic() >= until:
            break
        time.sleep(0.02)
    return left


# What they cost


def rss_bytes(pid: int) -> int:
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def pss_bytes(pid: int) -> int:
    """Its share of the memory, shared pages divided among their users. 1-5 ms: not in a loop."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_s(pid: int) -> float:
    """CPU seconds since its start, user and system."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S if fields else 0.0


def footprint(pid: int) -> dict[str, float]:
    """All of it, as `arktos status` shows it."""
    return {
        "pss_bytes": pss_bytes(pid), "rss_bytes": rss_bytes(pid), "cpu_s": round(cpu_s(pid), 2)
    }  # fmt: skip


def command(pid: int) -> str:
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()


def listener(port: int) -> int | None:
    """The pid that listens on that TCP port, when we may see it."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for entry in os.listdir(_PROC):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                for descriptor in os.listdir(_PROC / entry / "fd"):
                    if os.readlink(_PROC / entry / "fd" / descriptor) in inodes:
                        return int(entry)
    return None


# In this order: the first word that is found names the process.
_ROLES = (
    ("gcs_server", "ray head (GCS)"),
    ("raylet/raylet", "ray raylet"),
    ("ray-dashboard", "ray dashboard"),
    ("dashboard.py", "ray dashboard"),
    ("forkserver", "ray dashboard"),
    ("resource_tracker", "ray dashboard"),
    ("ray::DashboardAgent", "ray dashboard agent"),
    ("ray::RuntimeEnvAgent", "ray runtime agent"),
    ("ray::IDLE", "ray spare worker"),
    ("ray_process_reaper", "ray reaper"),
    ("base.reaper", "reaper"),
    ("log_monitor", "ray log monitor"),
    ("monitor.py", "ray autoscaler"),
    ("default_worker", "ray worker"),
    ("ray::", "ray worker"),
    ("serve {", "driver"),
    ("containerd-shim", "containerd shim"),
    ("containerd --config", "containerd"),
)


def role_of(command: str) -> str:
    """What a process without a part of ours is for."""
    return next((role for word, role in _ROLES if word in command), "other")
