"""What the agent of a node may: as much as its pods need, in any tenant, and nothing else. Pure.

A node is the user `system:node:NAME` in the group `system:nodes` of the system tenant. Where it may
read or write depends on which pods are bound to it, and that the partition knows that has them:
`ruling` says what there must be, `refers` whether a pod refers to it. As Kubernetes' node
authorizer and NodeRestriction, but for services, which agents here need not see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from arktos_ray.api.calls import User
from arktos_ray.api.names import NODE_LEASE_NAMESPACE, SYSTEM_TENANT

Object = dict[str, Any]

NODE_PREFIX = "system:node:"
NODES_GROUP = "system:nodes"
CSRS = "certificatesigningrequests.certificates.k8s.io"
LEASES = "leases.coordination.k8s.io"
_EVENTS = ("events", "events.events.k8s.io")
_REFERRED = ("secrets", "configmaps", "persistentvolumeclaims")
_READ_ALL = ("list", "watch")
_READ = ("get", *_READ_ALL)
# Labels that say what a node is for; whoever sets them decides what runs there.
_RESERVED_LABELS = ("kubernetes.io", "k8s.io")
_OWN_LABELS = frozenset((
    "kubernetes.io/hostname", "kubernetes.io/arch", "kubernetes.io/os",
    "beta.kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type", "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
))  # fmt: skip
_OWN_LABEL_SPACES = ("kubelet.kubernetes.io", "node.kubernetes.io")


class Need(NamedTuple):
    """Allowed if there is such a thing here.

    gvr "pods" and a name: that pod is bound to the node; no name: some pod in the namespace is.
    Another gvr: some pod of the node in the namespace refers to that object.
    """

    gvr: str
    name: str


def node_of(user: User) -> str:
    """The node that this user is, "" for everybody else."""
    if user.tenant != SYSTEM_TENANT or NODES_GROUP not in user.groups:
        return ""
    return user.name.removeprefix(NODE_PREFIX) if user.name.startswith(NODE_PREFIX) else ""


def ruling(
    node: str, verb: str, gvr: str, subresource: str, tenant: str, namespace: str, name: str,
    selected: Mapping[str, str],
) -> bool | Need:  # fmt: skip
    """selected: what the field selector of a list or watch requires."""
    one = name or (selected.get("metadata.name", "") if verb in _READ_ALL else "")
    if gvr == "nodes":
        # On create the name is in the body, and `check_node` looks at it.
        creates = verb == "create" and not subresource
        reads = verb in _READ and not subresource
        writes = verb in ("update", "patch") and subresource in ("", "status")
        return creates or (one == node and (reads or writes))
    if gvr == "pods":
        return _of_pod(node, verb, subresource, one if verb not in _READ_ALL else "", selected)
    if gvr in _REFERRED:
        return Need(gvr, one) if verb in _READ and one and not subresource else False
    if gvr == "serviceaccounts":
        if (verb, subresource) == ("create", "token") or (verb in _READ and not subresource):
            return Need(gvr, one) if one else False
        return False
    if gvr == LEASES:
        own = (tenant, namespace) == (SYSTEM_TENANT, NODE_LEASE_NAMESPACE)
        if not own or subresource:
            return False
        return verb == "create" or (one == node and verb in ("get", "update", "patch", "delete"))
    if gvr in _EVENTS:
        if verb not in ("create", "update", "patch") or subresource:
            return False
        return True if (tenant, namespace) == (SYSTEM_TENANT, "default") else Need("pods", "")
    if gvr == CSRS:
        own = tenant == SYSTEM_TENANT and not subresource
        return own and (verb == "create" or (verb in _READ and bool(one)))
    return False


def _of_pod(
    node: str, verb: str, subresource: str, name: str, selected: Mapping[str, str]
) -> bool | Need:
    if verb in _READ_ALL:
        return not subresource and selected.get("spec.nodeName") == node
    allowed = {
        "": ("get", "delete"), "status": ("get", "update", "patch"), "eviction": ("create",),
    }  # fmt: skip
    return Need("pods", name) if name and verb in allowed.get(subresource, ()) else False


# What a pod refers to


def refers(pod: Object, gvr: str, name: str) -> bool:
    """Whether the pod needs that secret, config map, claim or account of its namespace."""
    spec: Object = pod.get("spec") or {}
    if gvr == "serviceaccounts":
        return bool(spec.get("serviceAccountName") == name)
    if gvr == "persistentvolumeclaims":
        return name in _claims(pod["metadata"]["name"], spec)
    if gvr == "secrets":
        pulls = (each.get("name") for each in spec.get("imagePullSecrets") or ())
        return name in pulls or name in _named(spec, "secret")
    return gvr == "configmaps" and name in _named(spec, "configMap")


def _claims(pod: str, spec: Object) -> Iterator[str]:
    for volume in spec.get("volumes") or ():
        if "persistentVolumeClaim" in volume:
            yield volume["persistentVolumeClaim"].get("claimName", "")
        elif "ephemeral" in volume:
            yield f"{pod}-{volume.get('name', '')}"


def _named(spec: Object, kind: str) -> Iterator[str]:
    """kind: secret or configMap, as volumes and environments call them."""
    for volume in spec.get("volumes") or ():
        projected = (volume.get("projected") or {}).get("sources") or ()
        for source in (volume, *projected):
            found = source.get(kind)
            if found:
                yield found.get("secretName") or found.get("name") or ""
        if kind == "secret":
            for driver in volume.values():
                if isinstance(driver, dict):
                    for key in ("secretRef", "nodePublishSecretRef"):
                        yield (driver.get(key) or {}).get("name", "")
                    yield driver.get("secretName", "")
    for group in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(group) or ():
            for source in container.get("envFrom") or ():
                yield (source.get(f"{kind}Ref") or {}).get("name", "")
            for variable in container.get("env") or ():
                value = variable.get("valueFrom") or {}
                yield (value.get(f"{kind}KeyRef") or {}).get("name", "")


# What it may write


def wrong_node(node: str, new: Object, old: Object | None) -> str:
    """Why a node may not write this of itself; "" when it may."""
    meta = new["metadata"]
    if meta.get("name") != node:
        return f'node "{node}" is not allowed to modify node "{meta.get("name", "")}"'
    spec, was = new.get("spec") or {}, (old or {}).get("spec") or {}
    if old is not None and (spec.get("taints") or []) != (was.get("taints") or []):
        return f'node "{node}" is not allowed to modify taints'
    before = {} if old is None else old["metadata"]
    if (meta.get("ownerReferences") or []) != (before.get("ownerReferences") or []):
        return f'node "{node}" is not allowed to set ownerReferences'
    labels, had = meta.get("labels") or {}, before.get("labels") or {}
    changed = {key for key in {*labels, *had} if labels.get(key) != had.get(key)}
    kept = sorted(key for key in changed if not _is_own_label(key))
    if kept:
        return f"is not allowed to modify labels: {', '.join(kept)}"
    return ""


def _is_own_label(key: str) -> bool:
    space, slash, _ = key.partition("/")
    if not slash:
        return True
    if space == "node-restriction.kubernetes.io" or space.endswith(
        ".node-restriction.kubernetes.io"
    ):
        return False
    if not any(space == each or space.endswith(f".{each}") for each in _RESERVED_LABELS):
        return True
    return key in _OWN_LABELS or any(
        space == each or space.endswith(f".{each}") for each in _OWN_LABEL_SPACES
    )


def wrong_status(new: Object, old: Object) -> str:
    """Why a node may not write this status of one of its pods; "" when it may."""
    if (new["metadata"].get("labels") or {}) != (old["metadata"].get("labels") or {}):
        return "cannot update labels through pod status"
    return ""


def wrong_token(node: str, bound: Object | None, pod_node: str) -> str:
    """Why a node may not have a token that is bound so; pod_node: where that pod is."""
    if not bound or bound.get("kind") != "Pod":
        return "node requested token not bound to a pod"
    if not bound.get("uid"):
        return "node requested token with a pod binding without a uid"
    if pod_node != node:
        return "node requested token bound to a pod scheduled on a different node"
    return ""
