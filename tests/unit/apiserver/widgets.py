"""A definition of widgets, for tests. Not a test."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]
GVR, AS = "widgets.example.com", "example.com/v1"
DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"

SCHEMA: Object = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1},
                "color": {"type": "string", "default": "red"},
                "replicas": {"type": "integer", "default": 1},
                "parts": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
                    },
                },
            },
        },
        "status": {
            "type": "object",
            "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}},
        },
    },
}


def version(name: str = "v1", *, storage: bool = True, **more: Any) -> Object:
    return {
        "name": name, "served": True, "storage": storage,
        "schema": {"openAPIV3Schema": SCHEMA}, **more,
    }  # fmt: skip


FULL = version(
    subresources={
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    },
    additionalPrinterColumns=[
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "Color", "type": "string", "jsonPath": ".spec.color", "priority": 1},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ],
    selectableFields=[{"jsonPath": ".spec.color"}],
)  # fmt: skip


def definition(
    plural: str = "widgets", kind: str = "Widget", group: str = "example.com", *,
    scope: str = "Namespaced", versions: list[Object] | None = None, forced: bool = False,
    **names: Any,
) -> Object:  # fmt: skip
    meta: Object = {"name": f"{plural}.{group}"}
    if forced:
        meta["labels"] = {"arktos.futurewei.com/crd-sharing-policy": "forced"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": meta,
        "spec": {
            "group": group, "scope": scope, "versions": versions or [FULL],
            "names": {"plural": plural, "kind": kind, **names},
        },
    }  # fmt: skip


def widget(name: str = "w", api_version: str = AS, **spec: Any) -> Object:
    return {
        "apiVersion": api_version, "kind": "Widget", "metadata": {"name": name},
        "spec": {"size": 1, **spec},
    }  # fmt: skip
