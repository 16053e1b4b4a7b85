"""Containers by containerd, over the CRI. Policy is in plan.py; here it is carried out.

Nothing is remembered: sandboxes and containers carry labels that say whose they are; logs and
volumes lie under `pods_root` in a directory for each pod. Files from config maps and secrets are
written when a container starts, and not followed afterwards. Not a network: pods share that of
their host.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from arktos_ray.api import errors
from arktos_ray.base.clock import Clock
from arktos_ray.runtime.containerd import ctr, images, logs
from arktos_ray.runtime.containerd.rpc import DEADLINE_S, Cri
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
    VolumeWant,
    WorkloadSeen,
)

log = logging.getLogger(__name__)

# The first three are what crictl and other tools look for.
_POD_NAME: Final = "io.kubernetes.pod.name"
_POD_NAMESPACE: Final = "io.kubernetes.pod.namespace"
_POD_UID: Final = "io.kubernetes.pod.uid"
_CONTAINER_NAME: Final = "io.kubernetes.container.name"
_TENANT: Final = "arktos.io/tenant"
_MANAGED_BY: Final = "arktos.io/managed-by"
_NODE: Final = 2  # NamespaceMode.NODE: the host's own.
_STATES: Final = ("created", "running", "exited", "unknown")
_NS: Final = 1e9
_PULL_DEADLINE_S: Final = 600.0
# The runtime needs a moment beyond the grace to kill and to reap.
_STOP_MARGIN_S: Final = 30.0
_CPU_PERIOD_US: Final = 100_000
# Where no registry answers, this is how long the first pod waits to find out.
_SANDBOX_PULL_DEADLINE_S: Final = 20.0
_SLICE: Final = "arktos.slice"
# A file that is nobody else's.
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class Containerd:
    """The Runtime port over a containerd socket.

    owner sets the workloads of several agents on one daemon apart. offline: never ask a
    registry; what is present serves every pull policy.
    """

    def __init__(
        self, address: str, pods_root: Path, clock: Clock, *, owner: str, offline: bool = False
    ) -> None:
        self._address = address
        self._cri = Cri(address)
        self._pods_root = pods_root
        self._clock = clock
        self._owner = {_MANAGED_BY: f"arktos-{owner}"}
        self._offline = offline
        self._settings: Settings | None = None

    async def close(self) -> None:
        await self._cri.close()

    async def info(self) -> RuntimeInfo:
        version = await self._cri.call("Version", deadline_s=5.0)
        status = await self._cri.call("Status", deadline_s=5.0)
        for condition in status.status.conditions:
            # NetworkReady is about a pod network, which these pods do not use.
            if condition.type == "RuntimeReady" and not condition.status:
                return RuntimeInfo(
                    version.runtime_name, version.runtime_version, False, condition.message
                )
        return RuntimeInfo(version.runtime_name, version.runtime_version)

    async def observe(self) -> list[WorkloadSeen]:
        ours = {"label_selector": self._owner}
        sandboxes = (await self._cri.call("ListPodSandbox", filter=ours)).items
        listed = (await self._cri.call("ListContainers", filter=ours)).containers
        held: dict[str, list[ContainerSeen]] = {}
        for container in listed:
            seen = await self._container_seen(container)
            if seen is not None:
                held.setdefault(container.pod_sandbox_id, []).append(seen)
        return [
            WorkloadSeen(
                id=sandbox.id,
                ref=_ref(sandbox.labels),
                attempt=sandbox.metadata.attempt,
                ready=sandbox.state == 0,
                created_at=sandbox.created_at / _NS,
                containers=tuple(sorted(held.get(sandbox.id, ()), key=lambda c: c.attempt)),
            )
            for sandbox in sandboxes
        ]

    async def _container_seen(self, listed: Any) -> ContainerSeen | None:
        try:
            status = (await self._cri.call("ContainerStatus", container_id=listed.id)).status
        except errors.NotFound:
            return None  # Removed since it was listed.
        started_at, finished_at = status.started_at / _NS, status.finished_at / _NS
        if finished_at:
            # Of a program that ends at once, containerd notes the end before the start.
            started_at = min(started_at or finished_at, finished_at)
        return ContainerSeen(
            id=status.id,
            name=status.metadata.name,
            attempt=status.metadata.attempt,
            state=_STATES[status.state],
            image=status.image.image,
            image_id=status.image_ref,
            created_at=status.created_at / _NS,
            started_at=started_at,
            finished_at=finished_at,
            exit_code=status.exit_code,
            reason=status.reason,
            message=status.message,
        )

    async def find_image(self, want: ContainerWant) -> str:
        found = await self._cri.call("ImageStatus", image={"image": want.image})
        present: str = found.image.id
        if present and (want.pull_policy != "Always" or self._offline):
            return present
        if want.pull_policy == "Never":
            raise ImageNeverPulled(
                f'Container image "{want.image}" is not present with pull policy of Never'
            )
        if self._offline:
            raise ImageUnavailable(
                f'Container image "{want.image}" is not present, and this node pulls none'
            )
        return ""

    async def pull_image(self, want: ContainerWant) -> str:
        try:
            pulled = await self._cri.call(
                "PullImage", image={"image": want.image}, deadline_s=_PULL_DEADLINE_S
            )
        except errors.Unavailable:
            raise
        except errors.Failure as failure:
            raise ImageUnavailable(failure.message) from failure
        ref: str = pulled.image_ref
        return ref

    async def create_sandbox(self, pod: PodWant, attempt: int) -> str:
        directory = self._directory(pod.ref)
        directory.mkdir(parents=True, exist_ok=True)
        settings = await self._daemon_settings()
        config = self._sandbox_config(pod, attempt, settings.systemd)
        try:
            reply = await self._cri.call("RunPodSandbox", config=config, deadline_s=120.0)
        except errors.Internal:
            # The runtime refuses a name that it has given away: by us, before we were restarted.
            mine = {"label_selector": {_POD_UID: pod.ref.uid, **self._owner}}
            for held in (await self._cri.call("ListPodSandbox", filter=mine)).items:
                if held.metadata.attempt == attempt:
                    return str(held.id)
            raise
        return str(reply.pod_sandbox_id)

    async def _daemon_settings(self) -> Settings:
        """How the daemon is set up; asked once, before the first sandbox."""
        if self._settings is None:
            status = await self._cri.call("Status", verbose=True)
            settings = settings_in(status.info.get("config", ""))
            if settings.sandbox_image:
                await self._have_sandbox_image(settings.sandbox_image)
            self._settings = settings
        return self._settings

    async def _have_sandbox_image(self, name: str) -> None:
        """The daemon pulls it, where it can. Otherwise it gets ours, under that name."""
        found = await self._cri.call("ImageStatus", image={"image": name})
        if found.image.id:
            return
        try:
            if self._offline:
                raise errors.Unavailable("no registry is to be asked")
            await self._cri.call(
                "PullImage", image={"image": name}, deadline_s=_SANDBOX_PULL_DEADLINE_S
            )
        except errors.Failure as failure:
            log.warning("%s: %s; our own takes its place", name, failure.message)
            await asyncio.to_thread(ctr.import_images, self._address, images.pause_image(name))

    async def stop_sandbox(self, sandbox_id: str) -> None:
        await self._gone_is_done("StopPodSandbox", pod_sandbox_id=sandbox_id)

    async def remove_sandbox(self, sandbox_id: str, ref: PodRef) -> None:
        await self._gone_is_done("StopPodSandbox", pod_sandbox_id=sandbox_id)
        await self._gone_is_done("RemovePodSandbox", pod_sandbox_id=sandbox_id)
        others = await self._cri.call(
            "ListPodSandbox", filter={"label_selector": {_POD_UID: ref.uid, **self._owner}}
        )
        if not others.items:
            shutil.rmtree(self._directory(ref), ignore_errors=True)

    async def start_container(
        self, sandbox_id: str, pod: PodWant, container: ContainerWant, attempt: int
    ) -> str:
        (self._directory(pod.ref) / container.name).mkdir(parents=True, exist_ok=True)
        for volume in pod.volumes:
            self._fill(pod.ref, volume)
        status = await self._cri.call("PodSandboxStatus", pod_sandbox_id=sandbox_id)
        config = self._container_config(pod, container, attempt)
        settings = await self._daemon_settings()
        sandbox = self._sandbox_config(pod, status.status.metadata.attempt, settings.systemd)
        try:
            created = await self._cri.call(
                "CreateContainer", pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox
            )
            container_id = str(created.container_id)
        except errors.Internal:
            found = await self._find(pod.ref, container.name, attempt)
            if found is None:
                raise
            container_id = str(found.id)
            if _STATES[found.state] != "created":
                return container_id
        try:
            await self._cri.call("StartContainer", container_id=container_id)
        except errors.Unavailable:
            raise
        except errors.Failure:
            # The runtime keeps it as exited, with the reason (no such file, ...): the plan goes on
            # from there. What it does not keep is removed here.
            left = await self._cri.call("ContainerStatus", container_id=container_id)
            if _STATES[left.status.state] != "exited":
                await self.remove_container(container_id)
                raise
        return container_id

    async def refresh_files(self, pod: PodWant) -> None:
        for volume in pod.volumes:
            if volume.files and self._volume_directory(pod.ref, volume.name).exists():
                self._fill(pod.ref, volume)

    async def stop_container(self, container_id: str, grace_s: float) -> None:
        await self._gone_is_done(
            "StopContainer",
            container_id=container_id,
            timeout=int(grace_s),
            deadline_s=grace_s + _STOP_MARGIN_S,
        )

    async def remove_container(self, container_id: str) -> None:
        await self._gone_is_done("RemoveContainer", container_id=container_id)

    async def probe(self, container_id: str, command: tuple[str, ...], timeout_s: float) -> int:
        reply = await self._cri.call(
            "ExecSync",
            container_id=container_id,
            cmd=command,
            timeout=max(1, round(timeout_s)),
            deadline_s=timeout_s + 5.0,
        )
        code: int = reply.exit_code
        return code

    async def usage(self) -> list[Usage]:
        reply = await self._cri.call("ListContainerStats", filter={"label_selector": self._owner})
        return [
            Usage(
                ref=_ref(stats.attributes.labels),
                container=stats.attributes.metadata.name,
                cpu_ns=stats.cpu.usage_core_nano_seconds.value,
                memory_bytes=stats.memory.working_set_bytes.value,
            )
            for stats in reply.stats
        ]

    async def read_logs(
        self, ref: PodRef, container: str, options: LogOptions
    ) -> AsyncIterator[bytes]:
        directory = self._directory(ref) / container
        attempts = sorted(int(file.stem) for file in directory.glob("*.log"))
        if options.previous:
            attempts = attempts[:-1]
        if not attempts:
            which = "previous terminated container" if options.previous else "container"
            raise errors.NotFound(f'{which} "{container}" in pod "{ref.name}" not found')
        attempt = attempts[-1]

        async def may_grow() -> bool:
            return await self._runs(ref, container, attempt)

        path = directory / f"{attempt}.log"
        async with aclosing(logs.read(path, options, self._clock, may_grow)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _runs(self, ref: PodRef, container: str, attempt: int) -> bool:
        found = await self._find(ref, container, attempt)
        return found is not None and _STATES[found.state] in ("created", "running")

    async def _find(self, ref: PodRef, container: str, attempt: int) -> Any | None:
        labels = {_POD_UID: ref.uid, _CONTAINER_NAME: container, **self._owner}
        reply = await self._cri.call("ListContainers", filter={"label_selector": labels})
        return next((c for c in reply.containers if c.metadata.attempt == attempt), None)

    async def _gone_is_done(
        self, method: str, *, deadline_s: float = DEADLINE_S, **fields: Any
    ) -> None:
        with suppress(errors.NotFound):
            await self._cri.call(method, deadline_s=deadline_s, **fields)

    def _directory(self, ref: PodRef) -> Path:
        return self._pods_root / f"{ref.tenant}_{ref.namespace}_{ref.name}_{ref.uid}"

    def _volume_directory(self, ref: PodRef, name: str) -> Path:
        # No container has a name with a dot, so this is nobody's log directory.
        return self._directory(ref) / ".volumes" / name

    def _fill(self, ref: PodRef, volume: VolumeWant) -> None:
        """Have the volume there. What containers wrote into it stays; our files are as wanted."""
        if volume.host_path:
            if volume.create:
                Path(volume.host_path).mkdir(parents=True, exist_ok=True)
            return
        directory = self._volume_directory(ref, volume.name)
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o777)  # Containers run as any user.
        for path, content, mode in volume.files:
            file = _inside(directory, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.is_symlink() or not file.exists() or file.read_bytes() != content:
                # Whole or not at all: a container may read it just now. What a container put in
                # its place is replaced, not followed.
                fresh = file.with_name(f".{file.name}.new")
                fresh.unlink(missing_ok=True)
                with os.fdopen(os.open(fresh, _NEW, 0o600), "wb") as opened:
                    opened.write(content)
                fresh.chmod(mode)
                fresh.replace(file)
            file.chmod(mode)

    def _mounts(self, pod: PodWant, container: ContainerWant) -> list[dict[str, Any]]:
        volumes = {volume.name: volume for volume in pod.volumes}
        mounts = []
        for mount in container.mounts:
            volume = volumes[mount.volume]
            root = Path(volume.host_path or self._volume_directory(pod.ref, volume.name))
            host = _inside(root, mount.sub_path) if mount.sub_path else root
            if mount.sub_path and not host.exists():
                host.mkdir(parents=True)
            mounts.append(
                {
                    "host_path": str(host),
                    "container_path": mount.path,
                    "readonly": mount.read_only,
                }
            )
        return mounts

    def _labels(self, ref: PodRef) -> dict[str, str]:
        return {
            _POD_NAME: ref.name,
            _POD_NAMESPACE: ref.namespace,
            _POD_UID: ref.uid,
            _TENANT: ref.tenant,
            **self._owner,
        }

    def _sandbox_config(self, pod: PodWant, attempt: int, systemd: bool) -> dict[str, Any]:
        ref = pod.ref
        namespaces = {"network": _NODE} if pod.host_network else {}
        return {
            "metadata": {
                "name": ref.name,
                "uid": ref.uid,
                "namespace": f"{ref.tenant}.{ref.namespace}",
                "attempt": attempt,
            },
            # A sandbox in the host's network has the host's name.
            "hostname": "" if pod.host_network else pod.hostname,
            "log_directory": str(self._directory(ref)),
            "labels": {**dict(pod.labels), **self._labels(ref)},
            "linux": {
                # systemd puts cgroups nowhere but in a slice.
                "cgroup_parent": _SLICE if systemd else "",
                "security_context": {"namespace_options": namespaces},
            },
        }

    def _container_config(
        self, pod: PodWant, container: ContainerWant, attempt: int
    ) -> dict[str, Any]:
        security: dict[str, Any] = {
            "namespace_options": {"network": _NODE, "pid": 1} if pod.host_network else {"pid": 1},
            "privileged": container.privileged,
            "readonly_rootfs": container.read_only_root,
        }
        if container.run_as_user is not None:
            security["run_as_user"] = {"value": container.run_as_user}
            if container.run_as_group is not None:
                security["run_as_group"] = {"value": container.run_as_group}
        return {
            "metadata": {"name": container.name, "attempt": attempt},
            "image": {"image": container.image},
            "command": container.command,
            "args": container.args,
            "working_dir": container.working_dir,
            "envs": [{"key": name, "value": value.encode()} for name, value in container.env],
            "mounts": self._mounts(pod, container),
            "labels": {**self._labels(pod.ref), _CONTAINER_NAME: container.name},
            "log_path": f"{container.name}/{attempt}.log",
            "stdin": container.stdin,
            "tty": container.tty,
            "linux": {"resources": resources(container), "security_context": security},
        }


def _inside(root: Path, path: str) -> Path:
    """A path below root, or Invalid: neither dots nor links lead out of a volume."""
    found = (root / path).resolve()
    if not found.is_relative_to(root.resolve()):
        raise errors.Invalid(f"{path} leads out of its volume")
    return found


@dataclass(frozen=True, slots=True)
class Settings:
    """What we need to know of a daemon's configuration."""

    sandbox_image: str = ""
    systemd: bool = False


def settings_in(text: str) -> Settings:
    """From the JSON that it tells of itself; what is not there is as by default."""
    try:
        config = orjson.loads(text or "{}")
        handler = config.get("containerd") or {}
        runtimes = handler.get("runtimes") or {}
        runtime = runtimes.get(handler.get("defaultRuntimeName") or "runc") or {}
        systemd = (runtime.get("options") or {}).get("SystemdCgroup", False)
        return Settings(config.get("sandboxImage") or "", bool(systemd))
    except (ValueError, AttributeError):
        return Settings()


def resources(container: ContainerWant) -> dict[str, int]:
    """Limits as the kernel's cgroups want them."""
    wanted = {"cpu_shares": max(2, container.cpu_request_milli * 1024 // 1000)}
    if container.cpu_limit_milli:
        wanted["cpu_period"] = _CPU_PERIOD_US
        # The kernel refuses less than 1 ms.
        wanted["cpu_quota"] = max(1000, container.cpu_limit_milli * _CPU_PERIOD_US // 1000)
    if container.memory_limit_bytes:
        wanted["memory_limit_in_bytes"] = container.memory_limit_bytes
    return wanted


def _ref(labels: Any) -> PodRef:
    return PodRef(
        uid=labels.get(_POD_UID, ""),
        tenant=labels.get(_TENANT, ""),
        namespace=labels.get(_POD_NAMESPACE, ""),
        name=labels.get(_POD_NAME, ""),
    )
