"""Name -> controller, and which kind of partition runs it. The names are those of Kubernetes.

A shard runs one set of controllers for each partition: tenants never cross partitions, so neither
does the work. Controllers that are `sharded` see their range of hashKeys only; the others are
small, or relate objects of different ranges, and run where the range begins at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from arktos_ray.api.scheme import Home
from arktos_ray.base.certificates import Signer
from arktos_ray.base.clock import Clock
from arktos_ray.base.ids import Ids
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.informer import Informers
from arktos_ray.client.port import Client, Object
from arktos_ray.controllers.clusterroleaggregation.controller import ClusterRoleAggregation
from arktos_ray.controllers.csrsigning.controller import CsrSigning
from arktos_ray.controllers.customresources.controller import CustomResources
from arktos_ray.controllers.deployment.controller import Deployments
from arktos_ray.controllers.endpoints.controller import Endpoints
from arktos_ray.controllers.garbage.controller import Garbage
from arktos_ray.controllers.loop import Controller, Neighbour, Parts, Range
from arktos_ray.controllers.namespace.controller import Namespaces
from arktos_ray.controllers.nodelifecycle.controller import NodeLifecycle
from arktos_ray.controllers.podgc.controller import PodGc
from arktos_ray.controllers.replicaset.controller import ReplicaSets
from arktos_ray.controllers.rootca.controller import RootCa
from arktos_ray.controllers.serviceaccount.controller import ServiceAccounts
from arktos_ray.controllers.serviceaccounttoken.controller import ServiceAccountTokens
from arktos_ray.controllers.tenant.controller import Tenants


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    home: Home
    sharded: bool
    make: Callable[[Parts], Controller]


CONTROLLERS: tuple[Row, ...] = (
    Row("tenant", Home.TENANT_PARTITION, False, Tenants),
    Row("namespace", Home.TENANT_PARTITION, False, Namespaces),
    Row("serviceaccount", Home.TENANT_PARTITION, True, ServiceAccounts),
    Row("serviceaccount-token", Home.TENANT_PARTITION, True, ServiceAccountTokens),
    Row("root-ca-certificate-publisher", Home.TENANT_PARTITION, True, RootCa),
    Row("deployment", Home.TENANT_PARTITION, True, Deployments),
    Row("replicaset", Home.TENANT_PARTITION, True, ReplicaSets),
    Row("endpoint", Home.TENANT_PARTITION, True, Endpoints),
    Row("garbagecollector", Home.TENANT_PARTITION, False, Garbage),
    Row("clusterrole-aggregation", Home.TENANT_PARTITION, False, ClusterRoleAggregation),
    Row("customresource-cleanup", Home.TENANT_PARTITION, False, CustomResources),
    Row("csrsigning", Home.TENANT_PARTITION, False, CsrSigning),
    Row("podgc", Home.TENANT_PARTITION, False, PodGc),
    Row("nodelifecycle", Home.RESOURCE_PARTITION, False, NodeLifecycle),
)

# Where nobody has a certificate there is nothing to publish, and nobody to sign.
_NEED_CA = ("serviceaccount-token", "root-ca-certificate-publisher")
_NEED_SIGNER = ("csrsigning",)


class Controllers:
    """The controllers of the range (low, high], over partitions that come and go.

    They run as tasks of `tasks`, and end with them. skip: names that are not wanted here.
    ca: by which clients know the API, PEM. signer: of client certificates.
    network: the template of a new tenant's default network.
    """

    def __init__(
        self, clock: Clock, ids: Ids, tasks: Tasks, low: int = 0, high: int = Range().high, *,
        skip: Collection[str] = (), ca: str = "", signer: Signer | None = None,
        network: Object | None = None,
    ) -> None:  # fmt: skip
        self._clock, self._ids, self._tasks = clock, ids, tasks
        self._range, self._ca = Range(low, high), ca
        self._signer, self._network = signer, network
        lacking = (*(() if ca else _NEED_CA), *(() if signer is not None else _NEED_SIGNER))
        self._skip = (*skip, *lacking)
        self._tasks_of: dict[str, Tasks] = {}
        self._known: dict[Home, dict[str, Neighbour]] = {home: {} for home in _OTHER}
        # What the controllers of a kind of partition see of the other kind, always up to date.
        self._seen: dict[Home, list[Neighbour]] = {home: [] for home in _OTHER}
        self.running: dict[str, Controller] = {}  # by `partition/name`

    def update(self, tenants: Mapping[str, Client], resources: Mapping[str, Client]) -> None:
        """Start those of partitions that came, end those of partitions that went."""
        wanted = {Home.TENANT_PARTITION: tenants, Home.RESOURCE_PARTITION: resources}
        came = []
        for home, clients in wanted.items():
            known = self._known[home]
            for name in [name for name in known if name not in clients]:
                self._seen[home].remove(known.pop(name))
                self._end(name)
            for name, client in clients.items():
                if name not in known:
                    tasks = self._tasks_of[name] = self._tasks.child()
                    known[name] = Neighbour(client, Informers(client, self._clock, tasks))
                    self._seen[home].append(known[name])
                    came.append((home, name))
        for home, name in came:
            self._make(home, name)
        # Views are named while controllers are made, also views of the other kind of partition.
        for home, name in came:
            self._known[home][name].informers.start()
        for _, name in came:
            for row in CONTROLLERS:
                controller = self.running.get(f"{name}/{row.name}")
                if controller is not None:
                    controller.start()

    def _make(self, home: Home, name: str) -> None:
        own = self._known[home][name]
        parts = Parts(
            own.client, own.informers, self._seen[_OTHER[home]], self._clock, self._ids,
            self._tasks_of[name], self._range, self._ca, self._seen[home], self._signer,
            self._network,
        )  # fmt: skip
        for row in CONTROLLERS:
            wanted = row.name not in self._skip and (row.sharded or self._range.low == 0)
            if row.home is home and wanted:
                self.running[f"{name}/{row.name}"] = row.make(parts)

    def _end(self, name: str) -> None:
        self._tasks_of.pop(name).kill()
        for row in CONTROLLERS:
            self.running.pop(f"{name}/{row.name}", None)


_OTHER = {
    Home.TENANT_PARTITION: Home.RESOURCE_PARTITION,
    Home.RESOURCE_PARTITION: Home.TENANT_PARTITION,
}
