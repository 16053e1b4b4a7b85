"""Promises of merged lists and watches, for any interleaving of the members."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api import errors
from arktos_ray.api.calls import BOOKMARK, MODIFIED, WatchEvent
from arktos_ray.ingress import merge

MEMBERS = ("rp-0", "rp-1", "rp-2")


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, list[WatchEvent]]]:
    """Batches of all members, interleaved as they like, and at the end everyone is past the end."""
    owners = draw(st.lists(st.sampled_from(MEMBERS), max_size=40))
    streams: dict[str, list[WatchEvent]] = {member: [] for member in MEMBERS}
    for revision, owner in enumerate(owners, 1):
        for member in MEMBERS:
            if member == owner:
                streams[member].append(WatchEvent(MODIFIED, revision, f"//{revision}"))
            elif draw(st.integers(0, 5)) == 0:
                streams[member].append(WatchEvent(BOOKMARK, revision, ""))
    arrivals = []
    left = {member: list(events) for member, events in streams.items()}
    while any(left.values()):
        member = draw(st.sampled_from([m for m in MEMBERS if left[m]]))
        size = draw(st.integers(1, 4))
        arrivals.append((member, left[member][:size]))
        left[member] = left[member][size:]
    end = len(owners) + 1
    return [*arrivals, *((member, [WatchEvent(BOOKMARK, end, "")]) for member in MEMBERS)]


def merged(history: list[tuple[str, list[WatchEvent]]], start: int = 0) -> list[WatchEvent]:
    machine = merge.Merge(MEMBERS, start)
    out = []
    for member, events in history:
        rest = [event for event in events if event.revision > start]
        out.extend(machine.feed(member, rest))
    assert machine.held == 0
    return out


def changes(events: list[WatchEvent]) -> list[int]:
    return [event.revision for event in events if event.type != BOOKMARK]


@given(histories())
def test_a_merged_watch_is_complete_and_in_order(
    history: list[tuple[str, list[WatchEvent]]],
) -> None:
    out = merged(history)
    everything = sorted(e.revision for _, es in history for e in es if e.type != BOOKMARK)
    assert changes(out) == everything
    shown = [event.revision for event in out]
    assert shown == sorted(shown)


@given(histories(), st.data())
def test_resuming_at_any_revision_that_was_shown_yields_exactly_the_rest(
    history: list[tuple[str, list[WatchEvent]]], data: st.DataObject
) -> None:
    out = merged(history)
    at = data.draw(st.integers(0, len(out) - 1))
    seen, revision = out[: at + 1], out[at].revision
    rest = merged(history, start=revision)
    assert changes(seen) + changes(rest) == changes(out)


@given(histories())
def test_who_lags_is_asked_until_nothing_is_held(
    history: list[tuple[str, list[WatchEvent]]],
) -> None:
    machine = merge.Merge(MEMBERS, 0)
    for member, events in history:
        machine.feed(member, events)
        asked = {name: machine.wanted_of(name) for name in MEMBERS}
        assert bool(machine.held) == any(asked.values())
    for name, wanted in asked.items():
        if wanted is not None:
            machine.feed(name, [WatchEvent(BOOKMARK, wanted, "")])
    assert machine.held == 0


def listing(*names: str, field: str = "items", last: bool = True) -> bytes:
    head: dict[str, object] = {"kind": "NodeList", "apiVersion": "v1"}
    items = {field: [{"metadata": {"name": n, "odd": '"items":[' + n}} for n in names]}
    meta = {"metadata": {"resourceVersion": "7"}}
    return orjson.dumps({**head, **meta, **items} if last else {**head, **items, **meta})


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("field", ["items", "rows"])
def test_lists_are_joined_whatever_is_inside(field: str, last: bool) -> None:
    bodies = [listing("a", "b", field=field, last=last), listing(field=field), listing("c")]
    if field == "rows":
        bodies[2] = listing("c", field=field)
    joined = orjson.loads(merge.join([merge.take_apart(b) for b in bodies], 9, ""))
    assert [item["metadata"]["name"] for item in joined[field]] == ["a", "b", "c"]
    assert joined["metadata"] == {"resourceVersion": "9"}
    assert joined["kind"] == "NodeList"


def test_a_nested_items_field_is_not_taken_for_the_list() -> None:
    body = b'{"metadata":{"items":[]},"kind":"L","items":[{"a":1}]}'
    part = merge.take_apart(body)
    assert orjson.loads(b"[" + part.items + b"]") == [{"a": 1}]


def test_a_page_token_comes_back_as_it_was() -> None:
    page = merge.Page(5, "rp-1", "abc")
    assert merge.decode_page(merge.encode_page(page), MEMBERS, 10) == page


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("garbage", errors.BadRequest),
        ("%%%", errors.BadRequest),
        (merge.encode_page(merge.Page(11, "rp-1", "")), errors.BadRequest),
        (merge.encode_page(merge.Page(5, "rp-9", "")), errors.Expired),
    ],
)
def test_a_page_token_that_we_did_not_give_is_refused(
    text: str, failure: type[errors.Failure]
) -> None:
    with pytest.raises(failure):
        merge.decode_page(text, MEMBERS, 10)


def test_the_revision_of_now_is_above_all_that_was_acknowledged_before() -> None:
    now = 1_700_000_000.123
    highest_of_this_millisecond = ((int(now * 1000)) << 19) | (63 << 13) | 8191
    assert merge.revision_at(now) >= highest_of_this_millisecond
    assert merge.revision_at(now) < (int(now * 1000) + 1) << 19


def test_initial_events_carry_their_kind() -> None:
    part = merge.take_apart(listing("a"))
    [event] = merge.initial_events(part, "Node", "v1", 7)
    body = orjson.loads(event.body)
    assert (body["kind"], body["apiVersion"]) == ("Node", "v1")
    assert body["metadata"]["name"] == "a"
