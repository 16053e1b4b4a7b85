"""Ingress: the HTTP front door as an actor. Keeps nothing but the directory of tenants.

To the inside it is a Peer as well: Python handles over Ray send their calls here, and they are
routed like those that come over HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from arktos_ray.actors.directory import Directory
from arktos_ray.actors.part import Part, Spec, Surroundings
from arktos_ray.actors.simulated_nodes import SIMULATED_LABEL
from arktos_ray.api import discovery, openapi
from arktos_ray.api.calls import Call, Peer, Reply, WatchEvent
from arktos_ray.api.errors import BadRequest, Failure, NotFound
from arktos_ray.api.names import Key
from arktos_ray.base.clock import parse_rfc3339
from arktos_ray.base.signing import TokenKeys
from arktos_ray.base.tasks import Tasks
from arktos_ray.base.watched import Watched
from arktos_ray.ingress import oidc, server, status
from arktos_ray.ingress.audit import Audit, open_audit
from arktos_ray.ingress.authn import Authenticator, read_token_file
from arktos_ray.ingress.dispatch import Dispatcher
from arktos_ray.ingress.limits import Limits
from arktos_ray.tenancy.quota import NO_LIMITS, Allowed
from arktos_ray.tenancy.topology import Topology

log = logging.getLogger(__name__)

_AGENT = "node-agent"
# A partition that is down must not keep the door shut for the tenants of the others.
_TOLD_DEADLINE_S = 1.0


class Upstream:
    """What the ingress package asks of us (ingress/port.py)."""

    def __init__(self, part: Part, directory: Directory) -> None:
        self._part, self._directory = part, directory

    def owner_of(self, tenant: str, storage: str = "") -> str:
        return self._directory.owner_of(tenant, storage)

    def moved(self, tenant: str, to: str) -> None:
        self._directory.moved(tenant, to)

    def tenant_uid(self, tenant: str) -> str | None:
        return self._directory.uid_of(tenant)

    def allowed(self, tenant: str) -> Allowed:
        return self._directory.allowed.get(tenant, NO_LIMITS)

    def is_suspended(self, tenant: str) -> bool:
        return tenant in self._directory.suspended

    def topology_version(self) -> int:
        return self._directory.version

    def tenant_partitions(self) -> Sequence[str]:
        return self._part.topology.names("tenant")

    def resource_partitions(self) -> Sequence[str]:
        return self._part.topology.names("resource")

    def taking_nodes(self) -> Sequence[str]:
        return [row.name for row in self._part.topology.taking("resource")]

    def peer(self, partition: str) -> Peer:
        return self._part.peer(partition)

    async def logs(
        self, tenant: str, namespace: str, pod: str, options: Mapping[str, str]
    ) -> AsyncIterator[bytes]:
        client = self._part.client(self.owner_of(tenant))
        found = await client.get("pods", Key(tenant, namespace, pod))
        node = found["spec"].get("nodeName", "")
        if not node:
            raise NotFound(f"pod {pod} has no node yet, and so no logs")
        if await self._is_simulated(node):
            raise NotFound(f"pod {pod} is on {node}, a simulated node: nothing runs there to log")
        payload = {
            "uid": found["metadata"]["uid"], "tenant": tenant, "namespace": namespace,
            "name": pod, **_log_options(options),
        }  # fmt: skip
        async for data in self._part.peer(_AGENT).subscribe("log", payload):
            yield data

    async def _is_simulated(self, name: str) -> bool:
        for partition in self.resource_partitions():
            with contextlib.suppress(NotFound):
                node = await self._part.client(partition).get("nodes", Key("", "", name))
                return SIMULATED_LABEL in (node["metadata"].get("labels") or {})
        return False


class Ingress(Part):
    """Spec adds: bind, port, reuse_port, insecure, pki_dir, token_key, assignment, supervisor,
    limits (some of ingress/limits.py), audit (ingress/audit.py), keys_dir, issuer, audiences; and
    perhaps oidc (ingress/oidc.py), token_auth_file, client_ca_file, anonymous, url."""

    role = "ingress"

    def __init__(self, spec: Spec, surroundings: Surroundings) -> None:
        super().__init__(spec, surroundings)
        self._ingress: server.Ingress
        self._dispatcher: Dispatcher
        self._audit: Audit | None = None
        self._directory: Directory
        self._refreshing: list[Callable[[], None]] = []

    async def open(self) -> None:
        spec = self.spec
        directory = self._directory = Directory(
            self.topology, self.client, spec.get("assignment", "letters"), self.clock, self.tasks
        )
        upstream = Upstream(self, directory)
        limits = Limits(**spec.get("limits", {}))
        self._audit = open_audit(
            spec.get("audit", {}), spec.get("log_dir", ""), self.name, self.clock, self.ids
        )
        # A dispatcher of its own for what comes from the inside.
        self._dispatcher = Dispatcher(upstream, self.clock, Tasks(), limits)
        authenticator = Authenticator(
            directory.uid_of, key=_key(Path(spec["token_key"])),
            keys=TokenKeys(Path(spec["keys_dir"])), issuer=spec["issuer"],
            audiences=spec["audiences"],
            issuers=[oidc.Issuer(oidc.Settings(**each)) for each in spec.get("oidc", ())],
        )  # fmt: skip
        self._ingress = server.Ingress(
            upstream,
            authenticator,
            self.clock,
            self.ids,
            discovery,
            openapi,
            operate=self._operate,
            limits=limits,
            insecure=spec.get("insecure", False),
            anonymous=spec.get("anonymous", False),
            refresh=self._refresh,
            url=spec.get("url", ""),
            audit=self._audit,
        )
        self._refreshing = self._watch_credentials(authenticator)
        tls = None
        if not spec.get("insecure", False):
            tls = self._watch_tls()
        # Who knocks at once, as after a restart, finds a door that knows the tenants.
        await directory.told(_TOLD_DEADLINE_S)
        await self._ingress.listen(
            spec["bind"], spec["port"], tls, reuse_port=spec.get("reuse_port", False)
        )

    def _refresh(self) -> None:
        for refresh in self._refreshing:
            refresh()

    def _watch_credentials(self, authenticator: Authenticator) -> list[Callable[[], None]]:
        """What is read again when its files change. Raises ValueError or OSError at the start."""
        keys, file = authenticator.accounts, self.spec.get("token_auth_file")
        assert keys is not None

        def keys_again() -> None:
            if keys.refresh():
                authenticator.forget()
                log.info("%s: the keys of service accounts are others now", self.name)

        found = [keys_again]
        if file:
            path = Path(file)
            tokens = Watched(lambda: [path], lambda: read_token_file(path.read_text()))
            authenticator.believe(tokens.value)

            def tokens_again() -> None:
                if tokens.refresh():
                    authenticator.believe(tokens.value)
                    log.info("%s: %s is another one now", self.name, path)

            found.append(tokens_again)
        return found

    def _watch_tls(self) -> ssl.SSLContext:
        pki, more = Path(self.spec["pki_dir"]), self.spec.get("client_ca_file")
        authorities = [pki / "ca.crt", pki / "signer" / "ca.crt", *([Path(more)] if more else [])]
        certificate, key = pki / "server.crt", pki / "server.key"
        files = [certificate, key, *authorities]
        contexts = Watched(
            lambda: files,
            lambda: server.tls_context(str(certificate), str(key), *map(str, authorities)),
        )

        def tls_again() -> None:
            if contexts.refresh():
                log.info("%s: new connections get other certificates now", self.name)

        self._refreshing.append(tls_again)
        context = contexts.value
        server.hand_out(context, lambda: contexts.value)
        return context

    async def _operate(self, method: str, payload: Any) -> Any:
        return await self.peer(self.spec["supervisor"]).request(method, payload)

    async def regroup(self, old: Topology, acks: Mapping[str, int]) -> None:
        self._directory.regroup(self.topology, acks)
        members = ("tenant", "resource")
        if any(old.names(kind) != self.topology.names(kind) for kind in members):  # type: ignore[arg-type]
            # A watch over several partitions goes on from its revision, with the new ones.
            self._dispatcher.regroup()
            self._ingress.regroup()

    async def shut(self) -> None:
        await self._ingress.close()

    # Calls from the inside

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        """All at once: those for one partition are decided in this order, and share commits."""
        return list(await asyncio.gather(*map(self._one, calls)))

    async def _one(self, call: Call) -> Reply:
        audit = self._audit
        trail = audit.begin_call(call, self.clock.monotonic()) if audit is not None else None
        try:
            reply = await self._dispatcher.call(call)
        except Failure as failure:
            reply = status.reply(failure)
        if audit is None or trail is None:
            return reply
        audit.answered(trail, reply)
        try:
            if audit.blocking:
                await audit.wait_written()
        except Failure as failure:
            return status.reply(failure)
        return reply

    async def request(self, method: str, payload: Any) -> Any:
        if method == "usage":
            return self._ingress.usage()
        return await super().request(method, payload)

    async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        audit = self._audit
        trail = audit.begin_call(call, self.clock.monotonic()) if audit is not None else None
        try:
            events, _ = self._dispatcher.watch(call)
            if audit is not None and trail is not None:
                audit.started(trail)
            async for batch in events:
                yield batch
        finally:
            if audit is not None and trail is not None:
                audit.complete(trail)


def _log_options(options: Mapping[str, str]) -> dict[str, Any]:
    """The query of `kubectl logs` as values. Raises BadRequest."""
    values: dict[str, Any] = {}
    try:
        for name in ("tailLines", "sinceSeconds", "limitBytes"):
            if options.get(name):
                values[name] = int(options[name])
        if options.get("sinceTime"):
            values["sinceTime"] = parse_rfc3339(options["sinceTime"])
    except ValueError as error:
        raise BadRequest(f"the log options cannot be read: {error}") from error
    for name in ("timestamps", "previous", "follow"):
        values[name] = options.get(name, "").lower() in ("true", "1")
    return {"container": options.get("container", ""), **values}


def _key(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
