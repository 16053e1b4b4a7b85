"""connect: a handle on a running cluster, over HTTP or over Ray."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from arktos_ray.api.errors import BadRequest
from arktos_ray.base.places import Places
from arktos_ray.client.handles import AsyncCluster, Background, Cluster
from arktos_ray.client.http import HttpCaller
from arktos_ray.client.kubeconfig import endpoint

_DEFAULT_KUBECONFIG = ".arktos/admin.kubeconfig"
_DEFAULT_HOME = ".arktos"


async def aconnect(target: str | Path | None = None, *, transport: str = "http") -> AsyncCluster:
    """An AsyncCluster.

    target: for `http` the path of a kubeconfig (default: $ARKTOS_KUBECONFIG, else
    .arktos/admin.kubeconfig); for `ray` the cluster's directory (default: $ARKTOS_DATA_DIR, else
    .arktos), on the machine that runs it. Raises BadRequest for a target that cannot be used, and
    Unavailable at the first call when nobody answers there.
    """
    if transport == "http":
        path = Path(target or os.environ.get("ARKTOS_KUBECONFIG", _DEFAULT_KUBECONFIG))
        caller = HttpCaller(endpoint(path)[0])
        return AsyncCluster(caller, caller.close)
    if transport == "ray":
        return _over_ray(Path(target or os.environ.get("ARKTOS_DATA_DIR", _DEFAULT_HOME)))
    raise BadRequest(f'transport "{transport}": it is "http" or "ray"')


def _over_ray(directory: Path) -> AsyncCluster:
    home = directory.resolve()
    places = Places(home)
    note = places.read_note()
    if places.driver() is None or note is None or not note.get("ray_address"):
        raise BadRequest(f"no cluster runs in {home}")
    token = str(places.ray_token)
    if "ray" in sys.modules and os.environ.get("RAY_AUTH_TOKEN_PATH") != token:
        # Ray reads its credential once, when it is first imported.
        raise BadRequest(
            f"call connect before importing ray, or set RAY_AUTH_MODE=token and"
            f" RAY_AUTH_TOKEN_PATH={token} before starting Python"
        )
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=token)
    from arktos_ray.actors.handles import ray_peer

    return AsyncCluster(*ray_peer("ingress-1", note["ray_address"]))


def connect(target: str | Path | None = None, *, transport: str = "http") -> Cluster:
    """The same without await; see `aconnect`."""
    background = Background()
    try:
        return Cluster(background.run(aconnect(target, transport=transport)), background)
    except BaseException:
        background.stop()
        raise
