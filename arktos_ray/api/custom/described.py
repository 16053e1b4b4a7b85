"""The kinds of a tenant on their way to discovery and OpenAPI, which are made elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from arktos_ray.api.custom.definition import Definition
from arktos_ray.api.scheme import Resource, Scope

Object = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """`Resource.custom` where nothing is served, only described."""

    list_kind: str
    source: bytes  # the schema as JSON; empty when it was not asked for

    @property
    def openapi(self) -> Object:
        schema: Object = orjson.loads(self.source) if self.source else {}
        return schema


def packed(definitions: Iterable[Definition], *, with_schemas: bool) -> list[list[Any]]:
    """A row for each version of each. 6 us without schemas."""
    return [
        [
            r.group, r.version, r.plural, r.kind, r.singular, str(r.scope), list(r.short_names),
            list(r.categories), {name: list(verbs) for name, verbs in r.subresources.items()},
            r.custom.list_kind,
            orjson.dumps(r.custom.openapi or {}) if with_schemas else b"",
        ]
        for definition in definitions
        for r in definition.resources
    ]  # fmt: skip


def unpacked(rows: Sequence[Sequence[Any]]) -> list[Resource]:
    found = []
    for (group, version, plural, kind, singular, scope, short, categories, subresources, listed,
         schema) in rows:  # fmt: skip
        found.append(
            Resource(
                group,
                version,
                plural,
                kind,
                singular,
                Scope(scope),
                "",
                short_names=tuple(short),
                categories=tuple(categories),
                subresources={name: tuple(verbs) for name, verbs in subresources.items()},
                custom=Described(listed, schema),
            )
        )
    return found
