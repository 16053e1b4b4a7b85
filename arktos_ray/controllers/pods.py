"""What a pod is to a controller: active, ready, available. Pure."""

from __future__ import annotations

from typing import Any

from arktos_ray.controllers.times import seconds

Object = dict[str, Any]


def phase(pod: Object) -> str:
    found: str = pod.get("status", {}).get("phase", "")
    return found


def is_finished(pod: Object) -> bool:
    return phase(pod) in ("Succeeded", "Failed")


def is_terminating(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def is_active(pod: Object) -> bool:
    return not is_terminating(pod) and not is_finished(pod)


def condition(obj: Object, kind: str) -> Object | None:
    for found in obj.get("status", {}).get("conditions") or ():
        if found.get("type") == kind:
            known: Object = found
            return known
    return None


def is_ready(pod: Object) -> bool:
    ready = condition(pod, "Ready")
    return ready is not None and ready.get("status") == "True"


def ready_since(pod: Object) -> float:
    """When it became ready; 0 when it is not, or does not say."""
    ready = condition(pod, "Ready")
    if ready is None or ready.get("status") != "True" or not ready.get("lastTransitionTime"):
        return 0.0
    return seconds(ready["lastTransitionTime"])
