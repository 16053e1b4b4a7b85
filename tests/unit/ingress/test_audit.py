"""The audit log through the front door: what is in it, what never is, and that it stops nobody."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api import audit_policy, errors
from arktos_ray.api.calls import Call, Reply, User
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.ids import Ids
from arktos_ray.base.rotated_files import RotatedFiles
from arktos_ray.ingress import audit as audits
from arktos_ray.ingress import audit_events, status
from arktos_ray.ingress.audit import Audit
from arktos_ray.ingress.limits import Limits
from arktos_ray.ingress.server import Ingress

from .fakes import KEY, FakeDocuments, FakeUpstream, run
from .test_server import TOKENS, Client, event

Object = dict[str, Any]
EVERYTHING = {"level": "RequestResponse"}
SECRET = "hunter2hunter2"


def policy(*rules: Object) -> audit_policy.Policy:
    return audit_policy.read(
        {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": list(rules)}
    )


class Log(Client):
    """A client, and what was written of what it said."""

    audit: Audit
    path: Path

    async def events(self) -> list[Object]:
        self.audit._flush()
        while self.audit.waiting:
            await asyncio.sleep(0.005)
        return [orjson.loads(line) for line in self.path.read_bytes().splitlines()]

    async def last(self) -> Object:
        return (await self.events())[-1]


@contextlib.asynccontextmanager
async def logging(
    folder: Path, *rules: Object, blocking: bool = False, files: Any = None
) -> AsyncIterator[Log]:
    from arktos_ray.ingress.authn import Authenticator

    up, documents, clock = FakeUpstream(), FakeDocuments(), SystemClock()
    path = folder / "audit.log"
    files = files or RotatedFiles(path, 1 << 20, 3, 0)
    audit = Audit(policy(*(rules or (EVERYTHING,))), files, clock, Ids(1), blocking=blocking)
    door = Ingress(
        up, Authenticator(up.tenant_uid, tokens=TOKENS, key=KEY), clock, Ids(1), documents,
        documents, limits=Limits(watch_grace_s=0.02), audit=audit,
    )  # fmt: skip
    _, port = await door.listen("127.0.0.1", 0, None)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            log = Log(session, up, door)
            log.audit, log.path = audit, path
            yield log
    finally:
        await door.close(1.0)


def test_a_line_says_who_did_what_from_where_and_what_came_of_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with logging(tmp_path, {"level": "Metadata"}) as log:
            body = {"metadata": {"name": "c"}, "data": {"a": "b"}}
            code, _, headers = await log.say(
                "POST", "/api/v1/namespaces/n/configmaps?fieldManager=x", body, "bob",
                User_Agent="kubectl/v1.33", X_Forwarded_For="10.1.2.3, nonsense",
            )  # fmt: skip
            assert code == 201
            line = await log.last()
            assert line["auditID"] == headers["Audit-Id"]
            assert (line["kind"], line["apiVersion"]) == ("Event", "audit.k8s.io/v1")
            assert (line["level"], line["stage"]) == ("Metadata", "ResponseComplete")
            assert (line["verb"], line["userAgent"]) == ("create", "kubectl/v1.33")
            assert line["requestURI"] == "/api/v1/namespaces/n/configmaps?fieldManager=x"
            assert line["user"] == {"username": "bob", "tenant": "acme", "groups": []}
            assert line["sourceIPs"] == ["10.1.2.3", "127.0.0.1"]
            reference = line["objectRef"]
            assert reference.pop("resourceVersion")
            assert reference == {
                "resource": "configmaps", "tenant": "acme", "namespace": "n", "name": "c",
                "apiVersion": "v1",
            }  # fmt: skip
            assert line["responseStatus"]["code"] == 201
            assert line["annotations"]["authorization.k8s.io/decision"] == "allow"
            assert line["annotations"]["apiserver.latency.k8s.io/total"].endswith("ms")
            assert line["stageTimestamp"] >= line["requestReceivedTimestamp"]
            assert "requestObject" not in line

    run(story())


def test_bodies_are_written_where_the_policy_wants_them(tmp_path: Path) -> None:
    async def story() -> None:
        async with logging(
            tmp_path, {"level": "Request", "verbs": ["create"]}, {"level": "RequestResponse"}
        ) as log:
            body = {"metadata": {"name": "c", "labels": {"a": "b"}}}
            await log.say("POST", "/api/v1/namespaces/n/configmaps", body)
            line = await log.last()
            assert line["requestObject"] == body
            assert "responseObject" not in line
            await log.say("GET", "/api/v1/namespaces/n/configmaps/c")
            assert (await log.last())["responseObject"]["metadata"]["labels"] == {"a": "b"}

    run(story())


def test_who_is_refused_is_in_it_in_whatever_way(tmp_path: Path) -> None:
    async def story() -> None:
        async with logging(tmp_path, {"level": "Metadata"}) as log:
            await log.say("GET", "/api/v1/tenants/b/namespaces/n/pods/p", token="bob")
            line = await log.last()
            assert line["objectRef"]["tenant"] == "b"
            assert (line["objectRef"]["name"], line["verb"]) == ("p", "get")
            assert line["annotations"]["authorization.k8s.io/decision"] == "forbid"
            assert line["responseStatus"]["reason"] == "Forbidden"
            await log.say("GET", "/api/v1/nodes", token="bob")
            assert (await log.last())["annotations"]["authorization.k8s.io/decision"] == "forbid"
            await log.say("DELETE", "/api/v1/namespaces/n/pods", token="bob")
            assert (await log.last())["objectRef"]["tenant"] == "acme"
            await log.say("GET", "/api/v1/namespaces/n/pods", token="wrong-token")
            line = await log.last()
            assert (line["responseStatus"]["code"], line["user"]) == (401, {})
            assert "wrong-token" not in log.path.read_text()
            await log.say("GET", "/metrics", token="bob")
            line = await log.last()
            assert (line["verb"], line["requestURI"]) == ("get", "/metrics")
            assert line["annotations"]["authorization.k8s.io/decision"] == "forbid"

    run(story())


def test_who_speaks_for_somebody_is_named_with_them(tmp_path: Path) -> None:
    async def story() -> None:
        async with logging(tmp_path, {"level": "Metadata"}) as log:
            await log.say("GET", "/api/v1/namespaces/n/pods", Impersonate_User="eve")
            line = await log.last()
            assert line["user"]["username"] == "root"
            assert line["impersonatedUser"]["username"] == "eve"

    run(story())


def test_a_watch_has_a_line_when_it_begins_and_one_when_it_ends(tmp_path: Path) -> None:
    async def story() -> None:
        async with logging(tmp_path, {"level": "Metadata"}) as log:
            path = "/api/v1/namespaces/n/configmaps"
            async with log.watch(f"{path}?watch=1&resourceVersion=1", "bob") as response:
                began = await log.last()
                assert response.headers["Audit-Id"] == began["auditID"]
                assert began["stage"] == "ResponseStarted"
                body = {"metadata": {"name": "c"}}
                await log.say("POST", path, body, "bob")
                assert (await event(response))["type"] == "ADDED"
            while not any(
                e["auditID"] == began["auditID"] and e["stage"] == "ResponseComplete"
                for e in await log.events()
            ):
                await asyncio.sleep(0.01)

    run(story())


def test_an_answer_is_written_as_json_whatever_the_client_wanted(tmp_path: Path) -> None:
    async def story() -> None:
        async with logging(tmp_path) as log:
            body = {"metadata": {"name": "c"}}
            await log.say(
                "POST", "/api/v1/namespaces/n/configmaps", body, Accept="application/yaml"
            )
            line = await log.last()
            assert line["objectRef"]["name"] == line["responseObject"]["metadata"]["name"] == "c"

    run(story())


def test_what_no_rule_wants_is_not_written(tmp_path: Path) -> None:
    async def story() -> None:
        async with logging(tmp_path, {"level": "Metadata", "verbs": ["create"]}) as log:
            _, _, headers = await log.say("GET", "/api/v1/namespaces/n/pods")
            assert "Audit-Id" not in headers
            await log.say("POST", "/api/v1/namespaces/n/configmaps", {"metadata": {"name": "c"}})
            assert [e["verb"] for e in await log.events()] == ["create"]

    run(story())


# Secrets


async def _ways(log: Log) -> None:
    """Every way to bring a secret to us, right and wrong."""
    manifest = {
        "kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"},
        "data": {"p": SECRET}, "stringData": {"p": SECRET},
    }  # fmt: skip
    applied = {"kubectl.kubernetes.io/last-applied-configuration": orjson.dumps(manifest).decode()}
    manifest["metadata"]["annotations"] = applied  # type: ignore[index]
    secrets, maps = "/api/v1/namespaces/n/secrets", "/api/v1/namespaces/n/configmaps"
    yaml = f"kind: Secret\napiVersion: v1\nmetadata: {{name: s}}\nstringData: {{p: {SECRET}}}"
    await log.say("POST", secrets, manifest)
    await log.say("GET", f"{secrets}/s")
    await log.say("GET", secrets)
    await log.say("PUT", f"{secrets}/s", manifest)
    for kind in ("json-patch", "merge-patch", "strategic-merge-patch"):
        await log.say("PATCH", f"{secrets}/s", manifest, Content_Type=f"application/{kind}+json")
    await log.say("POST", secrets, yaml.encode(), Content_Type="application/yaml")
    await log.say("POST", maps, yaml.encode(), Content_Type="application/yaml")
    await log.say("POST", maps, manifest)
    await log.say("POST", maps, {"kind": "List", "items": [manifest], "metadata": {"name": "l"}})
    inner = {"metadata": {"name": "m", "annotations": applied}, "stringData": {"x": SECRET}}
    await log.say("POST", maps, inner)
    await log.say("GET", f"{maps}/m")
    await log.say("GET", maps)
    reviews = "/apis/authentication.k8s.io/v1/tokenreviews"
    await log.say("POST", reviews, {"metadata": {"name": "t"}, "spec": {"token": SECRET}})
    await log.say("POST", "/api/v1/namespaces/n/serviceaccounts/default/token",
                  {"spec": {"token": SECRET}})  # fmt: skip
    await log.say("GET", f"{maps}?token={SECRET}&access_token={SECRET}&{SECRET}&limit=5")
    await log.say("GET", f"/version?{SECRET}=x")
    await log.say("GET", maps, token=SECRET)
    protocol = base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("=")
    await log.say("GET", maps, token="",
                  Sec_WebSocket_Protocol=f"base64url.bearer.authorization.k8s.io.{protocol}",
                  Cookie=SECRET, X_Remote_User=SECRET)  # fmt: skip


@pytest.mark.parametrize("answers", ["as usual", "quoting"])
def test_no_secret_is_ever_in_it(tmp_path: Path, answers: str) -> None:
    def quoting(call: Call) -> Reply:
        sent = call.body.decode() or "nothing"
        return status.reply(errors.Invalid(f"spec: Invalid value: {sent}"))

    async def story() -> None:
        async with logging(tmp_path) as log:
            if answers == "quoting":
                for partition in log.up.partitions.values():
                    partition.answer = quoting
            await _ways(log)
            lines = await log.events()
            assert len(lines) >= 20
            text = log.path.read_text()
            assert SECRET not in text
            assert base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("=") not in text

    run(story())


KEYS = st.sampled_from(
    ["kind", "metadata", "spec", "data", "stringData", "items", "object", "annotations", "status",
     "kubectl.kubernetes.io/last-applied-configuration", "template", "name"]
)  # fmt: skip
SECRETS = st.fixed_dictionaries(
    {"kind": st.sampled_from(["Secret", "SecretList", "TokenReview", "TokenRequest"])},
    optional={
        "data": st.dictionaries(st.text(max_size=3), st.just(SECRET), max_size=2),
        "spec": st.just({"token": SECRET}),
        "items": st.just([{"data": {"x": SECRET}}]),
        "status": st.just({"token": SECRET}),
        "metadata": st.just({"name": "s", "annotations": {"x": SECRET}}),
    },
)
VALUES = st.recursive(
    st.one_of(
        st.none(), st.integers(-9, 9), st.text(max_size=5), SECRETS,
        SECRETS.map(lambda s: orjson.dumps(s).decode()),
        st.just({"stringData": {"p": SECRET}}),
        st.just({"kubectl.kubernetes.io/last-applied-configuration": f"data: {SECRET}"}),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip


@given(value=VALUES)
def test_secrets_are_found_wherever_they_are(value: Any) -> None:
    assert SECRET not in repr(audit_events.without_secrets(value))


@given(
    body=VALUES, reply=VALUES, code=st.sampled_from([0, 200, 201, 400, 403, 409, 422, 500]),
    gvr=st.sampled_from(["configmaps", "secrets", "tokenreviews.authentication.k8s.io", "pods"]),
    sub=st.sampled_from(["", "token", "status"]),
    verb=st.sampled_from(["create", "update", "patch", "get", "list"]),
    query=st.lists(st.sampled_from([f"token={SECRET}", SECRET, "limit=1", f"x={SECRET}"])),
)  # fmt: skip
def test_no_event_of_any_shape_has_a_secret(
    body: Any, reply: Any, code: int, gvr: str, sub: str, verb: str, query: list[str]
) -> None:
    if gvr == "secrets" or sub == "token" or gvr.startswith("tokenreviews"):
        body, reply = [body, SECRET], {"kind": "Status", "message": SECRET, "was": reply}
    call = Call(verb, gvr, "acme", "n", "x", sub, body=orjson.dumps(body), content_type="")
    user = User("bob", "acme")
    trail = audit_events.Trail(
        "id", policy(EVERYTHING).rule_for(audit_policy.Asked("bob", (), "acme", verb)), "POST",
        "/p?" + "&".join(query), "/p", call, user, None, 0.0, 0.0, "127.0.0.1", "", "agent",
    )  # fmt: skip
    trail.code, trail.body, trail.request_body = code, orjson.dumps(reply), call.body
    assert SECRET.encode() not in orjson.dumps(audit_events.event_of(trail))


# A disk


class Stuck:
    """Files on a disk that is full until it is not."""

    def __init__(self, path: Path) -> None:
        self.files = RotatedFiles(path, 1 << 20, 3, 0)
        self.full = True
        self.tried = threading.Event()

    def write(self, data: bytes, now: float) -> None:
        self.tried.set()
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.files.write(data, now)

    def close(self) -> None:
        self.files.close()


async def _until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.005)


def test_a_full_disk_stops_nobody_and_what_is_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audits, "EVENTS_WAITING_MAX", 3)
    monkeypatch.setattr(audits, "_RETRY_S", 0.01)
    stuck = Stuck(tmp_path / "audit.log")

    async def story() -> None:
        async with logging(tmp_path, {"level": "Metadata"}, files=stuck) as log:
            for _ in range(6):
                code, _, _ = await log.say("GET", "/api/v1/namespaces/n/pods")
                assert code == 200
            _, page, _ = await log.say("GET", "/metrics")
            assert b"arktos_audit_events_dropped 3.0" in page
            stuck.full = False
            assert len(await log.events()) == 3

    run(story())


def test_where_it_must_be_written_nobody_is_answered_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audits, "_RETRY_S", 0.01)
    stuck = Stuck(tmp_path / "audit.log")

    async def story() -> None:
        async with logging(tmp_path, {"level": "Metadata"}, files=stuck, blocking=True) as log:
            asking = asyncio.ensure_future(log.say("GET", "/api/v1/namespaces/n/pods"))
            await _until(stuck.tried.is_set)
            assert not asking.done()
            stuck.full = False
            code, _, headers = await asking
            assert code == 200
            line = orjson.loads(log.path.read_bytes())  # It is there already.
            assert line["auditID"] == headers["Audit-Id"]
            monkeypatch.setattr(audits, "_BLOCKED_S", 0.05)
            stuck.full = True
            code, said, _ = await log.say("GET", "/api/v1/namespaces/n/pods")
            assert (code, "audit log" in said["message"]) == (503, True)
            stuck.full = False

    run(story())


def test_the_last_lines_are_written_at_the_end(tmp_path: Path) -> None:
    async def story() -> None:
        async with logging(tmp_path, {"level": "Metadata"}) as log:
            await log.say("GET", "/api/v1/namespaces/n/pods")

    run(story())
    assert len((tmp_path / "audit.log").read_bytes().splitlines()) == 1


def test_calls_from_the_inside_are_in_it_as_the_requests_that_they_stand_for(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with logging(tmp_path, {"level": "Metadata"}) as log:
            user = User("arktos-python", "system", ("system:masters",))
            call = Call("patch", "deployments.apps", "acme", "n", "web", "status", user=user)
            trail = log.audit.begin_call(call, 0.0)
            assert trail is not None
            log.audit.answered(trail, Reply(200, b"{}"))
            line = await log.last()
            uri = "/apis/apps/v1/tenants/acme/namespaces/n/deployments/web/status"
            assert (line["verb"], line["requestURI"]) == ("patch", uri)
            assert line["user"]["username"] == "arktos-python"
            ours = Call("get", "pods", "acme", "n", "p", user=User("system:shard-1", trusted=True))
            assert log.audit.begin_call(ours, 0.0) is None

    run(story())


def test_what_policies_and_webhooks_note_is_in_it_but_not_of_secrets(tmp_path: Path) -> None:
    async def story() -> None:
        async with logging(tmp_path, {"level": "Metadata"}) as log:
            user = User("bob", "acme")
            for gvr in ("configmaps", "secrets"):
                trail = log.audit.begin_call(Call("create", gvr, "acme", "n", user=user), 0.0)
                assert trail is not None
                sent = Reply(201, b"{}", notes=(("p/key", "it said so"),))
                log.audit.answered(trail, Reply.unpack(sent.pack()))
            noted, secret = await log.events()
            assert noted["annotations"]["p/key"] == "it said so"
            assert "p/key" not in secret["annotations"]

    run(story())


def test_the_id_of_a_request_does_not_say_how_many_others_there_were(tmp_path: Path) -> None:
    async def story() -> None:
        async with logging(tmp_path) as log:
            told = []
            for _ in range(20):
                _, _, headers = await log.say("GET", "/api/v1/pods", token="bob")
                told.append(headers["Audit-Id"])
            parts = [[one[at:to] for one in told] for at, to in ((0, 18), (19, 36))]
            assert all(len(set(part)) == 20 for part in parts)
            assert sorted(told) != told

    run(story())
