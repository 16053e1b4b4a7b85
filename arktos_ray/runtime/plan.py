"""Desired pods and observed workloads in, actions and statuses out. Pure.

Everything is decided from what the runtime holds now; nothing is remembered between two plans but
what the API and the runtime remember. So a restart of the agent changes no decision, and back-off
follows from a container's attempt number and the moment it ended.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from arktos_ray.api import quantity
from arktos_ray.runtime.port import (
    ContainerSeen,
    ContainerWant,
    Health,
    MountWant,
    PodRef,
    PodWant,
    ProbeWant,
    VolumeWant,
    WorkloadSeen,
)

CRASH_LOOP_LEAST_S = 10.0
CRASH_LOOP_MOST_S = 300.0
# After running this long, a container's past is forgiven.
CRASH_LOOP_RESET_S = 600.0

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    attempt: int
    why: str


@dataclass(frozen=True, slots=True)
class StopSandbox:
    id: str
    why: str


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    id: str
    ref: PodRef
    why: str


@dataclass(frozen=True, slots=True)
class StartContainer:
    sandbox_id: str
    container: ContainerWant
    attempt: int
    why: str


@dataclass(frozen=True, slots=True)
class StopContainer:
    id: str
    grace_s: float
    why: str
    container: str = ""
    sick: bool = False  # It goes because its probes say so, and another takes its place.


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    id: str
    why: str


Action = (
    CreateSandbox | StopSandbox | RemoveSandbox | StartContainer | StopContainer | RemoveContainer
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a container could not be started, and when to try again."""

    reason: str
    message: str
    not_before: float = 0.0
    delay_s: float = 0.0


def plan(
    want: PodWant | None,
    seen: Sequence[WorkloadSeen],
    now: float,
    problems: Mapping[str, Problem] | None = None,
    health: Mapping[str, Health] | None = None,
) -> list[Action]:
    """What to do about one pod; the actions may be carried out all at once, in any order.

    want None: nobody wants it any more. seen: every sandbox with the pod's uid. problems: by
    container name ("" is the sandbox). health: by container id, of those with probes. Call it
    only while nothing else is done to the pod.
    """
    problems = problems or {}
    if want is None:
        return _dismantle(seen, 0.0, "no such pod")
    if want.deleting:
        return _dismantle(seen, want.grace_s, "being deleted")
    seen = sorted(seen, key=lambda w: (w.attempt, w.created_at))
    current = next((w for w in reversed(seen) if w.ready), None)
    if want.finished or phase_of(want, seen) in ("Succeeded", "Failed"):
        return [StopSandbox(w.id, "ran to its end") for w in seen if w.ready and not _running(w)]
    sick = [
        StopContainer(c.id, want.grace_s, health[c.id].unhealthy, c.name, True)
        for w in seen
        for c in w.containers
        if health and c.state == "running" and c.id in health and health[c.id].unhealthy
    ]
    if sick:
        return list(sick)
    if want.blocked:
        return []
    if current is None:
        if _wait(problems.get(""), now):
            return []
        attempt = 1 + max((w.attempt for w in seen), default=-1)
        return [CreateSandbox(attempt, "no sandbox" if not seen else "the sandbox is not ready")]
    actions: list[Action] = []
    actions += _starts(want, current, seen, now, problems)
    actions += _garbage(want, current, seen)
    return actions


def _dismantle(seen: Sequence[WorkloadSeen], grace_s: float, why: str) -> list[Action]:
    running = [c for w in seen for c in w.containers if c.state in ("running", "unknown")]
    if running:
        return [StopContainer(c.id, grace_s, why, c.name) for c in running]
    return [RemoveSandbox(w.id, w.ref, why) for w in seen]


def _starts(
    want: PodWant,
    current: WorkloadSeen,
    seen: Sequence[WorkloadSeen],
    now: float,
    problems: Mapping[str, Problem],
) -> Iterable[Action]:
    if not any(_latest([current], c.name) for c in want.containers):
        for init in want.inits:
            latest = _latest([current], init.name)
            if latest is not None and latest.state == "exited" and latest.exit_code == 0:
                continue
            # An init container starts over unless the whole pod runs once.
            policy = "Never" if want.restart_policy == "Never" else "Always"
            return _start(init, current, seen, now, problems, _restarts(policy))
    restarts = _restarts(want.restart_policy)
    return [
        action
        for container in want.containers
        for action in _start(container, current, seen, now, problems, restarts)
    ]


def _start(
    container: ContainerWant,
    current: WorkloadSeen,
    seen: Sequence[WorkloadSeen],
    now: float,
    problems: Mapping[str, Problem],
    restarts: Callable[[ContainerSeen], bool],
) -> list[Action]:
    latest = _latest([current], container.name)
    if latest is not None and latest.state == "running":
        return []
    if latest is not None and latest.state in ("created", "unknown"):
        # Left by an agent that died between creating and starting it.
        return [RemoveContainer(latest.id, "it was never started")]
    if _wait(problems.get(container.name), now):
        return []
    if latest is None:
        before = _latest(seen, container.name)
        attempt = container.next_attempt if before is None else before.attempt + 1
        return [StartContainer(current.id, container, attempt, "not there")]
    if not restarts(latest) or now < restart_due(latest):
        return []
    why = f"ended with {latest.exit_code}"
    return [StartContainer(current.id, container, latest.attempt + 1, why)]


def _garbage(
    want: PodWant, current: WorkloadSeen, seen: Sequence[WorkloadSeen]
) -> Iterable[Action]:
    # Older sandboxes hold the attempt numbers until every container started in the new one.
    if all(_latest([current], c.name) for c in want.containers):
        for workload in seen:
            if workload.id != current.id:
                yield RemoveSandbox(workload.id, workload.ref, f"replaced by {current.id}")
    # Of each container the last one stays, and the one before it for its logs.
    for container in want.inits + want.containers:
        attempts = sorted(
            (c for c in current.containers if c.name == container.name), key=lambda c: c.attempt
        )
        for old in attempts[:-2]:
            if old.state != "running":
                yield RemoveContainer(old.id, "there are later attempts")


def restart_due(ended: ContainerSeen) -> float:
    """When a container that ended may start again: at once, then after 10 s, 20 s, ... 5 min."""
    ran_s = ended.finished_at - ended.started_at
    if ended.attempt == 0 or (ended.started_at and ran_s >= CRASH_LOOP_RESET_S):
        return ended.finished_at
    doublings = min(ended.attempt - 1, 10)
    return ended.finished_at + min(CRASH_LOOP_LEAST_S * 2.0**doublings, CRASH_LOOP_MOST_S)


def problem_after(former: Problem | None, reason: str, message: str, now: float) -> Problem:
    """The same back-off for what could not be started: 10 s, 20 s, ... 5 min."""
    delay_s = min(former.delay_s * 2, CRASH_LOOP_MOST_S) if former else CRASH_LOOP_LEAST_S
    return Problem(reason, message, now + delay_s, delay_s)


def _wait(problem: Problem | None, now: float) -> bool:
    return problem is not None and now < problem.not_before


def _restarts(policy: str) -> Callable[[ContainerSeen], bool]:
    if policy == "Always":
        return lambda _: True
    if policy == "OnFailure":
        return lambda ended: ended.exit_code != 0
    return lambda _: False


def _running(workload: WorkloadSeen) -> bool:
    return any(c.state == "running" for c in workload.containers)


def _latest(seen: Sequence[WorkloadSeen], name: str) -> ContainerSeen | None:
    """The newest attempt at a container, in whichever sandbox."""
    attempts = [c for w in seen for c in w.containers if c.name == name]
    return max(attempts, key=lambda c: (c.attempt, c.created_at), default=None)


# Statuses.


def phase_of(want: PodWant, seen: Sequence[WorkloadSeen]) -> str:
    containers = [_latest(seen, c.name) for c in want.containers]
    if any(c is not None and c.state == "running" for c in containers):
        return "Running"
    if not any(containers):
        inits = [_latest(seen, c.name) for c in want.inits]
        failed = any(c and c.state == "exited" and c.exit_code for c in inits)
        return "Failed" if failed and want.restart_policy == "Never" else "Pending"
    if any(c is None or c.state in ("created", "unknown") for c in containers):
        return "Pending"
    ended = [c for c in containers if c is not None]
    if any(_restarts(want.restart_policy)(c) for c in ended):
        return "Running"
    return "Failed" if any(c.exit_code for c in ended) else "Succeeded"


def status(
    want: PodWant,
    seen: Sequence[WorkloadSeen],
    former: Mapping[str, Any],
    problems: Mapping[str, Problem],
    now: float,
    host_ip: str,
    health: Mapping[str, Health] | None = None,
) -> Object:
    """The pod's status as a kubelet would report it. `former` is what the API holds.

    Conditions that are not ours, and times of changes that did not happen, are kept.
    """
    phase = phase_of(want, seen)
    if former.get("phase") in ("Succeeded", "Failed"):
        return {}  # The end was reported; what the runtime forgot since does not matter.
    current = max((w for w in seen if w.ready), key=lambda w: w.attempt, default=None)
    inits_done = any(_latest(seen, c.name) for c in want.containers) or all(
        (c := _latest(seen, init.name)) is not None and c.state == "exited" and c.exit_code == 0
        for init in want.inits
    )
    waiting = "ContainerCreating" if inits_done else "PodInitializing"
    statuses = [
        _container_status(c, seen, problems, waiting, want, now, health or {})
        for c in want.containers
    ]
    result: Object = {
        "phase": phase,
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": former.get("startTime") or _time(now),
        "containerStatuses": statuses,
    }
    if want.inits:
        result["initContainerStatuses"] = [
            _container_status(c, seen, problems, "PodInitializing", want, now, {}, init=True)
            for c in want.inits
        ]
    ip = (host_ip if want.host_network else current.ip) if current else ""
    if ip:
        result["podIP"], result["podIPs"] = ip, [{"ip": ip}]
    unready = [s["name"] for s in statuses if not s["ready"]]
    if phase in ("Succeeded", "Failed"):
        not_ready = ("PodFailed" if phase == "Failed" else "PodCompleted", "")
    else:
        not_ready = (
            "ContainersNotReady",
            f"containers with unready status: [{' '.join(unready)}]" if unready else "",
        )
    incomplete = [c.name for c in want.inits if not inits_done]
    ours = [
        _condition("PodReadyToStartContainers", current is not None, "", ""),
        _condition(
            "Initialized",
            inits_done,
            "ContainersNotInitialized",
            f"containers with incomplete status: [{' '.join(incomplete)}]",
        ),
        _condition("Ready", not unready, *not_ready),
        _condition("ContainersReady", not unready, *not_ready),
    ]
    result["conditions"] = merge_conditions(ours, former.get("conditions") or (), now)
    return result


def _condition(kind: str, true: bool, reason: str, message: str) -> Object:
    condition: Object = {"type": kind, "status": "True" if true else "False"}
    if not true and reason:
        condition["reason"] = reason
        if message:
            condition["message"] = message
    return condition


def merge_conditions(
    ours: Sequence[Object], former: Iterable[Mapping[str, Any]], now: float
) -> list[Object]:
    """Ours, with the old lastTransitionTime where nothing changed, and then everybody else's."""
    before = {condition["type"]: dict(condition) for condition in former}
    merged = []
    for condition in ours:
        old = before.pop(condition["type"], None)
        unchanged = old is not None and old["status"] == condition["status"]
        since = old.get("lastTransitionTime") if old and unchanged else None
        merged.append({**condition, "lastTransitionTime": since or _time(now)})
    return merged + list(before.values())


_WELL = Health()
_UNKNOWN = Health(started=False, ready=False)


def _container_status(
    container: ContainerWant,
    seen: Sequence[WorkloadSeen],
    problems: Mapping[str, Problem],
    waiting: str,
    want: PodWant,
    now: float,
    health: Mapping[str, Health],
    *,
    init: bool = False,
) -> Object:
    latest = _latest(seen, container.name)
    result: Object = {
        "name": container.name,
        "image": container.image,
        "imageID": latest.image_id if latest else "",
        "ready": False,
        "started": False,
        "restartCount": latest.attempt if latest else container.next_attempt,
        "lastState": {},
    }
    problem = problems.get(container.name) or problems.get("")
    if latest is not None:
        result["containerID"] = f"containerd://{latest.id}"
        previous = next(
            (
                c
                for w in seen
                for c in w.containers
                if c.name == container.name and c.attempt == latest.attempt - 1
            ),
            None,
        )
        if previous is not None and previous.state == "exited":
            result["lastState"] = {"terminated": _terminated(previous)}
    if latest is not None and latest.state == "running":
        probed = container.startup or container.readiness
        found = health.get(latest.id, _UNKNOWN if probed else _WELL)
        result["ready"] = found.ready and not init
        result["started"] = found.started
        result["state"] = {"running": {"startedAt": _time(latest.started_at)}}
        return result
    if latest is not None and latest.state == "exited":
        ended = {"terminated": _terminated(latest)}
        done = latest.exit_code == 0 if init else not _restarts(want.restart_policy)(latest)
        if done or want.deleting or (init and want.restart_policy == "Never"):
            result["state"] = ended
            result["ready"] = init and latest.exit_code == 0
            return result
        result["lastState"] = ended
        due = restart_due(latest)
        if problem is None and now < due:
            wait_s = round(due - latest.finished_at)
            message = f"back-off {wait_s}s restarting failed container={container.name}"
            problem = Problem("CrashLoopBackOff", message)
    if want.blocked:
        problem = Problem("CreateContainerConfigError", want.blocked)
    state: Object = {"reason": problem.reason if problem else waiting}
    if problem and problem.message:
        state["message"] = problem.message
    result["state"] = {"waiting": state}
    return result


def _terminated(ended: ContainerSeen) -> Object:
    reason = ended.reason or ("Error" if ended.exit_code else "Completed")
    result: Object = {
        "exitCode": ended.exit_code,
        "reason": reason,
        "startedAt": _time(ended.started_at),
        "finishedAt": _time(ended.finished_at),
        "containerID": f"containerd://{ended.id}",
    }
    if ended.message:
        result["message"] = ended.message
    return result


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# From a Pod of the API to what a driver needs to know.

Lookup = Callable[[str, str], Mapping[str, bytes] | None]
# The API's default for files from config maps, secrets and the downward API.
_VOLUME_MODE = 0o644
_REFERENCE = re.compile(r"\$\$|\$\(([-._a-zA-Z][-._a-zA-Z0-9]*)\)")


class Missing(Exception):
    """Something that the pod refers to is not there. The message is for the user."""


def references(pod: Mapping[str, Any]) -> set[tuple[str, str]]:
    """The (gvr, name) of every config map and secret that its environment and volumes need."""
    found: set[tuple[str, str]] = set()
    spec = pod["spec"]
    for container in [*spec.get("initContainers", ()), *spec.get("containers", ())]:
        for source in container.get("envFrom", ()):
            for kind, gvr in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
                if kind in source:
                    found.add((gvr, source[kind]["name"]))
        for variable in container.get("env", ()):
            value_from = variable.get("valueFrom") or {}
            for kind, gvr in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
                if kind in value_from:
                    found.add((gvr, value_from[kind]["name"]))
    for volume in spec.get("volumes", ()):
        for source in _sources(volume):
            for gvr in _GVRS:
                if _GVRS[gvr] in source:
                    found.add((gvr, _name_in(source[_GVRS[gvr]])))
    return found


_GVRS = {"configmaps": "configMap", "secrets": "secret"}
# What `Lookup` knows tokens as, by `token_name`; the one key of the data is TOKEN.
TOKENS, TOKEN = "serviceaccounts/token", "token"
_TOKEN_S = 3600


def token_name(audience: str, seconds: int) -> str:
    return f"{seconds} {audience}"


def tokens(pod: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(audience, seconds) of every token that its volumes need; audience "" is the API."""
    return sorted(
        {
            _token_of(source["serviceAccountToken"])
            for volume in pod["spec"].get("volumes") or ()
            for source in _sources(volume)
            if "serviceAccountToken" in source
        }
    )


def _token_of(source: Mapping[str, Any]) -> tuple[str, int]:
    return source.get("audience") or "", int(source.get("expirationSeconds") or _TOKEN_S)


def _probe(
    spec: Mapping[str, Any] | None, container: Mapping[str, Any], host: str
) -> ProbeWant | None:
    if not spec:
        return None
    base = ProbeWant(
        host=host,
        initial_delay_s=float(spec.get("initialDelaySeconds") or 0),
        period_s=float(spec.get("periodSeconds") or 10),
        timeout_s=float(spec.get("timeoutSeconds") or 1),
        success_threshold=int(spec.get("successThreshold") or 1),
        failure_threshold=int(spec.get("failureThreshold") or 3),
    )
    if "exec" in spec:
        return replace(base, command=tuple(spec["exec"].get("command") or ()))
    http = spec.get("httpGet")
    where = http or spec.get("tcpSocket")
    if not where:
        return None  # gRPC: not asked, as if there were none.
    ports = {p.get("name"): p["containerPort"] for p in container.get("ports") or ()}
    port = where["port"]
    if isinstance(port, str):
        port = ports.get(port) or (int(port) if port.isdigit() else 0)
    base = replace(base, host=where.get("host") or host, port=port)
    if http:
        headers = tuple((h["name"], h["value"]) for h in http.get("httpHeaders") or ())
        scheme, path = http.get("scheme") or "HTTP", http.get("path") or "/"
        base = replace(base, scheme=scheme, path=path, headers=headers)
    return base


def _sources(volume: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A volume as the list of what is projected into it."""
    if "projected" in volume:
        return list(volume["projected"].get("sources") or ())
    return [volume]


def _name_in(source: Mapping[str, Any]) -> str:
    # A secret volume says secretName, a projected secret says name.
    return str(source.get("secretName") or source.get("name", ""))


def _volume(
    volume: Mapping[str, Any],
    pod: Mapping[str, Any],
    facts: Mapping[str, str],
    lookup: Lookup,
) -> VolumeWant:
    name = volume["name"]
    if "hostPath" in volume:
        host = volume["hostPath"]
        create = host.get("type") == "DirectoryOrCreate"
        return VolumeWant(name, host_path=host["path"], create=create)
    if "emptyDir" in volume:
        return VolumeWant(name)
    files: list[tuple[str, bytes, int]] = []
    for source in _sources(volume):
        outer: Mapping[str, Any] = volume.get("projected") or next(
            (volume[kind] for kind in ("configMap", "secret", "downwardAPI") if kind in volume), {}
        )
        mode = outer.get("defaultMode", _VOLUME_MODE)
        known = False
        for gvr, kind in _GVRS.items():
            if kind in source:
                files += _projected(source[kind], gvr, mode, lookup)
                known = True
        if "downwardAPI" in source:
            known = True
            for item in source["downwardAPI"].get("items") or ():
                containers = {c["name"]: c for c in pod["spec"]["containers"]}
                of = containers.get((item.get("resourceFieldRef") or {}).get("containerName"), {})
                value = _value_from(item, of, facts, lookup) or ""
                files.append((item["path"], value.encode(), item.get("mode", mode)))
        if "serviceAccountToken" in source:
            known = True
            asked = source["serviceAccountToken"]
            found = lookup(TOKENS, token_name(*_token_of(asked)))
            if found is None:
                raise Missing(f'volume "{name}": there is no token yet')
            files.append((asked["path"], found[TOKEN], mode))
            if "/" not in asked["path"]:
                # Clients that know tenants find theirs beside the token.
                files.append(("tenant", facts["metadata.tenant"].encode(), _VOLUME_MODE))
        if not known:
            kinds = ", ".join(sorted(set(source) - {"name"}))
            raise Missing(f'volume "{name}": {kinds} is not supported on this node')
    return VolumeWant(name, tuple(files))


def _projected(
    source: Mapping[str, Any], gvr: str, mode: int, lookup: Lookup
) -> Iterable[tuple[str, bytes, int]]:
    data = lookup(gvr, _name_in(source))
    if data is None:
        if source.get("optional"):
            return
        raise Missing(f'{gvr[:-1]} "{_name_in(source)}" not found')
    items = source.get("items")
    if not items:
        for name, value in data.items():
            yield name, value, mode
        return
    for item in items:
        if item["key"] in data:
            yield item["path"], data[item["key"]], item.get("mode", mode)
        elif not source.get("optional"):
            raise Missing(f"references non-existent key: {item['key']}")


def wanted(
    pod: Mapping[str, Any], tenant: str, node_name: str, host_ip: str, lookup: Lookup,
    more_env: Mapping[str, str] | None = None,
) -> PodWant:  # fmt: skip
    """What a Pod asks of a runtime. lookup(gvr, name) is the decoded data, None when absent.

    more_env: what every container finds in its environment, if it does not say otherwise.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    status = pod.get("status") or {}
    ref = PodRef(metadata["uid"], tenant, metadata["namespace"], metadata["name"])
    ran = {
        s["name"]: s["restartCount"] + (1 if s.get("containerID") else 0)
        for s in (status.get("containerStatuses") or [])
        + (status.get("initContainerStatuses") or [])
    }
    deleting = "deletionTimestamp" in metadata
    grace_s = metadata.get("deletionGracePeriodSeconds") if deleting else None
    if grace_s is None:
        grace_s = spec.get("terminationGracePeriodSeconds", 30)
    facts = _facts(pod, node_name, host_ip)
    base = PodWant(
        ref=ref,
        containers=(),
        restart_policy=spec.get("restartPolicy", "Always"),
        # There is no pod network yet: every pod shares the network of its host.
        host_network=True,
        hostname=spec.get("hostname") or metadata["name"][:63].rstrip("-."),
        labels=tuple(sorted((metadata.get("labels") or {}).items())),
        grace_s=float(grace_s),
        deleting=deleting,
        finished=status.get("phase") in ("Succeeded", "Failed"),
    )
    blocked = ""
    groups: list[list[ContainerWant]] = [[], []]
    for group, containers in zip(
        groups, (spec.get("initContainers", ()), spec.get("containers", ())), strict=True
    ):
        for container in containers:
            try:
                env = {**(more_env or {}), **_environment(container, facts, lookup)}
            except Missing as missing:
                env, blocked = {}, str(missing)
            attempt = ran.get(container["name"], 0)
            group.append(_container(container, spec, env, attempt, host_ip))
    volumes: list[VolumeWant] = []
    for volume in spec.get("volumes") or ():
        try:
            volumes.append(_volume(volume, pod, facts, lookup))
        except Missing as missing:
            blocked = str(missing)
    base = replace(base, volumes=tuple(volumes))
    return replace(base, inits=tuple(groups[0]), containers=tuple(groups[1]), blocked=blocked)


def _container(
    container: Mapping[str, Any],
    spec: Mapping[str, Any],
    env: Mapping[str, str],
    attempt: int,
    host_ip: str,
) -> ContainerWant:
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    security = {**(spec.get("securityContext") or {}), **(container.get("securityContext") or {})}
    return ContainerWant(
        name=container["name"],
        image=container.get("image", ""),
        pull_policy=container.get("imagePullPolicy", "IfNotPresent"),
        command=tuple(_expand(text, env) for text in container.get("command", ())),
        args=tuple(_expand(text, env) for text in container.get("args", ())),
        env=tuple(env.items()),
        working_dir=container.get("workingDir", ""),
        cpu_request_milli=quantity.milli(requests.get("cpu", limits.get("cpu", 0))),
        cpu_limit_milli=quantity.milli(limits.get("cpu", 0)),
        memory_limit_bytes=quantity.value(limits.get("memory", 0)),
        privileged=bool(security.get("privileged")),
        read_only_root=bool(security.get("readOnlyRootFilesystem")),
        run_as_user=security.get("runAsUser"),
        run_as_group=security.get("runAsGroup"),
        tty=bool(container.get("tty")),
        stdin=bool(container.get("stdin")),
        mounts=tuple(
            MountWant(
                mount["name"],
                mount["mountPath"],
                mount.get("subPath", ""),
                bool(mount.get("readOnly")),
            )
            for mount in container.get("volumeMounts") or ()
        ),
        startup=_probe(container.get("startupProbe"), container, host_ip),
        readiness=_probe(container.get("readinessProbe"), container, host_ip),
        liveness=_probe(container.get("livenessProbe"), container, host_ip),
        next_attempt=attempt,
    )


def _environment(
    container: Mapping[str, Any], facts: Mapping[str, str], lookup: Lookup
) -> dict[str, str]:
    env: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        for kind, gvr in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
            if kind in source:
                data = lookup(gvr, source[kind]["name"])
                if data is None and not source[kind].get("optional"):
                    raise Missing(f'{gvr[:-1]} "{source[kind]["name"]}" not found')
                for name, value in (data or {}).items():
                    env[source.get("prefix", "") + name] = value.decode(errors="replace")
    for variable in container.get("env", ()):
        value_from = variable.get("valueFrom")
        if value_from:
            found = _value_from(value_from, container, facts, lookup)
            if found is not None:
                env[variable["name"]] = found
        else:
            env[variable["name"]] = _expand(variable.get("value", ""), env)
    return env


def _value_from(
    source: Mapping[str, Any],
    container: Mapping[str, Any],
    facts: Mapping[str, str],
    lookup: Lookup,
) -> str | None:
    if "fieldRef" in source:
        return facts.get(source["fieldRef"]["fieldPath"], "")
    if "resourceFieldRef" in source:
        ref = source["resourceFieldRef"]
        side, _, name = ref["resource"].partition(".")
        have = (container.get("resources") or {}).get(side) or {}
        divisor = quantity.parse(ref.get("divisor") or 1) or 1
        return str(math.ceil(quantity.parse(have.get(name, 0)) / divisor))
    for kind, gvr in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
        if kind in source:
            ref = source[kind]
            data = lookup(gvr, ref["name"])
            if data is not None and ref["key"] in data:
                return data[ref["key"]].decode(errors="replace")
            if ref.get("optional"):
                return None
            if data is None:
                raise Missing(f'{gvr[:-1]} "{ref["name"]}" not found')
            raise Missing(f"couldn't find key {ref['key']} in {gvr[:-1]} {ref['name']}")
    return None


def _facts(pod: Mapping[str, Any], node_name: str, host_ip: str) -> dict[str, str]:
    """What the downward API can tell of a pod, by field path."""
    metadata, spec = pod["metadata"], pod["spec"]
    facts = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata["namespace"],
        "metadata.tenant": metadata.get("tenant", ""),
        "metadata.uid": metadata["uid"],
        "spec.nodeName": node_name,
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.hostIP": host_ip,
        "status.hostIPs": host_ip,
        "status.podIP": host_ip,
        "status.podIPs": host_ip,
    }
    for part in ("labels", "annotations"):
        facts[f"metadata.{part}"] = "".join(
            f"{name}={json.dumps(value)}\n"
            for name, value in sorted((metadata.get(part) or {}).items())
        )
        for name, value in (metadata.get(part) or {}).items():
            facts[f"metadata.{part}['{name}']"] = value
    return facts


def _expand(text: str, env: Mapping[str, str]) -> str:
    """$(NAME) becomes its value when there is one; $$ is a dollar sign."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return env.get(match[1], match[0])

    return _REFERENCE.sub(value, text)
