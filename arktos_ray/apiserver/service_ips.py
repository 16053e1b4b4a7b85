"""Which cluster IP next. Pure: the services themselves are the record of what is taken.

An address that a failed commit leaves marked as taken is found again by `is_free`, which asks
whether its owner is there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable


class ServiceIPs:
    """The addresses of one partition's service range, e.g. 10.96.0.0/16.

    exists: whether a service path is (still) there.
    """

    def __init__(self, cidr: str, exists: Callable[[str], bool]) -> None:
        self._network = ipaddress.ip_network(cidr)
        self._exists = exists
        self._owner: dict[str, str] = {}  # address -> service path
        self._next = 10  # the first few are for well-known services

    def mark(self, address: str, path: str) -> None:
        """The service at `path` has this address (read at a restart)."""
        self._owner[address] = path

    def is_free(self, address: str, path: str) -> bool:
        owner = self._owner.get(address)
        return owner is None or owner == path or not self._exists(owner)

    def contains(self, address: str) -> bool:
        try:
            return ipaddress.ip_address(address) in self._network
        except ValueError:
            return False

    def allocate(self, path: str) -> str | None:
        """The next free address, or None when the range is used up."""
        size = self._network.num_addresses - 2
        for _ in range(size):
            self._next = self._next % size + 1
            address = str(self._network[self._next])
            if self.is_free(address, path):
                self._owner[address] = path
                return address
        return None

    def release(self, path: str) -> None:
        for address in [a for a, owner in self._owner.items() if owner == path]:
            del self._owner[address]
