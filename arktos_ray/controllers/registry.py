"""Name -> controller, and which kind of partition runs it. The names are those of Kubernetes.

A shard runs one set of controllers for each partition: tenants never cross partitions, so neither
does the work. Controllers that are `sharded` see their range of hashKeys only; the others are
small, or relate objects of different ranges, and run where the range begins at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from arktos_ray.api.scheme import Home
from arktos_ray.base.clock import Clock
from arktos_ray.base.ids import Ids
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.informer import Informers
from arktos_ray.client.port import Client
from arktos_ray.controllers.deployment.controller import Deployments
from arktos_ray.controllers.endpoints.controller import Endpoints
from arktos_ray.controllers.garbage.controller import Garbage
from arktos_ray.controllers.loop import Controller, Neighbour, Parts, Range
from arktos_ray.controllers.namespace.controller import Namespaces
from arktos_ray.controllers.nodelifecycle.controller import NodeLifecycle
from arktos_ray.controllers.podgc.controller import PodGc
from arktos_ray.controllers.replicaset.controller import ReplicaSets
from arktos_ray.controllers.serviceaccount.controller import ServiceAccounts
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
    Row("deployment", Home.TENANT_PARTITION, True, Deployments),
    Row("replicaset", Home.TENANT_PARTITION, True, ReplicaSets),
    Row("endpoint", Home.TENANT_PARTITION, True, Endpoints),
    Row("garbagecollector", Home.TENANT_PARTITION, False, Garbage),
    Row("podgc", Home.TENANT_PARTITION, False, PodGc),
    Row("nodelifecycle", Home.RESOURCE_PARTITION, False, NodeLifecycle),
)


def start_all(
    tenants: Mapping[str, Client],
    resources: Mapping[str, Client],
    clock: Clock,
    ids: Ids,
    tasks: Tasks,
    low: int = 0,
    high: int = Range().high,
    *,
    skip: Collection[str] = (),
) -> dict[str, Controller]:
    """Starts the controllers of the range (low, high]; `partition/name` -> controller.

    They run as tasks of `tasks`, and end with them. skip: names that are not wanted here.
    """
    range_ = Range(low, high)
    homes = {
        Home.TENANT_PARTITION: {
            name: Neighbour(client, Informers(client, clock, tasks))
            for name, client in tenants.items()
        },
        Home.RESOURCE_PARTITION: {
            name: Neighbour(client, Informers(client, clock, tasks))
            for name, client in resources.items()
        },
    }
    running: dict[str, Controller] = {}
    for home, others in (
        (Home.TENANT_PARTITION, Home.RESOURCE_PARTITION),
        (Home.RESOURCE_PARTITION, Home.TENANT_PARTITION),
    ):
        for partition, own in homes[home].items():
            parts = Parts(
                own.client, own.informers, tuple(homes[others].values()), clock, ids, tasks, range_
            )
            for row in CONTROLLERS:
                if row.home is home and row.name not in skip and (row.sharded or low == 0):
                    running[f"{partition}/{row.name}"] = row.make(parts)
    for partitions in homes.values():
        for each in partitions.values():
            each.informers.start()
    for controller in running.values():
        controller.start()
    return running
