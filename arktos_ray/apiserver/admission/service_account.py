"""ServiceAccount: every pod acts as somebody. Mounting the token is not done here. Pure."""

from __future__ import annotations

from typing import Any

DEFAULT = "default"


def apply(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    name = spec.get("serviceAccountName") or spec.get("serviceAccount") or DEFAULT
    # The old name of the field is kept equal for old clients.
    spec["serviceAccountName"] = spec["serviceAccount"] = name
