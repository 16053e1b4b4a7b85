"""A line of the audit log: an audit.k8s.io/v1 Event, without anything that is secret. Pure.

Never in it, at whatever level: bodies of Secrets, of requests and reviews of tokens; `stringData`
and `last-applied-configuration` of whatever has them; headers; what a query holds besides the
parameters that the API knows. Where a body may hold a Secret in the wrong place, the message of the
refusal is left out too: it may quote.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any

import orjson

from arktos_ray.api import audit_policy, codec, protobuf, scheme
from arktos_ray.api.audit_policy import COMPLETE, LEVELS, METADATA, REQUEST, RESPONSE, STARTED
from arktos_ray.api.calls import Call, Notes, User
from arktos_ray.base.clock import rfc3339
from arktos_ray.ingress.routes import OPTIONS

Object = dict[str, Any]

# As upstream; the rest says nothing more about a program.
_AGENT_MAX = 1_024
# Addresses that a proxy may name; each costs 2 us to check.
_FORWARDED_MAX = 8
# An object in an event is worth reading; more is its size only.
OBJECT_BYTES_MAX = 256 * 1024
_SECRET_KINDS = frozenset(("Secret", "SecretList", "TokenRequest", "TokenReview"))
_SECRET_RESOURCES = frozenset(("secrets", "tokenreviews"))
# Wherever they are found.
_SECRET_KEYS = frozenset(("stringData",))
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_MARKS = (b"Secret", b"stringData", b"TokenRe", b"last-applied")
_DEPTH_MAX = 200


class Trail:
    """What is remembered of a request until its line is made, which is elsewhere and later."""

    __slots__ = (
        "agent", "as_user", "body", "call", "code", "forwarded", "header", "id", "latency_s",
        "method", "notes", "path", "peer", "raw_path", "received", "request_body", "rule", "stage",
        "start", "user",
    )  # fmt: skip

    def __init__(
        self, id_: str, rule: audit_policy.Rule, method: str, raw_path: str, path: str,
        call: Call | None, user: User | None, as_user: User | None, received: float, start: float,
        peer: str, forwarded: str, agent: str,
    ) -> None:  # fmt: skip
        self.id, self.rule = id_, rule
        self.method, self.raw_path, self.path = method, raw_path, path
        self.call, self.user, self.as_user = call, user, as_user
        self.received, self.start = received, start  # by the wall, and by the other clock
        self.peer, self.forwarded, self.agent = peer, forwarded, agent
        self.header = b"Audit-Id: %b\r\n" % id_.encode()
        self.stage = COMPLETE
        self.code = 0  # of the answer; 0: there was none
        self.body = b""
        self.request_body = b""
        self.notes: Notes = ()  # of policies and webhooks
        self.latency_s = 0.0

    def begun(self) -> Trail:
        """The same request at the beginning of a long answer."""
        other = Trail.__new__(Trail)
        for name in Trail.__slots__:
            setattr(other, name, getattr(self, name))
        other.stage, other.body, other.request_body = STARTED, b"", b""
        other.notes = ()
        return other

    @property
    def size(self) -> int:
        """About what it holds in memory."""
        held = len(self.call.body) if self.call is not None else 0
        return 1_000 + len(self.body) + held


def event_of(trail: Trail) -> Object:
    """7 us at Metadata for a create; with objects 10 us a KB more."""
    rule, call = trail.rule, trail.call
    code = trail.code
    secret = call is not None and is_secret(call)
    annotations: dict[str, str] = {"apiserver.latency.k8s.io/total": _duration(trail.latency_s)}
    event: Object = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": LEVELS[min(rule.level, METADATA) if secret else rule.level],
        "auditID": trail.id,
        "stage": trail.stage,
        "requestURI": uri_of(trail.raw_path),
        "verb": call.verb if call is not None else trail.method.lower(),
        "user": _user(trail.user),
    }
    if trail.as_user is not None:
        event["impersonatedUser"] = _user(trail.as_user)
    event["sourceIPs"] = _sources(trail.forwarded, trail.peer)
    agent = trail.agent
    event["userAgent"] = agent if len(agent) <= _AGENT_MAX else agent[:_AGENT_MAX] + "...TRUNCATED"
    answer: Any = None
    if call is not None:
        reference = event["objectRef"] = _reference(call)
        if code == 201 and call.verb == "create" and not call.subresource:
            answer = _parsed(trail.body)
            _complete(reference, answer)
    message = ""
    if code < 400:
        if code:
            event["responseStatus"] = {"metadata": {}, "code": code}
    else:
        refusal = _parsed(trail.body)
        event["responseStatus"], message = _status(code, refusal)
        if secret or _may_hold_secrets(trail.request_body):
            event["responseStatus"].pop("message", None)
    if call is not None and not secret and rule.level >= REQUEST:
        if trail.request_body and trail.stage == COMPLETE:
            sent = _sent(call, trail.request_body)
            event["requestObject"] = _shown(sent, trail.request_body, rule)
        if rule.level >= RESPONSE and trail.body and trail.stage == COMPLETE:
            answer = answer if answer is not None else _parsed(trail.body)
            event["responseObject"] = _shown(answer, trail.body, rule)
            if "responseStatus" in event and "message" not in event["responseStatus"] and message:
                del event["responseObject"]
    event["requestReceivedTimestamp"] = _moment(trail.received)
    event["stageTimestamp"] = _moment(trail.received + trail.latency_s)
    if trail.user is not None and code and code != 401:
        decision, reason = _decision(trail.user, code, message)
        annotations["authorization.k8s.io/decision"] = decision
        annotations["authorization.k8s.io/reason"] = reason
    if trail.notes and not secret:
        # They may quote.
        for key, value in trail.notes:
            annotations.setdefault(key, value)
    event["annotations"] = annotations
    return event


def is_secret(call: Call) -> bool:
    """Whether what is sent or answered is nobody's to read later."""
    plural = call.gvr.partition(".")[0]
    return plural in _SECRET_RESOURCES or call.subresource == "token"


def uri_of(raw_path: str) -> str:
    """The path and the parameters that the API knows. A token in a query is under another name,
    or is a name itself."""
    path, mark, query = raw_path.partition("?")
    if not mark:
        return path
    if "&" not in query and query.partition("=")[0] in OPTIONS:
        return raw_path
    pairs = query.split("&")
    known = [pair for pair in pairs if pair.partition("=")[0] in OPTIONS]
    if len(known) < len(pairs):
        known.append("...")
    return f"{path}?{'&'.join(known)}"


def without_secrets(value: Any, depth: int = 0) -> Any:
    """A copy without what is secret, wherever in it that is."""
    if depth > _DEPTH_MAX:
        return None
    if isinstance(value, dict):
        kind = value.get("kind")
        if isinstance(kind, str) and kind in _SECRET_KINDS:
            return _named_only(value)
        kept = {}
        for key, inner in value.items():
            if key in _SECRET_KEYS or key == _LAST_APPLIED:
                continue
            kept[key] = without_secrets(inner, depth + 1)
        return kept
    if isinstance(value, list):
        return [without_secrets(inner, depth + 1) for inner in value]
    if isinstance(value, str) and len(value) > 8 and _quotes(value):
        # An object in a string: an annotation of another tool, a value of a patch.
        return "..."
    return value


def _named_only(value: Object) -> Object:
    kept = {key: value[key] for key in ("apiVersion", "kind") if isinstance(value.get(key), str)}
    meta = value.get("metadata")
    if isinstance(meta, dict):
        names = ("name", "namespace", "tenant")
        kept["metadata"] = {n: meta[n] for n in names if isinstance(meta.get(n), str)}
    return kept


def _quotes(text: str) -> bool:
    """Whether a string looks like an object that may be a Secret."""
    return ("kind" in text and "Secret" in text) or "stringData" in text or "TokenRe" in text


def _may_hold_secrets(body: bytes) -> bool:
    return any(mark in body for mark in _MARKS)


def _parsed(body: bytes) -> Any:
    if len(body) > OBJECT_BYTES_MAX:
        return None
    try:
        return orjson.loads(body)
    except ValueError:
        return None


def _sent(call: Call, body: bytes) -> Any:
    """What a client sent, whatever it was written in. None when it cannot be read."""
    if len(body) > OBJECT_BYTES_MAX:
        return None
    media = call.content_type.partition(";")[0].strip().lower()
    try:
        if media == codec.PROTOBUF:
            api_version, kind, obj = protobuf.decode(body)
            return {**obj, "apiVersion": api_version, "kind": kind}
        if media.endswith("yaml") and call.gvr in scheme.BY_GVR:
            found = codec.decode_object(body, codec.YAML, scheme.resource(call.gvr), codec.IGNORE)
            return found.obj
        return orjson.loads(body)
    except Exception:  # Whatever is sent: it is the line that must be written.
        return None


def _shown(value: Any, body: bytes, rule: audit_policy.Rule) -> Any:
    """The object without what is secret; what cannot be shown, by its size."""
    if value is None:
        return {"omittedBytes": len(body)}
    shown = without_secrets(value)
    if rule.omit_managed_fields:
        _drop_managed_fields(shown)
    return shown


def _drop_managed_fields(value: Any) -> None:
    if not isinstance(value, dict):
        return
    items = value.get("items")
    for each in (value, *(items if isinstance(items, list) else ())):
        meta = each.get("metadata") if isinstance(each, dict) else None
        if isinstance(meta, dict):
            meta.pop("managedFields", None)


def _reference(call: Call) -> Object:
    """Whose, what and which. Of what the API does not know: the words of the path."""
    resource = scheme.BY_GVR.get(call.gvr)
    plural, _, group = call.gvr.partition(".")
    found: Object = {"resource": plural}
    if call.tenant:
        found["tenant"] = call.tenant
    if call.namespace:
        found["namespace"] = call.namespace
    if call.name:
        found["name"] = call.name
    if group:
        found["apiGroup"] = group
    if call.version:
        found["apiVersion"] = call.version.rpartition("/")[2]
    elif resource is not None:
        found["apiVersion"] = resource.version
    if call.subresource:
        found["subresource"] = call.subresource
    return found


def _complete(reference: Object, answer: Any) -> None:
    """A name that was in the body only, or was made up here."""
    meta = answer.get("metadata") if isinstance(answer, dict) else None
    if isinstance(meta, dict):
        for name in ("name", "uid", "resourceVersion"):
            if isinstance(meta.get(name), str):
                reference.setdefault(name, meta[name])


def _status(code: int, refusal: Any) -> tuple[Object, str]:
    status: Object = {"metadata": {}, "status": "Failure", "code": code}
    message = ""
    if isinstance(refusal, dict) and refusal.get("kind") == "Status":
        message = str(refusal.get("message") or "")
        if message:
            status["message"] = message
        if refusal.get("reason"):
            status["reason"] = refusal["reason"]
    return status, message


def _decision(user: User, code: int, message: str) -> tuple[str, str]:
    """Who may not is told so in these words; all other refusals come after that was decided."""
    if code == 403 and f'User "{user.name}" cannot ' in message:
        _, found, why = message.partition(": RBAC: ")
        return "forbid", f"RBAC: {why}" if found else ""
    if "system:masters" in user.groups and user.tenant == "system":
        return "allow", "above roles: group system:masters"
    return "allow", f'RBAC: by roles of tenant "{user.tenant}"'


def _user(user: User | None) -> Object:
    if user is None:
        return {}
    found: Object = {"username": user.name, "tenant": user.tenant, "groups": list(user.groups)}
    if user.uid:
        found["uid"] = user.uid
    if user.extra:
        found["extra"] = {key: list(values) for key, values in user.extra}
    return found


def _sources(forwarded: str, peer: str) -> list[str]:
    """What proxies say, which anybody can, and last who is connected."""
    found = []
    if forwarded:
        for text in forwarded.split(",")[:_FORWARDED_MAX]:
            try:
                found.append(str(ipaddress.ip_address(text.strip())))
            except ValueError:
                continue
    if peer:
        found.append(peer)
    return found


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    return rfc3339(second)[:-1]


def _moment(now: float) -> str:
    """As rfc3339_micro, at a quarter of the cost."""
    second = int(now)
    return f"{_second(second)}.{int((now - second) * 1e6):06d}Z"


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}ms" if seconds < 1 else f"{seconds:.6f}s"
