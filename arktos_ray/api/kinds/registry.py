"""Which rules belong to which kind. A kind without a row gets the generic ones."""

from __future__ import annotations

from arktos_ray.api import scheme
from arktos_ray.api.kinds.certificates import CertificateSigningRequestRules
from arktos_ray.api.kinds.config import ConfigMapRules, SecretRules
from arktos_ray.api.kinds.definitions import DefinitionRules
from arktos_ray.api.kinds.generic import Rules
from arktos_ray.api.kinds.limits import LimitRangeRules, ResourceQuotaRules
from arktos_ray.api.kinds.nodes import NodeRules
from arktos_ray.api.kinds.pods import PodRules, PodTemplateRules
from arktos_ray.api.kinds.policies import BindingRules, PolicyRules
from arktos_ray.api.kinds.rbac import (
    ClusterRoleBindingRules,
    ClusterRoleRules,
    RoleBindingRules,
    RoleRules,
)  # fmt: skip
from arktos_ray.api.kinds.records import EventRules, LeaseRules
from arktos_ray.api.kinds.services import EndpointSliceRules, EndpointsRules, ServiceRules
from arktos_ray.api.kinds.spaces import NamespaceRules, StorageClusterRules, TenantRules
from arktos_ray.api.kinds.webhooks import MutatingWebhookRules, WebhookRules
from arktos_ray.api.kinds.workloads import (
    ControllerRevisionRules,
    DeploymentRules,
    ReplicaSetRules,
)  # fmt: skip

_CLASSES: dict[str, type[Rules]] = {
    "tenants": TenantRules,
    "storageclusters": StorageClusterRules,
    "namespaces": NamespaceRules,
    "nodes": NodeRules,
    "certificatesigningrequests.certificates.k8s.io": CertificateSigningRequestRules,
    "pods": PodRules,
    "services": ServiceRules,
    "endpoints": EndpointsRules,
    "configmaps": ConfigMapRules,
    "secrets": SecretRules,
    "events": EventRules,
    "podtemplates": PodTemplateRules,
    "resourcequotas": ResourceQuotaRules,
    "limitranges": LimitRangeRules,
    "deployments.apps": DeploymentRules,
    "replicasets.apps": ReplicaSetRules,
    "controllerrevisions.apps": ControllerRevisionRules,
    "leases.coordination.k8s.io": LeaseRules,
    scheme.DEFINITIONS: DefinitionRules,
    "endpointslices.discovery.k8s.io": EndpointSliceRules,
    f"mutatingwebhookconfigurations.{scheme.ADMISSION}": MutatingWebhookRules,
    f"validatingwebhookconfigurations.{scheme.ADMISSION}": WebhookRules,
    f"validatingadmissionpolicies.{scheme.ADMISSION}": PolicyRules,
    f"validatingadmissionpolicybindings.{scheme.ADMISSION}": BindingRules,
    f"roles.{scheme.RBAC}": RoleRules,
    f"rolebindings.{scheme.RBAC}": RoleBindingRules,
    f"clusterroles.{scheme.RBAC}": ClusterRoleRules,
    f"clusterrolebindings.{scheme.RBAC}": ClusterRoleBindingRules,
}

_RULES: dict[str, Rules] = {
    resource.gvr: _CLASSES.get(resource.gvr, Rules)(resource) for resource in scheme.RESOURCES
}


def rules_of(resource: scheme.Resource) -> Rules:
    if resource.custom is None:
        return _RULES[resource.gvr]
    # Of objects whose definition is gone nobody knows more.
    return getattr(resource.custom, "rules", None) or Rules(resource)


def rules(gvr: str) -> Rules:
    """The rules of `pods`, `deployments.apps`, ...; KeyError is a bug in the caller."""
    return _RULES[gvr]
