"""What users of simulated nodes would notice, on virtual time and a partition of a few lines."""

from __future__ import annotations

import asyncio
import heapq
import ipaddress
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import orjson
import pytest

from arktos_ray.actors.simulated_nodes import SimulatedNodes, fleet
from arktos_ray.api import errors
from arktos_ray.api.calls import ADDED, DELETED, MODIFIED, Call, Reply, User, WatchEvent
from arktos_ray.api.names import Key
from arktos_ray.base.ids import Ids
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client

T0 = 1_800_000_000.0


class VirtualClock:
    """Time passes when `advance` says so, and only then."""

    def __init__(self) -> None:
        self._time = T0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    def now(self) -> float:
        return self._time

    def monotonic(self) -> float:
        return self._time - T0 + 1_000

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._time + seconds, next(self._count), future))
        await future

    async def advance(self, seconds: float) -> None:
        end = self._time + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self._time = max(self._time, due)
            if not future.done():
                future.set_result(None)
                await _settle()
        self._time = end


async def _settle() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


def merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


class Partition:
    """Objects as a partition keeps them, as far as a node can tell."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[Key, dict[str, Any]]] = {}
        self.calls: list[Call] = []
        self.renewals: list[tuple[float, list[str]]] = []
        self.down = False
        self.expire_watches = False
        self._revision = 100
        self._events: list[WatchEvent] = []
        self._changed = asyncio.Event()

    def table(self, gvr: str) -> dict[Key, dict[str, Any]]:
        return self.objects.setdefault(gvr, {})

    def _publish(self, kind: str, gvr: str, key: Key, item: dict[str, Any]) -> None:
        self._revision += 1
        item["metadata"]["resourceVersion"] = str(self._revision)
        if gvr == "pods":
            body = orjson.dumps(item)
            self._events.append(WatchEvent(kind, self._revision, key.path(), body))
            self._changed.set()

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        if self.down:
            raise errors.Unavailable("the partition is away")
        self.calls += calls
        return [self._answer(call) for call in calls]

    async def request(self, method: str, payload: Any) -> Any:
        if self.down:
            raise errors.Unavailable("the partition is away")
        assert method == "renew"
        names, at = payload
        self.renewals.append((at, names))
        leases = self.table("leases.coordination.k8s.io")
        return [n for n in names if Key("system", "kube-node-lease", n) not in leases]

    def _answer(self, call: Call) -> Reply:
        try:
            return Reply(200, orjson.dumps(getattr(self, "_" + call.verb)(call)))
        except errors.Failure as failure:
            return Reply(failure.code, failure.encode())

    def _find(self, call: Call) -> tuple[Key, dict[str, Any]]:
        key = Key(call.tenant, call.namespace, call.name)
        item = self.table(call.gvr).get(key)
        if item is None:
            raise errors.NotFound(f"{call.gvr} {call.name} not found")
        return key, item

    def _get(self, call: Call) -> dict[str, Any]:
        item: dict[str, Any] = self._find(call)[1]
        return item

    def _list(self, call: Call) -> dict[str, Any]:
        items = [item for item in self.table(call.gvr).values() if item["spec"].get("nodeName")]
        start = int(call.options.get("continue", 0))
        end = start + 3  # Small pages, so that the tests see several.
        metadata = {"resourceVersion": str(self._revision)}
        if end < len(items):
            metadata["continue"] = str(end)
        return {"metadata": metadata, "items": items[start:end]}

    def _create(self, call: Call) -> dict[str, Any]:
        item: dict[str, Any] = orjson.loads(call.body)
        key = Key(call.tenant, call.namespace, item["metadata"]["name"])
        if key in self.table(call.gvr):
            raise errors.AlreadyExists(f"{key.name} is there")
        item["metadata"].setdefault("uid", f"uid-{key.name}")
        self.table(call.gvr)[key] = item
        self._publish(ADDED, call.gvr, key, item)
        return item

    def _patch(self, call: Call) -> dict[str, Any]:
        key, item = self._find(call)
        patch = orjson.loads(call.body)
        if patch.get("metadata", {}).get("uid", item["metadata"]["uid"]) != item["metadata"]["uid"]:
            raise errors.Conflict("another uid")
        new: dict[str, Any] = merged(item, patch)
        self.table(call.gvr)[key] = new
        self._publish(MODIFIED, call.gvr, key, new)
        return new

    def _delete(self, call: Call) -> dict[str, Any]:
        key, item = self._find(call)
        options = orjson.loads(call.body)
        if options.get("preconditions", {}).get("uid", "") not in ("", item["metadata"]["uid"]):
            raise errors.Conflict("another uid")
        if options["gracePeriodSeconds"]:
            item["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:30Z"
            item["metadata"]["deletionGracePeriodSeconds"] = options["gracePeriodSeconds"]
            self._publish(MODIFIED, call.gvr, key, item)
        else:
            del self.table(call.gvr)[key]
            self._publish(DELETED, call.gvr, key, item)
        return item

    async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        seen = int(call.options["resourceVersion"])
        while True:
            if self.down:
                raise errors.Unavailable("the partition is away")
            if self.expire_watches:
                self.expire_watches = False
                raise errors.Expired("too old")
            self._changed.clear()
            batch = [event for event in self._events if event.revision > seen]
            if batch:
                seen = batch[-1].revision
                yield batch
            else:
                await self._changed.wait()

    def wake_watchers(self) -> None:
        self._changed.set()


class World:
    def __init__(self, mode: Any = "kubemark", nodes: int = 3) -> None:
        self.clock = VirtualClock()
        self.mode = mode
        self.names = fleet("hollow", nodes, ["rp-1"])
        self.rp, self.tp, self.other_tp = Partition(), Partition(), Partition()
        self.client = Client(self.tp, User("test"))
        self.fleet = self.made()

    def made(self) -> SimulatedNodes:
        user = User("system:nodes", trusted=True)
        return SimulatedNodes(
            "sim-1",
            self.names,
            {"rp-1": Client(self.rp, user)},
            {"tp-1": Client(self.tp, user), "tp-2": Client(self.other_tp, user)},
            self.mode,
            self.clock,
            Ids(1),
            Tasks(),
        )

    async def start(self) -> None:
        await self.fleet.start()
        await self.clock.advance(0.5)

    async def restart(self) -> None:
        await self.fleet.close()
        self.fleet = self.made()
        await self.start()

    async def bind(self, name: str, node: str = "hollow-0", **more: Any) -> Key:
        spec = {
            "nodeName": node,
            "restartPolicy": "Always",
            "containers": [{"name": "main", "image": 'registry/"odd":1'}],
            **more.get("spec", {}),
        }
        status = {
            "phase": "Pending",
            "qosClass": "BestEffort",
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "True",
                    "lastTransitionTime": "2027-01-01T00:00:00Z",
                }
            ],
        }
        metadata = {"name": name, "namespace": "default", **more.get("metadata", {})}
        metadata["tenant"] = "acme"
        pod = {"kind": "Pod", "metadata": metadata, "spec": spec, "status": status}
        await self.client.create("pods", "acme", "default", pod)
        return Key("acme", "default", name)

    def pod(self, key: Key) -> dict[str, Any] | None:
        return self.tp.table("pods").get(key)

    def phase(self, key: Key) -> str:
        pod = self.pod(key)
        return pod["status"]["phase"] if pod else "gone"

    def renewals(self) -> list[str]:
        return [name for _, names in self.rp.renewals for name in names]


def story(mode: str = "kubemark", nodes: int = 3) -> Callable[[Any], Callable[[], None]]:
    """Run a test with a world of its own, in a loop of its own."""

    def wrap(test: Callable[[World], Awaitable[None]]) -> Callable[[], None]:
        async def run() -> None:
            world = World(mode, nodes)
            try:
                await test(world)
            finally:
                await world.fleet.close()

        def named() -> None:
            asyncio.run(run())

        named.__doc__ = test.__doc__
        return named

    return wrap


@story()
async def test_nodes_register_ready_and_say_that_they_are_simulated(world: World) -> None:
    await world.start()
    nodes = world.rp.table("nodes")
    assert sorted(key.name for key in nodes) == ["hollow-0", "hollow-1", "hollow-2"]
    node = nodes[Key("", "", "hollow-1")]
    assert node["metadata"]["labels"]["arktos.io/simulated"] == "true"
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "hollow-1"
    assert node["spec"]["providerID"] == "simulated://hollow-1"
    assert node["status"]["capacity"] | {"ephemeral-storage": ""} == {
        "cpu": "1",
        "memory": "4026531840",
        "pods": "110",
        "ephemeral-storage": "",
    }
    ready = {c["type"]: c["status"] for c in node["status"]["conditions"]}
    assert ready["Ready"] == "True"
    zones = {n["metadata"]["labels"]["topology.kubernetes.io/zone"] for n in nodes.values()}
    assert len(zones) == 3
    assert world.fleet.stats()["registered"] == 3
    leases = world.rp.table("leases.coordination.k8s.io")
    assert Key("system", "kube-node-lease", "hollow-0") in leases
    assert all(lease["spec"]["leaseDurationSeconds"] == 40 for lease in leases.values())


@story(nodes=50)
async def test_every_lease_is_renewed_every_ten_seconds_and_never_all_at_once(world: World) -> None:
    await world.start()
    await world.clock.advance(1)
    for _ in range(3):
        world.rp.renewals.clear()
        for _ in range(10):
            before = len(world.renewals())
            await world.clock.advance(1)
            assert len(world.renewals()) - before == 5
        assert len(set(world.renewals())) == 50


@story()
async def test_node_status_is_written_every_five_minutes(world: World) -> None:
    await world.start()
    world.rp.calls.clear()
    await world.clock.advance(301)
    written = [c.name for c in world.rp.calls if c.gvr == "nodes"]
    assert sorted(written) == ["hollow-0", "hollow-1", "hollow-2"]


@story()
async def test_a_deleted_lease_comes_back(world: World) -> None:
    await world.start()
    world.rp.table("leases.coordination.k8s.io").clear()
    await world.clock.advance(11)
    assert len(world.rp.table("leases.coordination.k8s.io")) == 3


@story()
async def test_nodes_that_are_there_already_are_adopted(world: World) -> None:
    await world.start()
    await world.restart()
    assert world.fleet.stats()["registered"] == 3
    assert len(world.rp.table("nodes")) == 3


@story()
async def test_registering_waits_for_its_partition(world: World) -> None:
    world.rp.down = True
    await world.start()
    assert world.fleet.stats()["registered"] == 0
    world.rp.down = False
    await world.clock.advance(10)
    await world.fleet.wait_until_registered()
    assert len(world.rp.table("nodes")) == 3


@story()
async def test_a_bound_pod_runs_after_the_delays_of_a_hollow_node(world: World) -> None:
    await world.start()
    key = await world.bind("a")
    await world.clock.advance(0.2)
    assert world.phase(key) == "Pending"
    await world.clock.advance(2.5)
    pod = world.pod(key)
    assert pod is not None
    status = pod["status"]
    assert status["phase"] == "Running"
    assert status["qosClass"] == "BestEffort"
    assert ipaddress.ip_address(status["podIP"]) in ipaddress.ip_network("10.0.0.0/8")
    assert status["podIPs"] == [{"ip": status["podIP"]}]
    assert {c["type"] for c in status["conditions"]} == {
        "PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled",
    }  # fmt: skip
    assert all(c["status"] == "True" for c in status["conditions"])
    kept = [c for c in status["conditions"] if c["type"] == "PodScheduled"]
    assert kept[0]["lastTransitionTime"] == "2027-01-01T00:00:00Z"
    [container] = status["containerStatuses"]
    assert container["name"] == "main"
    assert container["image"] == 'registry/"odd":1'
    assert container["ready"]
    assert container["started"]
    assert container["restartCount"] == 0
    assert container["containerID"].startswith("simulated://")
    assert container["state"]["running"]["startedAt"] >= status["startTime"]


@story("instant")
async def test_an_instant_pod_runs_at_once(world: World) -> None:
    await world.start()
    key = await world.bind("a")
    await world.clock.advance(0)
    assert world.phase(key) == "Running"


@story("instant")
async def test_pods_bound_elsewhere_are_left_alone(world: World) -> None:
    await world.start()
    key = await world.bind("a", "another-node", metadata={"labels": {"nodeName": "hollow-0"}})
    await world.clock.advance(5)
    assert world.phase(key) == "Pending"
    assert world.fleet.stats()["pods"] == 0


@story("instant")
async def test_addresses_are_unique_and_used_again(world: World) -> None:
    await world.start()
    keys = [await world.bind(f"p{i}", f"hollow-{i % 3}") for i in range(60)]
    await world.clock.advance(1)
    addresses = {pod["status"]["podIP"] for pod in world.tp.table("pods").values()}
    assert len(addresses) == 60
    for key in keys:
        await world.client.delete("pods", key, gracePeriodSeconds=1)
    await world.clock.advance(2)
    assert not world.tp.table("pods")
    again = await world.bind("again")
    await world.clock.advance(1)
    pod = world.pod(again)
    assert pod is not None
    assert pod["status"]["podIP"] in addresses


@story("instant")
async def test_a_pod_in_the_network_of_its_host_has_its_address(world: World) -> None:
    await world.start()
    key = await world.bind("a", spec={"hostNetwork": True})
    await world.clock.advance(1)
    pod = world.pod(key)
    assert pod is not None
    assert pod["status"]["podIP"] == pod["status"]["hostIP"]


@story()
async def test_a_deleted_pod_stops_and_goes_away(world: World) -> None:
    await world.start()
    key = await world.bind("a")
    await world.clock.advance(3)
    await world.client.delete("pods", key, gracePeriodSeconds=30)
    await world.clock.advance(0.02)
    assert world.phase(key) == "Running"
    await world.clock.advance(1)
    assert world.phase(key) == "gone"
    assert world.fleet.stats()["pods"] == 0


@story()
async def test_a_pod_deleted_while_it_starts_never_runs(world: World) -> None:
    await world.start()
    key = await world.bind("a")
    await world.clock.advance(0.05)
    await world.client.delete("pods", key, gracePeriodSeconds=30)
    await world.clock.advance(5)
    assert world.phase(key) == "gone"
    assert world.fleet.stats()["started"] == 0


@story("instant")
async def test_a_pod_made_again_under_the_same_name_is_another_pod(world: World) -> None:
    await world.start()
    key = await world.bind("a", metadata={"uid": "first"})
    await world.client.delete("pods", key, gracePeriodSeconds=0)
    await world.bind("a", metadata={"uid": "second"})
    await world.clock.advance(1)
    pod = world.pod(key)
    assert pod is not None
    assert pod["status"]["phase"] == "Running"
    assert "second" in pod["status"]["containerStatuses"][0]["containerID"]


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [
        ("Never", "0", "Succeeded"),
        ("Never", "3", "Failed"),
        ("OnFailure", "0", "Succeeded"),
        ("OnFailure", "1", "Running"),
        ("Always", "0", "Running"),
    ],
)
def test_containers_that_end_follow_the_restart_policy(policy: str, code: str, phase: str) -> None:
    @story("instant")
    async def run(world: World) -> None:
        await world.start()
        notes = {"arktos.io/simulated-run-seconds": "5", "arktos.io/simulated-exit-code": code}
        key = await world.bind(
            "job", metadata={"annotations": notes}, spec={"restartPolicy": policy}
        )
        await world.clock.advance(4)
        assert world.phase(key) == "Running"
        await world.clock.advance(2)
        assert world.phase(key) == phase
        pod = world.pod(key)
        assert pod is not None
        [container] = pod["status"]["containerStatuses"]
        assert container["ready"] is False
        if phase == "Running":
            assert container["state"] == {"waiting": {"reason": "CrashLoopBackOff"}}
            assert container["restartCount"] == 1
            await world.clock.advance(10)
            pod = world.pod(key)
            assert pod is not None
            [container] = pod["status"]["containerStatuses"]
            assert container["ready"] is True
            ended = container["lastState"]["terminated"]
            assert ended["startedAt"] < ended["finishedAt"]
            assert ended["finishedAt"] < container["state"]["running"]["startedAt"]
        else:
            ended = container["state"]["terminated"]
            assert ended["exitCode"] == int(code)
            assert ended["startedAt"] < ended["finishedAt"]

    run()


@story()
async def test_a_restart_starts_nothing_twice_and_catches_up(world: World) -> None:
    await world.start()
    old = [await world.bind(f"old-{i}") for i in range(8)]
    await world.clock.advance(3)
    before = {key: world.pod(key) for key in old}
    await world.fleet.close()
    late = await world.bind("late")
    await world.client.delete("pods", old[0], gracePeriodSeconds=30)
    world.fleet = world.made()
    await world.start()
    await world.clock.advance(3)
    assert world.phase(late) == "Running"
    assert world.phase(old[0]) == "gone"
    assert all(world.pod(key) == before[key] for key in old[1:])
    addresses = [pod["status"]["podIP"] for pod in world.tp.table("pods").values()]
    assert len(set(addresses)) == len(addresses)


@story("instant")
async def test_an_expired_watch_lists_again(world: World) -> None:
    await world.start()
    key = await world.bind("a")
    await world.clock.advance(1)
    world.tp.expire_watches = True
    gone = world.tp.table("pods").pop(key)
    world.tp.wake_watchers()
    late = await world.bind("b")
    await world.clock.advance(5)
    assert gone["status"]["phase"] == "Running"
    assert world.phase(late) == "Running"
    assert world.fleet.stats()["pods"] == 1
    assert world.fleet.stats()["relists"] == 3


@story("instant")
async def test_statuses_survive_a_partition_that_is_away(world: World) -> None:
    await world.start()
    world.fleet.fail(["hollow-0"])
    key = await world.bind("a")
    await world.clock.advance(1)
    world.tp.down = True
    await world.fleet.recover(["hollow-0"])
    await world.clock.advance(3)
    assert world.phase(key) == "Pending"
    world.tp.down = False
    await world.clock.advance(10)
    assert world.phase(key) == "Running"


@story("instant")
async def test_pods_of_a_node_that_is_back_do_not_wait_for_its_resource_partition(
    world: World,
) -> None:
    await world.start()
    world.fleet.fail(["hollow-0"])
    key = await world.bind("a")
    await world.clock.advance(1)
    world.rp.down = True
    await world.fleet.recover(["hollow-0"])
    await world.clock.advance(3)
    assert world.phase(key) == "Running"


@story()
async def test_a_failed_node_does_nothing_until_it_recovers(world: World) -> None:
    await world.start()
    running, doomed = await world.bind("running"), await world.bind("doomed")
    await world.clock.advance(3)
    assert await world.fleet.request("fail", ["hollow-0", "unknown"]) == 1
    late = await world.bind("late")
    await world.client.delete("pods", doomed, gracePeriodSeconds=30)
    world.rp.calls.clear()
    world.rp.renewals.clear()
    # What a node controller does about a lost node.
    lost = [{"type": "Ready", "status": "False"}]
    await world.client.patch("pods", running, {"status": {"conditions": lost}}, "status")
    await world.clock.advance(60)
    assert "hollow-0" not in world.renewals()
    assert "hollow-1" in world.renewals()
    assert (world.phase(late), world.phase(doomed)) == ("Pending", "Running")

    assert await world.fleet.request("recover", ["hollow-0"]) == 1
    assert "hollow-0" in world.renewals()
    await world.clock.advance(3)
    assert (world.phase(late), world.phase(doomed)) == ("Running", "gone")
    pod = world.pod(running)
    assert pod is not None
    assert len(pod["status"]["conditions"]) == 5


@story("instant")
async def test_statuses_go_out_in_batches(world: World) -> None:
    await world.start()
    world.tp.calls.clear()
    for i in range(500):
        await world.bind(f"p{i}", f"hollow-{i % 3}")
    await world.clock.advance(1)
    assert world.fleet.stats()["running"] == 500
    patches = [call for call in world.tp.calls if call.verb == "patch"]
    assert len(patches) == 500  # One write a pod, and no more.
