"""The log in a real etcd: the contract of all logs, and what only an etcd can do to one."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from partition_process import Holder

from arktos_ray.actors.topology import EtcdTopology, TopologyStore
from arktos_ray.api.errors import Expired, StorageFull, Unavailable
from arktos_ray.base import processes
from arktos_ray.base.clock import SystemClock
from arktos_ray.store.backends.etcd import EtcdLog
from arktos_ray.store.backends.etcd_rpc import Etcd, EtcdSettings
from arktos_ray.store.port import Fenced, InDoubt, Log
from arktos_ray.tenancy.topology import fitted
from arktos_ray.testing.contracts_log import LogContract, row, rows
from arktos_ray.testing.contracts_topology import TopologyStoreContract
from arktos_ray.testing.etcd_server import EtcdServer, missing

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {missing()}"),
]

# Of this kernel, and long gone.
GONE = " ".join([*processes.identity().split()[:2], "4194305", "1"])
ELSEWHERE = "another-machine pid:[1] 1 1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    """With TLS, client certificates, and users."""
    server = EtcdServer(tmp_path_factory.mktemp("etcd-tls"), tls=True)
    server.start()
    server.require_users("/arktos/")
    yield server
    server.stop()


class TestEtcdLog(LogContract):
    _names: ClassVar[Iterator[int]] = iter(range(1_000_000))

    @pytest.fixture(autouse=True)
    def _store(self, server: EtcdServer) -> None:
        self.settings = server.settings(ttl_s=2)
        self.name = f"tp-{next(self._names)}"

    def open(self) -> Log:
        return EtcdLog(self.settings, self.name, SystemClock())

    def abandon(self, log: Log) -> None:
        pass  # As far as anyone can tell, its process may live: the successor waits.

    def open_elsewhere(self) -> Log:
        return EtcdLog(self.settings, self.name, SystemClock(), ELSEWHERE)

    def damage(self, revision: int) -> None:
        etcd = Etcd(self.settings)
        key = f"/arktos/{self.name}/log/".encode()
        for kv in etcd.call("Range", key=key, range_end=key[:-1] + b"0").kvs:
            if f"t/n/p{revision}".encode() in kv.value:
                at = kv.value.rindex(b"metadata")
                spoilt = kv.value[:at] + b"n" + kv.value[at + 1 :]
                etcd.call("Txn", success=[{"request_put": {"key": kv.key, "value": spoilt}}])
        etcd.close()

    def test_who_is_known_to_be_gone_need_not_be_waited_for(self) -> None:
        dead = EtcdLog(self.settings, self.name, SystemClock(), GONE)
        self.begin(dead)
        successor = self.opened()
        assert successor.trusted_until - 0.9 * 2 < dead.trusted_until
        successor.close()
        dead.close()

    def test_revisions_do_not_go_back_behind_what_another_machine_gave_out(self) -> None:
        class FastClock(SystemClock):
            def now(self) -> float:
                return super().now() + 30.0

        there = EtcdLog(self.settings, self.name, FastClock(), ELSEWHERE)
        self.begin(there)
        there.close()
        here = self.open()
        assert here.floors()[""] >> 19 > (SystemClock().now() + 29) * 1000
        here.close()


class TestGuardedEtcdLog(TestEtcdLog):
    """The same over TLS, as a user who may only touch our prefix."""

    @pytest.fixture(autouse=True)
    def _store(self, guarded: EtcdServer) -> None:
        self.settings: EtcdSettings = guarded.settings(ttl_s=2)
        self.name = f"tp-{next(self._names)}"


# What only an etcd can do to a log


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EtcdServer]:
    """An etcd to be stopped and killed."""
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    yield server
    server.stop()


def opened(settings: EtcdSettings, name: str = "tp-1") -> EtcdLog:
    # Of nobody who could still be there: each next one begins at once.
    log = EtcdLog(settings, name, SystemClock(), GONE)
    list(log.replay())
    answered(log.take_over)
    return log


def answered(ask: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Where attempts are short, a busy disk is slower than one of them."""
    give_up = time.monotonic() + 30
    while True:
        try:
            asyncio.run(ask())
            return
        except Unavailable:
            if time.monotonic() > give_up:
                raise


def content(settings: EtcdSettings, name: str = "tp-1") -> list[int]:
    log = EtcdLog(settings, name, SystemClock(), GONE)
    found = [r.revision for r in log.replay()]
    log.close()
    return found


def test_a_write_while_etcd_hangs_is_there_once_and_what_was_sent_meanwhile_does_nothing(
    own: EtcdServer,
) -> None:
    settings = own.settings(attempt_s=0.3)
    log = opened(settings)

    async def story() -> None:
        await log.append(rows(1))
        own.pause()
        writing = asyncio.ensure_future(log.append(rows(2)))
        # Several attempts, all of which etcd finds when it goes on.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(writing), 1.5)
        own.resume()
        await writing
        # None of those attempts brings it back.
        await log.compact([2], {"pods": 2})
        await log.append(rows(3))

    asyncio.run(story())
    log.close()
    assert content(own.settings()) == [1, 3]


def test_trust_runs_out_while_etcd_is_away_and_comes_back_with_it(own: EtcdServer) -> None:
    settings = own.settings(attempt_s=0.3, patience_s=0.5, ttl_s=2)
    log, clock = opened(settings), SystemClock()
    own.kill()
    with pytest.raises(Unavailable, match=own.endpoint):
        asyncio.run(log.renew())
    with pytest.raises(Unavailable, match=own.endpoint):
        asyncio.run(log.append(rows(1)))
    while clock.monotonic() < log.trusted_until:
        with contextlib.suppress(Unavailable):
            asyncio.run(log.renew())
    own.start()
    answered(log.renew)
    assert log.trusted_until > clock.monotonic()
    asyncio.run(log.append(rows(2)))
    log.close()
    assert content(own.settings()) == [2], "what was refused is not there"


def test_whoever_cannot_learn_whether_it_wrote_gives_up_and_the_next_one_finds_out(
    own: EtcdServer,
) -> None:
    log = opened(own.settings(attempt_s=0.5, doubt_s=2))
    asyncio.run(log.append(rows(1)))
    own.pause()
    with pytest.raises(InDoubt):
        asyncio.run(log.append(rows(2)))
    own.resume()
    assert content(own.settings()) in ([1], [1, 2])
    log.close()


def test_a_full_etcd_takes_all_of_a_commit_or_none(tmp_path: Path) -> None:
    server = EtcdServer(tmp_path / "etcd", flags=("--quota-backend-bytes=12000000",))
    server.start()
    try:
        log = opened(server.settings())
        written: list[int] = []
        with pytest.raises(StorageFull, match="--quota-backend-bytes"):
            for start in range(0, 100, 4):
                batch = [row(i, body=b"x" * 900_000) for i in range(start + 1, start + 5)]
                asyncio.run(log.append(batch))
                written += [r.revision for r in batch]
        assert written
        with pytest.raises(StorageFull):
            asyncio.run(log.append([row(200, body=b"x" * 900_000)]))
        log.close()
        server.kill()
        larger = EtcdServer(tmp_path / "etcd", flags=("--quota-backend-bytes=100000000",))
        larger.start()
        larger.disarm()
        assert content(larger.settings()) == written
        larger.stop()
    finally:
        server.stop()


def test_a_commit_that_was_interrupted_between_its_transactions_never_was(
    server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = server.settings()
    log = opened(settings, "interrupted")
    asyncio.run(log.append(rows(1)))
    commit, count = log._commit, 0

    def dies(ops: Any, patience_s: float | None = None) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise InDoubt("killed here")
        commit(ops, patience_s)

    monkeypatch.setattr(log, "_commit", dies)
    with pytest.raises(InDoubt):
        asyncio.run(log.append([row(i, body=b"x" * 900_000) for i in range(2, 7)]))
    log.close()
    assert content(settings, "interrupted") == [1]


def test_another_endpoint_is_asked_when_one_does_not_answer(server: EtcdServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dead = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = server.settings(endpoints=[dead, server.endpoint], attempt_s=0.5)
        log = opened(settings, "elsewhere")
        asyncio.run(log.append(rows(1)))
        log.close()
        assert content(settings, "elsewhere") == [1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"password": "guess"}, "etcd-password-file"),
        ({"prefix": "/elsewhere"}, "may read and write the prefix"),
        ({"ca": "/nowhere/ca.crt"}, "/nowhere/ca.crt"),
    ],
)
def test_who_is_not_let_in_is_told_what_to_do(
    guarded: EtcdServer, tmp_path: Path, wrong: dict[str, str], said: str
) -> None:
    if "password" in wrong:
        file = tmp_path / "password"
        file.write_text(wrong["password"])
        wrong = {"password_file": str(file)}
    settings = guarded.settings(patience_s=0.1, **wrong)
    with pytest.raises(Unavailable, match=said):
        EtcdLog(settings, "tp-1", SystemClock())


def test_a_token_that_was_forgotten_is_asked_for_anew(guarded: EtcdServer) -> None:
    log = opened(guarded.settings(), "token")
    log._etcd._token = "long.forgotten"
    asyncio.run(log.append(rows(1)))
    log.close()


def test_etcds_own_history_does_not_grow(server: EtcdServer) -> None:
    settings = server.settings()
    log = opened(settings, "history")
    for revision in range(1, 20):
        asyncio.run(log.append(rows(revision)))
    asyncio.run(log.compact([1], {"pods": 1}))
    log.close()
    etcd = Etcd(settings)
    now = etcd.call("Range", key=b"/").header.revision
    with pytest.raises(Expired):
        etcd.call("Compact", revision=now - 10)
    etcd.close()


def test_a_process_that_was_stopped_and_replaced_wakes_up_to_nothing(server: EtcdServer) -> None:
    name = "stopped"
    command = [sys.executable, str(Path(__file__).with_name("partition_process.py"))]
    process = subprocess.Popen(
        [*command, server.endpoint, name, "2"], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:

        def ask(text: str) -> None:
            print(text, file=process.stdin, flush=True)

        assert process.stdout.readline() == "ready\n"
        ask("put old")
        assert process.stdout.readline() == "done\n"
        ask("get")
        assert process.stdout.readline() == "old\n"
        process.send_signal(signal.SIGSTOP)
        ask("get")
        ask("put lost")

        async def elsewhere() -> str:
            successor = Holder(server.settings(ttl_s=2), name)
            await successor.start()
            await successor.put("new")
            process.send_signal(signal.SIGCONT)
            code = await asyncio.to_thread(process.wait, 20)
            assert code == 3, "it learnt that it was replaced, and ended"
            found = successor.get()
            await successor.close()
            return found

        assert asyncio.run(elsewhere()) == "new"
        said = process.stdout.read().splitlines()
        assert all(line.startswith("refused: fenced") for line in said), said
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


# The topology


class TestEtcdTopology(TopologyStoreContract):
    _names: ClassVar[Iterator[int]] = iter(range(1_000_000))

    @pytest.fixture(autouse=True)
    def _place(self, server: EtcdServer) -> None:
        prefix = f"/region-{next(self._names)}"
        self.storage = {"kind": "etcd", "endpoints": [server.endpoint], "prefix": prefix}

    def made(self) -> TopologyStore:
        return EtcdTopology(self.storage)

    def spoil(self) -> None:
        etcd = Etcd(EtcdSettings.of(self.storage))
        put = {"key": f"{self.storage['prefix']}/topology".encode(), "value": b'{"version": '}
        etcd.call("Txn", success=[{"request_put": put}])
        etcd.close()

    def cut(self) -> None:
        self.storage["endpoints"] = ["127.0.0.1:1"]


def _topology(endpoint: str, prefix: str) -> EtcdTopology:
    return EtcdTopology({"kind": "etcd", "endpoints": [endpoint], "prefix": prefix})


def test_a_supervisor_that_was_replaced_changes_nothing(server: EtcdServer) -> None:
    old = _topology(server.endpoint, "/replaced")
    old.load()
    first = fitted(None, 2, 2, 0, "kubemark")
    old.save(first)
    new = _topology(server.endpoint, "/replaced")
    new.load()
    new.save(first.added("tenant"))

    with pytest.raises(Fenced):
        old.save(first.drained("tp-2"))
    assert new.load() == first.added("tenant")


def test_a_change_without_an_answer_does_not_stand_in_the_way_of_the_next(own: EtcdServer) -> None:
    store = _topology(own.endpoint, "/region")
    store.load()
    first = fitted(None, 1, 1, 0, "kubemark")
    own.pause()
    with pytest.raises(Unavailable):
        store.save(first)
    own.resume()

    store.save(first.added("tenant"))
    assert _topology(own.endpoint, "/region").load() == first.added("tenant")
