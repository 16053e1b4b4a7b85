"""What every Runtime must do, real or fake: subclass RuntimeContract and give it a runtime.

The containers of these tests run only what the fake understands: `sh -c` with echo, sleep, exit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from arktos_ray.api import errors
from arktos_ray.base.clock import Clock
from arktos_ray.runtime.port import (
    ContainerSeen,
    ContainerWant,
    ImageNeverPulled,
    ImageUnavailable,
    LogOptions,
    PodRef,
    PodWant,
    Runtime,
    WorkloadSeen,
)

_WAIT_S = 20.0


class RuntimeContract:
    """The subclass sets `image` to one that is present, and overrides the first two methods."""

    image = ""
    absent_image = "docker.io/library/not-here:1"
    _uids = 0

    def runtime(self) -> Runtime:
        """A new driver over the same host; called inside the loop, several times in a test."""
        raise NotImplementedError

    def run(self, story: Callable[[Runtime, Clock], Awaitable[None]]) -> None:
        """Run it to its end, with a runtime and the clock that the runtime goes by."""
        raise NotImplementedError

    # Tools.

    def pod(self, script: str, **more: Any) -> PodWant:
        RuntimeContract._uids += 1
        uid = f"{type(self).__name__.lower()}-{RuntimeContract._uids}"
        main = ContainerWant("main", self.image, command=("sh", "-c"), args=(script,), **more)
        return PodWant(PodRef(uid, "acme", "default", uid), (main,))

    async def start(self, runtime: Runtime, pod: PodWant) -> tuple[str, str]:
        assert await runtime.find_image(pod.containers[0])
        sandbox = await runtime.create_sandbox(pod, 0)
        return sandbox, await runtime.start_container(sandbox, pod, pod.containers[0], 0)

    async def seen(self, runtime: Runtime, pod: PodWant) -> WorkloadSeen | None:
        found = [w for w in await runtime.observe() if w.ref.uid == pod.ref.uid]
        assert len(found) <= 1
        return found[0] if found else None

    async def wait_until_ended(self, runtime: Runtime, clock: Clock, pod: PodWant) -> ContainerSeen:
        deadline = clock.monotonic() + _WAIT_S
        while clock.monotonic() < deadline:
            workload = await self.seen(runtime, pod)
            assert workload is not None
            if workload.containers[-1].state == "exited":
                return workload.containers[-1]
            await clock.sleep(0.05)
        raise AssertionError("it did not end")

    async def logs(
        self, runtime: Runtime, pod: PodWant, options: LogOptions | None = None
    ) -> bytes:
        chunks = runtime.read_logs(pod.ref, "main", options or LogOptions())
        return b"".join([chunk async for chunk in chunks])

    # Promises.

    def test_it_says_what_it_is_and_that_it_is_ready(self) -> None:
        async def story(runtime: Runtime, clock: Clock) -> None:
            info = await runtime.info()
            assert info.ready
            assert info.name
            assert info.version

        self.run(story)

    def test_a_started_container_is_seen_running_and_whose_it_is(self) -> None:
        async def story(runtime: Runtime, clock: Clock) -> None:
            pod = self.pod("sleep 60")
            sandbox, container = await self.start(runtime, pod)
            workload = await self.seen(runtime, pod)
            assert workload is not None
            assert (workload.id, workload.ref, workload.ready) == (sandbox, pod.ref, True)
            [held] = workload.containers
            assert (held.id, held.name, held.attempt) == (container, "main", 0)
            assert held.state == "running"
            assert held.started_at > 0
            assert held.image_id
            assert [u.container for u in await runtime.usage() if u.ref == pod.ref] == ["main"]
            await runtime.remove_sandbox(sandbox, pod.ref)

        self.run(story)

    def test_a_new_driver_finds_what_the_old_one_started(self) -> None:
        async def story(runtime: Runtime, clock: Clock) -> None:
            pod = self.pod("sleep 60")
            sandbox, _ = await self.start(runtime, pod)
            before = await self.seen(runtime, pod)
            await runtime.close()
            another = self.runtime()
            assert await self.seen(another, pod) == before
            await another.remove_sandbox(sandbox, pod.ref)
            await another.close()

        self.run(story)

    def test_starting_twice_starts_once(self) -> None:
        async def story(runtime: Runtime, clock: Clock) -> None:
            pod = self.pod("sleep 60")
            first = await self.start(runtime, pod)
            assert await self.start(runtime, pod) == first
            workload = await self.seen(runtime, pod)
            assert workload is not None
            assert len(workload.containers) == 1
            await runtime.remove_sandbox(first[0], pod.ref)

        self.run(story)

    def test_exit_codes_and_times_are_kept(self) -> None:
        async def story(runtime: Runtime, clock: Clock) -> None:
            pod = self.pod("exit 7")
            sandbox, _ = await self.start(runtime, pod)
            ended = await self.wait_until_ended(runtime, clock, pod)
            assert ended.exit_code == 7
            assert ended.reason == "Error"
            assert ended.finished_at >= ended.started_at > 0
            await runtime.remove_sandbox(sandbox, pod.ref)

        self.run(story)

    def test_a_stopped_container_ends_and_can_be_started_as_a_new_attempt(self) -> None:
        async def story(runtime: Runtime, clock: Clock) -> None:
            pod = self.pod("echo one; sleep 60")
            sandbox, container = await self.start(runtime, pod)
            await runtime.stop_container(container, 0)
            await runtime.stop_container(container, 0)
            ended = await self.wait_until_ended(runtime, clock, pod)
            assert ended.exit_code != 0
            second = replace(pod.containers[0], args=("echo two; sleep 60",))
            await runtime.start_container(sandbox, pod, second, 1)
            workload = await self.seen(runtime, pod)
            assert workload is not None
            assert [(c.attempt, c.state) for c in workload.containers] == [
                (0, "exited"),
                (1, "running"),
            ]
            await clock.sleep(0.2)
            assert await self.logs(runtime, pod) == b"two\n"
            assert await self.logs(runtime, pod, LogOptions(previous=True)) == b"one\n"
            await runtime.remove_container(container)
            await runtime.remove_container(container)
            workload = await self.seen(runtime, pod)
            assert workload is not None
            assert [c.attempt for c in workload.containers] == [1]
            await runtime.remove_sandbox(sandbox, pod.ref)

        self.run(story)

    def test_a_removed_sandbox_leaves_nothing(self) -> None:
        async def story(runtime: Runtime, clock: Clock) -> None:
            pod = self.pod("echo here; sleep 60")
            sandbox, _ = await self.start(runtime, pod)
            await runtime.remove_sandbox(sandbox, pod.ref)
            await runtime.remove_sandbox(sandbox, pod.ref)
            assert await self.seen(runtime, pod) is None
            with pytest.raises(errors.NotFound):
                await self.logs(runtime, pod)

        self.run(story)

    def test_a_stopped_sandbox_keeps_what_can_be_read(self) -> None:
        async def story(runtime: Runtime, clock: Clock) -> None:
            pod = self.pod("echo last words; exit 0")
            sandbox, _ = await self.start(runtime, pod)
            await self.wait_until_ended(runtime, clock, pod)
            await runtime.stop_sandbox(sandbox)
            workload = await self.seen(runtime, pod)
            assert workload is not None
            assert not workload.ready
            assert workload.containers[0].exit_code == 0
            assert await self.logs(runtime, pod) == b"last words\n"
            await runtime.remove_sandbox(sandbox, pod.ref)

        self.run(story)

    def test_logs_can_be_cut_to_their_tail_and_stamped(self) -> None:
        async def story(runtime: Runtime, clock: Clock) -> None:
            pod = self.pod("echo a; echo b; echo $WHO; exit 0", env=(("WHO", "acme"),))
            sandbox, _ = await self.start(runtime, pod)
            await self.wait_until_ended(runtime, clock, pod)
            await clock.sleep(0.1)
            assert await self.logs(runtime, pod) == b"a\nb\nacme\n"
            assert await self.logs(runtime, pod, LogOptions(tail_lines=2)) == b"b\nacme\n"
            assert await self.logs(runtime, pod, LogOptions(tail_lines=0)) == b""
            stamped = await self.logs(runtime, pod, LogOptions(timestamps=True, tail_lines=1))
            stamp, text = stamped.split(b" ", 1)
            assert text == b"acme\n"
            assert stamp.startswith(b"20")
            later = LogOptions(since=clock.now() + 60)
            assert await self.logs(runtime, pod, later) == b""
            await runtime.remove_sandbox(sandbox, pod.ref)

        self.run(story)

    def test_following_ends_when_the_container_does(self) -> None:
        async def story(runtime: Runtime, clock: Clock) -> None:
            pod = self.pod("echo early; sleep 0.5; echo late; exit 0")
            sandbox, _ = await self.start(runtime, pod)
            assert await self.logs(runtime, pod, LogOptions(follow=True)) == b"early\nlate\n"
            await runtime.remove_sandbox(sandbox, pod.ref)

        self.run(story)

    def test_absent_images_are_refused_as_their_policy_says(self) -> None:
        async def story(runtime: Runtime, clock: Clock) -> None:
            async def have(want: ContainerWant) -> str:
                return await runtime.find_image(want) or await runtime.pull_image(want)

            want = ContainerWant("main", self.absent_image, pull_policy="Never")
            with pytest.raises(ImageNeverPulled):
                await have(want)
            with pytest.raises(ImageUnavailable):
                await have(replace(want, pull_policy="IfNotPresent"))
            present = ContainerWant("main", self.image, pull_policy="Never")
            assert await have(present)

        self.run(story)

    def test_many_pods_at_once_stay_apart(self) -> None:
        async def story(runtime: Runtime, clock: Clock) -> None:
            pods = [self.pod(f"echo {i}; exit {i}") for i in range(4)]
            started = await asyncio.gather(*[self.start(runtime, pod) for pod in pods])
            for i, pod in enumerate(pods):
                ended = await self.wait_until_ended(runtime, clock, pod)
                assert ended.exit_code == i
                assert await self.logs(runtime, pod) == f"{i}\n".encode()
            for pod, (sandbox, _) in zip(pods, started, strict=True):
                await runtime.remove_sandbox(sandbox, pod.ref)

        self.run(story)
