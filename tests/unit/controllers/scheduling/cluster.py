"""Partitions in memory, with the real ledgers and the real scheduler between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson

from arktos_ray.api.calls import Call, User
from arktos_ray.api.errors import Conflict, NotFound, Unavailable
from arktos_ray.api.names import Key
from arktos_ray.base.ids import Ids
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client
from arktos_ray.controllers.scheduling.controller import Home, Scheduling
from arktos_ray.controllers.scheduling.reservations import Reservations
from arktos_ray.testing.fakes import FakeClock, FakePartition

Object = dict[str, Any]
SCHEDULER = User("system:kube-scheduler", trusted=True)


class Tenants(FakePartition):
    """A FakePartition that also binds, and merges conditions by type."""

    def _handle(self, call: Call) -> Object:
        if call.verb == "create" and call.subresource == "binding":
            return self._bind(call)
        if call.verb == "patch" and call.subresource == "status":
            # As a strategic merge would: conditions by type.
            body = orjson.loads(call.body)
            old = self.find(call.gvr, call.tenant, call.namespace, call.name)
            if old is not None and "conditions" in body.get("status", {}):
                new = body["status"]["conditions"]
                kept = [
                    c
                    for c in old["status"].get("conditions", ())
                    if c["type"] not in {n["type"] for n in new}
                ]
                body["status"]["conditions"] = kept + new
                call.body = orjson.dumps(body)
        return super()._handle(call)

    def _bind(self, call: Call) -> Object:
        refusal = self.refuse(call)
        if refusal is not None:
            raise refusal
        body = orjson.loads(call.body)
        pod = self.find("pods", call.tenant, call.namespace, call.name)
        if pod is None:
            raise NotFound(f'pods "{call.name}" not found')
        if pod["spec"].get("nodeName") or pod["metadata"]["uid"] != body["metadata"]["uid"]:
            raise Conflict(f"pod {call.name} is already assigned to a node")
        self.change("pods", pod, spec={**pod["spec"], "nodeName": body["target"]["name"]})
        return {"kind": "Status", "status": "Success"}


class Landlord:
    """A ResourcePartition as a Peer. `down`: nobody answers. `asked`: the requests, in order."""

    def __init__(self, reservations: Callable[[], Reservations]) -> None:
        self._reservations = reservations
        self._connection: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.down = False
        self.lose_answers = False
        self.asked: list[tuple[str, Any]] = []

    async def request(self, method: str, payload: Any) -> Any:
        if self.down:
            raise Unavailable("the resource partition is away")
        payload = orjson.loads(orjson.dumps(payload))  # As a wire would: tuples become lists.
        self.asked.append((method, payload))
        answer = await getattr(self._reservations(), method)(payload)
        if self.lose_answers:
            self.lose_answers = False
            raise Unavailable("the answer was lost")
        return orjson.loads(orjson.dumps(answer))

    async def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        if self.down:
            raise Unavailable("the resource partition is away")
        connection, messages = self._connection, getattr(self._reservations(), method)(payload)
        while True:
            message = asyncio.ensure_future(anext(messages))
            try:
                await asyncio.wait({message, connection}, return_when=asyncio.FIRST_COMPLETED)
                if connection.done():
                    raise Unavailable("the connection broke")
                yield orjson.loads(orjson.dumps(message.result()))
            finally:
                message.cancel()

    def hang_up(self) -> None:
        """Every subscription ends, as when the process behind it does."""
        self._connection.set_result(None)
        self._connection = asyncio.get_running_loop().create_future()


class Cluster:
    """tps TenantPartitions, each with a scheduler, over rps ResourcePartitions."""

    def __init__(self, tps: int = 1, rps: int = 1) -> None:
        self.clock = FakeClock()
        self.tasks = Tasks(on_crash=self._crashed)
        self.crashes: list[BaseException] = []
        self.tps = {f"tp-{i}": Tenants(self.clock, seed=i) for i in range(tps)}
        self.rps = {f"rp-{i}": FakePartition(self.clock, seed=100 + i) for i in range(rps)}
        self.reservations: dict[str, Reservations] = {}
        self.lives: dict[str, Tasks] = {}
        self.landlords = {
            name: Landlord(lambda name=name: self.reservations[name])  # type: ignore[misc]
            for name in self.rps
        }
        self.schedulers: dict[str, Scheduling] = {}
        for name in self.rps:
            self.start_reservations(name)

    @property
    def tp(self) -> Tenants:
        return self.tps["tp-0"]

    @property
    def rp(self) -> FakePartition:
        return self.rps["rp-0"]

    def start_reservations(self, name: str) -> None:
        """Also a restart: nothing is left of the life before."""
        self.lives[name] = Tasks(on_crash=self._crashed)
        self.reservations[name] = Reservations(
            Client(self.rps[name], SCHEDULER),
            {tp: Client(partition, SCHEDULER) for tp, partition in self.tps.items()},
            self.clock,
            self.lives[name],
        )
        self.reservations[name].start()

    def start_scheduler(self, name: str = "tp-0") -> Scheduling:
        homes = {
            rp: Home(Client(partition, SCHEDULER), self.landlords[rp])  # type: ignore[arg-type]
            for rp, partition in self.rps.items()
        }
        self.lives[name] = Tasks(on_crash=self._crashed)
        scheduling = self.schedulers[name] = Scheduling(
            Client(self.tps[name], SCHEDULER),
            homes,
            self.clock,
            Ids(len(self.schedulers)),
            self.lives[name],
            source=name,
        )
        scheduling.start()
        return scheduling

    async def stop(self, name: str) -> None:
        await self.lives[name].close()
        if name in self.landlords:
            self.landlords[name].hang_up()

    async def close(self) -> None:
        for life in self.lives.values():
            await life.close()
        assert not self.crashes, self.crashes

    def _crashed(self, error: BaseException) -> None:
        self.crashes.append(error)

    # What tests put in and read.

    def node(self, name: str, rp: str = "rp-0", cpu: str = "4", **labels: str) -> Object:
        allocatable = {"cpu": cpu, "memory": "8Gi", "pods": "110"}
        metadata = {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}}
        return self.rps[rp].put(
            "nodes", {"metadata": metadata, "spec": {}, "status": {"allocatable": allocatable}}
        )

    def pod(
        self, name: str, cpu: str = "1", tp: str = "tp-0", labels: Object | None = None,
        **spec: Any,
    ) -> Object:  # fmt: skip
        container = {"name": "c", "resources": {"requests": {"cpu": cpu}}}
        metadata = {"name": name, "namespace": "x", "tenant": "acme", "labels": labels or {}}
        return self.tps[tp].put(
            "pods",
            {
                "metadata": metadata,
                "spec": {"containers": [container], **spec},
                "status": {"phase": "Pending"},
            },
        )

    def get(self, name: str, tp: str = "tp-0") -> Object:
        pod = self.tps[tp].find("pods", "acme", "x", name)
        assert pod is not None
        return pod

    def node_of(self, name: str, tp: str = "tp-0") -> str:
        return str(self.get(name, tp)["spec"].get("nodeName", ""))

    def events(self, reason: str, tp: str = "tp-0") -> list[Object]:
        return [event for event in self.tps[tp].all("events") if event["reason"] == reason]

    def remove(self, name: str, tp: str = "tp-0") -> None:
        self.tps[tp].drop("pods", self.get(name, tp))

    def condition(self, name: str) -> Object:
        [condition] = [
            c for c in self.get(name)["status"].get("conditions", ()) if c["type"] == "PodScheduled"
        ]
        found: Object = condition
        return found

    def cpu_on(self, node: str) -> int:
        """Whole CPUs that bound pods want there, over all TenantPartitions."""
        return sum(
            int(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"])
            for partition in self.tps.values()
            for pod in partition.all("pods")
            if pod["spec"].get("nodeName") == node
            and pod["status"].get("phase") not in ("Succeeded", "Failed")
        )


__all__ = ["SCHEDULER", "Cluster", "Key", "Landlord", "Tenants"]
