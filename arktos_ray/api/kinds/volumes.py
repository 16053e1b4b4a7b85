"""Volumes of a pod: what is filled in, and what is refused. Pure."""

from __future__ import annotations

from typing import Any

from arktos_ray.api import quantity
from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import Cause, bad, duplicate, forbidden, required, unsupported
from arktos_ray.api.kinds.containers import check_field_ref, check_relative, pull_policy

Object = dict[str, Any]

_MODE = 420  # 0644
_MODE_TEXT = "must be a number between 0 and 0777 (octal), both inclusive"
_TOKEN_SECONDS = 3600
_TOKEN_SECONDS_MIN = 600
_HOST_PATH_TYPES = (
    "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate",
    "Socket",
)  # fmt: skip
_DOWNWARD_FIELDS = (
    "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace",
    "metadata.tenant", "metadata.uid",
)  # fmt: skip
# What a source must say, beside the sources that have rules of their own below.
_REQUIRED = {
    "persistentVolumeClaim": ("claimName",),
    "nfs": ("server", "path"),
    "iscsi": ("targetPortal", "iqn"),
    "csi": ("driver",),
    "rbd": ("monitors", "image"),
    "cephfs": ("monitors",),
    "awsElasticBlockStore": ("volumeID",),
    "gcePersistentDisk": ("pdName",),
    "cinder": ("volumeID",),
    "flexVolume": ("driver",),
}


def default_volumes(volumes: list[Object]) -> None:
    for volume in volumes:
        if len(volume) == 1 and "name" in volume:
            volume["emptyDir"] = {}
            continue
        for key, source in volume.items():
            if key in ("secret", "configMap", "downwardAPI"):
                if source.get("defaultMode") is None:
                    source["defaultMode"] = _MODE
                if key == "downwardAPI":
                    _default_items(source)
            elif key == "projected":
                if source.get("defaultMode") is None:
                    source["defaultMode"] = _MODE
                for one in source.get("sources") or ():
                    token = one.get("serviceAccountToken")
                    if token is not None and token.get("expirationSeconds") is None:
                        token["expirationSeconds"] = _TOKEN_SECONDS
                    if one.get("downwardAPI"):
                        _default_items(one["downwardAPI"])
            elif key == "hostPath":
                if source.get("type") is None:
                    source["type"] = ""
            elif key == "image":
                if not source.get("pullPolicy"):
                    source["pullPolicy"] = pull_policy(source.get("reference") or "")
            elif key == "iscsi":
                if not source.get("iscsiInterface"):
                    source["iscsiInterface"] = "default"
            elif key == "ephemeral":
                claim = (source.get("volumeClaimTemplate") or {}).get("spec")
                if claim is not None and not claim.get("volumeMode"):
                    claim["volumeMode"] = "Filesystem"


def _default_items(source: Object) -> None:
    for item in source.get("items") or ():
        reference = item.get("fieldRef")
        if reference and not reference.get("apiVersion"):
            reference["apiVersion"] = "v1"


def check_volumes(volumes: list[Object], at: str, out: list[Cause]) -> dict[str, Object]:
    """The volumes by name, for the mounts to be checked against."""
    known: dict[str, Object] = {}
    for i, volume in enumerate(volumes):
        where = f"{at}[{i}]"
        name = volume.get("name")
        syntax.check_name(name, f"{where}.name", syntax.dns_label, out)
        if name:
            if name in known:
                out.append(duplicate(f"{where}.name", name))
            known[name] = volume
        first = True
        for key, source in volume.items():
            if key == "name" or source is None:
                continue
            if first:
                _source(key, source, f"{where}.{key}", out)
            else:
                why = "may not specify more than 1 volume type"
                out.append(forbidden(f"{where}.{key}", why))
            first = False
        if first:
            out.append(required(where, "must specify a volume type"))
    return known


def _source(key: str, source: Object, at: str, out: list[Cause]) -> None:
    if key == "emptyDir":
        limit = source.get("sizeLimit")
        if limit is not None:
            try:
                if quantity.value(limit) < 0:
                    why = "SizeLimit field must be a valid resource quantity"
                    out.append(forbidden(f"{at}.sizeLimit", why))
            except ValueError as error:
                out.append(bad(f"{at}.sizeLimit", limit, str(error)))
    elif key == "hostPath":
        path = source.get("path")
        if not path:
            out.append(required(f"{at}.path"))
        elif ".." in path.split("/"):
            out.append(bad(f"{at}.path", path, "must not contain '..'"))
        kind = source.get("type") or ""
        if kind not in _HOST_PATH_TYPES:
            out.append(unsupported(f"{at}.type", kind, _HOST_PATH_TYPES))
    elif key == "secret":
        if not source.get("secretName"):
            out.append(required(f"{at}.secretName"))
        _mode(source, at, out)
        _items(source, at, out)
    elif key == "configMap":
        if not source.get("name"):
            out.append(required(f"{at}.name"))
        _mode(source, at, out)
        _items(source, at, out)
    elif key == "downwardAPI":
        _mode(source, at, out)
        _downward(source, at, out)
    elif key == "projected":
        _mode(source, at, out)
        for i, one in enumerate(source.get("sources") or ()):
            _projection(one, f"{at}.sources[{i}]", out)
    else:
        wanted = _REQUIRED.get(key, ())
        out += [required(f"{at}.{name}") for name in wanted if not source.get(name)]


def _mode(source: Object, at: str, out: list[Cause]) -> None:
    mode = source.get("defaultMode")
    if mode is not None and not 0 <= mode <= 0o777:
        out.append(bad(f"{at}.defaultMode", mode, _MODE_TEXT))


def _items(source: Object, at: str, out: list[Cause]) -> None:
    for i, item in enumerate(source.get("items") or ()):
        if not item.get("key"):
            out.append(required(f"{at}.items[{i}].key"))
        _item_path(item, f"{at}.items[{i}]", out)


def _item_path(item: Object, at: str, out: list[Cause]) -> None:
    path = item.get("path")
    if not path:
        out.append(required(f"{at}.path"))
    else:
        check_relative(path, f"{at}.path", out)
    mode = item.get("mode")
    if mode is not None and not 0 <= mode <= 0o777:
        out.append(bad(f"{at}.mode", mode, _MODE_TEXT))


def _downward(source: Object, at: str, out: list[Cause]) -> None:
    for i, item in enumerate(source.get("items") or ()):
        where = f"{at}.items[{i}]"
        _item_path(item, where, out)
        field, resource = item.get("fieldRef"), item.get("resourceFieldRef")
        if field is not None:
            check_field_ref(field, f"{where}.fieldRef", _DOWNWARD_FIELDS, out)
            if resource is not None:
                why = "fieldRef and resourceFieldRef can not be specified simultaneously"
                out.append(bad(where, "resource", why))
        elif resource is None:
            out.append(required(f"{where}.fieldRef", "one of fieldRef and resourceFieldRef"))
        elif not resource.get("containerName"):
            out.append(required(f"{where}.resourceFieldRef.containerName"))


def _projection(one: Object, at: str, out: list[Cause]) -> None:
    present = [key for key, source in one.items() if source is not None]
    if len(present) > 1:
        why = "may not specify more than 1 volume type per source"
        out.append(forbidden(f"{at}.{present[1]}", why))
    for key in present:
        source, where = one[key], f"{at}.{key}"
        if key in ("secret", "configMap"):
            if not source.get("name"):
                out.append(required(f"{where}.name"))
            _items(source, where, out)
        elif key == "downwardAPI":
            _downward(source, where, out)
        elif key == "serviceAccountToken":
            seconds = source.get("expirationSeconds", _TOKEN_SECONDS)
            if seconds < _TOKEN_SECONDS_MIN:
                why = "may not specify a duration less than 10 minutes"
                out.append(bad(f"{where}.expirationSeconds", seconds, why))
            if not source.get("path"):
                out.append(required(f"{where}.path"))
            else:
                check_relative(source["path"], f"{where}.path", out)
