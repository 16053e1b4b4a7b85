"""Reviews: questions that are asked by creating an object, and nothing is stored.

`kubectl auth can-i`, `can-i --list` and `whoami`. The answers are those that authz.py would give,
in the tenant of the request; about oneself, by the roles of one's own.
"""

from __future__ import annotations

from typing import Any

from arktos_ray.api import errors, kinds
from arktos_ray.api.calls import Call, Reply, User
from arktos_ray.api.kinds.causes import Cause, bad
from arktos_ray.api.kinds.reviews import user_info
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.api.scheme import BY_GVR, Resource
from arktos_ray.apiserver import authz
from arktos_ray.apiserver.partition import Object, Partition, body_of, reply_with
from arktos_ray.tenancy import roles


def review(partition: Partition, call: Call, resource: Resource) -> Reply:
    obj, warnings = body_of(call, resource)
    spec: Object = obj.get("spec") or {}
    status: Object
    match resource.kind:
        case "SelfSubjectReview":
            status = {"userInfo": user_info(call.user)}
        case "TokenReview":
            status = {}  # The ingress knows tokens, and says whose it is.
        case "SelfSubjectRulesReview":
            status = _rules(partition, call.user, spec.get("namespace") or "")
        case "SelfSubjectAccessReview":
            _check(resource, _either(spec))
            status = {"allowed": _is_allowed(partition, call, call.user, spec, own=True)}
        case _:
            _check(resource, [*_either(spec), *_subject(spec), *_local(call, resource, spec)])
            user = User(
                spec.get("user") or "", call.tenant, tuple(spec.get("groups") or ()),
                spec.get("uid") or "",
            )  # fmt: skip
            status = {"allowed": _is_allowed(partition, call, user, spec, own=False)}
    return reply_with(201, {**obj, "status": status}, warnings)


def _is_allowed(partition: Partition, call: Call, user: User, spec: Object, *, own: bool) -> bool:
    rights, path = partition.rights, spec.get("nonResourceAttributes")
    if path is not None:
        verb, at = path.get("verb") or "", path.get("path") or ""
        # What others do with paths is their tenant's own affair; ours are not all for tenants.
        if own and user.tenant != SYSTEM_TENANT and authz.is_of_cluster(at):
            return False
        return authz.may(rights, user, verb, "", "", "", "", "", at)
    asked: dict[str, Any] = spec["resourceAttributes"]
    group, plural = asked.get("group") or "", asked.get("resource") or ""
    known = BY_GVR.get(f"{plural}.{group}" if group else plural)
    # Inside a tenant there is nothing of the cluster, for whoever asks.
    if call.tenant != SYSTEM_TENANT and known is not None and not known.tenanted:
        return False
    about = asked.get("tenant") or call.tenant
    if user.tenant != SYSTEM_TENANT and (not user.tenant or about != user.tenant):
        return False
    return authz.may(
        rights, user, asked.get("verb") or "", group, plural, asked.get("subresource") or "",
        asked.get("namespace") or "", asked.get("name") or "", "",
    )  # fmt: skip


def _rules(partition: Partition, user: User, namespace: str) -> Object:
    if user.trusted or roles.is_super(user):
        held = roles.EVERYTHING
    else:
        held = partition.rights.of(user.tenant).raw_rules_of(user, namespace)
    rules = roles.distinct(held)
    return {
        "resourceRules": [rule for rule in rules if not rule.get("nonResourceURLs")],
        "nonResourceRules": [rule for rule in rules if rule.get("nonResourceURLs")],
        "incomplete": False,
    }


# What may be asked


def _check(resource: Resource, causes: list[Cause]) -> None:
    if causes:
        raise kinds.invalid(resource, "", causes)


def _either(spec: Object) -> list[Cause]:
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (resource is None) != (path is None):
        return []
    why = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
    if resource is None:
        return [bad("spec.resourceAttributes", None, why)]
    return [bad("spec.nonResourceAttributes", path, "cannot be specified in combination with"
                " resourceAttributes")]  # fmt: skip


def _subject(spec: Object) -> list[Cause]:
    if spec.get("user") or spec.get("groups"):
        return []
    return [bad("spec.user", "", "at least one of user or group must be specified")]


def _local(call: Call, resource: Resource, spec: Object) -> list[Cause]:
    if not resource.namespaced:
        return []
    if not call.namespace:
        raise errors.BadRequest("a local review is asked in a namespace")
    if spec.get("nonResourceAttributes") is not None:
        why = "disallowed on this kind of request"
        return [bad("spec.nonResourceAttributes", spec["nonResourceAttributes"], why)]
    namespace = (spec.get("resourceAttributes") or {}).get("namespace") or ""
    if namespace != call.namespace:
        why = "must match metadata.namespace"
        return [bad("spec.resourceAttributes.namespace", namespace, why)]
    return []
