"""Admission policies: what a tenant says of its objects holds, and of nobody else's."""

# ruff: noqa: E501 (refusals are quoted whole)

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
import pytest
from acme_world import ACME, ADMIN, Acme, acme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from widgets import AS, DEFINITIONS, GVR, definition, widget

from arktos_ray.api import cel, errors
from arktos_ray.api.calls import User
from arktos_ray.apiserver.admission.policy import Policy

Object = dict[str, Any]
POLICIES = "validatingadmissionpolicies.admissionregistration.k8s.io"
BINDINGS = "validatingadmissionpolicybindings.admissionregistration.k8s.io"
TENANT = ("acme", "", "")


def policy(*validations: Any, name: str = "p", resources: Any = ("configmaps",), **spec: Any) -> Object:  # fmt: skip
    return {
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "resourceRules": [
                    {
                        "operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"],
                        "resources": list(resources),
                    }
                ]
            },
            "validations": [
                {"expression": one} if isinstance(one, str) else one for one in validations
            ],
            **spec,
        },
    }  # fmt: skip


def binding(*actions: str, name: str = "b", of: str = "p", **spec: Any) -> Object:
    return {
        "metadata": {"name": name},
        "spec": {"policyName": of, "validationActions": list(actions or ("Deny",)), **spec},
    }


def config(name: str = "c", labels: Any = None, **data: str) -> Object:
    return {"metadata": {"name": name, "labels": labels or {}}, "data": data}


async def install(w: Acme, *objects: Object, at: Any = TENANT, user: User = ACME) -> None:
    for obj in objects:
        gvr = BINDINGS if "policyName" in obj["spec"] else POLICIES
        await w.ok("create", gvr, obj, at=at, user=user)


def story(run: Callable[[Acme], Any]) -> None:
    acme(run)


def test_what_a_policy_says_holds_in_the_words_of_kubernetes() -> None:
    async def run(w: Acme) -> None:
        await install(
            w, policy("object.data.size() < 2", name="few"), binding(of="few", name="all")
        )
        await w.ok("create", "configmaps", config(a="1"))
        reply = await w.reply("create", "configmaps", config("d", a="1", b="2"))
        failure = errors.decode(reply.body)
        said = (
            "ValidatingAdmissionPolicy 'few' with binding 'all' denied request: "
            "failed expression: object.data.size() < 2"
        )
        assert (failure.code, failure.reason) == (422, "Invalid")
        assert failure.message == f'configmaps "d" is forbidden: {said}'
        assert failure.details is not None
        assert failure.details["causes"] == [{"message": said}]
        await w.fails(404, "get", "configmaps", name="d")
        await w.fails(422, "update", "configmaps", config("c", a="1", b="2"), name="c")
        await w.ok("update", "configmaps", config("c", a="2"), name="c")

    story(run)


def test_messages_reasons_and_variables_are_as_the_policy_says() -> None:
    async def run(w: Acme) -> None:
        rule = {
            "expression": "variables.size <= variables.most",
            "messageExpression": "'%d of %d'.format([variables.size, variables.most])",
            "reason": "Forbidden",
        }
        variables = [
            {"name": "most", "expression": "1"},
            {"name": "size", "expression": "has(object.data) ? size(object.data) : 0"},
        ]
        await install(w, policy(rule, variables=variables), binding())
        said = await w.fails(403, "create", "configmaps", config(a="1", b="2"))
        assert said.endswith("denied request: 2 of 1")

    story(run)


def test_a_policy_without_a_binding_or_of_another_tenant_says_nothing() -> None:
    async def run(w: Acme) -> None:
        await install(w, policy("false"))
        await install(w, policy("false"), binding(), at=("system", "", ""), user=ADMIN)
        await w.ok("create", "configmaps", config())
        await w.ok("create", "tenants", {"metadata": {"name": "zeta"}, "spec": {"storageClusterId": "0"}}, at=("", "", ""), user=ADMIN)  # fmt: skip
        await install(w, binding())
        await w.fails(422, "create", "configmaps", config("d"))
        zeta = User("admin", "zeta")
        await w.ok("create", "namespaces", {"metadata": {"name": "n"}}, at=("zeta", "", ""), user=zeta)  # fmt: skip
        await w.ok("create", "configmaps", config(), at=("zeta", "n", ""), user=zeta)
        await w.ok("delete", BINDINGS, at=("acme", "", "b"))
        await w.ok("create", "configmaps", config("d"))

    story(run)


def test_selectors_conditions_and_exclusions_say_whom_it_concerns() -> None:
    async def run(w: Acme) -> None:
        made = policy("false", matchConditions=[{"name": "new", "expression": "oldObject == null"}])
        made["spec"]["matchConstraints"] |= {
            "objectSelector": {"matchLabels": {"strict": "yes"}},
            "excludeResourceRules": [
                {
                    "operations": ["*"], "apiGroups": [""], "apiVersions": ["*"],
                    "resources": ["configmaps"], "resourceNames": ["free"],
                }
            ],
        }  # fmt: skip
        match = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "n"}}}
        await install(w, made, binding(matchResources=match))
        strict = {"strict": "yes"}
        await w.fails(422, "create", "configmaps", config(labels=strict))
        await w.ok("create", "configmaps", config("free", labels=strict))
        await w.ok("create", "configmaps", config("lax"))
        await w.ok("update", "configmaps", config("lax", labels=strict), name="lax")

    story(run)


def test_a_breach_may_be_warned_of_instead() -> None:
    async def run(w: Acme) -> None:
        await install(w, policy("has(object.data.a)"), binding("Warn", "Audit"))
        reply = await w.reply("create", "configmaps", config(b="1"))
        assert reply.code == 201
        assert reply.warnings == (
            "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': "
            "failed expression: has(object.data.a)",
        )
        assert (await w.reply("create", "configmaps", config("d", a="1"))).warnings == ()

    story(run)


@pytest.mark.parametrize(("failure_policy", "code"), [("Fail", 422), ("Ignore", 201)])
def test_what_cannot_be_told_is_what_failure_policy_says(failure_policy: str, code: int) -> None:
    async def run(w: Acme) -> None:
        await install(w, policy("object.nothing.there == 1", failurePolicy=failure_policy), binding())  # fmt: skip
        reply = await w.reply("create", "configmaps", config())
        assert reply.code == code
        if code == 422:
            message = errors.decode(reply.body).message
            assert (
                "expression 'object.nothing.there == 1' resulted in error: no such key" in message
            )

    story(run)


def test_an_expression_that_never_ends_is_a_failure_of_its_own_tenant() -> None:
    async def run(w: Acme) -> None:
        many = "[1,2,3,4,5,6,7,8,9,10]"
        loop = f"{many}.all(a, {many}.all(b, {many}.all(c, {many}.all(d, {many}.all(e, a + b + c + d + e > 0)))))"  # fmt: skip
        await install(w, policy(loop, loop, loop), binding())
        said = await w.fails(422, "create", "configmaps", config())
        assert "actual cost limit exceeded" in said

    story(run)


def test_a_policy_may_take_parameters_from_the_tenant_alone() -> None:
    async def run(w: Acme) -> None:
        await w.ok("create", "configmaps", config("limits", most="1"))
        kind = {"apiVersion": "v1", "kind": "ConfigMap"}
        rule = "object == null || object.metadata.name == 'limits' || object.data.size() <= int(params.data.most)"
        ref = {"name": "limits", "namespace": "n", "parameterNotFoundAction": "Deny"}
        await install(w, policy(rule, paramKind=kind), binding(paramRef=ref))
        await w.ok("create", "configmaps", config(a="1"))
        await w.fails(422, "create", "configmaps", config("d", a="1", b="2"))
        await w.ok("update", "configmaps", config("limits", most="2"), name="limits")
        await w.ok("create", "configmaps", config("d", a="1", b="2"))
        await w.ok("delete", "configmaps", name="limits")
        said = await w.fails(422, "create", "configmaps", config("e"))
        assert said.endswith(
            "failed to configure binding: no params found for policy binding with `Deny` "
            "parameterNotFoundAction"
        )

    story(run)


def test_deletions_and_who_asks_are_seen() -> None:
    async def run(w: Acme) -> None:
        await install(
            w,
            policy("request.operation != 'DELETE' || !oldObject.metadata.name.startsWith('keep')"),
            binding(),
            policy("request.userInfo.username == 'admin' && request.namespace == 'n' && namespaceObject.metadata.name == 'n'", name="q"),
            binding(name="c", of="q"),
        )  # fmt: skip
        await w.ok("create", "configmaps", config("keep-1"))
        await w.ok("create", "configmaps", config("other"))
        await w.fails(422, "delete", "configmaps", name="keep-1")
        await w.ok("delete", "configmaps", name="other")

    story(run)


def test_nobody_reads_through_a_policy_what_they_may_not_get() -> None:
    async def run(w: Acme) -> None:
        rules = [
            {"apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"], "verbs": ["*"]}
        ]
        bob = User("bob", "acme")
        await w.ok(
            "create",
            "clusterroles.rbac.authorization.k8s.io",
            {"metadata": {"name": "r"}, "rules": rules},
            at=TENANT,
        )
        await w.ok(
            "create", "clusterrolebindings.rbac.authorization.k8s.io",
            {
                "metadata": {"name": "r"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
                "subjects": [{"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}],
            },
            at=TENANT,
        )  # fmt: skip
        secret = {"apiVersion": "v1", "kind": "Secret"}
        made = policy("false", paramKind=secret)
        said = await w.fails(403, "create", POLICIES, made, at=TENANT, user=bob)
        assert 'must have "get" permission' in said
        ref = {"name": "s", "namespace": "n", "parameterNotFoundAction": "Allow"}
        await w.fails(403, "create", BINDINGS, binding(paramRef=ref), at=TENANT, user=bob)
        await install(w, made)
        await w.fails(403, "create", BINDINGS, binding(paramRef=ref), at=TENANT, user=bob)
        await w.ok("create", POLICIES, policy("true", name="plain"), at=TENANT, user=bob)

    story(run)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (policy("object.a >"), 'spec.validations[0].expression: Invalid value: "object.a >": compilation failed: ERROR: <input>:1:11: Syntax error'),
        (policy("1"), 'spec.validations[0].expression: Invalid value: "1": must evaluate to bool'),
        (policy("params.a"), "compilation failed: ERROR: <input>:1:7: undeclared reference to 'params"),
        (policy("variables.a"), "compilation failed: undefined field 'a'"),
        (policy("authorizer.path('/')"), "undeclared reference"),
        (policy(), "spec.validations: Required value: validations or auditAnnotations must contain at least one item"),
        (policy("true", matchConstraints=None), "spec.matchConstraints: Required value"),
        (policy({"expression": "true", "reason": "Because"}), 'spec.validations[0].reason: Unsupported value: "Because"'),
        (binding("Deny", "Warn"), "must not contain both Deny and Warn"),
        (binding("Shout"), 'spec.validationActions[0]: Unsupported value: "Shout": supported values: "Audit", "Deny", "Warn"'),
        (binding(paramRef={"parameterNotFoundAction": "Deny"}), "spec.paramRef: Required value: one of name or selector must be specified"),
        (binding(of=""), "spec.policyName: Required value"),
    ],
)  # fmt: skip
def test_a_policy_that_means_nothing_is_refused(made: Object, words: str) -> None:
    async def run(w: Acme) -> None:
        gvr = BINDINGS if "policyName" in made["spec"] else POLICIES
        assert words in await w.fails(422, "create", gvr, made, at=TENANT)

    story(run)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["metadata", "spec", "name", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)
texts = st.text(max_size=20) | st.sampled_from(
    [
        "object.spec.a > 1", "oldObject.a == object.a", "variables.v", "variables.v + variables.v",
        "has(object.metadata.name)", "params.a.b", "request.userInfo", "'x'.matches(variables.v)",
        "object.all(x, x)", "string(object)", "1 / 0", "null", "'%s'.format([object])",
    ]
)  # fmt: skip


@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(texts=st.lists(texts, min_size=5, max_size=5), of=json_values, old=json_values, params=json_values)  # fmt: skip
def test_no_policy_and_no_object_raises_anything(
    texts: list[str], of: Any, old: Any, params: Any
) -> None:
    one, variable, message, annotation, condition = texts
    made = Policy(
        policy(
            {"expression": one, "messageExpression": message},
            variables=[{"name": "v", "expression": variable}, {"name": "w", "expression": "variables.w"}],
            auditAnnotations=[{"key": "k", "valueExpression": annotation}],
            matchConditions=[{"name": "m", "expression": condition}],
            paramKind={"kind": "X", "apiVersion": "v1"},
        )
    )  # fmt: skip
    values = {
        "object": of,
        "oldObject": old,
        "params": params,
        "namespaceObject": None,
        "request": {},
    }
    judged = made.judge(values, cel.Budget(10_000))
    assert all(isinstance(breach.message, str) for breach in judged.breaches)
    with suppress(cel.CelError):
        cel.compile(one, {"object": "dyn"})


def test_a_policy_has_no_more_expressions_than_others_can_wait_for() -> None:
    async def story(w: Acme) -> None:
        long = "object.a > 0" + " && object.a > 0" * 900
        body = policy(*(f"{i} > 0 && {long}" for i in range(6)))
        said = await w.fails(422, "create", POLICIES, body, at=TENANT, user=ACME)
        assert "those of one object have at most 65536" in said
        hook = {
            "name": "a.example.org", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://hook.example.org"},
            "matchConditions": [{"name": f"c{i}", "expression": long} for i in range(6)],
        }  # fmt: skip
        config = {"metadata": {"name": "w"}, "webhooks": [hook]}
        gvr = "validatingwebhookconfigurations.admissionregistration.k8s.io"
        said = await w.fails(422, "create", gvr, config, at=TENANT, user=ACME)
        assert "those of one object have at most 65536" in said

    acme(story)


def test_what_a_policy_notes_travels_with_the_answer() -> None:
    async def run(w: Acme) -> None:
        await install(
            w,
            policy("false", "1 > 2", name="p",
                   auditAnnotations=[{"key": "k", "valueExpression": "object.metadata.name"}]),
            binding("Audit"),
        )  # fmt: skip
        reply = await w.reply("create", "configmaps", config())
        assert reply.ok
        notes = dict(reply.notes)
        assert notes["p/k"] == "c"
        failures = orjson.loads(notes["validation.policy.admission.k8s.io/validation_failure"])
        assert [one["expressionIndex"] for one in failures] == [0, 1]
        assert failures[0]["validationActions"] == ["Audit"]
        # Also with a refusal; and only with its own.
        await install(w, binding("Deny", name="hard"))
        denied, other = await w.part.call(
            [w.call("create", "configmaps", config("d")), w.call("get", "configmaps", name="x")]
        )
        assert (denied.code, dict(denied.notes)["p/k"]) == (422, "d")
        assert (other.code, other.notes) == (404, ())

    story(run)


def test_a_custom_kind_gives_parameters() -> None:
    async def run(w: Acme) -> None:
        await w.ok("create", DEFINITIONS, definition(), at=TENANT)
        await w.ok("create", GVR, widget(size=2))
        kind = {"apiVersion": AS, "kind": "Widget"}
        ref = {"name": "w", "parameterNotFoundAction": "Deny"}
        await install(
            w, policy("object.data.size() < params.spec.size", paramKind=kind),
            binding(paramRef=ref),
        )  # fmt: skip
        await w.ok("create", "configmaps", config(a="1"))
        await w.fails(422, "create", "configmaps", config("d", a="1", b="2"))
        await w.ok(
            "patch", GVR, {"spec": {"size": 9}}, name="w", kind="application/merge-patch+json"
        )
        await w.ok("create", "configmaps", config("d", a="1", b="2"))

    story(run)


def test_bindings_and_evictions_are_judged() -> None:
    async def run(w: Acme) -> None:
        await w.ok("create", "pods", {
            "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]},
        })  # fmt: skip
        await install(
            w,
            policy("object.target.name != 'bad' && request.kind.kind == 'Binding'",
                   resources=["pods/binding"]),
            binding(),
            policy("false", name="keep", resources=["pods/eviction"]),
            binding(of="keep", name="keep"),
        )  # fmt: skip
        where = {"name": "p", "sub": "binding"}
        await w.fails(422, "create", "pods", {"target": {"name": "bad"}}, **where)
        await w.ok("create", "pods", {"target": {"name": "good"}}, **where)
        await w.fails(422, "create", "pods", {}, name="p", sub="eviction")

    story(run)
