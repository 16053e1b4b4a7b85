"""ValidatingAdmissionPolicy and its binding: what a tenant wants to hold of its objects.

What their expressions mean is in apiserver/admission/policy.py. Pure.
"""

from __future__ import annotations

from typing import Any

from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import Cause, bad, duplicate, forbidden, required, unsupported
from arktos_ray.api.kinds.generic import Object, Rules
from arktos_ray.api.kinds.webhooks import check_conditions, check_rule

_ITEMS_MAX = 64  # validations, variables, ...: each is worked out at every write that matches
_AUDIT_MAX = 20
_REASONS = ("Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized")
_ACTIONS = ("Audit", "Deny", "Warn")


def _default_match(match: Any) -> None:
    if not isinstance(match, dict):
        return
    match.setdefault("matchPolicy", "Equivalent")
    match.setdefault("namespaceSelector", {})
    match.setdefault("objectSelector", {})
    for key in ("resourceRules", "excludeResourceRules"):
        for rule in match.get(key) or ():
            rule.setdefault("scope", "*")


def _check_match(match: Object, at: str, out: list[Cause]) -> None:
    for key in ("resourceRules", "excludeResourceRules"):
        for i, rule in enumerate(match.get(key) or ()):
            check_rule(rule, f"{at}.{key}[{i}]", out)
    for key in ("namespaceSelector", "objectSelector"):
        if match.get(key):
            syntax.label_selector(match[key], f"{at}.{key}", out)
    syntax.one_of(match.get("matchPolicy"), ("Equivalent", "Exact"), f"{at}.matchPolicy", out)


class _OfPolicies(Rules):
    def changed(self, obj: Object, old: Object) -> bool:
        return obj.get("spec") != old.get("spec")


class PolicyRules(_OfPolicies):
    def default(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        spec.setdefault("failurePolicy", "Fail")
        _default_match(spec.get("matchConstraints"))

    def check(self, obj: Object, out: list[Cause]) -> None:
        spec = obj.get("spec") or {}
        syntax.one_of(spec.get("failurePolicy"), ("Fail", "Ignore"), "spec.failurePolicy", out)
        kind = spec.get("paramKind")
        if kind is not None:
            missing = [key for key in ("apiVersion", "kind") if not kind.get(key)]
            out += [required(f"spec.paramKind.{key}") for key in missing]
        match = spec.get("matchConstraints")
        if match is None:
            out.append(required("spec.matchConstraints"))
        else:
            if not match.get("resourceRules"):
                out.append(required("spec.matchConstraints.resourceRules"))
            _check_match(match, "spec.matchConstraints", out)
        check_conditions(spec.get("matchConditions") or (), "spec.matchConditions", out)
        if not spec.get("validations") and not spec.get("auditAnnotations"):
            why = "validations or auditAnnotations must contain at least one item"
            out += [required("spec.validations", why), required("spec.auditAnnotations", why)]
        for key, most in (("validations", _ITEMS_MAX), ("variables", _ITEMS_MAX),
                          ("auditAnnotations", _AUDIT_MAX)):  # fmt: skip
            count = len(spec.get(key) or ())
            if count > most:
                out.append(bad(f"spec.{key}", count, f"must have at most {most} items"))
        for i, validation in enumerate(spec.get("validations") or ()):
            _check_validation(validation, f"spec.validations[{i}]", out)
        for i, variable in enumerate(spec.get("variables") or ()):
            for key, what in (("name", "name"), ("expression", "expression")):
                if not (variable.get(key) or "").strip():
                    out.append(required(f"spec.variables[{i}].{key}", f"{what} is not specified"))
        self._check_annotations(spec.get("auditAnnotations") or (), out)

    @staticmethod
    def _check_annotations(annotations: Any, out: list[Cause]) -> None:
        seen = set()
        for i, annotation in enumerate(annotations):
            at, key = f"spec.auditAnnotations[{i}]", annotation.get("key") or ""
            if not key:
                out.append(required(f"{at}.key"))
            elif key in seen:
                out.append(duplicate(f"{at}.key", key))
            elif wrong := syntax.qualified_name(key):
                out.append(bad(f"{at}.key", key, wrong))
            seen.add(key)
            if not (annotation.get("valueExpression") or "").strip():
                out.append(required(f"{at}.valueExpression", "valueExpression is not specified"))


def _check_validation(validation: Object, at: str, out: list[Cause]) -> None:
    text, message = (validation.get(key) or "" for key in ("expression", "message"))
    if not text.strip():
        out.append(required(f"{at}.expression", "expression is not specified"))
    elif message and not message.strip():
        out.append(bad(f"{at}.message", message, "message must be non-empty if specified"))
    elif "\n" in message.strip():
        out.append(bad(f"{at}.message", message, "message must not contain line breaks"))
    elif "\n" in text.strip() and not message:
        why = "message must be specified if expression contains line breaks"
        out.append(required(f"{at}.message", why))
    expression = validation.get("messageExpression")
    if expression and not expression.strip():
        why = "must be non-empty if specified"
        out.append(bad(f"{at}.messageExpression", expression, why))
    if validation.get("reason") and validation["reason"] not in _REASONS:
        out.append(unsupported(f"{at}.reason", validation["reason"], _REASONS))


class BindingRules(_OfPolicies):
    def default(self, obj: Object) -> None:
        _default_match(obj.setdefault("spec", {}).get("matchResources"))

    def check(self, obj: Object, out: list[Cause]) -> None:
        spec = obj.get("spec") or {}
        name = spec.get("policyName") or ""
        if not name:
            out.append(required("spec.policyName"))
        elif wrong := syntax.dns_subdomain(name):
            out.append(bad("spec.policyName", name, wrong))
        ref = spec.get("paramRef")
        if ref is not None:
            _check_params(ref, "spec.paramRef", out)
        if spec.get("matchResources"):
            _check_match(spec["matchResources"], "spec.matchResources", out)
        actions = spec.get("validationActions") or ()
        if not actions:
            out.append(required("spec.validationActions", "at least one validation action is required"))  # fmt: skip  # noqa: E501
        seen = set()
        for i, action in enumerate(actions):
            at = f"spec.validationActions[{i}]"
            if action not in _ACTIONS:
                out.append(unsupported(at, action, _ACTIONS))
            if action in seen:
                out.append(duplicate(at, action))
            seen.add(action)
        if {"Deny", "Warn"} <= seen:
            why = (
                "must not contain both Deny and Warn (repeating the same validation failure "
                "information in the API response and headers serves no purpose)"
            )
            out.append(bad("spec.validationActions", list(actions), why))


def _check_params(ref: Object, at: str, out: list[Cause]) -> None:
    if bool(ref.get("name")) == (ref.get("selector") is not None):
        if ref.get("name"):
            out.append(forbidden(f"{at}.name", "name and selector are mutually exclusive"))
        else:
            out.append(required(at, "one of name or selector must be specified"))
    elif ref.get("selector"):
        syntax.label_selector(ref["selector"], f"{at}.selector", out)
    action = ref.get("parameterNotFoundAction")
    if not action:
        out.append(required(f"{at}.parameterNotFoundAction"))
    elif action not in ("Allow", "Deny"):
        out.append(unsupported(f"{at}.parameterNotFoundAction", action, ("Allow", "Deny")))
