"""The cast: which actors a cluster consists of, in the order of starting, each with its spec.

Pure: the supervisor starts what stands here, the command line shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arktos_ray.base.places import Places
from arktos_ray.tenancy.topology import NUMBERS, Topology

if TYPE_CHECKING:
    from arktos_ray.config import Config  # And pydantic: 90 ms of every actor's start.

SUPERVISOR = "supervisor"


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


def settings(
    config: Config, places: Places, *, node: str | None, own_containerd: bool = False,
    url: str = "",
) -> dict[str, Any]:  # fmt: skip
    """What does not change while the cluster runs, in plain values: the supervisor keeps it.

    node: this machine's name as a node; None without an agent. own_containerd: the agent starts
    one, because nobody else does. url: where clients find the API.
    """
    host: dict[str, Any] | None = None
    if node is not None:
        host = {
            "node": node, "offline": config.offline, "beside_simulated": config.simulated_nodes > 0,
            "api": url,
        }  # fmt: skip
        if own_containerd:
            host["own_containerd"] = [str(places.containerd), str(places.containerd_state)]
        else:
            host["containerd"] = str(config.containerd)
    return {
        "common": common_spec(config, places),
        "storages": config.storages(),
        "service_ranges": [config.service_range(number) for number in range(NUMBERS)],
        "ingresses": config.ingresses,
        "ingress": {
            "bind": config.bind, "port": config.port, "reuse_port": config.ingresses > 1,
            "insecure": config.insecure, "assignment": config.assignment,
            "pki_dir": str(places.pki), "token_key": str(places.token_key),
            **_tokens(config, places), "url": url,
            "oidc": [issuer.spec() for issuer in config.oidc], "anonymous": config.anonymous,
            "token_auth_file": _path(config.token_auth_file),
            "client_ca_file": _path(config.client_ca_file),
            "supervisor": SUPERVISOR,
            "audit": config.audit_spec(),
            "limits": {
                "calls_per_tenant_max": config.tenant_calls_max,
                "watches_per_tenant_max": config.tenant_watches_max,
                "bytes_per_tenant_max": config.tenant_bytes_mb_max << 20,
                "requests_per_tenant_per_s": config.tenant_requests_per_s,
            },
        },
        "tokens": {**_tokens(config, places), "ca": _text(places.pki / "ca.crt")},
        "signer": str(places.signer),
        "default_network": config.network_template(),
        "tenant_limits": {
            "objects": config.tenant_objects_max or None,
            "bytes": (config.tenant_mb_max << 20) or None,
        },
        "shards": config.controller_shards,
        "host": host,
        "claim_resources": config.claim_resources,
        "webhooks_local": config.webhooks_local,
        "webhooks_refused": list(config.webhooks_refused),
    }  # fmt: skip


def cast(given: Mapping[str, Any], topology: Topology) -> list[Actor]:
    """Everyone but the supervisor, by these settings and with these partitions."""
    common = {**given["common"], "topology": topology.pack()}

    def actor(
        name: str, role: str, make: str, stage: int = 1, resource: str = "", **own: Any
    ) -> Actor:
        claimed = {resource: 1.0} if resource and given["claim_resources"] else {}
        spec = {**common, "name": name, **own}
        return Actor(name, role, f"arktos_ray.actors.{make}", spec, claimed, stage)

    tenant = [row for row in topology.partitions if row.kind == "tenant"]
    actors = [
        actor(
            row.name, "tenant partition", "tenant_partition:TenantPartition", 2,
            "tenant_partition", number=row.number, zone=row.zone,
            service_cidr=given["service_ranges"][row.number],
            webhooks_local=given["webhooks_local"],
            webhooks_refused=given.get("webhooks_refused", ()),
            tenant_limits=given.get("tenant_limits", {}),
            storage=given["storages"].get(row.storage), **given["tokens"],
        )
        for row in tenant
    ]  # fmt: skip
    actors += [
        actor(
            row.name, "resource partition", "resource_partition:ResourcePartition", 2,
            "resource_partition", number=row.number, zone=row.zone,
            storage=given["storages"].get(row.storage),
        )
        for row in topology.partitions
        if row.kind == "resource"
    ]  # fmt: skip
    actors += [
        actor(f"ingress-{i + 1}", "ingress", "ingress:Ingress", 0, **given["ingress"])
        for i in range(given["ingresses"])
    ]
    actors += [
        actor(
            f"scheduler-{row.name}", "scheduler", "scheduler:Scheduler", tenant_partition=row.name
        )
        for row in tenant
    ]
    actors += [
        actor(
            f"shard-{i + 1}", "controller shard", "controller_shard:ControllerShard",
            shard=i, shards=given["shards"], ca=given["tokens"]["ca"],
            default_network=given.get("default_network"),
            # One signs: the others need no key.
            **({"signer_dir": given["signer"]} if i == 0 else {}),
        )
        for i in range(given["shards"])
    ]  # fmt: skip
    actors += [
        actor(
            fleet.name, "simulated nodes", "hosts:SimulatedHosts", nodes=fleet.nodes,
            mode=fleet.mode, resource_partitions=list(fleet.partitions), prefix=fleet.prefix,
            first_index=fleet.first_index,
        )
        for fleet in topology.fleets
    ]  # fmt: skip
    if given["host"] is not None:
        home = topology.taking("resource")[0].name
        actors.append(
            actor(
                "node-agent", "node agent", "hosts:NodeHost", **given["host"],
                resource_partition=home,
            )
        )  # fmt: skip
    return actors


def _tokens(config: Config, places: Places) -> dict[str, Any]:
    issuer = config.service_account_issuer
    audiences = list(config.api_audiences) or [issuer]
    return {"keys_dir": str(places.account_keys), "issuer": issuer, "audiences": audiences}


def _path(path: Path | None) -> str:
    return str(path.expanduser().absolute()) if path is not None else ""


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def common_spec(config: Config, places: Places) -> dict[str, Any]:
    """What every part is told. Plain values only: it travels through Ray."""
    return {
        "home": str(places.home),
        "data_dir": str(places.data),
        "run_dir": str(places.run),
        "log_dir": str(places.logs),
        "log_bytes_max": config.log_mb_max * 1024 * 1024,
        "transport": config.transport,
        # Whose keeper keeps the topology too.
        "system_storage": config.storages()["0"],
    }
