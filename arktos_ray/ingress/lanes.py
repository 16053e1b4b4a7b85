"""The lanes from an ingress to each partition: what waits, in which order, how much goes at once.

Heartbeats, administrators, our own parts and tenants have lanes of their own (api/lanes.py), so
that none waits behind another; in each the users share fairly (base/fair.py). Within a lane reads
and writes go apart, so that a get does not wait for somebody's commit, and lists go alone, since a
batch is answered as a whole.

Of each user little is on its way at a time; the rest waits here, where others overtake it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from arktos_ray.api import errors
from arktos_ray.api.calls import Call, Reply
from arktos_ray.api.lanes import LIST_BYTES_PER_US, NAMES, cost_of, flow_of, lane_of
from arktos_ray.base.fair import FairQueue
from arktos_ray.base.tasks import Tasks
from arktos_ray.ingress import status
from arktos_ray.ingress.limits import Limits
from arktos_ray.ingress.shares import busy

# partition, calls, seconds left -> replies. Failures of the way are replies too.
Ask = Callable[[str, Sequence[Call], float], Awaitable[list[Reply]]]

_READS, _WRITES, _LISTS = "reads", "writes", "lists"
_LONG = ("list", "deletecollection")
# A whole list whose size nobody knows yet, and one object of a page: 1,000 and 1 of 3 KB.
_LIST_UNKNOWN_US = 3_000
_LISTED_OBJECT_US = 3


class _Waiting(NamedTuple):
    call: Call
    answer: asyncio.Future[Reply]
    since: float


class _Room(NamedTuple):
    """How much of one lane may be on its way at once."""

    batch_calls: int
    batch_cost: int
    of_flow: int  # batches
    batches: int


class ListCosts:
    """What lists cost their partition, from how large they were. Pure."""

    def __init__(self, known_max: int) -> None:
        self._known: dict[tuple[str, str, int], int] = {}
        self._known_max = known_max

    def expected(self, call: Call) -> int:
        learned = self._known.get(_kind_of_list(call))
        if learned is not None:
            return cost_of(call) + learned
        limit = call.options.get("limit", "")
        if limit.isdecimal() and 0 < len(limit) <= 9 and int(limit):
            return cost_of(call) + min(int(limit) * _LISTED_OBJECT_US, _LIST_UNKNOWN_US)
        return cost_of(call) + _LIST_UNKNOWN_US

    def learn(self, call: Call, reply: Reply) -> int:
        """What it cost; the next one like it is expected to cost as much. Growth is believed at
        once, shrinking by and by: somebody lists small and large namespaces in turn."""
        actual = len(reply.body) // LIST_BYTES_PER_US
        kind, known = _kind_of_list(call), self._known
        before = known.pop(kind, None)
        if len(known) >= self._known_max:
            del known[next(iter(known))]
        known[kind] = actual if before is None else max(actual, (3 * before + actual) // 4)
        return cost_of(call) + actual


def _kind_of_list(call: Call) -> tuple[str, str, int]:
    limit = call.options.get("limit", "")
    pages = len(bin(int(limit[:9]))) if limit.isdecimal() else 0
    return (call.tenant, call.gvr, pages)


class _Part(NamedTuple):
    """What a batch has of one user."""

    flow: str
    cost: int
    waiting: list[_Waiting]


class _Lane:
    """Calls on their way to one partition: those of one loop iteration go as one batch.

    Once a few batches of somebody are in flight the rest of theirs gathers until one returns.
    Who has little to say shares a batch with others like that; who has more than goes into one has
    batches of their own, so that nobody waits for them there.

    Measured over TLS, 64 connections, against a partition that takes 1 ms and 30 us a call: at
    most 1 batch in flight 6.6K requests/s, 2 10.1K, 4 9.5K, no limit 8.9K; CPU a request is lowest
    at 4 (77 us).
    """

    def __init__(
        self, partition: str, ask: Ask, tasks: Tasks, limits: Limits, room: _Room,
        learn: Callable[[Call, Reply], int] | None,
    ) -> None:  # fmt: skip
        """learn: what a call cost, once its reply is there; None: what was expected."""
        self._partition, self._ask, self._tasks = partition, ask, tasks
        self._limits, self._room, self._learn = limits, room, learn
        self._loop = asyncio.get_running_loop()
        self.queue: FairQueue[str, _Waiting] = FairQueue(limits.lane_waiting_max, room.of_flow)
        self._scheduled = False
        self._in_flight = 0

    def submit(self, call: Call, flow: str, cost: int) -> asyncio.Future[Reply] | None:
        """None: the flow has too much waiting already."""
        answer: asyncio.Future[Reply] = self._loop.create_future()
        if not self.queue.push(flow, cost, _Waiting(call, answer, self._loop.time())):
            return None
        if not self._scheduled and self.queue.ready and self._in_flight < self._room.batches:
            self._schedule()
        return answer

    def _schedule(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        queue, room = self.queue, self._room
        together: list[_Part] = []
        calls = cost = 0
        while self._in_flight < room.batches:
            taken = queue.pop(room.batch_calls - calls, room.batch_cost - cost)
            if taken is None:
                break
            waiting = self._current(taken.items)
            if not waiting:
                queue.done(taken.flow, taken.cost, 0)
                continue
            part = _Part(taken.flow, taken.cost, waiting)
            if not taken.light and (together or len(queue)):
                self._start([part])
                continue
            together.append(part)
            calls += len(waiting)
            cost += taken.cost
            if calls >= room.batch_calls or cost >= room.batch_cost:
                self._start(together)
                together, calls, cost = [], 0, 0
        if together:
            self._start(together)

    def _current(self, all_of: list[_Waiting]) -> list[_Waiting]:
        """Without those whose client went away before they were sent, or whose time is over."""
        late = self._loop.time() - self._limits.call_s
        waiting = []
        for one in all_of:
            if one.since <= late:
                _answer(one, errors.Timeout(f"{self._partition} is too busy to answer"))
            elif not one.answer.done():
                waiting.append(one)
        return waiting

    def _start(self, batch: list[_Part]) -> None:
        self._in_flight += 1
        self._tasks.start(self._send(batch), "ingress-batch")

    async def _send(self, batch: list[_Part]) -> None:
        all_of = [one for part in batch for one in part.waiting]
        # The oldest waited longest; the rest shares its deadline.
        left_s = self._limits.call_s - (self._loop.time() - min([one.since for one in all_of]))
        learned: int | None = None
        try:
            replies = await self._ask(self._partition, [one.call for one in all_of], left_s)
            if self._learn is not None:
                learned = self._learn(all_of[0].call, replies[0])
            for one, reply in zip(all_of, replies, strict=True):
                if not one.answer.done():
                    one.answer.set_result(reply)
        finally:
            for one in all_of:  # Only after a bug (which is logged) or at shutdown.
                _answer(one, errors.Unavailable(f"no answer from {self._partition}"))
            self._in_flight -= 1
            for part in batch:
                self.queue.done(part.flow, part.cost, part.cost if learned is None else learned)
            if self.queue.ready and not self._scheduled:
                self._schedule()


def _answer(waiting: _Waiting, failure: errors.Failure) -> None:
    if not waiting.answer.done():
        waiting.answer.set_result(status.reply(failure))


class Lanes:
    """All lanes of one ingress."""

    def __init__(self, ask: Ask, tasks: Tasks, limits: Limits) -> None:
        self._ask, self._tasks, self._limits = ask, tasks, limits
        self._lanes: dict[tuple[str, str, int], _Lane] = {}
        self._costs = ListCosts(limits.list_sizes_max)
        self.refused = [0] * len(NAMES)

    def submit(self, partition: str, call: Call) -> asyncio.Future[Reply]:
        """The reply to come.

        Measured in CPU time on two busy cores, batches of 250: 10 us a call, gather included; a
        plain queue takes 3.5 to 7.
        """
        verb = call.verb
        kind = _LISTS if verb in _LONG else _READS if verb == "get" else _WRITES
        number = lane_of(call)
        lane = self._lanes.get((partition, kind, number))
        if lane is None:
            lane = self._lanes[partition, kind, number] = self._lane(partition, kind)
        flow = flow_of(call, number)
        cost = cost_of(call) if kind is not _LISTS else self._costs.expected(call)
        answer = lane.submit(call, flow, cost)
        if answer is None:
            self.refused[number] += 1
            answer = asyncio.get_running_loop().create_future()
            answer.set_result(
                status.reply(busy(f"too many requests of yours wait for {partition}; try again"))
            )
        return answer

    def _lane(self, partition: str, kind: str) -> _Lane:
        of, learn = self._limits, None
        if kind == _LISTS:
            learn = self._costs.learn
            room = _Room(1, 0, of.lists_in_flight_per_tenant_max, of.lists_in_flight_max)
        else:
            room = _Room(
                of.batch_calls_max, of.batch_cost_us_max, of.batches_in_flight_per_tenant_max,
                of.batches_in_flight_max,
            )  # fmt: skip
        return _Lane(partition, self._ask, self._tasks, of, room, learn)

    def waiting(self) -> dict[str, int]:
        """Calls that were not sent yet, by name of the lane."""
        found = dict.fromkeys(NAMES, 0)
        for (_, _, number), lane in self._lanes.items():
            found[NAMES[number]] += len(lane.queue)
        return found
