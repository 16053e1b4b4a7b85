"""Secrets with tokens, and the CA in every namespace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api.names import Key
from arktos_ray.controllers.rootca.controller import RootCa
from arktos_ray.controllers.serviceaccount.controller import ServiceAccounts
from arktos_ray.controllers.serviceaccounttoken.controller import ServiceAccountTokens
from arktos_ray.controllers.serviceaccounttoken.plan import Create, Delete, Fill, plan
from arktos_ray.tenancy.accounts import NAME_ANNOTATION, ROOT_CA, UID_ANNOTATION

TYPE = "kubernetes.io/service-account-token"


def _account(uid: str) -> dict[str, Any]:
    return {"metadata": {"tenant": "acme", "namespace": "n", "name": "bot", "uid": uid}}


def _secret(name: str, uid: str) -> dict[str, Any]:
    annotations = {NAME_ANNOTATION: "bot", **({UID_ANNOTATION: uid} if uid else {})}
    return {"metadata": {"name": name, "uid": name, "annotations": annotations}}


secrets = st.lists(
    st.builds(
        _secret, st.sampled_from(["bot-token-a", "bot-token-b", "mine"]),
        st.sampled_from(["", "new", "old"]),
    ),
    unique_by=lambda secret: secret["metadata"]["name"],
)  # fmt: skip


@given(uid=st.sampled_from(["new", None]), secrets=secrets)
def test_carrying_out_the_plan_leaves_one_secret_and_none_of_others(
    uid: str | None, secrets: list[dict[str, Any]]
) -> None:
    account = None if uid is None else _account(uid)
    held = {secret["metadata"]["name"]: secret for secret in secrets}
    for _ in range(10):
        match plan(account, list(held.values())):
            case Create(body):
                assert not any(name.startswith("bot-token-") for name in held)
                made = {**body, "metadata": {**body["metadata"], "name": "bot-token-x"}}
                held["bot-token-x"] = made
            case Delete(named):
                for name, _uid in named:
                    del held[name]
            case Fill(name, annotations):
                held[name]["metadata"]["annotations"] |= annotations
            case None:
                break
    else:
        raise AssertionError("there is no end of it")
    if account is None:
        assert not held
    else:
        assert any(name.startswith("bot-token-") for name in held)
        for secret in held.values():
            assert secret["metadata"]["annotations"][UID_ANNOTATION] == "new"


def _world(world: Any) -> list[Any]:
    parts = replace(world.parts(), ca="the CA")
    return [kind(parts) for kind in (ServiceAccounts, ServiceAccountTokens, RootCa)]


def _tokens(world: Any, tenant: str = "acme") -> list[dict[str, Any]]:
    return [s for s in world.tp.all("secrets", tenant) if s.get("type") == TYPE]


async def _begin(world: Any) -> None:
    await world.start(*_world(world))
    for tenant in ("acme", "other"):
        body = {"metadata": {"tenant": tenant, "name": "default"}}
        await world.client.create("namespaces", tenant, "", body)
    await world.clock.advance(1)


def test_every_account_has_one_secret_that_comes_back_and_goes_with_it(play: Any) -> None:
    async def story(world: Any) -> None:
        await _begin(world)
        [secret] = _tokens(world)
        meta = secret["metadata"]
        assert meta["name"].startswith("default-token-")
        key = Key("acme", "default", meta["name"])
        await world.client.delete("secrets", key)
        await world.clock.advance(1)
        [again] = _tokens(world)
        assert again["metadata"]["uid"] != meta["uid"]
        await world.client.delete("serviceaccounts", Key("acme", "default", "default"))
        await world.clock.advance(1)
        [third] = _tokens(world)
        assert third["metadata"]["uid"] != again["metadata"]["uid"]
        account = world.tp.find("serviceaccounts", "acme", "default", "default")
        annotations = third["metadata"]["annotations"]
        assert annotations[UID_ANNOTATION] == account["metadata"]["uid"]
        assert len(_tokens(world, "other")) == 1

    play(story)


def test_every_namespace_has_the_ca_and_it_stays_right(play: Any) -> None:
    async def story(world: Any) -> None:
        await _begin(world)
        key = Key("acme", "default", ROOT_CA)
        assert world.tp.find("configmaps", *key)["data"] == {"ca.crt": "the CA"}
        await world.client.patch("configmaps", key, {"data": {"ca.crt": "x", "more": "y"}})
        await world.clock.advance(1)
        assert world.tp.find("configmaps", *key)["data"] == {"ca.crt": "the CA"}
        await world.client.delete("configmaps", key)
        await world.clock.advance(1)
        assert world.tp.find("configmaps", *key)["data"] == {"ca.crt": "the CA"}

    play(story)
