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
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from arktos_ray.actors.controller_shard import ControllerShard
from arktos_ray.actors.hosts import SimulatedHosts
from arktos_ray.actors.part import Part, Spec, Surroundings
from arktos_ray.actors.resource_partition import ResourcePartition
from arktos_ray.actors.scheduler import Scheduler
from arktos_ray.actors.streams import ClientEnd, Connect, Deframer, ServerEnd, StreamPeer
from arktos_ray.actors.tenant_partition import TenantPartition
from arktos_ray.api.calls import User
from arktos_ray.api.errors import Unavailable
from arktos_ray.base.ids import Ids
from arktos_ray.client.port import Client, Object
from arktos_ray.store.backends.memory import MemoryDisk, MemoryLog
from arktos_ray.store.port import Fenced, Lease, Log, Row
from arktos_ray.tenancy import topology as topologies
from arktos_ray.tenancy.topology import PartitionRow, Topology

T = TypeVar("T")
EPOCH = 1_800_000_000.0


class _NoSelector(selectors.SelectSelector):
    """Waits for nothing: time jumps to the next timer instead."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        super().__init__()
        self._advance = advance

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("the simulation waits for something that will never happen")
        if timeout > 0:
            self._advance(timeout)
        return []


class SimLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when everybody waits."""

    def __init__(self) -> None:
        self.virtual = 0.0
        super().__init__(_NoSelector(self._pass))

    def _pass(self, seconds: float) -> None:
        self.virtual += seconds

    def time(self) -> float:
        return self.virtual


class SimClock:
    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return EPOCH + self._loop.virtual

    def monotonic(self) -> float:
        return self._loop.virtual

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Faults:
    """What the world does to us. Seconds, and chances per event; all zero is a calm day."""

    network_delay_s: tuple[float, float] = (0.0001, 0.002)
    disk_delay_s: tuple[float, float] = (0.0005, 0.005)
    # A connection breaks while a frame is on it; the frame may or may not arrive.
    reset_chance: float = 0.0
    restart_s: float = 1.0


class Life:
    """One incarnation of a part. It can be paused, as by SIGSTOP, and go on beside its
    replacement."""

    def __init__(self) -> None:
        self.part: Part | None = None
        self.connections: list[_Connection] = []
        self._resumed: asyncio.Future[None] | None = None
        self._held: list[Callable[[], None]] = []

    def pause(self) -> None:
        if self._resumed is None:
            self._resumed = asyncio.get_running_loop().create_future()

    def resume(self) -> None:
        if self._resumed is not None:
            self._resumed.set_result(None)
            self._resumed = None
            held, self._held = self._held, []
            for step in held:
                step()

    async def awake(self) -> None:
        """Whatever the part waits for comes no sooner than the part goes on."""
        while self._resumed is not None:
            await asyncio.shield(self._resumed)

    def step(self, step: Callable[[], None]) -> None:
        """Now, or when it goes on."""
        if self._resumed is None:
            step()
        else:
            self._held.append(step)

    def end(self) -> None:
        for connection in self.connections:
            connection.break_off()
        self.connections.clear()
        if self.part is not None:
            # The process is gone: no task of it takes another step that anyone can see.
            self.part.tasks.kill()


class _LifeClock(SimClock):
    def __init__(self, loop: SimLoop, life: Life) -> None:
        super().__init__(loop)
        self._life = life

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        await self._life.awake()


class _SimLog(MemoryLog):
    """A disk that takes its time: a crash may come before, during or after the write."""

    def __init__(self, disk: MemoryDisk, sim: SimCluster, life: Life) -> None:
        super().__init__(disk, sim.lease, sim.clock)
        self._sim, self._life = sim, life

    async def append(self, rows: Sequence[Row]) -> None:
        low, high = self._sim.faults.disk_delay_s
        await asyncio.sleep(self._sim.random.uniform(low, high) / 2)
        await self._life.awake()
        await super().append(rows)
        # From here on the rows are durable, and nobody has been told.
        await asyncio.sleep(self._sim.random.uniform(low, high) / 2)
        await self._life.awake()

    async def renew(self) -> None:
        # Far away: what was replaced learns of it late enough to have done something wrong.
        await asyncio.sleep(self._sim.random.uniform(*self._sim.faults.disk_delay_s))
        await self._life.awake()
        await super().renew()


class _SimPipe:
    """One direction of a connection: frames arrive in order, later, or never after a reset."""

    def __init__(self, sim: SimCluster, connection: _Connection) -> None:
        self._sim, self._connection = sim, connection
        self.life: Life | None = None  # of whoever reads here
        self.deliver: Callable[[list[Any]], None]
        self._deframer = Deframer()
        self._arrives = 0.0

    def send(self, frame: bytes) -> None:
        if self._connection.broken:
            return
        sim = self._sim
        low, high = sim.faults.network_delay_s
        # Strictly later than the frame before: timers of one moment fire in any order.
        at = max(self._arrives + 1e-7, sim.loop.time() + sim.random.uniform(low, high))
        self._arrives = at
        lost = sim.faults.reset_chance > 0 and sim.random.random() < sim.faults.reset_chance
        if lost and sim.random.random() < 0.5:
            sim.loop.call_at(at, self._connection.break_off)
            return
        sim.loop.call_at(at, self._arrive, frame)
        if lost:
            # While the other side works on it, or just after it has answered.
            later = at + sim.random.uniform(0, sim.faults.disk_delay_s[1])
            sim.loop.call_at(later, self._connection.break_off)

    def _arrive(self, frame: bytes) -> None:
        if self.life is None:
            self._deliver(frame)
        else:
            self.life.step(lambda: self._deliver(frame))

    def _deliver(self, frame: bytes) -> None:
        if not self._connection.broken:
            for one in self._deframer.feed(frame):
                self.deliver(one)

    async def ready(self) -> None:
        return

    @property
    def unread(self) -> int:
        return 0

    def close(self) -> None:
        self._connection.break_off()


class _Connection:
    def __init__(self, sim: SimCluster, name: str, life: Life) -> None:
        part = life.part
        assert part is not None
        self.broken = False
        to_server, to_client = _SimPipe(sim, self), _SimPipe(sim, self)
        to_server.life = life
        self.client = ClientEnd(name, to_server)
        self.server = ServerEnd(part, to_client, part.tasks)
        to_server.deliver, to_client.deliver = self.server.received, self.client.received

    def break_off(self) -> None:
        if not self.broken:
            self.broken = True
            self.client.lost()
            self.server.lost()


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
    make: Callable[[Spec, Surroundings], Part]
    spec: Spec
    disk: MemoryDisk = field(default_factory=MemoryDisk)
    part: Part | None = None
    started: bool = False
    life: Life = field(default_factory=Life)
    # Lives that were replaced while they stood still, and may wake up.
    ghosts: list[Life] = field(default_factory=list)
    incarnation: int = 0


class SimCluster:
    """Two tenant partitions, two resource partitions, and all that goes with them, by default."""

    def __init__(
        self, seed: int, *, tenant_partitions: int = 2, resource_partitions: int = 2,
        nodes: int = 10, shards: int = 1, faults: Faults | None = None,
        with_parts: bool = True, lease: Lease | None = None,
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
        self._logged = _BugsLogged(self.bugs)
        self.topology = topologies.fitted(
            None, tenant_partitions, resource_partitions, nodes if with_parts else 0, "kubemark"
        )
        self._with_parts = with_parts
        for row in self.topology.partitions:
            self._add_partition(row)
        if with_parts:
            for i in range(shards):
                self._add(ControllerShard, f"shard-{i + 1}", shard=i, shards=shards)
            homes = list(self.topology.names("resource"))
            self._add(
                SimulatedHosts, "simulated-1", nodes=nodes, mode="kubemark",
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
                process.part.tasks.start(process.part.request("follow", payload), "follow")

    def _add(self, make: Callable[[Spec, Surroundings], Part], name: str, **more: Any) -> None:
        spec = {"name": name, "data_dir": "", "run_dir": "", "topology": None, **more}
        self.processes[name] = _Process(make, spec)

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
                ghost.end()
        pending = asyncio.all_tasks(self.loop)
        for task in pending:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        self.loop.close()
        if error is not None:
            error.add_note(f"simulation seed {self.seed}, at {self.loop.virtual:.3f} s")

    def _start(self, name: str) -> None:
        process = self.processes[name]
        process.incarnation += 1
        life = process.life = Life()

        def open_log(spec: Spec) -> Log:
            return _SimLog(process.disk, self, life)

        def crash(error: BaseException) -> None:
            if isinstance(error, Fenced):
                self.fenced.append(name)
                part.tasks.kill()
                # What it sent before arrives.
                self.loop.call_later(self.faults.network_delay_s[1], life.end)
                return
            # A part that ends by a bug ends the run: nothing may hide behind a restart.
            self.bugs.append((name, error))

        surroundings = Surroundings(
            _LifeClock(self.loop, life), Ids(self.random.getrandbits(64)), self._connector,
            open_log, crash, listens=False, topology=lambda spec: self.topology,
        )  # fmt: skip
        part = process.part = life.part = process.make(process.spec, surroundings)

        async def begin() -> None:
            await part.start()
            process.started = process.part is part

        part.tasks.start(begin(), f"{name}-start")

    def _kill(self, name: str) -> None:
        process = self.processes[name]
        process.part, process.started = None, False
        process.life.end()

    def stall(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        life = self.processes[name].life
        self.loop.call_soon(life.pause)
        self.loop.call_later(seconds, life.resume)

    def replace(self, name: str, *, kill: bool = True) -> None:
        """A new incarnation, whatever the present one does.

        kill: the actor's lock ends the predecessor (docs/decisions/0005). Without it, as on
        another machine, the old one stays with its connections, and may wake up later.
        """
        process = self.processes[name]
        if kill:
            self._kill(name)
        else:
            process.ghosts.append(process.life)
            process.part, process.started = None, False
        self._start(name)

    def crash(self, name: str, restart: bool = True) -> None:
        """kill -9, and after a while Ray starts it again."""
        self._kill(name)
        if restart:
            self.loop.call_later(self.faults.restart_s, self.start, name)

    def start(self, name: str) -> None:
        if self.processes[name].part is None:
            self._start(name)

    def _connector(self, name: str) -> Connect:
        async def connect() -> ClientEnd:
            low, high = self.faults.network_delay_s
            await asyncio.sleep(self.random.uniform(low, high))
            process = self.processes.get(name)
            if process is None or process.part is None:
                raise Unavailable(f"{name} is not running")
            # As a socket: it listens once the part is prepared.
            if process.part.prepared is False:
                raise Unavailable(f"{name} is starting")
            connection = _Connection(self, name, process.life)
            process.life.connections.append(connection)
            return connection.client

        return connect

    # Looking and acting from outside

    def client(self, partition: str, user: User | None = None) -> Client:
        peer = StreamPeer(partition, self._connector(partition))
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

    def run_until(self, condition: Callable[[], bool], within_s: float = 300.0) -> None:
        """Let time pass until the condition holds; looked at every 50 ms."""

        async def wait() -> None:
            while not condition():
                await self.clock.sleep(0.05)

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
