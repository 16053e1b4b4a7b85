"""The words that every refusal of admission starts with."""

from __future__ import annotations

from typing import Any

from arktos_ray.api import errors


def forbidden(plural: str, obj: dict[str, Any], why: str) -> errors.Forbidden:
    """`pods "web" is forbidden: why`; an object without a name yet goes by its generateName."""
    meta = obj.get("metadata") or {}
    name = meta.get("name") or meta.get("generateName") or "Unknown"
    return errors.Forbidden(
        f'{plural} "{name}" is forbidden: {why}', details={"name": name, "kind": plural}
    )


def joined(reasons: list[str]) -> str:
    """One reason as it is, several in brackets; each said once."""
    once = list(dict.fromkeys(reasons))
    return once[0] if len(once) == 1 else f"[{', '.join(once)}]"
