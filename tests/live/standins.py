"""A cluster of stand-ins: the real driver, Ray and supervisor round parts that do nothing.

Run as `python standins.py HOME [COUNT]`: it is what `arktos serve` is for the real cast.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from arktos_ray import bootstrap
from arktos_ray.actors.cast import Actor, common_spec
from arktos_ray.actors.part import Part
from arktos_ray.base.places import Places
from arktos_ray.config import Config


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


def main() -> int:
    home, count = Path(sys.argv[1]), int(sys.argv[2])
    fails = sys.argv[3:] == ["fails"]

    def cast(
        config: Config, places: Places, *, node: str | None, own_containerd: bool = False
    ) -> list[Actor]:
        common = common_spec(config, places, ["tp-1"], ["rp-1"])
        return [
            Actor(
                f"tp-{i + 1}",
                "tenant partition",
                "standins:Standin",
                {**common, "name": f"tp-{i + 1}", "fails": fails},
            )
            for i in range(count)
        ]

    bootstrap.cast = cast
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
