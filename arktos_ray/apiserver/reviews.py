"""Asking webhooks: AdmissionReviews out, what they say back in. hooks.py says who is asked.

Mutating ones are asked one after the other, each about what the one before made of the object;
validating ones all at once. Nothing here touches the store: what was said goes into the Attempt,
and the verb runs again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson

from arktos_ray.api import codec, errors, kinds
from arktos_ray.api import patch as patches
from arktos_ray.api.calls import User
from arktos_ray.api.errors import Failure
from arktos_ray.api.scheme import Resource
from arktos_ray.apiserver import targets
from arktos_ray.apiserver.admission import matching
from arktos_ray.apiserver.hooks import Attempt, Chosen, Hook, Outside
from arktos_ray.apiserver.outside import Outside as Way
from arktos_ray.apiserver.partition import Partition, copied, is_dry_run, stored_form
from arktos_ray.apiserver.targets import Unreachable

Object = dict[str, Any]

# Of one tenant at once: with webhooks of 10 ms that is thousands a second. Then 429.
REVIEWS_PER_TENANT_MAX = 64
# Of all tenants. Each holds an object or two. Then 429.
REVIEWS_MAX = 1_024
# Their bodies. Three copies and more are in memory while webhooks are asked. Then 429.
REVIEW_BYTES_PER_TENANT_MAX = 16 << 20
REVIEW_BYTES_MAX = 128 << 20
# All webhooks of one call together, whatever timeouts they have: clients give up after 60.
REVIEW_S = 45.0
# What webhooks may say in one warning, and in all of one answer.
_WARNING_CHARS = 256
_WARNINGS_CHARS = 4_096
# And in a refusal: our own parts keep it until they ask again, and write it into status.
_MESSAGE_CHARS = 8_192
_CAUSES_BYTES = 16_384
# What those of one call may say to the audit log.
_AUDIT_CHARS = 32_768
_VERSIONS = ("v1", "v1beta1")
_TENANT = "arktos.futurewei.com/tenant"
# What a webhook cannot change about an object.
_IDENTITY = (
    "name", "namespace", "tenant", "uid", "hashKey", "creationTimestamp", "resourceVersion",
    "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields",
)  # fmt: skip
_REASONS = frozenset((
    "BadRequest", "Unauthorized", "Forbidden", "NotFound", "AlreadyExists", "Conflict", "Gone",
    "Invalid", "MethodNotAllowed", "NotAcceptable", "RequestEntityTooLarge", "TooManyRequests",
    "UnsupportedMediaType", "InternalError", "Timeout", "ServerTimeout", "ServiceUnavailable",
))  # fmt: skip
_OPTIONS = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}


class Denied(Failure):
    """A webhook said no, in its own words."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None) -> None:
        super().__init__(message, details=details)
        self.code, self.reason = code, reason  # type: ignore[misc]


class _Unanswered(Exception):
    """A webhook did not say anything that we understand."""


class Reviews:
    def __init__(self, partition: Partition, outside: Way) -> None:
        self._partition = partition
        self.outside = outside
        self._asking: Counter[str] = Counter()  # calls, by tenant
        self._bytes: Counter[str] = Counter()
        self._calls_total = self._bytes_total = 0

    @contextlib.contextmanager
    def room(self, tenant: str, size: int) -> Iterator[None]:
        """size: of the body. Raises TooManyRequests."""
        if (
            self._asking[tenant] >= REVIEWS_PER_TENANT_MAX
            or self._calls_total >= REVIEWS_MAX
            or self._bytes[tenant] + size > REVIEW_BYTES_PER_TENANT_MAX
            or self._bytes_total + size > REVIEW_BYTES_MAX
        ):
            raise errors.TooManyRequests(
                "too many requests wait for webhooks; try again", details={"retryAfterSeconds": 1}
            )
        self._count(tenant, 1, size)
        try:
            yield
        finally:
            self._count(tenant, -1, -size)

    def _count(self, tenant: str, calls: int, size: int) -> None:
        self._asking[tenant] += calls
        self._bytes[tenant] += size
        self._calls_total += calls
        self._bytes_total += size
        if not self._asking[tenant]:
            del self._asking[tenant], self._bytes[tenant]

    async def ask(self, what: Outside, attempt: Attempt) -> None:
        """Raises a Failure when the answer is no, or none came from one that must answer."""
        spent = matching.Spent()
        if what.hooks[0].hook.mutating:
            await self._mutate(what, attempt, spent)
        else:
            asking = [
                asyncio.ensure_future(self._one(what, one, what.new, attempt, spent))
                for one in what.hooks
            ]
            try:
                await asyncio.gather(*asking)
            finally:
                for each in asking:
                    each.cancel()
                await asyncio.gather(*asking, return_exceptions=True)

    async def _mutate(self, what: Outside, attempt: Attempt, spent: matching.Spent) -> None:
        obj, again = what.new, []
        for one in what.hooks:
            before = obj
            obj = await self._one(what, one, obj, attempt, spent)
            if obj != before:
                # Whoever saw it before that, and wants to, sees it once more.
                again += [each for each in _before(what.hooks, one) if each not in again]
        for one in again:
            if one.hook.spec.get("reinvocationPolicy") == "IfNeeded":
                obj = await self._one(what, one, obj, attempt, spent)
        if obj is not None and what.new is not None and obj != what.new:
            attempt.object, attempt.mutated = _identical(obj, what.new), True

    async def _one(
        self, what: Outside, chosen: Chosen, obj: Object | None, attempt: Attempt,
        spent: matching.Spent,
    ) -> Object | None:  # fmt: skip
        """The object as this webhook wants it. Raises a Failure."""
        hook, settled = chosen.hook, self._partition.conversions.settled
        try:
            # Of a custom kind the version that it wants may have to be asked for, too.
            request = await settled(lambda: self._request(what, chosen, obj))
            if not self._wanted(hook, request, spent):
                return obj
            if request["dryRun"] and hook.spec.get("sideEffects") not in ("None", "NoneOnDryRun"):
                text = f'admission webhook "{hook.name}" does not support dry run'
                raise errors.BadRequest(text)
            async with asyncio.timeout(hook.timeout_s):
                response = await self._answer(hook, request)
            obj = await settled(lambda: _patched(what, chosen, obj, response))
        except _Unanswered as why:
            failed = f'failed calling webhook "{hook.name}": {why}'
        except TimeoutError:
            failed = f'failed calling webhook "{hook.name}": failed to call webhook: timed out'
        else:
            self._note(hook, response, attempt)
            if not response.get("allowed"):
                raise _denied(hook, response)
            return obj
        if hook.fails:
            raise errors.Internal(f"Internal error occurred: {failed}")
        attempt.audit[f"failed-open.{hook.name}"] = failed
        return obj

    def _wanted(self, hook: Hook, request: Object, spent: matching.Spent) -> bool:
        conditions = hook.spec.get("matchConditions")
        if not conditions:
            return True
        values = {
            "object": request["object"], "oldObject": request["oldObject"], "request": request,
            "authorizer": None,
        }  # fmt: skip
        holds, why = matching.condition_failure(conditions, values, spent)
        if why:
            if hook.fails:
                raise errors.Forbidden(
                    f'webhook "{hook.name}" match conditions could not be evaluated: {why}'
                )
            return False
        return holds

    async def _answer(self, hook: Hook, request: Object) -> Object:
        versions = hook.spec.get("admissionReviewVersions") or ()
        version = next((one for one in versions if one in _VERSIONS), None)
        if version is None:
            raise _Unanswered("no version of AdmissionReview in common")
        review = {
            "kind": "AdmissionReview", "apiVersion": f"admission.k8s.io/{version}",
            "request": request,
        }  # fmt: skip
        try:
            target = targets.resolve(
                hook.tenant, hook.spec["clientConfig"], self._lookup(hook.tenant), hook.timeout_s
            )
            body = await self.outside.post(target, orjson.dumps(review), hook.timeout_s)
        except Unreachable as why:
            raise _Unanswered(f"failed to call webhook: {why}") from None
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise _Unanswered(f"failed to call webhook: {error}") from None
        return _understood(answer, review)

    def _lookup(self, tenant: str) -> targets.Lookup:
        store = self._partition.store

        def lookup(gvr: str, namespace: str, name: str) -> Object | None:
            record = store.get(gvr, f"{tenant}/{namespace}/{name}")
            return None if record is None else record.decode()

        return lookup

    def _request(self, what: Outside, chosen: Chosen, obj: Object | None) -> Object:
        call, asked, user = what.call, what.asked, what.call.user
        plain = what.kind is None
        name = call.name or ((what.new or what.old or {}).get("metadata") or {}).get("name") or ""
        request: Object = {
            "uid": self._partition.ids.uid(),
            "kind": _kind(what, chosen.resource),
            "resource": _names(chosen.resource),
            "requestKind": _kind(what, asked.resource),
            "requestResource": _names(asked.resource),
            "name": name,
            "operation": asked.operation,
            "userInfo": _user_info(user),
            "object": _shown(chosen.resource, obj) if plain else obj,
            "oldObject": _shown(chosen.resource, what.old) if plain else what.old,
            "dryRun": is_dry_run(call),
            "options": _options(call.options, asked.operation),
        }
        if asked.subresource:
            request["subResource"] = request["requestSubResource"] = asked.subresource
        if what.resource.namespaced:
            request["namespace"] = what.namespace
        elif what.resource.gvr == "namespaces":
            request["namespace"] = name
        return request

    def _note(self, hook: Hook, response: Object, attempt: Attempt) -> None:
        room = _WARNINGS_CHARS - sum(len(one) for one in attempt.warnings)
        for one in response.get("warnings") or ():
            text = str(one)[:_WARNING_CHARS]
            room -= len(text)
            if room >= 0:
                attempt.warnings.append(text)
        left = _AUDIT_CHARS - sum(len(k) + len(v) for k, v in attempt.audit.items())
        for key, value in (response.get("auditAnnotations") or {}).items():
            name, text = f"{hook.name}/{key}", str(value)
            left -= len(name) + len(text)
            if left >= 0:
                attempt.audit[name] = text


def _before(hooks: list[Chosen], one: Chosen) -> list[Chosen]:
    return hooks[: hooks.index(one)]


def _user_info(user: User) -> Object:
    """Names are the same in several tenants, so it says whose user this is."""
    extra = {key: list(values) for key, values in user.extra}
    found: Object = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        found["uid"] = user.uid
    return {**found, "extra": {**extra, _TENANT: [user.tenant]}}


def _options(given: dict[str, str], operation: str) -> Object:
    options: Object = {"kind": _OPTIONS[operation], "apiVersion": "meta.k8s.io/v1"}
    for key in ("fieldManager", "fieldValidation"):
        if given.get(key):
            options[key] = given[key]
    if given.get("dryRun"):
        options["dryRun"] = [given["dryRun"]]
    return options


def _understood(answer: Any, review: Object) -> Object:
    """The response in an AdmissionReview. Raises _Unanswered."""
    start = "received invalid webhook response: "
    if not isinstance(answer, dict) or not isinstance(answer.get("response"), dict):
        raise _Unanswered("webhook response was absent")
    response: Object = answer["response"]
    version = review["apiVersion"]
    if version.endswith("/v1"):
        for key in ("kind", "apiVersion"):
            if answer.get(key) != review[key]:
                want, got = f"{version}, Kind=AdmissionReview", (
                    f"{answer.get('apiVersion', '')}, Kind={answer.get('kind', '')}"
                )  # fmt: skip
                raise _Unanswered(f"{start}expected webhook response of {want}, got {got}")
        uid = review["request"]["uid"]
        if response.get("uid") != uid:
            got = response.get("uid") or ""
            raise _Unanswered(f'{start}expected response.uid="{uid}", got "{got}"')
        if response.get("patch") and response.get("patchType") != "JSONPatch":
            text = response.get("patchType") or ""
            raise _Unanswered(f'{start}invalid response.patchType "{text}", expected "JSONPatch"')
    for key, kind in (("status", dict), ("warnings", list), ("auditAnnotations", dict)):
        if response.get(key) is not None and not isinstance(response[key], kind):
            raise _Unanswered(f"{start}response.{key} is of another type")
    return response


def _kind(what: Outside, resource: Resource) -> Object:
    group, version, kind = what.kind or (resource.group, resource.version, resource.kind)
    return {"group": group, "version": version, "kind": kind}


def _names(resource: Resource) -> Object:
    return {"group": resource.group, "version": resource.version, "resource": resource.plural}


def _shown(resource: Resource, obj: Object | None) -> Object | None:
    """In the version that the webhook wants."""
    return obj if obj is None or resource.form is None else resource.form.from_stored(copied(obj))


def _patched(what: Outside, chosen: Chosen, obj: Object | None, response: Object) -> Object | None:
    """The object after the response's patch, whole and of the right types. Raises _Unanswered."""
    hook, resource, patch = chosen.hook, chosen.resource, response.get("patch")
    if not patch or not hook.mutating or not response.get("allowed"):
        return obj
    if obj is None:
        raise _Unanswered("a deletion cannot be patched")
    try:
        operations = orjson.loads(base64.b64decode(patch, validate=True))
        if what.kind is not None:
            changed = patches.json_patch(copied(obj), operations)
        else:
            changed = patches.json_patch(_shown(resource, copied(obj)) or {}, operations)
            changed = stored_form(resource, codec.validate(changed, resource, "Ignore").obj)
            kinds.rules_of(resource).default(changed)
        if not isinstance(changed.get("metadata"), dict):
            raise _Unanswered("the patched object has no metadata")
    except (Failure, ValueError, TypeError, AttributeError) as error:
        text = error.message if isinstance(error, Failure) else str(error)
        raise _Unanswered(f"the patch does not apply: {text}") from error
    return changed


def _identical(changed: Object, sent: Object) -> Object:
    """With the identity that it had: that is not a webhook's to change."""
    meta, was = changed["metadata"], sent.get("metadata") or {}
    for key in _IDENTITY:
        if key in was:
            meta[key] = was[key]
        else:
            meta.pop(key, None)
    for key in ("kind", "apiVersion"):
        if key in sent:
            changed[key] = sent[key]
    return changed


def _denied(hook: Hook, response: Object) -> Denied:
    status = response.get("status") or {}
    start = f'admission webhook "{hook.name}" denied the request'
    message, reason = str(status.get("message") or ""), str(status.get("reason") or "")
    message, reason = message[:_MESSAGE_CHARS], reason[:_MESSAGE_CHARS]
    text = f"{start}: {message or reason}" if message or reason else f"{start} without explanation"
    code = status.get("code")
    if type(code) is not int or not 400 <= code < 600:
        code = 400
    # Some reasons and details are what our own parts say to each other: not a tenant's to say.
    said = status.get("details") if code in (403, 409, 422) else None
    causes = said.get("causes") if isinstance(said, dict) else None
    short = isinstance(causes, list) and len(orjson.dumps(causes)) <= _CAUSES_BYTES
    details = {"causes": causes} if short else None
    return Denied(code, reason if reason in _REASONS else "", text, details)
