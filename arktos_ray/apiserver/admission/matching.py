"""Whom a request concerns: rules, selectors and conditions of webhooks and admission policies.

Pure, and shared by all who say it with `rules`, `namespaceSelector`, `objectSelector`,
`matchPolicy` and `matchConditions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from arktos_ray.api import errors
from arktos_ray.api.kinds import syntax
from arktos_ray.api.scheme import ADMISSION, Resource

if TYPE_CHECKING:
    from arktos_ray.api.cel import Budget, Program

Object = dict[str, Any]

CREATE, UPDATE, DELETE, CONNECT = "CREATE", "UPDATE", "DELETE", "CONNECT"
# Nobody is asked about these: who made a mistake in one must be able to correct it.
EXEMPT = frozenset(
    f"{plural}.{ADMISSION}"
    for plural in (
        "mutatingwebhookconfigurations", "validatingwebhookconfigurations",
        "validatingadmissionpolicies", "validatingadmissionpolicybindings",
        "mutatingadmissionpolicies", "mutatingadmissionpolicybindings",
    )
)  # fmt: skip


class Asked(NamedTuple):
    """What a request is about, as rules speak of it. resource: in the version that was asked."""

    operation: str
    resource: Resource
    subresource: str
    name: str = ""


def wanted_as(
    rules: Iterable[Mapping[str, Any]], asked: Asked, policy: str, served: Iterable[Resource]
) -> Resource | None:
    """The version in which the first of these rules that matches wants it; None: none matches.

    With matchPolicy Equivalent a rule for another group or version of the same objects matches
    too, and gets the object in that one. served: all of them.
    """
    rules = tuple(rules)
    if any(_matches(rule, asked, asked.resource) for rule in rules):
        return asked.resource
    if policy != "Exact":
        for rule in rules:
            for resource in served:
                if _matches(rule, asked, resource):
                    return resource
    return None


def _matches(rule: Mapping[str, Any], asked: Asked, resource: Resource) -> bool:
    names = rule.get("resourceNames")
    return (
        _among(asked.operation, rule.get("operations"))
        and _among(resource.group, rule.get("apiGroups"))
        and _among(resource.version, rule.get("apiVersions"))
        and any(_is_pattern(one, resource, asked) for one in rule.get("resources") or ())
        and (rule.get("scope") or "*") in ("*", "Namespaced" if resource.namespaced else "Cluster")
        and (not names or asked.name in names)
    )


def _among(value: str, allowed: Sequence[str] | None) -> bool:
    return bool(allowed) and ("*" in allowed or value in allowed)  # type: ignore[operator]


def _is_pattern(pattern: str, resource: Resource, asked: Asked) -> bool:
    """`pods`, `pods/status`, `pods/*`, `*/scale`, `*/*`; `*` is every resource, no subresource."""
    plural, _, sub = pattern.partition("/")
    return plural in ("*", resource.plural) and sub in ("*", asked.subresource)


def selected(
    chosen: Mapping[str, Any], space: Object | None, new: Object | None, old: Object | None
) -> bool:
    """Whether its selectors choose the object.

    space: the object's namespace (of a Namespace itself, that); None for what is in none.
    """
    selector = chosen.get("namespaceSelector")
    if selector and space is not None:
        labels = (space.get("metadata") or {}).get("labels") or {}
        if not syntax.selector_matches(selector, labels):
            return False
    selector = chosen.get("objectSelector")
    if not selector:
        return True
    return any(
        syntax.selector_matches(selector, (obj.get("metadata") or {}).get("labels") or {})
        for obj in (new, old)
        if obj is not None
    )


class Spent:
    """What the conditions of one question may cost together, however many webhooks have some."""

    def __init__(self) -> None:
        self.budget: Budget | None = None


def condition_failure(
    conditions: Sequence[Mapping[str, Any]], values: Mapping[str, Any], spent: Spent
) -> tuple[bool, str]:
    """(whether all hold, why it cannot be told). One that does not hold decides, whatever others
    cannot tell. values: object, oldObject, request."""
    why = ""
    for condition in conditions:
        try:
            if _evaluate(condition["expression"], values, spent) is not True:
                return False, ""
        except ValueError as error:
            name = condition.get("name", "")
            why = why or f"match condition {name!r} failed to evaluate: {error}"
    return not why, why


def check(config: Object) -> None:
    """Raises Invalid for conditions that mean nothing, of a webhook configuration."""
    hooks = config.get("webhooks") or ()
    texts = [one["expression"] for hook in hooks for one in hook.get("matchConditions") or ()]
    if texts:
        from arktos_ray.api import cel

        why = cel.too_many(texts)
        if why:
            kind, name = config["kind"], config["metadata"].get("name", "")
            raise errors.Invalid(f'{kind}.{ADMISSION} "{name}" is invalid: webhooks: {why}')
    for i, hook in enumerate(hooks):
        for j, condition in enumerate(hook.get("matchConditions") or ()):
            why = check_expression(condition["expression"])
            if why:
                at = f"webhooks[{i}].matchConditions[{j}].expression"
                kind, name = config["kind"], config["metadata"]["name"]
                raise errors.Invalid(
                    f'{kind}.{ADMISSION} "{name}" is invalid: {at}: Invalid value: '
                    f'"{condition["expression"]}": compilation failed: {why}'
                )


def check_expression(expression: str) -> str:
    """What is wrong with the expression of a match condition; "" when nothing is."""
    try:
        _compile(expression)
    except ValueError as error:
        return str(error)
    return ""


_VARIABLES = {"object": "dyn", "oldObject": "dyn", "request": "dyn", "authorizer": "dyn"}


def _compile(expression: str) -> Program:
    from arktos_ray.api import cel  # heavy: loaded by the first tenant that has a condition

    try:
        return cel.compile(expression, _VARIABLES)
    except cel.CelError as error:
        raise ValueError(str(error)) from error


def _evaluate(expression: str, values: Mapping[str, Any], spent: Spent) -> Any:
    from arktos_ray.api import cel

    if spent.budget is None:
        spent.budget = cel.Budget(cel.COST_MAX)
    try:
        return _compile(expression).evaluate(values, spent.budget)
    except cel.CelError as error:
        raise ValueError(str(error)) from error
