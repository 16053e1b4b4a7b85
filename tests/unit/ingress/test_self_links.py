"""selfLink: as spec/multitenancy.md 3.4 says, and only for clients that are old enough."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from arktos_ray.ingress import self_links

from .fakes import run
from .test_server import serving


@pytest.mark.parametrize(
    ("agent", "old"),
    [
        ("kubectl/v1.15.0 (linux/amd64) kubernetes/abc", True),
        ("kubectl/v0.0.0 (linux/amd64) kubernetes/$Format", True),
        ("e2e.test/v1.9.3 (linux/amd64)", True),
        ("kubectl/v1.20.2 (linux/amd64)", False),
        ("kubectl1.33/v1.33.1 (linux/amd64)", False),
        ("OpenAPI-Generator/37.0.0/python", False),
        ("curl/7.88", False),
        ("", False),
    ],
)
def test_only_old_clients_know_of_it(agent: str, old: bool) -> None:
    assert self_links.knows(agent) is old


@pytest.mark.parametrize(
    ("path", "plural", "meta", "link"),
    [
        ("/api/v1/nodes/n1", "nodes", {"name": "n1"}, "/api/v1/nodes/n1"),
        (
            "/api/v1/namespaces/default/pods/p", "pods",
            {"name": "p", "namespace": "default", "tenant": "system"},
            "/api/v1/namespaces/default/pods/p",
        ),
        (
            "/api/v1/namespaces/n/pods/p", "pods", {"name": "p", "namespace": "n", "tenant": "t"},
            "/api/v1/tenants/t/namespaces/n/pods/p",
        ),
        (
            "/api/v1/tenants/t/namespaces/default", "namespaces",
            {"name": "default", "tenant": "t"}, "/api/v1/tenants/t/namespaces/default",
        ),
        (
            "/t/t/apis/rbac.authorization.k8s.io/v1/clusterroles/admin-role", "clusterroles",
            {"name": "admin-role", "tenant": "t"},
            "/apis/rbac.authorization.k8s.io/v1/tenants/t/clusterroles/admin-role",
        ),
        (
            "/apis/extensions/v1beta1/namespaces/n/deployments/x", "deployments",
            {"name": "x", "namespace": "n", "tenant": "t"},
            "/apis/extensions/v1beta1/tenants/t/namespaces/n/deployments/x",
        ),
    ],
)  # fmt: skip
def test_it_names_the_tenant_and_the_group_that_was_asked(
    path: str, plural: str, meta: dict[str, Any], link: str
) -> None:
    body = orjson.dumps({"kind": "X", "metadata": meta})
    assert orjson.loads(self_links.add(body, path, plural, ""))["metadata"]["selfLink"] == link


def test_old_clients_are_given_it_and_others_nothing() -> None:
    async def story() -> None:
        path = "/api/v1/namespaces/n/configmaps"
        async with serving() as client:
            body = {"metadata": {"name": "c", "namespace": "n", "tenant": "acme"}}
            old = {"User-Agent": "kubectl/v1.15.0 (linux/amd64)"}
            own = "/api/v1/tenants/acme/namespaces/n/configmaps/c"
            _, made, _ = await client.say("POST", path, body, "bob", **old)
            assert made["metadata"]["selfLink"] == own
            _, listed, _ = await client.say("GET", f"{path}?limit=500", token="bob", **old)
            assert listed["metadata"]["selfLink"] == path
            assert [i["metadata"]["selfLink"] for i in listed["items"]] == [own]
            _, found, _ = await client.say("GET", f"{path}/c", token="bob")
            assert "selfLink" not in found["metadata"]

    run(story())
