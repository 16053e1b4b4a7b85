"""Every parser that faces the network, as a function of bytes that may only refuse in order.

A target raises when it found a fault: an exception that is no refusal, a refusal that blames the
server, or a broken promise (`assert`). tests/unit/test_fuzz.py tries the corpus and its mutations;
`make fuzz` looks for new inputs, guided by coverage (run.py).
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from arktos_ray.api import (
    audit_policy,
    cel,
    codec,
    custom,
    errors,
    kinds,
    list_options,
    patch,
    quantity,
    schemas,
    scheme,
    structural,
)
from arktos_ray.api.calls import Call, User
from arktos_ray.api.custom import paths
from arktos_ray.api.names import is_path_segment
from arktos_ray.api.selectors import parse_fields, parse_labels
from arktos_ray.apiserver import hooks, reviews, targets
from arktos_ray.apiserver.admission import matching
from arktos_ray.apiserver.verbs import list as listing
from arktos_ray.base import certificates as certificates_of
from arktos_ray.base import signing
from arktos_ray.controllers.csrsigning import plan as signing_plan
from arktos_ray.ingress import authn, http1, oidc, routes
from arktos_ray.tenancy import accounts

Target = Callable[[bytes], None]
_POD = scheme.resource("pods")
_DEFINITION = scheme.resource(scheme.DEFINITIONS)
_HOOKS = scheme.resource(f"validatingwebhookconfigurations.{scheme.ADMISSION}")
_BOB = User("bob", "acme", ("system:authenticated",))
_ADMIN = User("root", "system", ("system:masters",))
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
_KEY = b"k" * 32
_DOC: Any = {
    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}},
    "spec": {"containers": [
        {"name": "c", "image": "i", "ports": [{"containerPort": 80}], "env": [{"name": "E"}]},
        {"name": "d", "image": "i"},
    ], "tolerations": [{"key": "k"}]},
}  # fmt: skip


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """A refusal is fine when it is the sender's fault, and can be said."""
    try:
        yield
    except errors.Failure as failure:
        failure.encode()
        if not 400 <= failure.code < 500:
            raise AssertionError(failure) from failure


def path(data: bytes) -> None:
    """Whatever a tenant's user writes: it is about their own tenant, or refused."""
    if not data:
        return
    target = data[1:].decode("latin-1")
    method = _METHODS[data[0] % len(_METHODS)]
    way, _, query = target.partition("?")
    for user in (_BOB, _ADMIN):
        with _refusing():
            found = routes.route(method, "/" + way, query, user)
            if isinstance(found, Call):
                assert user is _ADMIN or found.tenant == "acme", found
                for segment in (found.tenant, found.namespace, found.name):
                    assert not segment or is_path_segment(segment), found
                list_options.check(found.options, watch=found.verb == "watch")


def labels(data: bytes) -> None:
    with _refusing():
        selector = parse_labels(data.decode("utf-8", "replace"))
        selector.matches({"a": "b", "tier": "7"})


def fields(data: bytes) -> None:
    with _refusing():
        parse_fields(data.decode("utf-8", "replace"))


def continuation(data: bytes) -> None:
    with _refusing():
        listing._continued(data.decode("latin-1"))


def body(data: bytes) -> None:
    """A body of any media type is an object of its kind, or refused."""
    if not data:
        return
    media = (codec.JSON, codec.YAML, codec.PROTOBUF)[data[0] % 3]
    for validation in ("Strict", "Warn"):
        with _refusing():
            decoded = codec.decode_object(data[1:], media, _POD, validation)
            again = codec.validate(orjson.loads(orjson.dumps(decoded.obj)), _POD)
            assert again.obj == decoded.obj


def options(data: bytes) -> None:
    with _refusing():
        codec.decode_options(data, codec.JSON)


def patches(data: bytes) -> None:
    """What a patch makes is an object of its kind, or refused; the old one is never changed."""
    if not data:
        return
    before = orjson.dumps(_DOC)
    with _refusing():
        try:
            change = orjson.loads(data[1:])
        except ValueError:
            return
        match data[0] % 3:
            case 0:
                made = patch.json_patch(orjson.loads(before), change)
            case 1:
                made = patch.merge_patch(orjson.loads(before), change)
            case _:
                message = schemas.message(_POD.schema)
                made = patch.strategic_merge(orjson.loads(before), change, message)
        codec.validate(made, _POD)
    assert orjson.dumps(_DOC) == before


def quantities(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        text = data.decode("utf-8", "replace")
        canonical = quantity.canonical(text)
        assert quantity.compare(canonical, text) == 0 or quantity.milli(text)


def media(data: bytes) -> None:
    text = data.decode("latin-1")
    with _refusing():
        http1.form_of(text)
    with _refusing():
        http1.aggregated_of(text)
        http1.wants_protobuf_openapi(text)
    with _refusing():
        http1.body_type("patch", text)


@cache
def _believer() -> authn.Authenticator:
    return authn.Authenticator(lambda tenant: "uid", key=_KEY)


def tokens(data: bytes) -> None:
    """Nobody signs but us, so nothing that anybody else writes is anybody."""
    text = data.decode("latin-1")
    with contextlib.suppress(errors.Unauthorized):
        bearer = authn.bearer_of(text, text)
        for token in (text, bearer):
            with contextlib.suppress(errors.Unauthorized):
                _believer().user_of_token(token, 1.0)
                raise AssertionError(token)
    with contextlib.suppress(signing.BadToken):
        signing.taken_apart(text)
    with contextlib.suppress(ValueError):
        claims = orjson.loads(data)
        if isinstance(claims, dict):
            with contextlib.suppress(accounts.Unreadable):
                accounts.read(claims)


def impersonation(data: bytes) -> None:
    lines = [line.partition(":") for line in data.decode("latin-1").splitlines()]
    headers = [("Impersonate-" + name, value) for name, _, value in lines]
    with _refusing():
        wanted = authn.read_impersonation(headers)
        if wanted is not None:
            authn.needed_for(wanted)
            assert authn.impersonated(_BOB, wanted).tenant == "acme"


def certificates(data: bytes) -> None:
    name, *rest = data.decode("latin-1").split("\n")
    with contextlib.suppress(errors.Unauthorized):
        user = authn.user_of_certificate(name, rest[:2], rest[2:])
        assert user.tenant != "all"


def rules(data: bytes) -> None:
    """A rule in CEL is refused, or has a value within its budget."""
    with contextlib.suppress(cel.CelError):
        program = cel.compile(data.decode("utf-8", "replace"), {"self": "dyn", "n": "int"})
        program.evaluate({"self": _DOC, "n": 7})


def schemas_of_tenants(data: bytes) -> None:
    """A schema is refused, or every object is judged by it: pruned and defaulted once is enough."""
    with contextlib.suppress(ValueError):
        found = orjson.loads(data)
        given, obj = (found.get("s"), found.get("o")) if isinstance(found, dict) else (found, {})
        weight = structural.burden(given)
        if weight.weight > 500 or len(weight.expressions) > 20 or structural.check(given, "s"):
            return
        if not isinstance(obj, dict):
            obj = {"spec": obj}
        made = structural.compiled(given)
        structural.openapi_v2(given or {})
        before = orjson.loads(orjson.dumps(obj))
        made.prune(obj)
        made.default(obj)
        for cause in made.validate(obj):
            orjson.dumps(cause.message)
        made.validate(obj, before)
        once = orjson.dumps(obj)
        assert made.prune(obj) == []
        made.default(obj)
        assert orjson.dumps(obj) == once


def definitions(data: bytes) -> None:
    """A definition is refused, or served."""
    with _refusing():
        obj = codec.decode_object(data, codec.JSON, _DEFINITION, "Warn").obj
        rules, causes = kinds.rules_of(_DEFINITION), list[kinds.Cause]()
        rules.default(obj)
        rules.check(obj, causes)
        if causes:
            raise kinds.invalid(_DEFINITION, "x", causes)
        for version in obj["spec"]["versions"]:
            openapi = (version.get("schema") or {}).get("openAPIV3Schema")
            if structural.burden(openapi).weight > 500 or structural.check(openapi):
                return
            for column in version.get("additionalPrinterColumns") or ():
                if paths.problem(column.get("jsonPath") or ""):
                    return
        obj["metadata"]["tenant"] = "acme"
        obj["status"] = custom.names.settled(obj, [], "2026-01-01T00:00:00Z")
        for resource in custom.definition(obj).resources:
            assert resource.gvr not in scheme.BY_GVR, resource


def audit(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        policy = audit_policy.read(orjson.loads(data))
        for verb, resource, way in (("get", "pods", ""), ("post", "", "/metrics/x")):
            asked = audit_policy.Asked("bob", ("g",), "acme", verb, "", resource, path=way)
            assert 0 <= policy.rule_for(asked).level < len(audit_policy.LEVELS)


_HOOK = hooks.Hook("acme", "c", "h.example.org", True, {"admissionReviewVersions": ["v1"]})
_REVIEW = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
_SENT: Any = {**_REVIEW, "request": {"uid": "u"}}


def answers(data: bytes) -> None:
    """What a webhook says is understood or not; what it makes is an object of the kind, the same
    one."""
    if not data:
        return
    asked = matching.Asked(matching.CREATE, _POD, "")
    chosen = hooks.Chosen(_HOOK, _POD)
    before = orjson.dumps(_DOC)
    what = hooks.Outside(
        [chosen], asked, None, Call("create", "pods", "acme"), _POD, "n", orjson.loads(before),
        None, "acme",
    )  # fmt: skip
    with contextlib.suppress(ValueError):
        said = orjson.loads(data[1:])
        if data[0] % 2:  # Only the patch, well wrapped.
            patch64 = base64.b64encode(orjson.dumps(said)).decode()
            response = {"uid": "u", "allowed": True, "patch": patch64, "patchType": "JSONPatch"}
            said = {**_REVIEW, "response": response}
        with contextlib.suppress(reviews._Unanswered):
            response = reviews._understood(said, _SENT)
            changed = reviews._patched(what, chosen, what.new, response)
            assert changed is not None
            assert what.new is not None
            made = reviews._identical(changed, what.new)
            assert made["metadata"]["name"] == "p"
            assert made["kind"] == "Pod"
            assert "uid" not in made["metadata"]
            attempt = hooks.Attempt()
            notes: Any = reviews.Reviews
            notes._note(None, _HOOK, response, attempt)
            assert sum(map(len, attempt.warnings)) <= reviews._WARNINGS_CHARS
            failure = reviews._denied(_HOOK, response)
            failure.encode()
            assert 400 <= failure.code < 600
            assert not isinstance(errors.decode(failure.encode()), (errors.Moved, errors.Apart))


def requests(data: bytes) -> None:
    """A request for a certificate cannot be read, or says who is meant: of its own tenant."""
    pem = data
    if not data.startswith(b"-----"):
        text = base64.encodebytes(data)
        pem = b"-----BEGIN CERTIFICATE REQUEST-----\n%b-----END CERTIFICATE REQUEST-----\n" % text
    with contextlib.suppress(ValueError):
        _planned(certificates_of.Request(*certificates_of.read_request(pem)))
    words = data.decode("utf-8", "replace").split("\n")
    _planned(certificates_of.Request(words[0], tuple(words[1:3]), tuple(words[3:]), False))


def _planned(found: certificates_of.Request) -> None:
    for tenant in ("acme", "system"):
        for signer in signing_plan.SIGNERS:
            csr: Any = {
                "metadata": {"tenant": tenant},
                "spec": {"signerName": signer, "usages": ["client auth"]},
            }
            plan = signing_plan.plan(csr, signing_plan.Asked(*found))
            if isinstance(plan, signing_plan.Sign):
                user = authn.user_of_certificate(plan.common_name, plan.organizations, plan.units)
                assert user.tenant == tenant, plan
                assert tenant == "system" or user.tenant != "system", plan


_ISSUER = oidc.Settings(
    "https://issuer.example.org", "us", username_claim="sub", groups_claim="groups",
    tenant_claim="tenant", required_claims=(("hd", "example.org"),),
)  # fmt: skip


def claims(data: bytes) -> None:
    """Claims stand for nobody, or for somebody of a tenant that is not the system's."""
    with contextlib.suppress(ValueError):
        found = orjson.loads(data)
        if not isinstance(found, dict):
            return
        with contextlib.suppress(accounts.Unreadable):
            identity = accounts.read(found)
            assert identity.user.name.startswith("system:serviceaccount:")
            assert identity.user.tenant not in ("", "all")
            assert identity.user.credential
            identity.user.pack()
        user = oidc.user_of({"hd": "example.org", **found}, _ISSUER)
        assert user.tenant not in ("", "all", "system")
        assert not any(name.startswith("system:") for name in (user.name, *user.groups[:-1]))


def choosing(data: bytes) -> None:
    """A configuration of webhooks is refused, or says of every request whether it is meant."""
    with _refusing():
        obj = codec.decode_object(data, codec.JSON, _HOOKS, "Warn").obj
        obj.setdefault("metadata", {}).setdefault("name", "w")  # As who creates it does.
        rules, causes = kinds.rules_of(_HOOKS), list[kinds.Cause]()
        rules.default(obj)
        rules.check(obj, causes)
        if causes:
            raise kinds.invalid(_HOOKS, "x", causes)
        matching.check(obj)
        for hook in obj.get("webhooks") or ():
            asked = matching.Asked(matching.UPDATE, _POD, "status", "p")
            matching.wanted_as(
                hook.get("rules") or (), asked, hook.get("matchPolicy") or "", (_POD,)
            )
            matching.selected(hook, {"metadata": {"labels": {"a": "b"}}}, _DOC, None)
            conditions = hook.get("matchConditions") or ()
            values = {"object": _DOC, "oldObject": None, "request": {}, "authorizer": None}
            matching.condition_failure(conditions, values, matching.Spent())
            with contextlib.suppress(targets.Unreachable):
                targets.resolve("acme", hook["clientConfig"], lambda *_: None, 1.0)


TARGETS: dict[str, Target] = {
    f.__name__: f
    for f in (
        path, labels, fields, continuation, body, options, patches, quantities, media, tokens,
        impersonation, certificates, rules, schemas_of_tenants, definitions, audit, answers,
        requests, claims, choosing,
    )
}  # fmt: skip

# Inputs, one in a line, as base64.
CORPUS = Path(__file__).parent / "corpus"
