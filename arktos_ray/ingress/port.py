"""Upstream: how the ingress finds and asks partitions, whatever carries the question.

The ingress actor implements it from the directory; tests implement it in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from arktos_ray.api.calls import Peer
from arktos_ray.tenancy.quota import Allowed


class Upstream(Protocol):
    def owner_of(self, tenant: str, storage: str = "") -> str:
        """The tenant partition of that tenant. An unknown tenant has the one it would get.

        storage: the storage cluster that a Tenant to create asks for; "" is whichever.
        """

    def moved(self, tenant: str, to: str) -> None:
        """A partition says that this tenant is in that other one now."""

    def tenant_uid(self, tenant: str) -> str | None:
        """The uid of the Tenant object, None when no such tenant is known. Tokens name it."""

    def allowed(self, tenant: str) -> Allowed:
        """What operators allow it; of an unknown tenant nothing is known."""

    def is_suspended(self, tenant: str) -> bool:
        """Whether its users are refused. The partition says so too, and earlier."""

    def topology_version(self) -> int:
        """Of the topology that new tenants are assigned by; a Tenant is made with it."""

    def tenant_partitions(self) -> Sequence[str]:
        """In order; the first is the home of the system tenant."""

    def resource_partitions(self) -> Sequence[str]:
        """In order."""

    def taking_nodes(self) -> Sequence[str]:
        """Those of them that take new nodes; names are spread over these by hash."""

    def peer(self, partition: str) -> Peer:
        """The way to that partition. Raises Unavailable when there is none just now."""

    def logs(
        self, tenant: str, namespace: str, pod: str, options: Mapping[str, str]
    ) -> AsyncIterator[bytes]:
        """What a container printed. The ingress asked the partition first whether the user may."""
