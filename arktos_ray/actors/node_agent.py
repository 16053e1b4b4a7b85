"""NodeAgent: this machine as a node. A kubelet in miniature (design.md D10).

Registers the machine in its resource partition, keeps its lease and conditions fresh, watches the
pods bound to it in every tenant partition, lets runtime.agent run them, and writes what it
reports. Restarting it disturbs no workload; losing the runtime makes the node say so.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import platform
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from arktos_ray.actors.pod_events import PodEvents
from arktos_ray.api import errors
from arktos_ray.api.calls import Call, Reply, WatchEvent
from arktos_ray.api.names import NODE_LEASE_NAMESPACE, SYSTEM_TENANT, Key
from arktos_ray.base import retry
from arktos_ray.base.clock import Clock, rfc3339, rfc3339_micro
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.index import key_of
from arktos_ray.client.informer import Informer
from arktos_ray.client.port import Client, decoded
from arktos_ray.runtime import plan
from arktos_ray.runtime.agent import Agent
from arktos_ray.runtime.events import Happening
from arktos_ray.runtime.port import LogOptions, PodRef, PodWant, Runtime, WorkloadSeen

log = logging.getLogger(__name__)

KUBELET_VERSION: Final = "v1.33.1-arktos-ray"
_LEASES: Final = "leases.coordination.k8s.io"
_LEASE_DURATION_S: Final = 40
_LEASE_PERIOD_S: Final = 10.0
# Status is computed with each lease, and written when it changed, or when it was long ago.
_STATUS_PERIOD_S: Final = 300.0
# Below this much free memory the node says that it is under pressure, as a kubelet does.
_MEMORY_PRESSURE_BYTES: Final = 100 * 1024 * 1024
_DISK_PRESSURE_SHARE: Final = 0.10
# How often a pod that waits for a config map or a secret looks again.
_LOOKUP_PERIOD_S: Final = 5.0
# Tokens in containers are renewed before this share of their life is over, as kubelets do.
_RENEW_SHARE: Final = 0.75
_RENEW_AGAIN_S: Final = 30.0
_PODS_MAX: Final = 110
# How long a workload goes on whose tenant left one partition and is not shown by another yet: far
# longer than a partition takes to restart.
_LIMBO_S: Final = 60.0
# What containers get when the cluster is stopped. It must fit into a stage of `arktos down`.
_SHUTDOWN_GRACE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What the node can hold, and how full it is."""

    cpus: int
    memory_bytes: int
    memory_available_bytes: int
    disk_bytes: int
    disk_available_bytes: int
    machine_id: str = ""
    boot_id: str = ""
    kernel: str = ""
    os_image: str = ""


def machine_facts(proc: Path = Path("/proc"), disk: Path = Path("/")) -> MachineFacts:
    """As the kernel tells. 0.2 ms."""
    memory: dict[str, int] = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        memory[name] = int(rest.split()[0]) * 1024
    cpus = (proc / "cpuinfo").read_text().count("processor\t")
    space = os.statvfs(disk)
    return MachineFacts(
        cpus=cpus or os.cpu_count() or 1,
        memory_bytes=memory["MemTotal"],
        memory_available_bytes=memory.get("MemAvailable", memory["MemTotal"]),
        disk_bytes=space.f_blocks * space.f_frsize,
        disk_available_bytes=space.f_bavail * space.f_frsize,
        machine_id=_line(Path("/etc/machine-id")),
        boot_id=_line(proc / "sys/kernel/random/boot_id"),
        kernel=platform.release(),
        os_image=platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
    )


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


class NodeAgent:
    """One machine. Owns nothing: the API says what should run, the runtime what does."""

    def __init__(
        self,
        node_name: str,
        rp: Client,
        tenant_partitions: Mapping[str, Client],
        runtime: Runtime,
        clock: Clock,
        tasks: Tasks,
        *,
        host_ip: str = "127.0.0.1",
        labels: Mapping[str, str] | None = None,
        taints: Sequence[Mapping[str, str]] = (),
        api: tuple[str, int] | None = None,
    ) -> None:
        """api: where containers find the API; told them in their environment."""
        self.node_name = node_name
        self._rp = rp
        self._tps = dict(tenant_partitions)
        self._runtime = runtime
        self._clock = clock
        self._tasks = tasks
        self._host_ip = host_ip
        self._labels = dict(labels or {})
        self._spec = {"taints": [dict(taint) for taint in taints]} if taints else {}
        self._agent = Agent(runtime, self._on_report, clock, tasks, host_ip, self._on_happening)
        self._events = {tp: PodEvents(client, clock, node_name) for tp, client in self._tps.items()}
        # What is known of each pod, by uid: which partition it is in, and the object itself.
        self._homes: dict[str, tuple[str, dict[str, Any]]] = {}
        # Whose config maps and secrets are not known yet, and what is known of them.
        self._blocked: set[str] = set()
        self._data: dict[str, dict[tuple[str, str], Mapping[str, bytes]]] = {}
        self._renewals: dict[str, float] = {}  # uid -> when its tokens should be others
        self._api = api
        # Statuses to write, and deletions (None), by partition and then by uid.
        self._owed: dict[str, dict[str, tuple[PodRef, dict[str, Any] | None]]] = {
            tp: {} for tp in self._tps
        }
        self._owing = {tp: asyncio.Event() for tp in self._tps}
        self._informers: dict[str, Informer] = {}
        self._work: dict[str, Tasks] = {}  # of each tenant partition
        self._node_uid = ""
        self._status_written: dict[str, Any] = {}
        self._status_written_at = float("-inf")
        self._registered = asyncio.Event()

    def __repr__(self) -> str:
        return f"NodeAgent({self.node_name})"

    async def start(self) -> None:
        """Begin; returns at once."""
        self._agent.start()
        self._tasks.start(self._keep_node(), f"{self.node_name} lease")
        self._tasks.start(self._look_up_again(), f"{self.node_name} lookups")
        informers = [self._begin(tp, client) for tp, client in self._tps.items()]
        self._tasks.start(self._wait_for(informers), f"{self.node_name} sync")

    def _begin(self, tp: str, client: Client) -> Informer:
        """Run the pods of that tenant partition."""
        tasks = self._work[tp] = self._tasks.child()
        selector = f"spec.nodeName={self.node_name}"
        informer = Informer(client, "pods", self._clock, tasks, fieldSelector=selector)
        informer.on_change(lambda old, new: self._on_pod(tp, old, new, informer.leaving))
        self._informers[tp] = informer
        informer.start()
        tasks.start(self._write(tp, client), f"{self.node_name} {tp} statuses")
        tasks.start(self._events[tp].run(), f"{self.node_name} {tp} events")
        return informer

    def add_tenant_partition(self, name: str, client: Client) -> None:
        """Also while running. Nothing of it is here yet: nobody could have sent it here."""
        if name not in self._tps:
            self._tps[name] = client
            self._events[name] = PodEvents(client, self._clock, self.node_name)
            self._owed[name], self._owing[name] = {}, asyncio.Event()
            self._begin(name, client)

    def remove_tenant_partition(self, name: str) -> None:
        """It is no more, and neither are its pods."""
        if self._tps.pop(name, None) is None:
            return
        self._work.pop(name).kill()
        for tp, pod in [home for home in self._homes.values() if home[0] == name]:
            self._on_pod(tp, pod, None)
        del self._events[name], self._owed[name], self._owing[name]

    async def close(self, *, end_workloads: bool = False) -> None:
        """The agent ends. Its workloads do not, unless asked to: then as at a shutdown."""
        await self._tasks.close()
        if end_workloads:
            try:
                await self._end_workloads()
            except errors.Failure as failure:
                log.warning("%s: ending workloads: %s", self.node_name, failure)
        await self._runtime.close()

    async def _end_workloads(self) -> None:
        """What remains of them is what a power cut leaves: the next start goes on from there."""

        async def end(workload: WorkloadSeen) -> None:
            running = [c.id for c in workload.containers if c.state == "running"]
            stops = [self._runtime.stop_container(each, _SHUTDOWN_GRACE_S) for each in running]
            await asyncio.gather(*stops)
            await self._runtime.stop_sandbox(workload.id)

        ready = [workload for workload in await self._runtime.observe() if workload.ready]
        await asyncio.gather(*[end(workload) for workload in ready])

    async def wait_until_registered(self) -> None:
        await self._registered.wait()

    async def _wait_for(self, informers: Sequence[Informer]) -> None:
        # A workload whose pod is in no partition may go; while one is silent, it might be there.
        for informer in informers:
            await informer.synced()
        # Nor may one whose tenant had left there, and was not here yet, when they were listed.
        waits = retry.exponential(0.1, 5.0)
        for informer in informers if any(each.arrived for each in informers) else ():
            while True:
                try:
                    await informer.wait_until(await informer.fence())
                    break
                except errors.Failure as failure:
                    log.info("%s: %s", self.node_name, failure)
                    await self._clock.sleep(next(waits))
        self._agent.knows_all = True

    # What other parts may ask (a Peer).

    async def request(self, method: str, payload: Any) -> Any:
        """stats: what this node runs and uses."""
        if method == "stats":
            return await self.stats()
        raise errors.NotFound(f"a node agent has no method {method!r}")

    def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        """log: chunks of bytes. Payload: uid (or tenant, namespace and name), container, and the
        options of `kubectl logs`: tailLines, sinceTime (seconds), sinceSeconds, timestamps,
        previous, follow, limitBytes."""
        if method == "log":
            return self._logs(payload)
        raise errors.NotFound(f"a node agent has no stream {method!r}")

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        refusal = errors.MethodNotAllowed("a node agent holds no objects")
        return [Reply(refusal.code, refusal.encode()) for _ in calls]

    def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        raise errors.MethodNotAllowed("a node agent holds no objects")

    async def stats(self) -> dict[str, Any]:
        facts = machine_facts()
        usages = await self._runtime.usage() if not self._agent.trouble else []
        return {
            "node": self.node_name,
            "pods": len(self._homes),
            "runtime": self._agent.trouble or "ready",
            "memoryBytes": facts.memory_bytes - facts.memory_available_bytes,
            "containers": [
                {
                    "tenant": usage.ref.tenant,
                    "namespace": usage.ref.namespace,
                    "pod": usage.ref.name,
                    "container": usage.container,
                    "cpuNanoseconds": usage.cpu_ns,
                    "memoryBytes": usage.memory_bytes,
                }
                for usage in usages
            ],
        }

    async def _logs(self, payload: Mapping[str, Any]) -> AsyncIterator[bytes]:
        ref, pod = self._find(payload)
        spec = pod["spec"]
        names = [c["name"] for c in [*spec["containers"], *spec.get("initContainers", ())]]
        container = payload.get("container") or names[0]
        if container not in names:
            raise errors.BadRequest(f"container {container} is not valid for pod {ref.name}")
        since = float(payload.get("sinceTime") or 0.0)
        if payload.get("sinceSeconds"):
            since = self._clock.now() - float(payload["sinceSeconds"])
        options = LogOptions(
            tail_lines=payload.get("tailLines"),
            since=since,
            timestamps=bool(payload.get("timestamps")),
            previous=bool(payload.get("previous")),
            follow=bool(payload.get("follow")),
            limit_bytes=payload.get("limitBytes"),
        )
        try:
            async for chunk in self._runtime.read_logs(ref, container, options):
                yield chunk
        except errors.NotFound as failure:
            if options.previous:
                text = f'previous terminated container "{container}" in pod "{ref.name}" not found'
            else:
                text = f'container "{container}" in pod "{ref.name}" is waiting to start'
                text += _why_waiting(pod, container)
            raise errors.BadRequest(text) from failure

    def _find(self, payload: Mapping[str, Any]) -> tuple[PodRef, dict[str, Any]]:
        for uid, (_, pod) in self._homes.items():
            ref = _ref(pod)
            if uid == payload.get("uid") or (
                (ref.tenant, ref.namespace, ref.name)
                == (payload.get("tenant"), payload.get("namespace"), payload.get("name"))
            ):
                return ref, pod
        if not self._agent.knows_all:
            raise errors.Unavailable(f"node {self.node_name} is just starting")
        raise errors.NotFound(f"no such pod on node {self.node_name}")

    # Pods: from the API to the agent, and back.

    def _on_pod(
        self, tp: str, old: dict[str, Any] | None, new: dict[str, Any] | None,
        leaving: bool = False,
    ) -> None:  # fmt: skip
        """leaving: its tenant moved out of that partition; the workload is none the wiser."""
        if new is None and old is not None:
            uid = old["metadata"]["uid"]
            if self._homes.get(uid, (tp,))[0] != tp:
                return  # The partition that it moved to has told us already.
            if leaving:
                self._tasks.start(self._end_limbo(tp, uid), f"{self.node_name} moves")
                return
        if old is not None and (new is None or new["metadata"]["uid"] != old["metadata"]["uid"]):
            uid = old["metadata"]["uid"]
            self._homes.pop(uid, None)
            self._blocked.discard(uid)
            self._data.pop(uid, None)
            self._renewals.pop(uid, None)
            self._owed[tp].pop(uid, None)
            self._agent.drop_pod(uid)
        if new is not None:
            uid = new["metadata"]["uid"]
            known = uid in self._homes
            before = self._homes[uid][0] if known else tp
            self._homes[uid] = (tp, new)
            if before != tp and before in self._owed and uid in self._owed[before]:
                self._owed[tp].setdefault(uid, self._owed[before].pop(uid))
                self._owing[tp].set()
            if not known and (plan.references(new) or plan.tokens(new)):
                self._blocked.add(uid)
                self._tasks.start(self._look_up(uid), "pod references")
            self._want(new)

    async def _end_limbo(self, tp: str, uid: str) -> None:
        """A pod that no partition shows for so long is gone."""
        await self._clock.sleep(_LIMBO_S)
        home = self._homes.get(uid)
        if home is not None and home[0] == tp and not self._shows(tp, home[1]):
            self._on_pod(tp, home[1], None)

    def _shows(self, tp: str, pod: dict[str, Any]) -> bool:
        """Whether that partition has it (again)."""
        informer = self._informers.get(tp)
        found = informer.index.get(key_of(pod)) if informer is not None else None
        return found is not None and found["metadata"]["uid"] == pod["metadata"]["uid"]

    def _want(self, pod: dict[str, Any]) -> PodWant:
        uid = pod["metadata"]["uid"]
        data = self._data.get(uid, {})
        want = plan.wanted(
            pod,
            pod["metadata"].get("tenant") or SYSTEM_TENANT,
            self.node_name,
            self._host_ip,
            lambda gvr, name: data.get((gvr, name)),
            self._env_of(pod),
        )
        if uid in self._blocked and not want.blocked:
            # What it refers to is not known yet. Not knowing must not stop what runs already.
            want = replace(want, blocked="looking up what its environment and volumes need")
        self._agent.set_pod(want, pod.get("status") or {})
        return want

    def _env_of(self, pod: Mapping[str, Any]) -> dict[str, str]:
        env = {"POD_TENANT": pod["metadata"].get("tenant") or SYSTEM_TENANT}
        if self._api is not None:
            host, port = self._api
            env["KUBERNETES_SERVICE_HOST"] = host
            for name in ("KUBERNETES_SERVICE_PORT", "KUBERNETES_SERVICE_PORT_HTTPS"):
                env[name] = str(port)
        return env

    async def _renew_tokens(self, uid: str) -> None:
        """Fresh tokens into the files of a pod that runs. Fails quietly: it is tried again."""
        tp, pod = self._homes[uid]
        try:
            found = await self._tokens(tp, pod)
            if uid not in self._homes:
                return
            self._data[uid] = {**self._data.get(uid, {}), **found}
            await self._runtime.refresh_files(self._want(self._homes[uid][1]))
        except errors.Failure as failure:
            self._renewals[uid] = self._clock.monotonic() + _RENEW_AGAIN_S
            log.info("%s: renewing tokens: %s", pod["metadata"]["name"], failure.message)

    async def _tokens(
        self, tp: str, pod: Mapping[str, Any]
    ) -> dict[tuple[str, str], Mapping[str, bytes]]:
        """Of the pod's account, bound to the pod; and when they should be others."""
        ref, found = _ref(pod), dict[tuple[str, str], Mapping[str, bytes]]()
        account = Key(ref.tenant, ref.namespace, pod["spec"].get("serviceAccountName") or "default")
        bound = {"apiVersion": "v1", "kind": "Pod", "name": ref.name, "uid": ref.uid}
        soonest = float("inf")
        for audience, seconds in plan.tokens(pod):
            spec: dict[str, Any] = {"expirationSeconds": seconds, "boundObjectRef": bound}
            if audience:
                spec["audiences"] = [audience]
            client = self._tps[tp]
            call = client.calling("create", "serviceaccounts", account, {"spec": spec}, "token")
            [reply] = await client.write([call])
            made = decoded(reply)
            token = made["status"]["token"].encode()
            found[plan.TOKENS, plan.token_name(audience, seconds)] = {plan.TOKEN: token}
            soonest = min(soonest, made["spec"]["expirationSeconds"] * _RENEW_SHARE)
        if found:
            self._renewals[ref.uid] = self._clock.monotonic() + soonest
        return found

    async def _look_up(self, uid: str) -> None:
        """Read the config maps and secrets that the pod names, then run it, or say what lacks."""
        tp, pod = self._homes[uid]
        ref = _ref(pod)
        data: dict[tuple[str, str], Mapping[str, bytes]] = {}
        for gvr, name in sorted(plan.references(pod)):
            try:
                found = await self._tps[tp].get(gvr, Key(ref.tenant, ref.namespace, name))
            except errors.NotFound:
                continue
            except errors.Failure as failure:
                log.info("%s: %s %s: %s", ref.name, gvr, name, failure)
                return  # Not known: it is looked up again.
            texts, binaries = found.get("data") or {}, found.get("binaryData") or {}
            if gvr == "secrets":
                texts, binaries = {}, texts
            data[gvr, name] = {k: v.encode() for k, v in texts.items()} | {
                k: base64.b64decode(v) for k, v in binaries.items()
            }
        try:
            data |= await self._tokens(tp, pod)
        except errors.NotFound:
            pass  # Its account is not there (yet): the pod waits, and says for what.
        except errors.Failure as failure:
            log.info("%s: tokens: %s", ref.name, failure)
            return
        if uid in self._homes:
            self._data[uid] = data
            self._blocked.discard(uid)
            if self._want(self._homes[uid][1]).blocked:
                self._blocked.add(uid)

    async def _look_up_again(self) -> None:
        while True:
            await self._clock.sleep(_LOOKUP_PERIOD_S)
            for uid in list(self._blocked):
                if uid in self._homes:
                    await self._look_up(uid)
            now = self._clock.monotonic()
            for uid, due in list(self._renewals.items()):
                if now >= due and uid in self._homes and uid not in self._blocked:
                    await self._renew_tokens(uid)

    def _on_happening(self, ref: PodRef, what: Happening) -> None:
        home = self._homes.get(ref.uid)
        if home is not None:
            self._events[home[0]].tell(home[1], what)

    def _on_report(self, ref: PodRef, status: dict[str, Any] | None) -> None:
        home = self._homes.get(ref.uid)
        if home is not None:
            self._owed[home[0]][ref.uid] = (ref, status)
            self._owing[home[0]].set()

    async def _write(self, tp: str, client: Client) -> None:
        """Whatever waits while the last batch was under way goes into the next."""
        owed = self._owed[tp]
        waits = retry.exponential(0.1, 5.0)
        while True:
            await self._owing[tp].wait()
            self._owing[tp].clear()
            batch = dict(owed)
            owed.clear()
            calls = [_call_for(client, ref, status) for ref, status in batch.values()]
            try:
                replies = await client.write(calls)
            except errors.Failure as failure:
                log.info("%s: writing to %s: %s", self.node_name, tp, failure)
                replies = [Reply(errors.Unavailable.code, failure.encode())] * len(calls)
            again = False
            for (uid, what), reply in zip(batch.items(), replies, strict=True):
                if reply.code == 429 or reply.code >= 500:
                    home = self._homes[uid][0] if uid in self._homes else ""
                    if home == tp:
                        owed.setdefault(uid, what)  # A newer one may wait already.
                        again = True
                    elif home in self._owed:  # It moved while we wrote.
                        self._owed[home].setdefault(uid, what)
                        self._owing[home].set()
                elif not reply.ok and reply.code not in (404, 409):
                    log.warning("%s: %s: %s", tp, what[0].name, errors.decode(reply.body))
            if again:
                self._owing[tp].set()
                await self._clock.sleep(next(waits))
            else:
                waits = retry.exponential(0.1, 5.0)

    # The node itself.

    async def _keep_node(self) -> None:
        waits = retry.exponential(0.1, 5.0)
        # A node that says first that it is not ready is tainted, and pods wait for no reason.
        await self._agent.look_once()
        while True:
            try:
                await self._register()
                break
            except errors.Failure as failure:
                log.warning("%s: registering: %s", self.node_name, failure)
                await self._clock.sleep(next(waits))
        self._registered.set()
        while True:
            try:
                await self._renew_lease()
                await self._write_node_status()
            except errors.Failure as failure:
                log.warning("%s: %s", self.node_name, failure)
            # The runtime's first answer, or its loss, should not wait for the next lease.
            trouble = self._agent.trouble
            for _ in range(int(_LEASE_PERIOD_S)):
                await self._clock.sleep(1.0)
                if self._agent.trouble != trouble:
                    break

    async def _register(self) -> None:
        facts = machine_facts()
        labels = {
            "kubernetes.io/hostname": self.node_name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": _architecture(),
            **self._labels,
        }
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.node_name, "labels": labels},
            "spec": {"providerID": f"arktos://{self.node_name}", **self._spec},
            "status": self._node_status(facts),
        }
        key = Key("", "", self.node_name)
        try:
            node = await self._rp.create("nodes", "", "", body)
        except errors.AlreadyExists:
            node = await self._rp.patch("nodes", key, {"metadata": {"labels": labels}})
        self._node_uid = node["metadata"]["uid"]
        self._status_written_at = float("-inf")  # A server may ignore status when creating.
        await self._write_node_status()

    async def _renew_lease(self) -> None:
        now = rfc3339_micro(self._clock.now())
        key = Key(SYSTEM_TENANT, NODE_LEASE_NAMESPACE, self.node_name)
        spec = {
            "holderIdentity": self.node_name,
            "leaseDurationSeconds": _LEASE_DURATION_S,
            "renewTime": now,
        }
        try:
            await self._rp.patch(_LEASES, key, {"spec": spec})
        except errors.NotFound:
            owner = {
                "apiVersion": "v1",
                "kind": "Node",
                "name": self.node_name,
                "uid": self._node_uid,
            }
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {
                    "name": self.node_name,
                    "namespace": NODE_LEASE_NAMESPACE,
                    "ownerReferences": [owner],
                },
                "spec": {**spec, "acquireTime": now},
            }
            await self._rp.create(_LEASES, SYSTEM_TENANT, NODE_LEASE_NAMESPACE, lease)

    async def _write_node_status(self) -> None:
        """Written when something changed, and at least every five minutes."""
        status = self._node_status(machine_facts())
        changed = _lasting(status) != _lasting(self._status_written)
        now = self._clock.monotonic()
        if not changed and now - self._status_written_at < _STATUS_PERIOD_S:
            return
        try:
            await self._rp.patch("nodes", Key("", "", self.node_name), {"status": status}, "status")
        except errors.NotFound:
            await self._register()
            return
        self._status_written, self._status_written_at = status, now

    def _node_status(self, facts: MachineFacts) -> dict[str, Any]:
        info, trouble = self._agent.info, self._agent.trouble
        amounts = {
            "cpu": str(facts.cpus),
            "memory": f"{facts.memory_bytes // 1024}Ki",
            "ephemeral-storage": f"{facts.disk_bytes // 1024}Ki",
            "pods": str(_PODS_MAX),
        }
        starved = facts.memory_available_bytes < _MEMORY_PRESSURE_BYTES
        full = facts.disk_available_bytes < facts.disk_bytes * _DISK_PRESSURE_SHARE
        conditions = [
            _condition(
                "MemoryPressure", starved, "KubeletHasInsufficientMemory",
                "KubeletHasSufficientMemory",
            ),
            _condition(
                "DiskPressure", full, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure"
            ),
            _condition("PIDPressure", False, "", "KubeletHasSufficientPID"),
            _condition(
                "ContainerRuntimeReady", not trouble, "RuntimeReady", "RuntimeNotReady", trouble
            ),
            _condition("Ready", not trouble, "KubeletReady", "KubeletNotReady", trouble),
        ]  # fmt: skip
        now = self._clock.now()
        merged = plan.merge_conditions(
            conditions, self._status_written.get("conditions") or (), now
        )
        for condition in merged:
            condition["lastHeartbeatTime"] = rfc3339(now)
        runtime = f"{info.name}://{info.version}" if info else "unknown://"
        return {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": merged,
            "addresses": [
                {"type": "InternalIP", "address": self._host_ip},
                {"type": "Hostname", "address": self.node_name},
            ],
            "nodeInfo": {
                "machineID": facts.machine_id,
                "systemUUID": facts.machine_id,
                "bootID": facts.boot_id,
                "kernelVersion": facts.kernel,
                "osImage": facts.os_image,
                "containerRuntimeVersion": runtime,
                "kubeletVersion": KUBELET_VERSION,
                "kubeProxyVersion": KUBELET_VERSION,
                "operatingSystem": "linux",
                "architecture": _architecture(),
            },
        }


def _why_waiting(pod: Mapping[str, Any], container: str) -> str:
    status = pod.get("status") or {}
    statuses = [
        *(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())
    ]  # fmt: skip
    waits = [
        (each.get("state") or {}).get("waiting") or {}
        for each in statuses
        if each["name"] == container
    ]
    return f": {waits[0]['reason']}" if waits and waits[0].get("reason") else ""


def _call_for(client: Client, ref: PodRef, status: dict[str, Any] | None) -> Call:
    key = Key(ref.tenant, ref.namespace, ref.name)
    if status is None:
        return client.deleting("pods", key, gracePeriodSeconds=0, preconditions={"uid": ref.uid})
    body = {"metadata": {"uid": ref.uid}, "status": status}
    return client.patching("pods", key, body, "status")


def _ref(pod: Mapping[str, Any]) -> PodRef:
    metadata = pod["metadata"]
    tenant = metadata.get("tenant") or SYSTEM_TENANT
    return PodRef(metadata["uid"], tenant, metadata["namespace"], metadata["name"])


def _condition(kind: str, true: bool, yes: str, no: str, message: str = "") -> dict[str, Any]:
    condition = {"type": kind, "status": "True" if true else "False", "reason": yes if true else no}
    if message:
        condition["message"] = message
    return condition


def _lasting(status: Mapping[str, Any]) -> dict[str, Any]:
    """A node's status without its times."""
    conditions = [(c["type"], c["status"], c.get("reason")) for c in status.get("conditions") or ()]
    return {**status, "conditions": conditions}


def _architecture() -> str:
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
