"""What every actor is made of: a name, its surroundings, an address, and a Peer for the others.

A Part knows no Ray. `cluster.py` wraps it as a Ray actor; the simulator makes it directly, with
surroundings of its own (virtual time, seeded ids, connections that lose and delay).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arktos_ray.actors.inside import Address, Inside
from arktos_ray.actors.streams import Connect, StreamPeer, StreamServer, socket_path
from arktos_ray.api.calls import Call, Reply, User, WatchEvent
from arktos_ray.api.errors import Failure, NotFound, Unavailable
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.base import processes
from arktos_ray.base.clock import Clock
from arktos_ray.base.ids import Ids
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client
from arktos_ray.store.port import Log
from arktos_ray.tenancy import topology as topologies
from arktos_ray.tenancy.topology import Topology

log = logging.getLogger(__name__)

Spec = dict[str, Any]

# How often an actor looks whether its certificate for the inside is half over.
_RENEW_PERIOD_S = 3600.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """All that a part needs from outside itself."""

    clock: Clock
    ids: Ids
    connect: Callable[[str], Connect]  # the name of an actor -> how to reach it
    open_log: Callable[[Spec], Log]
    crash: Callable[[BaseException], None]  # ends this part; its supervisor starts another
    listens: bool = True  # on a socket; the simulator hands out connections itself
    # The topology as it is kept, for who starts; None: the spec has the only one there is.
    topology: Callable[[Spec], Topology | None] = lambda spec: None
    inside: Inside | None = None  # credentials for other machines, where there may be some


class Part:
    """Spec: name, run_dir, data_dir, topology (packed; of when it was made), and more.

    Subclasses write `open` (start work; others can already reach us), `shut`, `regroup` (the
    topology changed), and override the Peer methods that they serve.
    """

    role = "part"

    def __init__(self, spec: Spec, surroundings: Surroundings) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.clock, self.ids = surroundings.clock, surroundings.ids
        self._surroundings = surroundings
        self.tasks = Tasks(on_crash=surroundings.crash)
        # A part that Ray started again has an old spec: it must not begin with old partitions.
        kept = surroundings.topology(spec)
        self.topology = kept if kept is not None else topologies.unpack(spec["topology"])
        self.told = 0  # the version that the supervisor told us last
        self._regrouping = asyncio.Lock()
        self._peers: dict[str, StreamPeer] = {}
        self._server: StreamServer | None = None
        self._address: Address | None = None
        self._ready = asyncio.Event()
        self.prepared = False

    # Life

    async def start(self) -> None:
        async with self._regrouping:
            await self.prepare()
            self.prepared = True
            if self._surroundings.listens:
                path = socket_path(Path(self.spec["run_dir"]), self.name, os.getpid())
                inside = self._surroundings.inside
                self._server = StreamServer(self, path, self.tasks, inside)
                if inside is not None:
                    self.tasks.start(self._renew(inside), "renew certificate")
                self._address = await self._server.start()
            await self.open()
        self._ready.set()

    async def prepare(self) -> None:
        """Before anyone can reach us: recover state."""

    async def open(self) -> None:
        """Now others can reach us: begin to work with them."""

    async def shut(self) -> None:
        """Stop what `open` started."""

    async def close(self) -> None:
        await self.shut()
        if self._server is not None:
            await self._server.close()
        await self.tasks.close()
        for peer in self._peers.values():
            peer.close()

    async def _renew(self, inside: Inside) -> None:
        while True:
            await self.clock.sleep(_RENEW_PERIOD_S)
            if inside.renew(self.clock.now()):
                log.info("%s: a new certificate for the inside", self.name)

    async def address(self) -> Address | None:
        """Where our StreamServer listens; None until it does."""
        return self._address

    async def ready(self) -> bool:
        await self._ready.wait()
        return True

    async def health(self) -> dict[str, Any]:
        return {"name": self.name, "ready": self._ready.is_set(), "pid": os.getpid()}

    async def stats(self) -> dict[str, Any]:
        return {}

    # The topology

    async def regroup(self, old: Topology, acks: Mapping[str, int]) -> None:
        """Work with the partitions of self.topology from here on; `old` may be the same.

        acks: at which of its revisions each tenant partition had learnt of it. Everybody is told
        once after the start, and then whenever it changes.
        """

    async def _follow(self, packed: Mapping[str, Any], acks: Mapping[str, int]) -> None:
        topology = topologies.unpack(packed)
        async with self._regrouping:  # After `open`, which works with the one before.
            if topology.version >= self.topology.version:
                old, self.topology = self.topology, topology
                await self.regroup(old, acks)
                self.told = topology.version

    # Others

    def peer(self, name: str) -> StreamPeer:
        found = self._peers.get(name)
        if found is None:
            found = self._peers[name] = StreamPeer(name, self._surroundings.connect(name))
        return found

    def client(self, name: str) -> Client:
        """The objects of a partition, as this part: trusted, in the system tenant."""
        user = User(f"system:{self.name}", SYSTEM_TENANT, ("system:masters",), trusted=True)
        return Client(self.peer(name), user)

    def tenant_clients(self) -> dict[str, Client]:
        return {name: self.client(name) for name in self.topology.names("tenant")}

    def resource_clients(self) -> dict[str, Client]:
        return {name: self.client(name) for name in self.topology.names("resource")}

    # The Peer that we offer

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        raise Unavailable(f"{self.name} serves no objects")

    def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        return _refused(Unavailable(f"{self.name} serves no objects"))

    async def request(self, method: str, payload: Any) -> Any:
        if method == "stats":
            return await self.stats()
        if method == "footprint":
            return processes.footprint(os.getpid())
        if method == "ping":
            return True
        if method == "follow":
            await self._follow(payload["topology"], payload["acks"])
            return self.acknowledged()
        raise NotFound(f"{self.name} has no method {method}")

    def acknowledged(self) -> int:
        """What `follow` is answered with: where a partition was when it knew."""
        return 0

    def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        return _refused(NotFound(f"{self.name} has no stream {method}"))


async def _refused(failure: Failure) -> AsyncIterator[Any]:
    for refusal in (failure,):
        raise refusal
    yield
