"""Path and method -> a Call. Pure, and the first line of the tenant boundary.

All URL forms of the API meet here (with and without tenant, `/t/<tenant>` before everything, the
old `watch/`). Whoever is not of the system tenant is refused here for what can never be theirs:
other tenants, `tenants/all`, cluster-scoped kinds. What they may do inside is the partition's
to decide. Not here: bodies, media types, and paths that name no object (see `Local`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import unquote, unquote_plus

from arktos_ray.api import errors, scheme
from arktos_ray.api.calls import Call, User
from arktos_ray.api.custom import CUSTOM_SUBRESOURCES
from arktos_ray.api.names import (
    ALL_TENANTS,
    SYSTEM_TENANT,
    is_dns_label,
    is_path_segment,
    is_subdomain,
)

# Everything else in a query is dropped, as upstream ignores it; so no client reaches the options
# that our own parts send each other (`advance`, `progress`, `_table`).
OPTIONS = frozenset((
    "allowPartialWatch", "allowWatchBookmarks", "container", "continue", "dryRun", "fieldManager",
    "fieldSelector", "fieldValidation", "follow", "force", "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential", "includeObject",
    "insecureSkipTLSVerifyBackend", "labelSelector", "limit", "limitBytes", "orphanDependents",
    "pretty", "previous", "propagationPolicy", "resourceVersion", "resourceVersionMatch",
    "sendInitialEvents", "sinceSeconds", "sinceTime", "stream", "tailLines", "timeout",
    "timeoutSeconds", "timestamps", "watch",
))  # fmt: skip
# Discovery may say whose in its query (spec/multitenancy.md 3.3).
_ASKED_FOR = frozenset(("tenant",))
_QUERY_FIELDS_MAX = 64
_VERB_OF_OBJECT = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_VERB_OF_COLLECTION = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}
_VERB_OF_SUBRESOURCE = {**_VERB_OF_OBJECT, "POST": "create"}
_ACROSS = ("list", "watch")
# Streams and proxies: known to the API, not carried yet.
_STREAMS = frozenset(("attach", "exec", "portforward", "proxy"))
_FINAL = ("status", "finalize")


@dataclass(frozen=True, slots=True)
class Local:
    """A path that names no object: discovery, health, metrics, our own endpoints."""

    path: str  # starts with a slash, ends without one
    tenant: str  # of the /t/<tenant> prefix, or of the query, or empty
    query: dict[str, str]


_METHOD_OF_VERB = {
    "get": "GET", "list": "GET", "watch": "GET", "create": "POST", "update": "PUT",
    "patch": "PATCH", "delete": "DELETE", "deletecollection": "DELETE",
}  # fmt: skip


def request_line(call: Call) -> tuple[str, str]:
    """The method and path of a call that came without: what `route` would have made it of."""
    resource = scheme.BY_GVR.get(call.gvr)
    version = call.version or (resource.api_version if resource is not None else "v1")
    parts = ["/apis" if "/" in version else "/api", version]
    if call.tenant:
        parts += ["tenants", call.tenant]
    if call.namespace:
        parts += ["namespaces", call.namespace]
    parts += [call.gvr.partition(".")[0], call.name, call.subresource]
    query = "?watch=1" if call.verb == "watch" else ""
    return _METHOD_OF_VERB.get(call.verb, "GET"), "/".join(p for p in parts if p) + query


def truth(text: str) -> bool:
    """A boolean query parameter, as upstream reads it: only `false` and `0` are false."""
    return text.lower() not in ("false", "0")


def route(method: str, path: str, query: str, user: User) -> Call | Local:
    """The Call that a request line asks for (5 us); raises the Failure to answer with.

    The call has no body, media types or user agent yet.
    """
    segments = _segments(path)
    tenant = ""
    if segments[0] == "t" and len(segments) > 1:
        tenant = segments[1]
        segments = segments[2:] or [""]
    options = _query(query) if query else {}
    if segments[0] == "api" and len(segments) > 2 and segments[1] == "v1":
        group, version, rest = "", "v1", segments[2:]
    elif segments[0] == "apis" and len(segments) > 3:
        group, version, rest = segments[1], segments[2], segments[3:]
    else:
        if not tenant and "tenant" in query:
            tenant = _query(query, _ASKED_FOR).get("tenant", "")
            if tenant and not is_dns_label(tenant):
                raise errors.BadRequest(f"tenant: {tenant!r} cannot be the name of a tenant")
        return Local("/" + "/".join(segments), tenant, options)
    return _resource(method, group, version, rest, tenant, options, user)


def _resource(
    method: str, group: str, version: str, rest: list[str], prefix: str,
    options: dict[str, str], user: User,
) -> Call:  # fmt: skip
    watch_form = rest[0] == "watch" and len(rest) > 1
    if watch_form:
        rest = rest[1:]
    tenant, named = prefix, False
    if rest[0] == "tenants" and len(rest) > 2 and rest[2] not in _FINAL:
        tenant, named, rest = rest[1], True, rest[2:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in _FINAL:
        namespace, rest = rest[1], rest[2:]
    plural = rest[0]
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""

    if watch_form:
        verb = "watch" if method == "GET" else ""
    elif subresource:
        verb = _VERB_OF_SUBRESOURCE.get(method, "")
    elif name:
        verb = _VERB_OF_OBJECT.get(method, "")
    else:
        verb = _VERB_OF_COLLECTION.get(method, "")
        if verb == "list" and "watch" in options and truth(options["watch"]):
            verb = "watch"

    resource = scheme.BY_PATH.get((group, version, plural))
    call = Call(verb or method.lower(), plural, tenant, namespace, name, subresource, options)
    call.user = user
    if named and prefix and prefix != tenant:
        _refuse_two_tenants(call, group, prefix)
    _check_boundary(call, group, resource)

    if resource is None:
        return _custom(call, group, version, rest, watch_form)
    call.gvr = resource.gvr
    if resource.form is not None:
        call.version = resource.api_version
    if subresource in _STREAMS and subresource not in resource.subresources:
        raise errors.NotFound(f"{plural}/{subresource} is not served here yet")
    if len(rest) > 3:
        raise not_found()
    if not resource.tenanted:
        # Whoever is inside of a tenant sees nothing of the cluster, whatever they may outside.
        if named or namespace or prefix not in ("", SYSTEM_TENANT):
            raise not_found()
        call.tenant = ""
    elif resource.namespaced:
        if not namespace and name:
            raise not_found()
        if not namespace and verb not in _ACROSS and not resource.virtual:
            raise not_allowed()
    elif namespace:
        raise not_found()
    if subresource:
        verbs = resource.subresources.get(subresource)
        if verbs is None:
            raise not_found()
    else:
        verbs = resource.verbs
    if verb not in verbs:
        raise not_allowed()
    return _collected(call, watch_form)


def _collected(call: Call, watch_form: bool) -> Call:
    name, options = call.name, call.options
    if watch_form and name:
        only = f"metadata.name={name}"
        selector = options.get("fieldSelector")
        options["fieldSelector"] = f"{selector},{only}" if selector else only
        call.name = ""
    if call.tenant == ALL_TENANTS and (call.verb not in _ACROSS or name):
        raise errors.BadRequest("all tenants at once: only lists and watches are possible")
    return call


def _custom(call: Call, group: str, version: str, rest: list[str], watch_form: bool) -> Call:
    """No kind of ours, perhaps one that the tenant defined: its partition knows. By structure
    alone, so that what is refused here is refused in the same words whatever there is."""
    plural = rest[0]
    if "." not in group or not is_subdomain(group) or not is_dns_label(plural) or len(rest) > 3:
        raise not_found()
    if not is_dns_label(version):
        raise not_found()
    if call.subresource and call.subresource not in CUSTOM_SUBRESOURCES:
        raise not_found()
    verbs: tuple[str, ...] = scheme.STANDARD_VERBS
    if call.subresource:
        verbs = CUSTOM_SUBRESOURCES[call.subresource]
    if call.verb not in verbs:
        raise not_allowed()
    call.gvr, call.version = f"{plural}.{group}", f"{group}/{version}"
    return _collected(call, watch_form)


def _check_boundary(call: Call, group: str, resource: scheme.Resource | None) -> None:
    """Fills the tenant in, and refuses what no role could ever allow."""
    user = call.user
    if not call.tenant:
        if not user.tenant:
            raise errors.Internal(f'user "{user.name}" has no tenant, and the request names none')
        call.tenant = user.tenant
    elif call.tenant != user.tenant and user.tenant != SYSTEM_TENANT:
        raise forbidden(call, group)
    if resource is not None and not resource.tenanted and user.tenant != SYSTEM_TENANT:
        raise forbidden(call, group)
    if not is_dns_label(call.tenant):
        raise errors.NotFound(
            f'tenants "{call.tenant}" not found', details={"name": call.tenant, "kind": "tenants"}
        )


def _refuse_two_tenants(call: Call, group: str, prefix: str) -> NoReturn:
    """`/t/<one>/api/v1/tenants/<another>/...`"""
    if call.user.tenant == SYSTEM_TENANT:
        raise errors.BadRequest(
            f'the path names two tenants: "{prefix}" as its prefix, and then "{call.tenant}"'
        )
    if call.tenant == call.user.tenant:
        call.tenant = prefix
    raise forbidden(call, group)


def forbidden(call: Call, group: str) -> errors.Forbidden:
    """In the same words whether or not what was asked for exists. `call.gvr` is the plural."""
    plural = call.gvr
    what = f"{plural}.{group}" if group else plural
    sub = f"{plural}/{call.subresource}" if call.subresource else plural
    if call.namespace and plural != "namespaces":
        where = f'in the namespace "{call.namespace}"'
    elif call.tenant:
        where = f'in the tenant "{call.tenant}"'
    else:
        where = "at the cluster scope"
    named = f' "{call.name}"' if call.name else ""
    return errors.Forbidden(
        f'{what}{named} is forbidden: User "{call.user.name}" cannot {call.verb} resource "{sub}" '
        f'in API group "{group}" {where}',
        details={"name": call.name, "group": group, "kind": plural},
    )


def forbidden_path(user: User, method: str, path: str) -> errors.Forbidden:
    return errors.Forbidden(f'forbidden: User "{user.name}" cannot {method.lower()} path "{path}"')


def not_found() -> errors.NotFound:
    return errors.NotFound("the server could not find the requested resource")


def not_allowed() -> errors.MethodNotAllowed:
    return errors.MethodNotAllowed(
        "the server does not allow this method on the requested resource"
    )


def _segments(path: str) -> list[str]:
    segments = path.rstrip("/").split("/")[1:] or [""]
    if "%" in path:
        try:
            segments = [unquote(s, errors="strict") for s in segments]
        except UnicodeDecodeError:
            raise errors.BadRequest("the path is not UTF-8") from None
    elif "\0" not in path and "" not in segments and "." not in segments and ".." not in segments:
        return segments  # 1 us; each by itself would be 4.
    for segment in segments:
        if not is_path_segment(segment) and segments != [""]:
            raise errors.BadRequest(
                f"{segment!r} is no path segment: may not be empty, '.' or '..', "
                "or contain '/', '%' or NUL"
            )
    return segments


def _query(query: str, known: frozenset[str] = OPTIONS) -> dict[str, str]:
    pairs = query.split("&")
    if len(pairs) > _QUERY_FIELDS_MAX:
        raise errors.BadRequest("the query has too many fields")
    options: dict[str, str] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key in known and key not in options:  # The first one counts, as upstream.
            if "%" in value or "+" in value:
                try:
                    value = unquote_plus(value, errors="strict")
                except UnicodeDecodeError:
                    raise errors.BadRequest("the query is not UTF-8") from None
            options[key] = value
    return options
