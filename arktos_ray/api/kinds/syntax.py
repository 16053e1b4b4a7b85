"""The spelling rules that every kind shares: names, labels, ports, addresses, selectors.

Each function answers with what is wrong, in clients' words, or with "" when nothing is. They run
on every write, so the good case is one regular expression. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from arktos_ray.api.kinds.causes import Cause, bad, required, unsupported

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = f"({_QUALIFIED})?"
_CONFIG_KEY = "[-._a-zA-Z0-9]+"

# Lengths are checked before patterns, so that backtracking has little to walk.
_label = re.compile(_LABEL).fullmatch
_label_1035 = re.compile(_LABEL_1035).fullmatch
_subdomain = re.compile(
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
).fullmatch
_qualified = re.compile("[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?").fullmatch
_env = re.compile("[ -<>-~]+").fullmatch
_port_name = re.compile("[-a-z0-9]+").fullmatch
_config_key = re.compile(_CONFIG_KEY).fullmatch


def _regex_text(rule: str, pattern: str, *examples: str) -> str:
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{rule} (e.g. {shown}regex used for validation is '{pattern}')"


_LABEL_TEXT = _regex_text(
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and "
    "must start and end with an alphanumeric character",
    _LABEL, "my-name", "123-abc",
)  # fmt: skip
_LABEL_1035_TEXT = _regex_text(
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
    "alphabetic character, and end with an alphanumeric character",
    _LABEL_1035, "my-name", "abc-123",
)  # fmt: skip
_SUBDOMAIN_TEXT = _regex_text(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character",
    _SUBDOMAIN, "example.com",
)  # fmt: skip
_QUALIFIED_TEXT = _regex_text(
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character",
    _QUALIFIED, "MyName", "my.name", "123-abc",
)  # fmt: skip
_LABEL_VALUE_TEXT = _regex_text(
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or "
    "'.', and must start and end with an alphanumeric character",
    _LABEL_VALUE, "MyValue", "my_value", "12345",
)  # fmt: skip
_WITH_PREFIX_TEXT = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
_CONFIG_KEY_TEXT = _regex_text(
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
    _CONFIG_KEY, "key.name", "KEY_NAME", "key-name",
)  # fmt: skip
_ENV_TEXT = (
    "a valid environment variable name must consist only of printable ASCII characters other "
    "than '='"
)
POSITIVE = "must be greater than zero"
NOT_NEGATIVE = "must be greater than or equal to 0"
IMMUTABLE = "field is immutable"


def _length(limit: int) -> str:
    return f"must be no more than {limit} bytes"


def check_name(name: str | None, field: str, rule: Callable[[str], str], out: list[Cause]) -> None:
    """A name that must be there, and keep a rule of this file."""
    if not name:
        out.append(required(field))
    elif wrong := rule(name):
        out.append(bad(field, name, wrong))


def dns_label(text: str) -> str:
    if len(text) <= 63 and _label(text):
        return ""
    return _length(63) if len(text) > 63 else _LABEL_TEXT


def dns_1035_label(text: str) -> str:
    if len(text) <= 63 and _label_1035(text):
        return ""
    return _length(63) if len(text) > 63 else _LABEL_1035_TEXT


def dns_subdomain(text: str) -> str:
    if len(text) <= 253 and _subdomain(text):
        return ""
    return _length(253) if len(text) > 253 else _SUBDOMAIN_TEXT


def path_segment(text: str) -> str:
    """For kinds whose names need no more than to fit into a URL."""
    if text in (".", ".."):
        return f"may not be '{text}'"
    for character in "/%":
        if character in text:
            return f"may not contain '{character}'"
    return ""


def qualified_name(text: str) -> str:
    """`key` or `example.com/key`: label and annotation keys, finalizers, resource names."""
    # The memory of what was seen holds short texts only: 4,096 of them, under 2 MiB.
    return _qualified_name(text) if len(text) <= 317 else _qualified_name.__wrapped__(text)


@lru_cache(maxsize=4096)  # keys repeat on every object, and this costs 0.1 us instead of 1
def _qualified_name(text: str) -> str:
    prefix, slash, name = text.rpartition("/")
    if slash:
        if "/" in prefix:
            return f"a qualified name {_QUALIFIED_TEXT} {_WITH_PREFIX_TEXT}"
        if not prefix:
            return "prefix part must be non-empty"
        wrong = dns_subdomain(prefix)
        if wrong:
            return f"prefix part {wrong}"
    if not name:
        return "name part must be non-empty"
    if len(name) > 63:
        return f"name part {_length(63)}"
    return "" if _qualified(name) else f"name part {_QUALIFIED_TEXT}"


def label_value(text: str) -> str:
    if not text or (len(text) <= 63 and _qualified(text)):
        return ""
    return _length(63) if len(text) > 63 else _LABEL_VALUE_TEXT


def config_key(text: str) -> str:
    if len(text) <= 253 and _config_key(text) and text not in (".", "..") and text[:2] != "..":
        return ""
    if len(text) > 253:
        return _length(253)
    if not _config_key(text):
        return _CONFIG_KEY_TEXT
    return f"must not be '{text}'" if text in (".", "..") else "must not start with '..'"


def env_name(text: str) -> str:
    return "" if _env(text) else _ENV_TEXT


def port_name(text: str) -> str:
    """IANA_SVC_NAME: the names that ports may have."""
    if len(text) > 15:
        return "must be no more than 15 characters"
    if not _port_name(text):
        return "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if text.replace("-", "").isdigit() or text == "-" * len(text):
        return "must contain at least one letter (a-z)"
    if "--" in text:
        return "must not contain consecutive hyphens"
    if text[0] == "-" or text[-1] == "-":
        return "must not begin or end with a hyphen"
    return ""


def port_number(number: int) -> str:
    return "" if 1 <= number <= 65535 else "must be between 1 and 65535, inclusive"


def ip_family(text: str) -> int:
    """4, 6, or 0 when the text is no address. Leading zeros are refused."""
    try:
        return ipaddress.ip_address(text).version if "%" not in text else 0
    except ValueError:
        return 0


def ip_causes(text: str, field: str, out: list[Cause]) -> int:
    family = ip_family(text)
    if not family:
        why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
        out.append(bad(field, text, why))
    return family


def labels(have: dict[str, Any], field: str, out: list[Cause]) -> None:
    for key, value in have.items():
        wrong = qualified_name(key)
        if wrong:
            out.append(bad(field, key, wrong))
        if value:
            wrong = label_value(value)
            if wrong:
                out.append(bad(field, value, wrong))


def label_selector(selector: dict[str, Any], field: str, out: list[Cause]) -> None:
    """matchLabels and matchExpressions as Deployments and affinities have them."""
    match_labels = selector.get("matchLabels")
    if match_labels:
        labels(match_labels, f"{field}.matchLabels", out)
    for i, one in enumerate(selector.get("matchExpressions") or ()):
        at = f"{field}.matchExpressions[{i}]"
        operator, values = one.get("operator", ""), one.get("values") or ()
        if operator in ("In", "NotIn"):
            if not values:
                why = "must be specified when `operator` is 'In' or 'NotIn'"
                out.append(required(f"{at}.values", why))
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                out.append(Cause(f"{at}.values", "FieldValueForbidden", f"Forbidden: {why}"))
        else:
            out.append(bad(f"{at}.operator", operator, "not a valid selector operator"))
        wrong = qualified_name(one.get("key", ""))
        if wrong:
            out.append(bad(f"{at}.key", one.get("key", ""), wrong))
        for j, value in enumerate(values):
            wrong = label_value(value)
            if wrong:
                out.append(bad(f"{at}.values[{j}]", value, wrong))


def selector_matches(selector: dict[str, Any], have: dict[str, str]) -> bool:
    """Whether these labels satisfy a (valid) label selector."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if have.get(key) != value:
            return False
    for one in selector.get("matchExpressions") or ():
        key, operator, values = one.get("key"), one.get("operator"), one.get("values") or ()
        if operator == "In" and have.get(key) not in values:
            return False
        if operator == "NotIn" and key in have and have[key] in values:
            return False
        if operator == "Exists" and key not in have:
            return False
        if operator == "DoesNotExist" and key in have:
            return False
    return True


def one_of(value: Any, allowed: tuple[str, ...], field: str, out: list[Cause]) -> None:
    """A required choice: absent and unknown are both wrong."""
    if value not in allowed:
        out.append(unsupported(field, value, allowed) if value else required(field))


def not_negative(spec: dict[str, Any], key: str, at: str, out: list[Cause]) -> None:
    value = spec.get(key)
    if value is not None and value < 0:
        out.append(bad(f"{at}.{key}", value, NOT_NEGATIVE))
