"""Everybody has Networks, by a definition of the system tenant that nobody else changes."""

from __future__ import annotations

import orjson

from arktos_ray.api import networks
from tests.unit.apiserver.acme_world import Acme, acme

DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"


def test_a_tenant_finds_the_kind_and_keeps_networks_of_its_own() -> None:
    async def story(world: Acme) -> None:
        at = ("acme", "", networks.NETWORKS)
        defined = await world.ok("get", DEFINITIONS, at=at)
        assert defined["metadata"]["tenant"] == "system"
        gvr, body = networks.of_tenant(networks.read_template("mizar"), "acme")
        made = await world.ok("create", gvr, body, at=("acme", "", ""))
        assert (made["metadata"]["tenant"], made["spec"]["type"]) == ("acme", "mizar")
        call = world.call("list", gvr, at=("acme", "", ""))
        call.accept = "Table"
        [reply] = await world.part.call([call])
        table = orjson.loads(reply.body)
        assert [c["name"] for c in table["columnDefinitions"]] == [
            "Name", "Type", "VPC", "Phase", "DNS",
        ]  # fmt: skip
        assert table["rows"][0]["cells"][:3] == ["default", "mizar", "acme-default-network"]
        refused = await world.reply("delete", DEFINITIONS, at=at)
        assert refused.code == 403
        assert "it can only be deleted by a cluster admin" in refused.body.decode()
        wrong = await world.reply(
            "create", gvr, {"metadata": {"name": "x"}, "spec": {}}, at=("acme", "", "")
        )
        assert wrong.code == 422

    acme(story)
