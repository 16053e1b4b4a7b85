"""A local view of one resource: what there is, then what changes, into an Index, for ever.

Tells its handlers of every change, in order, and knows how far its view has come (`revision`), so
that a controller can wait until it has seen its own last write. Begins anew when told Expired;
when the partition is Unavailable it waits, and resumes from where it was. What there is comes as
the first events of the watch, in pieces: a list of 100,000 pods would be decoded as one piece,
for seconds and into a GB, and nobody would be answered meanwhile.

Not a filter: selectors are the server's work, so that n shards do not multiply traffic.
Measured for a Pod of 2 KB on busy cores: 14 us an event, of which orjson.loads takes 7 and letting
go of the old object 2. A collector of cycles that walks over many decoded objects costs more than
that again (base/collector.py).
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Iterator

import orjson

from arktos_ray.api.calls import ARRIVED, BOOKMARK, DELETED, LEFT, WatchEvent
from arktos_ray.api.errors import Expired, Failure
from arktos_ray.api.names import Key
from arktos_ray.base import retry
from arktos_ray.base.clock import Clock
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.index import Index, Object
from arktos_ray.client.port import Client
from arktos_ray.client.slim import SLIM, Slim

log = logging.getLogger(__name__)

# old is None for a new object, new is None for one that is gone.
Handler = Callable[[Object | None, Object | None], None]

# A partition is back within 3 s of a crash (design.md D11): no reason to wait much longer.
RETRY_FIRST_S = 0.05
RETRY_LIMIT_S = 2.0
# How long a write may wait for a view that hears nothing of it: twice this at most.
PACE_S = 0.1
# Pods change three times while they start, and whoever keeps them in a view counts them or looks
# after them: told every so many ms, it is woken once. Waking a reader costs 0.1 ms on both sides.
PODS_PACE_MS = 20
# A watch that begins with the state.
_INITIAL = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
# A view that hears nothing grows old: resuming it would need history that is long gone.
REFRESH_S = 30.0


class Informer:
    def __init__(
        self,
        client: Client,
        gvr: str,
        clock: Clock,
        tasks: Tasks,
        *,
        tenant: str = "all",
        namespace: str = "",
        slim: Slim | None = None,
        pace_ms: int = 0,
        **selectors: str,
    ) -> None:
        """slim: what is kept of each object (client/slim.py); None for all of it.

        pace_ms: how late it may be told of a change, to be told of more at once.
        """
        self._pace = {"pace": str(pace_ms)} if pace_ms else {}
        self.gvr = gvr
        self._slim = slim
        self.index = Index()
        # The newest revision that this view includes; also from bookmarks and lists.
        self.revision = 0
        # A watch is open: what we see is at most a moment old. False while we cannot know.
        self.connected = False
        # Tenants came at this revision: other views may not show yet what belongs to theirs.
        self.arrived = 0
        # While handlers hear of objects that their tenant took along: nobody deleted them.
        self.leaving = False
        self._left: Object = {}  # tenants that are in another partition by now
        self._client = client
        self._clock = clock
        self._tasks = tasks
        self._scope = {"tenant": tenant, "namespace": namespace}
        self._selectors = selectors
        self._handlers: list[Handler] = []
        self._synced = asyncio.Event()
        self._started = False
        self._gates: list[tuple[int, int, Callable[[], None]]] = []
        self._gate_sequence = 0

    def on_change(self, handler: Handler) -> None:
        """Called for everything that is there already, then for each change, in order."""
        self._handlers.append(handler)
        for obj in list(self.index):
            handler(None, obj)

    def start(self) -> None:
        if not self._started:
            self._started = True
            self._tasks.start(self._run(), f"informer {self.gvr}")

    async def synced(self) -> None:
        """Waits for the first complete list."""
        await self._synced.wait()

    @property
    def is_synced(self) -> bool:
        return self._synced.is_set()

    def at_revision(self, revision: int, wake: Callable[[], None]) -> None:
        """Calls once when the view includes that revision; at once when it does already."""
        if self.revision >= revision:
            wake()
            return
        self._gate_sequence += 1
        heapq.heappush(self._gates, (revision, self._gate_sequence, wake))

    async def wait_until(self, revision: int) -> None:
        if self.revision < revision:
            passed = asyncio.Event()
            self.at_revision(revision, passed.set)
            await passed.wait()

    async def fence(self) -> int:
        """A revision that is newer than every write that was answered or lost before now."""
        _, revision = await self._client.list(
            self.gvr, **self._scope, **{**self._selectors, "limit": "1", "moves": "true"}
        )
        # A list shows what is durable; a lost write may still be on its way to the disk. Progress
        # beyond what was listed is told only when everything written before is settled.
        return max(revision, await ask_progress(self._client, revision + 1))

    @property
    def awaited(self) -> int:
        """The lowest revision that somebody waits for; 0 for none."""
        return self._gates[0][0] if self._gates else 0

    async def _run(self) -> None:
        listed = False
        waits = self._waits()
        while True:
            try:
                present: set[Key] = set()
                async for batch in self._client.watch(
                    self.gvr,
                    **self._scope,
                    **self._selectors,
                    **self._pace,
                    **({"resourceVersion": str(self.revision)} if listed else _INITIAL),
                    allowWatchBookmarks="true",
                    progress="true",
                    moves="true",
                ):
                    if not listed:
                        batch, listed = self._initial(batch, present)
                        if listed:
                            present.clear()
                            self._synced.set()
                    self.connected = listed
                    self._apply(batch)
                    waits = self._waits()
            except Expired:
                listed, waits = False, self._waits()  # The partition answers: no reason to wait.
            except Failure as failure:
                log.info("informer %s: %s", self.gvr, failure.message)
            # A watch that ends without a failure (a server's time limit) is resumed the same way.
            self.connected = False
            await self._clock.sleep(next(waits))

    @staticmethod
    def _waits() -> Iterator[float]:
        return retry.exponential(RETRY_FIRST_S, RETRY_LIMIT_S)

    def _initial(self, batch: list[WatchEvent], present: set[Key]) -> tuple[list[WatchEvent], bool]:
        """A piece of the state as it is; handlers hear only of what differs from what we knew.

        Returns what comes after the state, and whether it is complete.
        """
        slim = self._slim
        for number, event in enumerate(batch):
            if event.type == BOOKMARK:
                if event.body:  # Ahead of the state: which tenants came and went.
                    moves = orjson.loads(event.body)
                    self.arrived, self._left = max(self.arrived, moves["since"]), moves["left"]
                if not event.initial_end:
                    continue
                for key in self.index.keys():  # noqa: SIM118 - a copy: we remove while we go
                    if key not in present:
                        self.leaving = (key.tenant or key.name) in self._left
                        self._tell(self.index.remove(key), None)
                self.leaving = False
                self._seen(event.revision)
                return batch[number + 1 :], True
            key = Key.from_path(event.path)
            present.add(key)
            obj = orjson.loads(event.body)
            if slim is not None:
                obj = slim(obj)
            old = self.index.put(key, obj)
            if (
                old is None
                or old["metadata"].get("resourceVersion") != obj["metadata"]["resourceVersion"]
            ):
                self._tell(old, obj)
        return [], False

    def _apply(self, batch: list[WatchEvent]) -> None:
        loads = orjson.loads
        put, handlers, slim = self.index.put, self._handlers, self._slim
        for event in batch:
            if event.type == BOOKMARK:
                continue
            key = Key.from_path(event.path)
            if event.type in (DELETED, LEFT):
                old = self.index.remove(key)
                if old is not None:
                    self.leaving = event.type == LEFT
                    self._tell(old, None)
                    self.leaving = False
                continue
            if event.type == ARRIVED:
                # Each carries the revision before the one at which its tenant came.
                self.arrived = max(self.arrived, event.revision + 1)
            new = loads(event.body)
            if slim is not None:
                new = slim(new)
            old = put(key, new)
            for handler in handlers:
                handler(old, new)
        if batch:
            self._seen(batch[-1].revision)

    def _seen(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        while self._gates and self._gates[0][0] <= self.revision:
            heapq.heappop(self._gates)[2]()

    def _tell(self, old: Object | None, new: Object | None) -> None:
        for handler in self._handlers:
            handler(old, new)


async def ask_progress(client: Client, revision: int) -> int:
    """Has every watch on that partition say how far it is, at or beyond the revision; how far.

    A quiet resource has no events to tell it by. Partitions that cannot be asked say it unasked.
    """
    request = getattr(client.caller, "request", None)
    if request is not None:
        reached = await request("progress", [revision])
        return reached if isinstance(reached, int) else 0
    return 0


class Informers:
    """The informers of one partition, shared by the controllers that want the same view.

    Of pods and nodes they keep what controllers read (client/slim.py).
    """

    def __init__(self, client: Client, clock: Clock, tasks: Tasks) -> None:
        self._client = client
        self._clock = clock
        self._tasks = tasks
        self._informers: dict[tuple[str, tuple[tuple[str, str], ...]], Informer] = {}
        self._started = False

    def of(self, gvr: str, **selectors: str) -> Informer:
        key = (gvr, tuple(sorted(selectors.items())))
        informer = self._informers.get(key)
        if informer is None:
            informer = Informer(
                self._client, gvr, self._clock, self._tasks, slim=SLIM.get(gvr),
                pace_ms=PODS_PACE_MS if gvr == "pods" else 0, **selectors,
            )  # fmt: skip
            self._informers[key] = informer
            if self._started:
                informer.start()
        return informer

    def start(self) -> None:
        self._started = True
        for informer in self._informers.values():
            informer.start()
        if hasattr(self._client.caller, "request"):
            self._tasks.start(self._keep_pace(), "informers' progress")

    async def _keep_pace(self) -> None:
        """Asks for progress while somebody waits, and now and then for views that hear nothing.

        The answer to one question may be lost with its connection, so it is asked again.
        """
        waited: set[Informer] = set()
        asked = self._clock.monotonic()
        while True:
            await self._clock.sleep(PACE_S)
            waiting = {each for each in self._informers.values() if each.awaited}
            stuck = waiting & waited
            waited = waiting
            now = self._clock.monotonic()
            if not stuck and now - asked < REFRESH_S:
                continue
            asked = now
            try:
                # Not a revision to wait for: where the watches are by now is enough.
                await ask_progress(self._client, 0)
            except Failure as failure:
                log.debug("progress: %s", failure.message)

    async def synced(self) -> None:
        for informer in self._informers.values():
            await informer.synced()
