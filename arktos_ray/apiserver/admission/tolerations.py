"""DefaultTolerationSeconds: a pod stays five minutes on a node that went quiet. Pure."""

from __future__ import annotations

from typing import Any

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
# Long enough for a node to reboot, short enough that somebody waits for the replacement.
SECONDS = 300


def apply(pod: dict[str, Any]) -> None:
    """Tolerate both taints for a while, unless the pod says itself how it takes them."""
    spec = pod["spec"]
    tolerations = spec.get("tolerations") or []
    missing = [NOT_READY, UNREACHABLE]
    for one in tolerations:
        if one.get("effect") in (None, "", "NoExecute"):
            key = one.get("key")
            if not key:
                return  # tolerates every taint
            if key in missing:
                missing.remove(key)
    if missing:
        spec["tolerations"] = tolerations + [
            {
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": SECONDS,
            }
            for key in missing
        ]
