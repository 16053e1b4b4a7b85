"""Asking containers how they are: startup, readiness and liveness probes.

One task for each probe of a running container. What was learned is a `Health` for the container,
which plan.py judges; nothing is restarted from here. Forgotten with the agent: after a restart a
container that has a readiness probe is ready again once it says so.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from arktos_ray.api import errors
from arktos_ray.base.clock import Clock
from arktos_ray.runtime.port import ContainerWant, Health, ProbeWant, Runtime

# Of an answer over HTTP only the first line counts.
_ANSWER_BYTES_MAX = 4096


class Prober:
    """The probes of one container; `run` is a task that ends when it is cancelled."""

    def __init__(
        self,
        container_id: str,
        want: ContainerWant,
        runtime: Runtime,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self._id = container_id
        self._want = want
        self._runtime = runtime
        self._clock = clock
        self._changed = changed
        self.health = Health(
            started=want.startup is None, ready=want.readiness is None and want.startup is None
        )

    async def run(self) -> None:
        want = self._want
        if want.startup is not None:
            if not await self._repeat(want.startup, until_success=True):
                return
            self._set(started=True, ready=want.readiness is None)
        async with asyncio.TaskGroup() as group:
            if want.readiness is not None:
                group.create_task(self._watch_readiness(want.readiness))
            if want.liveness is not None:
                group.create_task(self._repeat(want.liveness, until_success=False))

    def _set(
        self, *, started: bool | None = None, ready: bool | None = None, why: str = ""
    ) -> None:
        before = self.health
        self.health = replace(
            before,
            started=before.started if started is None else started,
            ready=before.ready if ready is None else ready,
            unhealthy=why or before.unhealthy,
        )
        if self.health != before:
            self._changed()

    async def _watch_readiness(self, probe: ProbeWant) -> None:
        await self._clock.sleep(probe.initial_delay_s)
        row, last = 0, None
        while True:
            good = not await self._ask(probe)
            row = row + 1 if good == last else 1
            last = good
            if row >= (probe.success_threshold if good else probe.failure_threshold):
                self._set(ready=good)
            await self._clock.sleep(probe.period_s)

    async def _repeat(self, probe: ProbeWant, *, until_success: bool) -> bool:
        """Until it failed too often (False), or, for a startup probe, until it succeeded."""
        await self._clock.sleep(probe.initial_delay_s)
        failures = 0
        while True:
            why = await self._ask(probe)
            if not why and until_success:
                return True
            failures = failures + 1 if why else 0
            if failures >= probe.failure_threshold:
                kind = "startup" if until_success else "liveness"
                self._set(ready=False, why=f"{kind} probe failed: {why}")
                return False
            await self._clock.sleep(probe.period_s)

    async def _ask(self, probe: ProbeWant) -> str:
        """Why it is not well; "" when it is."""
        try:
            if probe.command:
                code = await self._runtime.probe(self._id, probe.command, probe.timeout_s)
                return f"exit code {code}" if code else ""
            async with asyncio.timeout(probe.timeout_s):
                return await _connect(probe)
        except TimeoutError:
            return f"no answer in {probe.timeout_s:g} s"
        except (OSError, ValueError, errors.Failure) as error:
            return str(error)


async def _connect(probe: ProbeWant) -> str:
    context = None
    if probe.scheme == "HTTPS":
        context = ssl.create_default_context()
        # A probe asks whether it answers, not who it is.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(probe.host, probe.port, ssl=context)
    try:
        if not probe.scheme:
            return ""
        headers = {"Host": probe.host, "User-Agent": "kube-probe/1.33", **dict(probe.headers)}
        lines = [f"GET {probe.path or '/'} HTTP/1.1", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        await writer.drain()
        answer = (await reader.read(_ANSWER_BYTES_MAX)).split(b"\r\n", 1)[0].split()
        code = int(answer[1]) if len(answer) > 1 else 0
        return "" if 200 <= code < 400 else f"HTTP status {code}"
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
