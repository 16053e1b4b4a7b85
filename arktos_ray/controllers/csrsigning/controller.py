"""Signs approved requests for client certificates, or says why it does not."""

from __future__ import annotations

import base64
import binascii

from arktos_ray.api.errors import NotFound
from arktos_ray.api.kinds.certificates import FAILED, conditions
from arktos_ray.api.names import Key
from arktos_ray.base.certificates import Subject, read_request
from arktos_ray.base.clock import rfc3339
from arktos_ray.base.pki import utc
from arktos_ray.client.index import key_of
from arktos_ray.controllers.csrsigning.plan import Asked, Fail, Object, Sign, is_due, plan
from arktos_ray.controllers.loop import Controller, ControllerClient, Loop, Parts

NAME = "csrsigning"
REQUESTS = "certificatesigningrequests.certificates.k8s.io"


class CsrSigning(Controller):
    def __init__(self, parts: Parts) -> None:
        assert parts.signer is not None
        self._client = ControllerClient(parts.client, NAME)
        self._signer, self._clock = parts.signer, parts.clock
        self._requests = parts.informers.of(REQUESTS)
        self._loop: Loop[Key] = Loop(
            NAME, self.reconcile, parts.clock, parts.tasks, workers=1, gates=(self._requests,)
        )
        self._requests.on_change(self._changed)

    def start(self) -> None:
        self._loop.start()

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None and is_due(new):
            self._loop.wake(key_of(new))

    async def reconcile(self, key: Key) -> float | None:
        csr = self._requests.index.get(key)
        if csr is None or not is_due(csr):
            return None
        status = dict(csr.get("status") or {})
        now = self._clock.now()
        decided: Sign | Fail | bytes = self._decided(csr)
        if isinstance(decided, Sign):
            subject = Subject(decided.common_name, decided.organizations, decided.units)
            try:
                decided = self._signer.sign(_pem(csr), subject, decided.seconds, utc(now))
            except ValueError as error:
                decided = Fail(f"its subject cannot be signed: {error}")
        match decided:
            case bytes():
                status["certificate"] = base64.b64encode(decided).decode()
            case Fail(why):
                at = rfc3339(int(now))
                failed = {
                    "type": FAILED, "status": "True", "reason": "SignerValidationFailure",
                    "message": why, "lastUpdateTime": at, "lastTransitionTime": at,
                }  # fmt: skip
                status["conditions"] = [*conditions(csr), failed]
        try:
            # The revision that was looked at: what was approved is what is signed.
            body = {**csr, "status": status}
            written = await self._client.update(REQUESTS, key, body, "status")
            self._loop.wrote(key, self._requests, int(written["metadata"]["resourceVersion"]))
        except NotFound:
            pass
        return None

    def _decided(self, csr: Object) -> Sign | Fail:
        try:
            found = read_request(_pem(csr))
        except ValueError:
            return plan(csr, None)
        return plan(csr, Asked(*found))


def _pem(csr: Object) -> bytes:
    """Raises ValueError."""
    try:
        return base64.b64decode(csr["spec"]["request"], validate=True)
    except (binascii.Error, KeyError, TypeError) as error:
        raise ValueError(str(error)) from None
