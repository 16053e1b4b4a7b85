"""What do access rules cost: roles, kinds of tenants' own, and what every new tenant has?

One process and no disk, as in stages.py; CPU time, the least of some repetitions.

decisions  May somebody, through the roles of a tenant with few and many bindings; and what one
           more binding costs then. Wanted: under 20 us when it was asked before.
custom     Objects of a kind that a tenant defined, against config maps of the same size.
tenants    What a new tenant costs with its controllers, and what it has in the end.
(How long a tenant with 100 kinds waits for its discovery: discovery.py.)
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
import orjson
import uvloop
from _report import Report, table
from stages import PART, SPACE, TENANT, World, _batches, _check, _named

from arktos_ray.actors.controller_shard import ControllerShard
from arktos_ray.actors.resource_partition import ResourcePartition
from arktos_ray.actors.tenant_partition import TenantPartition
from arktos_ray.api import scheme
from arktos_ray.api.calls import Call, User
from arktos_ray.api.scheme import DEFINITIONS, RBAC
from arktos_ray.apiserver import authz
from arktos_ray.ingress.http1 import JSON

BINDINGS = f"rolebindings.{RBAC}"
ADMIN = User("admin", TENANT)
SOMEBODY = User("somebody", TENANT, ("devs", "system:authenticated"))
WANTED_US = 20.0
BATCH = 100


def least(work: Callable[[], Any], count: int, repetitions: int) -> float:
    """us for one of `count`."""
    figures = []
    for _ in range(repetitions):
        begun = time.process_time()
        for _ in range(count):
            work()
        figures.append((time.process_time() - begun) / count * 1e6)
    return min(figures)


def bound(name: str, user: str) -> bytes:
    return orjson.dumps(
        {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}],
        }
    )


async def timed(part: TenantPartition, calls: Sequence[Call], size: int = BATCH) -> float:
    """us of CPU for one call."""
    batches = _batches(calls, size)
    gc.collect()
    gc.disable()
    begun = time.process_time()
    replies = [await part.call(batch) for batch in batches]
    spent = (time.process_time() - begun) / len(calls) * 1e6
    gc.enable()
    for each in replies:
        _check(each)
    return spent


async def decision(size: int, repetitions: int) -> dict[str, Any]:
    world = World()
    part = await world.partition()
    rights = part.server.partition.rights

    def bind(name: str, user: str) -> Call:
        return Call("create", BINDINGS, TENANT, SPACE, body=bound(name, user),
                    content_type=JSON, user=ADMIN)  # fmt: skip

    await timed(part, [bind("mine", SOMEBODY.name)])
    await timed(part, [bind(f"b-{i}", f"user-{i}") for i in range(size - 1)])
    call = Call("get", "pods", TENANT, SPACE, "p", user=SOMEBODY)
    other = Call("get", "secrets", TENANT, "elsewhere", "p", user=SOMEBODY)
    pods, secrets = scheme.resource("pods"), scheme.resource("secrets")
    of, changed = rights.of(TENANT), orjson.loads(bound("b-1", "user-1"))

    def ask() -> None:
        authz.authorize(rights, call, pods)

    def ask_in_vain() -> None:
        if authz.allowed(rights, other, secrets):
            raise SystemExit("that should be refused")

    def change() -> None:
        of.put(BINDINGS, SPACE, changed)

    def change_and_ask() -> None:
        change()
        ask()

    known = least(ask, 2_000, repetitions)
    changing = least(change, 200, repetitions)
    more = [bind(f"more-{i}", f"user-{i}") for i in range(400)]
    row = {
        "bindings": size,
        "known_us": round(known, 2),
        "refused_us": round(least(ask_in_vain, 500, repetitions), 2),
        "change_us": round(changing, 2),
        "first_after_us": round(least(change_and_ask, 200, repetitions) - changing, 2),
        "create_binding_us": round(
            min([await timed(part, more[i : i + 100]) for i in range(0, 400, 100)]), 1
        ),
        "good": known < WANTED_US,
    }
    await world.close()
    return row


async def decisions(sizes: Sequence[int], repetitions: int) -> list[dict[str, Any]]:
    return [await decision(size, repetitions) for size in sizes]


def definition() -> bytes:
    text = {"type": "object", "additionalProperties": {"type": "string"}}
    version = {
        "name": "v1", "served": True, "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"data": text}}},
    }  # fmt: skip
    return orjson.dumps(
        {
            "metadata": {"name": "things.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced", "versions": [version],
                "names": {"plural": "things", "kind": "Thing"},
            },
        }
    )  # fmt: skip


async def custom(count: int, repetitions: int) -> list[dict[str, Any]]:
    """The two in turns, in one partition each time."""
    kinds = {"configmaps": ("configmaps", ""), "things": ("things.example.com", "example.com/v1")}
    found: dict[str, dict[str, float]] = {}
    for _ in range(repetitions):
        world = World()
        part = await world.partition()
        _check(await part.call([Call("create", DEFINITIONS, TENANT, body=definition(),
                                     content_type=JSON, user=ADMIN)]))  # fmt: skip
        for kind, (gvr, version) in kinds.items():
            best = found.setdefault(kind, {})

            def say(
                verb: str, name: str = "", body: bytes = b"", gvr: str = gvr, version: str = version
            ) -> Call:
                return Call(verb, gvr, TENANT, SPACE, name, body=body, content_type=JSON,
                            user=ADMIN, user_agent="bench/1.0", version=version)  # fmt: skip

            names = [f"o-{i:06d}" for i in range(count)]
            bodies = [
                orjson.dumps({"metadata": {"name": n}, "data": {"text": "x" * 500}}) for n in names
            ]
            seen = 0

            async def follow(call: Call, part: TenantPartition = part) -> None:
                nonlocal seen
                async for events in part.watch(call):
                    seen += len(events)

            spent = {"create": await timed(part, [say("create", body=body) for body in bodies])}
            spent["get"] = await timed(part, [say("get", name) for name in names])
            replies = await part.call([say("get", name) for name in names])
            spent["update"] = await timed(
                part,
                [say("update", n, b.body.replace(b"xxx", b"yyy", 1))
                 for n, b in zip(names, replies, strict=True)],
            )  # fmt: skip
            spent["list"] = await timed(part, [say("list")]) / count
            begun = time.process_time()
            watching = [asyncio.create_task(follow(say("watch"))) for _ in range(10)]
            while seen < 10 * count:  # noqa: ASYNC110 - an event would cost a task switch
                await asyncio.sleep(0)
            spent["watch"] = (time.process_time() - begun) / 10 / count * 1e6
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            for verb, us in spent.items():
                best[verb] = min(best.get(verb, us), us)
        await world.close()
    plain, own = found["configmaps"], found["things"]
    return [
        {"verb": verb, "configmap_us": round(plain[verb], 2), "custom_us": round(own[verb], 2),
         "ratio": round(own[verb] / plain[verb], 2)}
        for verb in plain
    ]  # fmt: skip


async def tenants(count: int) -> dict[str, Any]:
    """New tenants, until each has everything that is made for it."""
    world = World()
    part: TenantPartition = await world.add(
        TenantPartition, "tp-1", number=1, **world.keys()
    )  # fmt: skip
    await world.add(ResourcePartition, "rp-1", number=32)
    await world.add(ControllerShard, "controllers-1", ca=world.keys()["ca"])
    await asyncio.sleep(2.0)
    store = part.store
    before, marks = sum(store.counts().values()), {"longest": 0.0}

    async def tick() -> None:
        while True:
            at = time.perf_counter()
            await asyncio.sleep(0.001)
            marks["longest"] = max(marks["longest"], time.perf_counter() - at)

    ticking = asyncio.create_task(tick())
    begun, wall = time.process_time(), time.perf_counter()
    calls = [
        Call("create", "tenants", body=_named("Tenant", f"t-{i:05d}", spec={}), user=PART)
        for i in range(count)
    ]
    for batch in _batches(calls, 20):
        _check(await part.call(batch))
    made, still = -1, 0
    while still < 10:
        await asyncio.sleep(0.2)
        now = sum(store.counts().values())
        made, still = now, still + 1 if now == made else 0
    cpu, wall = time.process_time() - begun, time.perf_counter() - wall - 2.0
    ticking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ticking
    one = store.usage_by_kind("t-00000")
    found = {
        "tenants": count, "tenants_per_s": round(count / wall),
        "objects": (made - before) / count, "cpu_ms": round(cpu * 1000 / count, 2),
        "longest_step_ms": round(marks["longest"] * 1000),
        "bytes": sum(size for _, size in one.values()),
        "by_kind": {gvr: [n, size] for gvr, (n, size) in sorted(one.items())},
    }  # fmt: skip
    await world.close()
    return found


@click.command(help=__doc__, context_settings={"max_content_width": 100})
@click.option("--count", type=int, default=1_000, show_default=True, help="Objects of each kind.")
@click.option("--tenants", "tenants_", type=int, default=1_000, show_default=True)
@click.option("--repetitions", type=int, default=5, show_default=True)
@click.option(
    "--only", type=click.Choice(["decisions", "custom", "tenants"]), multiple=True,
    help="Some of it.  [all]",
)  # fmt: skip
def main(count: int, tenants_: int, repetitions: int, only: tuple[str, ...]) -> None:
    report = Report("access", {"count": count, "tenants": tenants_, "repetitions": repetitions})
    if not only or "decisions" in only:
        rows = uvloop.run(decisions((10, 1_000, 10_000), repetitions))
        report.add("decisions", rows)
        table(
            f"us of CPU a decision; wanted: known under {WANTED_US:.0f}",
            ("bindings", "known", "refused", "a change", "first after", "create of a binding"),
            [tuple(row.values())[:-1] for row in rows],
        )
    if not only or "custom" in only:
        rows = uvloop.run(custom(count, repetitions))
        report.add("custom", rows)
        columns = ("verb", "config map", "custom object", "ratio")
        table("us of CPU an object", columns, [tuple(row.values()) for row in rows])
    if not only or "tenants" in only:
        found = uvloop.run(tenants(tenants_))
        report.add("tenants", found)
        shown = [(k, v) for k, v in found.items() if k != "by_kind"]
        shown += [(f"{gvr}: objects, bytes", str(each)) for gvr, each in found["by_kind"].items()]
        table("a new tenant", ("what", "figure"), shown)
    report.save()


if __name__ == "__main__":
    main()
