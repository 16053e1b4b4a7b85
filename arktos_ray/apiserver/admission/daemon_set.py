"""SystemDaemonSet: what runs on every node is the operators' business. Pure."""

from __future__ import annotations

from typing import Any

from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.apiserver.admission.refusals import forbidden


def check(tenant: str, obj: dict[str, Any]) -> None:
    if tenant != SYSTEM_TENANT:
        raise forbidden("daemonsets.apps", obj, "only system tenant is allowed to have DaemonSet")
