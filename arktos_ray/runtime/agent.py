"""The loop of a host: observe the runtime, plan, carry out, report.

Told which pods are wanted (by the node agent, from the API), it keeps asking the runtime what is
there and closes the gap. It reports statuses; who writes them, and where, is not its concern.
Actions of one pod never overlap with another plan for it; pods do not wait for each other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arktos_ray.api import errors
from arktos_ray.base.clock import Clock
from arktos_ray.base.tasks import Tasks
from arktos_ray.runtime import events
from arktos_ray.runtime.plan import (
    Action,
    CreateSandbox,
    Object,
    Problem,
    RemoveContainer,
    RemoveSandbox,
    StartContainer,
    StopContainer,
    StopSandbox,
    plan,
    problem_after,
    status,
)
from arktos_ray.runtime.port import (
    ContainerWant,
    ImageNeverPulled,
    ImageUnavailable,
    PodRef,
    PodWant,
    Runtime,
    RuntimeInfo,
    WorkloadSeen,
)
from arktos_ray.runtime.probes import Prober

log = logging.getLogger(__name__)

# How often the runtime is asked when nothing is known to have changed. A container that ended is
# noticed half a second later in the mean; asking costs 1 ms for each container.
OBSERVE_PERIOD_S = 1.0

# What became of a pod: its status, or None when nothing of it is left.
Report = Callable[[PodRef, Object | None], None]
# What happened to a pod, for people.
Tell = Callable[[PodRef, events.Happening], None]


class _Pod:
    """One pod that is wanted, or that is here although it is not."""

    __slots__ = (
        "busy", "busy_with", "former", "probers", "problems", "reported", "settled_in", "want",
    )  # fmt: skip

    def __init__(self) -> None:
        self.want: PodWant | None = None
        self.former: Mapping[str, Any] = {}
        self.reported: Object | None = {}
        self.problems: dict[str, Problem] = {}
        # The probes of its running containers, by container id.
        self.probers: dict[str, tuple[Prober, asyncio.Task[None]]] = {}
        self.busy: asyncio.Task[None] | None = None
        # The (deleting, grace) that the actions under way were planned for.
        self.busy_with: tuple[bool, float] = (False, 0.0)
        # The first observation that shows what the last actions did.
        self.settled_in = 0


class Agent:
    """Restart it at any time: what runs goes on, and is found again."""

    def __init__(
        self, runtime: Runtime, report: Report, clock: Clock, tasks: Tasks, host_ip: str,
        tell: Tell = lambda ref, what: None,
    ) -> None:  # fmt: skip
        self._runtime = runtime
        self._report = report
        self._tell = tell
        self._clock = clock
        self._tasks = tasks
        self._host_ip = host_ip
        self._pods: dict[str, _Pod] = {}
        self._wake = asyncio.Event()
        self._observation = 0
        # Set once every wanted pod is known: until then a workload without a pod is not touched.
        self.knows_all = False
        # Why the runtime does not answer; "" while it does.
        self.trouble = "not asked yet"
        self.info: RuntimeInfo | None = None

    def start(self) -> None:
        self._tasks.start(self._run(), "runtime agent")
        self._tasks.start(self._tick(), "runtime agent clock")

    def set_pod(self, want: PodWant, former: Mapping[str, Any]) -> None:
        """This pod is wanted so. `former`: the status that the API holds."""
        pod = self._pods.setdefault(want.ref.uid, _Pod())
        pod.want = want
        pod.former = former
        if pod.reported and _differs(pod.reported, former):
            pod.reported = {}  # Somebody else changed it, or a write of it was lost.
        self._reconsider(pod)

    def drop_pod(self, uid: str) -> None:
        """The pod is gone from the API. What is left of it goes too, without grace."""
        pod = self._pods.get(uid)
        if pod is not None:
            pod.want = None
            self._reconsider(pod)

    def _reconsider(self, pod: _Pod) -> None:
        # A stop with a long grace must not delay one with a short grace.
        if pod.busy is not None and pod.busy_with != _intent(pod.want):
            pod.busy.cancel()
        self._wake.set()

    async def _tick(self) -> None:
        while True:
            self._wake.set()
            await self._clock.sleep(OBSERVE_PERIOD_S)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.look_once()

    async def look_once(self) -> None:
        """One observation, and everything that follows from it at once."""
        self._observation += 1
        try:
            if self.trouble or self.info is None:
                self.info = await self._runtime.info()
            seen = await self._runtime.observe()
        except errors.Failure as failure:
            self.trouble = failure.message
            return
        self.trouble = "" if self.info.ready else self.info.why or "not ready"
        held: dict[str, list[WorkloadSeen]] = {}
        for workload in seen:
            held.setdefault(workload.ref.uid, []).append(workload)
        for uid in held:
            if uid not in self._pods:
                self._pods[uid] = _Pod()
        for uid, pod in list(self._pods.items()):
            if pod.busy is None and pod.settled_in <= self._observation:
                self._look_at(uid, pod, held.get(uid, []))

    def _look_at(self, uid: str, pod: _Pod, seen: Sequence[WorkloadSeen]) -> None:
        want, now = pod.want, self._clock.now()
        self._probe(pod, seen)
        if want is None and not seen:
            del self._pods[uid]
            return
        if want is None and not self.knows_all:
            return
        health = {container_id: p.health for container_id, (p, _) in pod.probers.items()}
        actions = plan(want, seen, now, pod.problems, health)
        if actions:
            pod.busy_with = _intent(want)
            pod.busy = self._tasks.start(self._carry_out(pod, want, actions), f"pod {uid}")
        if want is None:
            return
        if want.deleting and not seen and not actions:
            if pod.reported is not None:
                pod.reported = None
                self._report(want.ref, None)
            return
        news = status(want, seen, pod.former, pod.problems, now, self._host_ip, health)
        if news and news != pod.reported:
            for what in events.of_change(want.ref, pod.former, news):
                self._tell(want.ref, what)
            pod.reported = news
            pod.former = {**pod.former, **news}
            self._report(want.ref, news)

    def _probe(self, pod: _Pod, seen: Sequence[WorkloadSeen]) -> None:
        """Have exactly the probers that the running containers call for."""
        wants = {c.name: c for c in pod.want.containers} if pod.want else {}
        running = {}
        if pod.want is not None and not pod.want.deleting:
            for workload in seen:
                for container in workload.containers:
                    want = wants.get(container.name)
                    if container.state == "running" and want and _has_probes(want):
                        running[container.id] = want
        for container_id in set(pod.probers) - set(running):
            pod.probers.pop(container_id)[1].cancel()
        for container_id, want in running.items():
            if container_id not in pod.probers:
                prober = Prober(container_id, want, self._runtime, self._clock, self._wake.set)
                task = self._tasks.start(prober.run(), f"probes {container_id}")
                pod.probers[container_id] = (prober, task)

    async def _carry_out(self, pod: _Pod, want: PodWant | None, actions: Sequence[Action]) -> None:
        try:
            await asyncio.gather(*[self._do(pod, want, action) for action in actions])
        finally:
            pod.busy = None
            # The observation under way may have begun before this was done.
            pod.settled_in = self._observation + 1
            self._wake.set()

    async def _do(self, pod: _Pod, want: PodWant | None, action: Action) -> None:
        runtime = self._runtime
        ref = want.ref.name if want else "a pod that is gone"
        log.info("%s: %s", ref, action)
        try:
            match action:
                case CreateSandbox(attempt):
                    assert want is not None
                    if attempt:
                        self._tell(want.ref, events.sandbox_changed())
                    await runtime.create_sandbox(want, attempt)
                    pod.problems.pop("", None)
                case StopSandbox(sandbox_id):
                    await runtime.stop_sandbox(sandbox_id)
                case RemoveSandbox(sandbox_id, owner):
                    await runtime.remove_sandbox(sandbox_id, owner)
                case StartContainer(sandbox_id, container, attempt):
                    assert want is not None
                    await self._have_image(want.ref, container)
                    await runtime.start_container(sandbox_id, want, container, attempt)
                    pod.problems.pop(container.name, None)
                    for what in events.started(container.name):
                        self._tell(want.ref, what)
                case StopContainer(container_id, grace_s, why, name, sick):
                    if want is not None:
                        self._tell(want.ref, events.killing(name, why if sick else ""))
                    await runtime.stop_container(container_id, grace_s)
                case RemoveContainer(container_id):
                    await runtime.remove_container(container_id)
        except errors.Unavailable as failure:
            log.info("%s: %s", ref, failure)  # The next observation says what came of it.
        except errors.Failure as failure:
            log.warning("%s: %s: %s", ref, action, failure)
            self._note(pod, action, failure)

    async def _have_image(self, ref: PodRef, container: ContainerWant) -> None:
        name, image = container.name, container.image
        if await self._runtime.find_image(container):
            self._tell(ref, events.present(name, image))
            return
        self._tell(ref, events.pulling(name, image))
        begun = self._clock.monotonic()
        await self._runtime.pull_image(container)
        self._tell(ref, events.pulled(name, image, self._clock.monotonic() - begun))

    def _note(self, pod: _Pod, action: Action, failure: errors.Failure) -> None:
        """Remember why something could not be started, for its status and its back-off."""
        if isinstance(action, CreateSandbox):
            name, reason = "", "CreatePodSandboxError"
        elif isinstance(action, StartContainer):
            name = action.container.name
            if isinstance(failure, ImageNeverPulled):
                reason = "ErrImageNeverPull"
            elif isinstance(failure, ImageUnavailable):
                reason = "ImagePullBackOff" if name in pod.problems else "ErrImagePull"
            else:
                reason = "CreateContainerError"
        else:
            return  # It is tried again at the next observation.
        message = failure.message
        if pod.want is not None:
            if isinstance(action, StartContainer):
                image = action.container.image
                for what in events.start_failed(name, image, reason, message):
                    self._tell(pod.want.ref, what)
                if reason == "ImagePullBackOff":
                    message = f'Back-off pulling image "{image}": ErrImagePull: {message}'
            else:
                self._tell(pod.want.ref, events.sandbox_failed(message))
        pod.problems[name] = problem_after(
            pod.problems.get(name), reason, message, self._clock.now()
        )


def _has_probes(want: ContainerWant) -> bool:
    return bool(want.startup or want.readiness or want.liveness)


def _intent(want: PodWant | None) -> tuple[bool, float]:
    if want is None:
        return True, 0.0
    return want.deleting, want.grace_s if want.deleting else 0.0


def _differs(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether the API holds another phase or another readiness than we reported."""
    return ours.get("phase") != theirs.get("phase") or _ready(ours) != _ready(theirs)


def _ready(pod_status: Mapping[str, Any]) -> str:
    return next(
        (c["status"] for c in pod_status.get("conditions") or () if c["type"] == "Ready"), ""
    )
