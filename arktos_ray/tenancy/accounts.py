"""What tokens of service accounts say, and whom they stand for. Pure: keys are base/signing.py.

A token names what it rests on: its account, perhaps a pod or a secret, each by name and uid.
Whoever verifies it learns a User with that `credential`; the partition that has these objects
says, at every call, whether they are still there (apiserver/rights.py). So a token ends with any
of them, at once, and nobody keeps lists of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from arktos_ray.api.calls import User
from arktos_ray.api.names import ALL_TENANTS, is_dns_label, is_path_segment
from arktos_ray.tenancy.roles import AUTHENTICATED

Object = dict[str, Any]

ACCOUNTS, PODS, SECRETS = "serviceaccounts", "pods", "secrets"
ACCOUNT_PREFIX = "system:serviceaccount:"
LEGACY_ISSUER = "kubernetes/serviceaccount"
ISSUER = "https://kubernetes.default.svc.cluster.local"

_LEGACY = "kubernetes.io/serviceaccount/"
_OURS = "kubernetes.io"
_EXTRA = "authentication.kubernetes.io/"

DEFAULT_S = 3600
SECONDS_MIN = 600
# The API knows no more than this; what we give ends after a year.
SECONDS_LIMIT = 1 << 32
SECONDS_MAX = 365 * 24 * 3600
# Old clients ask for 3607 s and do not read the file again before an hour is over. As upstream
# their tokens are good for a year, and say from when on they should have been renewed.
_MOUNTED_S = 3607


class Ref(NamedTuple):
    """An object, by name and uid."""

    name: str
    uid: str


class Subject(NamedTuple):
    """Whose token it is, and what it is bound to beside the account."""

    tenant: str
    tenant_uid: str
    namespace: str
    account: Ref
    pod: Ref | None = None
    secret: Ref | None = None
    node: Ref | None = None


class Identity(NamedTuple):
    """What a verified token says. expires, not_before: seconds since 1970, 0 is never."""

    user: User
    tenant_uid: str
    expires: float
    not_before: float
    audiences: tuple[str, ...]  # () for whoever is the API's


class Unreadable(ValueError):
    """Claims that no token of ours has."""


def user_name(namespace: str, name: str) -> str:
    return f"{ACCOUNT_PREFIX}{namespace}:{name}"


def groups_of(namespace: str) -> tuple[str, ...]:
    return ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")


def lifetime(asked: int | None) -> int:
    """Seconds that a token is good for, when so many were asked for."""
    return DEFAULT_S if asked is None else min(asked, SECONDS_MAX)


def wrong_lifetime(asked: int | None) -> str:
    """Why nobody may ask for a token of so many seconds; "" when they may."""
    if asked is None or SECONDS_MIN <= asked <= SECONDS_LIMIT:
        return ""
    if asked < SECONDS_MIN:
        return "may not specify a duration less than 10 minutes"
    return "may not specify a duration larger than 2^32 seconds"


def claims(
    subject: Subject, issuer: str, audiences: Sequence[str], seconds: int, now: float, token_id: str
) -> Object:
    at = int(now)
    private: Object = {
        "namespace": subject.namespace,
        "serviceaccount": subject.account._asdict(),
        "tenant": subject.tenant,
        "tenantUid": subject.tenant_uid,
    }
    for key in ("pod", "secret", "node"):
        ref: Ref | None = getattr(subject, key)
        if ref is not None:
            private[key] = {name: value for name, value in ref._asdict().items() if value}
    if seconds == _MOUNTED_S:
        private["warnafter"] = at + seconds
        seconds = SECONDS_MAX
    return {
        "iss": issuer,
        "sub": user_name(subject.namespace, subject.account.name),
        "aud": list(audiences),
        "exp": at + seconds,
        "iat": at,
        "nbf": at,
        "jti": token_id,
        _OURS: private,
    }


def legacy_claims(subject: Subject) -> Object:
    """Of the token in a Secret: it has no end but the Secret's."""
    assert subject.secret is not None
    return {
        "iss": LEGACY_ISSUER,
        "sub": user_name(subject.namespace, subject.account.name),
        f"{_LEGACY}namespace": subject.namespace,
        f"{_LEGACY}secret.name": subject.secret.name,
        f"{_LEGACY}secret.uid": subject.secret.uid,
        f"{_LEGACY}service-account.name": subject.account.name,
        f"{_LEGACY}service-account.uid": subject.account.uid,
        f"{_LEGACY}tenant": subject.tenant,
        f"{_LEGACY}tenant.uid": subject.tenant_uid,
    }


def read(found: Mapping[str, Any]) -> Identity:
    """Whom the verified claims of a token stand for. Raises Unreadable."""
    try:
        return _read_legacy(found) if found.get("iss") == LEGACY_ISSUER else _read_bound(found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise Unreadable(f"claims cannot be read: {error!r}") from None


def _read_legacy(found: Mapping[str, Any]) -> Identity:
    tenant = found.get(f"{_LEGACY}tenant")
    if not tenant:
        raise ValueError("tenant claim is missing")
    subject = Subject(
        tenant, found[f"{_LEGACY}tenant.uid"], found[f"{_LEGACY}namespace"],
        Ref(found[f"{_LEGACY}service-account.name"], found[f"{_LEGACY}service-account.uid"]),
        secret=Ref(found[f"{_LEGACY}secret.name"], found[f"{_LEGACY}secret.uid"]),
    )  # fmt: skip
    user = _user_of(subject, found["sub"])
    return Identity(user, subject.tenant_uid, 0.0, 0.0, ())


def _read_bound(found: Mapping[str, Any]) -> Identity:
    private = found[_OURS]
    subject = Subject(
        private["tenant"], private["tenantUid"], private["namespace"],
        Ref(**private["serviceaccount"]),
        *(_ref(private[key]) if key in private else None for key in ("pod", "secret", "node")),
    )  # fmt: skip
    extra = {"credential-id": (f"JTI={found['jti']}",)}
    for key in ("pod", "node"):
        ref: Ref | None = getattr(subject, key)
        if ref is not None:
            extra[f"{key}-name"] = (ref.name,)
            if ref.uid:
                extra[f"{key}-uid"] = (ref.uid,)
    more = tuple((_EXTRA + key, values) for key, values in sorted(extra.items()))
    user = _user_of(subject, found["sub"], more)
    audiences = tuple(str(each) for each in found["aud"])
    return Identity(user, subject.tenant_uid, float(found["exp"]), float(found["nbf"]), audiences)


def _ref(found: Mapping[str, str]) -> Ref:
    # Of a pod's node the partition of the pod knows the name alone.
    return Ref(found["name"], found.get("uid", ""))


def _user_of(
    subject: Subject, name: str, extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
) -> User:
    tenant, namespace = subject.tenant, subject.namespace
    if name != user_name(namespace, subject.account.name):
        raise ValueError("the subject is somebody else")
    if not is_dns_label(tenant) or tenant == ALL_TENANTS or not is_dns_label(namespace):
        raise ValueError("no tenant or namespace has such a name")
    rests = [(ACCOUNTS, subject.account)]
    rests += [
        (gvr, ref)
        for gvr, ref in ((PODS, subject.pod), (SECRETS, subject.secret))
        if ref is not None
    ]
    for _, ref in rests:
        if not ref.uid or not is_path_segment(ref.name):
            raise ValueError("no object has such a name")
    return User(
        name, tenant, (*groups_of(namespace), AUTHENTICATED), subject.account.uid, extra=extra,
        credential=tuple((gvr, f"{tenant}/{namespace}/{ref.name}", ref.uid) for gvr, ref in rests),
    )  # fmt: skip


# Secrets that hold a token

NAME_ANNOTATION = "kubernetes.io/service-account.name"
UID_ANNOTATION = "kubernetes.io/service-account.uid"
ROOT_CA = "kube-root-ca.crt"


def namespace_in_secret(tenant: str, namespace: str, system: str) -> str:
    """What the key `namespace` of a token's Secret holds (spec/multitenancy.md 6)."""
    return namespace if tenant == system else f"{tenant}/{namespace}"
