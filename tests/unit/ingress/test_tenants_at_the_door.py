"""What operators allow a tenant, at the front door: watches, requests, and nobody at all."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from arktos_ray.api.calls import Call, Reply
from arktos_ray.tenancy.quota import Allowed

from .fakes import run
from .test_server import event, serving

PATH = "/api/v1/namespaces/n/configmaps"


def test_a_tenant_has_as_many_watches_as_it_may_and_is_told_how_many() -> None:
    async def story() -> None:
        async with serving() as client:
            client.up.limits["acme"] = Allowed(watches=1)
            async with client.watch(f"{PATH}?watch=1&resourceVersion=1", "bob"):
                code, said, headers = await client.say("GET", f"{PATH}?watch=1", token="bob")
                assert code == 429
                assert said["message"] == (
                    'too many watches of tenant "acme" are open here: it has 1, and may have 1;'
                    " try again"
                )
                assert headers["Retry-After"] == "1"
                async with client.watch(f"{PATH}?watch=1&resourceVersion=1", "root"):
                    assert client.door.usage()["acme"] == {"watches": 1, "requests": 0}
            client.up.limits["acme"] = Allowed(watches=0)
            code, _, _ = await client.say("GET", f"{PATH}?watch=1", token="bob")
            assert code == 429

    run(story())


def test_a_tenant_has_as_many_requests_under_way_as_it_may() -> None:
    async def story() -> None:
        async with serving() as client:
            client.up.limits["acme"] = Allowed(requests=1)
            partition = client.up.partitions[client.up.owner_of("acme")]
            asked, go = asyncio.Event(), asyncio.Event()

            async def slow(calls: list[Call]) -> list[Reply]:
                asked.set()
                await go.wait()
                return [Reply(200, b"{}")] * len(calls)

            partition.call = slow  # type: ignore[method-assign, assignment]
            first = asyncio.ensure_future(client.say("GET", f"{PATH}/a", token="bob"))
            await asked.wait()
            code, said, _ = await client.say("GET", f"{PATH}/b", token="bob")
            assert code == 429
            assert "it has 1, and may have 1" in said["message"]
            go.set()
            assert (await first)[0] == 200

    run(story())


def test_users_of_a_suspended_tenant_are_told_so_whatever_they_ask() -> None:
    async def story() -> None:
        async with serving() as client:
            client.up.suspended.add("acme")
            said: set[tuple[int, Any]] = set()
            for method, path in (
                ("GET", PATH), ("GET", f"{PATH}/x"), ("POST", PATH), ("DELETE", f"{PATH}/x"),
                ("GET", "/api"), ("GET", "/openapi/v2"), ("GET", "/api/v1/nodes"),
                ("GET", "/api/v1/tenants/b/pods"), ("GET", f"{PATH}?watch=1"), ("GET", "/nope"),
            ):  # fmt: skip
                code, body, _ = await client.say(method, path, token="bob")
                said.add((code, body["message"]))
            [(code, message)] = said
            assert code == 403
            assert 'tenant "acme" is suspended' in message
            code, _, _ = await client.say("GET", PATH.replace("/v1/", "/v1/tenants/acme/"))
            assert code == 200
            client.up.suspended.clear()
            assert (await client.say("GET", PATH, token="bob"))[0] == 200

    run(story())


def test_a_watch_of_the_tenant_goes_on_when_others_reach_their_limit() -> None:
    async def story() -> None:
        async with serving() as client:
            client.up.limits["acme"] = Allowed(watches=1)
            async with client.watch(f"{PATH}?watch=1&resourceVersion=1", "bob") as mine:
                await client.say("GET", f"{PATH}?watch=1", token="bob")
                body = orjson.dumps({"metadata": {"name": "c"}})
                await client.say("POST", PATH, body, token="bob")
                assert (await event(mine))["object"]["metadata"]["name"] == "c"

    run(story())


def test_discovery_is_of_the_tenant_that_is_asked_for() -> None:
    async def story() -> None:
        async with serving() as client:

            async def sees(path: str, token: str) -> bool | int:
                code, body, _ = await client.say("GET", path, token=token)
                return bool(body["system"]) if code == 200 else code

            assert await sees("/api/v1?timeout=32s", "root") is True
            assert await sees("/api/v1?timeout=32s&tenant=acme", "root") is False
            assert await sees("/t/acme/api/v1", "root") is False
            assert await sees("/api/v1?tenant=acme", "bob") is False
            assert await sees("/api/v1?tenant=b", "bob") == 403
            assert await sees("/api/v1?tenant=system", "bob") == 403
            assert await sees("/api/v1?tenant=..%2f", "root") == 400

    run(story())
