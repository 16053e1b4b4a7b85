"""The one controller loop: take a key, reconcile, requeue. Nobody writes another.

A key has at most one reconcile at a time. A Failure puts it back with growing delays. After a
write a controller says how far the views must have come (`wrote`), and the loop holds that key
back until they have: a controller never acts on a view older than its own last write (design.md
D9). After Unavailable nobody knows whether the write happened; then the loop first asks the
partition for a newer revision than any lost write can have, and waits for the views to reach it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import orjson

from arktos_ray.api.calls import Call, Reply, User
from arktos_ray.api.errors import Conflict, Failure, Timeout, Unavailable
from arktos_ray.api.names import SYSTEM_TENANT, Key
from arktos_ray.base.certificates import Signer
from arktos_ray.base.clock import Clock
from arktos_ray.base.ids import Ids
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.informer import Informer, Informers
from arktos_ray.client.port import Client, Object
from arktos_ray.client.workqueue import AsyncWorkQueue

log = logging.getLogger(__name__)

# A partition is back within 3 s of a crash (design.md D11).
UNAVAILABLE_WAIT_MAX_S = 2.0

K = TypeVar("K", bound=Hashable)
# Seconds after which to look again even if nothing happens; None for not at all.
Reconcile = Callable[[K], Awaitable[float | None]]


class Loop(Generic[K]):
    """2 us a key beside the work itself when keys are waiting, 12 when a task must be woken."""

    def __init__(
        self,
        name: str,
        reconcile: Reconcile[K],
        clock: Clock,
        tasks: Tasks,
        *,
        workers: int = 4,
        gates: Sequence[Informer] = (),
    ) -> None:
        """gates: the views that reconcile decides on and writes to, all of one partition."""
        self.name = name
        self._reconcile = reconcile
        self._tasks = tasks
        self._workers = workers
        self._gates = tuple(gates)
        self._queue: AsyncWorkQueue[K] = AsyncWorkQueue(clock, tasks, name)
        self._expected: dict[K, dict[Informer, int]] = {}
        self._held: set[K] = set()
        self._uncertain: set[K] = set()

    def start(self) -> None:
        for number in range(self._workers):
            self._tasks.start(self._work(), f"{self.name} {number}")

    def wake(self, key: K, delay: float = 0.0) -> None:
        self._queue.add(key, delay)

    def wrote(self, key: K, informer: Informer, revision: int) -> None:
        """Not again before `informer` has seen that revision."""
        if informer.revision < revision:
            expected = self._expected.setdefault(key, {})
            expected[informer] = max(expected.get(informer, 0), revision)

    @property
    def idle(self) -> bool:
        return self._queue.idle

    async def _work(self) -> None:
        for informer in self._gates:
            await informer.synced()
        while True:
            key = await self._queue.get()
            try:
                if key in self._uncertain:
                    await self._fence(key)
                self._await_arrivals(key)
                if self._is_held(key):
                    continue
                again = await self._reconcile(key)
            except Conflict as failure:
                log.debug("%s %s: %s", self.name, key, failure.message)
                self._queue.failed(key)
            except (Unavailable, Timeout) as failure:
                # Not the key's fault: soon after the partition is back, everything goes on.
                self._uncertain.add(key)
                self._queue.failed(key, UNAVAILABLE_WAIT_MAX_S)
                log.info("%s %s: %s", self.name, key, failure.message)
            except Failure as failure:
                delay = self._queue.failed(key)
                log.info("%s %s: %s; again in %.3f s", self.name, key, failure.message, delay)
            except Exception:
                # A bug. It must not stop the objects of every other tenant, so it stays with
                # its key, loudly; an object that trips it may be changed by its owner.
                log.exception("%s failed on %s", self.name, key)
                self._queue.failed(key)
            else:
                self._queue.forget(key)
                if again is not None:
                    self._queue.add(key, max(again, 0.001))
            finally:
                self._queue.done(key)

    async def _fence(self, key: K) -> None:
        """Whatever became of a lost write, the views will have seen it."""
        if self._gates:
            # One question for all: they are views of one partition.
            revision = await self._gates[0].fence()
            for informer in self._gates:
                self.wrote(key, informer, revision)
        self._uncertain.discard(key)

    def _await_arrivals(self, key: K) -> None:
        """A tenant that came is in some views before it is in the others: not half of it."""
        arrived = max([informer.arrived for informer in self._gates], default=0)
        if arrived:
            for informer in self._gates:
                self.wrote(key, informer, arrived)

    def _is_held(self, key: K) -> bool:
        expected = self._expected.get(key)
        if expected is None:
            return False
        for informer, revision in list(expected.items()):
            if informer.revision >= revision:
                del expected[informer]
        if not expected:
            del self._expected[key]
            return False
        if key not in self._held:
            self._held.add(key)
            informer, revision = next(iter(expected.items()))
            informer.at_revision(revision, lambda: self._release(key))
        return True

    def _release(self, key: K) -> None:
        self._held.discard(key)
        self._queue.add(key)


def written(replies: Sequence[Reply]) -> int:
    """The revision of the last write of a batch that was taken; 0 when none says.

    Writes of a batch are applied in sequence, so one body is decoded, not all.
    """
    for reply in reversed(replies):
        if reply.ok:
            return int(orjson.loads(reply.body).get("metadata", {}).get("resourceVersion", 0) or 0)
    return 0


class ControllerClient(Client):
    """A Client that signs its writes: managedFields and audit then name the controller."""

    def __init__(self, client: Client, name: str) -> None:
        user = f"system:serviceaccount:kube-system:{name}"
        super().__init__(client.caller, User(user, SYSTEM_TENANT, trusted=True))
        self._name = name

    def calling(
        self, verb: str, gvr: str, key: Key, body: Object | None = None, subresource: str = "",
        **options: str,
    ) -> Call:  # fmt: skip
        if verb in ("create", "update", "patch"):
            options.setdefault("fieldManager", self._name)
        call = super().calling(verb, gvr, key, body, subresource, **options)
        call.user_agent = self._name
        return call


@dataclass(frozen=True, slots=True)
class Range:
    """(low, high] of hashKeys; with low 0 it includes 0 (spec/scaleout.md 8.2)."""

    low: int = 0
    high: int = 9223372036854775807

    @property
    def is_full(self) -> bool:
        return self.low == 0 and self.high == 9223372036854775807

    def selectors(self, field: str = "metadata.hashkey", *, unowned: bool = False) -> Object:
        """Keyword arguments for an Informer; none for the full range.

        unowned: also objects that no such owner has, which wait to be adopted.
        """
        if self.is_full:
            return {}
        operator = "gt" if self.low else "gte"
        text = f"{field}={operator}:{self.low},{field}=lte:{self.high}"
        return {"fieldSelector": f"{text};{field}=" if unowned else text}

    def owned(self, kind: str) -> Object:
        return self.selectors(f"metadata.ownerReferences.hashkey.{kind}", unowned=True)

    def __contains__(self, hash_key: int) -> bool:
        return self.low < hash_key <= self.high or (hash_key == 0 and self.low == 0)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another partition: the RPs of a TP, or the TPs of an RP; or one of the same kind."""

    client: Client
    informers: Informers


@dataclass(frozen=True, slots=True)
class Parts:
    """What a controller is made from."""

    client: Client
    informers: Informers
    # Those that there are now: partitions come and go while controllers run.
    neighbours: Sequence[Neighbour]
    clock: Clock
    ids: Ids
    tasks: Tasks
    range: Range = Range()
    ca: str = ""  # by which clients know the API, PEM
    # All partitions of our own kind, ours among them.
    siblings: Sequence[Neighbour] = ()
    signer: Signer | None = None  # of client certificates
    network: Object | None = None  # the template of a new tenant's default network


class Controller:
    """What the registry starts. Subclasses name their views and loop in __init__."""

    def start(self) -> None:
        raise NotImplementedError
