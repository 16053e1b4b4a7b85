"""Aggregated ClusterRoles say what they gather."""

from __future__ import annotations

from typing import Any

from arktos_ray.api.names import Key
from arktos_ray.controllers.clusterroleaggregation.controller import ClusterRoleAggregation
from arktos_ray.controllers.clusterroleaggregation.plan import plan
from arktos_ray.tenancy.roles import CLUSTER_ROLES, rule

Object = dict[str, Any]
PODS, SECRETS, CRONS = (rule(["get"], [""], plural) for plural in ("pods", "secrets", "crons"))


def role(name: str, *rules: Object, gathers: str = "", **labels: str) -> Object:
    made: Object = {"metadata": {"name": name, "tenant": "acme", "labels": labels}}
    made["rules"] = list(rules)
    if gathers:
        made["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {gathers: "yes"}}]}
    return made


def test_it_gathers_what_its_selectors_choose_once_and_in_an_order_of_its_own() -> None:
    every = [role("b", PODS, CRONS, a="yes"), role("a", PODS, a="yes"), role("c", SECRETS)]
    action = plan(role("all", gathers="a"), every)
    assert action is not None
    assert action.rules == [PODS, CRONS]
    assert plan(role("all", PODS, CRONS, gathers="a"), every[::-1]) is None
    assert plan(role("plain", PODS), every) is None


def test_two_that_gather_each_other_come_to_rest(play: Any) -> None:
    async def story(world: Any) -> None:
        await world.start(ClusterRoleAggregation(world.parts()))
        world.tp.put(CLUSTER_ROLES, role("one", gathers="x", y="yes"))
        world.tp.put(CLUSTER_ROLES, role("two", gathers="y", x="yes"))
        world.tp.put(CLUSTER_ROLES, role("pods", PODS, x="yes"))

        def rules(name: str) -> Any:
            return world.tp.find(CLUSTER_ROLES, "acme", "", name)["rules"]

        await world.clock.advance(2)
        assert rules("one") == rules("two") == [PODS]
        writes = len(world.tp.batches)
        await world.clock.advance(5)
        assert len(world.tp.batches) == writes
        await world.client.update(
            CLUSTER_ROLES, Key("acme", "", "pods"), role("pods", PODS, SECRETS, x="yes")
        )
        await world.clock.advance(2)
        assert rules("one") == [PODS, SECRETS]

    play(story)
