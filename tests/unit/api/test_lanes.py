"""Whose turn it is depends on what their calls cost."""

from __future__ import annotations

from arktos_ray.api import lanes
from arktos_ray.api.calls import Call, User

DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"
BOB = User("bob", "acme")


def test_who_writes_what_must_be_compiled_pays_for_it_with_the_next_turns() -> None:
    body = bytes(1 << 20)
    plain = lanes.cost_of(Call("create", "configmaps", "acme", body=body, user=BOB))
    compiled = lanes.cost_of(Call("create", DEFINITIONS, "acme", body=body, user=BOB))
    assert plain < 10_000 < 1_000_000 < compiled
    assert lanes.cost_of(Call("get", DEFINITIONS, "acme", user=BOB)) == 15
