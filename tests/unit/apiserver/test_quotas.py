"""ResourceQuota in a partition: never over, whatever is tried, fails, or comes back."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import orjson
import pytest
from acme_world import ACME, ADMIN, Acme, acme

from arktos_ray.api.calls import User
from arktos_ray.api.errors import StorageFull
from arktos_ray.testing.fakes import settle

Object = dict[str, Any]


def pod(name: str, cpu: str = "", **spec: Any) -> Object:
    container: Object = {"name": "c", "image": "i"}
    if cpu:
        container["resources"] = {"requests": {"cpu": cpu}}
    return {"metadata": {"name": name}, "spec": {"containers": [container], **spec}}


def config(name: str) -> Object:
    return {"metadata": {"name": name}}


def quota(name: str = "q", hard: Object | None = None, **spec: Any) -> Object:
    return {"metadata": {"name": name}, "spec": {"hard": hard or {"pods": "1"}, **spec}}


async def used(w: Acme, name: str = "q") -> Object:
    await settle()
    found: Object = (await w.ok("get", "resourcequotas", name=name))["status"]["used"]
    return found


async def finish(w: Acme, name: str) -> None:
    one = await w.ok("get", "pods", name=name)
    one["status"]["phase"] = "Succeeded"
    await w.ok("update", "pods", one, name=name, sub="status")


def test_one_pod_too_many_is_refused_in_each_tenant_by_itself() -> None:
    async def story(w: Acme) -> None:
        tenant = {"metadata": {"name": "zeta"}, "spec": {"storageClusterId": "0"}}
        await w.ok("create", "tenants", tenant, at=("", "", ""), user=ADMIN)
        zeta = User("admin", "zeta")
        await w.ok("create", "namespaces", config("n"), at=("zeta", "", ""), user=zeta)
        for who in (ACME, zeta):
            at = (who.tenant, "n", "")
            await w.ok("create", "resourcequotas", quota(), at=at, user=who)
            await w.ok("create", "pods", pod("one"), at=at, user=who)
            refusal = await w.fails(403, "create", "pods", pod("two"), at=at, user=who)
            assert refusal == (
                'pods "two" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, '
                "limited: pods=1"
            )

    acme(story)


def test_of_a_batch_exactly_as_many_are_made_as_are_left() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "resourcequotas", quota(hard={"count/configmaps": "3"}))
        calls = [w.call("create", "configmaps", config(f"c{i}")) for i in range(10)]
        batches = await asyncio.gather(w.part.call(calls[:5]), w.part.call(calls[5:]))
        codes = [reply.code for replies in batches for reply in replies]
        assert codes == [201] * 3 + [403] * 7

    acme(story)


def test_what_was_there_before_the_quota_counts() -> None:
    async def story(w: Acme) -> None:
        for i in range(3):
            await w.ok("create", "configmaps", config(f"c{i}"))
        made, refused = await w.part.call([
            w.call("create", "resourcequotas", quota(hard={"configmaps": "3"})),
            w.call("create", "configmaps", config("late")),
        ])  # fmt: skip
        assert (made.code, refused.code) == (201, 403)
        assert await used(w) == {"configmaps": "3"}

    acme(story)


def test_what_is_used_is_seen_in_the_status() -> None:
    async def story(w: Acme) -> None:
        hard = {"pods": "5", "requests.cpu": "2", "services": "1"}
        await w.ok("create", "resourcequotas", quota(hard=hard))
        assert await used(w) == {"pods": "0", "requests.cpu": "0", "services": "0"}
        await w.ok("create", "pods", pod("a", "500m"))
        await w.ok("create", "pods", pod("b", "700m"))
        assert await used(w) == {"pods": "2", "requests.cpu": "1200m", "services": "0"}
        await w.ok("delete", "pods", name="a")
        assert await used(w) == {"pods": "1", "requests.cpu": "700m", "services": "0"}
        one = await w.ok("get", "resourcequotas", name="q")
        assert one["status"]["hard"] == hard
        one["spec"]["hard"] = {"pods": "7"}
        await w.ok("update", "resourcequotas", one, name="q")
        assert await used(w) == {"pods": "1"}

    acme(story)


def test_a_burst_does_not_write_a_status_for_every_pod() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "resourcequotas", quota(hard={"pods": "500"}))
        await settle()
        before = len(w.part.store.history("resourcequotas"))
        for i in range(10):
            calls = [w.call("create", "pods", pod(f"p{i}-{j}")) for j in range(20)]
            assert all(reply.ok for reply in await w.part.call(calls))
        assert await used(w) == {"pods": "200"}
        assert len(w.part.store.history("resourcequotas")) - before <= 20

    acme(story)


def test_a_pod_that_finished_makes_room() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "resourcequotas", quota())
        await w.ok("create", "pods", pod("one"))
        await w.fails(403, "create", "pods", pod("two"))
        await finish(w, "one")
        await w.ok("create", "pods", pod("two"))

    acme(story)


def test_a_dry_run_is_refused_alike_and_charged_nothing() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "resourcequotas", quota())
        for _ in range(3):
            await w.ok("create", "pods", pod("one"), dryRun="All")
        await w.ok("create", "pods", pod("one"))
        await w.fails(403, "create", "pods", pod("two"), dryRun="All")

    acme(story)


def test_an_update_that_grows_is_charged_the_difference() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "resourcequotas", quota(hard={"services.nodeports": "2"}))

        def service(*ports: int) -> Object:
            spec = {"type": "NodePort", "ports": [{"port": p, "name": f"p{p}"} for p in ports]}
            return {"metadata": {"name": "s"}, "spec": spec}

        await w.ok("create", "services", service(1))
        await w.ok("update", "services", service(1, 2), name="s")
        refusal = await w.fails(403, "update", "services", service(1, 2, 3), name="s")
        assert refusal.endswith(
            "exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=2, "
            "limited: services.nodeports=2"
        )
        await w.ok("update", "services", service(3), name="s")
        assert await used(w) == {"services.nodeports": "1"}

    acme(story)


def test_what_a_quota_limits_must_be_stated() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "resourcequotas", quota(hard={"requests.cpu": "2"}))
        refusal = await w.fails(403, "create", "pods", pod("a"))
        assert refusal == (
            'pods "a" is forbidden: failed quota: q: must specify requests.cpu for: c'
        )

    acme(story)


@pytest.mark.parametrize(
    ("scope", "within", "without"),
    [
        ("BestEffort", pod("a"), pod("a", "1")),
        ("NotBestEffort", pod("a", "1"), pod("a")),
        ("Terminating", pod("a", activeDeadlineSeconds=9), pod("a")),
        ("NotTerminating", pod("a"), pod("a", activeDeadlineSeconds=9)),
    ],
)
def test_a_quota_is_for_the_pods_of_its_scope(scope: str, within: Object, without: Object) -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "resourcequotas", quota(hard={"pods": "0"}, scopes=[scope]))
        await w.fails(403, "create", "pods", within)
        await w.ok("create", "pods", without)
        assert await used(w) == {"pods": "0"}

    acme(story)


def test_after_a_restart_it_is_as_full_as_before() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "resourcequotas", quota(hard={"pods": "2"}))
        await w.ok("create", "pods", pod("a"))
        await w.ok("create", "pods", pod("b"))
        assert await used(w) == {"pods": "2"}
        again = Acme(w.disk)
        await again.part.start()
        await again.fails(403, "create", "pods", pod("c"))
        assert await used(again) == {"pods": "2"}
        await again.part.close()

    acme(story)


def test_a_namespace_that_is_made_again_begins_empty() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "resourcequotas", quota())
        await w.ok("create", "pods", pod("a"))
        await w.ok("delete", "resourcequotas", name="q")
        await w.ok("create", "pods", pod("b"))
        await w.ok("create", "resourcequotas", quota())
        await w.fails(403, "create", "pods", pod("c"))
        assert await used(w) == {"pods": "2"}

    acme(story)


@pytest.mark.parametrize("seed", range(10))
def test_the_sum_is_never_more_than_the_quota(seed: int) -> None:
    rng = random.Random(seed)
    hard_cpu, hard_pods = 2_000, 6

    async def story(w: Acme) -> None:
        hard = {"requests.cpu": f"{hard_cpu}m", "pods": str(hard_pods)}
        await w.ok("create", "resourcequotas", quota(hard=hard))
        names = [f"p{i}" for i in range(12)]
        cpus = [200, 500, 900]

        def one_call() -> Any:
            name, what = rng.choice(names), rng.random()
            if what < 0.6:
                return w.call("create", "pods", pod(name, f"{rng.choice(cpus)}m"))
            if what < 0.85:
                return w.call("delete", "pods", name=name)
            body = {"status": {"phase": rng.choice(["Succeeded", "Failed"])}}
            return w.call(
                "patch", "pods", body, name=name, sub="status",
                kind="application/merge-patch+json",
            )  # fmt: skip

        async def check() -> None:
            listed = await w.ok("list", "pods", at=("acme", "n", ""))
            live = [p for p in listed["items"] if p["status"].get("phase") == "Pending"]
            cpu = [p["spec"]["containers"][0]["resources"]["requests"]["cpu"] for p in live]
            total = sum(int(each.removesuffix("m")) for each in cpu)
            assert total <= hard_cpu
            assert len(live) <= hard_pods
            says = await used(w)
            assert says["pods"] == str(len(live))
            assert says["requests.cpu"] in (f"{total}m", str(total // 1000))

        refused = 0
        for _ in range(8):
            if rng.random() < 0.3:
                w.log.fail_next.append(StorageFull("full"))
            batches = [[one_call() for _ in range(rng.randint(1, 5))] for _ in range(3)]
            answers = await asyncio.gather(*(w.part.call(batch) for batch in batches))
            for reply in (reply for replies in answers for reply in replies):
                assert reply.code < 500 or reply.code == 507, reply.body
                if reply.code == 403:
                    refused += b"exceeded quota" in reply.body
            w.log.fail_next.clear()
            await check()
        assert refused, "the quota was tried"

    acme(story)


def test_who_may_not_exceed_a_quota_may_still_use_what_is_left_of_another() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", "namespaces", config("m"), at=("acme", "", ""))
        await w.ok("create", "resourcequotas", quota(hard={"configmaps": "0"}))
        await w.fails(403, "create", "configmaps", config("a"))
        await w.ok("create", "configmaps", config("a"), at=("acme", "m", ""))
        body = orjson.loads((await w.reply("create", "configmaps", config("a"))).body)
        assert body["reason"] == "Forbidden"

    acme(story)
