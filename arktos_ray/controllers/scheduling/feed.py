"""One resource of one partition, as it is and as it changes, straight to its reader.

Unlike client/informer.py it keeps no objects: the scheduler and the ledger hold what they need in
forms of their own, and read bodies that they need to read and no others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from arktos_ray.api.calls import WatchEvent
from arktos_ray.api.errors import Expired, Failure
from arktos_ray.base import retry
from arktos_ray.base.clock import Clock
from arktos_ray.client.port import Client, Object

log = logging.getLogger(__name__)

# A partition is back within 3 s of a crash (design.md D11).
RETRY_FIRST_S, RETRY_LIMIT_S = 0.05, 5.0
# Objects of a list that are read before others may run: about 10 ms.
LIST_SLICE = 500


class Feed:
    """Lists, then watches, for ever; lists again when told Expired.

    on_list is told all paths of the list first, so that it can drop what is gone, then gets the
    objects in slices as on_object; on_events gets batches as they come, LEFT and ARRIVED among
    them. What a list lacks was deleted, or its tenant moved away.
    """

    def __init__(
        self, client: Client, gvr: str, clock: Clock, *,
        on_list: Callable[[set[str]], None],
        on_object: Callable[[Object], object],
        on_events: Callable[[list[WatchEvent]], None],
        **selectors: str,
    ) -> None:  # fmt: skip
        self._client = client
        self._gvr = gvr
        self._clock = clock
        self._on_list, self._on_object, self._on_events = on_list, on_object, on_events
        self._selectors = selectors
        self._synced = asyncio.Event()
        self.revision = 0  # how far it has come
        self.left: dict[str, object] = {}  # tenants that had moved away when it listed

    @property
    def is_synced(self) -> bool:
        """Whether one list was read to its end, ever."""
        return self._synced.is_set()

    async def synced(self) -> None:
        await self._synced.wait()

    async def run(self) -> None:
        revision = 0
        waits = retry.exponential(RETRY_FIRST_S, RETRY_LIMIT_S)
        while True:
            try:
                if not revision:
                    revision = self.revision = await self._list()
                    self._synced.set()
                async for batch in self._client.watch(
                    self._gvr, **self._selectors, resourceVersion=str(revision),
                    allowWatchBookmarks="true", moves="true",
                ):  # fmt: skip
                    self._on_events(batch)
                    revision = self.revision = max(revision, batch[-1].revision)
                    waits = retry.exponential(RETRY_FIRST_S, RETRY_LIMIT_S)
            except Expired:
                revision = 0
            except Failure as failure:
                log.info("feed of %s: %s", self._gvr, failure.message)
            # Whatever ended the watch, a time limit included, it goes on from where it was.
            await self._clock.sleep(next(waits))

    async def _list(self) -> int:
        body = await self._client.listed(self._gvr, **self._selectors, moves="true")
        objects, revision = body["items"], int(body["metadata"]["resourceVersion"])
        self.left = (body["metadata"].get("moves") or {}).get("left") or {}
        self._on_list({path_of(obj) for obj in objects})
        for start in range(0, len(objects), LIST_SLICE):
            for obj in objects[start : start + LIST_SLICE]:
                self._on_object(obj)
            await self._clock.sleep(0)
        return revision


def path_of(obj: Object) -> str:
    """The storage path of an object: the one that its watch events carry."""
    metadata = obj["metadata"]
    return f"{metadata.get('tenant', '')}/{metadata.get('namespace', '')}/{metadata['name']}"
