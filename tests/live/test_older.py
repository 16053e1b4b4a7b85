"""Manifests of the API groups that Kubernetes 1.15 had, applied by today's kubectl."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from livekit import Cluster, Program

pytestmark = pytest.mark.live


@pytest.mark.parametrize("version", ["extensions/v1beta1", "apps/v1beta1", "apps/v1beta2"])
def test_an_old_manifest_is_applied_changed_and_deleted(
    cluster: Cluster, kubectl: Callable[..., Program], version: str
) -> None:
    k = kubectl(cluster.tenant("antiquary"))
    group, _, short = version.partition("/")
    name = version.replace("/", "-")
    old: dict[str, Any] = {
        "apiVersion": version, "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": 1, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]},
        }},
    }  # fmt: skip
    k("apply", "-f", "-", stdin=old)
    k("rollout", "status", f"deploy/{name}", "--timeout=30s")
    old["spec"]["replicas"] = 2
    assert "configured" in k("apply", "-f", "-", stdin=old)
    assert "unchanged" in k("apply", "-f", "-", stdin=old)
    seen = k.json("get", f"deployments.{short}.{group}", name)
    assert (seen["apiVersion"], seen["spec"]["replicas"]) == (version, 2)
    assert k.json("get", "deploy", name)["apiVersion"] == "apps/v1"
    # Whatever it is called, it is shown once.
    assert k("get", "all", "-o", "name").split().count(f"deployment.apps/{name}") == 1
    k("rollout", "status", f"deployments.{short}.{group}/{name}", "--timeout=30s")
    k("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=old)
    assert "deleted" in k("delete", "-f", "-", stdin=old)
    assert name not in k("get", "deploy", "-o", "name")
