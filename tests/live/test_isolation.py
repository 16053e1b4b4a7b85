"""No tenant learns of another: hostile requests by the thousand, in pairs (isolation.py).

ARKTOS_ISOLATION says how many (`make isolation`: 100,000), ARKTOS_SEED where they begin.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import os
import re
import ssl
import time
import uuid
from typing import Any, NamedTuple

import pytest
from isolation import Pair, Place, Request, World, pairs
from livekit import Cluster, Http, Say, until
from test_tenancy import NAMESPACED, body_of, collection

from arktos_ray.api import scheme
from arktos_ray.api.scheme import Resource, Scope

pytestmark = pytest.mark.live

Object = dict[str, Any]
REQUESTS = int(os.environ.get("ARKTOS_ISOLATION", "4000"))
SEED = int(os.environ.get("ARKTOS_SEED", "1"))
CONNECTIONS = 16
ANSWER_S = 20.0
# Of an object that another tenant may know neither to be there nor what is in it.
MARK = "jewel-in-the-vault"
# Changes with every request, whatever was asked.
VOLATILE = re.compile(
    rb'"(resourceVersion|uid|creationTimestamp|continue)":"[^"]*"|"hashKey":\d+|own-[0-9a-f]+-\w+'
)

_SPELT = re.compile(rb"%(76|64|63|6e|6a)(aultt7|esertt7|ellarn7|othingn7|ewelo7|obodyo7)", re.I)


class Seen(NamedTuple):
    code: int
    headers: bytes
    body: bytes


class Wire:
    """One connection that sends exactly what it is given, and connects anew when it is closed."""

    def __init__(self, http: Http, tls: ssl.SSLContext) -> None:
        self._http, self._tls = http, tls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, request: Request) -> Seen:
        async with asyncio.timeout(ANSWER_S):
            if self._streams is None:
                self._streams = await asyncio.open_connection(
                    self._http.host, self._http.port, ssl=self._tls
                )
            reader, writer = self._streams
            headers = {"Host": "localhost", **self._http.headers, **request.headers}
            if request.body:
                headers["Content-Length"] = str(len(request.body))
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            writer.write(f"{request.method} {request.target} HTTP/1.1\r\n{head}\r\n".encode())
            writer.write(request.body)
            seen, goes_on = await _read(reader, request.method)
            if not goes_on:
                await self.close()
            return seen

    async def close(self) -> None:
        if self._streams is not None:
            writer = self._streams[1]
            self._streams = None
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader, method: str) -> tuple[Seen, bool]:
    head = await reader.readuntil(b"\r\n\r\n")
    line, _, rest = head.partition(b"\r\n")
    code, lower, body = int(line.split()[1]), rest.lower(), b""
    if code == 101:
        return Seen(code, rest, b""), False
    if b"transfer-encoding: chunked" in lower:
        while True:
            size = int((await reader.readline()).split(b";")[0], 16)
            body += (await reader.readexactly(size + 2))[:-2]
            if not size:
                break
    elif method != "HEAD":
        found = re.search(rb"content-length: (\d+)", lower)
        if found:
            body = await reader.readexactly(int(found[1]))
    return Seen(code, rest, body), b"connection: close" not in lower


class Tally(NamedTuple):
    codes: dict[int, int]
    wrong: list[str]


WIDGETS = Resource(
    "treasures.example.com", "v1", "widgets", "Widget", "widget", Scope.NAMESPACED, "",
    subresources={"status": ("get", "patch", "update")},
)  # fmt: skip


CROWNS = Resource(
    "treasures.example.com", "v1", "crowns", "Crown", "crown", Scope.TENANT, "",
    subresources={"status": ("get", "patch", "update")},
)  # fmt: skip


def define(http: Http, kind: Resource, scope: str) -> None:
    names = {"plural": kind.plural, "kind": kind.kind}
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema},
    }  # fmt: skip
    http.post(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        {
            "metadata": {"name": f"{kind.plural}.{kind.group}"},
            "spec": {
                "group": kind.group, "scope": scope, "names": names,
                "versions": [version],
            },
        },
    )  # fmt: skip


def account(http: Http, name: str, role: str = "") -> str:
    """A token of a new service account in `default`, with that role in all of its tenant."""
    http.post("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": name}})
    if role:
        http.post(
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            {
                "metadata": {"name": name},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role,
                },
                "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": name}],
            },
        )  # fmt: skip
    asked = http.post(f"/api/v1/namespaces/default/serviceaccounts/{name}/token", {})
    token: str = asked["status"]["token"]
    return token


def bearing(http: Http, token: str) -> Http:
    other = copy.copy(http)
    other.headers = {**http.headers, "Authorization": f"Bearer {token}"}
    return other


def told(seen: Seen) -> Seen:
    """A busy server may begin to answer a watch before it knows that it refuses it."""
    if seen.code != 200 or not seen.body.startswith(b'{"type":"ERROR"'):
        return seen
    status = json.loads(seen.body)["object"]
    return Seen(status["code"], seen.headers, json.dumps(status, separators=(",", ":")).encode())


def judge(pair: Pair, there: Seen, absent: Seen, world: World, tally: Tally) -> None:
    """Whether somebody who compares the two learns anything."""
    for seen, request in ((there, pair.there), (absent, pair.absent)):
        tally.codes[seen.code] = tally.codes.get(seen.code, 0) + 1
        if seen.code >= 500:
            tally.wrong.append(f"{request}: {seen}")
        if MARK.encode() in seen.body or MARK.encode() in seen.headers:
            tally.wrong.append(f"{request}: shows {MARK}: {seen}")
        if pair.foreign and seen.code < 400:
            tally.wrong.append(f"{request}: is of another tenant: {seen}")
    # A success is of the sender's own, and changes with every request; answers to questions do not.
    words = [_plain(there, world.there, world), _plain(absent, world.absent, world)]
    says = there.code >= 400 or b'reviews"' in there.body[:120] or b'Review"' in there.body[:120]
    if there.code != absent.code or (says and words[0] != words[1]):
        tally.wrong.append(f"{pair.there}: {there}\n  and absent: {absent}")


def _plain(seen: Seen, place: Place, world: World) -> bytes:
    # A refusal may repeat a name as it was spelt: with its first letter as a number.
    body = _SPELT.sub(lambda found: bytes([int(found[1], 16)]) + found[2], seen.body)
    body = VOLATILE.sub(b"", body)
    names = list(place._asdict().items())
    # A kind of the other's is named in both of some pairs.
    names += [("group", world.there.group), ("plural", world.there.plural)]
    for what, name in names:
        if what != "revision":
            for form in (name, name.upper(), name.capitalize()):
                body = body.replace(form.encode(), what.encode())
    return body


async def attack(world: World, https: list[Http], tally: Tally, say: Say) -> None:
    made = pairs(world, SEED)
    left = REQUESTS // 2
    began = time.monotonic()

    async def one(number: int) -> None:
        nonlocal left
        http = https[number % len(https)]
        wire = Wire(http, http.tls)
        while left > 0 and len(tally.wrong) < 20:
            left -= 1
            if left % 5_000 == 0:
                say(f"{REQUESTS - 2 * left} requests in {time.monotonic() - began:.0f} s")
            pair = next(made)
            try:
                seen = [await wire.send(pair.there), await wire.send(pair.absent)]
            except (TimeoutError, asyncio.IncompleteReadError, ConnectionError, ValueError) as e:
                tally.wrong.append(f"{pair.there}: {e!r}")
                await wire.close()
                continue
            judge(pair, told(seen[0]), told(seen[1]), world, tally)
        await wire.close()

    async with asyncio.TaskGroup() as group:
        for number in range(CONNECTIONS):
            group.create_task(one(number))


def test_nobody_learns_what_is_in_another_tenant(cluster: Cluster, say: Say) -> None:
    victim, intruder = Http(cluster.tenant("vaultt7")), Http(cluster.tenant("intruder"))
    person = Http(cluster.person("intruder", "admin"))
    victim.post("/api/v1/namespaces", {"metadata": {"name": "cellarn7"}})
    before = {}
    for resource in NAMESPACED:
        body = body_of(resource, "jewelo7")
        body["metadata"] |= {"labels": {"of": "vaultt7"}, "annotations": {"mark": MARK}}
        path = collection(resource, namespace="cellarn7")
        victim.post(path, body)
        before[resource.gvr] = [o["metadata"]["uid"] for o in victim.get(path)["items"]]
    # A kind that only the victim defined: whether there is one is nobody's business either.
    define(victim, WIDGETS, "Namespaced")
    define(victim, CROWNS, "Tenant")
    until(lambda: victim("GET", collection(WIDGETS, namespace="cellarn7")).code == 200)
    victim.post(collection(WIDGETS, namespace="cellarn7"), body_of(WIDGETS, "jewelo7"))
    victim.post(collection(CROWNS), body_of(CROWNS, "jewelo7"))
    bearer = account(victim, "jewelo7", "cluster-admin")
    nobodys = bearer[:-6] + ("AAAAAA" if bearer[-6:] != "AAAAAA" else "BBBBBB")
    # Service accounts of the intruder: one that may everything there, and one that may nothing.
    strong = bearing(intruder, account(intruder, "strong", "cluster-admin"))
    weak = bearing(intruder, account(intruder, "weak"))
    jewel = victim.get("/api/v1/namespaces/cellarn7/configmaps/jewelo7")["metadata"]
    victim.post("/api/v1/namespaces/cellarn7/configmaps", {"metadata": {"name": "more"}})
    page = victim.get("/api/v1/configmaps", limit=1)["metadata"]

    def token(tenant: str, namespace: str, name: str) -> str:
        raw = json.loads(base64.urlsafe_b64decode(page["continue"] + "=="))
        raw["after"] = f"{tenant}/{namespace}/{name}"
        return base64.urlsafe_b64encode(json.dumps(raw).encode()).decode().rstrip("=")

    there, absent = ("vaultt7", "cellarn7", "jewelo7"), ("desertt7", "nothingn7", "nobodyo7")
    world = World(
        "intruder",
        Place(*there, jewel["uid"], token(*there), jewel["resourceVersion"], bearer,
              WIDGETS.group, WIDGETS.plural),
        Place(*absent, str(uuid.UUID(int=7, version=4)), token(*absent), jewel["resourceVersion"],
              nobodys, "nothings.example.com", "gadgets"),
        # With all older groups and versions.
        (*scheme.BY_PATH.values(), WIDGETS, CROWNS),
    )  # fmt: skip
    tally = Tally({}, [])
    asyncio.run(attack(world, [intruder, person, strong, weak], tally, say))
    say(f"seed {SEED}: {sum(tally.codes.values())} requests, answers {sorted(tally.codes.items())}")
    assert not tally.wrong, "\n".join(wrong[:900] for wrong in tally.wrong[:10])
    assert sum(tally.codes.values()) >= REQUESTS - 1
    for resource in NAMESPACED:
        items = victim.get(collection(resource, namespace="cellarn7"))["items"]
        uids = [o["metadata"]["uid"] for o in items]
        assert set(before[resource.gvr]) <= set(uids), resource.gvr
        mine = [o for o in items if o["metadata"]["name"] == "jewelo7"]
        assert mine[0]["metadata"]["labels"] == {"of": "vaultt7"}
        assert "deletionTimestamp" not in mine[0]["metadata"]
