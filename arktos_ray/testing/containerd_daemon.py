"""A containerd of one's own, in a private directory, with the images that tests need.

For live tests and for trying things out as root; needs Debian's containerd, runc and
busybox-static. Nothing of it outlives `stop`, and it touches no other containerd.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from pathlib import Path

from arktos_ray.testing import images

_CONFIG = """version = 2
root = "{root}/root"
state = "{root}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{root}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{root}/cni/bin"
    conf_dir = "{root}/cni/conf"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""
_START_S = 20.0


def missing() -> str:
    """What this machine lacks for it; "" when nothing."""
    lacking = [tool for tool in ("containerd", "runc", "ctr") if shutil.which(tool) is None]
    if not images.BUSYBOX.exists():
        lacking.append("busybox-static")
    return ", ".join(lacking)


class ContainerdDaemon:
    """Start, use `socket`, stop. `root` must be a short path: sockets have at most 107 bytes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = str(root / "containerd.sock")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        config = self.root / "config.toml"
        config.write_text(_CONFIG.format(root=self.root, pause=images.PAUSE_IMAGE))
        with (self.root / "containerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["containerd", "--config", str(config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_S
        while self._ctr("version", check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                log_text = (self.root / "containerd.log").read_text()[-2000:]
                raise RuntimeError(f"containerd did not start:\n{log_text}")
            time.sleep(0.05)
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "amd64")
        assert architecture == "amd64", "the images say amd64"
        for made in (images.busybox_image(), images.pause_image()):
            self._ctr("images", "import", "-", stdin=made)

    def stop(self) -> None:
        """Ends the daemon only; containers go on, as they would through an upgrade."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)
            self._process = None

    def shims(self) -> list[int]:
        """The process ids of its shims: one for each sandbox that is really there."""
        pids = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"containerd-shim" in command and self.socket.encode() in command:
                    pids.append(int(entry.name))
        return pids

    def leftovers(self) -> list[str]:
        """Containers and tasks that containerd itself still knows."""
        text = self._ctr("containers", "list", "-q").stdout + self._ctr("tasks", "ls", "-q").stdout
        return text.decode().split()

    def purge(self) -> None:
        """Remove every container, whatever a failed test left."""
        for task in self._ctr("tasks", "ls", "-q").stdout.decode().split():
            self._ctr("tasks", "delete", "--force", task, check=False)
        for container in self._ctr("containers", "list", "-q").stdout.decode().split():
            self._ctr("containers", "delete", container, check=False)

    def _ctr(
        self, *arguments: str, stdin: bytes | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["ctr", "--address", self.socket, "-n", "k8s.io", *arguments],
            input=stdin, capture_output=True, check=check, timeout=60,
        )  # fmt: skip
