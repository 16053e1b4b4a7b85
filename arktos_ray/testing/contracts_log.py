"""What every Log must do, in memory, on a disk or in an etcd: subclass LogContract and open logs.

`open` after a `close` is a restart in order. `reopen_after_kill` is one after kill -9: the old
log is left as it is. `open_elsewhere` is a second machine that takes the log away.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence

import pytest

from arktos_ray.api.errors import Failure
from arktos_ray.store.port import Corrupt, Fenced, Log, Row

LARGEST = 3 << 20  # store.OBJECT_BYTES_MAX


def row(revision: int, *, deleted: bool = False, body: bytes = b'{"metadata":{}}') -> Row:
    path = f"t/n/p{revision}"
    return Row(revision, deleted, "pods", path, body, b'{"app":"web"}', "node-1", "Running")


def rows(*revisions: int) -> list[Row]:
    return [row(revision) for revision in revisions]


class LogContract:
    """The subclass overrides the first methods, and says what its log can do."""

    # Whether two can hold the log at once, the older of them fenced.
    can_be_taken_away = True

    def open(self) -> Log:
        """A log over the one store of this test; the last one was closed, or is of nobody."""
        raise NotImplementedError

    def abandon(self, log: Log) -> None:
        """kill -9 of whoever held it."""
        raise NotImplementedError

    def open_elsewhere(self) -> Log:
        """On another machine, while this one still holds it."""
        raise NotImplementedError

    def damage(self, revision: int) -> None:
        """Change a byte of the body of that row, behind the log's back. No log is open."""
        raise NotImplementedError

    # Tools

    def begin(self, log: Log) -> list[Row]:
        """As a store does; what was in it."""
        found = list(log.replay())
        asyncio.run(log.take_over())
        return found

    def opened(self) -> Log:
        log = self.open()
        self.begin(log)
        return log

    def append(self, log: Log, what: Sequence[Row]) -> None:
        asyncio.run(log.append(what))

    def content(self) -> list[Row]:
        """What a successor reads."""
        log = self.open()
        try:
            return self.begin(log)
        finally:
            log.close()

    @pytest.fixture
    def log(self) -> Iterator[Log]:
        log = self.opened()
        yield log
        log.close()

    # Promises

    def test_rows_come_back_as_they_were_in_revision_order(self, log: Log) -> None:
        written = [row(1), row(2), row(5, deleted=True), row(7)._replace(labels=b"", node="")]
        self.append(log, written[:2])
        self.append(log, written[2:])
        log.close()
        assert self.content() == written

    def test_opening_raises_the_epoch(self, log: Log) -> None:
        first = log.epoch
        log.close()
        again = self.opened()
        assert again.epoch == first + 1
        again.close()

    def test_a_log_that_holds_nothing_is_empty(self, log: Log) -> None:
        log.close()
        again = self.open()
        assert self.begin(again) == []
        assert not [gvr for gvr in again.floors() if gvr]
        again.close()

    def test_what_was_acknowledged_survives_a_kill(self, log: Log) -> None:
        self.append(log, rows(1, 2))
        self.append(log, rows(3))
        self.abandon(log)
        assert self.content() == rows(1, 2, 3)

    def test_forgotten_rows_are_gone_and_the_floor_stays(self, log: Log) -> None:
        self.append(log, rows(1, 2, 3))
        self.append(log, rows(4))
        asyncio.run(log.compact([1, 3], {"pods": 3}))
        self.append(log, rows(5))
        log.close()
        again = self.open()
        assert self.begin(again) == rows(2, 4, 5)
        assert again.floors()["pods"] == 3
        asyncio.run(again.compact([5], {"pods": 5, "services": 4}))
        asyncio.run(again.compact([4, 5], {"pods": 6}))
        again.close()
        last = self.open()
        assert self.begin(last) == rows(2)
        assert {k: v for k, v in last.floors().items() if k} == {"pods": 6, "services": 4}
        last.close()

    def test_forgetting_most_of_a_long_log_leaves_the_rest(self, log: Log) -> None:
        alive = []
        for start in range(0, 3_000, 50):
            self.append(log, rows(*range(start + 1, start + 51)))
            gone = [r for r in range(start + 1, start + 51) if r % 40 != 7]
            asyncio.run(log.compact(gone, {"pods": start + 50}))
            alive += [r for r in range(start + 1, start + 51) if r % 40 == 7]
        log.close()
        assert self.content() == rows(*alive)

    def test_five_thousand_rows_are_one_commit(self, log: Log) -> None:
        many = [row(i, body=b'{"x":"%s"}' % (b"y" * 1_000)) for i in range(1, 5_001)]
        self.append(log, many)
        self.append(log, rows(5_001))
        log.close()
        assert self.content() == [*many, row(5_001)]

    def test_the_largest_objects_fit_alone_and_together(self, log: Log) -> None:
        sizes = (2 << 20, LARGEST, 10, LARGEST, (1 << 20) - 150)
        large = [row(i, body=bytes([64 + i]) * size) for i, size in enumerate(sizes, 1)]
        self.append(log, large[:1])
        self.append(log, large[1:])
        asyncio.run(log.compact([2], {"pods": 2}))
        log.close()
        assert self.content() == [large[0], *large[2:]]

    def test_a_damaged_row_is_found(self, log: Log) -> None:
        self.append(log, rows(1))
        self.append(log, rows(2, 3))
        log.close()
        self.damage(3)
        again = self.open()
        with pytest.raises(Corrupt):
            list(again.replay())
        again.close()

    def test_trust_begins_when_the_log_was_taken_over(self) -> None:
        log = self.open()
        list(log.replay())
        if log.renew_every_s is None:
            assert log.trusted_until == math.inf
        else:
            assert log.trusted_until == -math.inf
            asyncio.run(log.take_over())
            first = log.trusted_until
            asyncio.run(log.renew())
            assert first < log.trusted_until < math.inf
        log.close()

    def test_who_was_replaced_can_do_nothing_more(self, log: Log) -> None:
        if not self.can_be_taken_away:
            pytest.skip("the lock of this log ends with its process, and with nothing else")
        self.append(log, rows(1))
        successor = self.open_elsewhere()
        assert successor.epoch > log.epoch
        for work in (
            log.append(rows(2)), log.append([row(i, body=b"x" * 700_000) for i in (2, 3)]),
            log.compact([1], {"pods": 1}), log.renew(),
        ):  # fmt: skip
            with pytest.raises(Fenced):
                asyncio.run(work)
        assert log.trusted_until == -math.inf
        assert self.begin(successor) == rows(1)
        self.append(successor, rows(4))
        successor.close()
        assert self.content() == rows(1, 4)

    def test_a_successor_is_not_trusted_before_its_predecessor_no_longer_is(self, log: Log) -> None:
        if log.renew_every_s is None:
            pytest.skip("this log has no lease")
        trusted_until = log.trusted_until
        successor = self.open_elsewhere()
        self.begin(successor)
        begun = successor.trusted_until - 0.9 * 3 * log.renew_every_s  # when it asked
        assert begun >= trusted_until
        successor.close()

    def test_a_log_that_was_closed_need_not_be_waited_for(self, log: Log) -> None:
        if log.renew_every_s is None:
            pytest.skip("this log has no lease")
        trusted_until = log.trusted_until
        log.close()
        successor = self.open_elsewhere()
        self.begin(successor)
        assert successor.trusted_until - 0.9 * 3 * log.renew_every_s < trusted_until
        successor.close()

    def test_two_writers_one_of_whom_does_not_know_leave_one_history(self, log: Log) -> None:
        if not self.can_be_taken_away:
            pytest.skip("the lock of this log ends with its process, and with nothing else")
        successor = self.open_elsewhere()
        self.begin(successor)

        async def write(to: Log, start: int) -> list[int]:
            done = []
            for revision in range(start, start + 40, 2):
                try:
                    await to.append(rows(revision))
                except Failure:
                    continue
                done.append(revision)
            return done

        async def both() -> tuple[list[int], list[int]]:
            old, new = await asyncio.gather(write(log, 1), write(successor, 2))
            return old, new

        old, new = asyncio.run(both())
        assert old == []
        successor.close()
        assert self.content() == rows(*new)
