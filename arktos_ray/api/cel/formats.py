"""The named formats of Kubernetes, as CEL's `format` library checks them. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import date

from arktos_ray.api.kinds import syntax

Check = Callable[[str], list[str]]

_UUID = re.compile(
    r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE | re.ASCII
)
_URI = re.compile(r"([a-zA-Z][-a-zA-Z0-9+.]*:|/)[^\x00-\x20\x7f]*")
_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt]([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):?[0-5]\d)",
    re.ASCII,
)


def is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return text.startswith("0000-")
    return True


def is_moment(text: str) -> bool:
    found = _MOMENT.fullmatch(text)
    return found is not None and is_date(found[1])


def is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def is_uri(text: str) -> bool:
    return _URI.fullmatch(text) is not None


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


def _name(check: Callable[[str], str]) -> Check:
    def apply(text: str) -> list[str]:
        problem = check(text)
        return [problem] if problem else []

    return apply


def _prefix(check: Callable[[str], str]) -> Check:
    """What generateName may be: the name may end with a dash, as more is to come."""

    def apply(text: str) -> list[str]:
        problem = check(text.removesuffix("-") + "a" if text.endswith("-") else text)
        return [problem] if problem else []

    return apply


def _plain(check: Callable[[str], bool], problem: str) -> Check:
    return lambda text: [] if check(text) else [problem]


NAMED: dict[str, Check] = {
    "dns1123Label": _name(syntax.dns_label),
    "dns1123Subdomain": _name(syntax.dns_subdomain),
    "dns1035Label": _name(syntax.dns_1035_label),
    "qualifiedName": _name(syntax.qualified_name),
    "dns1123LabelPrefix": _prefix(syntax.dns_label),
    "dns1123SubdomainPrefix": _prefix(syntax.dns_subdomain),
    "dns1035LabelPrefix": _prefix(syntax.dns_1035_label),
    "labelValue": _name(syntax.label_value),
    "uri": _plain(is_uri, "invalid URI for request"),
    "uuid": _plain(is_uuid, "does not match the UUID format"),
    "byte": _plain(is_base64, "invalid base64"),
    "date": _plain(is_date, "invalid date"),
    "datetime": _plain(is_moment, "invalid datetime"),
}
