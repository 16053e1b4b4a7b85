"""TenantPartition: one store and one API server for the tenants that it owns.

Restarts from its log, and from nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from arktos_ray.actors.claims import Claims
from arktos_ray.actors.moves import Moves
from arktos_ray.actors.part import Part, Spec, Surroundings
from arktos_ray.actors.usage_requests import usage_of
from arktos_ray.api import networks, scheme
from arktos_ray.api.calls import Call, Reply, User, WatchEvent
from arktos_ray.api.errors import Failure, decode
from arktos_ray.api.names import SYSTEM_TENANT, Key
from arktos_ray.api.scheme import DEFINITIONS
from arktos_ray.apiserver.outside import Https
from arktos_ray.apiserver.partition import Partition, cluster_ip, has_cluster_ip
from arktos_ray.apiserver.server import Server
from arktos_ray.apiserver.service_ips import ServiceIPs
from arktos_ray.apiserver.tokens import Tokens
from arktos_ray.base.signing import TokenKeys
from arktos_ray.client.informer import Informer
from arktos_ray.ingress.homes import name_of
from arktos_ray.store.moving import TENANTS
from arktos_ray.store.port import Log
from arktos_ray.store.store import Store
from arktos_ray.tenancy import roles
from arktos_ray.tenancy.quota import Allowed
from arktos_ray.tenancy.topology import DRAINING, Topology

log = logging.getLogger(__name__)

_OURSELVES = User("system:apiserver", SYSTEM_TENANT, ("system:masters",), trusted=True)


class TenantPartition(Part):
    """Spec adds: number (0..63, unique in the region), service_cidr, tenant_limits (what is allowed
    to tenants that nobody allowed anything else; tenancy/quota.py); where tokens can be made,
    keys_dir, issuer, audiences and ca (text) as well."""

    role = "tenant partition"
    system_namespaces: tuple[str, ...] = ("default", "kube-system", "kube-public")

    def __init__(self, spec: Spec, surroundings: Surroundings) -> None:
        super().__init__(spec, surroundings)
        self.store: Store
        self.server: Server
        self._log: Log

    async def prepare(self) -> None:
        self._log = self._surroundings.open_log(self.spec)
        self.store = Store(
            self._log, self.spec["number"], self.clock, self.tasks, volatile=scheme.VOLATILE
        )
        rows = self.store.recover()
        ips = ServiceIPs(
            self.spec.get("service_cidr", "10.96.0.0/16"),
            lambda path, address: has_cluster_ip(self.store, path, address),
        )
        for record in self.store.table("services").range():
            address = cluster_ip(record.decode())
            if address:
                ips.mark(address, record.path)
        partition = Partition(self.name, self.store, self.clock, self.ids, ips)
        partition.tokens = _tokens(self.spec)
        partition.defaults = Allowed(**self.spec.get("tenant_limits", {}))
        self._outside = Https(
            bool(self.spec.get("webhooks_local")), self.spec.get("webhooks_refused", ())
        )
        self.server = Server(partition, self.tasks, self._outside)
        if self.name == self.topology.system:
            partition.customs.start_as_system()
        self.moves = Moves(self, partition)
        self.claims = Claims(self, self.store)
        self._learn()
        await self._log.take_over()
        self.store.start()
        log.info("%s: epoch %d, %d rows recovered", self.name, self._log.epoch, rows)
        await self._seed()

    async def open(self) -> None:
        self.moves.start()
        self.tasks.start(self.server.partition.quotas.keep(self.server.call), "quotas")
        if self.role == TenantPartition.role and self.name != self.topology.system:
            self._follow_forced()

    def _follow_forced(self) -> None:
        """Definitions of custom resources that are everybody's are in the system tenant."""
        customs = self.server.partition.customs
        informer = Informer(
            self.client(self.topology.system), DEFINITIONS, self.clock, self.tasks,
            tenant=SYSTEM_TENANT,
        )  # fmt: skip
        informer.on_change(customs.told)
        informer.start()

        async def known() -> None:
            await informer.synced()
            customs.synced = True

        self.tasks.start(known(), "forced definitions")

    async def _seed(self) -> None:
        """What exists in every partition from the beginning (spec/multitenancy.md 5)."""
        calls = []
        if self.name == self.topology.system:
            tenant = {"metadata": {"name": SYSTEM_TENANT}, "spec": {"storageClusterId": "0"}}
            calls.append(_create("tenants", "", "", tenant))
        calls += [
            _create("namespaces", SYSTEM_TENANT, "", {"metadata": {"name": name}})
            for name in self.system_namespaces
        ]
        if self.name == self.topology.system:
            calls += self._standing()
        for reply in await self.server.call(calls):
            if not reply.ok and reply.code != 409:
                raise decode(reply.body)

    def _standing(self) -> list[Call]:
        """The roles that are everywhere, as objects of the system tenant for operators to read.

        Brought up to what this version says, unless they are marked not to be.
        """
        calls = []
        for gvr, body in (*roles.of_the_system(), networks.definition()):
            name = body["metadata"]["name"]
            record = self.store.latest(gvr, Key(SYSTEM_TENANT, "", name).path())
            if record is None:
                calls.append(_create(gvr, SYSTEM_TENANT, "", body))
            elif roles.is_outdated(record.decode(), body):
                call = _create(gvr, SYSTEM_TENANT, "", body)
                call.verb, call.name = "update", name
                calls.append(call)
        return calls

    async def regroup(self, old: Topology, acks: Mapping[str, int]) -> None:
        self._learn()
        await self.moves.regroup()

    def _learn(self) -> None:
        partition, rows = self.server.partition, self.topology.partitions
        partition.rows = self.topology.taking("tenant")
        partition.storage = next((r.storage for r in rows if r.name == self.name), "")
        self.claims.regroup()
        partition.topology_version = self.topology.version
        partition.draining = any(r.name == self.name and r.state == DRAINING for r in rows)

    def acknowledged(self) -> int:
        """No tenant is made here by an older topology above this revision."""
        self.store.check_trusted()
        return self.store.last

    async def shut(self) -> None:
        self.store.close()

    async def close(self) -> None:
        await super().close()
        await self._outside.close()
        self._log.close()

    async def stats(self) -> dict[str, Any]:
        return {**self.server.stats(), "epoch": self._log.epoch, "reshaped": self.store.reshaped}

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        if self.claims.needed and any(self._made_by(call) for call in calls):
            return list(await asyncio.gather(*(self._one(call) for call in calls)))
        return await self.server.call(calls)

    def _made_by(self, call: Call) -> str:
        """The name of the tenant that this call may make; "" when it makes none.

        Whoever may not is refused by the server, and learns nothing here.
        """
        if call.gvr != TENANTS or call.verb not in ("create", "patch"):
            return ""
        if not self.server.allows(call):
            return ""
        name = call.name or name_of(call, scheme.resource(TENANTS))
        return "" if self.store.latest(TENANTS, f"//{name}") is not None else name

    async def _one(self, call: Call) -> Reply:
        async def now(call: Call) -> Reply:
            [reply] = await self.server.call([call])
            return reply

        return await self._claimed(call, now)

    async def _reviewed(self, call: Call) -> Reply:
        if self.claims.needed:
            return await self._claimed(call, self.server.reviewed)
        return await self.server.reviewed(call)

    async def _claimed(self, call: Call, do: Callable[[Call], Awaitable[Reply]]) -> Reply:
        name = self._made_by(call)
        with self.claims.held(name) if name else contextlib.nullcontext():
            if name:
                try:
                    await self.claims.check(name)
                except Failure as failure:
                    return Reply(failure.code, failure.encode())
            return await do(call)

    async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        watch = self.server.watch(call)
        try:
            async for events in watch:
                yield events
        finally:
            await watch.aclose()  # type: ignore[attr-defined]

    async def request(self, method: str, payload: Any) -> Any:
        if method == "progress":
            [revision] = payload
            await self.server.progress(revision)
            return self.store.revision
        if method == "granted":
            [call, verbs] = payload
            return self.server.granted(Call.unpack(call), verbs)
        if method == "may":
            [user, asks] = payload
            return self.server.may(User.unpack(user), asks)
        if method == "kinds":
            [tenant, have, with_schemas] = payload
            partition = self.server.partition
            partition.gate.check_tenant(tenant, writes=False)
            return partition.customs.described(tenant, have, with_schemas=with_schemas)
        if method == "held":
            [tenant, namespace] = payload
            return self.server.partition.customs.held(tenant, namespace)
        if method == "reviewed":
            return (await self._reviewed(Call.unpack(payload))).pack()
        if method == "usage":
            return usage_of(self.store, payload, self.server.partition.defaults)
        if method == "tenant-known":
            return self.claims.known(payload)
        if method in Moves.REQUESTS:
            return await self.moves.request(method, payload)
        return await super().request(method, payload)

    async def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        if method == "remains":
            items: AsyncIterator[Any] = self.server.remains(Call.unpack(payload))
        elif method == "export":
            items = self.moves.export(payload)
        else:
            items = super().subscribe(method, payload)
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()  # type: ignore[attr-defined]


def _tokens(spec: Spec) -> Tokens:
    directory = spec.get("keys_dir")
    if directory is None:
        return Tokens()
    return Tokens(
        TokenKeys(Path(directory)), spec["issuer"], tuple(spec["audiences"]), spec["ca"].encode()
    )


def _create(gvr: str, tenant: str, namespace: str, body: dict[str, Any]) -> Call:
    return Call("create", gvr, tenant, namespace, body=orjson.dumps(body), user=_OURSELVES)
