"""An etcd of one's own, on free ports of loopback, in a private directory.

For live tests, failure drills, benchmarks, and trying things out; needs Debian's etcd-server.
Nothing of it outlives `stop`, and it touches no other etcd.

    server = EtcdServer(tmp_path)
    server.start()
    ... server.endpoint ...
    server.pause(), server.resume()     as a machine that hangs
    server.kill(), server.start()       as one that was switched off: the data stays
    server.stop()
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from arktos_ray.api.errors import Failure, Unavailable
from arktos_ray.base import pki
from arktos_ray.store.backends.etcd_rpc import Etcd, EtcdSettings

PROGRAM = "etcd"
_START_S = 20.0


def missing() -> str:
    """What this machine lacks for it; "" when nothing."""
    return "" if shutil.which(PROGRAM) else "etcd-server (apt-get install etcd-server)"


class EtcdServer:
    """tls: serve with certificates of a private authority, and ask clients for theirs.

    flags: more of etcd's own, such as --quota-backend-bytes=16777216.
    """

    def __init__(self, root: Path, *, tls: bool = False, flags: tuple[str, ...] = ()) -> None:
        self.root, self.tls, self._flags = root, tls, flags
        client, peer = _free_ports(2)
        self.endpoint = f"127.0.0.1:{client}"
        self._peer = f"http://127.0.0.1:{peer}"
        self._process: subprocess.Popen[bytes] | None = None
        self.user = self.password_file = ""
        self._pki = pki.Pki(root / "pki")
        if tls:
            pki.ensure(self._pki.directory, ["127.0.0.1"], pki.utc(time.time()))

    def settings(self, **more: object) -> EtcdSettings:
        values: dict[str, object] = {"endpoints": [self.endpoint]}
        if self.tls:
            values |= {
                "ca": str(self._pki.ca), "cert": str(self._pki.admin),
                "key": str(self._pki.admin_key),
            }  # fmt: skip
        if self.user:
            values |= {"user": self.user, "password_file": self.password_file}
        return EtcdSettings.of(values | more)

    # Life

    def start(self) -> int:
        """Its pid, once it answers."""
        self.root.mkdir(parents=True, exist_ok=True)
        scheme = "https" if self.tls else "http"
        url = f"{scheme}://{self.endpoint}"
        command = [
            PROGRAM, "--name", "one", "--data-dir", str(self.root / "data"),
            "--listen-client-urls", url, "--advertise-client-urls", url,
            "--listen-peer-urls", self._peer, "--initial-advertise-peer-urls", self._peer,
            "--initial-cluster", f"one={self._peer}", "--logger", "zap",
            "--enable-grpc-gateway=false", *self._flags,
        ]  # fmt: skip
        if self.tls:
            command += [
                "--cert-file", str(self._pki.server), "--key-file", str(self._pki.server_key),
                "--trusted-ca-file", str(self._pki.ca), "--client-cert-auth",
            ]  # fmt: skip
        with (self.root / "etcd.log").open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        until = time.monotonic() + _START_S
        etcd = Etcd(self.settings())
        try:
            while True:
                try:
                    etcd.call("Range", key=b"/", limit=1)
                except Failure as failure:
                    ended = self._process.poll()
                    if ended is not None or time.monotonic() > until:
                        self.kill()
                        raise Unavailable(f"etcd does not start: {self._said()}") from failure
                    time.sleep(0.05)
                else:
                    return self._process.pid
        finally:
            etcd.close()

    def _said(self) -> str:
        return (self.root / "etcd.log").read_text(errors="replace")[-1000:]

    def pause(self) -> None:
        """It hangs, and what was sent to it waits."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """As by a power cut; `start` brings it back with its data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "it does not run"
        os.kill(self._process.pid, number)

    def disarm(self) -> None:
        """After it was full, and has room again: it takes writes."""
        etcd = Etcd(self.settings())
        for found in etcd.call("Alarm", action="GET").alarms:
            etcd.call("Alarm", action="DEACTIVATE", memberID=found.memberID, alarm=found.alarm)
        etcd.close()

    # Authentication

    def require_users(self, prefix: str) -> None:
        """From now on only a user `arktos` gets in, who may do everything below the prefix."""
        etcd = Etcd(self.settings())
        end = prefix.encode()[:-1] + bytes([prefix.encode()[-1] + 1])
        for user, role in (("root", "root"), ("arktos", "arktos")):
            etcd.call("UserAdd", name=user, password=f"{user}-secret")
            etcd.call("RoleAdd", name=role)
            etcd.call("UserGrantRole", user=user, role=role)
        whole = {"permType": "READWRITE", "key": prefix.encode(), "range_end": end}
        etcd.call("RoleGrantPermission", name="arktos", perm=whole)
        etcd.call("AuthEnable")
        etcd.close()
        file = self.root / "password"
        file.write_text("arktos-secret\n")
        self.user, self.password_file = "arktos", str(file)


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in held]
    for one in held:
        one.close()
    return ports
