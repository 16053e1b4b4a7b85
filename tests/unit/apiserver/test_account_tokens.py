"""Tokens of service accounts: who gets which, what they rest on, and when they end."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from acme_world import ACME, ADMIN, Acme
from acme_world import acme as plain_acme

from arktos_ray.api import errors
from arktos_ray.api.calls import Call, User
from arktos_ray.apiserver.tokens import Tokens
from arktos_ray.base.signing import TokenKeys, ensure_keys
from arktos_ray.base.tasks import Tasks
from arktos_ray.tenancy import accounts

Story = Callable[[Acme], Awaitable[None]]
ISSUER = accounts.ISSUER
BOT = {"metadata": {"name": "bot"}}
POD: dict[str, Any] = {
    "metadata": {"name": "p"},
    "spec": {"serviceAccountName": "bot", "containers": [{"name": "c", "image": "i"}]},
}
EVERYTHING = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
BOUND = {"apiVersion": "v1", "kind": "Pod", "name": "p"}


@pytest.fixture
def acme(tmp_path: Path) -> Callable[[Story], None]:
    ensure_keys(tmp_path, datetime(2026, 1, 2, tzinfo=UTC))

    def run(story: Story) -> None:
        async def with_keys(world: Acme) -> None:
            world.part.server.partition.tokens = Tokens(TokenKeys(tmp_path), ca=b"the CA")
            await world.ok("create", "serviceaccounts", BOT)
            await story(world)

        plain_acme(with_keys)

    return run


async def asked(world: Acme, name: str = "bot", **spec: Any) -> tuple[str, dict[str, Any]]:
    made = await world.ok("create", "serviceaccounts", {"spec": spec}, name=name, sub="token")
    return made["status"]["token"], made


def identity(world: Acme, token: str) -> accounts.Identity:
    keys = world.part.server.partition.tokens.keys
    assert keys is not None
    return accounts.read(keys.verify(token))


async def may_all(world: Acme) -> None:
    await world.ok(
        "create", "clusterroles.rbac.authorization.k8s.io",
        {"metadata": {"name": "all"}, "rules": [EVERYTHING]}, at=("acme", "", ""),
    )  # fmt: skip
    await world.ok(
        "create", "clusterrolebindings.rbac.authorization.k8s.io",
        {
            "metadata": {"name": "all"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                        "name": "all"},
            "subjects": [{"kind": "ServiceAccount", "name": "bot", "namespace": "n"}],
        },
        at=("acme", "", ""),
    )  # fmt: skip


def test_a_token_names_its_account_tenant_and_end(acme: Callable[[Story], None]) -> None:
    async def story(world: Acme) -> None:
        token, made = await asked(world, expirationSeconds=1200)
        keys = world.part.server.partition.tokens.keys
        assert keys is not None
        claims = keys.verify(token)
        account = await world.ok("get", "serviceaccounts", name="bot")
        tenant = await world.ok("get", "tenants", at=("", "", "acme"), user=ADMIN)
        now = int(world.clock.now())
        assert claims.pop("jti")
        assert claims == {
            "iss": ISSUER, "aud": [ISSUER], "sub": "system:serviceaccount:n:bot",
            "iat": now, "nbf": now, "exp": now + 1200,
            "kubernetes.io": {
                "namespace": "n",
                "serviceaccount": {"name": "bot", "uid": account["metadata"]["uid"]},
                "tenant": "acme", "tenantUid": tenant["metadata"]["uid"],
            },
        }  # fmt: skip
        assert (made["kind"], made["apiVersion"]) == ("TokenRequest", "authentication.k8s.io/v1")
        assert made["spec"] == {"audiences": [ISSUER], "expirationSeconds": 1200}
        user = identity(world, token).user
        assert (user.name, user.tenant, user.uid) == (
            "system:serviceaccount:n:bot", "acme", account["metadata"]["uid"],
        )  # fmt: skip
        assert user.groups == (
            "system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated",
        )  # fmt: skip
        assert User.unpack(user.pack()) == user

    acme(story)


def test_a_token_is_for_whom_and_as_long_as_it_was_asked_for(
    acme: Callable[[Story], None],
) -> None:
    async def story(world: Acme) -> None:
        token, _ = await asked(world, audiences=["vault", "x"])
        found = identity(world, token)
        assert found.audiences == ("vault", "x")
        assert found.expires == int(world.clock.now()) + 3600
        token, made = await asked(world, expirationSeconds=1 << 31)
        assert made["spec"]["expirationSeconds"] == accounts.SECONDS_MAX
        for seconds in (599, 0, -1, (1 << 32) + 1):
            body = {"spec": {"expirationSeconds": seconds}}
            said = await world.fails(
                422, "create", "serviceaccounts", body, name="bot", sub="token"
            )
            assert "spec.expirationSeconds" in said
        await world.fails(404, "create", "serviceaccounts", {}, name="nobody", sub="token")
        other = {"metadata": {"name": "other"}}
        await world.fails(400, "create", "serviceaccounts", other, name="bot", sub="token")

    acme(story)


def test_who_may_not_create_tokens_gets_none(acme: Callable[[Story], None]) -> None:
    async def story(world: Acme) -> None:
        eve, foreign = User("eve", "acme"), User("admin", "umbrella")
        for user in (eve, foreign):
            for name in ("bot", "nobody"):
                said = await world.fails(
                    403, "create", "serviceaccounts", {}, name=name, sub="token", user=user
                )
                assert "serviceaccounts/token" in said

    acme(story)


def test_a_token_is_bound_to_a_pod_of_its_account_only(acme: Callable[[Story], None]) -> None:
    async def story(world: Acme) -> None:
        await world.fails(
            404, "create", "serviceaccounts", {"spec": {"boundObjectRef": BOUND}}, name="bot",
            sub="token",
        )  # fmt: skip
        pod = await world.ok("create", "pods", POD)
        uid = pod["metadata"]["uid"]
        token, _ = await asked(world, boundObjectRef={**BOUND, "uid": uid})
        user = identity(world, token).user
        assert ("pods", "acme/n/p", uid) in user.credential
        extra = dict(user.extra)
        assert extra["authentication.kubernetes.io/pod-name"] == ("p",)
        for ref, code in (
            ({**BOUND, "uid": "other"}, 409),
            ({**BOUND, "kind": "Node"}, 400),
            ({**BOUND, "name": ""}, 404),
            ({**BOUND, "name": "../x"}, 404),
        ):
            body = {"spec": {"boundObjectRef": ref}}
            await world.fails(code, "create", "serviceaccounts", body, name="bot", sub="token")
        await world.ok("create", "serviceaccounts", {"metadata": {"name": "second"}})
        body = {"spec": {"boundObjectRef": BOUND}}
        await world.fails(400, "create", "serviceaccounts", body, name="second", sub="token")

    acme(story)


@pytest.mark.parametrize("goes", ["pods", "serviceaccounts"])
def test_a_token_ends_with_what_it_rests_on_even_if_another_comes(
    acme: Callable[[Story], None], goes: str
) -> None:
    async def story(world: Acme) -> None:
        await may_all(world)
        await world.ok("create", "pods", POD)
        token, _ = await asked(world, boundObjectRef=BOUND)
        user = identity(world, token).user
        await world.ok("list", "pods", at=("acme", "n", ""), user=user)
        assert world.part.server.may(user, [["get", "", "pods", "", "n", "", ""]]) == [True]
        name, body = ("p", POD) if goes == "pods" else ("bot", BOT)
        await world.ok("delete", goes, {"gracePeriodSeconds": 0}, name=name)
        for _ in range(2):
            await world.fails(401, "list", "pods", at=("acme", "n", ""), user=user)
            with pytest.raises(errors.Unauthorized):
                world.part.server.may(user, [])
            if _ == 0:
                await world.ok("create", goes, body)

    acme(story)


def test_a_watch_ends_with_the_account_of_its_token(acme: Callable[[Story], None]) -> None:
    async def story(world: Acme) -> None:
        await may_all(world)
        token, _ = await asked(world)
        call = world.call("watch", "pods", at=("acme", "n", ""), user=identity(world, token).user)

        async def watched() -> None:
            async for _ in world.part.watch(call):
                pass

        watching = Tasks().start(watched(), "watching")
        await world.ok("create", "pods", POD)
        assert not watching.done()
        await world.ok("delete", "serviceaccounts", name="bot")
        with pytest.raises(errors.Unauthorized):
            await asyncio.wait_for(watching, 5)

    acme(story)


def test_pods_carry_the_token_of_their_account_which_must_be_there(
    acme: Callable[[Story], None],
) -> None:
    async def story(world: Acme) -> None:
        made = await world.ok("create", "pods", POD)
        [volume] = made["spec"]["volumes"]
        assert volume["name"].startswith("kube-api-access-")
        nobodys = {**POD, "metadata": {"name": "q"}}
        nobodys["spec"] = {**POD["spec"], "serviceAccountName": "nobody"}
        said = await world.fails(403, "create", "pods", nobodys)
        assert 'serviceaccount "nobody" not found' in said
        # Which of a namespace's beginnings comes first does not matter.
        default = {"metadata": {"name": "r"}, "spec": {"containers": POD["spec"]["containers"]}}
        made = await world.ok("create", "pods", default)
        assert made["spec"]["serviceAccountName"] == "default"

    acme(story)


def secret(account: str = "bot", **annotations: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "mine",
            "annotations": {accounts.NAME_ANNOTATION: account, **annotations},
        },
        "type": "kubernetes.io/service-account-token",
    }


def test_a_secret_for_a_token_gets_it_and_the_token_ends_with_it(
    acme: Callable[[Story], None],
) -> None:
    async def story(world: Acme) -> None:
        await may_all(world)
        made = await world.ok("create", "secrets", secret())
        data = {k: base64.b64decode(v).decode() for k, v in made["data"].items()}
        assert (data["namespace"], data["ca.crt"]) == ("acme/n", "the CA")
        keys = world.part.server.partition.tokens.keys
        assert keys is not None
        claims = keys.verify(data["token"])
        said = "kubernetes.io/serviceaccount/"
        assert claims["iss"] == said.rstrip("/").replace("kubernetes.io", "kubernetes")
        assert (claims[said + "tenant"], claims[said + "namespace"]) == ("acme", "n")
        assert claims[said + "secret.name"] == "mine"
        assert claims[said + "service-account.name"] == "bot"
        assert "exp" not in claims
        user = identity(world, data["token"]).user
        await world.ok("list", "pods", at=("acme", "n", ""), user=user)
        # Who takes the token out of it gets another, which is as good.
        again = await world.ok(
            "patch", "secrets", {"data": {"token": None}}, name="mine",
            kind="application/merge-patch+json",
        )  # fmt: skip
        assert again["data"]["token"]
        await world.ok("delete", "secrets", name="mine")
        await world.fails(401, "list", "pods", at=("acme", "n", ""), user=user)

    acme(story)


def test_a_secret_for_nobodys_token_gets_none(acme: Callable[[Story], None]) -> None:
    async def story(world: Acme) -> None:
        made = await world.ok("create", "secrets", secret("nobody"))
        assert "token" not in (made.get("data") or {})
        await world.ok("delete", "secrets", name="mine")
        old = secret(**{accounts.UID_ANNOTATION: "of-a-former-one"})
        made = await world.ok("create", "secrets", old)
        assert "token" not in (made.get("data") or {})

    acme(story)


def test_a_secret_that_was_there_before_its_account_gets_its_token_later(
    acme: Callable[[Story], None],
) -> None:
    async def story(world: Acme) -> None:
        await world.ok("create", "secrets", secret("late"))
        made = await world.ok("create", "serviceaccounts", {"metadata": {"name": "late"}})
        said = {"metadata": {"annotations": {accounts.UID_ANNOTATION: made["metadata"]["uid"]}}}
        filled = await world.ok(
            "patch", "secrets", said, name="mine", kind="application/merge-patch+json"
        )
        token = base64.b64decode(filled["data"]["token"]).decode()
        assert identity(world, token).user.name == "system:serviceaccount:n:late"

    acme(story)


def test_in_the_system_tenant_the_namespace_of_a_token_stands_alone() -> None:
    assert accounts.namespace_in_secret("system", "n", "system") == "n"
    assert accounts.namespace_in_secret("acme", "n", "system") == "acme/n"


@pytest.mark.parametrize(
    "change",
    [
        {"sub": "system:serviceaccount:n:other"},
        {"sub": "admin"},
        {"kubernetes.io": None},
        {"kubernetes.io": {}},
        {"aud": None},
        {"exp": "soon"},
    ],
)
def test_claims_that_do_not_agree_are_nobody(change: dict[str, Any]) -> None:
    subject = accounts.Subject("acme", "u", "n", accounts.Ref("bot", "b"))
    good = accounts.claims(subject, ISSUER, [ISSUER], 600, 1.0, "id")
    assert accounts.read(good).user.name == "system:serviceaccount:n:bot"
    with pytest.raises(accounts.Unreadable):
        accounts.read({**good, **change})


@pytest.mark.parametrize("tenant", ["all", "", "../x", "a/b"])
def test_a_token_without_a_proper_tenant_is_nobodys(tenant: str) -> None:
    subject = accounts.Subject(
        tenant, "u", "n", accounts.Ref("bot", "b"), secret=accounts.Ref("s", "c")
    )
    with pytest.raises(accounts.Unreadable):
        accounts.read(accounts.claims(subject, ISSUER, [ISSUER], 600, 1.0, "id"))
    with pytest.raises(accounts.Unreadable):
        accounts.read(accounts.legacy_claims(subject))


def test_a_call_carries_what_the_token_rests_on() -> None:
    user = User("b", "acme", credential=(("serviceaccounts", "acme/n/b", "u"),))
    call = Call("get", "pods", "acme", "n", "p", user=user)
    assert Call.unpack(call.pack()).user == user
    assert ACME.credential == ()
