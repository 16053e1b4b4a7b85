"""A containerd of one's own, in a private directory, with the images that tests need.

For live tests and for trying things out as root; needs Debian's containerd, runc and
busybox-static. Nothing of it outlives `stop`, and it touches no other containerd.
"""

from __future__ import annotations

from pathlib import Path

from arktos_ray.base import machine, processes
from arktos_ray.runtime.containerd import ctr, images
from arktos_ray.runtime.containerd.daemon import Daemon


def missing() -> str:
    """What this machine lacks for it; "" when nothing."""
    lacking = machine.lacks_for_containers()
    if not images.BUSYBOX.exists():
        lacking.append("busybox-static")
    return ", ".join(lacking)


class ContainerdDaemon:
    """Start, use `socket`, stop. `root` must be a short path: sockets have at most 107 bytes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.daemon = Daemon(root, root / "root", root / "state", root / "containerd.log")
        self.socket = self.daemon.address

    def start(self) -> None:
        self.daemon.start()
        ctr.import_images(self.socket, images.busybox_image())

    def stop(self) -> None:
        left = self.daemon.dismantle()
        assert not left, [processes.command(p.pid) for p in left]

    def shims(self) -> list[int]:
        return self.daemon.shims()

    def leftovers(self) -> list[str]:
        """Containers and tasks that containerd itself still knows."""
        known = ctr.run(self.socket, "containers", "list", "-q")
        return (known + ctr.run(self.socket, "tasks", "ls", "-q")).split()
