"""Tenant and Namespace: the two kinds that contain others, and end in two steps. And
StorageCluster: where the objects of tenants are kept."""

from __future__ import annotations

from arktos_ray.api import quantity
from arktos_ray.api.kinds.causes import Cause, bad, forbidden, required
from arktos_ray.api.kinds.generic import Object, Rules, keep
from arktos_ray.api.kinds.meta import validate_finalizer
from arktos_ray.api.names import SYSTEM_TENANT

NAME_LABEL = "kubernetes.io/metadata.name"
STORAGE_CLUSTER_MAX = 63


class _Space(Rules):
    finalizer = ""
    # Beside spec.finalizers, what in spec a plain update leaves as it was.
    fixed: tuple[str, ...] = ()

    def initial_status(self, obj: Object) -> None:
        obj["status"] = {"phase": "Active"}
        spec = obj.get("spec")
        if spec is None:
            spec = obj["spec"] = {}
        finalizers = spec.setdefault("finalizers", []) or []
        if self.finalizer not in finalizers:
            spec["finalizers"] = [*finalizers, self.finalizer]

    def keep_on_update(self, obj: Object, old: Object) -> None:
        spec, was = obj.setdefault("spec", {}), old.get("spec") or {}
        for key in ("finalizers", *self.fixed):
            keep(spec, was, key)

    def keep_for(self, subresource: str, obj: Object, old: Object) -> None:
        finalizers = (obj.get("spec") or {}).get("finalizers")
        super().keep_for(subresource, obj, old)
        if subresource == "finalize":
            keep(obj, old, "status")
            obj["spec"] = {**(old.get("spec") or {}), "finalizers": finalizers or []}

    def check(self, obj: Object, out: list[Cause]) -> None:
        for finalizer in (obj.get("spec") or {}).get("finalizers") or ():
            validate_finalizer(finalizer, "spec.finalizers", out)

    def check_status(self, obj: Object, old: Object, out: list[Cause]) -> None:
        phase = (obj.get("status") or {}).get("phase")
        if obj["metadata"].get("deletionTimestamp"):
            if phase != "Terminating":
                why = "may only be 'Terminating' if `deletionTimestamp` is not empty"
                out.append(bad("status.Phase", phase, why))
        elif phase != "Active":
            why = "may only be 'Active' if `deletionTimestamp` is empty"
            out.append(bad("status.Phase", phase, why))


class NamespaceRules(_Space):
    finalizer = "kubernetes"

    def default(self, obj: Object) -> None:
        meta = obj.setdefault("metadata", {})
        name = meta.get("name")
        if name:
            labels = meta.get("labels")
            if labels is None:
                labels = meta["labels"] = {}
            labels[NAME_LABEL] = name


class TenantRules(_Space):
    finalizer = "arktos"
    fixed = ("storageClusterId",)

    def check(self, obj: Object, out: list[Cause]) -> None:
        super().check(obj, out)
        cluster = (obj.get("spec") or {}).get("storageClusterId")
        _check_storage_cluster("spec.storageClusterId", cluster, out)
        _check_allowed(obj, out)

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        super().check(obj, out)
        _check_allowed(obj, out)


class StorageClusterRules(Rules):
    def check(self, obj: Object, out: list[Cause]) -> None:
        _check_storage_cluster("storageClusterId", obj.get("storageClusterId"), out)
        if not obj.get("serviceAddress"):
            out.append(required("serviceAddress", "must specify service address"))

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        self.check(obj, out)
        if obj.get("storageClusterId") != old.get("storageClusterId"):
            out.append(bad("storageClusterId", obj.get("storageClusterId"), "field is immutable"))


def _check_allowed(tenant: Object, out: list[Cause]) -> None:
    """What tenancy/quota.py reads."""
    spec = tenant.get("spec") or {}
    limits = spec.get("limits") or {}
    for name, value in limits.items():
        try:
            negative = quantity.milli(value) < 0
        except ValueError:
            negative = False  # The schema says what is wrong with it.
        if negative:
            out.append(bad(f"spec.limits.{name}", value, "must be greater than or equal to 0"))
    if tenant["metadata"].get("name") == SYSTEM_TENANT:
        why = "the system tenant is the operators' own"
        given = [name for name in ("limits", "suspended") if spec.get(name)]
        out += [forbidden(f"spec.{name}", why) for name in given]


def _check_storage_cluster(at: str, cluster: str | None, out: list[Cause]) -> None:
    if not cluster:
        out.append(required(at, "must specify storage cluster id"))
    elif not (
        cluster.isascii() and cluster.isdigit() and int(cluster[:9]) <= STORAGE_CLUSTER_MAX
        and len(cluster) < 9
    ):  # fmt: skip
        out.append(bad(at, cluster, "must be integer 0-63"))
