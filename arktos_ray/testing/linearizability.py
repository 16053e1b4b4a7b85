"""Whether a history could have happened one operation at a time. Pure.

The algorithm is that of Wing and Gong with Lowe's memory of states, as in Porcupine: look for an
order of the operations in which each takes effect between its call and its answer, and each answer
is the one that the model gives. A history is split by key first: keys that are linearizable one by
one are linearizable together (Herlihy and Wing).

An operation without an answer may take effect at any time after its call, also long after its
caller gave up, or never.

    problem = check(operations, ObjectModel())
    assert problem is None, problem
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Operation:
    """called, answered: moments, of one clock. answered is inf when there was no answer."""

    key: str
    called: float
    answered: float
    asked: tuple[Any, ...]
    answer: Any = None
    who: str = ""

    @property
    def is_answered(self) -> bool:
        return self.answered != inf

    def __str__(self) -> str:
        until = f"{self.answered:.4f}" if self.is_answered else "no answer"
        what = " ".join(str(part) for part in self.asked)
        said = f" -> {self.answer}" if self.is_answered else ""
        return f"[{self.called:.4f}, {until}] {self.who} {what}{said}"


class Model(Protocol):
    """What one key does, one operation at a time."""

    initial: Hashable

    def step(self, state: Any, operation: Operation) -> tuple[bool, Any]:
        """Whether that answer is possible in this state, and the state after it.

        Without an answer every effect that the operation has in this state is possible.
        """

    def simplified(self, history: list[Operation]) -> list[Operation]:
        """The same history, as far as anybody can tell, with less to try."""

    def kind(self, operation: Operation) -> Hashable:
        """Equal for unanswered operations that do the same in every state."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A key whose history has no order. `stuck` are those of which one should have come next."""

    key: str
    longest: Sequence[Operation]
    stuck: Sequence[Operation]
    state: Any

    def __str__(self) -> str:
        lines = [f"{self.key} is not linearizable. An order that goes as far as any:"]
        lines += [f"    {operation}" for operation in self.longest[-12:]]
        lines += [f"then the state is {self.state!r}, and none of these can be next:"]
        lines += [f"    {operation}" for operation in self.stuck]
        return "\n".join(lines)


def check(history: Iterable[Operation], model: Model) -> Problem | None:
    """None when it is linearizable, else the first key that is not."""
    by_key: dict[str, list[Operation]] = {}
    for operation in history:
        by_key.setdefault(operation.key, []).append(operation)
    for key, operations in by_key.items():
        problem = _check_one(key, operations, model)
        if problem is not None:
            return problem
    return None


class _Entry:
    """A call or an answer, in a list of what has not been placed yet, in the order of time."""

    __slots__ = ("after", "before", "match", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.match: _Entry | None = None  # of a call: its answer
        self.before: _Entry = self
        self.after: _Entry | None = None

    def lift(self) -> None:
        self.before.after = self.after
        if self.after is not None:
            self.after.before = self.before

    def unlift(self) -> None:
        self.before.after = self
        if self.after is not None:
            self.after.before = self


def _check_one(key: str, history: list[Operation], model: Model) -> Problem | None:
    operations = model.simplified(history)
    head = _linked(operations)
    twins = _twins(operations, model)
    state: Any = model.initial
    placed = 0  # one bit for each operation that has its place
    answered = sum(operation.is_answered for operation in operations)
    missing = answered
    seen: set[tuple[int, Any]] = set()
    stack: list[
        tuple[_Entry, Any, bool]
    ] = []  # placed; the state before; whether there was a choice
    longest: list[int] = []
    longest_state = state
    most = -1
    fresh = True  # whether this state was not looked at yet
    entry = head.after
    while missing:
        if fresh:
            # What fits and changes nothing may as well happen now: that costs nobody anything.
            for read in _next_reads(head, operations, state, model):
                stack.append((read, state, False))
                placed |= 1 << read.number
                missing -= 1
                _lift(read)
            if answered - missing > most:
                most = answered - missing
                longest, longest_state = [each.number for each, *_ in stack], state
            if not missing:
                break
            entry, fresh = head.after, False
        assert entry is not None, "every answered operation has its answer in the list"
        if entry.match is not None:
            operation = operations[entry.number]
            earlier = twins.get(entry.number)
            if earlier is None or placed >> earlier & 1:
                fits, following = model.step(state, operation)
                after = placed | 1 << entry.number
                if fits and following != state and (after, following) not in seen:
                    seen.add((after, following))
                    stack.append((entry, state, True))
                    state, placed = following, after
                    missing -= operation.is_answered
                    _lift(entry)
                    fresh = True
                    continue
            entry = entry.after
            continue
        # An answer whose operation has no place yet: whatever was chosen last was wrong.
        while stack:
            entry, state, was_chosen = stack.pop()
            placed &= ~(1 << entry.number)
            missing += operations[entry.number].is_answered
            assert entry.match is not None
            entry.match.unlift()
            entry.unlift()
            if was_chosen:
                entry = entry.after
                break
        else:
            done = set(longest)
            rest = [o for number, o in enumerate(operations) if number not in done]
            first = min(operation.answered for operation in rest)
            stuck = [operation for operation in rest if operation.called <= first]
            return Problem(key, [operations[n] for n in longest], stuck, longest_state)
    return None


def _lift(entry: _Entry) -> None:
    assert entry.match is not None
    entry.lift()
    entry.match.lift()


def _next_reads(
    head: _Entry, operations: Sequence[Operation], state: Any, model: Model
) -> list[_Entry]:
    """Calls that may be next, were answered, fit, and leave the state as it is."""
    found: list[_Entry] = []
    taken: set[int] = set()
    entry = head.after
    while entry is not None:
        if entry.match is None:
            if entry.number not in taken:
                break  # Whatever is called from here on comes after this one.
            entry = entry.after
            continue
        operation = operations[entry.number]
        if operation.is_answered and model.step(state, operation) == (True, state):
            found.append(entry)
            taken.add(entry.number)
        entry = entry.after
    return found


def _twins(operations: Sequence[Operation], model: Model) -> dict[int, int]:
    """For each unanswered operation: one that does the same and was called before it.

    Whatever order uses the later one can use the earlier one instead.
    """
    latest: dict[Hashable, int] = {}
    earlier: dict[int, int] = {}
    for number in sorted(range(len(operations)), key=lambda n: operations[n].called):
        operation = operations[number]
        if operation.is_answered:
            continue
        kind = model.kind(operation)
        if kind in latest:
            earlier[number] = latest[kind]
        latest[kind] = number
    return earlier


def _linked(operations: Sequence[Operation]) -> _Entry:
    """A head, then calls and answers by time. At one moment calls come first: that allows more."""
    moments: list[tuple[float, int, int, _Entry]] = []
    for number, operation in enumerate(operations):
        call, answer = _Entry(number), _Entry(number)
        call.match = answer
        # What was not answered is tried last of all that could be next.
        moments.append((operation.called, 0, number, call))
        moments.append((operation.answered, 1, number, answer))
    moments.sort(key=lambda moment: moment[:3])
    head = last = _Entry(-1)
    for *_, entry in moments:
        last.after, entry.before = entry, last
        last = entry
    return head


class ObjectModel:
    """One object of the API. Its state is the value that it has, or None while it is not there.

    asked: ("create", value), ("get",), ("update", base value, value), ("patch", value),
    ("delete",). Values are unique, so that a base value says what a resourceVersion does.
    answer: ok, or the value for a get; "exists", "missing", "conflict".
    """

    OK, EXISTS, MISSING, CONFLICT = "ok", "exists", "missing", "conflict"
    initial: Hashable = None

    def simplified(self, history: list[Operation]) -> list[Operation]:
        """Whoever saw a value tells that it was written by then, answered or not.

        Values that nobody ever saw are one and the same.
        """
        seen_at: dict[Any, float] = {}
        for each in history:
            if each.is_answered and each.asked[0] == "get" and each.answer != self.MISSING:
                value = each.answer[1]
            elif each.answer == self.OK and each.asked[0] == "update":
                value = each.asked[1]
            else:
                continue
            seen_at[value] = min(seen_at.get(value, inf), each.answered)
        bases = {each.asked[1] for each in history if each.asked[0] == "update"}
        simpler = []
        for each in history:
            verb = each.asked[0]
            if each.is_answered or verb == "delete":
                simpler.append(each)
            elif verb != "get":
                value = each.asked[-1]
                if value in seen_at:
                    answered = max(seen_at[value], each.called)
                    simpler.append(replace(each, answered=answered, answer=self.OK))
                elif value in bases:
                    simpler.append(each)
                else:
                    simpler.append(replace(each, asked=(*each.asked[:-1], "a value never seen")))
        return simpler

    def kind(self, operation: Operation) -> Hashable:
        return operation.asked

    def step(self, state: Any, operation: Operation) -> tuple[bool, Any]:
        verb, *rest = operation.asked
        if verb == "get":
            want = self.MISSING if state is None else ("value", state)
            return not operation.is_answered or operation.answer == want, state
        if verb == "create":
            answer, after = (self.OK, rest[0]) if state is None else (self.EXISTS, state)
        elif state is None:
            answer, after = self.MISSING, None
        elif verb == "update":
            base, value = rest
            answer, after = (self.OK, value) if state == base else (self.CONFLICT, state)
        elif verb == "patch":
            answer, after = self.OK, rest[0]
        else:
            assert verb == "delete", verb
            # It names the uid of the object that it means, which the state does not know.
            if operation.answer == self.CONFLICT:
                return True, state
            answer, after = self.OK, None
        return not operation.is_answered or operation.answer == answer, after
