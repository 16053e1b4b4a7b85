"""Containers and the VM of a pod: what is filled in, and what is refused.

Shared by pods and by every kind with a pod template, through pod_spec.py. On the hot path: a field
that is absent costs one look-up. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arktos_ray.api import quantity
from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import (
    Cause,
    bad,
    duplicate,
    forbidden,
    not_found,
    required,
    too_long,
    unsupported,
)  # fmt: skip

Object = dict[str, Any]

_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_RESTART_POLICIES = ("Always", "Never", "OnFailure")
_TERMINATION_POLICIES = ("File", "FallbackToLogsOnError")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_ENV_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_ENV_FIELDS = (
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
    "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs",
    "metadata.tenant",
)  # fmt: skip
_STANDARD_RESOURCES = frozenset(("cpu", "memory", "ephemeral-storage"))
_ID_MAX = 2147483647
_BETWEEN_IDS = "must be between 0 and 2147483647, inclusive"
USER_DATA_BYTES_MAX = 65535  # what cloud-init's data sources carry
POWER_SPECS = ("Running", "Shutdown", "Paused", "Suspended")


# --- defaults -------------------------------------------------------------------------------------


def pull_policy(image: str) -> str:
    """A moving tag (`latest`, or none at all) is pulled each time, anything fixed is not."""
    reference, at, _ = image.partition("@")
    tag = reference[reference.rfind("/") + 1 :].partition(":")[2]
    if tag == "latest" or (not tag and not at and image):
        return "Always"
    return "IfNotPresent"


def default_container(container: Object) -> None:
    if not container.get("imagePullPolicy"):
        container["imagePullPolicy"] = pull_policy(container.get("image") or "")
    if not container.get("terminationMessagePath"):
        container["terminationMessagePath"] = "/dev/termination-log"
    if not container.get("terminationMessagePolicy"):
        container["terminationMessagePolicy"] = "File"
    if container.get("resources") is None:
        container["resources"] = {}
    for port in container.get("ports") or ():
        if not port.get("protocol"):
            port["protocol"] = "TCP"
    for variable in container.get("env") or ():
        source = variable.get("valueFrom")
        if source:
            reference = source.get("fieldRef")
            if reference and not reference.get("apiVersion"):
                reference["apiVersion"] = "v1"
    for key in _PROBES:
        probe = container.get(key)
        if probe is not None:
            _default_probe(probe)
    lifecycle = container.get("lifecycle")
    if lifecycle:
        for key in ("postStart", "preStop"):
            handler = lifecycle.get(key)
            if handler and handler.get("httpGet"):
                _default_http(handler["httpGet"])


def _default_probe(probe: Object) -> None:
    for key, value in (
        ("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1),
        ("failureThreshold", 3),
    ):  # fmt: skip
        if not probe.get(key):
            probe[key] = value
    http = probe.get("httpGet")
    if http is not None:
        _default_http(http)
    grpc = probe.get("grpc")
    if grpc is not None and grpc.get("service") is None:
        grpc["service"] = ""


def _default_http(http: Object) -> None:
    if not http.get("path"):
        http["path"] = "/"
    if not http.get("scheme"):
        http["scheme"] = "HTTP"


def default_requests(container: Object) -> None:
    """Who states a limit and no request asks for the limit. Pods only, never templates."""
    resources = container.get("resources")
    if resources:
        limits = resources.get("limits")
        if limits:
            requests = resources.get("requests")
            if not requests:
                resources["requests"] = dict(limits)
            else:
                for name, amount in limits.items():
                    if name not in requests:
                        requests[name] = amount


def default_vm(vm: Object) -> None:
    if not vm.get("imagePullPolicy"):
        vm["imagePullPolicy"] = "IfNotPresent"
    if not vm.get("shutdownBehavior"):
        vm["shutdownBehavior"] = "stop"
    if not vm.get("powerSpec"):
        vm["powerSpec"] = "Running"
    if vm.get("resources") is None:
        vm["resources"] = {}


# --- validation -----------------------------------------------------------------------------------


def check_container(
    container: Object, at: str, volumes: Mapping[str, Any], host_network: bool, out: list[Cause]
) -> None:
    """One container; that its name is unique is the caller's to check."""
    name = container.get("name")
    syntax.check_name(name, f"{at}.name", syntax.dns_label, out)
    image = container.get("image")
    if not image:
        out.append(required(f"{at}.image"))
    elif image[0].isspace() or image[-1].isspace():
        why = "must not have leading or trailing whitespace"
        out.append(bad(f"{at}.image", image, why))
    policy = container.get("imagePullPolicy")
    if policy not in _PULL_POLICIES:
        syntax.one_of(policy, _PULL_POLICIES, f"{at}.imagePullPolicy", out)
    policy = container.get("terminationMessagePolicy")
    if policy not in _TERMINATION_POLICIES:
        syntax.one_of(policy, _TERMINATION_POLICIES, f"{at}.terminationMessagePolicy", out)
    policy = container.get("restartPolicy")
    if policy and policy not in _RESTART_POLICIES:
        out.append(unsupported(f"{at}.restartPolicy", policy, _RESTART_POLICIES))

    ports = container.get("ports")
    if ports:
        _ports(ports, f"{at}.ports", host_network, out)
    env = container.get("env")
    if env:
        _env(env, f"{at}.env", out)
    for i, source in enumerate(container.get("envFrom") or ()):
        _env_from(source, f"{at}.envFrom[{i}]", out)
    mounts = container.get("volumeMounts")
    if mounts:
        _mounts(mounts, f"{at}.volumeMounts", volumes, out)
    for i, device in enumerate(container.get("volumeDevices") or ()):
        _device(device, f"{at}.volumeDevices[{i}]", volumes, out)
    resources = container.get("resources")
    if resources:
        check_resources(resources, f"{at}.resources", out)
    for key in _PROBES:
        probe = container.get(key)
        if probe is not None:
            _probe(probe, f"{at}.{key}", key, out)
    lifecycle = container.get("lifecycle")
    if lifecycle:
        for key in ("postStart", "preStop"):
            if lifecycle.get(key) is not None:
                _handler(lifecycle[key], f"{at}.lifecycle.{key}", out)
    security = container.get("securityContext")
    if security:
        _security(security, f"{at}.securityContext", out)


def check_vm(vm: Object, at: str, volumes: Mapping[str, Any], out: list[Cause]) -> None:
    name = vm.get("name")
    syntax.check_name(name, f"{at}.name", syntax.dns_label, out)
    if not vm.get("keyPairName") and not vm.get("publicKey"):
        why = "one of keyPairName and publicKey must be specified"
        out.append(required(f"{at}.keyPairName", why))
    user_data = vm.get("userData")
    # Base64: four characters for three bytes.
    if user_data and len(user_data) // 4 * 3 - user_data[-2:].count("=") > USER_DATA_BYTES_MAX:
        out.append(too_long(f"{at}.userData", USER_DATA_BYTES_MAX))
    syntax.one_of(vm.get("imagePullPolicy"), _PULL_POLICIES, f"{at}.imagePullPolicy", out)
    syntax.one_of(vm.get("powerSpec"), POWER_SPECS, f"{at}.powerSpec", out)
    behavior = vm.get("shutdownBehavior")
    syntax.one_of(behavior, ("stop", "terminate"), f"{at}.shutdownBehavior", out)
    if vm.get("resources"):
        check_resources(vm["resources"], f"{at}.resources", out)
    seen = set()
    for i, rule in enumerate(vm.get("resizePolicy") or ()):
        resource = rule.get("resourceName")
        syntax.one_of(resource, ("cpu", "memory"), f"{at}.resizePolicy[{i}].resourceName", out)
        allowed = ("NoRestart", "RestartContainer")
        syntax.one_of(rule.get("policy"), allowed, f"{at}.resizePolicy[{i}].policy", out)
        if resource in seen:
            out.append(duplicate(f"{at}.resizePolicy[{i}]", resource))
        seen.add(resource)
    if vm.get("volumeMounts"):
        _mounts(vm["volumeMounts"], f"{at}.volumeMounts", volumes, out)
    for i, device in enumerate(vm.get("volumeDevices") or ()):
        _device(device, f"{at}.volumeDevices[{i}]", volumes, out)


def check_resources(resources: Object, at: str, out: list[Cause], *, pod: bool = False) -> None:
    """Amounts that make sense, and requests within limits."""
    limits = resources.get("limits") or {}
    requests = resources.get("requests") or {}
    limit_milli = _amounts(limits, f"{at}.limits", pod, out) if limits else {}
    if not requests:
        return
    request_milli = _amounts(requests, f"{at}.requests", pod, out)
    for name, wanted in request_milli.items():
        limit = limit_milli.get(name)
        over = name in _STANDARD_RESOURCES
        if limit is None:
            if not over and name not in limits:
                why = "Limit must be set for non overcommitable resources"
                out.append(required(f"{at}.limits", why))
        elif wanted > limit or (wanted != limit and not over):
            must = "must be less than or equal to" if over else "must be equal to"
            why = f"{must} {name} limit of {limits[name]}"
            out.append(bad(f"{at}.requests", str(requests[name]), why))


def _amounts(amounts: Object, at: str, pod: bool, out: list[Cause]) -> dict[str, int]:
    milli: dict[str, int] = {}
    for name, amount in amounts.items():
        if name not in _STANDARD_RESOURCES:
            _resource_name(name, f"{at}[{name}]", pod, out)
        try:
            value = quantity.milli(amount)
        except ValueError as error:
            out.append(bad(f"{at}[{name}]", amount, str(error)))
            continue
        if value < 0:
            out.append(bad(f"{at}[{name}]", str(amount), syntax.NOT_NEGATIVE))
        elif value % 1000 and name not in _STANDARD_RESOURCES:
            out.append(bad(f"{at}[{name}]", str(amount), "must be an integer"))
        milli[name] = value
    return milli


def _resource_name(name: str, at: str, pod: bool, out: list[Cause]) -> None:
    wrong = syntax.qualified_name(name)
    if wrong:
        out.append(bad(at, name, wrong))
    elif "/" not in name and not name.startswith("hugepages-"):
        out.append(bad(at, name, "must be a standard resource type or fully qualified"))
        out.append(bad(at, name, "must be a standard resource for containers"))
    elif pod and not name.startswith("hugepages-"):
        out.append(unsupported(at, name, ("cpu", "hugepages-", "memory")))


def _ports(ports: list[Object], at: str, host_network: bool, out: list[Cause]) -> None:
    names = set()
    for i, port in enumerate(ports):
        name = port.get("name")
        if name:
            wrong = syntax.port_name(name)
            if wrong:
                out.append(bad(f"{at}[{i}].name", name, wrong))
            elif name in names:
                out.append(duplicate(f"{at}[{i}].name", name))
            names.add(name)
        number = port.get("containerPort")
        if not number:
            out.append(required(f"{at}[{i}].containerPort"))
        elif not 1 <= number <= 65535:
            out.append(bad(f"{at}[{i}].containerPort", number, syntax.port_number(number)))
        host = port.get("hostPort")
        if host:
            if not 1 <= host <= 65535:
                out.append(bad(f"{at}[{i}].hostPort", host, syntax.port_number(host)))
            elif host_network and host != number:
                why = "must match `containerPort` when `hostNetwork` is true"
                out.append(bad(f"{at}[{i}].hostPort", host, why))
        protocol = port.get("protocol")
        if protocol not in _PROTOCOLS:
            syntax.one_of(protocol, _PROTOCOLS, f"{at}[{i}].protocol", out)
        if port.get("hostIP"):
            syntax.ip_causes(port["hostIP"], f"{at}[{i}].hostIP", out)


def check_host_ports(containers: list[Object], at: str, seen: set[str], out: list[Cause]) -> None:
    for i, container in enumerate(containers):
        for j, port in enumerate(container.get("ports") or ()):
            if port.get("hostPort"):
                key = f"{port.get('protocol')}/{port.get('hostIP') or ''}/{port['hostPort']}"
                if key in seen:
                    out.append(duplicate(f"{at}[{i}].ports[{j}].hostPort", key))
                seen.add(key)


def _env(env: list[Object], at: str, out: list[Cause]) -> None:
    for i, variable in enumerate(env):
        name = variable.get("name")
        syntax.check_name(name, f"{at}[{i}].name", syntax.env_name, out)
        source = variable.get("valueFrom")
        if source is not None:
            _env_source(source, variable, f"{at}[{i}].valueFrom", out)


def _env_source(source: Object, variable: Object, at: str, out: list[Cause]) -> None:
    present = [key for key in _ENV_SOURCES if source.get(key) is not None]
    for key in present:
        reference = source[key]
        if key == "fieldRef":
            check_field_ref(reference, f"{at}.fieldRef", _ENV_FIELDS, out)
        elif key == "resourceFieldRef":
            if not reference.get("resource"):
                out.append(required(f"{at}.resourceFieldRef.resource"))
        elif key in ("configMapKeyRef", "secretKeyRef"):
            if not reference.get("name"):
                out.append(required(f"{at}.{key}.name"))
            if not reference.get("key"):
                out.append(required(f"{at}.{key}.key"))
            else:
                wrong = syntax.config_key(reference["key"])
                if wrong:
                    out.append(bad(f"{at}.{key}.key", reference["key"], wrong))
    if not present:
        why = (
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, "
            "`secretKeyRef` or `fileKeyRef`"
        )
        out.append(bad(at, "", why))
    elif variable.get("value"):
        out.append(bad(at, "", "may not be specified when `value` is not empty"))
    elif len(present) > 1:
        out.append(bad(at, "", "may not have more than one field specified at a time"))


def check_field_ref(reference: Object, at: str, allowed: tuple[str, ...], out: list[Cause]) -> None:
    path = reference.get("fieldPath")
    if not reference.get("apiVersion"):
        out.append(required(f"{at}.apiVersion"))
    elif not path:
        out.append(required(f"{at}.fieldPath"))
    elif path not in allowed:
        base, bracket, key = path.partition("['")
        if not (
            bracket and key.endswith("']") and base in ("metadata.labels", "metadata.annotations")
        ):
            out.append(unsupported(f"{at}.fieldPath", path, sorted(allowed)))


def _env_from(source: Object, at: str, out: list[Cause]) -> None:
    present = [key for key in ("configMapRef", "secretRef") if source.get(key) is not None]
    out += [required(f"{at}.{key}.name") for key in present if not source[key].get("name")]
    if not present:
        out.append(bad(at, "", "must specify one of: `configMapRef` or `secretRef`"))
    elif len(present) > 1:
        out.append(bad(at, "", "may not have more than one field specified at a time"))
    prefix = source.get("prefix")
    if prefix:
        wrong = syntax.env_name(prefix)
        if wrong:
            out.append(bad(f"{at}.prefix", prefix, wrong))


def _mounts(mounts: list[Object], at: str, volumes: Mapping[str, Any], out: list[Cause]) -> None:
    paths = set()
    for i, mount in enumerate(mounts):
        name, path = mount.get("name"), mount.get("mountPath")
        if not name:
            out.append(required(f"{at}[{i}].name"))
        elif name not in volumes:
            out.append(not_found(f"{at}[{i}].name", name))
        if not path:
            out.append(required(f"{at}[{i}].mountPath"))
        elif path in paths:
            out.append(bad(f"{at}[{i}].mountPath", path, "must be unique"))
        paths.add(path)
        for key in ("subPath", "subPathExpr"):
            sub = mount.get(key)
            if sub:
                check_relative(sub, f"{at}[{i}].{key}", out)
        if mount.get("subPath") and mount.get("subPathExpr"):
            why = "subPathExpr and subPath are mutually exclusive"
            out.append(bad(f"{at}[{i}].subPathExpr", mount["subPathExpr"], why))


def check_relative(path: str, at: str, out: list[Cause]) -> None:
    if path.startswith("/"):
        out.append(bad(at, path, "must be a relative path"))
    if ".." in path.split("/"):
        out.append(bad(at, path, "must not contain '..'"))


def _device(device: Object, at: str, volumes: Mapping[str, Any], out: list[Cause]) -> None:
    name = device.get("name")
    if not name:
        out.append(required(f"{at}.name"))
    elif name not in volumes:
        out.append(not_found(f"{at}.name", name))
    if not device.get("devicePath"):
        out.append(required(f"{at}.devicePath"))


def _probe(probe: Object, at: str, which: str, out: list[Cause]) -> None:
    _handler(probe, at, out)
    for key in (
        "initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold",
        "failureThreshold",
    ):  # fmt: skip
        syntax.not_negative(probe, key, at, out)
    if which != "readinessProbe" and probe.get("successThreshold", 1) != 1:
        out.append(bad(f"{at}.successThreshold", probe["successThreshold"], "must be 1"))
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None:
        if which == "readinessProbe":
            why = "must not be set for readinessProbes"
            out.append(bad(f"{at}.terminationGracePeriodSeconds", grace, why))
        elif grace <= 0:
            out.append(bad(f"{at}.terminationGracePeriodSeconds", grace, syntax.POSITIVE))


def _handler(handler: Object, at: str, out: list[Cause]) -> None:
    present = 0
    for key in _HANDLERS:
        one = handler.get(key)
        if one is None:
            continue
        if present:
            out.append(forbidden(f"{at}.{key}", "may not specify more than 1 handler type"))
            continue
        present += 1
        if key == "exec":
            if not one.get("command"):
                out.append(required(f"{at}.exec.command"))
        elif key == "grpc":
            number = one.get("port") or 0
            if syntax.port_number(number):
                out.append(bad(f"{at}.grpc.port", number, syntax.port_number(number)))
        else:
            _port_or_name(one.get("port"), f"{at}.{key}.port", out)
            if key == "httpGet":
                if not one.get("path"):
                    out.append(required(f"{at}.httpGet.path"))
                scheme = one.get("scheme")
                syntax.one_of(scheme, ("HTTP", "HTTPS"), f"{at}.httpGet.scheme", out)
    sleep = handler.get("sleep")
    if sleep is not None and not present:
        present = 1
    if not present:
        out.append(required(at, "must specify a handler type"))


def _port_or_name(port: Any, at: str, out: list[Cause]) -> None:
    if isinstance(port, str):
        wrong = syntax.port_name(port)
    else:
        port = port or 0
        wrong = syntax.port_number(port)
    if wrong:
        out.append(bad(at, port, wrong))


def _security(security: Object, at: str, out: list[Cause]) -> None:
    for key in ("runAsUser", "runAsGroup"):
        value = security.get(key)
        if value is not None and not 0 <= value <= _ID_MAX:
            out.append(bad(f"{at}.{key}", value, _BETWEEN_IDS))
    if security.get("allowPrivilegeEscalation") is False:
        why = "cannot set `allowPrivilegeEscalation` to false and "
        if security.get("privileged"):
            out.append(bad(at, security, f"{why}`privileged` to true"))
        if "CAP_SYS_ADMIN" in ((security.get("capabilities") or {}).get("add") or ()):
            out.append(bad(at, security, f"{why}`capabilities.Add` CAP_SYS_ADMIN"))


def check_pod_security(security: Object, at: str, out: list[Cause]) -> None:
    for key in ("runAsUser", "runAsGroup", "fsGroup"):
        value = security.get(key)
        if value is not None and not 0 <= value <= _ID_MAX:
            out.append(bad(f"{at}.{key}", value, _BETWEEN_IDS))
    for i, group in enumerate(security.get("supplementalGroups") or ()):
        if not 0 <= group <= _ID_MAX:
            out.append(bad(f"{at}.supplementalGroups[{i}]", group, _BETWEEN_IDS))
    for i, sysctl in enumerate(security.get("sysctls") or ()):
        if not sysctl.get("name"):
            out.append(required(f"{at}.sysctls[{i}].name"))
