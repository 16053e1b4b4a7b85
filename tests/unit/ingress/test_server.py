"""The front door over real sockets: a real client, TLS, partitions in memory."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest

from arktos_ray.api import errors
from arktos_ray.api.calls import Call, Reply, User
from arktos_ray.ingress import status
from arktos_ray.ingress.limits import Limits
from arktos_ray.ingress.metrics import TenantCounts
from arktos_ray.ingress.server import Ingress, tls_context
from arktos_ray.ingress.shares import busy

from .fakes import FakeUpstream, client_context, ingress, run

Made = dict[str, tuple[str, str]]
TOKENS = {
    "root": User("root", "system", ("system:masters",)),
    "op": User("op", "system"),
    "bob": User("bob", "acme"),
    "homeless": User("homeless", ""),
}
QUICK = Limits(watch_grace_s=0.02)


class Client:
    """Says things to an ingress as some user, and remembers the answer."""

    def __init__(self, session: aiohttp.ClientSession, up: FakeUpstream, door: Ingress) -> None:
        self.session, self.up, self.door = session, up, door

    async def say(
        self, method: str, path: str, body: Any = None, token: str = "root", **headers: str
    ) -> tuple[int, Any, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            named["Authorization"] = f"Bearer {token}"
        data = orjson.dumps(body) if isinstance(body, dict) else body
        named.setdefault("Content-Type", "application/json")
        async with self.session.request(method, path, data=data, headers=named) as response:
            raw = await response.read()
            if response.content_type == "application/json" and raw:
                return response.status, orjson.loads(raw), response.headers
            return response.status, raw, response.headers

    @contextlib.asynccontextmanager
    async def watch(
        self, path: str, token: str = "root", **headers: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        named = {"Authorization": f"Bearer {token}", **headers}
        async with self.session.get(path, headers=named) as response:
            assert response.status == 200, await response.text()
            yield response


@contextlib.asynccontextmanager
async def serving(limits: Limits = QUICK, **more: Any) -> AsyncIterator[Client]:
    up = more.pop("up", None) or FakeUpstream()
    door = ingress(up, tokens=TOKENS, limits=limits, **more)
    _, port = await door.listen("127.0.0.1", 0, None)
    try:
        # DummyCookieJar: no cookie ever; auto_decompress as usual.
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield Client(session, up, door)
    finally:
        await door.close(1.0)


async def event(response: aiohttp.ClientResponse) -> dict[str, Any]:
    line = await asyncio.wait_for(response.content.readline(), 5)
    parsed: dict[str, Any] = orjson.loads(line)
    return parsed


def pod(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


PODS = "/api/v1/namespaces/default/pods"


def test_an_object_is_created_read_and_listed_and_warnings_come_along() -> None:
    async def story() -> None:
        async with serving() as client:
            code, made_pod, headers = await client.say("POST", PODS, pod("p"))
            assert (code, made_pod["metadata"]["name"]) == (201, "p")
            assert headers["Warning"] == '299 - "be careful"'
            code, got, _ = await client.say("GET", PODS + "/p")
            assert (code, got) == (200, made_pod)
            code, listed, _ = await client.say("GET", PODS)
            assert [item["metadata"]["name"] for item in listed["items"]] == ["p"]
            code, status, _ = await client.say("GET", PODS + "/q")
            assert (code, status["reason"]) == (404, "NotFound")

    run(story())


def test_a_call_arrives_with_its_user_form_and_media_type() -> None:
    async def story() -> None:
        async with serving() as client:
            table = "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json"
            await client.say("GET", PODS, token="bob", Accept=table, User_Agent="kubectl/v1")
            [[call]] = client.up.partitions["tp-1"].batches
            assert (call.accept, call.options["_table"]) == ("Table", "v1beta1")
            assert (call.user.name, call.tenant, call.user_agent) == (
                "bob",
                "acme",
                "kubectl/v1",
            )
            body = b"a: b"
            client.up.partitions["tp-0"].answer = lambda call: Reply(200, b"{}")
            await client.say("POST", PODS, body, Content_Type="application/yaml; charset=utf-8")
            call = client.up.partitions["tp-0"].batches[0][0]
            assert (call.body, call.content_type) == (body, "application/yaml")

    run(story())


def test_calls_of_one_moment_go_to_their_partition_as_one_batch() -> None:
    async def story() -> None:
        async with serving() as client:
            paths = [f"{PODS}/p{i}" for i in range(20)]
            await asyncio.gather(*(client.say("GET", path) for path in paths))
            batches = client.up.partitions["tp-0"].batches
            assert sum(map(len, batches)) == 20
            assert len(batches) < 20

    run(story())


@pytest.mark.parametrize(
    ("user", "code", "name"),
    [("admin", 200, None), ("bob", 403, "bob"), ("nobody", 500, "nobody"), (None, 401, None)],
)
def test_a_client_certificate_says_who_is_calling(
    made: Made, user: str | None, code: int, name: str | None
) -> None:
    async def story() -> None:
        up = FakeUpstream()
        door = ingress(up)
        tls = tls_context(*made["server"], made["ca"][0])
        _, port = await door.listen("127.0.0.1", 0, tls)
        connector = aiohttp.TCPConnector(ssl=client_context(made, user))
        try:
            async with aiohttp.ClientSession(
                f"https://localhost:{port}", connector=connector
            ) as session:
                client = Client(session, up, door)
                answer, body, headers = await client.say("GET", "/api/v1/nodes", token="")
                assert answer == code
                if name:
                    assert name in body["message"]
                assert ("WWW-Authenticate" in headers) == (code == 401)
                assert (await client.say("GET", "/version", token=""))[0] == 200
        finally:
            await door.close(1.0)

    run(story())


@pytest.mark.parametrize(
    ("token", "path", "code"),
    [
        ("", "/api/v1/pods", 401),
        ("wrong", "/api/v1/pods", 401),
        ("wrong", "/healthz", 401),
        ("", "/healthz", 200),
        ("", "/readyz?verbose", 200),
        ("", "/livez/ping", 200),
        ("", "/metrics", 401),
        ("", "/api", 401),
        ("", "/healthz/../api/v1/pods", 400),
        ("bob", "/metrics", 403),
        ("op", "/metrics", 403),
        ("root", "/metrics", 200),
        ("bob", "/arktos/v1/status", 403),
        ("op", "/arktos/v1/status", 403),
        ("root", "/arktos/v1/status", 200),
        ("bob", "/api/v1/nodes", 403),
        ("bob", "/api/v1/tenants", 403),
        ("bob", "/api/v1/tenants/all/pods", 403),
        ("bob", "/api/v1/tenants/system/pods", 403),
        ("bob", "/t/system/api", 403),
        ("bob", "/t/acme/api", 200),
        ("bob", "/api?tenant=acme", 200),
        ("bob", "/apis?tenant=system", 403),
        ("bob", "/apis?tenant=..%2Fsystem", 400),
        ("root", "/apis?tenant=acme", 200),
        ("homeless", "/api/v1/pods", 500),
        ("root", "/nowhere", 404),
        ("root", "/openapi/v3/apis/nowhere/v1", 404),
    ],
)
def test_who_may_see_what(token: str, path: str, code: int) -> None:
    async def story() -> None:
        async with serving() as client:
            url = client.session._base_url  # The path must arrive as it is, dots and all.
            assert url is not None
            reader, writer = await asyncio.open_connection(url.host, url.port)
            auth = f"Authorization: Bearer {token}\r\n" if token else ""
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{auth}\r\n".encode())
            line = await reader.readline()
            assert int(line.split()[1]) == code
            writer.close()
            await writer.wait_closed()

    run(story())


def test_the_system_administrator_makes_tokens_that_die_with_their_tenant() -> None:
    async def story() -> None:
        async with serving() as client:
            path = "/arktos/v1/tenants/acme/token"
            for token in ("bob", "op"):
                assert (await client.say("POST", path, token=token))[0] == 403
            assert (await client.say("POST", "/arktos/v1/tenants/gone/token"))[0] == 404
            code, body, _ = await client.say("POST", path)
            assert code == 200
            token = body["token"]
            assert (await client.say("GET", PODS, token=token))[0] == 200
            [[call]] = client.up.partitions["tp-1"].batches
            assert (call.user.name, call.user.tenant, call.tenant) == ("admin", "acme", "acme")
            assert (await client.say("GET", "/api/v1/nodes", token=token))[0] == 403
            client.up.uids["acme"] = "another"
            assert (await client.say("GET", PODS, token=token))[0] == 401

    run(story())


def test_insecure_mode_makes_everybody_administrator() -> None:
    async def story() -> None:
        async with serving(insecure=True) as client:
            assert (await client.say("GET", "/api/v1/nodes", token=""))[0] == 200

    run(story())


def test_who_speaks_for_others_is_asked_of_the_roles_of_their_own_tenant() -> None:
    async def story() -> None:
        async with serving() as client:
            system, acme = client.up.partitions["tp-0"], client.up.partitions["tp-1"]
            await client.say("GET", PODS, Impersonate_User="eve")
            [[call]] = system.batches
            assert (call.user.name, call.user.tenant) == ("eve", "system")
            asked = []

            def may(user: User, ask: list[str]) -> bool:
                asked.append((user.name, *ask))
                return ask[2] == "users"

            acme.may = may
            more = {"Impersonate_User": "eve", "Impersonate_Extra_scopes": "x"}
            code, body, _ = await client.say("GET", PODS, token="bob", **more)
            assert (code, body["message"]) == (
                403,
                'userextras.authentication.k8s.io "x" is forbidden: User "bob" cannot impersonate '
                'resource "userextras/scopes" in API group "authentication.k8s.io" at the cluster '
                "scope",
            )
            assert asked == [
                ("bob", "impersonate", "", "users", "", "", "eve", ""),
                (
                    "bob",
                    "impersonate",
                    "authentication.k8s.io",
                    "userextras",
                    "scopes",
                    "",
                    "x",
                    "",
                ),
            ]
            assert acme.batches == []
            assert (await client.say("GET", PODS, token="bob", Impersonate_User="eve"))[0] == 200
            [[call]] = acme.batches
            assert call.user == User("eve", "acme", ("system:authenticated",))

    run(story())


def test_whose_a_token_is() -> None:
    async def story() -> None:
        async with serving() as client:
            for partition in client.up.partitions.values():
                partition.answer = lambda call: Reply(201, call.body)
            path = "/apis/authentication.k8s.io/v1/tokenreviews"

            async def status(of: str, asking: str) -> Any:
                code, body, _ = await client.say(
                    "POST", path, {"spec": {"token": of}}, token=asking
                )
                assert code == 201
                return body["status"]

            bob = {
                "username": "bob",
                "groups": [],
                "extra": {"arktos.futurewei.com/tenant": ["acme"]},
            }
            for asking in ("bob", "root"):
                assert await status("bob", asking) == {"authenticated": True, "user": bob}
            for token in ("root", "nonsense", ""):
                assert await status(token, "bob") == {"authenticated": False}

    run(story())


def test_paths_of_the_cluster_are_for_operators_whose_roles_allow_them() -> None:
    async def story() -> None:
        async with serving() as client:
            for partition in client.up.partitions.values():
                partition.may = lambda user, ask: ask == ["get", "", "", "", "", "", "/metrics"]
            assert (await client.say("GET", "/metrics", token="op"))[0] == 200
            assert (await client.say("GET", "/arktos/v1/status", token="op"))[0] == 403
            code, body, _ = await client.say("GET", "/metrics", token="bob")
            assert (code, body["message"]) == (
                403, 'forbidden: User "bob" cannot get path "/metrics"',
            )  # fmt: skip

    run(story())


def test_an_operator_is_granted_what_their_own_partition_says_and_until_it_says_no() -> None:
    async def story() -> None:
        async with serving() as client:
            system, acme = client.up.partitions["tp-0"], client.up.partitions["tp-1"]
            there = "/api/v1/tenants/acme/namespaces/n/pods"
            assert (await client.say("POST", there, pod("a"), token="op"))[0] == 201
            [[call]] = acme.batches
            assert call.granted == ("create", "escalate", "bind")
            assert system.batches == [], "asked, and not called"
            async with client.watch(there + "?watch=1", token="op") as response:
                assert (await event(response))["object"]["metadata"]["name"] == "a"
                assert acme.watches[-1].granted == ("watch", "list")
                system.withdrawn.set()
                last = await event(response)
                assert (last["type"], last["object"]["code"]) == ("ERROR", 403)
            system.grants = lambda call: False
            assert (await client.say("GET", there, token="op"))[0] == 403
            code, _, _ = await client.say("GET", there + "?watch=1", token="op")
            assert code == 403
            # The masters of the system tenant need not ask.
            assert (await client.say("GET", there))[0] == 200

    run(story())


def test_discovery_of_a_tenant_hides_the_cluster() -> None:
    async def story() -> None:
        async with serving() as client:
            assert (await client.say("GET", "/api/"))[1]["system"] is True
            assert (await client.say("GET", "/api", token="bob"))[1]["system"] is False
            assert (await client.say("GET", "/t/acme/api"))[1]["system"] is False
            accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
            _, body, headers = await client.say("GET", "/apis", Accept=accept)
            assert body["aggregated"] == "v2"
            assert headers["Content-Type"] == accept

    run(story())


def test_openapi_comes_as_kubectl_wants_it() -> None:
    async def story() -> None:
        async with serving() as client:
            accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
            _, body, headers = await client.say("GET", "/openapi/v2", Accept=accept)
            assert body == b"\x0a\x00"
            assert headers["Content-Type"] == accept.replace("@", ".")
            _, _, headers = await client.say("GET", "/openapi/v3/api/v1?hash=x")
            tag = headers["ETag"]
            assert (await client.say("GET", "/openapi/v3/api/v1", If_None_Match=tag))[0] == 304

    run(story())


def test_metrics_count_requests_by_verb_resource_and_code() -> None:
    async def story() -> None:
        async with serving() as client:
            await client.say("GET", PODS)
            await client.say("GET", PODS + "/none")
            _, page, _ = await client.say("GET", "/metrics")
            assert b'code="404",group="",resource="pods",subresource="",verb="GET"' in page
            assert b'resource="pods",subresource="",verb="LIST",version="v1"} 1.0' in page
            _, page, headers = await client.say(
                "GET", "/metrics", Accept="application/openmetrics-text; version=1.0.0"
            )
            assert page.endswith(b"# EOF\n")
            assert headers["Content-Type"].startswith("application/openmetrics-text")

    run(story())


def test_answers_come_as_yaml_or_indented_when_asked() -> None:
    async def story() -> None:
        async with serving() as client:
            _, body, headers = await client.say("GET", PODS, Accept="application/yaml")
            assert headers["Content-Type"] == "application/yaml"
            assert b"kind: PodList" in body
            async with client.session.get(
                PODS, headers={"Authorization": "Bearer root", "User-Agent": "curl/8"}
            ) as response:
                assert (await response.text()).startswith('{\n  "kind"')

    run(story())


def test_a_body_over_the_limit_is_413_and_a_strange_one_415() -> None:
    async def story() -> None:
        async with serving(Limits(body_bytes_max=1000)) as client:
            assert (await client.say("POST", PODS, b"x" * 1001))[0] == 413
            code, body, _ = await client.say("POST", PODS, b"x", Content_Type="text/plain")
            assert (code, body["reason"]) == (415, "UnsupportedMediaType")
            code, _, _ = await client.say(
                "PATCH", PODS + "/p", b"{}", Content_Type="application/json"
            )
            assert code == 415
            assert (await client.say("GET", PODS, Accept="image/png"))[0] == 406

    run(story())


def test_a_silent_partition_is_504_and_a_missing_one_503_with_a_hint_to_retry() -> None:
    async def story() -> None:
        async with serving(Limits(call_s=0.05)) as client:
            never = asyncio.Event()

            class Silent:
                async def call(self, calls: list[Call]) -> list[Reply]:
                    await never.wait()
                    return []

            client.up.peer = lambda partition: Silent()  # type: ignore[method-assign,assignment,return-value]
            code, body, _ = await client.say("GET", PODS + "/p")
            assert (code, body["reason"]) == (504, "Timeout")

            def gone(partition: str) -> Any:
                raise errors.Unavailable(f"{partition} is restarting")

            client.up.peer = gone  # type: ignore[method-assign]
            code, body, headers = await client.say("GET", PODS)
            assert (code, headers["Retry-After"]) == (503, "1")
            assert (await client.say("GET", PODS + "?watch=1"))[0] == 503

    run(story())


def test_a_restart_is_waited_for_by_whoever_may_ask_twice() -> None:
    async def story() -> None:
        async with serving(Limits(restart_pause_s=0.001)) as client:
            real, tries = client.up.peer("tp-1"), []

            class Restarting:
                """Lost once, unreachable once, then there."""

                async def call(self, calls: list[Call]) -> list[Reply]:
                    tries.append(calls[0].verb)
                    if len(tries) == 1:
                        raise errors.Unavailable("the connection was lost")
                    if len(tries) == 2:
                        raise errors.Unreached("nobody answers")
                    return await real.call(calls)

            client.up.peer = lambda partition: Restarting()  # type: ignore[method-assign,assignment,return-value]
            assert (await client.say("GET", PODS))[0] == 200
            assert len(tries) == 3

            tries.clear()
            code, _, _ = await client.say("POST", PODS, b'{"metadata":{"name":"z"}}')
            assert (code, tries) == (503, ["create"]), "a write that was lost may have happened"
            tries[:] = ["create"]
            code, _, _ = await client.say("POST", PODS, b'{"metadata":{"name":"z"}}')
            assert code != 503
            assert tries == ["create"] * 3, "one that was never sent is sent"

    run(story())


def test_too_many_calls_at_once_are_429() -> None:
    async def story() -> None:
        limits = Limits(calls_max=0, watches_max=0, calls_reserve=0, watches_reserve=0)
        async with serving(limits) as client:
            code, status, headers = await client.say("GET", PODS)
            assert (code, headers["Retry-After"]) == (429, "1")
            assert (status["kind"], status["reason"]) == ("Status", "TooManyRequests")
            assert status["details"] == {"retryAfterSeconds": 1}
            assert (await client.say("GET", PODS + "?watch=1"))[0] == 429

    run(story())


def test_a_noisy_tenant_does_not_use_up_what_the_others_need() -> None:
    async def story() -> None:
        async with serving(Limits(watches_per_tenant_max=1, watch_grace_s=0.02)) as client:
            path = PODS + "?watch=1&resourceVersion=1000"
            async with client.watch(path, token="bob"):
                code, body, _ = await client.say("GET", path, token="bob")
                assert (code, "acme" in body["message"]) == (429, True)
                async with client.watch(path), client.watch(path):
                    pass

    run(story())


def test_when_tenants_use_all_there_is_nodes_and_administrators_still_get_in() -> None:
    async def story() -> None:
        limits = Limits(watches_max=4, watches_reserve=1, watch_grace_s=0.02)
        async with serving(limits) as client:
            path = PODS + "?watch=1&resourceVersion=1000"
            async with client.watch(path, token="bob"), client.watch(path, token="bob"):
                code, _, _ = await client.say("GET", path, token="bob")
                assert code == 429, "one tenant alone leaves half of it to the others"
                async with client.watch(path), client.watch(path), client.watch(path):
                    assert (await client.say("GET", path))[0] == 429

    run(story())


def test_bodies_are_counted_before_they_arrive_and_until_they_are_answered() -> None:
    async def story() -> None:
        limits = Limits(bytes_per_tenant_max=100_000)
        async with serving(limits) as client:
            large = {"metadata": {"name": "a"}, "data": {"x": "y" * 200_000}}
            code, status, headers = await client.say("POST", PODS, large, token="bob")
            assert (code, headers["Retry-After"]) == (429, "1")
            assert "bytes" in status["message"]
            for name in "abc":
                large = {"metadata": {"name": name}, "data": {"x": "y" * 90_000}}
                code, _, _ = await client.say("POST", PODS, large, token="bob")
                assert code == 201
            code, listed, _ = await client.say("GET", PODS, token="bob")
            assert (code, len(listed["items"])) == (200, 3), "an answer is never refused"
            assert client.door._bytes.total == 0, "nothing is held for who has read it"

    run(story())


def test_a_rate_if_there_is_one_binds_each_tenant_alone() -> None:
    async def story() -> None:
        async with serving(Limits(requests_per_tenant_per_s=2.0)) as client:
            codes = [(await client.say("GET", PODS, token="bob"))[0] for _ in range(4)]
            assert codes[0] == 200
            assert codes[-1] == 429
            assert [(await client.say("GET", PODS))[0] for _ in range(4)] == [200] * 4

    run(story())


def test_metrics_show_the_busiest_tenants_and_the_rest_as_one() -> None:
    counts = TenantCounts(shown=2)
    shown: list[dict[str, int]] = []
    for busy_ones in (("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")):
        for tenant in busy_ones:
            for _ in range(10):
                counts.count(tenant)
        counts.count("rare")
        shown.append(counts.scrape())
    assert shown[0] == {"a": 10, "b": 10, "other": 1}
    assert shown[-1]["other"] >= shown[-2]["other"] >= shown[-3]["other"]
    assert all(len(page) == 3 for page in shown)
    assert sum(shown[-1].values()) == 84, "nothing is lost on the way"


def test_the_python_client_of_kubernetes_comes_back_when_it_is_told_to() -> None:
    import kubernetes.client

    async def story() -> None:
        async with serving() as client:
            refusals = iter([True, False])

            def answer(call: Call) -> Reply:
                if next(refusals, False):
                    return status.reply(busy("later"))
                items: list[object] = []
                body = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}
                return Reply(200, orjson.dumps(body))

            client.up.partitions["tp-0"].answer = answer
            settings = kubernetes.client.Configuration(host=str(client.session._base_url))
            settings.api_key = {"authorization": "Bearer root"}
            with kubernetes.client.ApiClient(settings) as stock:
                core = kubernetes.client.CoreV1Api(stock)
                found = await asyncio.to_thread(core.list_namespaced_pod, "default")
            assert found.items == []
            assert client.up.partitions["tp-0"].batches[1:], "it asked twice"

    run(story())


def test_what_is_no_http_is_answered_with_a_status_and_closed() -> None:
    async def story() -> None:
        async with serving() as client:
            url = client.session._base_url
            assert url is not None
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(b"\x16\x03\x01 this is TLS to a plain port\r\n\r\n")
            answer = await reader.read()
            assert b"400 Bad Request" in answer
            assert b'"kind":"Status"' in answer
            writer.close()
            await writer.wait_closed()

    run(story())


def test_more_connections_than_the_limit_are_closed_at_once() -> None:
    async def story() -> None:
        async with serving(Limits(connections_max=1)) as client:
            url = client.session._base_url
            assert url is not None
            _, first = await asyncio.open_connection(url.host, url.port)
            reader, second = await asyncio.open_connection(url.host, url.port)
            assert await reader.read() == b""
            for writer in (first, second):
                writer.close()
                await writer.wait_closed()

    run(story())


# Nodes and other things that live in one of several partitions.


def test_nodes_are_spread_found_again_and_listed_together() -> None:
    async def story() -> None:
        async with serving() as client:
            names = [f"n{i}" for i in range(12)]
            for name in names:
                assert (await client.say("POST", "/api/v1/nodes", pod(name)))[0] == 201
            kept = [len(client.up.partitions[p].objects) for p in ("rp-0", "rp-1")]
            assert min(kept) > 0
            assert sum(kept) == 12
            for name in names:
                assert (await client.say("GET", f"/api/v1/nodes/{name}"))[0] == 200
            _, listed, _ = await client.say("GET", "/api/v1/nodes")
            assert sorted(n["metadata"]["name"] for n in listed["items"]) == sorted(names)
            assert (await client.say("POST", "/api/v1/nodes", pod("n3")))[0] == 409
            assert (await client.say("GET", "/api/v1/nodes/n99"))[0] == 404

    run(story())


def test_a_node_that_moved_to_another_partition_is_found_there() -> None:
    async def story() -> None:
        async with serving() as client:
            await client.say("POST", "/api/v1/nodes", pod("n"))
            a, b = (client.up.partitions[p] for p in ("rp-0", "rp-1"))
            old, new = (a, b) if a.objects else (b, a)
            new.objects.update(old.objects)
            old.objects.clear()
            assert (await client.say("GET", "/api/v1/nodes/n"))[0] == 200
            code, _, _ = await client.say("PUT", "/api/v1/nodes/n/status", pod("n"))
            assert code == 200
            # Nobody makes it twice, wherever its name would put a new one.
            assert (await client.say("POST", "/api/v1/nodes", pod("n")))[0] == 409

    run(story())


def test_node_leases_lie_with_the_nodes_and_other_leases_with_their_tenant() -> None:
    async def story() -> None:
        async with serving() as client:
            leases = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
            await client.say("POST", leases.format("kube-node-lease"), pod("n1"))
            await client.say("POST", leases.format("kube-system"), pod("leader"))
            await client.say("POST", leases.format("kube-node-lease"), pod("mine"), token="bob")
            homes = {
                name: sorted(key[3] for key in partition.objects)
                for name, partition in client.up.partitions.items()
            }
            assert sorted(homes["rp-0"] + homes["rp-1"]) == ["n1"]
            assert (homes["tp-0"], homes["tp-1"]) == (["leader"], ["mine"])
            _, listed, _ = await client.say("GET", "/apis/coordination.k8s.io/v1/leases")
            assert sorted(i["metadata"]["name"] for i in listed["items"]) == ["leader", "n1"]

    run(story())


def test_a_tenant_object_lives_where_its_tenant_does() -> None:
    async def story() -> None:
        async with serving() as client:
            assert (await client.say("POST", "/api/v1/tenants", pod("acme")))[0] == 201
            assert client.up.partitions["tp-1"].objects
            assert (await client.say("GET", "/api/v1/tenants/acme"))[0] == 200
            _, listed, _ = await client.say("GET", "/api/v1/tenants")
            assert len(listed["items"]) == 1
            body = {"metadata": {"generateName": "x-"}}
            assert (await client.say("POST", "/api/v1/tenants", body))[0] == 400

    run(story())


def test_a_merged_list_comes_in_pages_that_miss_nothing() -> None:
    async def story() -> None:
        async with serving() as client:
            names = [f"n{i:02}" for i in range(11)]
            for name in names:
                await client.say("POST", "/api/v1/nodes", pod(name))
            seen, token, revisions = [], "", set()
            while True:
                path = (
                    f"/api/v1/nodes?limit=3&continue={token}" if token else "/api/v1/nodes?limit=3"
                )
                code, page, _ = await client.say("GET", path)
                assert (code, len(page["items"]) <= 3) == (200, True)
                seen += [item["metadata"]["name"] for item in page["items"]]
                revisions.add(page["metadata"]["resourceVersion"])
                token = page["metadata"].get("continue", "")
                if not token:
                    break
            assert sorted(seen) == names
            assert len(revisions) == 1
            assert (await client.say("GET", "/api/v1/nodes?continue=garbage"))[0] == 400

    run(story())


# Watches.


def test_a_watch_shows_the_state_then_every_change() -> None:
    async def story() -> None:
        async with serving() as client:
            await client.say("POST", PODS, pod("a"))
            async with client.watch(PODS + "?watch=1") as response:
                assert response.headers["Transfer-Encoding"] == "chunked"
                first = await event(response)
                assert (first["type"], first["object"]["metadata"]["name"]) == ("ADDED", "a")
                await client.say("PUT", PODS + "/a", pod("a"))
                await client.say("POST", PODS, pod("b"))
                assert (await event(response))["type"] == "MODIFIED"
                assert (await event(response))["object"]["metadata"]["name"] == "b"

    run(story())


def test_equal_watches_share_one_stream_and_each_sees_what_is_new_to_it() -> None:
    async def story() -> None:
        async with serving() as client:
            _, made_pod, _ = await client.say("POST", PODS, pod("a"))
            start = int(made_pod["metadata"]["resourceVersion"])
            path = PODS + "?watch=1&resourceVersion={}&timeoutSeconds={}"
            async with contextlib.AsyncExitStack() as stack:
                responses = [
                    await stack.enter_async_context(client.watch(path.format(start, 100 + i)))
                    for i in range(3)
                ]
                _, second, _ = await client.say("POST", PODS, pod("b"))
                for response in responses:
                    assert (await event(response))["object"]["metadata"]["name"] == "b"
                # One that starts earlier than now gets the past; one that starts later does not.
                late = await stack.enter_async_context(client.watch(path.format(start, 7)))
                assert (await event(late))["object"]["metadata"]["name"] == "b"
                revision = second["metadata"]["resourceVersion"]
                ahead = await stack.enter_async_context(client.watch(path.format(revision, 7)))
                assert len(client.up.partitions["tp-0"].watches) == 1
                await client.say("POST", PODS, pod("c"))
                for response in (*responses, late, ahead):
                    assert (await event(response))["object"]["metadata"]["name"] == "c"
                # Somebody else's rights are somebody else's: not shared.
                await stack.enter_async_context(client.watch(path.format(start, 7), token="op"))
                assert len(client.up.partitions["tp-0"].watches) == 2

    run(story())


def test_a_watch_from_a_revision_that_is_gone_is_410_at_once() -> None:
    async def story() -> None:
        async with serving() as client:
            client.up.partitions["tp-0"].compacted = 900
            code, body, _ = await client.say("GET", PODS + "?watch=1&resourceVersion=5")
            assert (code, body["reason"]) == (410, "Expired")

    run(story())


def test_a_watch_that_cannot_go_on_ends_with_an_error_event() -> None:
    async def story() -> None:
        async with serving() as client:
            partition = client.up.partitions["tp-0"]
            async with client.watch(PODS + "?watch=1&resourceVersion=2000") as response:
                partition.compacted = partition.revision + 1
                async with partition.changed:
                    partition.changed.notify_all()
                last = await event(response)
                assert (last["type"], last["object"]["code"]) == ("ERROR", 410)
                assert await response.content.read() == b""

    run(story())


def test_timeout_seconds_end_a_watch_in_order_with_a_last_bookmark() -> None:
    async def story() -> None:
        async with serving() as client:
            path = PODS + "?watch=1&resourceVersion=1000&timeoutSeconds=1&allowWatchBookmarks=true"
            async with client.watch(path) as response:
                _, made_pod, _ = await client.say("POST", PODS, pod("a"))
                assert (await event(response))["type"] == "ADDED"
                last = await event(response)
                assert last["type"] == "BOOKMARK"
                assert last["object"]["kind"] == "Pod"
                version = last["object"]["metadata"]["resourceVersion"]
                assert version == made_pod["metadata"]["resourceVersion"]
                assert await response.content.read() == b""

    run(story())


def test_bookmarks_come_regularly_to_those_who_asked() -> None:
    async def story() -> None:
        async with serving(Limits(watch_bookmark_s=0.05, watch_grace_s=0.02)) as client:
            path = PODS + "?watch=1&resourceVersion=1000"
            async with (
                client.watch(path + "&allowWatchBookmarks=true") as asking,
                client.watch(path) as other,
            ):
                first, second = await event(asking), await event(asking)
                assert (first["type"], second["type"]) == ("BOOKMARK", "BOOKMARK")
                versions = [
                    int(e["object"]["metadata"]["resourceVersion"]) for e in (first, second)
                ]
                assert 1000 < versions[0] <= versions[1]
                await client.say("POST", PODS, pod("a"))
                assert (await event(other))["type"] == "ADDED"

    run(story())


def test_a_watch_list_says_where_the_state_ends() -> None:
    async def story() -> None:
        async with serving() as client:
            for path in (PODS, "/api/v1/nodes"):
                await client.say("POST", path, pod("a"))
                query = "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
                async with client.watch(path + query + "&allowWatchBookmarks=true") as response:
                    assert (await event(response))["type"] == "ADDED"
                    end = await event(response)
                    notes = end["object"]["metadata"]["annotations"]
                    assert notes == {"k8s.io/initial-events-end": "true"}

    run(story())


def test_a_watch_of_all_nodes_is_in_order_and_resumes_anywhere() -> None:
    async def story() -> None:
        async with serving() as client:
            _, listed, _ = await client.say("GET", "/api/v1/nodes")
            start = listed["metadata"]["resourceVersion"]
            path = "/api/v1/nodes?watch=1&resourceVersion="
            names = [f"n{i}" for i in range(10)]
            async with client.watch(path + start) as response:
                for name in names:
                    await client.say("POST", "/api/v1/nodes", pod(name))
                seen = [(await event(response))["object"]["metadata"] for _ in names]
            assert sorted(m["name"] for m in seen) == names
            revisions = [int(m["resourceVersion"]) for m in seen]
            assert revisions == sorted(revisions)
            async with client.watch(path + str(revisions[4])) as response:
                rest = [(await event(response))["object"]["metadata"]["name"] for _ in range(5)]
            assert rest == [m["name"] for m in seen[5:]]

    run(story())


@pytest.mark.parametrize(
    "limits",
    [
        Limits(watch_backlog_bytes_max=100_000, watch_grace_s=0.02),
        Limits(watch_stalled_bytes_per_tenant_max=100_000, watch_grace_s=0.02),
    ],
    ids=["one watch", "all of a tenant"],
)
def test_a_watcher_that_does_not_read_is_ended_where_it_can_go_on_and_costs_no_more(
    limits: Limits,
) -> None:
    async def story() -> None:
        async with serving(limits) as client:
            url = client.session._base_url
            assert url is not None
            slow = socket.socket()
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(slow, ("127.0.0.1", url.port))
            path = PODS + "?watch=1&resourceVersion=1000&allowWatchBookmarks=1"
            request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer root\r\n\r\n"
            await loop.sock_sendall(slow, request.encode())
            head = await loop.sock_recv(slow, 1000)
            assert b"200 OK" in head
            big = {"metadata": {"name": "a"}, "data": {"x": "y" * 200_000}}
            configmap = Call("update", "pods", "system", "default", "a")
            for _ in range(60):
                await client.up.partitions["tp-0"].put(configmap, big)
                await asyncio.sleep(0)
            received = b""
            while chunk := await loop.sock_recv(slow, 1 << 20):
                received += chunk
            slow.close()
            assert received.endswith(b"0\r\n\r\n")
            assert len(received) < 60 * 200_000
            lines = [line for line in received.split(b"\r\n") if line.startswith(b"{")]
            told = [orjson.loads(line) for part in lines for line in part.splitlines()]
            position = int(told[-1]["object"]["metadata"]["resourceVersion"])
            assert told[-1]["type"] == "BOOKMARK"
            assert position == int(told[-2]["object"]["metadata"]["resourceVersion"])
            # From there on nothing is missing, and no list is needed.
            resumed = PODS + f"?watch=1&resourceVersion={position}"
            async with client.watch(resumed) as response:
                following = await event(response)
            revisions = [e.revision for _, _, _, e in client.up.partitions["tp-0"].history]
            after = revisions[revisions.index(position) + 1]
            assert following["object"]["metadata"]["resourceVersion"] == str(after)
            assert client.door._hub.dropped == 1
            assert client.door._hub.stalled.total == 0

    run(story())


def test_nothing_is_left_of_a_watcher_that_went_away() -> None:
    async def story() -> None:
        async with serving() as client:
            async with client.watch(PODS + "?watch=1&resourceVersion=1000"):
                assert client.door._hub.streams == 1
            async with asyncio.timeout(5):
                while client.door._hub.streams or client.door._streams.total:
                    await asyncio.sleep(0.001)

    run(story())


def test_a_watch_over_a_websocket_is_one_message_an_event() -> None:
    async def story() -> None:
        async with serving() as client:
            path = PODS + "?watch=1&resourceVersion=1000&timeoutSeconds=1"
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                await client.session.ws_connect(path, headers={"Authorization": "Bearer root"})
            assert refusal.value.status == 403
            protocols = (
                "base64url.bearer.authorization.k8s.io.cm9vdA", "base64.binary.k8s.io",
            )  # fmt: skip
            async with client.session.ws_connect(
                path, origin="http://here", protocols=protocols
            ) as ws:
                assert ws.protocol == "base64.binary.k8s.io"
                await client.say("POST", PODS, pod("a"))
                await client.say("POST", PODS, pod("b"))
                names = [orjson.loads(await ws.receive_str()) for _ in range(2)]
                assert [n["object"]["metadata"]["name"] for n in names] == ["a", "b"]
                assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE

    run(story())


def test_closing_ends_watches_in_order() -> None:
    async def story() -> None:
        async with serving() as client:
            async with client.watch(PODS + "?watch=1&resourceVersion=1000") as response:
                closing = asyncio.ensure_future(client.door.close(1.0))
                assert await response.content.read() == b""
            await closing

    run(story())


def test_logs_are_asked_of_the_partition_first_and_then_flow() -> None:
    async def story() -> None:
        async with serving() as client:
            path = PODS + "/p/log?follow=true&tailLines=5"
            assert (await client.say("GET", path))[0] == 404
            await client.say("POST", PODS, pod("p"))
            code, body, headers = await client.say("GET", path)
            assert (code, body) == (200, b"hello\nworld\n")
            assert headers["Content-Type"].startswith("text/plain")

    run(story())
