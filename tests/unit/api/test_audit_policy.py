"""An audit policy: the first rule that matches decides, and what cannot be meant is refused."""

from __future__ import annotations

from typing import Any

import pytest

from arktos_ray.api import audit_policy
from arktos_ray.api.audit_policy import METADATA, NONE, REQUEST, RESPONSE, Asked

ANN = Asked("ann", ("dev", "system:authenticated"), "acme", "create", "", "pods", "", "n", "web")


def policy(*rules: dict[str, Any], **more: Any) -> audit_policy.Policy:
    return audit_policy.read(
        {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": list(rules), **more}
    )


def level(asked: Asked, *rules: dict[str, Any]) -> int:
    return policy(*rules).rule_for(asked).level


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ({}, True),
        ({"users": ["ann"]}, True),
        ({"users": ["bob"]}, False),
        ({"userGroups": ["ops", "dev"]}, True),
        ({"userGroups": ["ops"]}, False),
        ({"verbs": ["create"]}, True),
        ({"verbs": ["get"]}, False),
        ({"tenants": ["acme"]}, True),
        ({"tenants": ["other"]}, False),
        ({"namespaces": ["n"]}, True),
        ({"namespaces": [""]}, False),
        ({"resources": [{"group": ""}]}, True),
        ({"resources": [{"group": "", "resources": ["pods"]}]}, True),
        ({"resources": [{"group": "", "resources": ["*"]}]}, True),
        ({"resources": [{"group": "", "resources": ["pods/log"]}]}, False),
        ({"resources": [{"group": "apps", "resources": ["pods"]}]}, False),
        ({"resources": [{"resources": ["pods"], "resourceNames": ["web"]}]}, True),
        ({"resources": [{"resources": ["pods"], "resourceNames": ["db"]}]}, False),
        ({"nonResourceURLs": ["*"]}, False),
    ],
)
def test_a_rule_is_about_what_it_says(rule: dict[str, Any], matches: bool) -> None:
    assert level(ANN, {"level": "Request", **rule}) == (REQUEST if matches else NONE)


def test_the_first_rule_that_matches_decides() -> None:
    rules = (
        {"level": "None", "users": ["bob"]},
        {"level": "RequestResponse", "verbs": ["create"]},
        {"level": "Metadata"},
    )
    assert level(ANN, *rules) == RESPONSE
    assert level(ANN._replace(user="bob"), *rules) == NONE
    assert level(ANN._replace(verb="get"), *rules) == METADATA


@pytest.mark.parametrize(
    ("resources", "yes"),
    [(["pods"], False), (["pods/log"], True), (["pods/*"], True), (["*/log"], True), (["*"], True)],
)
def test_subresources_are_named_apart(resources: list[str], yes: bool) -> None:
    asked = ANN._replace(verb="get", subresource="log")
    rule = {"level": "Metadata", "resources": [{"group": "", "resources": resources}]}
    assert level(asked, rule) == (METADATA if yes else NONE)


@pytest.mark.parametrize(
    ("paths", "yes"), [(["/metrics"], True), (["/met*"], True), (["*"], True), (["/me"], False)]
)
def test_paths_are_matched_to_their_end_or_star(paths: list[str], yes: bool) -> None:
    asked = Asked("root", (), "system", "get", path="/metrics")
    assert level(asked, {"level": "Metadata", "nonResourceURLs": paths}) == (
        METADATA if yes else NONE
    )


def test_stages_are_left_out_of_all_rules_or_of_one() -> None:
    made = policy({"level": "Metadata", "omitStages": ["ResponseStarted"]},
                  omitStages=["RequestReceived"])  # fmt: skip
    assert made.rule_for(ANN).omit_stages == {"RequestReceived", "ResponseStarted"}


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (None, "a Policy is expected"),
        ({"kind": "Policy"}, "apiVersion: audit.k8s.io/v1"),
        ({"rules": []}, "at least one rule"),
        ({"rules": [{"level": "All"}]}, r"rules\[0\].level"),
        ({"rules": [{"level": "None", "user": ["x"]}]}, r"rules\[0\]: unknown key 'user'"),
        ({"rules": [{"level": "None", "users": "x"}]}, "a list of words"),
        ({"rules": [{"level": "None", "nonResourceURLs": ["metrics"]}]}, "is no path"),
        ({"rules": [{"level": "None", "omitStages": ["Never"]}]}, "'Never' is none of"),
        (
            {"rules": [{"level": "None", "nonResourceURLs": ["*"], "namespaces": ["n"]}]},
            "go with neither",
        ),
        ({"rules": [{"level": "None", "resources": [{"group": "apps/v1"}]}]}, "without its ver"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(raw: Any, says: str) -> None:
    if isinstance(raw, dict) and "kind" not in raw:
        raw = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", **raw}
    with pytest.raises(ValueError, match=says):
        audit_policy.read(raw)


def test_by_default_changes_are_written_and_reads_are_not() -> None:
    default = audit_policy.read(audit_policy.CHANGES)
    assert default.rule_for(ANN).level == METADATA
    assert default.rule_for(ANN._replace(verb="list")).level == NONE
    assert default.rule_for(ANN._replace(resource="events")).level == NONE
    asked = Asked("root", (), "system", "post", path="/arktos/v1/operations")
    assert default.rule_for(asked).level == METADATA
    assert default.rule_for(ANN._replace(groups=("system:unauthenticated",))).level == NONE


def test_names_that_anybody_makes_up_are_not_remembered_without_end() -> None:
    policy = audit_policy.read(audit_policy.CHANGES)
    for i in range(2 * audit_policy.KINDS_MAX):
        asked = audit_policy.Asked("bob", (), "acme", "create", f"g{i}.example.org", "things")
        assert policy.rule_for(asked).level == audit_policy.METADATA
        assert len(policy._kinds) <= audit_policy.KINDS_MAX
