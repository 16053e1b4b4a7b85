"""Where actors may run, and what they find on each machine."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arktos_ray.actors import machines
from arktos_ray.actors.cast import Actor, cast, settings
from arktos_ray.actors.machines import HOME_VARIABLE, ZONE_LABEL, Machine, Placement
from arktos_ray.base import pki
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.places import Places
from arktos_ray.config import Config
from arktos_ray.tenancy.topology import initial

HOME = Machine("node-a", "10.0.0.1", "/driver/home")
ETCD = {"kind": "etcd"}
NOW = SystemClock().now()


def everyone(**given: Any) -> list[Actor]:
    config = Config.model_validate({"ingresses": 2, **given})
    zones = config.zones
    topology = initial(config.tenant_partitions, config.resource_partitions, zones=zones)
    return cast(settings(config, Places(Path("/driver/home")), node="m1"), topology)


def placed(actor: Actor, **spec: Any) -> Placement:
    return machines.placement(actor.role, {**actor.spec, **spec}, actor.resources, HOME)


def test_what_keeps_files_stays_with_them_and_all_the_rest_runs_anywhere() -> None:
    pinned = {a.name for a in everyone() if not placed(a).spread}

    assert pinned == {"tp-1", "tp-2", "rp-1", "rp-2", "node-agent", "ingress-1"}
    for actor in everyone():
        bounds = placed(actor)
        assert bounds.resources == ({"node:10.0.0.1": 0.001} if actor.name in pinned else {})


def test_with_state_in_etcd_only_this_machine_and_its_url_stay() -> None:
    pinned = {a.name for a in everyone() if not placed(a, storage=ETCD).spread}

    assert pinned == {"node-agent", "ingress-1"}
    assert not machines.stays("supervisor", {"name": "supervisor", "system_storage": ETCD})
    assert machines.stays("supervisor", {"name": "supervisor"})


def test_partitions_claim_a_unit_so_that_machines_are_added_for_them() -> None:
    claims = {
        a.name: placed(a, storage=ETCD).resources
        for a in everyone(claim_resources=True)
        if a.role.endswith("partition")
    }

    assert claims == {
        "tp-1": {"tenant_partition": 1.0}, "tp-2": {"tenant_partition": 1.0},
        "rp-1": {"resource_partition": 1.0}, "rp-2": {"resource_partition": 1.0},
    }  # fmt: skip


def test_partitions_take_the_zones_in_turn() -> None:
    zones = {
        a.name: placed(a, storage=ETCD).labels.get(ZONE_LABEL)
        for a in everyone(zones="a,b,c", tenant_partitions=4)
        if a.role.endswith("partition")
    }

    assert zones == {"tp-1": "a", "tp-2": "b", "tp-3": "c", "tp-4": "a", "rp-1": "a", "rp-2": "b"}
    assert not any(placed(a, storage=ETCD).labels for a in everyone())


def test_actors_are_dealt_out_evenly_each_role_by_itself() -> None:
    placed = {f"tied-{i}": ("tenant partition", "home") for i in range(4)}
    for i in range(3):
        for role in ("ingress", "scheduler"):
            at = machines.choose(role, ["home", "m1", "m2"], placed, "home")
            assert at is not None
            placed[f"{role}-{i}"] = (role, at)

    for role in ("ingress", "scheduler"):
        assert sorted(m for r, m in placed.values() if r == role) == ["home", "m1", "m2"]
    assert machines.choose("shard", ["home", "m1", "m2"], placed, "home") in ("m1", "m2")
    assert machines.choose("shard", [], placed, "home") is None


@pytest.fixture
def driver(tmp_path: Path) -> tuple[Places, dict[str, Any]]:
    """The driver's machine, and the spec of an ingress that may run anywhere."""
    places = Places(tmp_path / "driver")
    places.make()
    pki.ensure(places.pki, ["localhost"], pki.utc(NOW))
    pki.ensure_secret(places.token_key)
    given = settings(Config.model_validate({"ingresses": 2}), places, node=None)
    [actor] = [a for a in cast(given, initial(1, 1)) if a.name == "ingress-2"]
    home = Machine("node-a", "10.0.0.1", str(places.home))
    return places, {
        **actor.spec, "home_machine": home.pack(), "inner": machines.inner(places, NOW),
        "carried": machines.carried(places),
    }  # fmt: skip


@pytest.fixture
def home() -> Iterator[Path]:
    """Short enough for sockets below it."""
    with tempfile.TemporaryDirectory(prefix="arktos-") as path:
        yield Path(path)


def test_on_another_machine_an_actor_has_directories_of_that_machine(
    driver: tuple[Places, dict[str, Any]], home: Path
) -> None:
    places, spec = driver
    other = Machine("node-b", "10.0.0.2")

    there = machines.settled(spec, other, {HOME_VARIABLE: str(home)})
    same_path = machines.settled(spec, other, {})
    at_home = machines.settled(spec, Machine("node-a", "10.0.0.1"), {HOME_VARIABLE: "/not/here"})

    assert there["run_dir"] == str(home / "run")
    assert there["machine"]["address"] == "10.0.0.2"
    assert same_path["log_dir"] == str(places.logs)
    assert at_home["data_dir"] == str(places.data)


def test_the_drivers_machine_is_the_same_after_its_raylet_was_started_again(
    driver: tuple[Places, dict[str, Any]],
) -> None:
    places, spec = driver
    again = Machine("node-with-a-new-id", "10.0.0.1")

    there = machines.settled(spec, again, {HOME_VARIABLE: "/not/here"})

    assert there["data_dir"] == str(places.data), "its partitions would begin with nothing"
    assert not machines.elsewhere(there)


def test_an_ingress_on_another_machine_has_the_keys_and_a_certificate_for_that_machine(
    driver: tuple[Places, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, spec = driver
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "other"))

    for _ in range(2):
        there = machines.settle(spec, Machine("node-b", "10.0.0.2"), NOW)

    keys = Path(there["pki_dir"])
    assert Path(there["token_key"]).read_bytes() == places.token_key.read_bytes()
    assert (keys / "ca.crt").read_bytes() == (places.pki / "ca.crt").read_bytes()
    certificate = (keys / "server.crt").read_bytes()
    assert b"BEGIN CERTIFICATE" in certificate
    assert certificate != (places.pki / "server.crt").read_bytes()
    for path in (keys / "ca.key", keys / "server.key", Path(there["token_key"])):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_in_a_cluster_of_one_machine_nobody_listens_for_others(home: Path) -> None:
    spec = {"name": "tp-1", "home_machine": Machine("node-a", "127.0.0.1", str(home)).pack()}

    settled = machines.settle(spec, Machine("node-a", "127.0.0.1"), NOW)

    assert machines.inside(settled, NOW) is None
    assert settled["run_dir"] == str(home / "run")
    assert list(home.iterdir()) == []
