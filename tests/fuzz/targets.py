"""Every parser that faces the network, as a function of bytes that may only refuse in order.

A target raises when it found a fault: an exception that is no refusal, a refusal that blames the
server, or a broken promise (`assert`). tests/unit/test_fuzz.py tries the corpus and its mutations;
`make fuzz` looks for new inputs, guided by coverage (run.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from arktos_ray.api import cel, codec, errors, list_options, patch, quantity, schemas, scheme
from arktos_ray.api.calls import Call, User
from arktos_ray.api.names import is_path_segment
from arktos_ray.api.selectors import parse_fields, parse_labels
from arktos_ray.apiserver.verbs import list as listing
from arktos_ray.base import signing
from arktos_ray.ingress import authn, http1, routes
from arktos_ray.tenancy import accounts

Target = Callable[[bytes], None]
_POD = scheme.resource("pods")
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


TARGETS: dict[str, Target] = {
    f.__name__: f
    for f in (
        path, labels, fields, continuation, body, options, patches, quantities, media, tokens,
        impersonation, certificates, rules,
    )
}  # fmt: skip

# Inputs, one in a line, as base64.
CORPUS = Path(__file__).parent / "corpus"
