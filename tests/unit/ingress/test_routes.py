"""What a request line means, and who is refused before anybody is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api import errors, scheme
from arktos_ray.api.calls import Call, User
from arktos_ray.ingress.routes import Local, route

ADMIN = User("system:admin", "system", ("system:masters",))
BOB = User("bob", "acme")
HOMELESS = User("homeless", "")


def call(method: str, target: str, user: User = ADMIN) -> Call:
    path, _, query = target.partition("?")
    routed = route(method, path, query, user)
    assert isinstance(routed, Call), routed
    return routed


def parts(c: Call) -> tuple[str, ...]:
    return (c.verb, c.gvr, c.tenant, c.namespace, c.name, c.subresource)


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        # The forms of spec/multitenancy.md 3.1, in its order.
        ("GET", "/api/v1/tenants/t/namespaces/n/pods", ("list", "pods", "t", "n", "", "")),
        ("POST", "/api/v1/tenants/t/namespaces/n/pods", ("create", "pods", "t", "n", "", "")),
        ("GET", "/api/v1/tenants/t/namespaces/n/pods/p", ("get", "pods", "t", "n", "p", "")),
        (
            "POST",
            "/api/v1/tenants/t/namespaces/n/pods/p/binding",
            ("create", "pods", "t", "n", "p", "binding"),
        ),
        ("GET", "/api/v1/tenants/t/pods", ("list", "pods", "t", "", "", "")),
        ("GET", "/api/v1/tenants/t/namespaces", ("list", "namespaces", "t", "", "", "")),
        ("GET", "/api/v1/tenants/t/namespaces/n", ("get", "namespaces", "t", "", "n", "")),
        (
            "PUT",
            "/api/v1/tenants/t/namespaces/n/finalize",
            ("update", "namespaces", "t", "", "n", "finalize"),
        ),
        ("GET", "/api/v1/nodes/n1", ("get", "nodes", "", "", "n1", "")),
        ("PATCH", "/api/v1/nodes/n1/status", ("patch", "nodes", "", "", "n1", "status")),
        ("GET", "/api/v1/tenants", ("list", "tenants", "", "", "", "")),
        ("GET", "/api/v1/tenants/t", ("get", "tenants", "", "", "t", "")),
        ("PUT", "/api/v1/tenants/t/status", ("update", "tenants", "", "", "t", "status")),
        ("PUT", "/api/v1/tenants/t/finalize", ("update", "tenants", "", "", "t", "finalize")),
        ("GET", "/api/v1/namespaces/n/pods", ("list", "pods", "system", "n", "", "")),
        ("GET", "/api/v1/pods", ("list", "pods", "system", "", "", "")),
        ("GET", "/api/v1/namespaces", ("list", "namespaces", "system", "", "", "")),
        ("POST", "/api/v1/namespaces", ("create", "namespaces", "system", "", "", "")),
        (
            "GET",
            "/apis/apps/v1/tenants/t/namespaces/n/deployments/d/scale",
            ("get", "deployments.apps", "t", "n", "d", "scale"),
        ),
        ("GET", "/api/v1/tenants/all/pods", ("list", "pods", "all", "", "", "")),
        ("GET", "/api/v1/tenants/all/namespaces/n/pods", ("list", "pods", "all", "n", "", "")),
        ("GET", "/api/v1/watch/tenants/t/pods", ("watch", "pods", "t", "", "", "")),
        ("GET", "/api/v1/watch/pods", ("watch", "pods", "system", "", "", "")),
        ("GET", "/api/v1/watch/tenants/t", ("watch", "tenants", "", "", "", "")),
        # A tenant before everything; one in the path counts more.
        ("GET", "/t/acme/api/v1/pods", ("list", "pods", "acme", "", "", "")),
        ("GET", "/t/acme/api/v1/tenants/acme/pods", ("list", "pods", "acme", "", "", "")),
        ("GET", "/t/system/api/v1/nodes", ("list", "nodes", "", "", "", "")),
        # Odds and ends of real clients.
        ("GET", "/api/v1/pods/", ("list", "pods", "system", "", "", "")),
        ("GET", "/api/v1/pods?watch=1", ("watch", "pods", "system", "", "", "")),
        ("GET", "/api/v1/pods?watch=True", ("watch", "pods", "system", "", "", "")),
        ("GET", "/api/v1/pods?watch=false", ("list", "pods", "system", "", "", "")),
        (
            "DELETE",
            "/api/v1/namespaces/n/pods",
            ("deletecollection", "pods", "system", "n", "", ""),
        ),
        (
            "GET",
            "/api/v1/namespaces/n/configmaps/a%3Ab",
            ("get", "configmaps", "system", "n", "a:b", ""),
        ),
    ],
)
def test_every_form_of_url_means_what_it_should(
    method: str, target: str, expected: tuple[str, ...]
) -> None:
    assert parts(call(method, target)) == expected


def test_a_tenant_user_has_a_cluster_of_their_own_on_the_short_path() -> None:
    assert call("GET", "/api/v1/namespaces/default/pods", BOB).tenant == "acme"
    assert call("GET", "/t/acme/api/v1/pods", BOB).tenant == "acme"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("path", ["nodes", "nodes/n", "tenants", "tenants/acme", "tenants/b"])
def test_an_operator_inside_a_tenant_reaches_nothing_of_the_cluster(method: str, path: str) -> None:
    """A manifest or a script that was written for the tenant cannot touch more than it."""
    with pytest.raises(errors.NotFound, match="could not find the requested resource"):
        call(method, f"/t/acme/api/v1/{path}")


@pytest.mark.parametrize(
    "target", ["/t/acme/api/v1/tenants/b/pods", "/t/b/api/v1/tenants/acme/pods"]
)
def test_whoever_names_two_tenants_is_refused_for_the_other_one(target: str) -> None:
    with pytest.raises(errors.Forbidden, match='in the tenant "b"'):
        call("GET", target, BOB)


def test_an_old_watch_of_one_object_selects_it_by_name() -> None:
    c = call("GET", "/api/v1/watch/namespaces/n/pods/p?fieldSelector=spec.nodeName%3Dx")
    assert c.name == ""
    assert c.options["fieldSelector"] == "spec.nodeName=x,metadata.name=p"


def test_a_user_without_a_tenant_gets_500_unless_the_url_names_one() -> None:
    with pytest.raises(errors.Internal):
        call("GET", "/api/v1/pods", HOMELESS)
    with pytest.raises(errors.Forbidden):
        call("GET", "/api/v1/tenants/system/pods", HOMELESS)


@pytest.mark.parametrize(
    "target",
    [
        "/api",
        "/apis",
        "/api/v1",
        "/apis/apps",
        "/apis/apps/v1",
        "/version",
        "/",
        "/metrics",
        "/t/x",
    ],
)
def test_paths_without_an_object_are_answered_here(target: str) -> None:
    assert isinstance(route("GET", target, "", ADMIN), Local)


def test_a_prefix_and_a_slash_at_the_end_do_not_change_a_local_path() -> None:
    local = route("GET", "/t/acme/api/", "", ADMIN)
    assert isinstance(local, Local)
    assert (local.path, local.tenant) == ("/api", "acme")


@pytest.mark.parametrize(
    ("method", "target", "failure"),
    [
        ("GET", "/api/v1/unheardof", errors.NotFound),
        ("GET", "/api/v1/namespaces/n/nodes", errors.NotFound),
        ("GET", "/api/v1/tenants/t/nodes", errors.NotFound),
        ("GET", "/api/v1/pods/p", errors.NotFound),
        ("GET", "/api/v1/namespaces/n/pods/p/unheardof", errors.NotFound),
        ("GET", "/api/v1/namespaces/n/pods/p/log/more", errors.NotFound),
        ("POST", "/api/v1/namespaces/n/pods/p/exec", errors.NotFound),
        ("GET", "/api/v1/nodes/n/proxy/metrics", errors.NotFound),
        ("GET", "/api/v1/tenants/Not_A_Name/pods", errors.NotFound),
        ("POST", "/api/v1/pods", errors.MethodNotAllowed),
        ("PUT", "/api/v1/namespaces/n/pods", errors.MethodNotAllowed),
        ("POST", "/api/v1/namespaces/n/pods/p", errors.MethodNotAllowed),
        ("DELETE", "/api/v1/namespaces/n/pods/p/status", errors.MethodNotAllowed),
        ("DELETE", "/api/v1/tenants", errors.MethodNotAllowed),
        ("HEAD", "/api/v1/pods", errors.MethodNotAllowed),
        ("POST", "/api/v1/watch/pods", errors.MethodNotAllowed),
        ("GET", "/api/v1/tenants/all/namespaces/n/pods/p", errors.BadRequest),
        ("POST", "/api/v1/tenants/all/namespaces/n/pods", errors.BadRequest),
        ("GET", "/t/acme/api/v1/tenants/b/pods", errors.BadRequest),
        ("GET", "/api/v1/namespaces/../pods", errors.BadRequest),
        ("GET", "/api/v1/namespaces/%2e%2e/pods", errors.BadRequest),
        ("GET", "/api/v1/namespaces/a%2Fb/pods", errors.BadRequest),
        ("GET", "/api/v1/namespaces/a%00b/pods", errors.BadRequest),
        ("GET", "/api/v1/namespaces/a%252Fb/pods", errors.BadRequest),
        ("GET", "/api/v1/namespaces//pods", errors.BadRequest),
        ("GET", "/api/v1/namespaces/%ff/pods", errors.BadRequest),
        ("GET", "/api/v1/pods?" + "&".join("abcdefgh" * 10), errors.BadRequest),
    ],
)
def test_what_is_not_there_or_not_allowed_is_refused(
    method: str, target: str, failure: type[errors.Failure]
) -> None:
    with pytest.raises(failure):
        call(method, target)


def test_clients_cannot_reach_the_options_of_our_own_parts() -> None:
    c = call("GET", "/api/v1/pods?advance=1&progress=1&_table=v1&limit=5&limit=6&dryRun=All")
    assert c.options == {"limit": "5", "dryRun": "All"}


def test_query_values_arrive_decoded() -> None:
    c = call("GET", "/api/v1/pods?labelSelector=a%3Db%2Cc+in+%28d%29&watch&fieldSelector=x%3Dy=z")
    assert c.verb == "watch"
    assert c.options["labelSelector"] == "a=b,c in (d)"
    assert c.options["fieldSelector"] == "x=y=z"
    with pytest.raises(errors.BadRequest):
        call("GET", "/api/v1/pods?labelSelector=%ff")


def _targets(resource: scheme.Resource, tenant: str) -> list[tuple[str, str]]:
    base = f"/apis/{resource.group}/v1" if resource.group else "/api/v1"
    base = base.replace("/v1", f"/{resource.version}")
    if tenant and resource.tenanted:
        base += f"/tenants/{tenant}"
    if resource.namespaced:
        base += "/namespaces/default"
    collection = f"{base}/{resource.plural}"
    one = f"{collection}/x"
    targets = [("GET", collection), ("GET", collection + "?watch=1"), ("POST", collection)]
    targets += [("DELETE", collection)]
    targets += [(method, one) for method in ("GET", "PUT", "PATCH", "DELETE")]
    for sub in resource.subresources:
        targets += [(method, f"{one}/{sub}") for method in ("GET", "PUT", "PATCH", "POST")]
    return targets


@pytest.mark.parametrize("resource", scheme.RESOURCES, ids=lambda r: f"{r.gvr}/{r.version}")
def test_no_verb_on_no_kind_leads_out_of_the_tenant(resource: scheme.Resource) -> None:
    for tenant in ("other", "system", "all"):
        for method, target in _targets(resource, tenant):
            with pytest.raises(errors.Forbidden) as refusal:
                call(method, target, BOB)
            assert 'User "bob" cannot' in refusal.value.message
            if resource.tenanted and not resource.namespaced and resource.gvr != "namespaces":
                assert f'in the tenant "{tenant}"' in refusal.value.message
    for method, target in _targets(resource, ""):
        try:
            assert call(method, target, BOB).tenant == "acme"
            assert resource.tenanted
        except errors.MethodNotAllowed:
            assert resource.tenanted  # For everybody, whatever is there.
        except errors.Forbidden:
            assert not resource.tenanted


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("namespaces/n/widgets", ("acme", "n", "", "")),
        ("namespaces/n/widgets/w", ("acme", "n", "w", "")),
        ("namespaces/n/widgets/w/status", ("acme", "n", "w", "status")),
        ("tenants/acme/namespaces/n/widgets/w/scale", ("acme", "n", "w", "scale")),
        ("tenants/acme/widgets", ("acme", "", "", "")),
        ("widgets/w", ("acme", "", "w", "")),
        ("watch/namespaces/n/widgets", ("acme", "n", "", "")),
    ],
)
def test_a_kind_that_is_not_ours_is_routed_by_structure_alone(
    target: str, expected: tuple[str, ...]
) -> None:
    c = call("GET", "/apis/example.com/v1/" + target, BOB)
    assert (c.gvr, c.version) == ("widgets.example.com", "example.com/v1")
    assert (c.tenant, c.namespace, c.name, c.subresource) == expected


def test_no_verb_on_a_custom_kind_leads_out_of_the_tenant() -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        for tenant in ("other", "system", "all"):
            for rest in ("widgets", "widgets/w", "namespaces/n/widgets/w/status", "anything/x/y/z"):
                with pytest.raises(errors.Forbidden) as refusal:
                    call(method, f"/apis/example.com/v1/tenants/{tenant}/{rest}", BOB)
                assert 'User "bob" cannot' in refusal.value.message


@pytest.mark.parametrize(
    "target",
    [
        "/apis/flat/v1/namespaces/n/widgets", "/apis/example.com/v1/namespaces/n/Wid_gets",
        "/apis/UPPER.example/v1/widgets", "/apis/example.com/v1/namespaces/n/widgets/w/log",
        "/apis/example.com/V1/widgets", "/apis/example.com/v1/namespaces/n/widgets/w/status/more",
    ],
)  # fmt: skip
def test_what_can_be_no_custom_kind_is_not_found_here(target: str) -> None:
    with pytest.raises(errors.NotFound):
        call("GET", target, BOB)


def test_a_refusal_has_the_words_of_the_api() -> None:
    with pytest.raises(errors.Forbidden) as refusal:
        call("GET", "/api/v1/tenants/t/namespaces", BOB)
    assert refusal.value.message == (
        'namespaces is forbidden: User "bob" cannot list resource "namespaces" in API group ""'
        ' in the tenant "t"'
    )
    with pytest.raises(errors.Forbidden) as refusal:
        call("GET", "/apis/apps/v1/tenants/t/namespaces/n/deployments/d/scale", BOB)
    assert refusal.value.message == (
        'deployments.apps "d" is forbidden: User "bob" cannot get resource "deployments/scale"'
        ' in API group "apps" in the namespace "n"'
    )


@given(st.text(max_size=60), st.sampled_from(["GET", "POST", "PUT", "DELETE", "BREW"]))
def test_no_path_breaks_it_or_leads_a_tenant_user_elsewhere(path: str, method: str) -> None:
    for base in ("/", "/api/v1/", "/apis/apps/v1/", "/t/", "/api/v1/tenants/"):
        try:
            routed = route(method, base + path, "", BOB)
        except errors.Failure:
            continue
        if isinstance(routed, Call):
            assert routed.tenant == "acme"
