"""The directories and files of one cluster, and the note that its driver leaves there.

Knows no Ray and no configuration, so that `arktos status` starts fast.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arktos_ray.base import processes
from arktos_ray.base.processes import Process

# sockaddr_un holds 107 bytes and a zero; our longest socket is `scheduler-tp-64-4194304.sock`.
_SOCKET_PATH_MAX = 107
_SOCKET_NAME_MAX = 32


class InUse(Exception):
    """Another process holds this directory."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"held by process {pid}" if pid else "held by another process")
        self.pid = pid


def lock_holder(path: Path) -> Process | None:
    """Who wrote `pid start` into that lock file, when it still lives."""
    with suppress(OSError, ValueError):
        pid, started = map(int, path.read_text().split())
        process = Process(pid, started)
        return process if process.alive() else None
    return None


@dataclass(frozen=True, slots=True)
class Places:
    """home holds what lasts. What need not, and needs a short path, may be under `short`."""

    home: Path

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def pki(self) -> Path:
        return self.home / "pki"

    @property
    def token_key(self) -> Path:
        return self.home / "token.key"

    @property
    def account_keys(self) -> Path:
        """What signs the tokens of service accounts."""
        return self.pki / "accounts"

    @property
    def signer(self) -> Path:
        """The CA that signs what is asked for with CertificateSigningRequests."""
        return self.pki / "signer"

    @property
    def ray_token(self) -> Path:
        return self.pki / "ray.token"

    @property
    def kubeconfig(self) -> Path:
        return self.home / "admin.kubeconfig"

    @property
    def note(self) -> Path:
        return self.home / "state.json"

    @property
    def lock(self) -> Path:
        return self.home / "arktos.lock"

    @property
    def driver_log(self) -> Path:
        return self.logs / "arktos.log"

    @property
    def short(self) -> Path:
        """A private directory with a short path, the same for the same home."""
        root = Path(tempfile.gettempdir())
        if len(str(root)) > 20:
            root = Path("/tmp")
        digest = hashlib.sha256(str(self.home).encode()).hexdigest()[:8]
        return root / f"arktos-{os.getuid()}-{digest}"

    @property
    def ray(self) -> Path:
        return self.short / "ray"

    @property
    def containerd(self) -> Path:
        """Images and layers of a containerd of our own."""
        return self.home / "containerd"

    @property
    def containerd_state(self) -> Path:
        """What it has only while it runs. Not in `short`: it outlives a driver that was killed."""
        near = self.containerd / "state"
        fits = len(os.fsencode(near)) + 1 + _SOCKET_NAME_MAX <= _SOCKET_PATH_MAX
        return near if fits else self.short.with_name(f"{self.short.name}-c")

    @property
    def run(self) -> Path:
        """Sockets and locks of the actors."""
        near = self.home / "run"
        fits = len(os.fsencode(near)) + 1 + _SOCKET_NAME_MAX <= _SOCKET_PATH_MAX
        return near if fits else self.short / "run"

    def make(self) -> None:
        """All directories, readable by nobody else. PermissionError when /tmp has a stranger's."""
        for directory in (self.home, self.data, self.logs, self.pki):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.short.mkdir(mode=0o700, exist_ok=True)
        found = self.short.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(13, "exists, and is not a private directory of ours", self.short)
        for directory in (self.ray, self.run):
            directory.mkdir(mode=0o700, exist_ok=True)

    def remove_short(self) -> None:
        """What lies outside home, once nobody runs here."""
        with suppress(OSError):
            if self.short.lstat().st_uid == os.getuid():
                shutil.rmtree(self.short, ignore_errors=True)

    def foreign(self) -> list[str]:
        """What is in home when home is not a cluster's directory: then nothing may be written."""
        if not self.home.is_dir():
            return []
        # A disk of its own has this from the start.
        names = sorted(e.name for e in self.home.iterdir() if e.name != "lost+found")
        ours = {self.lock.name, self.note.name, self.token_key.name, "data", "pki", "logs", "run"}
        return [] if ours & set(names) else names

    # The lock: one driver for a home, for as long as it lives.

    def hold(self) -> int:
        """A descriptor; the lock ends with it. Raises InUse."""
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            holder = lock_holder(self.lock)
            raise InUse(holder.pid if holder else 0) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(processes.current()).encode(), 0)
        return descriptor

    def held(self) -> bool:
        try:
            descriptor = os.open(self.lock, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def holder(self, name: str) -> Process | None:
        """The living process of that actor, from its own lock: true even while it hangs."""
        return lock_holder(self.run / f"{name}.lock")

    def failed_starts(self) -> dict[str, tuple[int, str]]:
        """Actors that could not start of late: how often, and why the last time."""
        failed = {}
        for path in self.run.glob("*.failure"):
            with suppress(OSError, ValueError, KeyError):
                said = json.loads(path.read_text())
                failed[path.stem] = (int(said["times"]), str(said["why"]))
        return failed

    # The note: what the driver last wrote about itself.

    def write_note(self, note: dict[str, Any]) -> None:
        temporary = self.note.with_suffix(".new")
        temporary.write_text(json.dumps(note, indent=1))
        os.replace(temporary, self.note)

    def read_note(self) -> dict[str, Any] | None:
        with suppress(OSError, ValueError):
            note = json.loads(self.note.read_text())
            if isinstance(note, dict):
                return note
        return None

    def driver(self) -> Process | None:
        """The process that runs this cluster, when it does."""
        note = self.read_note()
        if note is None:
            return None
        process = Process(note["pid"], note["started"])
        return process if process.alive() else None
