"""Several machines on one: a Ray head and raylets, each with an address, directories and labels
of its own, all on loopback.

Not a test. Run as `python machines.py SETTINGS` it is one machine: it starts Ray's processes,
waits on them (a raylet that nobody waits on leaves its workers behind), and ends with them, with
its standard input, or by SIGTERM. SIGUSR1 starts a GCS that ended again.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from drills import Ground
from livekit import until

from arktos_ray.actors.machines import HOME_VARIABLE, RAY_ENVIRONMENT, ZONE_LABEL
from arktos_ray.base import processes
from arktos_ray.bootstrap import free_port

HERE = Path(__file__).parent
_LOOK_S = 0.1
_STARTS_MAX = 3
# In what Ray says then.
_AGENT_LATE = "metrics_agent_port"


class Machine:
    """One machine of a Region."""

    def __init__(self, region: Region, number: int, settings: dict[str, Any]) -> None:
        self.address = f"127.0.0.{number + 2}"
        self.home = region.root / f"m{number}"
        self.home.mkdir(mode=0o700, exist_ok=True)
        self._settings = {"ip": self.address, "temp_dir": str(self.home / "ray"), **settings}
        self._environment = {
            **region.environment, HOME_VARIABLE: str(self.home), processes.MARK: str(self.home),
        }  # fmt: skip
        self.process: subprocess.Popen[bytes]
        self.told: dict[str, Any] = {}

    def start(self) -> None:
        with (self.home / "ray.out").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "machines.py"), json.dumps(self._settings)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out,
                env={**os.environ, **self._environment}, start_new_session=True,
            )  # fmt: skip

    def wait_started(self) -> None:
        """Started again when Ray gives up, as keep.sh does: its raylet ends when the agent beside
        it has not said its port after 15 s, which on two busy cores it sometimes has not."""
        for _ in range(_STARTS_MAX - 1):
            try:
                self._wait_started()
            except AssertionError as error:
                if _AGENT_LATE not in str(error):
                    raise
                self.close()
                self.start()
            else:
                return
        self._wait_started()

    def _wait_started(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(b'{"started"'):
                self.told = json.loads(line)
                return
        logs = [self.home / "ray.out", *(self.home / "ray").glob("session_latest/logs/raylet*.out")]
        said = [line for log in logs for line in log.read_text().splitlines()]
        telling = [line for line in said if " C " in line or "Check failed" in line]
        raise AssertionError("\n".join([*said[-5:], *telling]))

    def pids(self, program: str = "") -> list[int]:
        return [
            p.pid for p in processes.of_cluster(self.home)
            if program in processes.command(p.pid).partition(" ")[0]
        ]  # fmt: skip

    def kill(self) -> None:
        """As when its power is lost: everything at once."""
        while left := processes.of_cluster(self.home):
            processes.end(left, 0.0)
            self.process.wait()

    def kill_gcs(self) -> None:
        [gcs] = self.pids("gcs_server")
        os.kill(gcs, signal.SIGKILL)
        until(lambda: not self.pids("gcs_server"), what="the GCS is gone")

    def restart_gcs(self) -> None:
        self.process.send_signal(signal.SIGUSR1)
        until(lambda: self.pids("gcs_server"), what="the GCS is there")

    def close(self) -> None:
        self.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def again(self) -> None:
        """Its power is back; what it had in memory is not."""
        self.close()
        self.start()
        self.wait_started()


class Region:
    """A Ray cluster of several machines, and the control plane that runs on it."""

    def __init__(self, count: int, redis: str = "", **settings: Any) -> None:
        # Short: Ray puts Unix sockets under it.
        self.root = Path(tempfile.mkdtemp(prefix="am-", dir="/tmp"))
        token = self.root / "ray.token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.environment = {
            **RAY_ENVIRONMENT, "RAY_AUTH_TOKEN_PATH": str(token), "DASHBOARD_METRIC_PORT": "0",
            "AUTOSCALER_METRIC_PORT": "0", "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            # Several machines start at once on two cores.
            "RAY_raylet_start_wait_time_s": "120", "RAY_agent_register_timeout_ms": "120000",
        }  # fmt: skip
        if redis:
            self.environment["RAY_REDIS_ADDRESS"] = redis
        self.port = free_port(0)
        self.gcs = f"127.0.0.2:{self.port}"
        self.machines = [
            Machine(
                self, number,
                {
                    "head": number == 0, "gcs": self.gcs, "port": self.port,
                    "labels": {ZONE_LABEL: f"z{number}"},
                    **settings,
                },
            )
            for number in range(count)
        ]  # fmt: skip
        self.ground: Several

    @property
    def head(self) -> Machine:
        return self.machines[0]

    def start(self) -> None:
        self.head.start()
        self.head.wait_started()
        for machine in self.machines[1:]:
            machine.start()
        for machine in self.machines[1:]:
            machine.wait_started()

    def up(self, *arguments: str) -> Several:
        self.ground = Several(self, self.root / "home", *arguments)
        self.ground.start()
        return self.ground

    def close(self) -> None:
        for machine in self.machines:
            if hasattr(machine, "process"):
                machine.close()
        if hasattr(self, "ground"):
            processes.end(processes.of_cluster(self.ground.home), 0.0)
        shutil.rmtree(self.root, ignore_errors=True)


class Several(Ground):
    """The control plane on a Region, as the command line starts and shows it."""

    def __init__(self, region: Region, home: Path, *arguments: str) -> None:
        super().__init__(home, "--address", region.gcs, "--bind", "0.0.0.0", *arguments)
        self._environment = region.environment

    def up(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        os.environ.update(self._environment)
        try:
            return super().up(*arguments)
        finally:
            for name in self._environment:
                os.environ.pop(name)


@contextlib.contextmanager
def region(count: int, redis: str = "", **settings: Any) -> Iterator[Region]:
    made = Region(count, redis, **settings)
    try:
        made.start()
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """The address of a Redis of our own."""
    port = free_port(0)
    with tempfile.TemporaryDirectory(prefix="ar-", dir="/tmp") as directory:
        process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", directory,
             "--save", "", "--appendonly", "yes"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until(lambda: processes.listener(port), what="redis")
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


# One machine


def main() -> int:
    settings = json.loads(sys.argv[1])
    parameter_module: Any = importlib.import_module("ray._private.parameter")
    node_module: Any = importlib.import_module("ray._private.node")
    head = settings["head"]
    where = {"gcs_server_port": settings["port"]} if head else {"gcs_address": settings["gcs"]}
    scaling = settings.get("autoscaling")
    if scaling is not None:
        scaling = _scaling_file(settings, scaling)
    params = parameter_module.RayParams(
        node_ip_address=settings["ip"], num_cpus=1, num_gpus=0, object_store_memory=80 << 20,
        temp_dir=settings["temp_dir"], include_dashboard=False, dashboard_host="127.0.0.1",
        dashboard_agent_listen_port=0, include_log_monitor=False,
        no_monitor=scaling is None, autoscaling_config=scaling,
        resources=settings.get("resources", {}), labels=settings.get("labels", {}),
        min_worker_port=0, max_worker_port=0, env_vars=settings.get("environment"), **where,
    )  # fmt: skip
    node = node_module.Node(params, head=head, shutdown_at_exit=True, spawn_reaper=False)
    again: list[int] = []
    signal.signal(signal.SIGUSR1, lambda *_: again.append(1))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(json.dumps({"started": True, "gcs": node.gcs_address}), flush=True)
    while not select.select([sys.stdin], [], [], _LOOK_S)[0]:
        for kind, infos in node.all_processes.items():
            gone = [info for info in infos if info.process.poll() is not None]
            if gone and kind == "raylet":
                return 1
        if again:
            again.clear()
            node.all_processes.pop("gcs_server", None)
            node._gcs_address = node._gcs_client = None
            node.start_gcs_server()
    return 0


def _scaling_file(settings: dict[str, Any], node_types: dict[str, Any]) -> str:
    """What Ray's autoscaler reads: this head, and these types of machines that may be added.

    Ray's own provider for tests starts a raylet here for each of them.
    """
    os.environ["RAY_FAKE_CLUSTER"] = "1"
    fake: Any = importlib.import_module("ray.autoscaler._private.fake_multi_node.node_provider")
    settings["environment"] = {
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": fake.FAKE_HEAD_NODE_ID,
        "RAY_NODE_TYPE_NAME": fake.FAKE_HEAD_NODE_TYPE,
    }
    head = {"resources": {"CPU": 1, **settings["resources"]}, "node_config": {}, "max_workers": 0}
    config = {
        "cluster_name": "added", "max_workers": 4, "upscaling_speed": 10.0,
        "idle_timeout_minutes": 0.1, "head_node_type": fake.FAKE_HEAD_NODE_TYPE,
        "provider": {
            "type": "fake_multinode", "gcs_address": f"{settings['ip']}:{settings['port']}",
            # All of them have the address of this one.
            "use_node_id_as_ip": True, "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {fake.FAKE_HEAD_NODE_TYPE: head, **node_types},
        "auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": [],
        "initialization_commands": [], "setup_commands": [], "head_setup_commands": [],
        "worker_setup_commands": [], "head_start_ray_commands": [], "worker_start_ray_commands": [],
        "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [],
    }  # fmt: skip
    path = Path(settings["temp_dir"]).with_name("autoscaling.yaml")
    path.write_text(json.dumps(config))
    return str(path)


if __name__ == "__main__":
    sys.exit(main())
