"""Tokens that others signed, at the front door: service accounts, and issuers elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from arktos_ray.base.clock import SystemClock
from arktos_ray.base.signing import TokenKeys, encoded, ensure_keys
from arktos_ray.base.watched import Watched
from arktos_ray.ingress import oidc
from arktos_ray.ingress.server import hand_out, tls_context
from arktos_ray.tenancy import accounts

from .fakes import FakeUpstream, client_context, ingress, run
from .test_server import PODS, Client, serving

jwt = pytest.importorskip("jwt")

Made = dict[str, tuple[str, str]]
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
ISSUER = accounts.ISSUER
BOT = accounts.Subject("acme", "uid-acme", "n", accounts.Ref("bot", "bot-uid"))


class Accounts:
    """The keys of service accounts, and what an ingress is told of them."""

    def __init__(self, folder: Path) -> None:
        ensure_keys(folder, datetime(2026, 1, 2, tzinfo=UTC))
        self.keys = TokenKeys(folder)
        self.believes = {"keys": self.keys, "issuer": ISSUER, "audiences": [ISSUER]}

    def token(self, subject: accounts.Subject = BOT, *audiences: str, at: float = 0.0) -> str:
        audience = audiences or (ISSUER,)
        now = at or time.time()  # noqa: TID251
        return self.keys.sign(accounts.claims(subject, ISSUER, audience, 600, now, "id"))


def test_a_service_account_calls_in_its_tenant(tmp_path: Path) -> None:
    async def story() -> None:
        known = Accounts(tmp_path)
        async with serving(believes=known.believes) as client:
            for _ in range(2):
                assert (await client.say("GET", PODS, token=known.token()))[0] == 200
            call = client.up.partitions["tp-1"].batches[0][0]
            assert (call.tenant, call.user.name) == ("acme", "system:serviceaccount:n:bot")
            assert call.user.credential == (("serviceaccounts", "acme/n/bot", "bot-uid"),)
            assert (await client.say("GET", "/api/v1/nodes", token=known.token()))[0] == 403

    run(story())


def test_a_token_is_refused_when_it_is_over_or_not_for_us_or_of_a_former_tenant(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        known = Accounts(tmp_path)
        now = time.time()  # noqa: TID251
        async with serving(believes=known.believes) as client:
            for token in (
                known.token(at=now - 601),
                known.token(at=now + 1000),
                known.token(BOT, "vault"),
                known.token(BOT._replace(tenant_uid="former")),
                known.token(BOT._replace(tenant="gone")),
                known.token(BOT._replace(tenant_uid="")),
                known.token() + "x",
            ):
                assert (await client.say("GET", PODS, token=token))[0] == 401
            good = known.token()
            assert (await client.say("GET", PODS, token=good))[0] == 200
            client.up.uids["acme"] = "another"
            assert (await client.say("GET", PODS, token=good))[0] == 401

    run(story())


def test_a_watch_lasts_no_longer_than_the_token_that_opened_it(tmp_path: Path) -> None:
    async def story() -> None:
        known = Accounts(tmp_path)
        token = known.token(at=time.time() - 598)  # noqa: TID251
        async with serving(believes=known.believes) as client:
            path = PODS + "?watch=1&resourceVersion=1000&timeoutSeconds=100000"
            async with client.watch(path, token=token) as response:
                assert await asyncio.wait_for(response.content.read(), 20) == b""
            assert (await client.say("GET", PODS, token=token))[0] == 401

    run(story())


def test_a_connection_is_nobodys_after_its_certificate(made: Made) -> None:
    class Later(SystemClock):
        ahead = 0.0

        def now(self) -> float:
            return super().now() + self.ahead

    async def story() -> None:
        up, clock = FakeUpstream(), Later()
        door = ingress(up)
        door._clock = clock
        _, port = await door.listen("127.0.0.1", 0, tls_context(*made["server"], made["ca"][0]))
        connector = aiohttp.TCPConnector(ssl=client_context(made, "admin"))
        url = f"https://localhost:{port}"
        try:
            async with aiohttp.ClientSession(url, connector=connector) as session:
                client = Client(session, up, door)
                assert (await client.say("GET", PODS, token=""))[0] == 200
                clock.ahead = 100 * 366 * 86400.0
                code, status, _ = await client.say("GET", PODS, token="")
                assert (code, status["message"]) == (401, "the client certificate has expired")
                assert door._server is not None
                assert len(door._server.connections) == 1, "it is the same connection"
        finally:
            await door.close(1.0)

    run(story())


def test_what_no_partition_answers_is_not_for_tokens_of_accounts_that_are_gone(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        known = Accounts(tmp_path)
        token = known.token()
        async with serving(believes=known.believes) as client:
            assert (await client.say("GET", "/api", token=token))[0] == 200
            client.up.partitions["tp-1"].accounts_gone = True
            assert (await client.say("GET", "/api", token=token))[0] == 401
            assert (await client.say("GET", "/openapi/v2", token=token))[0] == 401
            body = {"spec": {"token": token}}
            client.up.partitions["tp-0"].answer = None
            code, review, _ = await client.say("POST", REVIEWS, _named(body))
            assert (code, review["status"]) == (201, {"authenticated": False})

    run(story())


def _named(body: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"name": "r"}, **body}


def test_a_review_says_for_whom_a_token_is(tmp_path: Path) -> None:
    async def story() -> None:
        known = Accounts(tmp_path)
        async with serving(believes=known.believes) as client:

            async def status(token: str, *audiences: str) -> Any:
                client.up.partitions["tp-0"].objects.clear()
                body = _named({"spec": {"token": token, "audiences": list(audiences)}})
                return (await client.say("POST", REVIEWS, body))[1]["status"]

            plain, special = known.token(), known.token(BOT, "vault", "x")
            assert (await status(plain))["audiences"] == [ISSUER]
            found = await status(special, "vault", "y")
            assert found["audiences"] == ["vault"]
            assert found["user"]["username"] == "system:serviceaccount:n:bot"
            refused = {"authenticated": False}
            assert await status(special) == refused
            assert await status(plain, "vault") == refused
            # Tokens that are for nobody in particular are for the API.
            assert (await status("bob"))["audiences"] == [ISSUER]
            assert await status("bob", "vault") == refused

    run(story())


def test_others_can_verify_tokens_by_what_we_publish(tmp_path: Path) -> None:
    async def story() -> None:
        known = Accounts(tmp_path)
        url = "https://here:6443"
        async with serving(believes=known.believes, url=url) as client:
            _, page, _ = await client.say("GET", "/.well-known/openid-configuration", token="bob")
            assert (page["issuer"], page["jwks_uri"]) == (ISSUER, url + "/openid/v1/jwks")
            assert page["id_token_signing_alg_values_supported"] == ["ES256"]
            _, keys, _ = await client.say("GET", "/openid/v1/jwks", token="bob")
            key = jwt.PyJWK(keys["keys"][0])
            claims = jwt.decode(known.token(), key, algorithms=["ES256"], audience=ISSUER)
            assert claims["sub"] == "system:serviceaccount:n:bot"
            for path in ("/.well-known/openid-configuration", "/openid/v1/jwks"):
                assert (await client.say("GET", path, token=""))[0] == 401

    run(story())


def test_strangers_are_let_in_only_where_that_is_wanted() -> None:
    async def story() -> None:
        async with serving(anonymous=True) as client:
            assert (await client.say("GET", PODS, token=""))[0] == 200
            user = client.up.partitions["tp-0"].batches[0][0].user
            assert (user.name, user.groups) == ("system:anonymous", ("system:unauthenticated",))
            assert (await client.say("GET", "/version", token=""))[0] == 200
            assert (await client.say("GET", "/api", token=""))[0] == 403
            assert (await client.say("GET", "/metrics", token=""))[0] == 403
            assert (await client.say("GET", PODS, token="wrong"))[0] == 401

    run(story())


# Issuers elsewhere


class Elsewhere:
    """An issuer of OpenID Connect, in this process."""

    def __init__(self, made: Made) -> None:
        self.ca = made["ca"][0]
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(*made["server"])
        self.keys: dict[str, rsa.RSAPrivateKey] = {}
        self.asked = 0
        self.broken = False

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Elsewhere]:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._page)
        app.router.add_get("/keys", self._jwks)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.url = f"https://localhost:{runner.addresses[0][1]}"
        self.rotate("one")
        try:
            yield self
        finally:
            await runner.cleanup()

    def rotate(self, kid: str) -> None:
        self.keys = {kid: rsa.generate_private_key(65537, 2048)}

    async def _page(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.broken:
            raise web.HTTPInternalServerError
        return web.json_response({"issuer": self.url, "jwks_uri": self.url + "/keys"})

    async def _jwks(self, _: web.Request) -> web.Response:
        keys = []
        for kid, key in self.keys.items():
            numbers = key.public_key().public_numbers()
            n, e = (encoded(v.to_bytes((v.bit_length() + 7) // 8)) for v in (numbers.n, numbers.e))
            keys.append({"kty": "RSA", "kid": kid, "alg": "RS256", "n": n, "e": e})
        # As many as come in several pieces.
        keys += [{"kty": "EC", "kid": f"other-{i}", "x": "x" * 100} for i in range(2_000)]
        return web.json_response({"keys": keys})

    def token(self, **claims: Any) -> str:
        [(kid, key)] = self.keys.items()
        now = int(time.time())  # noqa: TID251
        said = {"iss": self.url, "aud": "arktos", "sub": "carl", "exp": now + 60, **claims}
        token: str = jwt.encode(said, key, "RS256", headers={"kid": kid})
        return token

    def issuer(self, **more: Any) -> oidc.Issuer:
        given = {"tenant": "acme", "username_prefix": "", "ca": self.ca, **more}
        return oidc.Issuer(oidc.Settings(self.url, "arktos", **given))


def test_users_of_an_issuer_elsewhere_are_who_their_claims_say(made: Made) -> None:
    async def story() -> None:
        async with Elsewhere(made).open() as there:
            issuers = [
                there.issuer(tenant="", tenant_claim="org", groups_claim="g", groups_prefix="x:")
            ]
            async with serving(believes={"issuers": issuers}) as client:
                token = there.token(org="acme", g=["dev"])
                assert (await client.say("GET", PODS, token=token))[0] == 200
                user = client.up.partitions["tp-1"].batches[0][0].user
                assert (user.name, user.tenant) == ("carl", "acme")
                assert user.groups == ("x:dev", "system:authenticated")
                for wrong in (
                    there.token(org="acme", aud="other"),
                    there.token(org="acme", exp=1),
                    there.token(org="acme", nbf=int(time.time()) + 600),  # noqa: TID251
                    there.token(org="system"),
                    there.token(org="all"),
                    there.token(),
                    there.token(org="acme", sub="system:admin"),
                    there.token(org="acme", sub=""),
                    there.token(org="acme", iss="https://localhost:1"),
                    there.token(org="acme")[:-2],
                ):
                    assert (await client.say("GET", PODS, token=wrong))[0] == 401
                assert there.asked == 1

    run(story())


def test_keys_that_an_issuer_exchanges_are_asked_for_and_not_too_often(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with Elsewhere(made).open() as there:
            issuer = there.issuer()
            async with serving(believes={"issuers": [issuer]}) as client:
                there.broken = True
                with caplog.at_level("INFO"):
                    assert (await client.say("GET", PODS, token=there.token()))[0] == 401
                assert "500" in caplog.text
                there.broken = False
                tokens = [there.token(n=i) for i in range(5)]
                codes = [(await client.say("GET", PODS, token=token))[0] for token in tokens]
                assert codes == [401] * 5
                assert there.asked == 1
                monkeypatch.setattr(oidc, "_ASK_AGAIN_S", 0.0)
                assert (await client.say("GET", PODS, token=tokens[0]))[0] == 200
                there.rotate("two")
                assert (await client.say("GET", PODS, token=there.token()))[0] == 200
                # Others' keys being away harms nobody else.
                assert (await client.say("GET", PODS, token="bob"))[0] == 200

    run(story())


def test_a_claim_of_an_issuer_cannot_make_somebody_of_ours() -> None:
    by = oidc.Settings("https://i", "c", username_prefix="", groups_claim="g", tenant="acme")
    assert oidc.user_of({"sub": "a", "g": "one"}, by).groups == ("one", "system:authenticated")
    for claims in (
        {"sub": "a", "g": ["system:masters"]},
        {"sub": "system:kube-scheduler"},
        {"sub": "a", "g": [1]},
        {"sub": 7},
    ):
        with pytest.raises(ValueError, match=r"."):
            oidc.user_of(claims, by)
    mail = oidc.Settings("https://i", "c", username_claim="email", tenant="acme")
    assert oidc.user_of({"email": "a@b"}, mail).name == "a@b"
    with pytest.raises(ValueError, match="verified"):
        oidc.user_of({"email": "a@b", "email_verified": False}, mail)
    plain = oidc.Settings("https://i", "c", tenant="acme", required_claims=(("hd", "x"),))
    assert oidc.user_of({"sub": "a", "hd": "x"}, plain).name == "https://i#a"
    with pytest.raises(ValueError, match="hd"):
        oidc.user_of({"sub": "a"}, plain)


# Certificates that change while we run


def put(file: Path, content: bytes | Path) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.read_bytes())
    # Whatever the clock of the file system can tell apart.
    os.utime(file, (len(file.read_bytes()), 1))


def test_new_connections_get_the_new_certificates_and_a_broken_file_changes_nothing(
    made: Made, tmp_path: Path
) -> None:
    from .fakes import certificates

    (tmp_path / "other").mkdir()
    other = certificates(tmp_path / "other")
    for name, source in (("crt", made["server"][0]), ("key", made["server"][1])):
        (tmp_path / f"s.{name}").write_bytes(Path(source).read_bytes())
    (tmp_path / "ca").write_bytes(Path(made["ca"][0]).read_bytes())
    files = [tmp_path / "s.crt", tmp_path / "s.key", tmp_path / "ca"]

    async def story() -> None:
        door = ingress(FakeUpstream())
        contexts = Watched(lambda: files, lambda: tls_context(*map(str, files)))
        first = contexts.value
        hand_out(first, lambda: contexts.value)
        _, port = await door.listen("127.0.0.1", 0, first)

        async def says(by: Made) -> int:
            connector = aiohttp.TCPConnector(ssl=client_context(by, "admin"))
            async with aiohttp.ClientSession(
                f"https://localhost:{port}", connector=connector
            ) as session:
                return (await Client(session, FakeUpstream(), door).say(
                    "GET", "/api/v1/nodes", token=""
                ))[0]  # fmt: skip

        try:
            assert await says(made) == 200
            put(files[0], b"broken")
            assert not contexts.refresh()
            assert await says(made) == 200
            for file, source in zip(files, (*other["server"], other["ca"][0]), strict=True):
                put(file, Path(source))
            assert contexts.refresh()
            assert await says(other) == 200
            with pytest.raises(aiohttp.ClientError):
                await says(made)
        finally:
            await door.close(1.0)

    run(story())
