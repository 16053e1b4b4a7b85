"""What to do about the dependents of an owner that is gone, or about to go. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from arktos_ray.controllers.pods import is_terminating

Object = dict[str, Any]

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"


@dataclass(frozen=True, slots=True)
class Delete:
    obj: Object
    policy: str  # Background, Foreground, Orphan
    why: str


@dataclass(frozen=True, slots=True)
class Unlink:
    """Takes owners out of the references of a dependent that stays."""

    obj: Object
    uids: frozenset[str]
    why: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Takes our finalizer off the owner: nothing of it is left to do."""

    finalizer: str
    why: str


Action = Delete | Unlink | Finish


def after_the_end(
    dependents: Iterable[Object],
    owner_uid: str,
    present: AbstractSet[str],
    parents: AbstractSet[str],
) -> list[Action]:
    """The owner is gone. present: uids of owners that are known to exist and to stay.

    parents: uids of dependents that have dependents themselves.
    """
    actions: list[Action] = []
    for obj in dependents:
        others = {ref["uid"] for ref in _references(obj)} - {owner_uid}
        if others & present:
            dangling = frozenset({owner_uid, *(others - present)})
            actions.append(Unlink(obj, dangling, "another owner stays"))
        elif not is_terminating(obj):
            actions.append(Delete(obj, _policy(obj, parents, "Background"), "its owner is gone"))
    return actions


def before_the_end(
    owner: Object,
    dependents: Iterable[Object],
    present: AbstractSet[str],
    parents: AbstractSet[str],
) -> list[Action]:
    """The owner is being deleted, and waits for us by a finalizer."""
    uid = owner["metadata"]["uid"]
    finalizers = owner["metadata"].get("finalizers") or []
    found = list(dependents)
    if ORPHAN in finalizers:
        if found:
            return [Unlink(obj, frozenset({uid}), "its owner was told to orphan it")
                    for obj in found]  # fmt: skip
        return [Finish(ORPHAN, "nobody depends on it any more")]
    if FOREGROUND not in finalizers:
        return []
    actions: list[Action] = []
    blocked = False
    for obj in found:
        others = {ref["uid"] for ref in _references(obj)} - {uid}
        if others & present:
            actions.append(Unlink(obj, frozenset({uid}), "another owner stays"))
            continue
        blocked = blocked or any(
            ref["uid"] == uid and ref.get("blockOwnerDeletion") for ref in _references(obj)
        )
        if not is_terminating(obj):
            actions.append(
                Delete(obj, _policy(obj, parents, "Foreground"), "its owner waits for it to go")
            )
    if not blocked:
        actions.append(Finish(FOREGROUND, "no dependent holds it back"))
    return actions


def _policy(obj: Object, parents: AbstractSet[str], otherwise: str) -> str:
    """What the dependent itself asks for; waiting makes sense only for one with dependents."""
    finalizers = obj["metadata"].get("finalizers") or []
    if ORPHAN in finalizers:
        return "Orphan"
    if FOREGROUND in finalizers:
        return "Foreground"
    return otherwise if obj["metadata"]["uid"] in parents else "Background"


def _references(obj: Object) -> list[Object]:
    return obj["metadata"].get("ownerReferences") or []
