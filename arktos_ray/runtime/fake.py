"""A runtime in memory, slow and failing on request; it passes the contract of the real ones.

Containers run a small part of sh: `sh -c "echo text; sleep 2; exit 3"`. Everything else runs until
it is stopped. The workloads live in a `FakeHost`, so that several FakeRuntimes in turn can find
the same ones, as after a restart of an agent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from arktos_ray.api import errors
from arktos_ray.base.clock import Clock, rfc3339_micro
from arktos_ray.runtime.port import (
    ContainerSeen,
    ContainerWant,
    ImageNeverPulled,
    ImageUnavailable,
    LogOptions,
    PodRef,
    PodWant,
    RuntimeInfo,
    Usage,
    WorkloadSeen,
)

_POLL_S = 0.05


@dataclass(slots=True)
class _Container:
    seen: ContainerSeen
    # The moments at which it prints, and at which it ends by itself, and how.
    lines: list[tuple[float, str]] = field(default_factory=list)
    ends_at: float = float("inf")
    exit_code: int = 0


@dataclass(slots=True)
class _Sandbox:
    seen: WorkloadSeen
    containers: dict[str, _Container] = field(default_factory=dict)


@dataclass(slots=True)
class FakeHost:
    """What is on the machine: survives its agents. None means that every image is there."""

    sandboxes: dict[str, _Sandbox] = field(default_factory=dict)
    images: set[str] | None = None
    registry: set[str] = field(default_factory=set)
    count: int = 0
    # What pods whose files were refreshed find in their volumes: uid -> volume/path -> content.
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def new_id(self, kind: str) -> str:
        self.count += 1
        return f"{kind}-{self.count}"


class FakeRuntime:
    """The Runtime port over a FakeHost."""

    def __init__(self, clock: Clock, host: FakeHost | None = None) -> None:
        self.host = host or FakeHost()
        self._clock = clock
        # Every call raises Unavailable while it is down.
        self.down = False
        # How long each method takes, by its name.
        self.delays_s: dict[str, float] = {}
        # What the next calls of a method raise, first to last.
        self.failures: dict[str, list[errors.Failure]] = {}
        self.calls: list[str] = []
        # What commands answer that are run in a container; 0 otherwise.
        self.probe_codes: dict[tuple[str, ...], int] = {}

    async def _begin(self, method: str) -> None:
        self.calls.append(method)
        if delay_s := self.delays_s.get(method, 0.0):
            await self._clock.sleep(delay_s)
        if self.down:
            raise errors.Unavailable("the runtime is away")
        if failures := self.failures.get(method):
            raise failures.pop(0)
        self._catch_up()

    def _catch_up(self) -> None:
        now = self._clock.now()
        for sandbox in self.host.sandboxes.values():
            for container in sandbox.containers.values():
                if container.seen.state == "running" and container.ends_at <= now:
                    self._end(container, container.ends_at, container.exit_code)

    def _end(self, container: _Container, when: float, code: int) -> None:
        container.lines = [line for line in container.lines if line[0] <= when]
        reason = "Error" if code else "Completed"
        container.seen = replace(
            container.seen, state="exited", finished_at=when, exit_code=code, reason=reason
        )

    def exit(self, name: str, code: int) -> None:
        """Every running container of that name ends now."""
        for sandbox in self.host.sandboxes.values():
            for container in sandbox.containers.values():
                if container.seen.name == name and container.seen.state == "running":
                    self._end(container, self._clock.now(), code)

    def reboot(self) -> None:
        """Everything that ran is dead, as after a power cut."""
        for sandbox in self.host.sandboxes.values():
            sandbox.seen = replace(sandbox.seen, ready=False)
            for container in sandbox.containers.values():
                if container.seen.state == "running":
                    self._end(container, self._clock.now(), 255)

    async def info(self) -> RuntimeInfo:
        await self._begin("info")
        return RuntimeInfo("fake", "1.0")

    async def observe(self) -> list[WorkloadSeen]:
        await self._begin("observe")
        return [
            replace(
                sandbox.seen,
                containers=tuple(
                    sorted((c.seen for c in sandbox.containers.values()), key=lambda c: c.attempt)
                ),
            )
            for sandbox in self.host.sandboxes.values()
        ]

    async def find_image(self, want: ContainerWant) -> str:
        await self._begin("find_image")
        if self.host.images is None or want.image in self.host.images:
            return f"fake:{want.image}"
        if want.pull_policy == "Never":
            raise ImageNeverPulled(f'Container image "{want.image}" is not present')
        return ""

    async def pull_image(self, want: ContainerWant) -> str:
        await self._begin("pull_image")
        if self.host.images is not None:
            if want.image not in self.host.registry:
                raise ImageUnavailable(f'Container image "{want.image}" is not in the registry')
            self.host.images.add(want.image)
        return f"fake:{want.image}"

    async def create_sandbox(self, pod: PodWant, attempt: int) -> str:
        await self._begin("create_sandbox")
        for sandbox in self.host.sandboxes.values():
            if sandbox.seen.ref.uid == pod.ref.uid and sandbox.seen.attempt == attempt:
                return sandbox.seen.id
        sandbox_id = self.host.new_id("sandbox")
        seen = WorkloadSeen(sandbox_id, pod.ref, attempt, True, self._clock.now())
        self.host.sandboxes[sandbox_id] = _Sandbox(seen)
        return sandbox_id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        await self._begin("stop_sandbox")
        self._kill(sandbox_id)

    def _kill(self, sandbox_id: str) -> None:
        sandbox = self.host.sandboxes.get(sandbox_id)
        if sandbox is not None:
            sandbox.seen = replace(sandbox.seen, ready=False)
            for container in sandbox.containers.values():
                if container.seen.state == "running":
                    self._end(container, self._clock.now(), 137)

    async def remove_sandbox(self, sandbox_id: str, ref: PodRef) -> None:
        await self._begin("remove_sandbox")
        self.host.sandboxes.pop(sandbox_id, None)

    async def start_container(
        self, sandbox_id: str, pod: PodWant, container: ContainerWant, attempt: int
    ) -> str:
        await self._begin("start_container")
        sandbox = self.host.sandboxes.get(sandbox_id)
        if sandbox is None:
            raise errors.NotFound(f"no sandbox {sandbox_id}")
        for held in sandbox.containers.values():
            if (held.seen.name, held.seen.attempt) == (container.name, attempt):
                return held.seen.id
        now = self._clock.now()
        made = _Container(
            ContainerSeen(
                id=self.host.new_id("container"),
                name=container.name,
                attempt=attempt,
                state="running",
                image=container.image,
                image_id=f"fake:{container.image}",
                created_at=now,
                started_at=now,
            )
        )
        words = container.command + container.args
        if words[:2] == ("sh", "-c") and len(words) == 3:
            _interpret(made, words[2], now, dict(container.env))
        sandbox.containers[made.seen.id] = made
        self._catch_up()
        return made.seen.id

    async def refresh_files(self, pod: PodWant) -> None:
        await self._begin("refresh_files")
        self.host.files[pod.ref.uid] = {
            f"{volume.name}/{path}": content
            for volume in pod.volumes
            for path, content, _ in volume.files
        }

    async def stop_container(self, container_id: str, grace_s: float) -> None:
        await self._begin("stop_container")
        for sandbox in self.host.sandboxes.values():
            container = sandbox.containers.get(container_id)
            if container is not None and container.seen.state == "running":
                self._end(container, self._clock.now(), 137)

    async def remove_container(self, container_id: str) -> None:
        await self._begin("remove_container")
        for sandbox in self.host.sandboxes.values():
            sandbox.containers.pop(container_id, None)

    async def read_logs(
        self, ref: PodRef, container: str, options: LogOptions
    ) -> AsyncIterator[bytes]:
        await self._begin("read_logs")
        attempts = sorted(
            (
                held
                for sandbox in self.host.sandboxes.values()
                if sandbox.seen.ref.uid == ref.uid
                for held in sandbox.containers.values()
                if held.seen.name == container
            ),
            key=lambda held: held.seen.attempt,
        )
        if options.previous:
            attempts = attempts[:-1]
        if not attempts:
            raise errors.NotFound(f'container "{container}" in pod "{ref.name}" not found')
        held = attempts[-1]
        past = [line for line in held.lines if line[0] <= self._clock.now()]
        shown = len(past)
        if options.tail_lines is not None:
            past = past[-options.tail_lines :] if options.tail_lines > 0 else []
        for when, text in past:
            if when >= options.since:
                yield _line(when, text, options)
        while options.follow:
            running = held.seen.state == "running"
            self._catch_up()
            present = [line for line in held.lines if line[0] <= self._clock.now()]
            for when, text in present[shown:]:
                yield _line(when, text, options)
            shown = len(present)
            if not running:
                return
            await self._clock.sleep(_POLL_S)

    async def probe(self, container_id: str, command: tuple[str, ...], timeout_s: float) -> int:
        await self._begin("probe")
        return self.probe_codes.get(command, 0)

    async def usage(self) -> list[Usage]:
        await self._begin("usage")
        return [
            Usage(sandbox.seen.ref, container.seen.name, 1_000_000, 1 << 20)
            for sandbox in self.host.sandboxes.values()
            for container in sandbox.containers.values()
            if container.seen.state == "running"
        ]

    async def close(self) -> None:
        pass


def _interpret(container: _Container, script: str, now: float, env: dict[str, str]) -> None:
    """Work out in advance what it will print and when and how it will end."""
    when = now
    container.ends_at = when
    for command in script.split(";"):
        word, _, rest = command.strip().partition(" ")
        if word == "echo":
            for name, value in env.items():
                rest = rest.replace(f"${name}", value)
            container.lines.append((when, rest))
        elif word == "sleep":
            when += float(rest)
        elif word == "exit":
            container.exit_code = int(rest)
            break
    container.ends_at = when


def _line(when: float, text: str, options: LogOptions) -> bytes:
    stamp = f"{rfc3339_micro(when)} " if options.timestamps else ""
    return f"{stamp}{text}\n".encode()
