"""RAY: how one actor finds another, and the conversation over Ray calls alone.

An actor is found by its name and asked for its address once, by a Ray call; everything after that
goes over the stream (streams.py). With `transport: ray` the same frames travel in Ray calls
instead: `push` carries ours, `pull` waits for theirs. Slower by a factor of a hundred, needs no
socket, and always works.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from arktos_ray.actors import machines
from arktos_ray.actors.inside import Address, Inside
from arktos_ray.actors.part import Spec, Surroundings
from arktos_ray.actors.streams import (
    ClientEnd,
    Connect,
    Deframer,
    ServerEnd,
    StreamPeer,
    connect_socket,
    socket_path,
)
from arktos_ray.actors.topology import topology_store
from arktos_ray.api.calls import Peer
from arktos_ray.api.errors import Failure, Unavailable
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.ids import Ids
from arktos_ray.base.places import lock_holder
from arktos_ray.base.tasks import Tasks
from arktos_ray.store.backends.choice import open_log
from arktos_ray.store.port import Log

log = logging.getLogger(__name__)

NAMESPACE = "arktos"
_RESOLVE_DEADLINE_S = 5.0
# An actor without a process for this long is not just restarting here.
_GONE_S = 5.0
# The same where it may start on another machine: a restart here takes 1 to 2 s, and Ray knows.
_MOVED_S = 1.0
_PULL_WAIT_S = 20.0
# Frames that wait for the client's next pull before streams wait too.
_FRAMES_WAITING = 64
# Sessions of one actor: the parts of a large cluster. Then 503; idle ones end after a minute.
_SESSIONS_MAX = 1_000
_sessions = itertools.count()


async def actor_named(name: str) -> Any:
    """The Ray handle of one of our actors. Raises Unavailable while there is none."""
    try:
        # Asks the GCS, which blocks: not on the event loop.
        return await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
    except ValueError as error:
        raise Unavailable(f"{name} is not running") from error
    except RayError as error:
        raise Unavailable(f"{name}: Ray does not answer: {error}") from error


async def remote(name: str, call: Awaitable[Any], deadline_s: float) -> Any:
    """The answer of a Ray call; Ray's errors as ours. The order of the clauses matters."""
    try:
        async with asyncio.timeout(deadline_s):
            return await call
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, Failure):
            raise cause from None  # The actor's own answer, not a fault.
        raise  # A bug over there. Let it surface here too.
    except (TimeoutError, GetTimeoutError) as error:
        raise Unavailable(f"{name}: no answer in {deadline_s:g} s") from error
    except RayActorError as error:
        raise Unavailable(f"{name} is restarting") from error


def connector(
    transport: str, tasks: Tasks, run_dir: Path | None = None, inside: Inside | None = None
) -> Callable[[str], Connect]:
    """name -> how to connect to it. transport: `stream` or `ray`.

    run_dir: where the actors of this machine have their sockets. Without it, and for an actor
    that was never here, Ray is asked for the address. inside: needed to reach other machines.
    """

    def for_name(name: str) -> Connect:
        neighbour = None
        if run_dir and transport == "stream":
            neighbour = _Neighbour(name, run_dir, inside)

        async def connect() -> ClientEnd:
            if neighbour is not None:
                end = await neighbour.connect()
                if end is not None:
                    return end
            actor = await actor_named(name)
            if transport == "ray":
                return _connect_over_ray(name, actor, tasks)
            address = await remote(name, actor.address.remote(), _RESOLVE_DEADLINE_S)
            if address is None:
                raise Unavailable(f"{name} is starting")
            return await connect_socket(name, address, inside)

        return connect

    return for_name


class _Neighbour:
    """An actor of this machine, found by its lock file: the moment it listens.

    Ray tells of a restart 0.2 to 2 s later, and a question that it is asked meanwhile waits.
    """

    def __init__(self, name: str, run_dir: Path, inside: Inside | None) -> None:
        self._name, self._run_dir = name, run_dir
        self._machine = inside.machine if inside else ""
        self._patience_s = _GONE_S if inside is None else _MOVED_S
        self._gone_since: float | None = None

    async def connect(self) -> ClientEnd | None:
        """None when it is not here: never was, or has been gone for long and may have moved."""
        path = self._run_dir / f"{self._name}.lock"
        if not path.exists():
            return None
        process = lock_holder(path)
        if process is not None:
            self._gone_since = None
            socket = socket_path(self._run_dir, self._name, process.pid)
            return await connect_socket(self._name, Address(self._machine, str(socket)))
        now = asyncio.get_running_loop().time()
        self._gone_since = self._gone_since or now
        if now - self._gone_since > self._patience_s:
            return None
        raise Unavailable(f"{self._name} is restarting")


def _connect_over_ray(name: str, actor: Any, tasks: Tasks) -> ClientEnd:
    pipe = _RayPipe(name, actor, tasks)
    end = pipe.end = ClientEnd(name, pipe)
    return end


class _RayPipe:
    """The client's side. One push and one pull are in flight at a time, so frames keep order.

    The first push is empty and opens the session. Nothing else does: a session that the other
    side does not know (it restarted, or gave us up) is a lost connection, not a silent one.
    """

    def __init__(self, name: str, actor: Any, tasks: Tasks) -> None:
        self.end: ClientEnd
        self._name, self._actor = name, actor
        self._session = f"{os.getpid()}-{next(_sessions)}"
        self._out: list[bytes] = []
        self._wake = asyncio.Event()
        self._opened = asyncio.Event()
        self._work = [tasks.start(self._push(), "ray-push"), tasks.start(self._pull(), "ray-pull")]

    def send(self, frame: bytes) -> None:
        self._out.append(frame)
        self._wake.set()

    async def ready(self) -> None:
        return

    @property
    def unread(self) -> int:
        """Bounded by the calls in flight: whoever sends here waits for their answers."""
        return 0

    async def _push(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            try:
                hello = self._actor.push.remote(self._session, b"")
                await remote(self._name, hello, _RESOLVE_DEADLINE_S)
                self._opened.set()
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    out, self._out = b"".join(self._out), []
                    call = self._actor.push.remote(self._session, out)
                    await remote(self._name, call, _RESOLVE_DEADLINE_S)
            except (Failure, RayError):
                self.close()

    async def _pull(self) -> None:
        deframer = Deframer()
        with contextlib.suppress(asyncio.CancelledError):
            try:
                await self._opened.wait()
                while True:
                    call = self._actor.pull.remote(self._session, _PULL_WAIT_S)
                    data = await remote(self._name, call, _PULL_WAIT_S + _RESOLVE_DEADLINE_S)
                    for frame in deframer.feed(data):
                        self.end.received(frame)
            except (Failure, RayError, ValueError):
                self.close()

    def close(self) -> None:
        self.end.lost()
        for task in self._work:
            task.cancel()


class _Session:
    """The server's side of one client: what it sent, and what waits for its next pull."""

    # A client that does not pull for this long is gone.
    IDLE_S = 60.0

    def __init__(self, peer: Peer, tasks: Tasks) -> None:
        self.deframer = Deframer()
        self.end = ServerEnd(peer, self, tasks)
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._wake = asyncio.Event()
        self._space = asyncio.Event()
        self._space.set()
        self.last_pull = asyncio.get_running_loop().time()

    def send(self, frame: bytes) -> None:
        self._out.append(frame)
        self._out_bytes += len(frame)
        self._wake.set()
        if len(self._out) > _FRAMES_WAITING:
            self._space.clear()

    @property
    def unread(self) -> int:
        return self._out_bytes

    async def ready(self) -> None:
        await self._space.wait()

    def close(self) -> None:
        self.end.lost()

    async def take(self, wait_s: float) -> bytes:
        self.last_pull = asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        self._wake.clear()
        self._space.set()
        out, self._out = b"".join(self._out), []
        self._out_bytes = 0
        return out


class RaySessions:
    """What an actor needs to be reached over Ray calls: `push` and `pull` by session."""

    def __init__(self, peer: Peer, tasks: Tasks) -> None:
        self._peer, self._tasks = peer, tasks
        self._sessions: dict[str, _Session] = {}

    async def push(self, name: str, data: bytes) -> None:
        self._sweep()
        if not data and name not in self._sessions:
            if len(self._sessions) >= _SESSIONS_MAX:
                raise Unavailable("too many sessions are open here")
            self._sessions[name] = _Session(self._peer, self._tasks)
        session = self._session(name)
        for frame in session.deframer.feed(data):
            session.end.received(frame)

    async def pull(self, name: str, wait_s: float) -> bytes:
        self._sweep()
        return await self._session(name).take(wait_s)

    def _session(self, name: str) -> _Session:
        session = self._sessions.get(name)
        if session is None:
            raise Unavailable("the session is not known: it was idle for too long, or we restarted")
        return session

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        for name, session in list(self._sessions.items()):
            if now - session.last_pull > _Session.IDLE_S:
                session.close()
                del self._sessions[name]


def real_surroundings(spec: Spec) -> Surroundings:
    """A part's surroundings in its own process: the real clock, disk, sockets, and Ray.

    A crash ends the process at once: Ray starts another, which recovers from the log.
    """

    def crash(error: BaseException) -> None:
        log.critical("%s ends: %s", spec["name"], error)
        logging.shutdown()
        os._exit(1)

    clock = SystemClock()

    def open_log_of(of: Spec) -> Log:
        storage = of.get("storage", {"kind": "sqlite"})
        return open_log(storage, Path(of["data_dir"]), of["name"], clock)

    inside = machines.inside(spec, clock.now())
    return Surroundings(
        clock=clock,
        ids=Ids(),
        connect=connector(spec.get("transport", "stream"), Tasks(), Path(spec["run_dir"]), inside),
        open_log=open_log_of,
        crash=crash,
        topology=lambda of: topology_store(of).load(),
        inside=inside,
    )


def ray_peer(name: str, address: str) -> tuple[StreamPeer, Callable[[], Awaitable[None]]]:
    """An actor as seen from a driver outside the cluster, and how to let go of it.

    address: of the Ray cluster, which is joined unless this process is in one already.
    """
    if not ray.is_initialized():
        host = address.partition(":")[0]
        # Ray takes a loopback address for the machine's own, where ours does not listen, unless
        # it believes that this process's node has it (as in cluster.py).
        worker_module: Any = importlib.import_module("ray._private.worker")
        worker_module._global_node = SimpleNamespace(node_ip_address=host)
        try:
            ray.init(
                address=address, namespace=NAMESPACE, log_to_driver=False,
                configure_logging=False, _node_ip_address=host,
            )  # fmt: skip
        except (ConnectionError, RayError) as error:
            worker_module._global_node = None
            raise Unavailable(f"Ray does not answer at {address}: {error}") from error
    tasks = Tasks()
    peer = StreamPeer(name, connector("stream", tasks)(name))

    async def close() -> None:
        peer.close()
        await tasks.close()

    return peer, close
