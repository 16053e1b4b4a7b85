"""What the configuration promises: typos are refused, flags win, and every flag is a key."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import click
import pytest

from arktos_ray import cli
from arktos_ray.config import Config, ConfigError, load
from arktos_ray.ingress.oidc import Settings


def test_the_default_is_two_of_each_on_loopback_with_tls() -> None:
    config = load(None, {})

    assert (config.tenant_partitions, config.resource_partitions) == (2, 2)
    assert config.simulated_nodes == 100
    assert config.bind == "127.0.0.1"
    assert not config.insecure


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "arktos.yaml"
    file.write_text("simulated-nodes: 7\nport: 7000\n")

    config = load(file, {"port": 8000, "bind": None})

    assert (config.simulated_nodes, config.port, config.bind) == (7, 8000, "127.0.0.1")


def test_an_unknown_key_is_refused_and_the_closest_one_named(tmp_path: Path) -> None:
    file = tmp_path / "arktos.yaml"
    file.write_text("simulated-node: 7\n")

    with pytest.raises(ConfigError, match=r"unknown key 'simulated-node'.*'simulated-nodes'"):
        load(file, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port: many", "port"),
        ("port: 70000", "less than or equal to 65535"),
        ("simulated-mode: slow", "'kubemark' or 'instant'"),
        ("tenant-partitions: 60\nresource-partitions: 5", "together are at most 64"),
        ("- a\n- b", "expected keys and values"),
        ("a: [", "not YAML"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_file_and_the_reason(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "arktos.yaml"
    file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "no.yaml", {})


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "arktos.yaml").write_text("# nothing yet\n")
    assert load(tmp_path / "arktos.yaml", {}) == Config()


def test_every_flag_of_up_is_a_key_and_tells_its_true_default() -> None:
    about_up = {"file", "detach", "help"}
    for option in cli.up.params:
        assert isinstance(option, click.Option)
        if option.name in about_up:
            continue
        field = Config.model_fields[str(option.name)]
        said = (option.help or "").rpartition("[")[2].rstrip("]") if "[" in str(option.help) else ""
        if isinstance(field.default, int) and not isinstance(field.default, bool):
            assert said == str(field.default), option.name
        if option.name in ("bind", "data_dir", "simulated_mode", "transport"):
            assert said == str(field.default), option.name


def test_no_two_tenant_partitions_share_a_service_address() -> None:
    config = load(None, {})
    ranges = [ipaddress.ip_network(config.service_range(i)) for i in range(64)]
    whole = ipaddress.ip_network(config.service_cidr)
    assert all(part.subnet_of(whole) for part in ranges)
    assert sum(part.num_addresses for part in ranges) == whole.num_addresses
    assert len(set(ranges)) == 64


@pytest.mark.parametrize("cidr", ["10.0.0.0/24", "ten", "10.0.0.1/8"])
def test_a_service_range_that_cannot_be_shared_out_is_refused(cidr: str) -> None:
    with pytest.raises(ConfigError, match=cidr):
        load(None, {"service_cidr": cidr})


def test_an_etcd_and_several_are_told_to_partitions_as_plain_values(tmp_path: Path) -> None:
    file = tmp_path / "arktos.yaml"
    file.write_text(
        "storage: etcd\netcd-user: arktos\netcd-password-file: /secret\netcd-ca: /ca.crt\n"
        'etcd-clusters: {"7": {endpoints: ["c:2379"], ttl-s: 5}}\n'
    )
    storages = load(file, {"etcd_endpoints": "a:2379,b:2379"}).storages()

    assert storages["0"]["kind"] == "etcd"
    assert storages["0"]["endpoints"] == ["a:2379", "b:2379"]
    assert (storages["0"]["user"], storages["0"]["ca"]) == ("arktos", "/ca.crt")
    assert (storages["7"]["endpoints"], storages["7"]["ttl_s"]) == (["c:2379"], 5)
    assert load(None, {}).storages() == {"0": {"kind": "sqlite"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("storage: etcd", "needs etcd-endpoints"),
        ("storage: etcd\netcd-endpoints: [http://a:1]", "no host:port"),
        ("etcd-endpoints: [a:1]", "without storage: etcd"),
        ("storage: etcd\netcd-endpoints: [a:1]\netcd-user: u", "go together"),
        ("storage: etcd\netcd-endpoints: [a:1]\netcd-cert: c", "go together"),
        ("storage: etcd\netcd-endpoints: [a:1]\netcd-ttl-s: 1", "greater than or equal to 2"),
        ("etcd-clusters: {0: {endpoints: [a:1]}}", "etcd-clusters"),
        ('etcd-clusters: {"64": {endpoints: [a:1]}}', "1 to 63"),
        ('etcd-clusters: {"1": {endpoints: []}}', "at least 1"),
    ],
)
def test_an_etcd_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "arktos.yaml"
    file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert said in str(caught.value)


def test_issuers_of_users_are_configured_with_what_their_claims_mean(tmp_path: Path) -> None:
    file = tmp_path / "arktos.yaml"
    file.write_text(
        "oidc:\n"
        "- issuer: https://id.example\n"
        "  client-id: arktos\n"
        "  username-claim: email\n"
        "  groups-claim: groups\n"
        "  tenant-claim: org\n"
        "  required-claims: {hd: example}\n"
        "- {issuer: https://other.example, client-id: x, tenant: acme, ca-file: ca.crt}\n"
    )
    first, second = load(file, {}).oidc
    made = Settings(**first.spec())
    assert (made.tenant, made.tenant_claim, made.username_prefix) == ("", "org", None)
    assert made.required_claims == (("hd", "example"),)
    assert Settings(**second.spec()).ca.endswith("/ca.crt")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("issuer: http://id.example, client-id: x, tenant: a", "https"),
        ("issuer: https://id.example, client-id: x", "tenant"),
        ("issuer: https://id.example, client-id: x, tenant: a, tenant-claim: b", "tenant"),
        ('issuer: https://id.example, client-id: "", tenant: a', "client-id"),
    ],
)
def test_an_issuer_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "arktos.yaml"
    file.write_text(f"oidc: [{{{text}}}]")

    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert said in str(caught.value)


# The audit log


def test_changes_are_audited_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    assert load(None, {}).audit_spec()["mode"] == "batch"
    file = tmp_path / "arktos.yaml"
    file.write_text("audit: off")  # What YAML reads as false.
    assert load(file, {}).audit_spec() == {}
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata, tenants: [acme]}]"
    )
    spec = load(None, {"audit": str(policy), "audit_file_mb_max": 1}).audit_spec()
    assert spec["policy"]["rules"] == [{"level": "Metadata", "tenants": ["acme"]}]
    assert spec["bytes_max"] == 1 << 20


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: Policy", "audit.k8s.io/v1"),
        ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Much}]", "rules[0].level"),
        ("[", "is not YAML"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_with_its_place(
    tmp_path: Path, text: str, says: str
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(None, {"audit": str(policy)}).audit_spec()
    assert says in str(refused.value)
    with pytest.raises(ConfigError, match="No such file"):
        load(None, {"audit": str(tmp_path / "nowhere")}).audit_spec()
