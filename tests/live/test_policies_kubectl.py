"""Admission policies with kubectl: each tenant its own, in the words that kubectl prints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from livekit import Cluster, Program

pytestmark = pytest.mark.live

Object = dict[str, Any]
Kubectl = Callable[..., Program]
GROUP = "admissionregistration.k8s.io/v1"


@pytest.fixture(scope="module")
def ours(cluster: Cluster, kubectl: Kubectl) -> Program:
    return kubectl(cluster.tenant("policed"))


@pytest.fixture(scope="module")
def theirs(cluster: Cluster, kubectl: Kubectl) -> Program:
    return kubectl(cluster.tenant("unpoliced"))


def policy(name: str, *validations: Object, **spec: Any) -> Object:
    rule = {
        "operations": ["CREATE", "UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"],
        "resources": ["deployments"],
    }  # fmt: skip
    return {
        "apiVersion": GROUP, "kind": "ValidatingAdmissionPolicy", "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": list(validations),
                 **spec},
    }  # fmt: skip


def binding(name: str, of: str, *actions: str, **spec: Any) -> Object:
    return {
        "apiVersion": GROUP, "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": of, "validationActions": list(actions), **spec},
    }  # fmt: skip


def test_a_policy_is_applied_explained_and_holds_in_its_tenant_alone(
    ours: Program, theirs: Program
) -> None:
    few = policy(
        "few", {"expression": "object.spec.replicas <= int(params.data.most)",
                "messageExpression": "'at most ' + params.data.most"},
        paramKind={"apiVersion": "v1", "kind": "ConfigMap"},
    )  # fmt: skip
    ref = {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}
    ours("create", "configmap", "limits", "--from-literal=most=2")
    ours("apply", "-f", "-", stdin=few)
    ours(
        "apply",
        "--server-side",
        "-f",
        "-",
        stdin=binding("everywhere", "few", "Deny", paramRef=ref),
    )
    assert ours("get", "validatingadmissionpolicies").splitlines()[0].split() == [
        "NAME", "VALIDATIONS", "PARAMKIND", "AGE",
    ]  # fmt: skip
    assert "v1/ConfigMap" in ours("get", "validatingadmissionpolicy", "few")
    assert "default/limits" in ours("get", "validatingadmissionpolicybindings")
    assert "CEL" in ours("explain", "validatingadmissionpolicy.spec.validations")
    said = ours.fails("create", "deployment", "web", "--image=nginx", "--replicas=3")
    assert (
        "ValidatingAdmissionPolicy 'few' with binding 'everywhere' denied request: at most 2"
        in said
    )
    ours("create", "deployment", "web", "--image=nginx", "--replicas=2")
    assert "at most 2" in ours.fails("patch", "deployment", "web", "-p", '{"spec":{"replicas":5}}')
    theirs("create", "deployment", "web", "--image=nginx", "--replicas=3")
    assert "No resources found" in theirs.result("get", "validatingadmissionpolicies").stderr
    ours("delete", "validatingadmissionpolicybinding", "everywhere")
    ours("scale", "deployment", "web", "--replicas=4")


def test_a_warning_is_printed_and_nothing_refused(ours: Program) -> None:
    ours("apply", "-f", "-", stdin=policy("named", {"expression": "has(object.metadata.labels.team)", "message": "whose is it?"}))  # fmt: skip  # noqa: E501
    ours("apply", "-f", "-", stdin=binding("softly", "named", "Warn"))
    found = ours.result("create", "deployment", "lone", "--image=nginx")
    assert found.returncode == 0
    assert "Warning: Validation failed for ValidatingAdmissionPolicy 'named' with binding 'softly'" in found.stderr  # fmt: skip  # noqa: E501
    ours("delete", "validatingadmissionpolicy", "named")


def test_an_expression_with_a_fault_is_refused_with_its_place(ours: Program) -> None:
    said = ours.fails("apply", "-f", "-", stdin=policy("bad", {"expression": "object.spec ="}))
    assert "spec.validations[0].expression" in said
    assert "Syntax error" in said
