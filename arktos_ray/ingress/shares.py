"""Who uses how much of an ingress: calls, bytes and watches, in all and by tenant. Pure.

Tenants share what there is; each may have as much as is still free, up to a limit of its own. So
one that takes all it can get leaves half, two leave a third, and whoever comes next finds room. The
system tenant (administrators, nodes) has a reserve behind that, which no tenant can use.
"""

from __future__ import annotations

from collections.abc import Mapping

from arktos_ray.api import errors
from arktos_ray.api.names import SYSTEM_TENANT

# Buckets that are remembered, 150 bytes each. At the limit those that are full are forgotten.
_BUCKETS_MAX = 10_000


def busy(message: str, retry_s: int = 1) -> errors.TooManyRequests:
    """429 as clients understand it: the seconds to wait are in the body, and so in the header."""
    return errors.TooManyRequests(message, details={"retryAfterSeconds": retry_s})


class Shares:
    """total_max: of all tenants; reserve: more, for the system tenant only."""

    def __init__(self, what: str, total_max: int, tenant_max: int, reserve: int) -> None:
        self._what = what
        self._total_max, self._tenant_max, self._reserve = total_max, tenant_max, reserve
        self._of: dict[str, int] = {}
        self.total = 0
        self._tenants = 0  # of the total

    def enter(self, tenant: str, amount: int = 1, allowed: int | None = None) -> None:
        """Who enters leaves. allowed: the tenant's own limit. Raises TooManyRequests."""
        if tenant == SYSTEM_TENANT:
            if self.total + amount > self._total_max + self._reserve:
                raise busy(f"too many {self._what} are open here; try again")
        else:
            of = self._of.get(tenant, 0)
            free = self._total_max - self._tenants
            most = self._tenant_max if allowed is None else allowed
            if of + amount > most:
                raise busy(
                    f'too many {self._what} of tenant "{tenant}" are open here: it has {of},'
                    f" and may have {most}; try again"
                )
            if of + amount > free:
                raise busy(f'too many {self._what} of tenant "{tenant}" are open here; try again')
        self.hold(tenant, amount)

    def hold(self, tenant: str, amount: int) -> None:
        """What cannot be refused any more; the next one will be."""
        self._of[tenant] = self._of.get(tenant, 0) + amount
        self.total += amount
        if tenant != SYSTEM_TENANT:
            self._tenants += amount

    def leave(self, tenant: str, amount: int = 1) -> None:
        self.total -= amount
        if tenant != SYSTEM_TENANT:
            self._tenants -= amount
        left = self._of[tenant] - amount
        if left:
            self._of[tenant] = left
        else:
            del self._of[tenant]

    def of(self, tenant: str) -> int:
        return self._of.get(tenant, 0)

    def by_tenant(self) -> Mapping[str, int]:
        return self._of


class Rate:
    """Requests a second of each tenant, with a second's worth at once; 0 is no limit."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._buckets: dict[str, tuple[float, float]] = {}  # tenant -> tokens, at

    def take(self, tenant: str, now: float) -> None:
        """Raises TooManyRequests with the time until the next one may come."""
        per_s = self._per_s
        if not per_s or tenant == SYSTEM_TENANT:
            return
        most = max(1.0, per_s)
        tokens, at = self._buckets.get(tenant, (most, now))
        tokens = min(most, tokens + (now - at) * per_s)
        if tokens < 1.0:
            wait_s = max(1, round((1.0 - tokens) / per_s))
            raise busy(f'tenant "{tenant}" may make {per_s:g} requests a second', wait_s)
        if len(self._buckets) >= _BUCKETS_MAX and tenant not in self._buckets:
            self._forget(now)
        self._buckets[tenant] = (tokens - 1.0, now)

    def _forget(self, now: float) -> None:
        most = max(1.0, self._per_s)
        for tenant, (tokens, at) in list(self._buckets.items()):
            if tokens + (now - at) * self._per_s >= most:
                del self._buckets[tenant]
