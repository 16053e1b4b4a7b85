"""The audit log of one ingress: who asked for what, and what came of it, as lines of JSON.

On the loop a request is only remembered (audit_events.Trail); a thread makes the lines, ten times
a second, and writes and rotates the files. A disk that is full or slow stops nobody: what is beyond
the limits is dropped, and counted. In the mode `blocking` nobody is answered before the line is
written, and who waits too long is told that it may have happened.

Which requests: api/audit_policy.py. What is in a line, and what never is: audit_events.py.

Measured (benchmarks/audit.py, CPU, two busy cores): 1.5 us for a request that is not written; for
one at Metadata 6 on the loop and 12 in the thread, and for a create 5 more there, for its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from arktos_ray.api import audit_policy, errors
from arktos_ray.api.audit_policy import Asked
from arktos_ray.api.calls import Call, Reply, User
from arktos_ray.base.clock import Clock
from arktos_ray.base.ids import Ids
from arktos_ray.base.rotated_files import RotatedFiles
from arktos_ray.ingress import routes
from arktos_ray.ingress.audit_events import OBJECT_BYTES_MAX, Trail, event_of
from arktos_ray.tenancy.roles import UNAUTHENTICATED

log = logging.getLogger(__name__)

# Lines are made and written together: waking the thread costs 30 us.
_FLUSH_S = 0.1
# Requests that wait for their line: of seconds of a busy ingress. Then they are dropped.
EVENTS_WAITING_MAX = 20_000
# What their bodies hold in memory.
EVENTS_BYTES_MAX = 64 << 20
# After a disk refused. Its free space is asked for no more often than that.
_RETRY_S = 1.0
# How long a blocked request waits for its line, as long as for anything else.
_BLOCKED_S = 60.0
_CLOSE_S = 1.0


class Audit:
    """`begin` with a request, `complete` with its answer; `close` writes what is left."""

    def __init__(
        self, policy: audit_policy.Policy, files: RotatedFiles, clock: Clock, ids: Ids, *,
        blocking: bool = False,
    ) -> None:  # fmt: skip
        self._policy, self._files, self._clock = policy, files, clock
        self.blocking = blocking
        # Ids are told to clients: a number that grows would tell each how busy the others are.
        self._key, self._number = ids.uid().encode(), 0
        self._pending: list[Trail] = []
        self._pending_bytes = 0
        self._flushing: asyncio.TimerHandle | None = None
        self._queue: queue.SimpleQueue[tuple[Sequence[Trail], int] | None] = queue.SimpleQueue()
        # Given to the thread, and done by it: each has one writer.
        self._given = self._given_bytes = 0
        self._done = self._done_bytes = 0
        self._blocked: list[tuple[int, asyncio.Future[None]]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self.written = 0
        self.dropped = 0  # by the loop
        self.failed = 0  # by the thread: lines that could not be made, or not be written at the end
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write_forever, name="audit", daemon=True)
        self._thread.start()

    # On the loop

    def begin(
        self, method: str, raw_path: str, call: Call | None, path: str, user: User | None,
        as_user: User | None, start: float, *, peer: str, forwarded: str, agent: str,
    ) -> Trail | None:  # fmt: skip
        """None when the policy wants nothing of it. user: None is nobody we know."""
        if call is not None:
            plural, _, group = call.gvr.partition(".")
            asked = Asked(
                user.name if user else "", user.groups if user else (UNAUTHENTICATED,),
                call.tenant, call.verb, group, plural, call.subresource, call.namespace, call.name,
            )  # fmt: skip
        else:
            asked = Asked(
                user.name if user else "", user.groups if user else (UNAUTHENTICATED,),
                user.tenant if user else "", method.lower(), path=path,
            )  # fmt: skip
        rule = self._policy.rule_for(asked)
        if rule.level == audit_policy.NONE:
            return None
        return Trail(
            self._next_id(), rule, method, raw_path, path, call, user,
            None if as_user is user else as_user, self._clock.now(), start, peer, forwarded, agent,
        )  # fmt: skip

    def _next_id(self) -> str:
        """1.5 us, a third of what a UUID costs."""
        self._number += 1
        h = hashlib.blake2b(self._number.to_bytes(8), digest_size=16, key=self._key).hexdigest()
        return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"

    def begin_call(self, call: Call, start: float) -> Trail | None:
        """The same of a call that did not come over HTTP, but from a program that is inside."""
        if call.user.trusted:
            return None
        method, path = routes.request_line(call)
        return self.begin(
            method, path, call, path, call.user, call.user, start, peer="", forwarded="",
            agent=call.user_agent,
        )  # fmt: skip

    def answered(self, trail: Trail, reply: Reply) -> None:
        """`complete` of such a call."""
        trail.code, trail.notes = reply.code, reply.notes
        if _is_wanted(trail):
            trail.body = reply.body
        self.complete(trail)

    def started(self, trail: Trail) -> None:
        """A long answer begins."""
        trail.code = trail.code or 200
        if audit_policy.STARTED not in trail.rule.omit_stages:
            begun = trail.begun()
            begun.latency_s = self._clock.monotonic() - trail.start
            self._add(begun)

    def complete(self, trail: Trail) -> None:
        if audit_policy.COMPLETE in trail.rule.omit_stages:
            return
        call = trail.call
        # Of who is refused, what was sent says whether the refusal may quote a Secret.
        if call is not None and (trail.rule.level >= audit_policy.REQUEST or trail.code >= 400):
            trail.request_body = call.body
        if not _is_wanted(trail):
            trail.body = b""
        trail.latency_s = self._clock.monotonic() - trail.start
        self._add(trail)

    def _add(self, trail: Trail) -> None:
        size = trail.size
        if (
            self.waiting >= EVENTS_WAITING_MAX
            or self._given_bytes - self._done_bytes + self._pending_bytes + size > EVENTS_BYTES_MAX
        ):
            self.dropped += 1
            return
        self._pending.append(trail)
        self._pending_bytes += size
        if self._flushing is None:
            loop = self._loop = asyncio.get_running_loop()
            self._flushing = loop.call_later(0 if self.blocking else _FLUSH_S, self._flush)

    @property
    def waiting(self) -> int:
        return self._given - self._done + len(self._pending)

    def _flush(self) -> None:
        self._flushing = None
        batch, size = self._pending, self._pending_bytes
        self._pending, self._pending_bytes = [], 0
        if batch:
            self._given += len(batch)
            self._given_bytes += size
            self._queue.put((batch, size))

    async def wait_written(self) -> None:
        """Until every line so far is written. Raises Unavailable."""
        if not self.waiting:
            return
        wanted = self._given + len(self._pending)
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._blocked.append((wanted, written))
        try:
            async with asyncio.timeout(_BLOCKED_S):
                await written
        except TimeoutError:
            raise errors.Unavailable(
                "the audit log cannot be written, so this is not confirmed; it may have happened"
            ) from None

    def _unblock(self) -> None:
        left = []
        for wanted, written in self._blocked:
            if wanted > self._done:
                left.append((wanted, written))
            elif not written.done():
                written.set_result(None)
        self._blocked = left

    async def close(self) -> None:
        """Writes what is left; a disk that hangs is waited for a second."""
        if self._flushing is not None:
            self._flushing.cancel()
        self._flush()
        self._queue.put(None)
        self._stopping.set()
        await asyncio.to_thread(self._thread.join, _CLOSE_S)

    # In the thread

    def _write_forever(self) -> None:
        while (taken := self._queue.get()) is not None:
            batch, size = taken
            lines = [line for trail in batch if (line := self._line(trail))]
            if lines and self._write(b"".join(lines)):
                self.written += len(lines)
            else:
                self.failed += len(lines)
            self._done += len(batch)
            self._done_bytes += size
            if self.blocking and self._loop is not None:
                with contextlib.suppress(RuntimeError):  # It was closed.
                    self._loop.call_soon_threadsafe(self._unblock)
        self._files.close()

    def _line(self, trail: Trail) -> bytes:
        try:
            return orjson.dumps(event_of(trail)) + b"\n"
        except Exception:
            log.exception("an audit event cannot be made")
            self.failed += 1
            return b""

    def _write(self, data: bytes) -> bool:
        """Tries until it is written, or we are stopping. False when it is not."""
        said = False
        while True:
            try:
                self._files.write(data, self._clock.now())
            except OSError as error:
                if not said:
                    log.error("the audit log cannot be written: %s", error)
                said = True
                if self._stopping.wait(_RETRY_S):
                    return False
            else:
                if said:
                    log.info("the audit log is written again")
                return True


def _is_wanted(trail: Trail) -> bool:
    """Whether the line needs the body of the answer: for the name of what was made, for why it was
    refused, or for itself."""
    if trail.rule.level >= audit_policy.RESPONSE or trail.code >= 400:
        return True
    return trail.code == 201 and len(trail.body) <= OBJECT_BYTES_MAX


def open_audit(
    spec: dict[str, Any], folder: str, name: str, clock: Clock, ids: Ids
) -> Audit | None:
    """spec: policy, mode, bytes_max, files_max, days_max; an empty one is none."""
    if not spec:
        return None
    files = RotatedFiles(
        Path(folder) / f"audit-{name}.log", spec["bytes_max"], spec["files_max"] - 1,
        spec["days_max"] * 86_400.0,
    )  # fmt: skip
    policy = audit_policy.read(spec["policy"])
    return Audit(policy, files, clock, ids, blocking=spec["mode"] == "blocking")
