"""The JavaScript package @kubernetes/client-node in a tenant: client.mjs is its user."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from livekit import Cluster, Program, javascript

pytestmark = pytest.mark.live


@pytest.mark.parametrize("server", ["own", "prefix"])
def test_javascript(
    server: str, cluster: Cluster, tmp_path: Path, kubectl: Callable[..., Program]
) -> None:
    """By the tenant's credential, and by the operator's with the tenant after the address."""
    here = javascript()
    if here is None:
        pytest.skip("no Node 22 with @kubernetes/client-node here: npm or pip cannot fetch it")
    node, modules = here
    (tmp_path / "node_modules").symlink_to(modules)
    shutil.copy(Path(__file__).with_name("client.mjs"), tmp_path)
    kubeconfig = cluster.tenant("script")
    if server == "prefix":
        kubeconfig = cluster.kubeconfig(cluster.admin, "script-op", suffix="/t/script")
    program = Program(node, kubeconfig, tmp_path, str(tmp_path / "client.mjs"))
    seen = json.loads(program(f"js-{server}"))

    assert seen["patches"] == [
        {"a": "2", "b": "1"}, {"a": "2"}, {"a": "3"}, {"a": "3", "d": "4"},
    ]  # fmt: skip
    assert ["js", "Apply"] in seen["managers"]
    assert seen["stale"] == {"code": 409, "reason": "Conflict"}
    assert seen["gone"] == {"code": 404, "reason": "NotFound"}
    assert seen["listed"] == ["c"]
    assert seen["informed"] == [
        "add c 1", "update c 2", "update c 2", "update c 3", "update c 3", "delete c 3",
    ]  # fmt: skip
    assert seen["page"] == [1, 1, True]
    assert seen["watched"] == [
        "ADDED one 1", "MODIFIED two 1", "MODIFIED three 3", "DELETED three 3",
    ]  # fmt: skip
    assert seen["invalid"] == {"code": 422, "reason": "Invalid"}
    assert seen["may"] is True
    # Neither is the cluster's: whoever is in a tenant sees none.
    assert seen["nodes"]["code"] == (403 if server == "own" else 404)
    k = kubectl(cluster.tenant("script"))
    assert "notes.js.example.com" not in k("get", "crd", "-o", "name")
