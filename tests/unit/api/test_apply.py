from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api import apply as ssa
from arktos_ray.api import schemas
from arktos_ray.api.errors import BadRequest, Conflict
from arktos_ray.api.patch import copy

Object = dict[str, Any]

POD = schemas.message("k8s.io.api.core.v1.Pod")
DEPLOYMENT = schemas.message("k8s.io.api.apps.v1.Deployment")
SERVICE = schemas.message("k8s.io.api.core.v1.Service")
VERSIONS = {POD.name: "v1", SERVICE.name: "v1", DEPLOYMENT.name: "apps/v1"}
T = "2026-01-01T00:00:0{}Z"


def track(
    live: Object | None,
    new: Object,
    manager: str,
    message: schemas.Message | None = DEPLOYMENT,
    at: int = 0,
    subresource: str = "",
) -> Object:
    """`new` as it is stored after an ordinary write."""
    version = VERSIONS[message.name] if message else "x/v1"
    entries = ssa.track(live, new, manager, "Update", version, T.format(at), subresource, message)
    stored = copy(new)
    stored.setdefault("metadata", {}).pop("managedFields", None)
    if entries:
        stored["metadata"]["managedFields"] = entries
    return stored


def apply(
    live: Object | None,
    config: Object,
    manager: str,
    message: schemas.Message | None = DEPLOYMENT,
    at: int = 0,
    force: bool = False,
    subresource: str = "",
) -> Object:
    version = VERSIONS[message.name] if message else "x/v1"
    before = copy(live), copy(config)
    config = {"apiVersion": version, **config}
    result = ssa.apply(live, config, manager, force, version, T.format(at), subresource, message)
    config.pop("apiVersion")
    result.pop("apiVersion", None)
    assert (live, config) == before, "inputs are never changed"
    orjson.dumps(result)
    return result


def owners(obj: Object) -> dict[str, Any]:
    """manager -> its fields."""
    return {e["manager"]: e["fieldsV1"] for e in obj["metadata"].get("managedFields", ())}


def owned(obj: Object, manager: str) -> set[str]:
    return set(ssa.paths(owners(obj).get(manager, {})))


def body(obj: Object) -> Object:
    """Without metadata."""
    return {k: v for k, v in obj.items() if k != "metadata"}


def deployment(*containers: Object, **spec: Any) -> Object:
    template = {"spec": {"containers": list(containers)}}
    return {"metadata": {"name": "d"}, "spec": {"template": template, **spec}}


# ---------------------------------------------------------------------------- ordinary writes


def test_a_creator_owns_all_that_it_set_and_nothing_of_the_servers() -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "d",
            "tenant": "t",
            "uid": "u",
            "hashKey": 4,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "web"},
            "ownerReferences": [{"uid": "o", "name": "x", "kind": "ReplicaSet"}],
            "finalizers": ["f"],
        },
        "spec": {
            "containers": [
                {
                    "name": "c",
                    "image": "i",
                    "args": ["a"],
                    "resources": {},
                    "ports": [{"containerPort": 80}],
                }
            ],
            "nodeSelector": {"a": "b"},
            "securityContext": {},
            "volumes": [{"name": "v", "secret": {"secretName": "s", "optional": None}}],
        },
        "status": {"phase": "Pending"},
    }
    stored = track(None, pod, "kubectl-create", POD)
    assert stored["metadata"]["managedFields"] == [
        {
            "manager": "kubectl-create",
            "operation": "Update",
            "apiVersion": "v1",
            "time": T.format(0),
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {
                    "f:labels": {".": {}, "f:app": {}},
                    "f:ownerReferences": {".": {}, 'k:{"uid":"o"}': {}},
                    "f:finalizers": {".": {}, 'v:"f"': {}},
                },
                "f:spec": {
                    "f:containers": {
                        'k:{"name":"c"}': {
                            ".": {},
                            "f:name": {},
                            "f:image": {},
                            "f:args": {},
                            "f:resources": {},
                            "f:ports": {
                                ".": {},
                                'k:{"containerPort":80,"protocol":"TCP"}': {
                                    ".": {},
                                    "f:containerPort": {},
                                },
                            },
                        }
                    },
                    "f:nodeSelector": {},
                    "f:securityContext": {},
                    "f:volumes": {
                        ".": {},
                        'k:{"name":"v"}': {
                            ".": {},
                            "f:name": {},
                            "f:secret": {".": {}, "f:secretName": {}},
                        },
                    },
                },
            },
        }
    ]


def test_structs_that_always_exist_are_not_owned_themselves() -> None:
    new = deployment(
        {"name": "c"}, strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}
    )
    fields = owners(track(None, new, "m"))["m"]
    assert fields["f:spec"]["f:strategy"] == {
        "f:type": {},
        "f:rollingUpdate": {".": {}, "f:maxSurge": {}},
    }


def test_a_writer_takes_what_it_changes_and_leaves_the_rest() -> None:
    live = track(None, deployment({"name": "c", "image": "1"}, replicas=1), "kubectl", at=0)
    new = copy(live)
    new["spec"]["replicas"] = 2
    new["spec"]["paused"] = True
    stored = track(live, new, "hpa", at=1)
    assert owned(stored, "hpa") == {".spec.replicas", ".spec.paused"}
    assert ".spec.replicas" not in owned(stored, "kubectl")
    assert '.spec.template.spec.containers[name="c"].image' in owned(stored, "kubectl")
    assert [e["time"] for e in stored["metadata"]["managedFields"]] == [T.format(0), T.format(1)]


def test_what_is_removed_is_nobodys_and_a_manager_of_nothing_is_forgotten() -> None:
    live = track(None, deployment({"name": "c"}), "a")
    more = copy(live)
    more["metadata"]["labels"] = {"x": "1"}
    live = track(live, more, "b", at=1)
    assert owned(live, "b") == {".metadata.labels", ".metadata.labels.x"}
    less = copy(live)
    del less["metadata"]["labels"]
    assert set(owners(track(live, less, "c", at=2))) == {"a"}


def test_a_write_that_changes_nothing_leaves_the_entries_as_they_are() -> None:
    live = track(None, deployment({"name": "c"}), "a")
    assert track(live, copy(live), "b", at=5) == live


def test_status_has_its_own_entry() -> None:
    live = track(None, deployment({"name": "c"}), "a")
    new = copy(live)
    new["status"] = {"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]}
    assert track(live, new, "a") == {**live, "status": new["status"]}, "not through the main door"
    entries = track(live, new, "a", at=1, subresource="status")["metadata"]["managedFields"]
    assert [(e["manager"], e.get("subresource")) for e in entries] == [("a", None), ("a", "status")]
    assert entries[1]["fieldsV1"] == {
        "f:status": {
            "f:replicas": {},
            "f:conditions": {
                ".": {},
                'k:{"type":"Available"}': {".": {}, "f:type": {}, "f:status": {}},
            },
        }
    }


def test_a_client_may_edit_or_reset_the_entries() -> None:
    live = track(None, deployment({"name": "c"}, replicas=1), "a")
    renamed = copy(live)
    renamed["metadata"]["managedFields"][0]["manager"] = "b"
    assert set(owners(track(live, renamed, "x"))) == {"b"}
    reset = copy(live)
    reset["metadata"]["managedFields"] = [{}]
    assert owners(track(live, reset, "x")) == {}
    for nonsense in (
        {"manager": "b", "operation": "Grow"},
        {"operation": "Apply", "fieldsV1": "x"},
    ):
        reset["metadata"]["managedFields"] = [nonsense]
        assert set(owners(track(live, reset, "x"))) == {"a"}
    assert owners(track({"metadata": {}}, deployment(replicas=3), "x")) == {}, "stays untracked"


def test_the_oldest_of_many_updaters_are_merged() -> None:
    live = track(None, deployment({"name": "c"}), "m-0")
    for i in range(1, 13):
        new = copy(live)
        new["metadata"].setdefault("labels", {})[f"l{i}"] = "x"
        live = track(live, new, f"m-{i}", at=min(i, 9))
    managers = owners(live)
    assert len(managers) == ssa.UPDATE_MANAGERS_MAX
    assert {"ancient-changes", "m-12"} <= set(managers)
    assert {".metadata.labels.l1", ".metadata.labels.l2"} <= owned(live, "ancient-changes")


def test_without_a_schema_maps_are_granular_and_lists_are_not() -> None:
    new = {"metadata": {"name": "x", "labels": {"a": "b"}}, "spec": {"m": {"n": 1}, "l": [{}]}}
    assert owners(track(None, new, "m", None))["m"] == {
        "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
        "f:spec": {".": {}, "f:m": {".": {}, "f:n": {}}, "f:l": {}},
    }


# ---------------------------------------------------------------------------- server-side apply


def test_an_applier_owns_what_it_applied() -> None:
    config = deployment({"name": "c", "image": "1"}, replicas=2)
    config["metadata"]["labels"] = {"a": "b"}
    live = apply(None, config, "helm")
    assert body(live) == body(config)
    (entry,) = live["metadata"]["managedFields"]
    assert (entry["operation"], entry["manager"]) == ("Apply", "helm")
    assert entry["fieldsV1"] == {
        "f:metadata": {"f:labels": {"f:a": {}}},
        "f:spec": {
            "f:replicas": {},
            "f:template": {
                "f:spec": {
                    "f:containers": {'k:{"name":"c"}': {".": {}, "f:name": {}, "f:image": {}}}
                }
            },
        },
    }


def test_an_apply_that_changes_nothing_keeps_the_time() -> None:
    config = deployment({"name": "c", "image": "1"}, replicas=2)
    live = apply(None, config, "helm", at=0)
    assert apply(live, config, "helm", at=7) == live


def test_a_field_that_is_no_longer_applied_goes_unless_somebody_else_owns_it() -> None:
    full = deployment({"name": "c"}, replicas=2, paused=True)
    full["metadata"]["labels"] = {"a": "1"}
    live = apply(None, full, "helm")
    other = {"metadata": {"name": "d"}, "spec": {"replicas": 2}}
    live = apply(live, other, "other", at=1)
    live = apply(live, deployment({"name": "c"}), "helm", at=2)
    assert live["spec"] == deployment({"name": "c"}, replicas=2)["spec"]
    assert "labels" not in live["metadata"]
    assert owned(live, "other") == {".spec.replicas"}


def test_labels_of_an_updater_stay_when_the_appliers_go() -> None:
    config = deployment({"name": "c"})
    config["metadata"]["labels"] = {"a": "1"}
    live = apply(None, config, "helm")
    new = copy(live)
    new["metadata"]["labels"]["b"] = "2"
    live = track(live, new, "kubectl-label", at=1)
    live = apply(live, deployment({"name": "c"}), "helm", at=2)
    assert live["metadata"]["labels"] == {"b": "2"}


def test_items_merge_by_key_and_go_when_no_longer_applied() -> None:
    live = apply(None, deployment({"name": "a"}, {"name": "b", "image": "1"}), "helm")
    new = copy(live)
    new["spec"]["template"]["spec"]["containers"].insert(1, {"name": "sidecar", "image": "s"})
    live = track(live, new, "injector", at=1)
    live = apply(live, deployment({"name": "b", "image": "2"}, {"name": "z"}), "helm", at=2)
    containers = live["spec"]["template"]["spec"]["containers"]
    assert containers == [
        {"name": "sidecar", "image": "s"},
        {"name": "b", "image": "2"},
        {"name": "z"},
    ]


def test_items_take_the_order_of_the_configuration() -> None:
    live = apply(None, deployment({"name": "a"}, {"name": "b"}, {"name": "c"}), "helm")
    names = ["c", "new", "a", "b"]
    live = apply(live, deployment(*({"name": n} for n in names)), "helm")
    assert [c["name"] for c in live["spec"]["template"]["spec"]["containers"]] == names


def test_a_port_without_a_protocol_is_the_tcp_port() -> None:
    def service(*ports: Object) -> Object:
        return {"metadata": {"name": "s"}, "spec": {"ports": list(ports)}}

    live = apply(None, service({"port": 80}), "a", SERVICE)
    live["spec"]["ports"][0].update(protocol="TCP", targetPort=80)  # The server's defaults.
    live = apply(live, service({"port": 80, "name": "x"}), "a", SERVICE, at=1)
    assert live["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80, "name": "x"}]


def test_sets_are_merged_and_atomic_lists_replaced() -> None:
    first = {
        "metadata": {"name": "p", "finalizers": ["a"]},
        "spec": {"tolerations": [{"key": "x"}]},
    }
    live = apply(None, first, "a", POD)
    second = {"metadata": {"name": "p", "finalizers": ["b"]}}
    live = apply(live, second, "b", POD, at=1)
    assert live["metadata"]["finalizers"] == ["a", "b"]
    first["spec"] = {"tolerations": [{"key": "y"}]}
    live = apply(live, first, "a", POD, at=2)
    assert live["spec"] == {"tolerations": [{"key": "y"}]}
    live = apply(live, {"metadata": {"name": "p"}}, "a", POD, at=3)
    assert live["metadata"]["finalizers"] == ["b"]


def test_one_conflict_is_told_as_the_real_server_tells_it() -> None:
    live = track(None, deployment({"name": "c"}, replicas=1), "kubectl-client-side-apply")
    with pytest.raises(Conflict) as refusal:
        apply(live, deployment({"name": "c"}, replicas=2), "helm")
    assert refusal.value.message == (
        'Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using apps/v1: '
        ".spec.replicas"
    )
    assert refusal.value.details == {
        "causes": [
            {
                "reason": "FieldManagerConflict",
                "message": 'conflict with "kubectl-client-side-apply" using apps/v1',
                "field": ".spec.replicas",
            }
        ]
    }


def test_several_conflicts_are_grouped_by_manager() -> None:
    live = apply(None, deployment({"name": "c", "image": "1"}, replicas=1), "a")
    new = copy(live)
    new["spec"]["paused"] = True
    live = track(live, new, "b")
    with pytest.raises(Conflict) as refusal:
        apply(live, deployment({"name": "c", "image": "2"}, replicas=2, paused=False), "x")
    assert refusal.value.message == (
        'Apply failed with 3 conflicts: conflicts with "a":\n'
        "- .spec.replicas\n"
        '- .spec.template.spec.containers[name="c"].image\n'
        'conflicts with "b" using apps/v1:\n'
        "- .spec.paused"
    )


def test_force_takes_the_fields_over() -> None:
    live = apply(None, deployment({"name": "c"}, replicas=1), "a")
    live = apply(live, deployment({"name": "c"}, replicas=2), "b", force=True, at=1)
    assert live["spec"]["replicas"] == 2
    assert ".spec.replicas" in owned(live, "b")
    assert ".spec.replicas" not in owned(live, "a")


def test_the_same_value_can_have_two_owners() -> None:
    config = deployment({"name": "c"}, replicas=1)
    live = apply(apply(None, config, "a"), config, "b", at=1)
    assert owned(live, "a") == owned(live, "b")


def test_an_equal_quantity_is_no_conflict() -> None:
    def limits(cpu: str) -> Object:
        return deployment({"name": "c", "resources": {"limits": {"cpu": cpu}}})

    live = apply(None, limits("500m"), "a")
    assert body(apply(live, limits("0.5"), "b", at=1)) == body(live)
    with pytest.raises(Conflict):
        apply(live, limits("0.6"), "b", at=1)


def test_kubectl_takes_over_from_its_own_client_side_apply() -> None:
    config = deployment({"name": "c", "image": "1"}, replicas=1)
    live = copy(config)
    text = orjson.dumps(config).decode()
    live["metadata"]["annotations"] = {ssa.LAST_APPLIED: text}
    live = track(None, live, "kubectl-client-side-apply")

    changed = deployment({"name": "c", "image": "2"}, replicas=3)
    applied = apply(live, changed, "kubectl", at=1)
    assert body(applied) == body(changed)
    renewed = orjson.loads(applied["metadata"]["annotations"][ssa.LAST_APPLIED])
    assert body({k: v for k, v in renewed.items() if k != "apiVersion"}) == body(changed)
    assert apply(applied, changed, "kubectl", at=2) == applied

    scaled = copy(live)
    scaled["spec"]["replicas"] = 2
    scaled = track(live, scaled, "hpa", at=1)
    with pytest.raises(Conflict, match=r'1 conflict: conflict with "hpa" using apps/v1: \.spec\.r'):
        apply(scaled, changed, "kubectl", at=2)
    with pytest.raises(Conflict):
        apply(live, changed, "helm", at=2)


def test_an_object_that_nobody_tracked_gets_an_owner_before_the_first_apply() -> None:
    live = deployment({"name": "c"}, replicas=1)
    with pytest.raises(Conflict, match="before-first-apply"):
        apply(live, deployment({"name": "c"}, replicas=2), "a")
    taken = apply(live, deployment({"name": "c"}, replicas=2), "a", force=True)
    assert set(owners(taken)) == {"a", "before-first-apply"}


def test_status_is_applied_through_its_own_door_only() -> None:
    config = {**deployment({"name": "c"}), "status": {"replicas": 3}}
    live = apply(None, config, "a")
    assert "status" not in live
    live = apply(live, config, "a", subresource="status", at=1)
    assert live["status"] == {"replicas": 3}
    assert [e.get("subresource") for e in live["metadata"]["managedFields"]] == [None, "status"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"metadata": {"managedFields": [{}]}}, "metadata.managedFields must be nil"),
        ({"apiVersion": "apps/v2"}, "Specified patch version: apps/v2, expected: apps/v1"),
        ({"spec": {"replica": 1}}, ".spec.replica: field not declared in schema"),
        (deployment({"image": "x"}), "element 0: associative list with keys has an element that"),
        (deployment({"name": "x"}, {"name": "x"}), 'duplicate entries for key [name="x"]'),
        ({"spec": {"template": []}}, ".spec.template: expected map"),
        (deployment({"name": "x", "env": {}}), ".env: expected list"),
    ],
)
def test_what_cannot_be_applied_is_refused(config: Object, message: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        ssa.apply(
            None, {"apiVersion": "apps/v1", **config}, "m", False, "apps/v1", "", "", DEPLOYMENT
        )
    assert message in refusal.value.message


# ---------------------------------------------------------------------------- laws


names = st.text("abc", min_size=1, max_size=1)
maps = st.dictionaries(names, names, max_size=3)
containers = st.lists(
    st.fixed_dictionaries(
        {"name": names},
        optional={
            "image": names,
            "args": st.lists(names, max_size=2),
            "env": st.lists(
                st.fixed_dictionaries({"name": names}, optional={"value": names}),
                max_size=2,
                unique_by=lambda e: e["name"],
            ),
            "securityContext": st.fixed_dictionaries({}, optional={"runAsUser": st.integers(0, 2)}),
        },
    ),
    max_size=3,
    unique_by=lambda c: c["name"],
)
metadata = st.fixed_dictionaries(
    {"name": st.just("p")},
    optional={"labels": maps, "finalizers": st.lists(names, unique=True, max_size=3)},
)
specs = st.fixed_dictionaries(
    {},
    optional={
        "containers": containers,
        "nodeSelector": maps,
        "hostNetwork": st.booleans(),
        "overhead": maps,
    },
)
pods = st.fixed_dictionaries({"metadata": metadata, "spec": specs})


def bare(obj: Object) -> Object:
    """Without empty containers, which owning nothing leaves to chance, and managedFields."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            inner = {k: strip(v) for k, v in value.items() if k != "managedFields"}
            return {k: v for k, v in inner.items() if v not in ({}, [])}
        return [strip(v) for v in value] if isinstance(value, list) else value

    stripped: Object = strip(obj)
    return stripped


@given(pods, pods)
def test_applying_twice_is_applying_once(live: Object, config: Object) -> None:
    stored = track(None, live, "x", POD)
    once = apply(stored, config, "m", POD, force=True, at=1)
    assert apply(once, config, "m", POD, at=2) == once


@given(pods, pods)
def test_an_applier_alone_gets_exactly_what_it_applied_last(first: Object, second: Object) -> None:
    live = apply(None, first, "m", POD)
    live = apply(live, second, "m", POD, at=1)
    assert bare(live) == bare(second)


@given(pods)
def test_two_who_want_the_same_never_conflict_and_it_stays_until_both_let_go(
    config: Object,
) -> None:
    live = apply(None, config, "a", POD)
    live = apply(live, config, "b", POD, at=1)
    kept = apply(live, {"metadata": {"name": "p"}}, "a", POD, at=2)
    assert bare(kept) == bare(config)
    gone = apply(kept, {"metadata": {"name": "p"}}, "b", POD, at=3)
    assert bare(gone) == {"metadata": {"name": "p"}}


@given(pods, pods)
def test_managers_of_disjoint_fields_never_conflict(a: Object, b: Object) -> None:
    mine = {"metadata": {"name": "p", "labels": {"mine": "1"}}, "spec": a["spec"]}
    theirs = {"metadata": {**b["metadata"], "labels": {"theirs": "2"}}}
    live = apply(None, mine, "a", POD)
    live = apply(live, theirs, "b", POD, at=1)
    assert live["metadata"]["labels"] == {"mine": "1", "theirs": "2"}
    assert bare({"spec": live["spec"]}) == bare({"spec": a["spec"]})
    assert apply(live, mine, "a", POD, at=2) == live


@given(pods, st.lists(pods, max_size=4))
def test_every_field_that_is_set_has_an_owner(first: Object, writes: list[Object]) -> None:
    live = track(None, first, "m", POD)
    for i, write in enumerate(writes):
        new = copy(write)
        new["metadata"].pop("managedFields", None)
        live = track(live, new, f"m-{i % 2}", POD, at=i + 1)
        if not live["metadata"].get("managedFields"):
            return  # Nothing was set any more, so that nobody tracks it from here on.
        everything = owned(track(None, write, "all", POD), "all")
        together: set[str] = set().union(*(owned(live, manager) for manager in owners(live)))
        # An empty or optional parent may be owned by nobody; what has a value may not.
        leaves = {p for p in everything if not any(o != p and o.startswith(p) for o in everything)}
        assert leaves <= together
        assert together <= everything | {p for p in together if _is_prefix(p, everything)}


def _is_prefix(path: str, paths: set[str]) -> bool:
    return any(other.startswith(path) for other in paths)


sets = st.recursive(
    st.just({}),
    lambda inner: st.dictionaries(st.sampled_from(["f:a", "f:b", 'k:{"n":1}', "."]), inner).map(
        lambda d: {k: ({} if k == "." else v) for k, v in d.items()}
    ),
    max_leaves=8,
).map(lambda d: {k: v for k, v in d.items() if k != "."})


@given(sets, sets)
def test_field_sets_follow_the_laws_of_sets(a: Object, b: Object) -> None:
    in_a, in_b = set(ssa.paths(a)), set(ssa.paths(b))
    assert set(ssa.paths(ssa.union(a, b))) == in_a | in_b
    assert set(ssa.paths(ssa.intersection(a, b))) == in_a & in_b
    assert set(ssa.paths(ssa.difference(a, b))) == in_a - in_b
