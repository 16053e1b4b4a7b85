"""DeploymentNetwork: a deployment and its pods are in one network. Pure.

Also DefaultPodNetworkReadiness, which is off by default: pods wait until their network is ready.
"""

from __future__ import annotations

from typing import Any

from arktos_ray.api import errors

Object = dict[str, Any]

LABEL = "arktos.futurewei.com/network"
READINESS = "arktos.futurewei.com/network-readiness"


def check_deployment(deployment: Object) -> None:
    template = (deployment.get("spec") or {}).get("template") or {}
    if _network(deployment) != _network(template):
        raise errors.BadRequest("invalid deployment with conflicting network label")


def apply_readiness(pod: Object) -> None:
    meta = pod["metadata"]
    annotations = meta.get("annotations") or {}
    if not pod["spec"].get("hostNetwork") and READINESS not in annotations:
        meta["annotations"] = {**annotations, READINESS: "false"}


def _network(obj: Object) -> str:
    found: str = ((obj.get("metadata") or {}).get("labels") or {}).get(LABEL) or ""
    return found
