"""Requests for certificates: who asks is written down, what is asked can be read, and who approves
may. Raises Failures."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from arktos_ray.api import errors
from arktos_ray.api.calls import Call
from arktos_ray.api.kinds.certificates import APPROVED, CLIENT, DENIED, conditions
from arktos_ray.apiserver import authz
from arktos_ray.apiserver.rights import RightsOfTenants
from arktos_ray.base.certificates import read_request
from arktos_ray.tenancy.roles import SUPER_GROUP

Object = dict[str, Any]

GROUP = "certificates.k8s.io"
_DECISIONS = (APPROVED, DENIED)


def note_requester(call: Call, csr: Object) -> None:
    """As the server knows them, whatever the request says of itself."""
    spec, user = csr.setdefault("spec", {}), call.user
    said: Object = {
        "username": user.name, "uid": user.uid, "groups": list(user.groups),
        "extra": {key: list(values) for key, values in user.extra},
    }  # fmt: skip
    for key, value in said.items():
        if value:
            spec[key] = value
        else:
            spec.pop(key, None)


def check_request(csr: Object) -> None:
    spec = csr["spec"]
    try:
        found = read_request(base64.b64decode(spec["request"], validate=True))
    except (ValueError, binascii.Error) as error:
        raise errors.Invalid(
            f'CertificateSigningRequest.{GROUP} "{csr["metadata"].get("name", "")}" is invalid: '
            f"spec.request: Invalid value: PEM block type must be CERTIFICATE REQUEST: {error}"
        ) from None
    if spec.get("signerName") == CLIENT and SUPER_GROUP in (*found.organizations, *found.units):
        raise _forbidden(csr, f"use of {CLIENT} signer with {SUPER_GROUP} group is not allowed")


def check_approval(rights: RightsOfTenants, call: Call, new: Object, old: Object) -> None:
    """Whoever decides about a request may approve for its signer."""
    if _said(new, decisions=True) != _said(old, decisions=True):
        _check_may(rights, call, new, "approve")


def check_signing(rights: RightsOfTenants, call: Call, new: Object, old: Object) -> None:
    if new.get("status") != old.get("status"):
        _check_may(rights, call, new, "sign")


def _check_may(rights: RightsOfTenants, call: Call, csr: Object, verb: str) -> None:
    signer = csr["spec"].get("signerName") or ""
    for name in (signer, signer.partition("/")[0] + "/*"):
        if authz.may(rights, call.user, verb, GROUP, "signers", "", "", name, ""):
            return
    raise _forbidden(csr, f'user not permitted to {verb} requests with signerName "{signer}"')


def _said(csr: Object, *, decisions: bool) -> list[Object]:
    return [c for c in conditions(csr) if (c.get("type") in _DECISIONS) == decisions]


def _forbidden(csr: Object, why: str) -> errors.Forbidden:
    name = csr["metadata"].get("name", "")
    return errors.Forbidden(f'certificatesigningrequests.{GROUP} "{name}" is forbidden: {why}')
