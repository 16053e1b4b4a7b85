"""/openapi/v2 and /openapi/v3, derived from `api/scheme.py` and `api/schemas.py`.

kubectl validates, explains and applies with these: definitions carry their kinds and merge keys,
PATCH operations carry the query parameters that we understand. kubectl up to 1.28 wants v2 in the
protobuf form of gnostic, written here from a table of its messages.

Paths are the ordinary ones; with `/tenants/{tenant}` in front they are the same again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import Any, NamedTuple

import orjson

from arktos_ray.api import discovery, schemas
from arktos_ray.api.custom.described import Described
from arktos_ray.api.custom.schema import openapi_v2
from arktos_ray.api.schemas import Field
from arktos_ray.api.scheme import OLDER, RESOURCES, Resource, Scope

Document = dict[str, Any]

_META = "k8s.io.apimachinery.pkg.apis.meta.v1."
_DELETE_OPTIONS, _STATUS = _META + "DeleteOptions", _META + "Status"
_OBJECT_META, _LIST_META = _META + "ObjectMeta", _META + "ListMeta"
# Before the names of what is no message.
_CUSTOM = "custom:"
# Types that JSON spells as a simple value, and that clients know by these names.
_SPECIAL: dict[str, tuple[str, Document]] = {
    "quantity": ("k8s.io.apimachinery.pkg.api.resource.Quantity", {"type": "string"}),
    "int-or-string": (
        "k8s.io.apimachinery.pkg.util.intstr.IntOrString",
        {"type": "string", "format": "int-or-string"},
    ),
    "time": (_META + "Time", {"type": "string", "format": "date-time"}),
    "micro-time": (_META + "MicroTime", {"type": "string", "format": "date-time"}),
    "duration": (_META + "Duration", {"type": "string"}),
    "fields-v1": (_META + "FieldsV1", {"type": "object"}),
    "any": ("k8s.io.apimachinery.pkg.runtime.RawExtension", {"type": "object"}),
}
_SPECIAL_V3: dict[str, Document] = {
    "quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "int-or-string": {
        "oneOf": [{"type": "integer"}, {"type": "string"}],
        "format": "int-or-string",
    },
}


def v2_json(custom: Sequence[Resource] = ()) -> bytes:
    """Swagger 2.0 as JSON, about 0.4 MB.

    Of the kinds that a tenant defined it has what they look like, not their paths: who reads this
    version looks for those of built-in kinds only.
    """
    document = _v2()
    if custom:
        definitions = dict(document["definitions"])
        for resource in _named(custom):
            definitions |= _V2.own(resource)
        document = {**document, "definitions": definitions}
    return orjson.dumps(document)


def v2_protobuf(custom: Sequence[Resource] = ()) -> bytes:
    """The same as an `openapi.v2.Document` of gnostic.

    In protobuf two messages one after the other are one with the fields of both.
    """
    own = [
        _own_v2_protobuf(
            r.group, r.version, r.plural, r.kind, r.custom.list_kind, r.custom.source
        )
        for r in custom
    ]  # fmt: skip
    return b"".join((_v2_protobuf(), *own))


@lru_cache(maxsize=2_000)
def _own_v2_protobuf(
    group: str, version: str, plural: str, kind: str, list_kind: str, source: bytes
) -> bytes:
    """3 ms for a schema of 4 KB, and most stay as they are when one is added: 10 KB each."""
    resource = Resource(
        group, version, plural, kind, "", Scope.TENANT, f"{_CUSTOM}{group}/{version}.{kind}",
        custom=Described(list_kind, source),
    )  # fmt: skip
    return _encode("Document", {"definitions": _v2_own(resource)})


@cache
def _v2_protobuf() -> bytes:
    return _encode("Document", _v2())


_SERVED = (*RESOURCES, *OLDER)


def v3_index(custom: Sequence[Resource] = ()) -> Document:
    """What /openapi/v3 lists. The hash changes with the document, clients cache by it."""
    paths = dict(_static_index())
    for path, rows in _by_version(custom).items():
        told = orjson.dumps(
            [[r.kind, r.plural, str(r.scope), r.custom.list_kind, sorted(r.subresources),
              r.custom.source.decode()] for r in rows]
        )  # fmt: skip
        paths[path] = _listed(
            path, told + paths.get(path, {}).get("serverRelativeURL", "").encode()
        )
    return {"paths": paths}


@cache
def _static_index() -> Document:
    return {path: _listed(path, v3(path) or b"") for path in _group_versions()}


def _listed(path: str, what: bytes) -> Document:
    tag = hashlib.sha256(what).hexdigest()[:32].upper()
    return {"serverRelativeURL": f"/openapi/v3/{path}?hash={tag}"}


def _by_version(resources: Iterable[Resource]) -> dict[str, list[Resource]]:
    found: dict[str, list[Resource]] = {}
    for resource in resources:
        found.setdefault(_prefix(resource), []).append(resource)
    return found


def _named(custom: Iterable[Resource]) -> list[Resource]:
    """With a name for what their objects look like, as other kinds have the name of a message."""
    return [replace(r, schema=f"{_CUSTOM}{r.group}/{r.version}.{r.kind}") for r in custom]


@cache
def _v3_of(path: str) -> bytes:
    return _v3_document(_group_versions()[path])


def _v3_document(resources: Sequence[Resource]) -> bytes:
    paths, definitions = _described(resources, _V3)
    document = {
        "openapi": "3.0.0",
        "info": _info(),
        "paths": paths,
        "components": {"schemas": definitions},
    }
    return orjson.dumps(document)


def v3(group_version: str, custom: Sequence[Resource] = ()) -> bytes | None:
    """OpenAPI 3.0 of one group version: `api/v1`, `apis/apps/v1`. None if it is not served."""
    own = [r for r in custom if _prefix(r) == group_version]
    if own:
        return _v3_document([*_group_versions().get(group_version, ()), *_named(own)])
    return _v3_of(group_version) if group_version in _group_versions() else None


@cache
def _group_versions() -> dict[str, list[Resource]]:
    return _by_version(_SERVED)


@cache
def _v2() -> Document:
    paths, definitions = _described(_SERVED, _V2)
    return {"swagger": "2.0", "info": _info(), "paths": paths, "definitions": definitions}


def _info() -> Document:
    return {"title": "Arktos-Ray", "version": discovery.version_document()["gitVersion"]}


def _prefix(resource: Resource) -> str:
    return f"apis/{resource.api_version}" if resource.group else f"api/{resource.version}"


# What v2 and v3 share


class _Dialect(NamedTuple):
    reference: str  # what stands before a name in $ref
    operation: Callable[[_Operation, _Dialect], Document]
    field: Callable[[Field, Document, _Dialect], Document]
    parameter: Callable[[str], Document]  # the type of a query or path parameter
    special: dict[str, Document]  # special types that differ from v2
    own: Callable[[Resource], Document]  # the definitions of a kind that a tenant defined


class _Operation(NamedTuple):
    verb: str  # of HTTP
    action: str  # of the API
    resource: Resource
    answer: discovery.Answer
    body: str = ""  # the message that is sent, if any
    reply: str = ""  # the message that comes back, if any
    queries: tuple[tuple[str, str], ...] = ()
    suffix: str = ""  # makes the operation's id unique


_FIELD_MANAGER = (("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"))
_LIST = (
    ("allowWatchBookmarks", "boolean"), ("continue", "string"), ("fieldSelector", "string"),
    ("labelSelector", "string"), ("limit", "integer"), ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"), ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"), ("watch", "boolean"),
)  # fmt: skip
_DELETE = (
    ("dryRun", "string"), ("gracePeriodSeconds", "integer"), ("propagationPolicy", "string"),
)  # fmt: skip
_PATCH_TYPES = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
]
_JSON_TYPES = ["application/json", "application/yaml"]
_BODY_TYPES = [*_JSON_TYPES, "application/vnd.kubernetes.protobuf"]


def _consumed(operation: _Operation) -> list[str]:
    custom = operation.resource.custom is not None
    if operation.action == "patch":
        return [one for one in _PATCH_TYPES if not (custom and "strategic" in one)]
    return _JSON_TYPES if custom else _BODY_TYPES


def _described(resources: Iterable[Resource], dialect: _Dialect) -> tuple[Document, Document]:
    """The paths of some resources, and the definitions that these reach."""
    paths: Document = {}
    wanted = {_DELETE_OPTIONS}
    own: Document = {}
    for resource in resources:
        wanted.add(resource.schema)
        if resource.custom is not None:
            own |= dialect.own(resource)
            wanted |= {_OBJECT_META, _LIST_META}
        for path, parameters, operations in _paths_of(resource):
            item: Document = {}
            if parameters:
                item["parameters"] = [
                    {"name": name, "in": "path", "required": True, **dialect.parameter("string")}
                    for name in parameters
                ]
            for operation in operations:
                wanted |= {operation.body, operation.reply} - {""}
                item[operation.verb] = dialect.operation(operation, dialect)
            paths[path] = item
    found = _definitions({name for name in wanted if not name.startswith(_CUSTOM)}, dialect)
    return paths, {**found, **own}


def _paths_of(resource: Resource) -> Iterator[tuple[str, list[str], list[_Operation]]]:
    """(path, parameters in the path, operations) of one resource."""
    root = f"/{_prefix(resource)}"
    inside = f"{root}/namespaces/{{namespace}}" if resource.namespaced else root
    above = ["namespace"] if resource.namespaced else []
    own = discovery.answer_of(resource, "")
    objects = resource.schema + "List"
    if resource.custom is not None:
        objects = resource.schema.removesuffix(resource.kind) + resource.custom.list_kind

    def listing(suffix: str = "") -> _Operation:
        return _Operation("get", "list", resource, own, "", objects, _LIST, suffix)

    def collection() -> Iterator[_Operation]:
        if "list" in resource.verbs:
            yield listing()
        if "create" in resource.verbs:
            yield _Operation("post", "post", resource, own, own.schema, own.schema, _FIELD_MANAGER)
        if "deletecollection" in resource.verbs:
            yield _Operation(
                "delete", "deletecollection", resource, own, _DELETE_OPTIONS, _STATUS,
                (*_LIST[1:7], *_DELETE), "Collection",
            )  # fmt: skip

    if operations := list(collection()):
        yield f"{inside}/{resource.plural}", above, operations
    if operations := list(_singular(resource, own, resource.verbs)):
        yield f"{inside}/{resource.plural}/{{name}}", [*above, "name"], operations
    if resource.namespaced and "list" in resource.verbs:
        yield f"{root}/{resource.plural}", [], [listing("ForAllNamespaces")]
    for name, verbs in sorted(resource.subresources.items()):
        answer = discovery.answer_of(resource, name)
        if operations := list(_singular(resource, answer, verbs, name)):
            yield f"{inside}/{resource.plural}/{{name}}/{name}", [*above, "name"], operations


def _singular(
    resource: Resource, answer: discovery.Answer, verbs: tuple[str, ...], subresource: str = ""
) -> Iterator[_Operation]:
    """The operations on one object, or on one of its subresources."""
    suffix = subresource.capitalize()
    body = answer.schema
    streamed = not body or subresource == "log"
    for verb in verbs:
        match verb:
            case "get" | "create" if streamed:
                http = "get" if verb == "get" else "post"
                yield _Operation(http, "connect", resource, answer, suffix=suffix)
            case "get":
                yield _Operation("get", "get", resource, answer, "", body, suffix=suffix)
            case "create" if subresource:
                queries = _FIELD_MANAGER
                yield _Operation("post", "post", resource, answer, body, body, queries, suffix)
            case "update":
                queries = _FIELD_MANAGER
                yield _Operation("put", "put", resource, answer, body, body, queries, suffix)
            case "patch":
                yield _Operation(
                    "patch", "patch", resource, answer, _META + "Patch", body,
                    (*_FIELD_MANAGER, ("force", "boolean")), suffix,
                )  # fmt: skip
            case "delete":
                yield _Operation(
                    "delete", "delete", resource, answer, _DELETE_OPTIONS, _STATUS, _DELETE, suffix
                )


def _common(operation: _Operation) -> Document:
    resource, answer = operation.resource, operation.answer
    where = "".join(part.capitalize() for part in resource.api_version.split("/"))
    scope = "Namespaced" if resource.namespaced else ""
    word = {"post": "create", "put": "replace", "get": "read"}.get(
        operation.action, operation.action
    )
    return {
        "operationId": f"{word}{where}{scope}{resource.kind}{operation.suffix}",
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": {
            "group": answer.group,
            "version": answer.version,
            "kind": answer.kind,
        },
    }


def _definitions(wanted: set[str], dialect: _Dialect) -> Document:
    """These messages and what they refer to, under the names that clients know."""
    definitions: Document = {}
    queue, seen = sorted(wanted), set(wanted)
    while queue:
        name = queue.pop()
        if name == _META + "Patch":
            definitions[_public(name)] = {"type": "object", "description": "A change to an object."}
            continue
        message = schemas.message(name)
        properties = {}
        for field in message.fields.values():
            if field.type in _SPECIAL:
                special, shape = _SPECIAL[field.type]
                definitions[_public(special)] = dialect.special.get(field.type, shape)
            elif field.is_message and field.type not in seen:
                seen.add(field.type)
                queue.append(field.type)
            properties[field.name] = dialect.field(field, _shape(field, dialect), dialect)
        definition: Document = {"type": "object", "properties": properties}
        if message.description:
            definition["description"] = message.description
        if required := [field.name for field in message.fields.values() if field.required]:
            definition["required"] = required
        if kinds := _kinds(message):
            definition["x-kubernetes-group-version-kind"] = kinds
        definitions[_public(name)] = definition
    return dict(sorted(definitions.items()))


def _kinds(message: schemas.Message) -> list[Document]:
    if message.name == _DELETE_OPTIONS:
        versions = dict.fromkeys((r.group, r.version) for r in _SERVED)
        kinds = [(group, version, "DeleteOptions") for group, version in versions]
    elif message.kind:
        kinds = [message.kind]
    else:
        return []
    return [{"group": group, "version": version, "kind": kind} for group, version, kind in kinds]


def _public(name: str) -> str:
    """k8s.io.api.core.v1.Pod -> io.k8s.api.core.v1.Pod"""
    if name.startswith(_CUSTOM):
        group, _, rest = name.removeprefix(_CUSTOM).partition("/")
        return ".".join([*reversed(group.split(".")), rest])
    if name.startswith("k8s.io."):
        return "io.k8s." + name.removeprefix("k8s.io.")
    return "io." + name


def _shape(field: Field, dialect: _Dialect) -> Document:
    """The type of a field, without what is said about the field itself."""
    item = _item(field, dialect)
    if field.shape == "list":
        return {"type": "array", "items": item}
    if field.shape == "map":
        return {"type": "object", "additionalProperties": item}
    return item


def _item(field: Field, dialect: _Dialect) -> Document:
    if field.type in _SPECIAL:
        return {"$ref": dialect.reference + _public(_SPECIAL[field.type][0])}
    if field.is_message:
        return {"$ref": dialect.reference + _public(field.type)}
    match field.type:
        case "integer":
            return {"type": "integer", "format": f"int{field.bits}"}
        case "number":
            return {"type": "number", "format": "double"}
        case "bytes":
            return {"type": "string", "format": "byte"}
        case "strings":
            return {"type": "array", "items": {"type": "string"}}
    return {"type": field.type}


def _marks(field: Field) -> Document:
    """How the field merges, and what it is for."""
    marks: Document = {}
    if field.description:
        marks["description"] = field.description
    if field.list_type:
        marks["x-kubernetes-list-type"] = field.list_type
    if field.map_keys:
        marks["x-kubernetes-list-map-keys"] = list(field.map_keys)
    if field.map_type == "atomic":
        marks["x-kubernetes-map-type"] = "atomic"
    if field.patch_merge_key:
        marks["x-kubernetes-patch-merge-key"] = field.patch_merge_key
    if field.patch_strategy:
        marks["x-kubernetes-patch-strategy"] = ",".join(field.patch_strategy)
    return marks


# v2


def _v2_field(field: Field, shape: Document, dialect: _Dialect) -> Document:
    return {**shape, **_marks(field)}


def _v2_type(kind: str) -> Document:
    return {"type": kind}


def _v2_operation(operation: _Operation, dialect: _Dialect) -> Document:
    def reference(name: str) -> Document:
        return {"$ref": dialect.reference + _public(name)}

    parameters: list[Document] = [
        {"name": name, "in": "query", **_v2_type(kind)} for name, kind in operation.queries
    ]
    if operation.body:
        body: Document = {"name": "body", "in": "body", "schema": reference(operation.body)}
        if operation.body != _DELETE_OPTIONS:
            body["required"] = True
        parameters.append(body)
    reply: Document = {"description": "OK"}
    if operation.reply:
        reply["schema"] = reference(operation.reply)
    return {
        **_common(operation),
        "consumes": _consumed(operation),
        "produces": _JSON_TYPES,
        "parameters": parameters,
        "responses": {"200": reply},
    }


# v3


def _v3_field(field: Field, shape: Document, dialect: _Dialect) -> Document:
    # OpenAPI 3.0 ignores whatever stands beside a $ref.
    marks = _marks(field)
    if "$ref" in shape and marks:
        return {"allOf": [shape], **marks}
    return {**shape, **marks}


def _v3_type(kind: str) -> Document:
    return {"schema": {"type": kind}}


def _v3_operation(operation: _Operation, dialect: _Dialect) -> Document:
    def content(name: str, media_types: list[str]) -> Document:
        schema = {"$ref": dialect.reference + _public(name)}
        return {"content": {media: {"schema": schema} for media in media_types}}

    document = {
        **_common(operation),
        "parameters": [
            {"name": name, "in": "query", **_v3_type(kind)} for name, kind in operation.queries
        ],
        "responses": {"200": {"description": "OK"}},
    }
    if operation.body:
        document["requestBody"] = content(operation.body, _consumed(operation))
    if operation.reply:
        document["responses"]["200"] |= content(operation.reply, _JSON_TYPES)
    return document


# Kinds that a tenant defined


def _own(resource: Resource, reference: str, shape: Callable[[Any], Document]) -> Document:
    """What its objects and lists look like. The rest of a schema is its author's."""
    group, version = resource.group, resource.version
    name = _public(resource.schema)
    listed = name.removesuffix(resource.kind) + resource.custom.list_kind
    meta = {"$ref": reference + _public(_OBJECT_META)}
    body = shape(resource.custom.openapi)
    body = {**body, "type": "object"}
    body["properties"] = {
        **(body.get("properties") or {}),
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": meta,
    }  # fmt: skip

    def kind(of: str) -> list[Document]:
        return [{"group": group, "version": version, "kind": of}]

    body["x-kubernetes-group-version-kind"] = kind(resource.kind)
    items = {"type": "array", "items": {"$ref": reference + name}}
    return {
        name: body,
        listed: {
            "type": "object", "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"}, "kind": {"type": "string"},
                "metadata": {"$ref": reference + _public(_LIST_META)}, "items": items,
            },
            "x-kubernetes-group-version-kind": kind(resource.custom.list_kind),
        },
    }  # fmt: skip


def _v2_own(resource: Resource) -> Document:
    return _own(resource, _V2.reference, _as_v2)


def _v3_own(resource: Resource) -> Document:
    return _own(resource, _V3.reference, dict)


# What our table of gnostic knows; the rest is the partition's to check.
_V2_KEPT = ("description", "format", "required", "type")


def _as_v2(schema: Any) -> Document:
    return _narrowed(openapi_v2(schema)) if isinstance(schema, dict) else {}


def _narrowed(schema: Document) -> Document:
    out = {
        key: each
        for key, each in schema.items()
        if (key in _V2_KEPT and each)
        or (key.startswith("x-kubernetes-") and key != "x-kubernetes-validations")
    }
    if "properties" in schema:
        out["properties"] = {name: _narrowed(each) for name, each in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            out[key] = _narrowed(schema[key])
    return out


_V2 = _Dialect("#/definitions/", _v2_operation, _v2_field, _v2_type, {}, _v2_own)
_V3 = _Dialect(
    "#/components/schemas/", _v3_operation, _v3_field, _v3_type, _SPECIAL_V3, _v3_own
)  # fmt: skip

# gnostic

# message -> JSON name -> (tag, what it holds). `*` is any other name: tag 1 holds pairs of name and
# value. A leading `[]` repeats; `yaml` is an Any; `=` is a wrapper around one value with that tag.
_GNOSTIC: dict[str, dict[str, tuple[int, str]]] = {
    "Document": {
        "swagger": (1, "string"), "info": (2, "Info"), "paths": (8, "Paths"),
        "definitions": (9, "Definitions"),
    },
    "Info": {"title": (1, "string"), "version": (2, "string")},
    "Paths": {"*": (2, "PathItem")},
    "PathItem": {
        "get": (2, "Operation"), "put": (3, "Operation"), "post": (4, "Operation"),
        "delete": (5, "Operation"), "patch": (8, "Operation"),
        "parameters": (9, "[]Parameter"),
    },
    "Operation": {
        "operationId": (5, "string"), "produces": (6, "[]string"), "consumes": (7, "[]string"),
        "parameters": (8, "[]Parameter"), "responses": (9, "Responses"), "x-": (13, "yaml"),
    },
    "BodyParameter": {
        "name": (2, "string"), "in": (3, "string"), "required": (4, "bool"),
        "schema": (5, "Schema"),
    },
    "QueryParameter": {
        "in": (2, "string"), "name": (4, "string"), "type": (6, "string"),
    },
    "PathParameter": {
        "required": (1, "bool"), "in": (2, "string"), "name": (4, "string"),
        "type": (5, "string"),
    },
    "Responses": {"*": (1, "ResponseValue")},
    "ResponseValue": {"=": (1, "Response")},
    "Response": {"description": (1, "string"), "schema": (2, "SchemaItem")},
    "SchemaItem": {"=": (1, "Schema")},
    "Definitions": {"*": (1, "Schema")},
    "Schema": {
        "$ref": (1, "string"), "format": (2, "string"), "description": (4, "string"),
        "required": (19, "[]string"), "additionalProperties": (21, "SchemaItem"),
        "type": (22, "TypeItem"), "items": (23, "SchemaItem"), "properties": (25, "Definitions"),
        "x-": (31, "yaml"),
    },
    "TypeItem": {"=": (1, "string")},
}  # fmt: skip
_PARAMETER_PLACES = {"query": (3, "QueryParameter"), "path": (4, "PathParameter")}


def _encode(kind: str, value: Any) -> bytes:
    """One gnostic message, from the JSON that it stands for."""
    if kind == "Parameter":
        return _parameter(value)
    table = _GNOSTIC[kind]
    if "=" in table:
        return b"".join(_put(*table["="], value))
    out: list[bytes] = []
    for name, inner in value.items():
        if name in table:
            out += _put(*table[name], inner)
        elif name.startswith("x-"):
            extension = b"".join(_put(2, "string", orjson.dumps(inner).decode()))
            tag, _ = table["x-"]
            out += _bytes(tag, b"".join([*_put(1, "string", name), *_bytes(2, extension)]))
        else:
            tag, item = table["*"]
            out += _bytes(tag, b"".join([*_put(1, "string", name), *_put(2, item, inner)]))
    return b"".join(out)


def _parameter(value: Document) -> bytes:
    """ParametersItem, Parameter and its kind: three messages, one inside of the other."""
    if value["in"] == "body":
        inner = b"".join(_bytes(1, _encode("BodyParameter", value)))
    else:
        tag, kind = _PARAMETER_PLACES[value["in"]]
        inner = b"".join(_bytes(2, b"".join(_bytes(tag, _encode(kind, value)))))
    return b"".join(_bytes(1, inner))


def _put(tag: int, kind: str, value: Any) -> list[bytes]:
    if kind.startswith("[]"):
        return [part for item in value for part in _put(tag, kind[2:], item)]
    if kind == "string":
        return _bytes(tag, value.encode())
    if kind == "bool":
        return [_varint(tag << 3), b"\x01" if value else b"\x00"]
    return _bytes(tag, _encode(kind, value))


def _bytes(tag: int, raw: bytes) -> list[bytes]:
    return [_varint(tag << 3 | 2), _varint(len(raw)), raw]


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
