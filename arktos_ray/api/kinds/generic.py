"""What a kind does with an object on its way in, when the kind has nothing special to say.

The server calls, in this order: default, (admission), prepare_create, validate; and on updates
prepare_update, default, (admission), validate_update. Admission comes before prepare_create
because a pod's status starts from what admission made of its resources. A kind overrides the hooks
it needs: `default`, `check`, `check_update` and what its subresources may change. Pure.
"""

from __future__ import annotations

from typing import Any

from arktos_ray.api import scheme
from arktos_ray.api.kinds.causes import Cause
from arktos_ray.api.kinds.meta import validate_meta_update

Object = dict[str, Any]

# What only the server says. A client that leaves these out, or makes them up, changes nothing.
_SERVERS_OWN = (
    "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation",
    "hashKey", "selfLink",
)  # fmt: skip


class Rules:
    """One per kind. Every method works on plain dicts in place and keeps no state."""

    # Besides status, which of metadata's members /status leaves as they were.
    status_keeps_meta: tuple[str, ...] = ()

    def __init__(self, resource: scheme.Resource) -> None:
        self.resource = resource
        self.has_status = "status" in resource.subresources

    # --- strategy -------------------------------------------------------------------------------

    def prepare_create(self, obj: Object, now_rfc3339: str) -> None:
        """Forget what a creator may not say, and give the object its start.

        Sets metadata.creationTimestamp and generation; name, uid, hashKey, tenant, namespace and
        resourceVersion are the server's to set.
        """
        meta = obj.setdefault("metadata", {})
        for key in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
            meta.pop(key, None)
        meta["creationTimestamp"] = now_rfc3339
        if self.resource.has_generation:
            meta["generation"] = 1
        else:
            meta.pop("generation", None)
        if self.has_status:
            self.initial_status(obj)

    def initial_status(self, obj: Object) -> None:
        obj["status"] = {}

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        """Keep from `old` what this kind of update may not touch, and count the generation."""
        meta, was = obj.setdefault("metadata", {}), old["metadata"]
        for key in _SERVERS_OWN:
            if key in was:
                meta[key] = was[key]
            else:
                meta.pop(key, None)
        for key in ("uid", "namespace", "tenant", "name"):
            if not meta.get(key) and key in was:
                meta[key] = was[key]
        if subresource:
            self.keep_for(subresource, obj, old)
        else:
            if self.has_status:
                keep(obj, old, "status")
            self.keep_on_update(obj, old)
        if subresource != "status" and self.resource.has_generation and self.changed(obj, old):
            obj["metadata"]["generation"] = was.get("generation", 0) + 1

    def keep_on_update(self, obj: Object, old: Object) -> None:
        """More that a plain update may not touch."""

    def keep_for(self, subresource: str, obj: Object, old: Object) -> None:
        """What an update of this subresource may not touch: by default, all but status."""
        for key in list(obj):
            if key not in ("metadata", "status", "kind", "apiVersion") and key not in old:
                del obj[key]
        for key in old:
            if key not in ("metadata", "status"):
                obj[key] = old[key]
        for key in self.status_keeps_meta:
            keep(obj["metadata"], old["metadata"], key)

    def changed(self, obj: Object, old: Object) -> bool:
        """Whether this update is one that controllers should observe as a new generation."""
        return obj.get("spec") != old.get("spec")

    # --- defaults -------------------------------------------------------------------------------

    def default(self, obj: Object) -> None:
        """Fill in what was left out. Running it twice changes nothing more."""

    # --- validation -----------------------------------------------------------------------------

    def validate(self, obj: Object) -> list[Cause]:
        """Every rule that a new body breaks; `validate_meta` is the caller's to ask too."""
        out: list[Cause] = []
        self.check(obj, out)
        return out

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[Cause]:
        """Every rule that this change breaks; `validate_meta` is the caller's to ask too."""
        out = validate_meta_update(obj, old)
        if subresource == "status":
            self.check_status(obj, old, out)
        else:
            self.check_update(obj, old, out)
        return out

    def check(self, obj: Object, out: list[Cause]) -> None:
        """The body of a new object; metadata has been checked."""

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        """The body after an update of the object, or of a subresource other than status."""
        self.check(obj, out)

    def check_status(self, obj: Object, old: Object, out: list[Cause]) -> None:
        """The status after an update of status."""


def keep(obj: Object, old: Object, key: str) -> None:
    """Let this member be as it was."""
    if key in old:
        obj[key] = old[key]
    else:
        obj.pop(key, None)
