"""What `kubectl get` prints of custom objects: the columns that their definition names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from arktos_ray.api.custom import paths

Object = dict[str, Any]
Cells = list[Any]
Ages = Callable[[Any, float], str]

_NAME = {
    "name": "Name", "type": "string", "format": "name", "priority": 0,
    "description": "Unique within its namespace, or its tenant, or the region.",
}  # fmt: skip
_AGE = {
    "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
    "description": "Time since the object was created.",
}  # fmt: skip


class Columns:
    """Of one version."""

    def __init__(self, wanted: list[Object] | None, since: Ages) -> None:
        """since: how long ago a time was, as text."""
        own = wanted or [_AGE]
        self._since = since
        self._own = [(paths.compiled(_path(one)), one.get("type", "string")) for one in own]
        self.definitions = [
            _NAME,
            *(
                {
                    "name": one["name"],
                    "type": one.get("type", "string"),
                    "format": one.get("format", ""),
                    "description": one.get("description", ""),
                    "priority": one.get("priority", 0),
                }
                for one in own
            ),
        ]

    def row(self, obj: Object, now: float) -> Cells:
        cells: Cells = [obj["metadata"].get("name", "")]
        for steps, kind in self._own:
            values: list[Any] = [obj]
            for step in steps:
                values = step(values)
            cells.append(self._cell(values, kind, now) if values else None)
        return cells

    def _cell(self, values: list[Any], kind: str, now: float) -> Any:
        value = values[0]
        if kind == "date":
            if value is None:
                return "<unknown>"
            return self._since(value, now) if isinstance(value, str) else "<invalid>"
        if kind == "integer":
            return value if type(value) is int else int(value) if type(value) is float else None
        if kind == "number":
            return value if type(value) in (int, float) else None
        if kind == "boolean":
            return value if type(value) is bool else None
        if len(values) > 1:
            return ",".join(_text(each) for each in values)
        return _text(value)


def _path(column: Object) -> str:
    return str(column.get("jsonPath") or column.get("JSONPath") or "")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value).decode()
