"""Write arktos_ray/api/schema/kubernetes.json: names, types, tags and merge keys, no prose.

Run by a developer when the Kubernetes release that we follow changes:

    python tools/generate_schema.py PROTOBUF_FIELDS_JSON

PROTOBUF_FIELDS_JSON maps each message of the Kubernetes protobuf API to [number, name, type] rows.
The JSON side comes from the PyPI package `kubernetes-validate` (a tool of the developer, not a
dependency): which fields JSON has, which are required, how lists and maps merge.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

# The release that we claim to be (discovery.version_document), and a newer one that the protobuf
# table was taken from: a message field that even the newer JSON lacks is an inlined struct.
OURS, NEWEST = "v1.33.0", "v1.37.0"
TARGET = Path(__file__).parent.parent / "arktos_ray" / "api" / "schema" / "kubernetes.json"

# Kinds whose bodies we can describe; api/scheme.py serves some of them.
ROOTS = """
core.v1: Pod Binding Namespace Node Service Endpoints ConfigMap Secret ServiceAccount Event
  PodTemplate ResourceQuota LimitRange ReplicationController PersistentVolume
  PersistentVolumeClaim
apps.v1: Deployment ReplicaSet ControllerRevision StatefulSet DaemonSet
batch.v1: Job CronJob
coordination.v1: Lease
discovery.v1: EndpointSlice
events.v1: Event
autoscaling.v1: Scale HorizontalPodAutoscaler
autoscaling.v2: HorizontalPodAutoscaler
policy.v1: Eviction PodDisruptionBudget
rbac.v1: Role RoleBinding ClusterRole ClusterRoleBinding
authentication.v1: TokenRequest TokenReview SelfSubjectReview
authorization.v1: SubjectAccessReview LocalSubjectAccessReview SelfSubjectAccessReview
  SelfSubjectRulesReview
networking.v1: Ingress IngressClass NetworkPolicy
scheduling.v1: PriorityClass
storage.v1: StorageClass
certificates.v1: CertificateSigningRequest
admissionregistration.v1: MutatingWebhookConfiguration ValidatingWebhookConfiguration
  ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding
"""
META_ROOTS = """
DeleteOptions Status ListMeta WatchEvent APIResourceList APIGroup APIGroupList APIVersions
"""

SPECIAL = {
    "k8s.io.apimachinery.pkg.api.resource.Quantity": "quantity",
    "k8s.io.apimachinery.pkg.util.intstr.IntOrString": "int-or-string",
    "k8s.io.apimachinery.pkg.apis.meta.v1.Time": "time",
    "k8s.io.apimachinery.pkg.apis.meta.v1.MicroTime": "micro-time",
    "k8s.io.apimachinery.pkg.apis.meta.v1.Duration": "duration",
    "k8s.io.apimachinery.pkg.apis.meta.v1.FieldsV1": "fields-v1",
    "k8s.io.apimachinery.pkg.runtime.RawExtension": "any",
    "k8s.io.api.authentication.v1.ExtraValue": "strings",
    "k8s.io.api.authorization.v1.ExtraValue": "strings",
    "k8s.io.api.certificates.v1.ExtraValue": "strings",
    "k8s.io.apimachinery.pkg.apis.meta.v1.Verbs": "strings",
    "string": "string",
    "bool": "boolean",
    "bytes": "bytes",
    "int32": "integer",
    "int64": "integer",
    "double": "number",
}

# Numbers and booleans that Go holds by value and leaves out of JSON when zero. Protobuf carries
# them always, so a zero there means "not given". All other optional scalars are pointers, which
# protobuf carries only when given. `*` stands for every message.
BY_VALUE = """
*: observedGeneration generation hostNetwork hostPID hostIPC readOnly paused minReadySeconds
k8s.io.api.core.v1.Container: stdin stdinOnce tty
k8s.io.api.core.v1.EphemeralContainerCommon: stdin stdinOnce tty
k8s.io.api.core.v1.EphemeralContainer: stdin stdinOnce tty
k8s.io.api.core.v1.ContainerPort: hostPort
k8s.io.api.core.v1.Probe: initialDelaySeconds timeoutSeconds periodSeconds successThreshold
  failureThreshold
k8s.io.api.core.v1.Event: count
k8s.io.api.core.v1.EventSeries: count
k8s.io.api.events.v1.Event: deprecatedCount
k8s.io.api.core.v1.GCEPersistentDiskVolumeSource: partition
k8s.io.api.core.v1.AWSElasticBlockStoreVolumeSource: partition
k8s.io.api.core.v1.NodeSpec: unschedulable
k8s.io.api.core.v1.ServicePort: nodePort
k8s.io.api.core.v1.ServiceSpec: publishNotReadyAddresses healthCheckNodePort
k8s.io.api.core.v1.ReplicationControllerStatus: fullyLabeledReplicas readyReplicas
  availableReplicas
k8s.io.api.apps.v1.DeploymentStatus: replicas updatedReplicas readyReplicas availableReplicas
  unavailableReplicas
k8s.io.api.apps.v1.ReplicaSetStatus: fullyLabeledReplicas readyReplicas availableReplicas
k8s.io.api.apps.v1.StatefulSetStatus: readyReplicas currentReplicas updatedReplicas
  availableReplicas
k8s.io.api.apps.v1.DaemonSetStatus: updatedNumberScheduled numberAvailable numberUnavailable
k8s.io.api.batch.v1.JobStatus: active succeeded failed
k8s.io.api.autoscaling.v1.ScaleSpec: replicas
k8s.io.api.autoscaling.v2.HorizontalPodAutoscalerStatus: currentReplicas
k8s.io.api.core.v1.ContainerStateTerminated: signal
k8s.io.apimachinery.pkg.apis.meta.v1.Status: code
k8s.io.apimachinery.pkg.apis.meta.v1.StatusDetails: retryAfterSeconds
k8s.io.api.authorization.v1.SubjectAccessReviewStatus: denied
k8s.io.api.authentication.v1.TokenReviewStatus: authenticated
k8s.io.api.core.v1.ISCSIPersistentVolumeSource: chapAuthDiscovery chapAuthSession
k8s.io.api.core.v1.ISCSIVolumeSource: chapAuthDiscovery chapAuthSession
k8s.io.api.scheduling.v1.PriorityClass: globalDefault
"""
# Pointers although `*` above says otherwise, and the few optional strings whose emptiness says
# something: storageClassName "" is "no class", absent is "the default class".
POINTERS = """
k8s.io.api.core.v1.CSIVolumeSource: readOnly
k8s.io.api.core.v1.AzureDiskVolumeSource: readOnly
k8s.io.api.autoscaling.v2.HorizontalPodAutoscalerStatus: observedGeneration
k8s.io.api.autoscaling.v1.HorizontalPodAutoscalerStatus: observedGeneration
k8s.io.api.core.v1.PersistentVolumeClaimSpec: storageClassName volumeAttributesClassName
k8s.io.api.discovery.v1.EndpointPort: name protocol appProtocol
"""


def main(protobuf_fields: str) -> None:
    proto = json.loads(Path(protobuf_fields).read_text())["messages"]
    ours, newest = _definitions(OURS), _definitions(NEWEST)
    by_value, pointers = set(_sections(BY_VALUE)), set(_sections(POINTERS))

    messages: dict[str, Any] = {}
    queue = [f"k8s.io.api.{group}.{kind}" for group, kind in _sections(ROOTS)]
    queue += [f"k8s.io.apimachinery.pkg.apis.meta.v1.{kind}" for kind in META_ROOTS.split()]
    queue += [name + "List" for name in queue if name + "List" in proto]
    while queue:
        name = queue.pop()
        if name in messages:
            continue
        messages[name] = _message(name, proto, ours, newest, by_value, pointers)
        for row in messages[name]["fields"] + messages[name].get("inlined", []):
            kind = row[1].lstrip("[]{}")
            if "." in kind:
                queue.append(kind)

    lines = [
        f"{json.dumps(name)}:{json.dumps(messages[name], separators=(',', ':'))}"
        for name in sorted(messages)
    ]
    TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(messages)} messages, {TARGET.stat().st_size} bytes")


def _message(
    name: str,
    proto: Any,
    ours: Any,
    newest: Any,
    by_value: set[tuple[str, str]],
    pointers: set[tuple[str, str]],
) -> dict[str, Any]:
    json_name = _json_name(name)
    wire = {row[1]: row for row in proto.get(name, [])}
    schema = ours.get(json_name)
    inlined: list[Any] = []
    if schema is None:
        # Never a JSON object of its own: an inlined struct. Its JSON fields are the wire's.
        schema = {"properties": dict.fromkeys(wire)}
    rows = []
    newer = newest.get(json_name, {}).get("properties", {})
    for field, (number, _, kind) in wire.items():
        if field in schema["properties"] or field in newer or not kind.startswith("k8s.io."):
            continue
        if json_name in newest:
            inlined.append([field, kind, number, {}])
    for field, property_schema in schema["properties"].items():
        # The wire spells a few names otherwise: uID, aPIGroup.
        row = wire.get(field) or wire.get(next((n for n in wire if n.lower() == field.lower()), ""))
        number = row[0] if row else 0
        if row:
            kind, bits = _from_proto(row[2])
        else:
            kind, bits = _from_json(property_schema)
        extra: dict[str, Any] = {}
        if bits:
            extra["bits"] = bits
        if field in schema.get("required", ()):
            extra["required"] = 1
        elif (name, field) in pointers or (
            kind in ("integer", "boolean") and not {(name, field), ("*", field)} & by_value
        ):
            extra["pointer"] = 1
        source = property_schema or {}
        if kind.startswith("[]"):
            # Lists without a mark are atomic in server-side apply.
            if source.get("x-kubernetes-list-type", "atomic") != "atomic":
                extra["listType"] = source["x-kubernetes-list-type"]
            if source.get("x-kubernetes-list-map-keys"):
                extra["mapKeys"] = source["x-kubernetes-list-map-keys"]
        map_type = source.get("x-kubernetes-map-type", "")
        reference = _referred(source, ours).get("x-kubernetes-map-type", "")
        if "atomic" in (map_type, reference):
            extra["mapType"] = "atomic"
        if source.get("x-kubernetes-patch-merge-key"):
            extra["mergeKey"] = source["x-kubernetes-patch-merge-key"]
        if source.get("x-kubernetes-patch-strategy"):
            extra["strategy"] = source["x-kubernetes-patch-strategy"].split(",")
        rows.append([field, kind, number, extra] if extra else [field, kind, number])
    result: dict[str, Any] = {"fields": rows}
    if inlined:
        result["inlined"] = inlined
    kinds = [
        [gvk["group"], gvk["version"], gvk["kind"]]
        for gvk in schema.get("x-kubernetes-group-version-kind", ())
    ]
    if len(kinds) == 1:
        result["kind"] = kinds[0]
    return result


def _referred(schema: dict[str, Any], definitions: Any) -> dict[str, Any]:
    reference = schema.get("$ref", "")
    found: dict[str, Any] = definitions.get(reference.removeprefix("#/$defs/"), {})
    return found


def _from_proto(kind: str) -> tuple[str, int]:
    prefix = ""
    if kind.startswith("repeated "):
        prefix, kind = "[]", kind.removeprefix("repeated ")
    elif match := re.fullmatch(r"map<string,\s*(.+)>", kind):
        prefix, kind = "{}", match[1]
    bits = {"int32": 32}.get(kind, 0)
    if ".apiextensions" in kind and ".JSON" in kind and not kind.endswith("JSONSchemaProps"):
        return prefix + "any", 0
    return prefix + SPECIAL.get(kind, kind), bits


def _from_json(schema: dict[str, Any]) -> tuple[str, int]:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/io.k8s.")
        return _from_proto("k8s.io." + name)
    kinds = schema.get("type", "any")
    kind = next(k for k in ([kinds] if isinstance(kinds, str) else kinds) if k != "null")
    if kind == "array":
        inner, bits = _from_json(schema["items"])
        return "[]" + inner, bits
    if kind == "object":
        if "additionalProperties" not in schema:
            return "any", 0
        inner, bits = _from_json(schema["additionalProperties"])
        return "{}" + inner, bits
    return kind, 0


def _json_name(name: str) -> str:
    return "io.k8s." + name.removeprefix("k8s.io.")


def _sections(text: str) -> list[tuple[str, str]]:
    """(heading, word) for each word below a `heading:`."""
    pairs: list[tuple[str, str]] = []
    heading = ""
    for word in text.split():
        if word.endswith(":"):
            heading = word[:-1]
        else:
            pairs.append((heading, word))
    return pairs


def _definitions(version: str) -> Any:
    spec = importlib.util.find_spec("kubernetes_validate")
    if spec is None or spec.origin is None:
        sys.exit("pip install kubernetes-validate first")
    folder = Path(spec.origin).parent / "kubernetes-json-schema" / f"{version}-local"
    return json.loads((folder / "_definitions.json").read_text())["$defs"]


if __name__ == "__main__":
    main(sys.argv[1])
