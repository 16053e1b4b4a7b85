"""Which pods to try now: the pods that wait for a node, as one batch for placement.solve.

A pod that fitted nowhere backs off (1 s, doubled, 10 s at most), and then sleeps until something
changed that might help it; a change during its backoff counts. So a retry costs nothing while
nothing changes, and a busy cluster retries each pod every ten seconds at most. Pure: told the time.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from arktos_ray.placement.signature import PodRequest

BACKOFF_FIRST_S, BACKOFF_LIMIT_S = 1.0, 10.0
# A batch is what waited while the last one was in flight, up to 2,000 pods (15 ms of solving) and
# 200 signatures (200 vector passes: 20 ms at 5,000 nodes, also when none of them fits).
BATCH_PODS_MAX, BATCH_SIGNATURES_MAX = 2_000, 200
# A refusal by a ledger is news of fresher columns, so the pod tries again at once; but not for
# ever, should a ledger and a table disagree for good.
REFUSALS_MAX = 5


@dataclass(slots=True, eq=False)
class Waiter:
    """One waiting pod. `where`: "ready", "hand" (being tried), "backoff" or "asleep"."""

    request: PodRequest
    where: str = "ready"
    attempts: int = 0  # that found no node
    refusals: int = 0  # by a ledger, in a row
    sociable: bool = False  # whether other pods, not room, may be what it waits for
    changes_seen: int = 0
    pod_changes_seen: int = 0


class Queue:
    """The waiting pods of one scheduler, by path."""

    def __init__(self) -> None:
        self._waiters: dict[str, Waiter] = {}
        # Heaps are never searched: an entry whose waiter is elsewhere by then is skipped.
        self._ready: list[tuple[int, int, int, Waiter]] = []  # (-priority, order, sequence, )
        self._backoff: list[tuple[float, int, Waiter]] = []
        self._asleep: dict[str, Waiter] = {}
        # Changes that may help anybody, and those that may help who waits for other pods.
        self._changes = 0
        self._pod_changes = 0
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._waiters)

    def waiter(self, path: str) -> Waiter | None:
        return self._waiters.get(path)

    def add(self, request: PodRequest) -> None:
        """A pod that wants a node. One that is known stays where it is unless it changed."""
        waiter = self._waiters.get(request.path)
        if waiter is not None and waiter.request.uid == request.uid:
            before = waiter.request
            waiter.request = request
            changed = (
                before.signature is not request.signature
                or before.labels != request.labels
                or before.priority != request.priority
            )
            if not changed or waiter.where == "hand":
                return
            self.remove(request.path)
            waiter = None
        if waiter is not None:
            self.remove(request.path)
        waiter = self._waiters[request.path] = Waiter(request)
        self._make_ready(waiter)

    def remove(self, path: str) -> bool:
        """It has a node, or is gone."""
        waiter = self._waiters.pop(path, None)
        if waiter is None:
            return False
        self._asleep.pop(path, None)
        waiter.where = "gone"
        return True

    def take(
        self, now: float, pods: int = BATCH_PODS_MAX, signatures: int = BATCH_SIGNATURES_MAX
    ) -> list[PodRequest]:
        """The next batch, now in hand: the highest priority first, then who came first."""
        self._mature(now)
        batch: list[PodRequest] = []
        seen = set()
        ready = self._ready
        while ready and len(batch) < pods:
            waiter = ready[0][3]
            if waiter.where != "ready":
                heapq.heappop(ready)
                continue
            seen.add(waiter.request.signature)
            if len(seen) > signatures:
                break
            heapq.heappop(ready)
            waiter.where = "hand"
            waiter.changes_seen = self._changes
            waiter.pod_changes_seen = self._pod_changes
            batch.append(waiter.request)
        return batch

    def hold(self, path: str) -> PodRequest | None:
        """Takes one pod in hand out of turn; None when it does not wait, or is in hand."""
        waiter = self._waiters.get(path)
        if waiter is None or waiter.where == "hand":
            return None
        self._asleep.pop(path, None)
        waiter.where = "hand"
        return waiter.request

    def failed(self, request: PodRequest, now: float, *, sociable: bool = False) -> int:
        """It fitted nowhere. Returns how often that was so; 0 when it does not wait any more.

        sociable: where other pods are had to do with it.
        """
        waiter = self._in_hand(request)
        if waiter is None:
            return 0
        waiter.attempts += 1
        waiter.sociable = sociable
        self._back_off(waiter, now)
        return waiter.attempts

    def refused(self, request: PodRequest, now: float) -> None:
        """A ledger knew better: again with what it said."""
        waiter = self._in_hand(request)
        if waiter is None:
            return
        waiter.refusals += 1
        if waiter.refusals <= REFUSALS_MAX:
            self._make_ready(waiter)
        else:
            self.delay(request, now)

    def delay(self, request: PodRequest, now: float) -> None:
        """Not its fault (somebody did not answer): again after a while, whatever changes."""
        waiter = self._in_hand(request)
        if waiter is None:
            return
        waiter.refusals = 0
        waiter.attempts += 1
        waiter.changes_seen = -1
        self._back_off(waiter, now)

    def changed(self) -> bool:
        """There may be room that was not. Whether anybody is ready now who was not."""
        self._changes += 1
        woken = bool(self._asleep)
        for waiter in self._asleep.values():
            self._make_ready(waiter)
        self._asleep.clear()
        return woken

    def pods_changed(self) -> bool:
        """A pod came or went. That alone makes no room: the ledger's word for it comes later, and
        who tried now would only lengthen its backoff."""
        self._pod_changes += 1
        woken = [waiter for waiter in self._asleep.values() if waiter.sociable]
        for waiter in woken:
            del self._asleep[waiter.request.path]
            self._make_ready(waiter)
        return bool(woken)

    def next_due(self) -> float | None:
        """When somebody's backoff is over."""
        while self._backoff and self._backoff[0][2].where != "backoff":
            heapq.heappop(self._backoff)
        return self._backoff[0][0] if self._backoff else None

    def _in_hand(self, request: PodRequest) -> Waiter | None:
        waiter = self._waiters.get(request.path)
        if waiter is None or waiter.request.uid != request.uid or waiter.where != "hand":
            return None
        return waiter

    def _make_ready(self, waiter: Waiter) -> None:
        waiter.where = "ready"
        request = waiter.request
        self._sequence += 1
        entry = (-request.priority, request.order, self._sequence, waiter)
        heapq.heappush(self._ready, entry)

    def _back_off(self, waiter: Waiter, now: float) -> None:
        waiter.where = "backoff"
        wait = min(BACKOFF_FIRST_S * 2.0 ** min(waiter.attempts - 1, 10), BACKOFF_LIMIT_S)
        self._sequence += 1
        heapq.heappush(self._backoff, (now + wait, self._sequence, waiter))

    def _mature(self, now: float) -> None:
        backoff = self._backoff
        while backoff and backoff[0][0] <= now:
            waiter = heapq.heappop(backoff)[2]
            if waiter.where != "backoff":
                continue
            if waiter.changes_seen != self._changes or (
                waiter.sociable and waiter.pod_changes_seen != self._pod_changes
            ):
                self._make_ready(waiter)
            else:
                waiter.where = "asleep"
                self._asleep[waiter.request.path] = waiter
