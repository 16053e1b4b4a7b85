"""Who is calling, by certificate and by token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arktos_ray.api.calls import User
from arktos_ray.api.errors import Forbidden, NotFound, Unauthorized
from arktos_ray.ingress.authn import (
    Ask,
    Authenticator,
    Impersonation,
    bearer_of,
    impersonated,
    needed_for,
    read_impersonation,
    read_token_file,
    sign,
    user_of_certificate,
    user_of_peercert,
    verify,
)

KEY = b"0123456789abcdef0123456789abcdef"
NOW = 1_700_000_000.0
IN = "system:authenticated"
CLAIMS = {"sub": "admin", "groups": ["g"], "tenant": "acme", "tenantUid": "u1", "iat": 1}


def uid_of(tenant: str) -> str | None:
    return {"acme": "u1", "system": "u0"}.get(tenant)


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (("bob", ["tenant:acme"], ["g1", "g2"]), User("bob", "acme", ("g1", "g2", IN))),
        (
            ("system:admin", ["system:masters"], []),
            User("system:admin", "system", ("system:masters", IN)),
        ),
        (
            ("system:node:n1", ["system:nodes"], []),
            User("system:node:n1", "system", ("system:nodes", IN)),
        ),
        (("plain", ["a", "b"], []), User("plain", "", ("a", "b", IN))),
    ],
)
def test_a_certificate_names_user_tenant_and_groups(
    subject: tuple[str, list[str], list[str]], expected: User
) -> None:
    assert user_of_certificate(*subject) == expected


@pytest.mark.parametrize(
    "subject",
    [
        ("", [], []),
        ("bob", ["tenant:acme", "other"], []),
        ("bob", ["tenant:a:b"], []),
        ("bob", ["tenant:"], []),
        ("bob", ["tenant:all"], []),
        ("all:bob", [], []),
        ("../x:bob", [], []),
    ],
)
def test_a_certificate_that_names_no_clear_tenant_is_refused(
    subject: tuple[str, list[str], list[str]],
) -> None:
    with pytest.raises(Unauthorized):
        user_of_certificate(*subject)


def test_a_peer_certificate_is_read_as_python_shows_it() -> None:
    peercert = {
        "subject": (
            (("commonName", "bob"),),
            (("organizationName", "tenant:acme"),),
            (("organizationalUnitName", "x"),),
        )
    }
    assert user_of_peercert(peercert) == User("bob", "acme", ("x", IN))


def test_a_token_file_follows_its_rules() -> None:
    users = read_token_file(
        'tok,admin,uid1,"system:masters"\n'
        "# a comment\n\n"
        "tok2,bob,uid2,,t1\n"
        'tok3,bob,uid3,"g1,g2",,t1\n'
        "tok4,carl,uid4\n"
    )
    assert users == {
        "tok": User("admin", "system", ("system:masters", IN), "uid1"),
        "tok2": User("bob", "t1", (IN,), "uid2"),
        "tok3": User("bob", "t1", ("g1", "g2", IN), "uid3"),
        "tok4": User("carl", "system", (IN,), "uid4"),
    }


@pytest.mark.parametrize(
    "text", ["tok,bob", "tok,bob,uid,,", "tok,bob,", "tok,bob,u,,all", ",bob,u", "tok,bob,u,,A_B"]
)
def test_a_token_file_that_cannot_be_meant_seriously_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        read_token_file(text)


def test_a_signed_token_comes_back_as_its_user() -> None:
    user = verify(sign(CLAIMS, KEY), KEY, uid_of, NOW)
    assert user == User("admin", "acme", ("g", IN))


@pytest.mark.parametrize(
    "token",
    [
        sign({**CLAIMS, "tenantUid": "an-earlier-acme"}, KEY),
        sign({**CLAIMS, "tenant": "gone"}, KEY),
        sign({**CLAIMS, "tenant": "all"}, KEY),
        sign({**CLAIMS, "tenant": ""}, KEY),
        sign({**CLAIMS, "exp": NOW}, KEY),
        sign({"sub": "admin"}, KEY),
        sign(CLAIMS, b"x" * 32),
        "a.b",
        "",
        ".",
        "é.ü",
    ],
)
def test_a_token_that_is_not_ours_or_not_good_any_more_is_refused(token: str) -> None:
    with pytest.raises(Unauthorized):
        verify(token, KEY, uid_of, NOW)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_token_with_any_byte_changed_is_refused(at: int, byte: int) -> None:
    token = sign(CLAIMS, KEY)
    at %= len(token)
    forged = token[:at] + chr(byte) + token[at + 1 :]
    if forged != token:
        with pytest.raises(Unauthorized):
            verify(forged, KEY, uid_of, NOW)


def test_a_remembered_token_ends_with_its_tenant() -> None:
    uids = {"acme": "u1"}
    authenticator = Authenticator(uids.get, key=KEY)
    token = authenticator.admin_token("acme", NOW)
    assert authenticator.user_of_token(token, NOW) == User("admin", "acme", (IN,))
    uids["acme"] = "u2"
    with pytest.raises(Unauthorized):
        authenticator.user_of_token(token, NOW)


def test_a_token_for_an_unknown_tenant_is_not_made() -> None:
    with pytest.raises(NotFound):
        Authenticator(uid_of, key=KEY).admin_token("gone", NOW)


def test_the_administrator_of_the_system_tenant_is_super() -> None:
    authenticator = Authenticator(uid_of, key=KEY)
    user = authenticator.user_of_token(authenticator.admin_token("system", NOW), NOW)
    assert user.groups == ("system:masters", IN)


def test_a_weak_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        sign(CLAIMS, b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        Authenticator(uid_of, key=b"short")


def test_bearer_tokens_come_in_the_header_or_as_a_websocket_protocol() -> None:
    assert bearer_of("Bearer abc") == "abc"
    assert bearer_of("bearer  abc") == "abc"
    assert bearer_of("Basic abc") == ""
    protocols = "binary.k8s.io, base64url.bearer.authorization.k8s.io.dG9r"
    assert bearer_of("", protocols) == "tok"


def test_whom_a_request_speaks_for_and_what_that_needs() -> None:
    wanted = read_impersonation([
        ("Accept", "x"), ("impersonate-user", "eve"), ("Impersonate-Group", "g"),
        ("Impersonate-Group", "h"), ("Impersonate-Uid", "7"),
        ("Impersonate-Extra-Acme%2fScope", "a"),
    ])  # fmt: skip
    assert wanted == Impersonation("eve", ("g", "h"), "7", (("acme/scope", ("a",)),))
    assert needed_for(wanted) == [
        Ask("impersonate", "", "users", name="eve"),
        Ask("impersonate", "", "groups", name="g"),
        Ask("impersonate", "", "groups", name="h"),
        Ask("impersonate", "authentication.k8s.io", "uids", name="7"),
        Ask("impersonate", "authentication.k8s.io", "userextras", "acme/scope", name="a"),
    ]
    caller = User("bob", "acme", ("admins",))
    made = User("eve", "acme", ("g", "h", IN), "7", extra=(("acme/scope", ("a",)),))
    assert impersonated(caller, wanted) == made
    assert read_impersonation([("Accept", "x")]) is None
    with pytest.raises(Forbidden):
        read_impersonation([("Impersonate-Group", "system:masters")])


def test_a_service_account_is_impersonated_as_one() -> None:
    wanted = Impersonation("system:serviceaccount:n:bot")
    assert needed_for(wanted) == [Ask("impersonate", "", "serviceaccounts", "", "n", "bot")]
    groups = ("system:serviceaccounts", "system:serviceaccounts:n", IN)
    assert impersonated(User("bob", "acme"), wanted).groups == groups
    odd = Impersonation("system:serviceaccount:n")
    assert needed_for(odd) == [Ask("impersonate", "", "users", name=odd.name)]
    assert impersonated(User("bob", "acme"), Impersonation("system:anonymous")).groups == (
        "system:unauthenticated",
    )
