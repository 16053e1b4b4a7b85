"""Reads a kubeconfig into an Endpoint: the few fields that our own clients need."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from pathlib import Path
from typing import Any

import yaml

from arktos_ray.api.errors import BadRequest
from arktos_ray.client.http import Endpoint


def endpoint(path: Path) -> tuple[Endpoint, str]:
    """The server of the current context, and the namespace it prefers. Raises BadRequest."""
    try:
        config = yaml.safe_load(path.read_text())
        context = _named(config, "contexts", config["current-context"])["context"]
        cluster = _named(config, "clusters", context["cluster"])["cluster"]
        user = _named(config, "users", context["user"])["user"]
        url = cluster["server"]
    except OSError as error:
        raise BadRequest(f"{path}: {error.strerror}. Is the cluster up (arktos up)?") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise BadRequest(f"{path} is not a kubeconfig that can be used: {error}") from error
    tls = _tls(cluster, user) if url.startswith("https") else None
    return Endpoint(url.rstrip("/"), tls, user.get("token", "")), context.get(
        "namespace", "default"
    )


def _named(config: dict[str, Any], kind: str, name: str) -> dict[str, Any]:
    for item in config[kind]:
        if item["name"] == name:
            found: dict[str, Any] = item
            return found
    raise KeyError(f"{kind} has no {name}")


def _tls(cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
    authority = _data(cluster, "certificate-authority")
    tls = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    certificate, key = _data(user, "client-certificate"), _data(user, "client-key")
    if certificate and key:
        # The ssl module reads these from files only.
        descriptor, name = tempfile.mkstemp()
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(certificate + b"\n" + key)
            tls.load_cert_chain(name)
        finally:
            os.unlink(name)
    return tls


def _data(section: dict[str, Any], name: str) -> bytes:
    if f"{name}-data" in section:
        return base64.b64decode(section[f"{name}-data"])
    return Path(section[name]).read_bytes() if name in section else b""
