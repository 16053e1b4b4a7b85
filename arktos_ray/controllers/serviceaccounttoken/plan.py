"""Which Secrets with tokens an account lacks, and which are of no account any more. Pure.

The token itself is put in by the partition when the Secret is written: it has the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from arktos_ray.api.kinds.config import TOKEN_TYPE
from arktos_ray.controllers.pods import is_terminating
from arktos_ray.tenancy.accounts import NAME_ANNOTATION, UID_ANNOTATION

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Create:
    body: Object
    why: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Each with its uid: one that came later under the same name stays."""

    secrets: tuple[tuple[str, str], ...]
    why: str


@dataclass(frozen=True, slots=True)
class Fill:
    """It was there before its account: say whose it is, and it gets its token."""

    name: str
    annotations: dict[str, str]
    why: str


def account_of(secret: Object) -> str:
    annotations = secret["metadata"].get("annotations") or {}
    return annotations.get(NAME_ANNOTATION) or ""


def plan(account: Object | None, secrets: Sequence[Object]) -> Create | Delete | Fill | None:
    """secrets: those for tokens that name this account. One step at a time."""
    if account is None:
        named = tuple(_named(secret) for secret in secrets if not is_terminating(secret))
        return Delete(named, "their account is gone") if named else None
    meta = account["metadata"]
    uid, name = meta["uid"], meta["name"]
    stale = tuple(_named(secret) for secret in secrets if _uid(secret) not in ("", uid))
    if stale:
        return Delete(stale, "they are of an account that was there before")
    for secret in secrets:
        if not _uid(secret):
            return Fill(secret["metadata"]["name"], {UID_ANNOTATION: uid}, "it has no token yet")
    if is_terminating(account):
        return None
    prefix = f"{name}-token-"
    if any(secret["metadata"]["name"].startswith(prefix) for secret in secrets):
        return None
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "generateName": prefix, "namespace": meta["namespace"], "tenant": meta["tenant"],
            "annotations": {NAME_ANNOTATION: name, UID_ANNOTATION: uid},
        },
        "type": TOKEN_TYPE,
    }  # fmt: skip
    return Create(body, "every account has one")


def _named(secret: Object) -> tuple[str, str]:
    return secret["metadata"]["name"], secret["metadata"]["uid"]


def _uid(secret: Object) -> str:
    return (secret["metadata"].get("annotations") or {}).get(UID_ANNOTATION) or ""
