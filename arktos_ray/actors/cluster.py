"""RAY: start or join a Ray cluster, and run a Part as a named actor that Ray restarts.

Nobody else starts actors. How one actor finds another is in handles.py.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import faulthandler
import fcntl
import importlib
import json
import logging
import os
import threading
import time
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
import uvloop
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from arktos_ray.actors import machines
from arktos_ray.actors.cast import SUPERVISOR, Actor, cast
from arktos_ray.actors.handles import NAMESPACE, RaySessions, actor_named, real_surroundings, remote
from arktos_ray.actors.inside import Address
from arktos_ray.actors.machines import Machine
from arktos_ray.actors.part import Part, Spec, Surroundings
from arktos_ray.actors.supervisor import Restarting, Supervisor
from arktos_ray.actors.topology import FileTopology, topology_store
from arktos_ray.api.errors import NotFound, Unavailable
from arktos_ray.base import collector, processes
from arktos_ray.base.log_files import LogFile
from arktos_ray.base.places import Places, lock_holder
from arktos_ray.tenancy.topology import unpack

log = logging.getLogger(__name__)

T = TypeVar("T")

# Above what all peers of an actor hold open together: parked `pull`s must not starve `report`.
_CALLS_MAX = 10_000
# A process that ends again and again waits before it tries once more: 0.25, 0.5, ... 10 s.
_RESTART_WAIT_LEAST_S = 0.25
_RESTART_WAIT_MOST_S = 10.0
# A life as long as this was no failed start.
_RESTART_FORGIVEN_S = 30.0
# A task on another machine may need a worker first: 0.4 s, on a busy machine 2.
_ELSEWHERE_DEADLINE_S = 10.0
_TOPOLOGY_DEADLINE_S = 5.0
# What every actor is told of its cluster's machines; the last only who must write or pass it on.
_SPAN = ("inner", "home_machine", "carried")


@dataclass(frozen=True, slots=True)
class RaySettings:
    """address "" starts a private cluster on loopback; otherwise that one is joined."""

    home: Path
    temp_dir: Path
    address: str = ""
    dashboard: bool = True
    dashboard_port: int = 8265
    object_store_bytes: int = 80 * 1024 * 1024


class Cluster:
    """A running Ray and our connection to it. `start_cluster` makes one."""

    def __init__(self, node: Any, address: str, dashboard: str, home: Path) -> None:
        self._node: Any = node
        self._supervisor: Any = None
        self._span: Spec = {"home_machine": replace(_here(), home=str(home)).pack()}
        self.address, self.dashboard = address, dashboard

    def span(self, places: Places, now: float) -> None:
        """From here on actors may run on every machine of this Ray."""
        self._span |= {"inner": machines.inner(places, now), "carried": machines.carried(places)}

    def lost(self) -> str | None:
        """Which of the processes that cannot be restarted alone has ended."""
        if self._node is None:
            return None if ray.is_initialized() else "connection"
        for kind in ("raylet", "gcs_server"):
            for info in self._node.all_processes.get(kind, ()):
                if info.process.poll() is not None:
                    return kind
        return None

    def start_supervisor(self, actor: Actor) -> None:
        # Beside the driver while that can be chosen; when its machine is lost, Ray chooses.
        self._supervisor = _start(actor, self._span, self._span["home_machine"]["node_id"])

    def find_supervisor(self) -> bool:
        """Whether one runs already, of a driver that is no more."""
        with contextlib.suppress(ValueError):
            self._supervisor = ray.get_actor(SUPERVISOR, NAMESPACE)
        return self._supervisor is not None

    def kill_supervisor(self) -> bool:
        """End its process, wherever it is, so that Ray starts another."""
        try:
            return _kill(SUPERVISOR, self._supervisor, self._span)
        except (RayError, TimeoutError) as error:
            log.warning("the supervisor cannot be ended: %s", error)
            return False

    def ask(self, method: str, payload: Any, deadline_s: float) -> Any:
        """A request to the supervisor. Raises Unavailable."""
        return self._get(self._supervisor.ask.remote(method, payload), deadline_s)

    def report(self, deadline_s: float) -> dict[str, Any]:
        """How the supervisor is. Raises Unavailable."""
        report: dict[str, Any] = self._get(self._supervisor.report.remote(), deadline_s)
        return report

    def _get(self, reference: Any, deadline_s: float) -> Any:
        try:
            return ray.get(reference, timeout=deadline_s)
        except (RayError, TimeoutError) as error:
            raise Unavailable(f"the supervisor does not answer: {error}") from error

    def remove_supervisor(self) -> None:
        """Only needed in a Ray that goes on without us."""
        with contextlib.suppress(RayError):
            ray.kill(self._supervisor, no_restart=True)

    def stop(self) -> None:
        ray.shutdown()
        if self._node is not None:
            self._node.kill_all_processes(check_alive=False, allow_graceful=True, wait=True)


def start_cluster(settings: RaySettings) -> Cluster:
    if settings.address:
        host = settings.address.rpartition(":")[0]
        # On loopback, as when several machines are tried on one, Ray must be told which it is.
        own: dict[str, Any] = {"_node_ip_address": host} if host.startswith("127.") else {}
        context = ray.init(
            address=settings.address, namespace=NAMESPACE, log_to_driver=False,
            configure_logging=False, **own,
        )  # fmt: skip
        return Cluster(None, settings.address, context.dashboard_url or "", settings.home)

    # ray.init(address="local") cannot leave the autoscaler and the log monitor out (100 MB and
    # 1 s), and moves a loopback address to the machine's own, which opens every port to the
    # network. So the head is started as `ray start` does it, from the same two classes.
    node_module: Any = importlib.import_module("ray._private.node")
    parameter_module: Any = importlib.import_module("ray._private.parameter")
    params = parameter_module.RayParams(
        node_ip_address="127.0.0.1",
        num_cpus=1,  # Workers started ahead, for the first actor. Ray keeps none for a restart.
        num_gpus=0,
        object_store_memory=settings.object_store_bytes,
        temp_dir=str(settings.temp_dir),
        include_dashboard=settings.dashboard,
        dashboard_host="127.0.0.1",
        dashboard_port=settings.dashboard_port,
        dashboard_agent_listen_port=0,
        include_log_monitor=False,
        no_monitor=True,
        resources={"tenant_partition": 64, "resource_partition": 64},
    )
    node = node_module.Node(
        params, head=True, shutdown_at_exit=True, spawn_reaper=True, ray_init_cluster=True
    )
    # Known as this process's node, it keeps its loopback address.
    worker_module: Any = importlib.import_module("ray._private.worker")
    worker_module._global_node = node
    ray.init(
        address=node.gcs_address, _node_ip_address="127.0.0.1", namespace=NAMESPACE,
        log_to_driver=False, configure_logging=False,
    )  # fmt: skip
    url = f"http://{node.webui_url}" if settings.dashboard and node.webui_url else ""
    return Cluster(node, node.gcs_address, url, settings.home)


def _here() -> Machine:
    """The Ray node of this process. Asks nobody."""
    address: Any = ray.util.get_node_ip_address
    return Machine(ray.get_runtime_context().get_node_id(), address())


def _start(actor: Actor, span: Spec, machine: str | None = None) -> Any:
    """Its handle. Blocks until the GCS has accepted it. Detached: it outlives who started it.

    span: which machine the cluster was started on, and what it takes to be on several.
    machine: where it should start, if that may be chosen.
    """
    carries = actor.role == "supervisor" or any(
        key in actor.spec for key in ("pki_dir", "keys_dir", "signer_dir")
    )
    keys = _SPAN if carries else _SPAN[:2]
    spec = {**actor.spec, **{key: span[key] for key in keys if key in span}}
    return (
        ray.remote(Shell)
        .options(
            name=actor.name,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
            # A call that failed may have run: whoever called decides, not Ray.
            max_task_retries=0,
            enable_task_events=False,
            num_cpus=0,
            max_concurrency=_CALLS_MAX,
            **_placed(actor, span, machine),
        )
        .remote(actor.make, spec)
    )


def _placed(actor: Actor, span: Spec, machine: str | None) -> dict[str, Any]:
    """Where it may run, in Ray's words."""
    home = Machine(**span["home_machine"])
    if not machines.spanning(span):
        pinned = NodeAffinitySchedulingStrategy(home.node_id, soft=False)
        return {"resources": actor.resources or None, "scheduling_strategy": pinned}
    bounds = machines.placement(actor.role, actor.spec, actor.resources, home)
    placed: dict[str, Any] = {"resources": bounds.resources or None}
    if bounds.free and machine is not None:
        placed["scheduling_strategy"] = NodeAffinitySchedulingStrategy(machine, soft=True)
    elif bounds.spread:
        placed["scheduling_strategy"] = "SPREAD"
    if bounds.labels:
        placed["label_selector"] = bounds.labels
        # Better in another zone than nowhere.
        placed["fallback_strategy"] = [{"label_selector": {}}]
    return placed


def _alive() -> list[str]:
    """The machines that actors may be started on now. Blocks."""
    nodes: Any = ray.nodes
    return sorted(node["NodeID"] for node in nodes() if node["Alive"])


def _kill(name: str, handle: Any, span: Spec) -> bool:
    """End that actor's process, on whichever machine it is. False when there is none. Blocks."""
    node_id = span["home_machine"]["node_id"]
    if machines.spanning(span):
        state: Any = importlib.import_module("ray._private.state")
        known = state.actors(handle._actor_id.hex()) or {}
        node_id = (known.get("Address") or {}).get("NodeID") or node_id
    if node_id == _here().node_id:
        return _end_holder(name, span)
    # A task is there when it is needed; an actor for each machine would cost 51 MB each.
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    ending = ray.remote(_end_holder).options(
        num_cpus=0, max_retries=0, enable_task_events=False, scheduling_strategy=there
    )  # fmt: skip
    ended: bool = ray.get(ending.remote(name, span), timeout=_ELSEWHERE_DEADLINE_S)
    return ended


def _end_holder(name: str, span: Spec) -> bool:
    """End the process that holds that actor's lock on this machine.

    A stopped process cannot act on Ray's own request to end, so the kernel is asked.
    """
    process = machines.places(span, _here(), os.environ).holder(name)
    if process is not None:
        processes.kill(process)
    return process is not None


class RayFleet:
    """The supervisor's view of the others. Keeps handles, because asking the GCS blocks."""

    def __init__(self, spec: Spec) -> None:
        """spec: the supervisor's own."""
        self._span = spec
        self._handles: dict[str, Any] = {}
        # name -> (role, node): where actors are, or will be that were started just now.
        self._placed: dict[str, tuple[str, str]] = {}

    async def _handle(self, name: str) -> Any:
        if name not in self._handles:
            self._handles[name] = await actor_named(name)
        return self._handles[name]

    async def start(self, actor: Actor) -> None:
        try:
            machine = None
            if machines.spanning(self._span):
                at = await asyncio.to_thread(_alive)
                # No `await` from here to the note: others are started at the same time.
                home = self._span["home_machine"]["node_id"]
                tied = machines.stays(actor.role, actor.spec)
                machine = home if tied else machines.choose(actor.role, at, self._placed, home)
                if machine is not None:
                    self._placed[actor.name] = (actor.role, machine)
            await asyncio.to_thread(_start, actor, self._span, machine)
        except (RayError, ValueError) as error:
            raise Unavailable(f"{actor.name} cannot be started: {error}") from error

    async def report(self, name: str, deadline_s: float) -> dict[str, Any]:
        try:
            handle = await self._handle(name)
        except Unavailable as failure:
            raise NotFound(failure.message) from failure
        try:
            report: dict[str, Any] = await remote(name, _dying(handle.report.remote()), deadline_s)
        except NotFound:
            self._handles.pop(name, None)
            self._placed.pop(name, None)
            raise
        if report["role"]:
            self._placed[name] = (report["role"], report["node_id"])
        return report

    async def stop(self, name: str, grace_s: float) -> None:
        handle = await self._handle(name)
        try:
            await remote(name, handle.stop.remote(grace_s), grace_s + 1.0)
        finally:
            await asyncio.to_thread(ray.kill, handle, no_restart=True)
            self._handles.pop(name, None)

    async def kill(self, name: str) -> bool:
        handle = await self._handle(name)
        try:
            return await asyncio.to_thread(_kill, name, handle, self._span)
        except (RayError, TimeoutError) as error:
            raise Unavailable(f"{name} cannot be ended: {error}") from error


async def _dying(call: Awaitable[T]) -> T:
    """Died for good is not the same as restarting: somebody has to start it again."""
    try:
        return await call
    except ActorDiedError as error:
        raise NotFound("it has ended") from error
    except ActorUnavailableError as error:
        raise Restarting("Ray is starting it again") from error


def supervisor(spec: Spec, surroundings: Surroundings) -> Supervisor:
    store = topology_store(spec)
    # What it saves must follow on what it loaded, and on nothing else.
    surroundings = replace(surroundings, topology=lambda _: store.load())
    return Supervisor(
        spec, surroundings, RayFleet(spec), store, partial(cast, spec["settings"])
    )  # fmt: skip


class Shell:
    """The Ray actor round every Part.

    The part lives on an event loop of its own, in a thread of its own: it starts at once when Ray
    starts this process again, and recovering for a minute does not look like hanging.
    """

    def __init__(self, make: str, spec: Spec) -> None:
        spec = machines.settle(spec, _here(), time.time())  # noqa: TID251
        self._make, self._spec, self._name = make, spec, spec["name"]
        collector.settle()
        self._log_to_file()
        self._lock = _sole_owner(Path(spec["run_dir"]) / f"{self._name}.lock")
        self._part: Part | None = None
        self._sessions: RaySessions | None = None
        self._started = False
        self._failure = ""
        self._loop = uvloop.new_event_loop()
        threading.Thread(target=self._live, name=self._name, daemon=True).start()

    def __repr__(self) -> str:
        return str(self._name)  # How Ray's pages and logs call this actor.

    def _log_to_file(self) -> None:
        path = Path(self._spec["log_dir"]) / f"{self._name}.log"
        root = logging.getLogger()
        root.handlers = [LogFile(path, self._spec.get("log_bytes_max", 10 << 20))]
        root.setLevel(self._spec.get("log_level", "INFO"))
        logging.captureWarnings(True)
        self._crash_file = path.with_suffix(".crash").open("a")
        faulthandler.enable(self._crash_file)

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.create_task(self._begin(), name="begin")
        self._loop.call_later(collector.INTERVAL_S, self._tend)
        self._loop.run_forever()

    def _tend(self) -> None:
        collector.tend()
        self._loop.call_later(collector.INTERVAL_S, self._tend)

    async def _begin(self) -> None:
        log.info("%s: process %d", self._name, os.getpid())
        self._failure, wait_s = _last_life(Path(self._spec["run_dir"]), self._name)
        surroundings = real_surroundings(self._spec)
        try:
            if wait_s:
                log.warning("%s: waiting %.2f s: %s", self._name, wait_s, self._failure)
                await surroundings.clock.sleep(wait_s)
            if machines.elsewhere(self._spec) and self._name != SUPERVISOR:
                surroundings = await _told_by_supervisor(self._spec, surroundings)
            module, _, attribute = self._make.partition(":")
            part: Part = getattr(importlib.import_module(module), attribute)(
                self._spec, surroundings
            )
            self._sessions = RaySessions(part, part.tasks)
            self._part = part
            await part.start()
        except Exception as error:
            log.exception("%s cannot start", self._name)
            _remember(Path(self._spec["run_dir"]), self._name, f"{type(error).__name__}: {error}")
            surroundings.crash(error)
        self._failure = ""
        self._started = True

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        """On the part's own loop."""
        future: concurrent.futures.Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return await asyncio.wrap_future(future)

    # What handles.py and the supervisor call.

    async def address(self) -> Address | None:
        part = self._part
        return await part.address() if part is not None else None

    async def push(self, session: str, data: bytes) -> None:
        await self._there(self._open().push(session, data))

    async def pull(self, session: str, wait_s: float) -> bytes:
        return await self._there(self._open().pull(session, wait_s))

    def _open(self) -> RaySessions:
        if self._sessions is None or self._part is None or not self._part.prepared:
            raise Unavailable(f"{self._name} is starting")
        return self._sessions

    async def ask(self, method: str, payload: Any) -> Any:
        if self._part is None:
            raise Unavailable(f"{self._name} is starting")
        return await self._there(self._part.request(method, payload))

    async def report(self) -> dict[str, Any]:
        """How it is. Once started, only a loop that turns can answer."""
        ready, stats, told = False, {}, 0
        if self._started and self._part is not None:
            ready = bool((await self._there(self._part.health()))["ready"])
            stats = await self._there(self._part.stats())
            told = self._part.told
        return {
            "pid": os.getpid(), "ready": ready, "stats": stats, "failure": self._failure,
            "told": told, "role": self._part.role if self._part else "",
            "machine": self._spec["machine"]["address"],
            "node_id": self._spec["machine"]["node_id"],
        }  # fmt: skip

    async def stop(self, grace_s: float) -> None:
        if self._part is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._there(self._part.close())
        logging.shutdown()


async def _told_by_supervisor(spec: Spec, surroundings: Surroundings) -> Surroundings:
    """With the topology that counts, where the file that has it is another machine's."""
    if not isinstance(topology_store(spec), FileTopology):
        return surroundings
    handle = await actor_named(SUPERVISOR)
    asked = handle.ask.remote("topology", None)
    topology = unpack(await remote(SUPERVISOR, asked, _TOPOLOGY_DEADLINE_S))
    return replace(surroundings, topology=lambda _: topology)


def _sole_owner(path: Path) -> Any:
    """One process of that name at a time: a predecessor that hangs is killed (design.md D11)."""
    file = path.open("a+")
    for _ in range(100):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = lock_holder(path)
            if holder is not None:
                log.warning("killing the predecessor, process %d", holder.pid)
                processes.kill(holder)
            time.sleep(0.05)
        else:
            file.truncate(0)
            file.write(str(processes.current()))
            file.flush()
            return file
    raise RuntimeError(f"{path} is held by a process that cannot be killed")


def _last_life(run_dir: Path, name: str) -> tuple[str, float]:
    """Why the last start failed, and how long to wait before this one."""
    path = run_dir / f"{name}.failure"
    try:
        age_s = time.time() - path.stat().st_mtime  # noqa: TID251
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return "", 0.0
    if age_s > _RESTART_FORGIVEN_S:
        return "", 0.0
    wait_s = _RESTART_WAIT_LEAST_S * 2 ** min(said["times"] - 1, 10)
    return said["why"], min(wait_s, _RESTART_WAIT_MOST_S)


def _remember(run_dir: Path, name: str, why: str) -> None:
    path = run_dir / f"{name}.failure"
    times = 0
    with contextlib.suppress(OSError, ValueError):
        if time.time() - path.stat().st_mtime < _RESTART_FORGIVEN_S:  # noqa: TID251
            times = json.loads(path.read_text())["times"]
    with contextlib.suppress(OSError):
        path.write_text(json.dumps({"times": times + 1, "why": why}))
