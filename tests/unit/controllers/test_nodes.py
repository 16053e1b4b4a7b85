"""Nodes that fall silent, and what becomes of their pods."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api.names import Key
from arktos_ray.base.clock import rfc3339, rfc3339_micro
from arktos_ray.controllers.nodelifecycle import plan as planning
from arktos_ray.controllers.nodelifecycle.controller import NodeLifecycle
from arktos_ray.controllers.nodelifecycle.plan import NOT_READY, UNREACHABLE, Limits, Mode
from arktos_ray.controllers.podgc.controller import PodGc
from arktos_ray.controllers.replicaset.controller import ReplicaSets

Object = dict[str, Any]
LEASES = "leases.coordination.k8s.io"


class Cluster:
    def __init__(self, world: Any, *names: str) -> None:
        self.world = world
        self.alive = list(names)
        for name in names:
            world.rp.put(
                "nodes",
                {
                    "metadata": {"name": name},
                    "spec": {},
                    "status": {"conditions": [_ready(world)]},
                },
            )
        self.renew()

    def renew(self) -> None:
        for name in self.alive:
            self.world.rp.put(
                LEASES,
                {
                    "metadata": {
                        "tenant": "system", "namespace": "kube-node-lease", "name": name,
                    },
                    "spec": {"renewTime": rfc3339_micro(self.world.clock.now())},
                },
            )  # fmt: skip

    async def live(self, duration: float) -> None:
        """Time passes; the nodes that are alive renew their leases, and say that they are."""
        for _ in range(int(duration / 10)):
            self.renew()
            for name in self.alive:
                node = self.node(name)
                if planning.ready_status(node) != "True":
                    self.world.rp.change("nodes", node, status={"conditions": [_ready(self.world)]})
            await self.world.clock.advance(10)

    def node(self, name: str) -> Object:
        found: Object = self.world.rp.find("nodes", "", "", name)
        return found

    def taints(self, name: str) -> set[tuple[str, str]]:
        return {
            (taint["key"], taint["effect"])
            for taint in self.node(name).get("spec", {}).get("taints") or ()
        }


def _ready(world: Any) -> Object:
    moment = rfc3339(world.clock.now())
    return {
        "type": "Ready", "status": "True",
        "lastHeartbeatTime": moment, "lastTransitionTime": moment,
    }  # fmt: skip


def _pod(world: Any, name: str, node: str, tolerations: list[Object] | None = None) -> Object:
    body = {
        "metadata": {"tenant": "acme", "namespace": "default", "name": name},
        "spec": {"nodeName": node, "tolerations": tolerations or []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    made: Object = world.tp.put("pods", body)
    return made


def _patience(wait: int) -> list[Object]:
    return [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": wait}
        for key in (NOT_READY, UNREACHABLE)
    ]


async def _begin(world: Any, *names: str) -> Cluster:
    cluster = Cluster(world, *names)
    await world.start(NodeLifecycle(world.parts(world.rp, (world.tp,))))
    return cluster


def test_a_silent_node_is_tainted_and_its_pods_leave_when_their_patience_ends(play: Any) -> None:
    async def story(world: Any) -> None:
        cluster = await _begin(world, "n1", "n2", "n3")
        _pod(world, "hasty", "n1")
        _pod(world, "patient", "n1", _patience(300))
        _pod(world, "elsewhere", "n2")
        await cluster.live(50)
        cluster.alive.remove("n1")
        await cluster.live(30)
        assert cluster.taints("n1") == set()
        await cluster.live(30)
        assert planning.ready_status(cluster.node("n1")) == "Unknown"
        assert cluster.taints("n1") == {(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")}
        assert cluster.taints("n2") == set()
        hasty = world.tp.find("pods", "acme", "default", "hasty")
        assert "deletionTimestamp" in hasty["metadata"]
        patient = world.tp.find("pods", "acme", "default", "patient")
        assert "deletionTimestamp" not in patient["metadata"]
        assert patient["status"]["conditions"][0]["status"] == "False"
        await cluster.live(310)
        patient = world.tp.find("pods", "acme", "default", "patient")
        assert "deletionTimestamp" in patient["metadata"]
        elsewhere = world.tp.find("pods", "acme", "default", "elsewhere")
        assert "deletionTimestamp" not in elsewhere["metadata"]
        assert elsewhere["status"]["conditions"][0]["status"] == "True"

    play(story)


def test_a_node_that_comes_back_keeps_its_pods(play: Any) -> None:
    async def story(world: Any) -> None:
        cluster = await _begin(world, "n1", "n2")
        _pod(world, "patient", "n1", _patience(300))
        await cluster.live(50)
        cluster.alive.remove("n1")
        await cluster.live(100)
        assert (UNREACHABLE, "NoExecute") in cluster.taints("n1")
        cluster.alive.append("n1")
        await cluster.live(400)
        assert cluster.taints("n1") == set()
        assert "deletionTimestamp" not in world.pods()[0]["metadata"]

    play(story)


def test_when_all_nodes_are_lost_at_once_nothing_is_evicted(play: Any) -> None:
    async def story(world: Any) -> None:
        cluster = await _begin(world, "n1", "n2")
        _pod(world, "hasty", "n1")
        await cluster.live(50)
        gone = cluster.alive[:]
        cluster.alive.clear()
        await cluster.live(600)
        assert cluster.taints("n1") == {(UNREACHABLE, "NoSchedule")}
        assert len(world.pods()) == 1
        # The first one is back: the other has its grace again before its pods must leave.
        cluster.alive.append(gone[1])
        await cluster.live(40)
        assert len(world.pods()) == 1
        cluster.alive.append(gone[0])
        await cluster.live(100)
        assert len(world.pods()) == 1
        assert cluster.taints("n1") == set()

    play(story)


def test_an_outage_of_the_partition_is_nobodys_silence(play: Any) -> None:
    async def story(world: Any) -> None:
        cluster = await _begin(world, "n1", "n2")
        _pod(world, "hasty", "n1")
        await cluster.live(50)
        world.rp.down = True
        world.rp.wake()
        await world.clock.advance(300)
        # Back, without its leases: they lived in memory.
        for lease in world.rp.all(LEASES):
            world.rp.drop(LEASES, lease)
        world.rp.compact()
        world.rp.down = False
        await world.clock.advance(20)
        await cluster.live(100)
        assert len(world.pods()) == 1
        assert cluster.taints("n1") == set()
        assert planning.ready_status(cluster.node("n1")) == "True"

    play(story)


def test_a_tenant_partition_that_is_away_does_not_stop_the_others(play: Any) -> None:
    async def story(world: Any) -> None:
        cluster = Cluster(world, "n1", "n2")
        broken = type(world.tp)(world.clock, seed=9)
        broken.down = True
        world._neighbours[id(broken)] = world._neighbour(broken)
        lifecycle = NodeLifecycle(world.parts(world.rp, (broken, world.tp)))
        await world.start(lifecycle)
        _pod(world, "hasty", "n1")
        await cluster.live(50)
        cluster.alive.remove("n1")
        await cluster.live(70)
        assert world.pods() == []

    play(story)


def test_pressure_and_cordon_become_taints() -> None:
    node = {
        "spec": {"unschedulable": True, "taints": [{"key": "mine", "effect": "NoSchedule"}]},
        "status": {
            "conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "DiskPressure", "status": "True"},
            ]
        },
    }
    wanted = planning.taints(node, False, 0.0)
    assert wanted is not None
    assert {taint["key"] for taint in wanted} == {
        "mine", planning.UNSCHEDULABLE, "node.kubernetes.io/disk-pressure",
    }  # fmt: skip
    assert planning.taints({**node, "spec": {**node["spec"], "taints": wanted}}, False, 0.0) is None


@given(nodes=st.integers(0, 200), lost=st.integers(0, 200))
def test_evictions_slow_down_as_more_is_lost(nodes: int, lost: int) -> None:
    lost = min(lost, nodes)
    limits = Limits()
    mode = planning.mode(nodes, lost, limits)
    rate = planning.evictions_per_s(mode, nodes, limits)
    if nodes and lost == nodes:
        assert mode is Mode.FULL
        assert rate == 0
    elif lost <= 2 or lost < 0.55 * nodes:
        assert rate == limits.evictions_per_s
    else:
        assert rate == (limits.evictions_per_s_partial if nodes > 50 else 0)


def test_tolerations_match_as_documented() -> None:
    taint = {"key": "k", "value": "v", "effect": "NoExecute"}
    assert planning.tolerates({"operator": "Exists"}, taint)
    assert planning.tolerates({"key": "k", "value": "v"}, taint)
    assert planning.tolerates({"key": "k", "operator": "Exists", "effect": "NoExecute"}, taint)
    assert not planning.tolerates({"key": "k", "value": "w"}, taint)
    assert not planning.tolerates({"key": "k", "operator": "Exists", "effect": "NoSchedule"}, taint)


# ---------------------------------------------------------------------------- podgc


def test_pods_of_a_node_that_is_gone_are_replaced(play: Any, replica_set: Any) -> None:
    async def story(world: Any) -> None:
        cluster = Cluster(world, "n1", "n2")
        world.tp.put("replicasets.apps", replica_set(2))
        await world.start(ReplicaSets(world.parts()), PodGc(world.parts()))
        await world.clock.advance(1)
        world.run_pods(node="n1")
        world.rp.drop("nodes", cluster.node("n1"))
        await world.clock.advance(30)
        assert {pod["spec"].get("nodeName") for pod in world.pods()} == {"n1"}
        await world.clock.advance(40)
        assert len(world.pods()) == 2
        assert {pod["spec"].get("nodeName") for pod in world.pods()} == {None}

    play(story)


def test_nothing_is_orphaned_while_a_resource_partition_is_away(play: Any) -> None:
    async def story(world: Any) -> None:
        cluster = Cluster(world, "n1")
        _pod(world, "a", "n1")
        await world.start(PodGc(world.parts()))
        await world.clock.advance(1)
        world.rp.down = True
        world.rp.wake()
        world.rp.drop("nodes", cluster.node("n1"))
        await world.clock.advance(300)
        assert len(world.pods(active=False)) == 1
        world.rp.down = False
        await world.clock.advance(120)
        assert world.pods(active=False) == []

    play(story)


def test_stuck_pods_of_a_silent_node_are_forced_but_not_stateful_ones(play: Any) -> None:
    async def story(world: Any) -> None:
        cluster = Cluster(world, "n1")
        unknown = [{"type": "Ready", "status": "Unknown"}]
        world.rp.change("nodes", cluster.node("n1"), status={"conditions": unknown})
        _pod(world, "web", "n1")
        body = _pod(world, "db-0", "n1")
        owner = {
            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "s",
            "hashKey": 1, "controller": True,
        }  # fmt: skip
        body = {**body, "metadata": {**body["metadata"], "ownerReferences": [owner]}}
        world.tp.put("pods", body)
        await world.start(PodGc(world.parts()))
        for name in ("web", "db-0"):
            await world.client.delete("pods", Key("acme", "default", name))
        await world.clock.advance(60)
        assert len(world.pods(active=False)) == 2
        await world.clock.advance(60)
        assert [pod["metadata"]["name"] for pod in world.pods(active=False)] == ["db-0"]
        node = cluster.node("n1")
        taint = {"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}
        world.rp.change("nodes", node, spec={"taints": [taint]})
        await world.clock.advance(25)
        assert world.pods(active=False) == []

    play(story)
