"""What a kubelet tells of a pod, as `kubectl describe` shows it. Pure: others write it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from arktos_ray.runtime.port import PodRef


@dataclass(frozen=True, slots=True)
class Happening:
    """container: whose it is; "" is the pod's. Warnings are those that somebody should look at."""

    reason: str
    message: str
    container: str = ""
    warning: bool = False


def present(container: str, image: str) -> Happening:
    return Happening("Pulled", f'Container image "{image}" already present on machine', container)


def pulling(container: str, image: str) -> Happening:
    return Happening("Pulling", f'Pulling image "{image}"', container)


def pulled(container: str, image: str, took_s: float) -> Happening:
    text = f'Successfully pulled image "{image}" in {took_s:.3g}s'
    return Happening("Pulled", text, container)


def started(container: str) -> list[Happening]:
    return [
        Happening("Created", f"Created container: {container}", container),
        Happening("Started", f"Started container {container}", container),
    ]


def killing(container: str, why: str = "") -> Happening:
    text = f"Container {container} {why}, will be restarted" if why else ""
    return Happening("Killing", text or f"Stopping container {container}", container)


def sandbox_changed() -> Happening:
    return Happening("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")


def sandbox_failed(why: str) -> Happening:
    return Happening("FailedCreatePodSandBox", f"Failed to create pod sandbox: {why}", warning=True)


def start_failed(container: str, image: str, reason: str, why: str) -> list[Happening]:
    """reason: the one of its status."""
    if reason == "ErrImageNeverPull":
        return [
            Happening(reason, why, container, True),
            Happening("Failed", f"Error: {reason}", container, True),
        ]
    if reason in ("ErrImagePull", "ImagePullBackOff"):
        return [
            Happening("Failed", f'Failed to pull image "{image}": {why}', container, True),
            Happening("Failed", "Error: ErrImagePull", container, True),
        ]
    return [Happening("Failed", f"Error: {why}", container, True)]


def of_change(
    ref: PodRef, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterable[Happening]:
    """What a new status tells that the former did not: that something is waited for, and why."""
    for group in ("initContainerStatuses", "containerStatuses"):
        former = {status["name"]: status for status in before.get(group) or ()}
        for status in after.get(group) or ():
            yield from _of_container(ref, former.get(status["name"]) or {}, status)


def _of_container(
    ref: PodRef, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterable[Happening]:
    name = after["name"]
    ended = _part(after, "terminated") or (after.get("lastState") or {}).get("terminated") or {}
    was = _part(before, "terminated") or (before.get("lastState") or {}).get("terminated") or {}
    if ended.get("reason") == "StartError" and ended["containerID"] != was.get("containerID"):
        yield Happening("Failed", f"Error: {ended.get('message', '')}", name, True)
    waiting, waited = _part(after, "waiting"), _part(before, "waiting")
    reason = waiting.get("reason")
    again = after["restartCount"] != before.get("restartCount")
    if reason == waited.get("reason") and not (reason == "CrashLoopBackOff" and again):
        return
    if reason == "CrashLoopBackOff":
        text = f"Back-off restarting failed container {name} in pod "
        text += f"{ref.name}_{ref.namespace}({ref.uid})"
        yield Happening("BackOff", text, name, True)
    elif reason == "ImagePullBackOff":
        yield Happening("BackOff", f'Back-off pulling image "{after["image"]}"', name)
        yield Happening("Failed", "Error: ImagePullBackOff", name, True)
    elif reason == "CreateContainerConfigError":
        yield Happening("Failed", f"Error: {waiting.get('message', '')}", name, True)


def _part(status: Mapping[str, Any], state: str) -> Mapping[str, Any]:
    return (status.get("state") or {}).get(state) or {}
