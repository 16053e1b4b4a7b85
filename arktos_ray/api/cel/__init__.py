"""CEL, the language of rules in custom resources and admission policies, as Kubernetes has it.

    program = cel.compile("self.replicas <= self.max", {"self": "dyn"})
    program.evaluate({"self": spec})

Expressions come from tenants. They are parsed and checked by cel-expr-python (declarations.py),
and evaluated here (program.py, functions.py) on decoded JSON as it is, within a budget: no
expression costs more than that in time or memory, and none raises anything but CelError. What
Kubernetes has and we have not: macros with two variables, and the authorizer.
"""

from arktos_ray.api.cel.program import (
    COST_MAX,
    EXPRESSION_BYTES_MAX,
    Lazy,
    Program,
    compile,  # noqa: A004
    fields_of,
    too_many,
)
from arktos_ray.api.cel.values import NONE, Budget, CelError, CostExceeded, Optional

__all__ = [
    "COST_MAX", "EXPRESSION_BYTES_MAX", "NONE", "Budget", "CelError", "CostExceeded", "Lazy",
    "Optional", "Program", "compile", "fields_of",
    "too_many",
]  # fmt: skip
