"""The topology in a file; in an etcd it is tried in tests/live/test_etcd.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from arktos_ray.actors.cast import common_spec
from arktos_ray.actors.topology import EtcdTopology, FileTopology, TopologyStore, topology_store
from arktos_ray.base.places import Places
from arktos_ray.config import Config
from arktos_ray.testing.contracts_topology import TopologyStoreContract


class TestFileTopology(TopologyStoreContract):
    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "data" / "topology.json"
        self.path.parent.mkdir()

    def made(self) -> TopologyStore:
        return FileTopology(self.path)

    def spoil(self) -> None:
        self.path.write_text('{"version": ')

    def cut(self) -> None:
        shutil.rmtree(self.path.parent)


def test_it_is_where_the_logs_of_the_system_are(tmp_path: Path) -> None:
    places = Places(tmp_path)
    assert isinstance(topology_store(common_spec(Config(), places)), FileTopology)

    etcd = Config.model_validate({"storage": "etcd", "etcd_endpoints": "10.0.0.1:2379"})
    assert isinstance(topology_store(common_spec(etcd, places)), EtcdTopology)
