"""An Upstream in memory: partitions that keep objects in dicts and answer like real ones."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson
import uvloop

from arktos_ray.api import errors, scheme
from arktos_ray.api.calls import ADDED, BOOKMARK, MODIFIED, Call, Reply, User, WatchEvent
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.ids import Ids
from arktos_ray.ingress.authn import Authenticator
from arktos_ray.ingress.limits import Limits
from arktos_ray.ingress.server import Ingress
from arktos_ray.tenancy.quota import NO_LIMITS, Allowed

T = TypeVar("T")


def run(what: Coroutine[Any, Any, T]) -> T:
    return uvloop.run(asyncio.wait_for(what, 30))


class FakePartition:
    """One Peer. Objects by (gvr, tenant, namespace, name); one history for all watches."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.objects: dict[tuple[str, str, str, str], dict[str, Any]] = {}
        self.history: list[tuple[str, str, str, WatchEvent]] = []
        self.revision = 1_000 + number
        self.batches: list[list[Call]] = []
        self.watches: list[Call] = []
        self.changed = asyncio.Condition()
        self.asked_progress: list[int] = []
        self.answer: Callable[[Call], Reply] | None = None
        self.compacted = 0
        # What roles allow to users of the system tenant elsewhere, and anybody on paths.
        self.grants: Callable[[Call], bool] = lambda call: True
        self.may: Callable[[User, list[str]], bool] = lambda user, ask: False
        self.withdrawn = asyncio.Event()
        self.accounts_gone = False  # whatever tokens of service accounts rest on

    def next_revision(self) -> int:
        self.revision += 10 - (self.revision - self.number) % 10
        return self.revision

    async def put(self, call: Call, obj: dict[str, Any]) -> dict[str, Any]:
        name = obj["metadata"]["name"]
        key = (call.gvr, call.tenant, call.namespace, name)
        kind = MODIFIED if key in self.objects else ADDED
        revision = self.next_revision()
        resource = scheme.resource(call.gvr)
        obj = {"kind": resource.kind, "apiVersion": resource.api_version, **obj}
        obj["metadata"] = {**obj["metadata"], "resourceVersion": str(revision)}
        self.objects[key] = obj
        event = WatchEvent(kind, revision, "/".join(key[1:]), orjson.dumps(obj))
        async with self.changed:
            self.history.append((call.gvr, call.tenant, call.namespace, event))
            self.changed.notify_all()
        return obj

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        self.batches.append(list(calls))
        return [await self._one(call) for call in calls]

    async def _one(self, call: Call) -> Reply:
        if self.answer is not None:
            return self.answer(call)
        key = (call.gvr, call.tenant, call.namespace, call.name)
        if call.verb == "create":
            obj = orjson.loads(call.body)
            if (*key[:3], obj["metadata"]["name"]) in self.objects:
                refusal = errors.AlreadyExists(f'{call.gvr} "{obj["metadata"]["name"]}" exists')
                return Reply(409, refusal.encode())
            return Reply(201, orjson.dumps(await self.put(call, obj)), ("be careful",))
        if call.verb == "list":
            if call.options.get("advance"):
                self.revision = max(self.revision, int(call.options["resourceVersion"]))
            items = [v for k, v in sorted(self.objects.items()) if self._in(call, k)]
            meta = {"resourceVersion": str(self.revision)}
            start, limit = int(call.options.get("continue", "0")), call.options.get("limit")
            if limit and len(items) > start + int(limit):
                meta["continue"] = str(start + int(limit))
            items = items[start : start + int(limit)] if limit else items
            kind = scheme.resource(call.gvr).kind + "List"
            body = {"kind": kind, "apiVersion": "v1", "metadata": meta, "items": items}
            return Reply(200, orjson.dumps(body))
        found = self.objects.get(key)
        if found is None:
            refusal = errors.NotFound(f'{call.gvr} "{call.name}" not found')
            return Reply(404, refusal.encode())
        if call.verb == "update":
            return Reply(200, orjson.dumps(await self.put(call, orjson.loads(call.body))))
        return Reply(200, orjson.dumps(found))

    @staticmethod
    def _in(call: Call, key: tuple[str, str, str, str]) -> bool:
        return (
            key[0] == call.gvr and call.tenant in (key[1], "all") and call.namespace in (key[2], "")
        )

    async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        self.watches.append(call)
        after = int(call.options.get("resourceVersion", "0") or "0")
        if after and after < self.compacted:
            raise errors.Expired("too old resource version")
        at, asked = 0, len(self.asked_progress)
        if not after:
            state = [
                WatchEvent(ADDED, int(o["metadata"]["resourceVersion"]), "", orjson.dumps(o))
                for k, o in sorted(self.objects.items())
                if self._in(call, k)
            ]
            at = len(self.history)
            if state:
                yield state
            if call.options.get("sendInitialEvents"):
                yield [WatchEvent(BOOKMARK, self.revision, "", initial_end=True)]
        while True:
            new = self.history[at:]
            at += len(new)
            events = [
                event
                for gvr, tenant, namespace, event in new
                if event.revision > after and self._in(call, (gvr, tenant, namespace, ""))
            ]
            if call.options.get("progress") and len(self.asked_progress) > asked:
                asked = len(self.asked_progress)
                events.append(WatchEvent(BOOKMARK, self.revision, ""))
            if events:
                yield events
                continue
            if self.compacted > self.revision:
                raise errors.Expired("too old resource version")
            async with self.changed:
                await self.changed.wait()

    async def request(self, method: str, payload: Any) -> Any:
        if method == "granted":
            [call, verbs] = payload
            if not self.grants(Call.unpack(call)):
                raise errors.Forbidden("not granted")
            return [Call.unpack(call).verb, *verbs]
        if method == "may":
            [user, asks] = payload
            if User.unpack(user).credential and self.accounts_gone:
                raise errors.Unauthorized("Unauthorized")
            return [self.may(User.unpack(user), ask) for ask in asks]
        if method == "kinds":
            return ["-", []]
        assert method == "progress"
        [revision] = payload
        self.revision = max(self.revision, revision)
        async with self.changed:
            self.asked_progress.append(revision)
            self.changed.notify_all()
        return None

    async def subscribe(self, method: str, payload: Any) -> AsyncIterator[Any]:
        assert method == "remains"
        if not self.grants(Call.unpack(payload)):
            raise errors.Forbidden("not granted")
        yield True
        await self.withdrawn.wait()
        raise errors.Forbidden("withdrawn")


class FakeUpstream:
    def __init__(self, tenant_partitions: int = 2, resource_partitions: int = 2) -> None:
        names = [f"tp-{i}" for i in range(tenant_partitions)]
        names += [f"rp-{i}" for i in range(resource_partitions)]
        self.partitions = {name: FakePartition(i) for i, name in enumerate(names)}
        self.uids: dict[str, str] = {"system": "uid-system", "acme": "uid-acme", "b": "uid-b"}
        self.moves: dict[str, str] = {}
        self.limits: dict[str, Allowed] = {}
        self.suspended: set[str] = set()
        self.storages: dict[str, str] = {}  # tenant -> what a Tenant to create asked for
        self.printed: list[bytes] = [b"hello\n", b"world\n"]

    def moved(self, tenant: str, to: str) -> None:
        self.moves[tenant] = to

    def owner_of(self, tenant: str, storage: str = "") -> str:
        self.storages[tenant] = storage
        other = "tp-0" if tenant == "system" else self.tenant_partitions()[-1]
        return self.moves.get(tenant, other)

    def tenant_uid(self, tenant: str) -> str | None:
        return self.uids.get(tenant)

    def tenant_partitions(self) -> list[str]:
        return [name for name in self.partitions if name.startswith("tp")]

    def allowed(self, tenant: str) -> Allowed:
        return self.limits.get(tenant, NO_LIMITS)

    def is_suspended(self, tenant: str) -> bool:
        return tenant in self.suspended

    def topology_version(self) -> int:
        return 1

    def taking_nodes(self) -> list[str]:
        return self.resource_partitions()

    def resource_partitions(self) -> list[str]:
        return [name for name in self.partitions if name.startswith("rp")]

    def peer(self, partition: str) -> FakePartition:
        return self.partitions[partition]

    async def logs(
        self, tenant: str, namespace: str, pod: str, options: Mapping[str, str]
    ) -> AsyncIterator[bytes]:
        for chunk in self.printed:
            yield chunk


class FakeDocuments:
    def document(
        self,
        path: str,
        accept_aggregated: str = "",
        system: bool = True,
        custom: Sequence[scheme.Resource] = (),
    ) -> dict[str, object] | None:
        if path not in ("/api", "/apis", "/api/v1"):
            return None
        return {"path": path, "aggregated": accept_aggregated, "system": system}

    def version_document(self) -> dict[str, object]:
        return {"gitVersion": "v1.33.0"}

    def v2_json(self, custom: Sequence[scheme.Resource] = ()) -> bytes:
        return b"{}"

    def v2_protobuf(self, custom: Sequence[scheme.Resource] = ()) -> bytes:
        return b"\x0a\x00"

    def v3_index(self, custom: Sequence[scheme.Resource] = ()) -> dict[str, object]:
        return {"paths": {}}

    def v3(self, group_version: str, custom: Sequence[scheme.Resource] = ()) -> bytes | None:
        return b"{}" if group_version == "api/v1" else None


KEY = b"k" * 32


async def _operate(method: str, payload: Any) -> dict[str, Any]:
    return {"partitions": 4} if method == "status" else {"method": method, "payload": payload}


def ingress(
    upstream: FakeUpstream, *, tokens: dict[str, Any] | None = None, insecure: bool = False,
    limits: Limits | None = None, believes: dict[str, Any] | None = None, **more: Any,
) -> Ingress:  # fmt: skip
    """believes: more of what an Authenticator may."""
    documents = FakeDocuments()
    return Ingress(
        upstream,
        Authenticator(upstream.tenant_uid, tokens=tokens, key=KEY, **(believes or {})),
        SystemClock(),
        Ids(1),
        documents,
        documents,
        limits=limits,
        insecure=insecure,
        operate=_operate,
        **more,
    )


def certificates(folder: Path) -> dict[str, tuple[str, str]]:
    """A CA, a server certificate, and client certificates of some users: name -> (cert, key)."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    begin, end = datetime.datetime(2020, 1, 1), datetime.datetime(2100, 1, 1)
    made: dict[str, tuple[str, str]] = {}
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test-ca")])

    def make(name: str, subject: x509.Name, key: Any, ca: bool = False) -> None:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        )
        cert = builder.sign(ca_key, hashes.SHA256())
        paths = (str(folder / f"{name}.crt"), str(folder / f"{name}.key"))
        Path(paths[0]).write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        Path(paths[1]).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        made[name] = paths

    make("ca", ca_name, ca_key, ca=True)
    subjects = {
        "server": [(NameOID.COMMON_NAME, "localhost")],
        "admin": [
            (NameOID.COMMON_NAME, "system:admin"),
            (NameOID.ORGANIZATION_NAME, "system:masters"),
        ],
        "bob": [
            (NameOID.COMMON_NAME, "bob"),
            (NameOID.ORGANIZATION_NAME, "tenant:acme"),
            (NameOID.ORGANIZATIONAL_UNIT_NAME, "acme-group"),
        ],
        "nobody": [(NameOID.COMMON_NAME, "nobody")],
    }
    for name, attributes in subjects.items():
        subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
        make(name, subject, ec.generate_private_key(ec.SECP256R1()))
    return made


def client_context(made: dict[str, tuple[str, str]], user: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=made["ca"][0])
    if user:
        context.load_cert_chain(*made[user])
    return context
