"""Decisions of RBAC: equal to a naive reference, whatever the history of changes and questions."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arktos_ray.api.calls import User
from arktos_ray.api.kinds.syntax import selector_matches
from arktos_ray.tenancy import rbac, rights, roles
from arktos_ray.tenancy.rights import Rights

Object = dict[str, Any]
State = dict[tuple[str, str, str], Object]  # (resource, namespace, name)

ANN = User("ann", "acme", ("devs", roles.AUTHENTICATED))
BOT = User("system:serviceaccount:n:bot", "acme", ("system:serviceaccounts",))
USERS = (ANN, BOT, User("bob", "acme"), User("admin", "acme"))
NAMESPACES = ("", "n", "m")
VERBS = ("get", "list", "create", "*")
GROUPS = ("", "apps", "*")
PLURALS = ("pods", "pods/log", "deployments", "*", "*/log", "pods/*")
NAMES = ("a", "b")
PATHS = ("/healthz", "/metrics", "/metrics/*", "*", "/api*")
LABELS: tuple[dict[str, str], ...] = ({}, {"to": "x"}, {"to": "y"}, {"to": "x", "for": "y"})
SELECTORS: tuple[Object, ...] = (
    {"matchLabels": {"to": "x"}},
    {"matchLabels": {"to": "y"}},
    {"matchExpressions": [{"key": "for", "operator": "Exists"}]},
)


# The reference: the rules of Kubernetes, word by word, over all objects, nothing kept.


def covers_names(rule: Object, name: str) -> bool:
    names = rule.get("resourceNames") or []
    return not names or name in names


def resource_matches(rule: Object, resource: str, subresource: str) -> bool:
    combined = f"{resource}/{subresource}" if subresource else resource
    for one in rule.get("resources") or []:
        if one in ("*", combined):
            return True
        if subresource and one == f"*/{subresource}":
            return True
    return False


def rule_allows(rule: Object, verb: str, group: str, plural: str, name: str) -> bool:
    resource, _, subresource = plural.partition("/")
    return (
        ("*" in rule["verbs"] or verb in rule["verbs"])
        and ("*" in rule.get("apiGroups", []) or group in rule.get("apiGroups", []))
        and resource_matches(rule, resource, subresource)
        and covers_names(rule, name)
    )


def path_allowed(rule: Object, verb: str, path: str) -> bool:
    return ("*" in rule["verbs"] or verb in rule["verbs"]) and any(
        url == path or (url.endswith("*") and path.startswith(url.rstrip("*")))
        for url in rule.get("nonResourceURLs", [])
    )


def cluster_roles(state: State) -> dict[str, Object]:
    found = {obj["metadata"]["name"]: obj for obj in roles.STANDING_ROLES}
    found.update({name: o for (gvr, _, name), o in state.items() if gvr == roles.CLUSTER_ROLES})
    return found


def rules_of_cluster_role(state: State, name: str, seen: frozenset[str] = frozenset()) -> list[Any]:
    every = cluster_roles(state)
    role = every.get(name)
    if role is None:
        return []
    if "aggregationRule" not in role:
        return list(role.get("rules") or [])
    found: list[Any] = []
    seen |= {name}
    for other, obj in every.items():
        labels = obj["metadata"].get("labels") or {}
        chosen = role["aggregationRule"]["clusterRoleSelectors"]
        if other not in seen and any(selector_matches(s, labels) for s in chosen):
            found += rules_of_cluster_role(state, other, seen)
    return found


def applies(subject: Object, user: User, namespace: str) -> bool:
    match subject["kind"]:
        case "User":
            return bool(subject["name"] == user.name)
        case "Group":
            return subject["name"] in user.groups
    where = subject.get("namespace") or namespace
    return bool(user.name == f"system:serviceaccount:{where}:{subject['name']}")


def held(state: State, user: User, namespace: str) -> tuple[list[Object], list[Object]]:
    """Rules over the tenant, and in the namespace."""
    wide: list[Object] = []
    near: list[Object] = []
    for (gvr, place, _), obj in state.items():
        if gvr not in (roles.BINDINGS, roles.CLUSTER_BINDINGS):
            continue
        if place not in ("", namespace):
            continue
        if not any(applies(s, user, place) for s in obj["subjects"]):
            continue
        ref = obj["roleRef"]
        if ref["kind"] == "ClusterRole":
            rules = rules_of_cluster_role(state, ref["name"])
        else:
            rules = state.get((roles.ROLES, place, ref["name"]), {}).get("rules") or []
        (near if place else wide).extend(rules)
    for obj in roles.STANDING_BINDINGS:
        if any(applies(s, user, "") for s in obj["subjects"]):
            wide.extend(rules_of_cluster_role(state, obj["roleRef"]["name"]))
    return wide, near


def reference(
    state: State, user: User, verb: str, group: str, plural: str, namespace: str, name: str
) -> bool:
    wide, near = held(state, user, namespace)
    every = [*wide, *near] if namespace else wide
    return any(rule_allows(rule, verb, group, plural, name) for rule in every)


# What is tried


def some(values: tuple[str, ...], least: int = 1) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), min_size=least, max_size=3, unique=True)


resource_rules = st.fixed_dictionaries(
    {"verbs": some(VERBS), "apiGroups": some(GROUPS), "resources": some(PLURALS)},
    optional={"resourceNames": some(NAMES, 0)},
)
path_rules = st.fixed_dictionaries({"verbs": some(VERBS), "nonResourceURLs": some(PATHS)})
role_names = st.sampled_from(("r1", "r2", "r3", "view"))
subjects = st.sampled_from(
    (
        {"kind": "User", "name": "ann"},
        {"kind": "Group", "name": "devs"},
        {"kind": "ServiceAccount", "name": "bot", "namespace": "n"},
        {"kind": "ServiceAccount", "name": "bot"},
        {"kind": "User", "name": "bob"},
    )
)


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, str, str, Object | None]:
    """(resource, namespace, name, object or None for a deletion)"""
    gvr = draw(st.sampled_from(roles.RESOURCES))
    cluster = gvr in (roles.CLUSTER_ROLES, roles.CLUSTER_BINDINGS)
    namespace = "" if cluster else draw(st.sampled_from(NAMESPACES[1:]))
    if gvr in (roles.ROLES, roles.CLUSTER_ROLES):
        name = draw(role_names)
        rules = resource_rules if gvr == roles.ROLES else st.one_of(resource_rules, path_rules)
        obj: Object = {"rules": draw(st.lists(rules, max_size=3))}
        meta: Object = {"name": name, "labels": draw(st.sampled_from(LABELS))}
        if cluster and draw(st.booleans()):
            chosen = draw(st.lists(st.sampled_from(SELECTORS), min_size=1, max_size=2))
            obj["aggregationRule"] = {"clusterRoleSelectors": chosen}
    else:
        name = draw(st.sampled_from(("b1", "b2")))
        kind = "ClusterRole" if cluster else draw(st.sampled_from(("Role", "ClusterRole")))
        obj = {
            "roleRef": {"kind": kind, "name": draw(role_names)},
            "subjects": draw(st.lists(subjects, max_size=3)),
        }
        meta = {"name": name}
    gone = draw(st.integers(0, 3)) == 0
    return gvr, namespace, name, None if gone else {"metadata": meta, **obj}


questions = st.tuples(
    st.sampled_from(USERS), st.sampled_from(VERBS), st.sampled_from(GROUPS),
    st.sampled_from(PLURALS), st.sampled_from(NAMESPACES), st.sampled_from(("", *NAMES)),
)  # fmt: skip


def carry_out(state: State, told: Rights, change: tuple[str, str, str, Object | None]) -> None:
    gvr, namespace, name, obj = change
    if obj is None:
        state.pop((gvr, namespace, name), None)
        told.remove(gvr, namespace, name)
    else:
        state[gvr, namespace, name] = obj
        told.put(gvr, namespace, obj)


def asked(told: Rights, question: Any) -> bool:
    user, verb, group, plural, namespace, name = question
    resource, _, subresource = plural.partition("/")
    return told.may(user, verb, group, resource, subresource, namespace, name)


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(st.tuples(changes(), st.lists(questions, max_size=4)), max_size=14))
def test_every_decision_is_that_of_the_reference_right_after_every_change(steps: Any) -> None:
    told, state = Rights(), State()
    for change, asking in steps:
        carry_out(state, told, change)
        for question in asking:
            assert asked(told, question) == reference(state, *question), (state, question)
            assert asked(told, question) == reference(state, *question), "what was kept"
        for user, path in itertools.product(USERS[:2], ("/healthz", "/metrics/x", "/apis/y")):
            rules = held(state, user, "")[0]
            assert told.may_path(user, "get", path) == any(
                path_allowed(rule, "get", path) for rule in rules
            )


def breakdown(rule: Object) -> list[Object]:
    found: list[Object] = []
    for verb in rule["verbs"]:
        paths = rule.get("nonResourceURLs", [])
        found += [{"verbs": [verb], "nonResourceURLs": [url]} for url in paths]
        for group in rule.get("apiGroups", []):
            for resource in rule.get("resources", []):
                one = {"verbs": [verb], "apiGroups": [group], "resources": [resource]}
                names = rule.get("resourceNames") or []
                found += [{**one, "resourceNames": [n]} for n in names] if names else [one]
    return found


def covered(owned: list[Object], one: Object) -> bool:
    [verb] = one["verbs"]
    if "nonResourceURLs" in one:
        [url] = one["nonResourceURLs"]
        return any(path_allowed(rule, verb, url) for rule in owned)
    [group], [plural] = one["apiGroups"], one["resources"]
    for rule in owned:
        if one.get("resourceNames"):
            if rule_allows(rule, verb, group, plural, one["resourceNames"][0]):
                return True
        elif not rule.get("resourceNames") and rule_allows(rule, verb, group, plural, ""):
            return True
    return False


@settings(max_examples=200, deadline=None)
@given(
    owned=st.lists(st.one_of(resource_rules, path_rules), max_size=4),
    wanted=st.lists(st.one_of(resource_rules, path_rules), max_size=3),
)
def test_rules_cover_others_when_they_allow_all_that_those_spell_out(
    owned: list[Object], wanted: list[Object]
) -> None:
    expected = all(covered(owned, one) for rule in wanted for one in breakdown(rule))
    told = rbac.missing(rbac.read_rules(owned), rbac.read_rules(wanted))
    assert (not told) == expected, told


# By example, in words that users see


def role(name: str, *rules: Object, **more: Any) -> Object:
    return {"metadata": {"name": name, **more}, "rules": list(rules)}


def binding(name: str, to: str, *users: str, kind: str = "ClusterRole") -> Object:
    return {
        "metadata": {"name": name},
        "roleRef": {"kind": kind, "name": to},
        "subjects": [{"kind": "User", "name": user} for user in users],
    }


def test_the_administrator_of_a_new_tenant_may_everything_in_it_and_nobody_else_anything() -> None:
    told = Rights()
    for gvr, body in roles.of_a_tenant("acme"):
        told.put(gvr, "", body)
    admin = User("admin", "acme")
    assert told.may(admin, "delete", "apps", "deployments", "", "n", "web")
    assert told.may(admin, "impersonate", "", "users", "", "", "eve")
    assert not told.may(ANN, "get", "", "pods", "", "n", "x")


def test_everybody_who_is_known_may_look_around_and_ask_about_themselves() -> None:
    told = Rights()
    assert told.may_path(ANN, "get", "/apis/apps/v1")
    assert told.may_path(ANN, "get", "/openapi/v3")
    assert not told.may_path(ANN, "get", "/metrics")
    assert told.may(ANN, "create", "authorization.k8s.io", "selfsubjectaccessreviews")
    assert not told.may_path(BOT, "get", "/api")
    anonymous = User("system:anonymous", "system", (roles.UNAUTHENTICATED,))
    assert told.may_path(anonymous, "get", "/version")
    assert not told.may_path(anonymous, "get", "/api")


@pytest.mark.parametrize(("name", "may", "may_not"), [
    ("view", [("get", "", "pods"), ("list", "apps", "deployments")],
     [("get", "", "secrets"), ("create", "", "pods"),
      ("list", "rbac.authorization.k8s.io", "roles")]),
    ("edit", [("get", "", "secrets"), ("create", "", "pods"), ("patch", "apps", "deployments"),
              ("list", "", "events")],
     [("create", "rbac.authorization.k8s.io", "rolebindings"), ("update", "", "resourcequotas")]),
    ("admin", [("create", "rbac.authorization.k8s.io", "rolebindings"), ("get", "", "pods"),
               ("delete", "", "secrets")], [("update", "", "resourcequotas")]),
    ("cluster-admin", [("update", "", "resourcequotas"), ("delete", "", "namespaces")], []),
])  # fmt: skip
def test_the_roles_that_charts_name_are_there_without_being_made(
    name: str, may: Any, may_not: Any
) -> None:
    told = Rights()
    told.put(roles.BINDINGS, "n", binding("b", name, "ann"))
    for verb, group, resource in may:
        assert told.may(ANN, verb, group, resource, "", "n"), (verb, group, resource)
        assert not told.may(ANN, verb, group, resource, "", "m")
        assert not told.may(ANN, verb, group, resource)
    for verb, group, resource in may_not:
        assert not told.may(ANN, verb, group, resource, "", "n"), (verb, group, resource)


def test_a_role_with_the_right_label_adds_to_a_standing_one_and_a_role_of_its_name_replaces_it(
) -> None:  # fmt: skip
    told = Rights()
    told.put(roles.CLUSTER_BINDINGS, "", binding("b", "admin", "ann"))
    crons = roles.rule(["get"], ["stable.example.com"], "crontabs")
    labels = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
    assert not told.may(ANN, "get", "stable.example.com", "crontabs")
    told.put(roles.CLUSTER_ROLES, "", role("crons", crons, labels=labels))
    assert told.may(ANN, "get", "stable.example.com", "crontabs")
    assert told.may(ANN, "get", "", "pods")
    told.put(roles.CLUSTER_ROLES, "", role("admin", crons))
    assert not told.may(ANN, "get", "", "pods")
    assert told.may(ANN, "get", "stable.example.com", "crontabs")
    told.remove(roles.CLUSTER_ROLES, "", "admin")
    assert told.may(ANN, "get", "", "pods")


def test_a_binding_to_a_role_that_is_not_there_is_said() -> None:
    told = Rights()
    told.put(roles.BINDINGS, "n", binding("b", "reader", "ann", kind="Role"))
    assert told.lacking(ANN, "n") == 'RBAC: role.rbac.authorization.k8s.io "reader" not found'
    assert told.lacking(ANN, "m") == ""
    told.put(roles.CLUSTER_BINDINGS, "", binding("c", "gone", "ann"))
    assert told.lacking(ANN, "n") == (
        'RBAC: [clusterrole.rbac.authorization.k8s.io "gone" not found, '
        'role.rbac.authorization.k8s.io "reader" not found]'
    )


def test_what_is_missing_is_said_as_kubernetes_does() -> None:
    wanted = rbac.read_rules([
        {"verbs": ["get", "list", "delete"], "apiGroups": [""], "resources": ["pods"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"]},
        {"verbs": ["get"], "nonResourceURLs": ["/metrics"]},
    ])  # fmt: skip
    owned = rbac.read_rules([{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}])
    assert rbac.missing(owned, wanted) == [
        '{APIGroups:[""], Resources:["pods"], Verbs:["delete" "get"]}',
        '{APIGroups:[""], Resources:["secrets"], ResourceNames:["s"], Verbs:["get"]}',
        '{NonResourceURLs:["/metrics"], Verbs:["get"]}',
    ]


def test_a_rule_with_too_many_combinations_is_not_looked_at() -> None:
    many = [f"r{i}" for i in range(400)]
    wanted = rbac.read_rules([{"verbs": many, "apiGroups": ["a"], "resources": many}])
    with pytest.raises(rbac.TooWide):
        rbac.missing((), wanted)
    assert rbac.missing(rbac.read_rules(roles.EVERYTHING), wanted) == []


def test_decisions_that_are_kept_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "DECISIONS_MAX", 50)
    told = Rights()
    told.put(roles.BINDINGS, "n", binding("b", "view", "ann"))
    for i in range(500):
        told.may(ANN, f"verb-{i}", "", "pods", "", "n")
        told.may(User(f"u{i}", "acme"), "get", "", "pods", "", f"ns-{i}")
        assert told.may(ANN, "get", "", "pods", "", "n")
    kept = [told._wide, *told._near.values()]
    assert sum(1 + len(g.known) for of_place in kept for g in of_place.values()) <= 60


def test_rules_without_number_take_no_time_without_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "RULES_MAX", 100)
    told = Rights()
    rules = [roles.rule(["get"], [""], f"r{i}") for i in range(500)]
    told.put(roles.ROLES, "n", role("many", *rules))
    told.put(roles.BINDINGS, "n", binding("b", "many", "ann", kind="Role"))
    assert told.may(ANN, "get", "", "r99", "", "n")
    assert not told.may(ANN, "get", "", "r100", "", "n")
    held = rbac.read_rules(roles.rule(["get"], [""], f"r{i}") for i in range(1_000))
    with pytest.raises(rbac.TooWide):
        rbac.missing(held, held)
