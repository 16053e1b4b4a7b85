"""The cast: which actors a cluster consists of, in the order of starting, each with its spec.

Pure: the supervisor starts what stands here, the command line shows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from arktos_ray.base.places import Places

if TYPE_CHECKING:
    from arktos_ray.config import Config  # And pydantic: 90 ms of every actor's start.

SUPERVISOR = "supervisor"
# Revisions have room for 64 partitions; resource partitions count down from here.
_NUMBER_LAST = 63


@dataclass(frozen=True, slots=True)
class Actor:
    """name; role as people read it; make: `module:Class` of the Part; spec: its one argument."""

    name: str
    role: str
    make: str
    spec: dict[str, Any] = field(default_factory=dict)
    # Custom Ray resources that it claims; {} runs anywhere.
    resources: dict[str, float] = field(default_factory=dict)
    # Stopped in the order of their stages: first who brings work in, last who keeps it.
    stage: int = 1

    def pack(self) -> list[Any]:
        return [self.name, self.role, self.make, self.spec, self.resources, self.stage]


def cast(
    config: Config, places: Places, *, node: str | None, own_containerd: bool = False
) -> list[Actor]:
    """Everyone but the supervisor. node: this machine's name as a node; None without an agent.

    own_containerd: the agent starts one, because nobody else does.
    """
    tenant = [f"tp-{i + 1}" for i in range(config.tenant_partitions)]
    resource = [f"rp-{i + 1}" for i in range(config.resource_partitions)]
    common = common_spec(config, places, tenant, resource)

    def actor(
        name: str, role: str, make: str, stage: int = 1, resource: str = "", **own: Any
    ) -> Actor:
        claimed = {resource: 1.0} if resource and config.claim_resources else {}
        spec = {**common, "name": name, **own}
        return Actor(name, role, f"arktos_ray.actors.{make}", spec, claimed, stage)

    actors = [
        actor(
            name, "tenant partition", "tenant_partition:TenantPartition", 2, "tenant_partition",
            number=i, service_cidr=config.service_range(i),
        )
        for i, name in enumerate(tenant)
    ]  # fmt: skip
    # Numbers from the other end, so that either kind can grow without renumbering the other.
    actors += [
        actor(
            name, "resource partition", "resource_partition:ResourcePartition", 2,
            "resource_partition", number=_NUMBER_LAST - i,
        )
        for i, name in enumerate(resource)
    ]  # fmt: skip
    actors += [
        actor(
            f"ingress-{i + 1}", "ingress", "ingress:Ingress", 0,
            bind=config.bind, port=config.port, reuse_port=config.ingresses > 1,
            insecure=config.insecure, assignment=config.assignment,
            pki_dir=str(places.pki), token_key=str(places.token_key), supervisor=SUPERVISOR,
        )
        for i in range(config.ingresses)
    ]  # fmt: skip
    actors += [
        actor(f"scheduler-{name}", "scheduler", "scheduler:Scheduler", tenant_partition=name)
        for name in tenant
    ]
    actors += [
        actor(
            f"shard-{i + 1}", "controller shard", "controller_shard:ControllerShard",
            shard=i, shards=config.controller_shards,
        )
        for i in range(config.controller_shards)
    ]  # fmt: skip
    if config.simulated_nodes:
        own: dict[str, Any] = {"nodes": config.simulated_nodes, "mode": config.simulated_mode}
        actors.append(actor("simulated-1", "simulated nodes", "hosts:SimulatedHosts", **own))
    if node is not None:
        own = {"node": node, "offline": config.offline, "resource_partition": resource[0]}
        own["beside_simulated"] = config.simulated_nodes > 0
        if own_containerd:
            own["own_containerd"] = [str(places.containerd), str(places.containerd_state)]
        else:
            own["containerd"] = str(config.containerd)
        actors.append(actor("node-agent", "node agent", "hosts:NodeHost", **own))
    return actors


def common_spec(
    config: Config, places: Places, tenant: list[str], resource: list[str]
) -> dict[str, Any]:
    """What every part is told. Plain values only: it travels through Ray."""
    return {
        "home": str(places.home),
        "data_dir": str(places.data),
        "run_dir": str(places.run),
        "log_dir": str(places.logs),
        "log_bytes_max": config.log_mb_max * 1024 * 1024,
        "transport": config.transport,
        "partitions": {"tenant": tenant, "resource": resource},
    }
