"""arktos.yaml as types: every knob of the cluster, with its unit and its reason.

The keys of the file are the flags of `arktos up` without their dashes in front. A flag wins over
the file, the file over the default.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

# Revisions carry six bits of partition number (design.md D5).
PARTITIONS_MAX = 64
# 64 parts of 64 addresses each.
_SERVICE_PREFIX_MAX = 20


class ConfigError(Exception):
    """Something in the file or the flags cannot be meant. The message says what, and what may."""


def _flag(name: str) -> str:
    return name.replace("_", "-")


class Config(BaseModel):
    """One cluster. Unknown keys are refused: a typo must not pass for a default."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=_flag, populate_by_name=True
    )

    # Where everything of this cluster lives: data, credentials, logs, the lock.
    data_dir: Path = Path(".arktos")

    # How many. Two of each, so that nothing works by accident only with one.
    tenant_partitions: int = Field(2, ge=1)
    resource_partitions: int = Field(2, ge=1)
    # Each costs a process (55 MB, 0.4 s of CPU to start). One shard follows 10K pods easily.
    controller_shards: int = Field(1, ge=1, le=64)
    # One ingress fills a core at some 10K requests/s; more share the port.
    ingresses: int = Field(1, ge=1, le=64)
    # Nodes that only pretend, all in one process: about 2 KB and 3 us/s of CPU each.
    simulated_nodes: int = Field(100, ge=0, le=100_000)
    # kubemark: the delays of a hollow node; instant: none, to measure the control plane alone.
    simulated_mode: Literal["kubemark", "instant"] = "kubemark"
    # This machine as a real node; None means: where containers can run.
    node: bool | None = None
    # Whose containers. When nobody answers there, and we may, a containerd of our own is started.
    containerd: Path = Path("/run/containerd/containerd.sock")
    # The real node asks no registry, and takes an image that is here for every pull policy.
    offline: bool = False

    # The front door. Loopback unless told otherwise (design.md D14).
    bind: str = "127.0.0.1"
    port: int = Field(6443, ge=1, le=65_535)
    # Plain HTTP, and whoever connects is the administrator. For measuring, never for a network.
    insecure: bool = False

    # What one tenant may have at each ingress; beyond it, 429 with a time to come back. The
    # defaults and their reasons: ingress/limits.py; all limits: docs/limits.md.
    tenant_calls_max: int = Field(1_024, ge=1)
    tenant_watches_max: int = Field(2_000, ge=1)
    # Bodies of requests and of large answers that are in memory.
    tenant_bytes_mb_max: int = Field(128, ge=4)
    # 0 is as many as its fair share of the partition allows.
    tenant_requests_per_s: float = Field(0.0, ge=0)

    # How actors converse: over sockets, or over Ray calls alone (a hundred times slower).
    transport: Literal["stream", "ray"] = "stream"
    # Which tenant partition a new tenant gets (tenancy/assignment.py).
    assignment: Literal["letters", "hash"] = "letters"
    # Service addresses. Every tenant partition gets a 64th of the range: 16,384 of the default.
    service_cidr: str = "10.96.0.0/12"

    # Ray. Without an address a private one is started, on loopback, and ends with us.
    address: str = ""
    # Ray's own web pages: 200 MB and 1.5% of a core.
    dashboard: bool = True
    dashboard_port: int = Field(8265, ge=0, le=65_535)
    # Ray refuses less than 75 MB; it costs memory only when something large passes through.
    object_store_mb: int = Field(80, ge=75)
    # Partitions claim a unit of a custom resource, so that Ray's autoscaler adds machines for
    # them. Only where `ray up` declares these resources.
    claim_resources: bool = False
    # Partitions are shared out to these zones in turn, to machines with the label arktos.io/zone;
    # while a zone has none, its partitions run in another. Needs state that is in etcd.
    zones: tuple[str, ...] = ()

    # Health. A process that does not answer is killed after failures_max checks in a row: 12 s.
    health_period_s: float = Field(1.0, gt=0)
    # Longer than any pause of a healthy process on a busy machine (p99 of 20 ms at nice 0).
    health_deadline_s: float = Field(3.0, gt=0)
    health_failures_max: int = Field(3, ge=1)
    # Recovery of 10 million rows takes about a minute; nobody is killed for recovering.
    start_deadline_s: float = Field(180.0, gt=0)
    # Time to flush and close on `down`. Then SIGKILL; nothing acknowledged is lost by it.
    stop_deadline_s: float = Field(5.0, gt=0)
    # Free space below which `up` refuses: logs and a first compaction need that much.
    free_disk_mb_min: int = Field(200, ge=0)
    # A log file is renamed at this size, and three are kept: 10 actors cost 400 MB at most.
    log_mb_max: int = Field(10, ge=1)

    def service_range(self, partition: int) -> str:
        """The service addresses of a tenant partition, counted from 0; no two overlap."""
        parts = _network(self.service_cidr).subnets(prefixlen_diff=6)
        return str(next(itertools.islice(parts, partition, None)))

    @field_validator("zones", mode="before")
    @classmethod
    def _zones(cls, value: Any) -> Any:
        """A flag has them with commas between."""
        return [zone for zone in value.split(",") if zone] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.tenant_partitions + self.resource_partitions > PARTITIONS_MAX:
            raise ValueError(
                f"tenant-partitions and resource-partitions together are at most {PARTITIONS_MAX}"
            )
        _network(self.service_cidr)
        return self


def _network(text: str) -> ipaddress.IPv4Network:
    """Raises ValueError for what is no IPv4 range, or too small to be shared out."""
    network = ipaddress.IPv4Network(text)
    if network.prefixlen > _SERVICE_PREFIX_MAX:
        raise ValueError(
            f"service_cidr {text}: a range of /{_SERVICE_PREFIX_MAX} or more is needed"
        )
    return network


def load(path: Path | None, flags: Mapping[str, Any]) -> Config:
    """The file, and the flags over it (None: not given). Raises ConfigError."""
    values: dict[str, Any] = {}
    if path is not None:
        values = _read(path)
    values.update({_flag(name): value for name, value in flags.items() if value is not None})
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        where = str(path) if path is not None else "command line"
        raise ConfigError("\n".join(f"{where}: {_said(e)}" for e in error.errors())) from None


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        read = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if read is None:
        return {}
    if not isinstance(read, dict):
        raise ConfigError(f"{path}: expected keys and values, found a {type(read).__name__}")
    return {str(key): value for key, value in read.items()}


def _said(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        close = _closest(key)
        return f"unknown key {key!r}" + (f"; did you mean {close!r}?" if close else "")
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {error['input']!r})" if key else message


def _closest(key: str) -> str | None:
    import difflib

    found = difflib.get_close_matches(_flag(key), map(_flag, Config.model_fields), 1)
    return found[0] if found else None
