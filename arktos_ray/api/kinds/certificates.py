"""CertificateSigningRequest: somebody asks for a client certificate, others approve, one signs.

What is in the request itself is looked at where there is somebody to parse it
(apiserver/admission/certificates.py). Pure.
"""

from __future__ import annotations

from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import Cause, bad, forbidden, required, unsupported
from arktos_ray.api.kinds.generic import Object, Rules, keep

CLIENT = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
APPROVED, DENIED, FAILED = "Approved", "Denied", "Failed"
_DECISIONS = (APPROVED, DENIED)
SECONDS_MIN = 600
_SIGNER_MAX = 571  # a DNS name, a slash, and a path
USAGES = (
    "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign",
    "data encipherment", "decipher only", "digital signature", "email protection",
    "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement",
    "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth",
    "signing", "timestamping",
)  # fmt: skip


def conditions(obj: Object) -> list[Object]:
    found: list[Object] = (obj.get("status") or {}).get("conditions") or []
    return found


def is_so(obj: Object, kind: str) -> bool:
    return any(each.get("type") == kind for each in conditions(obj))


def _of(obj: Object, *, decisions: bool) -> list[Object]:
    return [c for c in conditions(obj) if (c.get("type") in _DECISIONS) == decisions]


class CertificateSigningRequestRules(Rules):
    def keep_on_update(self, obj: Object, old: Object) -> None:
        keep(obj, old, "spec")

    def keep_for(self, subresource: str, obj: Object, old: Object) -> None:
        super().keep_for(subresource, obj, old)
        status, was = dict(obj.get("status") or {}), old.get("status") or {}
        if subresource == "approval":
            # Who approves says that, and nothing of what comes of it.
            found = [*_of(obj, decisions=True), *_of(old, decisions=False)]
            status = {**was, "conditions": found}
        else:
            status["conditions"] = [*_of(old, decisions=True), *_of(obj, decisions=False)]
        if not status["conditions"]:
            del status["conditions"]
        for condition in status.get("conditions", ()):
            condition.setdefault("status", "True")
        obj["status"] = status

    def check(self, obj: Object, out: list[Cause]) -> None:
        spec: Object = obj.get("spec") or {}
        if not spec.get("request"):
            out.append(required("spec.request"))
        self._signer(spec.get("signerName") or "", out)
        usages = spec.get("usages") or []
        if not usages:
            out.append(required("spec.usages"))
        for i, usage in enumerate(usages):
            if usage not in USAGES:
                out.append(unsupported(f"spec.usages[{i}]", usage, USAGES))
        seconds = spec.get("expirationSeconds")
        if seconds is not None and seconds < SECONDS_MIN:
            why = f"may not specify a duration less than {SECONDS_MIN} seconds (10 minutes)"
            out.append(bad("spec.expirationSeconds", seconds, why))

    def _signer(self, signer: str, out: list[Cause]) -> None:
        domain, slash, path = signer.partition("/")
        if not signer:
            out.append(required("spec.signerName"))
        elif signer == "kubernetes.io/legacy-unknown":
            out.append(bad("spec.signerName", signer, "the legacy signerName is not allowed"))
        elif (
            not slash or not path or len(signer) > _SIGNER_MAX or "." not in domain
            or syntax.dns_subdomain(domain)
        ):  # fmt: skip
            why = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
            out.append(bad("spec.signerName", signer, why))

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        for kind in _DECISIONS:
            if is_so(old, kind) and not is_so(obj, kind):
                why = f"updates may not remove a condition of type {kind!r}"
                out.append(forbidden("status.conditions", why))
        if is_so(obj, APPROVED) and is_so(obj, DENIED):
            why = "Approved and Denied conditions are mutually exclusive"
            out.append(bad("status.conditions", DENIED, why))
        for i, condition in enumerate(conditions(obj)):
            if condition.get("type") in (*_DECISIONS, FAILED) and condition["status"] != "True":
                out.append(
                    unsupported(f"status.conditions[{i}].status", condition["status"], ("True",))
                )

    def check_status(self, obj: Object, old: Object, out: list[Cause]) -> None:
        self.check_update(obj, old, out)
        was = (old.get("status") or {}).get("certificate")
        if was and (obj.get("status") or {}).get("certificate") != was:
            out.append(forbidden("status.certificate", "updates may not set a new certificate"))
