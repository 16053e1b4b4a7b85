"""Who is calling: client certificates, tokens from a file, tokens that we signed ourselves.

The rules are functions over plain values; `Authenticator` holds what was configured and remembers
tokens that it verified. What a user may do is not decided here.
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import hmac
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from arktos_ray.api.calls import User
from arktos_ray.api.errors import Forbidden, NotFound, Unauthorized
from arktos_ray.api.names import ALL_TENANTS, SYSTEM_TENANT, is_dns_label

SUPER_GROUP = "system:masters"
AUTHENTICATED = "system:authenticated"
TENANT_ADMIN = "admin"  # the subject of every tenant's own admin-role-binding
_TENANT_PREFIX = "tenant:"
_KEY_BYTES = 32
# Some 500 bytes each. When full, all are forgotten and verified again (15 us each).
_VERIFIED_MAX = 10_000
_WEBSOCKET_BEARER = "base64url.bearer.authorization.k8s.io."

INSECURE = User("system:admin", SYSTEM_TENANT, (SUPER_GROUP, AUTHENTICATED))

TenantUid = Callable[[str], str | None]


def _checked_tenant(tenant: str) -> str:
    # `all` is a word of the API, not a tenant: whoever had it could list everybody's objects.
    if tenant and (tenant == ALL_TENANTS or not is_dns_label(tenant)):
        raise Unauthorized(f'"{tenant}" is not an acceptable tenant name')
    return tenant


def user_of_certificate(
    common_name: str, organizations: Sequence[str], units: Sequence[str]
) -> User:
    """The user that a verified client certificate names (spec/multitenancy.md 6)."""
    if not common_name:
        raise Unauthorized("the client certificate has no common name")
    if organizations and organizations[0].startswith(_TENANT_PREFIX):
        tenant = organizations[0].removeprefix(_TENANT_PREFIX)
        if len(organizations) > 1 or ":" in tenant or not tenant:
            raise Unauthorized("the client certificate must name exactly one tenant")
        groups = tuple(units)
    else:
        prefix, colon, _ = common_name.partition(":")
        tenant = prefix if colon else ""
        groups = tuple(organizations)
    return User(common_name, _checked_tenant(tenant), (*groups, AUTHENTICATED))


def user_of_peercert(peercert: Mapping[str, Any]) -> User:
    """The same, from what Python's ssl module says of the peer."""
    named: dict[str, list[str]] = {}
    for relative_name in peercert.get("subject", ()):
        for key, value in relative_name:
            named.setdefault(key, []).append(value)
    return user_of_certificate(
        named.get("commonName", [""])[0],
        named.get("organizationName", []),
        named.get("organizationalUnitName", []),
    )


def read_token_file(text: str) -> dict[str, User]:
    """Token -> user from CSV lines `token,user,uid[,"group1,group2"][,...][,,tenant]`.

    ValueError with the line number when a line cannot be meant seriously.
    """
    users: dict[str, User] = {}
    for number, row in enumerate(csv.reader(io.StringIO(text), skipinitialspace=True), 1):
        if not row or row[0].startswith("#"):
            continue
        if len(row) < 3 or not row[0] or not row[1]:
            raise ValueError(f"token file, line {number}: needs at least token, user, uid")
        if len(row) == 3 and not row[2]:
            raise ValueError(f"token file, line {number}: the uid is empty")
        tenant, columns = SYSTEM_TENANT, row
        if len(row) > 3 and not row[-2]:
            if not row[-1]:
                raise ValueError(f"token file, line {number}: both last columns are empty")
            tenant, columns = row[-1], row[:-2]
        try:
            _checked_tenant(tenant)
        except Unauthorized as error:
            raise ValueError(f"token file, line {number}: {error.message}") from None
        groups = tuple(g.strip() for g in columns[3].split(",") if g.strip()) if columns[3:] else ()
        users[row[0]] = User(row[1], tenant, (*groups, AUTHENTICATED), row[2])
    return users


def sign(claims: Mapping[str, Any], key: bytes) -> str:
    """`base64url(claims).base64url(hmac-sha256)`; the claims are sub, groups, tenant, tenantUid,
    iat and, if it ends, exp."""
    if len(key) < _KEY_BYTES:
        raise ValueError(f"a signing key has at least {_KEY_BYTES} bytes")
    payload = _encode(orjson.dumps(claims))
    return f"{payload}.{_encode(_mac(payload, key))}"


def verify(token: str, key: bytes, tenant_uid: TenantUid, now: float) -> User:
    """The user of a token that we signed; Unauthorized when it is not, or no longer, good."""
    user, tenant, uid, expires = _verified(token, key)
    _check_current(tenant, uid, expires, tenant_uid, now)
    return user


def _verified(token: str, key: bytes) -> tuple[User, str, str, float]:
    payload, _, mac = token.partition(".")
    if not hmac.compare_digest(_encode(_mac(payload, key)).encode(), mac.encode()):
        raise Unauthorized("Unauthorized")
    try:
        claims = orjson.loads(_decode(payload))
        tenant = _checked_tenant(claims["tenant"])
        groups = (*claims.get("groups", ()), AUTHENTICATED)
        user = User(claims["sub"], tenant, groups)
        return user, tenant, claims["tenantUid"], float(claims.get("exp", 0))
    except (ValueError, KeyError, TypeError):
        raise Unauthorized("Unauthorized") from None


def _check_current(
    tenant: str, uid: str, expires: float, tenant_uid: TenantUid, now: float
) -> None:
    if expires and now >= expires:
        raise Unauthorized("the token has expired")
    # A tenant of the same name that was made later is another tenant.
    if not tenant or not uid or tenant_uid(tenant) != uid:
        raise Unauthorized("Unauthorized")


def _mac(payload: str, key: bytes) -> bytes:
    return hmac.digest(key, payload.encode(), hashlib.sha256)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def bearer_of(authorization: str, websocket_protocols: str = "") -> str:
    """The bearer token of a request: from its header, or as WebSocket clients in browsers can."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    for protocol in websocket_protocols.split(","):
        name = protocol.strip()
        if name.startswith(_WEBSOCKET_BEARER):
            try:
                return _decode(name.removeprefix(_WEBSOCKET_BEARER)).decode()
            except (binascii.Error, ValueError):
                raise Unauthorized("Unauthorized") from None
    return ""


def impersonated(user: User, name: str, groups: Sequence[str], uid: str = "") -> User:
    """Who a request with Impersonate-* headers speaks for. The tenant stays the caller's own."""
    if not is_super(user):
        raise Forbidden(
            f'users "{name}" is forbidden: User "{user.name}" cannot impersonate resource "users"'
            ' in API group "" at the cluster scope'
        )
    if not name:
        raise Forbidden("Impersonate-Group and Impersonate-Uid need Impersonate-User")
    return User(name, user.tenant, (*groups, AUTHENTICATED), uid)


def is_super(user: User) -> bool:
    return user.tenant == SYSTEM_TENANT and SUPER_GROUP in user.groups


class Authenticator:
    """What this ingress believes: a token file, a signing key; certificates come verified."""

    def __init__(
        self, tenant_uid: TenantUid, *, tokens: Mapping[str, User] | None = None, key: bytes = b""
    ) -> None:
        if key and len(key) < _KEY_BYTES:
            raise ValueError(f"a signing key has at least {_KEY_BYTES} bytes")
        self._tenant_uid = tenant_uid
        self._tokens = dict(tokens or {})
        self._key = key
        self._seen: dict[str, tuple[User, str, str, float]] = {}

    def user_of_token(self, token: str, now: float) -> User:
        """0.5 us for a token that was seen before; its tenant and end are checked every time."""
        known = self._tokens.get(token)
        if known is not None:
            return known
        seen = self._seen.get(token)
        if seen is None:
            if not self._key:
                raise Unauthorized("Unauthorized")
            seen = _verified(token, self._key)
            if len(self._seen) >= _VERIFIED_MAX:
                self._seen.clear()
            self._seen[token] = seen
        _check_current(seen[1], seen[2], seen[3], self._tenant_uid, now)
        return seen[0]

    def admin_token(self, tenant: str, now: float) -> str:
        """A token for the administrator of a tenant: user `admin`, bound to this Tenant's uid."""
        uid = self._tenant_uid(tenant)
        if not uid:
            raise NotFound(
                f'tenants "{tenant}" not found', details={"name": tenant, "kind": "tenants"}
            )
        if not self._key:
            raise NotFound("this ingress has no signing key")
        groups: list[str] = [SUPER_GROUP] if tenant == SYSTEM_TENANT else []
        return sign(
            {
                "sub": TENANT_ADMIN, "groups": groups, "tenant": tenant, "tenantUid": uid,
                "iat": int(now),
            },
            self._key,
        )  # fmt: skip
