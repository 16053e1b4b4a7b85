"""Custom resources: what a definition makes of a group, a plural and a schema. Pure.

`definition.py` turns a CustomResourceDefinition into Resources like those of `api/scheme.py`, which
the verbs, tables and discovery then take for any other. The kind CustomResourceDefinition itself
has its rules in `api/kinds/definitions.py`.
"""

from arktos_ray.api.custom.definition import (
    CUSTOM_SUBRESOURCES,
    UNKNOWN,
    Conversion,
    Definition,
    definition,
    unknown,
)
from arktos_ray.api.custom.names import is_forced, is_served, settled

__all__ = [
    "CUSTOM_SUBRESOURCES",
    "UNKNOWN",
    "Conversion",
    "Definition",
    "definition",
    "is_forced",
    "is_served",
    "settled",
    "unknown",
]
