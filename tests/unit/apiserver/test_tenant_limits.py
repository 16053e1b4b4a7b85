"""What operators allow a tenant: held to exactly, said clearly, and remembered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from acme_world import ADMIN, Acme, acme

from arktos_ray.api import errors
from arktos_ray.api.calls import User
from arktos_ray.api.errors import StorageFull
from arktos_ray.store.moving import DEPARTED, Mark
from arktos_ray.tenancy.quota import Allowed
from arktos_ray.testing.fakes import settle

Object = dict[str, Any]
OURS = User("system:controller", "system", ("system:masters",), trusted=True)
MERGE = "application/merge-patch+json"
HERE = ("acme", "n", "")
SUSPENDED = (
    'tenant "acme" is suspended: its users are refused until an operator resumes it;'
    " its workloads go on"
)


def config(name: str, size: int = 0) -> Object:
    return {"metadata": {"name": name}, "data": {"x": "x" * size}}


async def tenant(w: Acme, **spec: Any) -> Object:
    at = ("", "", "acme")
    return await w.ok("patch", "tenants", {"spec": spec}, at=at, user=ADMIN, kind=MERGE)


def used(w: Acme) -> tuple[int, int]:
    """Counted afresh."""
    store = w.part.store
    records = [r for t in store._tables.values() for r in t.range("acme/")]
    return len(records), sum(len(r.body) for r in records)


def test_objects_are_counted_to_the_last_one_and_the_refusal_says_all() -> None:
    async def story(w: Acme) -> None:
        has, _ = used(w)
        await tenant(w, limits={"objects": has + 2})
        names = [w.call("create", "configmaps", config(f"c{i}")) for i in range(4)]
        replies = await w.part.call(names)  # One batch: nothing of it is durable yet.
        assert [r.code for r in replies] == [201, 201, 403, 403]
        refusal = await w.fails(403, "create", "configmaps", config("one-more"))
        assert refusal == (
            'configmaps "one-more" is forbidden: exceeded the limits of tenant "acme": requested:'
            f" objects=1, used: objects={has + 2}, limited: objects={has + 2}"
        )
        # Our own parts make objects for a tenant: they count as well.
        await w.fails(403, "create", "configmaps", config("x"), user=OURS)
        await w.fails(403, "create", "configmaps", config("x"), dryRun="All")
        await w.ok("delete", "configmaps", name="c0")
        await w.ok("create", "configmaps", config("one-more"))
        await tenant(w, limits=None)
        await w.ok("create", "configmaps", config("and-more"))

    acme(story)


def test_bytes_are_held_to_what_grows_and_what_shrinks_is_welcome() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "configmaps", config("c", 1_000))
        _, has = used(w)
        await tenant(w, limits={"bytes": has + 500})
        refusal = await w.fails(403, "update", "configmaps", config("c", 2_000), name="c")
        assert "requested: bytes=" in refusal
        assert f"used: bytes={has}, limited: bytes={has + 500}" in refusal
        assert "exceeded" in await w.fails(403, "create", "configmaps", config("d", 600))
        await w.ok("update", "configmaps", config("c", 1_100), name="c")
        # Below what there is: nothing grows, but what is there can be made smaller.
        await tenant(w, limits={"bytes": "1Ki"})
        await w.ok("update", "configmaps", config("c", 900), name="c")
        await w.fails(403, "patch", "configmaps", {"data": {"y": "y" * 90}}, name="c", kind=MERGE)
        # What our own parts know of an object is said all the same.
        await w.ok("update", "configmaps", config("c", 3_000), name="c", user=OURS)
        await w.ok("delete", "configmaps", name="c")

    acme(story)


def test_what_a_refused_batch_would_have_taken_is_free() -> None:
    async def story(w: Acme) -> None:
        has, _ = used(w)
        await tenant(w, limits={"objects": has + 1})
        w.log.fail_next.append(StorageFull("full"))
        await w.fails(507, "create", "configmaps", config("c"))
        await w.ok("create", "configmaps", config("c"))
        assert w.part.store.usage("acme") == used(w)
        await w.fails(403, "create", "configmaps", config("d"))

    acme(story)


def test_limits_and_usage_are_right_after_a_restart() -> None:
    async def story() -> None:
        first = Acme()
        await first.start()
        await first.ok("create", "configmaps", config("c", 100))
        await first.ok("create", "configmaps", config("d"))
        await first.ok("delete", "configmaps", name="d")
        has, _ = used(first)
        await tenant(first, limits={"objects": has})
        before = first.part.store.usage("acme")
        await first.part.close()
        again = Acme(first.disk)
        await again.part.start()
        assert again.part.store.usage("acme") == before == used(again)
        await again.fails(403, "create", "configmaps", config("e"))
        await again.part.close()

    asyncio.run(story())


def test_what_all_tenants_are_allowed_is_for_those_whose_own_says_nothing() -> None:
    async def story(w: Acme) -> None:
        has, _ = used(w)
        w.part.server.partition.defaults = Allowed(objects=has)
        w.part.server.partition._allowed.clear()
        await w.fails(403, "create", "configmaps", config("c"))
        await tenant(w, limits={"objects": has + 1})
        await w.ok("create", "configmaps", config("c"))
        at = ("system", "default", "")
        await w.ok("create", "configmaps", config("c"), at=at, user=ADMIN)

    acme(story)


def test_a_new_tenant_has_its_administrator_however_little_it_may_have() -> None:
    async def story(w: Acme) -> None:
        spec = {"storageClusterId": "0", "limits": {"objects": 0}}
        body = {"metadata": {"name": "poor"}, "spec": spec}
        await w.ok("create", "tenants", body, at=("", "", ""), user=ADMIN)
        assert w.part.store.usage("poor")[0] == 2
        at, user = ("poor", "", ""), User("admin", "poor")
        await w.ok("list", "namespaces", at=at, user=user)
        await w.fails(403, "create", "namespaces", {"metadata": {"name": "n"}}, at=at, user=user)

    acme(story)


def test_usage_is_told_by_kind() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "configmaps", config("c", 100))
        await tenant(w, limits={"watches": 7})
        [row] = await w.part.request("usage", "acme")
        assert (row["objects"], row["bytes"]) == used(w)
        assert row["limits"] == {"watches": 7}
        assert row["kinds"]["configmaps"][0] == 1
        assert sum(objects for objects, _ in row["kinds"].values()) == row["objects"]
        assert sum(size for _, size in row["kinds"].values()) == row["bytes"]
        assert {row["tenant"] for row in await w.part.request("usage", "")} == {"acme", "system"}

    acme(story)


@pytest.mark.parametrize(
    ("spec", "code", "says"),
    [
        ({"limits": {"objects": -1}}, 422, "spec.limits.objects: Invalid value"),
        ({"limits": {"bytes": "-1Gi"}}, 422, "spec.limits.bytes: Invalid value"),
        ({"limits": {"bytes": "much"}}, 400, "quantities"),
        ({"limits": {"objects": "many"}}, 400, "objects"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(spec: Object, code: int, says: str) -> None:
    async def story(w: Acme) -> None:
        at = ("", "", "acme")
        reply = await w.reply("patch", "tenants", {"spec": spec}, at=at, user=ADMIN, kind=MERGE)
        assert reply.code in (code, 422), reply.body
        assert says in errors.decode(reply.body).message

    acme(story)


def test_the_system_tenant_is_neither_limited_nor_suspended() -> None:
    async def story(w: Acme) -> None:
        for spec in ({"suspended": True}, {"limits": {"objects": 1}}):
            body, at = {"spec": spec}, ("", "", "system")
            said = await w.fails(422, "patch", "tenants", body, at=at, user=ADMIN, kind=MERGE)
            assert "the system tenant is the operators' own" in said

    acme(story)


# Suspended


def test_users_of_a_suspended_tenant_are_refused_at_once_and_operators_are_not() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "configmaps", config("c"))
        from_here = str(w.part.store.revision)
        call = w.call("watch", "configmaps", at=HERE, resourceVersion=from_here)
        mine = w.part.watch(call)
        theirs = w.part.watch(
            w.call("watch", "configmaps", at=HERE, user=ADMIN, resourceVersion=from_here)
        )
        waiting, seeing = asyncio.ensure_future(anext(mine)), asyncio.ensure_future(anext(theirs))
        await settle()
        await tenant(w, suspended=True)
        with pytest.raises(errors.Forbidden, match="is suspended"):
            await waiting
        for verb, name in (("get", "c"), ("get", "nobody"), ("list", ""), ("delete", "c")):
            at = ("acme", "n", name)
            assert await w.fails(403, verb, "configmaps", at=at) == SUSPENDED
        assert await w.fails(403, "create", "configmaps", config("d")) == SUSPENDED
        with pytest.raises(errors.Forbidden, match="is suspended"):
            await anext(w.part.watch(call))
        assert not w.part.server.may(User("admin", "acme"), [["get", "", "", "", "", "", "/api"]])[
            0
        ]
        # Operators, and our own parts, for whom its workloads go on.
        await w.ok("create", "configmaps", config("by-admin"), user=ADMIN)
        assert [event.path for event in await seeing] == ["acme/n/by-admin"]
        await w.ok("create", "configmaps", config("by-us"), user=OURS)
        await tenant(w, suspended=None)
        await w.ok("get", "configmaps", name="c")
        await theirs.aclose()  # type: ignore[attr-defined]

    acme(story)


def test_a_suspended_tenant_stays_so_through_a_restart() -> None:
    async def story() -> None:
        first = Acme()
        await first.start()
        await tenant(first, suspended=True)
        await first.part.close()
        again = Acme(first.disk)
        await again.part.start()
        assert await again.fails(403, "list", "configmaps", at=HERE) == SUSPENDED
        await tenant(again, suspended=False)
        await again.ok("list", "configmaps", at=HERE)
        await again.part.close()

    asyncio.run(story())


def test_a_suspension_that_is_not_durable_counts_for_nobody() -> None:
    async def story(w: Acme) -> None:
        w.log.fail_next.append(StorageFull("full"))
        body, at = {"spec": {"suspended": True}}, ("", "", "acme")
        await w.fails(507, "patch", "tenants", body, at=at, user=ADMIN, kind=MERGE)
        await w.ok("list", "configmaps", at=HERE)

    acme(story)


def test_a_tenant_that_leaves_takes_its_suspension_and_its_usage_along() -> None:
    async def story(w: Acme) -> None:
        await tenant(w, suspended=True)
        store = w.part.store
        store.put_mark(Mark("acme", DEPARTED, "tp-2"))
        await store.commit()
        assert store.usage("acme") == (0, 0)
        said = await w.reply("list", "configmaps", at=HERE)
        assert said.code == errors.Moved.code, "the other partition says what is the matter"

    acme(story)
