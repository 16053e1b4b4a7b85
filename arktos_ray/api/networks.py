"""Networks of tenants: a kind that everybody has, and the first object of it. Pure.

The kind is a definition of the system tenant that all others share (spec/network.md 1,
spec/multitenancy.md 9). What the objects mean to machines is for a network provider.
"""

from __future__ import annotations

import json
from typing import Any

from arktos_ray.api.names import SYSTEM_TENANT
from arktos_ray.api.scheme import DEFINITIONS

Object = dict[str, Any]

GROUP = "arktos.futurewei.com"
NETWORKS = f"networks.{GROUP}"
FINALIZER = f"{GROUP}/network"
DEFAULT = "default"
# In a template, what is replaced with the name of the tenant.
TENANT_WORDS = ("{{.}}", "{{ . }}", "{tenant}")
FLAT: Object = {"spec": {"type": "flat"}}
MIZAR: Object = {"spec": {"type": "mizar", "vpcID": "{tenant}-default-network"}}

_TEXT = {"type": "string"}
_COLUMNS = (("Type", ".spec.type"), ("VPC", ".spec.vpcID"), ("Phase", ".status.phase"),
            ("DNS", ".status.dnsServiceIP"))  # fmt: skip


def definition() -> tuple[str, Object]:
    """(resource, body) of the kind, as an object of the system tenant."""
    service = {
        "ipam": {"type": "string", "enum": ["Arktos", "Kubernetes", "External"]},
        "cidrs": {"type": "array", "items": _TEXT},
    }
    spec = {
        "type": "object", "required": ["type"],
        "properties": {
            "type": _TEXT, "vpcID": _TEXT, "service": {"type": "object", "properties": service},
        },
    }  # fmt: skip
    phases = ["Pending", "Ready", "Failed", "Unknown", "Terminating"]
    status = {
        "type": "object",
        "properties": {
            "phase": {"type": "string", "enum": phases}, "message": _TEXT, "dnsServiceIP": _TEXT,
        },
    }  # fmt: skip
    version = {
        "name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {
            "type": "object", "required": ["spec"], "properties": {"spec": spec, "status": status},
        }},
        "additionalPrinterColumns": [
            {"name": name, "type": "string", "jsonPath": path} for name, path in _COLUMNS
        ],
    }  # fmt: skip
    body = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": NETWORKS, "tenant": SYSTEM_TENANT,
            "labels": {f"{GROUP}/crd-sharing-policy": "forced"},
        },
        "spec": {
            "group": GROUP, "scope": "Tenant", "versions": [version],
            "names": {
                "plural": "networks", "singular": "network", "kind": "Network",
                "listKind": "NetworkList", "shortNames": ["ne", "net"],
            },
        },
    }  # fmt: skip
    return DEFINITIONS, body


def read_template(text: str) -> Object:
    """`flat`, `mizar`, or a Network as JSON in which words stand for the tenant. ValueError."""
    named = {"flat": FLAT, "mizar": MIZAR}.get(text.strip())
    if named is not None:
        return {**named, "metadata": {"name": DEFAULT, "finalizers": [FINALIZER]}}
    found = json.loads(text)
    if not isinstance(found, dict) or not isinstance(found.get("spec"), dict):
        raise ValueError("a template of a Network is an object with a spec")
    if not isinstance(found.get("metadata", {}), dict):
        raise ValueError("metadata of a Network is an object")
    return found


def of_tenant(template: Object, tenant: str) -> tuple[str, Object]:
    """(resource, body) of the network that a new tenant begins with."""
    text = json.dumps(template)
    for word in TENANT_WORDS:
        text = text.replace(word, tenant)  # A checked name: it needs no quoting.
    body: Object = json.loads(text)
    meta = {"name": DEFAULT, **(body.get("metadata") or {}), "tenant": tenant}
    return NETWORKS, {**body, "apiVersion": f"{GROUP}/v1", "kind": "Network", "metadata": meta}
