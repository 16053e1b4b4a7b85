"""What `kubectl get` prints: the columns of each kind, and an object as a row of cells.

The server answers `as=Table` with these; a client prints priority 0 always and the rest with
`-o wide`. Columns follow current Kubernetes, with the tenancy columns of Arktos behind them as wide
ones. Pure: the caller says what time it is.

A 2 KB pod costs 14 us: cells 4, encoding 2, and the rest is decoding it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import orjson

from arktos_ray.api import forms, scheme

Object = dict[str, Any]
Cells = list[Any]

NONE, UNKNOWN, UNSET = "<none>", "<unknown>", "<unset>"
_SHOWN_MAX = 3  # addresses and ports before `+ 2 more...`


def columns(resource: scheme.Resource) -> list[dict[str, Any]]:
    """columnDefinitions, in the order of `row`."""
    own = getattr(resource.custom, "columns", None)
    if own is not None:
        found: list[dict[str, Any]] = own.definitions
        return found
    return _COLUMNS.get(resource.gvr, _GENERIC_COLUMNS)


def row(resource: scheme.Resource, obj: Object, now: float) -> Cells:
    """The cells of one object; `now` in seconds since 1970."""
    return _row_of(resource)(obj, now)


def _row_of(resource: scheme.Resource) -> Callable[[Object, float], Cells]:
    own = getattr(resource.custom, "columns", None)
    if own is not None:
        found: Callable[[Object, float], Cells] = own.row
        return found
    return _ROWS.get(resource.gvr, _generic)


def table(
    resource: scheme.Resource,
    items: Iterable[bytes],
    meta: dict[str, Any],
    now: float,
    include_object: str = "Metadata",
    version: str = "v1",
    with_columns: bool = True,
) -> bytes:
    """A whole Table. `items`: stored JSON; `meta`: the metadata of the list.

    include_object: Metadata (what clients get who do not ask), Object or None.
    with_columns: False for every event of a watch but the first.
    """
    shown = rows(resource, items, now, include_object, version)
    return head(resource, meta, version, with_columns) + b",".join(shown) + b"]}"


def head(
    resource: scheme.Resource, meta: dict[str, Any], version: str = "v1", with_columns: bool = True
) -> bytes:
    """A Table up to its first row; after the last one comes `]}`."""
    empty = orjson.dumps(
        {
            "kind": "Table",
            "apiVersion": f"meta.k8s.io/{version}",
            "metadata": meta,
            "columnDefinitions": columns(resource) if with_columns else [],
            "rows": [],
        }
    )
    return empty.removesuffix(b"]}")


def rows(
    resource: scheme.Resource, items: Iterable[bytes], now: float, include_object: str, version: str
) -> list[bytes]:
    cells = _row_of(resource)
    api_version = f"meta.k8s.io/{version}"
    is_pod = resource.gvr == "pods"
    rendered = []
    for stored in items:
        obj = orjson.loads(stored)
        one: dict[str, Any] = {"cells": cells(obj, now)}
        if is_pod:
            conditions = _POD_CONDITIONS.get((obj.get("status") or {}).get("phase") or "")
            if conditions:
                one["conditions"] = conditions
        if include_object == "Object":
            one["object"] = orjson.Fragment(stored)
        elif include_object == "None":
            one["object"] = None
        else:
            one["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": api_version,
                "metadata": obj.get("metadata") or {},
            }
        rendered.append(orjson.dumps(one))
    return rendered


# --- times ----------------------------------------------------------------------------------------


def human_duration(seconds: float) -> str:
    """`5s`, `3m20s`, `2d4h`: coarser as it gets longer, and never more than two units."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 0:
        return "0s"
    if whole < 120:
        return f"{whole}s"
    minutes = whole // 60
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 2 * 365:
        return f"{days}d"
    years = days // 365
    if years < 8:
        return _two(years, "y", days % 365, "d")
    return f"{years}y"


def _two(large: int, unit: str, small: int, subunit: str) -> str:
    return f"{large}{unit}{small}{subunit}" if small else f"{large}{unit}"


def since(timestamp: str | None, now: float) -> str:
    if not timestamp:
        return UNKNOWN
    try:
        return human_duration(now - datetime.fromisoformat(timestamp).timestamp())
    except ValueError:
        return UNKNOWN


def _age(obj: Object, now: float) -> str:
    return since(obj["metadata"].get("creationTimestamp"), now)


# --- text -----------------------------------------------------------------------------------------


def _labels(labels: dict[str, str] | None) -> str:
    if not labels:
        return NONE
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _selector(selector: Object | None) -> str:
    """A label selector as a user would type it."""
    if not selector:
        return NONE
    parts = [(key, f"{key}={value}") for key, value in (selector.get("matchLabels") or {}).items()]
    for one in selector.get("matchExpressions") or ():
        key, operator = one.get("key", ""), one.get("operator")
        values = ",".join(sorted(one.get("values") or ()))
        text = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": key,
            "DoesNotExist": f"!{key}",
        }.get(operator or "", key)
        parts.append((key, text))
    return ",".join(text for _, text in sorted(parts)) or NONE


def _containers(spec: Object | None) -> tuple[str, str]:
    """(names, images), a VM being one of them."""
    workloads = list((spec or {}).get("containers") or ())
    vm = (spec or {}).get("virtualMachine")
    if vm is not None:
        workloads.append(vm)
    return (
        ",".join(one.get("name") or "" for one in workloads),
        ",".join(one.get("image") or "" for one in workloads),
    )


def _some(shown: list[str], count: int) -> str:
    text = ",".join(shown)
    return f"{text} + {count - _SHOWN_MAX} more..." if count > _SHOWN_MAX else text


def _template_spec(obj: Object) -> Object:
    spec: Object = ((obj.get("spec") or {}).get("template") or {}).get("spec") or {}
    return spec


# --- pods -----------------------------------------------------------------------------------------

_COMPLETED = {"type": "Completed", "status": "True"}
_POD_CONDITIONS = {
    "Succeeded": [
        {**_COMPLETED, "reason": "Succeeded", "message": "The pod has completed successfully."}
    ],
    "Failed": [{**_COMPLETED, "reason": "Failed", "message": "The pod failed."}],
}


def _pod(obj: Object, now: float) -> Cells:
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    phase = status.get("phase") or ""
    reason = status.get("reason") or phase
    conditions = status.get("conditions") or ()
    initialized = False
    for condition in conditions:
        kind = condition.get("type")
        if kind == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            reason = "SchedulingGated"
        elif kind == "Initialized":
            initialized = condition.get("status") == "True"

    total, ready, restarts, last = len(spec.get("containers") or ()), 0, 0, ""
    initializing = False
    init = spec.get("initContainers")
    if init:
        always = {one.get("name") for one in init if one.get("restartPolicy") == "Always"}
        total += len(always)
        initializing, reason_init, ready, restarts, last, kept = _init(status, len(init), always)
        if reason_init:
            reason = reason_init
        if not initializing or initialized:
            restarts, last = kept

    if not initializing or initialized:
        running = False
        for one in reversed(status.get("containerStatuses") or ()):
            restarts += one.get("restartCount") or 0
            ended = (one.get("lastState") or {}).get("terminated")
            if ended:
                last = max(last, ended.get("finishedAt") or "")
            state = one.get("state") or {}
            waiting, terminated = state.get("waiting"), state.get("terminated")
            if waiting is not None and waiting.get("reason"):
                reason = waiting["reason"]
            elif terminated is not None:
                reason = terminated.get("reason") or _exit(terminated)
            elif one.get("ready") and state.get("running") is not None:
                running = True
                ready += 1
        if reason == "Completed" and running:
            reason = "Running" if _is_ready(conditions) else "NotReady"
        if spec.get("virtualMachine") is not None:
            total += 1
            vm = status.get("virtualMachineStatus") or {}
            restarts += vm.get("restartCount") or 0
            ready += 1 if vm.get("ready") else 0

    if meta.get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            reason = "Unknown"
        elif phase not in ("Succeeded", "Failed"):
            reason = "Terminating"
    restarted = f"{restarts} ({since(last, now)} ago)" if restarts and last else str(restarts)

    addresses = status.get("podIPs")
    address = addresses[0].get("ip") if addresses else status.get("podIP")
    gates = spec.get("readinessGates")
    return [
        meta.get("name", ""),
        f"{ready}/{total}",
        reason,
        restarted,
        since(meta.get("creationTimestamp"), now),
        address or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _gates(gates, conditions) if gates else NONE,
        meta.get("hashKey", 0),
    ]


def _init(
    status: Object, count: int, always: set[Any]
) -> tuple[bool, str, int, int, str, tuple[int, str]]:
    """(still initializing, reason, ready, restarts, last restart, (both, of those that stay))."""
    ready = restarts = kept_restarts = 0
    last = kept_last = ""
    for i, one in enumerate(status.get("initContainerStatuses") or ()):
        again = one.get("restartCount") or 0
        restarts += again
        ended = ((one.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or ""
        last = max(last, ended)
        stays = one.get("name") in always
        if stays:
            kept_restarts += again
            kept_last = max(kept_last, ended)
        state = one.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting")
        if terminated is not None and not terminated.get("exitCode"):
            continue
        if stays and one.get("started"):
            ready += 1 if one.get("ready") else 0
            continue
        if terminated is not None:
            reason = f"Init:{terminated.get('reason') or _exit(terminated)}"
        elif waiting is not None and waiting.get("reason") not in (None, "", "PodInitializing"):
            reason = f"Init:{waiting['reason']}"
        else:
            reason = f"Init:{i}/{count}"
        return True, reason, ready, restarts, last, (kept_restarts, kept_last)
    return False, "", ready, restarts, last, (kept_restarts, kept_last)


def _exit(terminated: Object) -> str:
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode') or 0}"


def _is_ready(conditions: Iterable[Object]) -> bool:
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _gates(gates: list[Object], conditions: Iterable[Object]) -> str:
    true = {c.get("type") for c in conditions if c.get("status") == "True"}
    met = sum(1 for gate in gates if gate.get("conditionType") in true)
    return f"{met}/{len(gates)}"


# --- workloads ------------------------------------------------------------------------------------


def _deployment(obj: Object, now: float) -> Cells:
    spec, status, meta = obj.get("spec") or {}, obj.get("status") or {}, obj["metadata"]
    names, images = _containers(_template_spec(obj))
    return [
        meta.get("name", ""),
        f"{status.get('readyReplicas') or 0}/{spec.get('replicas') or 0}",
        status.get("updatedReplicas") or 0,
        status.get("availableReplicas") or 0,
        _age(obj, now),
        names,
        images,
        _selector(spec.get("selector")),
        meta.get("hashKey", 0),
    ]


def _replica_set(obj: Object, now: float) -> Cells:
    spec, status, meta = obj.get("spec") or {}, obj.get("status") or {}, obj["metadata"]
    names, images = _containers(_template_spec(obj))
    return [
        meta.get("name", ""),
        spec.get("replicas") or 0,
        status.get("replicas") or 0,
        status.get("readyReplicas") or 0,
        _age(obj, now),
        names,
        images,
        _selector(spec.get("selector")),
        meta.get("hashKey", 0),
    ]


def _signing_request(obj: Object, now: float) -> Cells:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    said = [str(each.get("type")) for each in status.get("conditions") or ()]
    states: list[str] = [each for each in ("Approved", "Denied", "Failed") if each in said]
    if status.get("certificate"):
        states.append("Issued")
    seconds = spec.get("expirationSeconds")
    return [
        obj["metadata"].get("name", ""), _age(obj, now), spec.get("signerName") or NONE,
        spec.get("username") or "", NONE if seconds is None else human_duration(seconds),
        ",".join(states) or "Pending",
    ]  # fmt: skip


def _controller_revision(obj: Object, now: float) -> Cells:
    meta = obj["metadata"]
    owner = NONE
    for one in meta.get("ownerReferences") or ():
        if one.get("controller"):
            group = one.get("apiVersion", "").rpartition("/")[0]
            kind = one.get("kind", "").lower()
            owner = f"{kind}.{group}/{one.get('name')}" if group else f"{kind}/{one.get('name')}"
            break
    return [meta.get("name", ""), owner, obj.get("revision") or 0, _age(obj, now)]


def _pod_template(obj: Object, now: float) -> Cells:
    template = obj.get("template") or {}
    names, images = _containers(template.get("spec"))
    labels = (template.get("metadata") or {}).get("labels")
    return [obj["metadata"].get("name", ""), names, images, _labels(labels)]


# --- services -------------------------------------------------------------------------------------


def _service(obj: Object, now: float) -> Cells:
    spec = obj.get("spec") or {}
    addresses = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    return [
        obj["metadata"].get("name", ""),
        spec.get("type") or "",
        addresses[0] if addresses else NONE,
        _external(spec, obj.get("status") or {}),
        _service_ports(spec.get("ports")),
        _age(obj, now),
        _labels(spec.get("selector")),
    ]


def _external(spec: Object, status: Object) -> str:
    kind, given = spec.get("type"), spec.get("externalIPs") or []
    if kind == "ExternalName":
        return spec.get("externalName") or NONE
    if kind == "LoadBalancer":
        ingress = (status.get("loadBalancer") or {}).get("ingress") or ()
        found = sorted({one.get("ip") or one.get("hostname") or "" for one in ingress} - {""})
        return ",".join([*found, *given]) or "<pending>"
    return ",".join(given) or NONE


def _service_ports(ports: list[Object] | None) -> str:
    shown = []
    for port in ports or ():
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        shown.append(f"{port.get('port')}{node}/{port.get('protocol') or 'TCP'}")
    return ",".join(shown) or NONE


def _endpoints(obj: Object, now: float) -> Cells:
    shown: list[str] = []
    count = 0
    for subset in obj.get("subsets") or ():
        ports = subset.get("ports") or [None]
        for port in ports:
            for address in subset.get("addresses") or ():
                count += 1
                if len(shown) < _SHOWN_MAX:
                    ip = address.get("ip", "")
                    if port is not None:
                        number = port.get("port") or 0
                        ip = f"[{ip}]:{number}" if ":" in ip else f"{ip}:{number}"
                    shown.append(ip)
    text = _some(shown, count) if obj.get("subsets") else NONE
    return [obj["metadata"].get("name", ""), text, _age(obj, now)]


def _endpoint_slice(obj: Object, now: float) -> Cells:
    ports = [
        str(port["port"]) if port.get("port") is not None else port.get("name") or "*"
        for port in obj.get("ports") or ()
    ]
    addresses = [a for one in obj.get("endpoints") or () for a in one.get("addresses") or ()]
    return [
        obj["metadata"].get("name", ""),
        obj.get("addressType") or "",
        _some(ports[:_SHOWN_MAX], len(ports)) or UNSET,
        _some(addresses[:_SHOWN_MAX], len(addresses)) or UNSET,
        _age(obj, now),
    ]


# --- places ---------------------------------------------------------------------------------------


def _tenant(obj: Object, now: float) -> Cells:
    cluster = (obj.get("spec") or {}).get("storageClusterId") or ""
    phase = (obj.get("status") or {}).get("phase") or ""
    return [obj["metadata"].get("name", ""), cluster, phase, _age(obj, now)]


def _storage_cluster(obj: Object, now: float) -> Cells:
    id_, address = obj.get("storageClusterId") or "", obj.get("serviceAddress") or ""
    return [obj["metadata"].get("name", ""), id_, address, _age(obj, now)]


def _namespace(obj: Object, now: float) -> Cells:
    meta, phase = obj["metadata"], (obj.get("status") or {}).get("phase") or ""
    return [meta.get("name", ""), phase, _age(obj, now), meta.get("tenant") or ""]


_ROLE, _OLD_ROLE = "node-role.kubernetes.io/", "kubernetes.io/role"


def _node(obj: Object, now: float) -> Cells:
    meta, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    state = "Unknown"
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Ready":
            state = "Ready" if condition.get("status") == "True" else "NotReady"
    if spec.get("unschedulable"):
        state += ",SchedulingDisabled"
    roles = set()
    for key, value in (meta.get("labels") or {}).items():
        if key.startswith(_ROLE) and len(key) > len(_ROLE):
            roles.add(key[len(_ROLE) :])
        elif key == _OLD_ROLE and value:
            roles.add(value)
    found: dict[Any, Any] = {}
    for address in reversed(status.get("addresses") or ()):
        found[address.get("type")] = address.get("address")
    info = status.get("nodeInfo") or {}
    return [
        meta.get("name", ""),
        state,
        ",".join(sorted(roles)) or NONE,
        _age(obj, now),
        info.get("kubeletVersion") or "",
        found.get("InternalIP") or NONE,
        found.get("ExternalIP") or NONE,
        info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    ]


# --- the rest -------------------------------------------------------------------------------------


def _config_map(obj: Object, now: float) -> Cells:
    count = len(obj.get("data") or ()) + len(obj.get("binaryData") or ())
    return [obj["metadata"].get("name", ""), count, _age(obj, now)]


def _secret(obj: Object, now: float) -> Cells:
    name, kind = obj["metadata"].get("name", ""), obj.get("type") or ""
    return [name, kind, len(obj.get("data") or ()), _age(obj, now)]


def _named(obj: Object, now: float) -> Cells:
    return [obj["metadata"].get("name", ""), _age(obj, now)]


def _lease(obj: Object, now: float) -> Cells:
    holder = (obj.get("spec") or {}).get("holderIdentity") or ""
    return [obj["metadata"].get("name", ""), holder, _age(obj, now)]


def _quota(obj: Object, now: float) -> Cells:
    status = obj.get("status") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    requests: list[str] = []
    limits: list[str] = []
    for name in sorted(hard):
        text = f"{name}: {used.get(name, '0')}/{hard[name]}"
        (limits if name.startswith("limits") else requests).append(text)
    name = obj["metadata"].get("name", "")
    return [name, ", ".join(requests), ", ".join(limits), _age(obj, now)]


def _webhooks(obj: Object, now: float) -> Cells:
    return [obj["metadata"].get("name", ""), len(obj.get("webhooks") or ()), _age(obj, now)]


def _policy(obj: Object, now: float) -> Cells:
    spec = obj.get("spec") or {}
    kind = spec.get("paramKind")
    shown = f"{kind.get('apiVersion')}/{kind.get('kind')}" if kind else "<unset>"
    count = len(spec.get("validations") or ())
    return [obj["metadata"].get("name", ""), count, shown, _age(obj, now)]


def _policy_binding(obj: Object, now: float) -> Cells:
    spec, ref = obj.get("spec") or {}, (obj.get("spec") or {}).get("paramRef")
    shown = "<unset>"
    if ref and ref.get("name"):
        shown = f"{ref['namespace']}/{ref['name']}" if ref.get("namespace") else ref["name"]
    return [obj["metadata"].get("name", ""), spec.get("policyName", ""), shown, _age(obj, now)]


def _event(obj: Object, now: float) -> Cells:
    if "regarding" in obj:
        obj = forms.event_to_stored(obj)
    subject, source = obj.get("involvedObject") or {}, obj.get("source") or {}
    first = since(obj.get("firstTimestamp") or obj.get("eventTime"), now)
    last = since(obj["lastTimestamp"], now) if obj.get("lastTimestamp") else first
    count = obj.get("count") or 1
    series = obj.get("series")
    if series:
        last, count = since(series.get("lastObservedTime"), now), series.get("count") or 0
    kind, name = (subject.get("kind") or "").lower(), subject.get("name")
    component = source.get("component") or obj.get("reportingComponent")
    host = source.get("host") or obj.get("reportingInstance")
    return [
        last,
        obj.get("type") or "",
        obj.get("reason") or "",
        f"{kind}/{name}" if name else kind,
        subject.get("fieldPath") or "",
        ", ".join(one for one in (component, host) if one),
        (obj.get("message") or "").strip(),
        first,
        count,
        obj["metadata"].get("name", ""),
    ]


def _binding(obj: Object, now: float) -> Cells:
    role = obj.get("roleRef") or {}
    subjects: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for one in obj.get("subjects") or ():
        name, kind = one.get("name") or "", one.get("kind") or ""
        if kind == "ServiceAccount":
            name = f"{one.get('namespace') or ''}/{name}"
        subjects.setdefault(kind, []).append(name)
    return [
        obj["metadata"].get("name", ""),
        f"{role.get('kind') or ''}/{role.get('name') or ''}",
        _age(obj, now),
        *(", ".join(subjects[kind]) for kind in ("User", "Group", "ServiceAccount")),
    ]


def _generic(obj: Object, now: float) -> Cells:
    meta = obj["metadata"]
    return [meta.get("name", ""), meta.get("creationTimestamp") or ""]


# --- columns --------------------------------------------------------------------------------------

_ABOUT = {
    "Name": "Unique within its namespace, or its tenant, or the region.",
    "Age": "Time since the object was created.",
    "Created At": "When the object was created.",
    "HashKey": "Derived from the uid; says which controller shard the object belongs to.",
    "Tenant": "The tenant that the namespace belongs to.",
    "StorageId": "The storage cluster that keeps the tenant's objects.",
    "Ready": "How many of how many are ready.",
    "Status": "The state of the object, in a word.",
    "Restarts": "How often containers restarted, and when last.",
    "Node": "The node that it runs on.",
    "IP": "The address of the pod.",
    "Selector": "Which pods it is about.",
    "Role": "The role that is given.",
    "Users": "The users that it is given to.",
    "Groups": "The groups that it is given to.",
    "ServiceAccounts": "The service accounts that it is given to.",
}


def _define(*specs: str) -> list[dict[str, Any]]:
    """`Name`, `Desired:integer`, `+IP` (wide only)."""
    out = []
    for spec in specs:
        name, _, kind = spec.lstrip("+").partition(":")
        out.append(
            {
                "name": name,
                "type": kind or "string",
                "format": "name" if name == "Name" else "",
                "description": _ABOUT.get(name, name),
                "priority": 1 if spec.startswith("+") else 0,
            }
        )
    return out


_GENERIC_COLUMNS = _define("Name", "Created At:date")
_HOOKS = tuple(
    f"{kind}webhookconfigurations.{scheme.ADMISSION}" for kind in ("mutating", "validating")
)
_BINDING_COLUMNS = _define("Name", "Role", "Age", "+Users", "+Groups", "+ServiceAccounts")
_COLUMNS: dict[str, list[dict[str, Any]]] = {
    "tenants": _define("Name", "StorageId", "Status", "Age"),
    "storageclusters": _define("Name", "StorageId", "Address", "Age"),
    "namespaces": _define("Name", "Status", "Age", "+Tenant"),
    "nodes": _define(
        "Name", "Status", "Roles", "Age", "Version", "+Internal-IP", "+External-IP", "+OS-Image",
        "+Kernel-Version", "+Container-Runtime",
    ),
    "pods": _define(
        "Name", "Ready", "Status", "Restarts", "Age", "+IP", "+Node", "+Nominated Node",
        "+Readiness Gates", "+HashKey:integer",
    ),
    "services": _define(
        "Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"
    ),
    "endpoints": _define("Name", "Endpoints", "Age"),
    "configmaps": _define("Name", "Data", "Age"),
    "secrets": _define("Name", "Type", "Data", "Age"),
    "serviceaccounts": _define("Name", "Age"),
    "events": _define(
        "Last Seen", "Type", "Reason", "Object", "+Subobject", "+Source", "Message", "+First Seen",
        "+Count", "+Name",
    ),
    "podtemplates": _define("Name", "Containers", "Images", "Pod Labels"),
    "resourcequotas": _define("Name", "Request", "Limit", "Age"),
    "deployments.apps": _define(
        "Name", "Ready", "Up-to-date", "Available", "Age", "+Containers", "+Images", "+Selector",
        "+HashKey:integer",
    ),
    "replicasets.apps": _define(
        "Name", "Desired:integer", "Current:integer", "Ready:integer", "Age", "+Containers",
        "+Images", "+Selector", "+HashKey:integer",
    ),
    "controllerrevisions.apps": _define("Name", "Controller", "Revision", "Age"),
    "leases.coordination.k8s.io": _define("Name", "Holder", "Age"),
    "endpointslices.discovery.k8s.io": _define("Name", "AddressType", "Ports", "Endpoints", "Age"),
    scheme.DEFINITIONS: _define("Name", "Created At:date"),
    "certificatesigningrequests.certificates.k8s.io": _define(
        "Name", "Age", "SignerName", "Requestor", "RequestedDuration", "Condition"
    ),
    f"validatingadmissionpolicies.{scheme.ADMISSION}": _define(
        "Name", "Validations:integer", "ParamKind", "Age"
    ),
    f"validatingadmissionpolicybindings.{scheme.ADMISSION}": _define(
        "Name", "PolicyName", "ParamRef", "Age"
    ),
    **dict.fromkeys(_HOOKS, _define("Name", "Webhooks:integer", "Age")),
    f"rolebindings.{scheme.RBAC}": _BINDING_COLUMNS,
    f"clusterrolebindings.{scheme.RBAC}": _BINDING_COLUMNS,
}  # fmt: skip

_ROWS: dict[str, Callable[[Object, float], Cells]] = {
    "tenants": _tenant,
    "storageclusters": _storage_cluster,
    "namespaces": _namespace,
    "certificatesigningrequests.certificates.k8s.io": _signing_request,
    "nodes": _node,
    "pods": _pod,
    "services": _service,
    "endpoints": _endpoints,
    "configmaps": _config_map,
    "secrets": _secret,
    "serviceaccounts": _named,
    "events": _event,
    "podtemplates": _pod_template,
    "resourcequotas": _quota,
    "deployments.apps": _deployment,
    "replicasets.apps": _replica_set,
    "controllerrevisions.apps": _controller_revision,
    "leases.coordination.k8s.io": _lease,
    "endpointslices.discovery.k8s.io": _endpoint_slice,
    f"validatingadmissionpolicies.{scheme.ADMISSION}": _policy,
    f"validatingadmissionpolicybindings.{scheme.ADMISSION}": _policy_binding,
    **dict.fromkeys(_HOOKS, _webhooks),
    f"rolebindings.{scheme.RBAC}": _binding,
    f"clusterrolebindings.{scheme.RBAC}": _binding,
}
