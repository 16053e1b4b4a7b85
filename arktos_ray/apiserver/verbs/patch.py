"""patch: four ways to say what changes, then the same rules as update.

JSON patch, JSON merge patch, strategic merge patch, and server-side apply (which may create).
"""

from __future__ import annotations

from typing import Any

import orjson

from arktos_ray.api import apply, codec, errors, schemas
from arktos_ray.api import patch as patches
from arktos_ray.api.calls import Call, Reply
from arktos_ray.api.scheme import DEFINITIONS, Resource
from arktos_ray.apiserver import authz
from arktos_ray.apiserver.conversions import completed, opened
from arktos_ray.apiserver.partition import (
    Partition,
    is_dry_run,
    key_of,
    not_found,
    sent_form,
    walked,
)
from arktos_ray.apiserver.verbs import create as creating
from arktos_ray.apiserver.verbs.update import replace

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
_FORMS = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)


def patch(partition: Partition, call: Call, resource: Resource) -> Reply:
    form = call.content_type.partition(";")[0].strip()
    if form not in _FORMS:
        raise errors.UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include: "
            + ", ".join(_FORMS)
        )
    if resource.custom is not None and form == STRATEGIC_PATCH:
        raise errors.UnsupportedMediaType(
            "the body of the request was in an unknown format - accepted media types include: "
            + ", ".join(one for one in _FORMS if one != STRATEGIC_PATCH)
        )
    if resource.gvr == DEFINITIONS:
        partition.customs.check_change(call, call.name)
    dry_run = is_dry_run(call)
    if form == APPLY_PATCH:
        return _apply(partition, call, resource, dry_run)
    record = partition.latest(resource, call)
    old = opened(resource, record)
    if _is_report(call, resource, form):
        # What an update of status may not touch is the old one's anyway: not decoded twice.
        new = _patched(form, {**old, "metadata": {**old["metadata"]}}, call.body, resource, True)
        return replace(partition, call, resource, record, old, new, dry_run, ())
    doc = completed(resource, record).decode()
    if resource.form is not None:
        doc = resource.form.from_stored(doc)
    new = _patched(form, doc, call.body, resource)
    warnings: tuple[str, ...] = ()
    if not call.user.trusted:
        decoded = codec.validate(new, resource, call.options.get("fieldValidation", "Warn"))
        new, warnings = decoded.obj, decoded.warnings
    new = sent_form(call, resource, new, lambda: record)
    return replace(partition, call, resource, record, old, new, dry_run, warnings)


def _is_report(call: Call, resource: Resource, form: str) -> bool:
    """Whether one of our own parts says how an object of a kind of ours is."""
    ours = call.user.trusted and resource.custom is None and resource.form is None
    return ours and call.subresource == "status" and form == MERGE_PATCH


def _patched(
    form: str, doc: dict[str, Any], body: bytes, resource: Resource, shares: bool = False
) -> dict[str, Any]:
    """shares: the document is not the caller's to change, but for its metadata."""
    try:
        change = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise errors.BadRequest(f"the patch is not valid JSON: {error}") from error
    if form == JSON_PATCH:
        if not isinstance(change, list):
            raise errors.BadRequest("a JSON patch is a list of operations")
        return patches.json_patch(doc, change)
    if not isinstance(change, dict):
        raise errors.BadRequest("a merge patch is an object")
    if form == MERGE_PATCH:
        return patches.merge_over(doc, change) if shares else patches.merge_into(doc, change)
    return patches.strategic_merge(doc, change, schemas.message(resource.schema))


def _apply(partition: Partition, call: Call, resource: Resource, dry_run: bool) -> Reply:
    manager = call.options.get("fieldManager", "")
    if not manager:
        raise errors.BadRequest("PatchOptions.meta.k8s.io is invalid: fieldManager: Required value")
    decoded = codec.decode_object(
        call.body, "application/yaml", resource, call.options.get("fieldValidation", "Warn")
    )
    config = decoded.obj
    force = call.options.get("force", "").lower() in ("true", "1")
    record = partition.store.latest(resource.gvr, key_of(call).path())
    old = None if record is None else opened(resource, record)
    if record is not None and config.get("metadata", {}).get("uid", "") not in (
        "", old["metadata"]["uid"] if old else "",
    ):  # fmt: skip
        raise errors.Conflict("uid mismatch: the object was replaced by another of the same name")
    now = partition.now()
    live = old
    if record is not None and resource.form is not None:
        live = resource.form.from_stored(completed(resource, record).decode())
    new = apply.apply(
        live, config, manager, force, resource.api_version, now, call.subresource,
        walked(resource),
        has_status=resource.custom is None or "status" in resource.subresources,
    )  # fmt: skip
    new = sent_form(call, resource, new, None if record is None else lambda: record)
    if record is not None and old is not None:
        return replace(
            partition, call, resource, record, old, new, dry_run, decoded.warnings, applied=True
        )
    if call.subresource:
        raise not_found(resource, call.name)
    # The right to patch is not the right to create.
    authz.authorize_also(partition.rights, call, resource, "create")
    managed = new["metadata"].get("managedFields")
    creating.complete_metadata(partition, call, resource, new)
    creating.prepare(partition, call, resource, new, tracked=False)
    new["metadata"]["managedFields"] = managed
    return creating.store_new(partition, resource, new, dry_run, decoded.warnings)
