"""The host loop, over a runtime in memory and on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from arktos_ray.api import errors
from arktos_ray.base.tasks import Tasks
from arktos_ray.runtime.agent import Agent
from arktos_ray.runtime.events import Happening
from arktos_ray.runtime.fake import FakeHost, FakeRuntime
from arktos_ray.runtime.port import ContainerWant, PodRef, PodWant, ProbeWant
from arktos_ray.testing.fakes import FakeClock


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.host = FakeHost()
        self.reports: dict[str, dict[str, Any] | None] = {}
        self.happenings: list[Happening] = []
        self.boot()

    def boot(self) -> None:
        self.runtime = FakeRuntime(self.clock, self.host)
        self.tasks = Tasks()
        self.agent = Agent(
            self.runtime, self._report, self.clock, self.tasks, "1.2.3.4",
            lambda ref, what: self.happenings.append(what),
        )  # fmt: skip
        self.agent.start()

    async def restart(self) -> None:
        await self.tasks.close()
        self.boot()

    def _report(self, ref: PodRef, status: dict[str, Any] | None) -> None:
        self.reports[ref.uid] = status

    def told(self) -> list[str]:
        return [f"{what.reason}: {what.message}" for what in self.happenings]

    def phase(self, uid: str) -> str:
        report = self.reports.get(uid, {"phase": "unknown"})
        return "gone" if report is None else str(report["phase"])

    def waiting(self, uid: str) -> str:
        report = self.reports.get(uid) or {}
        [container] = report["containerStatuses"]
        return str(container["state"].get("waiting", {}).get("reason", ""))


def pod(uid: str = "u1", script: str = "sleep 1000", **more: Any) -> PodWant:
    main = ContainerWant("main", "image:1", command=("sh", "-c"), args=(script,))
    return PodWant(PodRef(uid, "acme", "default", uid), (main,), **more)


def story(test: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        world = World()
        try:
            await test(world)
        finally:
            await world.tasks.close()

    def named() -> None:
        asyncio.run(run())

    return named


@story
async def test_a_wanted_pod_runs_and_is_reported(world: World) -> None:
    world.agent.set_pod(pod(), {})
    await world.clock.advance(0.1)
    assert world.phase("u1") == "Running"


@story
async def test_a_restart_disturbs_nothing_and_kills_nothing_it_does_not_know(world: World) -> None:
    world.agent.set_pod(pod(), {})
    await world.clock.advance(5)
    before = await world.runtime.observe()
    await world.restart()
    await world.clock.advance(30)  # Its partition is slow to tell what is wanted.
    assert await world.runtime.observe() == before
    world.agent.set_pod(pod(), world.reports["u1"] or {})
    world.agent.knows_all = True
    await world.clock.advance(5)
    assert await world.runtime.observe() == before


@story
async def test_orphans_go_once_all_pods_are_known(world: World) -> None:
    world.agent.set_pod(pod(), {})
    await world.clock.advance(5)
    await world.restart()
    world.agent.knows_all = True
    await world.clock.advance(5)
    assert world.host.sandboxes == {}


@story
async def test_a_deleted_pod_is_reported_gone_when_nothing_is_left(world: World) -> None:
    world.agent.set_pod(pod(), {})
    await world.clock.advance(1)
    world.runtime.delays_s["stop_container"] = 3.0
    world.agent.set_pod(pod(deleting=True), {})
    await world.clock.advance(2)
    assert world.phase("u1") == "Running"
    await world.clock.advance(3)
    assert world.phase("u1") == "gone"
    assert world.host.sandboxes == {}


@story
async def test_a_forced_deletion_does_not_wait_for_the_grace_of_the_first(world: World) -> None:
    world.agent.knows_all = True
    world.agent.set_pod(pod(), {})
    await world.clock.advance(1)
    world.runtime.delays_s["stop_container"] = 1000.0
    world.agent.set_pod(pod(deleting=True), {})
    await world.clock.advance(1)
    world.runtime.delays_s.clear()
    world.agent.drop_pod("u1")
    await world.clock.advance(3)
    assert world.host.sandboxes == {}


@story
async def test_a_slow_pod_holds_up_no_other(world: World) -> None:
    world.runtime.delays_s["create_sandbox"] = 60.0
    world.agent.set_pod(pod("slow"), {})
    await world.clock.advance(1)
    world.runtime.delays_s.clear()
    world.agent.set_pod(pod("quick"), {})
    await world.clock.advance(1)
    assert (world.phase("slow"), world.phase("quick")) == ("Pending", "Running")


@story
async def test_an_image_that_is_absent_is_tried_again_with_back_off(world: World) -> None:
    world.host.images = set()
    world.agent.set_pod(pod(), {})
    await world.clock.advance(2)
    assert world.waiting("u1") == "ErrImagePull"
    await world.clock.advance(10)
    assert world.waiting("u1") == "ImagePullBackOff"
    assert world.runtime.calls.count("pull_image") == 2
    assert world.told() == [
        'Pulling: Pulling image "image:1"',
        'Failed: Failed to pull image "image:1": Container image "image:1" is not in the registry',
        "Failed: Error: ErrImagePull",
        'Pulling: Pulling image "image:1"',
        'Failed: Failed to pull image "image:1": Container image "image:1" is not in the registry',
        "Failed: Error: ErrImagePull",
        'BackOff: Back-off pulling image "image:1"',
        "Failed: Error: ImagePullBackOff",
    ]
    world.host.registry.add("image:1")
    await world.clock.advance(21)
    assert world.phase("u1") == "Running"


@story
async def test_what_happens_is_told_once_and_not_again_by_the_next_agent(world: World) -> None:
    world.agent.set_pod(pod(script="sleep 5; exit 1", grace_s=1.0), {})
    await world.clock.advance(8)
    begun = [
        'Pulled: Container image "image:1" already present on machine',
        "Created: Created container: main",
        "Started: Started container main",
    ]
    assert world.told() == begun * 2
    await world.clock.advance(5)
    back_off = "BackOff: Back-off restarting failed container main in pod u1_default(u1)"
    assert world.told() == [*begun * 2, back_off]
    await world.restart()
    world.agent.set_pod(pod(script="sleep 5; exit 1", grace_s=1.0), world.reports["u1"] or {})
    await world.clock.advance(2)
    assert world.told() == [*begun * 2, back_off]
    await world.clock.advance(9)
    world.agent.set_pod(pod(deleting=True, grace_s=1.0), {})
    await world.clock.advance(2)
    assert world.told()[7:] == [*begun, "Killing: Stopping container main"]


@story
async def test_the_loss_of_the_runtime_is_noticed_and_overcome(world: World) -> None:
    world.agent.set_pod(pod(), {})
    await world.clock.advance(1)
    assert world.agent.trouble == ""
    world.runtime.down = True
    await world.clock.advance(2)
    assert "away" in world.agent.trouble
    assert world.phase("u1") == "Running"  # Not known to be otherwise.
    world.runtime.down = False
    await world.clock.advance(2)
    assert world.agent.trouble == ""


@story
async def test_an_answer_that_was_lost_starts_nothing_twice(world: World) -> None:
    lost = errors.Unavailable("no answer")
    world.runtime.failures = {"create_sandbox": [lost], "start_container": [lost]}
    world.agent.set_pod(pod(), {})
    await world.clock.advance(5)
    assert world.phase("u1") == "Running"
    [workload] = await world.runtime.observe()
    assert len(workload.containers) == 1


@story
async def test_after_a_power_cut_pods_run_again_and_count_it(world: World) -> None:
    world.agent.set_pod(pod(), {})
    await world.clock.advance(1)
    world.runtime.reboot()
    await world.clock.advance(5)
    report = world.reports["u1"]
    assert report is not None
    [container] = report["containerStatuses"]
    assert container["ready"]
    assert container["restartCount"] == 1


def probed(**probes: Any) -> PodWant:
    want = pod()
    return replace(want, containers=(replace(want.containers[0], **probes),))


ASK = ProbeWant(command=("ask",), period_s=2.0, failure_threshold=2)


def readiness(world: World) -> tuple[bool, bool, int]:
    report = world.reports["u1"]
    assert report is not None
    [container] = report["containerStatuses"]
    ready = next(c["status"] for c in report["conditions"] if c["type"] == "Ready")
    assert container["ready"] == (ready == "True")
    return container["ready"], container["started"], container["restartCount"]


@story
async def test_readiness_follows_its_probe_and_restarts_nothing(world: World) -> None:
    world.runtime.probe_codes[("ask",)] = 1
    world.agent.set_pod(probed(readiness=ASK), {})
    await world.clock.advance(5)
    assert readiness(world) == (False, True, 0)
    world.runtime.probe_codes.clear()
    await world.clock.advance(3)
    assert readiness(world) == (True, True, 0)
    world.runtime.probe_codes[("ask",)] = 1
    await world.clock.advance(5)
    assert readiness(world) == (False, True, 0)


@story
async def test_a_container_that_fails_its_liveness_probe_is_restarted(world: World) -> None:
    world.agent.set_pod(probed(liveness=ASK), {})
    await world.clock.advance(5)
    assert readiness(world) == (True, True, 0)
    world.runtime.probe_codes[("ask",)] = 1
    await world.clock.advance(4)  # Asked at 6 s and at 8 s: twice is too often.
    world.runtime.probe_codes.clear()
    await world.clock.advance(5)
    assert readiness(world) == (True, True, 1)


@story
async def test_other_probes_wait_for_the_startup_probe(world: World) -> None:
    world.runtime.probe_codes[("ask",)] = 1
    live = ProbeWant(command=("live",), period_s=1.0, failure_threshold=1)
    world.runtime.probe_codes[("live",)] = 1
    slow = replace(ASK, failure_threshold=10)
    world.agent.set_pod(probed(startup=slow, liveness=live), {})
    await world.clock.advance(10)
    assert readiness(world) == (False, False, 0)
    world.runtime.probe_codes.clear()
    await world.clock.advance(5)
    assert readiness(world) == (True, True, 0)


@story
async def test_jobs_end_and_stay_ended(world: World) -> None:
    world.agent.set_pod(pod(script="sleep 3; exit 2", restart_policy="Never"), {})
    await world.clock.advance(5)
    assert world.phase("u1") == "Failed"
    report = world.reports["u1"]
    assert report is not None
    finished = replace(pod(restart_policy="Never"), finished=True)
    await world.restart()
    world.agent.set_pod(finished, report)
    await world.clock.advance(60)
    assert world.runtime.calls.count("start_container") == 0


@story
async def test_a_status_that_somebody_changed_is_set_right(world: World) -> None:
    world.agent.set_pod(pod(), {})
    await world.clock.advance(1)
    report = world.reports.pop("u1")
    assert report is not None
    await world.clock.advance(5)
    assert "u1" not in world.reports  # Nothing new, nothing said.
    conditions = [{**c, "status": "False"} for c in report["conditions"]]
    world.agent.set_pod(pod(), {**report, "conditions": conditions})
    await world.clock.advance(2)
    assert world.phase("u1") == "Running"
