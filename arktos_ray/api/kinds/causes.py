"""What is wrong with an object, in the words that clients already know.

A Cause is one broken rule at one field. The makers below build the messages that kubectl prints;
`invalid` joins them into the one refusal that the caller gets. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from arktos_ray.api import errors, scheme


@dataclass(frozen=True, slots=True)
class Cause:
    field: str  # spec.containers[0].name
    reason: str  # FieldValueRequired, FieldValueInvalid, ...
    message: str  # Required value: ..., Invalid value: "x": ...


def _joined(start: str, detail: str) -> str:
    return f"{start}: {detail}" if detail else start


def shown(value: Any) -> str:
    """A value as messages print it: JSON, but with text left readable."""
    if value is None or isinstance(value, bool | int | str | list | dict):
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    return str(value)


def required(field: str, detail: str = "") -> Cause:
    return Cause(field, "FieldValueRequired", _joined("Required value", detail))


def bad(field: str, value: Any, detail: str = "") -> Cause:
    """The value cannot be right."""
    return Cause(field, "FieldValueInvalid", _joined(f"Invalid value: {shown(value)}", detail))


def duplicate(field: str, value: Any) -> Cause:
    return Cause(field, "FieldValueDuplicate", f"Duplicate value: {shown(value)}")


def unsupported(field: str, value: Any, allowed: Iterable[str]) -> Cause:
    """The value is none of the few that are known, in the order given."""
    quoted = ", ".join(shown(one) for one in allowed)
    detail = f"supported values: {quoted}" if quoted else ""
    message = _joined(f"Unsupported value: {shown(value)}", detail)
    return Cause(field, "FieldValueNotSupported", message)


def forbidden(field: str, detail: str) -> Cause:
    return Cause(field, "FieldValueForbidden", _joined("Forbidden", detail))


def not_found(field: str, value: Any) -> Cause:
    return Cause(field, "FieldValueNotFound", f"Not found: {shown(value)}")


def too_long(field: str, limit: int) -> Cause:
    return Cause(field, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes")


def too_many(field: str, actual: int, limit: int) -> Cause:
    items = "items" if limit != 1 else "item"
    message = f"Too many: {actual}: must have at most {limit} {items}"
    return Cause(field, "FieldValueTooMany", message)


def invalid(resource: scheme.Resource, name: str, causes: list[Cause]) -> errors.Invalid:
    """The refusal: every broken rule in one sentence, and apart in `details.causes`."""
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    # The same sentence is said once, in the order the rules were checked.
    sentences = list(dict.fromkeys(f"{c.field}: {c.message}" for c in causes))
    told = sentences[0] if len(sentences) == 1 else f"[{', '.join(sentences)}]"
    details: dict[str, Any] = {"name": name, "group": resource.group, "kind": resource.kind}
    for part in ("name", "group"):
        if not details[part]:
            del details[part]
    details["causes"] = [
        {"reason": c.reason, "message": c.message, "field": c.field} for c in causes
    ]
    return errors.Invalid(f"{kind} {shown(name)} is invalid: {told}", details=details)
