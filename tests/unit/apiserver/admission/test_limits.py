"""LimitRanger and ResourceQuota."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api import errors
from arktos_ray.apiserver.admission import accounts, limit_ranger, quota
from arktos_ray.apiserver.admission.amounts import pod_amounts

Object = dict[str, Any]


def container(name: str = "web", **resources: Any) -> Object:
    return {"name": name, "resources": resources}


def pod(*containers: Object, **spec: Any) -> Object:
    return {"metadata": {"name": "web"}, "spec": {"containers": list(containers), **spec}}


def limit_range(kind: str = "Container", **item: Any) -> Object:
    return {"spec": {"limits": [{"type": kind, **item}]}}


def refused(obj: Object, *ranges: Object) -> str:
    with pytest.raises(errors.Forbidden) as refusal:
        limit_ranger.apply(obj, ranges)
    return refusal.value.message


# --- limit ranges ---------------------------------------------------------------------------------


def test_what_was_left_out_is_filled_in_and_noted() -> None:
    obj = pod(container(requests={"cpu": "1"}))
    limit_ranger.apply(
        obj, [limit_range(default={"cpu": "2"}, defaultRequest={"cpu": "1m", "memory": "1Mi"})]
    )
    assert obj["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "1", "memory": "1Mi"},
        "limits": {"cpu": "2"},
    }
    assert obj["metadata"]["annotations"] == {
        "kubernetes.io/limit-ranger": (
            "LimitRanger plugin set: memory request for container web; cpu limit for container web"
        )
    }


@pytest.mark.parametrize(
    ("item", "resources", "why"),
    [
        ({"max": {"cpu": "500m"}}, {"limits": {"cpu": "1"}},
         "maximum cpu usage per Container is 500m, but limit is 1"),
        ({"max": {"cpu": "500m"}}, {}, "maximum cpu usage per Container is 500m.  No limit is "
         "specified"),
        ({"min": {"memory": "1Gi"}}, {"requests": {"memory": "512Mi"}},
         "minimum memory usage per Container is 1Gi, but request is 512Mi"),
        ({"min": {"cpu": "1"}}, {}, "minimum cpu usage per Container is 1.  No request is "
         "specified"),
        ({"maxLimitRequestRatio": {"cpu": "2"}},
         {"limits": {"cpu": "3"}, "requests": {"cpu": "1"}},
         "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"),
    ],
)  # fmt: skip
def test_bounds_of_a_container(item: Object, resources: Object, why: str) -> None:
    message = refused(pod(container(**resources)), limit_range(**item))
    assert message == f'pods "web" is forbidden: {why}'


def test_bounds_of_the_whole_pod_and_several_reasons_at_once() -> None:
    one = container(requests={"cpu": "1"}, limits={"cpu": "1"})
    message = refused(pod(one, one), limit_range("Pod", max={"cpu": "1", "memory": "1Gi"}))
    assert message == (
        'pods "web" is forbidden: [maximum cpu usage per Pod is 1, but limit is 2, '
        "maximum memory usage per Pod is 1Gi.  No limit is specified]"
    )
    limit_ranger.apply(pod(one), [limit_range("Pod", max={"cpu": "1"})])


# --- amounts --------------------------------------------------------------------------------------


def test_init_containers_run_before_and_sidecars_beside() -> None:
    obj = pod(
        container(requests={"cpu": "1"}),
        container("b", requests={"cpu": "1"}),
        initContainers=[
            {**container("side", requests={"cpu": "1"}), "restartPolicy": "Always"},
            container("big", requests={"cpu": "5"}),
        ],
        overhead={"cpu": "100m"},
    )
    requests, limits = pod_amounts(obj["spec"])
    assert requests == {"cpu": 6100}  # the big one with the sidecar, and the overhead
    assert limits == {}


# --- quotas ---------------------------------------------------------------------------------------


def a_quota(hard: Object, used: Object | None = None, **spec: Any) -> Object:
    return {
        "metadata": {"name": "q"},
        "spec": {"hard": hard, **spec},
        "status": {"hard": hard, "used": used or {}},
    }


def test_a_pod_counts_as_what_it_asks_for() -> None:
    obj = pod(container(requests={"cpu": "500m", "memory": "1Ki"}, limits={"cpu": "1"}))
    assert quota.usage_of("pods", obj) == {
        "count/pods": 1000,
        "pods": 1000,
        "cpu": 500,
        "requests.cpu": 500,
        "memory": 1024000,
        "requests.memory": 1024000,
        "limits.cpu": 1000,
    }


def test_a_finished_pod_gives_back_all_but_its_name() -> None:
    obj = {**pod(container(requests={"cpu": "1"})), "status": {"phase": "Succeeded"}}
    assert quota.usage_of("pods", obj) == {"count/pods": 1000}


@pytest.mark.parametrize(
    ("gvr", "obj", "usage"),
    [
        ("deployments.apps", {}, {"count/deployments.apps": 1000}),
        ("secrets", {}, {"count/secrets": 1000, "secrets": 1000}),
        ("services", {"spec": {"type": "NodePort", "ports": [{}, {}]}},
         {"count/services": 1000, "services": 1000, "services.nodeports": 2000}),
        ("services", {"spec": {"type": "LoadBalancer", "ports": [{}]}},
         {"count/services": 1000, "services": 1000, "services.nodeports": 1000,
          "services.loadbalancers": 1000}),
    ],
)  # fmt: skip
def test_what_other_objects_count_as(gvr: str, obj: Object, usage: dict[str, int]) -> None:
    assert quota.usage_of(gvr, obj) == usage


def test_over_the_quota_is_refused_with_the_arithmetic() -> None:
    hard = {"pods": "2", "requests.memory": "1Gi", "limits.cpu": "9"}
    used = {"pods": 2_000, "requests.memory": 512 * 1024 * 1024 * 1000}
    obj = pod(container(requests={"memory": "1Gi"}, limits={"cpu": "1"}))
    with pytest.raises(errors.Forbidden) as refusal:
        quota.check_within("q", hard, used, quota.usage_of("pods", obj), "pods", obj)
    assert refusal.value.message == (
        'pods "web" is forbidden: exceeded quota: q, requested: pods=1,requests.memory=1Gi, '
        "used: pods=2,requests.memory=512Mi, limited: pods=2,requests.memory=1Gi"
    )


def test_giving_back_is_never_refused() -> None:
    quota.check_within("q", {"pods": "1"}, {"pods": 5_000}, {"pods": -1000}, "pods", pod())


def test_what_is_not_limited_is_not_refused() -> None:
    quota.check_within("q", {"pods": "1"}, {"pods": 9_000}, {"secrets": 1000}, "secrets", pod())


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["cpu", "memory"]), st.integers(1, 10**9), min_size=1
        ),
        max_size=8,
    )
)  # fmt: skip
def test_what_the_accounts_say_is_the_sum_of_what_is_there(amounts: list[dict[str, int]]) -> None:
    hard = {"requests.cpu": "1e15", "requests.memory": "1e15", "pods": "100"}
    limit, books = accounts.Limit(a_quota(hard)), accounts.Accounts()
    for i, each in enumerate(amounts):
        one = pod(container(requests={k: f"{v}m" for k, v in each.items()}))
        books.put("pods", f"p{i}", accounts.entry_of("pods", one))
    for i in range(0, len(amounts), 2):
        books.put("pods", f"p{i}", None)
    used = books.used(limit)
    assert used["pods"] == len(amounts[1::2]) * 1000
    for name in ("cpu", "memory"):
        assert used[f"requests.{name}"] == sum(each.get(name, 0) for each in amounts[1::2])


def test_an_update_is_charged_the_difference() -> None:
    assert quota.difference({"a": 3, "b": 1}, {"a": 1, "c": 2}) == {"a": 2, "b": 1, "c": -2}


@pytest.mark.parametrize(
    ("scope", "spec", "inside"),
    [
        ("BestEffort", {}, True),
        ("NotBestEffort", {}, False),
        ("Terminating", {"activeDeadlineSeconds": 5}, True),
        ("NotTerminating", {"activeDeadlineSeconds": 5}, False),
        ("NotTerminating", {}, True),
        ("PriorityClass", {}, False),
    ],
)
def test_scopes(scope: str, spec: Object, inside: bool) -> None:
    one = a_quota({"pods": "1"}, scopes=[scope])
    assert quota.applies(one, "pods", pod(container(), **spec)) is inside
    assert quota.applies(one, "secrets", {}) is False
    assert quota.applies(a_quota({}), "secrets", {}) is True


def test_a_quota_of_one_priority() -> None:
    expression = {"scopeName": "PriorityClass", "operator": "In", "values": ["gold"]}
    one = a_quota({"pods": "1"}, scopeSelector={"matchExpressions": [expression]})
    assert quota.applies(one, "pods", pod(priorityClassName="gold"))
    assert not quota.applies(one, "pods", pod())


def test_a_limited_resource_must_be_stated_by_every_container() -> None:
    one = a_quota({"requests.cpu": "1", "limits.memory": "1Gi", "pods": "1"})
    with pytest.raises(errors.Forbidden) as refusal:
        quota.check_specified(one, pod(container("a", requests={"cpu": "1"}), container("b")))
    assert refusal.value.message == (
        'pods "web" is forbidden: failed quota: q: must specify limits.memory for: a,b; '
        "requests.cpu for: b"
    )
