"""Where do the microseconds of one pod go? Each stage of its path, by itself, in this process.

The parts are the real ones (actors, store, API machinery, placement), called as their neighbours
call them; no cluster is started. CPU time of the process counts, so that a busy machine matters
less; each figure is the least of some repetitions, since noise only adds. The budgets are those
of the design: 400 us a pod in all.

The last rows run the whole path in one process and one thread: a tenant partition, a resource
partition, a scheduler and simulated nodes, joined by connections that pack and unpack every frame
but use no socket. What a cluster costs beyond that is HTTP, TLS, sockets and Ray.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import math
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson
import uvloop
from _report import Report, console, progress, table

from arktos_ray.actors import streams
from arktos_ray.actors.hosts import SimulatedHosts
from arktos_ray.actors.part import Part, Spec, Surroundings
from arktos_ray.actors.resource_partition import ResourcePartition
from arktos_ray.actors.scheduler import Scheduler
from arktos_ray.actors.simulated_nodes import fleet
from arktos_ray.actors.tenant_partition import TenantPartition
from arktos_ray.api import codec, kinds, scheme
from arktos_ray.api.calls import ADDED, MODIFIED, Call, Reply, User, WatchEvent
from arktos_ray.api.errors import Unavailable
from arktos_ray.api.names import Key
from arktos_ray.apiserver import admission
from arktos_ray.apiserver.partition import track
from arktos_ray.apiserver.verbs.create import complete_metadata
from arktos_ray.base.clock import SystemClock
from arktos_ray.base.ids import Ids
from arktos_ray.base.signing import ensure_keys
from arktos_ray.base.tasks import Tasks
from arktos_ray.client.port import Client
from arktos_ray.ingress import http1, routes
from arktos_ray.placement.ledger import Claim, Ledger
from arktos_ray.placement.pairs import Pairs
from arktos_ray.placement.signature import Signatures
from arktos_ray.placement.solve import solve
from arktos_ray.placement.tables import NodeTable, node_view
from arktos_ray.store.backends.sqlite import SqliteLog
from arktos_ray.store.port import Log, Row
from arktos_ray.store.records import Record, encode, row_of
from arktos_ray.store.store import Store
from arktos_ray.tenancy import topology
from arktos_ray.tenancy.accounts import ISSUER
from arktos_ray.testing.load import pod

Object = dict[str, Any]

TENANT, SPACE = "bench", "default"
PODS = scheme.BY_GVR["pods"]
ADMIN = User("system:admin", "system", ("system:masters",))
PART = User("system:bench", "system", ("system:masters",), trusted=True)
# As an ingress batches them at 64 connections, and as our own parts do.
CALLS_PER_BATCH, WRITES_PER_BATCH = 16, 500
WATCHERS = 100


class NullLog:
    """A disk that takes everything at once and keeps nothing."""

    @property
    def epoch(self) -> int:
        return 1

    @property
    def trusted_until(self) -> float:
        return math.inf

    @property
    def renew_every_s(self) -> float | None:
        return None

    async def take_over(self) -> None:
        return

    async def renew(self) -> None:
        return

    def replay(self) -> Iterator[Row]:
        return iter(())

    def floors(self) -> dict[str, int]:
        return {}

    async def append(self, rows: Sequence[Row]) -> None:
        await asyncio.sleep(0)

    async def compact(self, revisions: Sequence[int], floors: dict[str, int]) -> None:
        pass

    def close(self) -> None:
        pass


class World:
    """Parts in this process, which reach each other by name."""

    def __init__(self) -> None:
        self.parts: dict[str, Part] = {}
        self._topology = topology.initial(1, 1).pack()
        self._keys = tempfile.TemporaryDirectory()
        ensure_keys(Path(self._keys.name), datetime.now(UTC))

    def keys(self) -> Spec:
        """What a partition needs to make tokens, and so to give them to pods."""
        return {
            "keys_dir": self._keys.name, "issuer": ISSUER, "audiences": [ISSUER],
            "ca": "a certificate " * 60,
        }  # fmt: skip

    async def add(self, make: Any, name: str, **more: Any) -> Any:
        spec = {"name": name, "data_dir": "", "run_dir": "", "topology": self._topology, **more}
        surroundings = Surroundings(
            SystemClock(), Ids(1), self._connector, _null_log, _crash, listens=False
        )
        part = self.parts[name] = make(spec, surroundings)
        await part.start()
        return part

    async def partition(self) -> TenantPartition:
        part: TenantPartition = await self.add(
            TenantPartition, "tp-1", number=1, **self.keys()
        )  # fmt: skip
        calls = [
            Call("create", "tenants", body=_named("Tenant", TENANT, spec={}), user=PART),
            Call("create", "namespaces", TENANT, body=_named("Namespace", SPACE), user=PART),
        ]
        for call in calls:
            _check(await part.call([call]))
        return part

    async def close(self) -> None:
        for part in reversed(self.parts.values()):
            part.tasks.kill()
        await asyncio.sleep(0)
        for part in self.parts.values():
            with suppress(Exception):
                await part.close()
        self._keys.cleanup()

    def _connector(self, name: str) -> streams.Connect:
        async def connect() -> streams.ClientEnd:
            part = self.parts.get(name)
            if part is None or not part.prepared:
                raise Unavailable(f"{name} is not running")
            return _joined(name, part)

        return connect


def _null_log(spec: Spec) -> Log:
    return NullLog()


def _crash(error: BaseException) -> None:
    console.print_exception()
    raise SystemExit(1) from error


class _Direct:
    """One direction of a connection: frames of one loop iteration arrive in the next."""

    unread = 0  # bytes that the other end has not taken

    def __init__(self) -> None:
        self.deliver: Callable[[list[Any]], None]
        self._deframer = streams.Deframer()
        self._waiting: list[bytes] = []

    def send(self, frame: bytes) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(frame)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for frame in self._deframer.feed(b"".join(waiting)):
            self.deliver(frame)

    async def ready(self) -> None:
        return

    def close(self) -> None:
        pass


def _joined(name: str, part: Part) -> streams.ClientEnd:
    there, back = _Direct(), _Direct()
    client = streams.ClientEnd(name, there)
    server = streams.ServerEnd(part, back, part.tasks)
    there.deliver, back.deliver = server.received, client.received
    return client


def _named(kind: str, name: str, **more: Any) -> bytes:
    return orjson.dumps({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **more})


def _check(replies: Sequence[Reply]) -> None:
    for reply in replies:
        if not reply.ok:
            raise SystemExit(f"refused: {reply.body.decode()}")


# Measuring


class Stages:
    """The figures, in order: us of CPU for one pod (or object, or delivery)."""

    def __init__(self, count: int, repetitions: int) -> None:
        self.count, self.repetitions = count, repetitions
        self.rows: list[dict[str, Any]] = []
        self.bars: Any = None
        self.bar: Any = None
        self.profiler: cProfile.Profile | None = None  # of the whole path only

    async def time(
        self, name: str, once: Callable[[], Awaitable[int] | int], budget: str = "", note: str = ""
    ) -> float:
        """`once` does its work for a number of pods, which it returns."""
        figures, walls = [], []
        for _ in range(self.repetitions):
            gc.collect()
            gc.disable()
            wall, cpu = time.perf_counter(), time.process_time()
            done = once()
            done = done if isinstance(done, int) else await done
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            gc.enable()
            figures.append(cpu / done * 1e6)
            walls.append(wall / done * 1e6)
        return self.put(name, min(figures), min(walls), budget, note)

    def put(self, name: str, cpu_us: float, wall_us: float, budget: str, note: str) -> float:
        self.rows.append(
            {"stage": name, "cpu_us": round(cpu_us, 2), "wall_us": round(wall_us, 2),
             "budget_us": budget, "note": note}
        )  # fmt: skip
        if self.bars is not None:
            self.bars.advance(self.bar)
        return cpu_us


def _bodies(count: int) -> list[bytes]:
    return [orjson.dumps(pod(f"pod-{i:07d}", SPACE)) for i in range(count)]


def _creates(bodies: Sequence[bytes], user: User = ADMIN) -> list[Call]:
    return [
        Call(
            "create", "pods", TENANT, SPACE, body=body, content_type=http1.JSON, user=user,
            user_agent="bench/1.0",
        )
        for body in bodies
    ]  # fmt: skip


def _batches(calls: Sequence[Call], size: int) -> list[Sequence[Call]]:
    return [calls[i : i + size] for i in range(0, len(calls), size)]


async def _call_all(part: TenantPartition, calls: Sequence[Call], size: int) -> int:
    for batch in _batches(calls, size):
        _check(await part.call(batch))
    return len(calls)


async def _stored(bodies: Sequence[bytes]) -> tuple[World, TenantPartition]:
    world = World()
    part = await world.partition()
    await _call_all(part, _creates(bodies), 100)
    return world, part


# The stages


async def front(stages: Stages) -> None:
    """What the ingress does with a request beside TLS, sockets and aiohttp's objects."""
    from aiohttp.base_protocol import BaseProtocol
    from aiohttp.http_parser import HttpRequestParser

    [body] = _bodies(1)
    path = f"/api/v1/tenants/{TENANT}/namespaces/{SPACE}/pods"
    raw = (
        f"POST {path}?fieldManager=bench HTTP/1.1\r\nHost: localhost:6443\r\n"
        "User-Agent: kubectl/v1.33.1 (linux/amd64)\r\nAccept: application/json\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    parser = HttpRequestParser(protocol, loop, 2**16)

    def parse() -> int:
        for _ in range(stages.count):
            parser.feed_data(raw)
        return stages.count

    await stages.time("HTTP: parse", parse, note="aiohttp's parser, in C")

    def route() -> int:
        for _ in range(stages.count):
            routes.route("POST", path, "fieldManager=bench", ADMIN)
            http1.form_of("application/json")
            http1.body_type("create", "application/json")
            http1.head(201, http1.JSON, 2000, b"Date: today\r\n") + body
        return stages.count

    await stages.time("HTTP: route and answer", route)
    calls = _creates([body] * CALLS_PER_BATCH)
    replies = [Reply(201, body + body) for _ in calls]

    def frame() -> int:
        deframer = streams.Deframer()
        rounds = stages.count // CALLS_PER_BATCH
        for i in range(rounds):
            sent = streams.pack(streams.CALL, i, [call.pack() for call in calls])
            for _, _, packed in deframer.feed(sent):
                for one in packed:
                    Call.unpack(one)
            sent = streams.pack(streams.REPLY, i, [reply.pack() for reply in replies])
            for _, _, packed in deframer.feed(sent):
                for one in packed:
                    Reply.unpack(one)
        return rounds * CALLS_PER_BATCH

    await stages.time(
        "framing: call and reply", frame, "60 with HTTP", f"{CALLS_PER_BATCH} calls a frame"
    )


async def create_steps(stages: Stages) -> None:
    """The parts of a create, one by one; then as a whole, with a disk that costs nothing."""
    bodies = _bodies(stages.count)
    world = World()
    part = await world.partition()
    partition = part.server.partition
    calls = _creates(bodies)
    objects: list[Object] = []

    def decode() -> int:
        objects[:] = [codec.decode_object(b, http1.JSON, PODS, "Warn").obj for b in bodies]
        return len(bodies)

    await stages.time("decode and check the schema", decode, "20")
    rules = kinds.rules("pods")

    def complete() -> int:
        for call, obj in zip(calls, objects, strict=True):
            complete_metadata(partition, call, PODS, obj)
        return len(objects)

    await stages.time("complete the metadata", complete, note="uid, hashKey, timestamp")

    def default_and_admit() -> int:
        fresh = [orjson.loads(orjson.dumps(obj)) for obj in objects]
        begun = time.process_time()
        for call, obj in zip(calls, fresh, strict=True):
            rules.default(obj)
            admission.mutate(partition, call, PODS, obj, None)
            rules.prepare_create(obj, obj["metadata"]["creationTimestamp"])
            admission.complete(partition, call, PODS, obj)
            admission.validate(partition, call, PODS, obj, None)
        spent.append((time.process_time() - begun) / len(fresh) * 1e6)
        objects[:] = fresh
        return len(fresh)

    spent: list[float] = []
    undefaulted = [orjson.dumps(obj) for obj in objects]
    for _ in range(stages.repetitions):
        objects[:] = [orjson.loads(body) for body in undefaulted]
        default_and_admit()
    stages.put("default and admit", min(spent), min(spent), "15", "")

    def validate() -> int:
        for obj in objects:
            if kinds.validate_meta(obj, PODS) + rules.validate(obj):
                raise SystemExit("the pod is not valid")
        return len(objects)

    await stages.time("validate", validate, "(in decode)")

    def fields() -> int:
        for call, obj in zip(calls, objects, strict=True):
            obj["metadata"].pop("managedFields", None)
            track(partition, call, PODS, None, obj)
        return len(objects)

    await stages.time("managed fields", fields)
    paths = [Key(TENANT, SPACE, f"pod-{i:07d}").path() for i in range(len(objects))]
    records: list[Record] = []

    def encode_all() -> int:
        records[:] = [encode(i + 1, paths[i], obj) for i, obj in enumerate(objects)]
        return len(objects)

    await stages.time("encode", encode_all, "10", f"{len(orjson.dumps(objects[0])):,} bytes")

    async def publish() -> int:
        tasks = Tasks()
        store = Store(NullLog(), 1, SystemClock(), tasks)
        store.start()
        for i in range(0, len(records), 100):
            for record in records[i : i + 100]:
                store._write("pods", record)  # `put` without its encoding
            await store.commit()
        tasks.kill()
        return len(records)

    await stages.time("index and publish", publish, "25", "overlay, table, history; no watchers")
    with tempfile.TemporaryDirectory(dir=".") as directory:
        log = SqliteLog(Path(directory) / "log.sqlite")
        revision = 0

        async def append() -> int:
            nonlocal revision
            for i in range(0, len(records), 100):
                rows = [
                    row_of("pods", record)._replace(revision=revision + j)
                    for j, record in enumerate(records[i : i + 100], 1)
                ]
                revision += len(rows)
                await log.append(rows)
            return len(records)

        async def append_singly() -> int:
            nonlocal revision
            for record in records[:200]:
                revision += 1
                await log.append([row_of("pods", record)._replace(revision=revision)])
            return 200

        await stages.time("log append", append, "10", "SQLite, fsync, 100 rows a commit")
        await stages.time("log append, alone", append_singly, note="what a quiet cluster pays")
        log.close()
    await world.close()
    worlds = []

    async def create() -> int:
        fresh = World()
        worlds.append(fresh)
        target = await fresh.partition()
        return await _call_all(target, calls, CALLS_PER_BATCH)

    await stages.time("create, all of the above but HTTP and the log", create, "~90",
                      f"{CALLS_PER_BATCH} calls a batch")  # fmt: skip
    for fresh in worlds:
        await fresh.close()


async def reads(stages: Stages) -> None:
    world, part = await _stored(_bodies(stages.count))
    gets = [
        Call("get", "pods", TENANT, SPACE, f"pod-{i:07d}", user=ADMIN) for i in range(stages.count)
    ]
    await stages.time("get", lambda: _call_all(part, gets, CALLS_PER_BATCH))

    async def listed() -> int:
        _check(await part.call([Call("list", "pods", TENANT, SPACE, user=ADMIN)]))
        return stages.count

    await stages.time("list, an object", listed, "2", f"{stages.count:,} objects")
    await world.close()


async def scheduling(stages: Stages, nodes: int) -> None:
    world, part = await _stored(_bodies(stages.count))
    stored = [record.body for record in part.store.table("pods").range()]
    views = [node_view(_node(name), home) for name, home in fleet("sim", nodes, ("rp-1",))]
    requests: list[Any] = []

    def read() -> int:
        signatures = Signatures()
        requests[:] = [signatures.request(orjson.loads(body), i) for i, body in enumerate(stored)]
        return len(stored)

    await stages.time("schedule: read the pod", read, note="orjson.loads and its signature")
    placed: list[Any] = []

    async def place() -> int:
        nodes_table = NodeTable()
        for view in views:
            nodes_table.set_node(view)
        rng = np.random.default_rng(1)
        begun = time.process_time()
        for i in range(0, len(requests), 1000):
            plan = solve(nodes_table, requests[i : i + 1000], Pairs(), rng=rng)
            placed.extend(plan.placed)
        spent.append((time.process_time() - begun) / len(requests) * 1e6)
        return len(requests)

    spent: list[float] = []
    for _ in range(stages.repetitions):
        placed.clear()
        await place()
    if len(placed) != len(requests):
        raise SystemExit(f"only {len(placed)} of {len(requests)} pods were placed")
    us = min(spent)
    stages.put("schedule: place", us, us, "10", f"{nodes:,} nodes, 1,000 pods a batch")

    def reserve() -> int:
        ledger = Ledger()
        for view in views:
            ledger.set_node(view.name, view.allocatable)
        begun = time.process_time()
        for i in range(0, len(placed), WRITES_PER_BATCH):
            claims = [
                Claim(p.uid, node, p.signature.demand, "tp-1", p.path)
                for p, node in placed[i : i + WRITES_PER_BATCH]
            ]
            if any(verdict.why for verdict in ledger.reserve(claims, 0.0)):
                raise SystemExit("a reservation was refused")
            for usage in ledger.usage_of({claim.node for claim in claims}):
                list(usage)
        taken.append((time.process_time() - begun) / len(placed) * 1e6)
        return len(placed)

    taken: list[float] = []
    for _ in range(stages.repetitions):
        reserve()
    us = min(taken)
    stages.put("reserve", us, us, "5", f"{WRITES_PER_BATCH} claims a batch")
    await world.close()
    bound = await _bind(stages, placed)
    await _agent(stages, bound, nodes)


def _node(name: str) -> Object:
    """A node as its partition stores it: read from a fleet that registers with a recorder."""
    amounts = {"cpu": "1", "memory": "4026531840", "pods": "110", "ephemeral-storage": "100Gi"}
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {
            "allocatable": amounts, "capacity": amounts,
            "conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "ContainerRuntimeReady", "status": "True"},
            ],
        },
    }  # fmt: skip


async def _bind(stages: Stages, placed: Sequence[Any]) -> list[WatchEvent]:
    """Returns what watchers saw of the last round."""
    spent: list[float] = []
    events: list[WatchEvent] = []
    for _ in range(stages.repetitions):
        world, part = await _stored(_bodies(stages.count))
        calls = []
        for request, node in placed:
            key = Key.from_path(request.path)
            body = orjson.dumps({"target": {"kind": "Node", "name": node}})
            calls.append(
                Call("create", "pods", *key, subresource="binding", body=body,
                     content_type=http1.JSON, user=PART)
            )  # fmt: skip
        begun = time.process_time()
        await _call_all(part, calls, WRITES_PER_BATCH)
        spent.append((time.process_time() - begun) / len(calls) * 1e6)
        events = [
            WatchEvent(ADDED, record.revision, record.path, record.body)
            for record in part.store.table("pods").range()
        ]
        await world.close()
    us = min(spent)
    stages.put("bind", us, us, "30", f"{WRITES_PER_BATCH} calls a batch, no log")
    return events


class _Recorder:
    """Partitions as the simulated nodes see them: lists are empty, writes succeed, and pods come
    by the watch."""

    def __init__(self, events: Sequence[WatchEvent]) -> None:
        self._events = events
        self.patches: list[Call] = []
        self.release, self.enough = asyncio.Event(), asyncio.Event()

    async def call(self, calls: Sequence[Call]) -> list[Reply]:
        for call in calls:
            if call.verb == "patch" and call.gvr == "pods":
                self.patches.append(call)
        if len(self.patches) >= len(self._events):
            self.enough.set()
        empty = b'{"items":[],"metadata":{"resourceVersion":"1","uid":"x"},"allocatable":1}'
        return [Reply(200, empty)] * len(calls)

    async def watch(self, call: Call) -> AsyncIterator[list[WatchEvent]]:
        await self.release.wait()
        for i in range(0, len(self._events), WRITES_PER_BATCH):
            yield list(self._events[i : i + WRITES_PER_BATCH])
            await asyncio.sleep(0)
        await asyncio.Event().wait()


async def _agent(stages: Stages, events: Sequence[WatchEvent], nodes: int) -> None:
    from arktos_ray.actors.simulated_nodes import SimulatedNodes

    spent: list[float] = []
    patches: list[Call] = []
    for _ in range(stages.repetitions):
        tasks = Tasks()
        pods, homes = _Recorder(events), _Recorder(())
        simulated = SimulatedNodes(
            "simulated-1", fleet("sim", nodes, ("rp-1",)), {"rp-1": Client(homes, PART)},
            {"tp-1": Client(pods, PART)}, "instant", SystemClock(), Ids(1), tasks,
        )  # fmt: skip
        await simulated.start()
        await simulated.wait_until_registered()
        begun = time.process_time()
        pods.release.set()
        await pods.enough.wait()
        spent.append((time.process_time() - begun) / len(events) * 1e6)
        patches = pods.patches
        tasks.kill()
    us = min(spent)
    stages.put("agent", us, us, "30", "decode, accept, render the status")
    await _status(stages, patches)


async def _status(stages: Stages, patches: Sequence[Call]) -> None:
    spent: list[float] = []
    for _ in range(stages.repetitions):
        world, part = await _stored(_bodies(stages.count))
        uids = {
            record.path: record.decode()["metadata"]["uid"]
            for record in part.store.table("pods").range()
        }
        calls = []
        for patch in patches:
            uid = uids[Key(patch.tenant, patch.namespace, patch.name).path()]
            body = patch.body
            at = body.index(b'"uid":"') + 7
            body = body[:at] + uid.encode() + body[at + 36 :]
            calls.append(
                Call("patch", "pods", patch.tenant, patch.namespace, patch.name, "status",
                     body=body, content_type=patch.content_type, user=PART)
            )  # fmt: skip
        begun = time.process_time()
        await _call_all(part, calls, WRITES_PER_BATCH)
        spent.append((time.process_time() - begun) / len(calls) * 1e6)
        await world.close()
    us = min(spent)
    stages.put("status patch", us, us, "50", f"{WRITES_PER_BATCH} calls a batch, no log")


async def fan_out(stages: Stages) -> None:
    """What one more watcher costs for each event: in the partition, on the way, in the ingress."""
    count = max(stages.count // 10, 200)
    bodies = [orjson.loads(body) for body in _bodies(count)]

    async def publish(watchers: int) -> float:
        world = World()
        part = await world.partition()
        received = 0

        async def follow() -> None:
            nonlocal received
            call = Call("watch", "pods", TENANT, SPACE, user=PART)
            async for events in part.watch(call):
                received += len(events)

        following = [asyncio.create_task(follow()) for _ in range(watchers)]
        await asyncio.sleep(0.01)
        begun = time.process_time()
        for i in range(0, count, 20):
            for obj in bodies[i : i + 20]:
                obj["metadata"].setdefault("resourceVersion", "0")
                part.store.put("pods", f"{TENANT}/{SPACE}/{obj['metadata']['name']}", obj)
            await part.store.commit()
            await asyncio.sleep(0)
        while received < count * watchers:  # noqa: ASYNC110 - an event would cost a task switch
            await asyncio.sleep(0)
        spent = time.process_time() - begun
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        await world.close()
        return spent

    figures = [
        (await publish(WATCHERS) - await publish(0)) / count / WATCHERS * 1e6
        for _ in range(stages.repetitions)
    ]
    us = min(figures)
    stages.put(
        "fan-out in the partition, a watcher", us, us, "10", f"{WATCHERS} watchers, 20 at once"
    )
    event = WatchEvent(MODIFIED, 1, f"{TENANT}/{SPACE}/pod", orjson.dumps(bodies[0]))

    def frame() -> int:
        deframer = streams.Deframer()
        for i in range(count):
            sent = streams.pack(streams.EVENTS, i, [event.pack()] * 20)
            for _, _, packed in deframer.feed(sent):
                for one in packed:
                    WatchEvent.unpack(one)
        return count * 20

    await stages.time("framing: an event", frame, note="20 events a frame")

    def line() -> int:
        for _ in range(count):
            http1.chunk(b"".join([http1.event_line(event)] * 20))
        return count * 20

    await stages.time(
        "an event as a line of a chunk", line, note="once, for all who watch the same"
    )


async def whole(stages: Stages, nodes: int) -> None:
    """From a call to Running: create, schedule, reserve, bind, agent, status; no HTTP, no disk."""
    bodies = _bodies(stages.count)
    spent, walls = [], []
    for _ in range(max(stages.repetitions // 2, 1)):
        world = World()
        part = await world.partition()
        await world.add(ResourcePartition, "rp-1", number=32)
        hosts = await world.add(
            SimulatedHosts, "simulated-1", nodes=nodes, mode="instant",
            resource_partitions=("rp-1",),
        )  # fmt: skip
        await hosts.nodes.wait_until_registered()
        await world.add(Scheduler, "scheduler-tp-1", tenant_partition="tp-1")
        await asyncio.sleep(1.0)
        running = 0
        done = asyncio.Event()

        async def observe(part: TenantPartition = part, done: asyncio.Event = done) -> None:
            nonlocal running
            call = Call("watch", "pods", TENANT, SPACE, user=PART,
                        options={"fieldSelector": "status.phase=Running"})  # fmt: skip
            async for events in part.watch(call):
                running += sum(event.type == ADDED for event in events)
                if running >= len(bodies):
                    done.set()

        observing = asyncio.create_task(observe())
        await asyncio.sleep(0.01)
        gc.collect()
        if stages.profiler is not None:
            stages.profiler.enable()
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in _batches(_creates(bodies), CALLS_PER_BATCH):
            _check(await part.call(batch))
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await done.wait()
        spent.append((time.process_time() - cpu) / len(bodies) * 1e6)
        walls.append((time.perf_counter() - wall) / len(bodies) * 1e6)
        if stages.profiler is not None:
            stages.profiler.disable()
        observing.cancel()
        await asyncio.gather(observing, return_exceptions=True)
        await world.close()
    stages.put(
        "create to Running, all in one process", min(spent),
        min(walls), "400 with HTTP", f"{nodes:,} nodes; no controllers",
    )  # fmt: skip


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@click.option("--pods", type=int, default=5_000, show_default=True, help="In each repetition.")
@click.option("--nodes", type=int, default=5_000, show_default=True, help="For the scheduler.")
@click.option("--repetitions", type=int, default=5, show_default=True)
@click.option(
    "--only", type=click.Choice(["front", "create", "reads", "scheduling", "fan-out", "whole"]),
    multiple=True, help="Some of the stages.  [all]",
)  # fmt: skip
@click.option(
    "--profile", type=click.Path(path_type=Path), help="cProfile's view of `whole`, there."
)
def main(
    pods: int, nodes: int, repetitions: int, only: tuple[str, ...], profile: Path | None
) -> None:
    report = Report("stages", {"pods": pods, "nodes": nodes, "repetitions": repetitions})
    stages = Stages(pods, repetitions)
    parts: dict[str, Callable[[], Awaitable[None]]] = {
        "front": lambda: front(stages),
        "create": lambda: create_steps(stages),
        "reads": lambda: reads(stages),
        "scheduling": lambda: scheduling(stages, nodes),
        "fan-out": lambda: fan_out(stages),
        "whole": lambda: whole(stages, nodes),
    }

    async def run() -> None:
        with progress() as bars:
            stages.bars, stages.bar = bars, bars.add_task("stages", total=None)
            for name, part in parts.items():
                if not only or name in only:
                    bars.update(stages.bar, description=name)
                    await part()

    if profile is not None:
        stages.profiler = cProfile.Profile()
    uvloop.run(run())
    if stages.profiler is not None:
        stages.profiler.dump_stats(profile)  # type: ignore[arg-type]
    table(
        "microseconds of CPU for one pod, stage by stage",
        ("stage", "CPU us", "wall us", "budget", "note"),
        [(r["stage"], r["cpu_us"], r["wall_us"], r["budget_us"], r["note"]) for r in stages.rows],
    )
    report.add("stages", stages.rows)
    report.save()


if __name__ == "__main__":
    main()
