"""token: a TokenRequest for a service account, answered with a token.

The partition signs, because it knows what a token is to rest on: the account, and the pod or
secret that it is bound to, which must be there. Who may ask is a matter of roles as any other.
"""

from __future__ import annotations

from arktos_ray.api import codec, errors
from arktos_ray.api.calls import Call, Reply
from arktos_ray.api.discovery import answer_of
from arktos_ray.api.kinds.causes import bad
from arktos_ray.api.scheme import BY_GVR, Resource
from arktos_ray.apiserver.partition import (
    Object,
    Partition,
    conflict,
    is_dry_run,
    not_found,
    parsed,
    reply_with,
)
from arktos_ray.base.clock import rfc3339
from arktos_ray.tenancy import accounts
from arktos_ray.tenancy.accounts import Ref, Subject
from arktos_ray.tenancy.nodes import node_of, wrong_token

# (apiVersion, kind) of what a token may be bound to.
_BOUND = {("v1", "Pod"): "pods", ("v1", "Secret"): "secrets"}


def create_token(partition: Partition, call: Call, resource: Resource) -> Reply:
    """120 us, most of them the signature."""
    answer, no_warnings = answer_of(resource, "token"), tuple[str, ...]()
    if call.user.trusted:
        obj, warnings = parsed(call), no_warnings
    else:
        found = codec.decode(
            call.body, call.content_type, answer.schema,
            call.options.get("fieldValidation", "Warn"),
        )  # fmt: skip
        obj, warnings = found.obj, found.warnings
    meta: Object = obj.get("metadata") or {}
    for key, said in (("name", call.name), ("namespace", call.namespace), ("tenant", call.tenant)):
        if (meta.get(key) or said) != said:
            raise errors.BadRequest(
                f"the {key} of the provided object ({meta[key]}) does not match the {key} on the"
                f" URL ({said})"
            )
    account = partition.latest(resource, call).decode()
    spec: Object = obj.get("spec") or {}
    wrong = accounts.wrong_lifetime(spec.get("expirationSeconds"))
    if wrong:
        cause = bad("spec.expirationSeconds", spec["expirationSeconds"], wrong)
        raise errors.Invalid(
            f'TokenRequest.{answer.group} "{call.name}" is invalid: {cause.field}: {cause.message}'
        )
    audiences = list(spec.get("audiences") or partition.tokens.audiences)
    seconds = accounts.lifetime(spec.get("expirationSeconds"))
    now = partition.clock.now()
    subject = _bound(partition, call, account, spec.get("boundObjectRef"))
    claims = accounts.claims(
        subject, partition.tokens.issuer, audiences, seconds, now, partition.ids.uid()
    )
    token = "" if is_dry_run(call) else partition.tokens.sign(claims, now)
    body: Object = {
        "kind": answer.kind,
        "apiVersion": f"{answer.group}/{answer.version}",
        "metadata": {
            "name": call.name, "namespace": call.namespace, "tenant": call.tenant,
            "creationTimestamp": partition.now(),
        },
        "spec": {**spec, "audiences": audiences, "expirationSeconds": seconds},
        "status": {"token": token, "expirationTimestamp": rfc3339(int(now) + seconds)},
    }  # fmt: skip
    return reply_with(201, body, warnings)


def _bound(partition: Partition, call: Call, account: Object, bound: Object | None) -> Subject:
    """Raises NotFound, Conflict or BadRequest for what the token cannot be bound to."""
    tenant = partition.tenant(call.tenant)
    if tenant is None:
        raise not_found(BY_GVR["tenants"], call.tenant)
    subject = Subject(
        call.tenant, tenant["metadata"]["uid"], call.namespace,
        Ref(call.name, account["metadata"]["uid"]),
    )  # fmt: skip
    asking = node_of(call.user)
    if not bound:
        _check_node(asking, call, None, "")
        return subject
    kind = (bound.get("apiVersion") or "", bound.get("kind") or "")
    gvr = _BOUND.get(kind)
    if gvr is None:
        raise errors.BadRequest(
            f"cannot bind token for serviceaccount to type {kind[0]}, {kind[1]}"
        )
    resource, name = BY_GVR[gvr], bound.get("name") or ""
    record = partition.store.latest(gvr, f"{call.tenant}/{call.namespace}/{name}") if name else None
    if record is None:
        raise not_found(resource, name)
    found = record.decode()
    uid = found["metadata"]["uid"]
    if (bound.get("uid") or uid) != uid:
        raise conflict(
            resource, name,
            f"the UID in the bound object reference ({bound['uid']}) does not match the UID in"
            f" record. The object might have been deleted and then recreated",
        )  # fmt: skip
    ref = Ref(name, uid)
    _check_node(asking, call, bound, found["spec"].get("nodeName", "") if gvr == "pods" else "")
    if gvr == "secrets":
        return subject._replace(secret=ref)
    runs_as = found["spec"].get("serviceAccountName", "")
    if runs_as != call.name:
        raise errors.BadRequest(
            f'cannot bind token for serviceaccount "{call.name}" to pod running with different'
            f' serviceaccount name ("{runs_as}")'
        )
    node = found["spec"].get("nodeName")
    return subject._replace(pod=ref, node=Ref(node, "") if node else None)


def _check_node(node: str, call: Call, bound: Object | None, pod_node: str) -> None:
    """Agents get tokens for the pods that they run, and no others. Raises Forbidden."""
    wrong = wrong_token(node, bound, pod_node) if node else ""
    if wrong:
        raise errors.Forbidden(f'serviceaccounts "{call.name}" is forbidden: {wrong}')
