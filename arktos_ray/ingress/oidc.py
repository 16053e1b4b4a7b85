"""Users that somebody else vouches for: tokens of OpenID Connect issuers.

An issuer is configured with what its claims mean here: which is the name, which are the groups,
and which tenant its users are of, one for all or the one that a claim names. Its keys are read
from its discovery document when they are first needed, when a token names one that is not known,
and once an hour. A token that cannot be believed is 401, and the log says why.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from arktos_ray.api.calls import User
from arktos_ray.api.errors import Unauthorized
from arktos_ray.api.names import ALL_TENANTS, SYSTEM_TENANT, is_dns_label
from arktos_ray.tenancy.roles import AUTHENTICATED

log = logging.getLogger(__name__)

# Public keys only: whoever could choose `none` or an HMAC of a public key would be anybody.
ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512")
# Keys are asked for at most so often, however many tokens name keys that do not exist.
_ASK_AGAIN_S = 10.0
_KEYS_LAST_S = 3600.0
_ANSWER_S = 5.0
_ANSWER_BYTES_MAX = 1 << 20
_RESERVED = "system:"


@dataclass(frozen=True, slots=True)
class Settings:
    """One issuer. tenant: of all of its users, unless tenant_claim names a claim that says it.

    prefixes: before names and groups; None is `ISSUER#` unless the name is an e-mail address.
    """

    issuer: str
    client_id: str
    username_claim: str = "sub"
    username_prefix: str | None = None
    groups_claim: str = ""
    groups_prefix: str = ""
    tenant: str = ""
    tenant_claim: str = ""
    required_claims: tuple[tuple[str, str], ...] = ()
    ca: str = ""  # a file; "" is what this machine trusts


def user_of(claims: Mapping[str, Any], by: Settings) -> User:
    """Whom verified claims stand for. Raises ValueError when they do not say it."""
    for key, value in by.required_claims:
        if claims.get(key) != value:
            raise ValueError(f"claim {key} is not {value}")
    name = claims.get(by.username_claim)
    if not isinstance(name, str) or not name:
        raise ValueError(f"claim {by.username_claim} is no name")
    if by.username_claim == "email" and claims.get("email_verified", True) is not True:
        raise ValueError("the email address is not verified")
    prefix = by.username_prefix
    if prefix is None:
        prefix = "" if by.username_claim == "email" else f"{by.issuer}#"
    groups = claims.get(by.groups_claim) if by.groups_claim else None
    if isinstance(groups, str):
        groups = [groups]
    if groups is None:
        groups = []
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
        raise ValueError(f"claim {by.groups_claim} is no list of groups")
    names = [prefix + name, *(by.groups_prefix + group for group in groups)]
    if any(each.startswith(_RESERVED) for each in names):
        raise ValueError(f"nobody else gives names that begin with {_RESERVED}")
    tenant = by.tenant
    if by.tenant_claim:
        tenant = claims.get(by.tenant_claim, "")
        # Who governs all tenants is decided in the settings, not by a claim.
        if tenant == SYSTEM_TENANT:
            raise ValueError("a claim cannot name the system tenant")
    if not isinstance(tenant, str) or tenant == ALL_TENANTS or not is_dns_label(tenant):
        raise ValueError(f"claim {by.tenant_claim} is no tenant")
    return User(names[0], tenant, (*names[1:], AUTHENTICATED))


class Issuer:
    """One issuer, with its keys as far as they are known."""

    def __init__(self, settings: Settings) -> None:
        # 120 ms, where there is an issuer: now, and not while somebody waits.
        import jwt  # noqa: F401

        self.settings = settings
        self._keys: dict[str, Any] = {}
        self._asked_at = float("-inf")
        self._answered_at = float("-inf")
        self._asking = asyncio.Lock()

    async def have(self, key_id: str, now: float) -> None:
        """Ask for the keys, if that one is not known or they are old. Never raises."""
        if self._is_fresh(key_id, now):
            return
        async with self._asking:
            if self._is_fresh(key_id, now) or now - self._asked_at < _ASK_AGAIN_S:
                return
            self._asked_at = now
            try:
                self._keys = await _keys_of(self.settings)
                self._answered_at = now
            except Exception as error:  # Whatever is wrong over there, others' tokens go on.
                log.warning("the keys of %s: %r", self.settings.issuer, error)

    def _is_fresh(self, key_id: str, now: float) -> bool:
        return key_id in self._keys and now - self._answered_at < _KEYS_LAST_S

    def verified(self, token: str, key_id: str) -> Mapping[str, Any]:
        """Raises ValueError. What it says of time is for the caller to look at."""
        import jwt

        key = self._keys.get(key_id)
        if key is None:
            raise ValueError(f"{self.settings.issuer} has no key {key_id!r}")
        try:
            claims: dict[str, Any] = jwt.decode(
                token, key, algorithms=[key.algorithm_name], audience=self.settings.client_id,
                issuer=self.settings.issuer,
                options={
                    "verify_exp": False, "verify_nbf": False, "verify_iat": False,
                    "require": ["exp", "iss", "aud"],
                },
            )  # fmt: skip
        except jwt.PyJWTError as error:
            raise ValueError(str(error)) from None
        return claims


async def _keys_of(settings: Settings) -> dict[str, Any]:
    import aiohttp
    import jwt

    context = ssl.create_default_context(cafile=settings.ca or None)
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context), timeout=timeout
    ) as session:
        found = await _read(
            session, settings.issuer.rstrip("/") + "/.well-known/openid-configuration"
        )
        if found.get("issuer") != settings.issuer:
            raise ValueError(f"it calls itself {found.get('issuer')!r}")
        where = found.get("jwks_uri")
        if not isinstance(where, str) or not where.startswith("https://"):
            raise ValueError("its jwks_uri is no https URL")
        listed = await _read(session, where)
    keys: dict[str, Any] = {}
    for each in listed.get("keys") or ():
        if each.get("kid") and each.get("use", "sig") == "sig":
            try:
                key = jwt.PyJWK(each)
            except jwt.PyJWTError as error:
                log.info("a key of %s cannot be used: %s", settings.issuer, error)
                continue
            if key.algorithm_name in ALGORITHMS:
                keys[each["kid"]] = key
    return keys


async def _read(session: Any, url: str) -> dict[str, Any]:
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise ValueError(f"{url} answers {response.status}")
        raw = bytearray()
        async for piece in response.content.iter_any():
            raw += piece
            if len(raw) > _ANSWER_BYTES_MAX:
                raise ValueError(f"{url} answers too much")
    found = orjson.loads(raw)
    if not isinstance(found, dict):
        raise ValueError(f"{url} answers no object")
    return found


def refused(issuer: str, why: Exception) -> Unauthorized:
    log.info("a token of %s is refused: %s", issuer, why)
    return Unauthorized("Unauthorized")
