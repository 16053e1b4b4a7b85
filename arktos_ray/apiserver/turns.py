"""Whose turn it is in a partition that is behind.

A partition is one event loop; what came in first would go first, however much of it there is. So
every piece of work asks here before it begins: a batch of calls, the next slice of a long list, the
next events of a watch. While little is asked for, all begin at once. Beyond TURN_US of expected
work in one iteration of the loop the rest waits, in fair order (base/fair.py): by lane, then by
tenant; between iterations the loop looks at its sockets, so that who is new and owes nothing is
next.

Measured in CPU time (two busy cores): 0.6 us a question when nothing waits, 14 us when its turn
must be waited for, the change of tasks included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from arktos_ray.api import lanes
from arktos_ray.api.calls import Call
from arktos_ray.api.errors import TooManyRequests
from arktos_ray.base.fair import Lanes

# Long enough that looking at the sockets (50 us) costs little, short enough that nobody notices.
TURN_US = 2_000
# A long piece of work is cut into slices of about this: a large list holds nobody up for longer.
SLICE_US = 1_000
# Batches of one lane that wait for their turn: a second's work and more. Then 429.
BATCHES_MAX = 4_096
# A call that takes longer than this is charged for what it took.
LONG_US = 2_000
# What their bodies hold in memory, all lanes together. Then 429.
BATCH_BYTES_MAX = 128 << 20
# Slices and watches that wait: one of each list or watch that is open, and those are limited.
_WAITING_MAX = 200_000
# Whose a batch is that has calls of several, as an ingress makes them of who has little to say.
_TOGETHER = "\0"


class Turns:
    def __init__(self) -> None:
        self._lanes: Lanes[str, asyncio.Future[None]] = Lanes(lanes.WEIGHTS, _WAITING_MAX)
        self._left_us = TURN_US  # of this iteration
        self._scheduled = False
        self._batches = [0] * len(lanes.NAMES)
        self._bytes = 0
        self.refused = 0

    async def begin(self, calls: Sequence[Call]) -> None:
        """Returns when the batch may be worked on. Raises TooManyRequests: it was not begun."""
        if not calls:
            return
        cost = lanes.cost_of_all(calls)
        if self._at_once(cost):
            return
        if lanes.lane_of(calls[0]) == lanes.HEARTBEATS:
            return  # Few, small, and never late.
        lane = lanes.lane_of(calls[0])
        flow = lanes.flow_of(calls[0], lane)
        if lanes.flow_of(calls[-1], lane) != flow:
            flow = _TOGETHER
        size = sum([len(call.body) for call in calls])
        if self._batches[lane] >= BATCHES_MAX or self._bytes + size > BATCH_BYTES_MAX:
            self.refused += len(calls)
            raise TooManyRequests(
                "the partition has more to do than it can hold; try again",
                details={"retryAfterSeconds": 1},
            )
        self._batches[lane] += 1
        self._bytes += size
        try:
            await self._wait(lane, flow, cost)
        finally:
            self._batches[lane] -= 1
            self._bytes -= size

    async def take(self, call: Call, cost_us: int) -> None:
        """Returns when the next piece of this call may be worked on."""
        if not self._at_once(cost_us):
            lane = lanes.lane_of(call)
            await self._wait(lane, lanes.flow_of(call, lane), cost_us)

    def charge(self, call: Call, spent_us: int) -> None:
        """A call took much longer than was foreseen, for what somebody's rules are: whoever made it
        pays for it, and nothing more begins in this iteration."""
        extra = spent_us - lanes.cost_of(call)
        lane = lanes.lane_of(call)
        self._left_us -= extra
        self._lanes.charge(lane, lanes.flow_of(call, lane), extra)
        if not self._scheduled:
            self._schedule()

    def waiting(self) -> dict[str, int]:
        return {lanes.NAMES[lane]: count for lane, count in self._lanes.waiting().items()}

    def _at_once(self, cost: int) -> bool:
        if self._left_us <= 0 or len(self._lanes):
            return False
        self._left_us -= cost
        if not self._scheduled:
            self._schedule()
        return True

    async def _wait(self, lane: int, flow: str, cost: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self._lanes.push(lane, flow, cost, turn):
            await asyncio.sleep(0)  # Out of order, rather than not at all.
            return
        if not self._scheduled:
            self._schedule()
        await turn

    def _schedule(self) -> None:
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Once an iteration of the loop, for as long as there is something to do."""
        self._scheduled = False
        self._left_us = TURN_US
        queue = self._lanes
        while self._left_us > 0:
            taken = queue.pop()
            if taken is None:
                break
            [turn] = taken.items
            if not turn.done():  # Cancelled: whoever asked is gone.
                turn.set_result(None)
                self._left_us -= taken.cost
        if self._left_us < TURN_US or len(queue):
            self._schedule()
