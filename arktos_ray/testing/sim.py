"""SimCluster: the whole control plane in one process and one thread, with virtual time and faults.

The parts are the real ones (actors/), so is everything below them; only the clock, the network,
the disk and the moments of death are ours. One seed decides all of them: a failing seed is a bug
report, and runs the same way each time (with PYTHONHASHSEED=0, which `make sim` sets).

    with SimCluster(seed=7) as sim:
        sim.run(sim.client("tp-1").create(...))
        sim.crash("tp-1")
        sim.run_until(lambda: ...)
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, Self, TypeVar

from arktos_ray.actors.controller_shard import ControllerShard
from arktos_ray.actors.hosts import SimulatedHosts
from arktos_ray.actors.part import Part, Spec, Surroundings
from arktos_ray.actors.resource_partition import ResourcePartition
from arktos_ray.actors.scheduler import Scheduler
from arktos_ray.actors.streams import ClientEnd, Connect, Deframer, ServerEnd, StreamPeer
from arktos_ray.actors.tenant_partition import TenantPartition
from arktos_ray.api.calls import User
from arktos_ray.api.errors import Failure, Unavailable
from arktos_ray.base.ids import Ids
from arktos_ray.client.port import Client, Object
from arktos_ray.store.port import Fenced, Lease, Log
from arktos_ray.tenancy import topology as topologies
from arktos_ray.tenancy.topology import PartitionRow, Topology
from arktos_ray.testing.simdisk import RecordLog, SimDisk
from arktos_ray.testing.simloop import LIFE, Life, SimClock, SimLoop, context_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Faults:
    """What the world does to us all the time. Seconds, and chances per event; zero is a calm day.

    What happens to one part at one moment are methods of SimCluster: crash, stall, cut, ...
    """

    network_delay_s: tuple[float, float] = (0.0001, 0.002)
    disk_delay_s: tuple[float, float] = (0.0005, 0.005)
    # A connection breaks while a frame is on it; the frame may or may not arrive.
    reset_chance: float = 0.0
    # A frame, and all behind it, takes its time.
    late_chance: float = 0.0
    late_s: tuple[float, float] = (0.05, 2.0)
    restart_s: float = 1.0


# How long a connection attempt into a cut network waits.
CONNECT_S_MAX = 3.0
# Notes of what happened that a failure shows.
_NOTES_MAX = 400


class _SimPipe:
    """One direction of a connection: frames arrive in order, later, or never after a reset."""

    def __init__(self, sim: SimCluster, connection: _Connection, to: Life | None) -> None:
        self._sim, self._connection = sim, connection
        self._to, self._context = to, context_of(to)
        self.deliver: Callable[[list[Any]], None]
        self.overhear: Callable[[list[Any]], None] | None = None
        self._deframer = Deframer()
        self._arrives = 0.0

    def send(self, frame: bytes) -> None:
        if self._connection.broken:
            return
        sim = self._sim
        low, high = sim.faults.network_delay_s
        sent = max(sim.loop.time(), sim.cut_until(*self._connection.names))
        if sim.faults.late_chance > 0 and sim.random.random() < sim.faults.late_chance:
            sim.counts["frame late"] += 1
            sent += sim.random.uniform(*sim.faults.late_s)
        # Strictly later than the frame before: timers of one moment fire in any order.
        at = max(self._arrives + 1e-7, sent + sim.random.uniform(low, high))
        self._arrives = at
        lost = sim.faults.reset_chance > 0 and sim.random.random() < sim.faults.reset_chance
        if lost and sim.random.random() < 0.5:
            sim.counts["connection lost before a frame"] += 1
            sim.loop.call_at(at, self._connection.break_off)
            return
        sim.loop.call_at(at, self._arrive, at, frame, context=self._context)
        if lost:
            # While the other side works on it, or just after it has answered.
            sim.counts["connection lost after a frame"] += 1
            later = at + sim.random.uniform(0, sim.faults.disk_delay_s[1])
            sim.loop.call_at(later, self._connection.break_off)

    def _arrive(self, at: float, frame: bytes) -> None:
        # Who stood still finds what came before the connection broke, as in a socket.
        if at > self._connection.broken_at or (self._to is not None and self._to.ended):
            return
        for one in self._deframer.feed(frame):
            if self.overhear is not None:
                self.overhear(one)
            self.deliver(one)

    def end(self, lost: Callable[[], None]) -> None:
        """The connection broke: whoever reads here is told, behind what it has not read yet."""
        if self._to is not None and self._to.stalled:
            self._sim.loop.call_soon(lost, context=self._context)
        else:
            lost()

    async def ready(self) -> None:
        return

    @property
    def unread(self) -> int:
        return 0

    def close(self) -> None:
        self._connection.break_off()


class _Connection:
    def __init__(self, sim: SimCluster, names: tuple[str, str], part: Part, server: Life) -> None:
        self.broken_at = inf
        self.names = names
        self._sim = sim
        to_server, to_client = _SimPipe(sim, self, server), _SimPipe(sim, self, LIFE.get())
        self._pipes = to_server, to_client
        self.client = ClientEnd(names[1], to_server)
        self.server = ServerEnd(part, to_client, part.tasks)
        to_server.deliver, to_client.deliver = self.server.received, self.client.received
        if sim.on_asked is not None:
            to_server.overhear = partial(sim.on_asked, self)

    @property
    def broken(self) -> bool:
        return self.broken_at < inf

    def break_off(self) -> None:
        if not self.broken:
            self.broken_at = self._sim.loop.time()
            to_server, to_client = self._pipes
            to_client.end(self.client.lost)
            to_server.end(self.server.lost)


class _BugsLogged(logging.Handler):
    """A bug that costs only the call that met it is logged there; here it ends the run."""

    LOGGERS = ("arktos_ray.actors.streams", "arktos_ray.apiserver.server")

    def __init__(self, bugs: list[tuple[str, BaseException]]) -> None:
        super().__init__(logging.ERROR)
        self._bugs = bugs

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._bugs.append((record.name, error or AssertionError(record.getMessage())))

    def attach(self) -> None:
        for name in self.LOGGERS:
            logging.getLogger(name).addHandler(self)

    def detach(self) -> None:
        for name in self.LOGGERS:
            logging.getLogger(name).removeHandler(self)


@dataclass(slots=True)
class _Process:
    """A part, through all its lives, and the machine below it."""

    make: Callable[[Spec, Surroundings], Part]
    spec: Spec
    disk: SimDisk
    clock: SimClock
    part: Part | None = None
    life: Life = field(default_factory=lambda: Life(""))
    started: bool = False
    connections: list[_Connection] = field(default_factory=list)
    incarnation: int = 0
    # Lives that were replaced while they stood still, and may wake up.
    ghosts: list[tuple[Part, Life, list[_Connection]]] = field(default_factory=list)
    slow: float = 1.0  # times the usual delay of the disk


class SimCluster:
    """Two tenant partitions, two resource partitions, and all that goes with them, by default."""

    def __init__(
        self, seed: int, *, tenant_partitions: int = 2, resource_partitions: int = 2,
        nodes: int = 10, shards: int = 1, faults: Faults | None = None,
        with_parts: bool = True, mode: str = "kubemark", lease: Lease | None = None,
    ) -> None:  # fmt: skip
        """lease: logs are as in an etcd, and may be opened while somebody else holds them."""
        self.seed, self.lease = seed, lease
        self.random = random.Random(seed)
        self.faults = faults or Faults()
        self.loop = SimLoop()
        self.clock = SimClock(self.loop)
        self.processes: dict[str, _Process] = {}
        self.bugs: list[tuple[str, BaseException]] = []
        self.fenced: list[str] = []  # who learnt that it was replaced, and ended
        # How often each fault was injected, and each interesting state was reached.
        self.counts: Counter[str] = Counter()
        self.notes: deque[str] = deque(maxlen=_NOTES_MAX)
        # Told of every frame that reaches who is asked: a story may choose its moment by it.
        self.on_asked: Callable[[_Connection, list[Any]], None] | None = None
        self._cuts: dict[frozenset[str], float] = {}
        self._logged = _BugsLogged(self.bugs)
        self.topology = topologies.fitted(
            None, tenant_partitions, resource_partitions, nodes if with_parts else 0, mode
        )
        self._with_parts = with_parts
        for row in self.topology.partitions:
            self._add_partition(row)
        if with_parts:
            for i in range(shards):
                self._add(ControllerShard, f"shard-{i + 1}", shard=i, shards=shards)
            homes = list(self.topology.names("resource"))
            self._add(
                SimulatedHosts, "simulated-1", nodes=nodes, mode=mode,
                resource_partitions=homes,
            )  # fmt: skip

    def _add_partition(self, row: PartitionRow) -> None:
        number = row.number
        if row.kind == "resource":
            self._add(ResourcePartition, row.name, number=number)
            return
        self._add(TenantPartition, row.name, number=number, service_cidr=f"10.{96 + number}.0.0/16")
        if self._with_parts:
            self._add(Scheduler, f"scheduler-{row.name}", tenant_partition=row.name)

    def change(self, topology: Topology) -> None:
        """As the supervisor does it: what is new is started, all that are up are told, and
        whoever starts later finds it."""
        old, self.topology = self.topology, topology
        before = set(self.processes)
        for row in topology.partitions:
            if row.name not in old.names(row.kind):
                self._add_partition(row)
        for fleet in topology.fleets:
            if fleet not in old.fleets:
                self._add(
                    SimulatedHosts, fleet.name, nodes=fleet.nodes, mode=fleet.mode,
                    resource_partitions=list(fleet.partitions), prefix=fleet.prefix,
                    first_index=fleet.first_index,
                )  # fmt: skip
        for name in [name for name in self.processes if name not in before]:
            self.loop.call_soon(self.start, name)
        for row in old.partitions:
            if row.name not in topology.names(row.kind):
                for name in (row.name, f"scheduler-{row.name}"):
                    if name in self.processes:
                        self._kill(name)
                        del self.processes[name]
        self.loop.call_soon(self._tell_all, {"topology": topology.pack(), "acks": {}})

    def _tell_all(self, payload: dict[str, Any]) -> None:
        for process in self.processes.values():
            if process.part is not None:
                context_of(process.life).run(
                    process.part.tasks.start, process.part.request("follow", payload), "follow"
                )

    def _add(self, make: Callable[[Spec, Surroundings], Part], name: str, **more: Any) -> None:
        spec = {"name": name, "data_dir": "", "run_dir": "", "topology": None, **more}
        disk = SimDisk(self.random)
        process = self.processes[name] = _Process(make, spec, disk, SimClock(self.loop))

        def delay_s() -> float:
            # A log waits three times for its disk: before, while, and after the sync.
            return self.random.uniform(*self.faults.disk_delay_s) * process.slow / 3

        disk.delay_s = delay_s

    # Life

    def __enter__(self) -> Self:
        asyncio.set_event_loop(self.loop)
        self._logged.attach()
        for name in self.processes:
            self.loop.call_soon(self.start, name)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._logged.detach()
        for name, process in self.processes.items():
            self._kill(name)
            for ghost in process.ghosts:
                self._end(*ghost)
        pending = asyncio.all_tasks(self.loop)
        for task in pending:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        self.loop.close()
        if error is not None:
            error.add_note(f"simulation seed {self.seed}, at {self.loop.virtual:.3f} s")
            error.add_note("what happened last:\n  " + "\n  ".join(list(self.notes)[-40:]))

    def note(self, text: str) -> None:
        """Something that a reader of a failure wants to know of."""
        self.notes.append(f"{self.loop.virtual:9.4f} {text}")

    def _start(self, name: str) -> None:
        process = self.processes[name]
        process.incarnation += 1
        life = process.life = Life(f"{name}#{process.incarnation}")

        def open_log(spec: Spec) -> Log:
            return RecordLog(process.disk, self.lease, process.clock)

        def crash(error: BaseException) -> None:
            if isinstance(error, Fenced):
                self.fenced.append(name)
                self.counts["fenced"] += 1
                part.tasks.kill()
                # What it sent before arrives.
                self.loop.call_later(self.faults.network_delay_s[1], self._end_ghost, name, life)
                return
            if isinstance(error, Failure) and process.life is life and not process.started:
                # As with a disk that is full: it ends, and is started again.
                self.counts["start refused"] += 1
                self.note(f"{name} cannot start: {error}")
                self.crash(name)
                return
            # A part that ends by a bug ends the run: nothing may hide behind a restart.
            self.bugs.append((name, error))

        surroundings = Surroundings(
            process.clock, Ids(self.random.getrandbits(64)), partial(self._connector, name),
            open_log, crash, listens=False, topology=lambda spec: self.topology,
        )  # fmt: skip
        context = context_of(life)
        part = process.part = context.run(process.make, process.spec, surroundings)

        async def begin() -> None:
            await part.start()
            if process.life is life:
                process.started = True
            # The supervisor tells everybody who has started.
            await part.request("follow", {"topology": self.topology.pack(), "acks": {}})

        context.run(part.tasks.start, begin(), f"{name}-start")

    def _kill(self, name: str) -> None:
        process = self.processes[name]
        part, process.part, process.started = process.part, None, False
        connections, process.connections = process.connections, []
        if part is not None:
            self._end(part, process.life, connections)
            process.disk.crash()

    def _end_ghost(self, name: str, life: Life) -> None:
        for ghost in self.processes[name].ghosts:
            if ghost[1] is life:
                self._end(*ghost)

    def _end(self, part: Part, life: Life, connections: list[_Connection]) -> None:
        for connection in connections:
            connection.break_off()
        # The process is gone: no task of it takes another step that anyone can see.
        life.ended = True
        part.tasks.kill()
        self.loop.go_on(life)  # To its end, that is.

    def start(self, name: str) -> None:
        process = self.processes.get(name)  # It may have been removed meanwhile.
        if process is not None and process.part is None:
            self._start(name)

    # Faults

    def crash(self, name: str, restart: bool = True) -> None:
        """kill -9, and after a while Ray starts it again."""
        process = self.processes.get(name)
        if process is None:
            return  # It was removed before its time came.
        if process.part is None:
            self.counts["crash while down"] += 1
        elif not process.part.prepared:
            self.counts["crash during recovery"] += 1
        elif not process.started:
            self.counts["crash during start"] += 1
        else:
            self.counts["crash"] += 1
        if process.life.stalled:
            self.counts["crash while stalled"] += 1
        self.note(f"crash {name}")
        self._kill(name)
        if restart:
            self.loop.call_later(self.faults.restart_s, self.start, name)

    def stall(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long, unless something replaced it by then."""
        process = self.processes[name]
        life = process.life
        if process.part is None or life.stalled:
            return
        self.counts["stall"] += 1
        if not process.started:
            self.counts["stall during start"] += 1
        self.note(f"stall {name} for {seconds:.3f} s")
        self.loop.stall(life)

        def go_on() -> None:
            if life.stalled:
                self.note(f"{life.name} goes on")
                self.loop.go_on(life)

        self.loop.call_later(seconds, go_on)

    def replace(self, name: str, *, kill: bool = True) -> None:
        """A new incarnation, whatever the present one does.

        kill: the actor's lock ends the predecessor (docs/decisions/0005). Without it, as on
        another machine, the old one stays with its connections, and may wake up later.
        """
        process = self.processes.get(name)
        if process is None:
            return  # It was removed before its time came.
        self.note(f"replace {name}")
        if process.part is not None and process.life.stalled:
            self.counts["stall with replacement"] += 1
        if kill or process.part is None:
            self._kill(name)
        else:
            self.counts["replaced and alive"] += 1
            process.ghosts.append((process.part, process.life, process.connections))
            process.part, process.started, process.connections = None, False, []
        self.loop.call_soon(self.start, name)

    def cut(self, one: str, other: str, seconds: float, lost: float = 0.3) -> None:
        """Nothing passes between two parts for a while; then it does, or the connection is lost.

        lost: how likely the latter is.
        """
        self.counts["network cut"] += 1
        self.note(f"cut {one} | {other} for {seconds:.3f} s")
        pair = frozenset((one, other))
        until = self._cuts[pair] = max(self.cut_until(one, other), self.loop.time() + seconds)
        for name in (one, other):
            for connection in self.processes[name].connections if name in self.processes else ():
                if frozenset(connection.names) == pair and self.random.random() < lost:
                    self.loop.call_at(until, connection.break_off)

    def cut_until(self, one: str, other: str) -> float:
        return self._cuts.get(frozenset((one, other)), 0.0)

    def step_clock(self, name: str, seconds: float) -> None:
        """The wall clock of a part's machine is set."""
        self.counts["clock step forward" if seconds > 0 else "clock step back"] += 1
        self.note(f"the clock of {name} steps by {seconds:+.1f} s")
        self.processes[name].clock.offset += seconds

    def fill_disk(self, name: str, writes: int) -> None:
        """The next writes to it find no room, each after some bytes."""
        self.counts["disk full"] += 1
        self.note(f"the disk of {name} is full for {writes} writes")
        self.processes[name].disk.full_writes = writes

    def break_disk(self, name: str, syncs: int) -> None:
        self.counts["disk fails"] += 1
        self.note(f"the disk of {name} fails {syncs} syncs")
        self.processes[name].disk.broken_syncs = syncs

    def slow_disk(self, name: str, factor: float, seconds: float) -> None:
        self.counts["disk slow"] += 1
        self.note(f"the disk of {name} is {factor:.0f} times slower for {seconds:.3f} s")
        process = self.processes[name]
        process.slow = factor
        self.loop.call_later(seconds, setattr, process, "slow", 1.0)

    def heal(self) -> None:
        """A calm day from now on: everything runs, is connected, and has room."""
        self.note("all faults end")
        self.faults = Faults()
        self._cuts.clear()
        for name, process in self.processes.items():
            process.disk.full_writes = process.disk.broken_syncs = 0
            process.slow = 1.0
            if process.life.stalled:
                self.loop.go_on(process.life)
            self.loop.call_soon(self.start, name)

    def _connector(self, ours: str, name: str) -> Connect:
        async def connect() -> ClientEnd:
            low, high = self.faults.network_delay_s
            await asyncio.sleep(self.random.uniform(low, high))
            wait = self.cut_until(ours, name) - self.loop.time()
            if wait > 0:
                await asyncio.sleep(min(wait, CONNECT_S_MAX))
                if wait > CONNECT_S_MAX:
                    raise Unavailable(f"{name} cannot be reached from {ours}")
            process = self.processes.get(name)
            if process is None or process.part is None:
                raise Unavailable(f"{name} is not running")
            # As a socket: it listens once the part is prepared.
            if process.part.prepared is False:
                raise Unavailable(f"{name} is starting")
            connection = _Connection(self, (ours, name), process.part, process.life)
            process.connections.append(connection)
            return connection.client

        return connect

    # Looking and acting from outside

    def client(self, partition: str, user: User | None = None, name: str = "outside") -> Client:
        peer = StreamPeer(partition, self._connector(name, partition))
        who = user or User("system:admin", "system", ("system:masters",))
        return Client(peer, who)

    def part(self, name: str) -> Part:
        part = self.processes[name].part
        assert part is not None, f"{name} is down"
        return part

    def run(self, work: Coroutine[Any, Any, T] | Awaitable[T], within_s: float = 120.0) -> T:
        """Let time pass until the work is done; its result."""

        async def bounded() -> T:
            async with asyncio.timeout(within_s):
                return await work

        result = self.loop.run_until_complete(bounded())
        self._check_bugs()
        return result

    def run_for(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds), within_s=seconds + 1)

    def run_until(
        self, condition: Callable[[], bool], within_s: float = 300.0, every_s: float = 0.05
    ) -> None:
        """Let time pass until the condition holds."""

        async def wait() -> None:
            while not condition():
                await self.clock.sleep(every_s)

        self.run(wait(), within_s)

    async def eventually(self, work: Callable[[], Awaitable[T]]) -> T:
        """Repeat an idempotent call while the other side is away."""
        while True:
            try:
                return await work()
            except Unavailable:
                await asyncio.sleep(0.1)

    def _check_bugs(self) -> None:
        if self.bugs:
            name, error = self.bugs[0]
            raise AssertionError(f"{name}: a bug") from error

    # What is true now, read from the stores themselves

    def objects(self, gvr: str, tenant: str = "") -> Iterator[Object]:
        """Every durable object of all partitions that are up."""
        for process in self.processes.values():
            if isinstance(process.part, TenantPartition) and process.started:
                prefix = f"{tenant}/" if tenant else ""
                for record in process.part.store.table(gvr).range(prefix):
                    yield record.decode()
