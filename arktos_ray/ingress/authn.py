"""Who is calling: client certificates, tokens from a file, tokens that we signed ourselves, and
those of OpenID Connect issuers (oidc.py).

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
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

import orjson

from arktos_ray.api.calls import User
from arktos_ray.api.errors import Forbidden, NotFound, Unauthorized
from arktos_ray.api.names import ALL_TENANTS, SYSTEM_TENANT, is_dns_label
from arktos_ray.base.signing import BadToken, TokenKeys, taken_apart
from arktos_ray.ingress import oidc
from arktos_ray.tenancy import accounts
from arktos_ray.tenancy.roles import AUTHENTICATED, SUPER_GROUP, UNAUTHENTICATED

ANONYMOUS = "system:anonymous"
TENANT_ADMIN = "admin"  # the subject of every tenant's own admin-role-binding
_TENANT_PREFIX = "tenant:"
_KEY_BYTES = 32
_EXTRA = "impersonate-extra-"
_ACCOUNT = "system:serviceaccount:"
_AUTHENTICATION = "authentication.k8s.io"
# Some 500 bytes each. When full, all are forgotten and verified again (15 us each).
_VERIFIED_MAX = 10_000
# Tokens are good from now on, by the clock of the machine that made them.
_CLOCKS_DIFFER_S = 10.0
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


def end_of_peercert(peercert: Mapping[str, Any]) -> float:
    """Seconds since 1970. A connection may be older than its certificate."""
    return float(ssl.cert_time_to_seconds(peercert["notAfter"]))


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


class Ask(NamedTuple):
    """Something that a role may allow: a verb on a kind of object, or on a path."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


class Impersonation(NamedTuple):
    """Whom a request with Impersonate-* headers wants to speak for."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


def read_impersonation(headers: Iterable[tuple[str, str]]) -> Impersonation | None:
    """None when nobody else is meant. Raises Forbidden when it is not said who."""
    name, groups, uid, extra = "", [], "", dict[str, list[str]]()
    found = False
    for header, value in headers:
        key = header.lower()
        if not key.startswith("impersonate-"):
            continue
        found = True
        if key == "impersonate-user":
            name = value
        elif key == "impersonate-group":
            groups.append(value)
        elif key == "impersonate-uid":
            uid = value
        elif key.startswith(_EXTRA):
            extra.setdefault(unquote(key.removeprefix(_EXTRA)), []).append(value)
    if found and not name:
        raise Forbidden("groups, uid or extra cannot be impersonated without a user")
    more = tuple((key, tuple(values)) for key, values in sorted(extra.items()))
    return Impersonation(name, tuple(groups), uid, more) if found else None


def needed_for(wanted: Impersonation) -> list[Ask]:
    """All of what the caller's roles must allow."""
    account = _account(wanted.name)
    if account is not None:
        asks = [Ask("impersonate", "", "serviceaccounts", "", *account)]
    else:
        asks = [Ask("impersonate", "", "users", name=wanted.name)]
    asks += [Ask("impersonate", "", "groups", name=group) for group in wanted.groups]
    if wanted.uid:
        asks.append(Ask("impersonate", _AUTHENTICATION, "uids", name=wanted.uid))
    asks += [
        Ask("impersonate", _AUTHENTICATION, "userextras", key, name=value)
        for key, values in wanted.extra
        for value in values
    ]
    return asks


def impersonated(user: User, wanted: Impersonation) -> User:
    """Who it is then. The tenant stays the caller's own."""
    groups = wanted.groups
    account = _account(wanted.name)
    if account is not None and not groups:
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{account[0]}")
    everybody = UNAUTHENTICATED if wanted.name == ANONYMOUS else AUTHENTICATED
    if everybody not in groups:
        groups = (*groups, everybody)
    return User(wanted.name, user.tenant, groups, wanted.uid, extra=wanted.extra)


def refusal(user: User, ask: Ask) -> Forbidden:
    what = f"{ask.resource}.{ask.group}" if ask.group else ask.resource
    resource = f"{ask.resource}/{ask.subresource}" if ask.subresource else ask.resource
    where = f'in the namespace "{ask.namespace}"' if ask.namespace else "at the cluster scope"
    return Forbidden(
        f'{what} "{ask.name}" is forbidden: User "{user.name}" cannot {ask.verb} resource'
        f' "{resource}" in API group "{ask.group}" {where}',
        details={"name": ask.name, "group": ask.group, "kind": ask.resource},
    )


def _account(name: str) -> tuple[str, str] | None:
    """Namespace and name, if the user is a service account."""
    if not name.startswith(_ACCOUNT):
        return None
    namespace, colon, account = name.removeprefix(_ACCOUNT).partition(":")
    good = bool(colon and is_dns_label(namespace) and account) and ":" not in account
    return (namespace, account) if good else None


class _Seen(NamedTuple):
    """What a token says that was verified. expires, not_before: 0 is never."""

    user: User
    tenant_uid: str  # "": by the tenant's name alone, as issuers elsewhere know it
    expires: float
    not_before: float = 0.0
    audiences: tuple[str, ...] = ()  # (): for the API


class Authenticator:
    """What this ingress believes: a token file, a signing key, the keys of service accounts,
    issuers of OpenID Connect; certificates come verified."""

    def __init__(
        self, tenant_uid: TenantUid, *, tokens: Mapping[str, User] | None = None, key: bytes = b"",
        keys: TokenKeys | None = None, issuer: str = "", audiences: Sequence[str] = (),
        issuers: Sequence[oidc.Issuer] = (),
    ) -> None:  # fmt: skip
        """issuer, audiences: what tokens of service accounts say of who made them, and for whom."""
        if key and len(key) < _KEY_BYTES:
            raise ValueError(f"a signing key has at least {_KEY_BYTES} bytes")
        self._tenant_uid = tenant_uid
        self._tokens = dict(tokens or {})
        self._key = key
        self._accounts, self.issuer, self._audiences = keys, issuer, tuple(audiences)
        self._issuers = tuple(issuers)
        self._seen: dict[str, _Seen] = {}

    def believe(self, tokens: Mapping[str, User]) -> None:
        """The token file is another one now."""
        self._tokens = dict(tokens)

    def forget(self) -> None:
        """Keys are others now: what they signed is verified again."""
        self._seen.clear()

    @property
    def accounts(self) -> TokenKeys | None:
        return self._accounts

    def user_of_token(self, token: str, now: float) -> User:
        """0.5 us for a token that was seen before; its tenant and end are checked every time."""
        known = self._tokens.get(token)
        if known is not None:
            return known
        seen = self._current(token, now)
        if seen.audiences and not set(seen.audiences) & set(self._audiences):
            raise Unauthorized("Unauthorized")
        return seen.user

    def end_of(self, token: str) -> float:
        """Of a token that is good now: until when, in seconds since 1970; 0 is for ever."""
        seen = self._seen.get(token)
        return 0.0 if seen is None else seen.expires

    def reviewed(
        self, token: str, audiences: Sequence[str], now: float
    ) -> tuple[User, tuple[str, ...]]:
        """The user, and for which of these audiences the token is; none asked for is the API.

        Raises Unauthorized.
        """
        wanted = tuple(audiences) or self._audiences
        known = self._tokens.get(token)
        seen = _Seen(known, "", 0.0) if known is not None else self._current(token, now)
        good = seen.audiences or self._audiences
        both = tuple(each for each in wanted if each in good)
        if wanted and not both:
            raise Unauthorized("Unauthorized")
        return seen.user, both

    async def prepare(self, token: str, now: float) -> None:
        """Ask for the keys that this token may need, where others have them."""
        if not self._issuers or token in self._seen or token in self._tokens:
            return
        try:
            head, claims, _, _ = taken_apart(token)
        except BadToken:
            return
        for issuer in self._issuers:
            if issuer.settings.issuer == claims.get("iss"):
                await issuer.have(str(head.get("kid")), now)

    def _current(self, token: str, now: float) -> _Seen:
        seen = self._seen.get(token)
        if seen is None:
            seen = self._verified(token)
            if len(self._seen) >= _VERIFIED_MAX:
                self._seen.clear()
            self._seen[token] = seen
        if now < seen.not_before - _CLOCKS_DIFFER_S:
            raise Unauthorized("the token is not valid yet")
        if not seen.tenant_uid:
            if seen.expires and now >= seen.expires:
                raise Unauthorized("the token has expired")
            return seen
        _check_current(seen.user.tenant, seen.tenant_uid, seen.expires, self._tenant_uid, now)
        return seen

    def _verified(self, token: str) -> _Seen:
        if token.count(".") == 2:
            return self._verified_jwt(token)
        if not self._key:
            raise Unauthorized("Unauthorized")
        user, _, uid, expires = _verified(token, self._key)
        if not uid:
            raise Unauthorized("Unauthorized")
        return _Seen(user, uid, expires)

    def _verified_jwt(self, token: str) -> _Seen:
        try:
            head, claims, _, _ = taken_apart(token)
        except BadToken:
            raise Unauthorized("Unauthorized") from None
        issuer = claims.get("iss")
        if self._accounts is not None and issuer in (self.issuer, accounts.LEGACY_ISSUER):
            try:
                identity = accounts.read(self._accounts.verify(token))
            except (BadToken, accounts.Unreadable) as error:
                raise oidc.refused(str(issuer), error) from None
            if not identity.tenant_uid:
                raise Unauthorized("Unauthorized")
            return _Seen(*identity)
        why: Exception = ValueError("nobody here knows this issuer")
        for each in self._issuers:
            if each.settings.issuer == issuer:
                try:
                    found = each.verified(token, str(head.get("kid")))
                    user = oidc.user_of(found, each.settings)
                    return _Seen(user, "", float(found["exp"]), float(found.get("nbf", 0)))
                except (ValueError, TypeError) as error:
                    why = error
        raise oidc.refused(str(issuer), why)

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
