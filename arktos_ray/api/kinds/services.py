"""Service, Endpoints and EndpointSlice: names for sets of addresses.

Which address a Service gets is the server's to decide (`assign` writes it down); what a Service
may look like is decided here.
"""

from __future__ import annotations

from typing import Any

from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import (
    Cause,
    bad,
    duplicate,
    forbidden,
    required,
    too_many,
    unsupported,
)  # fmt: skip
from arktos_ray.api.kinds.generic import Object, Rules

NODE_PORT_MIN, NODE_PORT_MAX = 30000, 32767
CLIENT_IP_SECONDS = 10800
_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_POLICIES = ("Cluster", "Local")
_FAMILIES = ("IPv4", "IPv6")
_STACKS = ("PreferDualStack", "RequireDualStack", "SingleStack")
ENDPOINTS_MAX, ADDRESSES_MAX, PORTS_MAX = 1000, 100, 20000


class ServiceRules(Rules):
    def initial_status(self, obj: Object) -> None:
        obj["status"] = {"loadBalancer": {}}

    def default(self, obj: Object) -> None:
        spec = obj.get("spec")
        if spec is None:
            spec = obj["spec"] = {}
        if not spec.get("sessionAffinity"):
            spec["sessionAffinity"] = "None"
        if spec["sessionAffinity"] == "None":
            spec.pop("sessionAffinityConfig", None)
        elif spec["sessionAffinity"] == "ClientIP":
            config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
            if config.get("timeoutSeconds") is None:
                spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": CLIENT_IP_SECONDS}}
        kind = spec.get("type")
        if not kind:
            kind = spec["type"] = "ClusterIP"
        for port in spec.get("ports") or ():
            if not port.get("protocol"):
                port["protocol"] = "TCP"
            if port.get("targetPort") in (None, 0, ""):
                port["targetPort"] = port.get("port") or 0
        reachable = kind in ("NodePort", "LoadBalancer") or (
            kind == "ClusterIP" and spec.get("externalIPs")
        )
        if reachable and not spec.get("externalTrafficPolicy"):
            spec["externalTrafficPolicy"] = "Cluster"
        if kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is None:
            spec["allocateLoadBalancerNodePorts"] = True
        if kind == "ExternalName":
            return
        if spec.get("internalTrafficPolicy") is None:
            spec["internalTrafficPolicy"] = "Cluster"
        # The two ways to write the address say the same.
        if spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIPs"] = [spec["clusterIP"]]
        _default_families(spec)

    def keep_on_update(self, obj: Object, old: Object) -> None:
        spec, was = obj.setdefault("spec", {}), old.get("spec") or {}
        kind, before = spec.get("type") or "ClusterIP", was.get("type")
        if kind == "ExternalName":
            if before != "ExternalName":
                _release(spec, was)
            return
        if before == "ExternalName":
            return
        # Leaving out what was allocated means keeping it.
        if not spec.get("clusterIP") and not spec.get("clusterIPs"):
            for key in ("clusterIP", "clusterIPs"):
                if key in was:
                    spec[key] = was[key]
        elif spec.get("clusterIP") != was.get("clusterIP") and (
            spec.get("clusterIPs") == was.get("clusterIPs")
        ):
            spec["clusterIPs"] = [spec["clusterIP"]] if spec.get("clusterIP") else []
        for key in ("ipFamilies", "ipFamilyPolicy"):
            if not spec.get(key) and key in was:
                spec[key] = was[key]
        if kind in ("NodePort", "LoadBalancer") and before in ("NodePort", "LoadBalancer"):
            known = {
                (p.get("protocol"), p.get("port")): p.get("nodePort")
                for p in was.get("ports") or ()
            }
            used = {p.get("nodePort") for p in spec.get("ports") or ()}
            for port in spec.get("ports") or ():
                if not port.get("nodePort"):
                    mine = known.get((port.get("protocol") or "TCP", port.get("port")))
                    if mine and mine not in used:
                        port["nodePort"] = mine
            if not spec.get("healthCheckNodePort") and was.get("healthCheckNodePort"):
                spec["healthCheckNodePort"] = was["healthCheckNodePort"]
        elif kind == "ClusterIP" and before in ("NodePort", "LoadBalancer"):
            # Node ports that were allocated go with the type; new ones would be refused below.
            held = {p.get("nodePort") for p in was.get("ports") or ()}
            for port in spec.get("ports") or ():
                if port.get("nodePort") in held:
                    port.pop("nodePort", None)
            if spec.get("externalTrafficPolicy") == was.get("externalTrafficPolicy"):
                spec.pop("externalTrafficPolicy", None)

    def check(self, obj: Object, out: list[Cause]) -> None:
        spec = obj.get("spec") or {}
        kind, address = spec.get("type"), spec.get("clusterIP") or ""
        headless = address == "None"
        ports = spec.get("ports") or []
        if not ports and not headless and kind != "ExternalName":
            out.append(required("spec.ports"))
        syntax.one_of(kind, _TYPES, "spec.type", out)
        if kind == "ExternalName":
            if address or spec.get("clusterIPs"):
                why = "may not be set for ExternalName services"
                out.append(forbidden("spec.clusterIPs", why))
            name = (spec.get("externalName") or "").removesuffix(".")
            if not name:
                out.append(required("spec.externalName"))
            else:
                wrong = syntax.dns_subdomain(name)
                if wrong:
                    out.append(bad("spec.externalName", name, wrong))
        elif kind in ("LoadBalancer", "NodePort") and headless:
            why = f"may not be set to 'None' for {kind} services"
            out.append(bad("spec.clusterIPs[0]", "None", why))
        if kind != "ExternalName":
            _check_addresses(spec, out)
        if spec.get("selector"):
            syntax.labels(spec["selector"], "spec.selector", out)
        syntax.one_of(
            spec.get("sessionAffinity"), ("ClientIP", "None"), "spec.sessionAffinity", out
        )
        seconds = ((spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}).get(
            "timeoutSeconds", 1
        )
        if not 0 < seconds <= 86400:
            why = "must be greater than 0 and less than 86400"
            out.append(bad("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, why))
        _check_ports(ports, kind, out)
        for i, one in enumerate(spec.get("externalIPs") or ()):
            syntax.ip_causes(one, f"spec.externalIPs[{i}]", out)
        out += [
            unsupported(f"spec.{key}", spec[key], _POLICIES)
            for key in ("internalTrafficPolicy", "externalTrafficPolicy")
            if spec.get(key) and spec[key] not in _POLICIES
        ]
        if spec.get("externalTrafficPolicy") and not (
            kind in ("LoadBalancer", "NodePort") or spec.get("externalIPs")
        ):
            why = "may only be set for externally-accessible services"
            out.append(bad("spec.externalTrafficPolicy", spec["externalTrafficPolicy"], why))

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        spec, was = obj.get("spec") or {}, old.get("spec") or {}
        if spec == was:
            return
        self.check(obj, out)
        addressed = "ExternalName" not in (spec.get("type"), was.get("type"))
        if addressed and was.get("clusterIP") and spec.get("clusterIP") != was["clusterIP"]:
            addresses = spec.get("clusterIPs") or [spec.get("clusterIP") or ""]
            out.append(bad("spec.clusterIPs[0]", addresses, "may not change once set"))


def assign(service: Object, address: str) -> None:
    """Give a service the address that the server allocated."""
    service["spec"]["clusterIP"] = address
    service["spec"]["clusterIPs"] = [address]


def _default_families(spec: Object) -> None:
    headless = spec.get("clusterIP") == "None"
    if not spec.get("ipFamilies"):
        families = [
            "IPv6" if ":" in one else "IPv4"
            for one in spec.get("clusterIPs") or ()
            if one and one != "None"
        ] or ["IPv4"]
        # Nobody but its author knows what is behind a headless service without a selector.
        if headless and not spec.get("selector"):
            families = ["IPv4", "IPv6"]
            if not spec.get("ipFamilyPolicy"):
                spec["ipFamilyPolicy"] = "RequireDualStack"
        spec["ipFamilies"] = families
    if not spec.get("ipFamilyPolicy"):
        spec["ipFamilyPolicy"] = "SingleStack"


def _release(spec: Object, was: Object) -> None:
    for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if spec.get(key) == was.get(key):
            spec.pop(key, None)
    for key in ("internalTrafficPolicy", "externalTrafficPolicy", "allocateLoadBalancerNodePorts"):
        if spec.get(key) == was.get(key):
            spec.pop(key, None)


def _check_addresses(spec: Object, out: list[Cause]) -> None:
    address, addresses = spec.get("clusterIP") or "", spec.get("clusterIPs") or []
    if addresses and addresses[0] != address:
        why = "first value must match `clusterIP`"
        out.append(bad("spec.clusterIPs", addresses, why))
    for i, one in enumerate(addresses):
        if one == "None":
            if i or len(addresses) > 1:
                out.append(bad(f"spec.clusterIPs[{i}]", one, "must be a valid IP address"))
        else:
            syntax.ip_causes(one, f"spec.clusterIPs[{i}]", out)
    for i, family in enumerate(spec.get("ipFamilies") or ()):
        if family not in _FAMILIES:
            out.append(unsupported(f"spec.ipFamilies[{i}]", family, _FAMILIES))
    policy = spec.get("ipFamilyPolicy")
    if policy and policy not in _STACKS:
        out.append(unsupported("spec.ipFamilyPolicy", policy, _STACKS))


def _check_ports(ports: list[Object], kind: str | None, out: list[Cause]) -> None:
    names: set[str] = set()
    numbers: set[tuple[Any, Any]] = set()
    node_ports: set[tuple[Any, Any]] = set()
    for i, port in enumerate(ports):
        at = f"spec.ports[{i}]"
        name = port.get("name")
        if name:
            wrong = syntax.dns_label(name)
            if wrong:
                out.append(bad(f"{at}.name", name, wrong))
            elif name in names:
                out.append(duplicate(f"{at}.name", name))
            names.add(name)
        elif len(ports) > 1:
            out.append(required(f"{at}.name"))
        number, protocol = port.get("port") or 0, port.get("protocol")
        wrong = syntax.port_number(number)
        if wrong:
            out.append(bad(f"{at}.port", number, wrong))
        syntax.one_of(protocol, _PROTOCOLS, f"{at}.protocol", out)
        target = port.get("targetPort")
        wrong = (
            syntax.port_name(target) if isinstance(target, str) else syntax.port_number(target or 0)
        )
        if wrong:
            out.append(bad(f"{at}.targetPort", target, wrong))
        if (protocol, number) in numbers:
            out.append(duplicate(at, {"port": number, "protocol": protocol}))
        numbers.add((protocol, number))
        node_port = port.get("nodePort")
        if not node_port:
            continue
        if kind in ("ClusterIP", "ExternalName"):
            why = f"may not be used when `type` is '{kind}'"
            out.append(forbidden(f"{at}.nodePort", why))
        elif not NODE_PORT_MIN <= node_port <= NODE_PORT_MAX:
            why = (
                "provided port is not in the valid range. The range of valid ports is "
                f"{NODE_PORT_MIN}-{NODE_PORT_MAX}"
            )
            out.append(bad(f"{at}.nodePort", node_port, why))
        if (protocol, node_port) in node_ports:
            out.append(duplicate(f"{at}.nodePort", node_port))
        node_ports.add((protocol, node_port))


class EndpointsRules(Rules):
    def default(self, obj: Object) -> None:
        for subset in obj.get("subsets") or ():
            for port in subset.get("ports") or ():
                if not port.get("protocol"):
                    port["protocol"] = "TCP"

    def check(self, obj: Object, out: list[Cause]) -> None:
        for i, subset in enumerate(obj.get("subsets") or ()):
            at = f"subsets[{i}]"
            if not subset.get("addresses") and not subset.get("notReadyAddresses"):
                out.append(required(at, "must specify `addresses` or `notReadyAddresses`"))
            for key in ("addresses", "notReadyAddresses"):
                for j, address in enumerate(subset.get(key) or ()):
                    _check_endpoint_ip(address.get("ip") or "", f"{at}.{key}[{j}].ip", out)
            ports = subset.get("ports") or ()
            for j, port in enumerate(ports):
                _check_endpoint_port(port, f"{at}.ports[{j}]", len(ports) > 1, out)

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        if obj.get("subsets") != old.get("subsets"):
            self.check(obj, out)


def _check_endpoint_ip(address: str, at: str, out: list[Cause]) -> None:
    if not syntax.ip_causes(address, at, out):
        return
    if address.startswith("127.") or address == "::1":
        why = "may not be in the loopback range (127.0.0.0/8, ::1/128)"
        out.append(bad(at, address, why))
    elif address in ("0.0.0.0", "::"):
        out.append(bad(at, address, f"may not be unspecified ({address})"))
    elif address.startswith("169.254."):
        why = "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
        out.append(bad(at, address, why))


def _check_endpoint_port(port: Object, at: str, named: bool, out: list[Cause]) -> None:
    name, number = port.get("name"), port.get("port") or 0
    if name:
        wrong = syntax.dns_label(name)
        if wrong:
            out.append(bad(f"{at}.name", name, wrong))
    elif named:
        out.append(required(f"{at}.name"))
    wrong = syntax.port_number(number)
    if wrong:
        out.append(bad(f"{at}.port", number, wrong))
    syntax.one_of(port.get("protocol"), _PROTOCOLS, f"{at}.protocol", out)


class EndpointSliceRules(Rules):
    def default(self, obj: Object) -> None:
        for port in obj.get("ports") or ():
            if port.get("name") is None:
                port["name"] = ""
            if not port.get("protocol"):
                port["protocol"] = "TCP"

    def check(self, obj: Object, out: list[Cause]) -> None:
        family = obj.get("addressType")
        syntax.one_of(family, ("FQDN", "IPv4", "IPv6"), "addressType", out)
        endpoints, ports = obj.get("endpoints") or (), obj.get("ports") or ()
        if len(endpoints) > ENDPOINTS_MAX:
            out.append(too_many("endpoints", len(endpoints), ENDPOINTS_MAX))
            return
        for i, endpoint in enumerate(endpoints):
            addresses = endpoint.get("addresses") or ()
            at = f"endpoints[{i}].addresses"
            if not addresses:
                out.append(required(at, "must contain at least 1 address"))
            elif len(addresses) > ADDRESSES_MAX:
                out.append(too_many(at, len(addresses), ADDRESSES_MAX))
                continue
            for j, address in enumerate(addresses):
                _check_slice_address(address, family, f"{at}[{j}]", out)
        names = set()
        if len(ports) > PORTS_MAX:
            out.append(too_many("ports", len(ports), PORTS_MAX))
            return
        for i, port in enumerate(ports):
            name = port.get("name") or ""
            if name in names:
                out.append(duplicate(f"ports[{i}].name", name))
            names.add(name)
            if name:
                wrong = syntax.dns_label(name)
                if wrong:
                    out.append(bad(f"ports[{i}].name", name, wrong))
            syntax.one_of(port.get("protocol"), _PROTOCOLS, f"ports[{i}].protocol", out)
            number = port.get("port")
            if number is not None and syntax.port_number(number):
                out.append(bad(f"ports[{i}].port", number, syntax.port_number(number)))

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        self.check(obj, out)
        if obj.get("addressType") != old.get("addressType"):
            out.append(bad("addressType", obj.get("addressType"), syntax.IMMUTABLE))

    def prepare_create(self, obj: Object, now_rfc3339: str) -> None:
        super().prepare_create(obj, now_rfc3339)
        obj["metadata"]["generation"] = 1

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        if any(obj.get(key) != old.get(key) for key in ("endpoints", "ports", "addressType")):
            obj["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1


def _check_slice_address(address: str, family: Any, at: str, out: list[Cause]) -> None:
    if family == "FQDN":
        wrong = syntax.dns_subdomain(address)
        if wrong:
            out.append(bad(at, address, wrong))
        return
    found = syntax.ip_family(address)
    if family == "IPv4" and found != 4:
        out.append(bad(at, address, "must be an IPv4 address"))
    elif family == "IPv6" and found != 6:
        out.append(bad(at, address, "must be an IPv6 address"))
    elif found:
        _check_endpoint_ip(address, at, out)
