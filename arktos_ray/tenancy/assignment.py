"""Which tenant partition a new tenant gets. Pure.

The default is Arktos' rule (spec/scaleout.md 2): the alphabet in equal parts, by first letter.
`hash` spreads names that begin alike. Where a tenant really is, its own partition says; this is
for names that no partition knows.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from arktos_ray.api.errors import Invalid
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.tenancy.topology import PartitionRow


def assign(tenant: str, partitions: Sequence[str], rule: str = "letters") -> str:
    """The partition for a tenant. The system tenant, and names outside a-z, get the first one."""
    if tenant == SYSTEM_TENANT or not tenant:
        return partitions[0]
    if rule == "hash":
        return partitions[zlib.crc32(tenant.encode()) % len(partitions)]
    letter = ord(tenant[0]) - ord("a")
    if not 0 <= letter < 26:
        return partitions[0]
    count = min(len(partitions), 26)
    # Part i owns the letters 26*(i-1)//n up to 26*i//n - 1.
    return next(partitions[i] for i in range(count) if letter < 26 * (i + 1) // count)


def stored_in(cluster: str, rows: Sequence[PartitionRow]) -> list[str]:
    """The partitions whose logs are in that storage cluster: the only ones for a tenant whose
    spec.storageClusterId says so. "" is whichever. Raises Invalid when there are none.

    Give the names to `assign`; a tenant that moves may only move within them.
    """
    names = [row.name for row in rows if cluster in ("", row.storage)]
    if not names:
        known = ", ".join(sorted({row.storage for row in rows})) or "none"
        raise Invalid(
            f"no tenant partition keeps its objects in storage cluster {cluster};"
            f" there are partitions for: {known}"
        )
    return names
