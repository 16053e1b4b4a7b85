"""A cluster of stand-ins: the real driver, Ray and supervisor round parts that do nothing.

Run as `python standins.py HOME [COUNT]`: it is what `arktos serve` is for the real cast.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from arktos_ray import bootstrap
from arktos_ray.actors.cast import Actor
from arktos_ray.actors.part import Part, Spec, Surroundings
from arktos_ray.actors.supervisor import Supervisor
from arktos_ray.actors.topology import topology_store
from arktos_ray.config import Config
from arktos_ray.tenancy.topology import Topology


class Standin(Part):
    role = "stand-in"

    async def open(self) -> None:
        if self.spec.get("fails"):
            raise RuntimeError("made to fail")

    async def stats(self) -> dict[str, Any]:
        return {"objects": {"pods": 3}, "calls": int(time.monotonic() * 100)}

    async def request(self, method: str, payload: Any) -> Any:
        if method == "hang":
            time.sleep(payload)  # noqa: ASYNC251 - a loop that does not turn is the point
        if method == "crash":
            self._surroundings.crash(RuntimeError("made to crash"))
        return await super().request(method, payload)


def cast(standins: Mapping[str, Any], topology: Topology) -> list[Actor]:
    """So many of them, whatever the topology says."""
    common = {**standins["common"], "topology": topology.pack(), "fails": standins["fails"]}
    return [
        Actor(name, "tenant partition", "standins:Standin", {**common, "name": name})
        for name in (f"tp-{i + 1}" for i in range(standins["count"]))
    ]


def supervisor(spec: Spec, surroundings: Surroundings) -> Supervisor:
    """The real one, with another cast."""
    from arktos_ray.actors.cluster import RayFleet

    store = topology_store(spec)
    return Supervisor(spec, surroundings, RayFleet(spec), store, partial(cast, spec["standins"]))


def main() -> int:
    home, count = Path(sys.argv[1]), int(sys.argv[2])
    real = bootstrap.supervisor_actor
    standins = {"count": count, "fails": sys.argv[3:] == ["fails"]}

    def supervisor_actor(*arguments: Any) -> Actor:
        made = real(*arguments)
        own = {"standins": {**standins, "common": made.spec["settings"]["common"]}}
        return replace(made, make="standins:supervisor", spec={**made.spec, **own})

    bootstrap.supervisor_actor = supervisor_actor
    bootstrap.cast = lambda given, topology: cast({**standins, **given}, topology)
    config = Config.model_validate(
        {
            "data-dir": home, "dashboard": False, "port": bootstrap.free_port(0),
            "health-period-s": 0.2, "health-deadline-s": 0.5, "health-failures-max": 3,
        }
    )  # fmt: skip

    def tell(event: dict[str, Any]) -> None:
        print(json.dumps(event), flush=True)

    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    return bootstrap.serve(config, tell)


if __name__ == "__main__":
    sys.exit(main())
