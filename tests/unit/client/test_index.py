from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api.names import Key
from arktos_ray.client import index
from arktos_ray.client.index import Index


def _object(name: str, labels: dict[str, str], owner: str) -> dict[str, Any]:
    references = [{"uid": owner, "controller": True}] if owner else []
    return {
        "metadata": {
            "tenant": "t", "namespace": "n", "name": name, "uid": "uid-" + name,
            "labels": labels, "ownerReferences": references,
        }
    }  # fmt: skip


names = st.sampled_from("abcd")
objects = st.builds(
    _object,
    names,
    st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")),
    names | st.just(""),
)


@given(st.lists(objects | names, max_size=30))
def test_columns_agree_with_a_look_at_every_object(changes: list[dict[str, Any] | str]) -> None:
    view = Index()
    view.by(index.owners, "a")  # The column exists from the start, the others are built late.
    for change in changes:
        if isinstance(change, str):
            view.remove(Key("t", "n", change))
        else:
            view.put(index.key_of(change), change)
    present = list(view)
    for owner in "abcd":
        expected = [o for o in present if index.controllers(o) == (owner,)]
        assert _names(view.by(index.owners, owner)) == _names(expected)
        assert _names(view.by(index.controllers, owner)) == _names(expected)
    for wanted in ({"x": "1"}, {"x": "1", "y": "2"}, {}):
        expected = [o for o in present if wanted.items() <= o["metadata"]["labels"].items()]
        assert _names(view.matching("t", "n", wanted)) == _names(expected)
    unowned = [o for o in present if not o["metadata"]["ownerReferences"]]
    assert _names(view.by(index.uncontrolled, ("t", "n"))) == _names(unowned)
    assert view.matching("other", "n", {"x": "1"}) == []


def _names(found: list[dict[str, Any]]) -> list[str]:
    return sorted(o["metadata"]["name"] for o in found)
