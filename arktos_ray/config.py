"""arktos.yaml as types: every knob of the cluster, with its unit and its reason.

The keys of the file are the flags of `arktos up` without their dashes in front. A flag wins over
the file, the file over the default.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from arktos_ray.api import audit_policy, networks

# Revisions carry six bits of partition number (design.md D5).
PARTITIONS_MAX = 64
STORAGE_CLUSTERS_MAX = 64  # spec/scaleout.md 6
# 64 parts of 64 addresses each.
_SERVICE_PREFIX_MAX = 20


class ConfigError(Exception):
    """Something in the file or the flags cannot be meant. The message says what, and what may."""


def _flag(name: str) -> str:
    return name.replace("_", "-")


class EtcdCluster(BaseModel):
    """One etcd that keeps logs. Paths are those of every machine where partitions run."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=_flag, populate_by_name=True
    )

    endpoints: tuple[str, ...] = Field(min_length=1)  # host:port
    ca: Path | None = None  # With it, TLS.
    cert: Path | None = None
    key: Path | None = None
    user: str = ""
    password_file: Path | None = None
    # Everything of ours lies below it: clusters that share an etcd have one each.
    prefix: str = "/arktos"
    # How long a partition may answer without having heard from etcd, and how long its successor
    # waits for a machine that was lost. etcd's least is 2 s.
    ttl_s: float = Field(3.0, ge=2, le=60)

    @field_validator("endpoints", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("endpoints")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for endpoint in value:
            host, _, port = endpoint.rpartition(":")
            if "/" in endpoint or not host or not port.isdigit():
                raise ValueError(f"{endpoint} is no host:port")
        return value

    @model_validator(mode="after")
    def _fits(self) -> EtcdCluster:
        if bool(self.cert) != bool(self.key):
            raise ValueError("a client certificate and its key go together")
        if self.cert and not self.ca:
            raise ValueError("a client certificate needs the ca of the servers too")
        if bool(self.user) != bool(self.password_file):
            raise ValueError("a user and a password-file go together")
        if not self.prefix.startswith("/") or len(self.prefix.rstrip("/")) < 2:
            raise ValueError("prefix is a path such as /arktos")
        return self

    def spec(self) -> dict[str, Any]:
        """Plain values, for store/backends."""
        given = self.model_dump(exclude_none=True)
        for name, value in given.items():
            if isinstance(value, Path):
                given[name] = os.path.abspath(value.expanduser())
        return {"kind": "etcd", **given, "endpoints": list(self.endpoints)}


class OidcIssuer(BaseModel):
    """One issuer of OpenID Connect, and what the claims of its tokens mean here."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=_flag, populate_by_name=True
    )

    issuer: str
    client_id: str = Field(min_length=1)  # that `aud` must name
    username_claim: str = "sub"
    # Before names; nothing given: ISSUER# unless the name is an e-mail address.
    username_prefix: str | None = None
    groups_claim: str = ""
    groups_prefix: str = ""
    # The tenant of all its users, or the claim that says it; a claim never says `system`.
    tenant: str = ""
    tenant_claim: str = ""
    required_claims: dict[str, str] = Field(default_factory=dict)
    # Whom to believe that this is the issuer; nothing given: whom this machine trusts.
    ca_file: Path | None = None

    @model_validator(mode="after")
    def _fits(self) -> OidcIssuer:
        if not self.issuer.startswith("https://"):
            raise ValueError("an issuer is an https URL")
        if bool(self.tenant) == bool(self.tenant_claim):
            raise ValueError("either tenant or tenant-claim says whose users these are")
        return self

    def spec(self) -> dict[str, Any]:
        """Plain values, for ingress/oidc.py."""
        given = self.model_dump(exclude={"ca_file", "required_claims"})
        required = tuple(sorted(self.required_claims.items()))
        ca = os.path.abspath(self.ca_file.expanduser()) if self.ca_file else ""
        return {**given, "required_claims": required, "ca": ca}


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

    # Who signs the tokens of service accounts, as they say themselves; and for whom they are, when
    # nobody says: the API, by this name.
    service_account_issuer: str = "https://kubernetes.default.svc.cluster.local"
    api_audiences: tuple[str, ...] = ()

    # Who else vouches for users (ingress/oidc.py).
    oidc: tuple[OidcIssuer, ...] = ()
    # Static tokens: lines of token,user,uid,"groups",,tenant. Read again when it changes.
    token_auth_file: Path | None = None
    # CAs whose client certificates count, beside the cluster's own. Read again when it changes.
    client_ca_file: Path | None = None
    # Who shows no credential is system:anonymous, and may what roles of the system tenant say;
    # otherwise they are refused all but health and version.
    anonymous: bool = False

    # Whether webhooks of tenants may be on this machine. Not where tenants are strangers: they
    # could make the control plane connect to whatever listens here.
    webhooks_local: bool = False
    # Ranges of addresses where no webhook may be: the network of the control plane's machines.
    webhooks_refused: tuple[str, ...] = ()

    # The Network that a new tenant begins with: `off`, `flat`, `mizar`, or a file with one as JSON,
    # in which {{.}} is the tenant's name. Its finalizer is for a network provider to remove: with
    # none, name a file without a finalizer, or a tenant's deletion waits for ever.
    default_network: str = "off"

    # What one tenant may keep: objects, and megabytes of them. 0 is as many as there is room for.
    # Its Tenant may say otherwise (spec.limits; `arktos tenant limits`).
    tenant_objects_max: int = Field(0, ge=0)
    tenant_mb_max: int = Field(0, ge=0)
    # What one tenant may have at each ingress; beyond it, 429 with a time to come back. The
    # defaults and their reasons: ingress/limits.py; all limits: docs/limits.md.
    tenant_calls_max: int = Field(1_024, ge=1)
    tenant_watches_max: int = Field(2_000, ge=1)
    # Bodies of requests and of large answers that are in memory.
    tenant_bytes_mb_max: int = Field(128, ge=4)
    # 0 is as many as its fair share of the partition allows.
    tenant_requests_per_s: float = Field(0.0, ge=0)

    # The audit log of each ingress, logs/audit-ingress-N.log: `changes` (who changed what and when,
    # without bodies), `off`, or a file with an audit.k8s.io/v1 Policy.
    audit: str = "changes"
    # batch: a disk that is full or slow stops nobody, and what does not fit is dropped and counted.
    # blocking: nobody is answered before it is written.
    audit_mode: Literal["batch", "blocking"] = "batch"
    # A file is renamed at this size; so many are kept, the newest included, and no longer than
    # that (0: for ever). A line has about 800 bytes: these are 120,000 changes of one ingress.
    audit_file_mb_max: int = Field(20, ge=1)
    audit_files_max: int = Field(5, ge=1)
    audit_days_max: int = Field(30, ge=0)

    # How actors converse: over sockets, or over Ray calls alone (a hundred times slower).
    transport: Literal["stream", "ray"] = "stream"
    # Which tenant partition a new tenant gets (tenancy/assignment.py).
    assignment: Literal["letters", "hash"] = "letters"
    # Service addresses. Every tenant partition gets a 64th of the range: 16,384 of the default.
    service_cidr: str = "10.96.0.0/12"

    # Where logs are: a file each on this machine, or an etcd, from which a partition comes back on
    # any machine. The etcd-... keys are of storage cluster "0"; etcd-clusters has the others, by
    # their ids, each with the same keys: {"1": {endpoints: [...], ca: ...}}.
    storage: Literal["sqlite", "etcd"] = "sqlite"
    etcd_endpoints: tuple[str, ...] = ()
    etcd_ca: Path | None = None
    etcd_cert: Path | None = None
    etcd_key: Path | None = None
    etcd_user: str = ""
    etcd_password_file: Path | None = None
    etcd_prefix: str = "/arktos"
    etcd_ttl_s: float = 3.0
    etcd_clusters: dict[str, EtcdCluster] = Field(default_factory=dict)

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

    def storages(self) -> dict[str, dict[str, Any]]:
        """Storage cluster id -> what `open_log` is told of it. "0" is the system's."""
        first = {"kind": "sqlite"} if self.storage == "sqlite" else self._etcd().spec()
        return {"0": first, **{id_: cluster.spec() for id_, cluster in self.etcd_clusters.items()}}

    def _etcd(self) -> EtcdCluster:
        values = {name: getattr(self, f"etcd_{name}") for name in EtcdCluster.model_fields}
        return EtcdCluster(**values)

    def audit_spec(self) -> dict[str, Any]:
        """Plain values, for ingress/audit.py; empty when it is off. Raises ConfigError."""
        if self.audit == "off":
            return {}
        policy: Any = audit_policy.CHANGES
        if self.audit != "changes":
            path = Path(self.audit).expanduser()
            policy = _read(path)
            try:
                audit_policy.read(policy)
            except ValueError as error:
                raise ConfigError(f"{path}: {error}") from None
        return {
            "policy": policy,
            "mode": self.audit_mode,
            "bytes_max": self.audit_file_mb_max << 20,
            "files_max": self.audit_files_max,
            "days_max": self.audit_days_max,
        }

    def network_template(self) -> dict[str, Any] | None:
        """What api/networks.py makes networks of. Raises ConfigError."""
        text = self.default_network
        if text == "off":
            return None
        path = Path(text).expanduser()
        try:
            return networks.read_template(text if text in ("flat", "mizar") else path.read_text())
        except OSError as error:
            raise ConfigError(f"default-network: {path}: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"default-network: {path}: {error}") from None

    @field_validator("audit", "default_network", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "off" if value is False else value  # What YAML makes of the word.

    @field_validator("etcd_endpoints", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("etcd_clusters")
    @classmethod
    def _ids(cls, value: dict[str, EtcdCluster]) -> dict[str, EtcdCluster]:
        for id_ in value:
            if not (id_.isascii() and id_.isdigit() and 1 <= int(id_) < STORAGE_CLUSTERS_MAX):
                raise ValueError(f"{id_} is no id of a storage cluster: 1 to 63, 0 is the system's")
        return value

    @field_validator("zones", mode="before")
    @classmethod
    def _zones(cls, value: Any) -> Any:
        """A flag has them with commas between."""
        return [zone for zone in value.split(",") if zone] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.storage == "etcd":
            if not self.etcd_endpoints:
                raise ValueError("storage: etcd needs etcd-endpoints")
            try:
                self._etcd()
            except ValidationError as error:
                said = error.errors()[0]
                at = "".join(f"etcd-{_flag(str(part))}: " for part in said["loc"][:1])
                raise ValueError(at + said["msg"].removeprefix("Value error, ")) from None
        elif self.etcd_endpoints:
            raise ValueError("etcd-endpoints without storage: etcd would not be used")
        if self.tenant_partitions + self.resource_partitions > PARTITIONS_MAX:
            raise ValueError(
                f"tenant-partitions and resource-partitions together are at most {PARTITIONS_MAX}"
            )
        _network(self.service_cidr)
        for one in self.webhooks_refused:
            ipaddress.ip_network(one)
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
