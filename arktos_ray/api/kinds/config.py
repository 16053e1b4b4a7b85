"""ConfigMap, Secret, ServiceAccount: what workloads are given to read."""

from __future__ import annotations

import base64

from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import Cause, bad, forbidden, required, too_long
from arktos_ray.api.kinds.generic import Object, Rules

DATA_BYTES_MAX = 1024 * 1024  # what clients know as the limit of both kinds
_SEALED = "field is immutable when `immutable` is set"

# type -> the keys that must be there
_SECRET_KEYS = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}
ACCOUNT_NAME = "kubernetes.io/service-account.name"
TOKEN_TYPE = "kubernetes.io/service-account-token"


def _sealed(obj: Object, old: Object, keys: tuple[str, ...], out: list[Cause]) -> None:
    """Once `immutable`, always as it is."""
    if not old.get("immutable"):
        return
    if not obj.get("immutable"):
        out.append(forbidden("immutable", _SEALED))
    out += [forbidden(key, _SEALED) for key in keys if (obj.get(key) or {}) != (old.get(key) or {})]


def _bytes_in(text: str) -> int:
    """How many bytes this base64 stands for."""
    return len(text) // 4 * 3 - text[-2:].count("=")


class ConfigMapRules(Rules):
    def check(self, obj: Object, out: list[Cause]) -> None:
        data, binary = obj.get("data") or {}, obj.get("binaryData") or {}
        size = 0
        for key, value in data.items():
            wrong = syntax.config_key(key)
            if wrong:
                out.append(bad(f"data[{key}]", key, wrong))
            if key in binary:
                out.append(bad(f"data[{key}]", key, "duplicate of key present in binaryData"))
            size += len(value) if value.isascii() else len(value.encode())
        for key, value in binary.items():
            wrong = syntax.config_key(key)
            if wrong:
                out.append(bad(f"binaryData[{key}]", key, wrong))
            size += _bytes_in(value)
        if size > DATA_BYTES_MAX:
            out.append(too_long("", DATA_BYTES_MAX))

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        _sealed(obj, old, ("data", "binaryData"), out)
        self.check(obj, out)


class SecretRules(Rules):
    def default(self, obj: Object) -> None:
        if not obj.get("type"):
            obj["type"] = "Opaque"
        plain = obj.pop("stringData", None)
        if plain:
            # Written as text, kept and read as base64; the text wins over `data`.
            data = obj.setdefault("data", {}) or {}
            for key, value in plain.items():
                data[key] = base64.b64encode(value.encode()).decode()
            obj["data"] = data

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        if not obj.get("type"):
            obj["type"] = old.get("type") or "Opaque"

    def check(self, obj: Object, out: list[Cause]) -> None:
        data = obj.get("data") or {}
        size = 0
        for key, value in data.items():
            wrong = syntax.config_key(key)
            if wrong:
                out.append(bad(f"data[{key}]", key, wrong))
            size += _bytes_in(value or "")
        if size > DATA_BYTES_MAX:
            out.append(too_long("data", DATA_BYTES_MAX))
        kind = obj.get("type")
        out += [
            required(f"data[{key}]")
            for key in _SECRET_KEYS.get(kind or "", ())
            if data.get(key) is None
        ]
        if kind == "kubernetes.io/basic-auth" and "username" not in data and "password" not in data:
            out += [required("data[username]"), required("data[password]")]
        elif kind == TOKEN_TYPE:
            annotations = (obj.get("metadata") or {}).get("annotations") or {}
            if not annotations.get(ACCOUNT_NAME):
                out.append(required(f"metadata.annotations[{ACCOUNT_NAME}]"))

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        if obj.get("type") != old.get("type"):
            out.append(bad("type", obj.get("type"), syntax.IMMUTABLE))
        _sealed(obj, old, ("data",), out)
        self.check(obj, out)
