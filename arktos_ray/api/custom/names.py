"""Which names of a definition are accepted, and what its status says. Pure.

The partition is the only writer of its tenants, so the answer is part of the write itself: no
controller looks later, and whoever created a definition can use it at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Object = dict[str, Any]

SHARING_LABEL = "arktos.futurewei.com/crd-sharing-policy"
FORCED = "forced"
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"


def is_forced(definition: Object) -> bool:
    """Whether a definition of the system tenant is everybody's."""
    labels = definition["metadata"].get("labels") or {}
    return (labels.get(SHARING_LABEL) or "").lower() == FORCED


def condition(definition: Object, kind: str) -> Object | None:
    for one in (definition.get("status") or {}).get("conditions") or ():
        if one.get("type") == kind:
            found: Object = one
            return found
    return None


def is_served(definition: Object) -> bool:
    """Whether requests for its objects are answered."""
    found = condition(definition, "Established")
    return found is not None and found.get("status") == "True"


def settled(definition: Object, others: Iterable[Object], now: str) -> Object:
    """The status of a definition beside `others` of its group; those came first."""
    spec, status = definition["spec"], dict(definition.get("status") or {})
    wanted: Object = {**spec["names"]}
    names, kinds = set(), set()
    for other in others:
        if other["spec"]["group"] != spec["group"]:
            continue
        taken = (other.get("status") or {}).get("acceptedNames") or {}
        names |= {taken.get("plural"), taken.get("singular"), *(taken.get("shortNames") or ())}
        kinds |= {taken.get("kind"), taken.get("listKind")}
    names -= {None, ""}
    kinds -= {None, ""}

    accepted: Object = dict(status.get("acceptedNames") or {})
    wrong: list[tuple[str, str]] = []

    def claim(key: str, taken: set[Any], reason: str) -> None:
        value = wanted.get(key)
        if value in taken:
            wrong.append((reason, f'"{value}" is already in use'))
        elif value:
            accepted[key] = value

    claim("plural", names, "PluralConflict")
    claim("singular", names, "SingularConflict")
    short = wanted.get("shortNames") or []
    clashing = [one for one in short if one in names]
    if clashing:
        wrong += [("ShortNamesConflict", f'"{one}" is already in use') for one in clashing]
    elif short:
        accepted["shortNames"] = short
    else:
        accepted.pop("shortNames", None)
    claim("kind", kinds, "KindConflict")
    claim("listKind", kinds, "ListKindConflict")
    if wanted.get("categories"):
        accepted["categories"] = wanted["categories"]
    else:
        accepted.pop("categories", None)
    for key in ("plural", "kind"):
        accepted.setdefault(key, "")

    conditions = {one["type"]: one for one in status.get("conditions") or ()}

    def say(kind: str, true: bool, reason: str, message: str) -> None:
        state = "True" if true else "False"
        was = conditions.get(kind)
        since = was.get("lastTransitionTime", now) if was and was.get("status") == state else now
        conditions[kind] = {
            "type": kind, "status": state, "lastTransitionTime": since, "reason": reason,
            "message": message,
        }  # fmt: skip

    if wrong:
        say("NamesAccepted", False, wrong[0][0], ", ".join(text for _, text in wrong))
    else:
        say("NamesAccepted", True, "NoConflicts", "no conflicts found")
    established = conditions.get("Established", {}).get("status") == "True"
    if not wrong:
        say("Established", True, "InitialNamesAccepted", "the initial names have been accepted")
    elif not established:
        say("Established", False, "NotAccepted", "not all names are accepted")
    stored = list(status.get("storedVersions") or ())
    storage = next((v["name"] for v in spec.get("versions") or () if v.get("storage")), "")
    if storage and storage not in stored:
        stored.append(storage)
    return {
        **status, "conditions": list(conditions.values()), "acceptedNames": accepted,
        "storedVersions": stored,
    }  # fmt: skip


def terminating(status: Object, now: str) -> Object:
    """The status of one whose objects are about to be deleted."""
    others = [one for one in status.get("conditions") or () if one.get("type") != "Terminating"]
    return {
        **status,
        "conditions": [
            *others,
            {
                "type": "Terminating", "status": "True", "lastTransitionTime": now,
                "reason": "InstanceDeletionPending",
                "message": "CustomResourceDefinition marked for deletion; CustomResource deletion"
                " will begin soon",
            },
        ],
    }  # fmt: skip
