"""MutatingWebhookConfiguration and ValidatingWebhookConfiguration: whom a tenant wants asked.

What they mean is in apiserver/admission/matching.py; here is only what one may look like. Pure.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any
from urllib.parse import urlsplit

from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import Cause, bad, duplicate, forbidden, required, unsupported
from arktos_ray.api.kinds.generic import Object, Rules

OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
VERSIONS = ("v1", "v1beta1")
# Each is asked for at every write that it matches.
_WEBHOOKS_MAX = 64
_CONDITIONS_MAX = 64
_SCOPES = ("*", "Cluster", "Namespaced")


class WebhookRules(Rules):
    """Of both kinds; `mutating` ones may be asked again."""

    mutating = False

    def default(self, obj: Object) -> None:
        for hook in obj.get("webhooks") or ():
            hook.setdefault("failurePolicy", "Fail")
            hook.setdefault("matchPolicy", "Equivalent")
            hook.setdefault("namespaceSelector", {})
            hook.setdefault("objectSelector", {})
            hook.setdefault("timeoutSeconds", 10)
            if self.mutating:
                hook.setdefault("reinvocationPolicy", "Never")
            for rule in hook.get("rules") or ():
                rule.setdefault("scope", "*")
            service = (hook.get("clientConfig") or {}).get("service")
            if service is not None:
                service.setdefault("port", 443)

    def check(self, obj: Object, out: list[Cause]) -> None:
        hooks = obj.get("webhooks") or ()
        if len(hooks) > _WEBHOOKS_MAX:
            out.append(bad("webhooks", len(hooks), f"must have at most {_WEBHOOKS_MAX} items"))
        seen = set()
        for i, hook in enumerate(hooks):
            at, name = f"webhooks[{i}]", hook.get("name") or ""
            if name in seen:
                out.append(duplicate(f"{at}.name", name))
            seen.add(name)
            self._check_hook(hook, at, out)

    def changed(self, obj: Object, old: Object) -> bool:
        return obj.get("webhooks") != old.get("webhooks")

    def _check_hook(self, hook: Object, at: str, out: list[Cause]) -> None:
        _check_name(hook.get("name") or "", f"{at}.name", out)
        for i, rule in enumerate(hook.get("rules") or ()):
            check_rule(rule, f"{at}.rules[{i}]", out)
        for key, allowed in (
            ("failurePolicy", ("Fail", "Ignore")), ("matchPolicy", ("Equivalent", "Exact")),
        ):  # fmt: skip
            syntax.one_of(hook.get(key), allowed, f"{at}.{key}", out)
        if self.mutating:
            allowed = ("IfNeeded", "Never")
            syntax.one_of(hook.get("reinvocationPolicy"), allowed, f"{at}.reinvocationPolicy", out)
        versions = hook.get("admissionReviewVersions") or ()
        _check_side_effects(hook.get("sideEffects"), versions, f"{at}.sideEffects", out)
        where = f"{at}.admissionReviewVersions"
        if not versions:
            out.append(required(where, f"must specify one of {', '.join(VERSIONS)}"))
        elif not any(version in VERSIONS for version in versions):
            why = f"must include at least one of {', '.join(VERSIONS)}"
            out.append(bad(where, list(versions), why))
        timeout = hook.get("timeoutSeconds")
        if timeout is not None and not 1 <= timeout <= 30:
            why = "the timeout value must be between 1 and 30 seconds"
            out.append(bad(f"{at}.timeoutSeconds", timeout, why))
        for key in ("namespaceSelector", "objectSelector"):
            if hook.get(key):
                syntax.label_selector(hook[key], f"{at}.{key}", out)
        check_client(hook.get("clientConfig") or {}, f"{at}.clientConfig", out)
        check_conditions(hook.get("matchConditions") or (), f"{at}.matchConditions", out)


class MutatingWebhookRules(WebhookRules):
    mutating = True


def check_rule(rule: Object, at: str, out: list[Cause]) -> None:
    """A rule that says which requests something is about."""
    operations = rule.get("operations") or ()
    if not operations:
        out.append(required(f"{at}.operations"))
    _check_alone(operations, f"{at}.operations", out)
    for i, one in enumerate(operations):
        if one not in OPERATIONS:
            out.append(unsupported(f"{at}.operations[{i}]", one, OPERATIONS))
    for key in ("apiGroups", "apiVersions"):
        names = rule.get(key) or ()
        if not names:
            out.append(required(f"{at}.{key}"))
        _check_alone(names, f"{at}.{key}", out)
    for i, version in enumerate(rule.get("apiVersions") or ()):
        if not version:
            out.append(required(f"{at}.apiVersions[{i}]"))
    resources = rule.get("resources") or ()
    if not resources:
        out.append(required(f"{at}.resources"))
    for i, resource in enumerate(resources):
        name, _, sub = resource.partition("/")
        where = f"{at}.resources[{i}]"
        if not resource:
            out.append(required(where))
        elif resource == "*/*" and len(resources) > 1:
            why = "if '*/*' is present, must not specify other resources"
            out.append(bad(f"{at}.resources", list(resources), why))
        elif resource == "*" and any("/" not in other for other in resources if other != "*"):
            why = "if '*' is present, must not specify other resources without subresources"
            out.append(bad(f"{at}.resources", list(resources), why))
        elif sub != "*" and f"{name}/*" in resources and sub:
            why = f"if '{name}/*' is present, must not specify {resource}"
            out.append(bad(where, resource, why))
    syntax.one_of(rule.get("scope"), _SCOPES, f"{at}.scope", out)


def check_client(client: Object, at: str, out: list[Cause]) -> None:
    """How something outside is reached: `url` or `service`, and `caBundle`."""
    url, service = client.get("url"), client.get("service")
    if (url is None) == (service is None):
        out.append(required(at, "exactly one of url or service is required"))
        return
    bundle = client.get("caBundle")
    if bundle:
        try:
            base64.b64decode(bundle, validate=True)
        except (binascii.Error, ValueError):
            out.append(bad(f"{at}.caBundle", "<bytes>", "unable to load root certificates"))
    if url is not None:
        _check_url(url, f"{at}.url", out)
    else:
        _check_service(client["service"], at, out)


def _check_service(service: Object, at: str, out: list[Cause]) -> None:
    out += [
        required(f"{at}.service.{key}", f"service {key} is required")
        for key in ("name", "namespace")
        if not service.get(key)
    ]
    port = service.get("port")
    if port is not None:
        wrong = syntax.port_number(port)
        if wrong:
            out.append(bad(f"{at}.service.port", port, f"port is not valid: {wrong}"))
    path = service.get("path")
    if path:
        parts = path.split("/")
        if not path.startswith("/"):
            out.append(bad(f"{at}.service.path", path, "must start with a '/'"))
        elif path != "/":
            for i, part in enumerate(parts[1:]):
                last = i == len(parts) - 2
                if not part and not last:
                    out.append(bad(f"{at}.service.path", path, f"segment[{i}] may not be empty"))
                    break
                wrong = syntax.dns_subdomain(part) if part else ""
                if wrong:
                    out.append(bad(f"{at}.service.path", path, f"segment[{i}]: {wrong}"))


def check_conditions(conditions: Any, at: str, out: list[Cause]) -> None:
    if len(conditions) > _CONDITIONS_MAX:
        out.append(bad(at, len(conditions), f"must have at most {_CONDITIONS_MAX} items"))
    seen = set()
    for i, condition in enumerate(conditions):
        name = condition.get("name") or ""
        if not name:
            out.append(required(f"{at}[{i}].name"))
        elif name in seen:
            out.append(duplicate(f"{at}[{i}].name", name))
        else:
            wrong = syntax.qualified_name(name)
            if wrong:
                out.append(bad(f"{at}[{i}].name", name, wrong))
        seen.add(name)
        if not (condition.get("expression") or "").strip():
            out.append(required(f"{at}[{i}].expression"))


def _check_name(name: str, at: str, out: list[Cause]) -> None:
    if not name:
        out.append(required(at))
        return
    wrong = syntax.dns_subdomain(name)
    if wrong:
        out.append(bad(at, name, wrong))
    elif len(name.split(".")) < 3:
        why = "should be a domain with at least three segments separated by dots"
        out.append(bad(at, name, why))


def _check_side_effects(value: Any, versions: Any, at: str, out: list[Cause]) -> None:
    allowed = ("None", "NoneOnDryRun")
    if list(versions) == ["v1beta1"] and value in ("Some", "Unknown"):
        return  # As v1beta1 had it.
    if not value:
        out.append(required(at, f"must specify one of {', '.join(allowed)}"))
    elif value not in allowed:
        out.append(unsupported(at, value, allowed))


def _check_alone(names: Any, at: str, out: list[Cause]) -> None:
    if len(names) > 1 and "*" in names:
        what = "operations" if at.endswith("operations") else "API groups"
        if at.endswith("apiVersions"):
            what = "API versions"
        out.append(bad(at, list(names), f"if '*' is present, must not specify other {what}"))


def _check_url(url: str, at: str, out: list[Cause]) -> None:
    form = "desired format: https://host[:port]/path"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        out.append(required(at, f"url must be a valid URL: {error}; {form}"))
        return
    if parts.scheme != "https":
        out.append(bad(at, parts.scheme, f"'https' is the only allowed URL scheme; {form}"))
    if not host:
        out.append(bad(at, "", f"host must be specified; {form}"))
    if parts.username is not None or parts.password is not None:
        out.append(forbidden(at, "user information is not permitted in the URL"))
    if parts.fragment:
        out.append(bad(at, parts.fragment, "fragments are not permitted in the URL"))
    if parts.query:
        out.append(bad(at, parts.query, "query parameters are not permitted in the URL"))
