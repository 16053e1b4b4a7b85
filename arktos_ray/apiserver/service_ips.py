"""Which cluster IP next. Pure: the services themselves are the record of what is taken.

What is noted here is only where to look: an address is taken when the service that was last seen
with it still has it. So nothing leaks when a create is refused, a commit fails, or a service
changes its type or goes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable


class ServiceIPs:
    """The addresses of one partition's service range, e.g. 10.96.0.0/16.

    holds: whether the service at a path has an address, in its newest or its durable state.
    """

    def __init__(self, cidr: str, holds: Callable[[str, str], bool]) -> None:
        self._network = ipaddress.ip_network(cidr)
        self._holds = holds
        self._owner: dict[str, str] = {}  # address -> service path
        self._lent: dict[str, frozenset[str]] = {}  # tenant that moved away -> its addresses
        self._next = 10  # the first few are for well-known services

    def mark(self, address: str, path: str) -> None:
        """The service at `path` is written with this address, or was read at a restart."""
        self._owner[address] = path

    def lend(self, tenant: str, addresses: Iterable[str]) -> None:
        """They went with their tenant, to services that we do not see: not free until it is back,
        even when such a service is deleted meanwhile. Of 65,000, that is cheaper than to ask."""
        lent = frozenset(addresses)
        if lent:
            self._lent[tenant] = lent

    def back(self, tenant: str) -> None:
        self._lent.pop(tenant, None)

    def is_free(self, address: str, path: str) -> bool:
        if self._lent and any(address in lent for lent in self._lent.values()):
            return False
        owner = self._owner.get(address)
        return owner is None or owner == path or not self._holds(owner, address)

    def contains(self, address: str) -> bool:
        try:
            return ipaddress.ip_address(address) in self._network
        except ValueError:
            return False

    def choose(self, path: str) -> str | None:
        """The next free address, or None when the range is used up. `mark` takes it."""
        size = self._network.num_addresses - 2
        for _ in range(size):
            self._next = self._next % size + 1
            address = str(self._network[self._next])
            if self.is_free(address, path):
                return address
        return None
