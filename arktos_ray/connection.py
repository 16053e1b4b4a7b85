"""connect: a handle on a running cluster, over HTTP or over Ray."""

from __future__ import annotations

import os
from pathlib import Path

from arktos_ray.api.errors import BadRequest
from arktos_ray.client.handles import AsyncCluster, Background, Cluster
from arktos_ray.client.http import HttpCaller
from arktos_ray.client.kubeconfig import endpoint

_DEFAULT_KUBECONFIG = ".arktos/admin.kubeconfig"


async def aconnect(target: str | Path | None = None, *, transport: str = "http") -> AsyncCluster:
    """An AsyncCluster.

    target: for `http` the path of a kubeconfig (default: $ARKTOS_KUBECONFIG, else
    .arktos/admin.kubeconfig); for `ray` the address of the Ray cluster (default: the one that
    this process is connected to). Raises BadRequest for a target that cannot be used, and
    Unavailable at the first call when nobody answers there.
    """
    if transport == "http":
        path = Path(target or os.environ.get("ARKTOS_KUBECONFIG", _DEFAULT_KUBECONFIG))
        caller = HttpCaller(endpoint(path)[0])
        return AsyncCluster(caller, caller.close)
    if transport == "ray":
        from arktos_ray.actors.handles import ray_peer

        peer, close = ray_peer("ingress-1", str(target) if target else None)
        return AsyncCluster(peer, close)
    raise BadRequest(f'transport "{transport}": it is "http" or "ray"')


def connect(target: str | Path | None = None, *, transport: str = "http") -> Cluster:
    """The same without await; see `aconnect`."""
    background = Background()
    try:
        return Cluster(background.run(aconnect(target, transport=transport)), background)
    except BaseException:
        background.stop()
        raise
