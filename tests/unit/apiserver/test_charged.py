"""Who makes the loop of a partition wait, pays for it; others do not wait behind them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from acme_world import ADMIN, Acme, acme

from arktos_ray.api.calls import User


def test_others_go_before_a_tenant_whose_rules_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "tenants", {"metadata": {"name": "zeta"},
                   "spec": {"storageClusterId": "0"}}, at=("", "", ""), user=ADMIN)  # fmt: skip
        await w.ok(
            "create", "namespaces", {"metadata": {"name": "n"}}, at=("zeta", "", ""),
            user=User("admin", "zeta"),
        )  # fmt: skip

        def slow(partition: Any, call: Any, *rest: Any) -> None:
            if call.tenant == "acme":
                w.clock._monotonic += 0.02

        monkeypatch.setattr(w.part.server.partition.policies, "check", slow)
        order = []

        async def batch(tenant: str, number: int) -> None:
            user = User("admin", tenant)
            replies = await w.part.call([
                w.call("create", "configmaps", {"metadata": {"name": f"c{number}-{i}"}},
                       at=(tenant, "n", ""), user=user)
                for i in range(20)
            ])  # fmt: skip
            assert all(reply.ok for reply in replies)
            order.append((tenant, number))

        await asyncio.gather(
            *(batch("acme", i) for i in range(3)), *(batch("zeta", i) for i in range(3))
        )
        assert order[0] == ("acme", 0)
        assert order[1:] == [("zeta", 0), ("zeta", 1), ("zeta", 2), ("acme", 1), ("acme", 2)]

    acme(story)
