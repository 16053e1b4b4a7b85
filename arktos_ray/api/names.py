"""Names: what one may be called, and the keys that objects are stored under.

A key is built only from segments that were checked, so no name can widen a range (design.md D13).
Pure.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SYSTEM_TENANT = "system"
ALL_TENANTS = "all"
NODE_LEASE_NAMESPACE = "kube-node-lease"

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_INT64_MAX = 9223372036854775807
_FNV_OFFSET, _FNV_PRIME, _MASK64 = 0xCBF29CE484222325, 0x100000001B3, 0xFFFFFFFFFFFFFFFF


class Key(NamedTuple):
    """Where one object is, inside its resource. Empty strings where the scope has no such part."""

    tenant: str
    namespace: str
    name: str

    def path(self) -> str:
        """The storage key: `tenant/namespace/name`. Never parse user input into one of these."""
        return f"{self.tenant}/{self.namespace}/{self.name}"

    @classmethod
    def from_path(cls, path: str) -> Key:
        tenant, namespace, name = path.split("/")
        return cls(tenant, namespace, name)


def is_dns_label(text: str) -> bool:
    """RFC 1123 label: at most 63 characters."""
    return _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    """RFC 1123 subdomain: labels with dots between them."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def is_path_segment(text: str) -> bool:
    """Safe as one segment of a URL or of a key: not empty, no slash or NUL, not `.` or `..`."""
    return bool(text) and text not in (".", "..") and not any(c in text for c in "/%\0")


def hash_key(uid: str) -> int:
    """metadata.hashKey of an object with this uid: FNV-1a folded to a positive int64.

    Source: spec/multitenancy.md 2.1. Budget: 4 us (36 characters in Python).
    """
    h = _FNV_OFFSET
    for byte in uid.encode():
        h = ((h ^ byte) * _FNV_PRIME) & _MASK64
    return h if h <= _INT64_MAX else h - _INT64_MAX
