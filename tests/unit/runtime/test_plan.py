"""Plans for one pod: what they lead to, step by step, on a host of a few lines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.runtime import plan as planning
from arktos_ray.runtime.plan import (
    CreateSandbox,
    Problem,
    RemoveContainer,
    RemoveSandbox,
    StartContainer,
    StopContainer,
    StopSandbox,
    phase_of,
    plan,
    restart_due,
    status,
    wanted,
)
from arktos_ray.runtime.port import (
    ContainerSeen,
    ContainerWant,
    MountWant,
    PodRef,
    PodWant,
    VolumeWant,
    WorkloadSeen,
)

REF = PodRef("u1", "acme", "default", "web")
NOW = 1_800_000_000.0


def want(**more: Any) -> PodWant:
    containers = tuple(ContainerWant(name, "image") for name in more.pop("names", ("main",)))
    inits = tuple(ContainerWant(name, "image") for name in more.pop("init_names", ()))
    return PodWant(REF, containers, inits, **more)


class Host:
    """Carries plans out at once."""

    def __init__(self) -> None:
        self.held: list[WorkloadSeen] = []
        self.now = NOW
        self.ids = 0

    def new_id(self) -> str:
        self.ids += 1
        return f"id-{self.ids}"

    def step(self, pod: PodWant | None, problems: dict[str, Problem] | None = None) -> list[Any]:
        actions = plan(pod, self.held, self.now, problems)
        for action in actions:
            self.do(action)
        return list(actions)

    def settle(self, pod: PodWant | None) -> None:
        for _ in range(20):
            if not self.step(pod):
                return
        raise AssertionError("it never comes to rest")

    def do(self, action: Any) -> None:
        match action:
            case CreateSandbox(attempt):
                self.held.append(WorkloadSeen(self.new_id(), REF, attempt, True, self.now))
            case StopSandbox(which):
                self.change(which, ready=False)
            case RemoveSandbox(which):
                self.held = [w for w in self.held if w.id != which]
            case StartContainer(which, container, attempt):
                made = ContainerSeen(
                    self.new_id(), container.name, attempt, "running", started_at=self.now
                )
                [workload] = [w for w in self.held if w.id == which]
                twice = [
                    c for c in workload.containers if (c.name, c.state) == (made.name, "running")
                ]
                assert not twice
                self.change(which, containers=(*workload.containers, made))
            case StopContainer(which):
                self.end(which, 137)
            case RemoveContainer(which):
                self.held = [
                    replace(w, containers=tuple(c for c in w.containers if c.id != which))
                    for w in self.held
                ]

    def change(self, which: str, **fields: Any) -> None:
        self.held = [replace(w, **fields) if w.id == which else w for w in self.held]

    def end(self, which: str, code: int) -> None:
        """A container, by its id or its name, ends."""
        self.held = [
            replace(
                w,
                containers=tuple(
                    replace(c, state="exited", exit_code=code, finished_at=self.now)
                    if which in (c.id, c.name) and c.state == "running"
                    else c
                    for c in w.containers
                ),
            )
            for w in self.held
        ]

    def running(self) -> list[str]:
        return [c.name for w in self.held for c in w.containers if c.state == "running"]


def test_a_new_pod_gets_a_sandbox_and_then_its_containers() -> None:
    host, pod = Host(), want(names=("a", "b"))
    assert host.step(pod) == [CreateSandbox(0, "no sandbox")]
    assert [type(a) for a in host.step(pod)] == [StartContainer, StartContainer]
    assert host.step(pod) == []
    assert host.running() == ["a", "b"]
    assert phase_of(pod, host.held) == "Running"


def test_init_containers_run_one_after_another_and_first() -> None:
    host, pod = Host(), want(init_names=("first", "second"))
    host.settle(pod)
    assert host.running() == ["first"]
    assert phase_of(pod, host.held) == "Pending"
    host.end("first", 0)
    host.settle(pod)
    assert host.running() == ["second"]
    host.end("second", 0)
    host.settle(pod)
    assert host.running() == ["main"]


def test_a_failed_init_container_fails_the_pod_that_runs_once() -> None:
    host, pod = Host(), want(init_names=("first",), restart_policy="Never")
    host.settle(pod)
    host.end("first", 1)
    host.settle(pod)
    assert host.running() == []
    assert phase_of(pod, host.held) == "Failed"


@pytest.mark.parametrize(
    ("policy", "code", "phase", "again"),
    [
        ("Always", 0, "Running", True),
        ("Always", 1, "Running", True),
        ("OnFailure", 0, "Succeeded", False),
        ("OnFailure", 1, "Running", True),
        ("Never", 0, "Succeeded", False),
        ("Never", 1, "Failed", False),
    ],
)
def test_restart_policies(policy: str, code: int, phase: str, again: bool) -> None:
    host, pod = Host(), want(restart_policy=policy)
    host.settle(pod)
    host.end("main", code)
    assert phase_of(pod, host.held) == phase
    host.settle(pod)
    assert bool(host.running()) is again


def test_back_off_doubles_to_five_minutes_and_forgives_long_runs() -> None:
    ended = ContainerSeen("c", "main", 0, "exited", started_at=NOW, finished_at=NOW + 1)
    waits = [restart_due(replace(ended, attempt=n)) - ended.finished_at for n in range(9)]
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300, 300]
    long_run = replace(ended, attempt=7, finished_at=NOW + 601)
    assert restart_due(long_run) == long_run.finished_at


def test_a_crashing_container_waits_before_its_next_attempt() -> None:
    host, pod = Host(), want()
    host.settle(pod)
    host.end("main", 1)
    host.settle(pod)  # The first restart is at once.
    host.end("main", 1)
    assert host.step(pod) == []
    [waiting] = status(pod, host.held, {}, {}, host.now, "1.2.3.4")["containerStatuses"]
    assert waiting["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert waiting["lastState"]["terminated"]["exitCode"] == 1
    assert waiting["restartCount"] == 1
    host.now += 10
    host.settle(pod)
    assert host.running() == ["main"]


def test_only_the_last_two_attempts_are_kept() -> None:
    host, pod = Host(), want()
    for _ in range(6):
        host.settle(pod)
        host.end("main", 1)
        host.now += 400
    host.settle(pod)
    assert [c.attempt for c in host.held[0].containers] == [5, 6]


def test_a_deleted_pod_is_stopped_with_its_grace_and_then_removed() -> None:
    host, pod = Host(), want(grace_s=7.0)
    host.settle(pod)
    gone = replace(pod, deleting=True)
    [stop] = host.step(gone)
    assert isinstance(stop, StopContainer)
    assert stop.grace_s == 7.0
    [remove] = host.step(gone)
    assert isinstance(remove, RemoveSandbox)
    assert host.held == []


def test_a_pod_that_nobody_wants_is_removed() -> None:
    host = Host()
    host.settle(want())
    host.settle(None)
    assert host.held == []


def test_a_lost_sandbox_is_replaced_and_attempts_go_on_counting() -> None:
    host, pod = Host(), want()
    host.settle(pod)
    host.end("main", 255)
    host.change(host.held[0].id, ready=False)
    host.settle(pod)
    [workload] = host.held
    assert workload.attempt == 1
    assert [c.attempt for c in workload.containers] == [1]


def test_a_finished_pod_never_starts_again() -> None:
    host = Host()
    host.settle(want(finished=True))
    assert host.held == []


def test_a_blocked_pod_starts_nothing_and_stops_nothing() -> None:
    host = Host()
    assert host.step(want(blocked="no config map")) == []
    host.settle(want())
    assert host.step(want(blocked="no config map")) == []
    assert host.running() == ["main"]


def test_a_problem_is_waited_out() -> None:
    host, pod = Host(), want()
    host.step(pod)
    problems = {"main": Problem("ErrImagePull", "no such image", host.now + 10)}
    assert host.step(pod, problems) == []
    [waiting] = status(pod, host.held, {}, problems, host.now, "1.2.3.4")["containerStatuses"]
    assert waiting["state"] == {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
    host.now += 10
    assert host.step(pod, problems)


@given(
    names=st.sets(st.sampled_from("abc"), min_size=1),
    policy=st.sampled_from(["Always", "OnFailure", "Never"]),
    events=st.lists(
        st.tuples(st.sampled_from(["end", "reboot", "later", "plan"]), st.sampled_from("abc"),
                  st.integers(0, 2)),
        max_size=12,
    ),
)  # fmt: skip
def test_whatever_happens_plans_come_to_rest_and_deletion_leaves_nothing(
    names: set[str], policy: str, events: list[tuple[str, str, int]]
) -> None:
    host, pod = Host(), want(names=tuple(sorted(names)), restart_policy=policy)
    for what, name, code in events:
        if what == "end":
            host.end(name, code)
        elif what == "reboot":
            for each in "abc":
                host.end(each, 255)
            for workload in host.held:
                host.change(workload.id, ready=False)
        elif what == "later":
            host.now += 1000.0
        else:
            host.settle(pod)
    host.now += 1000.0
    host.settle(pod)
    report = status(pod, host.held, {}, {}, host.now, "1.2.3.4")
    if policy == "Always":
        assert sorted(host.running()) == sorted(names)
        assert report["phase"] == "Running"
        assert all(c["ready"] for c in report["containerStatuses"])
    if report["phase"] in ("Succeeded", "Failed"):
        assert not host.running()
    host.settle(replace(pod, deleting=True))
    assert host.held == []


def test_conditions_keep_their_times_and_their_strangers() -> None:
    host, pod = Host(), want()
    host.settle(pod)
    former = {
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "True",
                "lastTransitionTime": "2020-01-01T00:00:00Z",
            },
            {"type": "Initialized", "status": "True", "lastTransitionTime": "2021-01-01T00:00:00Z"},
            {"type": "Ready", "status": "False", "lastTransitionTime": "2022-01-01T00:00:00Z"},
        ]
    }
    report = status(pod, host.held, former, {}, host.now, "1.2.3.4")
    times = {c["type"]: (c["status"], c["lastTransitionTime"][:4]) for c in report["conditions"]}
    assert times["PodScheduled"] == ("True", "2020")
    assert times["Initialized"] == ("True", "2021")
    assert times["Ready"] == ("True", "2027")


def pod_object(container: dict[str, Any], **status_fields: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "web", "namespace": "default", "tenant": "acme", "uid": "u1",
            "labels": {"app": "shop"},
        },
        "spec": {"containers": [{"name": "main", "image": "i", **container}]},
        "status": status_fields,
    }  # fmt: skip


def test_environments_are_worked_out_as_the_api_promises() -> None:
    container = {
        "command": ["run", "$(NAME)", "$(UNKNOWN)", "$$(NAME)"],
        "env": [
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "BOTH", "value": "$(NAME)-$(APP)"},
            {"name": "MI", "valueFrom": {"resourceFieldRef": {
                "resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "colour"}}},
            {"name": "MAYBE", "valueFrom": {"secretKeyRef": {
                "name": "none", "key": "x", "optional": True}}},
        ],
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}],
        "resources": {"limits": {"cpu": "250m", "memory": "64Mi"}},
    }  # fmt: skip
    pod = pod_object(container)
    assert planning.references(pod) == {("configmaps", "cm"), ("secrets", "none")}
    maps = {("configmaps", "cm"): {"colour": b"blue"}}
    made = wanted(pod, "acme", "here", "1.2.3.4", lambda gvr, name: maps.get((gvr, name)))
    [main] = made.containers
    assert made.blocked == ""
    assert dict(main.env) == {
        "P_colour": "blue", "NAME": "web", "APP": "shop", "BOTH": "web-shop", "MI": "64",
        "COLOUR": "blue",
    }  # fmt: skip
    assert main.command == ("run", "web", "$(UNKNOWN)", "$(NAME)")
    assert (main.cpu_limit_milli, main.memory_limit_bytes) == (250, 64 << 20)


def test_volumes_are_worked_out_as_the_api_promises() -> None:
    pod = pod_object(
        {
            "volumeMounts": [
                {"name": "scratch", "mountPath": "/tmp"},
                {"name": "all", "mountPath": "/etc/all", "subPath": "sub", "readOnly": True},
            ]
        }
    )
    pod["spec"]["volumes"] = [
        {"name": "scratch", "emptyDir": {}},
        {"name": "host", "hostPath": {"path": "/srv", "type": "DirectoryOrCreate"}},
        {"name": "conf", "configMap": {"name": "cm", "defaultMode": 256}},
        {"name": "keys", "secret": {"secretName": "s", "items": [{"key": "k", "path": "a/b"}]}},
        {"name": "maybe", "configMap": {"name": "none", "optional": True}},
        {
            "name": "all",
            "projected": {
                "sources": [
                    {"secret": {"name": "s"}},
                    {
                        "downwardAPI": {
                            "items": [
                                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
                            ]
                        }
                    },
                ]
            },
        },
    ]
    data = {("configmaps", "cm"): {"colour": b"blue"}, ("secrets", "s"): {"k": b"\xff\x00"}}
    assert planning.references(pod) == {*data, ("configmaps", "none")}
    made = wanted(pod, "acme", "here", "1.2.3.4", lambda gvr, name: data.get((gvr, name)))
    assert made.blocked == ""
    assert made.volumes == (
        VolumeWant("scratch"),
        VolumeWant("host", host_path="/srv", create=True),
        VolumeWant("conf", (("colour", b"blue", 0o400),)),
        VolumeWant("keys", (("a/b", b"\xff\x00", 0o644),)),
        VolumeWant("maybe"),
        VolumeWant("all", (("k", b"\xff\x00", 0o644), ("labels", b'app="shop"\n', 0o644))),
    )
    assert made.containers[0].mounts == (
        MountWant("scratch", "/tmp"),
        MountWant("all", "/etc/all", "sub", True),
    )


@pytest.mark.parametrize(
    "volume",
    [
        {"persistentVolumeClaim": {"claimName": "c"}},
        {"configMap": {"name": "none"}},
        {"secret": {"secretName": "s", "items": [{"key": "other", "path": "x"}]}},
    ],
)
def test_a_volume_that_cannot_be_had_blocks_the_pod(volume: dict[str, Any]) -> None:
    pod = pod_object({})
    pod["spec"]["volumes"] = [{"name": "v", **volume}]
    data = {("secrets", "s"): {"k": b"v"}}
    assert wanted(pod, "acme", "here", "", lambda gvr, name: data.get((gvr, name))).blocked


def test_what_is_missing_blocks_the_pod_and_is_named() -> None:
    pod = pod_object({"envFrom": [{"secretRef": {"name": "keys"}}]})
    made = wanted(pod, "acme", "here", "1.2.3.4", lambda gvr, name: None)
    assert made.blocked == 'secret "keys" not found'
    report = status(made, [], {}, {}, NOW, "1.2.3.4")
    assert report["containerStatuses"][0]["state"]["waiting"] == {
        "reason": "CreateContainerConfigError",
        "message": 'secret "keys" not found',
    }


def test_attempts_go_on_from_what_the_api_remembers() -> None:
    ran = {"name": "main", "restartCount": 4, "containerID": "containerd://x"}
    made = wanted(
        pod_object({}, containerStatuses=[ran]), "acme", "here", "1.2.3.4", lambda gvr, name: None
    )
    assert made.containers[0].next_attempt == 5
