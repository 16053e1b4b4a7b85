"""What a partition needs to make tokens of service accounts. What they say: tenancy/accounts.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from arktos_ray.api import errors
from arktos_ray.base.signing import TokenKeys
from arktos_ray.tenancy import accounts

# How often the keys are looked at, when there is something to sign.
_LOOK_S = 5.0


@dataclass(slots=True)
class Tokens:
    """What a partition needs to make tokens. ca: what clients trust, PEM."""

    keys: TokenKeys | None = None
    issuer: str = accounts.ISSUER
    audiences: tuple[str, ...] = (accounts.ISSUER,)
    ca: bytes = b""
    _looked_at: float = field(default=float("-inf"))

    def sign(self, claims: dict[str, Any], now: float) -> str:
        """Raises Unavailable when there is nothing to sign with."""
        if self.keys is None:
            raise errors.Unavailable("this partition has no key to sign tokens with")
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self.keys.refresh()
        try:
            return self.keys.sign(claims)
        except ValueError as error:
            raise errors.Unavailable(f"tokens cannot be signed: {error}") from None
