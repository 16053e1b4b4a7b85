"""Bodies of requests to plain dicts, checked against their schema; and dicts to YAML.

JSON is read and checked in one pass by pydantic's validator, built from `api/schemas.py` when a
kind is first seen. Unknown fields are dropped, and named according to `fieldValidation`; types are
as strict as the Go decoder's; null means absent. YAML and protobuf become the same dicts first.

Not here: defaults and the rules of each kind (`api/kinds/`), and encoding to JSON (`orjson.dumps`).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Hashable
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

import orjson
import yaml
from pydantic_core import CoreSchema, SchemaValidator, ValidationError
from pydantic_core import core_schema as core

from arktos_ray.api import protobuf, quantity, schemas
from arktos_ray.api.errors import BadRequest, Invalid, UnsupportedMediaType
from arktos_ray.api.schemas import Field
from arktos_ray.api.scheme import Resource

Object = dict[str, Any]

JSON: Final = "application/json"
YAML: Final = "application/yaml"
PROTOBUF: Final = "application/vnd.kubernetes.protobuf"

IGNORE, WARN, STRICT = "Ignore", "Warn", "Strict"

# What a client reads; a body with more unknown fields than this is not a typing error.
UNKNOWN_FIELDS_MAX = 100
# Bytes. Above, types are checked first, by the validator that stops at the first bad item of a
# list: a hostile body of 3 MB would otherwise hold the loop for a second.
LARGE_BODY = 64 * 1024
# Characters and 8 per node, after aliases are followed: 20 times a large object.
YAML_COST_MAX = 32 * 1024 * 1024
# Real manifests have a handful. With merge keys each may stand for a mapping of that many keys.
YAML_ALIASES_MAX = 100
YAML_MERGED_KEYS_MAX = 10_000
# The JSON parser stops at 200 by itself.
DEPTH_MAX = 200


class Decoded(NamedTuple):
    obj: Object
    warnings: tuple[str, ...] = ()


def decode_object(
    body: bytes, content_type: str, resource: Resource, field_validation: str = ""
) -> Decoded:
    """The object of that resource in a body. 1 KB: 14 us, 21 with Warn; with nulls 8 more."""
    if resource.custom is not None:
        return _decode_custom(body, content_type, resource, field_validation)
    decoded = decode(body, content_type, resource.schema, field_validation)
    return _of_resource(decoded, resource)


def validate(obj: Object, resource: Resource, field_validation: str = "") -> Decoded:
    """The same for what is decoded already: the result of a patch. Returns a new dict."""
    if resource.custom is not None:
        try:
            body = orjson.dumps(obj)
        except (orjson.JSONEncodeError, RecursionError) as error:
            raise BadRequest(f"the object cannot be written as JSON: {error}") from error
        return _decode_custom(body, JSON, resource, field_validation)
    return _of_resource(_checked(obj, resource.schema, field_validation), resource)


def decode(body: bytes, content_type: str, schema: str, field_validation: str = "") -> Decoded:
    """The message in a body. Empty `field_validation` means Warn, as on the real server."""
    media = content_type.partition(";")[0].strip().lower()
    if media in (JSON, ""):
        return _decode_json(body, schema, field_validation)
    if media == YAML:
        return _decode_yaml(body, schema, field_validation)
    if media == PROTOBUF:
        api_version, kind, obj = protobuf.decode(body)
        if schemas.of_kind(api_version, kind) != schema:
            raise _mismatch(api_version, kind, *_identity(schema))
        obj["apiVersion"], obj["kind"] = api_version, kind
        return _checked(obj, schema, field_validation)
    raise UnsupportedMediaType(
        "the body of the request was in an unknown format - accepted media types include: "
        f"{JSON}, {YAML}, {PROTOBUF}"
    )


def decode_options(body: bytes, content_type: str) -> Object:
    """DeleteOptions; an empty body has none."""
    if not body:
        return {}
    return decode(body, content_type, _OPTIONS, IGNORE).obj


def encode_yaml(obj: Any) -> bytes:
    text: bytes = yaml.dump(
        obj, Dumper=_Dumper, encoding="utf-8", allow_unicode=True, width=1_000_000
    )
    return text


_OPTIONS = "k8s.io.apimachinery.pkg.apis.meta.v1.DeleteOptions"


# Custom objects


def _decode_custom(
    body: bytes, content_type: str, resource: Resource, field_validation: str
) -> Decoded:
    """Metadata is checked as everybody's is; for the rest its own schema says what is known."""
    media = content_type.partition(";")[0].strip().lower()
    found: list[str] = []
    if media == YAML and not _is_json(body):
        body, found = _load_yaml(body, "")
    elif media not in (JSON, YAML, ""):
        raise UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include: "
            f"{JSON}, {YAML}"
        )
    _known_mode(field_validation)
    if b"\\u0000" in body:
        _refuse_nul(body)
    kind, api_version = resource.kind, resource.api_version
    try:
        obj = orjson.loads(body)
    except ValueError as error:
        raise BadRequest(
            f"the object provided is unrecognized (must be of type {kind}): couldn't get "
            f"version/kind; json parse error: {error} ({_summary(body)})"
        ) from error
    if not isinstance(obj, dict):
        raise BadRequest(f"a {kind} is an object")
    sent = (obj.setdefault("apiVersion", api_version), obj.setdefault("kind", kind))
    if sent != (api_version, kind):
        if sent[1] == kind:
            raise BadRequest(
                f"the API version in the data ({sent[0]}) does not match "
                f"the expected API version ({api_version})"
            )
        raise BadRequest(f"the kind in the data ({sent[1]}) does not match {kind}")
    if field_validation != IGNORE and _ink(orjson.dumps(obj)) != _ink(body):
        found += _duplicates(body)
    meta = obj.get("metadata")
    if not isinstance(meta, dict):
        meta = {} if meta is None else _bad_metadata(kind, api_version)
    checked = _checked(meta, _METADATA, WARN if field_validation == STRICT else field_validation)
    obj["metadata"] = checked.obj
    found += [text.replace('"', '"metadata.', 1) for text in checked.warnings]
    found += [f'unknown field "{path}"' for path in resource.custom.schema.prune(obj)]
    if not found or field_validation == IGNORE:
        return Decoded(obj)
    if field_validation == STRICT:
        version = resource.version
        raise BadRequest(
            f'{kind} in version "{version}" cannot be handled as a {kind}: '
            f"strict decoding error: {', '.join(found[:UNKNOWN_FIELDS_MAX])}"
        )
    return Decoded(obj, tuple(found[:UNKNOWN_FIELDS_MAX]))


def _bad_metadata(kind: str, api_version: str) -> Object:
    raise BadRequest(
        f'{kind} in version "{api_version.rpartition("/")[2]}" cannot be handled as a {kind}: '
        "metadata: expected object"
    )


_METADATA = "k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta"

# JSON


def _decode_json(body: bytes, schema: str, field_validation: str) -> Decoded:
    if b"\\u0000" in body:
        _refuse_nul(body)
    if field_validation == IGNORE:
        try:
            obj: Object = _validator(schema, False).validate_json(body)
        except ValidationError as error:
            raise _refusal(error, schema, body) from error
        if b"null" in body:
            _drop_nulls(obj, _nested(schema))
        return Decoded(obj)

    _known_mode(field_validation)
    try:
        if len(body) > LARGE_BODY:
            _validator(schema, False).validate_json(body)
        try:
            obj = _validator(schema, True).validate_json(body)
            found = []
        except ValidationError as error:
            found = _unknown_fields(error)
            obj = _validator(schema, False).validate_json(body)
    except ValidationError as error:
        raise _refusal(error, schema, body) from error
    # A body that is as long as what came of it, spaces aside, says nothing twice: 1 us instead
    # of the 15 that looking costs.
    if found or _ink(orjson.dumps(obj)) != _ink(body):
        found = _duplicates(body) + found
    if b"null" in body:
        _drop_nulls(obj, _nested(schema))
    return _reported(obj, found, schema, field_validation)


def _ink(text: bytes) -> int:
    return len(text) - text.count(b" ") - text.count(b"\n")


def _checked(obj: Object, schema: str, field_validation: str) -> Decoded:
    """A new dict with what the schema knows of `obj`."""
    _known_mode(field_validation)
    found: list[str] = []
    try:
        try:
            new: Object = _validator(schema, True).validate_python(obj)
        except ValidationError as error:
            found = _unknown_fields(error)
            new = _validator(schema, False).validate_python(obj)
    except ValidationError as error:
        raise _refusal(error, schema, b"", obj) from error
    _drop_nulls(new, _nested(schema))
    try:
        text = orjson.dumps(new)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise BadRequest(f"the object cannot be written as JSON: {error}") from error
    if b"\\u0000" in text:
        _refuse_nul(text)
    return _reported(new, found, schema, field_validation)


def _reported(obj: Object, found: list[str], schema: str, field_validation: str) -> Decoded:
    """Problems that did no harm: dropped, returned or refused, as the client asked."""
    if not found or field_validation == IGNORE:
        return Decoded(obj)
    if field_validation == STRICT:
        raise _cannot_handle(obj, schema, f"strict decoding error: {', '.join(found)}")
    return Decoded(obj, tuple(found))


def _known_mode(field_validation: str) -> None:
    if field_validation not in (WARN, STRICT, IGNORE, ""):
        raise Invalid(
            f'fieldValidation: Unsupported value: "{field_validation}": '
            'supported values: "Ignore", "Strict", "Warn"'
        )


_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def _refuse_nul(text: bytes) -> None:
    # An even number of backslashes before it is just text that looks like one.
    if _NUL.search(text):
        raise BadRequest("the body contains a NUL character")


def _unknown_fields(error: ValidationError) -> list[str]:
    if error.error_count() > UNKNOWN_FIELDS_MAX:
        # Naming each would take longer than reading the body did.
        return [f"more than {UNKNOWN_FIELDS_MAX} unknown fields"]
    return [
        f'unknown field "{_path(problem["loc"])}"'
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
        if problem["type"] == "extra_forbidden"
    ]


def _duplicates(body: bytes) -> list[str]:
    """`duplicate field "spec.replicas"` for each name that an object has twice."""
    marked: list[tuple[Object, list[str]]] = []

    def hook(pairs: list[tuple[str, Any]]) -> Object:
        obj = dict(pairs)
        if len(obj) != len(pairs):
            seen: set[str] = set()
            again = [key for key, _ in pairs if key in seen or seen.add(key)]  # type: ignore[func-returns-value]
            marked.append((obj, list(dict.fromkeys(again))))
        return obj

    tree = json.loads(body, object_pairs_hook=hook)
    if not marked:
        return []
    where = {id(obj): keys for obj, keys in marked}
    found: list[str] = []
    walk: list[tuple[tuple[str | int, ...], Any]] = [((), tree)]
    while walk and len(found) < UNKNOWN_FIELDS_MAX:
        at, node = walk.pop()
        if isinstance(node, dict):
            found += [f'duplicate field "{_path((*at, key))}"' for key in where.get(id(node), ())]
            walk += [((*at, key), value) for key, value in reversed(node.items())]
        elif isinstance(node, list):
            walk += [((*at, index), value) for index, value in reversed(list(enumerate(node)))]
    return found


def _path(steps: tuple[str | int, ...]) -> str:
    """spec.containers[0].image"""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".")


# What is wrong, in words


def _refusal(
    error: ValidationError, schema: str, body: bytes, obj: Object | None = None
) -> BadRequest:
    problem = error.errors(include_url=False)[0] if error.error_count() < 1000 else None
    if problem and problem["type"] == "json_invalid":
        text = str(problem["ctx"]["error"])
        return BadRequest(
            f"the object provided is unrecognized (must be of type {_identity(schema)[1]}): "
            f"couldn't get version/kind; json parse error: {text} ({_summary(body)})"
        )
    if obj is None:
        try:
            loaded = orjson.loads(body)
        except ValueError:
            loaded = None
        obj = loaded if isinstance(loaded, dict) else {}
    kind, api_version = obj.get("kind"), obj.get("apiVersion")
    expected = _identity(schema)
    named = isinstance(kind, str) and isinstance(api_version, str) and kind and api_version
    if named and expected[0] and (api_version, kind) != expected:
        return _mismatch(str(api_version), str(kind), *expected)
    if problem is None:
        return _cannot_handle(obj, schema, "more than 1000 fields are of the wrong type")
    return _cannot_handle(obj, schema, _complaint(problem["type"], problem))


_WANTED = {
    "string_type": "string",
    "int_type": "integer",
    "int_from_float": "integer",
    "int_parsing_size": "integer",
    "bool_type": "boolean",
    "float_type": "number",
    "dict_type": "object",
    "list_type": "array",
    "int_or_string": "integer or string",
}
_GOT = {str: "string", bool: "boolean", int: "number", float: "number", type(None): "null",
        dict: "object", list: "array"}  # fmt: skip


def _complaint(kind: str, problem: Any) -> str:
    where = _path(problem["loc"]) or "the body"
    if kind in _WANTED:
        got = _GOT.get(type(problem["input"]), "something else")
        return f"{where}: expected {_WANTED[kind]}, got {got}"
    if kind == "value_error":
        return f"{where}: {problem['ctx']['error']}"
    if kind in ("less_than_equal", "greater_than_equal"):
        return f"{where}: number {problem['input']} is out of range"
    return f"{where}: {problem['msg']}"


def _cannot_handle(obj: Object, schema: str, why: str) -> BadRequest:
    api_version, wanted = _identity(schema)
    version = str(obj.get("apiVersion") or api_version or "v1").rpartition("/")[2]
    kind = obj.get("kind") or wanted
    return BadRequest(f'{kind} in version "{version}" cannot be handled as a {wanted}: {why}')


def _mismatch(api_version: str, kind: str, wanted_version: str, wanted: str) -> BadRequest:
    version = api_version.rpartition("/")[2]
    refused = f'{kind} in version "{version}" cannot be handled as a {wanted}: '
    if schemas.of_kind(api_version, kind) is None:
        return BadRequest(f'{refused}no kind "{kind}" is registered for version "{api_version}"')
    if api_version != wanted_version:
        return BadRequest(
            f"the API version in the data ({api_version}) does not match "
            f"the expected API version ({wanted_version})"
        )
    return BadRequest(f"{refused}converting ({version}.{kind}) to ({version}.{wanted})")


def _summary(body: bytes) -> str:
    return body[:30].decode("ascii", "backslashreplace")


@cache
def _identity(schema: str) -> tuple[str, str]:
    """(apiVersion, kind) of a message; no apiVersion when it goes with many."""
    identity = schemas.message(schema).kind
    if identity is None:
        return "", schema.rpartition(".")[2]
    group, version, kind = identity
    return (f"{group}/{version}" if group else version), kind


def _of_resource(decoded: Decoded, resource: Resource) -> Decoded:
    """Fill in what kind of object this is, or refuse another kind."""
    obj = decoded.obj
    api_version, kind = obj.get("apiVersion"), obj.get("kind")
    if api_version == resource.api_version and kind == resource.kind:
        return decoded
    if (api_version or resource.api_version) != resource.api_version or (
        (kind or resource.kind) != resource.kind
    ):
        raise _mismatch(
            api_version or resource.api_version,
            kind or resource.kind,
            resource.api_version,
            resource.kind,
        )
    filled = {**obj, "apiVersion": resource.api_version, "kind": resource.kind}
    return Decoded(filled, decoded.warnings)


# Validators


@cache
def _validator(name: str, forbid: bool) -> SchemaValidator:
    """1 to 10 ms to build, once a kind. `forbid` makes unknown fields an error."""
    return SchemaValidator(_typed_dict(name, forbid, ()))


def _typed_dict(name: str, forbid: bool, above: tuple[str, ...]) -> CoreSchema:
    if name in above:
        # JSON schemas hold JSON schemas. What is inside of the first level is not looked at.
        return core.any_schema()
    return core.typed_dict_schema(
        {
            field.name: core.typed_dict_field(
                core.nullable_schema(_field(field, forbid, (*above, name))), required=False
            )
            for field in schemas.message(name).fields.values()
        },
        extra_behavior="forbid" if forbid else "ignore",
        total=False,
    )


def _field(field: Field, forbid: bool, above: tuple[str, ...]) -> CoreSchema:
    item = _typed_dict(field.type, forbid, above) if field.is_message else _scalar(field)
    if field.shape == "list":
        # Naming unknown fields takes all items, refusing takes one.
        return core.list_schema(item, fail_fast=not forbid)
    if field.shape == "map":
        if field.type in ("string", "bytes"):
            item = core.nullable_schema(item)  # Go makes an empty one of it.
        return core.dict_schema(core.str_schema(strict=True), item)
    return item


def _scalar(field: Field) -> CoreSchema:
    match field.type:
        case "string" | "duration":
            return core.str_schema(strict=True)
        case "integer":
            limit = 1 << (field.bits - 1)
            return core.int_schema(strict=True, ge=-limit, le=limit - 1)
        case "number":
            return core.float_schema(strict=True, allow_inf_nan=False)
        case "boolean":
            return core.bool_schema(strict=True)
        case "bytes":
            return core.no_info_after_validator_function(_base64, core.str_schema(strict=True))
        case "quantity":
            # Numbers become strings; all become canonical, as the real server makes them.
            return core.no_info_after_validator_function(
                quantity.canonical, core.str_schema(coerce_numbers_to_str=True)
            )
        case "int-or-string":
            return core.union_schema(
                [core.str_schema(strict=True), core.int_schema(strict=True)],
                mode="left_to_right",
                custom_error_type="int_or_string",
                custom_error_message="expected integer or string",
            )
        case "time":
            return core.no_info_after_validator_function(_time, core.str_schema(strict=True))
        case "micro-time":
            return core.no_info_after_validator_function(_micro_time, core.str_schema(strict=True))
        case "strings":
            return core.list_schema(core.str_schema(strict=True))
        case "fields-v1":
            return core.dict_schema(core.str_schema(strict=True), core.any_schema())
        case "any":
            return core.any_schema()
    raise AssertionError(f"a type without a validator: {field}")


def _base64(text: str) -> str:
    text = text.replace("\n", "").replace("\r", "")
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"illegal base64 data: {error}") from error
    return text


_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


# An object has a few, and those of one second are the same everywhere. 4,096 x 150 B.
@lru_cache(maxsize=4096)
def _time(text: str) -> str:
    """To the second and in UTC, as the API writes it."""
    moment = _moment(text)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


@lru_cache(maxsize=4096)
def _micro_time(text: str) -> str:
    moment = _moment(text)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _moment(text: str) -> datetime:
    if _RFC3339.fullmatch(text) is None:
        raise ValueError(f"not a time of RFC 3339: {text[:40]!r}")
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"not a time: {text[:40]!r}: {error}") from error


# Nulls


class _Nested(NamedTuple):
    """Where below a field nulls may hide."""

    shape: str
    inner: dict[str, _Nested] | None  # None: strings in a map


@cache
def _nested(name: str) -> dict[str, _Nested]:
    plan: dict[str, _Nested] = {}
    for field in schemas.message(name).fields.values():
        if field.is_message and field.type != name:
            plan[field.name] = _Nested(field.shape, _nested(field.type))
        elif field.shape == "map" and field.type in ("string", "bytes"):
            plan[field.name] = _Nested("map", None)
    return plan


def _drop_nulls(obj: Object, plan: dict[str, _Nested]) -> None:
    """Null means absent, except inside of what we do not look into. 7 us a pod."""
    if None in obj.values():
        for key in [key for key, value in obj.items() if value is None]:
            del obj[key]
    for key, value in obj.items():
        if key not in plan or not value:
            continue
        shape, inner = plan[key]
        if inner is None:
            if None in value.values():
                value.update({name: "" for name, text in value.items() if text is None})
        elif shape == "one":
            _drop_nulls(value, inner)
        else:
            for item in value if shape == "list" else value.values():
                _drop_nulls(item, inner)


# YAML


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML as Kubernetes tools do: times are strings, 12:30 is no number, 1e3 is one."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self.duplicates: list[str] = []

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > YAML_MERGED_KEYS_MAX:
            raise yaml.YAMLError("merge keys make a mapping too large")

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) != len(keys):
            seen: set[str] = set()
            for key in keys:
                # A merge key may be overridden, that is what it is for.
                if key in seen and "<<" not in keys:
                    self.duplicates.append(f'key "{key}" already set in map')
                seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


_OTHERWISE = ("timestamp", "int", "float", "value")
for _start, _resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
    _Loader.yaml_implicit_resolvers[_start] = [
        (tag, pattern) for tag, pattern in _resolvers if tag.rpartition(":")[2] not in _OTHERWISE
    ]
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]+|0|[1-9][0-9_]*)$", re.ASCII),
    list("-+0123456789"),
)
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$",
    re.ASCII,
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Quotes whatever any reader of YAML, old or new, might take for something else than text."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _decode_yaml(body: bytes, schema: str, field_validation: str) -> Decoded:
    if body.lstrip()[:1] == b"{":
        # JSON is YAML, and server-side apply sends it under this name.
        try:
            return _decode_json(body, schema, field_validation)
        except BadRequest:
            if _is_json(body):
                raise
    tree, duplicates = _load_yaml(body, schema)
    decoded = _decode_json(tree, schema, field_validation)
    if duplicates and field_validation != IGNORE:
        found = duplicates + list(decoded.warnings)
        return _reported(decoded.obj, found, schema, field_validation)
    return decoded


def _load_yaml(body: bytes, schema: str) -> tuple[bytes, list[str]]:
    """The same as JSON, and complaints about keys that were given twice."""
    try:
        body.decode()
        _survey(body)
        loader = _Loader(body)
        try:
            tree = loader.get_single_data()
        finally:
            loader.dispose()
        plain, _ = _plain(tree, YAML_COST_MAX, 0)
        return orjson.dumps(plain, option=orjson.OPT_PASSTHROUGH_SUBCLASS), loader.duplicates
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise BadRequest(
            "the object provided is unrecognized "
            f"(must be of type {_identity(schema)[1] if schema else 'the one asked for'}): "
            f"error converting YAML to JSON: {why}"
        ) from error


def _survey(body: bytes) -> None:
    """Refuse what would be dangerous to compose: the C loader recurses, and crashes, on nesting."""
    depth = aliases = 0
    for event in yaml.parse(body, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_MAX:
                raise ValueError("nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if aliases > YAML_ALIASES_MAX:
                raise ValueError(f"more than {YAML_ALIASES_MAX} aliases")


def _plain(node: Any, budget: int, depth: int) -> tuple[Any, int]:
    """A tree without sharing and with strings for keys, and what is left of the budget."""
    if depth > DEPTH_MAX:
        raise ValueError("nested too deeply")
    budget -= 8 + (len(node) if isinstance(node, str) else 0)
    if budget < 0:
        raise ValueError("aliases make the document too large")
    if isinstance(node, dict):
        mapping = {}
        for key, value in node.items():
            if isinstance(key, bool):
                text = "true" if key else "false"
            elif isinstance(key, str | int | float):
                text = str(key)
            else:
                raise ValueError("a key is neither text nor a number")
            mapping[text], budget = _plain(value, budget - len(text), depth + 1)
        return mapping, budget
    if isinstance(node, list):
        items = []
        for value in node:
            item, budget = _plain(value, budget, depth + 1)
            items.append(item)
        return items, budget
    if node is None or isinstance(node, str | int | float):
        return node, budget
    raise ValueError(f"a {type(node).__name__} has no place in an object")


def _is_json(body: bytes) -> bool:
    try:
        orjson.loads(body)
    except ValueError:
        return False
    return True
