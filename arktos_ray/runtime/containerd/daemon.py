"""A containerd of our own, for machines where nobody else starts one.

Everything of it lies in two directories: `root` keeps images and what containers wrote, `state`
what exists only while it runs. It belongs to no other process: it goes on, and its containers too,
when whoever started it ends, and is found again by its pid file. Not a driver: that is driver.py.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from arktos_ray.api import errors
from arktos_ray.base import machine, processes
from arktos_ray.base.processes import Process
from arktos_ray.runtime.containerd import ctr, images

log = logging.getLogger(__name__)

_START_S: Final = 20.0
_STOP_S: Final = 5.0
_KILL_S: Final = 1.0
_LOG_BYTES_MAX: Final = 10 << 20
_DETACH: Final = 2  # MNT_DETACH
# What a pull through a proxy needs. The rest of our environment is nobody's business in there.
_PASSED_ON: Final = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip

_CONFIG: Final = """version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{socket}"
[debug]
  level = "warn"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{root}/cni/bin"
    conf_dir = "{root}/cni/conf"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "{state}/runc"
      SystemdCgroup = {systemd}
"""


@dataclass(frozen=True, slots=True)
class Daemon:
    """home: the cluster whose containerd it is; state needs a short path (sockets are there)."""

    home: Path
    root: Path
    state: Path
    log: Path

    @property
    def address(self) -> str:
        return str(self.state / "containerd.sock")

    @property
    def _pid_file(self) -> Path:
        return self.state / "containerd.pid"

    def _is_ours(self) -> bool:
        """Whether what stands in `state` can be believed: it may be in /tmp, others' as well."""
        try:
            found = self.state.lstat()
        except OSError:
            return False
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        return ours and not found.st_mode & 0o022

    def process(self) -> Process | None:
        """It, while it lives, whoever started it."""
        if not self._is_ours():
            return None
        with suppress(OSError, ValueError):
            pid, started = map(int, self._pid_file.read_text().split())
            process = Process(pid, started)
            return process if process.alive() else None
        return None

    def start(self) -> Process:
        """Have it running, with the image that holds sandboxes. Raises Unavailable.

        The containers of one that died are taken over. 0.3 s.
        """
        process = self.process()
        if process is None or not machine.answers(Path(self.address)):
            process = self._started()
        if images.PAUSE_IMAGE not in ctr.names(self.address):
            ctr.import_images(self.address, images.pause_image())
        return process

    def _started(self) -> Process:
        if not processes.of_runtime(self.home):
            self._clear_state()  # Of a machine that was switched off, for example.
        for directory in (self.root, self.state, self.log.parent):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        if not self._is_ours():
            raise errors.Unavailable(f"{self.state} is not a directory that is ours alone")
        config = self.state / "config.toml"
        config.write_text(
            _CONFIG.format(
                root=self.root, state=self.state, socket=self.address, pause=images.PAUSE_IMAGE,
                snapshotter="overlayfs" if overlays(self.root) else "native",
                systemd="true" if machine.has_systemd() else "false",
            )
        )  # fmt: skip
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES_MAX:
            self.log.replace(self.log.with_suffix(".log.1"))
        program = shutil.which("containerd", path=machine.SYSTEM_PATH)
        if program is None:
            raise errors.Unavailable("containerd is not installed")
        # By way of a shell that ends at once: Ray ends the children of an actor with it.
        said = subprocess.run(
            ["/bin/sh", "-c", '"$1" --config "$2" >>"$3" 2>&1 & echo $!', "sh",
             program, str(config), str(self.log)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True, check=True,
            env={
                "PATH": machine.SYSTEM_PATH, processes.RUNTIME_MARK: str(self.home),
                **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            },
        ).stdout  # fmt: skip
        process = processes.found(int(said))
        if process is not None:
            self._pid_file.write_text(str(process))
        until = time.monotonic() + _START_S
        while process is not None and not machine.answers(Path(self.address)):
            if not process.alive() or time.monotonic() > until:
                processes.end([process], _STOP_S)
                process = None
                break
            time.sleep(0.02)
        if process is None:
            raise errors.Unavailable(f"containerd did not start: {self._last_words()}")
        log.info("containerd: process %d", process.pid)
        return process

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()
            return lines[-1][-500:] if lines else "it said nothing"
        return "its log cannot be read"

    def shims(self) -> list[int]:
        """The pids of its shims: one for each sandbox that is really there."""
        return [
            p.pid for p in processes.of_runtime(self.home)
            if "containerd-shim" in processes.command(p.pid).partition(" ")[0]
        ]  # fmt: skip

    def dismantle(self) -> list[Process]:
        """End it, its shims and all that runs in its containers; unmount what they mounted.

        By force, in any state that it may be in; what is in `root` stays, as on a disk after a
        power cut. Returns the processes that cannot be ended. Nothing to do: 2 ms.
        """
        daemon = self.process()
        if daemon is not None:
            processes.end([daemon], _STOP_S)  # First, so that it does not clear up beside us.
        shims = processes.of_runtime(self.home)
        running = processes.descendants([p.pid for p in shims])
        cgroups = cgroups_of(running)
        left = processes.end(running, _KILL_S)
        # Asked again: a container may just have been starting.
        left += processes.end(processes.of_runtime(self.home), 0.0)
        self._clear_state()
        for cgroup in cgroups:
            _remove_cgroup(cgroup)
        return left

    def _clear_state(self) -> None:
        if not self._is_ours():
            return
        for mounted in reversed(mounts_under([self.state, self.root])):
            _unmount(mounted)
        # Shims have their sockets elsewhere, and leave them when they are killed.
        for file in self.state.glob("io.containerd.runtime.v2.task/*/*/address"):
            with suppress(OSError):
                Path(file.read_text().strip().removeprefix("unix://")).unlink(missing_ok=True)
        shutil.rmtree(self.state, ignore_errors=True)


def overlays(directory: Path) -> bool:
    """Whether overlays can be mounted there: not on top of another overlay, for example."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=".overlay-") as name:
        place = Path(name)
        for part in ("lower", "upper", "work", "merged"):
            (place / part).mkdir()
        options = ",".join(f"{part}dir={place / part}" for part in ("lower", "upper", "work"))
        libc = ctypes.CDLL(None, use_errno=True)
        merged = os.fsencode(place / "merged")
        if libc.mount(b"overlay", merged, b"overlay", 0, options.encode()):
            return False
        libc.umount2(merged, _DETACH)
        return True


def mounts_under(directories: list[Path]) -> list[Path]:
    """What is mounted in these directories, in the order of mounting."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # Spaces and such are written as octal numbers.
        path = Path(line.split()[4].encode().decode("unicode_escape"))
        if any(path.is_relative_to(directory) for directory in directories):
            found.append(path)
    return found


def _unmount(path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), _DETACH):
        log.warning("%s stays mounted: %s", path, os.strerror(ctypes.get_errno()))


def cgroups_of(running: list[Process]) -> set[Path]:
    """The cgroups of these processes that a container runtime made, in every hierarchy."""
    places: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        kind, _, options = fields[fields.index("-") + 1 :]
        if kind == "cgroup2":
            places[""] = Path(fields[4])
        elif kind == "cgroup":
            for option in options.split(","):
                places[option] = Path(fields[4])
    found = set()
    for process in running:
        with suppress(OSError):
            for line in Path(f"/proc/{process.pid}/cgroup").read_text().splitlines():
                _, controllers, path = line.split(":", 2)
                place = places.get(controllers.split(",")[0])
                name = path.rpartition("/")[2].removeprefix("cri-containerd-").split(".")[0]
                if place is not None and len(name) == 64 and set(name) <= set("0123456789abcdef"):
                    found.add(place / path.lstrip("/"))
    return found


def _remove_cgroup(cgroup: Path) -> None:
    for directory, _, _ in os.walk(cgroup, topdown=False):
        with suppress(OSError):
            Path(directory).rmdir()
