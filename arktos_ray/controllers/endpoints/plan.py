"""The Endpoints and EndpointSlices that a Service should have. Pure.

Endpoints are computed anew and compared; slices are kept as they are wherever possible, so that
one pod's change is one slice's change for those who watch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from arktos_ray.controllers.owners import reference
from arktos_ray.controllers.pods import is_finished, is_ready, is_terminating

Object = dict[str, Any]

SLICE_MANAGER = "endpointslice-controller.k8s.io"
SERVICE_LABEL, MANAGER_LABEL = (
    "kubernetes.io/service-name",
    "endpointslice.kubernetes.io/managed-by",
)
HEADLESS_LABEL = "service.kubernetes.io/headless"
ENDPOINTS_MANAGER_LABEL = "endpoints.kubernetes.io/managed-by"
SLICE_MAX = 100
# More do not fit into one Endpoints object that everyone copies on each change.
ENDPOINTS_MAX = 1000
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"


@dataclass(frozen=True, slots=True)
class Put:
    """Create (without a resourceVersion) or replace."""

    body: Object
    why: str


@dataclass(frozen=True, slots=True)
class Remove:
    obj: Object
    why: str


Action = Put | Remove


def has_selector(service: Object) -> bool:
    """Others keep their endpoints by hand, or are names elsewhere."""
    spec = service.get("spec") or {}
    return bool(spec.get("selector") and spec.get("type") != "ExternalName")


# ---------------------------------------------------------------------------- what there is


@dataclass(frozen=True, slots=True)
class _Member:
    pod: Object
    ip: str
    ports: tuple[tuple[str, int, str, str], ...]  # name, number, protocol, appProtocol
    ready: bool
    serving: bool
    terminating: bool


def _members(service: Object, pods: Iterable[Object]) -> list[_Member]:
    tolerant = bool(service["spec"].get("publishNotReadyAddresses"))
    members = []
    for pod in pods:
        if is_finished(pod):
            continue
        serving, terminating = is_ready(pod), is_terminating(pod)
        # "Ready" in the eyes of a client of a tolerant service: as soon as there is an address.
        ready = tolerant or (serving and not terminating)
        for ip in _addresses(pod):
            ports = tuple(_ports(service, pod))
            members.append(_Member(pod, ip, ports, ready, serving, terminating))
    # In a fixed order, so that the same pods give the same bytes.
    members.sort(key=lambda member: (member.ip, member.pod["metadata"]["uid"]))
    return members


def _addresses(pod: Object) -> list[str]:
    status = pod.get("status", {})
    found = [each["ip"] for each in status.get("podIPs") or () if each.get("ip")]
    return found or ([status["podIP"]] if status.get("podIP") else [])


def _ports(service: Object, pod: Object) -> Iterable[tuple[str, int, str, str]]:
    """A pod that lacks a named port has no endpoint for it."""
    for port in service["spec"].get("ports") or ():
        protocol = port.get("protocol", "TCP")
        target = port.get("targetPort") or port["port"]
        number = target if isinstance(target, int) else _named_port(pod, target, protocol)
        if number is not None:
            yield (port.get("name", ""), number, protocol, port.get("appProtocol", ""))


def _named_port(pod: Object, name: str, protocol: str) -> int | None:
    if name.isdigit():
        return int(name)
    spec = pod.get("spec", {})
    restartable = [
        each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"
    ]
    for container in [*(spec.get("containers") or ()), *restartable]:
        for port in container.get("ports") or ():
            if port.get("name") == name and port.get("protocol", "TCP") == protocol:
                number: int = port["containerPort"]
                return number
    return None


def _is_headless(service: Object) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")


def _target(member: _Member) -> Object:
    meta = member.pod["metadata"]
    return {
        "kind": "Pod",
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
        **({"tenant": meta["tenant"]} if meta.get("tenant") else {}),
    }


# ---------------------------------------------------------------------------- Endpoints


def endpoints(service: Object, pods: Iterable[Object], known: Object | None) -> Put | None:
    """The Endpoints object to write; None when the known one says it already."""
    groups: dict[tuple[Any, ...], Object] = {}
    members = [
        member for member in _members(service, pods) if ":" not in member.ip or _is_ipv6(service)
    ]
    first: dict[str, _Member] = {}
    for member in members:  # One address a pod: Endpoints are older than dual stack.
        first.setdefault(member.pod["metadata"]["uid"], member)
    shown = [member for member in members if first[member.pod["metadata"]["uid"]] is member]
    if not service["spec"].get("publishNotReadyAddresses"):
        shown = [member for member in shown if not member.terminating]
    wants_ports = bool(service["spec"].get("ports"))
    for member in shown[:ENDPOINTS_MAX]:
        if wants_ports and not member.ports:
            continue
        subset = groups.setdefault(member.ports, {})
        address: Object = {"ip": member.ip, "targetRef": _target(member)}
        spec = member.pod.get("spec", {})
        if spec.get("nodeName"):
            address["nodeName"] = spec["nodeName"]
        if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
            address["hostname"] = spec["hostname"]
        kind = "addresses" if member.ready else "notReadyAddresses"
        subset.setdefault(kind, []).append(address)
    subsets = []
    for ports in sorted(groups):
        subset = groups[ports]
        if ports:
            subset["ports"] = [_port(each) for each in ports]
        subsets.append(subset)
    meta = service["metadata"]
    labels = {**(meta.get("labels") or {}), ENDPOINTS_MANAGER_LABEL: "endpoint-controller"}
    if _is_headless(service):
        labels[HEADLESS_LABEL] = ""
    annotations = {OVER_CAPACITY: "truncated"} if len(shown) > ENDPOINTS_MAX else {}
    if (
        known is not None
        and (known.get("subsets") or []) == subsets
        and (known["metadata"].get("labels") or {}) == labels
        and (known["metadata"].get("annotations") or {}) == annotations
    ):
        return None
    body: Object = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "tenant": meta["tenant"],
            "labels": labels,
        },
        "subsets": subsets,
    }
    if annotations:
        body["metadata"]["annotations"] = annotations
    if known is not None:
        for name in ("resourceVersion", "uid"):
            body["metadata"][name] = known["metadata"][name]
    return Put(body, f"{len(shown)} pods")


def _is_ipv6(service: Object) -> bool:
    families = service["spec"].get("ipFamilies") or ["IPv4"]
    return bool(families[0] == "IPv6")


def _port(port: tuple[str, int, str, str]) -> Object:
    name, number, protocol, app = port
    body: Object = {"port": number, "protocol": protocol}
    if name:
        body["name"] = name
    if app:
        body["appProtocol"] = app
    return body


# ---------------------------------------------------------------------------- EndpointSlices


def slices(
    service: Object, pods: Iterable[Object], known: Sequence[Object], names: Iterable[str]
) -> list[Action]:
    """names: unused names for new slices."""
    fresh = iter(names)
    families = service["spec"].get("ipFamilies") or ["IPv4"]
    wanted: dict[tuple[str, tuple[Any, ...]], dict[str, Object]] = {}
    for member in _members(service, pods):
        family = "IPv6" if ":" in member.ip else "IPv4"
        if family in families:
            group = wanted.setdefault((family, member.ports), {})
            group[f"{member.ip} {member.pod['metadata']['uid']}"] = _endpoint(service, member)
    for family in families:
        if not any(each == family for each, _ in wanted):
            # An empty one says that there are none, which is not the same as not knowing.
            wanted[(family, ())] = {}

    present: dict[tuple[str, tuple[Any, ...]], list[Object]] = {}
    for each in known:
        present.setdefault((each["addressType"], _slice_ports(each)), []).append(each)

    actions: list[Action] = []
    for group_key, group in wanted.items():
        actions += _fill(service, group_key, group, present.pop(group_key, []), fresh)
    for others in present.values():
        actions += [Remove(each, "nobody has these ports any more") for each in others]
    return actions


def _fill(
    service: Object, group: tuple[str, tuple[Any, ...]], wanted: dict[str, Object],
    known: list[Object], names: Iterable[str],
) -> list[Action]:  # fmt: skip
    left = dict(wanted)
    kept: list[tuple[Object, list[Object]]] = []
    for each in known:
        stay = []
        for endpoint in each.get("endpoints") or ():
            found = left.pop(_identity(endpoint), None)
            if found is not None:
                stay.append(found)
        kept.append((each, stay))
    # Fullest first: few slices, and the ones that change anyway take the newcomers.
    kept.sort(key=lambda pair: (-len(pair[1]), pair[0]["metadata"]["name"]))
    newcomers = list(left.values())
    actions: list[Action] = []
    survivors = 0
    for number, (each, stay) in enumerate(kept):
        room = SLICE_MAX - len(stay)
        if room > 0 and newcomers:
            stay = stay + newcomers[:room]
            del newcomers[:room]
        is_last = number == len(kept) - 1
        if not stay and (survivors or newcomers or not is_last):
            actions.append(Remove(each, "it is empty"))
            continue
        survivors += 1
        body = _slice(service, group, stay, each)
        if _says_more(body, each):
            actions.append(Put(body, f"{len(stay)} endpoints"))
    names = iter(names)
    while newcomers or not survivors:
        batch, newcomers = newcomers[:SLICE_MAX], newcomers[SLICE_MAX:]
        body = _slice(service, group, batch, None)
        body["metadata"]["name"] = next(names)
        actions.append(Put(body, f"{len(batch)} endpoints more"))
        survivors += 1
    return actions


def _identity(endpoint: Object) -> str:
    addresses = endpoint.get("addresses") or [""]
    return f"{addresses[0]} {(endpoint.get('targetRef') or {}).get('uid', '')}"


def _endpoint(service: Object, member: _Member) -> Object:
    spec = member.pod.get("spec", {})
    body: Object = {
        "addresses": [member.ip],
        "conditions": {
            "ready": member.ready,
            "serving": member.serving,
            "terminating": member.terminating,
        },
        "targetRef": _target(member),
    }
    if spec.get("nodeName"):
        body["nodeName"] = spec["nodeName"]
    if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
        body["hostname"] = spec["hostname"]
    return body


def _slice(
    service: Object, group: tuple[str, tuple[Any, ...]], members: list[Object],
    known: Object | None,
) -> Object:  # fmt: skip
    meta = service["metadata"]
    family, ports = group
    labels = {
        **(meta.get("labels") or {}),
        SERVICE_LABEL: meta["name"],
        MANAGER_LABEL: SLICE_MANAGER,
    }
    if _is_headless(service):
        labels[HEADLESS_LABEL] = ""
    body: Object = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": f"{meta['name']}-",
            "namespace": meta["namespace"],
            "tenant": meta["tenant"],
            "labels": labels,
            "ownerReferences": [reference(service, "v1", "Service")],
        },
        "addressType": family,
        "endpoints": members,
        "ports": [{"name": "", **_port(each)} for each in ports],
    }
    if known is not None:
        for name in ("name", "uid", "resourceVersion"):
            body["metadata"][name] = known["metadata"][name]
    return body


def _slice_ports(obj: Object) -> tuple[tuple[str, int, str, str], ...]:
    return tuple(
        (
            each.get("name") or "",
            each.get("port") or 0,
            each.get("protocol") or "TCP",
            each.get("appProtocol") or "",
        )
        for each in obj.get("ports") or ()
    )


def _says_more(body: Object, known: Object) -> bool:
    def text(obj: Object) -> bytes:
        meta = obj["metadata"]
        parts = [obj.get("endpoints") or [], meta.get("labels"), meta.get("ownerReferences")]
        return orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)

    return text(body) != text(known)
