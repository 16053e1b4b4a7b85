"""Where actors may run in a cluster of several machines, and what they find there. Knows no Ray.

`placement` says within which bounds Ray may choose a machine, `choose` which one is best now.
Ray's own SPREAD put three of five free actors beside all that are tied, and none on a third
machine: every raylet takes turns of its own. After a loss Ray chooses alone, at once.

An actor whose state is in etcd, or that has none, runs anywhere, and elsewhere when its machine is
lost. What keeps files stays where they are: the machine of the driver, found by its address,
because Ray's id of a node is another after each start of its raylet.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arktos_ray.actors.inside import Inside
from arktos_ray.base import machine, pki
from arktos_ray.base.places import Places

Spec = dict[str, Any]

# In the environment of a raylet: our directory on that machine. Without it, the driver's path.
HOME_VARIABLE = "ARKTOS_MACHINE_HOME"
ZONE_LABEL = "arktos.io/zone"
# Roles that keep something, and where their specs say where. In SQLite it is a file.
_KEEPING = {
    "tenant partition": "storage", "resource partition": "storage", "supervisor": "system_storage",
}  # fmt: skip
_FIRST_INGRESS = "ingress-1"
# A share of the resource that every Ray node has under its address.
_PIN_SHARE = 0.001

# What every `ray start` of such a cluster needs in its environment (cluster.yaml sets it so).
# With Ray's own figures a lost machine is noticed after 17 s, with these after 2.5 s: three
# questions half a second apart, each with a second for the answer. Three in a row, because a
# raylet of a machine with two busy cores may be late once.
RAY_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    # How long actors go on while the GCS is away. Ray ends them after 60 s of its own accord.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """One node of Ray, as an actor finds it: Ray's id, the address, and our directory there."""

    node_id: str
    address: str
    home: str = ""

    def pack(self) -> dict[str, str]:
        return {"node_id": self.node_id, "address": self.address, "home": self.home}


@dataclass(frozen=True, slots=True)
class Placement:
    """The bounds within which Ray may choose. resources: custom ones that it claims."""

    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    spread: bool = True

    @property
    def free(self) -> bool:
        """Whether any machine will do: what claims or has a zone goes where Ray finds room."""
        return self.spread and not self.resources and not self.labels


def stays(role: str, spec: Spec) -> bool:
    """Whether its files, or who looks for it, tie it to the machine of the driver."""
    if role == "node agent":
        return True  # It is that machine.
    if spec["name"] == _FIRST_INGRESS:
        return True  # The URL in kubeconfigs names that machine; the others are anywhere.
    if role not in _KEEPING:
        return False
    kind: str = (spec.get(_KEEPING[role]) or {}).get("kind", "sqlite")
    return kind == "sqlite"


def placement(role: str, spec: Spec, claimed: Mapping[str, float], home: Machine) -> Placement:
    """Where an actor may run. home: the machine of the driver.

    claimed: units of custom resources, by which the autoscaler knows that a machine is missing.
    """
    if stays(role, spec):
        # What it claims is there already, so that it never asks for a machine that it cannot use.
        return Placement({f"node:{home.address}": _PIN_SHARE}, spread=False)
    zone = spec.get("zone", "")
    return Placement(dict(claimed), {ZONE_LABEL: zone} if zone else {})


def choose(
    role: str, at: Iterable[str], placed: Mapping[str, tuple[str, str]], home: str
) -> str | None:
    """The best of these machines for one more actor of that role; None when there is none.

    placed: name -> (role, machine) of those that are somewhere. Fewest of the same role first:
    an ingress a machine while there are enough. Then fewest of all, and rather not the home,
    which has all that cannot be elsewhere.
    """
    same = Counter(machine for other, machine in placed.values() if other == role)
    every = Counter(machine for _, machine in placed.values())
    return min(at, key=lambda m: (same[m], every[m], m == home, m), default=None)


# What an actor finds there


def spanning(spec: Spec) -> bool:
    """Whether the cluster of this spec may have several machines."""
    return "inner" in spec


def elsewhere(spec: Spec) -> bool:
    """Whether a settled spec is of a machine that is not the driver's."""
    return _away(spec, spec["machine"]["address"])


def _away(spec: Spec, address: str) -> bool:
    # By the address: Ray's id of the driver's machine is another when its raylet was started
    # again, and its partitions would find themselves on a new machine, with no data.
    return spanning(spec) and address != spec["home_machine"]["address"]


def inner(places: Places, now: float) -> list[bytes]:
    """The CA of the inside, as it travels in every spec of a cluster of several machines."""
    found = pki.ensure_inner(places.pki, pki.utc(now))
    return [found.certificate, found.key]


def carried(places: Places) -> dict[str, bytes]:
    """The files that an ingress needs wherever it runs, by their path under the home."""
    found = [places.pki / "ca.crt", places.pki / "ca.key", places.token_key]
    found += sorted(places.account_keys.glob("*"))
    found += [places.signer / "ca.crt", places.signer / "ca.key"]
    return {str(p.relative_to(places.home)): p.read_bytes() for p in found if p.exists()}


def places(spec: Spec, here: Machine, environment: Mapping[str, str]) -> Places:
    """Our directories on this machine."""
    home = spec["home_machine"]["home"]
    if _away(spec, here.address):
        return Places(Path(environment.get(HOME_VARIABLE) or home))
    return Places(Path(home))


def settled(spec: Spec, here: Machine, environment: Mapping[str, str]) -> Spec:
    """The spec with the directories of this machine. Pure."""
    found = places(spec, here, environment)
    there: Spec = {
        "home": str(found.home),
        "data_dir": str(found.data),
        "run_dir": str(found.run),
        "log_dir": str(found.logs),
        "machine": {**here.pack(), "home": str(found.home)},
    }
    if "keys_dir" in spec:
        there["keys_dir"] = str(found.account_keys)
    if "signer_dir" in spec:
        there["signer_dir"] = str(found.signer)
    if "pki_dir" in spec:
        there |= {"pki_dir": str(found.pki), "token_key": str(found.token_key)}
    return {**spec, **there}


def settle(spec: Spec, here: Machine, now: float) -> Spec:
    """The same, with the directories made and the files that it carries written."""
    found = places(spec, here, os.environ)
    if _away(spec, here.address):
        found.make()
        for name, content in spec.get("carried", {}).items():
            path = found.home / name
            if path.parent == found.signer and path.suffix == ".key":
                needed = "signer_dir" in spec
            elif path.parent == found.account_keys:
                needed = "keys_dir" in spec
            else:
                needed = "pki_dir" in spec
            if not needed:
                continue
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != content:
                pki.write_private(path, content)
        if "pki_dir" in spec:
            # A certificate of the API for the names of this machine.
            names = [*pki.server_names(spec["bind"]), here.address, machine.address()]
            pki.ensure(found.pki, names, pki.utc(now))
    return settled(spec, here, os.environ)


def inside(spec: Spec, now: float) -> Inside | None:
    """An actor's credentials for other machines; None in a cluster of one."""
    if not spanning(spec):
        return None
    own = spec["machine"]
    return Inside(
        spec["name"], pki.InnerCa(*spec["inner"]), now, machine=own["node_id"],
        host=own["address"], run_dir=Path(spec["run_dir"]),
    )  # fmt: skip
