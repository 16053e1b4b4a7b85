"""Structural schemas: what the objects of a CustomResourceDefinition look like. Pure.

    causes = structural.check(schema, at="spec.versions[0].schema.openAPIV3Schema")
    widgets = structural.compiled(schema)
    unknown = widgets.prune(obj)      # ["spec.colour"]; they are gone from it
    widgets.default(obj)
    causes = widgets.validate(obj, old)

Causes are in the words of Kubernetes. What server-side apply and documents need of a schema, they
take from the schema itself (`x-kubernetes-list-type` and the like); `openapi_v2` makes of it what
older clients read. benchmarks/structural.py says what a custom object costs.
"""

from __future__ import annotations

from typing import Any

from arktos_ray.api.kinds.causes import Cause
from arktos_ray.api.structural import gate, rules
from arktos_ray.api.structural.documents import openapi_v2
from arktos_ray.api.structural.nodes import NOTHING, Node, Object
from arktos_ray.api.structural.soundness import SCHEMAS_MAX, burden, check

__all__ = ["SCHEMAS_MAX", "Structural", "burden", "check", "compiled", "openapi_v2"]

# After these the rules are not asked: they could say only what has been said.
_BLOCKING = frozenset(
    [
        "FieldValueDuplicate", "FieldValueNotSupported", "FieldValueRequired", "FieldValueTooLong",
        "FieldValueTooMany", "FieldValueTypeInvalid",
    ]
)  # fmt: skip
_UNASKED = Cause(
    "<nil>",
    "FieldValueInvalid",
    'Invalid value: "null": some validation rules were not checked because the object was invalid; '
    "correct the existing errors to complete validation",
)


class Structural:
    """The schema of one version of a definition, which `check` found sound."""

    __slots__ = ("_closed", "_root", "_valid")

    def __init__(self, schema: Object) -> None:
        self._root = Node(schema, root=True)
        rules.attach(self._root)
        # Made for the first object: a partition starts with all its definitions.
        self._closed: gate.Gate | None = None
        self._valid: gate.Gate | bool | None = True

    def prune(self, obj: Object) -> list[str]:
        """Takes out what the schema does not know, and says the paths of it. Nulls that stand for
        nothing go silently. Metadata is not looked at."""
        out: list[str] = []
        if self._closed is None:
            self._closed = gate.closed(self._root)
        if self._closed.passes(obj):
            return out
        self._root.prune(obj, "", out)
        return out

    def default(self, obj: Object) -> None:
        if self._root.nested_defaults:
            self._root.fill(obj)

    @property
    def has_defaults(self) -> bool:
        return bool(self._root.nested_defaults)

    def validate(self, obj: Object, old: Any = None) -> list[Cause]:
        """What is wrong with an object that was pruned and defaulted. On an update, what was wrong
        before and is unchanged may stay."""
        try:
            return self._validate(obj, NOTHING if old is None else old)
        except RecursionError:
            # Only where unknown fields are kept: elsewhere the schema says how deep it is.
            return [Cause("<nil>", "FieldValueInvalid", 'Invalid value: "": nested too deeply')]

    def _validate(self, obj: Object, before: Any) -> list[Cause]:
        out = self._broken(obj)
        if out and before is not NOTHING:
            out = []
            self._root.validate(obj, "", out, before)
            self._root.duplicates(obj, "", out, before)
        if self._root.has_rules:
            if any(cause.reason in _BLOCKING for cause in out):
                out.append(_UNASKED)
            else:
                rules.evaluate(self._root, obj, before, out)
        return out

    def _broken(self, obj: Object) -> list[Cause]:
        out: list[Cause] = []
        if self._valid is True:
            self._valid = gate.valid(self._root)
        if not isinstance(self._valid, gate.Gate) or not self._valid.passes(obj):
            self._root.validate(obj, "", out)
        if self._root.nested_unique:
            self._root.duplicates(obj, "", out)
        return out


def compiled(schema: Object | None) -> Structural:
    """Of a schema that is sound. None is one that takes and keeps anything."""
    return Structural(schema or {"x-kubernetes-preserve-unknown-fields": True})
