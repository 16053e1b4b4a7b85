"""The kinds of the API as pydantic models, made from the schemas when first used.

    from arktos_ray.client import models
    models.Pod(metadata={"name": "web"}, spec={"containers": [{"name": "c", "image": "nginx"}]})

Field names are those of the API (camelCase). Unknown fields are refused; what the server adds is
kept. `dump` gives the dict that goes over the wire, without what was not set.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from arktos_ray.api import schemas, scheme

_SCALARS: dict[str, Any] = {
    "string": str, "integer": int, "number": float, "boolean": bool, "bytes": str,
    "quantity": str | int | float, "int-or-string": int | str, "time": str, "micro-time": str,
    "duration": str, "any": Any, "fields-v1": dict[str, Any],
}  # fmt: skip


class Model(BaseModel):
    """Any message of the API."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), validate_assignment=True)

    def dump(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True, exclude_none=True)


class Loose(Model):
    """A message that contains itself: its inner fields are taken as they are."""

    model_config = ConfigDict(extra="allow")


@cache
def model(schema: str) -> type[Model]:
    """The model of a message, e.g. `k8s.io.api.core.v1.Pod`."""
    return _make(schema, ())


def model_of(resource: scheme.Resource) -> type[Model]:
    return model(resource.schema)


def _make(schema: str, inside: tuple[str, ...]) -> type[Model]:
    if schema in inside:
        return Loose
    fields: dict[str, Any] = {}
    for field in schemas.message(schema).fields.values():
        if field.is_message:
            kind: Any = _make(field.type, (*inside, schema)) if inside else _nested(field.type)
        else:
            kind = _SCALARS[field.type]
        if field.shape == "list":
            kind = list[kind]
        elif field.shape == "map":
            kind = dict[str, kind]
        fields[field.name] = (kind | None if kind is not Any else Any, None)
    return create_model(schema.rpartition(".")[2], __base__=Model, **fields)


def _nested(schema: str) -> type[Model]:
    return _made_inside(schema)


@cache
def _made_inside(schema: str) -> type[Model]:
    return _make(schema, ("",))


def __getattr__(name: str) -> Any:
    for resource in scheme.RESOURCES:
        if resource.kind == name:
            return model_of(resource)
    raise AttributeError(name)
