"""Fair shares of something that serves one after the other, such as a partition's event loop.

Whoever asks is a flow (a tenant, a user); what it asks for has a cost. `FairQueue` serves flows by
start-time fair queueing: each has a tag that grows by the cost of what it was given, and the lowest
tag is served next. Who was idle begins at the present tag, so its first item waits for at most one
item of each other flow, however much those have waiting; and nobody saves up for later.
`Lanes` is the same once more over a few lanes with weights, each of them a FairQueue of its flows.

Pure: no clock, no event loop; costs are whatever the caller counts in, whole numbers. Not a rate
limit: a flow that is alone gets everything.

Measured in CPU time (benchmarks/fairness.py --queue): push, pop and done together 2.5 us an item
with 200 flows waiting, 2.2 us with nobody waiting, less in batches (on two busy cores).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from heapq import heappop, heappush, heappushpop
from typing import Generic, NamedTuple, TypeVar

F = TypeVar("F", bound=Hashable)
T = TypeVar("T")

# Idle flows are remembered, for what they owe. At this many that is forgiven them.
_FLOWS_SWEEP = 1_024


class Taken(NamedTuple, Generic[F, T]):
    """What `pop` gave out: some items of one flow, running until `done` hears of them."""

    flow: F
    cost: int
    items: list[T]
    # Nothing else of this flow is waiting or running: it wants no more than this.
    light: bool


class _Flow(Generic[F, T]):
    __slots__ = ("charged", "debt", "items", "key", "listed", "running", "tag")

    def __init__(self, key: F, tag: int) -> None:
        self.key = key
        self.items: deque[tuple[int, T]] = deque()
        self.tag = tag  # of its first item
        self.debt = 0  # learned too late for the tag that is listed
        self.charged = 0  # not in the tag that is listed, and to be paid before it goes
        self.running = 0  # how often it was given something that is not done
        self.listed = False


class FairQueue(Generic[F, T]):
    """waiting_max: items. A flow may have as many waiting as there is room left, so that one alone
    has half, two have a third each, and a newcomer always finds some.

    running_max: how much of one flow may run at once, in pops; more of it waits, others go first.
    """

    def __init__(self, waiting_max: int, running_max: int | None = None) -> None:
        self._waiting_max, self._running_max = waiting_max, running_max
        self._flows: dict[F, _Flow[F, T]] = {}
        self._heap: list[tuple[int, int, _Flow[F, T]]] = []
        self._now = 0  # the tag of what was served last
        self._sequence = 0  # equals go in the order of their coming
        self._waiting = 0
        self._sweep_at = _FLOWS_SWEEP
        self.running = 0

    def __len__(self) -> int:
        return self._waiting

    @property
    def ready(self) -> bool:
        """Whether `pop` has something to give."""
        return bool(self._heap)

    def waiting_of(self, flow: F) -> int:
        known = self._flows.get(flow)
        return len(known.items) if known is not None else 0

    def push(self, key: F, cost: int, item: T) -> bool:
        """False when the flow has its share of the room already: the item was not taken."""
        flow = self._flows.get(key)
        if flow is None:
            if len(self._flows) >= self._sweep_at:
                self._sweep()
            flow = self._flows[key] = _Flow(key, self._now)
        items = flow.items
        if len(items) >= self._waiting_max - self._waiting:
            return False
        items.append((cost, item))
        self._waiting += 1
        if not flow.listed:
            self._list(flow)
        return True

    def pop(self, items_max: int = 1, cost_max: int = 0) -> Taken[F, T] | None:
        """The next of the flows in fairness: one item, or more up to these sums. None when nothing
        waits, or all that do run enough."""
        if not self._heap:
            return None
        tag, _, flow = heappop(self._heap)
        while flow.charged:
            self._sequence += 1
            entry = (tag + flow.charged, self._sequence, flow)
            flow.charged = 0
            tag, _, flow = heappushpop(self._heap, entry)
        waiting = flow.items
        cost, item = waiting.popleft()
        items = [item]
        while waiting and len(items) < items_max and cost < cost_max:
            more, item = waiting.popleft()
            cost += more
            items.append(item)
        self._waiting -= len(items)
        self._now = tag
        flow.tag = tag + cost + flow.debt
        flow.debt = 0
        flow.running += 1
        self.running += 1
        flow.listed = False
        if waiting:
            self._list(flow)
        return Taken(flow.key, cost, items, flow.running == 1 and not waiting)

    def charge(self, key: F, cost: int) -> None:
        """What was not foreseen: the flow waits for it, behind whoever waits now."""
        flow = self._flows.get(key)
        if flow is None:
            if len(self._flows) >= self._sweep_at:
                self._sweep()
            flow = self._flows[key] = _Flow(key, self._now)
        if flow.listed:
            flow.charged += cost  # `pop` lists it anew.
        else:
            flow.tag = max(flow.tag, self._now) + cost

    def done(self, key: F, cost: int, actual: int) -> None:
        """What was taken at this cost is finished, and what it cost really."""
        flow = self._flows[key]
        flow.running -= 1
        self.running -= 1
        if flow.listed:
            flow.debt += actual - cost
            return
        flow.tag += actual - cost
        if flow.items:
            self._list(flow)
        elif flow.tag <= self._now and not flow.running:
            del self._flows[key]  # It owes nothing.
        elif not self._waiting and not self.running:
            # Nobody was kept waiting: nobody owes anybody anything.
            self._flows.clear()

    def _list(self, flow: _Flow[F, T]) -> None:
        if self._running_max is not None and flow.running >= self._running_max:
            return  # `done` lists it.
        if flow.tag < self._now:
            flow.tag = self._now
        flow.listed = True
        self._sequence += 1
        heappush(self._heap, (flow.tag, self._sequence, flow))

    def _sweep(self) -> None:
        for key, flow in list(self._flows.items()):
            if not flow.items and not flow.running:
                del self._flows[key]
        self._sweep_at = max(_FLOWS_SWEEP, 2 * len(self._flows))


class Lanes(Generic[F, T]):
    """A few lanes, each fair within. weights: by lane; None goes before all others, always.

    A lane that asks for less than its weight never waits for one that asks for more; one that asks
    for more still gets its share, so no lane can be starved by another that has a weight.
    """

    def __init__(self, weights: Sequence[int | None], waiting_max: int) -> None:
        """waiting_max: items of one lane; what waits in one leaves the others their room."""
        self._weights = weights
        self._lanes: list[FairQueue[F, T]] = [FairQueue(waiting_max) for _ in weights]
        self._tags = [0.0] * len(weights)
        self._now = 0.0
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def waiting(self) -> Mapping[int, int]:
        """By lane."""
        return {lane: len(queue) for lane, queue in enumerate(self._lanes)}

    def push(self, lane: int, flow: F, cost: int, item: T) -> bool:
        queue = self._lanes[lane]
        idle = not len(queue)
        if not queue.push(flow, cost, item):
            return False
        self._waiting += 1
        if idle and self._tags[lane] < self._now:
            self._tags[lane] = self._now
        return True

    def charge(self, lane: int, flow: F, cost: int) -> None:
        """The flow alone: others of its lane have done nothing."""
        if self._weights[lane] is not None:
            self._lanes[lane].charge(flow, cost)

    def pop(self) -> Taken[F, T] | None:
        best = -1
        for lane, queue in enumerate(self._lanes):
            if not len(queue):
                continue
            if self._weights[lane] is None:
                best = lane
                break
            if best < 0 or self._tags[lane] < self._tags[best]:
                best = lane
        if best < 0:
            return None
        taken = self._lanes[best].pop()
        assert taken is not None, "nothing runs here, so whatever waits may go"
        self._waiting -= 1
        weight = self._weights[best]
        if weight is not None:
            self._now = self._tags[best]
            self._tags[best] += taken.cost / weight
        self._lanes[best].done(taken.flow, taken.cost, taken.cost)
        return taken
