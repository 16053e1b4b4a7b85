"""What the difference of two statuses tells."""

from __future__ import annotations

from typing import Any

from arktos_ray.runtime.events import Happening, of_change
from arktos_ray.runtime.port import PodRef

REF = PodRef("u1", "acme", "default", "web")


def status(state: dict[str, Any], restarts: int = 0, **more: Any) -> dict[str, Any]:
    main = {"name": "main", "image": "i:1", "restartCount": restarts, "state": state, **more}
    return {"containerStatuses": [main]}


def waiting(reason: str, message: str = "", restarts: int = 0) -> dict[str, Any]:
    return status({"waiting": {"reason": reason, "message": message}}, restarts)


def told(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [f"{what.reason}: {what.message}" for what in of_change(REF, before, after)]


def test_back_off_is_told_once_an_attempt() -> None:
    first = waiting("CrashLoopBackOff", restarts=1)
    said = ["BackOff: Back-off restarting failed container main in pod web_default(u1)"]
    assert told({}, first) == said
    assert told(first, first) == []
    assert told(first, waiting("CrashLoopBackOff", restarts=2)) == said


def test_what_lacks_is_told() -> None:
    lacks = waiting("CreateContainerConfigError", 'secret "keys" not found')
    assert told({}, lacks) == ['Failed: Error: secret "keys" not found']
    assert told(lacks, lacks) == []


def test_a_program_that_cannot_start_is_told_once() -> None:
    ended = {"reason": "StartError", "message": "no such file", "containerID": "c://1"}
    first = status({"terminated": ended})
    assert list(of_change(REF, {}, first)) == [
        Happening("Failed", "Error: no such file", "main", True)
    ]
    later = status({"waiting": {"reason": "x"}}, lastState={"terminated": ended})
    assert told(first, later) == []


def test_a_healthy_start_tells_nothing() -> None:
    assert told({}, waiting("ContainerCreating")) == []
    assert told(waiting("ContainerCreating"), status({"running": {}})) == []
