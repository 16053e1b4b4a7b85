"""Admission policies: what a ValidatingAdmissionPolicy says of a request, in CEL. Pure.

A policy says what must hold, a binding where, with which parameters, and what follows from a
breach. Who is concerned at all is in matching.py; what they are about is looked up in
apiserver/policies.py. An evaluation has a budget that all policies of one request share.
`authorizer` is not offered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from arktos_ray.api import errors, scheme
from arktos_ray.api.kinds.causes import Cause, bad, duplicate, invalid
from arktos_ray.api.scheme import ADMISSION
from arktos_ray.apiserver import authz
from arktos_ray.apiserver.admission import refusals
from arktos_ray.tenancy import roles

if TYPE_CHECKING:
    from arktos_ray.api import cel
    from arktos_ray.api.calls import Call
    from arktos_ray.apiserver.rights import RightsOfTenants

Object = dict[str, Any]

POLICIES = f"validatingadmissionpolicies.{ADMISSION}"
BINDINGS = f"validatingadmissionpolicybindings.{ADMISSION}"
# What one policy costs to be asked at all, in units of CEL: its selectors, its variables.
_ASKING = 100
_MESSAGE_BYTES_MAX = 5 * 1024
_ANNOTATION_BYTES_MAX = 10 * 1024
_CODES = {
    "Unauthorized": errors.Unauthorized, "Forbidden": errors.Forbidden,
    "RequestEntityTooLarge": errors.TooLarge,
}  # fmt: skip
_NAMES = dict.fromkeys(("object", "oldObject", "request", "namespaceObject", "variables"), "dyn")
_WITH_PARAMS = {**_NAMES, "params": "dyn"}


class Breach(NamedTuple):
    """Something that does not hold, or cannot be told."""

    message: str
    reason: str = "Invalid"
    place: int = 0  # of the validation


class Judgement(NamedTuple):
    breaches: list[Breach]
    annotations: dict[str, str]


class Policy:
    """One policy. What its expressions are is worked out when it is first asked."""

    def __init__(self, obj: Object) -> None:
        self.name: str = obj["metadata"]["name"]
        self.spec: Object = obj.get("spec") or {}
        self.constraints: Object = self.spec.get("matchConstraints") or {}
        self.param_kind: Object | None = self.spec.get("paramKind")
        self._types = _WITH_PARAMS if self.param_kind else _NAMES

    @property
    def fails(self) -> bool:
        return self.spec.get("failurePolicy") != "Ignore"

    def _failed(self, message: str) -> list[Breach]:
        """What cannot be told is a breach, or nothing."""
        return [Breach(message)] if self.fails else []

    def judge(self, values: Mapping[str, Any], budget: cel.Budget) -> Judgement:
        """values: object, oldObject, request, namespaceObject, and params."""
        from arktos_ray.api import cel

        none = Judgement([], {})
        try:
            budget.charge(_ASKING)
        except cel.CelError as error:
            return Judgement(self._failed(error.text), {})
        given = {**values, "variables": {}}
        for variable in self.spec.get("variables") or ():
            make = partial(self._value, variable.get("expression", ""), given, budget)
            given["variables"][variable.get("name", "")] = cel.Lazy(make)
        holds, why = self._concerned(given, budget)
        if why:
            return Judgement(self._failed(why), {})
        if not holds:
            return none
        breaches: list[Breach] = []
        for i, validation in enumerate(self.spec.get("validations") or ()):
            try:
                held = self._value(validation.get("expression", ""), given, budget)
            except cel.CelError as error:
                text = validation.get("expression", "")
                failed = self._failed(f"expression '{text}' resulted in error: {error.text}")
                breaches += [one._replace(place=i) for one in failed]
                continue
            if held is not True:
                message = self._message(validation, given, budget)
                breaches.append(Breach(message, validation.get("reason") or "Invalid", i))
        annotations, failures = self._annotations(given, budget)
        return Judgement(breaches + failures, annotations)

    def _value(self, text: str, given: Mapping[str, Any], budget: cel.Budget) -> Any:
        from arktos_ray.api import cel

        call = cel.Budget(min(cel.COST_MAX, budget.left))
        start = call.left
        try:
            return cel.compile(text, self._types).evaluate(given, call)
        finally:
            budget.left -= start - max(call.left, 0)

    def _concerned(self, given: Mapping[str, Any], budget: cel.Budget) -> tuple[bool, str]:
        """One condition that does not hold decides, whatever others cannot tell."""
        from arktos_ray.api import cel

        why = ""
        for condition in self.spec.get("matchConditions") or ():
            try:
                if self._value(condition.get("expression", ""), given, budget) is not True:
                    return False, ""
            except cel.CelError as error:
                name = condition.get("name", "")
                why = why or f"match condition '{name}' failed to evaluate: {error.text}"
        return True, why

    def _message(self, validation: Object, given: Mapping[str, Any], budget: cel.Budget) -> str:
        from arktos_ray.api import cel

        text = ""
        if validation.get("messageExpression"):
            try:
                found = self._value(validation["messageExpression"], given, budget)
            except cel.CelError:
                found = ""
            text = found.strip() if isinstance(found, str) else ""
            if "\n" in text or len(text.encode()) > _MESSAGE_BYTES_MAX:
                text = ""
        text = text or (validation.get("message") or "").strip()
        return text or f"failed expression: {validation.get('expression', '').strip()}"

    def _annotations(
        self, given: Mapping[str, Any], budget: cel.Budget
    ) -> tuple[dict[str, str], list[Breach]]:
        from arktos_ray.api import cel

        found: dict[str, str] = {}
        failures: list[Breach] = []
        for annotation in self.spec.get("auditAnnotations") or ():
            text = annotation.get("valueExpression", "")
            try:
                value = self._value(text, given, budget)
            except cel.CelError as error:
                failures += self._failed(f"expression '{text}' resulted in error: {error.text}")
                continue
            if isinstance(value, str) and value.strip():
                shown = value.strip().encode()[:_ANNOTATION_BYTES_MAX].decode(errors="ignore")
                found[f"{self.name}/{annotation.get('key', '')}"] = shown
            elif value is not None and not isinstance(value, str):
                failures += self._failed(
                    f"valueExpression '{text}' resulted in unsupported return type. "
                    "Return type must be either string or null."
                )
        return found, failures


class Binding:
    def __init__(self, obj: Object) -> None:
        self.name: str = obj["metadata"]["name"]
        self.spec: Object = obj.get("spec") or {}
        self.policy: str = self.spec.get("policyName") or ""
        self.match: Object = self.spec.get("matchResources") or {}
        self.param_ref: Object | None = self.spec.get("paramRef")
        self.actions: Sequence[str] = tuple(self.spec.get("validationActions") or ())


def text(policy: str, binding: str, message: str) -> str:
    with_ = f" with binding '{binding}'" if binding else ""
    return f"ValidatingAdmissionPolicy '{policy}'{with_} denied request: {message}"


def warning(policy: str, binding: str, message: str) -> str:
    return (
        f"Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding}': "
        f"{message}"
    )


def refusal(resource: scheme.Resource, name: str, breach: Breach, message: str) -> errors.Failure:
    """The refusal as clients know it: Forbidden in its words, and of the reason that is given."""
    plural = f"{resource.plural}.{resource.group}" if resource.group else resource.plural
    details: Object = {"name": name, "kind": resource.plural, "causes": [{"message": message}]}
    if resource.group:
        details["group"] = resource.group
    if not name:
        del details["name"]
    kind = _CODES.get(breach.reason, errors.Invalid)
    return kind(f'{plural} "{name}" is forbidden: {message}', details=details)


# ------------------------------------------------------------------------- parameters, by a binding

List = Callable[[str], Iterable[Object]]  # of a namespace; "" is what is in none


class NoParams(Exception):
    """Why a binding's parameters cannot be had."""


def params_of(
    binding: Binding, namespaced: bool, namespace: str, listed: List,
    matches: Callable[[Object, Object], bool],
) -> list[Object | None]:  # fmt: skip
    """The parameters with which a policy is judged, once with each. Raises NoParams."""
    ref = binding.param_ref
    if ref is None:
        return [None]
    where = ""
    if namespaced:
        where = ref.get("namespace") or namespace
        if not where:
            raise NoParams(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped "
                "resources"
            )
    elif ref.get("namespace"):
        raise NoParams("paramRef.namespace must not be provided for a cluster-scoped `paramKind`")
    found: list[Object | None] = []
    for obj in listed(where):
        if ref.get("name"):
            if obj["metadata"]["name"] == ref["name"]:
                found.append(obj)
        elif matches(ref.get("selector") or {}, obj["metadata"].get("labels") or {}):
            found.append(obj)
    if not found and ref.get("parameterNotFoundAction") == "Deny":
        raise NoParams("no params found for policy binding with `Deny` parameterNotFoundAction")
    return found


# apiVersion, kind -> a kind that was defined
Custom = Callable[[str, str], scheme.Resource | None]


def kind_of(kind: Object, custom: Custom) -> scheme.Resource | None:
    """The kind of parameters. Only what is in tenants: nothing else can be one."""
    for resource in scheme.RESOURCES:
        if (
            resource.kind == kind.get("kind")
            and resource.api_version == kind.get("apiVersion")
            and resource.tenanted
            and not resource.virtual
        ):
            return resource
    found = custom(kind.get("apiVersion") or "", kind.get("kind") or "")
    return found if found is not None and found.tenanted else None


def check_rights(
    rights: RightsOfTenants, call: Call, resource: scheme.Resource, obj: Object, of: Object | None,
    custom: Custom,
) -> None:  # fmt: skip
    """Parameters are shown to who writes the messages: they must be allowed to get them. `of`: the
    policy of a binding, if there is one. Raises Forbidden."""
    user, spec = call.user, obj.get("spec") or {}
    if user.trusted or roles.is_super(user):
        return
    ref = spec.get("paramRef")
    kind = spec.get("paramKind") if resource.gvr == POLICIES else None
    if resource.gvr == BINDINGS:
        if ref is None:
            return
        kind = ((of or {}).get("spec") or {}).get("paramKind") if of is not None else _ANY_KIND
    if kind is None:
        return
    found = kind_of(kind, custom)
    group, plural = (found.group, found.plural) if found is not None else ("*", "*")
    name, namespace = ((ref or {}).get(key) or "" for key in ("name", "namespace"))
    if found is None or not found.namespaced:
        namespace = ""
    if user.tenant == call.tenant and authz.may(
        rights, user, "get", group, plural, "", namespace, name, ""
    ):
        return
    what = f"kind={kind.get('kind')}, apiVersion={kind.get('apiVersion')}"
    raise refusals.forbidden(
        resource.gvr, obj, f'user {user.name} must have "get" permission on the parameters ({what})'
    )


_ANY_KIND = {"kind": "*", "apiVersion": "*"}

# -------------------------------------------------------------------- whether expressions are sound

_IDENTIFIER = re.compile("[_a-zA-Z][_a-zA-Z0-9]*", re.ASCII)


def check(obj: Object) -> None:
    """Raises Invalid for expressions of a policy that mean nothing."""
    from arktos_ray.api import cel

    out: list[Cause] = []
    spec = obj.get("spec") or {}
    why = cel.too_many(_expressions(spec))
    if why:
        out.append(Cause("spec", "FieldValueTooMany", why))
    else:
        _check(spec, out)
    if out:
        raise invalid(scheme.resource(POLICIES), obj["metadata"].get("name", ""), out)


def _expressions(spec: Object) -> list[str]:
    return [
        holder[key]
        for kind in ("matchConditions", "variables", "validations", "auditAnnotations")
        for holder in spec.get(kind) or ()
        for key in ("expression", "messageExpression", "valueExpression")
        if holder.get(key)
    ]


def _check(spec: Object, out: list[Cause]) -> None:
    types = _WITH_PARAMS if spec.get("paramKind") else _NAMES
    known: set[str] = set()
    before = {name: kind for name, kind in types.items() if name != "variables"}
    for i, condition in enumerate(spec.get("matchConditions") or ()):
        _expression(
            condition, "expression", f"spec.matchConditions[{i}]", before, "bool", known, out
        )
    for i, variable in enumerate(spec.get("variables") or ()):
        at, name = f"spec.variables[{i}]", variable.get("name") or ""
        if name in known:
            out.append(duplicate(f"{at}.name", name))
        elif name and not _IDENTIFIER.fullmatch(name):
            out.append(bad(f"{at}.name", name, "name is not a valid CEL identifier"))
        _expression(variable, "expression", at, types, "", known, out)
        known.add(name)
    for i, validation in enumerate(spec.get("validations") or ()):
        at = f"spec.validations[{i}]"
        _expression(validation, "expression", at, types, "bool", known, out)
        _expression(validation, "messageExpression", at, types, "string", known, out)
    for i, annotation in enumerate(spec.get("auditAnnotations") or ()):
        at = f"spec.auditAnnotations[{i}]"
        _expression(annotation, "valueExpression", at, types, "string", known, out)


def _expression(
    holder: Object, key: str, at: str, types: Mapping[str, str], wanted: str, known: set[str],
    out: list[Cause],
) -> None:  # fmt: skip
    from arktos_ray.api import cel

    expression = holder.get(key) or ""
    if not expression.strip():
        return
    try:
        program = cel.compile(expression, types)
    except cel.CelError as error:
        out.append(bad(f"{at}.{key}", expression, f"compilation failed: {error.text}"))
        return
    out += [
        bad(f"{at}.{key}", expression, f"compilation failed: undefined field '{name}'")
        for name in sorted(cel.fields_of(program, "variables") - known)
    ]
    allowed = (wanted, "dyn") if key != "valueExpression" else (wanted, "dyn", "null")
    if wanted and program.result not in allowed:
        what = "string or null_type" if key == "valueExpression" else wanted
        out.append(bad(f"{at}.{key}", expression, f"must evaluate to {what}"))
