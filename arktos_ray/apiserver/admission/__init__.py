"""What a partition asks of an object beyond its own validity: the plug-ins, in the order they run.

Each rule is a pure function in its own file; here it is given what it needs to know. MUTATING
complete an object, before it is validated; VALIDATING only refuse, and see it as it will be
stored. Webhooks come after each of the two: they are asked outside (reviews.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from arktos_ray.api import errors
from arktos_ray.api.calls import Call
from arktos_ray.api.kinds import services
from arktos_ray.api.kinds.config import TOKEN_TYPE
from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.api.scheme import ADMISSION, RBAC, RESOURCES, Resource
from arktos_ray.apiserver import escalation
from arktos_ray.apiserver.admission import (
    certificates,
    daemon_set,
    limit_ranger,
    matching,
    namespace,
    network,
    node_restriction,
    policy,
    priority,
    service_account,
    storage_class,
    token_secret,
    tolerations,
)

if TYPE_CHECKING:
    from arktos_ray.apiserver.partition import Partition

Object = dict[str, Any]

CREATE, UPDATE, DELETE = "create", "update", "delete"


class Review(NamedTuple):
    """What is asked for. A created object has no old one, a deleted one no new one."""

    partition: Partition
    call: Call
    resource: Resource
    new: Object
    old: Object


class Plugin(NamedTuple):
    name: str
    verbs: tuple[str, ...]
    gvrs: tuple[str, ...]  # () is every kind
    judge: Callable[[Review], None]  # raises a Failure
    subresources: tuple[str, ...] = ("",)


def _lifecycle(r: Review) -> None:
    call = r.call
    if r.resource.namespaced and not r.partition.stands(
        "namespaces", f"{call.tenant}//{call.namespace}"
    ):
        place = r.partition.namespace(call.tenant, call.namespace)
        namespace.check_namespace(call.tenant, call.namespace, place)


def _immortal(r: Review) -> None:
    tenant = r.partition.tenant(r.call.tenant)
    terminating = tenant is not None and bool(tenant["metadata"].get("deletionTimestamp"))
    meta = r.old["metadata"]
    namespace.check_delete(meta.get("tenant", ""), meta["name"], terminating)


def _tenant_exists(r: Review) -> None:
    name = r.call.tenant
    if r.resource.tenanted and not r.partition.stands("tenants", f"//{name}"):
        namespace.check_tenant(name, r.partition.tenant(name))


def _limit_ranges(r: Review) -> list[Object]:
    limits = r.partition.store.table("limitranges")
    if not len(limits):
        return []
    return [one.decode() for one in limits.range(f"{r.call.tenant}/{r.call.namespace}/")]


def _limit_ranger(r: Review) -> None:
    ranges = _limit_ranges(r)
    if ranges:
        limit_ranger.apply(r.new, ranges)


def _limit_resized(r: Review) -> None:
    ranges = _limit_ranges(r)
    if ranges:
        limit_ranger.check(r.new, ranges)


def _limit_claim(r: Review) -> None:
    ranges = _limit_ranges(r)
    if ranges:
        limit_ranger.check_claim(r.new, ranges)


def _default_class(r: Review) -> None:
    classes = r.partition.store.table("storageclasses.storage.k8s.io")
    if len(classes):
        storage_class.apply(r.new, (c.decode() for c in classes.range(f"{r.call.tenant}/")))


def _escalation(r: Review) -> None:
    escalation.check(r.partition.rights, r.call, r.resource, r.new, r.old or None)


def _token_secret(r: Review) -> None:
    if r.new.get("type") == TOKEN_TYPE:
        token_secret.apply(r.partition, r.new)


def _check_node(r: Review) -> None:
    node_restriction.check_node(r.call, r.new, r.old or None)


def _check_approval(r: Review) -> None:
    certificates.check_approval(r.partition.rights, r.call, r.new, r.old)


def _check_signing(r: Review) -> None:
    certificates.check_signing(r.partition.rights, r.call, r.new, r.old)


def _policy(r: Review) -> None:
    policy.check(r.new)
    policy.check_rights(r.partition.rights, r.call, r.resource, r.new, None, _custom(r))


def _policy_binding(r: Review) -> None:
    name = (r.new.get("spec") or {}).get("policyName") or ""
    path = f"{r.call.tenant}//{name}"
    record = r.partition.store.latest(policy.POLICIES, path)
    of = None if record is None else record.decode()
    policy.check_rights(r.partition.rights, r.call, r.resource, r.new, of, _custom(r))


def _custom(r: Review) -> policy.Custom:
    return partial(r.partition.customs.of_kind, r.call.tenant or SYSTEM_TENANT)


def _quota(r: Review) -> None:
    r.partition.quotas.check(r.resource, r.call.tenant, r.call.namespace, r.new)


_CLAIMS = ("persistentvolumeclaims",)
_CSRS = ("certificatesigningrequests.certificates.k8s.io",)
_WEBHOOKS = tuple(f"{kind}webhookconfigurations.{ADMISSION}" for kind in ("mutating", "validating"))
_RBAC = tuple(r.gvr for r in RESOURCES if r.group == RBAC)

# Off by default, as in spec/multitenancy.md 10: DefaultPodNetworkReadiness.
MUTATING: tuple[Plugin, ...] = (
    Plugin("TenantExists", (CREATE,), (), _tenant_exists),
    Plugin("NamespaceLifecycle", (CREATE,), (), _lifecycle),
    Plugin("DefaultTolerationSeconds", (CREATE,), ("pods",), lambda r: tolerations.apply(r.new)),
    Plugin("ServiceAccount", (CREATE,), ("pods",), lambda r: service_account.apply(r.new)),
    Plugin("Priority", (CREATE,), ("pods",), lambda r: priority.apply(r.new)),
    Plugin("LimitRanger", (CREATE,), ("pods",), _limit_ranger),
    Plugin("DefaultStorageClass", (CREATE,), _CLAIMS, _default_class),
    Plugin("ServiceIP", (CREATE, UPDATE), ("services",), lambda r: _give_cluster_ip(r)),
    Plugin("TokenSecret", (CREATE, UPDATE), ("secrets",), _token_secret),
    Plugin(
        "CertificateRequester",
        (CREATE,),
        _CSRS,
        lambda r: certificates.note_requester(r.call, r.new),
    ),
    Plugin("Escalation", (CREATE, UPDATE), _RBAC, _escalation),
)
VALIDATING: tuple[Plugin, ...] = (
    Plugin("TenantLifecycle", (DELETE,), ("tenants",),
           lambda r: namespace.check_delete_tenant(r.old["metadata"]["name"])),
    Plugin("NamespaceLifecycle", (DELETE,), ("namespaces",), _immortal),
    Plugin("LimitRanger", (UPDATE,), ("pods",), _limit_resized, ("resize",)),
    Plugin("LimitRanger", (CREATE, UPDATE), _CLAIMS, _limit_claim),
    Plugin("DeploymentNetwork", (CREATE, UPDATE), ("deployments.apps",),
           lambda r: network.check_deployment(r.new)),
    Plugin("SystemDaemonSet", (CREATE, UPDATE), ("daemonsets.apps",),
           lambda r: daemon_set.check(r.call.tenant, r.new)),
    Plugin("NodeRestriction", (CREATE, UPDATE), ("nodes",), _check_node, ("", "status")),
    Plugin("NodeRestriction", (CREATE, UPDATE), ("leases.coordination.k8s.io",),
           lambda r: node_restriction.check_lease(r.call, r.new)),
    Plugin("NodeRestriction", (UPDATE,), ("pods",),
           lambda r: node_restriction.check_status(r.call, r.new, r.old), ("status",)),
    Plugin("CertificateRequest", (CREATE,), _CSRS, lambda r: certificates.check_request(r.new)),
    Plugin("CertificateApproval", (UPDATE,), _CSRS, _check_approval, ("approval",)),
    Plugin("CertificateSigning", (UPDATE,), _CSRS, _check_signing, ("status",)),
    Plugin("MatchConditions", (CREATE, UPDATE), _WEBHOOKS, lambda r: matching.check(r.new)),
    Plugin("WebhookLimit", (CREATE, UPDATE), _WEBHOOKS,
           lambda r: r.partition.hooks.check_room(r.resource, r.call.tenant, r.new)),
    Plugin("PolicyExpressions", (CREATE, UPDATE), (policy.POLICIES,), _policy),
    Plugin("PolicyParameters", (CREATE, UPDATE), (policy.BINDINGS,), _policy_binding),
    # Last: who is refused above is charged nothing.
    Plugin("ResourceQuota", (CREATE, UPDATE), (), _quota, ("", "resize")),
)  # fmt: skip

Judges = tuple[Callable[[Review], None], ...]


def _arranged(plugins: tuple[Plugin, ...]) -> dict[tuple[str, str, str], Judges]:
    """(verb, gvr or "" for one without rules of its own, subresource) -> what judges it."""
    gvrs = {"", *(gvr for plugin in plugins for gvr in plugin.gvrs)}
    subs = {sub for plugin in plugins for sub in plugin.subresources}
    return {
        (verb, gvr, sub): tuple(
            p.judge for p in plugins
            if verb in p.verbs and sub in p.subresources and (not p.gvrs or gvr in p.gvrs)
        )
        for verb in (CREATE, UPDATE, DELETE) for gvr in gvrs for sub in subs
    }  # fmt: skip


_MUTATING, _VALIDATING = _arranged(MUTATING), _arranged(VALIDATING)
# Most writes, where nobody has a quota, need no review.
_QUOTA_ALONE: Judges = (_quota,)


def mutate(
    partition: Partition, call: Call, resource: Resource, new: Object, old: Object | None
) -> None:
    """Complete the object, on create or update. Raises a Failure."""
    verb = CREATE if old is None else UPDATE
    judges = _judges(_MUTATING, verb, resource, call)
    if judges:
        review = Review(partition, call, resource, new, old or {})
        for judge in judges:
            judge(review)


def complete(partition: Partition, call: Call, resource: Resource, obj: Object) -> None:
    """What is ours to add to an object that was found valid: the token of a pod's account. It is
    not validated, which saves 20 us a pod, and containers that webhooks added find it too.

    Raises Forbidden.
    """
    if resource.gvr != "pods" or partition.tokens.keys is None:
        return
    name = obj["spec"]["serviceAccountName"]
    account = partition.account(call.tenant, call.namespace, name)
    if account is None:
        if name != service_account.DEFAULT:
            raise errors.Forbidden(
                f'pods "{obj["metadata"].get("name", "")}" is forbidden: error looking up service'
                f' account {call.namespace}/{name}: serviceaccount "{name}" not found'
            )
        account = {}  # It comes with its namespace, a moment later.
    attempt, suffix = partition.hooks.attempt, obj["metadata"]["uid"][-5:]
    if attempt is not None:
        # The same each time: the object must stay what was agreed to.
        suffix = attempt.suffix = attempt.suffix or suffix
    service_account.mount(obj, account, suffix)


def validate(
    partition: Partition, call: Call, resource: Resource, new: Object | None, old: Object | None
) -> None:
    """Raises a Failure when the change, as it would be stored, is not allowed."""
    partition.policies.check(partition, call, resource, new, old)
    verb = CREATE if old is None else UPDATE if new is not None else DELETE
    judges = _judges(_VALIDATING, verb, resource, call)
    if judges and (judges != _QUOTA_ALONE or partition.quotas.any):
        review = Review(partition, call, resource, new or {}, old or {})
        for judge in judges:
            judge(review)


def _judges(
    table: dict[tuple[str, str, str], Judges], verb: str, resource: Resource, call: Call
) -> Judges:
    gvr, sub = resource.gvr, call.subresource
    judges = table.get((verb, gvr, sub))
    return table.get((verb, "", sub), ()) if judges is None else judges


def _give_cluster_ip(r: Review) -> None:
    """A virtual address for the kinds of service that have one. Raises Invalid.

    It is taken when the service is saved, which may never happen.
    """
    call, service = r.call, r.new
    spec = service["spec"]
    if spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None":
        return
    path = f"{call.tenant}/{call.namespace}/{service['metadata']['name']}"
    ips, address = r.partition.service_ips, spec.get("clusterIP", "")
    if address:
        if not ips.contains(address) or not ips.is_free(address, path):
            why = (
                "provided IP is already allocated"
                if ips.contains(address)
                else ("provided IP is not in the valid range")
            )
            raise errors.Invalid(
                f'Service "{service["metadata"]["name"]}" is invalid: spec.clusterIPs: '
                f'Invalid value: ["{address}"]: failed to allocate IP {address}: {why}'
            )
    else:
        allocated = ips.choose(path)
        if allocated is None:
            raise errors.Internal("failed to allocate a serviceIP: range is full")
        address = allocated
    services.assign(service, address)
