"""The inside of a cluster of several machines: where an actor is, and TLS between its machines.

Every actor has a certificate of the cluster's inner CA (base/pki.py), which it makes itself from
the pair in its spec: whoever can start actors through Ray can run code in all of them, so a CA
that only the supervisor had would keep nobody out (docs/decisions/0012). Both ends show theirs;
TLS 1.3 alone. A stranger is refused in the handshake, before a frame is read.
"""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from typing import Any, NamedTuple

from arktos_ray.base import pki

# A machine that lost its power sends nothing, not even an end. The kernel asks it after IDLE_S of
# silence, and again each second; after SILENCE_S without an answer, to that or to data, the
# connection ends. The kernel of a machine answers for a process that is busy or stopped: those
# are the supervisor's to end. Costs one packet in 2 s on an idle connection, and no CPU of ours.
IDLE_S = 2
SILENCE_S = 4
# On an address where nobody is, packets are lost without a word.
CONNECT_DEADLINE_S = 3.0


class Address(NamedTuple):
    """Where an actor listens. Travels through Ray as it is."""

    machine: str = ""  # Ray's id of the node; "" in a cluster of one machine
    unix: str = ""  # the path of its socket, for actors of the same machine
    tcp: str = ""  # host:port, for the others; "" when it does not listen there


class Inside:
    """One actor's place and credentials: `listening` and `connecting` are for asyncio."""

    def __init__(
        self, name: str, ca: pki.InnerCa, now: float, *, machine: str, host: str, run_dir: Path
    ) -> None:
        self.name, self.machine, self.host = name, machine, host
        self._ca, self._run_dir, self._cluster = ca, run_dir, ca.cluster
        self.listening = _context(ssl.PROTOCOL_TLS_SERVER, ca)
        self.connecting = _context(ssl.PROTOCOL_TLS_CLIENT, ca)
        self._made = float("-inf")
        self.renew(now)

    def renew(self, now: float) -> bool:
        """A new certificate when half of the days of ours are over. Connections that are stay."""
        if now - self._made < pki.ACTOR_DAYS * 86_400 / 2:
            return False
        # OpenSSL's Python binding reads keys from files only.
        path = self._run_dir / f".{self.name}-{os.getpid()}.pem"
        pki.write_private(path, pki.actor_certificate(self._ca, self.name, pki.utc(now)))
        try:
            for context in (self.listening, self.connecting):
                context.load_cert_chain(path)
        finally:
            path.unlink()
        self._made = now
        return True

    def called(self, name: str) -> str:
        """What the certificate of that actor must say."""
        return pki.actor_name(self._cluster, name)

    def admits(self, certificate: dict[str, Any] | None) -> bool:
        """Whether whoever connected, with a certificate of our CA, is an actor of this cluster."""
        names = [value for kind, value in (certificate or {}).get("subjectAltName", ())]
        return any(name.endswith(f".{self._cluster}") for name in names)

    def listener(self) -> socket.socket:
        """On any free port of this machine's address; connections inherit its options."""
        listening = socket.create_server((self.host, 0), family=_family(self.host))
        _notice_silence(listening)
        return listening


def connection(address: str) -> tuple[socket.socket, tuple[str, int]]:
    """A socket that notices silence, not yet connected, and where to connect it to."""
    host, _, port = address.rpartition(":")
    found = socket.socket(_family(host))
    _notice_silence(found)
    found.setblocking(False)
    return found, (host, int(port))


def _context(protocol: int, ca: pki.InnerCa) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=ca.certificate.decode())
    return context


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _notice_silence(found: socket.socket) -> None:
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, SILENCE_S - IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_S * 1000),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    ):
        found.setsockopt(level, option, value)
