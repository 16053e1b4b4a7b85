"""The runtime in memory keeps the promises of the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from arktos_ray.base.clock import Clock
from arktos_ray.runtime.fake import FakeHost, FakeRuntime
from arktos_ray.runtime.port import Runtime
from arktos_ray.testing.contracts_runtime import RuntimeContract
from arktos_ray.testing.fakes import FakeClock


class TestFakeRuntime(RuntimeContract):
    image = "present:1"

    def setup_method(self) -> None:
        self.clock = FakeClock()
        self.host = FakeHost(images={self.image})

    def runtime(self) -> Runtime:
        return FakeRuntime(self.clock, self.host)

    def run(self, story: Callable[[Runtime, Clock], Awaitable[None]]) -> None:
        async def drive() -> None:
            task = asyncio.ensure_future(story(self.runtime(), self.clock))
            while not task.done():
                await self.clock.advance(0.05)
            await task

        asyncio.run(drive())
