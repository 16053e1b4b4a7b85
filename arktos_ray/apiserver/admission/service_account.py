"""ServiceAccount: every pod acts as somebody, and finds that account's token in its files. Pure."""

from __future__ import annotations

from typing import Any

from arktos_ray.tenancy.accounts import ROOT_CA

Object = dict[str, Any]

DEFAULT = "default"
MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
VOLUME_PREFIX = "kube-api-access-"
_FILE_MODE = 0o644
# As upstream: a second less than what old clients take for an hour and a bit.
_TOKEN_S = 3607
_SOURCES = [
    {"serviceAccountToken": {"expirationSeconds": _TOKEN_S, "path": "token"}},
    {"configMap": {"name": ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    {
        "downwardAPI": {
            "items": [
                {
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }
            ]
        }
    },
]


def apply(pod: Object) -> None:
    spec = pod["spec"]
    name = spec.get("serviceAccountName") or spec.get("serviceAccount") or DEFAULT
    # The old name of the field is kept equal for old clients.
    spec["serviceAccountName"] = spec["serviceAccount"] = name


def mount(pod: Object, account: Object, suffix: str) -> None:
    """The account's token where clients in containers look for it, unless the pod or its account
    says not to. suffix: of the volume's name; the end of a uid is as good as any dice. 1.5 us."""
    spec = pod["spec"]
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = account["imagePullSecrets"]
    wanted = spec.get("automountServiceAccountToken")
    if wanted is None:
        wanted = account.get("automountServiceAccountToken")
    if wanted is False:
        return
    volumes = spec.get("volumes") or []
    name = ""
    for volume in volumes:
        if str(volume.get("name")).startswith(VOLUME_PREFIX):
            name = volume["name"]
            break
    there, mounted = bool(name), False
    if not there:
        name = VOLUME_PREFIX + suffix
    for key in ("initContainers", "containers"):
        for container in spec.get(key) or ():
            mounts = container.get("volumeMounts") or []
            if not any(each.get("mountPath") == MOUNT_PATH for each in mounts):
                one = {"name": name, "readOnly": True, "mountPath": MOUNT_PATH}
                container["volumeMounts"] = [*mounts, one]
                mounted = True
    if mounted and not there:
        # The parts are shared: what they are put into is encoded next, not changed.
        projected = {"defaultMode": _FILE_MODE, "sources": _SOURCES}
        spec["volumes"] = [*volumes, {"name": name, "projected": projected}]
