"""Runtime: the few things an agent asks of any driver, and the values they trade.

A driver holds workloads (a sandbox with containers in it) and answers from what it really holds,
never from memory: after a restart of the agent the same workloads are found by their labels.
Times are seconds since 1970; 0 means not yet.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from arktos_ray.api.errors import Failure


class ImageUnavailable(Failure):
    """The image is not here and could not be fetched. Back off, then try again."""

    code, reason = 502, "ErrImagePull"


class ImageNeverPulled(ImageUnavailable):
    """The image is not here and its policy forbids to fetch it. Wait for someone to bring it."""

    reason = "ErrImageNeverPull"


@dataclass(frozen=True, slots=True)
class PodRef:
    """Whose workload it is. The uid alone identifies it; the rest is for people and log paths."""

    uid: str
    tenant: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class VolumeWant:
    """A directory that lives as long as the pod, with these files; or one of the host's."""

    name: str
    files: tuple[tuple[str, bytes, int], ...] = ()  # Path in the volume, content, mode.
    host_path: str = ""
    create: bool = False  # Make the host's directory when it is not there.


@dataclass(frozen=True, slots=True)
class MountWant:
    """Where a container sees a volume, or a part of it."""

    volume: str
    path: str
    sub_path: str = ""
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ProbeWant:
    """How to ask a container how it is: run a command in it, or connect (scheme "": just that)."""

    command: tuple[str, ...] = ()
    host: str = ""
    port: int = 0
    scheme: str = ""  # HTTP or HTTPS
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    initial_delay_s: float = 0.0
    period_s: float = 10.0
    timeout_s: float = 1.0
    success_threshold: int = 1
    failure_threshold: int = 3


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes of a running container found. unhealthy: why it has to be restarted."""

    started: bool = True
    ready: bool = True
    unhealthy: str = ""


@dataclass(frozen=True, slots=True)
class ContainerWant:
    """One container, with everything that was to be looked up already looked up."""

    name: str
    image: str
    pull_policy: str = "IfNotPresent"
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    cpu_request_milli: int = 0
    cpu_limit_milli: int = 0
    memory_limit_bytes: int = 0
    mounts: tuple[MountWant, ...] = ()
    startup: ProbeWant | None = None
    readiness: ProbeWant | None = None
    liveness: ProbeWant | None = None
    privileged: bool = False
    read_only_root: bool = False
    run_as_user: int | None = None
    run_as_group: int | None = None
    tty: bool = False
    stdin: bool = False
    # The number of its next attempt, as far as the API knows; the runtime may know of more.
    next_attempt: int = 0


@dataclass(frozen=True, slots=True)
class PodWant:
    """What should run here. `finished`: it ran to its end, and must not start again."""

    ref: PodRef
    containers: tuple[ContainerWant, ...]
    inits: tuple[ContainerWant, ...] = ()
    restart_policy: str = "Always"
    host_network: bool = True
    hostname: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    volumes: tuple[VolumeWant, ...] = ()
    grace_s: float = 30.0
    deleting: bool = False
    finished: bool = False
    # Why it cannot start although it should (a missing config map, ...); "" when it can.
    blocked: str = ""


@dataclass(frozen=True, slots=True)
class ContainerSeen:
    """A container that the runtime holds. state: created, running, exited, unknown."""

    id: str
    name: str
    attempt: int
    state: str
    image: str = ""
    image_id: str = ""
    created_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class WorkloadSeen:
    """A sandbox that the runtime holds, and its containers, oldest attempt first."""

    id: str
    ref: PodRef
    attempt: int
    ready: bool
    created_at: float = 0.0
    ip: str = ""
    containers: tuple[ContainerSeen, ...] = ()


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What is answering; `ready` and `why` become the node's ContainerRuntimeReady condition."""

    name: str
    version: str
    ready: bool = True
    why: str = ""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What `kubectl logs` can ask for."""

    tail_lines: int | None = None
    since: float = 0.0  # Lines written at or after this moment.
    timestamps: bool = False
    previous: bool = False
    follow: bool = False
    limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What one container uses now: nanoseconds of CPU since it started, bytes it works with."""

    ref: PodRef
    container: str
    cpu_ns: int = 0
    memory_bytes: int = 0
    extra: dict[str, int] = field(default_factory=dict)


class Runtime(Protocol):
    """All of it may raise Unavailable. Every action may be repeated: done already is done."""

    async def info(self) -> RuntimeInfo: ...

    async def observe(self) -> list[WorkloadSeen]:
        """Everything it holds that is ours, whoever started it."""

    async def find_image(self, want: ContainerWant) -> str:
        """Its id when it is here and may be used as it is; "" when its policy says to fetch it.

        ImageUnavailable when it is neither here nor to be fetched.
        """

    async def pull_image(self, want: ContainerWant) -> str:
        """Fetch it, and return its id. ImageUnavailable when that fails."""

    async def create_sandbox(self, pod: PodWant, attempt: int) -> str: ...

    async def stop_sandbox(self, sandbox_id: str) -> None:
        """Kill what runs in it and free its resources. What it holds can still be read."""

    async def remove_sandbox(self, sandbox_id: str, ref: PodRef) -> None:
        """Leave nothing of it: no container, no process, and with its last sandbox no log."""

    async def start_container(
        self, sandbox_id: str, pod: PodWant, container: ContainerWant, attempt: int
    ) -> str: ...

    async def refresh_files(self, pod: PodWant) -> None:
        """Its volumes hold other files now; containers that run see them. Nothing of a pod that
        is not here yet."""

    async def stop_container(self, container_id: str, grace_s: float) -> None:
        """Returns when it has ended, after at most about the grace."""

    async def remove_container(self, container_id: str) -> None: ...

    def read_logs(self, ref: PodRef, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        """Its output, in chunks; NotFound when there is none. With `follow`, until it ended."""

    async def probe(self, container_id: str, command: tuple[str, ...], timeout_s: float) -> int:
        """Run a command in it; the exit code. Timeout when it takes longer."""

    async def usage(self) -> list[Usage]: ...

    async def close(self) -> None: ...
