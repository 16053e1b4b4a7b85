"""A process that holds one partition in an etcd, and does what it reads: `put VALUE`, `get`, `pid`.

Not a test: test_etcd.py stops it, replaces it, and lets it go on.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from arktos_ray.api.errors import Failure
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.tasks import Tasks
from arktos_ray.store.backends.etcd import EtcdLog
from arktos_ray.store.backends.etcd_rpc import EtcdSettings
from arktos_ray.store.store import Store

GVR, PATH = "configmaps", "t/n/one"


class Holder:
    """A store over an etcd, as a partition has it."""

    def __init__(self, settings: EtcdSettings, name: str, on_crash: Any = None) -> None:
        self.tasks = Tasks(on_crash)
        clock = SystemClock()
        self.log = EtcdLog(settings, name, clock)
        self.store = Store(self.log, 1, clock, self.tasks)

    async def start(self) -> None:
        self.store.recover()
        await self.log.take_over()
        self.store.start()

    async def put(self, value: str) -> None:
        meta = {"name": "one", "tenant": "t", "namespace": "n"}
        self.store.put(GVR, PATH, {"metadata": meta, "value": value})
        await self.store.commit()

    def get(self) -> str:
        record = self.store.get(GVR, PATH)
        self.store.check_trusted()
        return str(record.decode()["value"]) if record is not None else ""

    async def close(self) -> None:
        await self.tasks.close()
        self.log.close()


async def main(endpoint: str, name: str, ttl_s: str) -> None:
    settings = EtcdSettings.of({"endpoints": [endpoint], "ttl_s": float(ttl_s)})
    holder = Holder(settings, name, on_crash=lambda error: os._exit(3))
    await holder.start()
    print("ready", flush=True)
    while True:
        line = await asyncio.to_thread(sys.stdin.readline)
        verb, _, value = line.strip().partition(" ")
        try:
            if verb == "put":
                await holder.put(value)
                print("done", flush=True)
            elif verb == "get":
                print(holder.get(), flush=True)
            else:
                return
        except Failure as failure:
            print(f"refused: {failure}", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
