"""The composition root: checks the ground, starts Ray and the supervisor, and stays with them.

`serve` is the driver: one process in a session of its own, so that a Ctrl-C in somebody's
terminal reaches nobody but the command line, which then asks it to stop. When Ray's own head is
lost (raylet or GCS killed), the driver clears up and starts over from the data.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arktos_ray import __version__
from arktos_ray.actors.cast import SUPERVISOR, Actor, cast, settings
from arktos_ray.actors.topology import topology_store
from arktos_ray.api.errors import Unavailable
from arktos_ray.base import certificates, machine, pki, processes, reaper, signing
from arktos_ray.base.clock import SystemClock, rfc3339
from arktos_ray.base.places import InUse, Places
from arktos_ray.config import Config, ConfigError
from arktos_ray.runtime.containerd.daemon import Daemon
from arktos_ray.tenancy.topology import Topology, fitted, unpack

if TYPE_CHECKING:
    from arktos_ray.actors.cluster import Cluster

log = logging.getLogger(__name__)

# Everybody ready at the first start: 6-8 s on two cores, 25 s on two very busy ones. A restart
# recovers data on top.
_READY_DEADLINE_S = 180.0
# What a killed driver left is ended within a second.
_REAPER_DEADLINE_S = 10.0
# A part that failed so often before its first success will not succeed by itself.
_FAILED_STARTS_MAX = 3

# In the environment of a driver that took its own place, with what made it do so: nobody waits
# for its progress.
STARTED_OVER = "ARKTOS_STARTED_OVER"

Tell = Callable[[dict[str, Any]], None]


class Refused(Exception):
    """It cannot be started, and nothing was. `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


# Before anything is started


def check(config: Config, places: Places) -> None:
    """All that can be known to go wrong beforehand. Raises Refused; changes nothing but home."""
    try:
        config.audit_spec()
    except ConfigError as error:
        raise Refused(str(error), "audit: changes, off, or a file with a Policy") from None
    if config.node and not machine.answers(config.containerd):
        lacking = machine.lacks_for_containers()
        if lacking:
            raise Refused(
                f"this machine cannot be a node: nobody answers at {config.containerd}, and to "
                f"start a containerd of our own these are missing: {', '.join(lacking)}",
                "apt-get install containerd runc; or leave --node out",
            )
    try:
        _check_home(places, config.free_disk_mb_min)
        # In a Ray that is not ours actors outlive their driver: the ingress may be there already.
        if not config.address:
            _check_port(config.bind, config.port)
            _check_shared_memory(config.object_store_mb)
    except Refused:
        places.remove_short()
        raise


def _check_home(places: Places, free_mb_min: int) -> None:
    home = places.home
    foreign = places.foreign()
    if foreign:
        raise Refused(
            f"{home} is not empty, and not a directory of Arktos (it holds {foreign[0]})",
            "choose another with --data-dir",
        )
    try:
        places.make()
        probe = home / f".probe-{os.getpid()}"
        try:
            with probe.open("wb") as file:
                file.write(b"\0" * 65536)
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise _refused_home(home, error) from error
    free_mb = shutil.disk_usage(home).free >> 20
    if free_mb < free_mb_min:
        raise Refused(
            f"{home}: {free_mb} MB free, and {free_mb_min} MB are needed",
            "free some space, or choose another disk with --data-dir",
        )


def _refused_home(home: Path, error: OSError) -> Refused:
    where = error.filename or home
    if error.errno == errno.EROFS:
        return Refused(f"{where}: the disk is read-only", "choose another with --data-dir")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused(f"{where}: the disk is full", "free some space, or use another --data-dir")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Refused(f"{where}: {error.strerror}", "choose a --data-dir that you may write to")
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return Refused(f"{where} is a file, not a directory", "choose another with --data-dir")
    return Refused(f"{where}: {error.strerror}", "choose another with --data-dir")


def _check_port(bind: str, port: int) -> None:
    try:
        found = socket.getaddrinfo(bind or None, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise Refused(
            f"--bind {bind}: {error.strerror}", "give an address of this machine"
        ) from None
    with socket.socket(found[0], socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(found[4])
            probe.listen(1)
        except OSError as error:
            raise _refused_port(bind, port, error) from error


def _refused_port(bind: str, port: int, error: OSError) -> Refused:
    if error.errno == errno.EADDRINUSE:
        pid = processes.listener(port)
        who = f" by process {pid} ({processes.command(pid)[:80]})" if pid else ""
        return Refused(f"port {port} is in use{who}", "stop it, or choose another with --port")
    if error.errno == errno.EACCES:
        return Refused(f"port {port} needs root", "choose one above 1023 with --port")
    if error.errno == errno.EADDRNOTAVAIL:
        return Refused(f"--bind {bind}: no such address on this machine", "see `ip address`")
    return Refused(f"port {port}: {error.strerror}", "choose another with --port")


def _check_shared_memory(object_store_mb: int) -> None:
    with contextlib.suppress(OSError):
        free_mb = shutil.disk_usage("/dev/shm").free >> 20
        if free_mb < object_store_mb:
            raise Refused(
                f"/dev/shm has {free_mb} MB free, and Ray needs {object_store_mb} MB",
                "free some (ls -l /dev/shm), or mount it larger",
            )


# The driver


def url_of(config: Config) -> str:
    host = config.bind
    if host in ("", "0.0.0.0", "::"):
        # In a cluster of several machines the URL is for the others as well.
        host = machine.address() if config.address else "::1" if host == "::" else "127.0.0.1"
    bracketed = f"[{host}]" if ":" in host else host
    return f"{'http' if config.insecure else 'https'}://{bracketed}:{config.port}"


def credentials(config: Config, places: Places) -> None:
    """Certificates, the token key and the administrator's kubeconfig; kept when still good."""
    names = pki.server_names(config.bind) + ([machine.address()] if config.address else [])
    files = pki.ensure(places.pki, list(dict.fromkeys(names)), pki.utc(SystemClock().now()))
    pki.ensure_secret(places.token_key)
    signing.ensure_keys(places.account_keys, pki.utc(SystemClock().now()))
    certificates.ensure_signer(places.signer, pki.utc(SystemClock().now()))
    if not places.ray_token.exists():
        pki.write_private(places.ray_token, secrets.token_hex(32).encode())
    if config.insecure:
        kubeconfig = pki.kubeconfig(url_of(config), "admin")
    else:
        kubeconfig = pki.admin_kubeconfig(url_of(config), files)
    pki.write_kubeconfig(places.kubeconfig, kubeconfig)


def node_name(config: Config) -> str | None:
    """This machine's name as a node; None when it is not to be one."""
    if config.node is False:
        return None
    if (
        config.node is None
        and machine.lacks_for_containers()
        and not machine.answers(config.containerd)
    ):
        return None
    name = "".join(c if c.isalnum() or c in "-." else "-" for c in socket.gethostname().lower())
    return name.strip("-.") or "this-machine"


def own_containerd(places: Places) -> Daemon:
    """The one that we start where nobody else does."""
    log = places.logs / "containerd.log"
    return Daemon(places.home, places.containerd, places.containerd_state, log)


def serve(config: Config, tell: Tell, parent: int = 0) -> int:
    """Run the cluster until SIGTERM. parent: stop as well when that process is gone."""
    places = Places(config.data_dir)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    try:
        lock = _hold(places)
    except InUse as error:
        tell({"error": f"{places.home} is in use: {error}", "hint": "another --data-dir?"})
        return 1
    try:
        return _Driver(config, places, tell, stop, parent, lock).run()
    finally:
        os.close(lock)


def _hold(places: Places) -> int:
    """The lock; waits for the reaper of a driver that was killed. Raises InUse."""
    until = time.monotonic() + _REAPER_DEADLINE_S
    while True:
        try:
            return places.hold()
        except InUse as error:
            if error.pid or time.monotonic() > until:
                raise
        time.sleep(0.05)


class _Driver:
    def __init__(
        self, config: Config, places: Places, tell: Tell, stop: threading.Event, parent: int,
        lock: int,
    ) -> None:  # fmt: skip
        self._config, self._places, self._tell = config, places, tell
        self._stop, self._parent, self._lock = stop, parent, lock
        self._cluster: Cluster | None = None
        self._note: dict[str, Any] = {}

    def run(self) -> int:
        try:
            self._clear_up()
            reaper.start(self._places.home, self._lock)
            check(self._config, self._places)
            self._begin()
        except Refused as error:
            self._tell({"error": str(error), "hint": error.hint})
            self._end()
            return 1
        except Exception as error:
            log.exception("cannot start")
            hint = f"the log says more: {self._places.driver_log}"
            self._tell({"error": f"{type(error).__name__}: {error}", "hint": hint})
            self._end()
            return 1
        lost = self._stay() if not self._stop.is_set() else None
        if lost:
            self._start_over(lost)
        self._end()
        return 0

    def _clear_up(self) -> None:
        """What a killed predecessor left: its processes, and Ray's files."""
        left = processes.of_cluster(self._places.home)
        if left:
            log.warning("ending %d processes of an earlier run", len(left))
            with self._step("clearing up after an earlier run"):
                processes.end(left, 1.0)
        shutil.rmtree(self._places.ray, ignore_errors=True)
        if not self._config.address:
            # In a Ray that is not ours, the actors that hold these locks may live.
            shutil.rmtree(self._places.run, ignore_errors=True)

    def _begin(self) -> None:
        config, places = self._config, self._places
        places.make()
        self._note = {
            "pid": os.getpid(),
            "started": processes.current().started,
            "phase": "starting",
            "reason": os.environ.get(STARTED_OVER, ""),
            "version": __version__,
            "since": rfc3339(SystemClock().now()),
            "url": url_of(config),
            "dashboard": "",
            "home": str(places.home),
            "kubeconfig": str(places.kubeconfig),
        }
        places.write_note(self._note)
        with self._step("certificates"):
            credentials(config, places)
        with self._step("Ray"):
            self._start_ray()
        with self._step("actors"):
            self._start_actors()
        self._note |= {"phase": "running", "reason": ""}
        places.write_note(self._note)
        self._tell({"ready": self._note})

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        self._tell({"begin": name})
        yield
        self._tell({"end": name, "s": round(time.monotonic() - begun, 2)})
        log.info("%s: %.2f s", name, time.monotonic() - begun)

    def _start_ray(self) -> None:
        config, places = self._config, self._places
        os.environ[processes.MARK] = str(places.home)
        if not config.address:
            os.environ.update(ray_environment(places))
        from arktos_ray.actors import cluster

        settings = cluster.RaySettings(
            home=places.home,
            temp_dir=places.ray,
            address=config.address,
            dashboard=config.dashboard,
            dashboard_port=free_port(config.dashboard_port) if config.dashboard else 0,
            object_store_bytes=config.object_store_mb << 20,
        )
        self._cluster = cluster.start_cluster(settings)
        if config.address:
            self._cluster.span(places, SystemClock().now())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._stop.set())  # Ray has put its own there.
        self._note["dashboard"] = self._cluster.dashboard
        self._note["ray_address"] = self._cluster.address
        places.write_note(self._note)

    def _start_actors(self) -> None:
        assert self._cluster is not None
        config, places = self._config, self._places
        node = node_name(config)
        ours = node is not None and not machine.answers(config.containerd)
        if not ours:
            own_containerd(places).dismantle()  # Of an earlier life with other settings.
        if node is not None:
            address = own_containerd(places).address if ours else str(config.containerd)
            self._note |= {"node": node, "containerd": address}
        given = settings(config, places, node=node, own_containerd=ours, url=url_of(config))
        if self._cluster.find_supervisor():
            # In a Ray that is not ours it outlived its driver, and it alone changes the topology.
            actors = cast(given, self._asked_topology())
        else:
            topology = kept_topology(config, given["common"])
            actors = cast(given, topology)
            supervisor = supervisor_actor(config, given, topology, self._note)
            self._cluster.start_supervisor(supervisor)
        until = time.monotonic() + _READY_DEADLINE_S
        states: list[list[Any]] = []
        told = -1
        while not self._stop.wait(0.1):
            with contextlib.suppress(Unavailable):
                states = self._cluster.ask("readiness", None, 5.0)
            ready = sum(state == "running" for _, state, _, _ in states)
            if ready != told:
                told = ready
                self._tell({"progress": "actors", "done": ready, "of": len(actors)})
            if ready == len(actors):
                return
            for name, (times, why) in places.failed_starts().items():
                if times >= _FAILED_STARTS_MAX:
                    raise Refused(f"{name}: {why}", f"its log: {places.logs / name}.log")
            if time.monotonic() > until:
                late = ", ".join(
                    f"{n} ({state})" for n, state, _, _ in states if state != "running"
                )
                raise Refused(
                    f"not ready after {_READY_DEADLINE_S:g} s: {late or 'the supervisor'}",
                    f"the logs are in {places.logs}",
                )

    def _asked_topology(self) -> Topology:
        """Of the supervisor, which may be starting, as after the loss of its machine."""
        assert self._cluster is not None
        until = time.monotonic() + _READY_DEADLINE_S
        while True:
            try:
                return unpack(self._cluster.ask("topology", None, 5.0))
            except Unavailable:
                if time.monotonic() > until or self._stop.wait(0.2):
                    raise

    def _stay(self) -> str | None:
        """Watch over Ray and the supervisor, until told to stop. Returns what was lost for good."""
        assert self._cluster is not None
        config = self._config
        failures = 0
        while not self._stop.wait(config.health_period_s):
            lost = self._cluster.lost()
            if lost:
                return lost
            if self._parent and os.getppid() != self._parent:
                log.info("the terminal is gone")
                return None
            try:
                self._cluster.report(config.health_deadline_s)
                failures = 0
            except Unavailable as error:
                failures += 1
                log.warning("%s", error)
            if failures >= config.health_failures_max and self._cluster.kill_supervisor():
                log.error("killed the supervisor: it does not answer")
                failures = 0
        return None

    def _start_over(self, lost: str) -> None:
        """Ray's head cannot be mended from within: end all, become a new driver. Never returns."""
        why = f"Ray's {lost} has ended; starting over"
        log.error("%s", why)
        self._note |= {"phase": "starting", "reason": why}
        with contextlib.suppress(OSError):
            self._places.write_note(self._note)
        processes.end(processes.of_cluster(self._places.home), 0.0)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        logging.shutdown()
        os.environ[STARTED_OVER] = why
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

    def _end(self) -> None:
        config, places = self._config, self._places
        if self._note:
            self._note["phase"] = "stopping"
            with contextlib.suppress(OSError):
                places.write_note(self._note)
        if self._cluster is not None:
            try:
                # Three stages, each with its grace.
                self._cluster.ask("drain", None, 3 * (config.stop_deadline_s + 1.0) + 1.0)
            except Unavailable as error:
                log.warning("not stopped in order: %s", error)
            log.info("the actors have stopped")
            self._cluster.remove_supervisor()
            self._cluster.stop()
            log.info("Ray has stopped")
        processes.end(processes.of_cluster(places.home), 2.0)
        own_containerd(places).dismantle()
        places.remove_short()
        places.note.unlink(missing_ok=True)
        log.info("stopped")


def kept_topology(config: Config, common: dict[str, Any]) -> Topology:
    """The topology that is kept, with what was asked for on the command line. Raises Unavailable.

    What was not asked for stays as operators have made it since the first `arktos up`.
    """
    store = topology_store(common)
    kept = store.load()
    asked = config.model_fields_set if kept is not None else set(Config.model_fields)
    topology = fitted(
        kept,
        config.tenant_partitions if "tenant_partitions" in asked else 1,
        config.resource_partitions if "resource_partitions" in asked else 1,
        config.simulated_nodes if "simulated_nodes" in asked else None,
        config.simulated_mode,
        zones=config.zones,
    )
    if topology != kept:
        store.save(topology)
    return topology


def supervisor_actor(
    config: Config, given: dict[str, Any], topology: Topology, note: dict[str, Any]
) -> Actor:
    shown = ("version", "since", "url", "dashboard", "home", "kubeconfig", "ray_address", "pid")
    spec = {
        **given["common"],
        "topology": topology.pack(),
        "name": SUPERVISOR,
        "settings": given,
        "cluster": {key: note[key] for key in shown if key in note},
        "health": {
            "period_s": config.health_period_s,
            "deadline_s": config.health_deadline_s,
            "failures_max": config.health_failures_max,
            "start_deadline_s": config.start_deadline_s,
            "stop_deadline_s": config.stop_deadline_s,
        },
    }
    return Actor(SUPERVISOR, "supervisor", "arktos_ray.actors.cluster:supervisor", spec)


def ray_environment(places: Places) -> dict[str, str]:
    """What a private Ray finds in its environment. Set before Ray is imported."""
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(places.ray_token),
        # Ray runs workers at nice 15: a call takes 12 ms instead of 1 on a busy machine.
        "RAY_worker_niceness": "0",
        # Events of every call pile up in the GCS: 337 MB after 100K calls, 48 without.
        "RAY_task_events_report_interval_ms": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Near the end of memory Ray would kill the largest worker: a partition.
        "RAY_memory_monitor_refresh_ms": "0",
        # Any free port: a second cluster on this machine has the default one.
        "DASHBOARD_METRIC_PORT": "0",
        "AUTOSCALER_METRIC_PORT": "0",
        # Every process would report to the agent every 10 s: 3.5% of a core in the default
        # cluster. What matters of them is in our own /metrics.
        "RAY_enable_metrics_collection": "0",
        "RAY_event_stats": "0",
    }


def free_port(wanted: int) -> int:
    """That port, or another when somebody has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def driver_arguments(config: Config, parent: int, progress: int) -> list[str]:
    """The command that runs `serve`, as `ps` shows it."""
    settings = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    settings["data-dir"] = str(config.data_dir)
    command = [sys.executable, "-m", "arktos_ray", "serve", json.dumps(settings)]
    return [*command, "--progress", str(progress), *(["--parent", str(parent)] if parent else [])]
