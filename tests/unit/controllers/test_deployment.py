from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from arktos_ray.api.calls import Call
from arktos_ray.api.errors import Failure, Forbidden
from arktos_ray.controllers.deployment import plan as planning
from arktos_ray.controllers.deployment.controller import Deployments
from arktos_ray.controllers.deployment.plan import CreateReplicaSet, Scale, bounds, plan
from arktos_ray.controllers.replicaset.controller import ReplicaSets

Object = dict[str, Any]

# ---------------------------------------------------------------------------- plans


class Rollout:
    """A Deployment and its ReplicaSets as numbers: specs, and how many pods serve for each."""

    def __init__(self, replicas: int, surge: int | str, unavailable: int | str) -> None:
        self.number = itertools.count()
        self.deployment: Object = {
            "metadata": {"name": "d", "uid": "d", "namespace": "n", "tenant": "t"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "d"}},
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
                },
                "template": {},
            },
        }
        self.sets: list[Object] = []
        self.serving: dict[str, int] = {}
        self.update()

    def update(self) -> None:
        self.deployment["spec"]["template"] = {
            "metadata": {"labels": {"app": "d"}},
            "spec": {"image": next(self.number)},
        }

    def step(self) -> bool:
        """Carries the plan out, action by action; the bounds must hold after each."""
        before = self.seen()
        actions = plan(self.deployment, self.sets)
        surge, unavailable = bounds(self.deployment)
        replicas = self.deployment["spec"]["replicas"]
        for action in actions:
            match action:
                case CreateReplicaSet(body):
                    body["metadata"]["uid"] = body["metadata"]["name"]
                    body["metadata"]["creationTimestamp"] = f"{len(self.sets):04}"
                    body["status"] = {}
                    self.sets.append(body)
                    self.serving[body["metadata"]["uid"]] = 0
                case Scale(replica_set, size, annotations):
                    replica_set["spec"] = {**replica_set["spec"], "replicas": size}
                    meta = replica_set["metadata"]
                    meta["annotations"] = {**meta["annotations"], **annotations}
                    # Its controller loses pods that serve only when there are no others.
                    uid = meta["uid"]
                    self.serving[uid] = min(self.serving[uid], size)
            assert sum(each["spec"]["replicas"] for each in self.sets) <= replicas + surge
            assert self.seen() >= min(before, replicas - unavailable)
        return bool([a for a in actions if isinstance(a, CreateReplicaSet | Scale)])

    def seen(self) -> int:
        """How many pods are known to serve. A status may be older than a scale-down."""
        return sum(
            min(each["status"].get("availableReplicas", 0), each["spec"]["replicas"])
            for each in self.sets
        )

    def report(self, number: int) -> None:
        """One ReplicaSet's status catches up; the others stay as old as they are."""
        if self.sets:
            each = self.sets[number % len(self.sets)]
            each["status"] = {"availableReplicas": self.serving[each["metadata"]["uid"]]}

    def serve(self, number: int, count: int) -> None:
        if self.sets:
            each = self.sets[number % len(self.sets)]
            uid = each["metadata"]["uid"]
            self.serving[uid] = min(self.serving[uid] + count, each["spec"]["replicas"])


amounts = st.integers(0, 4) | st.integers(0, 100).map(lambda n: f"{n}%")
# Statuses come late. One that is too high (older than a scale-down) must do no harm; one that is
# too low costs a pod that nobody knew to serve, which is why the bound is on what is known.
events = st.lists(
    st.tuples(
        st.sampled_from(["step", "report", "serve", "update"]), st.integers(0, 5), st.integers(1, 9)
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(replicas=st.integers(0, 12), surge=amounts, unavailable=amounts, happening=events)
def test_a_rollout_stays_within_its_bounds_and_ends_with_all_pods_new(
    replicas: int, surge: int | str, unavailable: int | str, happening: list[tuple[str, int, int]]
) -> None:
    rollout = Rollout(replicas, surge, unavailable)
    for what, number, count in happening:
        if what == "step":
            rollout.step()
        elif what == "update":
            rollout.update()
        elif what == "report":
            rollout.report(number)
        else:
            rollout.serve(number, count)
    for _ in range(200):
        for number in range(len(rollout.sets)):
            rollout.serve(number, 99)
            rollout.report(number)
        if not rollout.step():
            break
    else:
        raise AssertionError("the rollout never comes to rest")
    found = planning.generations(rollout.deployment, rollout.sets)
    assert found.new is not None
    assert found.new["spec"]["replicas"] == replicas
    assert all(each["spec"]["replicas"] == 0 for each in found.old)


@given(
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=4),
    before=st.integers(1, 40),
    after=st.integers(0, 40),
    surge=amounts,
)
def test_scaling_in_the_middle_of_a_rollout_keeps_the_total(
    sizes: list[int], before: int, after: int, surge: int | str
) -> None:
    rollout = Rollout(before, surge, 1)
    ceiling = before + bounds(rollout.deployment)[0]
    for number, size in enumerate(sizes):
        rollout.sets.append(
            {
                "metadata": {
                    "name": f"rs-{number}", "uid": f"rs-{number}",
                    "creationTimestamp": f"{number}",
                    "annotations": {
                        planning.DESIRED: str(before), planning.MAXIMUM: str(ceiling),
                    },
                },
                "spec": {"replicas": size, "template": {"spec": {"image": -number}}},
                "status": {},
            }
        )  # fmt: skip
    rollout.deployment["spec"]["replicas"] = after
    rollout.deployment["spec"]["paused"] = True
    if after == before:
        return
    total = after + bounds(rollout.deployment)[0] if after else 0
    final = {each["metadata"]["name"]: each["spec"]["replicas"] for each in rollout.sets}
    for action in plan(rollout.deployment, rollout.sets):
        assert isinstance(action, Scale)
        final[action.replica_set["metadata"]["name"]] = action.replicas
    assert sum(final.values()) == total
    for number, size in enumerate(sizes):
        grown = final[f"rs-{number}"] - size
        assert grown * (total - sum(sizes)) >= 0  # All in one direction.


def test_proportional_scaling_as_documented() -> None:
    # 10 replicas, maxSurge 3, in the middle: 8 old, 5 new. Scaled to 15: 3 for the old, 2 for
    # the new.
    rollout = Rollout(15, 3, 2)
    for name, size in (("old", 8), ("new", 5)):
        rollout.sets.append(
            {
                "metadata": {
                    "name": name, "uid": name, "creationTimestamp": name,
                    "annotations": {planning.DESIRED: "10", planning.MAXIMUM: "13"},
                },
                "spec": {"replicas": size, "template": {"spec": {"image": name}}},
                "status": {},
            }
        )  # fmt: skip
    rollout.deployment["spec"]["template"] = {"spec": {"image": "new"}}
    sizes = {
        action.replica_set["metadata"]["name"]: action.replicas
        for action in plan(rollout.deployment, rollout.sets)
        if isinstance(action, Scale)
    }
    assert sizes == {"old": 11, "new": 7}


def test_the_hash_ignores_its_own_label_and_knows_collisions() -> None:
    plain = {"metadata": {"labels": {"a": "b"}}, "spec": {"x": 1}}
    labelled = {
        "metadata": {"labels": {"a": "b", planning.HASH_LABEL: "z"}, "creationTimestamp": None},
        "spec": {"x": 1},
    }
    assert planning.same_template(plain, labelled)
    assert planning.template_hash(plain, 0) == planning.template_hash(labelled, 0)
    assert planning.template_hash(plain, 0) != planning.template_hash(plain, 1)
    assert not planning.same_template(plain, {**plain, "spec": {"x": 2}})


# ---------------------------------------------------------------------------- stories


def _deployment(world: Any, name: str = "web") -> Object:
    found: Object = world.tp.find("deployments.apps", "acme", "default", name)
    return found


def _condition(world: Any, kind: str) -> Object:
    for each in _deployment(world).get("status", {}).get("conditions", []):
        if each["type"] == kind:
            known: Object = each
            return known
    return {}


def _is_done(world: Any) -> bool:
    """As `kubectl rollout status` decides."""
    found = _deployment(world)
    status, replicas = found.get("status", {}), found["spec"]["replicas"]
    assert _condition(world, "Progressing").get("reason") != "ProgressDeadlineExceeded"
    return bool(
        status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        and status.get("updatedReplicas", 0) >= replicas
        and status.get("replicas", 0) <= status.get("updatedReplicas", 0)
        and status.get("availableReplicas", 0) >= status.get("updatedReplicas", 0)
    )


def _image(world: Any, image: str, **spec: Any) -> None:
    found = _deployment(world)
    template = found["spec"]["template"]
    template = {**template, "spec": {"containers": [{"name": "main", "image": image}]}}
    world.tp.change("deployments.apps", found, spec={**found["spec"], "template": template, **spec})


def _images(world: Any) -> set[str]:
    return {pod["spec"]["containers"][0]["image"] for pod in world.pods()}


async def _begin(world: Any, body: Object) -> None:
    world.tp.put("deployments.apps", body)
    await world.start(Deployments(world.parts()), ReplicaSets(world.parts()))
    await world.live_until(lambda: _is_done(world))


def test_a_rollout_and_its_undo(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        await _begin(world, deployment(4))
        assert _condition(world, "Available")["status"] == "True"
        assert _condition(world, "Progressing")["reason"] == "NewReplicaSetAvailable"
        [first] = world.tp.all("replicasets.apps", "acme")
        assert first["metadata"]["annotations"] == {
            planning.REVISION: "1", planning.DESIRED: "4", planning.MAXIMUM: "5",
        }  # fmt: skip
        digest = first["metadata"]["labels"][planning.HASH_LABEL]
        assert first["metadata"]["name"] == f"web-{digest}"
        assert first["spec"]["selector"]["matchLabels"][planning.HASH_LABEL] == digest

        _image(world, "pause:2")
        seen: list[int] = []

        def done() -> bool:
            seen.append(len(world.pods()))
            return _is_done(world) and _images(world) == {"pause:2"}

        await world.live_until(done)
        assert max(seen) <= 5
        assert _deployment(world)["metadata"]["annotations"][planning.REVISION] == "2"

        # What `kubectl rollout undo` does: it patches the old template in.
        _image(world, "pause:1")
        await world.live_until(lambda: _is_done(world) and _images(world) == {"pause:1"})
        assert len(world.tp.all("replicasets.apps", "acme")) == 2
        first = world.tp.find("replicasets.apps", "acme", "default", first["metadata"]["name"])
        assert first["metadata"]["annotations"][planning.REVISION] == "3"
        assert first["metadata"]["annotations"][planning.REVISION_HISTORY] == "1"
        assert _deployment(world)["metadata"]["annotations"][planning.REVISION] == "3"
        reasons = {event["reason"] for event in world.tp.all("events", "acme")}
        assert {"ScalingReplicaSet", "SuccessfulCreate"} <= reasons

    play(story)


def test_recreate_never_runs_two_versions_together(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        await _begin(world, deployment(3, strategy={"type": "Recreate"}))
        _image(world, "pause:2")

        def done() -> bool:
            images = {pod["spec"]["containers"][0]["image"] for pod in world.pods(active=False)}
            assert len(images) <= 1
            return images == {"pause:2"} and _is_done(world)

        await world.live_until(done)

    play(story)


def test_a_paused_deployment_scales_and_does_not_roll(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        await _begin(world, deployment(2))
        _image(world, "pause:2", paused=True)
        await world.live_until(
            lambda: _condition(world, "Progressing")["reason"] == "DeploymentPaused"
        )
        found = _deployment(world)
        world.tp.change("deployments.apps", found, spec={**found["spec"], "replicas": 5})
        await world.live_until(lambda: len(world.pods()) == 5)
        assert _images(world) == {"pause:1"}
        found = _deployment(world)
        world.tp.change("deployments.apps", found, spec={**found["spec"], "paused": False})
        await world.live_until(lambda: _is_done(world) and _images(world) == {"pause:2"})
        assert _condition(world, "Progressing")["reason"] == "NewReplicaSetAvailable"

    play(story)


def test_history_is_limited(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        await _begin(world, deployment(1, revisionHistoryLimit=1))
        for number in (2, 3, 4):
            _image(world, f"pause:{number}")
            await world.live_until(
                lambda number=number: _is_done(world) and _images(world) == {f"pause:{number}"}
            )
        await world.clock.advance(1)
        images = {
            each["spec"]["template"]["spec"]["containers"][0]["image"]
            for each in world.tp.all("replicasets.apps")
        }
        assert images == {"pause:3", "pause:4"}

    play(story)


def test_a_rollout_that_makes_no_progress_says_so_at_its_deadline(
    play: Any, deployment: Any
) -> None:
    async def story(world: Any) -> None:
        await _begin(world, deployment(2, progressDeadlineSeconds=60))
        _image(world, "broken")
        await world.clock.advance(30)
        assert _condition(world, "Progressing")["status"] == "True"
        await world.clock.advance(40)
        found = _condition(world, "Progressing")
        assert (found["status"], found["reason"]) == ("False", "ProgressDeadlineExceeded")
        # The old pods went on serving all the time.
        assert _condition(world, "Available")["status"] == "True"
        ready = [p for p in world.pods() if p["status"]["phase"] == "Running"]
        assert len(ready) == 2

    play(story)


def test_refused_pods_show_as_replica_failure(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        def refuse(call: Call) -> Failure | None:
            if (call.gvr, call.verb) == ("pods", "create"):
                return Forbidden("exceeded quota")
            return None

        world.tp.refuse = refuse
        world.tp.put("deployments.apps", deployment(2))
        await world.start(Deployments(world.parts()), ReplicaSets(world.parts()))
        await world.clock.advance(2)
        found = _condition(world, "ReplicaFailure")
        assert (found["status"], found["reason"]) == ("True", "FailedCreate")
        assert "exceeded quota" in found["message"]

    play(story)


def test_a_name_that_is_taken_is_a_collision(play: Any, deployment: Any, replica_set: Any) -> None:
    async def story(world: Any) -> None:
        body = deployment(1)
        stranger = replica_set(0, "other")
        digest = planning.template_hash(body["spec"]["template"], 0)
        stranger["metadata"]["name"] = f"web-{digest}"
        world.tp.put("replicasets.apps", stranger)
        await _begin(world, body)
        assert _deployment(world)["status"]["collisionCount"] == 1

    play(story)


def test_a_deleted_replica_set_comes_back(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        await _begin(world, deployment(2))
        [only] = world.tp.all("replicasets.apps")
        world.tp.drop("replicasets.apps", only)
        for pod in world.pods():
            world.tp.drop("pods", pod)
        await world.live_until(
            lambda: _is_done(world) and len(world.tp.all("replicasets.apps")) == 1
            and len(world.pods()) == 2
        )  # fmt: skip

    play(story)


def test_once_done_nothing_is_written_any_more(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        await _begin(world, deployment(3))
        await world.clock.advance(5)
        count = len(world.tp.batches)
        await world.clock.advance(2000)
        assert len(world.tp.batches) == count

    play(story)


def test_pods_that_start_at_once_cost_one_status(play: Any, deployment: Any) -> None:
    """Of the Deployment and of its ReplicaSet: what lay between was never worth a write."""

    async def story(world: Any) -> None:
        world.tp.put("deployments.apps", deployment(1))
        await world.start(Deployments(world.parts()), ReplicaSets(world.parts()))
        await world.clock.advance(0.01)
        world.run_pods()
        await world.clock.advance(1)
        [found] = world.tp.all("deployments.apps")
        assert found["status"]["availableReplicas"] == 1
        assert found["metadata"]["annotations"][planning.REVISION] == "1"
        writes = [
            call.gvr
            for batch in world.tp.batches
            for call in batch
            if call.subresource == "status" and call.verb == "update"
        ]
        assert sorted(writes) == ["deployments.apps", "replicasets.apps"]

    play(story)


def test_a_status_that_somebody_else_wrote_is_put_right(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        await _begin(world, deployment(1))
        await world.live_until(lambda: _is_done(world))
        [found] = world.tp.all("deployments.apps")
        world.tp.change("deployments.apps", found, status={"availableReplicas": 7})
        await world.clock.advance(1)
        [found] = world.tp.all("deployments.apps")
        assert found["status"]["availableReplicas"] == 1

    play(story)


def test_events_of_a_moment_are_written_together(play: Any, deployment: Any) -> None:
    async def story(world: Any) -> None:
        for name in ("one", "two", "three"):
            body = deployment(1)
            body["metadata"]["name"] = name
            world.tp.put("deployments.apps", body)
        await world.start(Deployments(world.parts()))
        await world.clock.advance(1)
        batches = [batch for batch in world.tp.batches if batch[0].gvr == "events"]
        assert [len(batch) for batch in batches] == [3]

    play(story)
