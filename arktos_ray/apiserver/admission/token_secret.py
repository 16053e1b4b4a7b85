"""Secrets that hold the token of a service account get it when they are written."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.tenancy import accounts
from arktos_ray.tenancy.accounts import Ref, Subject

if TYPE_CHECKING:
    from arktos_ray.apiserver.partition import Partition


def apply(partition: Partition, obj: dict[str, Any]) -> None:
    """Gives a Secret that is for an account's token what it lacks. Nothing without the account:
    the controller removes it. 120 us when it signs."""
    meta, data = obj["metadata"], obj.get("data") or {}
    if partition.tokens.keys is None:
        return
    annotations: dict[str, Any] = meta.get("annotations") or {}
    name = annotations.get(accounts.NAME_ANNOTATION) or ""
    tenant, namespace = meta["tenant"], meta["namespace"]
    record = partition.store.latest("serviceaccounts", f"{tenant}/{namespace}/{name}")
    of_tenant = partition.tenant(tenant)
    if record is None or of_tenant is None:
        return
    uid = record.decode()["metadata"]["uid"]
    if annotations.get(accounts.UID_ANNOTATION, uid) != uid:
        return  # It is for one that was there before.
    meta["annotations"] = {**annotations, accounts.UID_ANNOTATION: uid}
    where = accounts.namespace_in_secret(tenant, namespace, SYSTEM_TENANT)
    wanted = {"namespace": where.encode()}
    if partition.tokens.ca:
        wanted["ca.crt"] = partition.tokens.ca
    if not data.get("token"):
        subject = Subject(
            tenant, of_tenant["metadata"]["uid"], namespace, Ref(name, uid),
            secret=Ref(meta["name"], meta["uid"]),
        )  # fmt: skip
        now = partition.clock.now()
        wanted["token"] = partition.tokens.sign(accounts.legacy_claims(subject), now).encode()
    obj["data"] = {**data, **{k: base64.b64encode(v).decode() for k, v in wanted.items()}}
