"""A tenant only comes to partitions whose logs are in its storage cluster."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api.errors import Invalid
from arktos_ray.tenancy.assignment import assign, stored_in
from arktos_ray.tenancy.topology import PartitionRow

clusters = st.sampled_from(["0", "1", "63"])


@given(st.lists(clusters, min_size=1, max_size=10), clusters, st.text("abcxyz09", min_size=1))
def test_a_tenant_gets_a_partition_of_its_storage_cluster_or_none(
    storages: list[str], cluster: str, tenant: str
) -> None:
    rows = [PartitionRow(f"tp-{i}", "tenant", i, storage=s) for i, s in enumerate(storages)]
    if cluster not in storages:
        with pytest.raises(Invalid, match=f"storage cluster {cluster}"):
            stored_in(cluster, rows)
        return
    for rule in ("letters", "hash"):
        chosen = assign(tenant, stored_in(cluster, rows), rule)
        assert storages[int(chosen.removeprefix("tp-"))] == cluster


def test_a_tenant_without_a_storage_cluster_may_go_anywhere() -> None:
    rows = [PartitionRow("tp-1", "tenant", 1), PartitionRow("tp-2", "tenant", 2, storage="1")]
    assert stored_in("", rows) == ["tp-1", "tp-2"]
