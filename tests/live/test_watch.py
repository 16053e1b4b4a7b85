"""Watches as clients see them: nothing lost, nothing twice, and an end that says why."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import pytest
from livekit import Cluster, Http, until

pytestmark = pytest.mark.live

Object = dict[str, Any]
CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
ALL = "/api/v1/tenants/all/configmaps"
OURS = "metadata.name!=kube-root-ca.crt"  # which is in every namespace
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PARTIAL = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
MERGE: dict[str, str | None] = {"Content-Type": "application/merge-patch+json"}


def configmap(name: str, labels: dict[str, str] | None = None, **data: str) -> Object:
    return {"metadata": {"name": name, "labels": labels or {}}, "data": data}


def seen(event: Object) -> tuple[str, str]:
    return event["type"], event["object"]["metadata"]["name"]


def take(events: Iterator[Object], count: int) -> list[Object]:
    return list(itertools.islice(events, count))


@pytest.fixture
def http(cluster: Cluster) -> Iterator[Http]:
    http = Http(cluster.tenant("watch"))
    # It comes by itself soon after its namespace, and would come back if it were deleted.
    until(lambda: http("GET", f"{CONFIGMAPS}/kube-root-ca.crt").code == 200)
    yield http
    http("DELETE", CONFIGMAPS, fieldSelector=OURS)


def now_of(http: Http, path: str = CONFIGMAPS) -> str:
    return str(http.get(path, limit=1)["metadata"]["resourceVersion"])


def test_from_the_state_and_from_a_revision(http: Http) -> None:
    http.post(CONFIGMAPS, configmap("a"))
    with http.watch(CONFIGMAPS, fieldSelector=OURS) as events:
        assert seen(next(events)) == ("ADDED", "a")
        since = now_of(http)
        http.post(CONFIGMAPS, configmap("b"))
        http("PATCH", CONFIGMAPS + "/b", {"data": {"x": "1"}}, headers=MERGE)
        http("DELETE", CONFIGMAPS + "/b")
        later = take(events, 3)
    assert [seen(e) for e in later] == [("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "b")]
    revisions = [int(e["object"]["metadata"]["resourceVersion"]) for e in later]
    assert revisions == sorted(set(revisions))
    assert later[2]["object"]["data"] == {"x": "1"}
    # The same again, from the past; and from the middle of it.
    with http.watch(CONFIGMAPS, resourceVersion=since) as events:
        assert [e["object"] for e in take(events, 3)] == [e["object"] for e in later]
    with http.watch(CONFIGMAPS, resourceVersion=revisions[0]) as events:
        assert [seen(e) for e in take(events, 2)] == [("MODIFIED", "b"), ("DELETED", "b")]


def test_a_selector_makes_objects_come_and_go(http: Http) -> None:
    http.post(CONFIGMAPS, configmap("a", {"in": "no"}))
    with http.watch(CONFIGMAPS, labelSelector="in=yes", resourceVersion=now_of(http)) as events:
        for labels in ({"in": "yes"}, {"in": "yes", "x": "y"}, {"in": "no"}):
            patch = {"metadata": {"labels": labels}}
            http("PATCH", CONFIGMAPS + "/a", patch, headers=MERGE)
        found = [seen(e)[0] for e in take(events, 3)]
    assert found == ["ADDED", "MODIFIED", "DELETED"]
    one = f"{CONFIGMAPS}/a"
    with http.watch(CONFIGMAPS, fieldSelector="metadata.name=a", resourceVersion="0") as events:
        assert seen(next(events)) == ("ADDED", "a")
        http.post(CONFIGMAPS, configmap("other"))
        http("DELETE", one)
        assert seen(next(events)) == ("DELETED", "a")
    # The old form of a watch.
    with http.watch("/api/v1/watch/namespaces/default/configmaps/other") as events:
        assert seen(next(events)) == ("ADDED", "other")


def test_what_ends_a_watch(http: Http) -> None:
    with http.watch(CONFIGMAPS, timeoutSeconds=1, resourceVersion=now_of(http)) as events:
        assert list(events) == []  # An end in order, not an error.
    with http.watch(
        CONFIGMAPS, timeoutSeconds=1, resourceVersion=now_of(http), allowWatchBookmarks="true"
    ) as events:
        http.post(CONFIGMAPS, configmap("a"))
        found = list(events)
    assert seen(found[0]) == ("ADDED", "a")
    for bookmark in found[1:]:
        assert bookmark["type"] == "BOOKMARK"
        assert bookmark["object"]["kind"] == "ConfigMap"
        assert int(bookmark["object"]["metadata"]["resourceVersion"]) >= int(
            found[0]["object"]["metadata"]["resourceVersion"]
        )
    assert http("GET", CONFIGMAPS, watch="1", resourceVersion="nonsense").code == 400
    assert http("GET", CONFIGMAPS, watch="1", labelSelector="a b").code == 400
    future = http("GET", CONFIGMAPS, watch="1", resourceVersion=str(2**62), timeoutSeconds=1)
    assert future.code in (400, 504) or b'"ERROR"' in future.body


def test_watch_lists(http: Http) -> None:
    """State, a bookmark that ends it, then changes: that is how kubectl 1.35 and Helm 4 wait."""
    for name in "abc":
        http.post(CONFIGMAPS, configmap(name))
    options = {
        "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true", "fieldSelector": OURS,
    }  # fmt: skip
    for more in ({}, {"resourceVersion": "0"}, {"resourceVersion": now_of(http)}):
        with http.watch(CONFIGMAPS, **options, **more) as events:
            first = take(events, 4)
            assert [seen(e) for e in first[:3]] == [("ADDED", name) for name in "abc"]
            mark = first[3]["object"]["metadata"]
            assert first[3]["type"] == "BOOKMARK"
            assert mark["annotations"] == {"k8s.io/initial-events-end": "true"}
            name = f"d{mark['resourceVersion']}"
            http.post(CONFIGMAPS, configmap(name))
            assert seen(next(events)) == ("ADDED", name)
            http("DELETE", f"{CONFIGMAPS}/{name}")


def test_rows_and_metadata_only(http: Http) -> None:
    http.post(CONFIGMAPS, configmap("a", x="1"))
    with http.watch(CONFIGMAPS, headers={"Accept": TABLE}, resourceVersion="0") as events:
        table = next(events)["object"]
        assert table["kind"] == "Table"
        assert [row["cells"][0] for row in table["rows"]] == ["a"]
        assert table["columnDefinitions"]
    with http.watch(CONFIGMAPS, headers={"Accept": PARTIAL}, resourceVersion="0") as events:
        partial = next(events)["object"]
        assert partial["kind"] == "PartialObjectMetadata"
        assert "data" not in partial


def test_every_tenant_at_once(cluster: Cluster) -> None:
    """The administrator's watch of several partitions: one order, and a revision to go on from."""
    admin = Http(cluster.admin)
    # Tenants of both partitions: names go by their first letter.
    users = [Http(cluster.tenant(name)) for name in ("all-watch-a", "zall-watch-z")]
    since = now_of(admin, ALL)
    chosen = {"labelSelector": "test=all"}
    rounds = 5
    with admin.watch(ALL, resourceVersion=since, **chosen) as events:
        with ThreadPoolExecutor(2) as pool:
            for i in range(rounds):
                list(pool.map(
                    lambda user, i=i: user.post(CONFIGMAPS, configmap(f"m{i}", {"test": "all"})),
                    users,
                ))  # fmt: skip
        found = take(events, 2 * rounds)
    revisions = [int(e["object"]["metadata"]["resourceVersion"]) for e in found]
    assert revisions == sorted(set(revisions))
    for tenant in ("all-watch-a", "zall-watch-z"):
        mine = [e for e in found if e["object"]["metadata"]["tenant"] == tenant]
        assert [seen(e)[1] for e in mine] == [f"m{i}" for i in range(rounds)]
    with admin.watch(ALL, resourceVersion=revisions[3], **chosen) as events:
        assert take(events, 2 * rounds - 4) == found[4:]
    listed = admin.get(ALL, **chosen)
    assert len(listed["items"]) == 2 * rounds
    pages, token = [], ""
    while True:
        page = admin.get(ALL, limit=3, **chosen, **({"continue": token} if token else {}))
        pages += page["items"]
        token = page["metadata"].get("continue", "")
        if not token:
            break
    assert pages == listed["items"]
    options = {
        "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }  # fmt: skip
    with admin.watch(ALL, **chosen, **options) as events:
        state = take(events, 2 * rounds + 1)
    assert state[-1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"
    for user in users:
        user("DELETE", CONFIGMAPS, labelSelector="test=all")


def test_many_watchers_see_the_same(http: Http) -> None:
    since = now_of(http)
    writes = 20

    def watch(_: int) -> list[tuple[str, str]]:
        with http.watch(CONFIGMAPS, resourceVersion=since) as events:
            return [seen(e) for e in take(events, writes)]

    with ThreadPoolExecutor(6) as pool:
        watchers = [pool.submit(watch, i) for i in range(5)]
        for i in range(writes):
            http.post(CONFIGMAPS, configmap(f"w{i}"))
        wanted = [("ADDED", f"w{i}") for i in range(writes)]
        for watcher in watchers:
            assert watcher.result(timeout=30) == wanted


def test_over_a_websocket(cluster: Cluster, http: Http) -> None:
    """As Headlamp watches: one text frame an event, the token as a subprotocol if need be."""
    token = cluster.token(cluster.tenant("watch"))
    http.post(CONFIGMAPS, configmap("a"))

    async def run() -> None:
        tls = ssl.create_default_context(cafile=str(cluster.ca))
        url = f"{cluster.url}{CONFIGMAPS}?watch=1&fieldSelector={OURS}"
        bearer = {"Authorization": f"Bearer {token}"}
        origin = {"Origin": cluster.url}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
            for protocols in ((), ("base64.binary.k8s.io",), ("binary.k8s.io",)):
                async with session.ws_connect(
                    url, headers={**bearer, **origin}, protocols=protocols
                ) as socket:
                    event = json.loads(await socket.receive_str(timeout=10))
                    assert seen(event) == ("ADDED", "a")
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await session.ws_connect(url, headers=bearer)
            encoded = base64_url(token)
            wanted = f"base64url.bearer.authorization.k8s.io.{encoded}"
            async with session.ws_connect(
                url, headers=origin, protocols=(wanted, "base64.binary.k8s.io")
            ) as socket:
                assert socket.protocol == "base64.binary.k8s.io"
                await socket.receive_str(timeout=10)
                patch = {"data": {"x": "1"}}
                await asyncio.to_thread(http, "PATCH", CONFIGMAPS + "/a", patch, headers=MERGE)
                event = json.loads(await socket.receive_str(timeout=10))
                assert seen(event) == ("MODIFIED", "a")

    asyncio.run(run())


def base64_url(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def test_a_deleted_tenant_ends_nobodys_watch_but_its_own(cluster: Cluster, http: Http) -> None:
    admin = Http(cluster.admin)
    tenant = Http(cluster.tenant("watched-to-death"))
    tenant.post(CONFIGMAPS, configmap("last"))
    with (
        http.watch(CONFIGMAPS, resourceVersion=now_of(http)) as others,
        admin.watch("/api/v1/tenants/watched-to-death/configmaps", resourceVersion="0") as events,
    ):
        names = {seen(next(events))[1]}
        admin("DELETE", "/api/v1/tenants/watched-to-death")
        for event in events:
            names.add(seen(event)[1])
            if seen(event) == ("DELETED", "last"):
                break
        until(lambda: admin("GET", "/api/v1/tenants/watched-to-death").code == 404, 60)
        http.post(CONFIGMAPS, configmap("alive"))
        assert seen(next(others)) == ("ADDED", "alive")
    assert tenant("GET", CONFIGMAPS).code == 401
