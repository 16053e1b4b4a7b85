"""What a partition allows whom, and from when on: at once, both ways."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from acme_world import ADMIN, Acme, acme

from arktos_ray.api import errors
from arktos_ray.api.calls import Call, User
from arktos_ray.api.errors import StorageFull
from arktos_ray.testing.fakes import settle

Object = dict[str, Any]
GROUP = "rbac.authorization.k8s.io"
ROLES, BINDINGS = f"roles.{GROUP}", f"rolebindings.{GROUP}"
CLUSTER_ROLES, CLUSTER_BINDINGS = f"clusterroles.{GROUP}", f"clusterrolebindings.{GROUP}"
KNOWN = "system:authenticated"
ANN = User("ann", "acme", ("devs", KNOWN))
OP = User("op", "system", (KNOWN,))
HERE, TENANT, SYSTEM = ("acme", "n", ""), ("acme", "", ""), ("system", "", "")
APPLY = "application/apply-patch+yaml"


def role(
    name: str, verbs: str, resources: str, *names: str, group: str = "", **more: Any
) -> Object:
    rule = {"verbs": verbs.split(), "apiGroups": [group], "resources": resources.split()}
    rules = [{**rule, "resourceNames": list(names)} if names else rule]
    return {"metadata": {"name": name, **more}, "rules": rules}


def binding(name: str, to: str, user: str = "ann", kind: str = "ClusterRole") -> Object:
    return {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": GROUP, "kind": kind, "name": to},
        "subjects": [{"kind": "User", "apiGroup": GROUP, "name": user}],
    }


def config(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}


def test_a_user_is_refused_in_the_words_of_kubernetes_and_allowed_from_the_binding_on() -> None:
    async def story(w: Acme) -> None:
        refusal = (
            'configmaps is forbidden: User "ann" cannot list resource "configmaps" in API group ""'
            ' in the namespace "n"'
        )
        assert await w.fails(403, "list", "configmaps", at=HERE, user=ANN) == refusal
        assert await w.fails(403, "list", "namespaces", at=TENANT, user=ANN) == (
            'namespaces is forbidden: User "ann" cannot list resource "namespaces" in API group ""'
            ' in the tenant "acme"'
        )
        assert await w.fails(403, "get", "pods", name="p", sub="log", user=ANN) == (
            'pods "p" is forbidden: User "ann" cannot get resource "pods/log" in API group ""'
            ' in the namespace "n"'
        )
        await w.ok("create", BINDINGS, binding("b", "view"), at=HERE)
        await w.ok("list", "configmaps", at=HERE, user=ANN)
        await w.ok("get", "namespaces", at=("acme", "", "n"), user=ANN)
        await w.fails(403, "list", "configmaps", at=("acme", "other", ""), user=ANN)
        await w.fails(403, "list", "configmaps", at=TENANT, user=ANN)
        await w.fails(403, "create", "configmaps", config("c"), user=ANN)
        await w.ok("delete", BINDINGS, name="b")
        assert await w.fails(403, "list", "configmaps", at=HERE, user=ANN) == refusal

    acme(story)


def test_a_change_that_is_not_durable_counts_for_nobody() -> None:
    async def story(w: Acme) -> None:
        w.log.fail_next.append(StorageFull("full"))
        await w.fails(507, "create", BINDINGS, binding("b", "view"), at=HERE)
        await w.fails(403, "list", "configmaps", at=HERE, user=ANN)
        await w.ok("create", BINDINGS, binding("b", "view"), at=HERE)
        w.log.fail_next.append(StorageFull("full"))
        await w.fails(507, "delete", BINDINGS, name="b")
        await w.ok("list", "configmaps", at=HERE, user=ANN)

    acme(story)


def test_a_role_that_changes_counts_at_once() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", ROLES, role("r", "get", "configmaps"), at=HERE)
        await w.ok("create", BINDINGS, binding("b", "r", kind="Role"), at=HERE)
        await w.fails(404, "get", "configmaps", name="c", user=ANN)
        await w.fails(403, "create", "configmaps", config("c"), user=ANN)
        await w.ok("update", ROLES, role("r", "create", "configmaps"), name="r")
        await w.ok("create", "configmaps", config("c"), user=ANN)
        await w.fails(403, "get", "configmaps", name="c", user=ANN)
        await w.ok("delete", ROLES, name="r")
        assert await w.fails(403, "create", "configmaps", config("d"), user=ANN) == (
            'configmaps is forbidden: User "ann" cannot create resource "configmaps" in API group'
            f' "" in the namespace "n": RBAC: role.{GROUP} "r" not found'
        )

    acme(story)


def test_groups_and_service_accounts_are_subjects_of_their_own_tenant_only() -> None:
    async def story(w: Acme) -> None:
        made = binding("b", "view")
        made["subjects"] = [
            {"kind": "Group", "apiGroup": GROUP, "name": "devs"},
            {"kind": "ServiceAccount", "name": "bot", "namespace": "n"},
        ]
        await w.ok("create", CLUSTER_BINDINGS, made, at=TENANT)
        bot = "system:serviceaccount:n:bot"
        for user in (ANN, User(bot, "acme")):
            await w.ok("list", "pods", at=HERE, user=user)
        for user in (User(bot, "system"), User("eve", "b", ("devs",)), User(bot, "")):
            await w.fails(403, "list", "pods", at=HERE, user=user)

    acme(story)


def test_a_role_for_one_name_allows_to_list_and_watch_that_one() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", ROLES, role("r", "get list watch", "configmaps", "mine"), at=HERE)
        await w.ok("create", BINDINGS, binding("b", "r", kind="Role"), at=HERE)
        for name in ("mine", "other"):
            await w.ok("create", "configmaps", config(name))
        await w.ok("get", "configmaps", name="mine", user=ANN)
        await w.fails(403, "get", "configmaps", name="other", user=ANN)
        await w.fails(403, "list", "configmaps", at=HERE, user=ANN)
        only = "metadata.name=mine"
        found = await w.ok("list", "configmaps", at=HERE, user=ANN, fieldSelector=only)
        assert [each["metadata"]["name"] for each in found["items"]] == ["mine"]
        for other in ("metadata.name=other", "metadata.name!=mine", f"{only};metadata.name!=mine"):
            await w.fails(403, "list", "configmaps", at=HERE, user=ANN, fieldSelector=other)

    acme(story)


def test_an_apply_that_creates_needs_the_right_to_create() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", ROLES, role("r", "patch", "configmaps"), at=HERE)
        await w.ok("create", BINDINGS, binding("b", "r", kind="Role"), at=HERE)
        body, how = config("c"), {"kind": APPLY, "fieldManager": "t", "user": ANN}
        refusal = await w.fails(403, "patch", "configmaps", body, name="c", **how)
        assert 'cannot create resource "configmaps"' in refusal
        await w.ok("create", "configmaps", config("c"))
        await w.ok("patch", "configmaps", body, name="c", **how)

    acme(story)


@pytest.mark.parametrize("gvr", ["nodes", "tenants", "storageclusters"])
def test_no_role_of_a_tenant_reaches_what_is_the_clusters(gvr: str) -> None:
    async def story(w: Acme) -> None:
        admin = User("admin", "acme", ("system:masters", KNOWN))
        for at in (("", "", ""), ("acme", "", ""), ("", "", "acme")):
            refusal = await w.fails(403, "get", gvr, at=at, user=admin)
            assert f'User "admin" cannot get resource "{gvr}" in API group ""' in refusal

    acme(story)


def test_a_new_tenant_has_one_role_and_one_binding_and_the_system_has_those_that_all_know() -> None:
    async def story(w: Acme) -> None:
        for gvr, name in ((CLUSTER_ROLES, "admin-role"), (CLUSTER_BINDINGS, "admin-role-binding")):
            [only] = (await w.ok("list", gvr, at=TENANT))["items"]
            assert (only["metadata"]["name"], only["metadata"]["tenant"]) == (name, "acme")
        found = await w.ok("list", CLUSTER_ROLES, at=SYSTEM, user=ADMIN)
        names = {each["metadata"]["name"] for each in found["items"]}
        assert {"cluster-admin", "admin", "edit", "view", "system:discovery"} <= names

    acme(story)


def test_what_the_administrator_gave_away_is_known_after_a_restart() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", BINDINGS, binding("b", "view"), at=HERE)
        other = role("view", "get", "secrets")  # Operators may change what is standing.
        other["metadata"]["annotations"] = {"rbac.authorization.kubernetes.io/autoupdate": "false"}
        await w.ok("update", CLUSTER_ROLES, other, at=("system", "", "view"), user=ADMIN)
        odd = role("system:discovery", "get", "secrets")
        await w.ok("update", CLUSTER_ROLES, odd, at=("system", "", "system:discovery"), user=ADMIN)
        again = Acme(w.disk)
        await again.part.start()
        await again.ok("list", "configmaps", at=HERE, user=ANN)
        await again.fails(403, "list", "secrets", at=HERE, user=ANN)
        kept = await again.ok("get", CLUSTER_ROLES, at=("system", "", "view"), user=ADMIN)
        assert kept["rules"] == other["rules"]
        back = await again.ok(
            "get", CLUSTER_ROLES, at=("system", "", "system:discovery"), user=ADMIN
        )
        assert back["rules"] != odd["rules"], "brought up to what this version says"
        await again.part.close()

    acme(story)


# Watches


async def told(events: Any) -> list[str]:
    return [event.path for event in await anext(events)]


def test_a_watch_ends_when_its_right_is_withdrawn_and_tells_nothing_of_after() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", BINDINGS, binding("b", "view"), at=HERE)
        await w.ok("create", BINDINGS, binding("other", "view", "bob"), at=HERE)
        from_here = str(w.part.store.revision)

        def watching(user: User) -> Any:
            call = w.call("watch", "configmaps", at=HERE, user=user, resourceVersion=from_here)
            return w.part.watch(call)

        mine, others, idle = watching(ANN), watching(User("bob", "acme")), watching(ANN)
        waiting = [asyncio.ensure_future(anext(each)) for each in (mine, others, idle)]
        await settle()
        await w.ok("create", "configmaps", config("before"))
        for each in waiting:
            assert [event.path for event in await each] == ["acme/n/before"]
        waits = asyncio.ensure_future(anext(idle))
        # One batch: the withdrawal, and what follows it.
        replies = await w.part.call([
            w.call("delete", BINDINGS, name="b"), w.call("create", "configmaps", config("after")),
        ])  # fmt: skip
        assert [reply.code for reply in replies] == [200, 201]
        for each in (waits, anext(mine)):
            with pytest.raises(errors.Forbidden, match='User "ann" cannot watch'):
                await each
        assert await told(others) == ["acme/n/after"]
        await others.aclose()

    acme(story)


def test_a_watch_goes_on_through_changes_that_leave_it_its_right() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", BINDINGS, binding("b", "view"), at=HERE)
        call = w.call(
            "watch", "configmaps", at=HERE, user=ANN, resourceVersion=str(w.part.store.revision)
        )
        events = w.part.watch(call)
        first = asyncio.ensure_future(anext(events))
        await settle()
        await w.ok("create", CLUSTER_BINDINGS, binding("c", "view"), at=TENANT)
        await w.ok("delete", BINDINGS, name="b")
        await w.ok("create", "configmaps", config("c"))
        assert [event.path for event in await first] == ["acme/n/c"]
        await events.aclose()  # type: ignore[attr-defined]

    acme(story)


# Users of the system tenant, whose roles only its own partition knows


def test_an_operator_acts_in_tenants_by_roles_of_the_system_tenant() -> None:
    async def story(w: Acme) -> None:
        await w.fails(403, "list", "pods", at=HERE, user=OP)
        bound = binding("b", "view", "op")
        await w.ok("create", CLUSTER_BINDINGS, bound, at=SYSTEM, user=ADMIN)
        await w.ok("list", "pods", at=HERE, user=OP)
        await w.fails(403, "create", "configmaps", config("c"), user=OP)
        await w.fails(403, "list", "nodes", at=("", "", ""), user=OP)

    acme(story)


def test_other_partitions_learn_what_an_operator_may_and_until_when() -> None:
    async def story(w: Acme) -> None:
        listing = Call("watch", "nodes", user=OP)
        with pytest.raises(errors.Forbidden, match="at the cluster scope"):
            await w.part.request("granted", [listing.pack(), []])
        await w.ok(
            "create", CLUSTER_ROLES, role("r", "watch patch", "nodes"), at=SYSTEM, user=ADMIN
        )
        await w.ok("create", CLUSTER_BINDINGS, binding("b", "r", "op"), at=SYSTEM, user=ADMIN)
        asked = [listing.pack(), ["create", "patch"]]
        assert await w.part.request("granted", asked) == ["watch", "patch"]
        guard = w.part.subscribe("remains", listing.pack())
        assert await anext(guard) is True
        end = asyncio.ensure_future(anext(guard))
        await w.ok("create", CLUSTER_BINDINGS, binding("c", "view", "op"), at=SYSTEM, user=ADMIN)
        await settle()
        assert not end.done()
        await w.ok("delete", CLUSTER_BINDINGS, at=("system", "", "b"), user=ADMIN)
        with pytest.raises(errors.Forbidden):
            await end

    acme(story)


def test_who_may_do_anything_with_bindings_may_not_bind_any_role_elsewhere() -> None:
    async def story(w: Acme) -> None:
        binds = role("binds", "*", "rolebindings clusterrolebindings", group=GROUP)
        await w.ok("create", CLUSTER_ROLES, binds, at=SYSTEM, user=ADMIN)
        await w.ok("create", CLUSTER_BINDINGS, binding("b", "binds", "op"), at=SYSTEM, user=ADMIN)
        asked = w.call("create", CLUSTER_BINDINGS, at=TENANT, user=OP).pack()
        assert await w.part.request("granted", [asked, ["bind"]]) == ["create"]
        only_one = role("some", "bind", "roles", group=GROUP)
        await w.ok("create", CLUSTER_ROLES, only_one, at=SYSTEM, user=ADMIN)
        await w.ok("create", CLUSTER_BINDINGS, binding("c", "some", "op"), at=SYSTEM, user=ADMIN)
        assert await w.part.request("granted", [asked, ["bind"]]) == ["create"]
        both = role("both", "bind", "roles clusterroles", group=GROUP)
        await w.ok("create", CLUSTER_ROLES, both, at=SYSTEM, user=ADMIN)
        await w.ok("create", CLUSTER_BINDINGS, binding("d", "both", "op"), at=SYSTEM, user=ADMIN)
        assert await w.part.request("granted", [asked, ["bind"]]) == ["create", "bind"]

    acme(story)


def test_what_was_granted_elsewhere_is_one_verb_and_no_other() -> None:
    async def story(w: Acme) -> None:
        call = w.call("patch", "configmaps", config("c"), name="c", kind=APPLY, user=OP,
                      fieldManager="t")  # fmt: skip
        call.granted = ("patch",)
        [reply] = await w.part.call([call])
        assert reply.code == 403, reply.body
        call.granted = ("patch", "create")
        [reply] = await w.part.call([Call.unpack(call.pack())])
        assert reply.code == 201, reply.body
        # Whoever is of a tenant cannot have been granted anything by somebody else.
        call.user = User("eve", "b")
        [reply] = await w.part.call([call])
        assert orjson.loads(reply.body)["reason"] == "Forbidden"

    acme(story)


# Giving no more than one has


def fixed(verbs: str, resources: str, *names: str) -> list[Object]:
    rules: list[Object] = role("x", verbs, resources, *names)["rules"]
    return rules


async def may_make_roles(w: Acme, *more: Object) -> None:
    """Ann writes roles and bindings in the namespace, and may besides what is said."""
    rule = {
        "verbs": ["create", "update", "patch"], "apiGroups": [GROUP],
        "resources": ["roles", "rolebindings"],
    }  # fmt: skip
    made = {"metadata": {"name": "ann"}, "rules": [rule, *more]}
    await w.ok("create", ROLES, made, at=HERE)
    await w.ok("create", BINDINGS, binding("ann", "ann", kind="Role"), at=HERE)


def test_a_role_that_gives_more_than_its_maker_holds_is_refused_and_says_what() -> None:
    async def story(w: Acme) -> None:
        await may_make_roles(w, *fixed("get list", "pods"))
        await w.ok("create", ROLES, role("fine", "get", "pods"), at=HERE, user=ANN)
        assert await w.fails(
            403, "create", ROLES, role("more", "get delete", "pods secrets"), at=HERE, user=ANN
        ) == (
            f'{ROLES} "more" is forbidden: user "ann" (groups=["devs" "{KNOWN}"]) is attempting to'
            " grant RBAC permissions not currently held:\n"
            '{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}\n'
            '{APIGroups:[""], Resources:["secrets"], Verbs:["delete" "get"]}'
        )
        await w.fails(403, "update", ROLES, role("fine", "*", "*"), name="fine", user=ANN)
        merge = {"rules": fixed("get", "secrets")}
        await w.fails(403, "patch", ROLES, merge, name="fine", user=ANN,
                      kind="application/merge-patch+json")  # fmt: skip
        applied = {**role("new", "*", "pods"), "apiVersion": f"{GROUP}/v1", "kind": "Role"}
        await w.fails(403, "patch", ROLES, applied, name="new", user=ANN, kind=APPLY,
                      fieldManager="t")  # fmt: skip
        label = {"metadata": {"labels": {"a": "b"}}}
        await w.ok("patch", ROLES, label, name="fine", user=ANN,
                   kind="application/merge-patch+json")  # fmt: skip
        wide = role("wide", " ".join(f"v{i}" for i in range(400)), "p")
        wide["rules"][0]["resources"] = [f"r{i}" for i in range(400)]
        assert "split the role" in await w.fails(403, "create", ROLES, wide, at=HERE, user=ANN)

    acme(story)


def test_a_binding_gives_a_role_only_by_whom_holds_it_or_may_bind_it() -> None:
    async def story(w: Acme) -> None:
        bind = {"verbs": ["bind"], "apiGroups": [GROUP], "resources": ["clusterroles"],
                "resourceNames": ["edit"]}  # fmt: skip
        await may_make_roles(w, *fixed("get", "pods"), bind)
        await w.ok("create", ROLES, role("held", "get", "pods"), at=HERE)
        await w.ok("create", ROLES, role("secret", "get", "secrets"), at=HERE)

        def bound(name: str, to: str, kind: str = "ClusterRole") -> Object:
            return binding(name, to, "eve", kind)

        await w.ok("create", BINDINGS, bound("a", "held", "Role"), at=HERE, user=ANN)
        await w.ok("create", BINDINGS, bound("b", "edit"), at=HERE, user=ANN)
        for to, kind in (("secret", "Role"), ("admin", "ClusterRole"), ("view", "ClusterRole")):
            refusal = await w.fails(
                403, "create", BINDINGS, bound("c", to, kind), at=HERE, user=ANN
            )
            assert "is attempting to grant RBAC permissions not currently held" in refusal
        assert await w.fails(404, "create", BINDINGS, bound("c", "gone"), at=HERE, user=ANN) == (
            f'{CLUSTER_ROLES} "gone" not found'
        )
        more = bound("a", "held", "Role")
        more["subjects"].append({"kind": "Group", "apiGroup": GROUP, "name": "devs"})
        await w.ok("update", BINDINGS, more, name="a", user=ANN)
        # The administrator may bind what is not there yet.
        await w.ok("create", BINDINGS, bound("d", "later"), at=HERE)

    acme(story)


def test_escalate_lets_its_owner_write_any_role_and_aggregation_needs_everything() -> None:
    async def story(w: Acme) -> None:
        roles_rule = {"verbs": ["create", "update"], "apiGroups": [GROUP],
                      "resources": ["clusterroles"]}  # fmt: skip
        plain = {"metadata": {"name": "plain"}, "rules": [roles_rule]}
        escalating = {"metadata": {"name": "high"}, "rules": [
            {**roles_rule, "verbs": ["create", "update", "escalate"]},
        ]}  # fmt: skip
        for made, user in ((plain, "ann"), (escalating, "eve")):
            name = made["metadata"]["name"]
            await w.ok("create", CLUSTER_ROLES, made, at=TENANT)
            await w.ok("create", CLUSTER_BINDINGS, binding(name, name, user), at=TENANT)
        gathers = {
            "metadata": {"name": "g"},
            "rules": [],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]},
        }
        eve = User("eve", "acme")
        assert await w.fails(403, "create", CLUSTER_ROLES, gathers, at=TENANT, user=ANN) == (
            f'{CLUSTER_ROLES} "g" is forbidden: must have cluster-admin privileges to use the'
            " aggregationRule"
        )
        await w.ok("create", CLUSTER_ROLES, gathers, at=TENANT, user=eve)
        await w.ok("create", CLUSTER_ROLES, role("all", "*", "*"), at=TENANT, user=eve)
        await w.fails(403, "create", CLUSTER_ROLES, role("more", "*", "*"), at=TENANT, user=ANN)

    acme(story)


def test_an_operator_writes_roles_of_tenants_only_with_escalate_or_bind() -> None:
    async def story(w: Acme) -> None:
        call = w.call("create", ROLES, role("r", "get", "pods"), at=HERE, user=OP)
        call.granted = ("create",)
        [reply] = await w.part.call([call])
        assert (reply.code, "not currently held" in errors.decode(reply.body).message) == (
            403,
            True,
        )
        call.granted = ("create", "escalate")
        [reply] = await w.part.call([call])
        assert reply.code == 201, reply.body

    acme(story)


# Questions

AUTHORIZATION = "authorization.k8s.io"


def about(verb: str, resource: str, namespace: str = "n", **more: str) -> Object:
    return {"spec": {"resourceAttributes": {
        "verb": verb, "resource": resource, "namespace": namespace, **more,
    }}}  # fmt: skip


async def can(w: Acme, user: User, question: Object, at: Any = TENANT) -> bool:
    gvr = f"selfsubjectaccessreviews.{AUTHORIZATION}"
    answer = await w.ok("create", gvr, question, at=at, user=user)
    assert answer["kind"] == "SelfSubjectAccessReview"
    allowed: bool = answer["status"]["allowed"]
    return allowed


def test_can_i_says_what_would_happen() -> None:
    async def story(w: Acme) -> None:
        admin = User("admin", "acme", (KNOWN,))
        assert not await can(w, ANN, about("get", "pods"))
        await w.ok("create", BINDINGS, binding("b", "edit"), at=HERE)
        assert await can(w, ANN, about("get", "pods"))
        assert await can(w, ANN, about("get", "pods", subresource="log"))
        assert await can(w, ANN, about("patch", "deployments", group="apps"))
        assert not await can(w, ANN, about("get", "pods", "other"))
        assert not await can(w, ANN, about("get", "pods", tenant="b"))
        assert await can(w, admin, about("*", "*", "", group="*"))
        for gvr in ("nodes", "tenants"):
            assert not await can(w, admin, about("list", gvr, ""))
            assert await can(w, ADMIN, about("list", gvr, ""), SYSTEM)
            # Inside a tenant there are none, for operators too.
            assert not await can(w, ADMIN, about("list", gvr, ""))
        assert await can(w, ADMIN, about("list", "pods"))
        for path, yes in (("/apis", True), ("/metrics", False), ("/arktos/v1/status", False)):
            asked = {"spec": {"nonResourceAttributes": {"verb": "get", "path": path}}}
            assert await can(w, admin, asked) is yes
            assert await can(w, ADMIN, asked, SYSTEM)

    acme(story)


def test_others_are_asked_about_by_whom_may_and_as_users_of_the_tenant() -> None:
    async def story(w: Acme) -> None:
        await w.ok("create", BINDINGS, binding("b", "view"), at=HERE)
        gvr, local = (f"{one}.{AUTHORIZATION}" for one in (
            "subjectaccessreviews", "localsubjectaccessreviews",
        ))  # fmt: skip
        question = about("get", "pods")
        question["spec"]["user"] = "ann"
        await w.fails(403, "create", gvr, question, at=TENANT, user=ANN)
        assert (await w.ok("create", gvr, question, at=TENANT))["status"]["allowed"]
        assert (await w.ok("create", local, question, at=HERE))["status"]["allowed"]
        question["spec"]["user"] = "bob"
        assert not (await w.ok("create", gvr, question, at=TENANT))["status"]["allowed"]
        question["spec"] |= {"user": "", "groups": ["system:masters"]}
        assert not (await w.ok("create", gvr, question, at=TENANT))["status"]["allowed"]
        assert (await w.ok("create", gvr, question, at=SYSTEM, user=ADMIN))["status"]["allowed"]
        paths = {"user": "ann", "nonResourceAttributes": {"verb": "get", "path": "/metrics"}}
        assert not (await w.ok("create", gvr, {"spec": paths}, at=TENANT))["status"]["allowed"]
        for spec, why in (
            ({"user": "ann"}, "exactly one of nonResourceAttributes or resourceAttributes"),
            (about("get", "pods")["spec"], "at least one of user or group must be specified"),
        ):
            assert why in await w.fails(422, "create", gvr, {"spec": spec}, at=TENANT)
        elsewhere = {"spec": {**about("get", "pods", "m")["spec"], "user": "ann"}}
        assert "must match metadata.namespace" in await w.fails(422, "create", local, elsewhere,
                                                                at=HERE)  # fmt: skip

    acme(story)


def test_the_rules_that_one_has_in_a_namespace() -> None:
    async def story(w: Acme) -> None:
        await may_make_roles(w, *fixed("get", "pods"))
        gvr = f"selfsubjectrulesreviews.{AUTHORIZATION}"
        question = {"spec": {"namespace": "n"}}
        status = (await w.ok("create", gvr, question, at=TENANT, user=ANN))["status"]
        assert fixed("get", "pods")[0] in status["resourceRules"]
        assert any("selfsubjectreviews" in rule["resources"] for rule in status["resourceRules"])
        assert any("/api/*" in rule["nonResourceURLs"] for rule in status["nonResourceRules"])
        assert status["incomplete"] is False
        elsewhere = {"spec": {"namespace": "m"}}
        status = (await w.ok("create", gvr, elsewhere, at=TENANT, user=ANN))["status"]
        assert fixed("get", "pods")[0] not in status["resourceRules"]
        status = (await w.ok("create", gvr, question, at=SYSTEM, user=ADMIN))["status"]
        assert {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]} in status["resourceRules"]

    acme(story)


def test_who_am_i() -> None:
    async def story(w: Acme) -> None:
        user = User("ann", "acme", ("devs", KNOWN), "7", extra=(("scopes", ("a", "b")),))
        gvr = "selfsubjectreviews.authentication.k8s.io"
        answer = await w.ok("create", gvr, {}, at=TENANT, user=user)
        assert answer["status"]["userInfo"] == {
            "username": "ann", "uid": "7", "groups": ["devs", KNOWN],
            "extra": {"scopes": ["a", "b"], "arktos.futurewei.com/tenant": ["acme"]},
        }  # fmt: skip

    acme(story)
