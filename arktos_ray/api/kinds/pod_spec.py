"""The pod spec, wherever it stands: in a Pod, a PodTemplate or a Deployment's template. Pure."""

from __future__ import annotations

from typing import Any

from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import (
    Cause,
    bad,
    duplicate,
    forbidden,
    required,
    unsupported,
)  # fmt: skip
from arktos_ray.api.kinds.containers import (
    check_container,
    check_host_ports,
    check_pod_security,
    check_resources,
    check_vm,
    default_container,
    default_vm,
)  # fmt: skip
from arktos_ray.api.kinds.meta import validate_annotations
from arktos_ray.api.kinds.scheduling import check_affinity, check_spread, check_tolerations
from arktos_ray.api.kinds.volumes import check_volumes, default_volumes

Object = dict[str, Any]

GRACE_SECONDS = 30
_INT32_MAX = 2147483647
_RESTART_POLICIES = ("Always", "OnFailure", "Never")
_DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_PREEMPTION_POLICIES = ("PreemptLowerPriority", "Never")


def default_spec(spec: Object) -> None:
    """What Pods and templates have in common; a Pod gets a little more, in pods.py."""
    if not spec.get("dnsPolicy"):
        spec["dnsPolicy"] = "ClusterFirst"
    if not spec.get("restartPolicy"):
        spec["restartPolicy"] = "Always"
    if spec.get("securityContext") is None:
        spec["securityContext"] = {}
    if spec.get("terminationGracePeriodSeconds") is None:
        spec["terminationGracePeriodSeconds"] = GRACE_SECONDS
    if not spec.get("schedulerName"):
        spec["schedulerName"] = "default-scheduler"
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        # The old name of the field lives on: both are always written.
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for container in spec.get("containers") or ():
        default_container(container)
    for container in spec.get("initContainers") or ():
        default_container(container)
    for container in spec.get("ephemeralContainers") or ():
        default_container(container)
    vm = spec.get("virtualMachine")
    if vm is not None:
        default_vm(vm)
    volumes = spec.get("volumes")
    if volumes:
        default_volumes(volumes)
    if spec.get("hostNetwork"):
        for key in ("containers", "initContainers"):
            for container in spec.get(key) or ():
                for port in container.get("ports") or ():
                    if not port.get("hostPort") and port.get("containerPort"):
                        port["hostPort"] = port["containerPort"]


def default_template(template: Object) -> None:
    spec = template.get("spec")
    if spec is None:
        spec = template["spec"] = {}
    if template.get("metadata") is None:
        template["metadata"] = {}
    default_spec(spec)


def check_template(template: Object, at: str, out: list[Cause]) -> None:
    meta = template.get("metadata") or {}
    if meta.get("labels"):
        syntax.labels(meta["labels"], f"{at}.labels", out)
    if meta.get("annotations"):
        validate_annotations(meta["annotations"], f"{at}.annotations", out)
    check_spec(template.get("spec") or {}, f"{at}.spec", out)
    if (template.get("spec") or {}).get("ephemeralContainers"):
        why = "ephemeral containers not allowed in pod template"
        out.append(forbidden(f"{at}.spec.ephemeralContainers", why))


def check_spec(spec: Object, at: str, out: list[Cause]) -> None:
    volumes_list = spec.get("volumes")
    volumes = check_volumes(volumes_list, f"{at}.volumes", out) if volumes_list else {}
    host_network = bool(spec.get("hostNetwork"))
    containers = spec.get("containers")
    vm = spec.get("virtualMachine")
    if containers:
        if vm is not None:
            why = "may not be specified together with containers"
            out.append(forbidden(f"{at}.virtualMachine", why))
        _containers(spec, containers, at, volumes, host_network, out)
    elif vm is not None:
        check_vm(vm, f"{at}.virtualMachine", volumes, out)
        if spec.get("initContainers"):
            _containers(spec, [], at, volumes, host_network, out)
    else:
        out.append(required(f"{at}.containers"))

    policy = spec.get("restartPolicy")
    if policy not in _RESTART_POLICIES:
        syntax.one_of(policy, _RESTART_POLICIES, f"{at}.restartPolicy", out)
    policy = spec.get("dnsPolicy")
    if policy not in _DNS_POLICIES:
        syntax.one_of(policy, _DNS_POLICIES, f"{at}.dnsPolicy", out)
    elif policy == "None" and not (spec.get("dnsConfig") or {}).get("nameservers"):
        why = 'must provide at least one DNS nameserver when `dnsPolicy` is "None"'
        out.append(required(f"{at}.dnsConfig.nameservers", why))
    grace = spec.get("terminationGracePeriodSeconds")
    if grace is not None and grace < 0:
        out.append(bad(f"{at}.terminationGracePeriodSeconds", grace, syntax.NOT_NEGATIVE))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= _INT32_MAX:
        why = "must be between 1 and 2147483647, inclusive"
        out.append(bad(f"{at}.activeDeadlineSeconds", deadline, why))
    if spec.get("securityContext"):
        check_pod_security(spec["securityContext"], f"{at}.securityContext", out)
    for key in ("serviceAccountName", "nodeName", "priorityClassName"):
        name = spec.get(key)
        if name:
            wrong = syntax.dns_subdomain(name)
            if wrong:
                out.append(bad(f"{at}.{key}", name, wrong))
    for key in ("hostname", "subdomain"):
        name = spec.get(key)
        if name:
            wrong = syntax.dns_label(name)
            if wrong:
                out.append(bad(f"{at}.{key}", name, wrong))
    for key, check in _BY_FIELD:
        value = spec.get(key)
        if value:
            check(value, f"{at}.{key}", out)
    if spec.get("schedulingGates") and spec.get("nodeName"):
        why = "cannot be set until all schedulingGates have been cleared"
        out.append(forbidden(f"{at}.nodeName", why))


def _containers(
    spec: Object, containers: list[Object], at: str, volumes: Object, host: bool, out: list[Cause]
) -> None:
    names = set()
    ports: set[str] = set()
    for i, container in enumerate(containers):
        where = f"{at}.containers[{i}]"
        check_container(container, where, volumes, host, out)
        name = container.get("name")
        if name in names:
            out.append(duplicate(f"{where}.name", name))
        names.add(name)
    check_host_ports(containers, f"{at}.containers", ports, out)
    for i, container in enumerate(spec.get("initContainers") or ()):
        where = f"{at}.initContainers[{i}]"
        check_container(container, where, volumes, host, out)
        name = container.get("name")
        if name in names:
            out.append(duplicate(f"{where}.name", name))
        names.add(name)
        if container.get("restartPolicy") != "Always":
            for key in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
                if container.get(key) is not None:
                    why = "may not be set for init containers without restartPolicy=Always"
                    out.append(forbidden(f"{where}.{key}", why))
    for i, container in enumerate(spec.get("ephemeralContainers") or ()):
        where = f"{at}.ephemeralContainers[{i}]"
        check_container(container, where, volumes, host, out)
        name, target = container.get("name"), container.get("targetContainerName")
        if target and target not in names:
            out.append(Cause(f"{where}.targetContainerName", "FieldValueNotFound",
                             f'Not found: "{target}"'))  # fmt: skip
        if name in names:
            out.append(duplicate(f"{where}.name", name))
        names.add(name)
        for key in ("ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"):
            if container.get(key):
                why = "cannot be set for an Ephemeral Container"
                out.append(forbidden(f"{where}.{key}", why))
        if container.get("resources"):
            why = "cannot be set for an Ephemeral Container"
            out.append(forbidden(f"{where}.resources", why))


def _pod_resources(resources: Object, at: str, out: list[Cause]) -> None:
    check_resources(resources, at, out, pod=True)


def _pull_secrets(secrets: list[Object], at: str, out: list[Cause]) -> None:
    for i, secret in enumerate(secrets):
        if not secret.get("name"):
            out.append(required(f"{at}[{i}].name"))


def _host_aliases(aliases: list[Object], at: str, out: list[Cause]) -> None:
    for i, alias in enumerate(aliases):
        syntax.ip_causes(alias.get("ip") or "", f"{at}[{i}].ip", out)
        for host in alias.get("hostnames") or ():
            wrong = syntax.dns_subdomain(host)
            if wrong:
                out.append(bad(f"{at}[{i}].hostnames", host, wrong))


def _dns_config(config: Object, at: str, out: list[Cause]) -> None:
    servers = config.get("nameservers") or ()
    if len(servers) > 3:
        out.append(bad(f"{at}.nameservers", servers, "must not have more than 3 nameservers"))
    for i, server in enumerate(servers):
        syntax.ip_causes(server, f"{at}.nameservers[{i}]", out)
    for i, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            out.append(required(f"{at}.options[{i}]", "must not be empty"))


def _readiness_gates(gates: list[Object], at: str, out: list[Cause]) -> None:
    for i, gate in enumerate(gates):
        wrong = syntax.qualified_name(gate.get("conditionType") or "")
        if wrong:
            out.append(bad(f"{at}[{i}].conditionType", gate.get("conditionType") or "", wrong))


def _scheduling_gates(gates: list[Object], at: str, out: list[Cause]) -> None:
    seen = set()
    for i, gate in enumerate(gates):
        name = gate.get("name") or ""
        wrong = syntax.qualified_name(name)
        if wrong:
            out.append(bad(f"{at}[{i}]", name, wrong))
        if name in seen:
            out.append(duplicate(f"{at}[{i}]", name))
        seen.add(name)


def _nics(nics: list[Object], at: str, out: list[Cause]) -> None:
    seen = set()
    for i, nic in enumerate(nics):
        name = nic.get("name")
        if name:
            if name in seen:
                out.append(duplicate(f"{at}[{i}].name", name))
            seen.add(name)


def _os(system: Object, at: str, out: list[Cause]) -> None:
    syntax.one_of(system.get("name"), ("linux", "windows"), f"{at}.name", out)


def _preemption(policy: str, at: str, out: list[Cause]) -> None:
    if policy not in _PREEMPTION_POLICIES:
        out.append(unsupported(at, policy, _PREEMPTION_POLICIES))


_BY_FIELD = (
    ("nodeSelector", syntax.labels),
    ("affinity", check_affinity),
    ("tolerations", check_tolerations),
    ("topologySpreadConstraints", check_spread),
    ("imagePullSecrets", _pull_secrets),
    ("hostAliases", _host_aliases),
    ("dnsConfig", _dns_config),
    ("readinessGates", _readiness_gates),
    ("schedulingGates", _scheduling_gates),
    ("resources", _pod_resources),
    ("preemptionPolicy", _preemption),
    ("nics", _nics),
    ("os", _os),
)
