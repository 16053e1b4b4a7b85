"""The judge of histories accepts what could have happened, and nothing else."""

from __future__ import annotations

import random
from itertools import permutations
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.testing.linearizability import ObjectModel, Operation, check

OK, EXISTS, MISSING, CONFLICT = "ok", "exists", "missing", "conflict"


def op(
    called: float, answered: float, *asked: Any, answer: Any = None, key: str = "k"
) -> Operation:
    return Operation(key, called, answered, asked, answer)


def value(text: str) -> tuple[str, str]:
    return ("value", text)


def is_accepted(*history: Operation) -> bool:
    return check(history, ObjectModel()) is None


def test_one_after_the_other_is_fine() -> None:
    assert is_accepted(
        op(0, 1, "create", "a", answer=OK),
        op(2, 3, "get", answer=value("a")),
        op(4, 5, "update", "a", "b", answer=OK),
        op(6, 7, "update", "a", "c", answer=CONFLICT),
        op(8, 9, "delete", answer=OK),
        op(10, 11, "get", answer=MISSING),
    )


def test_a_read_of_what_was_replaced_before_it_began_is_refused() -> None:
    problem = check(
        [
            op(0, 1, "create", "a", answer=OK),
            op(2, 3, "patch", "b", answer=OK),
            op(4, 5, "get", answer=value("a")),
        ],
        ObjectModel(),
    )
    assert problem is not None
    assert "get" in str(problem)
    assert problem.state == "b"


def test_while_a_write_is_under_way_either_value_may_be_read_but_not_back_and_forth() -> None:
    start = op(0, 1, "create", "a", answer=OK)
    write = op(2, 9, "patch", "b", answer=OK)
    assert is_accepted(start, write, op(3, 4, "get", answer=value("a")))
    assert is_accepted(start, write, op(3, 4, "get", answer=value("b")))
    assert not is_accepted(
        start, write, op(3, 4, "get", answer=value("b")), op(5, 6, "get", answer=value("a"))
    )


def test_a_lost_update_is_refused() -> None:
    assert not is_accepted(
        op(0, 1, "create", "a", answer=OK),
        op(2, 5, "update", "a", "b", answer=OK),
        op(3, 6, "update", "a", "c", answer=OK),
    )


@pytest.mark.parametrize("seen_at", [3, 1000])
def test_what_had_no_answer_may_happen_at_any_time_or_never(seen_at: float) -> None:
    start = op(0, 1, "create", "a", answer=OK)
    lost = op(2, inf, "patch", "b")
    assert is_accepted(start, lost, op(seen_at, seen_at + 1, "get", answer=value("b")))
    assert is_accepted(start, lost, op(seen_at, seen_at + 1, "get", answer=value("a")))
    late = op(seen_at, seen_at + 1, "get", answer=value("a"))
    assert is_accepted(start, lost, late, op(2000, 2001, "get", answer=value("b")))
    gone_back = op(2000, 2001, "get", answer=value("a"))
    assert not is_accepted(
        start, lost, op(seen_at, seen_at + 1, "get", answer=value("b")), gone_back
    )


def test_it_does_not_happen_before_it_was_asked_for() -> None:
    assert not is_accepted(op(0, 1, "get", answer=value("a")), op(2, inf, "create", "a"))


def test_keys_are_judged_apart() -> None:
    assert is_accepted(
        op(0, 1, "create", "a", answer=OK, key="x"), op(0, 1, "create", "b", answer=OK, key="y")
    )
    assert not is_accepted(
        op(0, 1, "create", "a", answer=OK, key="x"),
        op(0, 1, "create", "b", answer=OK, key="y"),
        op(2, 3, "get", answer=MISSING, key="y"),
    )


def asking(number: int, rng: random.Random, state: Any) -> tuple[Any, ...]:
    verb = rng.choice(("get", "create", "update", "patch", "delete"))
    if verb == "update":
        return ("update", rng.choice((state, "old")) or "old", f"v{number}")
    return (verb, f"v{number}") if verb in ("create", "patch") else (verb,)


def answer_to(state: Any, asked: tuple[Any, ...]) -> tuple[Any, Any]:
    """Written again, apart from the model, and for one state only."""
    verb = asked[0]
    if verb == "create":
        return (EXISTS, state) if state is not None else (OK, asked[1])
    if state is None:
        return MISSING, None
    if verb == "get":
        return value(state), state
    if verb == "update":
        return (OK, asked[2]) if asked[1] == state else (CONFLICT, state)
    return (OK, asked[1]) if verb == "patch" else (OK, None)


def made_up(rng: random.Random, length: int, overlap: float, lost: float) -> list[Operation]:
    """A history that did happen one at a time: each takes effect within its own interval."""
    state: Any = None
    history = []
    for number in range(length):
        asked = asking(number, rng, state)
        moment = float(number)
        called = moment - rng.random() * overlap
        answered = moment + rng.random() * overlap
        happens = rng.random() >= 0.5
        if rng.random() < lost:
            if happens:
                _, state = answer_to(state, asked)
            history.append(op(called, inf, *asked))
            continue
        answer, state = answer_to(state, asked)
        history.append(op(called, answered, *asked, answer=answer))
    rng.shuffle(history)
    return history


@given(
    seed=st.integers(0, 1 << 32), length=st.integers(0, 40), overlap=st.floats(0, 4),
    lost=st.sampled_from([0.0, 0.1, 0.3]),
)  # fmt: skip
def test_what_happened_one_at_a_time_is_accepted(
    seed: int, length: int, overlap: float, lost: float
) -> None:
    history = made_up(random.Random(seed), length, overlap, lost)
    assert check(history, ObjectModel()) is None


def by_trying_all_orders(history: list[Operation]) -> bool:
    """The definition itself, for a handful of operations."""
    answered = [o for o in history if o.is_answered]
    for extra in range(1 << (len(history) - len(answered))):
        lost = [o for o in history if not o.is_answered]
        chosen = answered + [o for i, o in enumerate(lost) if extra >> i & 1]
        for order in permutations(chosen):
            if any(
                later.answered < earlier.called
                for i, earlier in enumerate(order)
                for later in order[i + 1 :]
            ):
                continue
            state: Any = None
            for each in order:
                said, after = answer_to(state, each.asked)
                if each.is_answered and each.answer != said:
                    break
                state = after
            else:
                return True
    return False


@given(seed=st.integers(0, 1 << 32), length=st.integers(1, 5))
def test_it_agrees_with_the_definition(seed: int, length: int) -> None:
    rng = random.Random(seed)
    history = made_up(rng, length, 2.0, 0.2)
    # One answer is made up; now and then the history is fine all the same.
    victim = rng.randrange(length)
    old = history[victim]
    if old.is_answered:
        answers = {"get": [MISSING, value("v0"), value("v1")]}.get(
            old.asked[0], [OK, MISSING, EXISTS if old.asked[0] == "create" else OK]
        )
        history[victim] = op(old.called, old.answered, *old.asked, answer=rng.choice(answers))
    assert (check(history, ObjectModel()) is None) == by_trying_all_orders(history)


def test_a_thousand_operations_of_eight_clients_are_judged_at_once() -> None:
    history = made_up(random.Random(7), 1000, 4.0, 0.02)
    assert is_accepted(*history)
