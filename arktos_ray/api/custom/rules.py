"""The rules of custom objects: their schema's, and what a status subresource keeps apart."""

from __future__ import annotations

from typing import Any

from arktos_ray.api import scheme
from arktos_ray.api.custom.schema import Structural
from arktos_ray.api.kinds.causes import Cause
from arktos_ray.api.kinds.generic import Object, Rules
from arktos_ray.api.kinds.meta import validate_meta_update


class CustomRules(Rules):
    def __init__(self, resource: scheme.Resource, schema: Structural) -> None:
        super().__init__(resource)
        self._schema = schema

    def initial_status(self, obj: Object) -> None:
        obj.pop("status", None)

    def keep_for(self, subresource: str, obj: Object, old: Object) -> None:
        """Status alone; of metadata who manages it, too."""
        managed = obj["metadata"].get("managedFields")
        for key in list(obj):
            if key != "status" and key not in old:
                del obj[key]
        for key, value in old.items():
            if key != "status":
                obj[key] = value
        obj["metadata"] = {**old["metadata"]}
        if managed is not None:
            obj["metadata"]["managedFields"] = managed

    def changed(self, obj: Object, old: Object) -> bool:
        apart = ("metadata", "status") if self.has_status else ("metadata",)
        keys = (obj.keys() | old.keys()) - set(apart)
        return any(obj.get(key) != old.get(key) for key in keys)

    def default(self, obj: Object) -> None:
        self._schema.default(obj)

    def check(self, obj: Object, out: list[Cause]) -> None:
        out += self._schema.validate(obj)

    def validate_update(self, obj: Object, old: Object, subresource: str) -> list[Cause]:
        return validate_meta_update(obj, old) + self._schema.validate(obj, old)


def as_text(value: Any) -> str:
    """A field as selectors compare it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
