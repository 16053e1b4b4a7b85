"""/api, /apis and /version: what there is to ask for, derived from `api/scheme.py`.

Two forms: one document per group version, and the aggregated one that newer clients ask for. A user
who is not of the system does not see what belongs to the whole cluster. Our own addition is
`tenanted`, beside `namespaced`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

from arktos_ray.api.scheme import OLDER, RESOURCES, Resource, Scope

Document = dict[str, Any]

# The release whose API we follow. Clients choose their own version by the minor.
MAJOR, MINOR, PATCH = "1", "33", "1"


class Answer(NamedTuple):
    """The kind of body that a subresource speaks."""

    group: str
    version: str
    kind: str
    schema: str


# Subresources that speak another kind than their parent.
SUBRESOURCE_KINDS = {
    "scale": Answer("autoscaling", "v1", "Scale", "k8s.io.api.autoscaling.v1.Scale"),
    "eviction": Answer("policy", "v1", "Eviction", "k8s.io.api.policy.v1.Eviction"),
    "binding": Answer("", "v1", "Binding", "k8s.io.api.core.v1.Binding"),
    "token": Answer(
        "authentication.k8s.io", "v1", "TokenRequest", "k8s.io.api.authentication.v1.TokenRequest"
    ),
    # Streams: these kinds are only names, their fields are query parameters.
    "exec": Answer("", "v1", "PodExecOptions", ""),
    "attach": Answer("", "v1", "PodAttachOptions", ""),
    "portforward": Answer("", "v1", "PodPortForwardOptions", ""),
    "proxy": Answer("", "v1", "PodProxyOptions", ""),
    # A virtual machine's reboot, snapshot and restore.
    "action": Answer("", "v1", "CustomAction", ""),
}


def answer_of(resource: Resource, subresource: str) -> Answer:
    own = Answer(resource.group, resource.version, resource.kind, resource.schema)
    return SUBRESOURCE_KINDS.get(subresource, own)


def document(
    path: str, accept_aggregated: str = "", system: bool = True, custom: Sequence[Resource] = ()
) -> Document | None:
    """The document at a path, None if there is none.

    accept_aggregated: `v2`, `v2beta1` or empty; counts for /api and /apis only.
    custom: what the tenant defined, in the versions that it serves.
    """
    resources = _visible(system, custom)
    match path.strip("/").split("/"):
        case ["api"] if accept_aggregated:
            return _aggregated(accept_aggregated, [r for r in resources if not r.group])
        case ["apis"] if accept_aggregated:
            return _aggregated(accept_aggregated, [r for r in resources if r.group])
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            named: dict[str, list[Resource]] = {}
            for resource in resources:
                named.setdefault(resource.group, []).append(resource)
            groups = [_group(name, rows) for name, rows in named.items() if name]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        case ["apis", name] if name in _groups(resources):
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, resources)}
        case ["api", version]:
            return _resource_list("", version, resources)
        case ["apis", name, version] if name:
            return _resource_list(name, version, resources)
    return None


@cache
def version_document() -> Document:
    """What /version says. `gitVersion` must be semver, or kubectl and Helm fail."""
    try:
        ours = metadata.version("arktos-ray")
    except metadata.PackageNotFoundError:
        ours = "0"
    return {
        "major": MAJOR,
        "minor": MINOR,
        # Build metadata, not a pre-release: that would be older than the release itself.
        "gitVersion": f"v{MAJOR}.{MINOR}.{PATCH}+arktos-ray.{ours}",
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "cpython",
        "platform": "linux/amd64",
    }


def _visible(system: bool, custom: Sequence[Resource]) -> list[Resource]:
    return [r for r in (*RESOURCES, *OLDER, *custom) if system or r.tenanted]


def _groups(resources: list[Resource]) -> list[str]:
    return list(dict.fromkeys(r.group for r in resources))


def _versions(group: str, resources: list[Resource]) -> list[str]:
    return list(dict.fromkeys(r.version for r in resources if r.group == group))


def _group(name: str, resources: list[Resource]) -> Document:
    versions = [
        {"groupVersion": f"{name}/{version}", "version": version}
        for version in _versions(name, resources)
    ]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def _resource_list(group: str, version: str, resources: list[Resource]) -> Document | None:
    rows = []
    for resource in _in_version(group, version, resources):
        scope = {"namespaced": resource.namespaced, "tenanted": resource.tenanted}
        row: Document = {
            "name": resource.plural,
            "singularName": resource.singular,
            **scope,
            "kind": resource.kind,
            "verbs": list(resource.verbs),
        }
        if resource.short_names:
            row["shortNames"] = list(resource.short_names)
        if resource.categories:
            row["categories"] = list(resource.categories)
        rows.append(row)
        for name, verbs in sorted(resource.subresources.items()):
            answer = answer_of(resource, name)
            row = {"name": f"{resource.plural}/{name}", "singularName": "", **scope}
            if (answer.group, answer.version) != (group, version):
                row |= {"group": answer.group, "version": answer.version}
            rows.append({**row, "kind": answer.kind, "verbs": list(verbs)})
    if not rows:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": rows,
    }


def _in_version(group: str, version: str, resources: list[Resource]) -> list[Resource]:
    found = [r for r in resources if (r.group, r.version) == (group, version)]
    return sorted(found, key=lambda r: r.plural)


def _aggregated(form: str, resources: list[Resource]) -> Document:
    groups: dict[str, dict[str, list[Resource]]] = {}
    for resource in resources:
        groups.setdefault(resource.group, {}).setdefault(resource.version, []).append(resource)
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{form}",
        "metadata": {},
        "items": [
            {
                "metadata": {"name": group} if group else {},
                "versions": [
                    {
                        "version": version,
                        "resources": [
                            _aggregated_row(row) for row in sorted(rows, key=lambda r: r.plural)
                        ],
                        "freshness": "Current",
                    }
                    for version, rows in versions.items()
                ],
            }
            for group, versions in groups.items()
        ],
    }


def _aggregated_row(resource: Resource) -> Document:
    row: Document = {
        "resource": resource.plural,
        "responseKind": _kind(answer_of(resource, "")),
        # Clients know two scopes; what is in a tenant but in no namespace is Cluster to them.
        "scope": "Namespaced" if resource.scope is Scope.NAMESPACED else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        row["shortNames"] = list(resource.short_names)
    if resource.categories:
        row["categories"] = list(resource.categories)
    if resource.subresources:
        row["subresources"] = [
            {
                "subresource": name,
                "responseKind": _kind(answer_of(resource, name)),
                "verbs": list(verbs),
            }
            for name, verbs in sorted(resource.subresources.items())
        ]
    return row


def _kind(answer: Answer) -> Document:
    return {"group": answer.group, "version": answer.version, "kind": answer.kind}
